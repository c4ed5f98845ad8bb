/* SPDX-License-Identifier: Apache-2.0
 *
 * test_store.c: get, put, delete and touch as a caller sees them: versions, what a
 * match accepts, the moment of expiry, and readers that keep a value alive
 * while it is replaced, deleted, expired or evicted under them.
 */
#include <stdlib.h>

#include "store_fixture.h"

static void a_value_is_there_until_it_is_deleted(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0), other = numbered_key(2, 0);
    sd_ref_t ref;
    uint64_t version;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_MISS);
    assert_int_equal(ref.head, 0);
    assert_int_equal(delete_key(&f, &key), SD_MISS);
    version = put_ok(&f, &key, 1, 2000, f.now + 60000);
    assert_int_equal(sessions(&f), 1);
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_OK);
    assert_int_equal(ref.version, version);
    assert_int_equal(ref.expiry, f.now + 60000);
    assert_true(ref_shows(f.lane, &ref, 1, 2000));
    sd_ref_release(f.lane, &ref);
    assert_false(is_there(&f, &other));
    assert_int_equal(delete_key(&f, &other), SD_MISS);
    put_ok(&f, &key, 2, 0, f.now + 60000);
    assert_value(&f, &key, 2, 0);
    assert_int_equal(sessions(&f), 1);
    assert_int_equal(delete_key(&f, &key), SD_OK);
    assert_false(is_there(&f, &key));
    assert_int_equal(delete_key(&f, &key), SD_MISS);
    assert_int_equal(sessions(&f) + blocks_used(&f), 0);
    fixture_close(&f);
}

/* Keys are bytes: NUL and 0xff among them, prefixes of each other, 1 to 255. */
static void keys_are_any_bytes(void **state)
{
    fixture_t f;
    unsigned char key[SD_KEY_MAX];
    test_key_t k;
    uint32_t len;

    (void)state;
    fixture_open(&f, 2 * MIB, 1, false);
    memset(key, 0, sizeof key);
    key[100] = 0xff;
    for (len = 1; len <= SD_KEY_MAX; len++) {
        memcpy(k.bytes, key, len);
        k.len = len;
        put_ok(&f, &k, len, len, f.now + 1000);
    }
    assert_int_equal(sessions(&f), SD_KEY_MAX);
    for (len = 1; len <= SD_KEY_MAX; len++) {
        memcpy(k.bytes, key, len);
        k.len = len;
        assert_value(&f, &k, len, len);
    }
    fixture_close(&f);
}

static void versions_grow_and_are_never_used_again(void **state)
{
    fixture_t f;
    dice_t dice = dice_new(3);
    uint64_t last = 0, version = 0;
    uint32_t n, rounds = test_ops(20000, 1000);

    (void)state;
    fixture_open(&f, MIB, 2, true);
    for (n = 0; n < rounds; n++) {
        test_key_t key = numbered_key(dice_below(&dice, 60), 0);

        switch (dice_below(&dice, 8)) {
        case 0:
            delete_key(&f, &key);
            break;
        case 1:
            f.now += dice_below(&dice, 40);
            sd_store_sweep(f.lane, f.now, 1000);
            break;
        case 2:
            if (dice_below(&dice, 100) == 0) {
                fixture_detach(&f);
                fixture_attach(&f, 2, true);
            }
            else if (dice_below(&dice, 100) == 0) {
                fixture_die(&f);
                fixture_attach(&f, 2, true);
                if (dice_below(&dice, 2))
                    fixture_repair(&f);
            }
            break;
        default:
            assert_int_equal(value_store(sd_store_lane(f.store, n % 2), &key, n,
                                         dice_below(&dice, 9000), f.now + dice_below(&dice, 100),
                                         SD_VERSION_ANY, f.now, &version),
                             SD_OK);
            assert_true(version > last && version != SD_VERSION_ANY);
            last = version;
        }
    }
    fixture_repair(&f);
    fixture_close(&f);
}

static sd_status_t put_match(fixture_t *f, const test_key_t *key, uint64_t match, uint64_t *version)
{
    return value_store(f->lane, key, 1, 700, f->now + 100, match, f->now, version);
}

static sd_status_t delete_match(fixture_t *f, const test_key_t *key, uint64_t match)
{
    return sd_store_delete(f->lane, key->bytes, key->len, match, f->now);
}

static void a_put_must_match_what_is_there(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0);
    uint64_t v1, v2, v3, ignored = 4711;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    /* nothing there */
    assert_int_equal(put_match(&f, &key, 1, &ignored), SD_CONFLICT);
    assert_int_equal(put_match(&f, &key, SD_VERSION_ANY - 1, &ignored), SD_CONFLICT);
    assert_int_equal(ignored, 4711);
    assert_int_equal(sessions(&f) + blocks_used(&f), 0);
    assert_int_equal(put_match(&f, &key, SD_VERSION_ABSENT, &v1), SD_OK);
    /* a live value there */
    assert_int_equal(put_match(&f, &key, SD_VERSION_ABSENT, &ignored), SD_CONFLICT);
    assert_int_equal(put_match(&f, &key, v1 + 1, &ignored), SD_CONFLICT);
    assert_int_equal(put_match(&f, &key, v1, &v2), SD_OK);
    assert_int_equal(put_match(&f, &key, v1, &ignored), SD_CONFLICT);
    assert_int_equal(put_match(&f, &key, SD_VERSION_ANY, &v3), SD_OK);
    assert_int_equal(put_match(&f, &key, v2, &ignored), SD_CONFLICT);
    assert_value(&f, &key, 1, 700);
    /* an expired one is as good as none, whatever its version was */
    f.now += 100;
    assert_int_equal(put_match(&f, &key, v3, &ignored), SD_CONFLICT);
    assert_int_equal(put_match(&f, &key, SD_VERSION_ABSENT, &v1), SD_OK);
    assert_int_equal(counter_sum(&f, expired), 1);
    f.now += 100;
    assert_int_equal(put_match(&f, &key, SD_VERSION_ANY, &v2), SD_OK);
    assert_int_equal(counter_sum(&f, expired), 2);
    assert_int_equal(sessions(&f), 1);
    fixture_close(&f);
}

static void a_delete_must_match_what_is_there(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0);
    uint64_t version;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    assert_int_equal(delete_match(&f, &key, SD_VERSION_ABSENT), SD_MISS);
    assert_int_equal(delete_match(&f, &key, 5), SD_MISS);
    assert_int_equal(put_match(&f, &key, SD_VERSION_ANY, &version), SD_OK);
    assert_int_equal(delete_match(&f, &key, SD_VERSION_ABSENT), SD_CONFLICT);
    assert_int_equal(delete_match(&f, &key, version - 1), SD_CONFLICT);
    assert_int_equal(delete_match(&f, &key, version + 1), SD_CONFLICT);
    assert_true(is_there(&f, &key));
    assert_int_equal(delete_match(&f, &key, version), SD_OK);
    assert_int_equal(put_match(&f, &key, SD_VERSION_ANY, &version), SD_OK);
    f.now += 100;
    assert_int_equal(delete_match(&f, &key, version), SD_MISS); /* it has gone by itself */
    assert_int_equal(sessions(&f) + blocks_used(&f), 0);
    assert_int_equal(counter_sum(&f, expired), 1);
    fixture_close(&f);
}

/* After a conflict the caller still has the value and may offer it again. */
static void a_conflict_leaves_the_chain_with_its_owner(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 240);
    sd_chain_t chain;
    unsigned char value[6000];
    uint64_t version, there;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    there = put_ok(&f, &key, 1, 100, f.now + 1000);
    value_fill(value, sizeof value, 7);
    assert_int_equal(sd_chain_open(f.lane, &chain, key.bytes, key.len, f.now), SD_OK);
    assert_int_equal(sd_chain_append(f.lane, &chain, value, 1000, f.now), SD_OK);
    assert_int_equal(sd_chain_reserve(f.lane, &chain, 9000, f.now), SD_OK);
    assert_int_equal(sd_store_put(f.lane, &chain, f.now + 9, 12345, f.now, &version), SD_CONFLICT);
    assert_value(&f, &key, 1, 100);
    assert_int_equal(chain.data_len, 1000);
    assert_int_equal(atomic_load(&f.store->incoming), chain.blocks);
    assert_clean(f.store);
    assert_int_equal(sd_chain_append(f.lane, &chain, value + 1000, 5000, f.now), SD_OK);
    assert_int_equal(sd_store_put(f.lane, &chain, f.now + 9, there, f.now, &version), SD_OK);
    assert_value(&f, &key, 7, sizeof value);
    assert_int_equal(blocks_used(&f), sd_item_blocks(240, sizeof value));
    fixture_close(&f);
}

static void expiry_is_exact(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0);

    (void)state;
    fixture_open(&f, MIB, 1, false);
    put_ok(&f, &key, 1, 10, f.now + 50);
    f.now += 49;
    assert_true(is_there(&f, &key));
    assert_int_equal(counter_sum(&f, read_expired), 0);
    f.now += 1;
    assert_false(is_there(&f, &key));
    assert_int_equal(counter_sum(&f, read_expired), 1);
    assert_int_equal(counter_sum(&f, expired), 1);
    assert_int_equal(sessions(&f) + blocks_used(&f), 0); /* its memory is back at once */
    put_ok(&f, &key, 1, 10, f.now); /* stored and over */
    assert_false(is_there(&f, &key));
    put_ok(&f, &key, 1, 10, f.now + 50);
    f.now += 50;
    put_ok(&f, &key, 2, 10, f.now + 50); /* a new life, not the rest of the old one */
    f.now += 49;
    assert_value(&f, &key, 2, 10);
    fixture_close(&f);
}

typedef void (*loss_t)(fixture_t *f, const test_key_t *key);

static void by_replacing(fixture_t *f, const test_key_t *key)
{
    put_ok(f, key, 77, 1234, f->now + 900000);
}

static void by_deleting(fixture_t *f, const test_key_t *key)
{
    assert_int_equal(delete_key(f, key), SD_OK);
}

static void by_expiring_at_access(fixture_t *f, const test_key_t *key)
{
    f->now += 500000;
    assert_false(is_there(f, key));
}

static void by_sweeping(fixture_t *f, const test_key_t *key)
{
    (void)key;
    f->now += 500000;
    sd_store_sweep(f->lane, f->now, UINT32_MAX);
}

static void by_evicting(fixture_t *f, const test_key_t *key)
{
    uint32_t n = 0;

    while (counter_sum(f, evicted) == 0) {
        test_key_t other = numbered_key(10000 + n++, 0);

        put_ok(f, &other, n, 3000, f->now + 900000);
    }
    assert_false(is_there(f, key));
    while (n > 0) {
        test_key_t other = numbered_key(10000 + --n, 0);

        delete_key(f, &other);
    }
}

/* Several readers in the middle of their reading; the value goes; new values
 * take what memory there is; the readers finish; only then the blocks return. */
static void readers_keep_what_they_read(void **state)
{
    static const loss_t losses[] = { by_replacing, by_deleting, by_expiring_at_access, by_sweeping,
                                     by_evicting };
    enum { READERS = 5, LENGTH = 20000 };
    size_t l;

    (void)state;
    for (l = 0; l < sizeof losses / sizeof losses[0]; l++) {
        fixture_t f;
        test_key_t key = numbered_key(1, 100);
        sd_ref_t refs[READERS];
        unsigned char bytes[LENGTH];
        uint32_t i, n, kept = sd_item_blocks(100, LENGTH);

        fixture_open(&f, MIB, 1, true);
        put_ok(&f, &key, 42, LENGTH, f.now + 500000);
        for (i = 0; i < READERS; i++) {
            struct iovec iov;
            size_t covered;

            assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &refs[i]), SD_OK);
            assert_int_equal(sd_ref_iov(f.lane, &refs[i], &iov, 1, &covered), 1);
            if (i == 0)
                memcpy(bytes, iov.iov_base, covered > 5000 ? 5000 : covered);
            sd_ref_advance(f.lane, &refs[i], i == 0 ? (covered > 5000 ? 5000 : covered)
                                                    : (i * 1000 < covered ? i * 1000 : covered));
        }
        losses[l](&f, &key);
        assert_int_equal(atomic_load(&f.store->detached), kept);
        assert_clean(f.store);
        for (n = 0; n < 400; n++) { /* would write over anything that was free */
            test_key_t other = numbered_key(2 + n % 50, 0);

            put_ok(&f, &other, n, 15000, f.now + 900000);
        }
        for (i = 0; i < READERS; i++) {
            uint32_t at = LENGTH - refs[i].left;
            unsigned char *to = bytes + at;
            size_t covered;
            struct iovec iov;

            if (i > 0)
                memset(to, 0, LENGTH - at);
            while (sd_ref_iov(f.lane, &refs[i], &iov, 1, &covered) > 0) {
                memcpy(to, iov.iov_base, covered);
                to += covered;
                sd_ref_advance(f.lane, &refs[i], covered);
            }
            assert_int_equal(to - bytes, LENGTH);
            assert_true(value_is(bytes, LENGTH, 42));
            assert_int_equal(atomic_load(&f.store->detached), kept);
            sd_ref_release(f.lane, &refs[i]);
        }
        assert_int_equal(atomic_load(&f.store->detached), 0);
        fixture_close(&f);
    }
}

/* Other keys that are being read are not told from this one by their bytes. */
static void a_value_outlives_its_reader(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0);
    sd_ref_t a, b;
    uint32_t n;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    put_ok(&f, &key, 1, 3000, f.now + 1000);
    for (n = 0; n < 100; n++) {
        assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &a), SD_OK);
        assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &b), SD_OK);
        sd_ref_release(f.lane, &a);
        sd_ref_release(f.lane, &b);
    }
    assert_value(&f, &key, 1, 3000);
    assert_int_equal(blocks_used(&f), sd_item_blocks(key.len, 3000));
    fixture_close(&f);
}

static void too_many_readers_of_one_value(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0), other = numbered_key(2, 0);
    sd_ref_t *refs = calloc(70000, sizeof *refs), ref;
    uint32_t n = 0, used;
    sd_status_t status;

    (void)state;
    assert_non_null(refs);
    fixture_open(&f, MIB, 1, false);
    put_ok(&f, &key, 1, 3000, f.now + 1000);
    put_ok(&f, &other, 2, 3000, f.now + 1000);
    while ((status = sd_store_get(f.lane, key.bytes, key.len, f.now, &refs[n])) == SD_OK)
        assert_true(++n < 70000);
    assert_int_equal(status, SD_BUSY);
    assert_int_equal(n, 32766);
    assert_int_equal(refs[n].head, 0);
    assert_value(&f, &other, 2, 3000); /* only this one is busy */
    sd_ref_release(f.lane, &refs[7]);
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &refs[7]), SD_OK);
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_BUSY);
    /* a busy value can be replaced, and the new one is not busy */
    put_ok(&f, &key, 3, 100, f.now + 1000);
    assert_value(&f, &key, 3, 100);
    used = (uint32_t)blocks_used(&f);
    while (n > 0) {
        assert_true(ref_shows(f.lane, &refs[n - 1], 1, 3000));
        assert_int_equal(blocks_used(&f), used);
        sd_ref_release(f.lane, &refs[--n]);
    }
    assert_int_equal(blocks_used(&f), used - sd_item_blocks(key.len, 3000));
    free(refs);
    fixture_close(&f);
}

static void usage_adds_up(void **state)
{
    fixture_t f;
    sd_usage_t u;
    sd_chain_t chain;
    test_key_t key = numbered_key(1, 50);

    (void)state;
    fixture_open(&f, 8 * MIB, 3, false);
    sd_store_usage(f.store, &u);
    assert_true(u.size <= 8 * MIB && u.size > 8 * MIB - 64);
    assert_int_equal(u.block_bytes, 256);
    assert_int_equal(u.fixed + u.blocks * u.block_bytes, u.size);
    assert_int_equal(u.blocks_free, u.blocks);
    assert_int_equal(u.items + u.blocks_incoming, 0);
    put_ok(&f, &key, 1, 5000, f.now + 1);
    assert_int_equal(sd_chain_open(sd_store_lane(f.store, 2), &chain, "x", 1, f.now), SD_OK);
    assert_int_equal(sd_chain_reserve(sd_store_lane(f.store, 2), &chain, 1000, f.now), SD_OK);
    sd_store_usage(f.store, &u);
    assert_int_equal(u.items, 1);
    assert_int_equal(u.blocks_incoming, chain.blocks);
    assert_int_equal(u.blocks_free, u.blocks - chain.blocks - sd_item_blocks(50, 5000));
    assert_int_equal(u.largest, sd_usage_largest(u.blocks, u.blocks_free));
    /* another lane may free what lane 2 took: only the sum over lanes means anything */
    sd_chain_discard(f.lane, &chain);
    assert_int_equal(delete_key(&f, &key), SD_OK);
    sd_store_usage(f.store, &u);
    assert_int_equal(u.blocks_free, u.blocks);
    /* read while others take and free, the sums may be a little under zero or
     * over the top: that is next to nothing, and next to everything */
    sd_count_sub(&f.counters[2], blocks_used, 3);
    sd_count_sub(&f.counters[2], sessions, 2);
    sd_store_usage(f.store, &u);
    assert_int_equal(u.blocks_free, u.blocks);
    assert_int_equal(u.items, 0);
    sd_count_add(&f.counters[1], blocks_used, u.blocks + 5);
    sd_store_usage(f.store, &u);
    assert_int_equal(u.blocks_free + u.largest, 0);
    sd_count_sub(&f.counters[1], blocks_used, u.blocks + 2);
    sd_count_add(&f.counters[2], sessions, 2);
    fixture_close(&f);
}

/* A touch changes when a value ends, to the millisecond, and nothing else of it. */
static void a_touch_moves_the_end(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0), other = numbered_key(2, 0);
    uint64_t version, end;
    sd_ref_t before, ref;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    assert_int_equal(sd_store_touch(f.lane, key.bytes, key.len, f.now + 1000, f.now), SD_MISS);
    end = f.now + 1000;
    version = put_ok(&f, &key, 1, 2000, end);
    put_ok(&f, &other, 2, 100, end);
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &before), SD_OK);
    assert_int_equal(sd_store_touch(f.lane, key.bytes, key.len, end + 5000, f.now), SD_OK); /* later */
    f.now = end;
    sd_store_sweep(f.lane, f.now, UINT32_MAX);
    assert_false(is_there(&f, &other));
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_OK);
    assert_int_equal(ref.version, version);
    assert_int_equal(ref.expiry, end + 5000);
    assert_true(ref_shows(f.lane, &ref, 1, 2000));
    assert_true(ref_shows(f.lane, &before, 1, 2000));
    sd_ref_release(f.lane, &ref);
    sd_ref_release(f.lane, &before);

    put_ok(&f, &other, 3, 100, end + 9000);
    assert_int_equal(sd_store_touch(f.lane, key.bytes, key.len, f.now + 10, f.now), SD_OK); /* earlier */
    f.now += 9;
    assert_value(&f, &key, 1, 2000);
    f.now++;
    assert_int_equal(sd_store_touch(f.lane, key.bytes, key.len, f.now + 10, f.now), SD_MISS);
    assert_int_equal(sessions(&f), 2); /* nobody has met it yet */
    assert_true(sd_store_sweep(f.lane, f.now, UINT32_MAX) > 0);
    assert_int_equal(sessions(&f), 1); /* the sweep looks where something ends sooner */
    assert_false(is_there(&f, &key));
    assert_value(&f, &other, 3, 100);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_is_there_until_it_is_deleted),
        cmocka_unit_test(keys_are_any_bytes),
        cmocka_unit_test(versions_grow_and_are_never_used_again),
        cmocka_unit_test(a_put_must_match_what_is_there),
        cmocka_unit_test(a_delete_must_match_what_is_there),
        cmocka_unit_test(a_conflict_leaves_the_chain_with_its_owner),
        cmocka_unit_test(expiry_is_exact),
        cmocka_unit_test(readers_keep_what_they_read),
        cmocka_unit_test(a_value_outlives_its_reader),
        cmocka_unit_test(too_many_readers_of_one_value),
        cmocka_unit_test(a_touch_moves_the_end),
        cmocka_unit_test(usage_adds_up),
    };

    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
