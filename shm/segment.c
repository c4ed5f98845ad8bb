/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.c: the segment's geometry, its header, attaching to it and leaving
 * it. Whoever attaches believes nothing: every number in the header is checked
 * against the size of the mapping before it is used as an offset.
 */
#include <stdlib.h>

#include "internal.h"

static unsigned char *align_base(void *raw, uint64_t *size)
{
    uintptr_t at = (uintptr_t)raw, base = (at + 63) & ~(uintptr_t)63;
    uint64_t lost = base - at;

    *size = *size > lost ? *size - lost : 0;
    return (unsigned char *)raw + lost;
}

static uint32_t round_up_power(uint64_t n)
{
    uint32_t p = 1;

    while (p < n)
        p <<= 1;
    return p;
}

static uint64_t align_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* Fills in the table sizes and offsets for so many blocks. Returns the bytes
 * that the whole takes. A bucket for every 4 to 8 blocks: a 2 KB session has
 * nine, so chains are short and the table stays under half a percent. */
static uint64_t lay_out(sd_header_t *h, uint64_t blocks)
{
    h->blocks = (uint32_t)blocks;
    h->buckets = round_up_power(blocks / 8 < SD_SHARD_BUCKETS ? SD_SHARD_BUCKETS : blocks / 8);
    h->shards = h->buckets / SD_SHARD_BUCKETS;
    h->shards_at = SD_HEADER_BYTES;
    h->buckets_at = align_up(h->shards_at + (uint64_t)h->shards * sizeof(sd_shard_t), 64);
    h->links_at = align_up(h->buckets_at + (uint64_t)h->buckets * sizeof(uint32_t), 64);
    h->blocks_at = align_up(h->links_at + (blocks + 1) * sizeof(uint32_t), SD_BLOCK_BYTES);
    return h->blocks_at + blocks * SD_BLOCK_BYTES;
}

/* The one geometry of a segment of this size: as many blocks as fit. */
static void lay_out_size(sd_header_t *h, uint64_t size)
{
    uint64_t blocks = (size - SD_HEADER_BYTES) / SD_BLOCK_BYTES, need;

    while ((need = lay_out(h, blocks)) > size)
        blocks -= (need - size) / (SD_BLOCK_BYTES + 16) + 1;
}

const char *sd_segment_format(void *raw, uint64_t size, const unsigned char seed[SD_SEED_BYTES],
                              uint64_t now)
{
    sd_header_t *h;

    if (size < SD_SEGMENT_MIN)
        return "the segment is smaller than 1 MiB";
    if (size > SD_SEGMENT_MAX)
        return "the segment is larger than 60 GiB";
    h = (sd_header_t *)(void *)align_base(raw, &size);
    memset(h, 0, sizeof *h);
    lay_out_size(h, size);
    h->layout_version = SD_LAYOUT_VERSION;
    h->byte_order = SD_BYTE_ORDER;
    h->size = size;
    h->block_bytes = SD_BLOCK_BYTES;
    h->created = now;
    memcpy(h->seed, seed, SD_SEED_BYTES);
    h->clean = SD_CLEAN;
    h->epoch = h->repaired_epoch = 1;
    h->fresh = 1;
    h->magic = SD_MAGIC;
    return NULL;
}

uint32_t sd_segment_layout_version(void)
{
    return SD_LAYOUT_VERSION;
}

sd_status_t sd_segment_peek(const void *raw, uint64_t size, sd_segment_info_t *info)
{
    /* const is cast away only to reuse the alignment; nothing is written */
    const sd_header_t *h = (const sd_header_t *)(const void *)align_base((void *)(uintptr_t)raw, &size);

    if (size < SD_HEADER_BYTES || h->magic != SD_MAGIC || h->byte_order != SD_BYTE_ORDER)
        return SD_INVALID;
    info->layout_version = h->layout_version;
    info->size = h->size;
    info->created = h->created;
    return SD_OK;
}

const char *sd_segment_map(sd_store_t *s, void *raw, uint64_t size)
{
    unsigned char *base = align_base(raw, &size);
    sd_header_t *h = (sd_header_t *)(void *)base, want;

    if (size < SD_HEADER_BYTES || h->magic != SD_MAGIC)
        return "not a session segment (wrong magic)";
    if (h->byte_order != SD_BYTE_ORDER)
        return "a session segment of another byte order";
    if (h->layout_version != SD_LAYOUT_VERSION && h->layout_version != SD_LAYOUT_BEFORE)
        return "a session segment of another layout version";
    if (h->size != size || h->block_bytes != SD_BLOCK_BYTES)
        return "the segment's header names another size";
    if (size < SD_SEGMENT_MIN - 64 || size > SD_SEGMENT_MAX)
        return "the segment's header names another size";
    memset(&want, 0, sizeof want);
    lay_out_size(&want, size);
    if (want.blocks != h->blocks || want.buckets != h->buckets || want.shards != h->shards
        || want.shards_at != h->shards_at || want.buckets_at != h->buckets_at
        || want.links_at != h->links_at || want.blocks_at != h->blocks_at)
        return "the segment's tables do not fit its size";
    if (h->epoch < 1 || h->epoch > SD_EPOCH_MAX || h->repaired_epoch < 1
        || h->repaired_epoch > SD_EPOCH_MAX || h->fresh < 1 || h->fresh > h->blocks + 1
        || atomic_load(&h->version) > INT64_MAX)
        return "the segment's header holds an impossible value";

    s->header = h;
    s->size = size;
    s->shards = (sd_shard_t *)(void *)(base + h->shards_at);
    s->buckets = (_Atomic uint32_t *)(void *)(base + h->buckets_at);
    s->links = (_Atomic uint32_t *)(void *)(base + h->links_at);
    s->blocks = base + h->blocks_at;
    s->block_count = h->blocks;
    s->bucket_mask = h->buckets - 1;
    s->shard_count = h->shards;
    s->shard_shift = 0;
    while ((h->buckets >> s->shard_shift) > h->shards)
        s->shard_shift++;
    return NULL;
}

/* Could these lists of free blocks be what an orderly end left? If not they are
 * made anew, as after a death: they can be, and sessions cannot. */
static bool left_in_order(const sd_header_t *h, bool takes_over)
{
    uint32_t i;

    if (h->clean != SD_CLEAN
        && !(h->clean == SD_CLEAN_HELD && takes_over && h->held < h->fresh))
        return false;
    if (h->pool_head >= h->fresh || h->pool_count >= h->fresh
        || (h->pool_head == 0) != (h->pool_count == 0))
        return false;
    for (i = 0; i < SD_LANES_MAX; i++)
        if (h->lanes[i].head != 0 || h->lanes[i].count != 0)
            return false;
    return h->epoch == h->repaired_epoch;
}

static void set_gauges(sd_store_t *s)
{
    uint64_t items = 0;
    uint32_t i;

    for (i = 0; i < s->shard_count; i++) /* a death may have left a count below 0: repair_shard */
        items += (uint64_t)((int64_t)(int32_t)sd_shard_items(s, i) - (int32_t)sd_shard_gone(s, i));
    for (i = 0; i < s->lane_count; i++) {
        atomic_store(&s->lanes[i].counters->sessions, i == 0 ? items : 0);
        atomic_store(&s->lanes[i].counters->blocks_used,
                     i == 0 ? s->block_count - sd_blocks_free_count(s) : 0);
    }
}

sd_status_t sd_store_prepare(sd_store_t **store, void *raw, uint64_t size,
                            const sd_store_options_t *options, const char **reason)
{
    sd_store_t *s = calloc(1, sizeof *s);
    uint32_t i;

    *store = NULL;
    *reason = "out of memory for the store's handle";
    if (!s)
        return SD_INVALID;
    if (options->lanes < 1 || options->lanes > SD_LANES_MAX) {
        *reason = "too many lanes asked for";
        free(s);
        return SD_INVALID;
    }
    *reason = sd_segment_map(s, raw, size);
    if (*reason) {
        free(s);
        return SD_INVALID;
    }
    *reason = "out of memory for the store's locks";
    s->pins = calloc((size_t)s->block_count + 1, sizeof *s->pins);
    if (posix_memalign((void **)&s->locks, 64, SD_LOCKS * sizeof *s->locks) != 0)
        s->locks = NULL;
    if (!s->pins || !s->locks) {
        free(s->pins);
        free(s->locks);
        free(s);
        return SD_INVALID;
    }
    for (i = 0; i < SD_LOCKS; i++)
        pthread_mutex_init(&s->locks[i].mutex, NULL);
    pthread_mutex_init(&s->pool_lock, NULL);
    s->lane_count = options->lanes;
    if (options->writes_behind && !sd_changes_create(s)) {
        *reason = "out of memory for the track of changes";
        sd_store_free(s);
        return SD_INVALID;
    }
    s->evict_when_full = options->evict_when_full;
    s->reserve = s->block_count / 100;
    s->crowd = s->block_count / 4;
    s->batch = s->block_count / (64 * s->lane_count);
    s->batch = s->batch > 64 ? 64 : s->batch < 4 ? 4 : s->batch;
    for (i = 0; i < options->lanes; i++) {
        s->lanes[i].store = s;
        s->lanes[i].list = &s->header->lanes[i];
        s->lanes[i].counters = &options->counters[i];
        s->lanes[i].number = i;
        s->lanes[i].sweep_shard = (uint32_t)((uint64_t)s->shard_count * i / options->lanes);
    }
    *store = s;
    *reason = NULL;
    return SD_OK;
}

sd_status_t sd_store_enter(sd_store_t *s, bool takes_over, const char **reason)
{
    sd_store_t now;

    /* whoever had it since it was prepared may have left it damaged */
    *reason = sd_segment_map(&now, s->header, s->size);
    if (*reason)
        return SD_INVALID;
    if (!left_in_order(s->header, takes_over))
        sd_repair_begin(s);
    else if (s->header->clean == SD_CLEAN_HELD)
        s->unadopted = s->header->held;
    s->tag = s->header->epoch << SD_LINK_TAG_SHIFT;
    if (s->header->layout_version == SD_LAYOUT_BEFORE) {
        s->header->served = 1;
        __atomic_store_n(&s->header->layout_version, SD_LAYOUT_VERSION, __ATOMIC_SEQ_CST);
    }
    sd_changes_enter(s);
    __atomic_store_n(&s->header->clean, 0, __ATOMIC_SEQ_CST);
    SD_KILL_POINT("store_enter: not clean any more");
    set_gauges(s);
    if (s->repair.alone)
        while (sd_store_repair(&s->lanes[0], 0))
            ;
    SD_KILL_POINT("store_enter: about to serve");
    return SD_OK;
}

sd_status_t sd_store_attach(sd_store_t **store, void *raw, uint64_t size,
                            const sd_store_options_t *options, const char **reason)
{
    sd_status_t status = sd_store_prepare(store, raw, size, options, reason);

    if (status == SD_OK && (status = sd_store_enter(*store, options->takes_over, reason)) != SD_OK) {
        sd_store_free(*store);
        *store = NULL;
    }
    return status;
}

void sd_store_flush(sd_store_t *s)
{
    uint32_t i;

    for (i = 0; i < s->lane_count; i++)
        sd_blocks_flush(&s->lanes[i]);
}

void sd_store_free(sd_store_t *s)
{
    uint32_t i;

    for (i = 0; i < SD_LOCKS; i++)
        pthread_mutex_destroy(&s->locks[i].mutex);
    pthread_mutex_destroy(&s->pool_lock);
    sd_changes_destroy(s);
    free(s->adopted);
    free(s->locks);
    free(s->pins);
    free(s);
}

void sd_store_detach(sd_store_t **store)
{
    sd_store_t *s = *store;

    if (!s)
        return;
    *store = NULL;
    sd_store_flush(s);
    SD_KILL_POINT("store_detach: lists flushed, not clean");
    /* A repair that was not finished leaves blocks that no list has, and so do
     * chains and references that someone still holds, or that were left to this
     * process and not adopted: then the segment counts as left uncleanly, and the
     * next process looks for them. */
    if (s->repair.phase == SD_REPAIR_NONE && atomic_load(&s->incoming) == 0
        && atomic_load(&s->detached) == 0 && s->unadopted == 0)
        __atomic_store_n(&s->header->clean, SD_CLEAN, __ATOMIC_SEQ_CST);
    SD_KILL_POINT("store_detach: clean");
    sd_store_free(s);
}

sd_lane_t *sd_store_lane(sd_store_t *store, uint32_t number)
{
    return number < store->lane_count ? &store->lanes[number] : NULL;
}

sd_counters_t *sd_lane_counters(sd_lane_t *lane)
{
    return lane->counters;
}

sd_store_t *sd_lane_store(const sd_lane_t *lane)
{
    return lane->store;
}
