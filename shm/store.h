/* SPDX-License-Identifier: Apache-2.0
 *
 * store.h: the session store in one shared segment; the only header of shm/
 * (beside counters.h) that others include.
 *
 * The segment outlives the process that serves it. One process at a time has
 * it attached; its threads share one sd_store_t, and each owns an sd_lane_t.
 * The store never logs, reads a clock or touches a socket: callers pass `now`
 * and get a status.
 *
 * Units: times are milliseconds of a clock that never steps (CLOCK_BOOTTIME);
 * lengths are bytes. Ownership: a chain belongs to whoever opened it until
 * sd_store_put takes it; a reference keeps a value's bytes alive until it is
 * released. Locking: every call here may be made from any thread with that
 * thread's own lane; none blocks for longer than a walk over one shard.
 */
#ifndef SD_STORE_H
#define SD_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "counters.h"

#define SD_KEY_MAX 255u                      /* bytes; 1 is the least */
#define SD_LANES_MAX 66u                     /* 64 loop threads, the main thread, one spare */
#define SD_SEGMENT_MIN ((uint64_t)1 << 20)   /* bytes */
#define SD_SEGMENT_MAX ((uint64_t)60 << 30)  /* 28-bit block numbers of 256 bytes, with room to spare */
#define SD_SEED_BYTES 16

#define SD_VERSION_ABSENT UINT64_C(0)        /* the version of a key that has no live value */
#define SD_VERSION_ANY UINT64_MAX            /* matches whatever is there */

typedef enum {
    SD_OK = 0,
    SD_MISS,     /* no live value under this key */
    SD_FULL,     /* no memory for it; nothing was changed */
    SD_CONFLICT, /* the version asked for is not the one there; nothing was changed */
    SD_BUSY,     /* too many readers hold this value at once */
    SD_INVALID   /* a segment that cannot be used: see the reason given */
} sd_status_t;

typedef struct sd_store sd_store_t;
typedef struct sd_lane sd_lane_t;

/* ---- the segment ------------------------------------------------------- */

/* Writes a fresh, empty layout into `size` zeroed bytes at `raw`. The caller
 * is the only one that has them. `seed` keys the hash (unpredictable bytes);
 * it stays in the segment, so that every later process finds what this one
 * stored. Returns NULL, or a sentence saying why the size cannot be used. */
const char *sd_segment_format(void *raw, uint64_t size, const unsigned char seed[SD_SEED_BYTES],
                              uint64_t now);

/* What a process may say of a segment without following one offset in it. */
typedef struct sd_segment_info {
    uint32_t layout_version;
    uint64_t size;
    uint64_t created; /* ms, the `now` of sd_segment_format */
} sd_segment_info_t;

/* SD_OK, or SD_INVALID where the bytes are no segment of this byte order. */
sd_status_t sd_segment_peek(const void *raw, uint64_t size, sd_segment_info_t *info);
uint32_t sd_segment_layout_version(void); /* the one this code reads and writes */

/* ---- attach, detach ---------------------------------------------------- */

typedef struct sd_store_options {
    uint32_t lanes;         /* threads that will use the store, 1 to SD_LANES_MAX */
    bool evict_when_full;   /* SessiondWhenFull evict */
    sd_counters_t *counters; /* `lanes` slots; the gauges in them are set anew */
    bool takes_over;         /* told of all that the last process left held: adopts it */
    bool writes_behind;      /* changes are kept track of: changes.h */
} sd_store_options_t;

/* Attaches to a formatted segment. *reason is set with SD_INVALID. After an
 * unclean end (the last process did not detach) the store serves at once;
 * memory that the dead process held comes back through sd_store_repair. Only
 * after fifteen of them in a row, none long enough for a repair, is the whole
 * repair made here. */
sd_status_t sd_store_attach(sd_store_t **store, void *raw, uint64_t size,
                            const sd_store_options_t *options, const char **reason);

/* The same in two steps, for a process that must know beforehand that it will be
 * able to: what can fail is done by prepare, which changes nothing, while another
 * process may still have the segment attached. enter comes when that one has let
 * go. After a failure of enter the handle is of no use. */
sd_status_t sd_store_prepare(sd_store_t **store, void *raw, uint64_t size,
                             const sd_store_options_t *options, const char **reason);
sd_status_t sd_store_enter(sd_store_t *store, bool takes_over, const char **reason);

/* Marks the segment clean and frees the handle. Every other thread has stopped
 * using it, every chain is discarded, every reference released; if one is not,
 * the segment is left as after a death. */
void sd_store_detach(sd_store_t **store);

sd_lane_t *sd_store_lane(sd_store_t *store, uint32_t number);
sd_counters_t *sd_lane_counters(sd_lane_t *lane);
sd_store_t *sd_lane_store(const sd_lane_t *lane);

/* ---- writing ----------------------------------------------------------- */

/* A value on its way in: private to its owner until it is published. Plain
 * data, may be copied or moved; all zeros is "no chain". */
typedef struct sd_chain {
    uint64_t hash;
    uint32_t head;      /* first block, 0 = none */
    uint32_t last;      /* last block taken */
    uint32_t write;     /* the block that the next byte goes into */
    uint32_t write_at;  /* ... and where in it */
    uint32_t space;     /* bytes taken and not yet written, from the write position on */
    uint32_t blocks;    /* blocks taken */
    uint32_t data_len;  /* bytes of data written */
    uint8_t key_len;
    bool privileged;    /* replaces a live key: may use the last 1% */
} sd_chain_t;

/* Starts a value for `key`. SD_FULL leaves nothing behind. */
sd_status_t sd_chain_open(sd_lane_t *lane, sd_chain_t *chain, const void *key, size_t key_len,
                          uint64_t now);

/* Makes room for `want` more bytes; a value of 2 GiB or more finds none. SD_FULL:
 * the chain keeps what it has. */
sd_status_t sd_chain_reserve(sd_lane_t *lane, sd_chain_t *chain, uint32_t want, uint64_t now);

/* The reserved room, at most `limit` bytes of it, as at most `max` vectors to
 * receive into; adjacent blocks come as one. Returns how many were filled. */
int sd_chain_room(sd_lane_t *lane, const sd_chain_t *chain, uint32_t limit, struct iovec *iov,
                  int max);
/* `n` bytes of that room have been written. */
void sd_chain_advance(sd_lane_t *lane, sd_chain_t *chain, uint32_t n);

/* reserve + copy. */
sd_status_t sd_chain_append(sd_lane_t *lane, sd_chain_t *chain, const void *bytes, uint32_t n,
                            uint64_t now);

/* Gives the blocks back; the chain is zeroed. Harmless on "no chain". */
void sd_chain_discard(sd_lane_t *lane, sd_chain_t *chain);

/* Publishes the chain as its key's value. `match` is the version that must be
 * there (SD_VERSION_ABSENT: none; SD_VERSION_ANY: whatever). On SD_OK the
 * chain is taken (zeroed) and *version is the new version, never used before;
 * from then on every fetch sees this value. On SD_CONFLICT the caller still
 * has the chain. */
sd_status_t sd_store_put(sd_lane_t *lane, sd_chain_t *chain, uint64_t expiry, uint64_t match,
                         uint64_t now, uint64_t *version);

sd_status_t sd_store_delete(sd_lane_t *lane, const void *key, size_t key_len, uint64_t match,
                            uint64_t now);

/* A live value gets another expiry, and keeps its bytes and its version. SD_MISS:
 * there is none. */
sd_status_t sd_store_touch(sd_lane_t *lane, const void *key, size_t key_len, uint64_t expiry,
                           uint64_t now);

/* What a key, or that of a chain, is found by; the seed is the segment's. */
uint64_t sd_key_hash(const sd_lane_t *lane, const void *key, size_t key_len);
/* Copies a chain's key out, at most SD_KEY_MAX bytes; returns its length. */
uint32_t sd_chain_key(const sd_lane_t *lane, const sd_chain_t *chain, unsigned char out[SD_KEY_MAX]);

/* ---- reading ----------------------------------------------------------- */

/* A value being read. The bytes stay as they are until sd_ref_release, also
 * when the key is replaced, deleted or expires meanwhile. */
typedef struct sd_ref {
    uint64_t version;
    uint64_t expiry;
    uint32_t head;     /* 0 = no reference */
    uint32_t data_len;
    uint32_t block;    /* reading position: block, */
    uint32_t block_at; /* offset in it, */
    uint32_t left;     /* bytes from there on */
} sd_ref_t;

/* SD_OK (release it), SD_MISS, or SD_BUSY (32,766 readers of one value). */
sd_status_t sd_store_get(sd_lane_t *lane, const void *key, size_t key_len, uint64_t now,
                         sd_ref_t *ref);

/* The bytes from the reading position on as at most `max` vectors. *bytes is
 * their sum. */
int sd_ref_iov(sd_lane_t *lane, const sd_ref_t *ref, struct iovec *iov, int max, size_t *bytes);
void sd_ref_advance(sd_lane_t *lane, sd_ref_t *ref, size_t n);
void sd_ref_release(sd_lane_t *lane, sd_ref_t *ref);
/* The value is no longer in the store: this reference, and perhaps others, are
 * all that keep its memory. */
bool sd_ref_is_detached(sd_lane_t *lane, const sd_ref_t *ref);

/* ---- handing over ------------------------------------------------------ */

/* A process that ends while connections go on in the next one leaves it their
 * chains and references: it saves each, hands over, and tells the next one, who
 * attaches with `takes_over` and adopts each before anything else is done with
 * the store. */

/* Like sd_store_detach, but what is held stays held, for the next process. Every
 * other thread has stopped using the store. True: left in order, and a process
 * that takes over and adopts all of it finds nothing to repair. False: the
 * segment is left as after a death, since a repair was not over; chains and
 * references can be adopted all the same. */
bool sd_store_hand_over(sd_store_t **store);

/* What of a chain or a reference outlives its process. Plain numbers. */
typedef struct sd_chain_state {
    uint32_t head;     /* 0 = no chain */
    uint32_t blocks;
    uint32_t data_len;
} sd_chain_state_t;

typedef struct sd_ref_state {
    uint64_t version;
    uint32_t head;     /* 0 = no reference */
    uint32_t data_len;
    uint32_t left;
} sd_ref_state_t;

void sd_chain_save(const sd_chain_t *chain, sd_chain_state_t *state);
void sd_ref_save(const sd_ref_t *ref, sd_ref_state_t *state);

/* The chain or reference of a state that the last process saved; also where that
 * one died before it had handed over. From the main thread, right after attach,
 * before any other call on the store. SD_INVALID: there is no such thing in the
 * segment, nothing was changed, and the chain or reference is zeroed; the state
 * may say whatever it likes. What is left over when all is adopted comes back by
 * the repair of the next process. A reference may also be SD_BUSY, as in
 * sd_store_get. */
sd_status_t sd_chain_adopt(sd_lane_t *lane, const sd_chain_state_t *state, sd_chain_t *chain);
sd_status_t sd_ref_adopt(sd_lane_t *lane, const sd_ref_state_t *state, sd_ref_t *ref);

/* All has been adopted that will be: what was kept for it is freed. */
void sd_store_settle(sd_store_t *store);

/* ---- upkeep ------------------------------------------------------------ */

/* Returns the memory of expired values, looking at no more than `buckets`
 * buckets; goes round and round over calls. Returns how many it looked at. */
uint32_t sd_store_sweep(sd_lane_t *lane, uint64_t now, uint32_t buckets);

/* One step of the repair after an unclean end. Returns true while there is
 * more to do. One thread at a time. */
bool sd_store_repair(sd_lane_t *lane, uint64_t now);

typedef struct sd_usage {
    uint64_t size;        /* bytes of the segment */
    uint64_t fixed;       /* of these, header and tables */
    uint64_t block_bytes; /* bytes in one block */
    uint32_t blocks;      /* blocks in all */
    uint32_t blocks_free; /* of these, not in use */
    uint32_t blocks_incoming; /* in chains not yet published */
    uint64_t items;       /* values stored, expired ones included until swept */
    uint64_t largest;     /* data bytes of the largest value a new key could have now */
} sd_usage_t;
void sd_store_usage(sd_store_t *store, sd_usage_t *usage);
/* Values on their way in of so many data bytes and more should be held back by
 * whoever receives them; the store does not enforce it. 0: none. When chains
 * that are not published hold a quarter of the blocks, those of 1/256 of the
 * memory; when they hold three eighths, all. So slow writers cannot take the
 * memory from those who store, nor great values the turn of small ones. */
uint32_t sd_store_hold_from(const sd_store_t *store);
/* Blocks that come back when readers let go: is there something to ask them for? */
uint32_t sd_store_detached(const sd_store_t *store);

/* What sd_store_usage would call `largest`, from a number of free blocks. */
uint64_t sd_usage_largest(uint32_t blocks, uint32_t blocks_free);

/* Walks the whole segment. NULL: every rule holds; else the first broken rule,
 * a static string, and *where says at which bucket or block. No other thread
 * may be inside the store meanwhile. */
const char *sd_store_check(sd_store_t *store, uint64_t *where);

#endif
