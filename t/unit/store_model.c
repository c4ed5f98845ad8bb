/* SPDX-License-Identifier: Apache-2.0
 *
 * store_model.c: see the header. What makes an exact model possible: expiries
 * are unique (the key's number is their remainder), so "the item nearest its
 * expiry" is one item; and free memory can be counted, so SD_FULL is right or
 * wrong, not a matter of taste.
 */
#include <stdlib.h>

#include "store_model.h"

#define EXPIRY_STEP 8192u /* more than there are keys */

void model_open(model_t *m, fixture_t *f, uint64_t seed, uint32_t keys, uint32_t max_len,
                uint32_t ttl)
{
    memset(m, 0, sizeof *m);
    assert_true(keys <= EXPIRY_STEP);
    m->f = f;
    m->dice = dice_new(seed);
    m->keys = keys;
    m->max_len = max_len;
    m->ttl = ttl;
    m->entries = calloc(keys, sizeof *m->entries);
    m->bytes = malloc(max_len + 1);
    assert_non_null(m->entries);
    assert_non_null(m->bytes);
}

static bool is_live(const model_t *m, uint32_t key)
{
    return m->entries[key].present && m->entries[key].expiry > m->f->now;
}

static sd_lane_t *any_lane(model_t *m)
{
    return sd_store_lane(m->f->store, dice_below(&m->dice, m->f->lanes));
}

/* Mostly some hundred bytes, sometimes up to the largest. */
static uint32_t any_length(model_t *m)
{
    uint32_t kind = dice_below(&m->dice, 16), most = m->max_len;

    if (kind < 9)
        most = 1500;
    else if (kind < 15)
        most = 8000;
    return dice_below(&m->dice, (most < m->max_len ? most : m->max_len) + 1);
}

static uint64_t any_expiry(model_t *m, uint32_t key)
{
    uint64_t at = m->f->now + dice_below(&m->dice, m->ttl);

    return at / EXPIRY_STEP * EXPIRY_STEP + EXPIRY_STEP + key;
}

/* Takes out of the array what the store has evicted meanwhile: each time the
 * live item that was nearest its expiry. */
static void note_evictions(model_t *m)
{
    for (; m->evicted < counter_sum(m->f, evicted); m->evicted++) {
        uint32_t key, nearest = m->keys;

        for (key = 0; key < m->keys; key++)
            if (is_live(m, key)
                && (nearest == m->keys || m->entries[key].expiry < m->entries[nearest].expiry))
                nearest = key;
        assert_true(nearest < m->keys);
        m->entries[nearest].present = false;
    }
}

/* Was the store right to refuse `more` blocks to this lane? */
static void expect_full(model_t *m, const sd_lane_t *lane, uint32_t more, bool live)
{
    const sd_store_t *s = m->f->store;
    uint32_t have = sd_blocks_free_count(m->f->store), i, keep = live ? 0 : s->reserve;
    uint32_t pool = s->header->pool_count + s->block_count + 1 - s->header->fresh;

    m->refused++;
    if (m->repairing)
        return;
    for (i = 0; i < m->f->lanes; i++)
        if (&s->lanes[i] != lane)
            have -= s->lanes[i].list->count; /* out of this lane's reach */
    /* a lane's own list is closed to new values while the pool is low */
    assert_true(have < more + keep || (!live && pool < keep));
    if (m->refused % 128 != 0)
        return;
    for (i = 0; i < m->keys; i++) { /* nothing that has expired is left, readers aside */
        test_key_t key = numbered_key(i, 0);

        if (m->entries[i].present && !is_live(m, i))
            assert_int_equal(item_of(m->f, &key), 0);
    }
}

/* What a value that replaces nothing has taken was not of the last 1%. */
static void expect_reserve_kept(const model_t *m)
{
    const sd_store_t *s = m->f->store;

    assert_true(s->header->pool_count + s->block_count + 1 - s->header->fresh >= s->reserve);
}

static void finish_put(model_t *m, sd_lane_t *lane, sd_chain_t *chain, uint32_t key, uint64_t seed,
                       uint32_t len)
{
    model_entry_t *e = &m->entries[key];
    uint64_t expiry = any_expiry(m, key), match = SD_VERSION_ANY, version = 0, there;
    sd_status_t status;

    note_evictions(m);
    there = is_live(m, key) ? e->version : SD_VERSION_ABSENT;
    switch (dice_below(&m->dice, 6)) {
    case 0:
        match = there;
        break;
    case 1:
        match = dice_below(&m->dice, 2) ? SD_VERSION_ABSENT : e->version + dice_below(&m->dice, 2);
        break;
    }
    status = sd_store_put(lane, chain, expiry, match, m->f->now, &version);
    if (match != SD_VERSION_ANY && match != there) {
        assert_int_equal(status, SD_CONFLICT);
        sd_chain_discard(lane, chain);
        return;
    }
    assert_int_equal(status, SD_OK);
    assert_true(version > m->last_version);
    m->last_version = version;
    m->created += there == SD_VERSION_ABSENT;
    m->stored++;
    e->present = true;
    e->seed = seed;
    e->len = len;
    e->version = version;
    e->expiry = expiry;
}

static void op_put(model_t *m)
{
    sd_lane_t *lane = any_lane(m);
    uint32_t number = dice_below(&m->dice, m->keys), len = any_length(m);
    test_key_t key = numbered_key(number, 0);
    uint64_t seed = dice_roll(&m->dice);
    bool live = is_live(m, number);
    sd_chain_t chain;
    sd_status_t status = sd_chain_open(lane, &chain, key.bytes, key.len, m->f->now);

    if (status == SD_OK) {
        value_fill(m->bytes, len, seed);
        status = sd_chain_append(lane, &chain, m->bytes, len, m->f->now);
    }
    if (status == SD_OK) {
        if (!live)
            expect_reserve_kept(m);
        finish_put(m, lane, &chain, number, seed, len);
        return;
    }
    assert_int_equal(status, SD_FULL);
    sd_chain_discard(lane, &chain);
    note_evictions(m);
    expect_full(m, lane, sd_item_blocks(key.len, len), live);
}

static void op_get(model_t *m, bool hold)
{
    sd_lane_t *lane = any_lane(m);
    uint32_t number = dice_below(&m->dice, m->keys);
    test_key_t key = numbered_key(number, 0);
    const model_entry_t *e = &m->entries[number];
    sd_ref_t ref;
    sd_status_t status = sd_store_get(lane, key.bytes, key.len, m->f->now, &ref);

    if (!is_live(m, number)) {
        assert_int_equal(status, SD_MISS);
        return;
    }
    assert_int_equal(status, SD_OK);
    assert_int_equal(ref.version, e->version);
    assert_int_equal(ref.expiry, e->expiry);
    if (hold) {
        model_hold_t *h = &m->holds[dice_below(&m->dice, MODEL_HOLDS)];

        if (h->ref.head == 0) {
            h->ref = ref;
            h->seed = e->seed;
            h->len = e->len;
            return;
        }
    }
    assert_true(ref_shows(lane, &ref, e->seed, e->len));
    sd_ref_release(lane, &ref);
}

/* Reads on in a value that is held, as a slow client does: at most `most` bytes
 * in at most `max` vectors. */
static void read_on(model_t *m, model_hold_t *h, uint32_t most, int max)
{
    struct iovec iov[4];
    size_t bytes, n, sum = 0, at = h->len - h->ref.left;
    int i, vectors = sd_ref_iov(any_lane(m), &h->ref, iov, max, &bytes);

    assert_true(vectors <= max && bytes <= h->ref.left);
    assert_true(bytes > 0 || h->ref.left == 0);
    value_fill(m->bytes, h->len, h->seed);
    n = bytes < most ? bytes : most;
    for (i = 0; i < vectors && sum < n; i++) {
        size_t here = iov[i].iov_len < n - sum ? iov[i].iov_len : n - sum;

        assert_memory_equal(iov[i].iov_base, m->bytes + at + sum, here);
        sum += here;
    }
    assert_int_equal(sum, n);
    sd_ref_advance(any_lane(m), &h->ref, n);
    assert_int_equal(h->len - h->ref.left, at + n);
}

static void op_read_on(model_t *m)
{
    model_hold_t *h = &m->holds[dice_below(&m->dice, MODEL_HOLDS)];
    uint32_t most = 1 + dice_below(&m->dice, h->ref.left + 1);
    int max = 1 + (int)dice_below(&m->dice, 4);

    if (h->ref.head != 0)
        read_on(m, h, most, max);
}

static void release(model_t *m, model_hold_t *h)
{
    if (h->ref.head == 0)
        return;
    if (h->ref.left == h->len)
        assert_true(ref_shows(any_lane(m), &h->ref, h->seed, h->len));
    while (h->ref.left > 0)
        read_on(m, h, h->ref.left, 4);
    sd_ref_release(any_lane(m), &h->ref);
}

static void op_delete(model_t *m)
{
    sd_lane_t *lane = any_lane(m);
    uint32_t number = dice_below(&m->dice, m->keys);
    test_key_t key = numbered_key(number, 0);
    model_entry_t *e = &m->entries[number];
    uint64_t match = SD_VERSION_ANY;
    sd_status_t status, want = is_live(m, number) ? SD_OK : SD_MISS;

    if (dice_below(&m->dice, 3) == 0) {
        match = e->version + dice_below(&m->dice, 2);
        if (want == SD_OK && match != e->version)
            want = SD_CONFLICT;
    }
    status = sd_store_delete(lane, key.bytes, key.len, match, m->f->now);
    assert_int_equal(status, want);
    if (want == SD_OK) {
        e->present = false;
        m->deleted++;
    }
}

/* Longer or shorter; the bytes and the version stay. */
static void op_touch(model_t *m)
{
    sd_lane_t *lane = any_lane(m);
    uint32_t number = dice_below(&m->dice, m->keys);
    test_key_t key = numbered_key(number, 0);
    model_entry_t *e = &m->entries[number];
    uint64_t expiry = m->f->now + dice_below(&m->dice, m->ttl);

    assert_int_equal(sd_store_touch(lane, key.bytes, key.len, expiry, m->f->now), is_live(m, number) ? SD_OK : SD_MISS);
    if (is_live(m, number))
        e->expiry = expiry;
}

/* A value that comes in over many operations, through any lane. */
static void op_chain(model_t *m)
{
    model_chain_t *c = &m->chains[dice_below(&m->dice, MODEL_CHAINS)];
    sd_lane_t *lane = any_lane(m);
    uint32_t n;

    if (c->chain.head == 0) {
        test_key_t key;

        c->key = dice_below(&m->dice, m->keys);
        c->len = any_length(m);
        c->seed = dice_roll(&m->dice);
        key = numbered_key(c->key, 0);
        if (sd_chain_open(lane, &c->chain, key.bytes, key.len, m->f->now) != SD_OK)
            memset(&c->chain, 0, sizeof c->chain);
        note_evictions(m);
        return;
    }
    if (dice_below(&m->dice, 12) == 0) {
        sd_chain_discard(lane, &c->chain);
        return;
    }
    if (c->chain.data_len == c->len) {
        finish_put(m, lane, &c->chain, c->key, c->seed, c->len);
        return;
    }
    n = 1 + dice_below(&m->dice, c->len - c->chain.data_len);
    value_fill(m->bytes, c->len, c->seed);
    if (dice_below(&m->dice, 2)) {
        if (sd_chain_append(lane, &c->chain, m->bytes + c->chain.data_len, n, m->f->now) != SD_OK)
            sd_chain_discard(lane, &c->chain);
    }
    else if (sd_chain_reserve(lane, &c->chain, n + dice_below(&m->dice, 2000), m->f->now)
             == SD_OK) {
        struct iovec iov[3];
        int i, vectors = sd_chain_room(lane, &c->chain, n, iov, 3);
        uint32_t done = 0;

        for (i = 0; i < vectors; i++) {
            memcpy(iov[i].iov_base, m->bytes + c->chain.data_len + done, iov[i].iov_len);
            done += (uint32_t)iov[i].iov_len;
        }
        assert_true(done > 0 && done <= n);
        sd_chain_advance(lane, &c->chain, done);
    }
    else
        sd_chain_discard(lane, &c->chain);
    note_evictions(m);
}

void model_operate(model_t *m)
{
    uint32_t kind = dice_below(&m->dice, 100);

    if (m->disk && dice_below(&m->dice, 16) == 0)
        model_round(m);

    if (m->repairing && kind % 8 == 0)
        m->repairing = sd_store_repair(any_lane(m), m->f->now);
    if (kind < 36)
        op_put(m);
    else if (kind < 58)
        op_get(m, false);
    else if (kind < 66)
        op_get(m, true);
    else if (kind < 72)
        release(m, &m->holds[dice_below(&m->dice, MODEL_HOLDS)]);
    else if (kind < 76)
        op_read_on(m);
    else if (kind < 83)
        op_delete(m);
    else if (kind < 95)
        op_chain(m);
    else if (kind < 98)
        m->f->now += dice_below(&m->dice, m->ttl / 1000 + 2);
    else if (kind < 99)
        op_touch(m);
    else {
        sd_lane_t *lane = any_lane(m);

        sd_store_sweep(lane, m->f->now, dice_below(&m->dice, 2000));
    }
}

void model_verify(model_t *m)
{
    uint32_t number, live = 0;
    uint64_t expected;

    note_evictions(m);
    assert_clean(m->f->store);
    for (number = 0; number < m->keys; number++) {
        test_key_t key = numbered_key(number, 0);

        if (is_live(m, number)) {
            assert_value(m->f, &key, m->entries[number].seed, m->entries[number].len);
            live++;
        }
        else if (item_of(m->f, &key) != 0) /* if it is there it has expired, not come back */
            assert_true(m->entries[number].present);
    }
    expected = m->created - m->deleted - m->evicted - counter_sum(m->f, expired);
    assert_true(expected >= live);
    if (!m->repairing)
        assert_int_equal(sessions(m->f), expected);
    assert_int_equal(counter_sum(m->f, repaired_items), 0);
}

/* The next process: sums over lanes of the old one stay; gauges of lanes that it
 * no longer has go. */
static void succeed(model_t *m, uint32_t lanes)
{
    uint32_t i;

    for (i = lanes; i < m->f->lanes; i++) {
        atomic_fetch_add(&m->f->counters[0].expired, atomic_exchange(&m->f->counters[i].expired, 0));
        atomic_fetch_add(&m->f->counters[0].evicted, atomic_exchange(&m->f->counters[i].evicted, 0));
    }
    fixture_attach(m->f, lanes, m->f->evict);
    memset(m->holds, 0, sizeof m->holds);
    memset(m->chains, 0, sizeof m->chains);
    m->repairing = m->f->store->repair.phase != SD_REPAIR_NONE;
    m->in_round = false;
    if (m->disk)
        disk_meet(m->disk, m->f->store);
}

void model_die(model_t *m, uint32_t lanes)
{
    note_evictions(m);
    fixture_die(m->f);
    succeed(m, lanes);
}

static void let_go(model_t *m)
{
    uint32_t i;

    for (i = 0; i < MODEL_HOLDS; i++)
        release(m, &m->holds[i]);
    for (i = 0; i < MODEL_CHAINS; i++)
        sd_chain_discard(any_lane(m), &m->chains[i].chain);
}

void model_restart(model_t *m, uint32_t lanes, bool let_all_go)
{
    bool whole;

    model_give_up_round(m);
    note_evictions(m);
    if (let_all_go)
        let_go(m);
    whole = !m->repairing && atomic_load(&m->f->store->incoming) == 0
            && atomic_load(&m->f->store->detached) == 0;
    fixture_detach(m->f);
    succeed(m, lanes);
    assert_int_equal(m->repairing || m->f->store->repair.alone, !whole);
}

static void adopt_chain(model_t *m, model_chain_t *to, const model_chain_t *was, bool lost)
{
    sd_chain_t want = was->chain;
    sd_chain_state_t state;

    want.privileged = false;
    sd_chain_save(&was->chain, &state);
    if (want.head != 0)
        assert_int_equal(sd_chain_adopt(any_lane(m), &state, &to->chain), lost ? SD_INVALID : SD_OK);
    if (lost)
        return;
    *to = *was;
    to->chain.privileged = false;
    assert_memory_equal(&to->chain, &want, sizeof want);
}

static void adopt_hold(model_t *m, model_hold_t *to, const model_hold_t *was, bool lost)
{
    sd_ref_state_t state;
    sd_ref_t want = was->ref;

    sd_ref_save(&was->ref, &state);
    if (was->ref.head == 0)
        return;
    assert_int_equal(sd_ref_adopt(any_lane(m), &state, &to->ref), lost ? SD_INVALID : SD_OK);
    if (lost)
        return;
    want.expiry = to->ref.expiry; /* the value may have been touched since it was read */
    assert_memory_equal(&to->ref, &want, sizeof want);
    to->seed = was->seed;
    to->len = was->len;
}

void model_hand_over(model_t *m, uint32_t lanes, bool dies)
{
    model_chain_t chains[MODEL_CHAINS];
    model_hold_t holds[MODEL_HOLDS];
    bool detached[MODEL_HOLDS], in_order = !dies && !m->repairing, lost;
    uint32_t incoming, waiting, i;

    model_give_up_round(m);
    incoming = atomic_load(&m->f->store->incoming);
    waiting = sd_store_detached(m->f->store);
    note_evictions(m);
    memcpy(chains, m->chains, sizeof chains);
    memcpy(holds, m->holds, sizeof holds);
    for (i = 0; i < MODEL_HOLDS; i++)
        detached[i] = sd_ref_is_detached(m->f->lane, &holds[i].ref);
    if (dies)
        fixture_die(m->f);
    else
        assert_int_equal(sd_store_hand_over(&m->f->store), in_order);
    m->f->takes_over = true;
    succeed(m, lanes);
    m->f->takes_over = false;
    lost = m->f->store->repair.alone; /* all was repaired before anything could be adopted */
    assert_int_equal(m->repairing || lost, !in_order);
    for (i = 0; i < MODEL_CHAINS; i++)
        adopt_chain(m, &m->chains[i], &chains[i], lost);
    for (i = 0; i < MODEL_HOLDS; i++) {
        adopt_hold(m, &m->holds[i], &holds[i], lost && detached[i]);
        if (m->holds[i].ref.head != 0)
            assert_int_equal(sd_ref_is_detached(m->f->lane, &holds[i].ref), detached[i]);
    }
    assert_int_equal(atomic_load(&m->f->store->incoming), lost ? 0 : incoming);
    assert_int_equal(sd_store_detached(m->f->store), lost ? 0 : waiting);
    assert_int_equal(m->f->store->unadopted, 0);
    assert_clean(m->f->store);
}

void model_settle(model_t *m)
{
    uint64_t blocks = 0, live = 0;
    uint32_t i;

    let_go(m);
    while (m->repairing)
        m->repairing = sd_store_repair(any_lane(m), m->f->now);
    sd_store_sweep(m->f->lane, m->f->now, UINT32_MAX);
    note_evictions(m);
    for (i = 0; i < 3 && m->disk; i++) /* what is astray, and tombstones */
        model_whole_round(m);
    assert_int_equal(tombstones(m->f), 0);
    model_verify(m);
    for (i = 0; i < m->keys; i++)
        if (is_live(m, i)) {
            live++;
            blocks += sd_item_blocks(numbered_key(i, 0).len, m->entries[i].len);
        }
    assert_int_equal(sessions(m->f), live);
    assert_int_equal(blocks_used(m->f), blocks);
    assert_int_equal(sd_blocks_free_count(m->f->store), m->f->store->block_count - blocks);
    assert_int_equal(atomic_load(&m->f->store->incoming), 0);
    assert_int_equal(atomic_load(&m->f->store->detached), 0);
    for (i = 0; i <= m->f->store->block_count; i++)
        assert_int_equal(atomic_load(&m->f->store->pins[i]), 0);
}

void model_close(model_t *m)
{
    free(m->entries);
    free(m->bytes);
    memset(m, 0, sizeof *m);
}
