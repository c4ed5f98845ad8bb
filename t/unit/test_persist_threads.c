/* SPDX-License-Identifier: Apache-2.0
 *
 * test_persist_threads.c: rounds that clean all the time, while threads store and
 * remove. After each round the file is copied and loaded, as after a power cut at
 * that moment: of each key there is what was last done to it before the round
 * began, or something later; never something earlier, and never nothing.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "persist_fixture.h"

enum { THREADS = 2, KEYS = 40 }; /* keys of each thread; the odd ones are also removed */

typedef struct worker {
    desk_t *desk;
    uint32_t number;
    atomic_bool *end;
    _Atomic uint64_t version[KEYS]; /* given out to the last put that has returned */
    _Atomic uint32_t removals[KEYS]; /* begun */
    bool failed;
} worker_t;

static test_key_t key_of(uint32_t thread, uint32_t n)
{
    return numbered_key(thread * 1000 + n, 20);
}

/* Without a heap: what another thread has there is lost in the child that is forked
 * meanwhile, and valgrind says so. */
static bool store(sd_lane_t *lane, const test_key_t *key, uint64_t seed, uint32_t len, uint64_t now, uint64_t *version)
{
    unsigned char data[4096];
    sd_chain_t chain;

    value_fill(data, len, seed);
    if (sd_chain_open(lane, &chain, key->bytes, key->len, now) != SD_OK)
        return false;
    if (sd_chain_append(lane, &chain, data, len, now) == SD_OK
        && sd_store_put(lane, &chain, now + 1000000, SD_VERSION_ANY, now, version) == SD_OK)
        return true;
    sd_chain_discard(lane, &chain);
    return false;
}

static void *work(void *arg)
{
    worker_t *w = arg;
    sd_lane_t *lane = sd_store_lane(w->desk->f.store, 2 + w->number);
    dice_t dice = dice_new(w->number + 1);
    uint64_t now = w->desk->f.now;

    while (!atomic_load(w->end)) {
        /* a few make the waste; the others are seldom changed, and so are carried along */
        uint32_t n = dice_below(&dice, 100) != 0 ? dice_below(&dice, 3) : dice_below(&dice, KEYS);
        test_key_t key = key_of(w->number, n);
        uint64_t version;

        if (n % 2 == 1 && dice_below(&dice, 3) == 0) {
            atomic_store(&w->version[n], 0);
            atomic_fetch_add(&w->removals[n], 1);
            (void)sd_store_delete(lane, key.bytes, key.len, SD_VERSION_ANY, now);
            continue;
        }
        if (store(lane, &key, n, 500 + dice_below(&dice, 3000), now, &version))
            atomic_store(&w->version[n], version);
        else
            w->failed = true;
    }
    return NULL;
}

static void copy_files(const desk_t *d, const char *dir)
{
    char from[128], to[160];
    bytes_t b;

    desk_path(d, "data.mdb", from);
    snprintf(to, sizeof to, "%s/data.mdb", dir);
    b = file_read(from);
    file_write(to, b.at, b.len);
    free(b.at);
}

static void nothing_is_ever_behind(void **state)
{
    static desk_t d;
    static worker_t w[THREADS];
    uint64_t before[THREADS][KEYS];
    uint32_t removals[THREADS][KEYS];
    pthread_t thread[THREADS];
    atomic_bool end = false;
    uint32_t rounds = test_ops(250, 12), r, t, n;
    char dir[64];

    (void)state;
    memset(w, 0, sizeof w);
    desk_open(&d, 16 * MIB);
    fixture_detach(&d.f);
    fixture_attach(&d.f, 2 + THREADS, false);
    sd_journal_close(&d.journal);
    d.slack_bytes = 1;
    desk_journal_open(&d, SD_PERSIST_OK);
    dir_make(dir);
    for (t = 0; t < THREADS; t++) {
        w[t].desk = &d;
        w[t].number = t;
        w[t].end = &end;
        assert_int_equal(pthread_create(&thread[t], NULL, work, &w[t]), 0);
    }
    for (r = 0; r < rounds; r++) {
        loaded_t l;

        for (t = 0; t < THREADS; t++)
            for (n = 0; n < KEYS; n++) {
                removals[t][n] = atomic_load(&w[t].removals[n]);
                before[t][n] = atomic_load(&w[t].version[n]);
            }
        assert_int_equal(desk_try_round(&d, r % 40 == 39, NULL), SD_PERSIST_OK);
        copy_files(&d, dir);
        l = load_all(dir, WALL + d.f.now, false);
        if (l.status != SD_PERSIST_OK)
            fail_msg("round %u: %s", r, l.reason);
        for (t = 0; t < THREADS; t++)
            for (n = 0; n < KEYS; n++) {
                test_key_t key = key_of(t, n);
                const loaded_record_t *found = loaded_find(&l, &key);

                if (found && !value_is(found->data, found->head.data_len, n))
                    fail_msg("round %u, key %u of %u: not its value", r, n, t);
                if (found && found->head.version < before[t][n])
                    fail_msg("round %u, key %u of %u: version %llu, after %llu was durable", r, n, t,
                             (unsigned long long)found->head.version, (unsigned long long)before[t][n]);
                if (!found && before[t][n] != 0 && removals[t][n] == atomic_load(&w[t].removals[n]))
                    fail_msg("round %u, key %u of %u: it is lost, and was not removed", r, n, t);
            }
        loaded_free(&l);
    }
    atomic_store(&end, true);
    for (t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(thread[t], NULL), 0);
        assert_false(w[t].failed);
    }
    assert_true(d.cleaned > 0);
    dir_remove(dir);
    desk_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_ever_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
