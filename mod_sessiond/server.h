/* SPDX-License-Identifier: Apache-2.0
 *
 * server.h: the session process: what all its loop threads share, and its main
 * thread, which starts and drains them, sweeps and repairs the store, and
 * keeps the parent and the notice board informed.
 */
#ifndef SD_SERVER_H
#define SD_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "board.h"
#include "config.h"
#include "listener.h"
#include "protocol/wire.h"
#include "pressure.h"
#include "strangers.h"

struct sd_loop;

#define SD_PROCESSES_MAX 16 /* session processes that may live at once, all but one on their way out */

/* What the parent hands to a session process; lives on through the fork. */
typedef struct sd_start {
    const sd_config_t *config;
    sd_listener_set_t *listeners;
    sd_board_t *board;
    void *segment;           /* raw; mapped in the session process only */
    uint64_t segment_bytes;
    int control;             /* our end of the socket pair to the parent */
    int earlier[SD_PROCESSES_MAX];       /* the parent's ends of session processes that still live */
    pid_t earlier_pid[SD_PROCESSES_MAX];
    int earlier_count;
    int delay_ms;            /* before anything else: crash loops are slowed down */
    pid_t parent;
} sd_start_t;

typedef struct sd_server {
    const sd_config_t *config;
    sd_limits_t limits;
    sd_board_t *board;
    sd_store_t *store;
    sd_locks_t *locks;
    struct sd_durability *durability; /* NULL = sessions are not written to disk */
    struct sd_loop *loop[SD_THREADS_MAX];
    uint32_t loops;
    _Atomic uint32_t connections; /* open, over all loops */
    _Atomic int accept_error;     /* the errno for which accepting paused last */
    pthread_mutex_t go_lock;      /* the threads wait until the store is ours */
    pthread_cond_t gone;
    bool go;
    int halt_fd;         /* an eventfd: see halt.h; made early, since later there may be none to be had */
    atomic_bool closing; /* no loop accepts any more: whom one resets, no other may take in */
    sd_listener_set_t *listeners;
    sd_strangers_t strangers;
    sd_pressure_t pressure;
} sd_server_t;

/* What travels over the control socket, one packet each, to the parent. */
typedef enum { SD_NEWS_READY = 1, SD_NEWS_BEAT, SD_NEWS_FAILED, SD_NEWS_HANDED_OVER } sd_news_kind_t;
typedef struct sd_news {
    uint32_t kind;
    uint32_t stalled_ms; /* BEAT: for how long the slowest loop thread has not turned */
    uint64_t at;         /* sd_clock_ms(): the parent may read it much later */
} sd_news_t;

/* Exit codes. 7 and 15 would stop all of httpd and are never used; those that
 * are used can be told from the numbers of signals. */
#define SD_EXIT_OK 0
#define SD_EXIT_FAILED 100   /* could not start; the log says why */
#define SD_EXIT_ORPHANED 101 /* the parent is gone */

/* The whole life of a session process. Does not return. */
void sd_server_run(const sd_start_t *start) __attribute__((noreturn));

/* A loop's thread: returns when it may begin. */
void sd_server_wait_for_go(sd_server_t *server);

/* The store's clock, CLOCK_BOOTTIME: it never steps and goes on while the
 * machine sleeps. */
uint64_t sd_clock_ms(void);
uint64_t sd_clock_us(void);

/* Waits for the end of a thread. False: it has not come within that time. */
bool sd_thread_join(pthread_t thread, uint64_t ms);

#endif
