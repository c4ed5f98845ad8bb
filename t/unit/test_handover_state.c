/* SPDX-License-Identifier: Apache-2.0
 *
 * test_handover_state.c: the state of a connection, written by one process and
 * read by another, which may be older or newer: what is unknown is skipped or
 * refused, what is missing is zero, and nothing is believed that is damaged.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "guard.h"
#include "mod_sessiond/handover_state.h"
#include "protocol/bytes.h"

enum { FIELD_HEAD = 6, ROOM = 2 * SD_HANDED_BYTES };

typedef struct packed {
    uint8_t bytes[ROOM];
    size_t len;
} packed_t;

static uint8_t large[SD_HANDED_BYTES + SD_LOCKS_MOST * SD_HANDED_CLAIM_BYTES];

static sd_handed_t reading(void)
{
    sd_handed_t s;

    memset(&s, 0, sizeof s);
    s.transport = SD_HANDED_TCP;
    s.flags = SD_HANDED_EVER_READ | SD_HANDED_RESET_SET;
    s.since = UINT64_C(0x123456789abc);
    s.quiet_since = 7;
    s.wire.phase = SD_WIRE_VALUE;
    s.wire.op = 'W';
    s.wire.ttl = 1440;
    s.wire.left = 25000;
    s.wire.size = 50000;
    s.wire.version = SD_VERSION_ANY;
    s.wire.chain = (sd_chain_state_t){ 17, 99, 25000 };
    s.wire.bound = 1;
    s.wire.persistent = true;
    s.input = (const uint8_t *)"head";
    s.input_len = 4;
    return s;
}

static sd_handed_t sending(void)
{
    sd_handed_t s;

    memset(&s, 0, sizeof s);
    s.transport = SD_HANDED_UNIX;
    s.doing = SD_HANDED_SENDING;
    s.after = SD_HANDED_CLOSE;
    s.held = 300;
    s.reply_due = UINT64_MAX - 1;
    s.parts = 3;
    s.part[0].bytes = (const uint8_t *)"V....";
    s.part[0].len = 5;
    s.part[1].value = (sd_ref_state_t){ UINT64_C(1) << 40, 5, 1000000, 400000 };
    s.part[2].bytes = (const uint8_t *)"N";
    s.part[2].len = 1;
    return s;
}

static packed_t pack(const sd_handed_t *s)
{
    packed_t p;

    p.len = sd_handed_pack(s, p.bytes, sizeof p.bytes);
    assert_true(p.len > 0);
    return p;
}

/* From bytes that end where nobody may read. */
static bool unpack(const uint8_t *bytes, size_t len, sd_handed_t *s, guard_t *g)
{
    guard_open(g, len ? len : 1);
    return sd_handed_unpack(guard_put(g, bytes, len), len, s);
}

static void add_field(packed_t *p, unsigned tag, const void *body, size_t len)
{
    uint8_t *at = p->bytes + p->len;

    at[0] = (uint8_t)(tag >> 8);
    at[1] = (uint8_t)tag;
    sd_put32(at + 2, (uint32_t)len);
    memcpy(at + FIELD_HEAD, body, len);
    p->len += FIELD_HEAD + len;
}

static void what_is_written_is_read(void **state)
{
    sd_handed_t s = reading(), r;
    packed_t p = pack(&s);
    guard_t g;

    (void)state;
    assert_true(unpack(p.bytes, p.len, &r, &g));
    assert_int_equal(r.transport, SD_HANDED_TCP);
    assert_int_equal(r.doing, SD_HANDED_READING);
    assert_int_equal(r.flags, s.flags);
    assert_true(r.since == s.since && r.quiet_since == 7 && r.held == 0);
    assert_memory_equal(&r.wire.chain, &s.wire.chain, sizeof s.wire.chain);
    assert_true(r.wire.left == 25000 && r.wire.size == 50000 && r.wire.version == SD_VERSION_ANY);
    assert_true(r.wire.phase == SD_WIRE_VALUE && r.wire.op == 'W' && r.wire.ttl == 1440);
    assert_true(r.wire.bound == 1 && r.wire.persistent && r.wire.fault == 0);
    assert_int_equal(r.input_len, 4);
    assert_memory_equal(r.input, "head", 4);
    assert_int_equal(r.parts, 0);
    guard_close(&g);

    s = sending();
    p = pack(&s);
    assert_true(unpack(p.bytes, p.len, &r, &g));
    assert_true(r.transport == SD_HANDED_UNIX && r.doing == SD_HANDED_SENDING && r.after == SD_HANDED_CLOSE);
    assert_true(r.held == 300 && r.reply_due == UINT64_MAX - 1 && r.wire.phase == SD_WIRE_HEAD);
    assert_int_equal(r.parts, 3);
    assert_int_equal(r.part[0].len, 5);
    assert_memory_equal(r.part[0].bytes, "V....", 5);
    assert_true(r.part[1].value.head == 5 && r.part[1].value.version == UINT64_C(1) << 40
                && r.part[1].value.data_len == 1000000 && r.part[1].value.left == 400000);
    assert_true(r.part[2].value.head == 0 && r.part[2].len == 1);
    guard_close(&g);
}

/* Cut anywhere, it is refused, or is what a shorter writer would have said. */
static void cut_short(void **state)
{
    sd_handed_t s = sending(), r;
    packed_t p = pack(&s);
    size_t n;

    (void)state;
    for (n = 0; n < p.len; n++) {
        guard_t g;
        bool whole = unpack(p.bytes, n, &r, &g);

        assert_true(!whole || r.parts < 3);
        guard_close(&g);
    }
}

static void no_room(void **state)
{
    sd_handed_t s = sending();
    packed_t p = pack(&s);
    size_t n;

    (void)state;
    for (n = 0; n < p.len; n++) {
        guard_t g;

        guard_open(&g, n ? n : 1);
        assert_int_equal(sd_handed_pack(&s, guard_at(&g, n), n), 0);
        guard_close(&g);
    }
}

static void the_largest_fits(void **state)
{
    static const uint8_t bytes[SD_REPLY_BYTES] = { 1 };
    sd_handed_t s = reading();
    packed_t p;
    uint32_t i;

    (void)state;
    s.doing = SD_HANDED_SENDING;
    s.parts = SD_REPLY_PARTS;
    s.input_len = 0;
    s.held = 1;
    for (i = 0; i < SD_REPLY_PARTS; i++) {
        s.part[i].bytes = bytes;
        s.part[i].len = SD_REPLY_BYTES / SD_REPLY_PARTS;
    }
    p = pack(&s);
    assert_in_range(p.len, 1, SD_HANDED_BYTES);
}

static void claims_to_locks(void **state)
{
    static const uint8_t key[255] = "k";
    sd_handed_t s = reading(), r;
    packed_t p;
    guard_t g;
    uint32_t i;

    (void)state;
    s.doing = SD_HANDED_WAITING;
    s.claims = 3;
    s.claim[0] = (sd_claim_state_t){ key, 1, SD_CLAIM_HELD, 1, 2, 3, 4 };
    s.claim[1] = (sd_claim_state_t){ key, 255, SD_CLAIM_WAITING, UINT64_MAX, 6, 7, 8 };
    s.claim[2] = (sd_claim_state_t){ key, 7, SD_CLAIM_LOST, 0, 0, 0, 0 };
    p = pack(&s);
    assert_true(unpack(p.bytes, p.len, &r, &g));
    assert_int_equal(r.claims, 3);
    for (i = 0; i < 3; i++) {
        assert_int_equal(r.claim[i].key_len, s.claim[i].key_len);
        assert_memory_equal(r.claim[i].key, key, s.claim[i].key_len);
        assert_true(r.claim[i].kind == s.claim[i].kind && r.claim[i].ticket == s.claim[i].ticket
                    && r.claim[i].asked == s.claim[i].asked && r.claim[i].until == s.claim[i].until
                    && r.claim[i].since == s.claim[i].since);
    }
    guard_close(&g);
    s.claim[2].kind = SD_CLAIM_GRANTED; /* nobody waits for two at once, */
    p = pack(&s);
    assert_false(unpack(p.bytes, p.len, &r, &g));
    guard_close(&g);
    s.claims = 1; /* nor for none */
    p = pack(&s);
    assert_false(unpack(p.bytes, p.len, &r, &g));
    guard_close(&g);
    s = sending(); /* a reply before it may still be on its way out */
    s.after = SD_HANDED_PENDING;
    s.claims = SD_LOCKS_MOST;
    for (i = 0; i < SD_LOCKS_MOST; i++)
        s.claim[i] = (sd_claim_state_t){ key, 250, i == 5 ? SD_CLAIM_WAITING : SD_CLAIM_HELD, i, i, i, i };
    p.len = sd_handed_pack(&s, large, sizeof large);
    assert_in_range(p.len, 1, SD_HANDED_BYTES + SD_LOCKS_MOST * SD_HANDED_CLAIM_BYTES);
    assert_true(unpack(large, p.len, &r, &g));
    assert_int_equal(r.claims, SD_LOCKS_MOST);
    guard_close(&g);
}

static void other_versions(void **state)
{
    uint8_t more[40] = { 0, 0, 0, 9 };
    sd_handed_t s = reading(), r;
    packed_t p = pack(&s);
    guard_t g;

    (void)state;
    add_field(&p, 77, "something new", 13); /* a later version adds a field, */
    add_field(&p, 2, more, 40);             /* or bytes to one */
    assert_true(unpack(p.bytes, p.len, &r, &g));
    assert_int_equal(r.flags, 9);
    assert_int_equal(r.input_len, 4);
    guard_close(&g);

    add_field(&p, 77 | SD_FIELD_VITAL, "and one that matters", 20);
    assert_false(unpack(p.bytes, p.len, &r, &g));
    guard_close(&g);

    p.len = 0; /* an earlier one says no more than this */
    add_field(&p, 1 | SD_FIELD_VITAL, "\1\0\0", 3);
    assert_true(unpack(p.bytes, p.len, &r, &g));
    assert_true(r.flags == 0 && r.since == 0 && r.input_len == 0 && r.wire.phase == SD_WIRE_HEAD);
    guard_close(&g);
}

static void what_no_connection_has(void **state)
{
    static const char *const wrong[] = { "\0\0\0", "\3\0\0", "\1\4\0", "\1\0\7" };
    sd_handed_t s = reading(), r;
    packed_t p;
    guard_t g;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        p.len = 0;
        add_field(&p, 1 | SD_FIELD_VITAL, wrong[i], 3);
        assert_false(unpack(p.bytes, p.len, &r, &g));
        guard_close(&g);
    }
    assert_false(unpack(NULL, 0, &r, &g)); /* nothing at all */
    guard_close(&g);
    p = pack(&s); /* a reply where none is being sent */
    add_field(&p, 9 | SD_FIELD_VITAL, "x", 1);
    assert_false(unpack(p.bytes, p.len, &r, &g));
    guard_close(&g);
    s = sending(); /* one piece more than a reply can have */
    p = pack(&s);
    for (i = s.parts; i < SD_REPLY_PARTS; i++)
        add_field(&p, 9 | SD_FIELD_VITAL, "x", 1);
    assert_true(unpack(p.bytes, p.len, &r, &g));
    guard_close(&g);
    add_field(&p, 9 | SD_FIELD_VITAL, "x", 1);
    assert_false(unpack(p.bytes, p.len, &r, &g));
    guard_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(cut_short),
        cmocka_unit_test(no_room),
        cmocka_unit_test(the_largest_fits),
        cmocka_unit_test(claims_to_locks),
        cmocka_unit_test(other_versions),
        cmocka_unit_test(what_no_connection_has),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
