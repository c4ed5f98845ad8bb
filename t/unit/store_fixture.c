/* SPDX-License-Identifier: Apache-2.0
 *
 * store_fixture.c: see the header. Values are made of 64-bit words of a mixing
 * function over (seed, length, position), so that a comparison needs no copy of
 * what was stored and finds any exchange of bytes between two values.
 */
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif
#ifndef RUNNING_ON_VALGRIND
#define RUNNING_ON_VALGRIND 0
#endif

#include "store_fixture.h"

static const unsigned char hash_seed[SD_SEED_BYTES] = "a seed for tests";

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* ---- segments and stores ---- */

void fixture_map(fixture_t *f, uint64_t size, size_t offset)
{
    memset(f, 0, sizeof *f);
    f->mapped = (size_t)size + offset;
    f->map = mmap(NULL, f->mapped, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(f->map, MAP_FAILED);
    f->raw = f->map + offset;
    f->size = size;
    f->now = 1000000;
}

void fixture_format(fixture_t *f)
{
    const char *reason = sd_segment_format(f->raw, f->size, hash_seed, f->now);

    if (reason)
        fail_msg("format of %llu bytes: %s", (unsigned long long)f->size, reason);
}

void fixture_attach(fixture_t *f, uint32_t lanes, bool evict)
{
    sd_store_options_t options = { lanes, evict, f->counters, f->takes_over, f->writes_behind };
    const char *reason;

    f->lanes = lanes;
    f->evict = evict;
    if (sd_store_attach(&f->store, f->raw, f->size, &options, &reason) != SD_OK)
        fail_msg("attach: %s", reason);
    assert_null(reason);
    f->lane = sd_store_lane(f->store, 0);
}

void fixture_open(fixture_t *f, uint64_t size, uint32_t lanes, bool evict)
{
    fixture_map(f, size, 8);
    fixture_format(f);
    fixture_attach(f, lanes, evict);
}

void fixture_detach(fixture_t *f)
{
    sd_store_detach(&f->store);
    assert_null(f->store);
    f->lane = NULL;
}

void fixture_unmap(fixture_t *f)
{
    munmap(f->map, f->mapped);
    memset(f, 0, sizeof *f);
}

void fixture_close(fixture_t *f)
{
    assert_clean(f->store);
    fixture_detach(f);
    fixture_unmap(f);
}

void store_die(sd_store_t **store)
{
    sd_store_t *s = *store;
    uint32_t i;

    for (i = 0; i < SD_LOCKS; i++)
        pthread_mutex_destroy(&s->locks[i].mutex);
    pthread_mutex_destroy(&s->pool_lock);
    sd_changes_destroy(s);
    free(s->adopted);
    free(s->locks);
    free(s->pins);
    free(s);
    *store = NULL;
}

void fixture_die(fixture_t *f)
{
    store_die(&f->store);
    f->lane = NULL;
}

uint32_t fixture_repair(fixture_t *f)
{
    uint32_t steps = 1;

    while (sd_store_repair(f->lane, f->now)) {
        steps++;
        assert_true(steps < 10000000);
    }
    return steps;
}

void assert_clean_at(sd_store_t *store, const char *file, int line)
{
    uint64_t where = 0;
    const char *rule = sd_store_check(store, &where);

    if (rule) {
        print_error("%s (at %llu)\n", rule, (unsigned long long)where);
        _fail(file, line);
    }
}

uint64_t counter_sum_at(const fixture_t *f, size_t at)
{
    uint64_t sum = 0;
    uint32_t i;

    for (i = 0; i < f->lanes; i++)
        sum += *(const _Atomic uint64_t *)(const void *)((const char *)&f->counters[i] + at);
    return sum;
}

uint64_t blocks_used(const fixture_t *f)
{
    return counter_sum(f, blocks_used);
}

uint64_t sessions(const fixture_t *f)
{
    return counter_sum(f, sessions);
}

/* ---- keys and values ---- */

test_key_t numbered_key(uint32_t n, uint32_t len)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuv";
    test_key_t key;
    uint64_t random = mix(n);
    uint32_t i;

    if (len == 0) /* mostly as long as PHP's ids, sometimes very long */
        len = random % 4 != 0 ? 26 + (uint32_t)(random >> 8) % 23
                              : 8 + (uint32_t)(random >> 8) % (SD_KEY_MAX - 7);
    key.len = len;
    for (i = 0; i < len; i++)
        if (i < 7)
            key.bytes[i] = (unsigned char)digits[(n >> (5 * i)) & 31u];
        else
            key.bytes[i] = (unsigned char)digits[(mix(random + i / 8) >> (5 * (i % 8))) & 31u];
    return key;
}

void value_fill(unsigned char *out, uint32_t len, uint64_t seed)
{
    uint64_t base = mix(seed ^ ((uint64_t)len << 32)), word;
    uint32_t i;

    for (i = 0; i + 8 <= len; i += 8) {
        word = mix(base + i);
        memcpy(out + i, &word, 8);
    }
    word = mix(base + i);
    if (len > i)
        memcpy(out + i, &word, len - i);
}

bool value_is(const unsigned char *bytes, uint32_t len, uint64_t seed)
{
    uint64_t base = mix(seed ^ ((uint64_t)len << 32)), word;
    uint32_t i;

    for (i = 0; i + 8 <= len; i += 8) {
        word = mix(base + i);
        if (memcmp(bytes + i, &word, 8) != 0)
            return false;
    }
    word = mix(base + i);
    return len == i || memcmp(bytes + i, &word, len - i) == 0;
}

sd_status_t value_store(sd_lane_t *lane, const test_key_t *key, uint64_t seed, uint32_t len,
                        uint64_t expiry, uint64_t match, uint64_t now, uint64_t *version)
{
    unsigned char small[2048], *bytes = len <= sizeof small ? small : malloc(len);
    uint64_t ignored;
    sd_chain_t chain;
    sd_status_t status = SD_INVALID;

    if (!bytes)
        return status;
    value_fill(bytes, len, seed);
    status = sd_chain_open(lane, &chain, key->bytes, key->len, now);
    if (status == SD_OK) {
        status = sd_chain_append(lane, &chain, bytes, len, now);
        if (status == SD_OK)
            status = sd_store_put(lane, &chain, expiry, match, now, version ? version : &ignored);
        if (status != SD_OK)
            sd_chain_discard(lane, &chain);
    }
    if (bytes != small)
        free(bytes);
    return status;
}

bool ref_shows(sd_lane_t *lane, const sd_ref_t *ref, uint64_t seed, uint32_t len)
{
    unsigned char small[2048], *bytes;
    sd_ref_t at = *ref; /* plain data: a second reading position */
    struct iovec iov[8];
    size_t have = 0, n;
    bool same;
    int i, vectors;

    if (ref->data_len != len || ref->left != len)
        return false;
    bytes = len <= sizeof small ? small : malloc(len);
    if (!bytes)
        return false;
    while (have < len && (vectors = sd_ref_iov(lane, &at, iov, 8, &n)) > 0) {
        size_t sum = 0;

        for (i = 0; i < vectors && sum + iov[i].iov_len <= len - have; i++) {
            memcpy(bytes + have + sum, iov[i].iov_base, iov[i].iov_len);
            sum += iov[i].iov_len;
        }
        if (sum != n)
            break;
        have += n;
        sd_ref_advance(lane, &at, n);
    }
    same = have == len && at.left == 0 && value_is(bytes, len, seed);
    if (bytes != small)
        free(bytes);
    return same;
}

sd_status_t put_try(fixture_t *f, const test_key_t *key, uint64_t seed, uint32_t len,
                    uint64_t expiry)
{
    return value_store(f->lane, key, seed, len, expiry, SD_VERSION_ANY, f->now, NULL);
}

uint64_t put_ok(fixture_t *f, const test_key_t *key, uint64_t seed, uint32_t len, uint64_t expiry)
{
    uint64_t version = 0;

    assert_int_equal(
        value_store(f->lane, key, seed, len, expiry, SD_VERSION_ANY, f->now, &version), SD_OK);
    assert_int_not_equal(version, 0);
    return version;
}

void assert_value_at(fixture_t *f, const test_key_t *key, uint64_t seed, uint32_t len,
                     const char *file, int line)
{
    sd_ref_t ref;
    sd_status_t status = sd_store_get(f->lane, key->bytes, key->len, f->now, &ref);

    if (status != SD_OK || !ref_shows(f->lane, &ref, seed, len)) {
        print_error("key %.*s: status %d, length %u; expected a value of %u bytes\n",
                    (int)key->len, (const char *)key->bytes, (int)status, ref.data_len, len);
        _fail(file, line);
    }
    sd_ref_release(f->lane, &ref);
}

bool is_there(fixture_t *f, const test_key_t *key)
{
    sd_ref_t ref;
    sd_status_t status = sd_store_get(f->lane, key->bytes, key->len, f->now, &ref);

    sd_ref_release(f->lane, &ref);
    assert_true(status == SD_OK || status == SD_MISS);
    return status == SD_OK;
}

sd_status_t delete_key(fixture_t *f, const test_key_t *key)
{
    return sd_store_delete(f->lane, key->bytes, key->len, SD_VERSION_ANY, f->now);
}

uint32_t fill_up(fixture_t *f, uint32_t first, uint64_t expiry)
{
    uint32_t n;

    for (n = 0;; n++) {
        test_key_t key = numbered_key(first + n, 8);
        sd_status_t status = put_try(f, &key, first + n, 16, expiry);

        if (status == SD_FULL)
            return n;
        assert_int_equal(status, SD_OK);
    }
}

static uint32_t block_of(const fixture_t *f, const test_key_t *key, bool gone)
{
    uint32_t *link, block = sd_index_find(f->store, sd_hash(f->store, key->bytes, key->len),
                                          key->bytes, key->len, &link);

    return block != 0 && sd_item_is_gone(sd_item(f->store, block)) == gone ? block : 0;
}

uint32_t item_of(const fixture_t *f, const test_key_t *key)
{
    return block_of(f, key, false);
}

uint32_t tombstone_of(const fixture_t *f, const test_key_t *key)
{
    return block_of(f, key, true);
}

uint32_t tombstones(const fixture_t *f)
{
    uint32_t n = 0, i;

    for (i = 0; i < f->store->shard_count; i++)
        n += sd_shard_gone(f->store, i);
    return n;
}

uint32_t bucket_of_key(const fixture_t *f, const test_key_t *key)
{
    return sd_bucket_of(f->store, sd_hash(f->store, key->bytes, key->len));
}

test_key_t key_in_shard(const fixture_t *f, uint32_t shard, uint32_t *n)
{
    test_key_t key;

    do
        key = numbered_key((*n)++, 12);
    while (sd_shard_of(f->store, bucket_of_key(f, &key)) != shard);
    return key;
}

/* ---- chance and length of runs ---- */

dice_t dice_new(uint64_t seed)
{
    dice_t d = { mix(seed) | 1, NULL, 0 };

    return d;
}

dice_t dice_of_bytes(const void *bytes, size_t n)
{
    dice_t d = { 1, bytes, n };

    return d;
}

uint64_t dice_roll(dice_t *d)
{
    d->state += UINT64_C(0x9e3779b97f4a7c15);
    return mix(d->state);
}

/* As few bytes as a number below `n` needs. */
static uint32_t next_fall(dice_t *d, uint32_t n)
{
    uint32_t range, fall = 0;

    for (range = n - 1; n > 0 && range > 0; range >>= 8)
        if (d->left > 0) {
            fall = fall << 8 | *d->bytes++;
            d->left--;
        }
    return n > 0 ? fall % n : 0;
}

uint32_t dice_below(dice_t *d, uint32_t n)
{
    if (d->bytes)
        return next_fall(d, n);
    return (uint32_t)(((dice_roll(d) >> 32) * n) >> 32);
}

bool under_valgrind(void)
{
    return RUNNING_ON_VALGRIND != 0;
}

static bool instrumented(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) \
    || __has_feature(memory_sanitizer)
    return true;
#else
    return false;
#endif
#else
    return false;
#endif
}

bool slowed_down(void)
{
    return under_valgrind() || instrumented();
}

uint32_t test_ops(uint32_t usual, uint32_t least)
{
    const char *most = getenv("SESSIOND_TEST_OPS");
    uint32_t n = usual;

    if (under_valgrind())
        n = usual / 40;
    else if (instrumented())
        n = usual / 5;
    if (most && *most && strtoul(most, NULL, 10) < n)
        n = (uint32_t)strtoul(most, NULL, 10);
    return n < least ? least : n;
}
