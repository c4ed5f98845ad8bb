/* SPDX-License-Identifier: Apache-2.0
 *
 * test_reply.c: replies of bytes and of values, sent off in steps of every
 * size. What leaves must be the same bytes however it is cut, and a value must
 * be kept exactly as long as the reply needs it.
 */
#include <stdlib.h>

#include "protocol/reply.h"
#include "store_fixture.h"

#define OUT_MAX 8192

typedef struct sending {
    fixture_t f;
    sd_reply_t reply;
    unsigned char expected[OUT_MAX], out[OUT_MAX];
    size_t expected_len, out_len;
} sending_t;

static void sending_open(sending_t *s)
{
    memset(s, 0, sizeof *s);
    fixture_open(&s->f, MIB, 1, false);
    sd_reply_clear(&s->reply);
}

static void sending_close(sending_t *s)
{
    sd_reply_discard(&s->reply, s->f.lane);
    fixture_close(&s->f);
}

static void add_bytes(sending_t *s, const char *text)
{
    size_t n = strlen(text);

    sd_reply_add(&s->reply, text, n);
    memcpy(s->expected + s->expected_len, text, n);
    s->expected_len += n;
}

/* A stored value of its own under key `number`. */
static void add_value(sending_t *s, uint32_t number, uint32_t len)
{
    test_key_t key = numbered_key(number, 12);
    sd_ref_t ref;

    put_ok(&s->f, &key, number, len, s->f.now + 1000);
    assert_int_equal(sd_store_get(s->f.lane, key.bytes, key.len, s->f.now, &ref), SD_OK);
    sd_reply_add_value(&s->reply, &ref);
    value_fill(s->expected + s->expected_len, len, number);
    s->expected_len += len;
}

static uint32_t detached(const sending_t *s)
{
    return atomic_load(&s->f.store->detached);
}

static size_t take(sending_t *s, int max, size_t most)
{
    struct iovec iov[64];
    size_t bytes, sum = 0, done = 0;
    int n = sd_reply_iov(&s->reply, s->f.lane, iov, max, &bytes), i;

    assert_true(n >= 0 && n <= max);
    for (i = 0; i < n; i++) {
        assert_true(iov[i].iov_len > 0);
        sum += iov[i].iov_len;
    }
    assert_int_equal(sum, bytes);
    for (i = 0; i < n && done < most; i++) {
        size_t here = iov[i].iov_len < most - done ? iov[i].iov_len : most - done;

        assert_true(s->out_len + here <= OUT_MAX);
        memcpy(s->out + s->out_len, iov[i].iov_base, here);
        s->out_len += here;
        done += here;
    }
    return done;
}

/* Sends with at most `max` vectors and `step` bytes at a time. */
static void send_off(sending_t *s, int max, size_t step)
{
    bool done = false;

    s->out_len = 0;
    while (!done) {
        size_t n = take(s, max, step);

        assert_true(n > 0 || s->out_len == s->expected_len);
        done = sd_reply_advance(&s->reply, s->f.lane, n);
        if (done)
            assert_int_equal(s->out_len, s->expected_len);
        assert_int_equal(done, sd_reply_is_empty(&s->reply));
    }
    assert_memory_equal(s->out, s->expected, s->expected_len);
    s->expected_len = 0;
}

static void fill_mixed(sending_t *s)
{
    add_bytes(s, "head ");
    add_value(s, 1, 700);
    add_bytes(s, "a");
    add_value(s, 2, 0);
    add_bytes(s, "between");
    add_bytes(s, " and more");
    add_value(s, 3, 204); /* ends with its block */
    add_value(s, 4, 1);
    add_value(s, 5, 0);
    add_value(s, 6, 256);
    add_bytes(s, "tail");
}

/* ---- tests ---- */

static void bytes_in_a_row_are_one_vector(void **state)
{
    sending_t s;
    struct iovec iov[4];
    size_t bytes;

    (void)state;
    sending_open(&s);
    assert_true(sd_reply_is_empty(&s.reply));
    assert_int_equal(sd_reply_iov(&s.reply, s.f.lane, iov, 4, &bytes), 0);
    assert_int_equal(bytes, 0);
    add_bytes(&s, "one");
    add_bytes(&s, "two");
    sd_reply_add(&s.reply, NULL, 0);
    assert_false(sd_reply_is_empty(&s.reply));
    assert_int_equal(sd_reply_iov(&s.reply, s.f.lane, iov, 4, &bytes), 1);
    assert_int_equal(bytes, 6);
    assert_memory_equal(iov[0].iov_base, "onetwo", 6);
    assert_int_equal(s.reply.parts, 1);
    sending_close(&s);
}

/* Bytes that are added while some are on their way follow them. */
static void bytes_are_added_behind_half_sent_ones(void **state)
{
    sending_t s;
    struct iovec iov[4];
    size_t bytes;

    (void)state;
    sending_open(&s);
    add_bytes(&s, "one");
    assert_false(sd_reply_advance(&s.reply, s.f.lane, 2));
    add_bytes(&s, "two");
    assert_int_equal(sd_reply_iov(&s.reply, s.f.lane, iov, 4, &bytes), 1);
    assert_int_equal(bytes, 4);
    assert_memory_equal(iov[0].iov_base, "etwo", 4);
    assert_true(sd_reply_advance(&s.reply, s.f.lane, 4));
    assert_int_equal(s.reply.used, 0);
    /* behind a part that is sent, and one that is not */
    s.expected_len = 0;
    add_bytes(&s, "one");
    add_value(&s, 1, 10);
    assert_false(sd_reply_advance(&s.reply, s.f.lane, 5));
    add_bytes(&s, "two");
    assert_int_equal(sd_reply_iov(&s.reply, s.f.lane, iov, 4, &bytes), 2);
    assert_int_equal(bytes, 11);
    assert_memory_equal(iov[1].iov_base, "two", 3);
    assert_true(sd_reply_advance(&s.reply, s.f.lane, 11));
    sending_close(&s);
}

static void order_is_kept_in_steps_of_every_size(void **state)
{
    sending_t s;
    size_t step, all = 0;
    int max;

    (void)state;
    sending_open(&s);
    for (max = 1; max <= 12; max++)
        for (step = 1; step == 1 || step <= all + 1; step += slowed_down() ? 13 : 1) {
            fill_mixed(&s);
            all = s.expected_len;
            send_off(&s, max, step);
        }
    fill_mixed(&s);
    send_off(&s, 64, SIZE_MAX);
    sending_close(&s);
}

static void an_empty_value_ends_without_a_byte(void **state)
{
    sending_t s;
    struct iovec iov;
    size_t bytes = 99;
    test_key_t key = numbered_key(1, 12);

    (void)state;
    sending_open(&s);
    add_value(&s, 1, 0);
    assert_false(sd_reply_is_empty(&s.reply));
    assert_int_equal(sd_reply_iov(&s.reply, s.f.lane, &iov, 1, &bytes), 0);
    assert_int_equal(bytes, 0);
    assert_int_equal(delete_key(&s.f, &key), SD_OK);
    assert_true(detached(&s) > 0);
    assert_true(sd_reply_advance(&s.reply, s.f.lane, 0));
    assert_true(sd_reply_is_empty(&s.reply));
    assert_int_equal(detached(&s), 0);
    /* behind bytes it goes with their last one */
    add_bytes(&s, "x");
    add_value(&s, 1, 0);
    assert_true(sd_reply_advance(&s.reply, s.f.lane, 1));
    sending_close(&s);
}

/* Each value is let go when its own last byte has left, not later. */
static void a_value_is_released_with_its_last_byte(void **state)
{
    sending_t s;
    test_key_t first = numbered_key(1, 12), second = numbered_key(2, 12);
    uint64_t used;

    (void)state;
    sending_open(&s);
    used = blocks_used(&s.f);
    add_value(&s, 1, 1000);
    add_value(&s, 2, 1000);
    assert_int_equal(delete_key(&s.f, &first), SD_OK);
    assert_int_equal(delete_key(&s.f, &second), SD_OK);
    assert_int_equal(detached(&s), 10);
    assert_false(sd_reply_advance(&s.reply, s.f.lane, 999));
    assert_int_equal(detached(&s), 10);
    assert_false(sd_reply_advance(&s.reply, s.f.lane, 1));
    assert_int_equal(detached(&s), 5);
    assert_false(sd_reply_advance(&s.reply, s.f.lane, 999));
    assert_int_equal(detached(&s), 5);
    assert_true(sd_reply_advance(&s.reply, s.f.lane, 1));
    assert_int_equal(detached(&s), 0);
    assert_int_equal(blocks_used(&s.f), used);
    sending_close(&s);
}

static void discard_releases_what_was_not_sent(void **state)
{
    sending_t s;
    size_t sent, all;

    (void)state;
    sending_open(&s);
    fill_mixed(&s);
    all = s.expected_len;
    sd_reply_discard(&s.reply, s.f.lane);
    for (sent = 0; sent < all; sent += slowed_down() ? 29 : 1) {
        uint32_t number;
        uint64_t used;

        s.expected_len = 0;
        used = blocks_used(&s.f);
        fill_mixed(&s);
        assert_false(sd_reply_advance(&s.reply, s.f.lane, sent));
        for (number = 1; number <= 6; number++) {
            test_key_t key = numbered_key(number, 12);

            assert_int_equal(delete_key(&s.f, &key), SD_OK);
        }
        sd_reply_discard(&s.reply, s.f.lane);
        assert_true(sd_reply_is_empty(&s.reply));
        assert_int_equal(detached(&s), 0);
        if (sent > 0)
            assert_int_equal(blocks_used(&s.f), used);
        sd_reply_discard(&s.reply, s.f.lane); /* harmless on nothing */
    }
    assert_int_equal(blocks_used(&s.f), 0);
    sending_close(&s);
}

/* The bytes of a reply belong to it: it may be moved while it is half sent. */
static void a_reply_can_be_moved(void **state)
{
    sending_t s;
    sd_reply_t *aside = malloc(sizeof *aside);

    (void)state;
    assert_non_null(aside);
    sending_open(&s);
    fill_mixed(&s);
    s.out_len = 0;
    assert_int_equal(take(&s, 64, 300), 300);
    assert_false(sd_reply_advance(&s.reply, s.f.lane, 300));
    *aside = s.reply;
    memset(&s.reply, 0xee, sizeof s.reply);
    s.reply = *aside;
    memset(aside, 0xee, sizeof *aside);
    free(aside);
    take(&s, 64, SIZE_MAX);
    assert_int_equal(s.out_len, s.expected_len);
    assert_memory_equal(s.out, s.expected, s.expected_len);
    sending_close(&s);
}

/* Whatever one frame answers fits as long as the reply is not full. */
static void not_full_means_room_for_one_more(void **state)
{
    static unsigned char bytes[SD_REPLY_BYTES + 1];
    sending_t s;
    uint32_t n;

    (void)state;
    sending_open(&s);
    for (n = 0; !sd_reply_is_full(&s.reply); n++) {
        uint32_t used = s.reply.used;

        add_bytes(&s, "V............");
        add_value(&s, n, 1);
        assert_int_equal(s.reply.used, used + 13);
        assert_true(s.reply.parts <= SD_REPLY_PARTS);
    }
    assert_int_equal(n, SD_REPLY_PARTS / 2);
    send_off(&s, 64, SIZE_MAX);

    /* one part left is too few: bytes behind a value begin one of their own */
    add_value(&s, 100, 1);
    for (n = 0; n < SD_REPLY_PARTS / 2 - 1; n++) {
        assert_false(sd_reply_is_full(&s.reply));
        add_bytes(&s, "V............");
        add_value(&s, n, 1);
    }
    assert_int_equal(s.reply.parts, SD_REPLY_PARTS - 1);
    assert_true(sd_reply_is_full(&s.reply));
    send_off(&s, 64, SIZE_MAX);

    for (n = 0; !sd_reply_is_full(&s.reply); n++) {
        uint32_t used = s.reply.used;

        sd_reply_add(&s.reply, bytes, SD_REPLY_FRAME);
        assert_int_equal(s.reply.used, used + SD_REPLY_FRAME);
    }
    assert_int_equal(n, SD_REPLY_BYTES / SD_REPLY_FRAME);
    sd_reply_discard(&s.reply, s.f.lane);

    /* one byte decides */
    sd_reply_add(&s.reply, bytes, SD_REPLY_BYTES - SD_REPLY_FRAME);
    assert_false(sd_reply_is_full(&s.reply));
    sd_reply_add(&s.reply, bytes, 1);
    assert_true(sd_reply_is_full(&s.reply));
    sd_reply_discard(&s.reply, s.f.lane);

    /* what cannot fit is left out whole, and nothing is written beyond the end */
    s.reply.bytes[SD_REPLY_BYTES - 1] = 0x5a;
    sd_reply_add(&s.reply, bytes, SD_REPLY_BYTES + 1);
    assert_true(sd_reply_is_empty(&s.reply));
    sd_reply_add(&s.reply, bytes, SD_REPLY_BYTES - 1);
    sd_reply_add(&s.reply, bytes, 2);
    assert_int_equal(s.reply.used, SD_REPLY_BYTES - 1);
    assert_int_equal(s.reply.bytes[SD_REPLY_BYTES - 1], 0x5a);
    sending_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_in_a_row_are_one_vector),
        cmocka_unit_test(bytes_are_added_behind_half_sent_ones),
        cmocka_unit_test(order_is_kept_in_steps_of_every_size),
        cmocka_unit_test(an_empty_value_ends_without_a_byte),
        cmocka_unit_test(a_value_is_released_with_its_last_byte),
        cmocka_unit_test(discard_releases_what_was_not_sent),
        cmocka_unit_test(a_reply_can_be_moved),
        cmocka_unit_test(not_full_means_room_for_one_more),
    };

    return cmocka_run_group_tests_name("reply", tests, NULL, NULL);
}
