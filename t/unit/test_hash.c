/* SPDX-License-Identifier: Apache-2.0
 *
 * test_hash.c: the keyed hash. It must be SipHash-2-4 and nothing weaker, must
 * depend on the seed, and must come out the same in every process that attaches
 * to a segment, or that process would find nothing of what the last one stored.
 */
#include <stdio.h>

#include "store_fixture.h"

static uint64_t hash_with(const unsigned char seed[SD_SEED_BYTES], const void *key, size_t len)
{
    static sd_header_t header;
    sd_store_t s;

    memset(&s, 0, sizeof s);
    memcpy(header.seed, seed, SD_SEED_BYTES);
    s.header = &header;
    return sd_hash(&s, key, len);
}

/* The reference vectors of SipHash-2-4: key 00 01 .. 0f, input 00 01 .. */
static void hash_is_siphash24(void **state)
{
    static const struct {
        size_t len;
        uint64_t hash;
    } vectors[] = {
        { 0, UINT64_C(0x726fdb47dd0e0e31) },
        { 1, UINT64_C(0x74f839c593dc67fd) },
        { 8, UINT64_C(0x93f5f5799a932462) },
        { 15, UINT64_C(0xa129ca6149be45e5) },
    };
    unsigned char seed[SD_SEED_BYTES], input[16];
    size_t i;

    (void)state;
    for (i = 0; i < 16; i++)
        seed[i] = input[i] = (unsigned char)i;
    for (i = 0; i < sizeof vectors / sizeof vectors[0]; i++)
        assert_true(hash_with(seed, input, vectors[i].len) == vectors[i].hash);
}

static void hash_depends_on_every_bit_of_the_seed(void **state)
{
    unsigned char seed[SD_SEED_BYTES] = { 0 };
    uint64_t plain = hash_with(seed, "abcdefgh", 8);
    unsigned bit;

    (void)state;
    for (bit = 0; bit < 8 * SD_SEED_BYTES; bit++) {
        unsigned char *byte = &seed[bit / 8];

        *byte = (unsigned char)(*byte ^ (1u << bit % 8));
        assert_true(hash_with(seed, "abcdefgh", 8) != plain);
        *byte = (unsigned char)(*byte ^ (1u << bit % 8));
    }
    assert_true(hash_with(seed, "abcdefgh", 8) == plain);
}

/* Keys that differ in one character only, as counted ids do, still spread. */
static void buckets_are_used_evenly(void **state)
{
    enum { PER_BUCKET = 16 };
    fixture_t f;
    uint32_t buckets, n, most = 0, empty = 0, i;
    static uint16_t load[4096];

    (void)state;
    fixture_open(&f, MIB, 1, false);
    buckets = f.store->bucket_mask + 1;
    assert_true(buckets <= sizeof load / sizeof load[0]);
    for (n = 0; n < buckets * PER_BUCKET; n++) {
        char key[20];
        int len = snprintf(key, sizeof key, "sess_%010u", n);

        load[sd_bucket_of(f.store, sd_hash(f.store, key, (size_t)len))]++;
    }
    for (i = 0; i < buckets; i++) {
        most = load[i] > most ? load[i] : most;
        empty += load[i] == 0;
    }
    /* Poisson with a mean of 16: the chance of more than 48 anywhere, or of an
     * empty bucket, is under one in a thousand; and the seed is fixed. */
    assert_true(most <= 3 * PER_BUCKET);
    assert_int_equal(empty, 0);
    fixture_close(&f);
}

static void the_seed_in_the_segment_finds_earlier_keys(void **state)
{
    fixture_t f;
    uint32_t n;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    for (n = 0; n < 500; n++) {
        test_key_t key = numbered_key(n, 0);

        put_ok(&f, &key, n, n, f.now + 1000);
    }
    fixture_detach(&f);
    fixture_attach(&f, 2, false);
    for (n = 0; n < 500; n++) {
        test_key_t key = numbered_key(n, 0);

        assert_value(&f, &key, n, n);
    }
    fixture_detach(&f);

    /* another seed, another hash: the same bytes are then not found */
    ((sd_header_t *)(void *)(f.map + 64))->seed[3] ^= 1;
    fixture_attach(&f, 1, false);
    for (n = 0; n < 500; n++) {
        test_key_t key = numbered_key(n, 0);

        assert_false(is_there(&f, &key));
    }
    assert_string_equal(sd_store_check(f.store, NULL), "an item's hash is not that of its key");
    fixture_detach(&f);
    fixture_unmap(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hash_is_siphash24),
        cmocka_unit_test(hash_depends_on_every_bit_of_the_seed),
        cmocka_unit_test(buckets_are_used_evenly),
        cmocka_unit_test(the_seed_in_the_segment_finds_earlier_keys),
    };

    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
