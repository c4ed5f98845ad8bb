/* SPDX-License-Identifier: Apache-2.0
 *
 * exchange.c: reading, feeding the conversation and sending. What is hard: a
 * reply that needs more than one send keeps the reset armed until its last byte
 * is queued, input that is not wanted is read before the close, since unread
 * bytes would turn it into a reset, and no client may have more than its turn.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "durability.h"
#include "exchange.h"

#define VECTORS 256
#define LINGER_MS 1000u
/* What one connection may read, or be sent, before the others have their turn:
 * bytes, and replies of many small requests. */
#define TURN_BYTES (1u << 18)
#define TURN_REPLIES 4u

typedef enum { SENT, STALLED, HELD, BROKEN } sent_t;

/* From now on our end is a reset until the reply is out, even if we are killed. */
static void arm_reset(sd_connection_t *c)
{
    if (c->reset_set)
        return;
    c->transport->end_is_reset(c->fd, true);
    c->reset_set = true;
}

/* Keeps what has been read and cannot be used yet. False: no memory. */
static bool keep_input(sd_connection_t *c, const uint8_t *bytes, size_t n)
{
    uint8_t *copy = NULL;

    if (n > 0) {
        copy = malloc(n);
        if (!copy)
            return false;
        memcpy(copy, bytes, n);
    }
    free(c->input);
    c->input = copy;
    c->input_len = (uint32_t)n;
    return true;
}

/* ---- sending ---- */

static sent_t send_reply(sd_loop_t *loop, sd_connection_t *c, sd_reply_t *reply, sd_after_t after)
{
    struct iovec iov[VECTORS];
    size_t bytes;
    ssize_t sent;
    bool done = false;

    while (!done) {
        int n = sd_reply_iov(reply, loop->lane, iov, VECTORS, &bytes);
        /* the same vectors tell whether this is all there is */
        bool whole = n < VECTORS;

        if (n == 0) { /* a value of no bytes */
            done = sd_reply_advance(reply, loop->lane, 0);
            break;
        }
        sent = c->transport->send(c->fd, iov, n, whole && after == SD_AFTER_CLOSE);
        if (sent < 0 && sent != -EAGAIN)
            return BROKEN;
        if (sent < 0)
            sent = 0;
        sd_count_add(loop->counters, bytes_out, sent);
        loop->turn_sent += (size_t)sent;
        done = sd_reply_advance(reply, loop->lane, (size_t)sent);
        if (!done)
            arm_reset(c);
        if (sent > 0)
            c->moved_at = loop->exec.now;
        if ((size_t)sent < bytes || (!done && loop->turn_sent >= TURN_BYTES))
            return STALLED;
    }
    if (c->reset_set) {
        c->transport->end_is_reset(c->fd, false);
        c->reset_set = false;
    }
    return SENT;
}

static void linger(sd_loop_t *loop, sd_connection_t *c)
{
    sd_connection_release_held(loop, c);
    sd_wire_end(&c->wire, &loop->exec); /* nothing more is executed, so its locks are free */
    c->transport->half_close(c->fd);
    c->state = SD_LINGERING;
    sd_timer_set(&loop->wheel, &c->timer, loop->exec.now + LINGER_MS);
    sd_connection_poll(loop, c, SD_POLL_READ);
}

/* Not read from until there is memory: see pressure.h. Only its end wakes it. */
static void put_aside(sd_loop_t *loop, sd_connection_t *c, sd_connection_state_t state)
{
    bool idle = sd_wire_is_idle(&c->wire) && c->input_len == 0;

    if (!c->wire.persistent && !idle)
        arm_reset(c);
    c->state = (uint8_t)state;
    sd_timer_set(&loop->wheel, &c->timer, sd_connection_request_due(loop, c));
    sd_pressure_pause(loop, c);
    sd_connection_poll(loop, c, 0);
}

/* The client may end, or give up by a hello, so it is listened to; but not beyond
 * what can be kept. */
static void wait_for_lock(sd_loop_t *loop, sd_connection_t *c)
{
    if (!c->kept_alive) {
        c->transport->keep_alive(c->fd);
        c->kept_alive = true;
    }
    c->state = SD_WAITING;
    /* granted: while a reply before it was on its way out */
    if (c->wire.owner.granted) {
        sd_exchange_wait_ends(loop, c);
        return;
    }
    sd_timer_set(&loop->wheel, &c->timer, sd_locks_wait_ends(&c->wire.owner));
    sd_connection_poll(loop, c, c->input_len < SD_LOOP_SCRATCH ? SD_POLL_READ : SD_POLL_END);
}

/* The reply has gone out. False: the connection is gone too, or waits. */
static bool follow(sd_loop_t *loop, sd_connection_t *c, sd_after_t after)
{
    switch (after) {
    case SD_AFTER_KEEP:
        return true;
    case SD_AFTER_CLOSE:
        sd_connection_close(loop, c);
        return false;
    case SD_AFTER_DRAIN:
        linger(loop, c);
        return false;
    case SD_AFTER_RESET:
        sd_connection_reset(loop, c);
        return false;
    case SD_AFTER_CROWDED:
        put_aside(loop, c, SD_PAUSED_CROWDED);
        return false;
    case SD_AFTER_FULL:
        put_aside(loop, c, SD_PAUSED_FULL);
        return false;
    case SD_AFTER_PENDING:
        sd_connection_release_held(loop, c);
        wait_for_lock(loop, c);
        return false;
    }
    return false;
}

/* Moves the loop's reply aside. False: no memory. */
static bool move_aside(sd_loop_t *loop, sd_connection_t *c, sd_after_t after)
{
    c->stalled = malloc(sizeof *c->stalled);
    if (!c->stalled)
        return false;
    /* Before a close it stays in the socket: a Unix socket has no other way to
     * end in a reset. */
    if (after != SD_AFTER_CLOSE)
        sd_connection_release_held(loop, c);
    *c->stalled = loop->reply;
    sd_reply_clear(&loop->reply);
    c->after = (uint8_t)after;
    return true;
}

/* Until the client takes it. */
static bool stall(sd_loop_t *loop, sd_connection_t *c, sd_after_t after)
{
    if (!move_aside(loop, c, after))
        return false;
    c->state = SD_SENDING;
    c->moved_at = loop->exec.now;
    c->reply_due = loop->exec.now + sd_connection_whole_time(loop, sd_reply_left(c->stalled));
    sd_timer_set(&loop->wheel, &c->timer, sd_connection_reply_due(loop, c));
    sd_connection_poll(loop, c, SD_POLL_WRITE);
    return true;
}

/* Until what it acknowledges is on disk. */
static bool hold(sd_loop_t *loop, sd_connection_t *c, sd_after_t after)
{
    if (!move_aside(loop, c, after))
        return false;
    /* if we die meanwhile, that must not look like a "no" */
    if (!c->wire.persistent && c->held == 0)
        arm_reset(c);
    sd_commit_wait(loop, c);
    return true;
}

/* HELD: the reply has to wait for the disk. */
static sent_t send_or_hold(sd_loop_t *loop, sd_connection_t *c, sd_after_t after)
{
    if (loop->reply.acknowledges && sd_durability_holds(loop->server->durability))
        return HELD;
    return send_reply(loop, c, &loop->reply, after);
}

void sd_exchange_committed(sd_loop_t *loop, sd_connection_t *c)
{
    loop->turn_sent = loop->turn_replies = 0;
    c->state = SD_SENDING;
    c->moved_at = loop->exec.now;
    c->reply_due = loop->exec.now + sd_connection_whole_time(loop, sd_reply_left(c->stalled));
    sd_exchange_send_more(loop, c);
}

/* ---- reading ---- */

/* What a pause leaves unused stays where it is: in the socket, as far as it was
 * only looked at, else in memory. False: no memory. */
static bool put_back(sd_loop_t *loop, sd_connection_t *c, const uint8_t *in, size_t at, size_t len)
{
    size_t kept = len - c->held, taken = at > kept ? at - kept : 0;

    c->needs = (uint32_t)(c->held - taken) + sd_wire_held_missing(&c->wire);
    if (c->held == 0)
        return keep_input(c, in + at, len - at);
    if (taken > 0 && !c->wire.persistent)
        arm_reset(c);
    c->held = (uint32_t)taken;
    sd_connection_release_held(loop, c);
    return keep_input(c, in + at, at < kept ? kept - at : 0);
}

/* The rest of the value that was held back waits in the socket, behind what was
 * looked at. */
static bool all_is_there(const sd_connection_t *c)
{
    return c->held > 0 && c->transport->pending(c->fd) >= c->held + sd_wire_held_missing(&c->wire);
}

/* Feeds `len` bytes. True: all that can be used is used, go on reading. */
static bool process(sd_loop_t *loop, sd_connection_t *c, const uint8_t *in, size_t len)
{
    size_t at = 0;

    for (;;) {
        size_t used;
        sent_t sent;
        sd_after_t after
            = sd_wire_feed(&c->wire, &loop->exec, in + at, len - at, &used, &loop->reply);
        bool full = sd_reply_is_full(&loop->reply), answered = !sd_reply_is_empty(&loop->reply),
             paused = after == SD_AFTER_CROWDED || after == SD_AFTER_FULL;

        at += used;
        if (after == SD_AFTER_CROWDED && all_is_there(c)) {
            loop->exec.hold_from = 0; /* it holds nothing up */
            continue;
        }
        /* whatever comes now, it is not the value whose turn it was; but the turn is
         * not over while only the beginning of its head has been fed */
        if (c->goes_first && (answered || (used > 0 && !sd_wire_is_taking(&c->wire))))
            sd_pressure_done(loop, c);
        if (after == SD_AFTER_PENDING && !keep_input(c, in + at, len - at)) {
            sd_connection_reset(loop, c);
            return false;
        }
        if (paused && !put_back(loop, c, in, at, len)) {
            sd_connection_reset(loop, c);
            return false;
        }
        if (answered || after != SD_AFTER_KEEP) {
            if (!paused || answered) {
                c->ever_complete = true;
                c->since = loop->exec.now;
            }
            sent = send_or_hold(loop, c, after);
            switch (sent) {
            case SENT:
                if (!follow(loop, c, after))
                    return false;
                break;
            case STALLED:
            case HELD:
                if ((!paused && after != SD_AFTER_PENDING && !keep_input(c, in + at, len - at))
                    || !(sent == HELD ? hold : stall)(loop, c, after))
                    sd_connection_reset(loop, c);
                return false;
            case BROKEN:
                sd_count(loop->counters, aborted);
                sd_connection_reset(loop, c);
                return false;
            }
        }
        if (!full)
            break;
        /* the others' turn; the rest at the next event */
        if (loop->turn_sent >= TURN_BYTES || ++loop->turn_replies >= TURN_REPLIES) {
            if (!keep_input(c, in + at, len - at) || !stall(loop, c, SD_AFTER_KEEP))
                sd_connection_reset(loop, c);
            return false;
        }
    }
    if (!keep_input(c, in + at, len - at)) {
        sd_connection_reset(loop, c);
        return false;
    }
    return true;
}

bool sd_exchange_go_on(sd_loop_t *loop, sd_connection_t *c)
{
    uint8_t *input = c->input;
    size_t len = c->input_len;
    bool more;

    if (len == 0)
        return true;
    c->input = NULL;
    c->input_len = 0;
    sd_pressure_prepare(loop, c);
    more = process(loop, c, input, len);
    free(input);
    return more;
}

/* The client has sent its last byte. */
static void input_ended(sd_loop_t *loop, sd_connection_t *c)
{
    bool idle = sd_wire_is_idle(&c->wire) && c->input_len == 0;

    if (!idle)
        sd_count(loop->counters, aborted);
    sd_connection_close(loop, c);
}

/* Reads once and processes it. True: there may be more to read at once.
 *
 * The first bytes are only looked at and stay in the socket until they are
 * answered: were we killed in between, the kernel would otherwise end the
 * connection in order, and a sharedance client take that for "no such
 * session". A one-shot request pays one short call for it; arming the reset
 * by SO_LINGER would cost twice as much. While incoming values are held back a
 * request is only looked at, too, since it may have to stay in the socket. */
static bool read_once(sd_loop_t *loop, sd_connection_t *c, size_t *turn)
{
    struct iovec iov[VECTORS];
    size_t direct = 0, kept = c->input_len, room;
    ssize_t got;
    int n = 0;

    if (sd_pressure_holds_back(loop, c)) {
        c->needs = (uint32_t)sd_wire_wanted(&c->wire);
        put_aside(loop, c, SD_PAUSED_CROWDED);
        return false;
    }
    sd_pressure_prepare(loop, c);
    if (kept > 0) /* the beginning of a head */
        memcpy(loop->scratch, c->input, kept);
    else if (sd_wire_wanted(&c->wire) > 0)
        n = sd_wire_room(&c->wire, &loop->exec, SD_LOOP_AHEAD, iov, VECTORS - 1, &direct);
    room = sizeof loop->scratch - kept;
    iov[n].iov_base = loop->scratch + kept;
    iov[n].iov_len = room;
    if (!c->ever_read || (loop->exec.hold_from != 0 && sd_wire_is_idle(&c->wire))) {
        got = c->transport->peek(c->fd, loop->scratch + kept, room);
        c->held = got > 0 ? (uint32_t)got : 0;
    }
    else
        got = c->transport->receive(c->fd, iov, n + 1);
    if (got == -EAGAIN) {
        sd_connection_wait_for_input(loop, c);
        return false;
    }
    if (got < 0) {
        sd_count(loop->counters, aborted);
        sd_connection_reset(loop, c);
        return false;
    }
    if (got == 0) {
        input_ended(loop, c);
        return false;
    }
    if (c->held == 0)
        sd_count_add(loop->counters, bytes_in, got);
    *turn += (size_t)got;
    if (c->since == 0)
        c->since = loop->exec.now;
    if (n > 0)
        sd_wire_received(&c->wire, &loop->exec, (size_t)got < direct ? (size_t)got : direct);
    if (!process(loop, c, loop->scratch, kept + ((size_t)got > direct ? (size_t)got - direct : 0)))
        return false;
    /* a death of ours in the middle of a request must not look like a "no" */
    if (!c->wire.persistent && !(sd_wire_is_idle(&c->wire) && c->input_len == 0))
        arm_reset(c);
    sd_connection_release_held(loop, c);
    if ((size_t)got < direct + room) {
        sd_connection_wait_for_input(loop, c);
        return false;
    }
    return true;
}

void sd_exchange_read(sd_loop_t *loop, sd_connection_t *c)
{
    size_t turn = 0;

    while (read_once(loop, c, &turn))
        if (turn >= TURN_BYTES && !sd_pressure_at_one_go(loop, c)) {
            sd_connection_wait_for_input(loop, c);
            return;
        }
}

/* Reads and forgets. */
void sd_exchange_read_away(sd_loop_t *loop, sd_connection_t *c)
{
    struct iovec iov = { loop->scratch, sizeof loop->scratch };
    size_t turn = 0;
    ssize_t got;

    do {
        got = c->transport->receive(c->fd, &iov, 1);
        if (got > 0) {
            sd_count_add(loop->counters, bytes_in, got);
            turn += (size_t)got;
        }
    } while (got > 0 && turn < TURN_BYTES);
    if (got == 0 || (got < 0 && got != -EAGAIN))
        sd_connection_close(loop, c);
}

void sd_exchange_send_more(sd_loop_t *loop, sd_connection_t *c)
{
    sd_after_t after = (sd_after_t)c->after;

    switch (send_reply(loop, c, c->stalled, after)) {
    case STALLED:
        sd_timer_set(&loop->wheel, &c->timer, sd_connection_reply_due(loop, c));
        sd_connection_poll(loop, c, SD_POLL_WRITE);
        return;
    case HELD:
    case BROKEN:
        sd_count(loop->counters, aborted);
        sd_connection_reset(loop, c);
        return;
    case SENT:
        break;
    }
    free(c->stalled);
    c->stalled = NULL;
    if (!follow(loop, c, after))
        return;
    c->moved_at = 0;
    c->since = loop->exec.now; /* what waited behind it begins now */
    /* requests that were read behind the one whose reply stalled */
    if (sd_exchange_go_on(loop, c))
        sd_connection_wait_for_input(loop, c);
}

/* ---- waiting for a lock ---- */

void sd_exchange_wait_ends(sd_loop_t *loop, sd_connection_t *c)
{
    sd_after_t after = c->wire.owner.granted ? sd_wire_granted(&c->wire, &loop->exec, &loop->reply)
                                             : sd_wire_give_up(&c->wire, &loop->exec, &loop->reply);

    c->state = SD_READING;
    c->since = loop->exec.now; /* what was kept behind it begins now */
    switch (send_reply(loop, c, &loop->reply, after)) {
    case SENT:
        if (!follow(loop, c, after))
            return;
        break;
    case STALLED:
        if (!stall(loop, c, after))
            sd_connection_reset(loop, c);
        return;
    case HELD:
    case BROKEN:
        sd_count(loop->counters, aborted);
        sd_connection_reset(loop, c);
        return;
    }
    if (sd_exchange_go_on(loop, c))
        sd_exchange_read(loop, c);
}

void sd_exchange_overhear(sd_loop_t *loop, sd_connection_t *c)
{
    uint32_t kept = c->input_len;
    struct iovec iov = { loop->scratch + kept, SD_LOOP_SCRATCH - kept };
    ssize_t got = c->transport->receive(c->fd, &iov, 1);

    if (got == -EAGAIN)
        return;
    if (got <= 0) { /* the client is gone, and nobody would take the answer */
        sd_count(loop->counters, aborted);
        if (got == 0)
            sd_connection_close(loop, c);
        else
            sd_connection_reset(loop, c);
        return;
    }
    sd_count_add(loop->counters, bytes_in, got);
    if (kept > 0)
        memcpy(loop->scratch, c->input, kept);
    if (!keep_input(c, loop->scratch, kept + (size_t)got)) {
        sd_connection_reset(loop, c);
        return;
    }
    if (c->input[0] == 'P') /* the client has begun anew: whoever waited is gone */
        sd_exchange_wait_ends(loop, c);
    else if (c->input_len == SD_LOOP_SCRATCH)
        sd_connection_poll(loop, c, SD_POLL_END);
}
