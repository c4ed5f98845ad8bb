/* SPDX-License-Identifier: Apache-2.0
 *
 * reader.h: what the child does with a journal: looks at all that LMDB will follow
 * in it, and, to load it, reads each chunk and hands the live records over.
 */
#ifndef SD_READER_H
#define SD_READER_H

#include "persist/child.h"
#include "persist/chunk.h"
#include "persist/load.h"

typedef struct sd_reader_order {
    const char *dir;
    bool look_only;    /* the tables and their pages; no chunk is read */
    bool check_first;
    uint64_t wall_ms;
    unsigned char seed[SD_LOAD_SEED_BYTES];
    bool has_witness;
    sd_journal_witness_t witness;
} sd_reader_order_t;

/* The first note, and all that looks need to know. */
typedef struct sd_reader_opening {
    sd_journal_state_t state;
    uint64_t wall_ms;
} sd_reader_opening_t;

/* The last note of a whole load. */
typedef struct sd_reader_trailer {
    uint64_t live, expired, removed, superseded;
    uint64_t live_bytes; /* of data */
    sd_journal_state_t state;
} sd_reader_trailer_t;

typedef struct sd_reader_refusal {
    uint32_t status; /* sd_persist_status_t */
    char text[SD_PERSIST_REASON];
} sd_reader_refusal_t;

/* For sd_child_start; `order` is a sd_reader_order_t. */
void sd_reader_work(void *order, sd_desk_t *desk, int says);

/* Parent: fills in the witness that the owner's file holds, if it holds one. */
void sd_reader_witness(sd_reader_order_t *order, int owner);
/* Parent: a child looks at the database before this process opens it. */
sd_persist_status_t sd_reader_look(const char *dir, int owner, int patience_ms, char reason[SD_PERSIST_REASON]);

#endif
