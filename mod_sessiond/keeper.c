/* SPDX-License-Identifier: Apache-2.0
 *
 * keeper.c: housekeeping. What is hard: the sweep must give memory back within
 * a bounded time at any number of sessions without taking the processor from
 * those who serve, so it looks at a bounded number of buckets in each tick.
 */
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include <apr_strings.h>

#include "halt.h"
#include "keeper.h"
#include "lock_report.h"
#include "log.h"
#include "loop.h"

/* In a tick of 100 ms; at one session for each bucket some 3 ms of one core.
 * 5 million sessions are swept round in 26 seconds. */
#define SWEEP_BUCKETS 32768u
#define REPAIR_STEPS 8
#define LOG_EVERY_MS 60000u
#define HALT_MS 4000u /* less than the parent, or the next process, waits for a sign of us */

/* Over all slots; `at` is the counter's offset in one. */
static uint64_t sum_at(const sd_server_t *server, size_t at)
{
    uint64_t n = 0;
    uint32_t i;

    for (i = 0; i < SD_LANES_MAX; i++)
        n += __atomic_load_n((const uint64_t *)(const void *)((const char *)&server->board->slot[i] + at),
                             __ATOMIC_RELAXED);
    return n;
}

#define SUM(server, field) sum_at(server, offsetof(sd_counters_t, field))

void sd_keeper_setup(sd_keeper_t *k, sd_server_t *server)
{
    memset(k, 0, sizeof *k);
    k->server = server;
    k->lane = sd_store_lane(server->store, 0);
    k->full.seen = SUM(server, refused_full);
    k->accepts.seen = SUM(server, accept_errors);
    k->repair_began = sd_clock_ms();
    k->repaired_items = SUM(server, repaired_items);
    k->repaired_blocks = SUM(server, repaired_blocks);
    k->repairing = sd_store_repair(k->lane, k->repair_began);
}

bool sd_keeper_is_busy(const sd_keeper_t *k)
{
    return k->repairing;
}

static void repair(sd_keeper_t *k, uint64_t now)
{
    char text[SD_BOARD_TEXT];
    int i;

    for (i = 0; i < REPAIR_STEPS && k->repairing; i++)
        k->repairing = sd_store_repair(k->lane, now);
    if (k->repairing)
        return;
    apr_snprintf(text, sizeof text,
                 "%" APR_UINT64_T_FMT " orphan blocks returned, %" APR_UINT64_T_FMT
                 " damaged sessions dropped, in %" APR_UINT64_T_FMT " ms",
                 SUM(k->server, repaired_blocks) - k->repaired_blocks,
                 SUM(k->server, repaired_items) - k->repaired_items, sd_clock_ms() - k->repair_began);
    sd_board_text_set(k->server->board->last_repair, text);
    sd_log(NOTICE, 0, "repaired the store after an unclean end: %s", text);
}

/* By how much it has grown since it was last told of; 0: nothing to tell now. */
static uint64_t is_news(sd_told_t *told, uint64_t sum, uint64_t now)
{
    uint64_t grown = sum - told->seen;

    if (grown == 0 || (told->logged && now - told->logged < LOG_EVERY_MS))
        return 0;
    told->seen = sum;
    told->logged = now;
    return grown;
}

static void look_at_memory(sd_keeper_t *k, uint64_t now)
{
    uint64_t refused = is_news(&k->full, SUM(k->server, refused_full), now);

    if (refused > 0)
        sd_log(WARNING, 0, "the session memory is full: %" APR_UINT64_T_FMT " stores refused; raise "
               "SessiondMemory (needs a stop and start), lower SessiondExpiration, or set "
               "SessiondWhenFull evict", refused);
}

static void look_at_accepts(sd_keeper_t *k, uint64_t now)
{
    uint64_t paused = is_news(&k->accepts, SUM(k->server, accept_errors), now);

    if (paused > 0)
        sd_log(WARNING, atomic_load(&k->server->accept_error), "connections cannot be accepted: paused %"
               APR_UINT64_T_FMT " times for a tenth of a second, while clients wait in the queue; if "
               "descriptors are lacking, raise their limit (ulimit -n, LimitNOFILE) or lower "
               "SessiondMaxConnections", paused);
}

void sd_keeper_tick(sd_keeper_t *k, uint64_t now)
{
    if (k->repairing)
        repair(k, now);
    if (now < k->next_look)
        return;
    k->next_look = now + 100;
    if (now >= k->next_report) {
        sd_lock_report(k->server);
        k->next_report = now + 1000;
    }
    sd_locks_tick(k->server->locks, now, sd_lane_counters(k->lane));
    (void)sd_store_sweep(k->lane, now, SWEEP_BUCKETS);
    look_at_memory(k, now);
    look_at_accepts(k, now);
}

/* ---- the check ---- */

typedef struct sd_walk {
    sd_store_t *store;
    const char *rule;
    uint64_t where;
} sd_walk_t;

static void *walk(void *data)
{
    sd_walk_t *w = data;

    w->rule = sd_store_check(w->store, &w->where);
    return NULL;
}

/* In a thread of its own, so that this one can beat. */
static void walk_and_beat(sd_walk_t *w, void (*beat)(void *data), void *data)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, walk, w) != 0) {
        (void)walk(w);
        return;
    }
    do
        beat(data);
    while (!sd_thread_join(thread, 1000));
}

static void publish_check(sd_board_t *board, const sd_walk_t *w, uint64_t took)
{
    char text[SD_BOARD_TEXT];

    if (w->rule) {
        apr_snprintf(text, sizeof text, "%s (at %" APR_UINT64_T_FMT ")", w->rule, w->where);
        sd_log(ERR, 0, "check of the store: %s", text);
    }
    else {
        apr_cpystrn(text, "clean", sizeof text);
        sd_log(NOTICE, 0, "check of the store: clean, in %" APR_UINT64_T_FMT " ms", took);
    }
    sd_board_text_set(board->last_check, text);
    atomic_fetch_add(&board->checks, 1);
}

void sd_keeper_check(sd_keeper_t *k, void (*beat)(void *data), void *data)
{
    sd_walk_t w = { k->server->store, "the threads could not be halted", 0 };
    sd_halt_t *halt;
    uint64_t began;

    /* a repair that is under way would have to be taken into account; finish it */
    while (k->repairing) {
        repair(k, sd_clock_ms());
        beat(data);
    }
    sd_board_text_set(k->server->board->last_check, "running");
    halt = sd_halt_begin(k->server, HALT_MS);
    began = sd_clock_ms();
    if (halt) {
        walk_and_beat(&w, beat, data);
        sd_halt_end(&halt);
    }
    publish_check(k->server->board, &w, sd_clock_ms() - began);
}
