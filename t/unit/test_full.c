/* SPDX-License-Identifier: Apache-2.0
 *
 * test_full.c: a full segment. Full is an error, never a loss: no OK without
 * room, nothing earlier changes, an update of a live session still goes through
 * when new ones are refused, and memory that has expired is found when needed.
 */
#include <stdlib.h>

#include "store_fixture.h"

enum { LIVE = 500000 };

/* Stores until every lane says SD_FULL, with values of many sizes, small ones
 * in the end; returns how many fitted. */
static uint32_t fill_mixed(fixture_t *f, dice_t *dice, uint32_t *lengths, uint32_t max)
{
    uint32_t n, misses = 0;

    for (n = 0; n < max && misses < 40;) {
        test_key_t key = numbered_key(n, 0);

        lengths[n] = dice_below(dice, misses < 20 ? 6000 : 100);
        if (value_store(sd_store_lane(f->store, (n + misses) % f->lanes), &key, n, lengths[n],
                        f->now + LIVE, SD_VERSION_ANY, f->now, NULL)
            == SD_OK)
            n++;
        else {
            misses++;
            assert_false(is_there(f, &key));
        }
    }
    assert_true(misses == 40);
    return n;
}

static void nothing_earlier_is_lost_or_changed(void **state)
{
    static uint32_t lengths[20000];
    uint32_t lanes;

    (void)state;
    for (lanes = 1; lanes <= 4; lanes++) {
        fixture_t f;
        dice_t dice = dice_new(lanes);
        uint32_t count, n;

        fixture_open(&f, 2 * MIB, lanes, false);
        count = fill_mixed(&f, &dice, lengths, 20000);
        assert_int_equal(sessions(&f), count);
        for (n = 0; n < count; n++) {
            test_key_t key = numbered_key(n, 0);

            assert_value(&f, &key, n, lengths[n]);
        }
        assert_clean(f.store);
        assert_int_equal(counter_sum(&f, evicted) + counter_sum(&f, expired), 0);
        fixture_close(&f);
    }
}

/* Every live session can be rewritten at its size while new ones are refused,
 * through any lane, one after the other, again and again. */
static void live_sessions_can_be_updated_when_full(void **state)
{
    static uint32_t lengths[20000];
    uint32_t lanes;

    (void)state;
    for (lanes = 1; lanes <= 4; lanes++) {
        fixture_t f;
        dice_t dice = dice_new(10 + lanes);
        uint32_t count, n, round, rounds = slowed_down() ? 1 : 3;

        fixture_open(&f, 2 * MIB, lanes, false);
        count = fill_mixed(&f, &dice, lengths, 20000);
        for (round = 1; round <= rounds; round++)
            for (n = 0; n < count; n++) {
                test_key_t key = numbered_key(n, 0), other = numbered_key(90000 + n, 0);

                assert_int_equal(value_store(sd_store_lane(f.store, (n + round) % lanes), &key,
                                             n + round, lengths[n], f.now + LIVE, SD_VERSION_ANY,
                                             f.now, NULL),
                                 SD_OK);
                assert_int_equal(value_store(sd_store_lane(f.store, n % lanes), &other, 1, 5900,
                                             f.now + LIVE, SD_VERSION_ANY, f.now, NULL),
                                 SD_FULL);
            }
        for (n = 0; n < count; n++) {
            test_key_t key = numbered_key(n, 0);

            assert_value(&f, &key, n + rounds, lengths[n]);
        }
        fixture_close(&f);
    }
}

/* The reserve serves replacements of live keys of any length, also of those
 * whose key takes two blocks; not of expired ones, nor of absent ones. */
static void only_live_keys_may_use_the_reserve(void **state)
{
    static const uint32_t key_lengths[] = { 8, 216, 217, 255 };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof key_lengths / sizeof key_lengths[0]; i++) {
        fixture_t f;
        test_key_t live = numbered_key(70001, key_lengths[i]),
                   dead = numbered_key(70002, key_lengths[i]),
                   none = numbered_key(70003, key_lengths[i]), filler;
        sd_ref_t reader;
        sd_chain_t chain;
        uint32_t reserve;

        fixture_open(&f, MIB, 1, false);
        reserve = f.store->reserve;
        put_ok(&f, &live, 1, 300, f.now + LIVE);
        put_ok(&f, &dead, 2, 300, f.now + 10);
        /* a reader keeps the dead value's memory from being found */
        assert_int_equal(sd_store_get(f.lane, dead.bytes, dead.len, f.now, &reader), SD_OK);
        fill_up(&f, 0, f.now + LIVE);
        f.now += 10;
        assert_int_not_equal(item_of(&f, &dead), 0); /* in the index yet, and expired */
        assert_int_equal(put_try(&f, &dead, 3, 300, f.now + LIVE), SD_FULL);
        assert_int_equal(sd_chain_open(f.lane, &chain, none.bytes, none.len, f.now), SD_FULL);
        assert_int_equal(sd_blocks_free_count(f.store), reserve);
        assert_int_equal(sd_chain_open(f.lane, &chain, live.bytes, live.len, f.now), SD_OK);
        /* all of the reserve, and not a block more */
        assert_int_equal(sd_chain_reserve(f.lane, &chain, MIB, f.now), SD_FULL);
        assert_int_equal(chain.blocks, reserve);
        sd_chain_discard(f.lane, &chain);
        /* one block above the reserve: a key of two begins with that one */
        filler = numbered_key(0, 8);
        assert_int_equal(delete_key(&f, &filler), SD_OK);
        assert_int_equal(sd_blocks_free_count(f.store), reserve + 1);
        assert_int_equal(put_try(&f, &live, 4, 2000, f.now + LIVE), SD_OK);
        assert_value(&f, &live, 4, 2000);
        assert_int_equal(put_try(&f, &none, 3, 300, f.now + LIVE), SD_FULL);
        sd_ref_release(f.lane, &reader);
        fixture_close(&f);
    }
}

/* A lane that was left with free blocks of its own, while others drained the
 * pool: those are no back door for new sessions either. */
static void a_lanes_own_list_is_no_back_door(void **state)
{
    fixture_t f;
    test_key_t a = numbered_key(1, 8), b = numbered_key(2, 8), c = numbered_key(3, 8);
    uint64_t version;

    (void)state;
    fixture_open(&f, MIB, 2, false);
    assert_int_equal(value_store(sd_store_lane(f.store, 1), &a, 1, 10, f.now + LIVE,
                                 SD_VERSION_ANY, f.now, &version),
                     SD_OK);
    fill_up(&f, 100, f.now + LIVE); /* by lane 0 */
    assert_int_equal(put_try(&f, &a, 2, 400, f.now + LIVE), SD_OK); /* into the reserve */
    assert_true(f.store->lanes[1].list->count > 0);
    assert_int_equal(value_store(sd_store_lane(f.store, 1), &b, 1, 10, f.now + LIVE,
                                 SD_VERSION_ANY, f.now, &version),
                     SD_FULL);
    assert_int_equal(value_store(sd_store_lane(f.store, 1), &a, 3, 400, f.now + LIVE,
                                 SD_VERSION_ANY, f.now, &version),
                     SD_OK);
    assert_false(is_there(&f, &b));
    assert_value(&f, &a, 3, 400);
    /* two blocks came back for the two taken from lane 1: the reserve is whole
     * again with one to spare, which is the next one's and the last */
    assert_int_equal(put_try(&f, &b, 1, 10, f.now + LIVE), SD_OK);
    assert_int_equal(put_try(&f, &c, 1, 10, f.now + LIVE), SD_FULL);
    fixture_close(&f);
}

/* Whatever part of a full store has expired, and in whichever shards, a new
 * value gets exactly that much room, without a sweep. */
static void expired_memory_is_found_when_full(void **state)
{
    uint32_t part;

    (void)state;
    for (part = 1; part <= 64; part *= 4) {
        fixture_t f;
        uint32_t n, count = 0, expiring = 0, refilled = 0;
        sd_status_t status;

        fixture_open(&f, 2 * MIB, 1, false);
        for (;; count++) {
            test_key_t key = numbered_key(count, 8);

            status = put_try(&f, &key, count, 16,
                             f.now + (count % part == 0 ? 1000 + count % 7 : LIVE));
            if (status != SD_OK)
                break;
            expiring += count % part == 0;
        }
        f.now += 999;
        n = fill_up(&f, 50000, f.now + LIVE);
        assert_int_equal(n, 0);
        f.now += 8;
        for (n = 0;; n++) {
            test_key_t key = numbered_key(50000 + n, 8);

            if (put_try(&f, &key, n, 16, f.now + LIVE) != SD_OK)
                break;
            refilled++;
        }
        assert_int_equal(refilled, expiring);
        assert_int_equal(counter_sum(&f, expired), expiring);
        for (n = 0; n < count; n++) {
            test_key_t key = numbered_key(n, 8);

            assert_int_equal(is_there(&f, &key), n % part != 0);
        }
        fixture_close(&f);
    }
}

/* `largest` is a promise: a new key of any length can have that much, and not
 * a block more. */
static void the_largest_value_fits_exactly(void **state)
{
    dice_t dice = dice_new(2);
    uint32_t round;

    (void)state;
    for (round = 0; round < 20; round++) {
        fixture_t f;
        sd_usage_t u;
        test_key_t key = numbered_key(80000, SD_KEY_MAX);
        uint32_t n, stored = dice_below(&dice, 500);

        fixture_open(&f, MIB, 1, false);
        for (n = 0; n < stored; n++) {
            test_key_t other = numbered_key(n, 0);

            put_try(&f, &other, n, dice_below(&dice, 2000), f.now + LIVE);
        }
        for (n = 0; n < stored; n += 3) {
            test_key_t other = numbered_key(n, 0);

            delete_key(&f, &other);
        }
        sd_store_usage(f.store, &u);
        if (u.largest > 0) {
            assert_int_equal(put_try(&f, &key, 1, (uint32_t)u.largest + 1, f.now + LIVE), SD_FULL);
            assert_int_equal(put_try(&f, &key, 1, (uint32_t)u.largest, f.now + LIVE), SD_OK);
            assert_value(&f, &key, 1, (uint32_t)u.largest);
        }
        else
            assert_int_equal(put_try(&f, &key, 1, 500, f.now + LIVE), SD_FULL);
        fixture_close(&f);
    }
    assert_int_equal(sd_usage_largest(1000, 10), 0);
    assert_int_equal(sd_usage_largest(1000, 11), 0); /* one block is less than head and key */
    assert_int_equal(sd_usage_largest(1000, 12), 2 * 256 - 295);
}

/* Incoming values of many clients take all memory and then all go away. */
static void discarded_chains_return_everything(void **state)
{
    enum { CHAINS = 300 };
    fixture_t f;
    dice_t dice = dice_new(5);
    static sd_chain_t chains[CHAINS];
    unsigned char bytes[3000];
    uint32_t round, n;

    (void)state;
    fixture_open(&f, MIB, 2, false);
    memset(bytes, 1, sizeof bytes);
    for (round = 0; round < 10; round++) {
        uint32_t refused = 0;

        for (n = 0; n < CHAINS; n++) {
            test_key_t key = numbered_key(n, 0);

            sd_chain_open(sd_store_lane(f.store, n % 2), &chains[n], key.bytes, key.len, f.now);
        }
        for (n = 0; n < 40 * CHAINS; n++) {
            sd_chain_t *chain = &chains[dice_below(&dice, CHAINS)];

            if (chain->head != 0
                && sd_chain_append(f.lane, chain, bytes, dice_below(&dice, 3000), f.now) != SD_OK)
                refused++;
        }
        assert_true(refused > 0);
        assert_clean(f.store);
        for (n = 0; n < CHAINS; n++)
            sd_chain_discard(sd_store_lane(f.store, dice_below(&dice, 2)), &chains[n]);
        assert_int_equal(blocks_used(&f) + atomic_load(&f.store->incoming), 0);
        assert_clean(f.store);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_earlier_is_lost_or_changed),
        cmocka_unit_test(live_sessions_can_be_updated_when_full),
        cmocka_unit_test(only_live_keys_may_use_the_reserve),
        cmocka_unit_test(a_lanes_own_list_is_no_back_door),
        cmocka_unit_test(expired_memory_is_found_when_full),
        cmocka_unit_test(the_largest_value_fits_exactly),
        cmocka_unit_test(discarded_chains_return_everything),
    };

    return cmocka_run_group_tests_name("full", tests, NULL, NULL);
}
