/* SPDX-License-Identifier: Apache-2.0
 *
 * durability.c: see the header. What is hard:
 *
 *  - which of the two is the truth, when a segment and a directory meet: a segment
 *    that has served is newer than any disk, and one that has not has nothing to
 *    say. Each knows the other by an id and by the number of the last round that
 *    both have; what does not fit is never overwritten, and never loaded into
 *    sessions that live;
 *  - a disk may hang. So the thread is asked to stand, not waited for, before the
 *    store may go to another process;
 *  - trouble must be loud once, not once a second, and must end by itself.
 */
#ifdef HAVE_LMDB

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <apr_strings.h>

#include "commit.h"
#include "durability.h"
#include "log.h"
#include "persist/load.h"
#include "persist/persist.h"
#include "shm/changes.h"

#define RETRY_MS 1000u           /* after trouble, until the next try */
#define LOG_EVERY_MS 60000u
#define HANG_MS 10000u           /* a round that takes longer is told of: the disk may hang */
#define LOOK_EVERY_MS 1000u      /* always: for what nobody waits for, such as expiries */
#define BUSY_MS 30000u           /* an earlier httpd may still be writing its last round */
#define LOAD_TRIES 3             /* if it fails for what is not in the files */
#define ASTRAY_MOST 3u
#define CLOCK_MOVED_MS 60000     /* from then on all expiries on disk are written anew */

struct sd_durability {
    sd_server_t *server;
    const char *dir;
    uint64_t interval_ms;        /* 0 = always */
    sd_lane_t *lane;

    pthread_t thread;
    bool running;                /* there is a thread to be joined; of the main thread */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool wanted, finish;
    atomic_bool stand;           /* the round is to be given up */

    _Atomic uint64_t begun;      /* rounds; a ticket is this number */
    _Atomic uint64_t settled;    /* tickets below it are on disk */
    atomic_bool lost;
    _Atomic uint64_t round_since; /* ms: the one under way began; 0 = there is none */
    uint64_t hang_logged;         /* the main thread's; ms, 0 = it has not been */

    /* the thread's */
    sd_journal_t *journal;
    bool everything;             /* what is on disk is to be written anew */
    bool fresh_clock;            /* what was written last went by the store's clock of another time, perhaps of another boot */
    uint32_t astray_rounds;      /* in a row, each written in vain */
    uint64_t lost_since, logged; /* ms, 0 = it is not */
    char barred[SD_PERSIST_REASON]; /* why what the directory has must not be written to; "" = it may */
};

static uint64_t wall_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool is_all_zeros(const unsigned char *id)
{
    static const unsigned char zeros[SD_DISK_ID_BYTES];

    return memcmp(id, zeros, sizeof zeros) == 0;
}

/* False: the kernel gives no chance yet; never seen, and not worth waiting for. */
static bool draw(void *out, size_t n)
{
    return getrandom(out, n, 0) == (ssize_t)n;
}

sd_durability_t *sd_durability_create(sd_server_t *server, bool *failed)
{
    const sd_config_t *config = server->config;
    pthread_condattr_t monotonic;
    sd_durability_t *d;

    *failed = false;
    if (!config->persist_dir)
        return NULL;
    d = calloc(1, sizeof *d);
    if (!d) {
        *failed = true;
        return NULL;
    }
    d->server = server;
    d->dir = config->persist_dir;
    d->interval_ms = (uint64_t)config->persist_sync * 1000;
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&d->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return d;
}

/* ---- what is put up, and said ---- */

static void release_held(const sd_durability_t *d)
{
    uint32_t i;

    for (i = 0; i < d->server->loops; i++)
        (void)sd_loop_post(d->server->loop[i], sd_commit_release, NULL);
}

static void lose(sd_durability_t *d, const char *reason)
{
    sd_board_t *board = d->server->board;
    uint64_t now = sd_clock_ms();

    sd_count(sd_lane_counters(d->lane), disk_failures);
    sd_board_text_set(board->durability_reason, reason);
    if (d->lost_since == 0)
        atomic_store(&board->durability_since, now);
    atomic_store(&board->durability, SD_DURABILITY_LOST);
    if (d->lost_since == 0) {
        d->lost_since = now;
        atomic_store(&d->lost, true);
        if (d->interval_ms == 0)
            release_held(d);
    }
    if (d->logged != 0 && now - d->logged < LOG_EVERY_MS)
        return;
    d->logged = now;
    sd_log(CRIT, 0, "sessions are NOT being written to disk, since %" APR_UINT64_T_FMT " s: %s. They are served from "
           "memory, and a stop or a power cut would lose what has changed", (now - d->lost_since) / 1000, reason);
}

static void regain(sd_durability_t *d)
{
    sd_board_t *board = d->server->board;
    uint64_t now = sd_clock_ms();

    atomic_store(&board->last_commit, now);
    if (d->lost_since == 0 && atomic_load(&board->durability) == SD_DURABILITY_ON)
        return;
    if (d->lost_since != 0)
        sd_log(NOTICE, 0, "sessions are written to disk again, and all that had changed in the %" APR_UINT64_T_FMT
               " s before is there", (now - d->lost_since) / 1000);
    d->lost_since = d->logged = 0;
    sd_board_text_set(board->durability_reason, "");
    atomic_store(&board->durability_since, now);
    atomic_store(&board->durability, SD_DURABILITY_ON);
    atomic_store(&d->lost, false);
}

/* Where its parent is not ours, it is for the admin to make. False: it is not there. */
static bool make_directory(const sd_durability_t *d, char reason[SD_PERSIST_REASON])
{
    struct stat there;
    int err;

    if (mkdir(d->dir, 0700) == 0 || errno == EEXIST)
        return true;
    err = errno;
    if (stat(d->dir, &there) == 0)
        return true;
    apr_snprintf(reason, SD_PERSIST_REASON, "%s is not there and cannot be made (%s): make it, with mode 0700, for "
                 "the user that httpd runs as", d->dir, strerror(err));
    return false;
}

/* ---- loading ---- */

typedef struct sd_loading {
    sd_durability_t *d;
    bool (*beat)(void *data);
    void *data;
    atomic_bool stop;
} sd_loading_t;

static uint64_t read_clock(void *baton)
{
    (void)baton;
    return sd_clock_ms();
}

static void beat_while_loading(void *baton, const sd_load_report_t *report)
{
    sd_loading_t *l = baton;
    char text[SD_BOARD_TEXT];

    apr_snprintf(text, sizeof text, "loading: %.0f of %.0f MB read, %" APR_UINT64_T_FMT " sessions found",
                 (double)report->bytes_done / 1048576.0, (double)report->bytes_all / 1048576.0, report->live);
    sd_board_text_set(l->d->server->board->durability_reason, text);
    if (!l->beat(l->data))
        atomic_store(&l->stop, true);
}

/* Part of it may be there already, and must not be served. */
static void empty_store(const sd_durability_t *d)
{
    sd_usage_t usage;

    while (sd_store_repair(d->lane, 0)) /* that death may have left counts that are wrong */
        ;
    do {
        (void)sd_store_sweep(d->lane, UINT64_MAX, UINT32_MAX);
        sd_store_usage(d->server->store, &usage);
    } while (usage.items > 0);
}

static sd_persist_status_t load_all(sd_loading_t *l, sd_load_t *load, sd_load_target_t *target, uint64_t began,
                                    char reason[SD_PERSIST_REASON])
{
    sd_durability_t *d = l->d;
    const sd_journal_state_t *state = &sd_load_report(load)->state;
    sd_load_sum_t sum;
    sd_persist_status_t status = sd_load_into_store(load, target, &sum, reason);

    if (status != SD_PERSIST_OK && status != SD_PERSIST_TOO_SMALL)
        return status;
    if (status == SD_PERSIST_OK)
        sd_store_pair(d->server->store, state->id, state->round);
    sd_log(NOTICE, 0, "%" APR_UINT64_T_FMT " sessions loaded from %s in %.1f s; %" APR_UINT64_T_FMT " had expired",
           sum.restored, d->dir, (double)(sd_clock_ms() - began) / 1000.0, sum.report.expired + sum.late);
    return status;
}

/* An earlier httpd that is being stopped may still have the directory. */
static sd_persist_status_t open_for_loading(sd_loading_t *l, sd_load_t **load, uint64_t *now, char reason[SD_PERSIST_REASON])
{
    sd_load_options_t options = { .check_first = false, .stop = &l->stop, .beat = l->beat, .baton = l->data };
    uint64_t until = sd_clock_ms() + BUSY_MS;
    sd_persist_status_t status;

    for (;;) {
        *now = sd_clock_ms();
        options.wall_ms = wall_ms();
        if (!draw(options.seed, sizeof options.seed)) {
            apr_cpystrn(reason, "the kernel gives no random bytes", SD_PERSIST_REASON);
            return SD_PERSIST_FAILED;
        }
        status = sd_load_start(load, l->d->dir, &options, reason);
        if (status != SD_PERSIST_BUSY || *now >= until)
            return status;
        if (!l->beat(l->data))
            return SD_PERSIST_STOPPED;
        usleep(100000);
    }
}

/* What had come when it failed is thrown away. */
static sd_persist_status_t try_to_load(sd_loading_t *l, uint64_t began, char reason[SD_PERSIST_REASON])
{
    sd_load_target_t target = { .lane = l->d->lane, .beat = beat_while_loading, .read_clock = read_clock, .baton = l };
    sd_load_t *load = NULL;
    sd_persist_status_t status;

    if (!make_directory(l->d, reason))
        return SD_PERSIST_FAILED;
    empty_store(l->d); /* of what a process has loaded that died over it, too */
    status = open_for_loading(l, &load, &target.now, reason);
    if (status == SD_PERSIST_OK)
        status = load_all(l, load, &target, began, reason);
    sd_load_end(&load);
    if (status != SD_PERSIST_OK && status != SD_PERSIST_TOO_SMALL)
        empty_store(l->d);
    return status;
}

/* The child that reads the files may go wild over them: it does not get the sessions. */
static void keep_from_forks(const sd_start_t *start)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)start->segment & ~(page - 1);

    (void)madvise((void *)from, (uintptr_t)start->segment - from + start->segment_bytes, MADV_DONTFORK);
}

bool sd_durability_load(sd_durability_t *d, const sd_start_t *start, bool (*beat)(void *data), void *data)
{
    sd_loading_t l = { .d = d, .beat = beat, .data = data };
    char reason[SD_PERSIST_REASON] = "";
    sd_persist_status_t status;
    uint64_t began = sd_clock_ms();
    sd_disk_t disk;
    int tries = 0;

    if (!d) {
        atomic_store(&start->board->durability, SD_DURABILITY_OFF);
        return true;
    }
    atomic_store(&start->board->durability, SD_DURABILITY_STARTING);
    sd_board_text_set(start->board->durability_reason, "");
    keep_from_forks(start);
    d->lane = sd_store_lane(d->server->store, d->server->loops + 1);
    sd_store_disk(d->server->store, &disk);
    if (disk.served || !is_all_zeros(disk.id))
        return true; /* what is in memory is newer than what is on disk */
    atomic_store(&d->server->board->durability, SD_DURABILITY_LOADING);
    while ((status = try_to_load(&l, began, reason)) == SD_PERSIST_FAILED && ++tries < LOAD_TRIES)
        if (!beat(data))
            return false;
    sd_board_text_set(d->server->board->durability_reason, "");
    atomic_store(&d->server->board->durability, SD_DURABILITY_STARTING);
    if (status == SD_PERSIST_STOPPED || atomic_load(&l.stop))
        return false;
    if (status == SD_PERSIST_OK || status == SD_PERSIST_FRESH) {
        d->fresh_clock = true;
        return true;
    }
    lose(d, reason);
    apr_snprintf(d->barred, sizeof d->barred, "%s", reason);
    sd_log(CRIT, 0, "the sessions on disk were not %s: %s. Nothing is written there, so that nothing is lost: mend what "
           "is wrong, then stop and start httpd; or move the files away, and sessions are written to new ones",
           status == SD_PERSIST_TOO_SMALL ? "all loaded" : "loaded", reason);
    return true;
}

/* ---- the directory and the segment meet ---- */

static bool is_later(uint32_t round, uint32_t than)
{
    return (int32_t)(round - than) > 0;
}

/* The journal that has been opened is that of this segment, or becomes it. False:
 * it is neither, and is left alone. */
static bool suits(sd_durability_t *d, bool fresh)
{
    const sd_journal_state_t *state = sd_journal_state(d->journal);
    sd_disk_t disk;

    sd_store_disk(d->server->store, &disk);
    if (fresh) {
        sd_store_pair_anew(d->server->store, state->id);
        d->everything = true;
        return true;
    }
    if (memcmp(disk.id, state->id, sizeof disk.id) != 0)
        return false;
    if (disk.astray || is_later(disk.settled, state->round) || !is_later(disk.round, state->round))
        d->everything = true; /* not what this segment has written last: a copy, perhaps */
    else if (state->round != disk.settled)
        sd_store_pair(d->server->store, state->id, state->round); /* a death came between commit and note */
    return true;
}

static bool connect_journal(sd_durability_t *d)
{
    /* a wall clock that has been set since is found out: before the process, too */
    sd_journal_options_t options = { .create = true, .wall_ms = wall_ms(), .same_store = !d->fresh_clock };
    char reason[SD_PERSIST_REASON] = "";
    sd_persist_status_t status;

    if (!make_directory(d, reason)) { /* gone with all that was in it */
        lose(d, reason);
        return false;
    }
    if (!draw(options.id, sizeof options.id)) {
        lose(d, "the kernel gives no random bytes");
        return false;
    }
    status = sd_journal_open(&d->journal, d->dir, &options, reason);
    if (status == SD_PERSIST_FRESH || status == SD_PERSIST_OK) {
        if (suits(d, status == SD_PERSIST_FRESH)) {
            d->barred[0] = '\0';
            return true;
        }
        sd_journal_close(&d->journal);
        if (d->barred[0])
            apr_cpystrn(reason, d->barred, sizeof reason);
        else
            apr_snprintf(reason, sizeof reason, "%s has other sessions than those in memory: stop and start httpd to load "
                         "them, or move the files away", d->dir);
    }
    lose(d, reason);
    return false;
}

/* ---- rounds ---- */

static void count(const sd_durability_t *d, const sd_round_result_t *result)
{
    sd_counters_t *counters = sd_lane_counters(d->lane);

    if (result->bytes == 0 && result->cleaned == 0)
        return;
    sd_count(counters, disk_commits);
    sd_count_add(counters, disk_values, result->values);
    sd_count_add(counters, disk_touches, result->touches);
    sd_count_add(counters, disk_removals, result->removals);
    sd_count_add(counters, disk_bytes, result->bytes);
}

/* True: all that had changed before the call is on disk. */
static bool make_round(sd_durability_t *d)
{
    sd_round_options_t options = { .stop = &d->stand };
    char reason[SD_PERSIST_REASON] = "";
    sd_round_result_t result;
    sd_persist_status_t status;
    sd_disk_t disk;
    uint64_t ticket;

    if (d->journal && !sd_journal_is_there(d->journal)) {
        sd_journal_close(&d->journal);
        apr_snprintf(reason, sizeof reason, "the files in %s are no longer those that were opened", d->dir);
        lose(d, reason);
    }
    if (!d->journal && !connect_journal(d))
        return false;
    sd_store_disk(d->server->store, &disk);
    d->everything |= disk.astray;
    options.everything = options.replace_all = d->everything;
    ticket = atomic_fetch_add(&d->begun, 1) + 1; /* from now on, callers wait for the next one */
    options.now = sd_clock_ms();
    options.wall_ms = wall_ms();
    status = sd_persist_round(d->journal, d->lane, &options, &result, reason);
    if (status == SD_PERSIST_STOPPED)
        return false;
    if (status != SD_PERSIST_OK) {
        if (status != SD_PERSIST_NO_SPACE)
            sd_journal_close(&d->journal);
        lose(d, reason);
        return false;
    }
    count(d, &result);
    if (result.bytes != 0)
        d->fresh_clock = false;
    sd_store_disk(d->server->store, &disk);
    if (disk.astray) { /* something left without a tombstone meanwhile: it is not in this round */
        d->everything = true;
        if (++d->astray_rounds >= ASTRAY_MOST)
            lose(d, "the memory is too full to keep track of what is removed: raise SessiondMemory (needs a stop and start)");
        return d->astray_rounds < ASTRAY_MOST;
    }
    d->astray_rounds = 0;
    d->everything = result.wants_all || result.clock_moved > CLOCK_MOVED_MS || result.clock_moved < -CLOCK_MOVED_MS;
    regain(d);
    atomic_store(&d->settled, ticket);
    if (d->interval_ms == 0)
        release_held(d);
    return true;
}

static void add_ms(struct timespec *t, uint64_t ms)
{
    t->tv_sec += (time_t)(ms / 1000);
    t->tv_nsec += (long)(ms % 1000) * 1000000;
    if (t->tv_nsec >= 1000000000) {
        t->tv_sec++;
        t->tv_nsec -= 1000000000;
    }
}

/* Until the next round is due, wanted, or the thread is to end. */
static void wait_for_round(sd_durability_t *d, bool went_well)
{
    uint64_t ms = !went_well ? RETRY_MS : d->interval_ms != 0 ? d->interval_ms : LOOK_EVERY_MS;
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    add_ms(&until, ms);
    pthread_mutex_lock(&d->lock);
    while (!atomic_load(&d->stand) && !d->finish && !(d->wanted && went_well))
        if (pthread_cond_timedwait(&d->wake, &d->lock, &until) == ETIMEDOUT)
            break;
    d->wanted = false;
    pthread_mutex_unlock(&d->lock);
}

static bool is_to_finish(sd_durability_t *d)
{
    bool finish;

    pthread_mutex_lock(&d->lock);
    finish = d->finish;
    pthread_mutex_unlock(&d->lock);
    return finish;
}

static void *run(void *data)
{
    sd_durability_t *d = data;
    bool finish;

    do {
        bool went_well;

        finish = is_to_finish(d); /* and then one more round */
        atomic_store(&d->round_since, sd_clock_ms());
        went_well = make_round(d);
        atomic_store(&d->round_since, 0);
        wait_for_round(d, went_well);
    } while (!atomic_load(&d->stand) && !finish);
    sd_journal_close(&d->journal);
    return NULL;
}

/* ---- start and end ---- */

bool sd_durability_start(sd_durability_t *d)
{
    int err;

    if (!d || d->running)
        return true;
    d->lane = sd_store_lane(d->server->store, d->server->loops + 1);
    atomic_store(&d->stand, false);
    err = pthread_create(&d->thread, NULL, run, d);
    d->running = err == 0;
    if (!d->running)
        lose(d, "no thread could be started for it");
    return d->running;
}

static void tell(sd_durability_t *d, bool finish)
{
    pthread_mutex_lock(&d->lock);
    if (finish)
        d->finish = true;
    else
        atomic_store(&d->stand, true);
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
}

bool sd_durability_stand(sd_durability_t *d, uint64_t ms)
{
    if (!d || !d->running)
        return true;
    tell(d, false);
    d->running = !sd_thread_join(d->thread, ms);
    return !d->running;
}

bool sd_durability_finish(sd_durability_t *d, void (*beat)(void *data), void *data)
{
    if (!d)
        return true;
    if (atomic_load(&d->stand)) /* it was to hand over */
        while (!sd_durability_stand(d, 1000))
            beat(data);
    tell(d, true);
    if (!sd_durability_start(d))
        return false;
    while (!sd_thread_join(d->thread, 1000)) {
        beat(data);
        sd_durability_watch(d, sd_clock_ms());
    }
    d->running = false;
    return !atomic_load(&d->lost);
}

/* What `lose` does, for a round that does not come back to say that it failed. */
static void put_up_hang(sd_durability_t *d, uint64_t since, uint64_t lasts)
{
    sd_board_t *board = d->server->board;
    char text[SD_BOARD_TEXT];
    uint32_t lost = SD_DURABILITY_LOST;

    apr_snprintf(text, sizeof text, "a round of writing takes %" APR_UINT64_T_FMT " s already: the disk hangs, or is slow",
                 lasts / 1000);
    sd_board_text_set(board->durability_reason, text);
    atomic_store(&board->durability_since, since);
    atomic_store(&board->durability, SD_DURABILITY_LOST); /* `regain` takes it back, */
    if (atomic_load(&d->round_since) != since && !atomic_load(&d->lost)) /* unless it just has */
        (void)atomic_compare_exchange_strong(&board->durability, &lost, SD_DURABILITY_ON);
    if (d->hang_logged != 0 && since + lasts - d->hang_logged < LOG_EVERY_MS)
        return;
    d->hang_logged = since + lasts;
    sd_log(CRIT, 0, "sessions are NOT being written to disk, since %" APR_UINT64_T_FMT " s: %s. They are served from "
           "memory%s", lasts / 1000, text, d->interval_ms == 0 ? ", and changes are not acknowledged meanwhile" : "");
}

void sd_durability_watch(sd_durability_t *d, uint64_t now)
{
    uint64_t since = d ? atomic_load(&d->round_since) : 0;

    if (!d || atomic_load(&d->lost))
        return;
    if (since != 0 && now > since && now - since >= HANG_MS)
        put_up_hang(d, since, now - since);
    else if (d->hang_logged != 0) {
        d->hang_logged = 0;
        sd_log(NOTICE, 0, "the round of writing to disk that took so long is over");
    }
}

/* ---- for the threads that serve ---- */

bool sd_durability_holds(const sd_durability_t *d)
{
    return d && d->interval_ms == 0 && !atomic_load_explicit(&d->lost, memory_order_relaxed);
}

uint64_t sd_durability_ticket(const sd_durability_t *d)
{
    return d ? atomic_load(&d->begun) : 0;
}

bool sd_durability_is_settled(const sd_durability_t *d, uint64_t ticket)
{
    return !d || ticket < atomic_load(&d->settled);
}

void sd_durability_want(sd_durability_t *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->wanted = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
}

#else

typedef int sd_durability_is_not_built_t; /* a file must have something in it */

#endif
