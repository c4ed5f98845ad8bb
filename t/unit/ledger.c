/* SPDX-License-Identifier: Apache-2.0
 *
 * ledger.c: see the header. What is hard: a verdict must hold whatever moment
 * the process died at, so `begun` is written before an operation and `done`
 * after it, and nothing else is believed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "ledger.h"

enum { MAX_LEN = 12000, SHARED_MAX = 4096, SPARE = 3000, PASSING = 7 };

ledger_t *ledger_map(void)
{
    ledger_t *l = mmap(NULL, sizeof *l, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(l, MAP_FAILED);
    return l;
}

void ledger_unmap(ledger_t **ledger)
{
    munmap(*ledger, sizeof **ledger);
    *ledger = NULL;
}

/* ---- what operation n on a key means ---- */

typedef struct effect {
    bool present;
    bool deletes;
    uint32_t len;
    uint32_t spare; /* bytes reserved that never come */
    uint64_t seed;
    uint64_t expiry;
} effect_t;

static effect_t effect_of(uint32_t worker, uint32_t i, uint64_t n, uint64_t now)
{
    dice_t d = dice_new(n * 1000003 + worker * 1000 + i);
    uint32_t kind = dice_below(&d, 12);
    effect_t e = { kind >= 2 && n > 0, kind == 1, 0, 0, 0, now + LEDGER_LIVE };

    e.len = dice_below(&d, kind < 9 ? 1200 : MAX_LEN);
    e.seed = dice_roll(&d);
    e.spare = dice_below(&d, 4) == 0 ? SPARE : 0;
    if (kind == 0)
        e.expiry = now; /* stored and over at once */
    return e;
}

static test_key_t own_key(uint32_t worker, uint32_t i)
{
    return numbered_key(1 + worker * 1000 + i, 0);
}

static test_key_t shared_key(uint32_t i)
{
    return numbered_key(900000 + i, 40);
}

test_key_t ledger_filler_key(const ledger_t *l, uint32_t i)
{
    return numbered_key(500000 + l->filler[i], 26);
}

/* What is stored and deleted beside a repair. */
static test_key_t passing_key(uint32_t i)
{
    return numbered_key(800000 + i, 0);
}

uint32_t ledger_key_count(const ledger_t *l)
{
    return LEDGER_WORKERS * LEDGER_OWN + LEDGER_SHARED + PASSING + l->fillers;
}

test_key_t ledger_key(const ledger_t *l, uint32_t i)
{
    if (i < LEDGER_WORKERS * LEDGER_OWN)
        return own_key(i / LEDGER_OWN, i % LEDGER_OWN);
    i -= LEDGER_WORKERS * LEDGER_OWN;
    if (i < LEDGER_SHARED)
        return shared_key(i);
    i -= LEDGER_SHARED;
    return i < PASSING ? passing_key(i) : ledger_filler_key(l, i - PASSING);
}

/* ---- is what is there what may be there? ---- */

static bool shows(sd_lane_t *lane, sd_status_t status, const sd_ref_t *ref, const effect_t *e)
{
    if (!e->present)
        return status == SD_MISS;
    return status == SD_OK && ref_shows(lane, ref, e->seed, e->len);
}

const char *ledger_examine_own(const ledger_t *l, sd_lane_t *lane, uint32_t worker, uint64_t now)
{
    uint32_t i;

    for (i = 0; i < LEDGER_OWN; i++) {
        test_key_t key = own_key(worker, i);
        uint64_t done = l->own[worker][i].done, begun = l->own[worker][i].begun;
        effect_t was = effect_of(worker, i, done, now), will = effect_of(worker, i, begun, now);
        sd_ref_t ref;
        sd_status_t status = sd_store_get(lane, key.bytes, key.len, now, &ref);
        bool fine = shows(lane, status, &ref, &was)
                    || (begun != done && shows(lane, status, &ref, &will));

        sd_ref_release(lane, &ref);
        if (!fine)
            return status == SD_OK ? "a key shows neither its old nor its new value"
                                   : "an acknowledged value is missing";
    }
    return NULL;
}

/* A shared value begins with its own seed: a mixture of two does not pass. */
static const char *examine_shared(const ledger_t *l, sd_lane_t *lane, uint64_t now)
{
    uint32_t i;

    for (i = 0; i < LEDGER_SHARED; i++) {
        test_key_t key = shared_key(i);
        uint64_t least = l->shared_version[i], version;
        unsigned char bytes[SHARED_MAX];
        sd_ref_t ref;
        struct iovec iov;
        size_t covered, have = 0;
        uint64_t seed;
        sd_status_t status = sd_store_get(lane, key.bytes, key.len, now, &ref);

        if (status == SD_MISS && least == 0)
            continue;
        if (status != SD_OK)
            return "an acknowledged shared value is missing";
        version = ref.version;
        if (ref.data_len < 8 || ref.data_len > sizeof bytes)
            return "a shared value has an impossible length";
        while (sd_ref_iov(lane, &ref, &iov, 1, &covered) > 0) {
            memcpy(bytes + have, iov.iov_base, covered);
            have += covered;
            sd_ref_advance(lane, &ref, covered);
        }
        sd_ref_release(lane, &ref);
        memcpy(&seed, bytes, 8);
        if (!value_is(bytes + 8, (uint32_t)have - 8, seed))
            return "a shared value is a mixture";
        if (version < least)
            return "a shared value is older than the last acknowledged one";
    }
    return NULL;
}

static const char *examine_fillers(const ledger_t *l, sd_lane_t *lane, uint64_t now)
{
    uint32_t n;

    for (n = 0; n < l->fillers; n++) {
        test_key_t key = ledger_filler_key(l, n);
        sd_ref_t ref;
        sd_status_t status = sd_store_get(lane, key.bytes, key.len, now, &ref);
        bool fine = status == SD_OK ? ref_shows(lane, &ref, n, LEDGER_FILLER_BYTES)
                                    : n >= l->fillers - l->loose;

        sd_ref_release(lane, &ref);
        if (!fine)
            return "a value that nobody touched is gone or damaged";
    }
    return NULL;
}

/* ---- the work ---- */

/* SD_OK, SD_FULL, or what a put says. Some clients announce more than they send. */
static sd_status_t store_own(ledger_worker_t *w, const test_key_t *key, const effect_t *e)
{
    unsigned char bytes[MAX_LEN];
    uint64_t version;
    sd_chain_t chain;
    sd_status_t status = sd_chain_open(w->lane, &chain, key->bytes, key->len, w->now);

    if (status != SD_OK)
        return status;
    value_fill(bytes, e->len, e->seed);
    status = sd_chain_reserve(w->lane, &chain, e->len + e->spare, w->now);
    if (status == SD_OK)
        status = sd_chain_append(w->lane, &chain, bytes, e->len, w->now);
    if (status == SD_OK)
        status = sd_store_put(w->lane, &chain, e->expiry, SD_VERSION_ANY, w->now, &version);
    if (status != SD_OK)
        sd_chain_discard(w->lane, &chain);
    return status;
}

static const char *change_own(ledger_worker_t *w, uint32_t i)
{
    ledger_t *l = w->ledger;
    uint64_t done = l->own[w->number][i].done, n = done + 1;
    effect_t e = effect_of(w->number, i, n, w->now);
    test_key_t key = own_key(w->number, i);
    sd_status_t status;

    atomic_store(&l->own[w->number][i].begun, n);
    if (e.deletes) {
        status = sd_store_delete(w->lane, key.bytes, key.len, SD_VERSION_ANY, w->now);
        if (status != SD_OK && status != SD_MISS)
            return "a delete was refused";
    }
    else {
        status = store_own(w, &key, &e);
        if (status == SD_FULL) {
            atomic_store(&l->own[w->number][i].begun, done);
            return NULL;
        }
        if (status != SD_OK)
            return "a store was refused";
    }
    atomic_store(&l->own[w->number][i].done, n);
    return NULL;
}

/* A touch is no operation of the ledger's: it must leave what is there. The expiry
 * comes a little later or earlier than the one before. */
static const char *touch_own(ledger_worker_t *w, uint32_t i)
{
    ledger_t *l = w->ledger;
    uint64_t done = l->own[w->number][i].done;
    test_key_t key = own_key(w->number, i);
    sd_status_t status = sd_store_touch(w->lane, key.bytes, key.len,
                                        w->now + LEDGER_LIVE + l->operations * 7 % 1000, w->now);

    if (l->own[w->number][i].begun == done && effect_of(w->number, i, done, w->now).present != (status == SD_OK))
        return "a touch missed a value, or met none";
    return NULL;
}

static const char *store_shared(ledger_worker_t *w, uint32_t i)
{
    unsigned char bytes[SHARED_MAX];
    uint32_t len = 8 + dice_below(&w->dice, sizeof bytes - 8);
    uint64_t seed = dice_roll(&w->dice), version, highest;
    _Atomic uint64_t *acknowledged = &w->ledger->shared_version[i];
    test_key_t key = shared_key(i);
    sd_chain_t chain;

    memcpy(bytes, &seed, 8);
    value_fill(bytes + 8, len - 8, seed);
    if (sd_chain_open(w->lane, &chain, key.bytes, key.len, w->now) != SD_OK)
        return NULL;
    if (sd_chain_append(w->lane, &chain, bytes, len, w->now) != SD_OK) {
        sd_chain_discard(w->lane, &chain);
        return NULL;
    }
    if (sd_store_put(w->lane, &chain, w->now + LEDGER_LIVE, SD_VERSION_ANY, w->now, &version)
        != SD_OK)
        return "an unconditional put was refused";
    highest = atomic_load(acknowledged);
    while (highest < version && !atomic_compare_exchange_weak(acknowledged, &highest, version))
        ;
    return NULL;
}

ledger_worker_t ledger_worker(ledger_t *ledger, sd_lane_t *lane, uint32_t number, uint64_t now,
                              uint64_t seed)
{
    ledger_worker_t w = { .ledger = ledger, .lane = lane, .number = number, .now = now,
                          .dice = dice_new(seed) };

    return w;
}

const char *ledger_operate(ledger_worker_t *w)
{
    uint32_t i = dice_below(&w->dice, LEDGER_OWN);
    test_key_t key = own_key(w->number, i);
    const char *wrong = NULL;

    switch (dice_below(&w->dice, 16)) {
    case 0:
        wrong = examine_shared(w->ledger, w->lane, w->now);
        break;
    case 1:
    case 2:
        wrong = store_shared(w, dice_below(&w->dice, LEDGER_SHARED));
        break;
    case 3:
        sd_ref_release(w->lane, &w->held);
        sd_store_get(w->lane, key.bytes, key.len, w->now, &w->held);
        break;
    case 4:
        sd_chain_discard(w->lane, &w->open);
        if (sd_chain_open(w->lane, &w->open, "never finished", 14, w->now) == SD_OK)
            sd_chain_reserve(w->lane, &w->open, dice_below(&w->dice, 9000), w->now);
        break;
    case 5:
        sd_store_sweep(w->lane, w->now, 512);
        break;
    case 6:
        if (dice_below(&w->dice, 8) == 0)
            wrong = ledger_examine_own(w->ledger, w->lane, w->number, w->now);
        else
            wrong = touch_own(w, i);
        break;
    default:
        wrong = change_own(w, i);
    }
    atomic_fetch_add(&w->ledger->operations, 1);
    return wrong;
}

void ledger_let_go(ledger_worker_t *w)
{
    sd_ref_release(w->lane, &w->held);
    sd_chain_discard(w->lane, &w->open);
}

/* ---- the disk ---- */

static const char *load_filler(ledger_t *l, sd_lane_t *lane, uint32_t n, uint64_t now)
{
    test_key_t key = ledger_filler_key(l, n);
    const disk_record_t *r = disk_find(&l->disk, &key);
    unsigned char bytes[LEDGER_FILLER_BYTES];
    sd_chain_t chain;
    sd_status_t status;

    if (!disk_is_live(r, now))
        return "a filler is not on disk";
    value_fill(bytes, sizeof bytes, n);
    status = sd_chain_open(lane, &chain, key.bytes, key.len, now);
    if (status == SD_OK)
        status = sd_chain_append(lane, &chain, bytes, sizeof bytes, now);
    if (status == SD_OK)
        status = sd_store_restore(lane, &chain, r->expiry, r->version, now);
    if (status != SD_OK)
        sd_chain_discard(lane, &chain);
    return status == SD_OK || status == SD_CONFLICT ? NULL : "a value was not loaded";
}

const char *ledger_meet_disk(ledger_t *l, sd_lane_t *lane, uint64_t now)
{
    const char *wrong = NULL;
    sd_disk_t known;
    uint32_t n;

    disk_recover(&l->disk);
    sd_store_disk(lane->store, &known);
    if (known.served || memcmp(known.id, l->disk.id, sizeof known.id) == 0)
        disk_meet(&l->disk, lane->store);
    else {
        for (n = 0; n < l->fillers && !wrong; n++)
            wrong = load_filler(l, lane, n, now);
        sd_store_pair(lane->store, l->disk.id, l->disk.committed);
    }
    sd_store_serve(lane->store);
    return wrong;
}

/* ---- the examination of what a dead process left ---- */

static const char *examine_all(const fixture_t *f, const ledger_t *l)
{
    const char *wrong = NULL;
    uint32_t w;

    for (w = 0; w < LEDGER_WORKERS && !wrong; w++)
        wrong = ledger_examine_own(l, f->lane, w, f->now);
    if (!wrong)
        wrong = examine_shared(l, f->lane, f->now);
    if (!wrong)
        wrong = examine_fillers(l, f->lane, f->now);
    return wrong;
}

/* A store, a fetch and a delete of a key of its own. */
static const char *serve(fixture_t *f, const ledger_t *l, uint32_t step)
{
    test_key_t key = passing_key(step % PASSING);
    sd_status_t status = put_try(f, &key, step, 2000, f->now + LEDGER_LIVE);
    sd_ref_t ref;
    bool whole;

    if (status == SD_FULL && l->tight)
        return NULL;
    if (status != SD_OK)
        return "a store was refused beside the repair";
    status = sd_store_get(f->lane, key.bytes, key.len, f->now, &ref);
    whole = status == SD_OK && ref_shows(f->lane, &ref, step, 2000);
    sd_ref_release(f->lane, &ref);
    if (!whole)
        return "a value stored beside the repair is not there";
    if (delete_key(f, &key) != SD_OK)
        return "a delete was refused beside the repair";
    return is_there(f, &key) ? "a deleted value is there" : NULL;
}

/* The blocks of all items that the ledger knows; *items says how many. */
static uint64_t account(const fixture_t *f, const ledger_t *l, uint64_t *items)
{
    uint64_t used = 0;
    uint32_t i;

    *items = 0;
    for (i = 0; i < ledger_key_count(l); i++) {
        test_key_t key = ledger_key(l, i);
        uint32_t block = item_of(f, &key);

        if (block != 0) {
            used += sd_item_blocks(key.len, sd_item(f->store, block)->data_len);
            (*items)++;
        }
        else if (tombstone_of(f, &key) != 0)
            used += sd_item_blocks(key.len, 0);
    }
    return used;
}

/* A round, in which all comes to the disk that the store has, whose values are
 * examined by themselves. NULL, or what was wrong. */
static const char *write_behind(fixture_t *f, ledger_t *l)
{
    sd_lane_t *lane = sd_store_lane(f->store, LEDGER_WORKERS);
    const char *wrong = disk_round(&l->disk, lane, f->now);

    return wrong ? wrong : disk_compare(&l->disk, lane, f->now);
}

void ledger_examine(fixture_t *f, ledger_t *l)
{
    uint64_t used, items;
    uint32_t steps = 0, when = (uint32_t)(atomic_load(&l->operations) % 5);
    const char *wrong = NULL;

    f->now = 1000000;
    memset(f->counters, 0, sizeof f->counters);
    f->writes_behind = l->has_disk;
    fixture_attach(f, LEDGER_WORKERS + 1, false);
    if (l->damaged == 0)
        assert_clean(f->store);
    if (l->has_disk)
        assert_null(ledger_meet_disk(l, sd_store_lane(f->store, LEDGER_WORKERS), f->now));
    if (l->damaged == 0)
        assert_clean(f->store);
    do {
        if (l->has_disk && steps == when && l->damaged == 0)
            wrong = write_behind(f, l); /* before an expired value is found out */
        if (!wrong)
            wrong = examine_all(f, l);
        if (!wrong)
            wrong = serve(f, l, steps);
        if (wrong)
            fail_msg("%s (step %u)", wrong, steps);
        steps++;
    } while (sd_store_repair(f->lane, f->now));
    assert_clean(f->store);
    wrong = examine_all(f, l);
    sd_store_sweep(f->lane, f->now, UINT32_MAX);
    for (steps = 0; steps < 3 && l->has_disk && !wrong; steps++) /* what is astray, and tombstones */
        wrong = write_behind(f, l);
    if (wrong)
        fail_msg("%s (repaired)", wrong);
    if (l->has_disk)
        assert_int_equal(tombstones(f), 0);
    used = account(f, l, &items);
    assert_int_equal(sessions(f), items);
    assert_int_equal(blocks_used(f), used);
    assert_int_equal(sd_blocks_free_count(f->store), f->store->block_count - used);
    assert_true(counter_sum(f, repaired_items) <= l->damaged);
    assert_clean(f->store);
}
