/* SPDX-License-Identifier: Apache-2.0
 *
 * test_expiry.c: the sweep, the search for expired memory and eviction. Each
 * shard's lower bound may be too early and must never be too late; the sweep
 * must find everything and yet never look at more than it was asked to; and
 * eviction must take the item nearest its expiry, however stale the bounds.
 */
#include <stdlib.h>

#include "store_fixture.h"

static uint64_t bound_of(const fixture_t *f, uint32_t shard)
{
    return atomic_load(&f->store->shards[shard].min_expiry);
}

static void a_bound_is_never_too_late(void **state)
{
    fixture_t f;
    uint32_t n = 0, shard = 1;
    test_key_t a, b, c;

    (void)state;
    fixture_open(&f, 4 * MIB, 1, false);
    a = key_in_shard(&f, shard, &n);
    b = key_in_shard(&f, shard, &n);
    c = key_in_shard(&f, shard, &n);
    put_ok(&f, &a, 1, 10, f.now + 500);
    assert_int_equal(bound_of(&f, shard), f.now + 500); /* the first one sets it */
    put_ok(&f, &b, 1, 10, f.now + 300);
    assert_int_equal(bound_of(&f, shard), f.now + 300);
    put_ok(&f, &c, 1, 10, f.now + 400);
    assert_int_equal(bound_of(&f, shard), f.now + 300);
    put_ok(&f, &b, 1, 10, f.now + 900); /* too early now, and allowed to be */
    assert_true(bound_of(&f, shard) <= f.now + 400);
    assert_clean(f.store);
    assert_int_equal(delete_key(&f, &c), SD_OK);
    assert_int_equal(delete_key(&f, &b), SD_OK);
    put_ok(&f, &a, 1, 10, f.now + 700); /* alone in its shard: exact again */
    assert_int_equal(bound_of(&f, shard), f.now + 700);
    assert_int_equal(delete_key(&f, &a), SD_OK);
    put_ok(&f, &a, 1, 10, f.now + 800);
    assert_int_equal(bound_of(&f, shard), f.now + 800);
    put_ok(&f, &b, 1, 10, f.now + 850);
    assert_int_equal(bound_of(&f, shard), f.now + 800);
    fixture_close(&f);
}

/* Values that expire one after the other, swept with every budget. */
static void a_sweep_is_bounded_and_finds_everything(void **state)
{
    static const uint32_t budgets[] = { 1, 255, 256, 257, 1000, 5000, UINT32_MAX };
    size_t b;

    (void)state;
    for (b = 0; b < sizeof budgets / sizeof budgets[0]; b++) {
        enum { KEYS = 4000 };
        fixture_t f;
        uint32_t n, shards, looked, calls, gone = 0;

        fixture_open(&f, 16 * MIB, 1, false);
        shards = f.store->shard_count;
        assert_true(shards >= 16);
        for (n = 0; n < KEYS; n++) {
            test_key_t key = numbered_key(n, 12);

            put_ok(&f, &key, n, 100, f.now + 100 + n % 2 * 100);
        }
        f.now += 99;
        assert_int_equal(sd_store_sweep(f.lane, f.now, budgets[b]), 0); /* nothing is due */
        assert_int_equal(sessions(&f), KEYS);
        for (f.now += 1; f.now % 100 == 0 && gone < KEYS; f.now += 100) {
            uint32_t due = 0;

            for (n = 0; n < shards; n++)
                due += f.store->shards[n].items > 0 && bound_of(&f, n) <= f.now;
            assert_int_equal(due, shards);
            for (calls = 0; (looked = sd_store_sweep(f.lane, f.now, budgets[b])) > 0; calls++) {
                assert_true(looked < (uint64_t)budgets[b] + SD_SHARD_BUCKETS);
                assert_true(looked >= budgets[b] || looked == due * SD_SHARD_BUCKETS);
                due -= looked / SD_SHARD_BUCKETS; /* no shard is walked twice */
                assert_true(due < shards);
            }
            assert_int_equal(due, 0);
            gone += KEYS / 2;
            assert_int_equal(sessions(&f), KEYS - gone);
            assert_int_equal(blocks_used(&f), KEYS - gone);
            assert_int_equal(counter_sum(&f, expired), gone);
            assert_clean(f.store);
        }
        assert_int_equal(gone, KEYS);
        assert_int_equal(counter_sum(&f, read_expired), 0);
        fixture_close(&f);
    }
}

/* Each lane goes round by itself and begins elsewhere: two that sweep a little
 * each do not walk the same shards. */
static void lanes_share_the_sweep(void **state)
{
    fixture_t f;
    uint32_t n, lane;

    (void)state;
    fixture_open(&f, 16 * MIB, 4, false);
    for (n = 0; n < 2000; n++) {
        test_key_t key = numbered_key(n, 12);

        put_ok(&f, &key, n, 100, f.now + 100);
    }
    f.now += 100;
    for (lane = 0; lane < 4; lane++)
        sd_store_sweep(sd_store_lane(f.store, lane), f.now,
                       f.store->shard_count / 4 * SD_SHARD_BUCKETS);
    assert_int_equal(sessions(&f) + blocks_used(&f), 0);
    fixture_close(&f);
}

/* A bound that is too early costs one walk, which makes it exact. */
static void a_walk_makes_a_bound_exact(void **state)
{
    fixture_t f;
    uint32_t n = 0, shard = 3;
    test_key_t a, b;

    (void)state;
    fixture_open(&f, 4 * MIB, 1, false);
    a = key_in_shard(&f, shard, &n);
    b = key_in_shard(&f, shard, &n);
    put_ok(&f, &a, 1, 10, f.now + 10);
    put_ok(&f, &b, 1, 10, f.now + 600);
    put_ok(&f, &a, 1, 10, f.now + 500);
    f.now += 10;
    assert_int_equal(sd_store_sweep(f.lane, f.now, UINT32_MAX), SD_SHARD_BUCKETS);
    assert_int_equal(bound_of(&f, shard), f.now - 10 + 500);
    assert_int_equal(sd_store_sweep(f.lane, f.now, UINT32_MAX), 0);
    assert_int_equal(sessions(&f), 2);
    fixture_close(&f);
}

/* ---- eviction ---- */

enum { MANY = 8192 };

typedef struct crowd {
    fixture_t f;
    uint64_t expiry[MANY]; /* by key number, 0 = not stored */
    uint32_t blocks[MANY];
    uint32_t count;        /* numbers given out */
    bool gone[MANY];
} crowd_t;

static void crowd_store(crowd_t *c, uint32_t n, uint32_t len, uint64_t expiry)
{
    test_key_t key = numbered_key(n, 12);

    put_ok(&c->f, &key, n, len, expiry);
    c->expiry[n] = expiry;
    c->blocks[n] = sd_item_blocks(12, len);
}

/* Compares the store with the expectation that eviction took those nearest
 * their expiry, and no more of them than `needed` blocks ask for. `fresh` was
 * stored just now. */
static void expect_evicted(crowd_t *c, uint32_t fresh, uint32_t needed)
{
    uint64_t nearest_kept = UINT64_MAX, last_gone = 0;
    uint32_t n, freed = 0, last_blocks = 0;

    for (n = 0; n < c->count; n++) {
        test_key_t key = numbered_key(n, 12);

        if (c->expiry[n] == 0 || n == fresh)
            continue;
        if (item_of(&c->f, &key) != 0) {
            if (c->expiry[n] < nearest_kept)
                nearest_kept = c->expiry[n];
            continue;
        }
        freed += c->blocks[n];
        if (c->expiry[n] > last_gone) {
            last_gone = c->expiry[n];
            last_blocks = c->blocks[n];
        }
        c->expiry[n] = 0;
    }
    assert_true(last_gone < nearest_kept);
    assert_true(freed >= needed);
    assert_true(freed - last_blocks < needed || needed == 0);
}

static void eviction_takes_the_nearest_and_no_more(void **state)
{
    static crowd_t c;
    dice_t dice = dice_new(1);
    uint32_t n, rounds = test_ops(1000, 60);

    (void)state;
    memset(&c, 0, sizeof c);
    fixture_open(&c.f, MIB, 1, true);
    /* distinct expiries, so that "the nearest" is one item */
    while (sd_blocks_free_count(c.f.store) > c.f.store->reserve + 20) {
        n = c.count++;
        crowd_store(&c, n, dice_below(&dice, 4000), 1000000000 + dice_below(&dice, 1000000) * 8192u + n);
    }
    assert_int_equal(counter_sum(&c.f, evicted), 0);
    while (rounds-- > 0 && c.count < MANY) {
        uint32_t len = dice_below(&dice, 8000);
        uint32_t room = sd_blocks_free_count(c.f.store) - c.f.store->reserve;
        uint32_t want = sd_item_blocks(12, len);

        n = c.count++;
        crowd_store(&c, n, len, 1000000000 + dice_below(&dice, 1000000) * 8192u + n);
        expect_evicted(&c, n, want > room ? want - room : 0);
    }
    assert_true(counter_sum(&c.f, evicted) > 50);
    fixture_close(&c.f);
}

/* All sessions were rewritten since their shards' bounds were set, as happens
 * all day: every bound is too early, and there are more shards than 64. */
static void stale_bounds_do_not_mislead_eviction(void **state)
{
    static crowd_t c;
    dice_t dice = dice_new(2);
    uint32_t n, round, len = 60000;
    uint64_t base;

    (void)state;
    memset(&c, 0, sizeof c);
    fixture_open(&c.f, 128 * MIB, 1, true);
    assert_true(c.f.store->shard_count > 64);
    base = c.f.now + 1000000;
    while (sd_blocks_free_count(c.f.store) > c.f.store->reserve + sd_item_blocks(12, len)) {
        n = c.count++;
        crowd_store(&c, n, len, base + n);
    }
    for (round = 0; round < 3; round++) {
        uint32_t room, want;

        for (n = 0; n < c.count; n++)
            if (c.expiry[n] != 0)
                crowd_store(&c, n, len,
                            base + (round + 1) * UINT64_C(100000000)
                                + dice_below(&dice, 10000) * UINT64_C(8192) + n);
        assert_int_equal(counter_sum(&c.f, evicted), round);
        room = sd_blocks_free_count(c.f.store) - c.f.store->reserve;
        want = sd_item_blocks(12, len);
        n = c.count++;
        crowd_store(&c, n, len, base + UINT64_C(10000000000));
        expect_evicted(&c, n, want > room ? want - room : 0);
        assert_int_equal(counter_sum(&c.f, evicted), round + 1);
    }
    fixture_close(&c.f);
}

/* What has expired goes first, and then nobody is evicted. */
static void expired_memory_is_preferred_to_eviction(void **state)
{
    fixture_t f;
    uint32_t n, count;

    (void)state;
    fixture_open(&f, MIB, 1, true);
    for (count = 0; sd_blocks_free_count(f.store) > f.store->reserve; count++) {
        test_key_t key = numbered_key(count, 12);

        put_ok(&f, &key, count, 16, f.now + (count % 2 ? 500 : 5000));
    }
    f.now += 500;
    for (n = 0; n < count / 2; n++) {
        test_key_t key = numbered_key(10000 + n, 12);

        put_ok(&f, &key, n, 16, f.now + 9000);
    }
    assert_int_equal(counter_sum(&f, evicted), 0);
    assert_int_equal(counter_sum(&f, expired), count / 2);
    fixture_close(&f);
}

/* Rewriting a live session at its size needs no memory in the end; the last 1%
 * is there for it, so nobody is evicted, not by its first block either. */
static void rewriting_a_live_session_evicts_nobody(void **state)
{
    static const uint32_t lengths[] = { 0, 16, 200, 400, 2000 };
    fixture_t f;
    uint32_t n, count, round;
    size_t l;

    (void)state;
    for (l = 0; l < sizeof lengths / sizeof lengths[0]; l++) {
        fixture_open(&f, MIB, 1, true);
        for (count = 0; sd_blocks_free_count(f.store)
                        >= f.store->reserve + sd_item_blocks(12, lengths[l]);
             count++) {
            test_key_t key = numbered_key(count, 12);

            put_ok(&f, &key, count, lengths[l], f.now + 5000 + count);
        }
        for (round = 0; round < 2; round++)
            for (n = 0; n < count; n++) {
                test_key_t key = numbered_key(n, 12);

                put_ok(&f, &key, n, lengths[l], f.now + 5000 + n);
            }
        assert_int_equal(counter_sum(&f, evicted), 0);
        assert_int_equal(sessions(&f), count);
        fixture_close(&f);
    }
}

/* A value that can never fit ends in SD_FULL, not in a loop. */
static void a_value_larger_than_memory_is_refused(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 12);
    uint32_t n;

    (void)state;
    fixture_open(&f, MIB, 1, true);
    for (n = 0; n < 100; n++) {
        test_key_t other = numbered_key(100 + n, 12);

        put_ok(&f, &other, n, 3000, f.now + 1000);
    }
    assert_int_equal(put_try(&f, &key, 1, MIB, f.now + 1000), SD_FULL);
    assert_false(is_there(&f, &key));
    assert_int_equal(atomic_load(&f.store->incoming), 0);
    put_ok(&f, &key, 1, MIB / 2, f.now + 1000);
    assert_value(&f, &key, 1, MIB / 2);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bound_is_never_too_late),
        cmocka_unit_test(a_sweep_is_bounded_and_finds_everything),
        cmocka_unit_test(lanes_share_the_sweep),
        cmocka_unit_test(a_walk_makes_a_bound_exact),
        cmocka_unit_test(eviction_takes_the_nearest_and_no_more),
        cmocka_unit_test(stale_bounds_do_not_mislead_eviction),
        cmocka_unit_test(expired_memory_is_preferred_to_eviction),
        cmocka_unit_test(rewriting_a_live_session_evicts_nobody),
        cmocka_unit_test(a_value_larger_than_memory_is_refused),
    };

    return cmocka_run_group_tests_name("expiry", tests, NULL, NULL);
}
