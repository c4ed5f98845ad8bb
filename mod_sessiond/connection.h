/* SPDX-License-Identifier: Apache-2.0
 *
 * connection.h: one client. A one-shot request is read, answered and closed
 * within the call that accepted it and never meets the poller; what waits for
 * a client costs a few hundred bytes.
 */
#ifndef SD_CONNECTION_H
#define SD_CONNECTION_H

#include "loop.h"

typedef struct sd_connection {
    sd_source_t source;
    int fd;
    uint8_t state;
    bool polled;
    bool reset_set;       /* the descriptor's end would be a reset */
    bool ever_complete;   /* a request has been answered */
    bool ever_read;
    bool kept_alive;
    uint32_t held;        /* bytes looked at that are still in the socket, see read_once */
    uint8_t interest;
    uint8_t after;        /* sd_after_t: what follows the stalled reply */
    const sd_transport_t *transport;
    struct sd_connection *prev, *next;
    sd_timer_t timer;
    uint64_t since;       /* ms: the request under way began; or the connection did */
    sd_wire_t wire;
    sd_reply_t *stalled;  /* a reply that the client does not take yet */
    uint8_t *input;       /* bytes read and not yet parsed */
    uint32_t input_len;
} sd_connection_t;

/* Takes over an accepted socket and serves what has come. */
void sd_connection_open(sd_loop_t *loop, int fd, const sd_transport_t *transport);
void sd_connection_ready(sd_loop_t *loop, sd_connection_t *c, bool readable, bool writable);
void sd_connection_timeout(sd_loop_t *loop, sd_connection_t *c);
/* The loop is draining: serve what is there, end what is idle. */
void sd_connection_drain(sd_loop_t *loop, sd_connection_t *c);
/* Ends it in trouble. */
void sd_connection_reset(sd_loop_t *loop, sd_connection_t *c);

static inline sd_connection_t *sd_connection_of_timer(sd_timer_t *timer)
{
    return (sd_connection_t *)(void *)((char *)timer - offsetof(sd_connection_t, timer));
}

#endif
