/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_scenes.c: see the header. What is hard is to come by every point in few
 * operations: so there is a store that is full, one that evicts, one that is
 * damaged, and two whose repair has to be made before they serve; and most of
 * them again with a disk that is written to. In each the store is handed over
 * twice: soon, alone, and at the end.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kill_points.h"
#include "kill_scenes.h"

enum { OPERATIONS = 240, REPAIR_EVERY = 20, HAND_OVER_AT = 30, GIVE_EVERY = 3 };

/* ---- the scenes ---- */

/* Every worker's keys, each written some times. */
static void work(kill_site_t *s, uint32_t operations, bool let_go)
{
    uint32_t i, n;

    for (i = 0; i < LEDGER_WORKERS; i++) {
        ledger_worker_t w = ledger_worker(s->ledger, sd_store_lane(s->f.store, i), i, s->f.now, i);

        for (n = 0; n < operations; n++)
            assert_null(ledger_operate(&w));
        if (let_go)
            ledger_let_go(&w);
    }
}

/* So many values that most lists of the index have several. They come first, so
 * what is stored later leads to them. */
static void crowd(kill_site_t *s)
{
    ledger_t *l = s->ledger;

    for (; l->fillers < 400; l->fillers++) {
        test_key_t key;

        l->filler[l->fillers] = l->fillers;
        key = ledger_filler_key(l, l->fillers);
        put_ok(&s->f, &key, l->fillers, LEDGER_FILLER_BYTES, s->f.now + LEDGER_LIVE);
    }
}

static void orderly_end(kill_site_t *s)
{
    crowd(s);
    work(s, 300, true);
    fixture_detach(&s->f);
}

static void death(kill_site_t *s)
{
    crowd(s);
    work(s, 300, false);
    fixture_die(&s->f);
}

/* Fillers until nothing more fits, each stored twice with another expiry: so
 * the shards' bounds are too early. */
static void fill(kill_site_t *s)
{
    ledger_t *l = s->ledger;
    uint32_t n;

    for (n = 0; n < LEDGER_FILLERS_MAX; n++) {
        test_key_t key;

        l->filler[n] = n;
        key = ledger_filler_key(l, n);
        if (put_try(&s->f, &key, n, LEDGER_FILLER_BYTES, s->f.now + 10) != SD_OK)
            break;
        put_ok(&s->f, &key, n, LEDGER_FILLER_BYTES,
               s->scene->evict ? s->f.now + 1000 + n : s->f.now + LEDGER_LIVE);
    }
    assert_in_range(n, 100, LEDGER_FILLERS_MAX - 1);
    l->fillers = n;
    l->tight = true;
}

static void full(kill_site_t *s)
{
    uint32_t n;

    work(s, 200, true);
    fill(s);
    for (n = 0; n < 30; n++) {
        test_key_t key = ledger_filler_key(s->ledger, --s->ledger->fillers);

        assert_int_equal(delete_key(&s->f, &key), SD_OK);
    }
    fixture_detach(&s->f);
}

static void evicting(kill_site_t *s)
{
    work(s, 200, true);
    fill(s);
    s->ledger->loose = s->ledger->fillers;
    fixture_detach(&s->f);
}

/* Has filler `n` a bucket that no other key of this test ever uses? */
static bool is_alone(const kill_site_t *s, uint32_t n)
{
    test_key_t key = ledger_filler_key(s->ledger, n), other;
    uint32_t bucket = bucket_of_key(&s->f, &key), same = 0, i;

    for (i = 0; i < ledger_key_count(s->ledger); i++) {
        other = ledger_key(s->ledger, i);
        same += bucket_of_key(&s->f, &other) == bucket;
    }
    return same == 1;
}

/* Items without a magic number, rings of one item, buckets that lead nowhere. */
static void damaged(kill_site_t *s)
{
    enum { FILLERS = 9, BUCKETS = 2 };
    ledger_t *l = s->ledger;
    uint32_t n;

    work(s, 300, false);
    l->fillers = FILLERS + BUCKETS;
    for (n = 0; n < FILLERS + BUCKETS; n++)
        for (l->filler[n] = n; !is_alone(s, n); l->filler[n] += FILLERS + BUCKETS)
            ;
    for (n = 0; n < FILLERS; n++) {
        test_key_t key = ledger_filler_key(l, n);
        sd_item_t *item;

        put_ok(&s->f, &key, n, LEDGER_FILLER_BYTES, s->f.now + LEDGER_LIVE);
        item = sd_item(s->f.store, item_of(&s->f, &key));
        if (n % 3 != 0)
            item->magic = 0;
        if (n % 3 != 1)
            item->next = item_of(&s->f, &key);
    }
    for (; n < FILLERS + BUCKETS; n++) { /* such a key must never be asked for */
        test_key_t key = ledger_filler_key(l, n);

        atomic_store(&s->f.store->buckets[bucket_of_key(&s->f, &key)], SD_LINK_NEXT);
    }
    l->fillers = l->loose = FILLERS;
    l->damaged = FILLERS + BUCKETS;
    fixture_die(&s->f);
}

/* So many processes died before they had repaired that one tag is left. */
static void last_tag(kill_site_t *s)
{
    uint32_t n;

    work(s, 300, false);
    fixture_die(&s->f);
    for (n = 0; n < SD_EPOCH_MAX - 2; n++) {
        fixture_attach(&s->f, LEDGER_WORKERS + 1, false);
        work(s, 10, false);
        fixture_die(&s->f);
    }
}

/* ... and the one that got it died over its repair, too. */
static void last_tag_again(kill_site_t *s)
{
    uint32_t n;

    last_tag(s);
    for (n = 0; n < kill_point_count(); n++)
        if (strncmp(kill_point_name(n), "repair_shard:", 13) == 0)
            break;
    assert_true(n < kill_point_count());
    kill_points_arm(n, 1, NULL);
    assert_true(site_live_and_die(s, 1, false));
}

/* Tombstones, and the disk knows of none. */
static void leave_tombstones(kill_site_t *s, bool dies)
{
    uint32_t n;

    crowd(s);
    work(s, 300, !dies);
    assert_null(disk_round(&s->ledger->disk, s->f.lane, s->f.now));
    work(s, 100, !dies);
    for (n = 0; n < 40; n++) {
        test_key_t key = ledger_filler_key(s->ledger, --s->ledger->fillers);

        assert_int_equal(delete_key(&s->f, &key), SD_OK);
    }
    if (dies)
        fixture_die(&s->f);
    else
        fixture_detach(&s->f);
}

static void tombstones_after_an_orderly_end(kill_site_t *s)
{
    leave_tombstones(s, false);
}

static void tombstones_after_a_death(kill_site_t *s)
{
    leave_tombstones(s, true);
}

/* All of it on disk, and the memory lost. */
static void not_loaded(kill_site_t *s)
{
    crowd(s);
    assert_null(disk_round(&s->ledger->disk, s->f.lane, s->f.now));
    fixture_detach(&s->f);
    memset(s->f.map, 0, s->f.mapped);
    fixture_format(&s->f);
}

const scene_t kill_scenes[] = {
    { "after an orderly end", orderly_end, false, false, false },
    { "after a death", death, false, false, false },
    { "full", full, false, false, false },
    { "evicting", evicting, true, false, false },
    { "damaged", damaged, false, true, false },
    { "with the last tag", last_tag, false, false, false },
    { "with the last tag again", last_tag_again, false, false, false },
    { "written behind, after an orderly end", tombstones_after_an_orderly_end, false, false, true },
    { "written behind, after a death", tombstones_after_a_death, false, false, true },
    { "written behind, full", full, false, false, true },
    { "written behind, evicting", evicting, true, false, true },
    { "written behind, damaged", damaged, false, true, true },
    { "written behind, not loaded", not_loaded, false, false, true },
};
const uint32_t kill_scene_count = sizeof kill_scenes / sizeof *kill_scenes;

void site_open(kill_site_t *s, const scene_t *scene)
{
    memset(s, 0, sizeof *s);
    s->scene = scene;
    fixture_map(&s->f, MIB, 8);
    fixture_format(&s->f);
    s->f.writes_behind = scene->writes_behind;
    fixture_attach(&s->f, LEDGER_WORKERS + 1, false);
    s->ledger = ledger_map();
    s->ledger->has_disk = scene->writes_behind;
    kill_points_reset();
    if (scene->writes_behind) {
        disk_setup(&s->ledger->disk, "the disk");
        sd_store_pair(s->f.store, s->ledger->disk.id, 0);
        sd_store_serve(s->f.store);
    }
    scene->prepare(s);
    s->base = malloc(s->f.mapped);
    assert_non_null(s->base);
    memcpy(s->base, s->f.map, s->f.mapped);
    s->base_ledger = *s->ledger;
}

void site_close(kill_site_t *s)
{
    free(s->base);
    ledger_unmap(&s->ledger);
    fixture_unmap(&s->f);
}

void site_rewind(kill_site_t *s)
{
    memcpy(s->f.map, s->base, s->f.mapped);
    *s->ledger = s->base_ledger;
}

/* ---- a life ---- */

typedef struct company {
    ledger_worker_t w;
    _Atomic bool stop;
    const char *wrong;
} company_t;

static void *keep_company(void *arg)
{
    company_t *c = arg;

    while (!c->wrong && !atomic_load(&c->stop))
        c->wrong = ledger_operate(&c->w);
    return NULL;
}

static const char *attach(kill_site_t *s, bool takes_over)
{
    sd_store_options_t options = { LEDGER_WORKERS + 1, s->scene->evict, s->f.counters, takes_over, s->f.writes_behind };
    const char *reason;

    memset(s->f.counters, 0, sizeof s->f.counters);
    if (sd_store_attach(&s->f.store, s->f.raw, s->f.size, &options, &reason) == SD_OK
        && s->scene->writes_behind)
        return ledger_meet_disk(s->ledger, sd_store_lane(s->f.store, LEDGER_WORKERS), s->f.now);
    return reason;
}

/* ---- rounds, in small steps between the operations ---- */

typedef struct writer {
    sd_lane_t *lane;
    bool under_way;
    uint32_t rounds;
} writer_t;

static void give_up_round(kill_site_t *s, writer_t *w)
{
    if (!w->under_way)
        return;
    disk_drop(&s->ledger->disk, s->ledger->disk.staged_count / 2);
    sd_changes_undo(w->lane);
    w->under_way = false;
}

/* In a store that is full: there is no block for this one's tombstone. The ledger
 * knows the key, and not whether it has a value. Every other round has the value
 * written, before the next one it goes. */
static void delete_without_a_block(kill_site_t *s, sd_lane_t *lane, bool now)
{
    test_key_t key = ledger_key(s->ledger, LEDGER_WORKERS * LEDGER_OWN + LEDGER_SHARED);
    sd_chain_t all;

    if (!now) {
        (void)value_store(lane, &key, 1, 10, s->f.now + LEDGER_LIVE, SD_VERSION_ANY, s->f.now, NULL);
        return;
    }
    if (sd_chain_open(lane, &all, key.bytes, key.len, s->f.now) != SD_OK)
        return;
    all.privileged = true;
    while (sd_chain_reserve(lane, &all, all.space + 1, s->f.now) == SD_OK)
        ;
    sd_store_delete(lane, key.bytes, key.len, SD_VERSION_ANY, s->f.now);
    sd_chain_discard(lane, &all);
}

/* Every fourth round comes to nothing, every seventh is of everything, and before
 * the fifth and the tenth comes another disk. */
static const char *write_behind(kill_site_t *s, writer_t *w)
{
    disk_t *d = &s->ledger->disk;
    const char *wrong = NULL;
    sd_change_t change;
    sd_disk_t known;
    uint32_t n;

    if (!w->under_way) {
        if (++w->rounds % 5 == 0) {
            disk_setup(d, w->rounds % 2 ? "another disk" : "the disk");
            sd_store_pair_anew(s->f.store, d->id);
        }
        if (s->ledger->tight && !s->scene->evict)
            delete_without_a_block(s, w->lane, w->rounds % 2 == 0);
        sd_store_disk(s->f.store, &known);
        known.astray |= w->rounds % 7 == 0;
        disk_begin(d, sd_changes_begin(w->lane, known.astray), known.astray);
        w->under_way = true;
        return NULL;
    }
    for (n = 0; n < 100 && !wrong; n++) {
        if (sd_changes_next(w->lane, s->f.now, &change)) {
            wrong = disk_write(d, w->lane, &change);
            continue;
        }
        if (w->rounds % 4 == 3) {
            give_up_round(s, w);
            return NULL;
        }
        w->under_way = false;
        wrong = disk_commit(d);
        return wrong || sd_changes_settle(w->lane) ? wrong : "a round was not settled";
    }
    return wrong;
}

/* This worker holds a value that is no longer there, so that its blocks must be
 * handed over. Where the store is full it may not. */
static void hold_a_deleted_value(kill_site_t *s, ledger_worker_t *w)
{
    test_key_t key = ledger_key(s->ledger, LEDGER_WORKERS * LEDGER_OWN + LEDGER_SHARED);
    uint64_t expiry = s->f.now + LEDGER_LIVE;

    sd_ref_release(w->lane, &w->held);
    if (value_store(w->lane, &key, 1, 1000, expiry, SD_VERSION_ANY, s->f.now, NULL) != SD_OK)
        return;
    sd_store_get(w->lane, key.bytes, key.len, s->f.now, &w->held);
    sd_store_delete(w->lane, key.bytes, key.len, SD_VERSION_ANY, s->f.now);
}

/* Leaves what all workers hold to a next process, and goes on as that one. */
static const char *hand_over(kill_site_t *s, ledger_worker_t *w)
{
    sd_chain_state_t chains[LEDGER_WORKERS];
    sd_ref_state_t refs[LEDGER_WORKERS];
    const char *wrong = NULL;
    uint32_t i;

    hold_a_deleted_value(s, &w[0]);
    for (i = 0; i < LEDGER_WORKERS; i++) {
        sd_chain_save(&w[i].open, &chains[i]);
        sd_ref_save(&w[i].held, &refs[i]);
    }
    sd_store_hand_over(&s->f.store);
    if ((wrong = attach(s, true)))
        return wrong;
    for (i = 0; i < LEDGER_WORKERS && !wrong; i++) {
        w[i].lane = sd_store_lane(s->f.store, i);
        if (sd_chain_adopt(w[i].lane, &chains[i], &w[i].open) != SD_OK && chains[i].head != 0)
            wrong = "a chain was not adopted";
        if (sd_ref_adopt(w[i].lane, &refs[i], &w[i].held) != SD_OK && refs[i].head != 0)
            wrong = "a reference was not adopted";
        if (s->f.store->repair.alone) /* what was held has been freed before it served */
            wrong = NULL;
    }
    return wrong;
}

const char *site_live(kill_site_t *s, uint64_t seed, bool company)
{
    ledger_worker_t w[LEDGER_WORKERS];
    company_t other = { .wrong = NULL };
    uint32_t mine = company ? LEDGER_WORKERS - 1 : LEDGER_WORKERS, i, n;
    writer_t writer = { NULL, false, 0 };
    const char *wrong = NULL;
    pthread_t thread;
    sd_lane_t *keeper;

    if ((wrong = attach(s, false)))
        return wrong;
    keeper = writer.lane = sd_store_lane(s->f.store, LEDGER_WORKERS);
    while (s->scene->repair_first && sd_store_repair(keeper, s->f.now))
        ;
    for (i = 0; i < LEDGER_WORKERS; i++)
        w[i] = ledger_worker(s->ledger, sd_store_lane(s->f.store, i), i, s->f.now,
                             seed * LEDGER_WORKERS + i);
    other.w = w[mine % LEDGER_WORKERS];
    if (company && pthread_create(&thread, NULL, keep_company, &other) != 0)
        return "no thread";
    for (n = 0; n < OPERATIONS && !wrong; n++) {
        wrong = ledger_operate(&w[n % mine]);
        if (n == HAND_OVER_AT && !company && !wrong) {
            give_up_round(s, &writer);
            wrong = hand_over(s, w); /* after a death the repair is not over yet */
            keeper = writer.lane = sd_store_lane(s->f.store, LEDGER_WORKERS);
        }
        if (n % GIVE_EVERY == 0 && s->scene->writes_behind && !wrong)
            wrong = write_behind(s, &writer);
        if (n % REPAIR_EVERY == 0 && !wrong)
            sd_store_repair(keeper, s->f.now);
    }
    atomic_store(&other.stop, true);
    if (company && pthread_join(thread, NULL) != 0)
        wrong = "no end of a thread";
    if (company) {
        wrong = wrong ? wrong : other.wrong;
        w[mine] = other.w;
    }
    if (!wrong) {
        give_up_round(s, &writer);
        wrong = hand_over(s, w);
    }
    if (wrong)
        return wrong;
    for (i = 0; i < LEDGER_WORKERS; i++)
        ledger_let_go(&w[i]);
    sd_store_detach(&s->f.store);
    return NULL;
}

bool site_live_and_die(kill_site_t *s, uint64_t seed, bool company)
{
    pid_t pid = fork();
    int status = 0;

    assert_true(pid >= 0);
    if (pid == 0) {
        const char *wrong;

        alarm(120);
        wrong = site_live(s, seed, company);
        if (wrong)
            snprintf(s->ledger->failure, sizeof s->ledger->failure, "%s", wrong);
        _exit(wrong ? 1 : 0);
    }
    kill_points_reset();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return true;
    if (status != 0)
        fail_msg("the process failed: %s (status %x)", s->ledger->failure, (unsigned)status);
    return false;
}
