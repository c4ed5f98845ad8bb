/* SPDX-License-Identifier: Apache-2.0
 *
 * chunk.h: the bytes of a chunk, the unit of the journal, and of the records in
 * it. Pure functions over memory, all numbers little-endian.
 *
 *   a chunk   0  magic         4     "sdCK"
 *             4  format        4     SD_JOURNAL_FORMAT
 *             8  checksum      8     see below
 *            16  number        8     its key in the table
 *            24  journal's id 16
 *            40  records       4
 *            44  0             4
 *            48  bytes         8     of the records
 *            56  serial        8     of the commit that made it count
 *            64  records
 *
 *   a record  0  kind          1     1 VALUE, 2 EXPIRY, 3 REMOVED
 *             1  key_len       1     1 to 255
 *             2  0             2
 *             4  data_len      4     0 unless VALUE
 *             8  version       8
 *            16  expiry        8     wall clock, ms; 0 with REMOVED
 *            24  key, data           no padding
 *
 * The checksum is SipHash-2-4, keyed with SD_CHUNK_KEY, which is no secret: it finds
 * damage, not intent. It is that of the head with that of the records in the
 * checksum's place. State and witness are checked in the same way, with no records.
 */
#ifndef SD_CHUNK_H
#define SD_CHUNK_H

#include "persist/journal.h"
#include "shm/store.h"

#define SD_CHUNK_HEAD 64u
#define SD_RECORD_HEAD 24u
#define SD_CHUNK_KEY "mod_sessiond 1.0" /* 16 bytes */
/* 32 pages of LMDB with their head of 16 bytes: runs of one size are found again
 * in its free pages. */
#define SD_CHUNK_BYTES (32u * 4096u - 16u)

typedef enum { SD_RECORD_VALUE = 1, SD_RECORD_EXPIRY, SD_RECORD_REMOVED } sd_record_kind_t;

typedef struct sd_record {
    sd_record_kind_t kind;
    uint8_t key_len;
    uint32_t data_len;
    uint64_t version;
    uint64_t expiry;
    const unsigned char *key;  /* in the chunk */
    const unsigned char *data;
} sd_record_t;

typedef struct sd_chunk_info {
    uint64_t number;
    unsigned char id[SD_JOURNAL_ID_BYTES];
    uint64_t serial;  /* of the commit that makes it count */
    uint64_t bytes;   /* of the records */
    uint32_t records;
} sd_chunk_info_t;

/* ---- writing ---- */

static inline uint64_t sd_record_bytes(uint32_t key_len, uint32_t data_len)
{
    return (uint64_t)SD_RECORD_HEAD + key_len + data_len;
}

/* Writes head and key at `at`, which has room for them; returns where the data goes. */
unsigned char *sd_record_write(unsigned char *at, const sd_record_t *record);

/* Writes the head of a chunk whose records stand behind it, and seals it. */
void sd_chunk_seal(unsigned char *chunk, const sd_chunk_info_t *info);

/* ---- reading ---- */

/* Whole and right? NULL, or which check it fails, a static phrase ("its checksum
 * is wrong"). All records are looked at, so that sd_chunk_record needs no further
 * thought. */
const char *sd_chunk_check(const void *chunk, size_t len, uint64_t number,
                           const unsigned char id[SD_JOURNAL_ID_BYTES], sd_chunk_info_t *info);

/* The record at `offset`, which is at most `len`. Returns where the next one begins,
 * or 0 if these bytes are no record. */
size_t sd_chunk_record(const void *chunk, size_t len, size_t offset, sd_record_t *record);

/* How many records a chunk has that has been checked before. */
uint32_t sd_chunk_records(const void *chunk);

/* ---- the state and the witness ---- */

#define SD_STATE_BYTES 128u
#define SD_WITNESS_BYTES 64u

void sd_state_write(unsigned char out[SD_STATE_BYTES], const sd_journal_state_t *state);
/* NULL, or what is wrong, a phrase as above. */
const char *sd_state_read(const void *bytes, size_t len, sd_journal_state_t *state);

/* The file `owner`: the last commit that returned. Written after it and without a
 * sync, so it may be behind the database and never before it. */
typedef struct sd_journal_witness {
    unsigned char id[SD_JOURNAL_ID_BYTES];
    uint64_t serial;
} sd_journal_witness_t;

void sd_witness_write(unsigned char out[SD_WITNESS_BYTES], const sd_journal_witness_t *witness);
bool sd_witness_read(const void *bytes, size_t len, sd_journal_witness_t *witness); /* false: says nothing */

#endif
