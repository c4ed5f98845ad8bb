/* SPDX-License-Identifier: Apache-2.0
 *
 * repair.c: after a process died with the segment attached. The index is whole
 * at every instant (layout.h), so the next process serves at once; what is
 * lost is memory: lists of free blocks, and blocks of values that were on
 * their way in or out. The repair runs beside the service, in small steps:
 *
 *   FREE     every block tagged free goes to the pool (the old lists are not
 *            trusted); a take that finds the pool empty pushes this on itself
 *   INDEX    shard by shard: each item's chain is checked and gets the tag of
 *            the present epoch; a damaged item is dropped and counted; counts
 *            are made anew
 *   ORPHANS  blocks that still carry an earlier tag are freed: no item reaches
 *            them, and nobody took them since
 *
 * What is hard: others store and delete meanwhile. Whatever this process takes
 * carries the present tag from the start; an old item that goes before INDEX
 * has come to it gets the tag as it is detached, since a reader may hold it;
 * what this process adopts (handover.c) gets it before the first step of all;
 * and a block freed ahead of the FREE cursor is left for FREE to find.
 *
 * There are fifteen tags, and processes that die before their repair is done
 * each use up one. The one that gets the last has it done before it serves.
 */
#include "internal.h"

void sd_repair_begin(sd_store_t *s)
{
    sd_header_t *h = s->header;
    uint32_t used = (h->epoch + SD_EPOCH_MAX - h->repaired_epoch) % SD_EPOCH_MAX;

    __atomic_store_n(&h->clean, 0, __ATOMIC_SEQ_CST);
    SD_KILL_POINT("repair_begin: not clean, the epoch is old");
    /* Blocks may carry any tag from that of the last whole repair on. The last
     * tag left is not given up by a process that dies over it: it has taken no
     * block, so all that carries it is reachable. */
    if (used < SD_EPOCH_MAX - 1) {
        __atomic_store_n(&h->epoch, h->epoch % SD_EPOCH_MAX + 1, __ATOMIC_SEQ_CST);
        used++;
    }
    else
        s->repair.again = true;
    SD_KILL_POINT("repair_begin: epoch is new, the pool's list is old");
    h->pool_head = 0;
    SD_KILL_POINT("repair_begin: no pool, still counted");
    h->pool_count = 0;
    SD_KILL_POINT("repair_begin: no pool, the lanes' lists are old");
    memset(h->lanes, 0, sizeof h->lanes);
    SD_KILL_POINT("repair_begin: no lists");
    s->repair.phase = SD_REPAIR_FREE;
    s->repair.alone = used == SD_EPOCH_MAX - 1;
    s->repair.cursor = 1;
    s->repair.end = h->fresh;
    s->repair.version = atomic_load(&h->version);
    atomic_store(&s->repairing, 1);
}

/* Phases change under the pool lock, where others look at them. */
static void enter(sd_store_t *s, int phase, uint32_t cursor)
{
    pthread_mutex_lock(&s->pool_lock);
    s->repair.phase = phase;
    s->repair.cursor = cursor;
    pthread_mutex_unlock(&s->pool_lock);
}

static void finish(sd_store_t *s)
{
    SD_KILL_POINT("finish: repaired, not noted");
    __atomic_store_n(&s->header->repaired_epoch, s->header->epoch, __ATOMIC_SEQ_CST);
    SD_KILL_POINT("finish: noted");
    atomic_store(&s->repairing, 0);
    enter(s, SD_REPAIR_NONE, 0);
}

bool sd_repair_find_free(sd_lane_t *lane, uint32_t blocks)
{
    sd_store_t *s = lane->store;
    sd_repair_t *r = &s->repair;
    sd_header_t *h = s->header;
    uint32_t found = 0, block, stop;

    if (r->phase != SD_REPAIR_FREE || r->cursor >= r->end)
        return false;
    stop = r->end - r->cursor < blocks ? r->end : r->cursor + blocks;
    /* from the top down, so that the list begins with the lowest numbers and
     * runs over neighbours */
    for (block = stop; block-- > r->cursor;) {
        if (!sd_link_is_free(atomic_load_explicit(&s->links[block], memory_order_relaxed)))
            continue;
        sd_link_set(s, block, h->pool_head);
        SD_KILL_POINT("repair_find_free: leads to the pool's list");
        h->pool_head = block;
        SD_KILL_POINT("repair_find_free: on the pool's list, not counted there");
        found++;
    }
    __atomic_store_n(&h->pool_count, h->pool_count + found, __ATOMIC_RELAXED);
    SD_KILL_POINT("repair_find_free: counted, the pool's lock is held");
    sd_count_sub(lane->counters, blocks_used, found);
    r->cursor = stop;
    return true;
}

/* Gives all blocks of a chain the present tag. A death half-way leaves two tags
 * in one chain, both of them old to the next process. */
static void retag(sd_store_t *s, uint32_t block)
{
    uint32_t n, next;

    for (n = 0; block != 0 && block <= s->block_count && n < s->block_count; block = next, n++) {
        next = sd_link_next(s, block);
        sd_link_set(s, block, next | s->tag);
        SD_KILL_POINT("retag: tagged, the rest of the chain is not");
    }
}

void sd_repair_keep(sd_store_t *s, uint32_t block)
{
    retag(s, block);
}

/* Is this item what store.c would have published in this bucket? All blocks of
 * an item of this process carry the present tag, and none of an old one that is
 * met for the first time: so a chain that leads into blocks of another item,
 * newer or already met, is found. So a tombstone has a version of its own, and
 * nothing is loaded from disk, with versions of another time, beside this. (Not where a death has left some of this very
 * tag behind: see sd_repair_begin.) */
static bool item_is_sound(const sd_store_t *s, uint32_t bucket, uint32_t block)
{
    const sd_item_t *item = sd_item(s, block);
    unsigned char key[SD_KEY_MAX];
    uint32_t want, n = 0, present = 0, at;
    /* who published an item here had its blocks before, so this is high enough */
    uint32_t fresh = __atomic_load_n(&s->header->fresh, __ATOMIC_RELAXED);
    uint64_t hash;

    if (item->magic != SD_ITEM_MAGIC || item->key_len == 0 || item->version == 0
        || item->version > atomic_load(&s->header->version))
        return false;
    want = sd_item_blocks(item->key_len, item->data_len);
    for (at = block; at != 0; n++) {
        uint32_t word;

        if (at >= fresh || n == want)
            return false;
        word = atomic_load_explicit(&s->links[at], memory_order_relaxed);
        if (sd_link_is_free(word))
            return false;
        present += (word & ~SD_LINK_NEXT) == s->tag;
        at = word & SD_LINK_NEXT;
    }
    if (n != want
        || (present != (item->version > s->repair.version ? n : 0) && !s->repair.again))
        return false;
    if (sd_item_is_gone(item) && (item->data_len != 0 || item->expiry != UINT64_MAX))
        return false;
    hash = sd_hash(s, key, sd_item_key_copy(s, block, key));
    return item->hash == (uint32_t)hash && sd_bucket_of(s, hash) == bucket;
}

/* Is the block that `link` leads to one that the list has passed already? */
static bool comes_back(sd_store_t *s, uint32_t *first, uint32_t *link)
{
    uint32_t *at;

    for (at = first; at != link; at = &sd_item(s, *at)->next)
        if (*at == *link)
            return true;
    return false;
}

/* Drops what is damaged from a bucket's list and tags the rest. Writes into the
 * bucket and into sound items only: the block that a damaged `next` leads to
 * may be the middle of somebody's value. Returns how many items stay, and
 * adds those that are tombstones to *gone. */
static uint32_t repair_bucket(sd_lane_t *lane, uint32_t bucket, uint64_t *min, uint32_t *gone)
{
    sd_store_t *s = lane->store;
    uint32_t *first = (uint32_t *)&s->buckets[bucket], *link = first, block;
    uint32_t items = 0, dropped = 0, passed = 0;

    while ((block = *link) != 0) {
        sd_item_t *item;

        if (block == passed) { /* round and round over damaged items */
            __atomic_store_n(link, 0, __ATOMIC_RELEASE);
            SD_KILL_POINT("repair_bucket: a circle is cut");
            break;
        }
        if (block > s->block_count || comes_back(s, first, link)) { /* the rest is lost */
            sd_changes_go_astray(s);
            __atomic_store_n(link, 0, __ATOMIC_RELEASE);
            SD_KILL_POINT("repair_bucket: a list is cut");
            sd_count(lane->counters, repaired_items);
            break;
        }
        item = sd_item(s, block);
        if (!item_is_sound(s, bucket, block)) {
            sd_changes_go_astray(s); /* the disk has it, or an older one */
            __atomic_store_n(link, item->next, __ATOMIC_RELEASE);
            SD_KILL_POINT("repair_bucket: a damaged item is dropped");
            sd_count(lane->counters, repaired_items);
            if ((dropped & (dropped - 1)) == 0) /* at 0, 1, 2, 4, 8: any circle is met */
                passed = block;
            dropped++;
            continue;
        }
        retag(s, block);
        items++;
        *gone += sd_item_is_gone(item);
        if (item->expiry < *min)
            *min = item->expiry;
        link = &item->next;
    }
    return items;
}

static void repair_shard(sd_lane_t *lane, uint32_t shard)
{
    sd_store_t *s = lane->store;
    uint32_t first = shard << s->shard_shift, bucket, items = 0, gone = 0;
    uint64_t min = UINT64_MAX;

    sd_shard_lock(s, shard);
    for (bucket = first; bucket < first + SD_SHARD_BUCKETS; bucket++)
        items += repair_bucket(lane, bucket, &min, &gone);
    /* The counts that a death left may be one too low, and have gone below 0. */
    sd_count_add(lane->counters, sessions,
                 ((int64_t)items - gone)
                     - ((int64_t)(int32_t)sd_shard_items(s, shard) - (int32_t)sd_shard_gone(s, shard)));
    SD_KILL_POINT("repair_shard: tagged, the count is old");
    sd_shard_set_items(s, shard, items);
    SD_KILL_POINT("repair_shard: counted, the count of tombstones is old");
    sd_changes_recount(s, gone - sd_shard_gone(s, shard));
    sd_shard_set_gone(s, shard, gone);
    if (!s->changes && gone > 0)
        min = 0; /* for the sweep: changes.c, sd_changes_enter */
    SD_KILL_POINT("repair_shard: counted, the bound is old");
    atomic_store_explicit(&s->shards[shard].min_expiry, min, memory_order_relaxed);
    SD_KILL_POINT("repair_shard: bound is new, the shard's lock is held");
    sd_shard_unlock(s, shard);
}

static void free_orphans(sd_lane_t *lane, uint32_t from, uint32_t to)
{
    sd_store_t *s = lane->store;
    sd_header_t *h = s->header;
    uint32_t found = 0, block;

    pthread_mutex_lock(&s->pool_lock);
    for (block = from; block < to; block++) {
        uint32_t word = atomic_load_explicit(&s->links[block], memory_order_relaxed);

        if (sd_link_is_free(word) || (word & ~SD_LINK_NEXT) == s->tag)
            continue;
        sd_item(s, block)->magic = 0; /* as in sd_blocks_free */
        sd_link_set(s, block, h->pool_head);
        SD_KILL_POINT("free_orphans: leads to the pool's list");
        h->pool_head = block;
        SD_KILL_POINT("free_orphans: on the pool's list, not counted there");
        found++;
    }
    __atomic_store_n(&h->pool_count, h->pool_count + found, __ATOMIC_RELAXED);
    SD_KILL_POINT("free_orphans: counted, the pool's lock is held");
    pthread_mutex_unlock(&s->pool_lock);
    sd_count_sub(lane->counters, blocks_used, found);
    sd_count_add(lane->counters, repaired_blocks, found);
}

bool sd_store_repair(sd_lane_t *lane, uint64_t now)
{
    sd_store_t *s = lane->store;
    sd_repair_t *r = &s->repair;
    uint32_t stop;
    bool more;

    (void)now;
    switch (r->phase) {
    case SD_REPAIR_FREE:
        pthread_mutex_lock(&s->pool_lock);
        more = sd_repair_find_free(lane, SD_REPAIR_STEP);
        pthread_mutex_unlock(&s->pool_lock);
        if (!more)
            enter(s, SD_REPAIR_INDEX, 0);
        return true;
    case SD_REPAIR_INDEX:
        stop = s->shard_count - r->cursor < 16 ? s->shard_count : r->cursor + 16;
        for (; r->cursor < stop; r->cursor++)
            repair_shard(lane, r->cursor);
        if (r->cursor == s->shard_count)
            enter(s, SD_REPAIR_ORPHANS, 1);
        return true;
    case SD_REPAIR_ORPHANS:
        stop = r->end - r->cursor < SD_REPAIR_STEP ? r->end : r->cursor + SD_REPAIR_STEP;
        free_orphans(lane, r->cursor, stop);
        r->cursor = stop;
        if (stop < r->end)
            return true;
        finish(s);
        return false;
    default:
        return false;
    }
}
