/* SPDX-License-Identifier: Apache-2.0
 *
 * keeper.c: housekeeping. What is hard: the sweep must give memory back within
 * a bounded time at any number of sessions without taking the processor from
 * those who serve, so it looks at a bounded number of buckets in each tick.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <apr_strings.h>

#include "keeper.h"
#include "log.h"
#include "loop.h"

/* In a tick of 100 ms; at one session for each bucket some 3 ms of one core.
 * 5 million sessions are swept round in 26 seconds. */
#define SWEEP_BUCKETS 32768u
#define REPAIR_STEPS 8
#define LOG_EVERY_MS 60000u

static uint64_t sum_full(const sd_server_t *server)
{
    uint64_t n = 0;
    uint32_t i;

    for (i = 0; i < SD_LANES_MAX; i++)
        n += atomic_load_explicit(&server->board->slot[i].refused_full, memory_order_relaxed);
    return n;
}

static uint64_t sum_repaired(const sd_server_t *server, bool items)
{
    uint64_t n = 0;
    uint32_t i;

    for (i = 0; i < SD_LANES_MAX; i++)
        n += atomic_load_explicit(items ? &server->board->slot[i].repaired_items
                                        : &server->board->slot[i].repaired_blocks,
                                  memory_order_relaxed);
    return n;
}

void sd_keeper_setup(sd_keeper_t *k, sd_server_t *server)
{
    memset(k, 0, sizeof *k);
    k->server = server;
    k->lane = sd_store_lane(server->store, 0);
    k->full_seen = sum_full(server);
    k->repair_began = sd_clock_ms();
    k->repaired_items = sum_repaired(server, true);
    k->repaired_blocks = sum_repaired(server, false);
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
                 sum_repaired(k->server, false) - k->repaired_blocks,
                 sum_repaired(k->server, true) - k->repaired_items, sd_clock_ms() - k->repair_began);
    sd_board_text_set(k->server->board->last_repair, text);
    sd_log(NOTICE, 0, "repaired the store after an unclean end: %s", text);
}

/* One line a minute, however many stores are refused. */
static void look_at_memory(sd_keeper_t *k, uint64_t now)
{
    uint64_t full = sum_full(k->server);

    if (full == k->full_seen || (k->full_logged && now - k->full_logged < LOG_EVERY_MS))
        return;
    sd_log(WARNING, 0, "the session memory is full: %" APR_UINT64_T_FMT " stores refused; raise "
           "SessiondMemory (needs a stop and start), lower SessiondExpiration, or set "
           "SessiondWhenFull evict", full - k->full_seen);
    k->full_seen = full;
    k->full_logged = now;
}

void sd_keeper_tick(sd_keeper_t *k, uint64_t now)
{
    if (k->repairing)
        repair(k, now);
    if (now < k->next_look)
        return;
    k->next_look = now + 100;
    (void)sd_store_sweep(k->lane, now, SWEEP_BUCKETS);
    look_at_memory(k, now);
}

/* ---- the check ---- */

typedef struct sd_halt {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t halted;
    bool go_on;
} sd_halt_t;

static void halt(sd_loop_t *loop, void *what)
{
    sd_halt_t *h = what;

    (void)loop;
    pthread_mutex_lock(&h->lock);
    h->halted++;
    pthread_cond_broadcast(&h->changed);
    while (!h->go_on)
        pthread_cond_wait(&h->changed, &h->lock);
    h->halted--;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
}

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
    sd_halt_t h = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, false };
    sd_walk_t w = { k->server->store, "no memory to halt the threads", 0 };
    uint32_t posted = 0;
    uint64_t began;

    /* a repair that is under way would have to be taken into account; finish it */
    while (k->repairing) {
        repair(k, sd_clock_ms());
        beat(data);
    }
    sd_board_text_set(k->server->board->last_check, "running");
    while (posted < k->server->loops && sd_loop_post(k->server->loop[posted], halt, &h))
        posted++;
    pthread_mutex_lock(&h.lock);
    while (h.halted < posted)
        pthread_cond_wait(&h.changed, &h.lock);
    began = sd_clock_ms();
    if (posted == k->server->loops)
        walk_and_beat(&w, beat, data);
    h.go_on = true;
    pthread_cond_broadcast(&h.changed);
    while (h.halted > 0)
        pthread_cond_wait(&h.changed, &h.lock);
    pthread_mutex_unlock(&h.lock);
    publish_check(k->server->board, &w, sd_clock_ms() - began);
}
