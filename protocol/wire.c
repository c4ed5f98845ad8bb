/* SPDX-License-Identifier: Apache-2.0
 *
 * wire.c: the loop of a conversation: a head, the bytes of a value, execution,
 * the next head. What is hard: the input may end anywhere, a refused frame's
 * bytes must be passed over before its error is sent, and a client may send
 * many requests in one piece.
 */
#include <string.h>

#include "extended_parse.h"
#include "wire.h"

enum { AT_HEAD = SD_WIRE_HEAD, IN_VALUE = SD_WIRE_VALUE, PASSING = SD_WIRE_PASSING };

void sd_wire_setup(sd_wire_t *wire)
{
    memset(wire, 0, sizeof *wire);
}

void sd_wire_teardown(sd_wire_t *wire, sd_lane_t *lane)
{
    sd_chain_discard(lane, &wire->chain);
    wire->state = AT_HEAD;
    wire->left = wire->size = 0;
}

void sd_wire_end(sd_wire_t *wire, const sd_exec_t *exec)
{
    sd_wire_teardown(wire, exec->lane);
    if (wire->owner.claims)
        sd_locks_release_all(exec->locks, &wire->owner, exec->now, exec->counters);
}

bool sd_wire_is_idle(const sd_wire_t *wire)
{
    return wire->state == AT_HEAD;
}

bool sd_wire_is_taking(const sd_wire_t *wire)
{
    return wire->state == IN_VALUE && wire->left > 0;
}

uint64_t sd_wire_wanted(const sd_wire_t *wire)
{
    return wire->left;
}

uint64_t sd_wire_size(const sd_wire_t *wire)
{
    return wire->size;
}

uint32_t sd_wire_held_size(const sd_wire_t *wire)
{
    return wire->held_size;
}

uint32_t sd_wire_held_missing(const sd_wire_t *wire)
{
    return wire->held_missing;
}

/* NULL: no protocol of ours begins like this. */
static const sd_protocol_t *protocol_of(const sd_wire_t *wire, uint8_t first)
{
    if (first == 'S' || first == 'F' || first == 'D')
        return &sd_sharedance;
    return wire->bound || memchr("PGWLTUR", first, 7) ? &sd_extended : NULL;
}

static sd_after_t run(sd_wire_t *wire, const sd_exec_t *exec, sd_request_t *request,
                      sd_reply_t *reply)
{
    sd_after_t after = request->fault == SD_FAULT_NONE
                           ? wire->protocol->execute(wire, exec, request, reply)
                           : wire->protocol->refuse(wire, exec, request, reply);

    if (after != SD_AFTER_PENDING)
        sd_wire_teardown(wire, exec->lane);
    return after;
}

/* The value, or what was passed over, is complete. */
static sd_after_t finish(sd_wire_t *wire, const sd_exec_t *exec, bool trailing, sd_reply_t *reply)
{
    sd_request_t request;

    memset(&request, 0, sizeof request);
    request.op = wire->op;
    request.ttl = wire->ttl;
    request.version = wire->version;
    request.fault = (sd_fault_t)wire->fault;
    request.known = true;
    request.trailing = trailing;
    return run(wire, exec, &request, reply);
}

static bool has_value(const sd_request_t *request)
{
    return request->op == 'S' || request->op == 'W';
}

/* A head has been read. Requests without a value are executed at once. */
static sd_after_t begin(sd_wire_t *wire, const sd_exec_t *exec, sd_request_t *request,
                        sd_reply_t *reply)
{
    wire->held_size = wire->held_missing = 0;
    wire->op = request->op;
    wire->fault = (uint8_t)request->fault;
    wire->ttl = request->ttl;
    wire->version = request->version;
    if (request->fault != SD_FAULT_NONE) {
        if (!request->known)
            return run(wire, exec, request, reply);
        wire->left = wire->size = request->skip;
        wire->state = PASSING;
        return SD_AFTER_KEEP;
    }
    if (!has_value(request))
        return run(wire, exec, request, reply);
    if (sd_chain_open(exec->lane, &wire->chain, request->key, request->key_len, exec->now)
        == SD_OK)
        wire->state = IN_VALUE;
    else if (exec->patient)
        return SD_AFTER_FULL;
    else {
        wire->fault = SD_FAULT_FULL;
        wire->state = PASSING;
    }
    wire->left = wire->size = request->data_len;
    return SD_AFTER_KEEP;
}

/* A value for which there is no memory: sharedance resets at once, an extended
 * frame is passed over, so that the connection can stay. */
static sd_after_t out_of_memory(sd_wire_t *wire, const sd_exec_t *exec, sd_reply_t *reply)
{
    sd_chain_discard(exec->lane, &wire->chain);
    wire->fault = SD_FAULT_FULL;
    wire->state = PASSING;
    if (wire->protocol == &sd_sharedance)
        return finish(wire, exec, false, reply);
    return SD_AFTER_KEEP;
}

static sd_after_t feed_head(sd_wire_t *wire, const sd_exec_t *exec, const uint8_t *in, size_t len,
                            size_t *used, sd_reply_t *reply, bool *wait)
{
    sd_request_t request;
    sd_after_t after;

    wire->protocol = protocol_of(wire, in[0]);
    if (!wire->protocol) {
        sd_count(exec->counters, bad_requests);
        *used = len;
        return SD_AFTER_DRAIN;
    }
    switch (wire->protocol->parse(in, len, exec->limits, &request)) {
    case SD_PARSE_MORE:
        *wait = true;
        return SD_AFTER_KEEP;
    case SD_PARSE_DONE:
        /* what is complete is published at once and holds nothing up */
        if (has_value(&request) && exec->hold_from != 0 && request.data_len >= exec->hold_from
            && request.data_len > len - request.head_len) {
            wire->held_size = request.data_len;
            wire->held_missing = request.data_len - (uint32_t)(len - request.head_len);
            return SD_AFTER_CROWDED;
        }
        break;
    case SD_PARSE_BAD:
        if (!request.known)
            request.head_len = 0;
        break;
    }
    wire->bound = 1;
    wire->persistent |= wire->protocol == &sd_extended;
    request.trailing = len > request.head_len;
    after = begin(wire, exec, &request, reply);
    *used = after == SD_AFTER_FULL ? 0 : request.head_len;
    return after;
}

sd_after_t sd_wire_granted(sd_wire_t *wire, const sd_exec_t *exec, sd_reply_t *reply)
{
    sd_lock_key_t key = sd_locks_accept(&wire->owner);

    return sd_extended_locked(exec, key.bytes, key.len, reply);
}

sd_after_t sd_wire_give_up(sd_wire_t *wire, const sd_exec_t *exec, sd_reply_t *reply)
{
    if (sd_locks_give_up(exec->locks, &wire->owner, exec->now, exec->counters))
        return sd_wire_granted(wire, exec, reply);
    return sd_extended_not_locked(reply);
}

sd_after_t sd_wire_feed(sd_wire_t *wire, const sd_exec_t *exec, const uint8_t *in, size_t len,
                        size_t *used, sd_reply_t *reply)
{
    sd_after_t after = SD_AFTER_KEEP;
    bool wait = false;

    *used = 0;
    while (after == SD_AFTER_KEEP && !wait && !sd_reply_is_full(reply)) {
        size_t here = len - *used, taken = 0;

        if (wire->state == AT_HEAD) {
            if (here == 0)
                break;
            after = feed_head(wire, exec, in + *used, here, &taken, reply, &wait);
            *used += taken;
            /* the client has begun anew already: whoever asked is gone */
            if (after == SD_AFTER_PENDING && *used < len && in[*used] == 'P')
                after = sd_wire_give_up(wire, exec, reply);
            continue;
        }
        taken = here < wire->left ? here : (size_t)wire->left;
        if (wire->state == IN_VALUE && taken > 0
            && sd_chain_append(exec->lane, &wire->chain, in + *used, (uint32_t)taken, exec->now)
                   != SD_OK) {
            after = exec->patient ? SD_AFTER_FULL : out_of_memory(wire, exec, reply);
            continue;
        }
        *used += taken;
        wire->left -= taken;
        if (wire->left > 0) {
            if (wire->fault == SD_FAULT_FULL && wire->protocol == &sd_sharedance)
                after = finish(wire, exec, false, reply);
            break;
        }
        after = finish(wire, exec, *used < len, reply);
    }
    return after;
}

/* Room is taken as far ahead as bytes have already come: whoever declares much
 * and sends little holds little. */
#define AHEAD_LEAST 1024u

int sd_wire_room(sd_wire_t *wire, const sd_exec_t *exec, uint32_t limit, struct iovec *iov, int max,
                 size_t *bytes)
{
    uint32_t come = wire->chain.data_len, want = come < AHEAD_LEAST ? AHEAD_LEAST : come;
    int n, i;

    *bytes = 0;
    want = want < limit ? want : limit;
    want = want < wire->left ? want : (uint32_t)wire->left;
    if (wire->state != IN_VALUE || want == 0
        || sd_chain_reserve(exec->lane, &wire->chain, want, exec->now) != SD_OK)
        return 0;
    n = sd_chain_room(exec->lane, &wire->chain, want, iov, max);
    for (i = 0; i < n; i++)
        *bytes += iov[i].iov_len;
    return n;
}

void sd_wire_received(sd_wire_t *wire, const sd_exec_t *exec, size_t n)
{
    sd_chain_advance(exec->lane, &wire->chain, (uint32_t)n);
    wire->left -= n;
}

void sd_wire_save(const sd_wire_t *wire, sd_wire_state_t *state)
{
    memset(state, 0, sizeof *state);
    sd_chain_save(&wire->chain, &state->chain);
    state->left = wire->left;
    state->size = wire->size;
    state->version = wire->version;
    state->ttl = wire->ttl;
    state->phase = wire->state;
    state->op = wire->op;
    state->fault = wire->fault;
    state->bound = wire->bound;
    state->persistent = wire->persistent;
}

/* What begin() and feed() could have left. */
static bool is_possible(const sd_wire_state_t *state)
{
    switch (state->phase) {
    case AT_HEAD:
        return true;
    case IN_VALUE:
        return (state->op == 'S' || state->op == 'W') && state->fault == SD_FAULT_NONE
               && state->left > 0 && state->left <= state->size && state->size <= UINT32_MAX
               && state->ttl <= SD_TTL_MAX && state->chain.data_len == state->size - state->left;
    case PASSING:
        return state->fault > SD_FAULT_UNKNOWN && state->fault <= SD_FAULT_LAST && state->left > 0
               && state->left <= state->size;
    default:
        return false;
    }
}

sd_status_t sd_wire_adopt(sd_wire_t *wire, sd_lane_t *lane, const sd_wire_state_t *state)
{
    uint8_t op = state->op;

    if (!is_possible(state))
        return SD_INVALID;
    if (state->phase == IN_VALUE && sd_chain_adopt(lane, &state->chain, &wire->chain) != SD_OK)
        return SD_INVALID;
    if (state->phase != AT_HEAD) {
        wire->protocol = op == 'S' || op == 'F' || op == 'D' ? &sd_sharedance : &sd_extended;
        wire->left = state->left;
        wire->size = state->size;
        wire->version = state->version;
        wire->ttl = state->ttl;
        wire->op = op;
        wire->fault = state->fault;
        wire->state = state->phase;
    }
    wire->bound = state->bound != 0;
    wire->persistent = state->persistent;
    return SD_OK;
}
