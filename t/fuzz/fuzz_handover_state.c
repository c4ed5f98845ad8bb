/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_handover_state.c: a connection's state as another session process may
 * have written it. What is read makes sense by itself, and written and read
 * again it is the same.
 *
 *   the state, as it comes
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "mod_sessiond/handover_state.h"

static void judge(const sd_handed_t *s, const uint8_t *in, size_t len)
{
    uint32_t i;

    must(s->transport == SD_HANDED_TCP || s->transport == SD_HANDED_UNIX);
    must(s->doing <= SD_HANDED_WAITING && s->after <= SD_HANDED_PENDING);
    must(s->parts <= SD_REPLY_PARTS && (s->doing == SD_HANDED_SENDING || s->parts == 0));
    must(s->claims <= SD_LOCKS_MOST);
    for (i = 0; i < s->claims; i++)
        must(s->claim[i].kind <= SD_CLAIM_LOST && s->claim[i].key_len > 0 && s->claim[i].key >= in
             && s->claim[i].key + s->claim[i].key_len <= in + len);
    must(s->input_len <= len && (s->input_len == 0 || (s->input >= in && s->input + s->input_len <= in + len)));
    for (i = 0; i < s->parts; i++)
        must(s->part[i].value.head != 0
             || (s->part[i].bytes >= in && s->part[i].bytes + s->part[i].len <= in + len));
}

static void same(const sd_handed_t *a, const sd_handed_t *b)
{
    uint32_t i;

    must(a->transport == b->transport && a->doing == b->doing && a->after == b->after && a->flags == b->flags);
    must(a->held == b->held && a->since == b->since && a->quiet_since == b->quiet_since && a->due == b->due
         && a->reply_due == b->reply_due);
    must(a->wire.phase == b->wire.phase && a->wire.bound == b->wire.bound
         && a->wire.persistent == b->wire.persistent);
    must(a->wire.phase == SD_WIRE_HEAD
         || (a->wire.op == b->wire.op && a->wire.fault == b->wire.fault && a->wire.ttl == b->wire.ttl
             && a->wire.left == b->wire.left && a->wire.size == b->wire.size && a->wire.version == b->wire.version));
    must(a->wire.phase != SD_WIRE_VALUE
         || memcmp(&a->wire.chain, &b->wire.chain, sizeof a->wire.chain) == 0);
    must(a->input_len == b->input_len
         && (a->input_len == 0 || memcmp(a->input, b->input, a->input_len) == 0));
    must(a->claims == b->claims);
    for (i = 0; i < a->claims; i++)
        must(a->claim[i].kind == b->claim[i].kind && a->claim[i].key_len == b->claim[i].key_len
             && a->claim[i].ticket == b->claim[i].ticket && a->claim[i].since == b->claim[i].since
             && memcmp(a->claim[i].key, b->claim[i].key, a->claim[i].key_len) == 0);
    must(a->parts == b->parts);
    for (i = 0; i < a->parts; i++) {
        const sd_handed_part_t *p = &a->part[i], *q = &b->part[i];

        must(p->value.head == q->value.head && p->value.version == q->value.version
             && p->value.data_len == q->value.data_len && p->value.left == q->value.left && p->len == q->len);
        must(p->value.head != 0 || p->len == 0 || memcmp(p->bytes, q->bytes, p->len) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sd_handed_t first, second;
    size_t room = 2 * size + SD_HANDED_BYTES, len;
    uint8_t *out;

    if (!sd_handed_unpack(data, size, &first))
        return 0;
    judge(&first, data, size);
    out = malloc(room);
    must(out);
    len = sd_handed_pack(&first, out, room);
    must(len > 0 && sd_handed_unpack(out, len, &second));
    same(&first, &second);
    free(out);
    return 0;
}
