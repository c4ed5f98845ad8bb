/* SPDX-License-Identifier: Apache-2.0
 *
 * handover_state.h: one connection's state as it travels from a session process
 * to the one that takes its place, which may be of another version of this
 * module. So it describes itself: fields with a tag and a length, all numbers
 * big-endian, our own format:
 *
 *   tag(2) length(4) bytes ...
 *
 * Who reads it skips a field that it does not know, unless the tag has the bit
 * SD_FIELD_VITAL: then it must not take the connection. A field may have more
 * bytes than are known here; what is absent is zero. What cannot be said so
 * wants another version of the state (handover.h).
 *
 * Pure functions over bytes; nothing here allocates.
 */
#ifndef SD_HANDOVER_STATE_H
#define SD_HANDOVER_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/wire.h"

/* What a connection was doing; the numbers are part of the format. */
enum { SD_HANDED_READING = 0, SD_HANDED_SENDING = 1, SD_HANDED_LINGERING = 2, SD_HANDED_WAITING = 3 };
enum { SD_HANDED_TCP = 1, SD_HANDED_UNIX = 2 };

/* ... and what follows a reply that is half out: sd_after_t may change */
enum { SD_HANDED_KEEP = 0, SD_HANDED_CLOSE, SD_HANDED_DRAIN, SD_HANDED_RESET, SD_HANDED_CROWDED, SD_HANDED_FULL,
       SD_HANDED_PENDING };

#define SD_HANDED_EVER_COMPLETE 0x01u /* the flags, likewise */
#define SD_HANDED_EVER_READ 0x02u
#define SD_HANDED_KEPT_ALIVE 0x04u
#define SD_HANDED_RESET_SET 0x08u
#define SD_HANDED_HELD_BACK 0x10u
#define SD_HANDED_COMMITTING 0x80u    /* SENDING: not before what it acknowledges is on disk */
#define SD_HANDED_SHARED 0x40u        /* yet another process may have the descriptor */
#define SD_HANDED_AWAKE 0x20u         /* it may go on without new input */

/* A piece of a reply: bytes, or a value if `value.head` is not 0. */
typedef struct sd_handed_part {
    sd_ref_state_t value;
    const uint8_t *bytes;
    uint32_t len;
} sd_handed_part_t;

typedef struct sd_handed {
    uint8_t transport;   /* SD_HANDED_TCP, ... */
    uint8_t doing;       /* SD_HANDED_READING, ... */
    uint8_t after;       /* SENDING: SD_HANDED_KEEP, ... */
    uint32_t flags;
    uint32_t held;       /* bytes looked at that are still in the socket */
    uint64_t since;      /* ms, as all times: the request under way began; 0 = there is none */
    uint64_t quiet_since; /* a connection between requests: when it began to wait */
    uint64_t due;        /* LINGERING: when it ends */
    uint64_t reply_due;  /* SENDING: when the reply must be out */
    sd_wire_state_t wire;
    const uint8_t *input; /* bytes read and not yet parsed */
    uint32_t input_len;
    uint32_t parts;      /* of the reply, SENDING */
    uint32_t claims;     /* to locks */
    sd_handed_part_t part[SD_REPLY_PARTS];
    sd_claim_state_t claim[SD_LOCKS_MOST];
} sd_handed_t;

#define SD_FIELD_VITAL 0x8000u

/* Bytes that a state can take at most, beside its input and its claims; and a
 * claim. */
#define SD_HANDED_BYTES 4096u
#define SD_HANDED_CLAIM_BYTES 320u

/* Writes the state into `room` bytes. 0: it does not fit. */
size_t sd_handed_pack(const sd_handed_t *state, uint8_t *out, size_t room);

/* Reads it. `input`, `bytes` and `key` point into what was read. False: it is damaged,
 * or has a vital field that is not known here. */
bool sd_handed_unpack(const uint8_t *in, size_t len, sd_handed_t *state);

#endif
