/* SPDX-License-Identifier: Apache-2.0
 *
 * test_check.c: every rule of check() is broken by hand and must be named, and
 * the walk must come to its end in memory of its own whatever it reads: a check
 * that misses damage makes every test that ends with it worthless.
 */
#include <stdlib.h>

#include "store_fixture.h"

/* One bucket with two items, a long value, a key over two blocks, free blocks
 * in the pool and in a lane, and blocks never taken. */
typedef struct scene {
    fixture_t f;
    test_key_t a, b, long_value, long_key;
    uint32_t item_a, item_b, item_long; /* a stands before b in one bucket */
    uint32_t bucket, shard;
    unsigned char *before;
} scene_t;

static void scene_open(scene_t *c)
{
    fixture_t *f = &c->f;
    uint32_t n = 0, i;

    fixture_open(f, MIB, 2, false);
    c->b = numbered_key(n++, 12);
    c->bucket = bucket_of_key(f, &c->b);
    c->shard = sd_shard_of(f->store, c->bucket);
    do
        c->a = numbered_key(n++, 12);
    while (bucket_of_key(f, &c->a) != c->bucket);
    put_ok(f, &c->b, 1, 300, f->now + 2000);
    put_ok(f, &c->a, 2, 300, f->now + 3000);
    do
        c->long_value = numbered_key(n++, 12);
    while (bucket_of_key(f, &c->long_value) == c->bucket);
    put_ok(f, &c->long_value, 3, 5000, f->now + 3000);
    do
        c->long_key = numbered_key(n++, 250);
    while (bucket_of_key(f, &c->long_key) == c->bucket);
    put_ok(f, &c->long_key, 4, 10, f->now + 3000);
    for (i = 0; i < 2; i++) { /* leaves some free blocks with the lane and some in the pool */
        test_key_t other = numbered_key(n++, 12);

        put_ok(f, &other, 5, i == 0 ? 3000 : 60000, f->now + 3000);
        assert_int_equal(delete_key(f, &other), SD_OK);
    }
    assert_true(f->store->header->pool_count > 1);
    assert_true(f->lane->list->count > 1);
    assert_true(f->store->header->fresh < f->store->block_count);
    c->item_a = item_of(f, &c->a);
    c->item_b = item_of(f, &c->b);
    c->item_long = item_of(f, &c->long_value);
    assert_int_equal(sd_item(f->store, c->item_a)->next, c->item_b);
    assert_clean(f->store);
    c->before = malloc(f->size);
    assert_non_null(c->before);
    memcpy(c->before, f->raw, f->size);
}

static uint32_t word(const scene_t *c, uint32_t block)
{
    return atomic_load(&c->f.store->links[block]);
}

static void relink(scene_t *c, uint32_t block, uint32_t next)
{
    sd_link_set(c->f.store, block, (word(c, block) & ~SD_LINK_NEXT) | next);
}

static sd_item_t *long_item(scene_t *c)
{
    return sd_item(c->f.store, c->item_long);
}

/* ---- the damages ---- */

static void magic(scene_t *c) { long_item(c)->magic = 0; }
static void empty_key(scene_t *c) { long_item(c)->key_len = 0; }
static void shorter_data(scene_t *c) { long_item(c)->data_len -= SD_BLOCK_BYTES; }
static void longer_data(scene_t *c) { long_item(c)->data_len += SD_BLOCK_BYTES; }
static void huge_data(scene_t *c) { long_item(c)->data_len = UINT32_MAX; }
static void other_hash(scene_t *c) { long_item(c)->hash ^= 1; }
static void other_key(scene_t *c)
{
    sd_block(c->f.store, c->item_long)[sizeof(sd_item_t) + 3] ^= 1;
}
static void other_end_of_key(scene_t *c)
{
    uint32_t block = sd_link_next(c->f.store, item_of(&c->f, &c->long_key));

    sd_block(c->f.store, block)[10] ^= 1;
}
static void version_zero(scene_t *c) { long_item(c)->version = 0; }
static void version_ahead(scene_t *c)
{
    long_item(c)->version = atomic_load(&c->f.store->header->version) + 1;
}
static void wrong_bucket(scene_t *c)
{
    uint32_t bucket = bucket_of_key(&c->f, &c->long_value);

    atomic_store(&c->f.store->buckets[bucket], 0);
    atomic_store(&c->f.store->buckets[(bucket + 1) & c->f.store->bucket_mask], c->item_long);
}
static void earlier_than_bound(scene_t *c) { sd_item(c->f.store, c->item_b)->expiry = 5; }
static void bound_too_late(scene_t *c)
{
    atomic_store(&c->f.store->shards[c->shard].min_expiry, c->f.now + 2001);
}
static void count_too_high(scene_t *c) { c->f.store->shards[c->shard].items++; }
static void count_too_low(scene_t *c) { c->f.store->shards[c->shard].items--; }
static void bucket_outside(scene_t *c)
{
    atomic_store(&c->f.store->buckets[c->bucket], c->f.store->block_count + 1);
}
static void bucket_far_outside(scene_t *c)
{
    atomic_store(&c->f.store->buckets[c->bucket], UINT32_MAX);
}
static void next_outside(scene_t *c) { sd_item(c->f.store, c->item_b)->next = UINT32_MAX; }
static void next_never_taken(scene_t *c)
{
    sd_item(c->f.store, c->item_b)->next = c->f.store->header->fresh;
}
static void list_circle(scene_t *c) { sd_item(c->f.store, c->item_b)->next = c->item_a; }
static void list_self(scene_t *c) { sd_item(c->f.store, c->item_a)->next = c->item_a; }
static void chain_outside(scene_t *c)
{
    relink(c, sd_link_next(c->f.store, c->item_long), SD_LINK_NEXT);
}
static void chain_circle(scene_t *c)
{
    relink(c, sd_link_next(c->f.store, c->item_long), c->item_long);
}
static void chain_into_another(scene_t *c)
{
    relink(c, c->item_a, sd_link_next(c->f.store, c->item_b));
}
static void chain_never_taken(scene_t *c)
{
    relink(c, c->item_long, c->f.store->header->fresh + 7);
}
static void chain_marked_free(scene_t *c)
{
    uint32_t block = sd_link_next(c->f.store, c->item_long);

    sd_link_set(c->f.store, block, sd_link_next(c->f.store, block));
}
static void chain_of_two_epochs(scene_t *c)
{
    uint32_t block = sd_link_next(c->f.store, c->item_long);

    sd_link_set(c->f.store, block, sd_link_next(c->f.store, block) | 9u << SD_LINK_TAG_SHIFT);
}
static void chain_cut(scene_t *c) { relink(c, c->item_long, 0); }
static void item_lost(scene_t *c)
{
    sd_item(c->f.store, c->item_a)->next = 0;
    c->f.store->shards[c->shard].items--;
}
static void pool_outside(scene_t *c) { c->f.store->header->pool_head = UINT32_MAX; }
static void pool_nothing(scene_t *c) { c->f.store->header->pool_head = 0; }
static void pool_too_short(scene_t *c) { c->f.store->header->pool_count--; }
static void pool_too_long(scene_t *c) { c->f.store->header->pool_count += 1; }
static void pool_in_use(scene_t *c)
{
    uint32_t head = c->f.store->header->pool_head;

    sd_link_set(c->f.store, head, word(c, head) | c->f.store->tag);
}
static void pool_of_an_item(scene_t *c) { c->f.store->header->pool_head = c->item_b; }
static void pool_circle(scene_t *c)
{
    relink(c, c->f.store->header->pool_head, c->f.store->header->pool_head);
}
static void lane_of_the_pool(scene_t *c)
{
    c->f.lane->list->head = c->f.store->header->pool_head;
}
static void lane_never_taken(scene_t *c) { c->f.lane->list->head = c->f.store->header->fresh; }
static void foreign_lane(scene_t *c) /* one that this process does not use */
{
    c->f.store->header->lanes[SD_LANES_MAX - 1].head = c->item_b;
    c->f.store->header->lanes[SD_LANES_MAX - 1].count = 1;
}
static void fresh_too_low(scene_t *c) { c->f.store->header->fresh = 3; }
static void fresh_too_high(scene_t *c) { c->f.store->header->fresh++; }
static void fresh_impossible(scene_t *c) { c->f.store->header->fresh = UINT32_MAX; }
static void header_magic(scene_t *c) { c->f.store->header->magic++; }
static void header_size(scene_t *c) { c->f.store->header->size += 64; }
static void header_blocks(scene_t *c) { c->f.store->header->blocks++; }
static void header_epoch(scene_t *c) { c->f.store->header->epoch = 0; }

static const char outside[] = "a block number lies outside the segment";
static const char never_taken[] = "a block is in use that was never taken";
static const char two_owners[] = "a block has two owners";
static const char lost[] = "blocks are lost: neither free nor in a value";
static const char bad_length[] = "an item's chain does not have the length of its data";
static const char bad_hash[] = "an item's hash is not that of its key";
static const char bad_version[] = "an item has a version that was never given out";
static const char bad_count[] = "a shard's count is not that of its items";
static const char too_early[] = "an item expires before its shard's bound";
static const char list_in_use[] = "a free list holds a block that is in use";
static const char impossible[] = "the segment's header holds an impossible value";

static void each_broken_rule_is_named(void **state)
{
    static const struct {
        const char *name;
        void (*damage)(scene_t *);
        const char *rule;
    } cases[] = {
#define CASE(damage, rule) { #damage, damage, rule }
        CASE(magic, "an item has no magic number"),
        CASE(empty_key, "an item has an empty key"),
        CASE(shorter_data, bad_length),
        CASE(longer_data, bad_length),
        CASE(huge_data, bad_length),
        CASE(other_hash, bad_hash),
        CASE(other_key, bad_hash),
        CASE(other_end_of_key, bad_hash),
        CASE(version_zero, bad_version),
        CASE(version_ahead, bad_version),
        CASE(wrong_bucket, "an item stands in the wrong bucket"),
        CASE(earlier_than_bound, too_early),
        CASE(bound_too_late, too_early),
        CASE(count_too_high, bad_count),
        CASE(count_too_low, bad_count),
        CASE(bucket_outside, outside),
        CASE(bucket_far_outside, outside),
        CASE(next_outside, outside),
        CASE(next_never_taken, never_taken),
        CASE(list_circle, two_owners),
        CASE(list_self, two_owners),
        CASE(chain_outside, outside),
        CASE(chain_circle, two_owners),
        CASE(chain_into_another, two_owners),
        CASE(chain_never_taken, never_taken),
        CASE(chain_marked_free, "an item holds a block that is marked free"),
        CASE(chain_of_two_epochs, "an item holds a block of another epoch"),
        CASE(chain_cut, bad_length),
        CASE(item_lost, lost),
        CASE(pool_outside, outside),
        CASE(pool_nothing, outside),
        CASE(pool_too_short, lost),
        CASE(pool_too_long, outside),
        CASE(pool_in_use, list_in_use),
        CASE(pool_of_an_item, two_owners),
        CASE(pool_circle, two_owners),
        CASE(lane_of_the_pool, two_owners),
        CASE(lane_never_taken, never_taken),
        CASE(foreign_lane, two_owners),
        CASE(fresh_too_low, never_taken),
        CASE(fresh_too_high, lost),
        CASE(fresh_impossible, impossible),
        CASE(header_magic, "not a session segment (wrong magic)"),
        CASE(header_size, "the segment's tables do not fit its size"),
        CASE(header_blocks, "the segment's tables do not fit its size"),
        CASE(header_epoch, impossible),
#undef CASE
    };
    scene_t c;
    size_t i;

    (void)state;
    scene_open(&c);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *rule;

        cases[i].damage(&c);
        rule = sd_store_check(c.f.store, NULL);
        if (!rule || strcmp(rule, cases[i].rule) != 0)
            fail_msg("%s: %s", cases[i].name, rule ? rule : "nothing found");
        memcpy(c.f.raw, c.before, c.f.size);
    }
    free(c.before);
    fixture_close(&c.f);
}

static void wrong_counters_are_named(void **state)
{
    scene_t c;
    uint64_t where = 0;

    (void)state;
    scene_open(&c);
    sd_count(&c.f.counters[1], sessions);
    assert_string_equal(sd_store_check(c.f.store, &where),
                        "the sessions counter is not the number of items");
    assert_int_equal(where, 5);
    sd_count_sub(&c.f.counters[1], sessions, 1);
    sd_count_sub(&c.f.counters[0], blocks_used, 1);
    assert_string_equal(sd_store_check(c.f.store, &where), "the counter of used blocks is wrong");
    sd_count_add(&c.f.counters[0], blocks_used, 1);
    atomic_fetch_add(&c.f.store->incoming, 1);
    assert_string_equal(sd_store_check(c.f.store, &where), lost);
    atomic_fetch_sub(&c.f.store->incoming, 1);
    atomic_fetch_sub(&c.f.store->detached, 1);
    assert_string_equal(sd_store_check(c.f.store, &where), lost);
    atomic_fetch_add(&c.f.store->detached, 1);
    free(c.before);
    fixture_close(&c.f);
}

static void where_says_where(void **state)
{
    scene_t c;
    uint64_t where = 0;

    (void)state;
    scene_open(&c);
    long_item(&c)->magic = 0;
    assert_non_null(sd_store_check(c.f.store, &where));
    assert_int_equal(where, bucket_of_key(&c.f, &c.long_value));
    memcpy(c.f.raw, c.before, c.f.size);
    c.f.store->shards[c.shard].items++;
    assert_non_null(sd_store_check(c.f.store, &where));
    assert_int_equal(where, c.shard);
    memcpy(c.f.raw, c.before, c.f.size);
    relink(&c, c.item_long, c.f.store->block_count + 1);
    assert_non_null(sd_store_check(c.f.store, &where));
    assert_int_equal(where, c.f.store->block_count + 1);
    memcpy(c.f.raw, c.before, c.f.size);
    free(c.before);
    fixture_close(&c.f);
}

/* Random bytes anywhere: whatever check() says of it, it comes back and stays
 * inside the segment (the sanitizers and valgrind watch that). */
static void noise_is_survived(void **state)
{
    scene_t c;
    dice_t dice = dice_new(1);
    uint32_t round, rounds = test_ops(2000, 50), named = 0;

    (void)state;
    scene_open(&c);
    for (round = 0; round < rounds; round++) {
        uint32_t n = 1 + dice_below(&dice, 30);

        while (n-- > 0) {
            uint32_t used = c.f.store->header->fresh, block = 1 + dice_below(&dice, used);
            uint32_t junk = (uint32_t)dice_roll(&dice) >> dice_below(&dice, 32);

            switch (dice_below(&dice, 5)) {
            case 0:
                sd_link_set(c.f.store, block, junk);
                break;
            case 1:
                relink(&c, block, 1 + dice_below(&dice, used));
                break;
            case 2:
                atomic_store(&c.f.store->buckets[junk & c.f.store->bucket_mask], block);
                break;
            case 3:
                sd_item(c.f.store, block)->next = junk;
                break;
            default:
                memcpy(sd_block(c.f.store, block) + dice_below(&dice, 60) * 4, &junk, 4);
            }
        }
        named += sd_store_check(c.f.store, NULL) != NULL;
        memcpy(c.f.raw, c.before, c.f.size);
    }
    assert_true(named > rounds / 2);
    free(c.before);
    fixture_close(&c.f);
}

/* Between a death and the end of the repair, what the repair has not come to
 * is doubtful and no broken rule; real damage still is one. */
static void during_a_repair_only_damage_is_named(void **state)
{
    scene_t c;
    sd_shard_t *shard;
    uint32_t steps;

    (void)state;
    scene_open(&c);
    shard = &c.f.store->shards[c.shard];
    fixture_die(&c.f);
    shard->items--; /* died between publishing and counting */
    shard->min_expiry = UINT64_MAX;
    fixture_attach(&c.f, 2, false);
    for (steps = 0;; steps++) {
        assert_clean(c.f.store);
        long_item(&c)->hash ^= 1;
        assert_string_equal(sd_store_check(c.f.store, NULL), bad_hash);
        long_item(&c)->hash ^= 1;
        if (!sd_store_repair(c.f.lane, c.f.now))
            break;
    }
    assert_true(steps >= 3);
    assert_value(&c.f, &c.a, 2, 300);
    free(c.before);
    fixture_close(&c.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_broken_rule_is_named),
        cmocka_unit_test(wrong_counters_are_named),
        cmocka_unit_test(where_says_where),
        cmocka_unit_test(noise_is_survived),
        cmocka_unit_test(during_a_repair_only_damage_is_named),
    };

    return cmocka_run_group_tests_name("check", tests, NULL, NULL);
}
