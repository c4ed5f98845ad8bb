/* SPDX-License-Identifier: Apache-2.0
 *
 * client.h: a client's side of conversations for the fuzz targets, and the
 * server's socket between: what is sent arrives in pieces, values are received
 * straight into the store or not, replies leave in small steps or are moved
 * aside, all as connection.c does it and as the cuts of an input say.
 */
#ifndef FUZZ_CLIENT_H
#define FUZZ_CLIENT_H

#include "protocol/wire.h"
#include "t/unit/guard.h"
#include "t/unit/store_fixture.h"

enum { CLIENT_KEPT_MAX = 21 + 250, CLIENT_SENT_MAX = 8192, CLIENT_ANSWER_MAX = 4 << 20 };

/* How pieces are cut: one byte for each piece, round and round; none = whole. */
typedef struct cuts {
    const uint8_t *bytes;
    size_t n, at;
} cuts_t;

/* What came of one talk: bytes that were sent, and what came back. */
typedef struct outcome {
    const uint8_t *answer;
    size_t len;
    sd_after_t after;
    size_t stopped; /* how much of the talk was used when it ended; else all of it */
} outcome_t;

typedef struct client {
    sd_lock_mailbox_t mailbox;
    sd_exec_t exec; /* `now` is the caller's to set */
    sd_wire_t wire;
    sd_reply_t reply;
    cuts_t cuts;
    guard_t guard;
    bool open;
    uint8_t kept[CLIENT_KEPT_MAX]; /* the beginning of a head, as connection.c keeps it */
    size_t kept_len;
    uint8_t *answers; /* of the talk under way */
    size_t answers_len;
} client_t;

/* One client at a time. */
void client_setup(client_t *c, sd_lane_t *lane, const sd_limits_t *limits, cuts_t cuts);
void client_teardown(client_t *c);
void client_connect(client_t *c); /* anew: a connection that is open is given up */

/* Sends; the connection is gone afterwards unless it came to SD_AFTER_KEEP. No
 * piece ends at `never` (where a bare end of input would mean another thing). */
outcome_t client_talk(client_t *c, const uint8_t *bytes, size_t n, size_t never);

#endif
