/* SPDX-License-Identifier: Apache-2.0
 *
 * test_handover.c: chains and references that outlive their process: adopted as
 * they were, wherever they stood, after an orderly end, after a death and in the
 * midst of a repair. What nobody adopts comes back by the next repair, and no
 * state, whatever it says, does any harm.
 */
#include <stdlib.h>

#include "store_model.h"

enum { LIVE = 1000000 };

typedef enum end { ORDERLY, DEATH, DEATH_WITH_THE_LAST_TAG } end_t;

static const sd_header_t *header_of(const fixture_t *f)
{
    return (const sd_header_t *)(((uintptr_t)f->raw + 63) & ~(uintptr_t)63);
}

/* The process ends so, and the next one attaches and takes over. */
static void change(fixture_t *f, end_t end)
{
    uint32_t n;

    assert_clean(f->store);
    if (end == ORDERLY)
        assert_true(sd_store_hand_over(&f->store));
    else
        fixture_die(f);
    assert_null(f->store);
    for (n = 0; end == DEATH_WITH_THE_LAST_TAG && n < SD_EPOCH_MAX - 2; n++) {
        fixture_attach(f, f->lanes, f->evict);
        fixture_die(f);
    }
    f->takes_over = true;
    fixture_attach(f, f->lanes, f->evict);
    f->takes_over = false;
    assert_int_equal(f->store->repair.phase != SD_REPAIR_NONE, end == DEATH);
    assert_int_equal(f->store->repair.alone, end == DEATH_WITH_THE_LAST_TAG);
}

static sd_chain_state_t saved_chain(const sd_chain_t *chain)
{
    sd_chain_state_t state;

    sd_chain_save(chain, &state);
    return state;
}

static sd_ref_state_t saved_ref(const sd_ref_t *ref)
{
    sd_ref_state_t state;

    sd_ref_save(ref, &state);
    return state;
}

static void assert_no_chain(fixture_t *f, const sd_chain_state_t *state)
{
    sd_chain_t none, chain;

    memset(&none, 0, sizeof none);
    memset(&chain, 0x55, sizeof chain);
    assert_int_equal(sd_chain_adopt(f->lane, state, &chain), SD_INVALID);
    assert_memory_equal(&chain, &none, sizeof none);
}

static void assert_no_ref(fixture_t *f, const sd_ref_state_t *state)
{
    sd_ref_t none, ref;

    memset(&none, 0, sizeof none);
    memset(&ref, 0x55, sizeof ref);
    assert_int_equal(sd_ref_adopt(f->lane, state, &ref), SD_INVALID);
    assert_memory_equal(&ref, &none, sizeof none);
}

static void adopt_chain(fixture_t *f, sd_chain_t *chain)
{
    sd_chain_t was = *chain;
    sd_chain_state_t state = saved_chain(chain);

    memset(chain, 0x55, sizeof *chain);
    assert_int_equal(sd_chain_adopt(f->lane, &state, chain), SD_OK);
    was.privileged = false;
    assert_memory_equal(chain, &was, sizeof was);
}

static void adopt_ref(fixture_t *f, sd_ref_t *ref)
{
    sd_ref_t was = *ref;
    sd_ref_state_t state = saved_ref(ref);

    memset(ref, 0x55, sizeof *ref);
    assert_int_equal(sd_ref_adopt(f->lane, &state, ref), SD_OK);
    assert_memory_equal(ref, &was, sizeof was);
}

/* Reads `n` bytes on and compares them with where they stand in the value. */
static void read_on(fixture_t *f, sd_ref_t *ref, uint64_t seed, uint32_t n)
{
    unsigned char *value = malloc(ref->data_len + 1);
    struct iovec iov;
    size_t bytes;

    assert_non_null(value);
    value_fill(value, ref->data_len, seed);
    while (n > 0) {
        assert_int_equal(sd_ref_iov(f->lane, ref, &iov, 1, &bytes), 1);
        bytes = bytes < n ? bytes : n;
        assert_memory_equal(iov.iov_base, value + (ref->data_len - ref->left), bytes);
        sd_ref_advance(f->lane, ref, bytes);
        n -= (uint32_t)bytes;
    }
    free(value);
}

/* ---- chains ---- */

enum { BATCH = 80, MORE = 300 };

/* Values of `from` and more bytes, each with this key length and reserve, cut
 * over by the end of a process and finished by the next one. */
static void cut_chains(fixture_t *f, uint32_t key_len, uint32_t from, uint32_t reserve, end_t end)
{
    static unsigned char value[BATCH + 1000 + MORE];
    sd_chain_t chains[BATCH];
    uint32_t incoming, i;
    uint64_t version;

    for (i = 0; i < BATCH; i++) {
        test_key_t key = numbered_key(i, key_len);

        value_fill(value, from + i + MORE, i);
        assert_int_equal(sd_chain_open(f->lane, &chains[i], key.bytes, key.len, f->now), SD_OK);
        assert_int_equal(sd_chain_append(f->lane, &chains[i], value, from + i, f->now), SD_OK);
        assert_int_equal(sd_chain_reserve(f->lane, &chains[i], reserve, f->now), SD_OK);
        chains[i].privileged = i % 2; /* is found out anew */
    }
    incoming = atomic_load(&f->store->incoming);
    change(f, end);
    if (end == ORDERLY)
        assert_int_equal(f->store->unadopted, incoming);
    for (i = 0; i < BATCH; i++)
        adopt_chain(f, &chains[i]);
    assert_int_equal(atomic_load(&f->store->incoming), incoming);
    assert_int_equal(f->store->unadopted, 0);
    for (i = 0; i < BATCH; i++) {
        test_key_t key = numbered_key(i, key_len);
        uint32_t len = from + i + (i % 4 != 0 ? MORE : 0);

        value_fill(value, from + i + MORE, i);
        if (i % 8 == 0) {
            sd_chain_discard(f->lane, &chains[i]);
            continue;
        }
        assert_int_equal(sd_chain_append(f->lane, &chains[i], value + from + i, len - from - i,
                                         f->now), SD_OK);
        assert_int_equal(sd_store_put(f->lane, &chains[i], f->now + LIVE, SD_VERSION_ABSENT, f->now,
                                      &version), SD_OK);
        if (len == from + i + MORE)
            assert_value(f, &key, i, len);
        assert_true(is_there(f, &key));
        if (i % 3 == 0)
            sd_store_repair(f->lane, f->now);
    }
    assert_clean(f->store);
    fixture_repair(f);
    for (i = 0; i < BATCH; i++) {
        test_key_t key = numbered_key(i, key_len);

        assert_int_equal(delete_key(f, &key), i % 8 == 0 ? SD_MISS : SD_OK);
    }
    assert_clean(f->store);
    assert_int_equal(blocks_used(f), 0);
    assert_int_equal(sd_blocks_free_count(f->store), f->store->block_count);
}

static void chains_at_every_write_position(void **state)
{
    static const uint32_t lengths[] = { 8, 26, 214, 215, 216, 217, 254, 255 };
    static const uint32_t reserves[] = { 0, 1, 255, 256, 257, 900 };
    fixture_t f;
    size_t k, r;
    uint32_t from;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    for (k = 0; k < sizeof lengths / sizeof *lengths; k++)
        for (r = 0; r < sizeof reserves / sizeof *reserves; r++)
            for (from = 0; from < 560; from += BATCH)
                if (!slowed_down() || (k + r + from / BATCH) % 4 == 0) {
                    cut_chains(&f, lengths[k], from, reserves[r], ORDERLY);
                    cut_chains(&f, lengths[k], from, reserves[r], DEATH);
                }
    fixture_close(&f);
}

/* ---- references ---- */

static void cut_references(uint32_t len, uint32_t key_len, end_t end)
{
    enum { KEYS = 3, EACH = 4 }; /* one stays, one is replaced, one is deleted */
    fixture_t f;
    sd_ref_t refs[KEYS][EACH];
    uint32_t k, i, blocks = sd_item_blocks(key_len, len);

    fixture_open(&f, MIB, 1, false);
    for (k = 0; k < KEYS; k++) {
        test_key_t key = numbered_key(k, key_len);

        put_ok(&f, &key, k, len, f.now + LIVE);
        for (i = 0; i < EACH; i++) {
            assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &refs[k][i]), SD_OK);
            read_on(&f, &refs[k][i], k, (uint32_t)((uint64_t)len * i / (EACH - 1)));
        }
        if (k == 1)
            put_ok(&f, &key, 77, 10, f.now + LIVE);
        if (k == 2)
            assert_int_equal(delete_key(&f, &key), SD_OK);
    }
    assert_int_equal(sd_store_detached(f.store), 2 * blocks);
    change(&f, end);
    for (i = 0; i < EACH; i++)
        for (k = 0; k < KEYS; k++) {
            sd_ref_state_t state = saved_ref(&refs[k][i]);

            if (end == DEATH_WITH_THE_LAST_TAG && k > 0) { /* freed before it served */
                assert_no_ref(&f, &state);
                memset(&refs[k][i], 0, sizeof refs[k][i]);
                continue;
            }
            adopt_ref(&f, &refs[k][i]);
            assert_int_equal(sd_ref_is_detached(f.lane, &refs[k][i]), k > 0);
            assert_clean(f.store);
        }
    assert_int_equal(sd_store_detached(f.store), end == DEATH_WITH_THE_LAST_TAG ? 0 : 2 * blocks);
    if (len % 2) { /* detached by this process, before INDEX comes to it */
        test_key_t key = numbered_key(0, key_len);

        assert_int_equal(delete_key(&f, &key), SD_OK);
    }
    fixture_repair(&f);
    assert_clean(f.store);
    for (k = 0; k < KEYS; k++)
        for (i = 0; i < EACH; i++)
            if (refs[k][i].head != 0) {
                read_on(&f, &refs[k][i], k, refs[k][i].left);
                sd_ref_release(f.lane, &refs[k][i]);
            }
    assert_int_equal(sd_store_detached(f.store), 0);
    assert_clean(f.store);
    assert_int_equal(blocks_used(&f), (len % 2 ? 0 : blocks) + sd_item_blocks(key_len, 10));
    fixture_close(&f);
}

static void references_attached_and_detached(void **state)
{
    static const uint32_t key_lengths[] = { 1, 32, 215, 216, 217, 255 };
    uint32_t step = slowed_down() ? 37 : 5, len;
    size_t k;

    (void)state;
    for (k = 0; k < sizeof key_lengths / sizeof *key_lengths; k++)
        for (len = 0; len < 560; len += len < 3 ? 1 : step) {
            cut_references(len, key_lengths[k], ORDERLY);
            cut_references(len, key_lengths[k], DEATH);
            if (len % 15 == 0)
                cut_references(len, key_lengths[k], DEATH_WITH_THE_LAST_TAG);
        }
    cut_references(100001, 30, ORDERLY);
    cut_references(100000, 30, DEATH);
}

static void no_more_readers_than_may_be(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0);
    sd_ref_t ref, more;
    sd_ref_state_t saved;
    uint32_t n;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    put_ok(&f, &key, 1, 500, f.now + LIVE);
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_OK);
    saved = saved_ref(&ref);
    assert_int_equal(delete_key(&f, &key), SD_OK);
    change(&f, ORDERLY);
    for (n = 0; n < SD_PIN_MAX; n++)
        assert_int_equal(sd_ref_adopt(f.lane, &saved, &ref), SD_OK);
    assert_int_equal(sd_ref_adopt(f.lane, &saved, &more), SD_BUSY);
    assert_int_equal(more.head, 0);
    for (n = 0; n < SD_PIN_MAX; n++) {
        more = ref;
        sd_ref_release(f.lane, &more);
    }
    assert_int_equal(blocks_used(&f), 0);
    fixture_close(&f);
}

/* ---- the ends ---- */

/* A store with a chain, a replaced value that is read and one that is not
 * replaced. Returns the blocks of all items. */
static uint64_t hold_some(fixture_t *f, sd_chain_t *chain, sd_ref_t *gone, sd_ref_t *there)
{
    static const char text[3000];
    test_key_t a = numbered_key(1, 0), b = numbered_key(2, 0);

    put_ok(f, &a, 1, 5000, f->now + LIVE);
    put_ok(f, &b, 2, 700, f->now + LIVE);
    assert_int_equal(sd_store_get(f->lane, a.bytes, a.len, f->now, gone), SD_OK);
    assert_int_equal(sd_store_get(f->lane, b.bytes, b.len, f->now, there), SD_OK);
    put_ok(f, &a, 3, 100, f->now + LIVE);
    assert_int_equal(sd_chain_open(f->lane, chain, "on its way", 10, f->now), SD_OK);
    assert_int_equal(sd_chain_append(f->lane, chain, text, sizeof text, f->now), SD_OK);
    return sd_item_blocks(a.len, 100) + sd_item_blocks(b.len, 700);
}

static void nothing_held_is_an_orderly_end(void **state)
{
    fixture_t f;
    test_key_t key = numbered_key(1, 0);
    sd_ref_t ref;

    (void)state;
    fixture_open(&f, MIB, 3, false);
    put_ok(&f, &key, 1, 5000, f.now + LIVE);
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_OK);
    assert_true(sd_store_hand_over(&f.store));
    assert_null(f.store);
    assert_int_equal(header_of(&f)->clean, SD_CLEAN);
    assert_false(sd_store_hand_over(&f.store)); /* harmless on none */
    fixture_attach(&f, 2, false);
    assert_false(sd_store_repair(f.lane, f.now));
    adopt_ref(&f, &ref); /* it has no blocks of its own */
    read_on(&f, &ref, 1, 5000);
    sd_ref_release(f.lane, &ref);
    fixture_close(&f);
}

/* The next process was told of nothing, or knows nothing of handing over. */
static void what_nobody_takes_over_is_repaired(void **state)
{
    fixture_t f;
    sd_chain_t chain;
    sd_ref_t gone, there;
    uint64_t used;
    int told;

    (void)state;
    for (told = 0; told < 2; told++) {
        fixture_open(&f, MIB, 1, false);
        used = hold_some(&f, &chain, &gone, &there);
        assert_true(sd_store_hand_over(&f.store));
        assert_int_equal(header_of(&f)->clean, SD_CLEAN_HELD);
        fixture_attach(&f, 1, false);
        assert_int_equal(header_of(&f)->clean, 0);
        if (told) { /* of some, too late: they are adopted all the same */
            adopt_chain(&f, &chain);
            adopt_ref(&f, &there);
            used += chain.blocks;
        }
        fixture_repair(&f);
        assert_clean(f.store);
        assert_int_equal(blocks_used(&f), used);
        if (told) {
            sd_chain_discard(f.lane, &chain);
            sd_ref_release(f.lane, &there);
        }
        fixture_close(&f);
    }
}

/* One of three is not adopted: that segment is not left in order any more. */
static void what_is_left_over_is_repaired(void **state)
{
    uint32_t leave, hand_on;

    (void)state;
    for (leave = 0; leave < 2; leave++)
        for (hand_on = 0; hand_on < 2; hand_on++) {
            fixture_t f;
            sd_chain_t chain;
            sd_ref_t gone, there;
            uint64_t used;

            fixture_open(&f, MIB, 1, false);
            used = hold_some(&f, &chain, &gone, &there);
            change(&f, ORDERLY);
            if (leave == 0)
                adopt_chain(&f, &chain);
            else
                adopt_ref(&f, &gone);
            adopt_ref(&f, &there);
            assert_clean(f.store);
            if (leave == 0)
                sd_chain_discard(f.lane, &chain);
            else
                sd_ref_release(f.lane, &gone);
            sd_ref_release(f.lane, &there);
            assert_clean(f.store);
            if (hand_on)
                assert_false(sd_store_hand_over(&f.store));
            else
                fixture_detach(&f);
            assert_int_equal(header_of(&f)->clean, 0);
            fixture_attach(&f, 1, false);
            fixture_repair(&f);
            assert_int_equal(blocks_used(&f), used);
            fixture_close(&f);
        }
}

static void handed_over_in_the_midst_of_a_repair(void **state)
{
    uint32_t steps;

    (void)state;
    for (steps = 0; steps < 8; steps++) {
        fixture_t f;
        sd_chain_t chain, lost;
        sd_ref_t gone, there;
        uint64_t used, version;
        test_key_t key = numbered_key(5, 0);
        uint32_t n;
        bool more = true;

        fixture_open(&f, MIB, 1, false);
        put_ok(&f, &key, 5, 900, f.now + LIVE);
        assert_int_equal(sd_chain_open(f.lane, &lost, "lost", 4, f.now), SD_OK);
        fixture_die(&f);
        fixture_attach(&f, 1, false);
        used = hold_some(&f, &chain, &gone, &there) + sd_item_blocks(key.len, 900);
        for (n = 0; n < steps && more; n++)
            more = sd_store_repair(f.lane, f.now);
        assert_int_equal(sd_store_hand_over(&f.store), !more);
        assert_int_equal(header_of(&f)->clean, more ? 0 : SD_CLEAN_HELD);
        f.takes_over = true;
        fixture_attach(&f, 1, false);
        adopt_ref(&f, &gone);
        adopt_chain(&f, &chain);
        adopt_ref(&f, &there);
        for (n = 0; n < 3; n++) { /* and once more, at once */
            assert_int_equal(sd_store_hand_over(&f.store), !more);
            fixture_attach(&f, 1, false);
            adopt_ref(&f, &there);
            adopt_chain(&f, &chain);
            adopt_ref(&f, &gone);
        }
        fixture_repair(&f);
        assert_clean(f.store);
        read_on(&f, &gone, 1, 5000);
        read_on(&f, &there, 2, 700);
        sd_ref_release(f.lane, &gone);
        sd_ref_release(f.lane, &there);
        assert_int_equal(sd_store_put(f.lane, &chain, f.now + LIVE, SD_VERSION_ABSENT, f.now,
                                      &version), SD_OK);
        assert_int_equal(blocks_used(&f), used + sd_item_blocks(10, 3000));
        assert_value(&f, &key, 5, 900);
        fixture_close(&f);
    }
}

/* With the last tag all was repaired before anything could be adopted. */
static void too_late_to_adopt(void **state)
{
    fixture_t f;
    sd_chain_t chain;
    sd_ref_t gone, there;
    sd_chain_state_t a;
    sd_ref_state_t b;
    uint64_t used;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    used = hold_some(&f, &chain, &gone, &there);
    a = saved_chain(&chain);
    b = saved_ref(&gone);
    change(&f, DEATH_WITH_THE_LAST_TAG);
    assert_no_chain(&f, &a);
    assert_no_ref(&f, &b);
    adopt_ref(&f, &there);
    read_on(&f, &there, 2, 700);
    sd_ref_release(f.lane, &there);
    assert_int_equal(blocks_used(&f), used);
    fixture_close(&f);
}

static void the_crowd_is_still_known(void **state)
{
    static unsigned char bytes[300000];
    fixture_t f;
    sd_chain_t chain;
    sd_usage_t before, after;
    uint32_t held;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    assert_int_equal(sd_chain_open(f.lane, &chain, "large", 5, f.now), SD_OK);
    assert_int_equal(sd_chain_append(f.lane, &chain, bytes, sizeof bytes, f.now), SD_OK);
    held = sd_store_hold_from(f.store);
    assert_int_not_equal(held, 0);
    sd_store_usage(f.store, &before);
    change(&f, ORDERLY);
    adopt_chain(&f, &chain);
    assert_int_equal(sd_store_hold_from(f.store), held);
    sd_store_usage(f.store, &after);
    assert_memory_equal(&before, &after, sizeof before);
    sd_chain_discard(f.lane, &chain);
    assert_int_equal(sd_store_hold_from(f.store), 0);
    fixture_close(&f);
}

/* ---- beside the model ---- */

static void churn(uint64_t seed, uint64_t size, uint32_t lanes, bool evict, uint32_t deaths)
{
    uint32_t ops = test_ops(20000, 1000), n;
    static fixture_t f;
    dice_t dice = dice_new(seed);
    model_t m;

    fixture_open(&f, size, lanes, evict);
    model_open(&m, &f, seed, 400, 40000, 4000000);
    for (n = 0; n < ops; n++) {
        model_operate(&m);
        if (dice_below(&dice, 6) == 0)
            model_hand_over(&m, 1 + dice_below(&dice, lanes), dice_below(&dice, 100) < deaths);
        if (n % 500 == 0)
            model_verify(&m);
    }
    assert_true(m.stored > ops / 20);
    model_settle(&m);
    model_close(&m);
    fixture_close(&f);
}

static void churn_handed_over_in_order(void **state)
{
    (void)state;
    churn(1, MIB, 3, false, 0);
    churn(2, 2 * MIB, 2, true, 0);
}

static void churn_handed_over_and_died_over(void **state)
{
    (void)state;
    churn(3, MIB, 3, false, 10);
    churn(4, 2 * MIB, 2, true, 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_at_every_write_position),
        cmocka_unit_test(references_attached_and_detached),
        cmocka_unit_test(no_more_readers_than_may_be),
        cmocka_unit_test(nothing_held_is_an_orderly_end),
        cmocka_unit_test(what_nobody_takes_over_is_repaired),
        cmocka_unit_test(what_is_left_over_is_repaired),
        cmocka_unit_test(handed_over_in_the_midst_of_a_repair),
        cmocka_unit_test(too_late_to_adopt),
        cmocka_unit_test(the_crowd_is_still_known),
        cmocka_unit_test(churn_handed_over_in_order),
        cmocka_unit_test(churn_handed_over_and_died_over),
    };

    return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
