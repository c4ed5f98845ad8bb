/* SPDX-License-Identifier: Apache-2.0
 *
 * test_write_behind.c: lives of a store that is written to a disk, with rounds that
 * fail, deaths and hand-overs at any moment. After each round that is settled the
 * disk has, of each key, what the store had at some moment within the round; and
 * disk_model.c sees to it that nothing removed or older ever comes.
 */
#include <stdlib.h>
#include <unistd.h>

#include "disk_model.h"

#define assert_null_text(wrong)          \
    do {                                 \
        const char *said = (wrong);      \
        if (said)                        \
            fail_msg("%s", said);        \
    } while (0)

enum { KEYS = 700, HISTORY = 64, HELD = 6 };

/* What a key was at one moment. */
typedef struct moment {
    uint64_t version, expiry;
    bool present;
} moment_t;

typedef struct life {
    fixture_t f;
    disk_t disk;
    dice_t dice;
    uint32_t max_len, ttl;
    moment_t now[KEYS];
    moment_t history[KEYS][HISTORY]; /* since the round began */
    uint32_t moments[KEYS];
    uint64_t evicted;
    sd_ref_t held[HELD];
    sd_chain_t filler; /* what leaves little memory */
    bool in_round, repairing;
    uint64_t settled, undone, given, everything, refused, all_evicted;
} life_t;

static life_t life;

static sd_lane_t *any_lane(life_t *l) /* but for the last, which makes the rounds */
{
    return sd_store_lane(l->f.store, dice_below(&l->dice, l->f.lanes - 1));
}

static sd_lane_t *writer(life_t *l)
{
    return sd_store_lane(l->f.store, l->f.lanes - 1);
}

static void note(life_t *l, uint32_t key)
{
    if (!l->in_round)
        l->moments[key] = 0;
    if (l->moments[key] == HISTORY) /* the last one is what counts, the others are samples */
        l->moments[key]--;
    l->history[key][l->moments[key]++] = l->now[key];
}

static void note_evictions(life_t *l)
{
    uint32_t i;

    if (l->evicted == counter_sum(&l->f, evicted))
        return;
    l->all_evicted += counter_sum(&l->f, evicted) - l->evicted;
    l->evicted = counter_sum(&l->f, evicted);
    for (i = 0; i < KEYS; i++) {
        test_key_t key = numbered_key(i, 0);

        if (l->now[i].present && item_of(&l->f, &key) == 0) {
            l->now[i].present = false;
            note(l, i);
        }
    }
}

/* ---- operations ---- */

static void put(life_t *l, uint32_t i)
{
    test_key_t key = numbered_key(i, 0);
    uint32_t len = dice_below(&l->dice, dice_below(&l->dice, 3) == 0 ? 60 : l->max_len);
    moment_t m = { 0, l->f.now + dice_below(&l->dice, l->ttl), true };
    sd_status_t status = value_store(any_lane(l), &key, dice_roll(&l->dice), len, m.expiry,
                                     SD_VERSION_ANY, l->f.now, &m.version);

    l->refused += status == SD_FULL;
    assert_true(status == SD_OK || status == SD_FULL);
    note_evictions(l);
    if (status == SD_OK) {
        l->now[i] = m;
        note(l, i);
    }
}

static void touch(life_t *l, uint32_t i)
{
    test_key_t key = numbered_key(i, 0);
    uint64_t expiry = l->f.now + dice_below(&l->dice, l->ttl);
    /* its clock may be behind */
    uint64_t now = l->f.now - dice_below(&l->dice, 3) * dice_below(&l->dice, 20);

    if (sd_store_touch(any_lane(l), key.bytes, key.len, expiry, now) == SD_OK) {
        assert_true(l->now[i].present);
        l->now[i].expiry = expiry;
        note(l, i);
    }
}

static void delete(life_t *l, uint32_t i)
{
    test_key_t key = numbered_key(i, 0);
    bool live = l->now[i].present && l->now[i].expiry > l->f.now;

    assert_int_equal(sd_store_delete(any_lane(l), key.bytes, key.len, SD_VERSION_ANY, l->f.now),
                     live ? SD_OK : SD_MISS);
    if (l->now[i].present) {
        l->now[i].present = false;
        note(l, i);
    }
}

static void get(life_t *l, uint32_t i)
{
    test_key_t key = numbered_key(i, 0);
    sd_ref_t ref, *held = &l->held[dice_below(&l->dice, HELD)];
    sd_status_t status = sd_store_get(any_lane(l), key.bytes, key.len, l->f.now, &ref);

    assert_int_equal(status, l->now[i].present && l->now[i].expiry > l->f.now ? SD_OK : SD_MISS);
    sd_ref_release(any_lane(l), held);
    *held = ref;
}

/* All blocks but some, so that tombstones find none, or none but the last 1%. */
static void fill_or_empty(life_t *l)
{
    sd_chain_t *c = &l->filler;

    if (c->head != 0) {
        sd_chain_discard(any_lane(l), c);
        return;
    }
    if (sd_chain_open(any_lane(l), c, "filler", 6, l->f.now) != SD_OK)
        return;
    c->privileged = !l->f.evict && dice_below(&l->dice, 2);
    if (l->f.evict) /* or it would evict all */
        sd_chain_reserve(any_lane(l), c, 500000 + dice_below(&l->dice, 300000), l->f.now);
    else
        while (sd_chain_reserve(any_lane(l), c, c->space + 1, l->f.now) == SD_OK)
            ;
    note_evictions(l);
}

static void operate(life_t *l)
{
    uint32_t i = dice_below(&l->dice, dice_below(&l->dice, 2) ? KEYS : 8); /* some are hot */

    switch (dice_below(&l->dice, 24)) {
    case 0:
    case 1:
    case 2:
        delete(l, i);
        break;
    case 3:
    case 4:
    case 5:
        touch(l, i);
        break;
    case 6:
    case 7:
    case 8:
        get(l, i);
        break;
    case 9:
        l->f.now += dice_below(&l->dice, l->ttl / 40);
        break;
    case 10:
        sd_store_sweep(any_lane(l), l->f.now, dice_below(&l->dice, 2000));
        break;
    case 11:
        if (dice_below(&l->dice, 8) == 0)
            fill_or_empty(l);
        break;
    case 12:
        if (l->repairing)
            l->repairing = sd_store_repair(any_lane(l), l->f.now);
        break;
    default:
        put(l, i);
    }
}

/* ---- rounds ---- */

/* Not while it is astray: what had no tombstone is missing in this round. */
static void compare_with_history(const life_t *l)
{
    sd_disk_t known;
    uint32_t i, k;

    sd_store_disk(l->f.store, &known);
    if (known.astray && (!l->disk.everything || atomic_load(&l->f.store->header->astray) == SD_ASTRAY))
        return;
    for (i = 0; i < KEYS; i++) {
        test_key_t key = numbered_key(i, 0);
        const disk_record_t *r = disk_find(&l->disk, &key);
        bool live = disk_is_live(r, l->f.now), fine = l->moments[i] == HISTORY;

        for (k = 0; k < l->moments[i] && !fine; k++) {
            const moment_t *m = &l->history[i][k];

            fine = live ? m->present && m->version == r->version && m->expiry == r->expiry
                        : !m->present || m->expiry <= l->f.now;
        }
        if (!fine)
            fail_msg("key %u on disk is as it was at no moment of the round (%s, version %llu)", i,
                     live ? "live" : "dead", (unsigned long long)(r ? r->version : 0));
    }
}

static void begin_round(life_t *l)
{
    sd_disk_t known;
    bool everything;
    uint32_t i;

    sd_store_disk(l->f.store, &known);
    everything = known.astray || dice_below(&l->dice, 40) == 0;
    l->everything += everything;
    for (i = 0; i < KEYS; i++) {
        l->moments[i] = 0;
        note(l, i);
    }
    l->in_round = true;
    disk_begin(&l->disk, sd_changes_begin(writer(l), everything), everything);
}

/* False: it is over. */
static bool give_some(life_t *l, uint32_t n)
{
    sd_change_t change;

    for (; n > 0; n--) {
        if (!sd_changes_next(writer(l), l->f.now, &change))
            return false;
        l->given++;
        assert_null_text(disk_write(&l->disk, writer(l), &change));
    }
    return true;
}

static void end_round(life_t *l, bool well)
{
    l->in_round = false;
    if (well) {
        assert_true(sd_changes_are_complete(l->f.store));
        assert_null_text(disk_commit(&l->disk));
        compare_with_history(l);
        assert_true(sd_changes_settle(writer(l)));
        l->settled++;
    }
    else {
        assert_null_text(disk_drop(&l->disk, dice_below(&l->dice, l->disk.staged_count + 1)));
        sd_changes_undo(writer(l));
        l->undone++;
    }
}

static void go_on_with_round(life_t *l)
{
    if (!l->in_round)
        begin_round(l);
    else if (!give_some(l, 1 + dice_below(&l->dice, 30)))
        end_round(l, dice_below(&l->dice, 5) != 0);
    else if (dice_below(&l->dice, 40) == 0)
        end_round(l, false);
}

/* ---- the next process ---- */

static void let_go(life_t *l)
{
    uint32_t i;

    for (i = 0; i < HELD; i++)
        sd_ref_release(any_lane(l), &l->held[i]);
    sd_chain_discard(any_lane(l), &l->filler);
}

static void attach(life_t *l, bool takes_over)
{
    l->f.takes_over = takes_over;
    fixture_attach(&l->f, 2 + dice_below(&l->dice, 3), l->f.evict);
    l->f.takes_over = false;
    l->repairing = l->f.store->repair.phase != SD_REPAIR_NONE;
    l->evicted = counter_sum(&l->f, evicted);
}

/* Told of what is held; a reference is lost where the whole repair came first. */
static void adopt(life_t *l, const sd_ref_state_t *refs, const sd_chain_state_t *chain)
{
    bool lost = l->f.store->repair.alone;
    uint32_t i;

    for (i = 0; i < HELD; i++)
        if (refs[i].head != 0)
            assert_true(sd_ref_adopt(any_lane(l), &refs[i], &l->held[i]) == SD_OK || lost);
    if (chain->head != 0)
        assert_true(sd_chain_adopt(any_lane(l), chain, &l->filler) == SD_OK || lost);
}

static void next_process(life_t *l)
{
    uint32_t how = dice_below(&l->dice, 8), i;
    sd_ref_state_t refs[HELD];
    sd_chain_state_t chain;

    memset(l->f.counters, 0, sizeof l->f.counters);
    if (how < 4) { /* it dies, and perhaps its round is whole on disk and nobody noted it */
        if (l->in_round && dice_below(&l->dice, 3) == 0 && !give_some(l, UINT32_MAX)) {
            assert_null_text(disk_commit(&l->disk));
            compare_with_history(l);
        }
        else if (l->in_round)
            assert_null_text(disk_drop(&l->disk, dice_below(&l->dice, l->disk.staged_count + 1)));
        l->in_round = false;
    }
    else if (l->in_round)
        end_round(l, false);
    for (i = 0; i < HELD; i++)
        sd_ref_save(&l->held[i], &refs[i]);
    sd_chain_save(&l->filler, &chain);
    if (how < 4)
        fixture_die(&l->f);
    else if (how < 6)
        sd_store_hand_over(&l->f.store);
    else {
        let_go(l);
        fixture_detach(&l->f);
    }
    memset(l->held, 0, sizeof l->held);
    memset(&l->filler, 0, sizeof l->filler);
    attach(l, how >= 2 && how < 6);
    if (how >= 2 && how < 6)
        adopt(l, refs, &chain);
    disk_meet(&l->disk, l->f.store);
}

/* A process that keeps track of nothing. */
static void without_a_disk(life_t *l)
{
    uint32_t n;

    if (l->in_round)
        end_round(l, false);
    let_go(l);
    memset(l->f.counters, 0, sizeof l->f.counters);
    fixture_detach(&l->f);
    l->f.writes_behind = false;
    attach(l, false);
    for (n = dice_below(&l->dice, 200); n > 0; n--)
        operate(l);
    let_go(l);
    fixture_detach(&l->f);
    l->f.writes_behind = true;
    memset(l->f.counters, 0, sizeof l->f.counters);
    attach(l, false);
    disk_meet(&l->disk, l->f.store);
}

static void settle_all(life_t *l)
{
    uint32_t n;

    if (l->in_round)
        end_round(l, false);
    let_go(l);
    while (l->repairing)
        l->repairing = sd_store_repair(writer(l), l->f.now);
    for (n = 0; n < 3; n++) { /* what the first finds astray, the second mends; tombstones */
        assert_null_text(disk_round(&l->disk, writer(l), l->f.now));
        assert_null_text(disk_compare(&l->disk, writer(l), l->f.now));
    }
    assert_int_equal(tombstones(&l->f), 0);
    assert_false(sd_changes_are_there(l->f.store));
    assert_clean(l->f.store);
    assert_int_equal(counter_sum(&l->f, repaired_items), 0);
}

typedef struct course {
    uint64_t seed, size;
    bool evict;
    uint32_t max_len, ttl, ops, processes;
    uint32_t first_round; /* of the segment, to see it wrap */
} course_t;

static void live(void **state)
{
    const course_t *c = *state;
    const char *more = getenv("SESSIOND_TEST_SEED");
    uint32_t ops = test_ops(c->ops, 3000), n;
    life_t *l = &life;

    memset(l, 0, sizeof *l);
    l->dice = dice_new(c->seed + (more ? strtoull(more, NULL, 10) : 0));
    l->max_len = c->max_len;
    l->ttl = c->ttl;
    fixture_map(&l->f, c->size, 8);
    fixture_format(&l->f);
    l->f.writes_behind = true;
    l->f.evict = c->evict;
    attach(l, false);
    disk_setup(&l->disk, "the disk");
    if (c->first_round != 0) {
        l->disk.committed = c->first_round;
        sd_store_pair(l->f.store, l->disk.id, c->first_round);
    }
    else
        disk_meet(&l->disk, l->f.store);
    for (n = 1; n <= ops; n++) {
        operate(l);
        if (dice_below(&l->dice, 10) == 0)
            go_on_with_round(l);
        if (c->processes != 0 && dice_below(&l->dice, ops / c->processes + 1) == 0)
            next_process(l);
        if (n % (ops / 12) == 0) {
            settle_all(l);
            if (n / (ops / 12) % 4 == 3)
                without_a_disk(l);
        }
        if (n % (ops / 50) == 0)
            assert_clean(l->f.store);
    }
    settle_all(l);
    if (getenv("SESSIOND_TEST_VERBOSE"))
        print_message("# settled %llu, undone %llu, of everything %llu, given %llu, refused %llu, evicted %llu\n",
                      (unsigned long long)l->settled, (unsigned long long)l->undone,
                      (unsigned long long)l->everything, (unsigned long long)l->given,
                      (unsigned long long)l->refused, (unsigned long long)l->all_evicted);
    assert_true(l->settled > ops / 1000);
    assert_true(l->all_evicted > 0 || !c->evict);
    fixture_close(&l->f);
}

int main(void)
{
    static const course_t courses[] = {
        { 1, MIB, false, 2000, 60000, 120000, 0, 0 },
        { 2, MIB, false, 9000, 600000, 120000, 150, 0 },
        { 3, MIB, true, 5000, 60000000, 120000, 150, 0 },
        { 4, 2 * MIB, false, 700, 2000, 120000, 600, UINT32_MAX - 400 },
        { 5, MIB, true, 5000, 600000, 120000, 2000, INT32_MAX - 400 },
    };
#define COURSE(number) \
    { "live (course " #number ")", live, NULL, NULL, (void *)(uintptr_t)&courses[number] }
    const struct CMUnitTest tests[] = {
        COURSE(0),
        COURSE(1),
        COURSE(2),
        COURSE(3),
        COURSE(4),
    };

    alarm(900);
    return cmocka_run_group_tests_name("write behind", tests, NULL, NULL);
}
