/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sharedance_parse.c: heads of S, F and D: complete, cut anywhere, with
 * every byte in a key and lengths whose sums overflow. The input ends at a page
 * that nobody may touch.
 */
#include "parse_fixture.h"
#include "protocol/sharedance_parse.h"

typedef struct frame {
    uint8_t bytes[512];
    size_t len;
} frame_t;

/* `key_len` bytes of key follow, all 'k'; none if that is too many. */
static frame_t frame(char op, uint32_t key_len, uint32_t data_len)
{
    frame_t f = { { (uint8_t)op }, 5 };

    sd_put32(f.bytes + 1, key_len);
    if (op == 'S') {
        sd_put32(f.bytes + 5, data_len);
        f.len = 9;
    }
    if (key_len <= 300) {
        memset(f.bytes + f.len, 'k', key_len);
        f.len += key_len;
    }
    return f;
}

static void complete_heads(void **state)
{
    static const uint32_t lengths[] = { 1, 2, 32, 250, 251, 254, 255 };
    static const char ops[] = "SFD";
    parse_t p;
    size_t o, i, took;

    (void)state;
    parse_open(&p, &sd_sharedance, 1 << 20);
    for (o = 0; ops[o]; o++)
        for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            frame_t f = frame(ops[o], lengths[i], 1000);
            size_t head = f.len;

            memcpy(f.bytes + f.len, "and what follows", 16);
            f.len += 16;
            assert_int_equal(parse_growing(&p, f.bytes, f.len, &took), SD_PARSE_DONE);
            assert_int_equal(took, head);
            assert_int_equal(p.request.op, ops[o]);
            assert_int_equal(p.request.key_len, lengths[i]);
            assert_int_equal(p.request.data_len, ops[o] == 'S' ? 1000 : 0);
            assert_int_equal(p.request.head_len, head);
            assert_ptr_equal(p.request.key, p.in + (ops[o] == 'S' ? 9 : 5));
            assert_int_equal(p.request.ttl, 0);
            assert_false(p.request.known);
        }
    parse_close(&p);
}

static void every_byte_in_a_key(void **state)
{
    static const char ops[] = "SFD";
    parse_t p;
    size_t o, took;
    unsigned byte;

    (void)state;
    parse_open(&p, &sd_sharedance, 1 << 20);
    for (o = 0; ops[o]; o++)
        for (byte = 0; byte < 256; byte++) {
            bool good = byte >= 32 && byte <= 126 && byte != '.' && byte != '/';
            size_t at;

            for (at = 0; at < 4; at++) {
                frame_t f = frame(ops[o], 4, 0);

                f.bytes[f.len - 4 + at] = (uint8_t)byte;
                assert_int_equal(parse_growing(&p, f.bytes, f.len, &took),
                                 good ? SD_PARSE_DONE : SD_PARSE_BAD);
                assert_int_equal(took, f.len);
                assert_int_equal(p.request.fault, good ? SD_FAULT_NONE : SD_FAULT_KEY);
                assert_false(p.request.known);
            }
        }
    parse_close(&p);
}

/* What a head of these lengths must come to, and after how many bytes. */
static void expect(parse_t *p, char op, uint32_t key_len, uint32_t data_len, sd_fault_t fault,
                   size_t after)
{
    frame_t f = frame(op, key_len, data_len);
    size_t took;
    sd_parse_t result = parse_growing(p, f.bytes, f.len, &took);

    if (result != (fault ? SD_PARSE_BAD : SD_PARSE_DONE) || p->request.fault != fault)
        fail_msg("%c %u %u, at most %llu: result %d, fault %d, expected fault %d", op, key_len,
                 data_len, (unsigned long long)p->limits.max_size, (int)result,
                 (int)p->request.fault, (int)fault);
    assert_int_equal(took, after);
}

static void bad_key_lengths(void **state)
{
    static const char ops[] = "SFD";
    parse_t p;
    size_t o;

    (void)state;
    parse_open(&p, &sd_sharedance, 1 << 20);
    for (o = 0; ops[o]; o++) {
        expect(&p, ops[o], 0, 5, SD_FAULT_KEY, 5);
        expect(&p, ops[o], 0, 0xffffffff, SD_FAULT_KEY, 5);
        expect(&p, ops[o], 256, 5, SD_FAULT_KEY, 5);
        expect(&p, ops[o], 257, 5, SD_FAULT_KEY, 5);
        expect(&p, ops[o], 0x10001, 5, SD_FAULT_KEY, 5); /* 1, if it were cut to 16 bits */
        expect(&p, ops[o], 1 << 20, 5, SD_FAULT_KEY, 5);
        expect(&p, ops[o], (1 << 20) + 1, 5, SD_FAULT_OVERSIZE, 5);
        expect(&p, ops[o], 0x7fffffff, 5, SD_FAULT_OVERSIZE, 5);
        expect(&p, ops[o], 0x80000000, 5, SD_FAULT_OVERSIZE, 5);
        expect(&p, ops[o], 0xffffffff, 5, SD_FAULT_OVERSIZE, 5);
    }
    parse_close(&p);
}

static void sizes_at_their_bound(void **state)
{
    parse_t p;

    (void)state;
    parse_open(&p, &sd_sharedance, 1024);
    expect(&p, 'S', 10, 1014, SD_FAULT_NONE, 19);
    expect(&p, 'S', 10, 1015, SD_FAULT_OVERSIZE, 9);
    expect(&p, 'S', 255, 769, SD_FAULT_NONE, 264);
    expect(&p, 'S', 255, 770, SD_FAULT_OVERSIZE, 9);
    expect(&p, 'S', 1, 1023, SD_FAULT_NONE, 10);
    expect(&p, 'S', 1, 1024, SD_FAULT_OVERSIZE, 9);
    expect(&p, 'F', 255, 0, SD_FAULT_NONE, 260);
    /* a limit below the longest key */
    p.limits.max_size = 20;
    expect(&p, 'S', 20, 0, SD_FAULT_NONE, 29);
    expect(&p, 'S', 20, 1, SD_FAULT_OVERSIZE, 9);
    expect(&p, 'S', 21, 0, SD_FAULT_OVERSIZE, 5);
    expect(&p, 'F', 21, 0, SD_FAULT_OVERSIZE, 5);
    parse_close(&p);
}

static void sums_that_overflow(void **state)
{
    static const uint64_t limits[] = { 1024, 1 << 30, UINT64_C(1) << 32, UINT64_C(1) << 40 };
    parse_t p;
    size_t i;

    (void)state;
    parse_open(&p, &sd_sharedance, 0);
    for (i = 0; i < 4; i++) {
        /* what 64 bits make of it, not 32 */
        uint64_t most = limits[i];
        sd_fault_t first = UINT64_C(0xffffffff) + 10 > most ? SD_FAULT_OVERSIZE : SD_FAULT_NONE;
        sd_fault_t second = UINT64_C(0xfffffff6) + 10 > most ? SD_FAULT_OVERSIZE : SD_FAULT_NONE;
        sd_fault_t key = 0xffffffff > most ? SD_FAULT_OVERSIZE : SD_FAULT_KEY;

        p.limits.max_size = most;
        expect(&p, 'S', 10, 0xffffffff, first, first ? 9 : 19);
        expect(&p, 'S', 10, 0xfffffff6, second, second ? 9 : 19);
        expect(&p, 'S', 0xffffffff, 0xffffffff, key, 5);
        expect(&p, 'S', 0xffffffff, 2, key, 5);
        expect(&p, 'S', 0xfffffff6, 10, key, 5);
    }
    parse_close(&p);
}

static void unknown_first_bytes(void **state)
{
    parse_t p;
    unsigned byte;

    (void)state;
    parse_open(&p, &sd_sharedance, 1 << 20);
    for (byte = 0; byte < 256; byte++) {
        uint8_t in = (uint8_t)byte;
        bool ours = byte == 'S' || byte == 'F' || byte == 'D';

        assert_int_equal(parse(&p, &in, 1), ours ? SD_PARSE_MORE : SD_PARSE_BAD);
        assert_int_equal(p.request.fault, ours ? SD_FAULT_NONE : SD_FAULT_UNKNOWN);
        assert_int_equal(p.request.op, byte);
    }
    assert_int_equal(parse(&p, "", 0), SD_PARSE_MORE);
    parse_close(&p);
}

/* Heads with small changes, and noise: whatever comes, each beginning asks for
 * more or says what the whole says. */
static void chance(void **state)
{
    parse_t p;
    dice_t dice = dice_new(42);
    uint32_t n, rounds = test_ops(20000, 500), done = 0, bad = 0;

    (void)state;
    parse_open(&p, &sd_sharedance, 1 << 20);
    for (n = 0; n < rounds; n++) {
        char op = "SFD"[dice_below(&dice, 3)];
        uint32_t key_len = dice_below(&dice, 20);
        frame_t f = frame(op, key_len, dice_below(&dice, 3000));
        uint32_t changes = dice_below(&dice, 3);
        size_t took;

        p.limits.max_size = 1 + dice_below(&dice, 2000);
        for (; changes > 0; changes--)
            f.bytes[dice_below(&dice, (uint32_t)f.len)] = (uint8_t)dice_roll(&dice);
        switch (parse_growing(&p, f.bytes, f.len, &took)) {
        case SD_PARSE_DONE:
            assert_true((uint64_t)p.request.key_len + p.request.data_len <= p.limits.max_size);
            done++;
            break;
        case SD_PARSE_BAD:
            bad++;
            break;
        case SD_PARSE_MORE:
            break;
        }
    }
    assert_true(done > rounds / 20 && bad > rounds / 20);
    parse_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(complete_heads),       cmocka_unit_test(every_byte_in_a_key),
        cmocka_unit_test(bad_key_lengths),      cmocka_unit_test(sizes_at_their_bound),
        cmocka_unit_test(sums_that_overflow),   cmocka_unit_test(unknown_first_bytes),
        cmocka_unit_test(chance),
    };

    return cmocka_run_group_tests_name("sharedance_parse", tests, NULL, NULL);
}
