/* SPDX-License-Identifier: Apache-2.0
 *
 * store.c: get, put and delete: the moments at which a value appears and
 * disappears. A value is complete before it becomes reachable, and the old one
 * is freed after it has become unreachable and the lock is gone.
 */
#include "internal.h"

sd_status_t sd_store_get(sd_lane_t *lane, const void *key, size_t key_len, uint64_t now,
                         sd_ref_t *ref)
{
    sd_store_t *s = lane->store;
    uint64_t hash = sd_hash(s, key, key_len);
    uint32_t bucket = sd_bucket_of(s, hash), shard = sd_shard_of(s, bucket), block;
    uint32_t *link;
    sd_status_t status = SD_MISS;
    bool free_it = false;

    sd_bucket_prefetch(s, hash);
    memset(ref, 0, sizeof *ref);
    sd_shard_lock(s, shard);
    block = sd_index_find(s, hash, key, key_len, &link);
    if (block != 0 && !sd_item_is_gone(sd_item(s, block))) {
        sd_item_t *item = sd_item(s, block);

        if (item->expiry <= now) {
            sd_change_remove(lane, bucket, link, block, false);
            free_it = sd_index_detach(s, block);
            SD_KILL_POINT("store_get: expired value gone, its lock is held");
            sd_count_sub(lane->counters, sessions, 1);
            sd_count(lane->counters, expired);
            sd_count(lane->counters, read_expired);
        }
        else if (atomic_load(&s->pins[block]) >= SD_PIN_MAX)
            status = SD_BUSY;
        else {
            uint32_t at = (uint32_t)sizeof *item + item->key_len;

            atomic_fetch_add(&s->pins[block], 1);
            ref->version = item->version;
            ref->expiry = item->expiry;
            ref->data_len = ref->left = item->data_len;
            ref->head = block;
            ref->block = at < SD_BLOCK_BYTES ? block : sd_link_next(s, block);
            ref->block_at = at < SD_BLOCK_BYTES ? at : at - SD_BLOCK_BYTES;
            status = SD_OK;
        }
    }
    sd_shard_unlock(s, shard);
    SD_KILL_POINT("store_get: pinned, or gone and not freed");
    if (free_it)
        sd_blocks_free(lane, block);
    return status;
}

/* Blocks reserved for bytes that did not come; none in the usual case. */
static void cut_spare(sd_lane_t *lane, sd_chain_t *chain)
{
    sd_store_t *s = lane->store;
    uint32_t spare = chain->space / SD_BLOCK_BYTES, rest;

    if (spare == 0)
        return;
    rest = sd_link_next(s, chain->write);
    sd_link_set(s, chain->write, s->tag);
    SD_KILL_POINT("cut_spare: spare blocks cut off");
    atomic_fetch_sub_explicit(&s->incoming, sd_blocks_free(lane, rest), memory_order_relaxed);
    chain->last = chain->write;
    chain->space -= spare * SD_BLOCK_BYTES;
    chain->blocks -= spare;
}

sd_status_t sd_store_put(sd_lane_t *lane, sd_chain_t *chain, uint64_t expiry, uint64_t match,
                         uint64_t now, uint64_t *version)
{
    sd_store_t *s = lane->store;
    uint32_t bucket = sd_bucket_of(s, chain->hash), shard = sd_shard_of(s, bucket), old;
    uint32_t *link;
    sd_item_t *item = sd_item(s, chain->head);
    unsigned char key[SD_KEY_MAX];
    uint32_t key_len = sd_item_key_copy(s, chain->head, key);
    uint64_t there = SD_VERSION_ABSENT;
    bool free_old = false, was_dead = false, was_gone = false;

    cut_spare(lane, chain);
    item->data_len = chain->data_len;
    SD_KILL_POINT("store_put: length without an expiry");
    item->expiry = expiry;
    SD_KILL_POINT("store_put: complete but for the version");

    sd_shard_lock(s, shard);
    old = sd_index_find(s, chain->hash, key, key_len, &link);
    if (old != 0) {
        was_gone = sd_item_is_gone(sd_item(s, old));
        was_dead = !was_gone && sd_item(s, old)->expiry <= now;
        if (!was_dead && !was_gone)
            there = sd_item(s, old)->version;
    }
    if (match != SD_VERSION_ANY && match != there) {
        sd_shard_unlock(s, shard);
        return SD_CONFLICT;
    }
    *version = atomic_fetch_add(&s->header->version, 1) + 1;
    SD_KILL_POINT("store_put: version given out, not in the item");
    item->version = *version;
    sd_change_stored(lane, bucket, chain->head, old);
    SD_KILL_POINT("store_put: complete, not published");
    if (old != 0) {
        sd_index_replace(s, link, old, chain->head);
        if (was_gone)
            sd_change_revived(s, bucket);
        free_old = sd_index_detach(s, old);
    }
    else
        sd_index_insert(s, bucket, chain->head);
    SD_KILL_POINT("store_put: published, the shard's bound is old");
    sd_expiry_note(s, shard, expiry);
    SD_KILL_POINT("store_put: bound is new, the shard's lock is held");
    sd_shard_unlock(s, shard);

    if (old == 0 || was_gone)
        sd_count(lane->counters, sessions);
    else if (was_dead)
        sd_count(lane->counters, expired);
    SD_KILL_POINT("store_put: published, the old value is not freed");
    if (free_old)
        sd_blocks_free(lane, old);
    atomic_fetch_sub_explicit(&s->incoming, chain->blocks, memory_order_relaxed);
    memset(chain, 0, sizeof *chain);
    return SD_OK;
}

sd_status_t sd_store_restore(sd_lane_t *lane, sd_chain_t *chain, uint64_t expiry, uint64_t version,
                             uint64_t now)
{
    sd_store_t *s = lane->store;
    uint32_t bucket = sd_bucket_of(s, chain->hash), shard = sd_shard_of(s, bucket), old;
    uint32_t *link;
    sd_item_t *item = sd_item(s, chain->head);
    unsigned char key[SD_KEY_MAX];
    uint32_t key_len = sd_item_key_copy(s, chain->head, key);
    bool free_old = false, was_gone = false;

    if (version == 0 || version > INT64_MAX / 2)
        return SD_INVALID; /* with a version beyond that nobody could attach again */
    while (atomic_load(&s->repairing)) /* it knows its own values by their versions */
        sd_store_repair(lane, now);
    cut_spare(lane, chain);
    item->data_len = chain->data_len;
    item->expiry = expiry;
    item->version = version;
    sd_store_skip_versions(s, version);
    SD_KILL_POINT("store_restore: complete, not published");
    sd_shard_lock(s, shard);
    old = sd_index_find(s, chain->hash, key, key_len, &link);
    if (old != 0 && sd_item(s, old)->version >= version) {
        sd_shard_unlock(s, shard);
        return SD_CONFLICT;
    }
    if (old != 0) {
        was_gone = sd_item_is_gone(sd_item(s, old));
        sd_index_replace(s, link, old, chain->head);
        if (was_gone)
            sd_change_revived(s, bucket);
        free_old = sd_index_detach(s, old);
    }
    else
        sd_index_insert(s, bucket, chain->head);
    sd_expiry_note(s, shard, expiry);
    sd_shard_unlock(s, shard);
    if (old == 0 || was_gone)
        sd_count(lane->counters, sessions);
    if (free_old)
        sd_blocks_free(lane, old);
    atomic_fetch_sub_explicit(&s->incoming, chain->blocks, memory_order_relaxed);
    memset(chain, 0, sizeof *chain);
    return SD_OK;
}

sd_status_t sd_store_delete(sd_lane_t *lane, const void *key, size_t key_len, uint64_t match,
                            uint64_t now)
{
    sd_store_t *s = lane->store;
    uint64_t hash = sd_hash(s, key, key_len);
    uint32_t bucket = sd_bucket_of(s, hash), shard = sd_shard_of(s, bucket), block;
    uint32_t *link;
    sd_status_t status = SD_MISS;
    bool free_it = false;

    sd_shard_lock(s, shard);
    block = sd_index_find(s, hash, key, key_len, &link);
    if (block != 0 && !sd_item_is_gone(sd_item(s, block))) {
        sd_item_t *item = sd_item(s, block);
        bool dead = item->expiry <= now;

        if (!dead && match != SD_VERSION_ANY && match != item->version)
            status = SD_CONFLICT;
        else {
            sd_change_remove(lane, bucket, link, block, !dead);
            free_it = sd_index_detach(s, block);
            SD_KILL_POINT("store_delete: gone, the shard's lock is held");
            sd_count_sub(lane->counters, sessions, 1);
            if (dead)
                sd_count(lane->counters, expired);
            else
                status = SD_OK;
        }
    }
    sd_shard_unlock(s, shard);
    SD_KILL_POINT("store_delete: gone, not freed");
    if (free_it)
        sd_blocks_free(lane, block);
    return status;
}

sd_status_t sd_store_touch(sd_lane_t *lane, const void *key, size_t key_len, uint64_t expiry,
                           uint64_t now)
{
    sd_store_t *s = lane->store;
    uint64_t hash = sd_hash(s, key, key_len);
    uint32_t bucket = sd_bucket_of(s, hash), shard = sd_shard_of(s, bucket), block;
    uint32_t *link;
    sd_status_t status = SD_MISS;

    sd_shard_lock(s, shard);
    block = sd_index_find(s, hash, key, key_len, &link);
    if (block != 0 && !sd_item_is_gone(sd_item(s, block)) && sd_item(s, block)->expiry > now) {
        sd_change_touched(lane, bucket, block);
        __atomic_store_n(&sd_item(s, block)->expiry, expiry, __ATOMIC_RELAXED);
        SD_KILL_POINT("store_touch: touched, the shard's bound is old");
        sd_expiry_note(s, shard, expiry);
        SD_KILL_POINT("store_touch: bound is new, the shard's lock is held");
        status = SD_OK;
    }
    sd_shard_unlock(s, shard);
    return status;
}

uint64_t sd_usage_largest(uint32_t blocks, uint32_t blocks_free)
{
    uint32_t reserve = blocks / 100, room = blocks_free > reserve ? blocks_free - reserve : 0;
    uint64_t bytes = (uint64_t)room * SD_BLOCK_BYTES, head = sizeof(sd_item_t) + SD_KEY_MAX;

    return bytes > head ? bytes - head : 0;
}

void sd_store_usage(sd_store_t *s, sd_usage_t *usage)
{
    uint32_t i;
    uint64_t sum_used = 0, sum_items = 0;
    int64_t used, items;

    memset(usage, 0, sizeof *usage);
    usage->size = s->header->size;
    usage->fixed = s->header->size - (uint64_t)s->block_count * SD_BLOCK_BYTES;
    usage->block_bytes = SD_BLOCK_BYTES;
    usage->blocks = s->block_count;
    for (i = 0; i < s->lane_count; i++) {
        sum_used += atomic_load(&s->lanes[i].counters->blocks_used);
        sum_items += atomic_load(&s->lanes[i].counters->sessions);
    }
    /* what one lane took another frees: read in between, a sum can be below 0 */
    used = (int64_t)sum_used < 0 ? 0 : (int64_t)sum_used;
    items = (int64_t)sum_items < 0 ? 0 : (int64_t)sum_items;
    usage->items = (uint64_t)items;
    usage->blocks_free = used > s->block_count ? 0 : s->block_count - (uint32_t)used;
    usage->blocks_incoming = atomic_load(&s->incoming);
    usage->largest = sd_usage_largest(usage->blocks, usage->blocks_free);
}

uint32_t sd_store_hold_from(const sd_store_t *s)
{
    uint32_t incoming = atomic_load_explicit(&s->incoming, memory_order_relaxed);

    if (incoming < s->crowd)
        return 0;
    /* a 256th of the memory has as many bytes as the memory has blocks */
    return incoming < s->crowd + s->crowd / 2 ? s->block_count : 1;
}

uint32_t sd_store_detached(const sd_store_t *s)
{
    return atomic_load_explicit(&s->detached, memory_order_relaxed);
}
