/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pressure.c: what the store and a conversation do for those who decide
 * who gives way when memory is short: a value that is held back takes nothing
 * and loses nothing, one that finds no memory can be tried again, and it can be
 * told which replies keep memory that the store has no more use for.
 */
#include <stdlib.h>

#include "protocol/bytes.h"
#include "protocol/wire.h"
#include "store_fixture.h"

enum { LIVE = 500000 };

typedef struct talk {
    fixture_t f;
    sd_limits_t limits;
    sd_exec_t exec;
    sd_lock_mailbox_t mailbox;
    sd_wire_t wire;
    sd_reply_t reply;
    unsigned char frame[300000];
    size_t len;
} talk_t;

static void nobody(void *data)
{
    (void)data;
}

static talk_t *talk_open(uint64_t size)
{
    talk_t *t = calloc(1, sizeof *t);

    assert_non_null(t);
    fixture_open(&t->f, size, 1, false);
    t->limits = (sd_limits_t){ 1 << 20, LIVE, "greeting" };
    t->exec = (sd_exec_t){ .lane = t->f.lane, .counters = sd_lane_counters(t->f.lane),
                           .limits = &t->limits, .now = t->f.now, .locks = sd_locks_create(60000), .mailbox = &t->mailbox };
    assert_non_null(t->exec.locks);
    sd_lock_mailbox_setup(&t->mailbox, nobody, NULL);
    sd_wire_setup(&t->wire);
    sd_reply_clear(&t->reply);
    return t;
}

static void talk_close(talk_t *t)
{
    sd_reply_discard(&t->reply, t->exec.lane);
    sd_wire_end(&t->wire, &t->exec);
    sd_locks_destroy(&t->exec.locks);
    sd_lock_mailbox_teardown(&t->mailbox);
    fixture_close(&t->f);
    free(t);
}

/* Adds S or W with a value of `n` bytes that follow from the seed. */
static void add_store(talk_t *t, char op, const test_key_t *key, uint64_t seed, uint32_t n)
{
    unsigned char *at = t->frame + t->len;
    size_t fixed = op == 'S' ? 9 : 21;

    assert_true(t->len + fixed + key->len + n <= sizeof t->frame);
    memset(at, 0, fixed);
    at[0] = (unsigned char)op;
    sd_put32(at + 1, key->len);
    sd_put32(at + 5, n);
    if (op == 'W')
        sd_put64(at + 13, SD_VERSION_ANY);
    memcpy(at + fixed, key->bytes, key->len);
    value_fill(at + fixed + key->len, n, seed);
    t->len += fixed + key->len + n;
}

/* Feeds the frame's bytes from `at` to `to`; returns how many were used. */
static size_t feed(talk_t *t, size_t at, size_t to, sd_after_t want)
{
    size_t used;

    assert_int_equal(sd_wire_feed(&t->wire, &t->exec, t->frame + at, to - at, &used, &t->reply),
                     want);
    return used;
}

static uint32_t incoming(const talk_t *t)
{
    return atomic_load(&t->f.store->incoming);
}

static test_key_t plain_key(uint32_t n)
{
    test_key_t key = numbered_key(n, 20);
    uint32_t i;

    for (i = 0; i < key.len; i++)
        key.bytes[i] = (unsigned char)('a' + key.bytes[i] % 26);
    key.bytes[0] = (unsigned char)('0' + n % 10);
    return key;
}

/* ---- the quarter ---- */

static void incoming_chains_have_their_share(void **state)
{
    talk_t *t = talk_open(2 * MIB);
    uint32_t quarter = t->f.store->block_count / 4;
    test_key_t key = plain_key(1);
    sd_chain_t chain;

    (void)state;
    assert_int_equal(sd_chain_open(t->f.lane, &chain, key.bytes, key.len, t->f.now), SD_OK);
    assert_int_equal(sd_chain_reserve(t->f.lane, &chain, (quarter - 1) * 256 - 60, t->f.now), SD_OK);
    assert_int_equal(incoming(t), quarter - 1);
    assert_int_equal(sd_store_hold_from(t->f.store), 0);
    assert_int_equal(sd_chain_reserve(t->f.lane, &chain, quarter * 256 - 60, t->f.now), SD_OK);
    assert_int_equal(incoming(t), quarter);
    assert_int_equal(sd_store_hold_from(t->f.store), t->f.store->block_count);
    assert_int_equal(
        sd_chain_reserve(t->f.lane, &chain, (quarter + quarter / 2 - 1) * 256 - 60, t->f.now), SD_OK);
    assert_int_equal(sd_store_hold_from(t->f.store), t->f.store->block_count);
    assert_int_equal(
        sd_chain_reserve(t->f.lane, &chain, (quarter + quarter / 2) * 256 - 60, t->f.now), SD_OK);
    assert_int_equal(sd_store_hold_from(t->f.store), 1);
    sd_chain_discard(t->f.lane, &chain);
    assert_int_equal(incoming(t), 0);
    assert_int_equal(sd_store_hold_from(t->f.store), 0);
    talk_close(t);
}

static void what_is_held_back_takes_nothing_and_loses_nothing(void **state)
{
    static const char ops[] = "SW";
    uint32_t i;

    (void)state;
    for (i = 0; i < 2; i++) {
        talk_t *t = talk_open(2 * MIB);
        test_key_t key = plain_key(i);
        size_t used;

        add_store(t, ops[i], &key, 7, 5000);
        t->exec.hold_from = 5000;
        assert_int_equal(feed(t, 0, t->len - 1, SD_AFTER_CROWDED), 0);
        assert_int_equal(sd_wire_size(&t->wire), 0);
        assert_int_equal(sd_wire_held_size(&t->wire), 5000);
        assert_int_equal(sd_wire_held_missing(&t->wire), 1);
        assert_true(sd_wire_is_idle(&t->wire));
        assert_false(sd_wire_is_taking(&t->wire));
        assert_int_equal(blocks_used(&t->f), 0);
        assert_int_equal(feed(t, 0, 6, SD_AFTER_KEEP), 0); /* half a head only waits */
        t->exec.hold_from = 5001;
        used = feed(t, 0, t->len - 1, SD_AFTER_KEEP);
        assert_int_equal(used, t->len - 1);
        assert_int_equal(sd_wire_held_size(&t->wire) + sd_wire_held_missing(&t->wire), 0);
        assert_true(sd_wire_is_taking(&t->wire));
        assert_int_equal(sd_wire_wanted(&t->wire), 1);
        /* one that is under way is its owner's business: it goes on when it is fed */
        t->exec.hold_from = 1;
        assert_int_equal(
            feed(t, used, t->len, ops[i] == 'S' ? SD_AFTER_CLOSE : SD_AFTER_KEEP), 1);
        assert_value(&t->f, &key, 7, 5000);
        talk_close(t);
    }
}

static void what_is_complete_is_not_held_back(void **state)
{
    talk_t *t = talk_open(2 * MIB);
    test_key_t one = plain_key(1), two = plain_key(2);
    size_t first;

    (void)state;
    t->exec.hold_from = 1;
    add_store(t, 'W', &one, 1, 3000);
    first = t->len;
    add_store(t, 'W', &two, 2, 3000);
    assert_int_equal(feed(t, 0, t->len - 1, SD_AFTER_CROWDED), first);
    assert_value(&t->f, &one, 1, 3000);
    assert_false(is_there(&t->f, &two));
    assert_int_equal(incoming(t), 0);
    assert_int_equal(sd_reply_left(&t->reply), 5 + 8); /* the first one's K */
    assert_int_equal(feed(t, first, t->len, SD_AFTER_KEEP), t->len - first);
    assert_value(&t->f, &two, 2, 3000);
    talk_close(t);
}

static void reads_are_never_held_back(void **state)
{
    static const char ops[] = "FDG";
    uint32_t i;

    (void)state;
    for (i = 0; i < 3; i++) {
        talk_t *t = talk_open(2 * MIB);
        test_key_t key = plain_key(9);

        put_ok(&t->f, &key, 3, 100, t->f.now + LIVE);
        t->exec.hold_from = 1;
        t->frame[0] = (unsigned char)ops[i];
        sd_put32(t->frame + 1, key.len);
        memcpy(t->frame + 5, key.bytes, key.len);
        assert_int_equal(
            feed(t, 0, 5 + key.len, ops[i] == 'G' ? SD_AFTER_KEEP : SD_AFTER_CLOSE), 5 + key.len);
        assert_false(sd_reply_is_empty(&t->reply));
        talk_close(t);
    }
}

/* ---- full memory ---- */

/* Leaves no block for a new key; returns how many keys from 1000 on there are. */
static uint32_t fill(talk_t *t)
{
    return fill_up(&t->f, 1000, t->f.now + LIVE);
}

static void make_room(talk_t *t, uint32_t from, uint32_t n)
{
    uint32_t i;

    for (i = from; i < from + n; i++) {
        test_key_t key = numbered_key(1000 + i, 8);

        assert_int_equal(delete_key(&t->f, &key), SD_OK);
    }
}

static void a_patient_store_is_tried_again(void **state)
{
    static const char ops[] = "SW";
    uint32_t i;

    (void)state;
    for (i = 0; i < 2; i++) {
        talk_t *t = talk_open(MIB);
        test_key_t key = plain_key(i);
        sd_after_t done = ops[i] == 'S' ? SD_AFTER_CLOSE : SD_AFTER_KEEP;

        assert_true(fill(t) > 1000);
        add_store(t, ops[i], &key, 5, 5000);
        t->exec.patient = true;
        assert_int_equal(feed(t, 0, t->len, SD_AFTER_FULL), 0);
        assert_true(sd_wire_is_idle(&t->wire));
        assert_int_equal(counter_sum(&t->f, refused_full), 0);
        assert_true(sd_reply_is_empty(&t->reply));
        make_room(t, 0, 100);
        t->exec.patient = false;
        assert_int_equal(feed(t, 0, t->len, done), t->len);
        assert_value(&t->f, &key, 5, 5000);
        talk_close(t);
    }
}

static void a_patient_value_goes_on_where_it_stopped(void **state)
{
    talk_t *t = talk_open(MIB);
    test_key_t key = plain_key(4);
    size_t at = 0;

    (void)state;
    fill(t);
    make_room(t, 0, 20);
    add_store(t, 'W', &key, 6, 30000);
    t->exec.patient = true;
    at = feed(t, 0, 3000, SD_AFTER_KEEP);
    at += feed(t, at, t->len, SD_AFTER_FULL);
    assert_true(at < t->len);
    assert_true(sd_wire_is_taking(&t->wire));
    assert_int_equal(feed(t, at, t->len, SD_AFTER_FULL), 0); /* again and again, without harm */
    make_room(t, 20, 200);
    assert_int_equal(feed(t, at, t->len, SD_AFTER_KEEP), t->len - at);
    assert_value(&t->f, &key, 6, 30000);
    talk_close(t);
}

static void an_impatient_one_is_refused(void **state)
{
    talk_t *t = talk_open(MIB);
    test_key_t key = plain_key(4);

    (void)state;
    fill(t);
    add_store(t, 'S', &key, 6, 3000);
    (void)feed(t, 0, t->len, SD_AFTER_RESET);
    assert_int_equal(counter_sum(&t->f, refused_full), 1);
    talk_close(t);
}

/* ---- replies that keep memory ---- */

static void a_reply_knows_what_it_keeps(void **state)
{
    talk_t *t = talk_open(MIB);
    test_key_t one = plain_key(1), two = plain_key(2);
    sd_ref_t ref;
    uint32_t blocks;

    (void)state;
    put_ok(&t->f, &one, 1, 1000, t->f.now + LIVE);
    put_ok(&t->f, &two, 2, 2000, t->f.now + LIVE);
    sd_reply_add(&t->reply, "head", 4);
    assert_int_equal(sd_store_get(t->f.lane, one.bytes, one.len, t->f.now, &ref), SD_OK);
    assert_false(sd_ref_is_detached(t->f.lane, &ref));
    sd_reply_add_value(&t->reply, &ref);
    assert_int_equal(sd_store_get(t->f.lane, two.bytes, two.len, t->f.now, &ref), SD_OK);
    sd_reply_add_value(&t->reply, &ref);
    assert_int_equal(sd_reply_left(&t->reply), 4 + 1000 + 2000);
    assert_false(sd_reply_holds_detached(&t->reply, t->f.lane));
    assert_int_equal(sd_store_detached(t->f.store), 0);
    put_ok(&t->f, &two, 3, 10, t->f.now + LIVE);
    assert_true(sd_reply_holds_detached(&t->reply, t->f.lane));
    blocks = sd_store_detached(t->f.store);
    assert_int_equal(blocks, (40 + 20 + 2000 + 255) / 256);
    assert_false(sd_reply_advance(&t->reply, t->f.lane, 4 + 500));
    assert_int_equal(sd_reply_left(&t->reply), 500 + 2000);
    assert_true(sd_reply_holds_detached(&t->reply, t->f.lane));
    sd_reply_discard(&t->reply, t->f.lane);
    assert_int_equal(sd_reply_left(&t->reply), 0);
    assert_false(sd_reply_holds_detached(&t->reply, t->f.lane));
    assert_int_equal(sd_store_detached(t->f.store), 0);
    talk_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(incoming_chains_have_their_share),
        cmocka_unit_test(what_is_held_back_takes_nothing_and_loses_nothing),
        cmocka_unit_test(what_is_complete_is_not_held_back),
        cmocka_unit_test(reads_are_never_held_back),
        cmocka_unit_test(a_patient_store_is_tried_again),
        cmocka_unit_test(a_patient_value_goes_on_where_it_stopped),
        cmocka_unit_test(an_impatient_one_is_refused),
        cmocka_unit_test(a_reply_knows_what_it_keeps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
