/* SPDX-License-Identifier: Apache-2.0
 *
 * test_threads.c: four threads on the same keys. Every value begins with the
 * seed of its bytes, so that a mixture of two stores, a value freed under its
 * reader or a lost update is seen by whoever meets it. Meant to be run under
 * the thread sanitizer as well, which finds what luck hides here.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "store_fixture.h"

enum { THREADS = 4, HEAD = 16, MAX_LEN = 9000 };

typedef struct field {
    fixture_t f;
    uint32_t keys, ops, ttl;
    _Atomic uint64_t now;
    _Atomic uint32_t running;
    _Atomic uint32_t hits, full;
    _Atomic(const char *) failure; /* the first one */
} field_t;

typedef struct player {
    field_t *field;
    uint32_t number;
    sd_lane_t *lane;
    dice_t dice;
    uint64_t *versions; /* given to this thread */
    uint32_t count;
    unsigned char bytes[HEAD + MAX_LEN];
} player_t;

static void complain(field_t *field, const char *what)
{
    const char *none = NULL;

    atomic_compare_exchange_strong(&field->failure, &none, what);
}

static sd_status_t store_one(player_t *p, const test_key_t *key, uint64_t match, uint64_t first,
                             uint64_t *version)
{
    uint64_t now = atomic_load(&p->field->now), seed = dice_roll(&p->dice);
    uint32_t len = dice_below(&p->dice, dice_below(&p->dice, 8) ? 900 : MAX_LEN), done = 0;
    sd_chain_t chain;
    sd_status_t status;

    memcpy(p->bytes, &seed, 8);
    memcpy(p->bytes + 8, &first, 8);
    value_fill(p->bytes + HEAD, len, seed ^ first);
    status = sd_chain_open(p->lane, &chain, key->bytes, key->len, now);
    while (status == SD_OK && done < HEAD + len) {
        uint32_t n = 1 + dice_below(&p->dice, HEAD + len - done);

        status = sd_chain_append(p->lane, &chain, p->bytes + done, n, now);
        done += n;
    }
    if (status == SD_OK)
        status = sd_store_put(p->lane, &chain, now + 1 + dice_below(&p->dice, p->field->ttl), match,
                              now, version);
    if (status != SD_OK)
        sd_chain_discard(p->lane, &chain);
    return status;
}

/* Reads a reference to its end. False: these bytes were never stored together. */
static bool read_one(player_t *p, const sd_ref_t *ref, uint64_t *first)
{
    sd_ref_t at = *ref;
    struct iovec iov[4];
    size_t have = 0, covered;
    uint64_t seed;
    int i, n;

    if (ref->data_len < HEAD || ref->data_len > sizeof p->bytes)
        return false;
    while ((n = sd_ref_iov(p->lane, &at, iov, 4, &covered)) > 0) {
        for (i = 0; i < n; i++) {
            memcpy(p->bytes + have, iov[i].iov_base, iov[i].iov_len);
            have += iov[i].iov_len;
        }
        sd_ref_advance(p->lane, &at, covered);
    }
    memcpy(&seed, p->bytes, 8);
    memcpy(first, p->bytes + 8, 8);
    return have == ref->data_len
           && value_is(p->bytes + HEAD, (uint32_t)have - HEAD, seed ^ *first);
}

static void *play(void *arg)
{
    player_t *p = arg;
    field_t *field = p->field;
    sd_ref_t held[6] = { { 0 } };
    uint64_t first, version;
    uint32_t n, i;

    for (n = 0; n < field->ops && !atomic_load(&field->failure); n++) {
        test_key_t key = numbered_key(dice_below(&p->dice, field->keys), 0);
        uint64_t now = atomic_load(&field->now);
        sd_status_t status;
        sd_ref_t ref;

        switch (dice_below(&p->dice, 12)) {
        case 0:
        case 1:
        case 2:
        case 3:
            status = sd_store_get(p->lane, key.bytes, key.len, now, &ref);
            if (status == SD_OK && !read_one(p, &ref, &first))
                complain(field, "a value is a mixture");
            if (status == SD_OK && ref.expiry <= now)
                complain(field, "an expired value was served");
            if (status != SD_OK && status != SD_MISS)
                complain(field, "a get was refused");
            atomic_fetch_add(&field->hits, status == SD_OK);
            sd_ref_release(p->lane, &ref);
            break;
        case 4: /* held for a while, and read again at the end */
            i = dice_below(&p->dice, 6);
            if (held[i].head != 0 && !read_one(p, &held[i], &first))
                complain(field, "a held value has changed");
            sd_ref_release(p->lane, &held[i]);
            sd_store_get(p->lane, key.bytes, key.len, now, &held[i]);
            break;
        case 5:
            status = sd_store_delete(p->lane, key.bytes, key.len,
                                     n % 2 ? SD_VERSION_ANY : p->versions[p->count / 2], now);
            if (status == SD_FULL || status == SD_BUSY)
                complain(field, "a delete was refused");
            break;
        case 6:
            sd_store_sweep(p->lane, now, 256);
            break;
        case 7:
            if (dice_below(&p->dice, 8) == 0)
                atomic_fetch_add(&field->now, dice_below(&p->dice, 20));
            break;
        default:
            status = store_one(p, &key, SD_VERSION_ANY, n, &version);
            if (status == SD_OK)
                p->versions[p->count++] = version;
            else if (status != SD_FULL)
                complain(field, "a store was refused");
            atomic_fetch_add(&field->full, status == SD_FULL);
        }
    }
    for (i = 0; i < 6; i++) {
        if (held[i].head != 0 && !read_one(p, &held[i], &first))
            complain(field, "a held value has changed");
        sd_ref_release(p->lane, &held[i]);
    }
    atomic_fetch_sub(&field->running, 1);
    return NULL;
}

/* What the main thread of a server does meanwhile: looks, sweeps, repairs. */
static void look_on(field_t *field)
{
    sd_lane_t *lane = sd_store_lane(field->f.store, THREADS);
    sd_usage_t u;
    bool more = true;

    while (atomic_load(&field->running) > 0) {
        sd_store_usage(field->f.store, &u);
        if (u.blocks_free > u.blocks || u.items > u.blocks || u.largest > u.size)
            complain(field, "the usage is impossible");
        if (more)
            more = sd_store_repair(lane, atomic_load(&field->now));
        else
            sd_store_sweep(lane, atomic_load(&field->now), 1000);
        sched_yield();
    }
    while (more)
        more = sd_store_repair(lane, atomic_load(&field->now));
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* One round of all threads. Afterwards everything adds up, and no version was
 * given out twice. */
static void round_of_threads(field_t *field, uint64_t seed, void *(*body)(void *))
{
    pthread_t threads[THREADS];
    player_t *players = calloc(THREADS, sizeof *players);
    uint64_t *all = malloc(THREADS * (field->ops + 1) * sizeof *all);
    uint32_t i, n = 0, k;

    assert_non_null(players);
    assert_non_null(all);
    atomic_store(&field->running, THREADS);
    for (i = 0; i < THREADS; i++) {
        players[i].field = field;
        players[i].number = i;
        players[i].lane = sd_store_lane(field->f.store, i);
        players[i].dice = dice_new(seed * THREADS + i);
        players[i].versions = calloc(field->ops + 1, sizeof(uint64_t));
        assert_non_null(players[i].versions);
        assert_int_equal(pthread_create(&threads[i], NULL, body, &players[i]), 0);
    }
    look_on(field);
    for (i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        for (k = 0; k < players[i].count; k++) {
            all[n++] = players[i].versions[k];
            assert_true(k == 0 || players[i].versions[k] > players[i].versions[k - 1]);
        }
        free(players[i].versions);
    }
    if (atomic_load(&field->failure))
        fail_msg("%s", atomic_load(&field->failure));
    qsort(all, n, sizeof *all, by_value);
    for (k = 1; k < n; k++)
        assert_true(all[k] > all[k - 1]);
    assert_true(n > 0);
    assert_clean(field->f.store);
    assert_int_equal(atomic_load(&field->f.store->incoming), 0);
    assert_int_equal(atomic_load(&field->f.store->detached), 0);
    free(all);
    free(players);
}

static void field_open(field_t *field, uint64_t size, bool evict, uint32_t keys, uint32_t ttl)
{
    memset(field, 0, sizeof *field);
    fixture_open(&field->f, size, THREADS + 1, evict);
    field->keys = keys;
    field->ttl = ttl;
    field->ops = test_ops(150000, 1500);
    atomic_store(&field->now, field->f.now);
}

/* Everything goes: no block and no count stays behind. */
static void field_close(field_t *field)
{
    field->f.now = atomic_load(&field->now) + field->ttl;
    sd_store_sweep(field->f.lane, field->f.now, UINT32_MAX);
    assert_int_equal(sessions(&field->f) + blocks_used(&field->f), 0);
    fixture_close(&field->f);
}

static void few_keys_much_room(void **state)
{
    static field_t field;

    (void)state;
    field_open(&field, 16 * MIB, false, 8, 400);
    round_of_threads(&field, 1, play);
    assert_int_equal(atomic_load(&field.full), 0);
    assert_true(atomic_load(&field.hits) > 0);
    field_close(&field);
}

static void many_keys_full_memory(void **state)
{
    static field_t field;

    (void)state;
    field_open(&field, MIB, false, 3000, 1000000);
    round_of_threads(&field, 2, play);
    assert_true(atomic_load(&field.full) > 0 || slowed_down());
    field_close(&field);
}

static void many_keys_evicting(void **state)
{
    static field_t field;

    (void)state;
    field_open(&field, MIB, true, 3000, 1000000);
    round_of_threads(&field, 3, play);
    assert_true(counter_sum(&field.f, evicted) > 0 || slowed_down());
    field_close(&field);
}

/* Processes that end without a detach, and threads at work from the first
 * moment of the next one, while the repair runs. */
static void repairing_beside_the_threads(void **state)
{
    static field_t field;
    uint32_t round, rounds = test_ops(40, 4), filled;

    (void)state;
    field_open(&field, 16 * MIB, false, 600, 2000);
    field.ops = 600;
    /* the repair has a long way to go: all blocks were once taken */
    filled = fill_up(&field.f, 100000, field.f.now + 100);
    for (round = 0; round < rounds; round++) {
        sd_chain_t chain;
        sd_ref_t ref;
        uint32_t i;

        round_of_threads(&field, 10 + round, play);
        for (i = 0; i < 30; i++) { /* what is lost with this process */
            test_key_t key = numbered_key(dice_below(&(dice_t){ .state = round * 100 + i }, 600), 0);

            sd_store_get(field.f.lane, key.bytes, key.len, atomic_load(&field.now), &ref);
            if (sd_chain_open(field.f.lane, &chain, key.bytes, key.len, atomic_load(&field.now))
                == SD_OK)
                sd_chain_reserve(field.f.lane, &chain, 5000, atomic_load(&field.now));
        }
        fixture_die(&field.f);
        fixture_attach(&field.f, THREADS + 1, false);
    }
    round_of_threads(&field, 5, play);
    assert_int_equal(counter_sum(&field.f, repaired_items), 0);
    assert_true(filled > 10000);
    field_close(&field);
}

/* Each thread reads, adds one, and writes if nobody else has written since:
 * the fence by version loses no update. */
static void *add(void *arg)
{
    player_t *p = arg;
    field_t *field = p->field;
    uint32_t n;

    for (n = 0; n < field->ops && !atomic_load(&field->failure);) {
        test_key_t key = numbered_key(n % field->keys, 0);
        uint64_t first = 0, version = SD_VERSION_ABSENT, now = atomic_load(&field->now);
        sd_ref_t ref;

        if (sd_store_get(p->lane, key.bytes, key.len, now, &ref) == SD_OK) {
            if (!read_one(p, &ref, &first))
                complain(field, "a value is a mixture");
            version = ref.version;
            sd_ref_release(p->lane, &ref);
        }
        switch (store_one(p, &key, version, first + 1, &version)) {
        case SD_OK:
            p->versions[p->count++] = version;
            n++;
            break;
        case SD_CONFLICT:
            break;
        default:
            complain(field, "a store was refused");
        }
    }
    atomic_fetch_sub(&field->running, 1);
    return NULL;
}

static void no_update_is_lost(void **state)
{
    static field_t field;
    player_t *p = calloc(1, sizeof *p);
    uint32_t n;

    (void)state;
    assert_non_null(p);
    field_open(&field, 4 * MIB, false, 5, 1000000);
    field.ops = test_ops(20000, 1000) / 5 * 5;
    round_of_threads(&field, 4, add);
    p->field = &field;
    p->lane = field.f.lane;
    for (n = 0; n < 5; n++) {
        test_key_t key = numbered_key(n, 0);
        uint64_t sum = 0;
        sd_ref_t ref;

        assert_int_equal(
            sd_store_get(p->lane, key.bytes, key.len, atomic_load(&field.now), &ref), SD_OK);
        assert_true(read_one(p, &ref, &sum));
        assert_int_equal(sum, THREADS * field.ops / 5);
        sd_ref_release(p->lane, &ref);
    }
    free(p);
    field_close(&field);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_keys_much_room),
        cmocka_unit_test(many_keys_full_memory),
        cmocka_unit_test(many_keys_evicting),
        cmocka_unit_test(repairing_beside_the_threads),
        cmocka_unit_test(no_update_is_lost),
    };

    alarm(900);
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
