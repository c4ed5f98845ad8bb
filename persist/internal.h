/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h: what the files of persist/ share: transactions of an open journal,
 * and where its files are.
 *
 * A round puts chunks by one or more transactions. In all but the last the state
 * stays as it was, so what they have put does not count; sd_journal_commit makes
 * it count, together with the dropping of old chunks. After a failure what does
 * not count may still be in the table (`leftover`); the next transaction drops it
 * before it puts anything, since it will use the same numbers.
 */
#ifndef SD_PERSIST_INTERNAL_H
#define SD_PERSIST_INTERNAL_H

#include <lmdb.h>

#include "persist/journal.h"
#include "persist/load.h"

#define SD_PERSIST_PATH 4096u /* bytes of a path of ours */
#define SD_PART_BYTES ((uint64_t)64 << 20) /* of chunks put by one transaction, about */
#define SD_PATIENCE_MS 10000

struct sd_journal {
    char *dir;
    MDB_env *env;     /* NULL: closed after an error that it does not get over */
    MDB_txn *txn;
    MDB_dbi chunks;
    MDB_dbi state_table;
    int owner;        /* descriptor of the file that is locked */
    bool no_sync;
    bool same_clock;  /* state.clock_offset is about the clock that rounds are told */
    bool leftover;    /* chunks from state.next on may be in the table */
    bool map_full;    /* the map was too small for the last transaction */
    sd_journal_state_t state; /* as committed */
    uint64_t put_next;   /* number of the next chunk to put */
    uint64_t put_bytes;  /* in chunks put since the last commit of a round */
    uint64_t part_bytes; /* ... in this transaction */
    uint64_t slack_bytes; /* the log may be so much more than twice of what lives */
    uint64_t last_round_bytes; /* what the changes of the last round came to: paces the cleaning */
    unsigned char *buffer;    /* SD_CHUNK_BYTES: the chunk that is being filled */
    unsigned char *old_chunk; /* as large: the one that is being cleaned */
};

/* ---- transactions of a round; each failure has a reason and leaves no transaction ---- */

/* Opens a transaction if none is, with room in the map for a chunk of `want` bytes. */
sd_persist_status_t sd_journal_begin(sd_journal_t *journal, uint64_t want, char *reason);
/* Room for the next chunk; the caller fills all of it before it calls anything else. */
sd_persist_status_t sd_journal_put(sd_journal_t *journal, uint64_t len, unsigned char **at, char *reason);
/* A chunk as it lies in the map, until the transaction ends. `len` 0: it is not there. */
sd_persist_status_t sd_journal_get(sd_journal_t *journal, uint64_t number, const void **at, size_t *len,
                                   char *reason);
/* Ends this transaction; what it has put does not count yet. */
sd_persist_status_t sd_journal_part(sd_journal_t *journal, char *reason);
/* Drops the chunks before `first`, makes what was put count, writes the state: round,
 * version, wall_ms and clock_offset are the caller's, all else follows. */
sd_persist_status_t sd_journal_commit(sd_journal_t *journal, uint64_t first, uint64_t dropped_bytes,
                                      const sd_journal_state_t *state, char *reason);
/* Gives up all that was put since the last commit. Harmless when nothing was. */
void sd_journal_abandon(sd_journal_t *journal);

/* Writes the witness: the last commit has returned. */
void sd_journal_note(const sd_journal_t *journal);
/* Opens LMDB again after an error that it did not get over. */
sd_persist_status_t sd_journal_reopen(sd_journal_t *journal, char *reason);

/* ---- what opening and loading share ---- */

/* "DIR/name" into out; false if it is too long. */
bool sd_persist_path(char out[SD_PERSIST_PATH], const char *dir, const char *name);
/* Opens and locks DIR/owner. OK, BUSY or FAILED. */
sd_persist_status_t sd_owner_lock(const char *dir, int *fd, char *reason);
/* Is there a DIR/data.mdb? OK, FRESH or FAILED. */
sd_persist_status_t sd_data_is_there(const char *dir, char *reason);
/* Opens LMDB in DIR with our tables: for writing, or as a reader that locks nothing. */
int sd_env_open(const char *dir, unsigned flags, uint64_t map_bytes, MDB_env **env);
int sd_tables_open(MDB_txn *txn, unsigned flags, MDB_dbi *chunks, MDB_dbi *state_table);

const atomic_bool *sd_load_stop_flag(const sd_load_t *load);

/* Formats a reason; the return value is the status, for `return`. */
sd_persist_status_t sd_persist_says(sd_persist_status_t status, char *reason, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The key of the one record in "state". */
#define SD_STATE_KEY "state"

#endif
