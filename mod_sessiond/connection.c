/* SPDX-License-Identifier: Apache-2.0
 *
 * connection.c: the life of a connection: how it begins, what it waits for and
 * until when, and the ways it ends. What is hard is the end: an orderly close
 * means "no", a reset means "no answer", and every path must end in the right
 * one of them. What is said on it is exchange.c's.
 */
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "exchange.h"

#define SPARES_KEPT 1024u
/* A connection that was busy when a drain began and has its answer: time for the
 * answer to leave before the reset, and not so much that it stretches the drain. */
#define DRAIN_IDLE_MS 50u

/* ---- life ---- */

sd_connection_t *sd_connection_take(sd_loop_t *loop, int fd, const sd_transport_t *transport)
{
    sd_connection_t *c = loop->spare;

    if (c) {
        loop->spare = c->next;
        loop->spares--;
    }
    else if (!(c = malloc(sizeof *c))) {
        transport->end_is_reset(fd, true);
        transport->close(fd);
        return NULL;
    }
    memset(c, 0, sizeof *c);
    c->source = SD_SOURCE_CONNECTION;
    c->fd = fd;
    c->transport = transport;
    sd_wire_setup(&c->wire);
    c->next = loop->connections;
    if (c->next)
        c->next->prev = c;
    loop->connections = c;
    loop->open++;
    atomic_fetch_add_explicit(&loop->server->connections, 1, memory_order_relaxed);
    sd_count_add(loop->counters, connections_open, 1);
    return c;
}

static void end(sd_loop_t *loop, sd_connection_t *c, bool reset)
{
    if (c->polled)
        sd_poller_remove(loop->poller, c->fd);
    if (c->shared)
        c->transport->part(c->fd, reset);
    sd_wire_end(&c->wire, &loop->exec); /* before the number may be another's: see lock_report.c */
    c->transport->close(c->fd);
    sd_timer_clear(&loop->wheel, &c->timer);
    sd_pressure_forget(loop, c);
    sd_pressure_done(loop, c);
    sd_commit_forget(loop, c);
    if (c->stalled) {
        sd_reply_discard(c->stalled, loop->lane);
        free(c->stalled);
    }
    free(c->input);
    if (c->prev)
        c->prev->next = c->next;
    else
        loop->connections = c->next;
    if (c->next)
        c->next->prev = c->prev;
    loop->open--;
    atomic_fetch_sub_explicit(&loop->server->connections, 1, memory_order_relaxed);
    sd_count_sub(loop->counters, connections_open, 1);
    c->source = SD_SOURCE_CONNECTION;
    c->fd = -1;
    if (loop->spares < SPARES_KEPT) {
        c->next = loop->spare;
        loop->spare = c;
        loop->spares++;
    }
    else
        free(c);
}

void sd_connection_reset(sd_loop_t *loop, sd_connection_t *c)
{
    sd_reply_discard(&loop->reply, loop->lane);
    sd_count_add(loop->counters, bytes_in, c->held); /* looked at, and left there */
    c->transport->end_is_reset(c->fd, true);
    end(loop, c, true);
}

void sd_connection_release_held(sd_loop_t *loop, sd_connection_t *c)
{
    if (c->held == 0)
        return;
    c->transport->discard(c->fd, c->held);
    sd_count_add(loop->counters, bytes_in, c->held);
    c->ever_read = true;
    c->held = 0;
}

void sd_connection_close(sd_loop_t *loop, sd_connection_t *c)
{
    sd_connection_release_held(loop, c);
    if (c->reset_set)
        c->transport->end_is_reset(c->fd, false);
    end(loop, c, false);
}

/* ---- waiting ---- */

void sd_connection_poll(sd_loop_t *loop, sd_connection_t *c, unsigned interest)
{
    if (c->polled && c->interest == interest)
        return;
    if ((c->polled ? sd_poller_change(loop->poller, c->fd, interest, c)
                   : sd_poller_add(loop->poller, c->fd, interest, c))
        == 0) {
        c->polled = true;
        c->interest = (uint8_t)interest;
    }
    else
        sd_timer_set(&loop->wheel, &c->timer, loop->exec.now); /* not to be waited for: end it */
}

static uint64_t ms(uint32_t seconds)
{
    return (uint64_t)seconds * 1000;
}

uint64_t sd_connection_whole_time(const sd_loop_t *loop, uint64_t bytes)
{
    return ms(loop->server->config->timeout) + bytes / 65536 * 1000;
}

/* Until when nothing at all may move. */
static uint64_t progress_due(const sd_loop_t *loop)
{
    return loop->exec.now + ms(loop->server->config->timeout);
}

uint64_t sd_connection_request_due(const sd_loop_t *loop, const sd_connection_t *c)
{
    uint64_t bytes = sd_wire_size(&c->wire), held = sd_wire_held_size(&c->wire);

    return c->since + sd_connection_whole_time(loop, bytes > held ? bytes : held);
}

static uint64_t request_due(const sd_loop_t *loop, const sd_connection_t *c)
{
    uint64_t whole = sd_connection_request_due(loop, c), due = progress_due(loop);

    return whole < due ? whole : due;
}

uint64_t sd_connection_reply_due(const sd_loop_t *loop, const sd_connection_t *c)
{
    uint64_t due = progress_due(loop);

    return c->reply_due < due ? c->reply_due : due;
}

static bool is_idle(const sd_connection_t *c)
{
    return sd_wire_is_idle(&c->wire) && c->input_len == 0;
}

/* Open for the next request, and without one. */
static bool is_pooled(const sd_connection_t *c)
{
    return c->state == SD_READING && c->wire.persistent && is_idle(c);
}

void sd_connection_wait_for_input(sd_loop_t *loop, sd_connection_t *c)
{
    bool idle = is_idle(c);

    c->state = SD_READING;
    if (c->wire.persistent && !c->kept_alive) {
        c->transport->keep_alive(c->fd);
        c->kept_alive = true;
    }
    if (idle) {
        sd_pressure_done(loop, c);
        c->moved_at = 0;
    }
    if (idle && c->ever_complete) {
        c->since = 0;
        sd_timer_set(&loop->wheel, &c->timer,
                     loop->exec.now
                         + (loop->draining ? DRAIN_IDLE_MS : ms(loop->server->config->idle_timeout)));
    }
    else
        sd_timer_set(&loop->wheel, &c->timer, request_due(loop, c));
    sd_connection_poll(loop, c, SD_POLL_READ); /* last: what cannot be polled is ended by the timer */
}

/* ---- what the loop calls ---- */

void sd_connection_open(sd_loop_t *loop, int fd, const sd_transport_t *transport)
{
    sd_connection_t *c = sd_connection_take(loop, fd, transport);

    if (!c)
        return;
    c->since = loop->exec.now;
    loop->turn_sent = loop->turn_replies = 0;
    sd_exchange_read(loop, c);
}

void sd_connection_resume(sd_loop_t *loop, sd_connection_t *c)
{
    c->awake = false;
    loop->turn_sent = loop->turn_replies = 0;
    c->state = SD_READING;
    if (sd_exchange_go_on(loop, c))
        sd_exchange_read(loop, c);
}

void sd_connection_ready(sd_loop_t *loop, sd_connection_t *c, bool readable, bool writable)
{
    loop->turn_sent = loop->turn_replies = 0;
    switch (c->state) {
    case SD_READING:
        if (readable)
            sd_exchange_read(loop, c);
        break;
    case SD_SENDING:
        if (writable)
            sd_exchange_send_more(loop, c);
        break;
    case SD_LINGERING:
        if (readable)
            sd_exchange_read_away(loop, c);
        break;
    case SD_WAITING:
        if (readable)
            sd_exchange_overhear(loop, c);
        break;
    default: /* nothing is asked of the poller: it is the connection's end */
        sd_count(loop->counters, aborted);
        sd_connection_reset(loop, c);
        break;
    }
}

void sd_connection_granted(sd_loop_t *loop, sd_connection_t *c)
{
    loop->turn_sent = loop->turn_replies = 0;
    if (c->state == SD_WAITING) /* else a reply before it is still on its way out */
        sd_exchange_wait_ends(loop, c);
}

void sd_connection_timeout(sd_loop_t *loop, sd_connection_t *c)
{
    loop->turn_sent = loop->turn_replies = 0;
    if (c->state == SD_WAITING) {
        sd_exchange_wait_ends(loop, c);
        return;
    }
    if (c->state == SD_LINGERING) {
        sd_connection_close(loop, c);
        return;
    }
    if (loop->draining && is_pooled(c)) {
        sd_count(loop->counters, drained);
        sd_connection_reset(loop, c);
        return;
    }
    if (c->state == SD_READING && c->ever_complete && is_idle(c)) {
        sd_count(loop->counters, idle_timeouts);
        sd_connection_close(loop, c);
        return;
    }
    sd_count(loop->counters, timeouts);
    sd_connection_reset(loop, c);
}

void sd_connection_drain(sd_loop_t *loop, sd_connection_t *c)
{
    uint32_t open = loop->open;

    loop->turn_sent = loop->turn_replies = 0;
    if (c->state == SD_READING) {
        sd_exchange_read(loop, c);
        if (loop->open < open)
            return;
    }
    /* its owner opens another one; if it has just been answered, in a moment */
    if (is_pooled(c) && loop->turn_sent == 0) {
        sd_count(loop->counters, drained);
        sd_connection_reset(loop, c);
    }
}
