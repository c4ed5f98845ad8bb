/* SPDX-License-Identifier: Apache-2.0
 *
 * load.h: the sessions of a journal come back into a store.
 *
 * What is hard: LMDB follows every offset that it finds in its file, so a damaged
 * file can crash it or send it round in circles. A child process reads the file,
 * checks all of it and hands the live sessions over through a pipe; whatever
 * becomes of the child, the parent gets a sentence. The file is opened for reading
 * only and never changed. A journal is what its last commit says, or it is refused:
 * an older state, as a damaged head of the file could show it, is found out by the
 * witness in the file `owner`.
 *
 * Whose record counts, from the newest to the oldest (why: persist.h):
 *   VALUE v       the first one decides: taken if it is live, else the key is dead
 *   EXPIRY v e    kept in mind: VALUE v is taken with e, VALUE of an earlier version is dead
 *   REMOVED v     kept in mind: VALUE v and of earlier versions are dead
 *   of two in mind the later version holds; of one version, REMOVED, then the newer
 *
 * Time: a wall clock that has been set back must not revive what had expired. So
 * expiries are compared with the later of wall_ms and the wall clock of the last
 * commit, and that moment is the `wall_ms` to reckon the rest of a lifetime from.
 *
 * The child is forked from a process with threads and dies with the thread that
 * started it (PR_SET_PDEATHSIG): start, next and end belong to one thread, and the
 * caller has no handler for SIGCHLD that reaps strangers. Shared memory that must
 * not be seen by a child that may go wild wants MADV_DONTFORK.
 */
#ifndef SD_LOAD_H
#define SD_LOAD_H

#include <stdatomic.h>

#include "persist/journal.h"
#include "shm/store.h"

#define SD_LOAD_SEED_BYTES 16u

typedef struct sd_load sd_load_t;

typedef struct sd_load_options {
    uint64_t wall_ms;
    unsigned char seed[SD_LOAD_SEED_BYTES]; /* random: keys the set of keys seen */
    bool check_first;   /* all is read and checked before the first record comes (twice the reading);
                         * else damage may show after records have been given out */
    int patience_ms;    /* the child is given up when it has not moved for so long; 0: 10 s */
    const atomic_bool *stop; /* may be NULL; true: sd_load_into_store gives up */
    bool (*beat)(void *baton); /* called every 100 ms while sd_load_start waits; false: STOPPED. May be NULL */
    void *baton;
} sd_load_options_t;

typedef struct sd_load_record {
    uint64_t version;
    uint64_t expiry;   /* wall clock, ms */
    uint32_t data_len;
    uint8_t key_len;
    unsigned char key[SD_KEY_MAX];
} sd_load_record_t;

typedef struct sd_load_report {
    sd_journal_state_t state; /* from the beginning on */
    uint64_t wall_ms;         /* the moment that expiries were compared with */
    uint64_t bytes_done;      /* of state.bytes; twice through with check_first */
    uint64_t bytes_all;
    uint64_t live;            /* the counts are final when all is over */
    uint64_t expired;
    uint64_t removed;
    uint64_t superseded;
} sd_load_report_t;

/* OK: the child has opened the journal, and the report has its state: it has looked
 * at all pages by then, which takes a while with a large one. FRESH: there is none.
 * BUSY, ALIEN, DAMAGED, FAILED, STOPPED: with a reason. Only after OK there is a
 * load to end. While it goes on nobody else can open the journal. */
sd_persist_status_t sd_load_start(sd_load_t **load, const char *dir, const sd_load_options_t *options,
                                  char reason[SD_PERSIST_REASON]);

typedef enum {
    SD_LOAD_RECORD, /* a live session: its data comes by sd_load_data */
    SD_LOAD_WAIT,   /* nothing came within wait_ms; the child is at work */
    SD_LOAD_DONE,   /* that was all, and all of it was right */
    SD_LOAD_BROKEN  /* see sd_load_status and sd_load_reason */
} sd_load_step_t;

/* The next record. What is left of the last one's data is skipped. Until DONE,
 * nothing that was given out is known to be the whole or, without check_first, to
 * be wanted: what has been put into a store by then is to be thrown away. */
sd_load_step_t sd_load_next(sd_load_t *load, sd_load_record_t *record, int wait_ms);

/* Bytes of the last record's data into the caller's vectors. Returns how many, 0
 * when there are no more or the load is broken (then the next step says so). */
size_t sd_load_data(sd_load_t *load, const struct iovec *iov, int n);

const sd_load_report_t *sd_load_report(const sd_load_t *load);
sd_persist_status_t sd_load_status(const sd_load_t *load);
const char *sd_load_reason(const sd_load_t *load);

/* Ends the child if need be. Takes NULL. */
void sd_load_end(sd_load_t **load);

/* ---- all of it into a store -------------------------------------------- */

typedef struct sd_load_target {
    sd_lane_t *lane;
    uint64_t now;     /* the store's clock, at the moment of options.wall_ms */
    uint64_t (*read_clock)(void *baton); /* the store's clock now, ms */
    /* Called about every 100 ms by that clock, and at the end. May be NULL. */
    void (*beat)(void *baton, const sd_load_report_t *report);
    void *baton;
} sd_load_target_t;

typedef struct sd_load_sum {
    sd_load_report_t report;
    uint64_t restored;
    uint64_t conflicts; /* the store had that version or a later one */
    uint64_t late;      /* expired while it was being loaded */
} sd_load_sum_t;

/* Versions that were given out after the last commit, and died with the memory: how
 * many nobody knows, and clients may still hold them. So many are skipped, that none
 * is given out a second time. */
#define SD_LOAD_VERSION_GAP (UINT64_C(1) << 32)

/* OK: every live session is in the store, unchanged as far as the next round is
 * concerned. TOO_SMALL: the store is full, and has what fitted. STOPPED, DAMAGED,
 * FAILED: it has part of them. In all but OK the store is not to be served. Does
 * not end the load. */
sd_persist_status_t sd_load_into_store(sd_load_t *load, const sd_load_target_t *target,
                                       sd_load_sum_t *sum, char reason[SD_PERSIST_REASON]);

#endif
