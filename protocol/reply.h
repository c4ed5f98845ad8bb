/* SPDX-License-Identifier: Apache-2.0
 *
 * reply.h: replies as they wait to be sent: small pieces of bytes of their own
 * and references to values in the store, in order. A reply that a slow client
 * leaves half-sent is moved aside whole; its references keep the values alive.
 *
 * Ownership: a reference given to sd_reply_add_value is released by the reply.
 * Locking: none; a reply belongs to one thread.
 */
#ifndef SD_REPLY_H
#define SD_REPLY_H

#include "shm/store.h"

#define SD_REPLY_PARTS 32
#define SD_REPLY_BYTES 2048
/* Room that one frame's reply takes at most: an error sentence is the longest. */
#define SD_REPLY_FRAME 512

typedef struct sd_reply_part {
    sd_ref_t value;   /* head != 0: a value */
    uint32_t at, len; /* else these of `bytes` */
} sd_reply_part_t;

typedef struct sd_reply {
    uint32_t first, parts;
    uint32_t used;
    bool acknowledges; /* it tells of a change in the store */
    sd_reply_part_t part[SD_REPLY_PARTS];
    uint8_t bytes[SD_REPLY_BYTES];
} sd_reply_t;

static inline void sd_reply_clear(sd_reply_t *reply)
{
    reply->first = reply->parts = reply->used = 0;
    reply->acknowledges = false;
}

static inline bool sd_reply_is_empty(const sd_reply_t *reply)
{
    return reply->first == reply->parts;
}

/* True: another frame's reply might not fit. */
static inline bool sd_reply_is_full(const sd_reply_t *reply)
{
    return reply->parts + 2 > SD_REPLY_PARTS || reply->used + SD_REPLY_FRAME > SD_REPLY_BYTES;
}

void sd_reply_add(sd_reply_t *reply, const void *bytes, size_t n);
void sd_reply_add_value(sd_reply_t *reply, const sd_ref_t *value);

/* What is still to be sent, as at most `max` vectors; *bytes is their sum. */
int sd_reply_iov(const sd_reply_t *reply, sd_lane_t *lane, struct iovec *iov, int max,
                 size_t *bytes);
/* True: the vectors that sd_reply_iov gave covered everything. */
bool sd_reply_advance(sd_reply_t *reply, sd_lane_t *lane, size_t n);
/* Bytes still to be sent. */
uint64_t sd_reply_left(const sd_reply_t *reply);
/* It keeps values alive that are no longer in the store. */
bool sd_reply_holds_detached(const sd_reply_t *reply, sd_lane_t *lane);
/* Releases what was not sent. */
void sd_reply_discard(sd_reply_t *reply, sd_lane_t *lane);

#endif
