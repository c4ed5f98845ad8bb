/* SPDX-License-Identifier: Apache-2.0
 *
 * test_chain.c: values on their way in and out, at every size around a block's
 * end and with every length of key (a key may span two blocks), written and
 * read in random pieces. No path may lose or leak a block.
 */
#include <stdlib.h>

#include "store_fixture.h"

#define GUARD 0xd7

typedef struct writer {
    fixture_t *f;
    dice_t dice;
    unsigned char *bytes;
} writer_t;

/* Receives `len` bytes as a socket would: reserve some, be given vectors, fill
 * a part of them, advance. Never touches a byte beyond what was offered. */
static sd_status_t receive(writer_t *w, sd_chain_t *chain, const unsigned char *from, uint32_t len)
{
    uint32_t done = 0;

    while (done < len) {
        struct iovec iov[6];
        uint32_t want = 1 + dice_below(&w->dice, 2000), limit, offered = 0, n;
        int max = 1 + (int)dice_below(&w->dice, 6), vectors, i;
        sd_status_t status = sd_chain_reserve(w->f->lane, chain, want, w->f->now);

        if (status != SD_OK)
            return status;
        assert_true(chain->space >= want);
        limit = 1 + dice_below(&w->dice, len - done);
        vectors = sd_chain_room(w->f->lane, chain, limit, iov, max);
        assert_true(vectors >= 1 && vectors <= max);
        for (i = 0; i < vectors; i++) {
            assert_true(iov[i].iov_len > 0);
            offered += (uint32_t)iov[i].iov_len;
        }
        assert_true(offered <= limit && offered <= chain->space);
        n = dice_below(&w->dice, offered + 1);
        for (i = 0, offered = 0; i < vectors && offered < n; i++) {
            uint32_t here = (uint32_t)iov[i].iov_len < n - offered ? (uint32_t)iov[i].iov_len
                                                                   : n - offered;
            memcpy(iov[i].iov_base, from + done + offered, here);
            offered += here;
        }
        sd_chain_advance(w->f->lane, chain, n);
        done += n;
    }
    return SD_OK;
}

static sd_status_t append(writer_t *w, sd_chain_t *chain, const unsigned char *from, uint32_t len)
{
    uint32_t done = 0;

    while (done < len) {
        uint32_t n = dice_below(&w->dice, 4) ? dice_below(&w->dice, 700) : len - done;
        sd_status_t status;

        n = n < len - done ? n : len - done;
        status = sd_chain_append(w->f->lane, chain, from + done, n, w->f->now);
        if (status != SD_OK)
            return status;
        done += n;
    }
    return SD_OK;
}

/* Reads a value back in random pieces. */
static void drink(writer_t *w, const test_key_t *key, uint64_t seed, uint32_t len)
{
    sd_ref_t ref;
    uint32_t done = 0;

    assert_int_equal(sd_store_get(w->f->lane, key->bytes, key->len, w->f->now, &ref), SD_OK);
    assert_int_equal(ref.data_len, len);
    while (done < len) {
        struct iovec iov[5];
        int max = 1 + (int)dice_below(&w->dice, 5), vectors, i;
        size_t covered = 0, sum = 0, n;

        vectors = sd_ref_iov(w->f->lane, &ref, iov, max, &covered);
        assert_true(vectors >= 1 && vectors <= max);
        for (i = 0; i < vectors; i++) {
            assert_true(sum + iov[i].iov_len <= len - done);
            memcpy(w->bytes + done + sum, iov[i].iov_base, iov[i].iov_len);
            sum += iov[i].iov_len;
        }
        assert_int_equal(sum, covered);
        n = dice_below(&w->dice, 3) ? dice_below(&w->dice, (uint32_t)covered + 1) : covered;
        sd_ref_advance(w->f->lane, &ref, n);
        done += (uint32_t)n;
        assert_int_equal(ref.left, len - done);
    }
    assert_true(value_is(w->bytes, len, seed));
    {
        struct iovec iov;
        size_t covered = 99;

        assert_int_equal(sd_ref_iov(w->f->lane, &ref, &iov, 1, &covered), 0);
        assert_int_equal(covered, 0);
    }
    sd_ref_release(w->f->lane, &ref);
    assert_int_equal(ref.head, 0);
    sd_ref_release(w->f->lane, &ref); /* harmless on none */
}

/* One value in and out; leaves the store as it was. */
static void round_trip(writer_t *w, const test_key_t *key, uint32_t len, uint64_t seed)
{
    unsigned char *value = malloc(len + 1);
    fixture_t *f = w->f;
    sd_chain_t chain;
    uint64_t version, used = blocks_used(f);

    assert_non_null(value);
    value_fill(value, len, seed);
    value[len] = GUARD;
    assert_int_equal(sd_chain_open(f->lane, &chain, key->bytes, key->len, f->now), SD_OK);
    assert_int_equal(chain.data_len, 0);
    if (dice_below(&w->dice, 2))
        assert_int_equal(receive(w, &chain, value, len), SD_OK);
    else
        assert_int_equal(append(w, &chain, value, len), SD_OK);
    assert_int_equal(chain.data_len, len);
    if (dice_below(&w->dice, 2)) /* room for more that never comes */
        assert_int_equal(
            sd_chain_reserve(f->lane, &chain, dice_below(&w->dice, 3000), f->now), SD_OK);
    assert_int_equal(atomic_load(&f->store->incoming), chain.blocks);
    assert_int_equal(blocks_used(f), used + chain.blocks);
    if (dice_below(&w->dice, 8) == 0) {
        sd_chain_discard(f->lane, &chain);
        sd_chain_discard(f->lane, &chain); /* harmless on none */
    }
    else {
        assert_int_equal(
            sd_store_put(f->lane, &chain, f->now + 10, SD_VERSION_ANY, f->now, &version), SD_OK);
        /* nothing of what was reserved in vain is kept */
        assert_int_equal(blocks_used(f), used + sd_item_blocks(key->len, len));
        drink(w, key, seed, len);
        assert_int_equal(delete_key(f, key), SD_OK);
    }
    assert_int_equal(chain.head + chain.blocks, 0);
    assert_int_equal(atomic_load(&f->store->incoming), 0);
    assert_int_equal(blocks_used(f), used);
    free(value);
}

static void writer_open(writer_t *w, fixture_t *f, uint64_t size, uint64_t seed)
{
    fixture_open(f, size, 1, false);
    w->f = f;
    w->dice = dice_new(seed);
    w->bytes = malloc(1 << 20);
    assert_non_null(w->bytes);
}

static void writer_close(writer_t *w)
{
    free(w->bytes);
    fixture_close(w->f);
}

static void every_size_and_every_key_length(void **state)
{
    fixture_t f;
    writer_t w;
    uint32_t len, key_len, step = slowed_down() ? 7 : 1;

    (void)state;
    writer_open(&w, &f, MIB, 1);
    for (len = 0; len <= 1100; len++) {
        test_key_t key = numbered_key(len, 1 + dice_below(&w.dice, SD_KEY_MAX));

        round_trip(&w, &key, len, len);
    }
    for (key_len = 1; key_len <= SD_KEY_MAX; key_len++) {
        /* ends of blocks: where header and key and data meet them */
        uint32_t room = 2 * SD_BLOCK_BYTES - (uint32_t)sizeof(sd_item_t) - key_len, d;
        test_key_t key = numbered_key(key_len, key_len);

        for (d = 0; d < 5; d++) {
            round_trip(&w, &key, room - 2 + d, d);
            if (room >= SD_BLOCK_BYTES + 2)
                round_trip(&w, &key, room - SD_BLOCK_BYTES - 2 + d, d);
            round_trip(&w, &key, d, d);
        }
    }
    for (len = 65536 - 600; len <= 65536 + 600; len += step) {
        test_key_t key = numbered_key(len, 0);

        round_trip(&w, &key, len, len);
    }
    writer_close(&w);
}

static void neighbours_form_one_vector(void **state)
{
    fixture_t f;
    sd_chain_t chain;
    struct iovec iov[4];
    sd_ref_t ref;
    uint64_t version;
    size_t covered;
    test_key_t key = numbered_key(0, 32);

    (void)state;
    fixture_open(&f, 4 * MIB, 1, false);
    assert_int_equal(sd_chain_open(f.lane, &chain, key.bytes, key.len, f.now), SD_OK);
    assert_int_equal(sd_chain_reserve(f.lane, &chain, 10000, f.now), SD_OK);
    assert_int_equal(sd_chain_room(f.lane, &chain, 10000, iov, 4), 1);
    assert_int_equal(iov[0].iov_len, 10000);
    assert_int_equal(sd_chain_room(f.lane, &chain, 0, iov, 4), 0);
    assert_int_equal(sd_chain_room(f.lane, &chain, 10000, iov, 0), 0);
    value_fill(iov[0].iov_base, 10000, 5);
    sd_chain_advance(f.lane, &chain, 10000);
    assert_int_equal(sd_store_put(f.lane, &chain, f.now + 1, SD_VERSION_ANY, f.now, &version),
                     SD_OK);
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_OK);
    assert_int_equal(sd_ref_iov(f.lane, &ref, iov, 1, &covered), 1);
    assert_int_equal(covered, 10000);
    assert_true(value_is(iov[0].iov_base, 10000, 5));
    sd_ref_release(f.lane, &ref);
    fixture_close(&f);
}

/* Blocks in no order at all: as many vectors as there are breaks, never more. */
static void scattered_blocks_form_many_vectors(void **state)
{
    fixture_t f;
    writer_t w;
    uint32_t n, len = 8000, breaks = 0, block;
    test_key_t key = numbered_key(100000, 20);
    struct iovec iov[64];
    unsigned char value[8000];
    sd_chain_t chain;
    sd_ref_t ref;
    uint64_t version;
    size_t covered;

    (void)state;
    writer_open(&w, &f, MIB, 1);
    n = fill_up(&f, 0, f.now + 1000);
    while (n > 0) { /* every third key, from the last to the first */
        test_key_t other;

        n -= n >= 3 ? 3 : n;
        other = numbered_key(n, 8);
        assert_int_equal(delete_key(&f, &other), SD_OK);
    }
    value_fill(value, len, 9);
    assert_int_equal(sd_chain_open(f.lane, &chain, key.bytes, key.len, f.now), SD_OK);
    assert_int_equal(receive(&w, &chain, value, len), SD_OK);
    assert_int_equal(sd_store_put(f.lane, &chain, f.now + 1, SD_VERSION_ANY, f.now, &version),
                     SD_OK);
    drink(&w, &key, 9, len);
    for (block = item_of(&f, &key); sd_link_next(f.store, block) != 0;
         block = sd_link_next(f.store, block))
        breaks += sd_link_next(f.store, block) != block + 1;
    assert_true(breaks > 10);
    assert_int_equal(sd_store_get(f.lane, key.bytes, key.len, f.now, &ref), SD_OK);
    assert_int_equal(sd_ref_iov(f.lane, &ref, iov, 64, &covered), breaks + 1);
    assert_int_equal(covered, len);
    sd_ref_release(f.lane, &ref);
    writer_close(&w);
}

static void full_memory_leaves_a_chain_as_it_was(void **state)
{
    fixture_t f;
    writer_t w;
    sd_chain_t chain, before;
    unsigned char *value = malloc(2 * MIB);
    test_key_t key = numbered_key(1, 100);
    uint64_t version, used;
    uint32_t len = 0;

    (void)state;
    writer_open(&w, &f, MIB, 3);
    assert_non_null(value);
    value_fill(value, 500000, 4);
    assert_int_equal(sd_chain_open(f.lane, &chain, key.bytes, key.len, f.now), SD_OK);
    assert_int_equal(sd_chain_append(f.lane, &chain, value, 500000, f.now), SD_OK);
    len = 500000;
    before = chain;
    used = blocks_used(&f);
    assert_int_equal(sd_chain_append(f.lane, &chain, value, 2 * MIB, f.now), SD_FULL);
    assert_int_equal(chain.data_len, before.data_len);
    assert_true(chain.space > before.space); /* what it could get, it keeps */
    assert_int_equal(blocks_used(&f) - used, chain.blocks - before.blocks);
    /* and it can be published as it stands, returning the rest */
    assert_int_equal(sd_store_put(f.lane, &chain, f.now + 1, SD_VERSION_ANY, f.now, &version),
                     SD_OK);
    drink(&w, &key, 4, len);
    assert_int_equal(blocks_used(&f), sd_item_blocks(100, len));

    /* nothing at all is left behind where not even the key finds room */
    fill_up(&f, 100, f.now + 1000);
    used = blocks_used(&f);
    key = numbered_key(2, 200);
    assert_int_equal(sd_chain_open(f.lane, &chain, key.bytes, key.len, f.now), SD_FULL);
    assert_int_equal(blocks_used(&f), used);
    assert_int_equal(atomic_load(&f.store->incoming), 0);
    sd_chain_discard(f.lane, &chain);
    free(value);
    writer_close(&w);
}

/* A key of 217 bytes or more needs a second block before it is complete: with
 * one block left, nothing of the first may stay behind. */
static void a_long_key_that_finds_one_block_leaves_nothing(void **state)
{
    fixture_t f;
    sd_chain_t chain;
    uint32_t n, refused = 0;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    n = fill_up(&f, 0, f.now + 1000);
    for (; n > 0; n--) {
        test_key_t key = numbered_key(n - 1, 8), longer = numbered_key(n + 5000, 230);
        uint64_t used;

        if (delete_key(&f, &key) != SD_OK)
            continue;
        used = blocks_used(&f);
        if (sd_chain_open(f.lane, &chain, longer.bytes, longer.len, f.now) == SD_OK) {
            sd_chain_discard(f.lane, &chain);
            break;
        }
        assert_int_equal(blocks_used(&f), used);
        assert_int_equal(chain.blocks + chain.head, 0);
        assert_clean(f.store);
        refused++;
    }
    assert_true(n > 0 && refused > 0);
    fixture_close(&f);
}

/* Lengths are 32 bits wide and so are the sums of them: a segment that could
 * hold more must not let them wrap. */
static void more_than_2_gib_are_refused_at_once(void **state)
{
    fixture_t f;
    sd_chain_t chain;

    (void)state;
    if (slowed_down())
        skip();
    fixture_open(&f, (uint64_t)6 << 30, 1, false);
    assert_int_equal(sd_chain_open(f.lane, &chain, "k", 1, f.now), SD_OK);
    assert_int_equal(sd_chain_append(f.lane, &chain, "1234", 4, f.now), SD_OK);
    assert_int_equal(sd_chain_reserve(f.lane, &chain, UINT32_MAX, f.now), SD_FULL);
    assert_int_equal(sd_chain_reserve(f.lane, &chain, UINT32_C(1) << 31, f.now), SD_FULL);
    assert_int_equal(chain.blocks, 1);
    sd_chain_discard(f.lane, &chain);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_and_every_key_length),
        cmocka_unit_test(neighbours_form_one_vector),
        cmocka_unit_test(scattered_blocks_form_many_vectors),
        cmocka_unit_test(full_memory_leaves_a_chain_as_it_was),
        cmocka_unit_test(a_long_key_that_finds_one_block_leaves_nothing),
        cmocka_unit_test(more_than_2_gib_are_refused_at_once),
    };

    return cmocka_run_group_tests_name("chain", tests, NULL, NULL);
}
