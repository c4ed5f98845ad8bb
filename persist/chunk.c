/* SPDX-License-Identifier: Apache-2.0
 *
 * chunk.c: chunks, records, state and witness as bytes. What is read may be
 * anything: each length is compared with what is left before it is added, and
 * nothing is believed before the checksum has been seen.
 */
#include "persist/chunk.h"

#include <string.h>

#include <apr_siphash.h>

#include "persist/bytes.h"

#define CHUNK_MAGIC UINT32_C(0x4b436473)   /* "sdCK" */
#define STATE_MAGIC UINT32_C(0x54536473)   /* "sdST" */
#define WITNESS_MAGIC UINT32_C(0x49576473) /* "sdWI" */
#define BYTE_ORDER_MARK UINT32_C(0x01020304)

enum { AT_FORMAT = 4, AT_CHECKSUM = 8 }; /* of all three, after the magic */
enum { CHUNK_NUMBER = 16, CHUNK_ID = 24, CHUNK_RECORDS = 40, CHUNK_LENGTH = 48,
       CHUNK_SERIAL = 56 };
enum { REC_KIND = 0, REC_KEY_LEN = 1, REC_ZERO = 2, REC_DATA_LEN = 4, REC_VERSION = 8, REC_EXPIRY = 16 };
/* LMDB's own pages are in the machine's byte order; the mark is, too, so that the
 * state says which one it was. */
enum { STATE_ORDER = 16, STATE_ROUND = 20, STATE_ID = 24, STATE_SERIAL = 40, STATE_VERSION = 48,
       STATE_WALL = 56, STATE_FIRST = 64, STATE_NEXT = 72, STATE_LENGTH = 80, STATE_OFFSET = 88 };
enum { WITNESS_ID = 16, WITNESS_SERIAL = 32 };

_Static_assert(sizeof(SD_CHUNK_KEY) - 1 == APR_SIPHASH_KSIZE, "SipHash takes a key of 16 bytes");

static uint64_t sum(const void *bytes, size_t len)
{
    return apr_siphash24(bytes, len, (const unsigned char *)SD_CHUNK_KEY);
}

/* Of a head of at most 128 bytes and what stands behind it. */
static uint64_t checksum(const unsigned char *head, size_t head_len, const void *rest, size_t rest_len)
{
    unsigned char copy[SD_STATE_BYTES];

    memcpy(copy, head, head_len);
    sd_le_put64(copy + AT_CHECKSUM, rest_len > 0 ? sum(rest, rest_len) : 0);
    return sum(copy, head_len);
}

unsigned char *sd_record_write(unsigned char *at, const sd_record_t *r)
{
    at[REC_KIND] = (unsigned char)r->kind;
    at[REC_KEY_LEN] = r->key_len;
    at[REC_ZERO] = at[REC_ZERO + 1] = 0;
    sd_le_put32(at + REC_DATA_LEN, r->data_len);
    sd_le_put64(at + REC_VERSION, r->version);
    sd_le_put64(at + REC_EXPIRY, r->expiry);
    memcpy(at + SD_RECORD_HEAD, r->key, r->key_len);
    return at + SD_RECORD_HEAD + r->key_len;
}

void sd_chunk_seal(unsigned char *chunk, const sd_chunk_info_t *info)
{
    memset(chunk, 0, SD_CHUNK_HEAD);
    sd_le_put32(chunk, CHUNK_MAGIC);
    sd_le_put32(chunk + AT_FORMAT, SD_JOURNAL_FORMAT);
    sd_le_put64(chunk + CHUNK_NUMBER, info->number);
    memcpy(chunk + CHUNK_ID, info->id, SD_JOURNAL_ID_BYTES);
    sd_le_put64(chunk + CHUNK_SERIAL, info->serial);
    sd_le_put32(chunk + CHUNK_RECORDS, info->records);
    sd_le_put64(chunk + CHUNK_LENGTH, info->bytes);
    sd_le_put64(chunk + AT_CHECKSUM, checksum(chunk, SD_CHUNK_HEAD, chunk + SD_CHUNK_HEAD, info->bytes));
}

size_t sd_chunk_record(const void *chunk, size_t len, size_t offset, sd_record_t *r)
{
    const unsigned char *at = (const unsigned char *)chunk + offset;
    size_t left = len - offset;

    if (left < SD_RECORD_HEAD)
        return 0;
    if (at[REC_KIND] < SD_RECORD_VALUE || at[REC_KIND] > SD_RECORD_REMOVED || at[REC_KEY_LEN] == 0
        || at[REC_ZERO] != 0 || at[REC_ZERO + 1] != 0)
        return 0;
    r->kind = (sd_record_kind_t)at[REC_KIND];
    r->key_len = at[REC_KEY_LEN];
    r->data_len = sd_le_get32(at + REC_DATA_LEN);
    r->version = sd_le_get64(at + REC_VERSION);
    r->expiry = sd_le_get64(at + REC_EXPIRY);
    left -= SD_RECORD_HEAD;
    if (r->key_len > left || r->data_len > left - r->key_len)
        return 0;
    if (r->kind != SD_RECORD_VALUE && r->data_len != 0)
        return 0;
    r->key = at + SD_RECORD_HEAD;
    r->data = r->key + r->key_len;
    return offset + SD_RECORD_HEAD + r->key_len + r->data_len;
}

const char *sd_chunk_check(const void *chunk, size_t len, uint64_t number,
                           const unsigned char id[SD_JOURNAL_ID_BYTES], sd_chunk_info_t *info)
{
    const unsigned char *head = chunk;
    sd_record_t record;
    size_t offset = SD_CHUNK_HEAD;
    uint32_t n;

    if (len < SD_CHUNK_HEAD)
        return "it is shorter than its head";
    if (sd_le_get32(head) != CHUNK_MAGIC)
        return "it does not begin as a chunk";
    if (sd_le_get32(head + AT_FORMAT) != SD_JOURNAL_FORMAT)
        return "it has another format";
    info->number = sd_le_get64(head + CHUNK_NUMBER);
    memcpy(info->id, head + CHUNK_ID, SD_JOURNAL_ID_BYTES);
    info->serial = sd_le_get64(head + CHUNK_SERIAL);
    info->records = sd_le_get32(head + CHUNK_RECORDS);
    info->bytes = sd_le_get64(head + CHUNK_LENGTH);
    if (info->bytes != len - SD_CHUNK_HEAD)
        return "its length is wrong";
    if (sd_le_get64(head + AT_CHECKSUM) != checksum(head, SD_CHUNK_HEAD, head + SD_CHUNK_HEAD, len - SD_CHUNK_HEAD))
        return "its checksum is wrong";
    if (info->number != number)
        return "it has another chunk's number";
    if (memcmp(info->id, id, SD_JOURNAL_ID_BYTES) != 0)
        return "it belongs to another journal";
    for (n = 0; n < info->records; n++) {
        offset = sd_chunk_record(chunk, len, offset, &record);
        if (offset == 0)
            return "it holds a broken record";
    }
    if (offset != len)
        return "it holds other than its records";
    return NULL;
}

uint32_t sd_chunk_records(const void *chunk)
{
    return sd_le_get32((const unsigned char *)chunk + CHUNK_RECORDS);
}

static void mark(unsigned char *out, size_t len, uint32_t magic)
{
    memset(out, 0, len);
    sd_le_put32(out, magic);
    sd_le_put32(out + AT_FORMAT, SD_JOURNAL_FORMAT);
}

void sd_state_write(unsigned char out[SD_STATE_BYTES], const sd_journal_state_t *s)
{
    uint32_t order = BYTE_ORDER_MARK;

    mark(out, SD_STATE_BYTES, STATE_MAGIC);
    memcpy(out + STATE_ORDER, &order, sizeof order);
    sd_le_put32(out + STATE_ROUND, s->round);
    memcpy(out + STATE_ID, s->id, SD_JOURNAL_ID_BYTES);
    sd_le_put64(out + STATE_SERIAL, s->serial);
    sd_le_put64(out + STATE_VERSION, s->version);
    sd_le_put64(out + STATE_WALL, s->wall_ms);
    sd_le_put64(out + STATE_FIRST, s->first);
    sd_le_put64(out + STATE_NEXT, s->next);
    sd_le_put64(out + STATE_LENGTH, s->bytes);
    sd_le_put64(out + STATE_OFFSET, (uint64_t)s->clock_offset);
    sd_le_put64(out + AT_CHECKSUM, checksum(out, SD_STATE_BYTES, NULL, 0));
}

const char *sd_state_read(const void *bytes, size_t len, sd_journal_state_t *s)
{
    const unsigned char *at = bytes;
    uint32_t order;

    if (len < AT_CHECKSUM || sd_le_get32(at) != STATE_MAGIC)
        return "it is no state of ours";
    if (sd_le_get32(at + AT_FORMAT) != SD_JOURNAL_FORMAT)
        return "it has another format";
    if (len != SD_STATE_BYTES)
        return "its length is wrong";
    memcpy(&order, at + STATE_ORDER, sizeof order);
    if (order == __builtin_bswap32(BYTE_ORDER_MARK))
        return "it has another byte order";
    if (sd_le_get64(at + AT_CHECKSUM) != checksum(at, SD_STATE_BYTES, NULL, 0) || order != BYTE_ORDER_MARK)
        return "its checksum is wrong";
    memset(s, 0, sizeof *s);
    s->round = sd_le_get32(at + STATE_ROUND);
    memcpy(s->id, at + STATE_ID, SD_JOURNAL_ID_BYTES);
    s->serial = sd_le_get64(at + STATE_SERIAL);
    s->version = sd_le_get64(at + STATE_VERSION);
    s->wall_ms = sd_le_get64(at + STATE_WALL);
    s->first = sd_le_get64(at + STATE_FIRST);
    s->next = sd_le_get64(at + STATE_NEXT);
    s->bytes = sd_le_get64(at + STATE_LENGTH);
    s->clock_offset = (int64_t)sd_le_get64(at + STATE_OFFSET);
    if (s->first == 0 || s->first > s->next || s->next > SIZE_MAX / 2 || s->bytes > INT64_MAX)
        return "its numbers make no sense";
    return NULL;
}

void sd_witness_write(unsigned char out[SD_WITNESS_BYTES], const sd_journal_witness_t *w)
{
    mark(out, SD_WITNESS_BYTES, WITNESS_MAGIC);
    memcpy(out + WITNESS_ID, w->id, SD_JOURNAL_ID_BYTES);
    sd_le_put64(out + WITNESS_SERIAL, w->serial);
    sd_le_put64(out + AT_CHECKSUM, checksum(out, SD_WITNESS_BYTES, NULL, 0));
}

bool sd_witness_read(const void *bytes, size_t len, sd_journal_witness_t *w)
{
    const unsigned char *at = bytes;

    if (len != SD_WITNESS_BYTES || sd_le_get32(at) != WITNESS_MAGIC
        || sd_le_get32(at + AT_FORMAT) != SD_JOURNAL_FORMAT
        || sd_le_get64(at + AT_CHECKSUM) != checksum(at, SD_WITNESS_BYTES, NULL, 0))
        return false;
    memcpy(w->id, at + WITNESS_ID, SD_JOURNAL_ID_BYTES);
    w->serial = sd_le_get64(at + WITNESS_SERIAL);
    return true;
}
