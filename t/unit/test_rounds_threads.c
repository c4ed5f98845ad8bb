/* SPDX-License-Identifier: Apache-2.0
 *
 * test_rounds_threads.c: threads that change the same few keys all the time, each
 * its own, while another makes one round after the other. What was acknowledged
 * when a round began is on disk when it is settled. Meant to be run under the
 * thread sanitizer as well.
 */
#include <sched.h>
#include <unistd.h>

#include "disk_model.h"

#define assert_null_text(wrong)          \
    do {                                 \
        const char *said = (wrong);      \
        if (said)                        \
            fail_msg("%s", said);        \
    } while (0)

enum { WRITERS = 3, OWN = 12 };

typedef struct crowd {
    fixture_t f;
    disk_t disk;
    /* of each key its last change that was acknowledged: version * 2, and 1 = removed.
     * A key has one writer. */
    _Atomic uint64_t acknowledged[WRITERS][OWN];
    _Atomic uint32_t running;
    _Atomic(const char *) failure;
    uint32_t ops;
} crowd_t;

static crowd_t crowd;

typedef struct member {
    uint32_t number;
    dice_t dice;
} member_t;

static test_key_t crowd_key(uint32_t writer_number, uint32_t i)
{
    return numbered_key(1000 * (writer_number + 1) + i, 26);
}

static void complain(const char *what)
{
    const char *none = NULL;

    atomic_compare_exchange_strong(&crowd.failure, &none, what);
}

/* Most changes are of one hot key. */
static void *change_things(void *arg)
{
    member_t *m = arg;
    sd_lane_t *lane = sd_store_lane(crowd.f.store, m->number);
    uint64_t now = crowd.f.now, version;
    uint32_t n;

    for (n = 0; n < crowd.ops && !atomic_load(&crowd.failure); n++) {
        uint32_t i = dice_below(&m->dice, 2) ? 0 : dice_below(&m->dice, OWN), kind = dice_below(&m->dice, 8);
        test_key_t key = crowd_key(m->number, i);
        uint64_t before = atomic_load(&crowd.acknowledged[m->number][i]);

        if (kind == 0) {
            /* until it is said that it is gone, nothing is: a whole round may pass in between */
            atomic_store(&crowd.acknowledged[m->number][i], 0);
            if (sd_store_delete(lane, key.bytes, key.len, SD_VERSION_ANY, now)
                != (before % 2 || before == 0 ? SD_MISS : SD_OK))
                complain("a delete went wrong");
            atomic_store(&crowd.acknowledged[m->number][i], before | 1);
        }
        else if (kind == 1) {
            if (sd_store_touch(lane, key.bytes, key.len, now + 1000 + n, now)
                != (before % 2 || before == 0 ? SD_MISS : SD_OK))
                complain("a touch went wrong");
        }
        else if (kind == 2)
            sd_store_sweep(lane, now, 256);
        else {
            if (value_store(lane, &key, n, dice_below(&m->dice, 900), now + 100000, SD_VERSION_ANY,
                            now, &version) != SD_OK)
                complain("a store was refused");
            atomic_store(&crowd.acknowledged[m->number][i], version * 2);
        }
    }
    atomic_fetch_sub(&crowd.running, 1);
    return NULL;
}

/* What had been acknowledged when the round began is on disk, or something later. */
static void compare_with_acknowledged(uint64_t before[WRITERS][OWN])
{
    uint32_t w, i;

    for (w = 0; w < WRITERS; w++)
        for (i = 0; i < OWN; i++) {
            test_key_t key = crowd_key(w, i);
            const disk_record_t *r = disk_find(&crowd.disk, &key);
            uint64_t was = before[w][i];
            bool live = disk_is_live(r, crowd.f.now);

            if (!r && crowd.disk.everything) /* it was deleted before the round came to it */
                continue;
            if (was > 1 && was % 2 == 0 && (!r || r->version < was / 2))
                complain("an acknowledged change is not on disk");
            if (was % 2 == 1 && live && r->version <= was / 2)
                complain("what was removed is on disk");
        }
}

static void hot_keys_beside_rounds(void **state)
{
    pthread_t threads[WRITERS];
    member_t members[WRITERS];
    uint32_t i, rounds = 0;

    (void)state;
    memset(&crowd, 0, sizeof crowd);
    fixture_map(&crowd.f, 2 * MIB, 8);
    fixture_format(&crowd.f);
    crowd.f.writes_behind = true;
    fixture_attach(&crowd.f, WRITERS + 1, false);
    disk_setup(&crowd.disk, "the disk");
    disk_meet(&crowd.disk, crowd.f.store);
    crowd.ops = test_ops(200000, 3000);
    atomic_store(&crowd.running, WRITERS);
    for (i = 0; i < WRITERS; i++) {
        members[i] = (member_t){ i, dice_new(77 + i) };
        assert_int_equal(pthread_create(&threads[i], NULL, change_things, &members[i]), 0);
    }
    while (atomic_load(&crowd.running) > 0 && !atomic_load(&crowd.failure)) {
        sd_lane_t *lane = sd_store_lane(crowd.f.store, WRITERS);
        uint64_t before[WRITERS][OWN];
        const char *wrong;

        for (i = 0; i < WRITERS * OWN; i++)
            before[i / OWN][i % OWN] = atomic_load(&crowd.acknowledged[i / OWN][i % OWN]);
        wrong = disk_round(&crowd.disk, lane, crowd.f.now);
        if (wrong)
            complain(wrong);
        compare_with_acknowledged(before);
        if (++rounds % 7 == 0) {
            sd_change_t change;

            sd_changes_begin(lane, rounds % 3 == 0);
            if (sd_changes_next(lane, crowd.f.now, &change))
                sd_ref_release(lane, &change.value);
            sd_changes_undo(lane);
        }
        sched_yield();
    }
    for (i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    if (atomic_load(&crowd.failure))
        fail_msg("%s", atomic_load(&crowd.failure));
    assert_true(rounds > 3);
    for (i = 0; i < 3; i++) {
        assert_null_text(disk_round(&crowd.disk, crowd.f.lane, crowd.f.now));
        assert_null_text(disk_compare(&crowd.disk, crowd.f.lane, crowd.f.now));
    }
    assert_int_equal(tombstones(&crowd.f), 0);
    fixture_close(&crowd.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hot_keys_beside_rounds),
    };

    alarm(600);
    return cmocka_run_group_tests_name("rounds and threads", tests, NULL, NULL);
}
