/* SPDX-License-Identifier: Apache-2.0
 *
 * store_fixture.h: what the tests of shm/ share: a segment of any size at any
 * alignment, a store attached to it, values whose every byte follows from a
 * seed, and ends of a process without a detach. Nothing here asserts from a
 * thread other than the test's own: calls that threads may make return bool.
 */
#ifndef STORE_FIXTURE_H
#define STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shm/internal.h"

#define MIB ((uint64_t)1 << 20)
#define KIB ((uint32_t)1 << 10)

typedef struct fixture {
    unsigned char *map; /* page aligned, from mmap */
    size_t mapped;
    void *raw;          /* map + offset: what the store is given */
    uint64_t size;
    uint32_t lanes;
    bool evict;
    bool takes_over;    /* at the next attach */
    bool writes_behind; /* likewise */
    uint64_t now;       /* ms; tests move it themselves */
    sd_store_t *store;
    sd_lane_t *lane;    /* lane 0 */
    sd_counters_t counters[SD_LANES_MAX];
} fixture_t;

/* ---- segments and stores ---- */

/* Reserves (never commits) `size` shared bytes that begin `offset` past a page. */
void fixture_map(fixture_t *f, uint64_t size, size_t offset);
void fixture_format(fixture_t *f); /* the same seed every time */
void fixture_attach(fixture_t *f, uint32_t lanes, bool evict);
/* All three, at 8 bytes past a page, as apr_shm gives it. */
void fixture_open(fixture_t *f, uint64_t size, uint32_t lanes, bool evict);
void fixture_detach(fixture_t *f);
void fixture_unmap(fixture_t *f);
/* Asserts that check() is clean, detaches, unmaps. */
void fixture_close(fixture_t *f);

/* What SIGKILL does: the handle is gone, the segment stays as it is. */
void store_die(sd_store_t **store);
void fixture_die(fixture_t *f);

/* Repairs to the end; returns the number of steps. */
uint32_t fixture_repair(fixture_t *f);

#define assert_clean(store) assert_clean_at(store, __FILE__, __LINE__)
void assert_clean_at(sd_store_t *store, const char *file, int line);

uint64_t blocks_used(const fixture_t *f); /* the gauge, over all lanes */
uint64_t sessions(const fixture_t *f);
#define counter_sum(f, field) counter_sum_at(f, offsetof(sd_counters_t, field))
uint64_t counter_sum_at(const fixture_t *f, size_t at);

/* ---- keys and values ---- */

typedef struct test_key {
    unsigned char bytes[SD_KEY_MAX];
    uint32_t len;
} test_key_t;

/* Key number n, `len` bytes long (0: a length that follows from n). Keys of at
 * least 8 bytes are different for different n. */
test_key_t numbered_key(uint32_t n, uint32_t len);

/* Byte i of a value depends on its seed, its length and i: a mixture of two
 * values, or a value cut short, is never taken for a whole one. */
void value_fill(unsigned char *out, uint32_t len, uint64_t seed);
bool value_is(const unsigned char *bytes, uint32_t len, uint64_t seed);

/* Opens, appends and puts. On any failure the chain is discarded. */
sd_status_t value_store(sd_lane_t *lane, const test_key_t *key, uint64_t seed, uint32_t len,
                        uint64_t expiry, uint64_t match, uint64_t now, uint64_t *version);
/* Are the bytes that a reference shows those of (seed, len)? Releases nothing. */
bool ref_shows(sd_lane_t *lane, const sd_ref_t *ref, uint64_t seed, uint32_t len);

/* The same over lane 0, asserting. */
uint64_t put_ok(fixture_t *f, const test_key_t *key, uint64_t seed, uint32_t len, uint64_t expiry);
sd_status_t put_try(fixture_t *f, const test_key_t *key, uint64_t seed, uint32_t len,
                    uint64_t expiry);
#define assert_value(f, key, seed, len) assert_value_at(f, key, seed, len, __FILE__, __LINE__)
void assert_value_at(fixture_t *f, const test_key_t *key, uint64_t seed, uint32_t len,
                     const char *file, int line);
bool is_there(fixture_t *f, const test_key_t *key);
sd_status_t delete_key(fixture_t *f, const test_key_t *key);

/* Stores one-block values under numbered keys from `first` on, of 8-byte keys,
 * until the store is full. Returns how many fitted. */
uint32_t fill_up(fixture_t *f, uint32_t first, uint64_t expiry);

/* Where an item stands, for tests that look at or damage the segment. */
uint32_t item_of(const fixture_t *f, const test_key_t *key);
uint32_t tombstone_of(const fixture_t *f, const test_key_t *key);
uint32_t tombstones(const fixture_t *f); /* as the shards count them */
uint32_t bucket_of_key(const fixture_t *f, const test_key_t *key);

/* A key whose item stands in shard `shard`, from number *n on, which moves on. */
test_key_t key_in_shard(const fixture_t *f, uint32_t shard, uint32_t *n);

/* ---- chance and length of runs ---- */

typedef struct dice {
    uint64_t state;
    const uint8_t *bytes; /* what dice_below takes from, NULL = chance */
    size_t left;
} dice_t;

dice_t dice_new(uint64_t seed);
/* Dice whose falls somebody has written down: dice_below takes each from the
 * front, and 0 when all are spent. */
dice_t dice_of_bytes(const void *bytes, size_t n);
uint64_t dice_roll(dice_t *d);
uint32_t dice_below(dice_t *d, uint32_t n); /* 0 to n - 1 */

/* How many operations a loop makes: `usual`, or less under valgrind and the
 * sanitizers, at most SESSIOND_TEST_OPS; in any case not less than `least`. */
uint32_t test_ops(uint32_t usual, uint32_t least);
bool slowed_down(void); /* valgrind or a sanitizer */
bool under_valgrind(void);

#endif
