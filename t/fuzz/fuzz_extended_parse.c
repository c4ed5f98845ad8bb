/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_extended_parse.c: the heads of the extended frames. Each verdict is judged by the
 * sentences of doc/protocol.md, read anew here, not by the parser's code. What
 * is hard is a bad frame whose end is known: what is passed over must end where
 * the frame ends, or the rest of the connection is read as rubbish.
 */
#include "head.h"

/* The fields of any frame but P, as far as they have come. */
typedef struct fields {
    uint32_t fixed, key_len, data_len, ttl, wait;
} fields_t;

static bool is_op(uint8_t byte)
{
    return byte != 0 && strchr("PGWLTUR", byte);
}

static bool is_key_byte(uint8_t byte)
{
    return (byte >= 33 && byte <= 126) || byte >= 128;
}

static fields_t fields_of(const uint8_t *in, size_t n)
{
    fields_t f = { 5, 0, 0, 0, 0 };

    if (in[0] == 'W')
        f.fixed = 21;
    if (in[0] == 'L' || in[0] == 'T')
        f.fixed = 9;
    if (n >= 5)
        f.key_len = sd_get32(in + 1);
    if (n >= 21 && in[0] == 'W') {
        f.data_len = sd_get32(in + 5);
        f.ttl = sd_get32(in + 9);
    }
    if (n >= 9 && in[0] == 'L')
        f.wait = sd_get32(in + 5);
    if (n >= 9 && in[0] == 'T')
        f.ttl = sd_get32(in + 5);
    return f;
}

static void judge_bad(const sd_request_t *r, const uint8_t *in, size_t n, uint64_t max_size)
{
    fields_t f = fields_of(in, n);

    if (r->known) {
        must((uint64_t)f.key_len + f.data_len <= max_size);
        must(r->head_len + r->skip == (uint64_t)f.fixed + f.key_len + f.data_len);
    }
    switch (r->fault) {
    case SD_FAULT_UNKNOWN:
        must(!r->known && !is_op(in[0]));
        break;
    case SD_FAULT_OVERSIZE:
        must(!r->known && (uint64_t)f.key_len + f.data_len > max_size);
        break;
    case SD_FAULT_TTL:
        must(r->known && f.ttl > 30u * 24 * 3600);
        break;
    case SD_FAULT_WAIT:
        must(r->known && f.wait > 600000);
        break;
    case SD_FAULT_KEY:
        must(r->known);
        must(f.key_len == 0 || f.key_len > 250
             || !head_key_is(in + f.fixed, f.key_len, is_key_byte));
        break;
    default:
        fuzz_broken("a fault that this parser does not know", __FILE__, __LINE__);
    }
}

static void judge_done(const sd_request_t *r, const uint8_t *in, size_t n, uint64_t max_size)
{
    fields_t f = fields_of(in, n);

    must(r->op == in[0] && r->skip == 0);
    if (in[0] == 'P') {
        must(r->head_len == 9 && r->key_len == 0 && r->data_len == 0);
        must(memcmp(&r->version, in + 1, 8) == 0);
        return;
    }
    must(is_op(in[0]));
    must(r->key_len == f.key_len && f.key_len >= 1 && f.key_len <= 250);
    must(r->data_len == f.data_len && r->ttl == f.ttl && f.ttl <= 30u * 24 * 3600);
    must(r->wait_ms == f.wait && f.wait <= 600000);
    must((uint64_t)f.key_len + f.data_len <= max_size);
    must(r->head_len == f.fixed + f.key_len);
    must(memcmp(r->key, in + f.fixed, r->key_len) == 0);
    must(head_key_is(r->key, r->key_len, is_key_byte));
    must(r->version == (in[0] == 'W' ? sd_get64(in + 13) : 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *in = data + 1;
    size_t n = size < 1 ? 0 : size - 1 < HEAD_MAX ? size - 1 : HEAD_MAX;
    fields_t f;
    parse_t p;

    if (n == 0)
        return 0;
    f = fields_of(in, n);
    parse_open(&p, &sd_extended, head_max_size(data[0]));
    switch (head_parse(&p, in, n)) {
    case SD_PARSE_MORE: /* no head of ours is complete */
        must(in[0] == 'P' ? n < 9 : n < f.fixed || n < (uint64_t)f.fixed + f.key_len);
        break;
    case SD_PARSE_BAD:
        judge_bad(&p.request, in, n, p.limits.max_size);
        break;
    case SD_PARSE_DONE:
        judge_done(&p.request, in, n, p.limits.max_size);
        break;
    }
    parse_close(&p);
    return 0;
}
