/* SPDX-License-Identifier: Apache-2.0
 *
 * test_death.c: processes with several threads, killed at any moment; what must
 * be there afterwards stands in a ledger (ledger.h). Two ways to die: SIGKILL,
 * after which the next process works and repairs at once, and SIGSTOP, where the
 * segment is copied, which is what SIGKILL would have left, and examined by
 * itself. Each of them also with a disk, to which the main thread writes. Deaths at named moments are test_kill_points.c's matter.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ledger.h"

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

static void *work_thread(void *arg)
{
    worker_t *of = arg;
    site_t *s = of->site;
    sd_lane_t *lane = sd_store_lane(s->f.store, of->number);
    ledger_worker_t w = ledger_worker(s->ledger, lane, of->number, s->f.now, of->seed);
    const char *wrong = ledger_examine_own(s->ledger, lane, of->number, s->f.now);

    while (!wrong && !atomic_load(&s->stop))
        wrong = ledger_operate(&w);
    ledger_let_go(&w);
    if (wrong) {
        snprintf(s->ledger->failure, sizeof s->ledger->failure, "worker %u: %s", of->number, wrong);
        _exit(1);
    }
    return NULL;
}

/* One process: attaches, serves and repairs at the same time, until it is
 * killed. Never returns. */
static void child(site_t *site, uint64_t seed)
{
    sd_store_options_t options = { LEDGER_WORKERS + 1, false, site->f.counters, false, site->f.writes_behind };
    pthread_t threads[LEDGER_WORKERS];
    worker_t workers[LEDGER_WORKERS];
    const char *reason = "no thread", *wrong = NULL;
    sd_lane_t *lane;
    uint32_t i;

    alarm(300);
    if (sd_store_attach(&site->f.store, site->f.raw, site->f.size, &options, &reason) != SD_OK)
        goto failed;
    lane = sd_store_lane(site->f.store, LEDGER_WORKERS);
    if (site->ledger->has_disk && (wrong = ledger_meet_disk(site->ledger, lane, site->f.now)))
        goto failed;
    for (i = 0; i < LEDGER_WORKERS; i++) {
        workers[i] = (worker_t){ site, i, seed * LEDGER_WORKERS + i };
        if (pthread_create(&threads[i], NULL, work_thread, &workers[i]) != 0)
            goto failed;
    }
    atomic_fetch_add(&site->ledger->attached, 1);
    for (;;) {
        if (site->ledger->has_disk && (wrong = disk_round(&site->ledger->disk, lane, site->f.now)))
            goto failed;
        if (!sd_store_repair(lane, site->f.now))
            sd_store_sweep(lane, site->f.now, 256);
        if (atomic_load(&site->f.counters[LEDGER_WORKERS].repaired_items) != 0) {
            reason = "the repair dropped an item";
            goto failed;
        }
        sched_yield();
    }
failed:
    snprintf(site->ledger->failure, sizeof site->ledger->failure, "%s", wrong ? wrong : reason);
    _exit(2);
}

static void site_open(site_t *s, bool has_disk)
{
    memset(s, 0, sizeof *s);
    fixture_map(&s->f, MIB, 8);
    fixture_format(&s->f);
    s->ledger = ledger_map();
    s->ledger->has_disk = s->f.writes_behind = has_disk;
    if (has_disk)
        disk_setup(&s->ledger->disk, "the disk");
}

static void site_close(site_t *s)
{
    ledger_unmap(&s->ledger);
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

    site_open(&s, *state != NULL);
    for (round = 0; round < rounds; round++) {
        pid_t pid = start(&s, round + 1);

        /* some live long, most die within their first moments */
        pause_for(dice_below(&dice, dice_below(&dice, 4) ? longest / 20 : longest));
        kill_it(&s, pid);
        if (round % 8 == 7) {
            ledger_examine(&s.f, s.ledger);
            if (round % 16 == 7)
                fixture_detach(&s.f);
            else
                fixture_die(&s.f);
        }
    }
    assert_true(atomic_load(&s.ledger->operations) > rounds * 3);
    ledger_examine(&s.f, s.ledger);
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

    assert_non_null(ledger);
    site_open(&s, *state != NULL);
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
        ledger_examine(&copy, ledger);
        fixture_die(&copy);
        if (round % 64 == 63) { /* another life, that begins with a repair */
            kill_it(&s, pid);
            pid = start(&s, round);
        }
    }
    kill_it(&s, pid);
    ledger_examine(&s.f, s.ledger);
    fixture_detach(&s.f);
    free(ledger);
    fixture_unmap(&copy);
    site_close(&s);
}

int main(void)
{
    static char yes[] = "with a disk";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_again_and_again),
        cmocka_unit_test(stopped_and_copied),
        { "killed_again_and_again (written behind)", killed_again_and_again, NULL, NULL, yes },
        { "stopped_and_copied (written behind)", stopped_and_copied, NULL, NULL, yes },
    };

    alarm(900);
    return cmocka_run_group_tests_name("death", tests, NULL, NULL);
}
