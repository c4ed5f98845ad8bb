/* SPDX-License-Identifier: Apache-2.0
 *
 * connection.h: one client. A one-shot request is read, answered and closed
 * within the call that accepted it and never meets the poller; what waits for
 * a client costs a few hundred bytes.
 */
#ifndef SD_CONNECTION_H
#define SD_CONNECTION_H

#include "loop.h"

typedef enum {
    SD_READING,
    SD_SENDING,        /* a reply is stalled */
    SD_LINGERING,      /* half-closed; what still comes is read away */
    SD_WAITING,        /* for a lock; what comes meanwhile is kept */
    SD_COMMITTING,     /* its reply waits for the disk: commit.h */
    SD_PAUSED_CROWDED, /* not read from: see pressure.h */
    SD_PAUSED_FULL
} sd_connection_state_t;

typedef struct sd_connection {
    sd_source_t source;
    int fd;
    uint8_t state;        /* sd_connection_state_t */
    bool polled;
    bool reset_set;       /* the descriptor's end would be a reset */
    bool ever_complete;   /* a request has been answered */
    bool ever_read;       /* bytes have been taken out of the socket */
    bool kept_alive;
    bool goes_first;      /* may take memory beyond the quarter */
    bool was_held_back;   /* ... and this request has been counted as held back */
    bool asked;           /* others were asked for memory for this request already */
    bool shared;          /* another process may have the descriptor: see sd_transport_t.part */
    bool awake;           /* taken over: it may have input that it can go on with */
    uint32_t held;        /* bytes looked at that are still in the socket, see read_once */
    uint8_t interest;
    uint8_t after;        /* sd_after_t: what follows the stalled reply */
    const sd_transport_t *transport;
    struct sd_connection *prev, *next;
    struct sd_connection *paused_prev, *paused_next; /* of those paused, or of those committing */
    uint64_t ticket;      /* COMMITTING: what it waits for */
    sd_timer_t timer;
    uint64_t since;       /* ms: the request under way began; or the connection did */
    uint64_t reply_due;   /* ms: the stalled reply must be out */
    uint64_t moved_at;    /* ms: a stalled reply, or a value coming in, was seen to move; 0 = not yet */
    uint32_t needs;       /* of a paused one: bytes in the socket with which its value is complete */
    uint32_t moved_mark;  /* ... of an incoming value: the bytes that it wanted then */
    sd_wire_t wire;
    sd_reply_t *stalled;  /* a reply that the client does not take yet */
    uint8_t *input;       /* bytes read and not yet parsed */
    uint32_t input_len;
} sd_connection_t;

/* Begins with an accepted socket and serves what has come. */
void sd_connection_open(sd_loop_t *loop, int fd, const sd_transport_t *transport);
void sd_connection_ready(sd_loop_t *loop, sd_connection_t *c, bool readable, bool writable);
/* One that was paused, or taken over, goes on. */
void sd_connection_resume(sd_loop_t *loop, sd_connection_t *c);
void sd_connection_timeout(sd_loop_t *loop, sd_connection_t *c);
/* The lock that it waits for is its own. */
void sd_connection_granted(sd_loop_t *loop, sd_connection_t *c);
/* The loop is draining: serve what is there, end what is idle. */
void sd_connection_drain(sd_loop_t *loop, sd_connection_t *c);
/* Ends it in trouble. */
void sd_connection_reset(sd_loop_t *loop, sd_connection_t *c);

/* A connection that does nothing yet. NULL: no memory; the socket has been reset. */
sd_connection_t *sd_connection_take(sd_loop_t *loop, int fd, const sd_transport_t *transport);

/* ---- for exchange.c ---- */

/* What was only looked at so far is taken out of the socket. */
void sd_connection_release_held(sd_loop_t *loop, sd_connection_t *c);
/* Ends it in order. */
void sd_connection_close(sd_loop_t *loop, sd_connection_t *c);
/* What the poller is asked for: SD_POLL_..., 0 = nothing but the end. */
void sd_connection_poll(sd_loop_t *loop, sd_connection_t *c, unsigned interest);
void sd_connection_wait_for_input(sd_loop_t *loop, sd_connection_t *c);
/* How many ms so many bytes may take in all: SessiondTimeout plus a second for
 * each 64 KB. */
uint64_t sd_connection_whole_time(const sd_loop_t *loop, uint64_t bytes);
/* When a request under way must be complete, when a stalled reply must move. */
uint64_t sd_connection_request_due(const sd_loop_t *loop, const sd_connection_t *c);
uint64_t sd_connection_reply_due(const sd_loop_t *loop, const sd_connection_t *c);

static inline sd_connection_t *sd_connection_of_owner(sd_lock_owner_t *owner)
{
    return (sd_connection_t *)(void *)((char *)owner - offsetof(sd_connection_t, wire.owner));
}

static inline sd_connection_t *sd_connection_of_timer(sd_timer_t *timer)
{
    return (sd_connection_t *)(void *)((char *)timer - offsetof(sd_connection_t, timer));
}

#endif
