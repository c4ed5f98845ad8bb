/* SPDX-License-Identifier: Apache-2.0
 *
 * test_death.c: processes with several threads, killed at any moment. Each key
 * has a ledger in other shared memory: the last operation begun and the last
 * one acknowledged; what an operation stores follows from the key and its
 * number. So whatever moment it is, a key must show the acknowledged state or
 * that of the one operation under way. Two ways to die: SIGKILL, after which
 * the next process works and repairs at once, and SIGSTOP, where the segment is
 * copied, which is what SIGKILL would have left, and examined by itself.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store_fixture.h"

enum { WORKERS = 3, OWN_KEYS = 60, SHARED_KEYS = 6, LIVE = 1000000, MAX_LEN = 12000 };

typedef struct ledger {
    struct {
        _Atomic uint64_t begun, done; /* numbers of operations on this key */
    } own[WORKERS][OWN_KEYS];
    _Atomic uint64_t shared_version[SHARED_KEYS]; /* the highest acknowledged */
    _Atomic uint64_t operations;
    _Atomic uint32_t attached; /* rounds whose process is at work */
    char failure[200];
} ledger_t;

typedef struct site {
    fixture_t f;
    ledger_t *ledger;
    _Atomic bool stop;
} site_t;

typedef struct worker {
    site_t *site;
    uint32_t number;
    uint64_t seed;
} worker_t;

/* ---- what operation n on a key means ---- */

typedef struct effect {
    bool present;
    uint32_t len;
    uint64_t seed;
    uint64_t expiry;
} effect_t;

static effect_t effect_of(uint32_t key, uint64_t n, uint64_t now)
{
    dice_t d = dice_new(n * 1000003 + key);
    uint32_t kind = dice_below(&d, 12);
    effect_t e = { kind >= 2 && n > 0, 0, 0, now + LIVE };

    e.len = dice_below(&d, kind < 9 ? 1200 : MAX_LEN);
    e.seed = dice_roll(&d);
    if (kind == 0)
        e.expiry = now; /* stored and over at once; 1 is a delete */
    return e;
}

static bool is_delete(uint32_t key, uint64_t n)
{
    dice_t d = dice_new(n * 1000003 + key);

    return dice_below(&d, 12) == 1;
}

static test_key_t own_key(uint32_t worker, uint32_t i)
{
    return numbered_key(1 + worker * 1000 + i, 0);
}

static test_key_t shared_key(uint32_t i)
{
    return numbered_key(900000 + i, 40);
}

/* ---- is what is there what may be there? From any thread; NULL = yes ---- */

static bool shows(sd_lane_t *lane, sd_status_t status, const sd_ref_t *ref, const effect_t *e)
{
    if (!e->present)
        return status == SD_MISS;
    return status == SD_OK && ref_shows(lane, ref, e->seed, e->len);
}

static const char *examine_own(const ledger_t *l, sd_lane_t *lane, uint32_t worker, uint64_t now)
{
    uint32_t i;

    for (i = 0; i < OWN_KEYS; i++) {
        test_key_t key = own_key(worker, i);
        uint64_t done = l->own[worker][i].done, begun = l->own[worker][i].begun;
        effect_t was = effect_of(worker * 1000 + i, done, now),
                 will = effect_of(worker * 1000 + i, begun, now);
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

    for (i = 0; i < SHARED_KEYS; i++) {
        test_key_t key = shared_key(i);
        uint64_t least = l->shared_version[i], version;
        unsigned char bytes[4096];
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

/* ---- the work of a thread ---- */

static const char *store_shared(worker_t *w, sd_lane_t *lane, uint32_t i, dice_t *dice)
{
    unsigned char bytes[4096];
    uint32_t len = 8 + dice_below(dice, sizeof bytes - 8);
    uint64_t seed = dice_roll(dice), version, highest;
    _Atomic uint64_t *ledger = &w->site->ledger->shared_version[i];
    test_key_t key = shared_key(i);
    sd_chain_t chain;

    memcpy(bytes, &seed, 8);
    value_fill(bytes + 8, len - 8, seed);
    if (sd_chain_open(lane, &chain, key.bytes, key.len, w->site->f.now) != SD_OK)
        return NULL;
    if (sd_chain_append(lane, &chain, bytes, len, w->site->f.now) != SD_OK) {
        sd_chain_discard(lane, &chain);
        return NULL;
    }
    if (sd_store_put(lane, &chain, w->site->f.now + LIVE, SD_VERSION_ANY, w->site->f.now, &version)
        != SD_OK)
        return "an unconditional put was refused";
    highest = atomic_load(ledger);
    while (highest < version && !atomic_compare_exchange_weak(ledger, &highest, version))
        ;
    return NULL;
}

static const char *change_own(worker_t *w, sd_lane_t *lane, uint32_t i)
{
    ledger_t *l = w->site->ledger;
    uint32_t number = w->number * 1000 + i;
    uint64_t now = w->site->f.now, done = l->own[w->number][i].done, n = done + 1;
    effect_t e = effect_of(number, n, now);
    test_key_t key = own_key(w->number, i);
    sd_status_t status;

    atomic_store(&l->own[w->number][i].begun, n);
    if (is_delete(number, n)) {
        status = sd_store_delete(lane, key.bytes, key.len, SD_VERSION_ANY, now);
        if (status != SD_OK && status != SD_MISS)
            return "a delete was refused";
    }
    else {
        status = value_store(lane, &key, e.seed, e.len, e.expiry, SD_VERSION_ANY, now, NULL);
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

static const char *work(worker_t *w)
{
    sd_lane_t *lane = sd_store_lane(w->site->f.store, w->number);
    dice_t dice = dice_new(w->seed);
    sd_ref_t held = { 0 };
    sd_chain_t open = { 0 };
    const char *wrong = examine_own(w->site->ledger, lane, w->number, w->site->f.now);

    while (!wrong && !atomic_load(&w->site->stop)) {
        uint32_t i = dice_below(&dice, OWN_KEYS);
        test_key_t key = own_key(w->number, i);

        switch (dice_below(&dice, 16)) {
        case 0:
            wrong = examine_shared(w->site->ledger, lane, w->site->f.now);
            break;
        case 1:
        case 2:
            wrong = store_shared(w, lane, dice_below(&dice, SHARED_KEYS), &dice);
            break;
        case 3:
            sd_ref_release(lane, &held);
            sd_store_get(lane, key.bytes, key.len, w->site->f.now, &held);
            break;
        case 4:
            sd_chain_discard(lane, &open);
            if (sd_chain_open(lane, &open, "never finished", 14, w->site->f.now) == SD_OK)
                sd_chain_reserve(lane, &open, dice_below(&dice, 9000), w->site->f.now);
            break;
        case 5:
            sd_store_sweep(lane, w->site->f.now, 512);
            break;
        case 6:
            if (dice_below(&dice, 8) == 0)
                wrong = examine_own(w->site->ledger, lane, w->number, w->site->f.now);
            break;
        default:
            wrong = change_own(w, lane, i);
        }
        atomic_fetch_add(&w->site->ledger->operations, 1);
    }
    sd_ref_release(lane, &held);
    sd_chain_discard(lane, &open);
    return wrong;
}

static void *work_thread(void *arg)
{
    worker_t *w = arg;
    const char *wrong = work(w);

    if (wrong) {
        snprintf(w->site->ledger->failure, sizeof w->site->ledger->failure, "worker %u: %s",
                 w->number, wrong);
        _exit(1);
    }
    return NULL;
}

/* One process: attaches, serves and repairs at the same time, until it is
 * killed. Never returns. */
static void child(site_t *site, uint64_t seed)
{
    sd_store_options_t options = { WORKERS + 1, false, site->f.counters };
    pthread_t threads[WORKERS];
    worker_t workers[WORKERS];
    const char *reason = "no thread";
    sd_lane_t *lane;
    uint32_t i;

    alarm(300);
    if (sd_store_attach(&site->f.store, site->f.raw, site->f.size, &options, &reason) != SD_OK)
        goto failed;
    lane = sd_store_lane(site->f.store, WORKERS);
    for (i = 0; i < WORKERS; i++) {
        workers[i] = (worker_t){ site, i, seed * WORKERS + i };
        if (pthread_create(&threads[i], NULL, work_thread, &workers[i]) != 0)
            goto failed;
    }
    atomic_fetch_add(&site->ledger->attached, 1);
    for (;;) {
        if (!sd_store_repair(lane, site->f.now))
            sd_store_sweep(lane, site->f.now, 256);
        if (atomic_load(&site->f.counters[WORKERS].repaired_items) != 0) {
            reason = "the repair dropped an item";
            goto failed;
        }
        sched_yield();
    }
failed:
    snprintf(site->ledger->failure, sizeof site->ledger->failure, "%s", reason);
    _exit(2);
}

/* ---- the examination of what a dead process left ---- */

static void examine(fixture_t *f, const ledger_t *l)
{
    uint64_t used = 0, items = 0;
    const char *wrong = NULL;
    uint32_t w, i, steps = 0;

    f->now = 1000000;
    memset(f->counters, 0, sizeof f->counters);
    fixture_attach(f, WORKERS + 1, false);
    assert_clean(f->store);
    do { /* at every stage of the repair */
        for (w = 0; w < WORKERS && !wrong; w++)
            wrong = examine_own(l, f->lane, w, f->now);
        if (!wrong)
            wrong = examine_shared(l, f->lane, f->now);
        if (wrong)
            fail_msg("%s (step %u)", wrong, steps);
        steps++;
    } while (sd_store_repair(f->lane, f->now));
    assert_clean(f->store);
    sd_store_sweep(f->lane, f->now, UINT32_MAX);
    for (w = 0; w < WORKERS + 1; w++)
        for (i = 0; i < (w < WORKERS ? (uint32_t)OWN_KEYS : (uint32_t)SHARED_KEYS); i++) {
            test_key_t key = w < WORKERS ? own_key(w, i) : shared_key(i);
            uint32_t block = item_of(f, &key);

            if (block != 0) {
                used += sd_item_blocks(key.len, sd_item(f->store, block)->data_len);
                items++;
            }
        }
    assert_int_equal(sessions(f), items);
    assert_int_equal(blocks_used(f), used);
    assert_int_equal(sd_blocks_free_count(f->store), f->store->block_count - used);
    assert_int_equal(counter_sum(f, repaired_items), 0);
    assert_clean(f->store);
}

static void site_open(site_t *s)
{
    memset(s, 0, sizeof *s);
    fixture_map(&s->f, MIB, 8);
    fixture_format(&s->f);
    s->ledger = mmap(NULL, sizeof *s->ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                     -1, 0);
    assert_ptr_not_equal(s->ledger, MAP_FAILED);
}

static void site_close(site_t *s)
{
    munmap(s->ledger, sizeof *s->ledger);
    fixture_unmap(&s->f);
}

static pid_t start(site_t *s, uint64_t seed)
{
    uint32_t attached = atomic_load(&s->ledger->attached);
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0)
        child(s, seed);
    while (atomic_load(&s->ledger->attached) == attached) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            fail_msg("the process ended by itself: %s (status %x)", s->ledger->failure, status);
        sched_yield();
    }
    return pid;
}

static void kill_it(site_t *s, pid_t pid)
{
    int status = 0;

    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("the process failed: %s (status %x)", s->ledger->failure, (unsigned)status);
}

static void pause_for(uint32_t microseconds)
{
    struct timespec t = { 0, (long)microseconds * 1000 };

    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        ;
}

/* Killed again and again, also while it repairs what the last one left. Now
 * and then a process of its own kind looks at everything. */
static void killed_again_and_again(void **state)
{
    uint32_t rounds = test_ops(160, 12), round, longest = slowed_down() ? 60000 : 6000;
    dice_t dice = dice_new(1);
    site_t s;

    (void)state;
    site_open(&s);
    for (round = 0; round < rounds; round++) {
        pid_t pid = start(&s, round + 1);

        /* some live long, most die within their first moments */
        pause_for(dice_below(&dice, dice_below(&dice, 4) ? longest / 20 : longest));
        kill_it(&s, pid);
        if (round % 8 == 7) {
            examine(&s.f, s.ledger);
            if (round % 16 == 7)
                fixture_detach(&s.f);
            else
                fixture_die(&s.f);
        }
    }
    assert_true(atomic_load(&s.ledger->operations) > rounds * 3);
    examine(&s.f, s.ledger);
    fixture_detach(&s.f);
    site_close(&s);
}

/* Stopped at many moments of one life; a copy of the segment is what a death
 * would have left at each of them. */
static void stopped_and_copied(void **state)
{
    uint32_t rounds = test_ops(800, 15), round;
    ledger_t *ledger = malloc(sizeof *ledger);
    dice_t dice = dice_new(2);
    fixture_t copy;
    site_t s;
    pid_t pid;

    (void)state;
    assert_non_null(ledger);
    site_open(&s);
    fixture_map(&copy, MIB, 8);
    pid = start(&s, 1);
    for (round = 0; round < rounds; round++) {
        int status = 0;

        pause_for(dice_below(&dice, 300));
        kill(pid, SIGSTOP);
        assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
        if (!WIFSTOPPED(status))
            fail_msg("the process failed: %s", s.ledger->failure);
        memcpy(copy.map, s.f.map, copy.mapped);
        memcpy(ledger, s.ledger, sizeof *ledger);
        kill(pid, SIGCONT);
        examine(&copy, ledger);
        fixture_die(&copy);
        if (round % 64 == 63) { /* another life, that begins with a repair */
            kill_it(&s, pid);
            pid = start(&s, round);
        }
    }
    kill_it(&s, pid);
    examine(&s.f, s.ledger);
    fixture_detach(&s.f);
    free(ledger);
    fixture_unmap(&copy);
    site_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_again_and_again),
        cmocka_unit_test(stopped_and_copied),
    };

    alarm(900);
    return cmocka_run_group_tests_name("death", tests, NULL, NULL);
}
