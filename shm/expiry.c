/* SPDX-License-Identifier: Apache-2.0
 *
 * expiry.c: giving back the memory of expired values, and eviction.
 *
 * What is hard: never to walk everything at once, and yet to find expired
 * memory surely when it is needed. Each shard of 256 buckets keeps a lower
 * bound of its items' expiries: a shard whose bound lies in the future is
 * passed over, one whose bound has come is walked and gets an exact bound
 * again. So a search for expired memory is a walk over the bounds, and the
 * item nearest its expiry is in the shard with the least bound.
 */
#include "internal.h"

void sd_expiry_note(sd_store_t *s, uint32_t shard, uint64_t expiry)
{
    _Atomic uint64_t *min = &s->shards[shard].min_expiry;

    if (sd_shard_items(s, shard) <= 1 || expiry < atomic_load_explicit(min, memory_order_relaxed))
        atomic_store_explicit(min, expiry, memory_order_relaxed);
}

static void drop(sd_lane_t *lane, uint32_t bucket, uint32_t *link, uint32_t block)
{
    sd_store_t *s = lane->store;

    sd_index_remove(s, bucket, link, block);
    sd_count_sub(lane->counters, sessions, 1);
    if (sd_index_detach(s, block))
        sd_blocks_free(lane, block);
}

/* Removes what has expired in a shard and makes its bound exact. Returns how
 * many items went. */
static uint32_t expire_shard(sd_lane_t *lane, uint32_t shard, uint64_t now)
{
    sd_store_t *s = lane->store;
    uint32_t first = shard << s->shard_shift, bucket, block, gone = 0;
    uint64_t min = UINT64_MAX;

    sd_shard_lock(s, shard);
    for (bucket = first; bucket < first + SD_SHARD_BUCKETS; bucket++) {
        uint32_t *link = (uint32_t *)&s->buckets[bucket];

        while ((block = *link) != 0) {
            sd_item_t *item = sd_item(s, block);

            if (item->expiry <= now) {
                drop(lane, bucket, link, block);
                gone++;
                continue;
            }
            if (item->expiry < min)
                min = item->expiry;
            link = &item->next;
        }
    }
    atomic_store_explicit(&s->shards[shard].min_expiry, min, memory_order_relaxed);
    sd_shard_unlock(s, shard);
    sd_count_add(lane->counters, expired, gone);
    return gone;
}

static bool is_due(const sd_store_t *s, uint32_t shard, uint64_t now)
{
    return sd_shard_items(s, shard) > 0
           && atomic_load_explicit(&s->shards[shard].min_expiry, memory_order_relaxed) <= now;
}

uint32_t sd_store_sweep(sd_lane_t *lane, uint64_t now, uint32_t buckets)
{
    sd_store_t *s = lane->store;
    uint32_t looked = 0, n;

    for (n = 0; n < s->shard_count && looked < buckets; n++) {
        uint32_t shard = lane->sweep_shard;

        lane->sweep_shard = shard + 1 == s->shard_count ? 0 : shard + 1;
        if (is_due(s, shard, now)) {
            expire_shard(lane, shard, now);
            looked += SD_SHARD_BUCKETS;
        }
    }
    return looked;
}

/* Removes the item of this shard that is nearest its expiry, if it is not
 * further away than `than`: the bound that made us look here may have been too
 * early, and then another shard has a nearer one. */
static bool evict_from(sd_lane_t *lane, uint32_t shard, uint64_t than)
{
    sd_store_t *s = lane->store;
    uint32_t first = shard << s->shard_shift, bucket, at_bucket = 0;
    uint32_t *at = NULL;
    uint64_t min = UINT64_MAX, second = UINT64_MAX;
    bool evicted = false;

    sd_shard_lock(s, shard);
    for (bucket = first; bucket < first + SD_SHARD_BUCKETS; bucket++) {
        uint32_t *link = (uint32_t *)&s->buckets[bucket];

        for (; *link != 0; link = &sd_item(s, *link)->next) {
            uint64_t expiry = sd_item(s, *link)->expiry;

            if (expiry < min) {
                second = min;
                min = expiry;
                at = link;
                at_bucket = bucket;
            }
            else if (expiry < second)
                second = expiry;
        }
    }
    if (at && min <= than) {
        drop(lane, at_bucket, at, *at);
        min = second;
        evicted = true;
    }
    atomic_store_explicit(&s->shards[shard].min_expiry, min, memory_order_relaxed);
    sd_shard_unlock(s, shard);
    if (evicted)
        sd_count_add(lane->counters, evicted, 1);
    return evicted;
}

static bool evict_nearest(sd_lane_t *lane)
{
    sd_store_t *s = lane->store;
    uint32_t tries;

    /* Each try that fails makes one bound exact. Others store meanwhile, so the
     * tries are bounded and the last one takes what it finds. */
    for (tries = 0; tries < 64; tries++) {
        uint64_t least = UINT64_MAX, next = UINT64_MAX;
        uint32_t shard, best = s->shard_count;

        for (shard = 0; shard < s->shard_count; shard++) {
            uint64_t min;

            if (sd_shard_items(s, shard) == 0)
                continue;
            min = atomic_load_explicit(&s->shards[shard].min_expiry, memory_order_relaxed);
            if (best == s->shard_count || min < least) {
                next = least;
                least = min;
                best = shard;
            }
            else if (min < next)
                next = min;
        }
        if (best == s->shard_count)
            return false;
        if (evict_from(lane, best, tries == 63 ? UINT64_MAX : next))
            return true;
    }
    return false;
}

bool sd_expiry_reclaim(sd_lane_t *lane, uint64_t now)
{
    sd_store_t *s = lane->store;
    uint32_t n, shard = atomic_load_explicit(&s->reclaim_shard, memory_order_relaxed);

    for (n = 0; n < s->shard_count; n++) {
        shard = shard + 1 >= s->shard_count ? 0 : shard + 1;
        if (is_due(s, shard, now) && expire_shard(lane, shard, now) > 0) {
            atomic_store_explicit(&s->reclaim_shard, shard, memory_order_relaxed);
            return true;
        }
    }
    return s->evict_when_full && evict_nearest(lane);
}
