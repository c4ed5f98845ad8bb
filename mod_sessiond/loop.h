/* SPDX-License-Identifier: Apache-2.0
 *
 * loop.h: one thread that serves connections. Loops share the listening
 * sockets and nothing else; another thread reaches a loop by its mailbox only.
 */
#ifndef SD_LOOP_H
#define SD_LOOP_H

#include <pthread.h>
#include <stdatomic.h>

#include "poller.h"
#include "pressure.h"
#include "server.h"
#include "timer.h"
#include "transport.h"

/* What is read at once; and what may be kept of it with the beginning of a head
 * before it, so the most that a connection's input can be. */
#define SD_LOOP_AHEAD 65536u
#define SD_LOOP_SCRATCH (SD_LOOP_AHEAD + 1024u)

struct sd_connection;

/* What an event's owner points to begins with this. */
typedef enum { SD_SOURCE_LISTENER, SD_SOURCE_CONNECTION, SD_SOURCE_MAILBOX } sd_source_t;

typedef struct sd_loop_listener {
    sd_source_t source;
    int fd;
    const sd_transport_t *transport;
    bool retiring;
    bool polled;
} sd_loop_listener_t;

/* A call to be made in the loop's thread. Belongs to the loop once posted; it
 * is freed after the call. */
typedef struct sd_letter {
    struct sd_letter *next;
    void (*call)(struct sd_loop *loop, void *what);
    void *what;
} sd_letter_t;

typedef struct sd_loop {
    sd_source_t mailbox_source;
    sd_server_t *server;
    sd_lane_t *lane;
    sd_counters_t *counters;
    uint32_t number;
    pthread_t thread;
    bool started;

    sd_poller_t *poller;
    sd_timer_wheel_t wheel;
    sd_loop_listener_t listener[SD_LISTENERS_MAX];
    int listeners;
    uint64_t accept_again;          /* ms: accepting pauses until then; 0 = it does not */

    struct sd_connection *connections; /* all that are open */
    struct sd_connection *spare;       /* to be used again */
    uint32_t open, spares;

    sd_exec_t exec;                 /* exec.now is the loop's clock */
    sd_reply_t reply;               /* the one being built */
    size_t turn_sent;               /* bytes sent to the connection whose turn it is */
    uint32_t turn_replies;          /* ... and how often a full reply was */
    sd_lock_mailbox_t granted;      /* locks, to connections of this loop */
    sd_loop_pressure_t pressure;
    struct sd_connection *first_held, *last_held; /* their replies wait for the disk */
    bool commit_wanted;             /* ... and some came in this turn */
    bool draining, stopped;
    uint64_t drain_until;

    int mailbox_fd;
    pthread_mutex_t mailbox_lock;
    sd_letter_t *mailbox;           /* newest first */

    _Atomic uint64_t beat;          /* ms: when it last turned */
    uint8_t scratch[SD_LOOP_SCRATCH];
} sd_loop_t;

/* NULL and an errno if there is no memory or no descriptor. */
sd_loop_t *sd_loop_create(sd_server_t *server, uint32_t number);
/* After its thread has ended. */
void sd_loop_destroy(sd_loop_t **loop);
/* Starts the thread, which waits for sd_server_wait_for_go. 0 or an errno. */
int sd_loop_start(sd_loop_t *loop);
/* The store has been attached: from now on the loop can have connections. */
void sd_loop_prepare(sd_loop_t *loop);

/* Has `call(loop, what)` run in the loop's thread. From any thread. False: no
 * memory. */
bool sd_loop_post(sd_loop_t *loop, void (*call)(sd_loop_t *loop, void *what), void *what);

/* Posted by the main thread: stop accepting, finish what completes by `what`
 * (uint64_t *, ms), reset the rest, end the thread. */
void sd_loop_drain(sd_loop_t *loop, void *what);

#endif
