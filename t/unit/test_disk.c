/* SPDX-License-Identifier: Apache-2.0
 *
 * test_disk.c: the segment and its disk from one process to the next: who belongs
 * to whom, what is astray, what is loaded, and tombstones that meet repairs,
 * hand-overs and processes that keep track of nothing.
 */
#include <unistd.h>

#include "disk_model.h"

static fixture_t f;
static disk_t disk;

#define assert_null_text(wrong)          \
    do {                                 \
        const char *said = (wrong);      \
        if (said)                        \
            fail_msg("%s", said);        \
    } while (0)
#define assert_round() assert_null_text(disk_round(&disk, f.lane, f.now))
#define assert_same() assert_null_text(disk_compare(&disk, f.lane, f.now))

static void begin_with(uint64_t size)
{
    fixture_map(&f, size, 8);
    fixture_format(&f);
    f.writes_behind = true;
    fixture_attach(&f, 1, false);
    disk_setup(&disk, "the disk");
    disk_meet(&disk, f.store);
    assert_round();
}

static void next_process(bool dies)
{
    if (dies)
        fixture_die(&f);
    else
        fixture_detach(&f);
    fixture_attach(&f, 1, f.evict);
    disk_meet(&disk, f.store);
}

static void end(void)
{
    fixture_repair(&f);
    assert_round();
    assert_same();
    assert_round();
    assert_same();
    assert_int_equal(tombstones(&f), 0);
    fixture_close(&f);
}

static sd_disk_t known(void)
{
    sd_disk_t d;

    sd_store_disk(f.store, &d);
    return d;
}

static test_key_t key_number(uint32_t n)
{
    return numbered_key(n, 26);
}

static void put(uint32_t from, uint32_t to, uint32_t len)
{
    for (; from < to; from++) {
        test_key_t key = key_number(from);

        put_ok(&f, &key, from + len, len, f.now + 500000);
    }
}

static void delete(uint32_t from, uint32_t to)
{
    for (; from < to; from++) {
        test_key_t key = key_number(from);

        assert_int_equal(delete_key(&f, &key), SD_OK);
    }
}

static sd_status_t restore_key(test_key_t key, uint64_t seed, uint32_t len, uint64_t version)
{
    unsigned char bytes[4096];
    sd_chain_t chain;
    sd_status_t status;

    value_fill(bytes, len, seed);
    assert_int_equal(sd_chain_open_restored(f.lane, &chain, key.bytes, key.len, f.now), SD_OK);
    assert_int_equal(sd_chain_append(f.lane, &chain, bytes, len, f.now), SD_OK);
    status = sd_store_restore(f.lane, &chain, f.now + 500000, version, f.now);
    if (status != SD_OK)
        sd_chain_discard(f.lane, &chain);
    return status;
}

static sd_status_t restore(uint32_t n, uint32_t len, uint64_t version)
{
    return restore_key(key_number(n), n + len, len, version);
}

/* ---- who belongs to whom ---- */

static void a_new_segment_has_no_disk(void **state)
{
    sd_disk_t d;

    (void)state;
    fixture_map(&f, MIB, 8);
    fixture_format(&f);
    f.writes_behind = true;
    fixture_attach(&f, 1, false);
    d = known();
    assert_int_equal(d.id[0] + d.settled, 0);
    assert_false(d.served || d.astray);
    assert_int_not_equal(d.round, 0);
    disk_setup(&disk, "an old disk");
    sd_store_pair(f.store, disk.id, 1000);
    d = known();
    assert_memory_equal(d.id, disk.id, sizeof d.id);
    assert_int_equal(d.settled, 1000);
    assert_int_equal(d.round, 1001);
    assert_false(d.astray);
    sd_store_serve(f.store);
    fixture_detach(&f);
    fixture_attach(&f, 1, false);
    assert_true(known().served);
    disk.committed = 1000;
    end();
}

/* One that has less than it had, a copy from yesterday say: what of the difference
 * was removed or is marked as written, nobody knows. */
static void a_disk_that_has_less_is_written_anew(void **state)
{
    static disk_t yesterday;
    test_key_t key = key_number(1);

    (void)state;
    begin_with(MIB);
    put(0, 5, 100);
    assert_round();
    yesterday = disk;
    put(5, 9, 100);
    delete(0, 1);
    assert_round();
    assert_int_equal(sd_store_touch(f.lane, key.bytes, key.len, f.now + 900000, f.now), SD_OK);
    disk = yesterday;
    disk_meet(&disk, f.store);
    assert_true(known().astray);
    end();
}

static void astray_until_everything_is_written(void **state)
{
    sd_change_t change;

    (void)state;
    begin_with(MIB);
    put(0, 20, 100);
    assert_round();
    disk_setup(&disk, "another disk");
    disk_meet(&disk, f.store);
    assert_true(known().astray);
    delete(0, 5);
    assert_int_equal(tombstones(&f), 0); /* of no use */

    disk_begin(&disk, sd_changes_begin(f.lane, true), true);
    assert_true(sd_changes_next(f.lane, f.now, &change));
    sd_ref_release(f.lane, &change.value);
    delete(5, 10); /* what was given already is told in the next round */
    assert_int_equal(tombstones(&f), 5);
    next_process(true); /* in the midst */
    assert_true(known().astray);
    fixture_repair(&f);
    assert_clean(f.store);

    disk_begin(&disk, sd_changes_begin(f.lane, true), true);
    while (sd_changes_next(f.lane, f.now, &change))
        assert_null_text(disk_write(&disk, f.lane, &change));
    delete(10, 12);
    put(12, 13, 300);
    atomic_store(&f.store->header->astray, SD_ASTRAY); /* again, meanwhile */
    delete(13, 14);
    assert_null_text(disk_commit(&disk));
    assert_true(sd_changes_settle(f.lane));
    assert_true(known().astray);
    end();
}

/* Persistence off for one process, and on again. */
static void nobody_keeps_track_for_a_while(void **state)
{
    uint32_t n, round;

    (void)state;
    begin_with(MIB);
    put(0, 40, 100);
    for (n = 0; n < 6; n++) { /* rounds that fail */
        sd_changes_begin(f.lane, false);
        sd_changes_undo(f.lane);
        put(n, n + 1, 200);
    }
    delete(30, 40);
    assert_int_equal(tombstones(&f), 10);
    round = known().round;
    f.writes_behind = false;
    fixture_detach(&f);
    fixture_attach(&f, 1, false);
    delete(20, 25);
    put(25, 27, 300);
    sd_store_sweep(f.lane, f.now, UINT32_MAX);
    assert_int_equal(tombstones(&f), 0); /* nobody else takes them away */
    assert_int_equal(sessions(&f), 25);
    assert_clean(f.store);
    f.writes_behind = true;
    next_process(false);
    assert_true(known().astray);
    assert_true((int32_t)(known().round - round) >= 0);
    assert_round();
    assert_same();
    for (n = 0; n < 10; n++) { /* in whichever round something changed before */
        put(n % 6, n % 6 + 1, 400 + n);
        assert_round();
        assert_same();
    }
    end();
}

static void tombstones_of_a_dead_process_go_where_nobody_keeps_track(void **state)
{
    (void)state;
    begin_with(MIB);
    put(0, 40, 100);
    delete(10, 40);
    f.writes_behind = false;
    fixture_die(&f);
    fixture_attach(&f, 1, false);
    fixture_repair(&f);
    assert_clean(f.store);
    sd_store_sweep(f.lane, f.now, UINT32_MAX);
    assert_int_equal(tombstones(&f), 0);
    assert_int_equal(sessions(&f), 10);
    fixture_close(&f);
}

/* What an old module leaves: zeros where version 2 has something. */
static void the_layout_before_is_taken_over(void **state)
{
    sd_segment_info_t info;
    uint32_t n;

    (void)state;
    for (n = 0; n < 2; n++) {
        fixture_map(&f, MIB, 8);
        fixture_format(&f);
        fixture_attach(&f, 1, false);
        put(0, 30, 700);
        delete(0, 10);
        if (n)
            fixture_detach(&f);
        else
            fixture_die(&f);
        ((sd_header_t *)(void *)(f.map + 64))->layout_version = SD_LAYOUT_BEFORE;
        f.writes_behind = true;
        fixture_attach(&f, 1, false);
        assert_int_equal(sd_segment_peek(f.raw, f.size, &info), SD_OK);
        assert_int_equal(info.layout_version, SD_LAYOUT_VERSION);
        assert_true(known().served); /* nothing may be loaded over it */
        disk_setup(&disk, "the first disk");
        disk_meet(&disk, f.store);
        assert_true(known().astray);
        assert_round();
        assert_same();
        put(5, 15, 100);
        delete(20, 22);
        end();
    }
}

/* ---- loading ---- */

static void restored_values_are_unchanged(void **state)
{
    test_key_t key = key_number(2);

    (void)state;
    begin_with(MIB);
    assert_int_equal(restore(1, 100, 7), SD_OK);
    assert_int_equal(restore(2, 3000, 70), SD_OK);
    assert_int_equal(restore(2, 100, 69), SD_CONFLICT);
    assert_int_equal(restore(2, 100, 70), SD_CONFLICT);
    assert_int_equal(restore(2, 200, 71), SD_OK);
    assert_int_equal(restore(3, 100, 0), SD_INVALID);
    assert_int_equal(restore(3, 100, UINT64_MAX), SD_INVALID);
    assert_int_equal(sd_store_version(f.store), 71);
    assert_false(sd_changes_are_there(f.store));
    assert_value(&f, &key, 202, 200);
    assert_int_equal(sessions(&f), 2);
    assert_clean(f.store);
    sd_store_skip_versions(f.store, 50);
    assert_int_equal(sd_store_version(f.store), 71);
    sd_store_skip_versions(f.store, 500);
    assert_int_equal(put_ok(&f, &key, 1, 10, f.now + 5000), 501);
    fixture_close(&f);
}

/* Those who are there may use the last blocks; so must whoever brings them back. */
static void a_full_store_is_loaded_whole(void **state)
{
    uint32_t stored, grown, n;

    (void)state;
    begin_with(MIB);
    sd_store_serve(f.store);
    stored = fill_up(&f, 0, f.now + 500000);
    for (grown = 0; grown < stored; grown++) {
        test_key_t key = numbered_key(grown, 8);

        if (put_try(&f, &key, grown, 400, f.now + 500000) != SD_OK)
            break;
    }
    assert_in_range(grown, 10, stored - 1);
    assert_in_range(sd_blocks_free_count(f.store), 0, 1);
    fixture_close(&f);

    begin_with(MIB);
    for (n = 0; n < stored; n++)
        assert_int_equal(restore_key(numbered_key(n, 8), n, n < grown ? 400 : 16, n + 1), SD_OK);
    assert_int_equal(sessions(&f), stored);
    assert_clean(f.store);
    fixture_close(&f);
}

static void a_tombstone_is_restored_over_by_a_later_version_only(void **state)
{
    test_key_t key = key_number(1);
    uint64_t version;

    (void)state;
    begin_with(MIB);
    version = put_ok(&f, &key, 1, 100, f.now + 5000);
    delete(1, 2);
    assert_int_equal(restore(1, 100, version), SD_CONFLICT);
    assert_int_equal(restore(1, 100, version + 1), SD_CONFLICT); /* that of the delete */
    assert_int_equal(restore(1, 100, version + 2), SD_OK);
    assert_int_equal(tombstones(&f), 0);
    assert_int_equal(sessions(&f), 1);
    fixture_close(&f);
}

/* A process dies over the loading, and the next one begins anew. */
static void loading_beside_a_repair(void **state)
{
    uint32_t steps, i;

    (void)state;
    for (steps = 0; steps < 4; steps++) {
        begin_with(MIB);
        for (i = 0; i < 60; i++)
            assert_int_equal(restore(i, 300, 100 + (i * 37) % 60), SD_OK);
        fixture_die(&f);
        memset(f.counters, 0, sizeof f.counters);
        fixture_attach(&f, 1, false);
        for (i = 0; i < steps; i++)
            sd_store_repair(f.lane, f.now);
        for (i = 0; i < 100; i++)
            assert_int_equal(restore(i, 300, i < 60 ? 100 + (i * 37) % 60 : 20 + i),
                             i < 60 ? SD_CONFLICT : SD_OK);
        fixture_repair(&f);
        assert_clean(f.store);
        assert_int_equal(sessions(&f), 100);
        assert_int_equal(counter_sum(&f, repaired_items), 0);
        assert_false(known().astray);
        fixture_close(&f);
    }
}

/* ---- tombstones and repairs ---- */

static void tombstones_made_beside_a_repair(void **state)
{
    uint32_t steps;

    (void)state;
    for (steps = 0; steps < 4; steps++) {
        uint32_t n;

        begin_with(MIB);
        put(0, 60, 300);
        delete(0, 10);
        next_process(true);
        for (n = 0; n < steps; n++)
            sd_store_repair(f.lane, f.now);
        delete(10, 40); /* versions of the dead process, blocks of this one */
        put(5, 15, 100);
        fixture_repair(&f);
        assert_clean(f.store);
        assert_int_equal(counter_sum(&f, repaired_items), 0);
        assert_int_equal(tombstones(&f), 30);
        assert_false(known().astray);
        end();
    }
}

/* Two deaths, each between a tombstone and its count, leave a number below zero. */
static void counts_of_tombstones_that_deaths_left_wrong(void **state)
{
    uint32_t n;

    (void)state;
    begin_with(MIB);
    put(0, 40, 100);
    assert_round();
    delete(0, 10);
    for (n = 0; n < f.store->shard_count; n++)
        sd_shard_set_gone(f.store, n, (uint32_t)-3);
    next_process(true);
    delete(10, 12);
    assert_false(known().astray);
    fixture_repair(&f);
    assert_int_equal(tombstones(&f), 12);
    assert_clean(f.store);
    delete(12, 14);
    assert_false(known().astray);
    end();
}

/* A list that leads nowhere: what stood behind is lost, and the disk has it. */
static void what_a_repair_loses_is_lost_on_disk(void **state)
{
    uint32_t n;

    (void)state;
    for (n = 0; n < 2; n++) {
        test_key_t key = key_number(3);
        uint32_t block, bucket;

        begin_with(MIB);
        put(0, 20, 100);
        assert_round();
        block = item_of(&f, &key);
        bucket = bucket_of_key(&f, &key);
        if (n)
            sd_item(f.store, block)->magic = 0;
        else
            atomic_store(&f.store->buckets[bucket], SD_LINK_NEXT);
        next_process(true);
        fixture_repair(&f);
        assert_int_equal(counter_sum(&f, repaired_items), 1);
        assert_true(known().astray);
        end();
        memset(f.counters, 0, sizeof f.counters);
    }
}

static void damaged_marks_make_no_tombstone(void **state)
{
    test_key_t key = key_number(3);

    (void)state;
    begin_with(MIB);
    put(0, 20, 1000);
    assert_round();
    sd_item(f.store, item_of(&f, &key))->marks |= SD_MARK_GONE;
    next_process(true);
    fixture_repair(&f);
    assert_clean(f.store);
    assert_true(known().astray);
    end();
}

static void nobody_adopts_a_tombstone(void **state)
{
    test_key_t key = key_number(1);
    sd_ref_state_t lie;
    sd_ref_t ref;
    uint32_t n;

    (void)state;
    for (n = 0; n < 2; n++) {
        begin_with(MIB);
        put(1, 2, 1000);
        delete(1, 2);
        memset(&lie, 0, sizeof lie);
        lie.head = tombstone_of(&f, &key);
        lie.version = sd_item(f.store, lie.head)->version;
        f.takes_over = true;
        next_process(n == 1);
        f.takes_over = false;
        assert_int_equal(sd_ref_adopt(f.lane, &lie, &ref), SD_INVALID);
        end();
    }
}

/* A value is read, deleted, handed over and read on, its tombstone beside it. */
static void a_reference_beside_its_tombstone_is_handed_over(void **state)
{
    test_key_t key = key_number(1);
    sd_ref_state_t saved;
    sd_ref_t ref;
    uint32_t n;

    (void)state;
    for (n = 0; n < 2; n++) {
        begin_with(MIB);
        put(1, 2, 3000);
        assert_round();
        assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_OK);
        delete(1, 2);
        sd_ref_save(&ref, &saved);
        if (n)
            fixture_die(&f);
        else
            assert_true(sd_store_hand_over(&f.store));
        f.takes_over = true;
        fixture_attach(&f, 1, false);
        f.takes_over = false;
        disk_meet(&disk, f.store);
        assert_int_equal(sd_ref_adopt(f.lane, &saved, &ref), SD_OK);
        assert_true(sd_ref_is_detached(f.lane, &ref));
        assert_round();
        assert_same();
        assert_true(ref_shows(f.lane, &ref, 3001, 3000));
        fixture_repair(&f);
        assert_true(ref_shows(f.lane, &ref, 3001, 3000));
        sd_ref_release(f.lane, &ref);
        end();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_segment_has_no_disk),
        cmocka_unit_test(a_disk_that_has_less_is_written_anew),
        cmocka_unit_test(astray_until_everything_is_written),
        cmocka_unit_test(nobody_keeps_track_for_a_while),
        cmocka_unit_test(tombstones_of_a_dead_process_go_where_nobody_keeps_track),
        cmocka_unit_test(the_layout_before_is_taken_over),
        cmocka_unit_test(restored_values_are_unchanged),
        cmocka_unit_test(a_full_store_is_loaded_whole),
        cmocka_unit_test(a_tombstone_is_restored_over_by_a_later_version_only),
        cmocka_unit_test(loading_beside_a_repair),
        cmocka_unit_test(tombstones_made_beside_a_repair),
        cmocka_unit_test(counts_of_tombstones_that_deaths_left_wrong),
        cmocka_unit_test(what_a_repair_loses_is_lost_on_disk),
        cmocka_unit_test(damaged_marks_make_no_tombstone),
        cmocka_unit_test(nobody_adopts_a_tombstone),
        cmocka_unit_test(a_reference_beside_its_tombstone_is_handed_over),
    };

    alarm(600);
    return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
