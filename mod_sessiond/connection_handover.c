/* SPDX-License-Identifier: Apache-2.0
 *
 * connection_handover.c: see the header. What is hard: time-outs belong to the
 * configuration and may have changed, so where one of them counts, what travels is
 * when something began, not when it is due.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "commit.h"
#include "connection_handover.h"
#include "durability.h"

/* ---- from the old process ---- */

static uint8_t after_to_state(uint8_t after)
{
    switch (after) {
    case SD_AFTER_CLOSE:
        return SD_HANDED_CLOSE;
    case SD_AFTER_DRAIN:
        return SD_HANDED_DRAIN;
    case SD_AFTER_RESET:
        return SD_HANDED_RESET;
    case SD_AFTER_CROWDED:
        return SD_HANDED_CROWDED;
    case SD_AFTER_FULL:
        return SD_HANDED_FULL;
    case SD_AFTER_PENDING:
        return SD_HANDED_PENDING;
    default:
        return SD_HANDED_KEEP;
    }
}

static void save_reply(const sd_reply_t *reply, sd_handed_t *state)
{
    uint32_t i;

    state->parts = 0;
    for (i = reply->first; i < reply->parts; i++) {
        const sd_reply_part_t *from = &reply->part[i];
        sd_handed_part_t *to = &state->part[state->parts++];

        memset(to, 0, sizeof *to);
        if (from->value.head != 0)
            sd_ref_save(&from->value, &to->value);
        else {
            to->bytes = reply->bytes + from->at;
            to->len = from->len;
        }
    }
}

static uint32_t flags_of(const sd_connection_t *c)
{
    bool paused = c->state == SD_PAUSED_CROWDED || c->state == SD_PAUSED_FULL;

    return (c->ever_complete ? SD_HANDED_EVER_COMPLETE : 0) | (c->ever_read ? SD_HANDED_EVER_READ : 0)
           | (c->kept_alive ? SD_HANDED_KEPT_ALIVE : 0) | (c->reset_set ? SD_HANDED_RESET_SET : 0)
           | (c->was_held_back ? SD_HANDED_HELD_BACK : 0) | (paused ? SD_HANDED_AWAKE : 0)
           | (c->shared ? SD_HANDED_SHARED : 0) | (c->state == SD_COMMITTING ? SD_HANDED_COMMITTING : 0);
}

void sd_connection_save(const sd_loop_t *loop, const sd_connection_t *c, sd_handed_t *state)
{
    uint64_t idle = (uint64_t)loop->server->config->idle_timeout * 1000;
    sd_claim_t *claim = NULL;

    memset(state, 0, offsetof(sd_handed_t, part));
    state->transport = c->transport == &sd_transport_unix ? SD_HANDED_UNIX : SD_HANDED_TCP;
    state->flags = flags_of(c);
    state->since = c->since;
    state->held = c->held;
    state->input = c->input;
    state->input_len = c->input_len;
    sd_wire_save(&c->wire, &state->wire);
    while (state->claims < SD_LOCKS_MOST
           && sd_locks_save(&c->wire.owner, &claim, &state->claim[state->claims]))
        state->claims++;
    if (c->state == SD_LINGERING) {
        state->doing = SD_HANDED_LINGERING;
        state->due = c->timer.due;
    }
    else if (c->state == SD_SENDING || c->state == SD_COMMITTING) {
        state->doing = SD_HANDED_SENDING;
        state->after = after_to_state(c->after);
        state->reply_due = c->state == SD_SENDING
                               ? c->reply_due
                               : loop->exec.now + sd_connection_whole_time(loop, sd_reply_left(c->stalled));
        save_reply(c->stalled, state);
    }
    else if (c->state == SD_WAITING)
        state->doing = SD_HANDED_WAITING;
    else if (c->since == 0 && c->timer.due > idle)
        state->quiet_since = c->timer.due - idle;
}

/* ---- into the new one ---- */

static uint8_t after_of_state(uint8_t after)
{
    switch (after) {
    case SD_HANDED_CLOSE:
        return SD_AFTER_CLOSE;
    case SD_HANDED_DRAIN:
        return SD_AFTER_DRAIN;
    case SD_HANDED_RESET:
        return SD_AFTER_RESET;
    case SD_HANDED_CROWDED:
        return SD_AFTER_CROWDED;
    case SD_HANDED_FULL:
        return SD_AFTER_FULL;
    case SD_HANDED_PENDING:
        return SD_AFTER_PENDING;
    default:
        return SD_AFTER_KEEP;
    }
}

static bool adopt_reply(sd_loop_t *loop, sd_connection_t *c, const sd_handed_t *state)
{
    sd_reply_t *reply = c->stalled = calloc(1, sizeof *reply);
    uint32_t i;

    if (!reply)
        return false;
    for (i = 0; i < state->parts; i++) {
        const sd_handed_part_t *part = &state->part[i];
        sd_ref_t value;

        if (part->value.head == 0) {
            if (part->len > SD_REPLY_BYTES - reply->used)
                return false;
            sd_reply_add(reply, part->bytes, part->len);
        }
        else if (sd_ref_adopt(loop->lane, &part->value, &value) == SD_OK)
            sd_reply_add_value(reply, &value);
        else
            return false;
    }
    return true;
}

static bool adopt_claims(sd_loop_t *loop, sd_connection_t *c, const sd_handed_t *state)
{
    uint32_t i;

    for (i = 0; i < state->claims; i++) {
        const sd_claim_state_t *claim = &state->claim[i];

        if (!sd_locks_adopt(loop->server->locks, &c->wire.owner, claim,
                            sd_key_hash(loop->lane, claim->key, claim->key_len), &loop->granted, loop->counters))
            return false;
    }
    return true;
}

static bool adopt_input(const sd_loop_t *loop, sd_connection_t *c, const sd_handed_t *state)
{
    if (state->input_len == 0)
        return true;
    if (state->input_len > sizeof loop->scratch) /* more than a read can leave */
        return false;
    c->input = malloc(state->input_len);
    if (!c->input)
        return false;
    memcpy(c->input, state->input, state->input_len);
    c->input_len = state->input_len;
    return true;
}

/* Where it goes on. */
static void go_on(sd_loop_t *loop, sd_connection_t *c, const sd_handed_t *state)
{
    uint64_t now = loop->exec.now, quiet = state->quiet_since;

    c->since = state->since < now ? state->since : now;
    switch (state->doing) {
    case SD_HANDED_SENDING:
        c->after = after_of_state(state->after);
        c->reply_due = state->reply_due; /* its size is known, and has its time already */
        c->moved_at = now;
        if ((state->flags & SD_HANDED_COMMITTING) && sd_durability_holds(loop->server->durability)) {
            sd_commit_wait(loop, c);
            return;
        }
        c->state = SD_SENDING;
        sd_timer_set(&loop->wheel, &c->timer, sd_connection_reply_due(loop, c));
        sd_connection_poll(loop, c, SD_POLL_WRITE);
        return;
    case SD_HANDED_WAITING: /* one that was granted meanwhile is told by the mailbox */
        c->state = SD_WAITING;
        sd_timer_set(&loop->wheel, &c->timer, sd_locks_wait_ends(&c->wire.owner));
        sd_connection_poll(loop, c, c->input_len < SD_LOOP_SCRATCH ? SD_POLL_READ : SD_POLL_END);
        return;
    case SD_HANDED_LINGERING:
        c->state = SD_LINGERING;
        sd_timer_set(&loop->wheel, &c->timer, state->due < now + 1000 ? state->due : now + 1000);
        sd_connection_poll(loop, c, SD_POLL_READ);
        return;
    default:
        sd_connection_wait_for_input(loop, c);
        if (c->since == 0 && quiet != 0 && quiet < now) /* it has been idle for longer */
            sd_timer_set(&loop->wheel, &c->timer,
                         quiet + (uint64_t)loop->server->config->idle_timeout * 1000);
        if (c->input_len > 0 || (state->flags & SD_HANDED_AWAKE))
            c->awake = true;
        return;
    }
}

static bool is_allowed(const sd_loop_t *loop, const sd_connection_t *c)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;

    if (c->transport != &sd_transport_tcp)
        return true; /* the file's mode said so when it was opened */
    peer.ss_family = AF_UNSPEC;
    if (getpeername(c->fd, (struct sockaddr *)(void *)&peer, &size) != 0)
        return true; /* it has ended: its end is to be read */
    if (sd_allow_peer(&loop->server->config->allow, &peer, c->fd))
        return true;
    sd_count(loop->counters, refused_address);
    sd_strangers_log(&loop->server->strangers, &peer, loop->exec.now);
    return false;
}

bool sd_connection_adopt(sd_loop_t *loop, int fd, const sd_handed_t *state)
{
    const sd_transport_t *transport
        = state->transport == SD_HANDED_UNIX ? &sd_transport_unix : &sd_transport_tcp;
    sd_connection_t *c = sd_connection_take(loop, fd, transport);

    if (!c) {
        sd_count(loop->counters, handover_lost);
        return false;
    }
    c->ever_complete = (state->flags & SD_HANDED_EVER_COMPLETE) != 0;
    c->ever_read = (state->flags & SD_HANDED_EVER_READ) != 0;
    c->kept_alive = (state->flags & SD_HANDED_KEPT_ALIVE) != 0;
    c->reset_set = (state->flags & SD_HANDED_RESET_SET) != 0;
    c->was_held_back = (state->flags & SD_HANDED_HELD_BACK) != 0;
    c->shared = (state->flags & SD_HANDED_SHARED) != 0;
    c->held = state->held;
    if (sd_wire_adopt(&c->wire, loop->lane, &state->wire) != SD_OK || !adopt_input(loop, c, state)
        || !adopt_claims(loop, c, state)
        || (state->doing == SD_HANDED_SENDING && !adopt_reply(loop, c, state))) {
        sd_count(loop->counters, handover_lost);
        sd_connection_reset(loop, c);
        return false;
    }
    if (!is_allowed(loop, c)) {
        sd_connection_reset(loop, c);
        return false;
    }
    if (!c->reset_set)
        transport->end_is_reset(fd, false); /* it was set for the journey */
    sd_count(loop->counters, taken_over);
    go_on(loop, c, state);
    return true;
}
