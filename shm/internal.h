/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h: what the files of shm/ share and nobody else sees: the handle of
 * one process on the segment, and the calls between the topics.
 *
 * Lock order: shard lock, then pool lock, or the lock of one queue of changes.
 * Never two shard locks at once, except in sd_store_check, which takes none and
 * wants the store to itself. All queues' locks at once, in their order, are taken
 * by sd_changes_begin, which holds no other.
 * Locks and reader counts are in this process's heap: a death forgets them.
 */
#ifndef SD_INTERNAL_H
#define SD_INTERNAL_H

#include <pthread.h>
#include <string.h>

#include "kill_point.h"
#include "layout.h"

/* Readers of the chain that begins at a block; the top bit says that the chain
 * is no longer reachable and goes when the last reader does. */
typedef _Atomic uint16_t sd_pins_t;
#define SD_PIN_DETACHED UINT16_C(0x8000)
#define SD_PIN_MAX UINT16_C(0x7ffe)

/* Plain mutexes, each in a cache line of its own. Shards share them: 256 stay in
 * a processor's cache, where one for each of a quarter of a million shards would
 * not, and few threads seldom meet in one. */
#define SD_LOCKS 256u

typedef struct sd_shard_lock {
    _Alignas(64) pthread_mutex_t mutex;
} sd_shard_lock_t;

struct sd_lane {
    sd_store_t *store;
    sd_lane_list_t *list; /* in the segment */
    sd_counters_t *counters;
    uint32_t number;
    uint32_t sweep_shard; /* where this lane's sweep goes on */
    uint32_t in_vain;     /* evictions in a row that gave no memory: sd_change_evict */
};

enum { SD_REPAIR_NONE = 0, SD_REPAIR_FREE, SD_REPAIR_INDEX, SD_REPAIR_ORPHANS };

typedef struct sd_repair {
    int phase;        /* SD_REPAIR_... */
    bool alone;       /* attach makes the whole of it, before anyone uses the store */
    bool again;       /* ... and a process has died over it: some items have the tag already */
    uint32_t cursor;  /* next block or shard */
    uint32_t end;     /* blocks below it may belong to the dead process */
    uint64_t version; /* the last one that the dead process gave out */
} sd_repair_t; /* phase, and cursor while it is FREE, change under the pool lock */

/* Where to look for changes: see changes.c. */
typedef struct sd_change_queue {
    _Alignas(64) pthread_mutex_t lock;
    uint32_t *bucket;
    _Atomic uint32_t count;
    uint32_t room;
    bool lost; /* some did not find room: all buckets have to be looked at */
} sd_change_queue_t;

typedef struct sd_changes sd_changes_t;

struct sd_store {
    sd_header_t *header;
    uint64_t size; /* bytes of the segment from the header on, as it was given */
    sd_shard_t *shards;
    _Atomic uint32_t *buckets;
    _Atomic uint32_t *links;
    unsigned char *blocks;
    uint32_t block_count;
    uint32_t bucket_mask;
    uint32_t shard_shift; /* bucket >> shard_shift = shard */
    uint32_t shard_count;
    uint32_t tag;         /* epoch << SD_LINK_TAG_SHIFT */
    uint32_t reserve;     /* pool level below which only replacements are served */
    uint32_t crowd;       /* blocks in incoming chains from which on callers hold back */
    uint32_t batch;       /* blocks moved between a lane and the pool at once */
    uint32_t lane_count;
    bool evict_when_full;
    sd_changes_t *changes; /* NULL: nobody keeps track */

    pthread_mutex_t pool_lock;
    sd_shard_lock_t *locks; /* SD_LOCKS */
    sd_pins_t *pins;
    _Atomic uint32_t incoming; /* blocks in chains not published */
    _Atomic uint32_t detached; /* blocks kept only by readers */
    uint32_t unadopted;        /* blocks that the last process left held and nobody has adopted */
    unsigned char *adopted;    /* a bit for each block, set once it is; NULL = none is */
    _Atomic uint32_t reclaim_shard; /* where the search for expired memory goes on */

    _Atomic int repairing;     /* 1 while repair.phase != NONE */
    sd_repair_t repair;

    sd_lane_t lanes[SD_LANES_MAX];
};

/* ---- helpers over the map ---- */

static inline uint32_t sd_link_next(const sd_store_t *s, uint32_t block)
{
    return atomic_load_explicit(&s->links[block], memory_order_relaxed) & SD_LINK_NEXT;
}

static inline void sd_link_set(sd_store_t *s, uint32_t block, uint32_t word)
{
    atomic_store_explicit(&s->links[block], word, memory_order_relaxed);
}

static inline bool sd_link_is_free(uint32_t word)
{
    return (word >> SD_LINK_TAG_SHIFT) == 0;
}

static inline unsigned char *sd_block(const sd_store_t *s, uint32_t block)
{
    return s->blocks + (uint64_t)SD_BLOCK_BYTES * (block - 1);
}

static inline sd_item_t *sd_item(const sd_store_t *s, uint32_t block)
{
    return (sd_item_t *)(void *)sd_block(s, block);
}

/* Blocks that an item of these lengths takes. */
static inline uint32_t sd_item_blocks(uint32_t key_len, uint32_t data_len)
{
    uint64_t bytes = sizeof(sd_item_t) + (uint64_t)key_len + data_len;
    return (uint32_t)((bytes + SD_BLOCK_BYTES - 1) / SD_BLOCK_BYTES);
}

static inline uint32_t sd_bucket_of(const sd_store_t *s, uint64_t hash)
{
    return (uint32_t)(hash >> 32) & s->bucket_mask;
}

static inline uint32_t sd_shard_of(const sd_store_t *s, uint32_t bucket)
{
    return bucket >> s->shard_shift;
}

static inline void sd_shard_lock(sd_store_t *s, uint32_t shard)
{
    pthread_mutex_lock(&s->locks[shard % SD_LOCKS].mutex);
}

static inline void sd_shard_unlock(sd_store_t *s, uint32_t shard)
{
    pthread_mutex_unlock(&s->locks[shard % SD_LOCKS].mutex);
}

/* Items in a shard: written under its lock, read by anyone. */
static inline uint32_t sd_shard_items(const sd_store_t *s, uint32_t shard)
{
    return atomic_load_explicit(&s->shards[shard].items, memory_order_relaxed);
}

/* Tombstones among them, likewise. */
static inline uint32_t sd_shard_gone(const sd_store_t *s, uint32_t shard)
{
    return atomic_load_explicit(&s->shards[shard].gone, memory_order_relaxed);
}

static inline void sd_shard_set_gone(sd_store_t *s, uint32_t shard, uint32_t gone)
{
    atomic_store_explicit(&s->shards[shard].gone, gone, memory_order_relaxed);
}

static inline bool sd_item_is_gone(const sd_item_t *item)
{
    return (item->marks & SD_MARK_GONE) != 0;
}

static inline bool sd_round_is_newer(uint32_t round, uint32_t than)
{
    return (int32_t)(round - than) > 0;
}

static inline void sd_shard_set_items(sd_store_t *s, uint32_t shard, uint32_t items)
{
    atomic_store_explicit(&s->shards[shard].items, items, memory_order_relaxed);
}

/* ---- segment.c ---- */
const char *sd_segment_map(sd_store_t *s, void *raw, uint64_t size);
void sd_store_flush(sd_store_t *s); /* the lanes' lists, to the pool */
void sd_store_free(sd_store_t *s);  /* the handle */

/* ---- hash.c ---- */
uint64_t sd_hash(const sd_store_t *s, const void *key, size_t key_len);

/* A key's bucket, and the head of the first item in it, are two cache misses one
 * after the other. Called early, these have them come while other work is done.
 * They only read, and hint: no lock, and whatever they find may be old. */
static inline void sd_bucket_prefetch(const sd_store_t *s, uint64_t hash)
{
    __builtin_prefetch(&s->buckets[sd_bucket_of(s, hash)]);
}

static inline void sd_item_prefetch(const sd_store_t *s, uint64_t hash)
{
    uint32_t block = atomic_load_explicit(&s->buckets[sd_bucket_of(s, hash)], memory_order_relaxed);

    if (block != 0 && block <= s->block_count) {
        __builtin_prefetch(sd_block(s, block));
        __builtin_prefetch((const void *)&s->links[block]);
    }
}

/* ---- blocks.c ---- */
/* Takes one block, linked to nothing. 0 = none to be had without reclaiming. */
uint32_t sd_blocks_take(sd_lane_t *lane, bool privileged);
/* Frees the chain that begins at `head`. Returns how many blocks it had. */
uint32_t sd_blocks_free(sd_lane_t *lane, uint32_t head);
/* Gives a lane's free blocks to the pool. */
void sd_blocks_flush(sd_lane_t *lane);
uint32_t sd_blocks_free_count(sd_store_t *s);

/* ---- index.c: the caller holds the lock of the bucket's shard ---- */
/* The item with this key, 0 = none. *link is what points to it, or the bucket. */
uint32_t sd_index_find(sd_store_t *s, uint64_t hash, const void *key, size_t key_len,
                       uint32_t **link);
void sd_index_insert(sd_store_t *s, uint32_t bucket, uint32_t block);
void sd_index_replace(sd_store_t *s, uint32_t *link, uint32_t old_block, uint32_t new_block);
void sd_index_remove(sd_store_t *s, uint32_t bucket, uint32_t *link, uint32_t block);
/* The item has become unreachable. True: nobody reads it and the caller frees
 * its blocks once it has let go of the lock; false: the last reader does. */
bool sd_index_detach(sd_store_t *s, uint32_t block);
/* Do the key bytes of an item equal `key`? No lock needed for one's own chain. */
bool sd_item_key_equals(const sd_store_t *s, uint32_t block, const void *key, size_t key_len);
/* Copies the key of an item out; returns its length. */
uint32_t sd_item_key_copy(const sd_store_t *s, uint32_t block, unsigned char out[SD_KEY_MAX]);

/* ---- changes.c: under the lock of the bucket's shard ---- */
bool sd_changes_create(sd_store_t *s);
void sd_changes_destroy(sd_store_t *s);
void sd_changes_enter(sd_store_t *s); /* the segment is ours from now on */
/* An item is about to be published in place of `old` (0 = of nothing). */
void sd_change_stored(sd_lane_t *lane, uint32_t bucket, uint32_t block, uint32_t old);
void sd_change_touched(sd_lane_t *lane, uint32_t bucket, uint32_t block);
/* Takes an item out of the index, leaving a tombstone where the disk has to be
 * told. `live`: it was not expired. The caller detaches it. */
void sd_change_remove(sd_lane_t *lane, uint32_t bucket, uint32_t *link, uint32_t block, bool live);
/* The same for a live item whose memory is wanted: may do without the tombstone,
 * and have the disk go astray, where tombstones would eat up all that it gains. */
void sd_change_evict(sd_lane_t *lane, uint32_t bucket, uint32_t *link, uint32_t block);
/* A tombstone has been replaced by an item. */
void sd_change_revived(sd_store_t *s, uint32_t bucket);
/* Takes a tombstone out of the index and frees it. */
void sd_change_bury(sd_lane_t *lane, uint32_t bucket, uint32_t *link, uint32_t block);
/* Something went that no mark tells of. */
void sd_changes_go_astray(sd_store_t *s);
/* So many tombstones more, or a shard's count of them was wrong by so many. */
void sd_changes_recount(sd_store_t *s, uint32_t more);
bool sd_changes_count_is(const sd_store_t *s, uint32_t graves); /* true where nobody counts */

/* ---- expiry.c ---- */
/* Makes room when no block is left: expired values first, then, if the store
 * evicts, the one nearest its expiry. True when anything was freed. */
bool sd_expiry_reclaim(sd_lane_t *lane, uint64_t now);
void sd_expiry_note(sd_store_t *s, uint32_t shard, uint64_t expiry); /* under the shard's lock */

/* ---- repair.c ---- */
#define SD_REPAIR_STEP 65536u /* blocks looked at in one go: some 50 microseconds */
void sd_repair_begin(sd_store_t *s);
/* A chain that no item leads to, or no longer, and that the repair must not free:
 * an item detached meanwhile (under its shard's lock), or what was adopted. */
void sd_repair_keep(sd_store_t *s, uint32_t block);
/* Moves free blocks of the dead process to the pool. Under the pool lock. */
bool sd_repair_find_free(sd_lane_t *lane, uint32_t blocks);
/* True: the block lies ahead of the search for free blocks, which will find it;
 * so it must not go on a list. Under the pool lock. */
static inline bool sd_repair_will_find(const sd_store_t *s, uint32_t block)
{
    return s->repair.phase == SD_REPAIR_FREE && block >= s->repair.cursor && block < s->repair.end;
}

#endif
