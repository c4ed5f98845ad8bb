/* SPDX-License-Identifier: Apache-2.0
 *
 * pack.h: records are packed into chunks and the chunks put, as one round does it.
 * Small ones fill a buffer of a chunk's size, which stays in the processor's cache
 * until it is sealed and copied into LMDB's page; a value that is larger goes from
 * the store's blocks into its page at once. Records keep the order in which they
 * were packed.
 */
#ifndef SD_PACK_H
#define SD_PACK_H

#include "persist/chunk.h"
#include "persist/internal.h"
#include "persist/persist.h"

typedef struct sd_packer {
    sd_journal_t *journal;
    sd_lane_t *lane;
    const sd_round_options_t *options;
    uint64_t bytes;    /* put and in the buffer */
    uint32_t used;     /* of the buffer, the chunk's head included; 0: nothing is in it */
    uint32_t records;  /* in the buffer */
    uint64_t all_records;
    char *reason;
} sd_packer_t;

/* Expiries as the journal keeps them, and back. */
uint64_t sd_pack_wall(const sd_round_options_t *options, uint64_t expiry);

bool sd_pack_is_stopped(const sd_packer_t *packer);
/* Copies the value's bytes; the reference stays the caller's. */
sd_persist_status_t sd_pack_value(sd_packer_t *packer, const unsigned char *key, uint8_t key_len, sd_ref_t *value);
/* EXPIRY or REMOVED. `expiry` is the store's. */
sd_persist_status_t sd_pack_note(sd_packer_t *packer, sd_record_kind_t kind, const unsigned char *key, uint8_t key_len,
                                 uint64_t version, uint64_t expiry);
/* Puts what is in the buffer. */
sd_persist_status_t sd_pack_flush(sd_packer_t *packer);

/* ---- clean.c ---- */

typedef struct sd_cleaning {
    uint64_t first;   /* chunks before it are to be dropped */
    uint64_t dropped; /* their bytes */
    uint64_t copied;  /* values packed anew */
    bool unreadable;  /* one of them cannot be read: nothing more can be cleaned */
} sd_cleaning_t;

/* Packs what is still wanted of the oldest chunks. Before sd_changes_begin, and
 * why: persist.h, rule 4. */
sd_persist_status_t sd_clean(sd_packer_t *packer, sd_cleaning_t *cleaning);

#endif
