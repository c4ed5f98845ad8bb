/* SPDX-License-Identifier: Apache-2.0
 *
 * test_repair.c: the next process, step by step: it serves at once, loses no
 * acknowledged value while the repair runs beside it, gets every block back,
 * and drops what is damaged without touching the rest. How processes die is
 * test_death.c's matter; here they die between two calls.
 */
#include <stdlib.h>
#include <unistd.h>

#include "store_model.h"

enum { LIVE = 1000000 };

/* A store that was in the middle of everything. */
static void busy_store(fixture_t *f, uint32_t keys)
{
    static const char text[4000];
    sd_chain_t chain;
    sd_ref_t ref;
    uint32_t n;

    for (n = 0; n < keys; n++) {
        test_key_t key = numbered_key(n, 0);

        put_ok(f, &key, n, n % 50 * 60, f->now + LIVE);
    }
    for (n = 0; n < 20; n++) { /* values on their way in */
        test_key_t key = numbered_key(keys + n, 0);

        assert_int_equal(sd_chain_open(f->lane, &chain, key.bytes, key.len, f->now), SD_OK);
        assert_int_equal(sd_chain_append(f->lane, &chain, text, n * 200, f->now), SD_OK);
    }
    for (n = 0; n < keys; n += 10) { /* values on their way out */
        test_key_t key = numbered_key(n, 0);

        assert_int_equal(sd_store_get(f->lane, key.bytes, key.len, f->now, &ref), SD_OK);
        if (n % 20 == 0)
            assert_int_equal(delete_key(f, &key), SD_OK);
        else
            put_ok(f, &key, n, n % 50 * 60, f->now + LIVE);
    }
}

static uint64_t blocks_of_all(uint32_t keys)
{
    uint64_t sum = 0;
    uint32_t n;

    for (n = 0; n < keys; n++)
        if (n % 20 != 0)
            sum += sd_item_blocks(numbered_key(n, 0).len, n % 50 * 60);
    return sum;
}

static void expect_all(fixture_t *f, uint32_t keys)
{
    uint32_t n;

    for (n = 0; n < keys; n++) {
        test_key_t key = numbered_key(n, 0);

        if (n % 20 != 0)
            assert_value(f, &key, n, n % 50 * 60);
        else
            assert_false(is_there(f, &key));
    }
}

static void every_block_comes_back(void **state)
{
    enum { KEYS = 300 };
    fixture_t f;
    uint64_t lost, used;

    (void)state;
    fixture_open(&f, MIB, 3, false);
    busy_store(&f, KEYS);
    lost = atomic_load(&f.store->incoming) + atomic_load(&f.store->detached);
    used = blocks_used(&f);
    assert_true(lost > 100);
    fixture_die(&f);
    fixture_attach(&f, 2, false);
    expect_all(&f, KEYS); /* before any repair */
    assert_int_equal(sessions(&f), KEYS - KEYS / 20);
    assert_true(fixture_repair(&f) >= 4);
    assert_false(sd_store_repair(f.lane, f.now));
    assert_int_equal(blocks_used(&f), used - lost);
    assert_int_equal(blocks_used(&f), blocks_of_all(KEYS));
    assert_int_equal(counter_sum(&f, repaired_blocks), lost);
    assert_int_equal(counter_sum(&f, repaired_items), 0);
    expect_all(&f, KEYS);
    fixture_close(&f);
}

static void a_new_process_serves_before_it_repairs(void **state)
{
    fixture_t f;
    uint32_t count, n, fitted;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    count = fill_up(&f, 0, f.now + LIVE);
    for (n = 0; n < count; n += 2) {
        test_key_t key = numbered_key(n, 8);

        assert_int_equal(delete_key(&f, &key), SD_OK);
    }
    fixture_die(&f);
    fixture_attach(&f, 1, false);
    /* not one step of the repair: stores look for free blocks themselves */
    fitted = fill_up(&f, 10000, f.now + LIVE);
    assert_int_equal(fitted, (count + 1) / 2);
    for (n = 0; n < count; n++) {
        test_key_t key = numbered_key(n, 8);

        if (n % 2)
            assert_value(&f, &key, n, 16);
        else
            assert_int_equal(delete_key(&f, &key), SD_MISS);
    }
    fixture_repair(&f);
    assert_int_equal(blocks_used(&f), count / 2 + fitted);
    fixture_close(&f);
}

/* A value written by the new process into blocks that an old value had, while
 * the repair stands between the two: it must not be taken for a second owner. */
static void new_values_in_old_blocks_survive(void **state)
{
    uint32_t when;

    (void)state;
    for (when = 0; when < 14; when++) {
        fixture_t f;
        uint32_t n = 0, i, last, steps;
        test_key_t early[40], late[40];

        fixture_open(&f, 64 * MIB, 1, false);
        last = f.store->shard_count - 1;
        assert_true(last > 100);
        for (i = 0; i < 40; i++) {
            early[i] = key_in_shard(&f, 0, &n);
            late[i] = key_in_shard(&f, last, &n);
            put_ok(&f, &early[i], i, 700, f.now + LIVE);
        }
        fixture_die(&f);
        fixture_attach(&f, 1, false);
        for (steps = 0; steps < when && sd_store_repair(f.lane, f.now); steps++)
            ;
        for (i = 0; i < 40; i++)
            assert_int_equal(delete_key(&f, &early[i]), SD_OK);
        for (i = 0; i < 40; i++)
            put_ok(&f, &late[i], 100 + i, 700, f.now + LIVE);
        fixture_repair(&f);
        assert_int_equal(counter_sum(&f, repaired_items), 0);
        for (i = 0; i < 40; i++)
            assert_value(&f, &late[i], 100 + i, 700);
        fixture_close(&f);
    }
}

/* Old values that are being read while the repair runs through, and which are
 * detached at every stage of it. */
static void readers_of_old_values_are_not_disturbed(void **state)
{
    uint32_t take, drop;

    (void)state;
    for (take = 0; take < 12; take++)
        for (drop = take; drop < 13; drop++) {
            fixture_t f;
            test_key_t key = numbered_key(1, 0), fill;
            sd_ref_t ref;
            uint32_t steps = 0, n;
            bool more = true;

            fixture_open(&f, 64 * MIB, 1, false);
            put_ok(&f, &key, 5, 9000, f.now + LIVE);
            fixture_die(&f);
            fixture_attach(&f, 1, false);
            for (; steps < take; steps++)
                more = sd_store_repair(f.lane, f.now);
            assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_OK);
            for (; steps < drop; steps++)
                more = sd_store_repair(f.lane, f.now);
            assert_int_equal(delete_key(&f, &key), SD_OK);
            while (more)
                more = sd_store_repair(f.lane, f.now);
            for (n = 0; n < 20; n++) {
                fill = numbered_key(100 + n, 0);
                put_ok(&f, &fill, n, 9000, f.now + LIVE);
            }
            assert_true(ref_shows(f.lane, &ref, 5, 9000));
            assert_clean(f.store);
            sd_ref_release(f.lane, &ref);
            assert_int_equal(counter_sum(&f, repaired_blocks), 0);
            fixture_close(&f);
        }
}

/* Random traffic between single steps, in a segment that takes many of them. */
static void traffic_between_the_steps(void **state)
{
    fixture_t f;
    model_t m;
    uint32_t round, rounds = test_ops(60, 3), n;

    (void)state;
    fixture_open(&f, 64 * MIB, 3, false);
    /* many blocks were once taken, so FREE has a way to go */
    n = fill_up(&f, 100000, f.now + LIVE);
    for (f.now += LIVE; n > 0 && sessions(&f) > 0;)
        sd_store_sweep(f.lane, f.now, UINT32_MAX);
    model_open(&m, &f, 11, 5000, 40000, 400000000);
    m.created = counter_sum(&f, expired); /* those that filled it */
    for (n = 0; n < 20000; n++)
        model_operate(&m);
    for (round = 0; round < rounds; round++) {
        model_die(&m, 1 + round % 5);
        assert_true(m.repairing);
        for (n = 0; m.repairing && n < 4000; n++)
            model_operate(&m);
        assert_true(n > 40 && !m.repairing);
        model_verify(&m);
    }
    model_settle(&m);
    model_close(&m);
    fixture_close(&f);
}

/* Again dead at every step of the repair, and at every step of that one. */
static void deaths_during_the_repair(void **state)
{
    enum { KEYS = 200 };
    uint32_t first, second, n;

    (void)state;
    for (first = 0; first < 8; first++)
        for (second = 0; second < 8; second++) {
            fixture_t f;

            fixture_open(&f, MIB, 2, false);
            busy_store(&f, KEYS);
            fixture_die(&f);
            fixture_attach(&f, 1, false);
            for (n = 0; n < first; n++)
                sd_store_repair(f.lane, f.now);
            busy_store(&f, KEYS);
            fixture_die(&f);
            fixture_attach(&f, 2, false);
            for (n = 0; n < second; n++)
                sd_store_repair(f.lane, f.now);
            expect_all(&f, KEYS);
            fixture_die(&f);
            fixture_attach(&f, 2, false);
            fixture_repair(&f);
            expect_all(&f, KEYS);
            assert_int_equal(blocks_used(&f), blocks_of_all(KEYS));
            assert_int_equal(counter_sum(&f, repaired_items), 0);
            fixture_close(&f);
        }
}

/* There are fifteen tags: many processes that die before their repair, each of
 * them leaving values half-written, must not confuse the last one. */
static void many_deaths_without_a_repair(void **state)
{
    uint32_t deaths, steps, n;

    (void)state;
    for (deaths = 1; deaths <= 48; deaths++)
        for (steps = 0; steps < 4; steps += 3) {
            fixture_t f;
            uint64_t used = 0;

            fixture_open(&f, 4 * MIB, 1, false);
            for (n = 0; n < deaths; n++) {
                test_key_t key = numbered_key(n, 0), gone = numbered_key(1000 + n, 0),
                           before = numbered_key(1000 + n / 3, 0);
                sd_chain_t chain;
                sd_ref_t ref;
                uint32_t i;

                put_ok(&f, &key, n, 600, f.now + LIVE);
                used += sd_item_blocks(key.len, 600);
                put_ok(&f, &gone, n, 600, f.now + LIVE);
                /* one of an earlier process, detached under a reader */
                if (sd_store_get(f.lane, before.bytes, before.len, f.now, &ref) == SD_OK)
                    assert_int_equal(delete_key(&f, &before), SD_OK);
                assert_int_equal(sd_chain_open(f.lane, &chain, "on its way", 10, f.now), SD_OK);
                assert_int_equal(sd_chain_reserve(f.lane, &chain, 2000, f.now), SD_OK);
                for (i = 0; i < n % (steps + 1); i++)
                    sd_store_repair(f.lane, f.now);
                fixture_die(&f);
                fixture_attach(&f, 1, false);
            }
            fixture_repair(&f);
            for (n = 0; n < deaths; n++) {
                test_key_t key = numbered_key(n, 0), gone = numbered_key(1000 + n, 0);

                assert_value(&f, &key, n, 600);
                delete_key(&f, &gone);
            }
            assert_int_equal(blocks_used(&f), used);
            assert_int_equal(counter_sum(&f, repaired_items), 0);
            fixture_close(&f);
        }
}

/* Fifteen deaths in a row, then the repair is made in attach; a death within
 * that one is simulated by taking its end back. */
static void the_last_tag_is_not_used_up(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0);
    uint32_t n;
    sd_header_t *h;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    h = f.store->header;
    put_ok(&f, &key, 1, 5000, f.now + LIVE);
    for (n = 0; n < SD_EPOCH_MAX - 2; n++) {
        fixture_die(&f);
        fixture_attach(&f, 1, false);
        assert_int_equal(f.store->repair.phase, SD_REPAIR_FREE);
        assert_int_not_equal(h->epoch, h->repaired_epoch);
    }
    for (n = 0; n < 5; n++) {
        uint32_t repaired = h->repaired_epoch, item = item_of(&f, &key);

        fixture_die(&f);
        fixture_attach(&f, 1, false);
        assert_int_equal(f.store->repair.phase, SD_REPAIR_NONE); /* done already */
        assert_int_equal(h->epoch, h->repaired_epoch);
        assert_int_equal(h->epoch % SD_EPOCH_MAX + 1, repaired);
        assert_clean(f.store);
        assert_value(&f, &key, 1, 5000);
        /* as if it had died when only the first block was tagged */
        h->repaired_epoch = repaired;
        sd_link_set(f.store, sd_link_next(f.store, item),
                    sd_link_next(f.store, sd_link_next(f.store, item))
                        | repaired << SD_LINK_TAG_SHIFT);
    }
    fixture_die(&f);
    fixture_attach(&f, 1, false);
    assert_int_equal(counter_sum(&f, repaired_items), 0);
    assert_value(&f, &key, 1, 5000);
    fixture_close(&f);
}

/* Died after a value was published and before it was counted: the count is too
 * low, and a delete takes it below zero. */
static void a_count_that_was_too_low_comes_right(void **state)
{
    uint32_t steps;

    (void)state;
    for (steps = 0; steps < 12; steps++) {
        fixture_t f;
        test_key_t a = numbered_key(1, 0), b;
        uint32_t shard, n = 2, i;
        sd_shard_t *counted;

        fixture_open(&f, 4 * MIB, 2, false);
        put_ok(&f, &a, 1, 100, f.now + LIVE);
        shard = sd_shard_of(f.store, bucket_of_key(&f, &a));
        b = key_in_shard(&f, shard, &n);
        counted = &f.store->shards[shard];
        fixture_die(&f);
        counted->items = 0;
        counted->min_expiry = 0;
        fixture_attach(&f, 2, false);
        for (i = 0; i < steps / 2; i++)
            sd_store_repair(f.lane, f.now);
        assert_int_equal(delete_key(&f, &a), SD_OK);
        if (steps % 2)
            put_ok(&f, &b, 2, 100, f.now + LIVE);
        fixture_repair(&f);
        put_ok(&f, &b, 2, 100, f.now + LIVE);
        assert_int_equal(sessions(&f), 1);
        fixture_close(&f);
    }
}

/* ... and the process that took it there dies, too. */
static void a_count_below_zero_comes_right(void **state)
{
    test_key_t a = numbered_key(1, 0), b = numbered_key(2, 0);
    sd_usage_t usage;
    uint32_t shard;
    fixture_t f;

    (void)state;
    fixture_open(&f, 4 * MIB, 1, false);
    put_ok(&f, &a, 1, 100, f.now + LIVE);
    put_ok(&f, &b, 2, 100, f.now + LIVE);
    shard = sd_shard_of(f.store, bucket_of_key(&f, &a));
    assert_int_not_equal(shard, sd_shard_of(f.store, bucket_of_key(&f, &b)));
    f.store->shards[shard].items = 0;
    fixture_die(&f);
    fixture_attach(&f, 1, false);
    assert_int_equal(delete_key(&f, &a), SD_OK);
    fixture_die(&f);
    fixture_attach(&f, 1, false);
    sd_store_usage(f.store, &usage);
    assert_true(usage.items <= 1);
    fixture_repair(&f);
    assert_int_equal(sessions(&f), 1);
    fixture_close(&f);
}

/* An orderly end in the middle: the next process begins the repair again. */
static void detaching_during_a_repair(void **state)
{
    uint32_t steps, n;

    (void)state;
    for (steps = 0; steps < 7; steps++) {
        fixture_t f;

        fixture_open(&f, MIB, 2, false);
        busy_store(&f, 200);
        fixture_die(&f);
        fixture_attach(&f, 3, false);
        for (n = 0; n < steps; n++)
            sd_store_repair(f.lane, f.now);
        for (n = 300; n < 350; n++) {
            test_key_t key = numbered_key(n, 0);

            put_ok(&f, &key, n, 800, f.now + LIVE);
            delete_key(&f, &key);
        }
        fixture_detach(&f);
        fixture_attach(&f, 2, false);
        fixture_repair(&f);
        expect_all(&f, 200);
        assert_int_equal(blocks_used(&f), blocks_of_all(200));
        fixture_close(&f);
    }
}

/* A full store full of orphans: their memory serves new values once it is found. */
static void orphans_of_a_full_store(void **state)
{
    fixture_t f;
    sd_chain_t chain;
    uint32_t n, orphans = 0;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    for (n = 0; n < 40; n++)
        if (sd_chain_open(f.lane, &chain, "k", 1, f.now) == SD_OK
            && sd_chain_reserve(f.lane, &chain, 6000, f.now) == SD_OK)
            orphans += chain.blocks;
    n = fill_up(&f, 0, f.now + LIVE);
    fixture_die(&f);
    fixture_attach(&f, 1, false);
    assert_int_equal(fill_up(&f, 10000, f.now + LIVE), 0);
    fixture_repair(&f);
    assert_int_equal(counter_sum(&f, repaired_blocks), orphans);
    assert_int_equal(fill_up(&f, 20000, f.now + LIVE), orphans);
    assert_int_equal(sessions(&f), n + orphans);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_comes_back),
        cmocka_unit_test(a_new_process_serves_before_it_repairs),
        cmocka_unit_test(new_values_in_old_blocks_survive),
        cmocka_unit_test(readers_of_old_values_are_not_disturbed),
        cmocka_unit_test(traffic_between_the_steps),
        cmocka_unit_test(deaths_during_the_repair),
        cmocka_unit_test(many_deaths_without_a_repair),
        cmocka_unit_test(the_last_tag_is_not_used_up),
        cmocka_unit_test(a_count_that_was_too_low_comes_right),
        cmocka_unit_test(a_count_below_zero_comes_right),
        cmocka_unit_test(detaching_during_a_repair),
        cmocka_unit_test(orphans_of_a_full_store),
    };

    alarm(600); /* damage must not make a repair go round for ever */
    return cmocka_run_group_tests_name("repair", tests, NULL, NULL);
}
