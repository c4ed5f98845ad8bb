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

static void drop(sd_lane_t *lane, uint32_t bucket, uint32_t *link, uint32_t block, bool live)
{
    sd_store_t *s = lane->store;

    if (live)
        sd_change_evict(lane, bucket, link, block);
    else
        sd_change_remove(lane, bucket, link, block, false);
    SD_KILL_POINT("drop: removed, not detached");
    sd_count_sub(lane->counters, sessions, 1);
    if (sd_index_detach(s, block))
        sd_blocks_free(lane, block);
    SD_KILL_POINT("drop: freed, the shard's lock is held");
}

/* Removes what has expired in a shard, and tombstones that no round will take away,
 * and makes its bound exact. Returns how many of both went. */
static uint32_t expire_shard(sd_lane_t *lane, uint32_t shard, uint64_t now)
{
    sd_store_t *s = lane->store;
    uint32_t first = shard << s->shard_shift, bucket, block, gone = 0, buried = 0;
    uint64_t min = UINT64_MAX;

    sd_shard_lock(s, shard);
    for (bucket = first; bucket < first + SD_SHARD_BUCKETS; bucket++) {
        uint32_t *link = (uint32_t *)&s->buckets[bucket];

        while ((block = *link) != 0) {
            sd_item_t *item = sd_item(s, block);

            if (sd_item_is_gone(item)) {
                if (s->changes) {
                    link = &item->next;
                    continue;
                }
                sd_change_bury(lane, bucket, link, block);
                buried++;
                continue;
            }
            if (item->expiry <= now) {
                drop(lane, bucket, link, block, false);
                gone++;
                continue;
            }
            if (item->expiry < min)
                min = item->expiry;
            link = &item->next;
        }
    }
    SD_KILL_POINT("expire_shard: items gone, the bound is old");
    atomic_store_explicit(&s->shards[shard].min_expiry, min, memory_order_relaxed);
    SD_KILL_POINT("expire_shard: bound is new, the shard's lock is held");
    sd_shard_unlock(s, shard);
    sd_count_add(lane->counters, expired, gone);
    return gone + buried;
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

typedef struct nearest {
    uint32_t *link; /* what points to it, NULL = the shard is empty */
    uint32_t bucket;
    uint64_t expiry;
    uint64_t second; /* the next one's expiry */
} nearest_t;

/* The item of this shard that is nearest its expiry. Under the shard's lock. */
static nearest_t find_nearest(sd_store_t *s, uint32_t shard)
{
    uint32_t first = shard << s->shard_shift, bucket;
    nearest_t found = { NULL, 0, UINT64_MAX, UINT64_MAX };

    for (bucket = first; bucket < first + SD_SHARD_BUCKETS; bucket++) {
        uint32_t *link = (uint32_t *)&s->buckets[bucket];

        for (; *link != 0; link = &sd_item(s, *link)->next) {
            uint64_t expiry = sd_item(s, *link)->expiry;

            if (sd_item_is_gone(sd_item(s, *link)))
                continue;
            if (!found.link || expiry < found.expiry) {
                found.second = found.expiry;
                found.expiry = expiry;
                found.link = link;
                found.bucket = bucket;
            }
            else if (expiry < found.second)
                found.second = expiry;
        }
    }
    return found;
}

/* Makes a shard's bound exact and returns it. */
static uint64_t make_exact(sd_store_t *s, uint32_t shard)
{
    uint64_t expiry;

    sd_shard_lock(s, shard);
    expiry = find_nearest(s, shard).expiry;
    atomic_store_explicit(&s->shards[shard].min_expiry, expiry, memory_order_relaxed);
    SD_KILL_POINT("make_exact: bound is new, the shard's lock is held");
    sd_shard_unlock(s, shard);
    return expiry;
}

/* Removes the item of this shard that is nearest its expiry, if it is not
 * further away than `than`. Makes the bound exact in any case. */
static bool evict_from(sd_lane_t *lane, uint32_t shard, uint64_t than)
{
    sd_store_t *s = lane->store;
    nearest_t found;
    bool evicted = false;

    sd_shard_lock(s, shard);
    found = find_nearest(s, shard);
    if (found.link && found.expiry <= than) {
        drop(lane, found.bucket, found.link, *found.link, true);
        found.expiry = found.second;
        evicted = true;
    }
    SD_KILL_POINT("evict_from: item gone, the bound is old");
    atomic_store_explicit(&s->shards[shard].min_expiry, found.expiry, memory_order_relaxed);
    SD_KILL_POINT("evict_from: bound is new, the shard's lock is held");
    sd_shard_unlock(s, shard);
    if (evicted)
        sd_count(lane->counters, evicted);
    return evicted;
}

static uint64_t bound_of(const sd_store_t *s, uint32_t shard)
{
    return sd_shard_items(s, shard) == 0
               ? UINT64_MAX
               : atomic_load_explicit(&s->shards[shard].min_expiry, memory_order_relaxed);
}

/* The shard with the least bound, and the least bound of the others. */
static uint32_t least_bound(const sd_store_t *s, uint64_t *others)
{
    uint32_t shard, best = 0;
    uint64_t least = UINT64_MAX;

    *others = UINT64_MAX;
    for (shard = 0; shard < s->shard_count; shard++) {
        uint64_t min = bound_of(s, shard);

        if (min < least) {
            *others = least;
            least = min;
            best = shard;
        }
        else if (min < *others)
            *others = min;
    }
    return best;
}

/* Usually the least bound is exact and the item is there. Where sessions were
 * rewritten, bounds are too early: then each that lies before the best item so
 * far is made exact, which no later eviction has to do again. The walks are
 * bounded to some milliseconds; only in a segment of more shards than that (128
 * MB) can the item taken then be another than the very nearest. */
#define SD_EVICT_WALKS 256u

static bool evict_nearest(sd_lane_t *lane)
{
    sd_store_t *s = lane->store;
    uint32_t shard, best, walks = 0, tries;
    uint64_t others, expiry, exact;

    for (tries = 0; tries < 4; tries++) { /* others store and delete meanwhile */
        best = least_bound(s, &others);
        if (evict_from(lane, best, others))
            return true;
        expiry = bound_of(s, best);
        for (shard = 0; shard < s->shard_count && walks < SD_EVICT_WALKS; shard++) {
            if (bound_of(s, shard) >= expiry)
                continue;
            walks++;
            exact = make_exact(s, shard);
            if (exact < expiry) {
                expiry = exact;
                best = shard;
            }
        }
        if (evict_from(lane, best, UINT64_MAX))
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
