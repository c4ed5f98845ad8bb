/* SPDX-License-Identifier: Apache-2.0
 *
 * test_changes.c: what the store says has changed, written to a disk that takes
 * nothing amiss (disk_model.h): each rule by itself, then whole lives in
 * test_write_behind.c.
 */
#include <time.h>
#include <unistd.h>

#include "disk_model.h"

static fixture_t f;
static disk_t disk;

static void begin_with(uint64_t size, uint32_t lanes, bool evict)
{
    fixture_map(&f, size, 8);
    fixture_format(&f);
    f.writes_behind = true;
    fixture_attach(&f, lanes, evict);
    disk_setup(&disk, "the disk");
    disk_meet(&disk, f.store);
}

static void next_process(void)
{
    fixture_attach(&f, f.lanes, f.evict);
    disk_meet(&disk, f.store);
}

#define assert_round() assert_null_text(disk_round(&disk, f.lane, f.now))
#define assert_same() assert_null_text(disk_compare(&disk, f.lane, f.now))
#define assert_null_text(wrong)          \
    do {                                 \
        const char *said = (wrong);      \
        if (said)                        \
            fail_msg("%s", said);        \
    } while (0)

static void end(void)
{
    assert_round();
    assert_same();
    assert_round(); /* tombstones of the first are settled */
    assert_same();
    assert_int_equal(tombstones(&f), 0);
    fixture_close(&f);
}

static bool is_astray(void)
{
    sd_disk_t known;

    sd_store_disk(f.store, &known);
    return known.astray;
}

static test_key_t key_number(uint32_t n)
{
    return numbered_key(n, 26);
}

static void put(uint32_t n, uint32_t len, uint64_t live)
{
    test_key_t key = key_number(n);

    put_ok(&f, &key, n + len, len, f.now + live);
}

static void touch(uint32_t n, uint64_t live)
{
    test_key_t key = key_number(n);

    assert_int_equal(sd_store_touch(f.lane, key.bytes, key.len, f.now + live, f.now), SD_OK);
}

static void delete(uint32_t n)
{
    test_key_t key = key_number(n);

    assert_int_equal(delete_key(&f, &key), SD_OK);
}

/* How many changes a round would give, of each kind. It is undone. */
typedef struct tally {
    uint32_t values, expiries, removed;
} tally_t;

static tally_t count_changes(bool everything)
{
    tally_t t = { 0, 0, 0 };
    sd_change_t change;

    sd_changes_begin(f.lane, everything);
    while (sd_changes_next(f.lane, f.now, &change)) {
        t.values += change.kind == SD_CHANGE_VALUE;
        t.expiries += change.kind == SD_CHANGE_EXPIRY;
        t.removed += change.kind == SD_CHANGE_REMOVED;
        sd_ref_release(f.lane, &change.value);
    }
    sd_changes_undo(f.lane);
    return t;
}

static void assert_tally(bool everything, uint32_t values, uint32_t expiries, uint32_t removed)
{
    tally_t t = count_changes(everything);

    assert_int_equal(t.values, values);
    assert_int_equal(t.expiries, expiries);
    assert_int_equal(t.removed, removed);
}

/* ---- what is told ---- */

static void each_kind_is_told_once(void **state)
{
    (void)state;
    begin_with(MIB, 1, false);
    put(1, 100, 5000);
    put(2, 3000, 5000);
    assert_true(is_astray());
    assert_round();
    assert_false(is_astray());
    assert_same();
    assert_false(sd_changes_are_there(f.store));
    assert_tally(false, 0, 0, 0);

    put(1, 200, 5000);
    touch(2, 9000);
    put(3, 10, 5000);
    touch(3, 6000); /* its value is not on disk yet */
    assert_true(sd_changes_are_there(f.store));
    assert_tally(false, 2, 1, 0);
    assert_true(sd_changes_are_there(f.store)); /* undone */
    assert_round();
    assert_same();

    delete(1);
    assert_int_equal(tombstones(&f), 1);
    assert_false(is_there(&f, &(test_key_t){ .len = 1, .bytes = "x" }));
    assert_tally(false, 0, 0, 1);
    assert_round();
    assert_same();
    assert_int_equal(tombstones(&f), 0);

    delete(2);
    put(2, 50, 5000); /* in the tombstone's place */
    assert_int_equal(tombstones(&f), 0);
    assert_tally(false, 1, 0, 0);
    end();
}

static void an_expired_value_goes_without_a_trace_if_the_disk_knows(void **state)
{
    (void)state;
    begin_with(MIB, 1, false);
    put(1, 100, 1000);
    put(2, 100, 1000);
    put(3, 100, 1000);
    assert_round();
    touch(2, 500); /* the disk would show it for longer */
    put(3, 200, 500);
    f.now += 1000;
    sd_store_sweep(f.lane, f.now, UINT32_MAX);
    assert_int_equal(sessions(&f), 0);
    assert_int_equal(tombstones(&f), 2);
    assert_clean(f.store);
    f.now -= 300; /* a disk that is read at this moment of its clock */
    assert_tally(false, 0, 0, 2);
    assert_round();
    assert_null(disk_find(&disk, &(test_key_t){ .len = 1, .bytes = "x" }));
    f.now += 300;
    end();
}

static void a_key_of_any_length_leaves_a_tombstone(void **state)
{
    static const uint32_t lengths[] = { 8, 100, 215, 216, 217, 254, 255 };
    uint32_t i;

    (void)state;
    begin_with(MIB, 1, false);
    for (i = 0; i < 7; i++) {
        test_key_t key = numbered_key(100 + i, lengths[i]);
        uint64_t used = blocks_used(&f);

        put_ok(&f, &key, i, 700, f.now + 5000);
        assert_round();
        assert_int_equal(delete_key(&f, &key), SD_OK);
        assert_int_not_equal(tombstone_of(&f, &key), 0);
        assert_int_equal(blocks_used(&f), used + sd_item_blocks(lengths[i], 0));
        assert_false(is_there(&f, &key));
        assert_int_equal(delete_key(&f, &key), SD_MISS);
        assert_clean(f.store);
        assert_round();
        assert_int_equal(disk_find(&disk, &key)->kind, SD_CHANGE_REMOVED);
        assert_int_equal(blocks_used(&f), used);
    }
    end();
}

/* What is swept at the end of all time is every value, and no tombstone, which has
 * no other expiry. */
static void a_sweep_of_everything_comes_to_an_end(void **state)
{
    uint32_t n;

    (void)state;
    begin_with(MIB, 1, false);
    for (n = 0; n < 20; n++)
        put(n, 100, 5000);
    assert_round();
    for (n = 0; n < 10; n++)
        delete(n);
    f.store->shards[0].min_expiry = f.store->shards[f.store->shard_count - 1].min_expiry = 0;
    sd_store_sweep(f.lane, UINT64_MAX, UINT32_MAX);
    assert_int_equal(sessions(&f), 0);
    assert_int_equal(tombstones(&f), 10);
    assert_clean(f.store);
    f.now += 5000; /* what expired there and was settled has left no trace */
    end();
}

static void the_fence_takes_a_tombstone_for_nothing(void **state)
{
    test_key_t key = key_number(1);
    uint64_t version;

    (void)state;
    begin_with(MIB, 1, false);
    version = put_ok(&f, &key, 1, 100, f.now + 5000);
    delete(1);
    assert_int_equal(sd_store_delete(f.lane, key.bytes, key.len, version, f.now), SD_MISS);
    assert_int_equal(sd_store_touch(f.lane, key.bytes, key.len, f.now + 9, f.now), SD_MISS);
    assert_int_equal(value_store(f.lane, &key, 2, 100, f.now + 5000, version, f.now, NULL), SD_CONFLICT);
    assert_int_equal(value_store(f.lane, &key, 2, 100, f.now + 5000, SD_VERSION_ABSENT, f.now, NULL), SD_OK);
    assert_int_equal(sessions(&f), 1);
    end();
}

/* ---- rounds ---- */

/* Undone at any moment, with values given and not taken. */
static void a_round_undone_is_told_again(void **state)
{
    sd_change_t change;
    uint32_t n, i;

    (void)state;
    begin_with(MIB, 1, false);
    assert_round();
    for (n = 0; n <= 40; n += 8) {
        for (i = 0; i < 40; i++)
            put(i, 100 + n + i, 500000);
        delete(n % 40);
        sd_changes_begin(f.lane, n == 16);
        for (i = 0; i < n && sd_changes_next(f.lane, f.now, &change); i++)
            sd_ref_release(f.lane, &change.value);
        put(n % 40 + 1, 50, 500000);
        sd_changes_undo(f.lane);
        assert_true(sd_changes_are_there(f.store));
        assert_tally(false, 39, 0, 1);
        assert_clean(f.store);
    }
    end();
    begin_with(MIB, 1, false); /* pins that are not released would keep blocks */
    put(1, 5000, 5000);
    sd_changes_begin(f.lane, false);
    assert_true(sd_changes_next(f.lane, f.now, &change));
    delete(1);
    sd_ref_release(f.lane, &change.value);
    sd_changes_undo(f.lane);
    assert_int_equal(sd_store_detached(f.store), 0);
    end();
}

static void what_changes_within_a_round_is_told_in_the_next(void **state)
{
    sd_change_t change;
    uint32_t i;

    (void)state;
    begin_with(MIB, 1, false);
    for (i = 0; i < 6; i++)
        put(i, 100, 5000);
    assert_round();
    for (i = 0; i < 5; i++)
        put(i, 200, 5000);
    disk_begin(&disk, sd_changes_begin(f.lane, false), false);
    put(0, 300, 5000);
    touch(1, 9000);
    delete(2);
    while (sd_changes_next(f.lane, f.now, &change))
        assert_null_text(disk_write(&disk, f.lane, &change));
    put(3, 301, 5000);
    delete(4);
    touch(5, 9000);
    put(9, 1, 5000);
    assert_null_text(disk_commit(&disk));
    sd_changes_settle(f.lane);
    assert_clean(f.store);
    assert_int_equal(tombstones(&f), 2);
    assert_tally(false, 4, 1, 2); /* 0, 1, 3, 9; 5; 2, 4 */
    end();
}

/* The number of rounds goes round. */
static void rounds_wrap(void **state)
{
    uint32_t n, i;

    (void)state;
    begin_with(MIB, 1, false);
    for (i = 0; i < 8; i++)
        put(i, 100, 500000);
    assert_round();
    sd_store_pair(f.store, disk.id, UINT32_MAX - 5);
    disk.committed = UINT32_MAX - 5;
    for (n = 0; n < 12; n++) {
        put(n % 8, 100 + n, 500000);
        touch((n + 1) % 8, 600000 + n);
        delete((n + 2) % 8);
        if (n == 4 || n == 5 || n == 6)
            count_changes(false); /* also rounds that come to nothing */
        assert_true(count_changes(false).values > 0);
        if (n % 3 == 1) {
            fixture_die(&f);
            next_process();
        }
        assert_round();
        assert_same();
        assert_int_not_equal(f.store->header->round, 0);
        assert_int_not_equal(f.store->header->settled, 0);
        put((n + 2) % 8, 70, 500000);
    }
    assert_true(f.store->header->settled < 100);
    fixture_repair(&f);
    end();
}

/* A put has its round and has not published its value yet; the bucket is empty. */
typedef struct other {
    _Atomic bool done;
    const char *wrong;
} other_t;

static void *make_a_round(void *arg)
{
    other_t *o = arg;

    o->wrong = disk_round(&disk, sd_store_lane(f.store, 1), f.now);
    atomic_store(&o->done, true);
    return NULL;
}

static void a_value_about_to_be_published_is_waited_for(void **state)
{
    const struct timespec moment = { 0, 1000000 };
    test_key_t key = key_number(1);
    uint32_t bucket, shard, i;
    sd_chain_t chain;
    pthread_t thread;
    other_t o = { .done = false };
    int scan;

    (void)state;
    for (scan = 0; scan < 2; scan++) {
        atomic_store(&o.done, false);
        begin_with(MIB, 2, false);
        assert_round();
        if (scan) { /* the first round of a process looks at all buckets */
            fixture_detach(&f);
            next_process();
        }
        bucket = bucket_of_key(&f, &key);
        shard = sd_shard_of(f.store, bucket);
        assert_int_equal(sd_chain_open(f.lane, &chain, key.bytes, key.len, f.now), SD_OK);
        sd_shard_lock(f.store, shard); /* what sd_store_put does */
        sd_item(f.store, chain.head)->expiry = f.now + 5000;
        sd_item(f.store, chain.head)->version = atomic_fetch_add(&f.store->header->version, 1) + 1;
        sd_change_stored(f.lane, bucket, chain.head, 0);
        assert_int_equal(pthread_create(&thread, NULL, make_a_round, &o), 0);
        for (i = 0; i < 100 && !atomic_load(&o.done); i++)
            nanosleep(&moment, NULL);
        sd_index_insert(f.store, bucket, chain.head);
        sd_expiry_note(f.store, shard, f.now + 5000);
        sd_shard_unlock(f.store, shard);
        sd_count(f.lane->counters, sessions);
        atomic_fetch_sub(&f.store->incoming, chain.blocks);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_null_text(o.wrong);
        assert_same();
        end();
    }
}

/* Another thread's clock may be a little behind: it still finds the value alive,
 * and touches it. */
static void a_value_is_touched_after_it_was_found_expired(void **state)
{
    test_key_t key = key_number(1);
    uint32_t n;

    (void)state;
    for (n = 0; n < 4; n++) {
        begin_with(MIB, 1, false);
        put(1, 100, 1000);
        if (n % 2 == 1)
            assert_round();
        if (n == 1)
            touch(1, 900);
        if (n == 3)
            sd_store_pair_anew(f.store, disk.id); /* everything again */
        f.now += 1005;
        assert_round();
        f.now -= 1005 - 800;
        assert_int_equal(sd_store_touch(f.lane, key.bytes, key.len, f.now + 50000, f.now), SD_OK);
        assert_round();
        f.now += 2000;
        assert_true(is_there(&f, &key));
        assert_true(disk_is_live(disk_find(&disk, &key), f.now));
        end();
    }
}

/* So many readers that a value cannot be given: the round must not count. */
static void a_round_that_misses_something_is_not_settled(void **state)
{
    test_key_t key = key_number(1);
    sd_change_t change;
    uint32_t block;

    (void)state;
    begin_with(MIB, 1, false);
    assert_round();
    put(1, 100, 5000);
    put(2, 100, 5000);
    block = item_of(&f, &key);
    atomic_store(&f.store->pins[block], SD_PIN_MAX);
    sd_changes_begin(f.lane, false);
    assert_false(sd_changes_are_complete(f.store));
    while (sd_changes_next(f.lane, f.now, &change))
        sd_ref_release(f.lane, &change.value);
    assert_false(sd_changes_are_complete(f.store));
    assert_false(sd_changes_settle(f.lane));
    atomic_store(&f.store->pins[block], 0);
    assert_true(sd_changes_are_there(f.store));
    assert_tally(false, 2, 0, 0);
    sd_changes_begin(f.lane, false); /* nor does one that was not heard to its end */
    assert_true(sd_changes_next(f.lane, f.now, &change));
    sd_ref_release(f.lane, &change.value);
    assert_false(sd_changes_settle(f.lane));
    assert_tally(false, 2, 0, 0);
    end();
}

/* ---- memory ---- */

static void take_all(sd_chain_t *chain)
{
    assert_int_equal(sd_chain_open(f.lane, chain, "all", 3, f.now), SD_OK);
    while (sd_chain_reserve(f.lane, chain, chain->space + 1, f.now) == SD_OK)
        ;
    chain->privileged = true; /* the last 1% too */
    while (sd_chain_reserve(f.lane, chain, chain->space + 1, f.now) == SD_OK)
        ;
}

static void a_delete_never_fails(void **state)
{
    sd_chain_t all;
    uint32_t i;

    (void)state;
    begin_with(MIB, 1, false);
    for (i = 0; i < 20; i++)
        put(i, 10, 5000);
    assert_round();
    take_all(&all);
    for (i = 0; i < 10; i++)
        delete(i); /* no block is left for the first one */
    assert_true(is_astray());
    assert_true(sd_changes_are_there(f.store)); /* and no bucket is queued */
    sd_chain_discard(f.lane, &all);
    assert_clean(f.store);
    end();
}

/* An eviction that leaves a tombstone as large as the value gains nothing. */
static void eviction_of_small_values_takes_few(void **state)
{
    uint32_t n, rounds;

    (void)state;
    begin_with(2 * MIB, 1, true);
    for (n = 0; counter_sum(&f, evicted) == 0; n++)
        put(n, 10, 500000 + n);
    assert_true(counter_sum(&f, evicted) <= 32);
    for (rounds = 0; rounds < 3; rounds++) {
        uint64_t before = counter_sum(&f, evicted);
        uint32_t i;

        assert_round();
        assert_same();
        for (i = 0; i < 200; i++, n++)
            put(n, 10, 500000 + n);
        assert_true(counter_sum(&f, evicted) - before <= 200 + 32);
        assert_clean(f.store);
    }
    end();
}

static void tombstones_take_a_sixteenth_at_most(void **state)
{
    uint32_t n, fitted;

    (void)state;
    begin_with(MIB, 1, false);
    fitted = fill_up(&f, 0, f.now + 500000);
    assert_round();
    for (n = 0; n < fitted; n++) {
        test_key_t key = numbered_key(n, 8);

        assert_int_equal(delete_key(&f, &key), SD_OK);
    }
    assert_true(is_astray());
    assert_in_range(tombstones(&f), 10, f.store->block_count / 16 + 1);
    assert_clean(f.store);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_kind_is_told_once),
        cmocka_unit_test(an_expired_value_goes_without_a_trace_if_the_disk_knows),
        cmocka_unit_test(a_key_of_any_length_leaves_a_tombstone),
        cmocka_unit_test(a_sweep_of_everything_comes_to_an_end),
        cmocka_unit_test(the_fence_takes_a_tombstone_for_nothing),
        cmocka_unit_test(a_round_undone_is_told_again),
        cmocka_unit_test(what_changes_within_a_round_is_told_in_the_next),
        cmocka_unit_test(rounds_wrap),
        cmocka_unit_test(a_value_about_to_be_published_is_waited_for),
        cmocka_unit_test(a_value_is_touched_after_it_was_found_expired),
        cmocka_unit_test(a_round_that_misses_something_is_not_settled),
        cmocka_unit_test(a_delete_never_fails),
        cmocka_unit_test(eviction_of_small_values_takes_few),
        cmocka_unit_test(tombstones_take_a_sixteenth_at_most),
    };

    alarm(600);
    return cmocka_run_group_tests_name("changes", tests, NULL, NULL);
}
