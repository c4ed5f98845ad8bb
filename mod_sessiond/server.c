/* SPDX-License-Identifier: Apache-2.0
 *
 * server.c: the session process. What is hard is its beginning and its end:
 * it may not touch the store before every earlier process has let go of it,
 * must not end by a code that httpd takes for a reason to stop, and must not
 * outlive its parent.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <apr_strings.h>

#include "durability.h"
#include "handover.h"
#include "keeper.h"
#include "log.h"
#include "loop.h"
#include "server.h"
#include "settle.h"
#include "shm/changes.h"
#include "takeover.h"

#ifndef SD_VERSION
#error "SD_VERSION is the package's version"
#endif
#define GREETING "mod_sessiond/" SD_VERSION " fence lock"

#define TICK_MS 100
#define STAND_MS 20
#define DRAIN_MS 1000
#ifndef SD_ABANDONED_MS
#define SD_ABANDONED_MS 600000u /* a restart that takes longer: see is_abandoned */
#endif
#define STOP_MS 5000          /* for threads to end after the drain */

uint64_t sd_clock_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t sd_clock_ms(void)
{
    return sd_clock_us() / 1000;
}

bool sd_thread_join(pthread_t thread, uint64_t ms)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)(ms / 1000);
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &t) == 0;
}

static void tell_parent(const sd_start_t *start, sd_news_kind_t kind, uint64_t stalled_ms)
{
    sd_news_t news = { (uint32_t)kind, (uint32_t)stalled_ms, sd_clock_ms() };

    (void)send(start->control, &news, sizeof news, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Never exit(): its handlers belong to the parent and to other modules. */
static void leave(const sd_start_t *start, int code) __attribute__((noreturn));
static void leave(const sd_start_t *start, int code)
{
    if (code != SD_EXIT_OK)
        tell_parent(start, SD_NEWS_FAILED, 0);
    _exit(code);
}

/* True: a SIGTERM is there. Others are handled by the caller's bits. */
static bool read_signals(int fd, bool *check)
{
    struct signalfd_siginfo info;
    bool term = false;

    while (read(fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGTERM)
            term = true;
        else if (info.ssi_signo == SIGUSR2 && check)
            *check = true;
    }
    return term;
}

/* A later process is there, and asks for what we do not have. */
static bool is_unwanted(const sd_start_t *start, bool *restarting)
{
    char word;

    while ((word = sd_word_hear(start->control).word) != 0) {
        if (word == SD_WORD_HAND_OVER || word == SD_WORD_FINISH)
            return true;
        if (word == SD_WORD_RESTART || word == SD_WORD_LOADED)
            *restarting = word == SD_WORD_RESTART;
    }
    return false;
}

/* A crash loop is slowed down; a SIGTERM, or a later process, ends the wait. */
static void wait_before_start(const sd_start_t *start, int signals, bool *restarting)
{
    struct pollfd p[2] = { { .fd = signals, .events = POLLIN }, { .fd = start->control, .events = POLLIN } };
    uint64_t until = sd_clock_ms() + (uint64_t)start->delay_ms, now;

    while ((now = sd_clock_ms()) < until) {
        uint64_t wait = until - now < 1000 ? until - now : 1000;

        if (poll(p, 2, (int)wait) > 0 && (read_signals(signals, NULL) || is_unwanted(start, restarting)))
            leave(start, SD_EXIT_OK);
        tell_parent(start, SD_NEWS_BEAT, 0);
    }
}

/* ---- serving ---- */

static void start_loops(const sd_start_t *start, sd_server_t *server)
{
    uint32_t i;
    int err;

    for (i = 0; i < server->loops; i++) {
        server->loop[i] = sd_loop_create(server, i);
        if (!server->loop[i]) {
            sd_log(CRIT, errno, "could not create event loop %u of %u", i + 1, server->loops);
            leave(start, SD_EXIT_FAILED);
        }
    }
    for (i = 0; i < server->loops; i++) {
        err = sd_loop_start(server->loop[i]);
        if (err != 0) {
            sd_log(CRIT, err, "could not start thread %u of %u; a lower SessiondThreads may do",
                   i + 1, server->loops);
            leave(start, SD_EXIT_FAILED);
        }
    }
}

/* A slow client must not keep the process: what is not finished when the time
 * is over is reset by its loop. True: all threads have ended. */
static bool stop_loops(sd_server_t *server)
{
    uint64_t until = sd_clock_ms() + DRAIN_MS;
    uint32_t i;
    bool all = true;

    atomic_store(&server->closing, true);
    for (i = 0; i < server->loops; i++)
        if (!sd_loop_post(server->loop[i], sd_loop_drain, &until))
            return false;
    for (i = 0; i < server->loops; i++) {
        uint64_t now = sd_clock_ms(), last = until + STOP_MS;

        if (!sd_thread_join(server->loop[i]->thread, now < last ? last - now : 0))
            all = false;
    }
    return all;
}

/* When nobody posts letters to them any more: they did to each other, and the thread
 * that writes to disk does after each round. */
static void destroy_loops(sd_server_t *server)
{
    uint32_t i;

    for (i = 0; i < server->loops; i++)
        sd_loop_destroy(&server->loop[i]);
}

static uint64_t slowest_loop(const sd_server_t *server, uint64_t now)
{
    uint64_t worst = 0;
    uint32_t i;

    for (i = 0; i < server->loops; i++) {
        uint64_t beat = atomic_load_explicit(&server->loop[i]->beat, memory_order_relaxed);

        if (now > beat && now - beat > worst)
            worst = now - beat;
    }
    return worst;
}

/* Nobody will serve these sockets any more: others still hold them, so they are
 * shut down rather than closed. */
static void abandon_listeners(sd_server_t *server)
{
    sd_log(NOTICE, 0, "mod_sessiond is no longer loaded: sessions are no longer served");
    sd_listener_set_shutdown(server->listeners);
}

/* What the main thread has been told. */
typedef struct told {
    const sd_start_t *start;
    uint64_t restart_at; /* ms: httpd restarts, and may not load us again; 0 = it has */
    sd_word_t asked;     /* for the connections; not answered yet */
    bool finish;
} told_t;

/* The parent has said that it restarts, and not that it has loaded us again, so long
 * ago that we cannot be in its configuration any more. */
static bool is_abandoned(const told_t *told, uint64_t now)
{
    return told->restart_at != 0 && now - told->restart_at > SD_ABANDONED_MS;
}

static void listen_to_words(told_t *told)
{
    sd_word_t word;

    while ((word = sd_word_hear(told->start->control)).word != 0)
        switch (word.word) {
        case SD_WORD_RESTART:
            told->restart_at = sd_clock_ms();
            break;
        case SD_WORD_LOADED:
            told->restart_at = 0;
            break;
        case SD_WORD_FINISH:
            told->finish = true;
            break;
        case SD_WORD_HAND_OVER: /* only the latest counts: the one before gives way to it */
            if (told->asked.word)
                sd_handover_refuse(&told->asked);
            told->asked = word;
            break;
        default:
            break;
        }
}

static void beat_during_check(void *data)
{
    told_t *told = data;

    tell_parent(told->start, SD_NEWS_BEAT, 0);
    listen_to_words(told);
    if (told->asked.word)
        sd_handover_put_off(&told->asked);
}

/* True: this process has handed everything over. */
static bool answer(sd_server_t *server, told_t *told)
{
    sd_word_t asked = told->asked;

    if (!asked.word || told->finish)
        return false;
    /* a commit that the disk takes its time for is not waited for: we serve on */
    if (!sd_durability_stand(server->durability, STAND_MS)) {
        sd_handover_put_off(&asked);
        return false;
    }
    told->asked.word = 0;
    if (sd_handover_give(server, &asked))
        return true;
    (void)sd_durability_start(server->durability);
    return false;
}

/* The parent may have put up that we are down when the one before us died, after
 * we had come up. */
static void stay_up(sd_board_t *board)
{
    uint32_t down = SD_STATE_DOWN;

    if (atomic_compare_exchange_strong(&board->state, &down, SD_STATE_RUNNING))
        atomic_store(&board->down_since, 0);
}

/* True: everything has been handed over; false: the process is to finish. */
static bool serve(const sd_start_t *start, sd_server_t *server, int signals, uint64_t restart_at)
{
    told_t told = { .start = start, .restart_at = restart_at };
    sd_keeper_t keeper;
    uint64_t next_beat = 0;
    bool term = false, check = false;

    sd_keeper_setup(&keeper, server);
    while (!term) {
        struct pollfd p[2] = { { .fd = signals, .events = POLLIN }, { .fd = start->control, .events = POLLIN } };
        uint64_t now;

        (void)poll(p, 2, sd_keeper_is_busy(&keeper) ? 1 : TICK_MS);
        term = read_signals(signals, &check);
        if (p[1].revents & POLLIN)
            listen_to_words(&told);
        /* a commit that the disk takes its time for is not waited for here either */
        if (check && sd_durability_stand(server->durability, STAND_MS)) {
            check = false;
            sd_keeper_check(&keeper, beat_during_check, &told);
            (void)sd_durability_start(server->durability);
        }
        if (!term && answer(server, &told))
            return true;
        term |= told.finish;
        now = sd_clock_ms();
        sd_keeper_tick(&keeper, now);
        if (now < next_beat)
            continue;
        tell_parent(start, SD_NEWS_BEAT, slowest_loop(server, now));
        stay_up(start->board);
        sd_durability_watch(server->durability, now);
        next_beat = now + 1000;
        if (getppid() != start->parent)
            term = true;
        if (is_abandoned(&told, now)) {
            abandon_listeners(server);
            term = true;
        }
    }
    return false;
}

static void set_board(const sd_start_t *start, const sd_server_t *server)
{
    sd_board_t *b = start->board;
    sd_usage_t usage;

    sd_store_usage(server->store, &usage);
    atomic_store(&b->pid, (int64_t)getpid());
    atomic_store(&b->started, sd_clock_ms());
    atomic_store(&b->threads, server->loops);
    atomic_store(&b->max_connections, start->config->max_connections);
    atomic_store(&b->max_size, server->limits.max_size);
    atomic_store(&b->memory_size, start->segment_bytes);
    atomic_store(&b->blocks, usage.blocks);
    atomic_store(&b->block_bytes, (uint32_t)usage.block_bytes);
}

static void reset_gauges(sd_board_t *board, uint32_t lanes)
{
    uint32_t i;

    for (i = lanes; i < SD_LANES_MAX; i++) {
        atomic_store(&board->slot[i].sessions, 0);
        atomic_store(&board->slot[i].blocks_used, 0);
    }
    for (i = 0; i < SD_LANES_MAX; i++) {
        atomic_store(&board->slot[i].connections_open, 0);
        atomic_store(&board->slot[i].busy_us, 0);
        atomic_store(&board->slot[i].locks_held, 0);
        atomic_store(&board->slot[i].lock_waiters, 0);
    }
}

/* Everything that can fail is done before the earlier process is asked to go: so
 * one that serves is never given up for one that cannot. */
static void get_ready(const sd_start_t *start, sd_server_t *server)
{
    sd_store_options_t options = { .evict_when_full = start->config->evict,
                                   .counters = start->board->slot };
    const char *reason;
    bool failed;

    server->config = start->config;
    server->board = start->board;
    server->listeners = start->listeners;
    server->halt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&server->go_lock, NULL);
    pthread_cond_init(&server->gone, NULL);
    sd_strangers_setup(&server->strangers);
    server->loops = sd_config_threads(start->config);
    server->limits.max_size = sd_config_max_size(start->config);
    if (server->limits.max_size > start->segment_bytes / 8 * 7)
        server->limits.max_size = start->segment_bytes / 8 * 7;
    server->limits.expiration_ms = (uint64_t)start->config->expiration * 1000;
    server->limits.greeting = GREETING;
    options.lanes = server->loops + 1;
    server->durability = sd_durability_create(server, &failed);
    if (failed) {
        sd_log(CRIT, 0, "no memory for SessiondPersist");
        leave(start, SD_EXIT_FAILED);
    }
    if (server->durability) { /* its thread is one more that uses the store */
        options.lanes++;
        options.writes_behind = true;
    }
    server->locks = sd_locks_create((uint64_t)start->config->lock_timeout * 1000);
    if (!server->locks) {
        sd_log(CRIT, 0, "no memory for the table of locks");
        leave(start, SD_EXIT_FAILED);
    }
    if (sd_store_prepare(&server->store, start->segment, start->segment_bytes, &options, &reason)
        != SD_OK) {
        sd_log(CRIT, 0, "cannot use the session memory: %s", reason);
        leave(start, SD_EXIT_FAILED);
    }
    start_loops(start, server);
}

void sd_server_wait_for_go(sd_server_t *server)
{
    pthread_mutex_lock(&server->go_lock);
    while (!server->go)
        pthread_cond_wait(&server->gone, &server->go_lock);
    pthread_mutex_unlock(&server->go_lock);
}

static void go(sd_server_t *server)
{
    pthread_mutex_lock(&server->go_lock);
    server->go = true;
    pthread_cond_broadcast(&server->gone);
    pthread_mutex_unlock(&server->go_lock);
}

/* Unless the parent has put up that nothing is to be served any more. */
static void put_up_running(sd_board_t *board)
{
    uint32_t state = atomic_load(&board->state);

    while (state != SD_STATE_OFF && !atomic_compare_exchange_weak(&board->state, &state, SD_STATE_RUNNING))
        ;
}

typedef struct loading {
    const sd_start_t *start;
    int signals;
    bool *restarting;
} loading_t;

/* False: nobody wants us any more. */
static bool beat_while_loading(void *data)
{
    loading_t *l = data;

    tell_parent(l->start, SD_NEWS_BEAT, 0);
    return !read_signals(l->signals, NULL) && !is_unwanted(l->start, l->restarting);
}

/* No earlier process has the store any more. */
static void begin(const sd_start_t *start, sd_server_t *server, sd_takeover_t *taken, loading_t *loading)
{
    char text[SD_BOARD_TEXT];
    uint32_t had = taken->parcels.connections, live, i;
    bool complete = taken->in_order && sd_parcels_are_readable(&taken->parcels);
    uint64_t received = sd_clock_us(), entered;
    const char *reason;

    reset_gauges(start->board, server->loops + 1);
    if (sd_store_enter(server->store, complete, &reason) != SD_OK) {
        sd_log(CRIT, 0, "cannot use the session memory: %s", reason);
        leave(start, SD_EXIT_FAILED);
    }
    for (i = 0; i < server->loops; i++)
        sd_loop_prepare(server->loop[i]);
    if (!sd_durability_load(server->durability, start, beat_while_loading, loading))
        leave(start, SD_EXIT_OK);
    sd_store_serve(server->store);
    entered = sd_clock_us();
    live = sd_parcels_deal(&taken->parcels, server);
    sd_store_settle(server->store);
    if (taken->since != 0)
        sd_log(DEBUG, 0, "hand-over: threads stood after %ld us, all was sent after %ld, received after %ld, "
               "the store entered after %ld, connections dealt out after %ld",
               (long)(taken->stood - taken->since), (long)(taken->sent - taken->since), (long)(received - taken->since), (long)(entered - taken->since),
               (long)(sd_clock_us() - taken->since));
    set_board(start, server);
    sd_board_locks_set(start->board, NULL, 0);
    put_up_running(start->board);
    atomic_store(&start->board->down_since, 0); /* last: until now the pages told of the outage */
    go(server);
    (void)sd_durability_start(server->durability);
    if (taken->since == 0 && had == 0) {
        sd_log(INFO, 0, "process %" APR_PID_T_FMT " serves sessions with %u threads", getpid(), server->loops);
        return;
    }
    apr_snprintf(text, sizeof text, "%u of %u connections taken over", live, had);
    if (taken->since != 0)
        apr_snprintf(text + strlen(text), sizeof text - strlen(text), ", service stood still for %.1f ms",
                     (double)(sd_clock_us() - taken->since) / 1000.0);
    sd_board_text_set(start->board->last_handover, text);
    sd_log(INFO, 0, "process %" APR_PID_T_FMT " serves sessions with %u threads: %s", getpid(), server->loops,
           text);
}

static void beat_at_the_end(void *data)
{
    tell_parent(data, SD_NEWS_BEAT, 0);
}

static void beat_before_serving(const sd_start_t *start)
{
    tell_parent(start, SD_NEWS_BEAT, 0);
}

void sd_server_run(const sd_start_t *start)
{
    static sd_server_t server; /* in .bss: this process has one */
    static sd_takeover_t taken;
    int signals = sd_settle_signals();
    uint32_t running = SD_STATE_RUNNING;
    bool ended, restarting = false;
    loading_t loading = { start, signals, &taken.restarting };

    if (!sd_settle_process(start))
        leave(start, SD_EXIT_FAILED);
    if (getppid() != start->parent)
        leave(start, SD_EXIT_ORPHANED);
    wait_before_start(start, signals, &restarting);
    if (start->earlier_count == 0)
        atomic_store(&start->board->state, SD_STATE_STARTING);
    get_ready(start, &server);
    sd_word_keep_spare();
    taken.restarting = restarting;
    switch (sd_takeover_receive(&taken, start, signals, beat_before_serving)) {
    case SD_TAKEOVER_SERVE:
        break;
    case SD_TAKEOVER_LEAVE:
        leave(start, SD_EXIT_OK);
    case SD_TAKEOVER_FAILED:
        leave(start, SD_EXIT_FAILED);
    }
    begin(start, &server, &taken, &loading);
    tell_parent(start, SD_NEWS_READY, 0);
    if (taken.channel >= 0)
        close(taken.channel); /* now the earlier one ends, and the parent finds us ready */

    if (serve(start, &server, signals, taken.restarting ? sd_clock_ms() : 0)) {
        tell_parent(start, SD_NEWS_HANDED_OVER, 0);
        leave(start, SD_EXIT_OK);
    }
    /* the parent may have put up "off", a successor "starting" */
    (void)atomic_compare_exchange_strong(&start->board->state, &running, SD_STATE_DRAINING);
    /* Without httpd nobody will accept again. Daemons of other modules may still
     * hold the sockets, so closing them would not do. */
    if (getppid() != start->parent)
        sd_listener_set_shutdown(start->listeners);
    ended = stop_loops(&server);
    if (!sd_durability_finish(server.durability, beat_at_the_end, (void *)(uintptr_t)start))
        sd_log(CRIT, 0, "the last changes could not be written to disk");
    if (ended) {
        destroy_loops(&server);
        sd_store_detach(&server.store);
    }
    else
        sd_log(WARNING, 0, "not all threads ended in time; the next process repairs the store");
    leave(start, SD_EXIT_OK);
}
