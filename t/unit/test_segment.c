/* SPDX-License-Identifier: Apache-2.0
 *
 * test_segment.c: the geometry at every size and alignment, what a header must
 * say to be believed, and what an orderly end leaves behind.
 */
#include <stdlib.h>

#include "store_fixture.h"

static sd_header_t *header_of(const fixture_t *f)
{
    return (sd_header_t *)(((uintptr_t)f->raw + 63) & ~(uintptr_t)63);
}

/* Attaches to what must be refused; returns the reason. */
static const char *refusal(const fixture_t *f, uint64_t size, uint32_t lanes)
{
    static sd_counters_t counters[SD_LANES_MAX];
    sd_store_options_t options = { lanes, false, counters, false, false };
    sd_store_t *store = (sd_store_t *)(uintptr_t)1;
    const char *reason = NULL;

    assert_int_equal(sd_store_attach(&store, f->raw, size, &options, &reason), SD_INVALID);
    assert_null(store);
    assert_non_null(reason);
    return reason;
}

static void check_geometry(fixture_t *f)
{
    const sd_header_t *h = header_of(f);
    uint64_t end;
    uint32_t ratio;

    assert_true(h->size <= f->size && h->size + 64 > f->size);
    assert_int_equal(h->shards_at, SD_HEADER_BYTES);
    assert_true(h->buckets_at >= h->shards_at + h->shards * sizeof(sd_shard_t));
    assert_true(h->links_at >= h->buckets_at + h->buckets * sizeof(uint32_t));
    assert_true(h->blocks_at >= h->links_at + (h->blocks + UINT64_C(1)) * sizeof(uint32_t));
    assert_int_equal(h->shards_at % 64 + h->buckets_at % 64 + h->links_at % 64, 0);
    assert_int_equal(h->blocks_at % SD_BLOCK_BYTES, 0);
    end = h->blocks_at + (uint64_t)h->blocks * SD_BLOCK_BYTES;
    assert_true(end <= h->size);
    /* nothing to speak of is left over: two blocks, or what a bucket table of
     * half the size gives back where one block more would have doubled it */
    assert_true(h->size - end < 2 * SD_BLOCK_BYTES + h->buckets * sizeof(uint32_t)
                                + h->shards * sizeof(sd_shard_t));
    assert_true(h->blocks <= SD_LINK_NEXT - 1);
    assert_int_equal(h->buckets & (h->buckets - 1), 0);
    assert_int_equal(h->shards * SD_SHARD_BUCKETS, h->buckets);
    ratio = h->blocks / h->buckets;
    assert_true(ratio >= 4 && ratio <= 16);
    /* tables and header together stay small: the payload goals hang on it */
    assert_true((h->size - (uint64_t)h->blocks * SD_BLOCK_BYTES) * 1000 / h->size < 30);
}

static void geometry_at_every_size_and_alignment(void **state)
{
    static const size_t offsets[] = { 8, 0, 1, 63, 64, 4040 };
    dice_t dice = dice_new(1);
    uint64_t largest = (uint64_t)(slowed_down() ? 2 : 6) << 30;
    uint32_t rounds = test_ops(200, 20), i;

    (void)state;
    for (i = 0; i < rounds; i++) {
        /* 1 MiB exactly, then evenly over the powers of two */
        uint64_t size = i < 4 ? MIB + i : MIB << dice_below(&dice, 14);
        size_t offset = offsets[i % (sizeof offsets / sizeof offsets[0])];
        fixture_t f;

        if (i >= 4)
            size += dice_roll(&dice) % size;
        if (size > largest)
            size = largest - i;
        fixture_map(&f, size, offset);
        fixture_format(&f);
        check_geometry(&f);
        fixture_attach(&f, 1 + dice_below(&dice, SD_LANES_MAX), false);
        /* the far ends of each table are memory of ours */
        memset(sd_block(f.store, f.store->block_count), 0xff, SD_BLOCK_BYTES);
        assert_true(sd_block(f.store, f.store->block_count) + SD_BLOCK_BYTES
                    <= f.map + f.mapped);
        sd_link_set(f.store, f.store->block_count, 0);
        assert_int_equal(sd_shard_of(f.store, f.store->bucket_mask), f.store->shard_count - 1);
        assert_int_equal(f.store->shards[f.store->shard_count - 1].items, 0);
        if (i % 16 == 0)
            assert_clean(f.store);
        fixture_detach(&f);
        fixture_unmap(&f);
    }
}

static void the_largest_segment(void **state)
{
    fixture_t f;

    (void)state;
    if (slowed_down())
        skip(); /* the tools map shadow memory for it */
    fixture_map(&f, SD_SEGMENT_MAX, 0);
    fixture_format(&f);
    check_geometry(&f);
    fixture_attach(&f, 4, false);
    fixture_detach(&f);
    fixture_unmap(&f);
}

static void sizes_out_of_range_are_refused(void **state)
{
    static const unsigned char seed[SD_SEED_BYTES];
    static const uint64_t small[] = { 0, 1, 63, 64, 4095, 4096, 65536, MIB - 1, MIB - 64, MIB - 65 };
    fixture_t f;
    size_t i;

    (void)state;
    fixture_map(&f, MIB, 0);
    for (i = 0; i < sizeof small / sizeof small[0]; i++)
        assert_non_null(strstr(sd_segment_format(f.raw, small[i], seed, 0), "1 MiB"));
    assert_non_null(strstr(sd_segment_format(f.raw, SD_SEGMENT_MAX + 1, seed, 0), "60 GiB"));
    assert_non_null(strstr(sd_segment_format(f.raw, UINT64_MAX, seed, 0), "60 GiB"));
    for (i = 0; i < MIB; i++) /* refused before a byte is written */
        assert_int_equal(f.map[i], 0);
    fixture_unmap(&f);
}

/* Every bit of every number that is used as a size or an offset. */
static void a_flipped_bit_in_the_header_is_refused(void **state)
{
    static const struct {
        size_t at, bytes;
        const char *reason;
    } fields[] = {
#define FIELD(member, text) { offsetof(sd_header_t, member), sizeof((sd_header_t *)0)->member, text }
        FIELD(magic, "magic"),
        FIELD(layout_version, "layout version"),
        FIELD(byte_order, "byte order"),
        FIELD(size, "size"),
        FIELD(block_bytes, "size"),
        FIELD(blocks, "tables"),
        FIELD(buckets, "tables"),
        FIELD(shards, "tables"),
        FIELD(shards_at, "tables"),
        FIELD(buckets_at, "tables"),
        FIELD(links_at, "tables"),
        FIELD(blocks_at, "tables"),
#undef FIELD
    };
    static const uint64_t sizes[] = { MIB, MIB + 12345, 3 * MIB, 64 * MIB };
    size_t s, i, bit;

    (void)state;
    for (s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        fixture_t f;

        fixture_map(&f, sizes[s], 8);
        fixture_format(&f);
        for (i = 0; i < sizeof fields / sizeof fields[0]; i++)
            for (bit = 0; bit < 8 * fields[i].bytes; bit++) {
                unsigned char *byte = (unsigned char *)header_of(&f) + fields[i].at + bit / 8;
                const char *reason;

                *byte = (unsigned char)(*byte ^ (1u << bit % 8));
                reason = refusal(&f, f.size, 1);
                if (!strstr(reason, fields[i].reason))
                    fail_msg("field %u bit %u: %s", (unsigned)i, (unsigned)bit, reason);
                *byte = (unsigned char)(*byte ^ (1u << bit % 8));
            }
        fixture_attach(&f, 1, false); /* and all were put back */
        fixture_close(&f);
    }
}

static void impossible_header_values_are_refused(void **state)
{
    fixture_t f;
    sd_header_t *h;

    (void)state;
    fixture_map(&f, MIB, 8);
    fixture_format(&f);
    h = header_of(&f);
#define REFUSED(member, value)                                               \
    do {                                                                     \
        uint32_t was = h->member;                                            \
        h->member = (value);                                                 \
        assert_non_null(strstr(refusal(&f, f.size, 1), "impossible value")); \
        h->member = was;                                                     \
    } while (0)
    REFUSED(epoch, 0);
    REFUSED(epoch, SD_EPOCH_MAX + 1);
    REFUSED(epoch, UINT32_MAX);
    REFUSED(repaired_epoch, 0);
    REFUSED(repaired_epoch, SD_EPOCH_MAX + 1);
    REFUSED(fresh, 0);
    REFUSED(fresh, h->blocks + 2);
    REFUSED(fresh, UINT32_MAX);
#undef REFUSED
    /* versions would soon come to those that have a meaning of their own */
    atomic_store(&h->version, UINT64_MAX);
    assert_non_null(strstr(refusal(&f, f.size, 1), "impossible value"));
    atomic_store(&h->version, INT64_MAX + UINT64_C(1));
    assert_non_null(strstr(refusal(&f, f.size, 1), "impossible value"));
    atomic_store(&h->version, 0);
    fixture_attach(&f, 1, false);
    fixture_close(&f);
}

/* The lists of free blocks are made from the blocks' tags when they cannot be
 * what an orderly end left: sessions are worth more than a doubtful number. */
static void implausible_free_lists_are_made_anew(void **state)
{
    struct {
        size_t at;
        uint32_t value;
    } damage[] = {
        { offsetof(sd_header_t, clean), 2 },
        { offsetof(sd_header_t, clean), UINT32_MAX },
        { offsetof(sd_header_t, pool_head), UINT32_MAX },
        { offsetof(sd_header_t, pool_head), 0 },
        { offsetof(sd_header_t, pool_count), UINT32_MAX },
        { offsetof(sd_header_t, lanes), 5 },
        { offsetof(sd_header_t, lanes) + sizeof(sd_lane_list_t) * (SD_LANES_MAX - 1)
              + offsetof(sd_lane_list_t, count), 1 },
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        fixture_t f;
        uint32_t n;

        fixture_open(&f, MIB, 1, false);
        for (n = 0; n < 300; n++) {
            test_key_t key = numbered_key(n, 0);

            put_ok(&f, &key, n, 3000, f.now + 1000);
            if (n % 2 == 0)
                delete_key(&f, &key);
        }
        fixture_detach(&f);
        assert_true(header_of(&f)->pool_count > 0);
        memcpy((unsigned char *)header_of(&f) + damage[i].at, &damage[i].value, sizeof(uint32_t));
        fixture_attach(&f, 1, false);
        assert_true(fixture_repair(&f) > 1);
        assert_clean(f.store);
        for (n = 1; n < 300; n += 2) {
            test_key_t key = numbered_key(n, 0);

            assert_value(&f, &key, n, 3000);
        }
        assert_true(fill_up(&f, 1000, f.now + 1000) > 100);
        fixture_close(&f);
    }
}

static void another_size_or_lane_count_is_refused(void **state)
{
    fixture_t f;

    (void)state;
    fixture_map(&f, 2 * MIB, 8);
    f.size = MIB;
    fixture_format(&f);
    assert_non_null(strstr(refusal(&f, MIB - 1, 1), "size"));
    assert_non_null(strstr(refusal(&f, MIB + 1, 1), "size"));
    assert_non_null(strstr(refusal(&f, 2 * MIB, 1), "size"));
    assert_non_null(strstr(refusal(&f, SD_HEADER_BYTES, 1), "magic"));
    assert_non_null(strstr(refusal(&f, 8, 1), "magic"));
    assert_non_null(strstr(refusal(&f, 0, 1), "magic"));
    /* a header that is right about a size that no segment has */
    header_of(&f)->size = 2 * SD_HEADER_BYTES - 56;
    assert_non_null(strstr(refusal(&f, 2 * SD_HEADER_BYTES, 1), "size"));
    header_of(&f)->size = MIB - 56;
    assert_non_null(strstr(refusal(&f, MIB, 0), "lanes"));
    assert_non_null(strstr(refusal(&f, MIB, SD_LANES_MAX + 1), "lanes"));
    fixture_attach(&f, SD_LANES_MAX, false);
    assert_non_null(sd_store_lane(f.store, SD_LANES_MAX - 1));
    assert_null(sd_store_lane(f.store, SD_LANES_MAX));
    assert_ptr_equal(sd_lane_counters(sd_store_lane(f.store, 7)), &f.counters[7]);
    fixture_close(&f);
}

static void peek_follows_nothing(void **state)
{
    fixture_t f;
    sd_segment_info_t info;
    sd_header_t *h;
    uint64_t junk = UINT64_C(0xdeadbeefdeadbeef);

    (void)state;
    fixture_map(&f, 3 * MIB, 8);
    assert_int_equal(sd_segment_peek(f.raw, f.size, &info), SD_INVALID); /* zeros */
    fixture_format(&f);
    h = header_of(&f);
    assert_int_equal(sd_segment_peek(f.raw, f.size, &info), SD_OK);
    assert_int_equal(info.layout_version, sd_segment_layout_version());
    assert_true(info.size == h->size && info.size <= f.size && info.size + 64 > f.size);
    assert_int_equal(info.created, f.now);
    assert_int_equal(sd_segment_peek(f.raw, SD_HEADER_BYTES, &info), SD_INVALID);
    assert_int_equal(sd_segment_peek(f.raw, 3, &info), SD_INVALID);
    assert_int_equal(sd_segment_peek(f.raw, SD_HEADER_BYTES + 64, &info), SD_OK);

    /* a later layout is named, whatever the rest of it looks like */
    h->layout_version = 77;
    h->shards_at = h->buckets_at = h->links_at = h->blocks_at = junk;
    h->blocks = h->buckets = h->shards = h->fresh = h->pool_head = UINT32_MAX;
    assert_int_equal(sd_segment_peek(f.raw, f.size, &info), SD_OK);
    assert_int_equal(info.layout_version, 77);
    h->byte_order = __builtin_bswap32(h->byte_order);
    assert_int_equal(sd_segment_peek(f.raw, f.size, &info), SD_INVALID);
    h->byte_order = __builtin_bswap32(h->byte_order);
    h->magic++;
    assert_int_equal(sd_segment_peek(f.raw, f.size, &info), SD_INVALID);
    fixture_unmap(&f);
}

static void an_orderly_end_keeps_everything(void **state)
{
    fixture_t f;
    uint64_t last = 0, used;
    uint32_t n, round;

    (void)state;
    fixture_open(&f, 4 * MIB, 3, false);
    for (round = 0; round < 6; round++) {
        assert_int_equal(header_of(&f)->clean, 0);
        for (n = 0; n < 200; n++) {
            test_key_t key = numbered_key(n, 0);
            uint64_t version = 0;

            assert_int_equal(value_store(sd_store_lane(f.store, n % f.lanes), &key, n + round,
                                         n * 20, f.now + 1000, SD_VERSION_ANY, f.now, &version),
                             SD_OK);
            assert_true(version > last);
            last = version;
        }
        used = blocks_used(&f);
        fixture_detach(&f);
        assert_int_equal(header_of(&f)->clean, 1);
        assert_int_equal(header_of(&f)->epoch, 1);
        for (n = 0; n < SD_LANES_MAX; n++)
            assert_int_equal(header_of(&f)->lanes[n].count, 0);
        memset(f.counters, 0x55, sizeof f.counters); /* gauges are set anew, sums are kept */
        fixture_attach(&f, 1 + (round * 5) % SD_LANES_MAX, false);
        assert_int_equal(sessions(&f), 200);
        assert_int_equal(blocks_used(&f), used);
        assert_int_equal(atomic_load(&f.counters[0].stores), UINT64_C(0x5555555555555555));
        assert_false(sd_store_repair(f.lane, f.now));
        for (n = 0; n < 200; n++) {
            test_key_t key = numbered_key(n, 0);

            assert_value(&f, &key, n + round, n * 20);
        }
        assert_clean(f.store);
    }
    fixture_close(&f);
    sd_store_detach(&f.store); /* harmless on none */
}

/* A detach that was promised "nothing in flight" and was lied to must not leave
 * a segment marked clean: those blocks would never come back. */
static void leftovers_make_the_next_process_repair(void **state)
{
    int kind;

    (void)state;
    for (kind = 0; kind < 2; kind++) {
        fixture_t f;
        test_key_t key = numbered_key(1, 0);
        sd_chain_t chain;
        sd_ref_t ref;

        fixture_open(&f, MIB, 1, false);
        put_ok(&f, &key, 1, 5000, f.now + 1000);
        if (kind == 0)
            assert_int_equal(sd_chain_open(f.lane, &chain, "left open", 9, f.now), SD_OK);
        else {
            assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_OK);
            put_ok(&f, &key, 2, 100, f.now + 1000);
        }
        assert_clean(f.store);
        fixture_detach(&f);
        assert_int_equal(header_of(&f)->clean, 0);
        fixture_attach(&f, 1, false);
        fixture_repair(&f);
        assert_clean(f.store);
        assert_int_equal(blocks_used(&f), sd_item_blocks(key.len, kind == 0 ? 5000 : 100));
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(geometry_at_every_size_and_alignment),
        cmocka_unit_test(the_largest_segment),
        cmocka_unit_test(sizes_out_of_range_are_refused),
        cmocka_unit_test(a_flipped_bit_in_the_header_is_refused),
        cmocka_unit_test(impossible_header_values_are_refused),
        cmocka_unit_test(implausible_free_lists_are_made_anew),
        cmocka_unit_test(another_size_or_lane_count_is_refused),
        cmocka_unit_test(peek_follows_nothing),
        cmocka_unit_test(an_orderly_end_keeps_everything),
        cmocka_unit_test(leftovers_make_the_next_process_repair),
    };

    return cmocka_run_group_tests_name("segment", tests, NULL, NULL);
}
