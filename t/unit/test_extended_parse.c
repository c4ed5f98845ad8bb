/* SPDX-License-Identifier: Apache-2.0
 *
 * test_extended_parse.c: heads of all extended frames. Beside what holds for every
 * parser: a bad frame whose end is known says where that is, so that the next
 * one is found; one whose end is not known never claims it.
 */
#include "parse_fixture.h"
#include "protocol/extended_parse.h"

typedef struct frame {
    uint8_t bytes[512];
    size_t len, fixed;
} frame_t;

/* `key_len` bytes of key follow, all 'k'; none if that is too many. L has its wait
 * where T has its lifetime. */
static frame_t frame(char op, uint32_t key_len, uint32_t data_len, uint32_t ttl, uint64_t version)
{
    frame_t f = { { (uint8_t)op }, 5, 5 };

    sd_put32(f.bytes + 1, key_len);
    if (op == 'W') {
        sd_put32(f.bytes + 5, data_len);
        sd_put32(f.bytes + 9, ttl);
        sd_put64(f.bytes + 13, version);
        f.len = f.fixed = 21;
    }
    if (op == 'L' || op == 'T') {
        sd_put32(f.bytes + 5, ttl);
        f.len = f.fixed = 9;
    }
    if (key_len <= 300) {
        memset(f.bytes + f.len, 'k', key_len);
        f.len += key_len;
    }
    return f;
}

static void hello(void **state)
{
    parse_t p;
    size_t took;

    (void)state;
    parse_open(&p, &sd_extended, 1 << 20);
    assert_int_equal(parse_growing(&p, "P\0\xff\1\2.\x80""abP", 10, &took), SD_PARSE_DONE);
    assert_int_equal(took, 9);
    assert_int_equal(p.request.op, 'P');
    assert_int_equal(p.request.head_len, 9);
    assert_int_equal(p.request.key_len + p.request.data_len, 0);
    assert_memory_equal(&p.request.version, "\0\xff\1\2.\x80""ab", 8);
    parse_close(&p);
}

static void complete_heads(void **state)
{
    static const uint32_t lengths[] = { 1, 2, 32, 249, 250 };
    static const struct {
        uint32_t ttl;
        uint64_t version;
    } fields[] = { { 0, SD_VERSION_ABSENT },
                   { 1, 1 },
                   { 1800, SD_VERSION_ANY },
                   { SD_TTL_MAX, UINT64_C(0x0102030405060708) } };
    parse_t p;
    size_t i, k, took;

    (void)state;
    parse_open(&p, &sd_extended, 1 << 20);
    for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        frame_t g = frame('G', lengths[i], 0, 0, 0);

        memcpy(g.bytes + g.len, "and what follows", 16);
        assert_int_equal(parse_growing(&p, g.bytes, g.len + 16, &took), SD_PARSE_DONE);
        assert_int_equal(took, g.len);
        assert_int_equal(p.request.op, 'G');
        assert_int_equal(p.request.key_len, lengths[i]);
        assert_int_equal(p.request.data_len, 0);
        assert_int_equal(p.request.head_len, g.len);
        for (k = 0; k < 4; k++) {
            frame_t w = frame('W', lengths[i], 1000, fields[k].ttl, fields[k].version);

            memcpy(w.bytes + w.len, "and what follows", 16);
            assert_int_equal(parse_growing(&p, w.bytes, w.len + 16, &took), SD_PARSE_DONE);
            assert_int_equal(took, w.len);
            assert_int_equal(p.request.op, 'W');
            assert_int_equal(p.request.key_len, lengths[i]);
            assert_int_equal(p.request.data_len, 1000);
            assert_int_equal(p.request.head_len, w.len);
            assert_int_equal(p.request.ttl, fields[k].ttl);
            assert_int_equal(p.request.version, fields[k].version);
        }
    }
    parse_close(&p);
}

/* L, T, U and R: what stands in their number, and nowhere else. */
static void complete_heads_of_locks(void **state)
{
    static const uint32_t lengths[] = { 1, 2, 32, 249, 250 };
    static const struct {
        char op;
        uint32_t number;
    } frames[] = { { 'L', 0 }, { 'L', 1 }, { 'L', 599999 }, { 'L', SD_WAIT_MAX }, { 'T', 0 },
                   { 'T', 1 }, { 'T', 1800 }, { 'T', SD_TTL_MAX }, { 'U', 0 },    { 'R', 0 } };
    parse_t p;
    size_t i, k, took;

    (void)state;
    parse_open(&p, &sd_extended, 1 << 20);
    for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        for (k = 0; k < sizeof frames / sizeof frames[0]; k++) {
            frame_t f = frame(frames[k].op, lengths[i], 0, frames[k].number, 0);

            memcpy(f.bytes + f.len, "and what follows", 16);
            assert_int_equal(parse_growing(&p, f.bytes, f.len + 16, &took), SD_PARSE_DONE);
            assert_int_equal(took, f.len);
            assert_int_equal(p.request.op, frames[k].op);
            assert_int_equal(p.request.key_len, lengths[i]);
            assert_int_equal(p.request.data_len, 0);
            assert_int_equal(p.request.head_len, f.fixed + lengths[i]);
            assert_int_equal(p.request.version, 0);
            assert_int_equal(p.request.wait_ms, frames[k].op == 'L' ? frames[k].number : 0);
            assert_int_equal(p.request.ttl, frames[k].op == 'T' ? frames[k].number : 0);
        }
    parse_close(&p);
}

static void every_byte_in_a_key(void **state)
{
    static const char ops[] = "GWLTUR";
    parse_t p;
    size_t o, took, at;
    unsigned byte;

    (void)state;
    parse_open(&p, &sd_extended, 1 << 20);
    for (o = 0; ops[o]; o++)
        for (byte = 0; byte < 256; byte++) {
            bool good = (byte >= 33 && byte <= 126) || byte >= 128;

            for (at = 0; at < 4; at++) {
                frame_t f = frame(ops[o], 4, 100, 0, 0);

                f.bytes[f.len - 4 + at] = (uint8_t)byte;
                assert_int_equal(parse_growing(&p, f.bytes, f.len, &took),
                                 good ? SD_PARSE_DONE : SD_PARSE_BAD);
                assert_int_equal(took, f.len);
                if (!good) {
                    assert_int_equal(p.request.fault, SD_FAULT_KEY);
                    assert_true(p.request.known);
                    assert_int_equal(p.request.head_len + p.request.skip,
                                     f.len + (ops[o] == 'W' ? 100 : 0));
                }
            }
        }
    parse_close(&p);
}

/* Bad after `after` bytes; `end` is where the next frame begins, 0 = unknown. */
static void expect(parse_t *p, const frame_t *f, sd_fault_t fault, size_t after, uint64_t end)
{
    size_t took;
    sd_parse_t result = parse_growing(p, f->bytes, f->len, &took);

    if (result != SD_PARSE_BAD || p->request.fault != fault || took != after)
        fail_msg("%c %u %u: result %d, fault %d after %zu; expected fault %d after %zu",
                 f->bytes[0], sd_get32(f->bytes + 1), f->fixed > 5 ? sd_get32(f->bytes + 5) : 0,
                 (int)result, (int)p->request.fault, took, (int)fault, after);
    assert_int_equal(p->request.known, end > 0);
    if (end > 0)
        assert_int_equal(p->request.head_len + p->request.skip, end);
}

static void bad_key_lengths_have_a_known_end(void **state)
{
    static const uint32_t lengths[] = { 0, 251, 255, 256, 1000, 0x10001, (1 << 20) - 100 };
    parse_t p;
    size_t i, k;

    (void)state;
    parse_open(&p, &sd_extended, 1 << 20);
    for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        frame_t g = frame('G', lengths[i], 0, 0, 0), w = frame('W', lengths[i], 100, 0, 0);

        expect(&p, &g, SD_FAULT_KEY, 5, UINT64_C(5) + lengths[i]);
        expect(&p, &w, SD_FAULT_KEY, 21, UINT64_C(121) + lengths[i]);
        /* and a lifetime too long does not change that */
        w = frame('W', lengths[i], 100, 0xffffffff, 0);
        expect(&p, &w, SD_FAULT_KEY, 21, UINT64_C(121) + lengths[i]);
        for (k = 0; k < 4; k++) {
            frame_t f = frame("LTUR"[k], lengths[i], 0, 0, 0);

            expect(&p, &f, SD_FAULT_KEY, f.fixed, (uint64_t)f.fixed + lengths[i]);
            f = frame("LTUR"[k], lengths[i], 0, 0xffffffff, 0);
            expect(&p, &f, SD_FAULT_KEY, f.fixed, (uint64_t)f.fixed + lengths[i]);
        }
    }
    parse_close(&p);
}

static void lifetimes(void **state)
{
    static const uint32_t bad[] = { SD_TTL_MAX + 1, 0x7fffffff, 0x80000000, 0xffffffff };
    parse_t p;
    size_t i;

    (void)state;
    parse_open(&p, &sd_extended, 1 << 20);
    for (i = 0; i < 4; i++) {
        frame_t f = frame('W', 10, 100, bad[i], 0);

        expect(&p, &f, SD_FAULT_TTL, 21, 131);
        f = frame('T', 10, 0, bad[i], 0);
        expect(&p, &f, SD_FAULT_TTL, 9, 19);
    }
    parse_close(&p);
}

static void waits(void **state)
{
    static const uint32_t bad[] = { SD_WAIT_MAX + 1, SD_TTL_MAX, 0x7fffffff, 0x80000000, 0xffffffff };
    parse_t p;
    size_t i;

    (void)state;
    assert_int_equal(SD_WAIT_MAX, 600000);
    parse_open(&p, &sd_extended, 1 << 20);
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        frame_t f = frame('L', 10, 0, bad[i], 0);

        expect(&p, &f, SD_FAULT_WAIT, 9, 19);
    }
    parse_close(&p);
}

static void oversized_frames_have_no_known_end(void **state)
{
    static const uint32_t keys[] = { (1 << 20) + 1, 0x7fffffff, 0x80000000, 0xffffffff };
    static const struct {
        uint32_t key, data;
    } sums[] = { { 10, (1 << 20) - 9 },   { 250, (1 << 20) - 249 }, { 10, 0x7fffffff },
                 { 10, 0x80000000 },      { 10, 0xfffffff6 },       { 10, 0xffffffff },
                 { 0, 0xffffffff },       { 1 << 20, 1 },           { 1 << 20, 0xffffffff },
                 { 251, (1 << 20) - 250 } };
    parse_t p;
    size_t i, k;

    (void)state;
    parse_open(&p, &sd_extended, 1 << 20);
    for (i = 0; i < 4; i++) {
        frame_t w = frame('W', keys[i], 0xffffffff - keys[i], 0, 0);

        expect(&p, &w, SD_FAULT_OVERSIZE, 5, 0);
        for (k = 0; k < 5; k++) {
            frame_t f = frame("GLTUR"[k], keys[i], 0, 0, 0);

            expect(&p, &f, SD_FAULT_OVERSIZE, 5, 0);
        }
    }
    for (i = 0; i < sizeof sums / sizeof sums[0]; i++) {
        frame_t w = frame('W', sums[i].key, sums[i].data, 0, 0);

        expect(&p, &w, SD_FAULT_OVERSIZE, 21, 0);
    }
    parse_close(&p);
}

/* Where both lengths are allowed to be that large, their sum has 33 bits. */
static void the_end_of_a_frame_of_8_gib(void **state)
{
    parse_t p;
    frame_t f = frame('W', 0xffffffff, 0xffffffff, 0, 0);

    (void)state;
    parse_open(&p, &sd_extended, UINT64_C(1) << 40);
    expect(&p, &f, SD_FAULT_KEY, 21, UINT64_C(0x1fffffffe) + 21);
    parse_close(&p);
}

static void sizes_at_their_bound(void **state)
{
    parse_t p;
    frame_t f = frame('W', 10, 1014, 0, 0);
    size_t took;

    (void)state;
    parse_open(&p, &sd_extended, 1024);
    assert_int_equal(parse_growing(&p, f.bytes, f.len, &took), SD_PARSE_DONE);
    f = frame('W', 10, 1015, 0, 0);
    expect(&p, &f, SD_FAULT_OVERSIZE, 21, 0);
    f = frame('W', 250, 774, 0, 0);
    assert_int_equal(parse_growing(&p, f.bytes, f.len, &took), SD_PARSE_DONE);
    f = frame('W', 250, 775, 0, 0);
    expect(&p, &f, SD_FAULT_OVERSIZE, 21, 0);
    parse_close(&p);
}

static void unknown_first_bytes(void **state)
{
    parse_t p;
    unsigned byte;

    (void)state;
    parse_open(&p, &sd_extended, 1 << 20);
    for (byte = 0; byte < 256; byte++) {
        uint8_t in = (uint8_t)byte;
        bool ours = byte != 0 && strchr("PGWLTUR", (int)byte);

        assert_int_equal(parse(&p, &in, 1), ours ? SD_PARSE_MORE : SD_PARSE_BAD);
        assert_int_equal(p.request.fault, ours ? SD_FAULT_NONE : SD_FAULT_UNKNOWN);
        assert_false(p.request.known);
    }
    assert_int_equal(parse(&p, "", 0), SD_PARSE_MORE);
    parse_close(&p);
}

static void chance(void **state)
{
    parse_t p;
    dice_t dice = dice_new(43);
    uint32_t n, rounds = test_ops(20000, 500), done = 0, bad = 0, known = 0;

    (void)state;
    parse_open(&p, &sd_extended, 1 << 20);
    for (n = 0; n < rounds; n++) {
        char op = "PGWLTUR"[dice_below(&dice, 7)];
        uint32_t key_len = dice_below(&dice, 20), data_len = dice_below(&dice, 3000);
        uint32_t most = op == 'L' ? SD_WAIT_MAX : SD_TTL_MAX;
        uint32_t ttl = dice_below(&dice, 2) ? dice_below(&dice, 2 * most) : 0;
        frame_t f = frame(op, key_len, data_len, ttl, dice_roll(&dice));
        uint32_t changes = dice_below(&dice, 3);
        size_t took;

        p.limits.max_size = 1 + dice_below(&dice, 2000);
        for (; changes > 0; changes--)
            f.bytes[dice_below(&dice, (uint32_t)f.len)] = (uint8_t)dice_roll(&dice);
        switch (parse_growing(&p, f.bytes, f.len, &took)) {
        case SD_PARSE_DONE:
            assert_true((uint64_t)p.request.key_len + p.request.data_len <= p.limits.max_size);
            assert_true(p.request.ttl <= SD_TTL_MAX && p.request.wait_ms <= SD_WAIT_MAX);
            done++;
            break;
        case SD_PARSE_BAD:
            if (p.request.known)
                assert_true(p.request.skip <= p.limits.max_size);
            known += p.request.known;
            bad++;
            break;
        case SD_PARSE_MORE:
            break;
        }
    }
    assert_true(done > rounds / 20 && bad > rounds / 20 && known > rounds / 40);
    parse_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello),
        cmocka_unit_test(complete_heads),
        cmocka_unit_test(complete_heads_of_locks),
        cmocka_unit_test(every_byte_in_a_key),
        cmocka_unit_test(bad_key_lengths_have_a_known_end),
        cmocka_unit_test(lifetimes),
        cmocka_unit_test(waits),
        cmocka_unit_test(oversized_frames_have_no_known_end),
        cmocka_unit_test(the_end_of_a_frame_of_8_gib),
        cmocka_unit_test(sizes_at_their_bound),
        cmocka_unit_test(unknown_first_bytes),
        cmocka_unit_test(chance),
    };

    return cmocka_run_group_tests_name("extended_parse", tests, NULL, NULL);
}
