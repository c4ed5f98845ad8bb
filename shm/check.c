/* SPDX-License-Identifier: Apache-2.0
 *
 * check.c: walks the whole segment and names the first broken rule. It trusts
 * no number it reads: each index is checked before it is followed, and each
 * block is marked with its one owner, so that no walk can go round for ever.
 */
#include <stdlib.h>

#include "internal.h"

typedef struct walk {
    sd_store_t *s;
    uint8_t *owner; /* by block: 0 nobody yet */
    uint64_t *where;
} walk_t;

enum { NOBODY, AN_ITEM, A_FREE_LIST };

static const char *claim(walk_t *w, uint32_t block, uint8_t owner)
{
    *w->where = block;
    if (block == 0 || block > w->s->block_count)
        return "a block number lies outside the segment";
    if (block >= w->s->header->fresh)
        return "a block is in use that was never taken";
    if (w->owner[block] != NOBODY)
        return "a block has two owners";
    w->owner[block] = owner;
    return NULL;
}

/* `doubtful`: the repair after a death has not come to this shard yet. */
static const char *check_item(walk_t *w, uint32_t bucket, uint32_t block, bool doubtful)
{
    const sd_store_t *s = w->s;
    const sd_item_t *item;
    unsigned char key[SD_KEY_MAX];
    uint32_t at = block, n = 0, word;
    uint64_t hash;
    const char *rule;

    do {
        if ((rule = claim(w, at, AN_ITEM)))
            return rule;
        word = atomic_load(&s->links[at]);
        if (sd_link_is_free(word))
            return "an item holds a block that is marked free";
        if ((word & ~SD_LINK_NEXT) != s->tag && !doubtful)
            return "an item holds a block of another epoch";
        n++;
        at = word & SD_LINK_NEXT;
    } while (at != 0);
    *w->where = bucket;
    item = sd_item(s, block);
    if (item->magic != SD_ITEM_MAGIC)
        return "an item has no magic number";
    if (item->key_len == 0)
        return "an item has an empty key";
    if (n != sd_item_blocks(item->key_len, item->data_len))
        return "an item's chain does not have the length of its data";
    hash = sd_hash(s, key, sd_item_key_copy(s, block, key));
    if ((uint32_t)hash != item->hash)
        return "an item's hash is not that of its key";
    if (sd_bucket_of(s, hash) != bucket)
        return "an item stands in the wrong bucket";
    if (item->version == 0 || item->version > atomic_load(&s->header->version))
        return "an item has a version that was never given out";
    if (sd_item_is_gone(item) && (item->data_len != 0 || item->expiry != UINT64_MAX))
        return "a tombstone has data or an expiry";
    return NULL;
}

static const char *check_shard(walk_t *w, uint32_t shard)
{
    const sd_store_t *s = w->s;
    uint32_t first = shard << s->shard_shift, bucket, block, items = 0, gone = 0;
    uint64_t min = atomic_load(&s->shards[shard].min_expiry);
    /* what a death left of a shard's count and bound holds once it is repaired */
    bool doubtful = s->repair.phase == SD_REPAIR_FREE
                    || (s->repair.phase == SD_REPAIR_INDEX && shard >= s->repair.cursor);
    const char *rule;

    for (bucket = first; bucket < first + SD_SHARD_BUCKETS; bucket++) {
        for (block = atomic_load(&s->buckets[bucket]); block != 0; block = sd_item(s, block)->next) {
            if ((rule = check_item(w, bucket, block, doubtful)))
                return rule;
            *w->where = bucket;
            if (sd_item(s, block)->expiry < min && !doubtful)
                return "an item expires before its shard's bound";
            items++;
            gone += sd_item_is_gone(sd_item(s, block));
        }
    }
    *w->where = shard;
    if (doubtful)
        return NULL;
    if (gone != sd_shard_gone(s, shard))
        return "a shard's count of tombstones is wrong";
    return items == sd_shard_items(s, shard) ? NULL : "a shard's count is not that of its items";
}

static const char *check_list(walk_t *w, uint32_t head, uint32_t count)
{
    uint32_t block, n = 0;
    const char *rule;

    for (block = head; n < count; block = sd_link_next(w->s, block), n++) {
        if ((rule = claim(w, block, A_FREE_LIST)))
            return rule;
        if (!sd_link_is_free(atomic_load(&w->s->links[block])))
            return "a free list holds a block that is in use";
    }
    return NULL;
}

static const char *check_totals(walk_t *w)
{
    const sd_store_t *s = w->s;
    uint64_t unowned = 0, items = 0, counted = 0, used = 0;
    uint32_t gone = 0, i;

    for (i = 1; i < s->header->fresh; i++)
        unowned += w->owner[i] == NOBODY;
    *w->where = unowned;
    if (s->repair.phase != SD_REPAIR_NONE)
        return NULL; /* what it has not found yet has no owner */
    if (unowned != (uint64_t)atomic_load(&s->incoming) + atomic_load(&s->detached) + s->unadopted)
        return "blocks are lost: neither free nor in a value";
    for (i = 0; i < s->shard_count; i++) {
        gone += sd_shard_gone(s, i);
        items += sd_shard_items(s, i) - sd_shard_gone(s, i);
    }
    for (i = 0; i < s->lane_count; i++) {
        counted += atomic_load(&s->lanes[i].counters->sessions);
        used += atomic_load(&s->lanes[i].counters->blocks_used);
    }
    if (!sd_changes_count_is(s, gone))
        return "the count of all tombstones is not that of the shards";
    *w->where = counted;
    if (counted != items)
        return "the sessions counter is not the number of items";
    *w->where = used;
    if (used != s->block_count - sd_blocks_free_count(w->s))
        return "the counter of used blocks is wrong";
    return NULL;
}

const char *sd_store_check(sd_store_t *s, uint64_t *where)
{
    uint64_t ignored;
    walk_t w = { s, NULL, where ? where : &ignored };
    sd_store_t again;
    const char *rule;
    uint32_t i;

    *w.where = 0;
    memset(&again, 0, sizeof again);
    if ((rule = sd_segment_map(&again, s->header, s->header->size)))
        return rule;
    w.owner = calloc((size_t)s->block_count + 1, 1);
    if (!w.owner)
        return "no memory to check the segment";
    for (i = 0; i < s->shard_count && !rule; i++)
        rule = check_shard(&w, i);
    if (!rule)
        rule = check_list(&w, s->header->pool_head, s->header->pool_count);
    for (i = 0; i < SD_LANES_MAX && !rule; i++)
        rule = check_list(&w, s->header->lanes[i].head, s->header->lanes[i].count);
    if (!rule)
        rule = check_totals(&w);
    free(w.owner);
    return rule;
}
