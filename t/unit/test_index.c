/* SPDX-License-Identifier: Apache-2.0
 *
 * test_index.c: lists of items in buckets, made by hand, so that keys can share
 * a bucket and even their 32 bits of hash, which real keys do once in a life.
 */
#include <stdlib.h>

#include "store_fixture.h"

/* An item with this key and nothing else, in no bucket. */
static uint32_t make_item(fixture_t *f, uint32_t hash, const unsigned char *key, uint32_t len)
{
    sd_chain_t chain;
    uint32_t head;

    assert_int_equal(sd_chain_open(f->lane, &chain, key, len, f->now), SD_OK);
    head = chain.head;
    sd_item(f->store, head)->hash = hash;
    return head;
}

static void keys_of_every_length_are_told_apart_by_every_byte(void **state)
{
    fixture_t f;
    uint32_t len, i;

    (void)state;
    fixture_open(&f, MIB, 1, false);
    for (len = 1; len <= SD_KEY_MAX; len++) {
        test_key_t key = numbered_key(len * 977, len);
        unsigned char copy[SD_KEY_MAX + 1];
        uint32_t block = make_item(&f, 1, key.bytes, len);

        assert_true(sd_item_key_equals(f.store, block, key.bytes, len));
        memset(copy, 0xee, sizeof copy);
        assert_int_equal(sd_item_key_copy(f.store, block, copy), len);
        assert_memory_equal(copy, key.bytes, len);
        assert_int_equal(copy[len], 0xee);
        for (i = 0; i < len; i++) {
            key.bytes[i] ^= 1;
            assert_false(sd_item_key_equals(f.store, block, key.bytes, len));
            key.bytes[i] ^= 1;
        }
        if (len > 1)
            assert_false(sd_item_key_equals(f.store, block, key.bytes, len - 1));
        memcpy(copy, key.bytes, len);
        assert_false(sd_item_key_equals(f.store, block, copy, len + 1));
        sd_blocks_free(f.lane, block);
    }
    fixture_detach(&f); /* the chains were freed behind the back of `incoming` */
    fixture_unmap(&f);
}

enum { ITEMS = 6 };

typedef struct bucket_case {
    fixture_t f;
    uint64_t hash; /* all of them have it */
    uint32_t bucket, shard;
    test_key_t keys[ITEMS];
    uint32_t blocks[ITEMS];
    bool in[ITEMS];
} bucket_case_t;

static void expect_bucket(bucket_case_t *c)
{
    uint32_t i, n = 0, walked = 0, block;
    uint32_t *link;

    for (i = 0; i < ITEMS; i++) {
        block = sd_index_find(c->f.store, c->hash, c->keys[i].bytes, c->keys[i].len, &link);
        assert_int_equal(block, c->in[i] ? c->blocks[i] : 0);
        assert_int_equal(*link, block); /* what points to it; the list's end for none */
        n += c->in[i];
    }
    for (block = atomic_load(&c->f.store->buckets[c->bucket]); block != 0;
         block = sd_item(c->f.store, block)->next)
        walked++;
    assert_int_equal(walked, n);
    assert_int_equal(sd_shard_items(c->f.store, c->shard), n);
}

static void bucket_open(bucket_case_t *c)
{
    uint32_t i;

    memset(c, 0, sizeof *c);
    fixture_open(&c->f, MIB, 1, false);
    c->hash = (UINT64_C(200) << 32) | 0xabcdef01u;
    c->bucket = sd_bucket_of(c->f.store, c->hash);
    c->shard = sd_shard_of(c->f.store, c->bucket);
    for (i = 0; i < ITEMS; i++) {
        c->keys[i] = numbered_key(i, i % 2 ? 230 : 20);
        c->blocks[i] = make_item(&c->f, (uint32_t)c->hash, c->keys[i].bytes, c->keys[i].len);
    }
    expect_bucket(c);
}

static void bucket_close(bucket_case_t *c)
{
    fixture_detach(&c->f);
    fixture_unmap(&c->f);
}

static void insert(bucket_case_t *c, uint32_t i)
{
    sd_index_insert(c->f.store, c->bucket, c->blocks[i]);
    c->in[i] = true;
    expect_bucket(c);
}

static void removal(bucket_case_t *c, uint32_t i)
{
    uint32_t *link;
    uint32_t block = sd_index_find(c->f.store, c->hash, c->keys[i].bytes, c->keys[i].len, &link);

    assert_int_equal(block, c->blocks[i]);
    sd_index_remove(c->f.store, c->bucket, link, block);
    c->in[i] = false;
    expect_bucket(c);
}

static void items_of_equal_hash_live_together(void **state)
{
    bucket_case_t c;
    uint32_t from, i;

    (void)state;
    bucket_open(&c);
    for (from = 0; from < ITEMS; from++) { /* first, middle and last of the list */
        for (i = 0; i < ITEMS; i++)
            insert(&c, i);
        for (i = 0; i < ITEMS; i++)
            removal(&c, (from + i) % ITEMS);
    }
    bucket_close(&c);
}

static void replacing_keeps_the_rest_of_the_list(void **state)
{
    bucket_case_t c;
    uint32_t i, old;
    uint32_t *link;

    (void)state;
    bucket_open(&c);
    for (i = 0; i < ITEMS; i++)
        insert(&c, i);
    for (i = 0; i < ITEMS; i++) {
        uint32_t fresh = make_item(&c.f, (uint32_t)c.hash, c.keys[i].bytes, c.keys[i].len);

        old = sd_index_find(c.f.store, c.hash, c.keys[i].bytes, c.keys[i].len, &link);
        sd_index_replace(c.f.store, link, old, fresh);
        c.blocks[i] = fresh;
        expect_bucket(&c);
    }
    bucket_close(&c);
}

static void another_hash_in_the_same_bucket_is_another_key(void **state)
{
    bucket_case_t c;
    uint32_t *link;

    (void)state;
    bucket_open(&c);
    insert(&c, 0);
    assert_int_equal(
        sd_index_find(c.f.store, c.hash ^ 1, c.keys[0].bytes, c.keys[0].len, &link), 0);
    assert_int_equal(sd_index_find(c.f.store, c.hash, c.keys[0].bytes, c.keys[0].len - 1, &link),
                     0);
    bucket_close(&c);
}

/* Who frees an item: whoever made it unreachable, or the last of its readers. */
static void detaching_waits_for_readers(void **state)
{
    bucket_case_t c;
    uint32_t n;

    (void)state;
    bucket_open(&c);
    assert_true(sd_index_detach(c.f.store, c.blocks[0]));
    assert_int_equal(atomic_load(&c.f.store->pins[c.blocks[0]]), 0);
    assert_int_equal(atomic_load(&c.f.store->detached), 0);
    for (n = 1; n <= 3; n++) {
        sd_ref_t refs[3];
        uint32_t i, used = (uint32_t)blocks_used(&c.f), block = c.blocks[n];
        uint32_t blocks = sd_item_blocks(c.keys[n].len, 0);

        for (i = 0; i < n; i++) {
            atomic_fetch_add(&c.f.store->pins[block], 1);
            memset(&refs[i], 0, sizeof refs[i]);
            refs[i].head = block;
        }
        assert_false(sd_index_detach(c.f.store, block));
        for (i = 0; i < n; i++) {
            assert_int_equal(atomic_load(&c.f.store->detached), blocks);
            assert_int_equal(blocks_used(&c.f), used);
            sd_ref_release(c.f.lane, &refs[i]);
        }
        assert_int_equal(atomic_load(&c.f.store->detached), 0);
        assert_int_equal(atomic_load(&c.f.store->pins[block]), 0);
        assert_int_equal(blocks_used(&c.f), used - blocks);
    }
    bucket_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_every_length_are_told_apart_by_every_byte),
        cmocka_unit_test(items_of_equal_hash_live_together),
        cmocka_unit_test(replacing_keeps_the_rest_of_the_list),
        cmocka_unit_test(another_hash_in_the_same_bucket_is_another_key),
        cmocka_unit_test(detaching_waits_for_readers),
    };

    return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
