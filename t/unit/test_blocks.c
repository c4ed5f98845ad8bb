/* SPDX-License-Identifier: Apache-2.0
 *
 * test_blocks.c: taking and freeing blocks, below any notion of a value. Each
 * block must be handed out once, come back, and the last 1% must stay closed to
 * the unprivileged by every door: the pool, a batch, a lane's own list.
 */
#include <stdlib.h>

#include "store_fixture.h"

typedef struct pile {
    fixture_t f;
    uint32_t *taken; /* blocks held by the test, each a chain of one */
    uint32_t count;
    uint8_t *held;
} pile_t;

static void pile_open(pile_t *p, uint64_t size, uint32_t lanes)
{
    fixture_open(&p->f, size, lanes, false);
    p->taken = calloc(p->f.store->block_count, sizeof *p->taken);
    p->held = calloc(p->f.store->block_count + 1, 1);
    p->count = 0;
    assert_non_null(p->taken);
    assert_non_null(p->held);
}

static bool pile_take(pile_t *p, uint32_t lane, bool privileged)
{
    uint32_t block = sd_blocks_take(sd_store_lane(p->f.store, lane), privileged);

    if (block == 0)
        return false;
    assert_true(block <= p->f.store->block_count);
    assert_int_equal(p->held[block], 0);
    assert_int_equal(sd_link_next(p->f.store, block), 0);
    assert_false(sd_link_is_free(atomic_load(&p->f.store->links[block])));
    p->held[block] = 1;
    p->taken[p->count++] = block;
    return true;
}

static void pile_give(pile_t *p, uint32_t lane, uint32_t at)
{
    uint32_t block = p->taken[at];

    p->taken[at] = p->taken[--p->count];
    p->held[block] = 0;
    assert_int_equal(sd_blocks_free(sd_store_lane(p->f.store, lane), block), 1);
    assert_true(sd_link_is_free(atomic_load(&p->f.store->links[block])));
}

static void pile_check(pile_t *p)
{
    assert_int_equal(blocks_used(&p->f), p->count);
    assert_int_equal(sd_blocks_free_count(p->f.store), p->f.store->block_count - p->count);
    /* blocks held by the test are to the store a chain on its way in */
    atomic_store(&p->f.store->incoming, p->count);
    assert_clean(p->f.store);
}

static void pile_close(pile_t *p)
{
    while (p->count > 0)
        pile_give(p, 0, p->count - 1);
    pile_check(p);
    free(p->taken);
    free(p->held);
    fixture_close(&p->f);
}

static void each_block_is_handed_out_once(void **state)
{
    pile_t p;
    uint32_t round;

    (void)state;
    pile_open(&p, MIB, 1);
    for (round = 0; round < 3; round++) {
        while (pile_take(&p, 0, true))
            ;
        assert_int_equal(p.count, p.f.store->block_count);
        pile_check(&p);
        assert_false(pile_take(&p, 0, false));
        while (p.count > 0)
            pile_give(&p, 0, p.count / 2);
        pile_check(&p);
    }
    pile_close(&p);
}

static void the_last_percent_is_privileged(void **state)
{
    uint32_t lanes;

    (void)state;
    for (lanes = 1; lanes <= 4; lanes++) {
        pile_t p;
        uint32_t lane, kept = 0, n;

        pile_open(&p, 2 * MIB, lanes);
        assert_int_equal(p.f.store->reserve, p.f.store->block_count / 100);
        for (lane = 0; lane < lanes; lane++)
            assert_true(pile_take(&p, lane, false)); /* each lane has a list of its own now */
        while (pile_take(&p, 0, false))
            ;
        for (lane = 1; lane < lanes; lane++)
            kept += p.f.store->lanes[lane].list->count;
        /* down to the very block: the reserve, and what other lanes hold */
        assert_int_equal(p.count + kept + p.f.store->reserve, p.f.store->block_count);
        pile_check(&p);

        /* the back door: lane 0 with a list of its own while the pool is low */
        for (n = 0; n < p.f.store->reserve / 2; n++)
            assert_true(pile_take(&p, 0, true));
        for (lane = 1; lane < lanes; lane++) {
            assert_true(p.f.store->lanes[lane].list->count > 0);
            assert_false(pile_take(&p, lane, false));
            assert_true(pile_take(&p, lane, true));
            assert_false(pile_take(&p, lane, false));
        }
        /* what is freed while the pool is low is everyone's, first of all the
         * privileged's: not one of them lands in a lane's list */
        n = p.f.store->lanes[0].list->count;
        pile_give(&p, 0, 5);
        assert_int_equal(p.f.store->lanes[0].list->count, n);
        assert_false(pile_take(&p, 0, false));
        for (lane = 0; lane < lanes; lane++)
            while (pile_take(&p, lane, true))
                ;
        assert_int_equal(p.count, p.f.store->block_count);
        pile_close(&p);
    }
}

/* A lane never sits on more than a few batches, so that another lane finds
 * nearly all of what is free. */
static void lanes_do_not_hoard(void **state)
{
    static const uint64_t sizes[] = { MIB, 3 * MIB, 16 * MIB };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        pile_t p;
        dice_t dice = dice_new(i);
        uint32_t most, n, rounds = test_ops(20000, 2000);

        pile_open(&p, sizes[i], 4);
        most = 4 * p.f.store->batch;
        assert_true(4 * (uint64_t)most * 4 <= p.f.store->block_count);
        for (n = 0; n < rounds; n++) {
            uint32_t lane = dice_below(&dice, 4), k = 1 + dice_below(&dice, 40);

            if (dice_below(&dice, 2))
                while (k-- > 0 && pile_take(&p, lane, false))
                    ;
            else
                while (k-- > 0 && p.count > 0)
                    pile_give(&p, lane, dice_below(&dice, p.count));
            assert_true(p.f.store->lanes[lane].list->count <= most);
        }
        pile_check(&p);
        /* lane 3 frees everything, lane 2 takes it all again */
        while (p.count > 0)
            pile_give(&p, 3, p.count - 1);
        while (pile_take(&p, 2, false))
            ;
        assert_true(p.count + p.f.store->reserve + 3 * most >= p.f.store->block_count);
        pile_check(&p);
        pile_close(&p);
    }
}

static void a_freed_chain_is_taken_again_in_its_order(void **state)
{
    fixture_t f;
    uint32_t chain[10], i, n;

    (void)state;
    fixture_open(&f, 4 * MIB, 2, false);
    for (n = 0; n < 3; n++) {
        for (i = 0; i < 10; i++) {
            uint32_t block = sd_blocks_take(f.lane, false);

            if (n > 0)
                assert_int_equal(block, chain[i]);
            chain[i] = block;
            if (i > 0) {
                assert_int_equal(block, chain[i - 1] + 1);
                sd_link_set(f.store, chain[i - 1], block | f.store->tag);
            }
        }
        assert_int_equal(blocks_used(&f), 10);
        assert_int_equal(sd_blocks_free(f.lane, chain[0]), 10);
    }
    assert_int_equal(sd_blocks_free(f.lane, 0), 0);
    fixture_close(&f);
}

/* Freed by another lane than the one that took them, by chains of any length. */
static void counters_follow_across_lanes(void **state)
{
    fixture_t f;
    dice_t dice = dice_new(7);
    uint32_t heads[64] = { 0 }, lengths[64] = { 0 }, held = 0, n, rounds = test_ops(30000, 3000);

    (void)state;
    fixture_open(&f, MIB, 3, false);
    for (n = 0; n < rounds; n++) {
        uint32_t at = dice_below(&dice, 64), want = 1 + dice_below(&dice, 200), last = 0;
        sd_lane_t *lane = sd_store_lane(f.store, dice_below(&dice, 3));

        if (heads[at] != 0) {
            assert_int_equal(sd_blocks_free(lane, heads[at]), lengths[at]);
            held -= lengths[at];
            heads[at] = lengths[at] = 0;
        }
        else
            while (lengths[at] < want) {
                uint32_t block = sd_blocks_take(lane, dice_below(&dice, 2));

                if (block == 0)
                    break;
                if (last == 0)
                    heads[at] = block;
                else
                    sd_link_set(f.store, last, block | f.store->tag);
                last = block;
                lengths[at]++;
                held++;
            }
        assert_int_equal(blocks_used(&f), held);
        if (n % 1000 == 0) {
            atomic_store(&f.store->incoming, held);
            assert_clean(f.store);
        }
    }
    for (n = 0; n < 64; n++)
        held -= sd_blocks_free(f.lane, heads[n]);
    assert_int_equal(held, 0);
    atomic_store(&f.store->incoming, 0);
    for (n = 0; n < 3; n++) {
        sd_blocks_flush(sd_store_lane(f.store, n));
        assert_int_equal(f.store->lanes[n].list->count, 0);
        sd_blocks_flush(sd_store_lane(f.store, n));
    }
    assert_int_equal(f.store->header->pool_count + f.store->block_count + 1
                         - f.store->header->fresh,
                     f.store->block_count);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_block_is_handed_out_once),
        cmocka_unit_test(the_last_percent_is_privileged),
        cmocka_unit_test(lanes_do_not_hoard),
        cmocka_unit_test(a_freed_chain_is_taken_again_in_its_order),
        cmocka_unit_test(counters_follow_across_lanes),
    };

    return cmocka_run_group_tests_name("blocks", tests, NULL, NULL);
}
