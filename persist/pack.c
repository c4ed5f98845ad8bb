/* SPDX-License-Identifier: Apache-2.0
 *
 * pack.c: from the store's blocks into chunks. Bytes are touched as seldom as can
 * be: copied into the buffer, summed there, copied into LMDB's page; the kernel
 * copies them once more.
 */
#include "persist/pack.h"

#include <string.h>

enum { VECTORS = 64 };

uint64_t sd_pack_wall(const sd_round_options_t *o, uint64_t expiry)
{
    if (expiry >= o->now)
        return expiry - o->now < UINT64_MAX - o->wall_ms ? o->wall_ms + (expiry - o->now) : UINT64_MAX;
    return o->now - expiry < o->wall_ms ? o->wall_ms - (o->now - expiry) : 0;
}

bool sd_pack_is_stopped(const sd_packer_t *p)
{
    return p->options->stop != NULL && atomic_load_explicit(p->options->stop, memory_order_relaxed);
}

static void seal(sd_packer_t *p, unsigned char *chunk, uint64_t bytes, uint32_t records)
{
    sd_chunk_info_t info;

    memset(&info, 0, sizeof info);
    info.number = p->journal->put_next - 1;
    memcpy(info.id, p->journal->state.id, sizeof info.id);
    info.serial = p->journal->state.serial + 1;
    info.bytes = bytes;
    info.records = records;
    sd_chunk_seal(chunk, &info);
}

/* A place for the next chunk; one transaction is ended and another begun when this
 * one has enough. */
static sd_persist_status_t place(sd_packer_t *p, uint64_t len, unsigned char **at)
{
    sd_journal_t *j = p->journal;
    sd_persist_status_t status = SD_PERSIST_OK;

    if (j->txn != NULL && j->part_bytes > 0 && j->part_bytes + len > SD_PART_BYTES)
        status = sd_journal_part(j, p->reason);
    if (status == SD_PERSIST_OK)
        status = sd_journal_begin(j, len, p->reason);
    if (status == SD_PERSIST_OK)
        status = sd_journal_put(j, len, at, p->reason);
    return status;
}

sd_persist_status_t sd_pack_flush(sd_packer_t *p)
{
    sd_persist_status_t status;
    unsigned char *at;

    if (p->used == 0)
        return SD_PERSIST_OK;
    status = place(p, p->used, &at);
    if (status != SD_PERSIST_OK)
        return status;
    seal(p, p->journal->buffer, p->used - SD_CHUNK_HEAD, p->records);
    memcpy(at, p->journal->buffer, p->used);
    p->used = p->records = 0;
    return SD_PERSIST_OK;
}

static void copy_value(sd_packer_t *p, sd_ref_t *value, unsigned char *to)
{
    struct iovec iov[VECTORS];
    size_t bytes;
    int i, n;

    while (value->left > 0) {
        n = sd_ref_iov(p->lane, value, iov, VECTORS, &bytes);
        for (i = 0; i < n; i++) {
            memcpy(to, iov[i].iov_base, iov[i].iov_len);
            to += iov[i].iov_len;
        }
        sd_ref_advance(p->lane, value, bytes);
    }
}

static sd_persist_status_t pack(sd_packer_t *p, const sd_record_t *r, sd_ref_t *value)
{
    uint64_t bytes = sd_record_bytes(r->key_len, r->data_len);
    sd_persist_status_t status;
    unsigned char *at;

    if (p->used > 0 && bytes > SD_CHUNK_BYTES - p->used) {
        status = sd_pack_flush(p);
        if (status != SD_PERSIST_OK)
            return status;
    }
    if (bytes > SD_CHUNK_BYTES - SD_CHUNK_HEAD) {
        status = place(p, SD_CHUNK_HEAD + bytes, &at);
        if (status != SD_PERSIST_OK)
            return status;
        copy_value(p, value, sd_record_write(at + SD_CHUNK_HEAD, r));
        seal(p, at, bytes, 1);
        p->bytes += SD_CHUNK_HEAD;
    }
    else {
        if (p->used == 0) {
            p->used = SD_CHUNK_HEAD;
            p->bytes += SD_CHUNK_HEAD;
        }
        at = sd_record_write(p->journal->buffer + p->used, r);
        if (value != NULL)
            copy_value(p, value, at);
        p->used += (uint32_t)bytes;
        p->records++;
    }
    p->bytes += bytes;
    p->all_records++;
    return SD_PERSIST_OK;
}

sd_persist_status_t sd_pack_value(sd_packer_t *p, const unsigned char *key, uint8_t key_len, sd_ref_t *value)
{
    sd_record_t r = { SD_RECORD_VALUE, key_len, value->data_len, value->version,
                      sd_pack_wall(p->options, value->expiry), key, NULL };

    return pack(p, &r, value);
}

sd_persist_status_t sd_pack_note(sd_packer_t *p, sd_record_kind_t kind, const unsigned char *key, uint8_t key_len,
                                 uint64_t version, uint64_t expiry)
{
    sd_record_t r = { kind, key_len, 0, version,
                      kind == SD_RECORD_REMOVED ? 0 : sd_pack_wall(p->options, expiry), key, NULL };

    return pack(p, &r, NULL);
}
