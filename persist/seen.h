/* SPDX-License-Identifier: Apache-2.0
 *
 * seen.h: which of a key's records counts, when they come from the newest to the
 * oldest (the rules are in load.h). Keys are remembered as 128 bits of SipHash
 * under a random seed: 16 bytes each, and nobody who chooses keys can make two of
 * them meet.
 */
#ifndef SD_SEEN_H
#define SD_SEEN_H

#include "persist/chunk.h"
#include "persist/load.h"

typedef struct sd_seen sd_seen_t;

typedef enum {
    SD_SEEN_TAKE,       /* a live value, with the expiry that is given back */
    SD_SEEN_EXPIRED,    /* the key's last value, but its time is over */
    SD_SEEN_REMOVED,    /* a value that a removal binds */
    SD_SEEN_SUPERSEDED, /* a value that something newer has decided about */
    SD_SEEN_NOTED,      /* no value; kept in mind or of no interest */
    SD_SEEN_NO_MEMORY
} sd_seen_verdict_t;

sd_seen_t *sd_seen_create(const unsigned char seed[SD_LOAD_SEED_BYTES]); /* NULL: no memory */
void sd_seen_destroy(sd_seen_t **seen);
/* Forgets all keys. */
void sd_seen_clear(sd_seen_t *seen);

/* `wall_ms`: an expiry up to it is over. *expiry is set with TAKE. */
sd_seen_verdict_t sd_seen_judge(sd_seen_t *seen, const sd_record_t *record, uint64_t wall_ms, uint64_t *expiry);

#endif
