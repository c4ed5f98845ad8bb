/* SPDX-License-Identifier: Apache-2.0
 *
 * clean.c: the log stays within twice of what lives in the store and 16 MB. The
 * oldest chunks are gone through and dropped whole; what the store still has of
 * them is packed anew, from the store and not from the chunk, so that damage on
 * the disk is not carried on. A chunk that fails its check stops this: which keys
 * it had nobody knows, so it cannot be dropped before all is written anew.
 *
 * Work is bounded by what the last round wrote, so that a busy server cleans as
 * fast as it makes waste, and an idle one little by little.
 */
#include <string.h>

#include "persist/pack.h"

#define LEAST_WORK ((uint64_t)4 << 20) /* bytes of old chunks in a round */

static uint64_t live_bytes(sd_packer_t *p)
{
    sd_usage_t usage;
    uint64_t used;

    sd_store_usage(sd_lane_store(p->lane), &usage);
    used = usage.blocks - usage.blocks_free;
    used = used > usage.blocks_incoming ? used - usage.blocks_incoming : 0;
    return used * usage.block_bytes;
}

/* The store's value of this version, if it still has it. */
static sd_persist_status_t copy_if_wanted(sd_packer_t *p, const sd_record_t *r, sd_cleaning_t *c)
{
    sd_persist_status_t status = SD_PERSIST_OK;
    sd_ref_t ref;

    switch (sd_store_get(p->lane, r->key, r->key_len, p->options->now, &ref)) {
        case SD_OK:
            if (ref.version == r->version) {
                status = sd_pack_value(p, r->key, r->key_len, &ref);
                c->copied++;
            }
            sd_ref_release(p->lane, &ref);
            return status;
        case SD_MISS:
            return SD_PERSIST_OK;
        default: /* more than 32,766 read it at this moment */
            return sd_persist_says(SD_PERSIST_FAILED, p->reason, "a value that is to be kept has too many readers");
    }
}

/* `chunk` is a copy: packing may end the transaction, and the map moves under it. */
static sd_persist_status_t copy_wanted(sd_packer_t *p, const unsigned char *chunk, size_t len, uint32_t records,
                                       sd_cleaning_t *c)
{
    sd_persist_status_t status = SD_PERSIST_OK;
    size_t offset = SD_CHUNK_HEAD;
    sd_record_t r;
    uint32_t n;

    for (n = 0; n < records && status == SD_PERSIST_OK; n++) {
        offset = sd_chunk_record(chunk, len, offset, &r);
        if (sd_pack_is_stopped(p))
            return sd_persist_says(SD_PERSIST_STOPPED, p->reason, "the round was stopped");
        if (r.kind == SD_RECORD_VALUE)
            status = copy_if_wanted(p, &r, c);
    }
    return status;
}

/* Of a chunk that is larger than the buffer, which holds one value, the key is
 * enough. */
static sd_persist_status_t copy_large(sd_packer_t *p, const void *chunk, size_t len, sd_cleaning_t *c)
{
    unsigned char key[SD_KEY_MAX];
    sd_record_t r;

    if (sd_chunk_record(chunk, len, SD_CHUNK_HEAD, &r) != len || r.kind != SD_RECORD_VALUE) {
        c->unreadable = true;
        return SD_PERSIST_OK;
    }
    memcpy(key, r.key, r.key_len);
    r.key = key;
    return copy_if_wanted(p, &r, c);
}

sd_persist_status_t sd_clean(sd_packer_t *p, sd_cleaning_t *c)
{
    sd_journal_t *j = p->journal;
    uint64_t live = live_bytes(p), most = 2 * live + j->slack_bytes, work, done = 0;
    sd_persist_status_t status;
    sd_chunk_info_t info;

    memset(c, 0, sizeof *c);
    c->first = j->state.first;
    if (j->state.bytes <= most)
        return SD_PERSIST_OK;
    work = 2 * j->last_round_bytes > LEAST_WORK ? 2 * j->last_round_bytes : LEAST_WORK;
    if (j->state.bytes > 2 * most)
        work *= 4;
    while (c->first < j->state.next && done < work && j->state.bytes - c->dropped + p->bytes > most) {
        const void *chunk;
        size_t len;

        status = sd_journal_begin(j, 0, p->reason);
        if (status == SD_PERSIST_OK)
            status = sd_journal_get(j, c->first, &chunk, &len, p->reason);
        if (status != SD_PERSIST_OK)
            return status;
        if (sd_chunk_check(chunk, len, c->first, j->state.id, &info) != NULL) {
            c->unreadable = true;
            break;
        }
        if (len > SD_CHUNK_BYTES)
            status = copy_large(p, chunk, len, c);
        else {
            memcpy(j->old_chunk, chunk, len);
            status = copy_wanted(p, j->old_chunk, len, info.records, c);
        }
        if (status != SD_PERSIST_OK)
            return status;
        if (c->unreadable)
            break;
        c->first++;
        c->dropped += len;
        done += len;
    }
    return SD_PERSIST_OK;
}
