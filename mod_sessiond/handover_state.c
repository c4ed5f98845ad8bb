/* SPDX-License-Identifier: Apache-2.0
 *
 * handover_state.c: the fields of handover_state.h, written and read. What is
 * hard: the reader may be older or newer than the writer, so lengths are taken
 * as they come and only what a connection cannot live without is insisted on.
 */
#include <string.h>

#include "handover_state.h"
#include "protocol/bytes.h"

/* The tags; never used again for anything else. */
enum {
    FIELD_WHAT = 1 | SD_FIELD_VITAL,    /* transport(1) doing(1) after(1) */
    FIELD_FLAGS = 2,                    /* flags(4) */
    FIELD_HELD = 3 | SD_FIELD_VITAL,    /* held(4) */
    FIELD_TIMES = 4,                    /* since(8) quiet_since(8) due(8) reply_due(8) */
    FIELD_REQUEST = 5 | SD_FIELD_VITAL, /* phase(1) op(1) fault(1) 0 ttl(4) left(8) size(8) version(8) */
    FIELD_CHAIN = 6 | SD_FIELD_VITAL,   /* head(4) blocks(4) data_len(4) */
    FIELD_FAMILY = 7,                   /* bound(1) persistent(1) */
    FIELD_INPUT = 8 | SD_FIELD_VITAL,   /* bytes */
    FIELD_BYTES = 9 | SD_FIELD_VITAL,   /* bytes of the reply */
    FIELD_VALUE = 10 | SD_FIELD_VITAL,  /* version(8) head(4) data_len(4) left(4) of the reply */
    FIELD_CLAIM = 11 | SD_FIELD_VITAL   /* kind(1) keylen(1) 0(2) ticket(8) asked(8) until(8) since(8) key */
};

#define FIELD_HEAD 6u
#define CLAIM_HEAD 36u

/* ---- writing ---- */

typedef struct out {
    uint8_t *at;
    size_t room;
    bool full;
} out_t;

/* Begins a field. NULL: there is no room for it. */
static uint8_t *field(out_t *out, unsigned tag, size_t len)
{
    uint8_t *body;

    if (out->full || len > UINT32_MAX || out->room < FIELD_HEAD || out->room - FIELD_HEAD < len) {
        out->full = true;
        return NULL;
    }
    out->at[0] = (uint8_t)(tag >> 8);
    out->at[1] = (uint8_t)tag;
    sd_put32(out->at + 2, (uint32_t)len);
    body = out->at + FIELD_HEAD;
    out->at += FIELD_HEAD + len;
    out->room -= FIELD_HEAD + len;
    return body;
}

static void put_bytes(out_t *out, unsigned tag, const uint8_t *bytes, size_t len)
{
    uint8_t *body = field(out, tag, len);

    if (body && len > 0)
        memcpy(body, bytes, len);
}

static void put_number(out_t *out, unsigned tag, uint32_t number)
{
    uint8_t *body = field(out, tag, 4);

    if (body)
        sd_put32(body, number);
}

static void put_request(out_t *out, const sd_wire_state_t *wire)
{
    uint8_t *body;

    if (wire->phase != SD_WIRE_HEAD && (body = field(out, FIELD_REQUEST, 32))) {
        body[0] = wire->phase;
        body[1] = wire->op;
        body[2] = wire->fault;
        body[3] = 0;
        sd_put32(body + 4, wire->ttl);
        sd_put64(body + 8, wire->left);
        sd_put64(body + 16, wire->size);
        sd_put64(body + 24, wire->version);
    }
    if (wire->phase == SD_WIRE_VALUE && (body = field(out, FIELD_CHAIN, 12))) {
        sd_put32(body, wire->chain.head);
        sd_put32(body + 4, wire->chain.blocks);
        sd_put32(body + 8, wire->chain.data_len);
    }
    if ((body = field(out, FIELD_FAMILY, 2))) {
        body[0] = wire->bound;
        body[1] = wire->persistent;
    }
}

static void put_value(out_t *out, const sd_ref_state_t *value)
{
    uint8_t *body = field(out, FIELD_VALUE, 20);

    if (!body)
        return;
    sd_put64(body, value->version);
    sd_put32(body + 8, value->head);
    sd_put32(body + 12, value->data_len);
    sd_put32(body + 16, value->left);
}

static void put_claim(out_t *out, const sd_claim_state_t *claim)
{
    uint8_t *body = field(out, FIELD_CLAIM, CLAIM_HEAD + claim->key_len);

    if (!body)
        return;
    body[0] = claim->kind;
    body[1] = (uint8_t)claim->key_len;
    body[2] = body[3] = 0;
    sd_put64(body + 4, claim->ticket);
    sd_put64(body + 12, claim->asked);
    sd_put64(body + 20, claim->until);
    sd_put64(body + 28, claim->since);
    memcpy(body + CLAIM_HEAD, claim->key, claim->key_len);
}

size_t sd_handed_pack(const sd_handed_t *state, uint8_t *bytes, size_t room)
{
    out_t out = { bytes, room, false };
    uint8_t *body = field(&out, FIELD_WHAT, 3);
    uint32_t i;

    if (body) {
        body[0] = state->transport;
        body[1] = state->doing;
        body[2] = state->after;
    }
    put_number(&out, FIELD_FLAGS, state->flags);
    if (state->held > 0)
        put_number(&out, FIELD_HELD, state->held);
    if ((body = field(&out, FIELD_TIMES, 32))) {
        sd_put64(body, state->since);
        sd_put64(body + 8, state->quiet_since);
        sd_put64(body + 16, state->due);
        sd_put64(body + 24, state->reply_due);
    }
    put_request(&out, &state->wire);
    if (state->input_len > 0)
        put_bytes(&out, FIELD_INPUT, state->input, state->input_len);
    for (i = 0; i < state->parts; i++)
        if (state->part[i].value.head != 0)
            put_value(&out, &state->part[i].value);
        else
            put_bytes(&out, FIELD_BYTES, state->part[i].bytes, state->part[i].len);
    for (i = 0; i < state->claims; i++)
        put_claim(&out, &state->claim[i]);
    return out.full ? 0 : room - out.room;
}

/* ---- reading ---- */

static bool get_request(const uint8_t *body, size_t len, sd_wire_state_t *wire)
{
    if (len < 32)
        return false;
    wire->phase = body[0];
    wire->op = body[1];
    wire->fault = body[2];
    wire->ttl = sd_get32(body + 4);
    wire->left = sd_get64(body + 8);
    wire->size = sd_get64(body + 16);
    wire->version = sd_get64(body + 24);
    return true;
}

static bool get_part(unsigned tag, const uint8_t *body, size_t len, sd_handed_t *state)
{
    sd_handed_part_t *part = &state->part[state->parts];

    if (state->parts == SD_REPLY_PARTS || (tag == FIELD_VALUE && len < 20))
        return false;
    memset(part, 0, sizeof *part);
    if (tag == FIELD_VALUE) {
        part->value.version = sd_get64(body);
        part->value.head = sd_get32(body + 8);
        part->value.data_len = sd_get32(body + 12);
        part->value.left = sd_get32(body + 16);
        if (part->value.head == 0)
            return false;
    }
    else {
        part->bytes = body;
        part->len = (uint32_t)len;
    }
    state->parts++;
    return true;
}

static bool get_claim(const uint8_t *body, size_t len, sd_handed_t *state)
{
    sd_claim_state_t *claim = &state->claim[state->claims];

    if (state->claims == SD_LOCKS_MOST || len < CLAIM_HEAD || body[1] == 0 || len - CLAIM_HEAD < body[1]
        || body[0] > SD_CLAIM_LOST)
        return false;
    claim->kind = body[0];
    claim->key_len = body[1];
    claim->ticket = sd_get64(body + 4);
    claim->asked = sd_get64(body + 12);
    claim->until = sd_get64(body + 20);
    claim->since = sd_get64(body + 28);
    claim->key = body + CLAIM_HEAD;
    state->claims++;
    return true;
}

/* False: a field that is wrong or, being vital, unknown. */
static bool get_field(unsigned tag, const uint8_t *body, size_t len, sd_handed_t *state)
{
    switch (tag) {
    case FIELD_WHAT:
        if (len < 3)
            return false;
        state->transport = body[0];
        state->doing = body[1];
        state->after = body[2];
        return true;
    case FIELD_FLAGS:
        state->flags = len < 4 ? 0 : sd_get32(body);
        return len >= 4;
    case FIELD_HELD:
        state->held = len < 4 ? 0 : sd_get32(body);
        return len >= 4;
    case FIELD_TIMES:
        if (len < 32)
            return false;
        state->since = sd_get64(body);
        state->quiet_since = sd_get64(body + 8);
        state->due = sd_get64(body + 16);
        state->reply_due = sd_get64(body + 24);
        return true;
    case FIELD_REQUEST:
        return get_request(body, len, &state->wire);
    case FIELD_CHAIN:
        if (len < 12)
            return false;
        state->wire.chain.head = sd_get32(body);
        state->wire.chain.blocks = sd_get32(body + 4);
        state->wire.chain.data_len = sd_get32(body + 8);
        return true;
    case FIELD_FAMILY:
        if (len < 2)
            return false;
        state->wire.bound = body[0];
        state->wire.persistent = body[1] != 0;
        return true;
    case FIELD_INPUT:
        state->input = body;
        state->input_len = (uint32_t)len;
        return true;
    case FIELD_BYTES:
    case FIELD_VALUE:
        return get_part(tag, body, len, state);
    case FIELD_CLAIM:
        return get_claim(body, len, state);
    default:
        return (tag & SD_FIELD_VITAL) == 0;
    }
}

/* Whoever waits for a lock awaits one, or has just been granted it; nobody else
 * does. */
static bool waits_rightly(const sd_handed_t *state)
{
    uint32_t i, awaited = 0;

    for (i = 0; i < state->claims; i++)
        awaited += state->claim[i].kind == SD_CLAIM_WAITING || state->claim[i].kind == SD_CLAIM_GRANTED;
    return awaited
           == (state->doing == SD_HANDED_WAITING
               || (state->doing == SD_HANDED_SENDING && state->after == SD_HANDED_PENDING));
}

/* What the fields mean together; whether it fits the segment, the store says. */
static bool makes_sense(const sd_handed_t *state)
{
    return (state->transport == SD_HANDED_TCP || state->transport == SD_HANDED_UNIX)
           && state->doing <= SD_HANDED_WAITING && state->after <= SD_HANDED_PENDING
           && (state->doing == SD_HANDED_SENDING || state->parts == 0) && waits_rightly(state);
}

bool sd_handed_unpack(const uint8_t *in, size_t len, sd_handed_t *state)
{
    size_t at = 0;

    memset(state, 0, offsetof(sd_handed_t, part));
    while (at < len) {
        unsigned tag;
        uint32_t body;

        if (len - at < FIELD_HEAD)
            return false;
        tag = (unsigned)in[at] << 8 | in[at + 1];
        body = sd_get32(in + at + 2);
        at += FIELD_HEAD;
        if (body > len - at || !get_field(tag, in + at, body, state))
            return false;
        at += body;
    }
    return makes_sense(state);
}
