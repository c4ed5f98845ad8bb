/* SPDX-License-Identifier: Apache-2.0
 *
 * journal.h: the directory of SessiondPersist: an LMDB database that holds the
 * sessions as a log of chunks, and who may write to it. This room needs the
 * store, APR, libc and LMDB; it logs nothing and reads no clock.
 *
 *   data.mdb   LMDB: table "chunks" (number -> chunk, see chunk.h)
 *                    table "state"  (one record, sd_journal_state_t)
 *   lock.mdb   LMDB's own lock, for mdb_copy and mdb_stat beside us
 *   owner      held with flock by the process that has the journal, so that two
 *              httpds never share a directory; 64 bytes in it say which commit
 *              was the last one (sd_journal_witness_t)
 *
 * What is hard: LMDB has no checksums and trusts what it maps. So a file that
 * somebody else may have touched is looked at by a child process first (load.h),
 * and what is not ours or damaged is left exactly as it is. And a commit must be
 * whole or not there: chunks that state does not count (`next` and later) belong
 * to a round that never ended; nobody reads them, and the next writer drops them.
 *
 * A journal belongs to one thread at a time.
 */
#ifndef SD_JOURNAL_H
#define SD_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SD_PERSIST_REASON 256u /* bytes of a reason, its end included */
#define SD_JOURNAL_ID_BYTES 16u
#define SD_JOURNAL_FORMAT 1u   /* of the state, the chunks and their records */

typedef enum {
    SD_PERSIST_OK = 0,
    SD_PERSIST_FRESH,    /* there is no journal; with `create` an empty one was made and is open */
    SD_PERSIST_BUSY,     /* another process has it */
    SD_PERSIST_ALIEN,    /* not ours, of another format or byte order, or damaged: left as it is */
    SD_PERSIST_NO_SPACE, /* the file system, a quota or a limit is full */
    SD_PERSIST_STOPPED,  /* the stop flag was set */
    SD_PERSIST_DAMAGED,  /* what was read is not what was written */
    SD_PERSIST_TOO_SMALL, /* the store has no room for what is loaded */
    SD_PERSIST_FAILED    /* the operating system or LMDB said no */
} sd_persist_status_t;

typedef struct sd_journal sd_journal_t;

typedef struct sd_journal_options {
    bool create;    /* make one when there is none */
    bool no_sync;   /* tests: commits that are not on disk when they return */
    unsigned char id[SD_JOURNAL_ID_BYTES]; /* random; names a journal that is made */
    uint64_t wall_ms; /* wall clock, for a journal that is made */
    bool same_store;  /* the store, with its clock, is the one that the last round was about */
    uint64_t slack_bytes; /* tests: so much more than twice of what lives may the log be; 0: 16 MB */
    uint64_t map_bytes; /* tests: LMDB's map to begin with; 0: as is right for the file */
    int patience_ms;  /* how long the child that looks first may take for a step; 0: 10 s */
} sd_journal_options_t;

typedef struct sd_journal_state {
    unsigned char id[SD_JOURNAL_ID_BYTES];
    uint64_t serial;  /* commits so far */
    uint64_t version; /* the store's last version when the last round began: later ones are not in here */
    uint64_t wall_ms; /* wall clock of the last whole round */
    int64_t clock_offset; /* wall clock less store's clock, by which expiries were reckoned */
    uint64_t first;   /* chunks first to next - 1 are the journal */
    uint64_t next;
    uint64_t bytes;   /* in these chunks, heads included */
    uint32_t round;   /* number of the last whole round (sd_changes_begin), 0 = none yet */
} sd_journal_state_t;

/* OK or FRESH: *journal is open, and nobody else has it. Otherwise it is NULL and
 * the reason is a sentence that names the directory or file and what is wrong with
 * it. The directory exists; files are made with mode 0600. An existing database is
 * first looked over by a child process; sessions are not read (load.h does). */
sd_persist_status_t sd_journal_open(sd_journal_t **journal, const char *dir,
                                    const sd_journal_options_t *options,
                                    char reason[SD_PERSIST_REASON]);

/* Takes NULL, an open journal, and one that has failed. */
void sd_journal_close(sd_journal_t **journal);

const sd_journal_state_t *sd_journal_state(const sd_journal_t *journal);

/* False when data.mdb is no longer the file that is open: the directory was
 * removed or replaced under us, and what is written goes nowhere. */
bool sd_journal_is_there(const sd_journal_t *journal);

/* Bytes of data.mdb, 0 if that cannot be told. */
uint64_t sd_journal_file_bytes(const sd_journal_t *journal);

/* "ok", "busy"...: one word for a status, for logs and tests. */
const char *sd_persist_status_name(sd_persist_status_t status);

#endif
