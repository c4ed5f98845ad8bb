/* SPDX-License-Identifier: Apache-2.0
 *
 * test_adopt.c: states that lie. Whatever numbers a process is told, it adopts
 * only what nobody else owns, keeps every stored value and loses no block for
 * good; and in a segment that somebody has written into it reads nothing that is
 * not there and comes to an end.
 */
#include <stdlib.h>
#include <unistd.h>

#include "store_fixture.h"

enum { LIVE = 1000000, KEYS = 220, CHAINS = 12, READERS = 24 };

/* A segment as a process left it that held chains and references, and the true
 * states of them. */
typedef struct scene {
    fixture_t f;
    unsigned char *image;
    bool is_stored[KEYS];
    uint64_t items_use; /* blocks of all items */
    sd_chain_state_t chains[CHAINS];
    sd_ref_state_t refs[READERS];
} scene_t;

static sd_header_t *header_of(const fixture_t *f)
{
    return (sd_header_t *)(((uintptr_t)f->raw + 63) & ~(uintptr_t)63);
}

/* Ends of one to three bytes are frequent: they leave most of a block's old
 * bytes as they were, perhaps those of a whole head. */
static uint32_t length_of(uint32_t n, uint32_t key_len)
{
    uint32_t head = (uint32_t)sizeof(sd_item_t) + key_len;

    return n % 3 == 0 ? n * 7 : (1 + n % 5) * SD_BLOCK_BYTES - head % SD_BLOCK_BYTES + n % 4;
}

static void store(scene_t *c, uint32_t n, uint64_t seed)
{
    test_key_t key = numbered_key(n, 0);

    put_ok(&c->f, &key, seed, length_of(n, key.len), c->f.now + LIVE);
}

/* Chains that are never published leave heads of no version behind, whether they
 * are discarded or their process dies. */
static void end_some(scene_t *c, bool dies)
{
    sd_chain_t chains[40];
    uint32_t n;

    for (n = 0; n < 40; n++) {
        test_key_t key = numbered_key(5000 + n, 30);

        assert_int_equal(sd_chain_open(c->f.lane, &chains[n], key.bytes, key.len, c->f.now), SD_OK);
        assert_int_equal(sd_chain_reserve(c->f.lane, &chains[n], n * 40, c->f.now), SD_OK);
    }
    if (dies) {
        fixture_die(&c->f);
        fixture_attach(&c->f, 1, false);
        fixture_repair(&c->f);
        return;
    }
    for (n = 0; n < 40; n++)
        sd_chain_discard(c->f.lane, &chains[n]);
}

static void scene_open(scene_t *c, bool in_order)
{
    static const char text[2000];
    fixture_t *f = &c->f;
    uint32_t n;

    memset(c, 0, sizeof *c);
    fixture_open(f, MIB, 1, false);
    for (n = 0; n < 2 * KEYS; n++) {
        store(c, n % KEYS, n);
        if (n % 37 == 0)
            end_some(c, n % 2);
    }
    for (n = 0; n < READERS; n++) {
        uint32_t number = n / 3 * 5; /* three on each */
        test_key_t key = numbered_key(number, 0);
        sd_ref_t ref;

        assert_int_equal(sd_store_get(f->lane, key.bytes, key.len, f->now, &ref), SD_OK);
        sd_ref_advance(f->lane, &ref, ref.data_len * (n % 3) / 2);
        sd_ref_save(&ref, &c->refs[n]);
    }
    for (n = 0; n < KEYS; n++) {
        test_key_t key = numbered_key(n, 0);

        c->is_stored[n] = n % 4 != 0;
        if (c->is_stored[n])
            c->items_use += sd_item_blocks(key.len, length_of(n, key.len));
        else
            assert_int_equal(delete_key(f, &key), SD_OK);
    }
    for (n = 0; n < CHAINS; n++) {
        test_key_t key = numbered_key(1000 + n, n % 4 == 0 ? 240 : 20);
        sd_chain_t chain;

        assert_int_equal(sd_chain_open(f->lane, &chain, key.bytes, key.len, f->now), SD_OK);
        assert_int_equal(sd_chain_append(f->lane, &chain, text, n * 150, f->now), SD_OK);
        assert_int_equal(sd_chain_reserve(f->lane, &chain, n % 3 * 700, f->now), SD_OK);
        sd_chain_save(&chain, &c->chains[n]);
    }
    if (in_order)
        assert_true(sd_store_hand_over(&f->store));
    else
        fixture_die(f);
    c->image = malloc(f->mapped);
    assert_non_null(c->image);
    memcpy(c->image, f->map, f->mapped);
}

static void scene_close(scene_t *c)
{
    free(c->image);
    fixture_unmap(&c->f);
}

/* ---- lies ---- */

static uint32_t any_block(dice_t *d, const scene_t *c)
{
    switch (dice_below(d, 6)) {
    case 0:
        return c->chains[dice_below(d, CHAINS)].head;
    case 1:
        return c->refs[dice_below(d, READERS)].head;
    case 2:
        return (uint32_t)dice_roll(d);
    default:
        return dice_below(d, header_of(&c->f)->fresh + 3);
    }
}

static uint32_t near(dice_t *d, uint32_t n)
{
    return n + dice_below(d, 5) - 2;
}

static uint32_t any_length(dice_t *d)
{
    return dice_below(d, 4) == 0 ? (uint32_t)dice_roll(d) : dice_below(d, 1600);
}

static uint32_t blocks_from(const fixture_t *f, uint32_t head)
{
    uint32_t n = 0;

    for (; head != 0 && head < header_of(f)->fresh && n < 5000; n++)
        head = sd_link_next(f->store, head);
    return n;
}

static sd_chain_state_t false_chain(dice_t *d, const scene_t *c)
{
    sd_chain_state_t lie = c->chains[dice_below(d, CHAINS)];
    uint32_t kind = dice_below(d, 4);

    if (kind == 0)
        lie.blocks = near(d, lie.blocks);
    else if (kind == 1)
        lie.data_len = dice_below(d, 2) ? near(d, lie.data_len) : any_length(d);
    else {
        lie.head = any_block(d, c); /* and all else as fitting as can be */
        lie.blocks = kind == 2 ? blocks_from(&c->f, lie.head) : any_length(d);
        lie.data_len = any_length(d) % (kind == 2 ? SD_BLOCK_BYTES * (lie.blocks + 1) : UINT32_MAX);
    }
    return lie;
}

static sd_ref_state_t false_ref(dice_t *d, const scene_t *c)
{
    sd_ref_state_t lie = c->refs[dice_below(d, READERS)];

    switch (dice_below(d, 5)) {
    case 0:
        lie.left = any_length(d);
        break;
    case 1:
        lie.data_len = near(d, lie.data_len);
        break;
    case 2:
        lie.version = dice_below(d, 2) ? dice_roll(d) : dice_below(d, 700);
        break;
    default:
        lie.head = any_block(d, c);
        if (lie.head > 0 && lie.head < header_of(&c->f)->fresh) {
            const sd_item_t *item = sd_item(c->f.store, lie.head);

            lie.version = item->version;
            lie.data_len = item->data_len;
            lie.left = dice_below(d, 3) ? item->data_len : any_length(d);
        }
    }
    return lie;
}

typedef struct held {
    sd_chain_t chains[4000];
    sd_ref_t refs[4000];
    uint32_t chain_count, ref_count;
} held_t;

static void tell(scene_t *c, held_t *h, dice_t *d, uint32_t lies, bool the_truth)
{
    uint32_t n;

    for (n = 0; n < lies; n++) {
        sd_chain_state_t chain = the_truth && n < CHAINS ? c->chains[n] : false_chain(d, c);
        sd_ref_state_t ref = the_truth && n < READERS ? c->refs[n] : false_ref(d, c);

        if (sd_chain_adopt(c->f.lane, &chain, &h->chains[h->chain_count]) == SD_OK)
            h->chain_count++;
        else
            assert_int_equal(h->chains[h->chain_count].head, 0);
        if (sd_ref_adopt(c->f.lane, &ref, &h->refs[h->ref_count]) == SD_OK)
            h->ref_count++;
        else
            assert_int_equal(h->refs[h->ref_count].head, 0);
    }
}

static void examine(scene_t *c)
{
    uint32_t n;

    assert_clean(c->f.store);
    for (n = 0; n < KEYS; n++) {
        test_key_t key = numbered_key(n, 0);

        if (c->is_stored[n])
            assert_value(&c->f, &key, KEYS + n, length_of(n, key.len));
        else
            assert_false(is_there(&c->f, &key));
    }
}

static void use_and_let_go(scene_t *c, held_t *h, dice_t *d)
{
    static unsigned char bytes[8192];
    fixture_t *f = &c->f;
    uint32_t n;

    for (n = 0; n < h->ref_count; n++) {
        struct iovec iov;
        size_t got;

        while (sd_ref_iov(f->lane, &h->refs[n], &iov, 1, &got) > 0) {
            assert_true(got <= sizeof bytes);
            memcpy(bytes, iov.iov_base, got);
            sd_ref_advance(f->lane, &h->refs[n], got);
        }
        assert_int_equal(h->refs[n].left, 0);
        sd_ref_release(f->lane, &h->refs[n]);
    }
    for (n = 0; n < h->chain_count; n++) {
        sd_chain_t *chain = &h->chains[n];
        unsigned char key[SD_KEY_MAX];
        uint32_t len = sd_item_key_copy(f->store, chain->head, key);
        uint64_t version;

        if (sd_chain_append(f->lane, chain, bytes, dice_below(d, 900), f->now) != SD_OK
            || dice_below(d, 2)) {
            sd_chain_discard(f->lane, chain);
            continue;
        }
        assert_int_equal(sd_store_put(f->lane, chain, f->now + LIVE, SD_VERSION_ANY, f->now,
                                      &version), SD_OK);
        assert_int_equal(sd_store_delete(f->lane, key, len, SD_VERSION_ANY, f->now), SD_OK);
    }
    h->chain_count = h->ref_count = 0;
}

static void lie_to(bool in_order, bool damaged_count, uint64_t seed)
{
    static held_t h;
    scene_t c;
    uint32_t rounds = test_ops(60, 6), round, lost_some = 0, held;
    dice_t d = dice_new(seed);

    scene_open(&c, in_order);
    for (round = 0; round < rounds; round++) {
        memcpy(c.f.map, c.image, c.f.mapped);
        if (damaged_count)
            header_of(&c.f)->held = dice_below(&d, header_of(&c.f)->fresh);
        held = header_of(&c.f)->held;
        c.f.takes_over = true;
        fixture_attach(&c.f, 1, false);
        if (round % 3 == 0)
            tell(&c, &h, &d, 1000, false);
        if (round % 3 != 1)
            tell(&c, &h, &d, 100, true);
        tell(&c, &h, &d, round % 4 == 1 ? 5 : 1000, false); /* few: some is left over */
        assert_true(!in_order || c.f.store->unadopted <= held);
        if (in_order)
            assert_int_equal(sd_store_detached(c.f.store) + atomic_load(&c.f.store->incoming)
                             + c.f.store->unadopted, held);
        if (!damaged_count)
            examine(&c);
        if (round % 2)
            fixture_repair(&c.f);
        use_and_let_go(&c, &h, &d);
        fixture_repair(&c.f);
        if (!damaged_count)
            examine(&c);
        lost_some += c.f.store->unadopted > 0;
        fixture_detach(&c.f);
        if (damaged_count) /* a number of our own: nobody can find out that it is wrong */
            header_of(&c.f)->clean = 0;
        c.f.takes_over = false;
        fixture_attach(&c.f, 1, false);
        fixture_repair(&c.f);
        examine(&c);
        assert_int_equal(blocks_used(&c.f), c.items_use);
        assert_int_equal(sd_blocks_free_count(c.f.store), c.f.store->block_count - c.items_use);
        fixture_detach(&c.f);
    }
    assert_true(!in_order || damaged_count || lost_some > 0);
    scene_close(&c);
}

static void lies_after_an_orderly_end(void **state)
{
    (void)state;
    lie_to(true, false, 1);
}

static void lies_after_a_death(void **state)
{
    (void)state;
    lie_to(false, false, 2);
}

static void a_wrong_count_of_what_is_held(void **state)
{
    (void)state;
    lie_to(true, true, 3);
}

/* All numbers of all fields that code compares with a limit. */
static void numbers_at_the_limits(void **state)
{
    static const uint32_t limits[] = { 0, 1, 2, 255, 256, 257, INT32_MAX - 1u, INT32_MAX,
                                       INT32_MAX + 1u, UINT32_MAX - 1, UINT32_MAX, SD_LINK_NEXT };
    const size_t n = sizeof limits / sizeof *limits;
    static held_t h;
    size_t i, j, k;
    scene_t c;
    dice_t d = dice_new(4);

    (void)state;
    scene_open(&c, true);
    c.f.takes_over = true;
    fixture_attach(&c.f, 1, false);
    for (i = 0; i < n + 2; i++)
        for (j = 0; j < n + 1; j++)
            for (k = 0; k < n + 1; k++) {
                sd_chain_state_t a = c.chains[5];
                sd_ref_state_t b = c.refs[4];

                a.head = i < n ? limits[i] : a.head;
                a.head = i == n ? c.f.store->header->fresh : a.head;
                a.blocks = j < n ? limits[j] : a.blocks;
                a.data_len = k < n ? limits[k] : a.data_len + 1;
                b.head = i < n ? limits[i] : b.head;
                b.head = i == n ? c.f.store->header->fresh : b.head;
                b.data_len = j < n ? limits[j] : b.data_len;
                b.left = k < n ? limits[k] : b.data_len + 1;
                if (sd_chain_adopt(c.f.lane, &a, &h.chains[h.chain_count]) == SD_OK)
                    h.chain_count++;
                if (sd_ref_adopt(c.f.lane, &b, &h.refs[h.ref_count]) == SD_OK)
                    h.ref_count++;
            }
    assert_int_equal(h.chain_count, 1); /* a shorter length can be true, but once */
    examine(&c);
    use_and_let_go(&c, &h, &d);
    examine(&c);
    fixture_detach(&c.f);
    scene_close(&c);
}

/* ---- in a damaged segment ---- */

/* Changes a word of a table, or bytes anywhere. */
static void damage(scene_t *c, dice_t *d)
{
    sd_header_t *h = header_of(&c->f);
    unsigned char *base = (unsigned char *)h;
    uint32_t block = 1 + dice_below(d, h->fresh), value = any_block(d, c);
    uint64_t at;

    if (dice_below(d, 3) == 0)
        value = dice_below(d, 2) ? (uint32_t)dice_roll(d) : 1u << dice_below(d, 32);
    switch (dice_below(d, 5)) {
    case 0:
        at = h->buckets_at + sizeof(uint32_t) * (uint64_t)dice_below(d, h->buckets);
        break;
    case 1:
    case 2:
        at = h->links_at + sizeof(uint32_t) * (uint64_t)(block % h->blocks);
        if (dice_below(d, 2))
            value = (value & SD_LINK_NEXT) | h->epoch << SD_LINK_TAG_SHIFT;
        break;
    case 3: /* a field of an item's head */
        block = dice_below(d, 2) ? c->refs[dice_below(d, READERS)].head
                                 : c->chains[dice_below(d, CHAINS)].head;
        at = h->blocks_at + SD_BLOCK_BYTES * (uint64_t)(block - 1)
             + sizeof(uint32_t) * dice_below(d, 10);
        break;
    default: /* an item's next, which lists are walked by */
        at = h->blocks_at + SD_BLOCK_BYTES * (uint64_t)(block % h->blocks);
    }
    memcpy(base + at, &value, sizeof value);
}

static void adopting_in_a_damaged_segment(void **state)
{
    uint32_t rounds = test_ops(4000, 60), round, n;
    static held_t h;
    dice_t d = dice_new(5);
    scene_t c;

    (void)state;
    alarm(300); /* no damage makes it go round for ever */
    scene_open(&c, true);
    c.f.takes_over = true;
    for (round = 0; round < rounds; round++) {
        memcpy(c.f.map, c.image, c.f.mapped);
        for (n = 1 + dice_below(&d, 400); n > 0; n--)
            damage(&c, &d);
        if (round % 2)
            header_of(&c.f)->clean = 0;
        fixture_attach(&c.f, 1, false);
        tell(&c, &h, &d, 100, true);
        h.chain_count = h.ref_count = 0;
        fixture_die(&c.f);
    }
    scene_close(&c);
    alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lies_after_an_orderly_end),
        cmocka_unit_test(lies_after_a_death),
        cmocka_unit_test(a_wrong_count_of_what_is_held),
        cmocka_unit_test(numbers_at_the_limits),
        cmocka_unit_test(adopting_in_a_damaged_segment),
    };

    return cmocka_run_group_tests_name("adopt", tests, NULL, NULL);
}
