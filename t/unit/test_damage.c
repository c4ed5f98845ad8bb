/* SPDX-License-Identifier: Apache-2.0
 *
 * test_damage.c: a repair that meets what no death leaves: bytes that somebody
 * else wrote. What is damaged is dropped and counted, all else survives to the
 * last byte, no block is lost, and no damage makes the repair go round for ever.
 */
#include <stdlib.h>
#include <unistd.h>

#include "store_fixture.h"

enum { LIVE = 1000000, LISTED = 5, OTHERS = 60 };

/* Five items in one bucket, the first of them the first of its list; the
 * others wherever they fall. All have values of several blocks. */
typedef struct scene {
    fixture_t f;
    test_key_t listed[LISTED], others[OTHERS];
    uint32_t items[LISTED], bucket, other_item;
} scene_t;

static uint32_t length_of(uint32_t n)
{
    return 300 + n * 37;
}

static void scene_open(scene_t *c)
{
    fixture_t *f = &c->f;
    uint32_t n = 0, i;

    fixture_open(f, MIB, 1, false);
    c->bucket = 77;
    for (i = LISTED; i-- > 0;) {
        do
            c->listed[i] = numbered_key(n++, i == 2 ? 240 : 12);
        while (bucket_of_key(f, &c->listed[i]) != c->bucket);
        put_ok(f, &c->listed[i], i, length_of(i), f->now + LIVE);
        c->items[i] = item_of(f, &c->listed[i]);
    }
    for (i = 0; i < OTHERS; i++) {
        do
            c->others[i] = numbered_key(n++, 0);
        while (bucket_of_key(f, &c->others[i]) == c->bucket);
        put_ok(f, &c->others[i], 100 + i, length_of(i), f->now + LIVE);
    }
    c->other_item = item_of(f, &c->others[7]);
    for (i = 0; i + 1 < LISTED; i++)
        assert_int_equal(sd_item(f->store, c->items[i])->next, c->items[i + 1]);
    fixture_die(f);
}

/* Writing into the segment needs no handle but its addresses. */
static sd_store_t *addresses(scene_t *c)
{
    static sd_store_t s;

    memset(&s, 0, sizeof s);
    assert_null(sd_segment_map(&s, c->f.raw, c->f.size));
    return &s;
}

static sd_item_t *item(scene_t *c, uint32_t i)
{
    return sd_item(addresses(c), c->items[i]);
}

static void relink(scene_t *c, uint32_t block, uint32_t next)
{
    sd_store_t *s = addresses(c);

    sd_link_set(s, block, (atomic_load(&s->links[block]) & ~SD_LINK_NEXT) | next);
}

static uint32_t second_block(scene_t *c, uint32_t i)
{
    return sd_link_next(addresses(c), c->items[i]);
}

static void set_bucket(scene_t *c, uint32_t block)
{
    atomic_store(&addresses(c)->buckets[c->bucket], block);
}

/* ---- damages: which of the five must be gone afterwards (a bit for each) ---- */

static void magic_of_first(scene_t *c) { item(c, 0)->magic = 0; }
static void magic_of_middle(scene_t *c) { item(c, 2)->magic ^= 4; }
static void magic_of_last(scene_t *c) { item(c, 4)->magic++; }
static void magic_of_all(scene_t *c)
{
    uint32_t i;

    for (i = 0; i < LISTED; i++)
        item(c, i)->magic = 0;
}
static void no_key(scene_t *c) { item(c, 1)->key_len = 0; }
static void other_key_length(scene_t *c) { item(c, 1)->key_len++; }
static void huge_length(scene_t *c) { item(c, 1)->data_len = UINT32_MAX; }
static void length_one_block_less(scene_t *c) { item(c, 3)->data_len -= SD_BLOCK_BYTES; }
static void length_one_block_more(scene_t *c) { item(c, 3)->data_len += SD_BLOCK_BYTES; }
static void another_hash(scene_t *c) { item(c, 1)->hash += 5; }
static void another_key(scene_t *c) { ((unsigned char *)item(c, 1))[sizeof(sd_item_t)] ^= 1; }
static void second_half_of_a_key(scene_t *c)
{
    sd_block(addresses(c), second_block(c, 2))[5] ^= 1;
}
static void version_of_none(scene_t *c) { item(c, 1)->version = 0; }
static void version_of_the_future(scene_t *c) { item(c, 1)->version = UINT64_MAX - 1; }
static void chain_leaves_the_segment(scene_t *c) { relink(c, second_block(c, 1), SD_LINK_NEXT); }
static void chain_ends_early(scene_t *c) { relink(c, c->items[1], 0); }
static void chain_comes_back(scene_t *c) { relink(c, second_block(c, 1), c->items[1]); }
static void chain_enters_an_earlier_item(scene_t *c)
{
    relink(c, c->items[1], second_block(c, 0));
}
static void chain_enters_another_bucket(scene_t *c) { relink(c, c->items[1], c->other_item); }
static void chain_enters_free_blocks(scene_t *c)
{
    relink(c, second_block(c, 1), addresses(c)->header->fresh + 3);
}
static void block_marked_free(scene_t *c)
{
    sd_store_t *s = addresses(c);

    sd_link_set(s, second_block(c, 1), sd_link_next(s, second_block(c, 1)));
}
static void head_marked_free(scene_t *c)
{
    sd_store_t *s = addresses(c);

    sd_link_set(s, c->items[1], sd_link_next(s, c->items[1]));
}
static void bucket_leaves_the_segment(scene_t *c) { set_bucket(c, 0xfffffff0u); }
static void bucket_just_outside(scene_t *c) { set_bucket(c, addresses(c)->block_count + 1); }
static void bucket_never_taken(scene_t *c) { set_bucket(c, addresses(c)->header->fresh); }
static void bucket_in_the_middle_of_a_value(scene_t *c) { set_bucket(c, second_block(c, 4)); }
static void list_leaves_the_segment(scene_t *c) { item(c, 2)->next = UINT32_MAX; }
static void list_ends_in_a_value(scene_t *c)
{
    item(c, 2)->next = sd_link_next(addresses(c), c->other_item);
}
static void list_of_one_going_round(scene_t *c) { item(c, 0)->next = c->items[0]; }
static void list_going_round(scene_t *c) { item(c, 4)->next = c->items[1]; }
static void damaged_list_of_one_going_round(scene_t *c)
{
    item(c, 3)->magic = 0;
    item(c, 3)->next = c->items[3];
}
static void damaged_list_going_round(scene_t *c)
{
    item(c, 1)->magic = item(c, 2)->magic = item(c, 3)->magic = item(c, 4)->magic = 0;
    item(c, 4)->next = c->items[2];
}
static void sound_and_damaged_going_round(scene_t *c)
{
    item(c, 3)->magic = 0;
    item(c, 4)->next = c->items[2];
}
static void list_joins_another(scene_t *c) { item(c, 2)->next = c->other_item; }
static void another_joins_the_list(scene_t *c)
{
    sd_store_t *s = addresses(c);

    sd_item(s, c->other_item)->next = c->items[1];
}
static void nothing(scene_t *c) { (void)c; }

/* Deaths before any repair, until the next attach gets the last tag, or until
 * one has died over the repair with that. */
static void use_up_tags(scene_t *c, uint32_t deaths)
{
    sd_header_t *h = addresses(c)->header;

    for (; deaths > 0; deaths--) {
        uint32_t repaired = h->repaired_epoch;

        fixture_attach(&c->f, 1, false);
        fixture_die(&c->f);
        h->repaired_epoch = repaired; /* ... so that its end was not reached */
    }
}

static void damage_is_dropped_and_all_else_survives(void **state)
{
    static const struct {
        const char *name;
        void (*damage)(scene_t *);
        unsigned gone;
    } cases[] = {
#define CASE(damage, gone) { #damage, damage, gone }
        CASE(nothing, 0),
        CASE(magic_of_first, 1),
        CASE(magic_of_middle, 4),
        CASE(magic_of_last, 16),
        CASE(magic_of_all, 31),
        CASE(no_key, 2),
        CASE(other_key_length, 2),
        CASE(huge_length, 2),
        CASE(length_one_block_less, 8),
        CASE(length_one_block_more, 8),
        CASE(another_hash, 2),
        CASE(another_key, 2),
        CASE(second_half_of_a_key, 4),
        CASE(version_of_none, 2),
        CASE(version_of_the_future, 2),
        CASE(chain_leaves_the_segment, 2),
        CASE(chain_ends_early, 2),
        CASE(chain_comes_back, 2),
        CASE(chain_enters_an_earlier_item, 2),
        CASE(chain_enters_another_bucket, 2),
        CASE(chain_enters_free_blocks, 2),
        CASE(block_marked_free, 2),
        CASE(head_marked_free, 2),
        CASE(bucket_leaves_the_segment, 31),
        CASE(bucket_just_outside, 31),
        CASE(bucket_never_taken, 31),
        CASE(bucket_in_the_middle_of_a_value, 31),
        CASE(list_leaves_the_segment, 8 + 16),
        CASE(list_ends_in_a_value, 8 + 16),
        CASE(list_of_one_going_round, 2 + 4 + 8 + 16),
        CASE(list_going_round, 0),
        CASE(damaged_list_of_one_going_round, 8 + 16),
        CASE(damaged_list_going_round, 2 + 4 + 8 + 16),
        CASE(sound_and_damaged_going_round, 8),
        CASE(list_joins_another, 8 + 16),
        CASE(another_joins_the_list, 0),
#undef CASE
    };
    size_t k;

    (void)state;
    for (k = 0; k < 2 * (sizeof cases / sizeof cases[0]); k++) {
        bool last_tag = k >= sizeof cases / sizeof cases[0];
        size_t k0 = last_tag ? k - sizeof cases / sizeof cases[0] : k;
        scene_t c;
        uint64_t used = 0, counted;
        uint32_t i;
        const char *rule;

        scene_open(&c);
        if (last_tag)
            use_up_tags(&c, SD_EPOCH_MAX - 2);
        cases[k0].damage(&c);
        fixture_attach(&c.f, 1, false);
        assert_int_equal(c.f.store->repair.phase == SD_REPAIR_NONE, last_tag);
        fixture_repair(&c.f);
        rule = sd_store_check(c.f.store, NULL);
        if (rule)
            fail_msg("%s: %s", cases[k0].name, rule);
        for (i = 0; i < LISTED; i++) {
            if (is_there(&c.f, &c.listed[i]) != !(cases[k0].gone & 1u << i))
                fail_msg("%s: item %u", cases[k0].name, i);
            if (cases[k0].gone & 1u << i)
                continue;
            assert_value(&c.f, &c.listed[i], i, length_of(i));
            used += sd_item_blocks(c.listed[i].len, length_of(i));
        }
        for (i = 0; i < OTHERS; i++) {
            assert_value(&c.f, &c.others[i], 100 + i, length_of(i));
            used += sd_item_blocks(c.others[i].len, length_of(i));
        }
        assert_int_equal(blocks_used(&c.f), used);
        counted = counter_sum(&c.f, repaired_items);
        if ((counted == 0) != (k0 == 0) || counted > 12)
            fail_msg("%s: %u counted", cases[k0].name, (unsigned)counted);
        /* and the store works on, to its last block */
        assert_true(fill_up(&c.f, 100000, c.f.now + LIVE) > 1000);
        fixture_close(&c.f);
    }
}

/* Where some items carry the tag of the repair already, which item was met
 * before cannot be told by it; a list that goes round still ends. What is
 * dropped there has the tag too, so its blocks come back with the next repair. */
static void circles_end_also_when_a_repair_is_made_again(void **state)
{
    static void (*const damages[])(scene_t *) = {
        list_going_round, list_of_one_going_round, sound_and_damaged_going_round,
        damaged_list_going_round, damaged_list_of_one_going_round, magic_of_middle,
        version_of_the_future,
    };
    size_t k;

    (void)state;
    for (k = 0; k < sizeof damages / sizeof damages[0]; k++) {
        scene_t c;
        uint32_t i;

        scene_open(&c);
        use_up_tags(&c, SD_EPOCH_MAX - 1);
        damages[k](&c);
        fixture_attach(&c.f, 1, false);
        assert_true(counter_sum(&c.f, repaired_items) > 0);
        for (i = 0; i < OTHERS; i++)
            assert_value(&c.f, &c.others[i], 100 + i, length_of(i));
        fixture_die(&c.f);
        fixture_attach(&c.f, 1, false);
        fixture_repair(&c.f);
        fixture_close(&c.f);
    }
}

/* Each damaged item counts once where nothing else is wrong. */
static void damaged_items_are_counted(void **state)
{
    scene_t c;

    (void)state;
    scene_open(&c);
    item(&c, 1)->magic = 0;
    item(&c, 2)->hash++;
    item(&c, 4)->data_len = 0;
    fixture_attach(&c.f, 1, false);
    fixture_repair(&c.f);
    assert_int_equal(counter_sum(&c.f, repaired_items), 3);
    assert_int_equal(sessions(&c.f), LISTED - 3 + OTHERS);
    assert_int_equal(counter_sum(&c.f, repaired_blocks),
                     sd_item_blocks(12, length_of(1)) + sd_item_blocks(240, length_of(2))
                         + sd_item_blocks(12, length_of(4)));
    fixture_close(&c.f);
}

/* An old item whose chain was bent into blocks that a new value has taken. */
static void a_bent_chain_does_not_share_new_blocks(void **state)
{
    uint32_t steps;

    (void)state;
    for (steps = 0; steps < 2; steps++) {
        scene_t c;
        test_key_t key = numbered_key(500000, 12);
        uint32_t n, i;

        scene_open(&c);
        fixture_attach(&c.f, 1, false);
        for (n = 0; n < steps; n++)
            sd_store_repair(c.f.lane, c.f.now);
        put_ok(&c.f, &key, 9, 100, c.f.now + LIVE);
        relink(&c, c.items[0], item_of(&c.f, &key)); /* two blocks, as its length asks for */
        assert_int_equal(sd_item_blocks(12, length_of(0)), 2);
        fixture_repair(&c.f);
        assert_int_equal(counter_sum(&c.f, repaired_items), 1);
        assert_int_equal(item_of(&c.f, &c.listed[0]), 0);
        assert_value(&c.f, &key, 9, 100);
        for (i = 1; i < LISTED; i++)
            assert_value(&c.f, &c.listed[i], i, length_of(i));
        fixture_close(&c.f);
    }
}

/* Blocks from the header's mark on count as never used, and are given out as
 * such: so an item that has one goes. */
static void blocks_that_the_header_calls_fresh_are_in_no_item(void **state)
{
    scene_t c;
    uint32_t i;

    (void)state;
    scene_open(&c);
    addresses(&c)->header->fresh = c.items[0] + 1; /* the head of the first, not its second block */
    fixture_attach(&c.f, 1, false);
    fixture_repair(&c.f);
    assert_clean(c.f.store);
    assert_int_equal(item_of(&c.f, &c.listed[0]), 0);
    for (i = 1; i < LISTED; i++)
        assert_value(&c.f, &c.listed[i], i, length_of(i));
    for (i = 0; i < OTHERS; i++)
        assert_int_equal(item_of(&c.f, &c.others[i]), 0);
    assert_int_equal(counter_sum(&c.f, repaired_items), 1 + OTHERS);
    fill_up(&c.f, 100000, c.f.now + LIVE);
    for (i = 1; i < LISTED; i++)
        assert_value(&c.f, &c.listed[i], i, length_of(i));
    fixture_close(&c.f);
}

/* Any noise in the index, the links and the items: afterwards the store is
 * clean, and what is there is whole. */
static void any_noise_is_repaired(void **state)
{
    dice_t dice = dice_new(4);
    uint32_t round, rounds = test_ops(1500, 40), dropped = 0;

    (void)state;
    for (round = 0; round < rounds; round++) {
        uint32_t n = 1 + dice_below(&dice, 40), i;
        scene_t c;
        sd_store_t *s;

        scene_open(&c);
        s = addresses(&c);
        while (n-- > 0) {
            uint32_t used = s->header->fresh, block = 1 + dice_below(&dice, used);
            uint32_t junk = (uint32_t)dice_roll(&dice) >> dice_below(&dice, 32);

            switch (dice_below(&dice, 6)) {
            case 0: /* any tag but the one that marks what is known to be good */
                if (junk >> SD_LINK_TAG_SHIFT != s->header->epoch + 1)
                    sd_link_set(s, block, junk);
                break;
            case 1:
                relink(&c, block, 1 + dice_below(&dice, used));
                break;
            case 2:
                atomic_store(&s->buckets[junk & s->bucket_mask], block);
                break;
            case 3:
                sd_item(s, block)->next = dice_below(&dice, 2) ? junk : 1 + junk % used;
                break;
            case 4:
                item(&c, junk % LISTED)->next = 1 + dice_below(&dice, used);
                break;
            default: /* the head of an item: not the bytes of a value */
                if (sd_item(s, block)->magic == SD_ITEM_MAGIC)
                    ((unsigned char *)sd_item(s, block))[junk % sizeof(sd_item_t)] ^= 1;
            }
        }
        fixture_attach(&c.f, 1, false);
        fixture_repair(&c.f);
        assert_clean(c.f.store);
        dropped += counter_sum(&c.f, repaired_items) > 0;
        for (i = 0; i < LISTED + OTHERS; i++) {
            test_key_t *key = i < LISTED ? &c.listed[i] : &c.others[i - LISTED];
            sd_ref_t ref;

            if (sd_store_get(c.f.lane, key->bytes, key->len, c.f.now, &ref) == SD_OK)
                sd_ref_release(c.f.lane, &ref);
            put_ok(&c.f, key, i, 1000, c.f.now + LIVE);
        }
        for (i = 0; i < LISTED + OTHERS; i++)
            assert_value(&c.f, i < LISTED ? &c.listed[i] : &c.others[i - LISTED], i, 1000);
        fixture_close(&c.f);
    }
    assert_true(dropped > rounds / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damage_is_dropped_and_all_else_survives),
        cmocka_unit_test(circles_end_also_when_a_repair_is_made_again),
        cmocka_unit_test(damaged_items_are_counted),
        cmocka_unit_test(a_bent_chain_does_not_share_new_blocks),
        cmocka_unit_test(blocks_that_the_header_calls_fresh_are_in_no_item),
        cmocka_unit_test(any_noise_is_repaired),
    };

    alarm(600); /* a repair that goes round for ever is a failure, not a wait */
    return cmocka_run_group_tests_name("damage", tests, NULL, NULL);
}
