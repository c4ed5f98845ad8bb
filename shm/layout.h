/* SPDX-License-Identifier: Apache-2.0
 *
 * layout.h: the map of the segment, its structs and the ways to walk them.
 * What is hard: a process can be killed between any two stores, so every
 * change that another process could meet half-done is one aligned store.
 *
 *   base (64-byte aligned; the mapping itself may start 8 bytes past a page)
 *   +0             sd_header_t                               4096 bytes
 *   +shards_at     sd_shard_t   [shards]                       16 each
 *   +buckets_at    uint32_t     [buckets]    first item, 0 = none
 *   +links_at      uint32_t     [blocks + 1] one word for each block:
 *
 *                     31..28  tag   0 = free, else the epoch that took or repaired it
 *                     27..0   next  block after it in its chain or list, 0 = last
 *
 *   +blocks_at     256 bytes    [blocks]     block n stands at blocks_at + 256 * (n - 1)
 *
 *   All `_at` are offsets from base. Blocks are numbered from 1; 0 = none.
 *
 *   an item:  bucket -> +---------------------+   link   +-----------+   link
 *                       | sd_item_t (40)      | -------> | data ...  | -------> 0
 *             next <--- |   key | data ...    |          +-----------+
 *                       +---------------------+
 *
 *   A tombstone is an item without data whose marks say GONE: the key is not
 *   there, and the disk is still to be told (changes.h).
 *
 * The links stand apart from the blocks, so that a block holds 256 bytes of
 * payload, blocks that are neighbours form one I/O vector, and a repair reads
 * 4 bytes for each block instead of a cache line.
 *
 * Invariants that hold at every instant, also when the process dies there:
 *  - from every bucket a list of complete items can be walked (publishing,
 *    replacing and removing are each one store into a bucket or `next`);
 *  - an item's bytes do not change while it is reachable;
 *  - a block is reachable from at most one item.
 * Free lists, counts and blocks of values on their way in may be wrong after
 * a death; repair.c makes them anew.
 */
#ifndef SD_LAYOUT_H
#define SD_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#include "changes.h"

#define SD_MAGIC UINT64_C(0x31646e6f69737365) /* "session" and a 1, little-endian */
#ifndef SD_LAYOUT_VERSION /* a test builds a module of another layout */
#define SD_LAYOUT_VERSION 2u
#endif
#define SD_LAYOUT_BEFORE 1u /* the same without changes.h, where version 2 has zeros: taken over */
#define SD_BYTE_ORDER UINT32_C(0x01020304)
#define SD_HEADER_BYTES 4096u
#define SD_BLOCK_BYTES 256u
#define SD_SHARD_BUCKETS 256u /* a shard's walk stays in the tens of microseconds */
#define SD_ITEM_MAGIC 0xA5u

#define SD_LINK_NEXT UINT32_C(0x0fffffff)
#define SD_LINK_TAG_SHIFT 28u
#define SD_EPOCH_MAX 15u

/* How the last process left. Anything else is an end that was not orderly; so a
 * module that does not know one of these repairs. */
#define SD_CLEAN 1u
#define SD_CLEAN_HELD 2u /* in order, but for what it has told the next process of */

typedef struct sd_lane_list {
    uint32_t head;  /* free blocks that one thread keeps to itself */
    uint32_t count;
    uint32_t unused[2];
} sd_lane_list_t;
_Static_assert(sizeof(sd_lane_list_t) == 16, "lane lists are part of the layout");

typedef struct sd_header {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t byte_order;
    uint64_t size;       /* bytes from base on */
    uint32_t block_bytes;
    uint32_t blocks;
    uint32_t buckets;    /* a power of two */
    uint32_t shards;     /* a power of two, at most buckets */
    uint64_t shards_at;
    uint64_t buckets_at;
    uint64_t links_at;
    uint64_t blocks_at;
    uint64_t created;    /* ms */
    unsigned char seed[SD_SEED_BYTES];
    uint32_t clean;      /* SD_CLEAN... */
    uint32_t epoch;      /* tag of blocks being taken now, 1 to 15; grows after an unclean end */
    uint32_t repaired_epoch; /* ... and that of the last repair brought to its end */
    uint32_t held;       /* with SD_CLEAN_HELD: blocks that only chains and readers hold */

    _Alignas(64) _Atomic uint64_t version; /* last version given out */

    _Alignas(64) uint32_t pool_head;  /* free blocks of all threads; under the pool lock */
    uint32_t pool_count;
    uint32_t fresh;      /* blocks from here on were never used */

    _Alignas(64) sd_lane_list_t lanes[SD_LANES_MAX];

    _Alignas(64) uint32_t round; /* changes belong to it; 0 = none were ever kept track of. Under all queues' locks */
    _Atomic uint32_t settled;    /* the last round that is on disk */
    _Atomic uint32_t astray;     /* SD_ASTRAY...: marks do not tell all that differs from the disk */
    uint32_t served;             /* 1 = clients have been here */
    unsigned char disk_id[SD_DISK_ID_BYTES];

    uint8_t unused[SD_HEADER_BYTES - 1376];
} sd_header_t;
_Static_assert(sizeof(sd_header_t) == SD_HEADER_BYTES, "the header is part of the layout");
_Static_assert(offsetof(sd_header_t, version) == 128, "the version counter has a cache line of its own");
_Static_assert(offsetof(sd_header_t, pool_head) == 192, "so has the pool");
_Static_assert(offsetof(sd_header_t, round) == 1344, "where version 1 has zeros");

typedef struct sd_shard {
    _Atomic uint64_t min_expiry; /* no item here expires earlier; may be too early, never too late */
    _Atomic uint32_t items; /* changed under the lock, also read without it */
    _Atomic uint32_t gone; /* of these, tombstones */
} sd_shard_t;
_Static_assert(sizeof(sd_shard_t) == 16, "shards are part of the layout");

typedef struct sd_item {
    uint32_t next;       /* next item in the bucket, 0 = last */
    uint32_t hash;       /* low half of the key's hash; the high half picks the bucket */
    uint64_t version;
    uint64_t expiry;     /* ms */
    uint32_t data_len;
    uint32_t user_flags; /* for protocols whose clients keep flags with a value */
    uint32_t changed;    /* the round in which it last changed; 0 = it has not, or nobody kept track */
    uint8_t key_len;
    uint8_t magic;
    uint16_t marks;      /* SD_MARK_... */
} sd_item_t;

#define SD_ASTRAY 1u
#define SD_ASTRAY_MENDING 2u /* a round that writes everything has begun since */

#define SD_MARK_GONE 1u   /* a tombstone */
#define SD_MARK_EXPIRY 2u /* the change is one of the expiry: the value is on disk */

_Static_assert(sizeof(sd_item_t) == 40, "items are part of the layout");
_Static_assert(sizeof(sd_item_t) + SD_KEY_MAX <= 2 * SD_BLOCK_BYTES, "a key spans at most two blocks");

#endif
