/* SPDX-License-Identifier: Apache-2.0
 *
 * test_step.c: a death at every instruction. An operation runs with the
 * processor's trap flag set, and whenever the segment has changed after an
 * instruction, the change is noted. Each state so collected is what a process
 * leaves that is killed there: another store attaches to it, must find every
 * key in its old or its new state, serves while it repairs, and must end with
 * check() clean and each block accounted for. x86-64 only; elsewhere, and under
 * tools that run code of their own instead, test_death.c has to do.
 */
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unistd.h>

#include "store_fixture.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1 /* gcc says it like this */
#endif
#endif

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) /* which puts signals off */
#define CAN_STEP (!under_valgrind())
#define SET_TRAP_FLAG \
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\t" \
                     "lea 128(%%rsp), %%rsp" ::: "memory", "cc")
#define CLEAR_TRAP_FLAG \
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq\n\t" \
                     "lea 128(%%rsp), %%rsp" ::: "memory", "cc")
#else
#define CAN_STEP false
#define SET_TRAP_FLAG (void)0
#define CLEAR_TRAP_FLAG (void)0
#endif

enum { LIVE = 1000000, KEYS = 24, LINE = 64, LINES_MAX = 1 << 18, STATES_MAX = 1 << 16 };

/* ---- collecting the states ---- */

typedef struct change {
    uint32_t state; /* the first state that has it */
    uint32_t at;    /* offset */
    unsigned char bytes[LINE];
} change_t;

static struct {
    unsigned char *segment, *shadow;
    size_t watched; /* bytes from the start that the operation may touch */
    change_t *changes;
    uint32_t count, states;
    uint64_t instructions;
} journal;

static void note_changes(int signal)
{
    size_t page, at;
    bool changed = false;

    (void)signal;
    journal.instructions++;
    for (page = 0; page < journal.watched; page += 4096) {
        if (memcmp(journal.segment + page, journal.shadow + page, 4096) == 0)
            continue;
        for (at = page; at < page + 4096; at += LINE) {
            change_t *c = &journal.changes[journal.count];

            if (memcmp(journal.segment + at, journal.shadow + at, LINE) == 0)
                continue;
            memcpy(journal.shadow + at, journal.segment + at, LINE);
            if (journal.count == LINES_MAX || journal.states == STATES_MAX)
                abort();
            c->state = journal.states;
            c->at = (uint32_t)at;
            memcpy(c->bytes, journal.segment + at, LINE);
            journal.count++;
            changed = true;
        }
    }
    journal.states += changed;
}

/* ---- the scene: what is stored before, and what may be after ---- */

typedef struct belief {
    bool present;
    uint64_t seed;
    uint32_t len;
} belief_t;

typedef struct scene {
    fixture_t f;
    test_key_t keys[KEYS];
    belief_t before[KEYS], after[KEYS];
    sd_chain_t chain;
    sd_ref_t ref;
    sd_status_t status;
    unsigned char *bytes[KEYS]; /* of the values that the act stores, made before it */
    uint32_t filled; /* keys of fill_up, from 1000 on; they may be evicted */
} scene_t;

typedef struct play {
    const char *name;
    bool evict;
    void (*prepare)(scene_t *c);
    void (*act)(scene_t *c); /* stepped through: no assertion in it */
    uint32_t lanes;
} play_t;

static void put_before(scene_t *c, uint32_t i, uint32_t len)
{
    put_ok(&c->f, &c->keys[i], i, len, c->f.now + LIVE);
    c->before[i] = c->after[i] = (belief_t){ true, i, len };
}

static void will_be(scene_t *c, uint32_t i, uint64_t seed, uint32_t len)
{
    c->after[i] = (belief_t){ true, seed, len };
    c->bytes[i] = malloc(len);
    assert_non_null(c->bytes[i]);
    value_fill(c->bytes[i], len, seed);
}

static void will_go(scene_t *c, uint32_t i)
{
    c->after[i].present = false;
}

/* A handful of keys; 0 to 4 stand in one bucket, 4 being the head of its list,
 * and 5 would, but is not stored. */
static void some_keys(scene_t *c)
{
    uint32_t i;

    for (i = 0; i < 12; i++)
        if (i != 5)
            put_before(c, i, i * 130);
}

/* ---- is a state one that the next process can live with? ---- */

static void find_states(scene_t *c, fixture_t *g, belief_t *found, const char *name)
{
    uint32_t i;

    for (i = 0; i < KEYS; i++) {
        sd_ref_t ref;
        bool there = sd_store_get(g->lane, c->keys[i].bytes, c->keys[i].len, g->now, &ref) == SD_OK;

        found[i] = (belief_t){ false, 0, 0 };
        if (there && c->before[i].present
            && ref_shows(g->lane, &ref, c->before[i].seed, c->before[i].len))
            found[i] = c->before[i];
        else if (there && c->after[i].present
                 && ref_shows(g->lane, &ref, c->after[i].seed, c->after[i].len))
            found[i] = c->after[i];
        else if (there || (c->before[i].present && c->after[i].present))
            fail_msg("%s: key %u is neither its old nor its new value", name, i);
        sd_ref_release(g->lane, &ref);
    }
}

static void live_with(scene_t *c, const unsigned char *image, const play_t *play, bool last)
{
    static fixture_t g;
    belief_t found[KEYS], again[KEYS];
    test_key_t visitor = numbered_key(77777, 230);
    uint64_t used = 0, items = 0, evicted = 0;
    uint32_t i, step = 0;

    if (!g.map)
        fixture_map(&g, c->f.size, 8);
    memcpy(g.map, image, g.mapped);
    g.now = c->f.now;
    memset(g.counters, 0, sizeof g.counters);
    fixture_attach(&g, play->lanes, play->evict);
    assert_clean(g.store);
    find_states(c, &g, found, play->name);
    if (last)
        for (i = 0; i < KEYS; i++)
            assert_int_equal(found[i].present, c->after[i].present);
    do { /* others store and delete meanwhile, also what is old */
        if (value_store(g.lane, &visitor, step, 3000, g.now + LIVE, SD_VERSION_ANY, g.now, NULL)
            == SD_OK)
            assert_value(&g, &visitor, step, 3000);
        else
            assert_true(c->filled > 0);
        if (step == 1 && found[9].present)
            put_ok(&g, &c->keys[9], found[9].seed, found[9].len, g.now + LIVE);
        step++;
    } while (sd_store_repair(g.lane, g.now));
    assert_clean(g.store);
    assert_int_equal(counter_sum(&g, repaired_items), 0);
    delete_key(&g, &visitor);
    evicted = counter_sum(&g, evicted);
    if (evicted == 0) {
        find_states(c, &g, again, play->name);
        for (i = 0; i < KEYS; i++)
            if (again[i].present != found[i].present || again[i].seed != found[i].seed)
                fail_msg("%s: key %u changed during the repair", play->name, i);
    }
    for (i = 0; i < KEYS; i++)
        if (item_of(&g, &c->keys[i]) != 0) {
            const sd_item_t *item = sd_item(g.store, item_of(&g, &c->keys[i]));

            used += sd_item_blocks(item->key_len, item->data_len);
            items++;
        }
    for (i = 0; i < c->filled; i++) {
        test_key_t key = numbered_key(1000 + i, 8);

        if (item_of(&g, &key) != 0) {
            used++;
            items++;
        }
    }
    assert_int_equal(sessions(&g), items);
    assert_int_equal(blocks_used(&g), used);
    assert_int_equal(sd_blocks_free_count(g.store), g.store->block_count - used);
    fixture_detach(&g);
    fixture_attach(&g, play->lanes, play->evict);
    assert_false(sd_store_repair(g.lane, g.now)); /* all was in order */
    fixture_detach(&g);
}

/* ---- running one operation ---- */

static void run(const play_t *play)
{
    struct sigaction trap, old;
    static scene_t c;
    unsigned char *image;
    uint32_t i, n, state, step;
    sd_header_t *header;

    memset(&c, 0, sizeof c);
    memset(&journal, 0, sizeof journal);
    fixture_open(&c.f, MIB, play->lanes, play->evict);
    for (i = n = 0; i < KEYS; i++)
        do
            c.keys[i] = numbered_key(n++, i % 5 == 3 ? 230 : 14);
        while (i < 6 && bucket_of_key(&c.f, &c.keys[i]) != 11);
    play->prepare(&c);
    image = malloc(c.f.mapped);
    journal.shadow = malloc(c.f.mapped);
    journal.changes = malloc(LINES_MAX * sizeof *journal.changes);
    assert_non_null(image);
    assert_non_null(journal.shadow);
    assert_non_null(journal.changes);
    journal.segment = c.f.map;
    /* tables, the blocks in use, and some more that the operation may take */
    header = (sd_header_t *)(void *)(c.f.map + 64);
    journal.watched =
        (size_t)(64 + header->blocks_at + (header->fresh + 400) * UINT64_C(256)) & ~(size_t)4095;
    if (journal.watched > c.f.mapped)
        journal.watched = c.f.mapped & ~(size_t)4095;
    memcpy(journal.shadow, c.f.map, c.f.mapped);
    memcpy(image, c.f.map, c.f.mapped);

    memset(&trap, 0, sizeof trap);
    trap.sa_handler = note_changes;
    assert_int_equal(sigaction(SIGTRAP, &trap, &old), 0);
    SET_TRAP_FLAG;
    play->act(&c);
    CLEAR_TRAP_FLAG;
    assert_int_equal(sigaction(SIGTRAP, &old, NULL), 0);

    assert_int_equal(c.status, SD_OK);
    assert_true(journal.instructions > 20);
    /* nothing was changed that was not watched */
    assert_memory_equal(journal.shadow, c.f.map, c.f.mapped);
    print_message("# %s: %llu instructions, %u states\n", play->name,
                  (unsigned long long)journal.instructions, journal.states);
    assert_true(journal.states >= 2);
    /* the sanitizers make every state slow, and need not see each of them */
    step = journal.states / test_ops(400, 40) + 1;
    for (state = i = 0; state <= journal.states; state++) {
        if (state % step == 0 || state == journal.states)
            live_with(&c, image, play, state == journal.states);
        for (; i < journal.count && journal.changes[i].state == state; i++)
            memcpy(image + journal.changes[i].at, journal.changes[i].bytes, LINE);
    }
    assert_memory_equal(image, c.f.map, c.f.mapped);
    for (i = 0; i < KEYS; i++)
        free(c.bytes[i]);
    free(image);
    free(journal.shadow);
    free(journal.changes);
    if (c.f.store)
        fixture_die(&c.f);
    fixture_unmap(&c.f);
}

/* ---- the operations ---- */

static void store_value_of(scene_t *c, uint32_t i)
{
    const test_key_t *key = &c->keys[i];
    sd_chain_t chain;
    uint64_t version;

    c->status = sd_chain_open(c->f.lane, &chain, key->bytes, key->len, c->f.now);
    if (c->status == SD_OK)
        c->status = sd_chain_append(c->f.lane, &chain, c->bytes[i], c->after[i].len, c->f.now);
    if (c->status == SD_OK)
        c->status = sd_store_put(c->f.lane, &chain, c->f.now + LIVE, SD_VERSION_ANY, c->f.now,
                                 &version);
}

static void prepare_put_new(scene_t *c) { some_keys(c); will_be(c, 5, 500, 300); }
static void act_put_5(scene_t *c) { store_value_of(c, 5); }
static void act_put_13(scene_t *c) { store_value_of(c, 13); }

static void prepare_first_put(scene_t *c) { will_be(c, 13, 500, 3000); }

static void prepare_replace_small(scene_t *c) { some_keys(c); will_be(c, 3, 500, 900); }
static void act_put_3(scene_t *c) { store_value_of(c, 3); }

static void prepare_replace_large(scene_t *c) /* more blocks than a lane keeps */
{
    some_keys(c);
    put_before(c, 3, 50000);
    will_be(c, 3, 500, 20000);
}

static void prepare_delete(scene_t *c) { some_keys(c); will_go(c, 2); }
static void act_delete_2(scene_t *c) { c->status = delete_key(&c->f, &c->keys[2]); }
static void prepare_delete_head(scene_t *c) { some_keys(c); will_go(c, 4); }
static void act_delete_4(scene_t *c) { c->status = delete_key(&c->f, &c->keys[4]); }
static void prepare_delete_last(scene_t *c) { some_keys(c); will_go(c, 0); }
static void act_delete_0(scene_t *c) { c->status = delete_key(&c->f, &c->keys[0]); }

static void prepare_expired(scene_t *c)
{
    uint32_t i;

    some_keys(c);
    for (i = 0; i < 5; i++) {
        put_ok(&c->f, &c->keys[i], i, 700, c->f.now + 100);
        c->before[i].present = c->after[i].present = false;
    }
    c->f.now += 100;
}
static void act_get_expired(scene_t *c)
{
    if (sd_store_get(c->f.lane, c->keys[1].bytes, c->keys[1].len, c->f.now, &c->ref) != SD_MISS)
        c->status = SD_INVALID;
}
static void act_sweep(scene_t *c) { sd_store_sweep(c->f.lane, c->f.now, UINT32_MAX); }

static void prepare_chain(scene_t *c)
{
    static const char text[9000];

    some_keys(c);
    sd_chain_open(c->f.lane, &c->chain, c->keys[3].bytes, c->keys[3].len, c->f.now);
    sd_chain_append(c->f.lane, &c->chain, text, sizeof text, c->f.now);
    sd_chain_reserve(c->f.lane, &c->chain, 3000, c->f.now);
}
static void act_discard(scene_t *c) { sd_chain_discard(c->f.lane, &c->chain); }
static void act_conflict(scene_t *c)
{
    uint64_t version;

    if (sd_store_put(c->f.lane, &c->chain, c->f.now + LIVE, 999999, c->f.now, &version)
        != SD_CONFLICT)
        c->status = SD_INVALID;
}

static void prepare_reader(scene_t *c)
{
    some_keys(c);
    sd_store_get(c->f.lane, c->keys[8].bytes, c->keys[8].len, c->f.now, &c->ref);
    will_be(c, 8, 500, 10);
}
static void act_replace_and_release(scene_t *c)
{
    store_value_of(c, 8);
    sd_ref_release(c->f.lane, &c->ref);
}

/* Full, but for what the operation itself frees: it runs through reclaiming,
 * the privileged path and eviction. */
static void prepare_full(scene_t *c)
{
    some_keys(c);
    for (; sd_blocks_free_count(c->f.store) > c->f.store->reserve; c->filled++) {
        test_key_t key = numbered_key(1000 + c->filled, 8);

        put_ok(&c->f, &key, c->filled, 16, c->f.now + 500 + c->filled);
    }
}
static void prepare_full_put(scene_t *c) { prepare_full(c); will_be(c, 13, 500, 700); }
static void prepare_full_replace(scene_t *c) { prepare_full(c); will_be(c, 3, 500, 900); }
static void prepare_full_expired(scene_t *c)
{
    prepare_full(c);
    c->f.now += 520;
    will_be(c, 13, 500, 700);
}

/* Dead already: each of these is a second death. */
static void prepare_dead(scene_t *c)
{
    prepare_chain(c);
    sd_store_get(c->f.lane, c->keys[8].bytes, c->keys[8].len, c->f.now, &c->ref);
    put_before(c, 8, 1500);
    fixture_die(&c->f);
}
static void attach_again(scene_t *c)
{
    sd_store_options_t options = { c->f.lanes, c->f.evict, c->f.counters, false, c->f.writes_behind };
    const char *reason;

    c->status = sd_store_attach(&c->f.store, c->f.raw, c->f.size, &options, &reason);
    c->f.lane = sd_store_lane(c->f.store, 0);
}
static void prepare_repair(scene_t *c) { prepare_dead(c); attach_again(c); }
static void act_repair(scene_t *c)
{
    while (sd_store_repair(c->f.lane, c->f.now))
        ;
}
static void prepare_traffic_and_repair(scene_t *c)
{
    prepare_repair(c);
    will_go(c, 1);
    will_be(c, 3, 500, 2000);
    will_be(c, 13, 501, 600);
}
static void act_traffic_and_repair(scene_t *c)
{
    store_value_of(c, 3);
    sd_store_repair(c->f.lane, c->f.now);
    delete_key(&c->f, &c->keys[1]);
    sd_store_repair(c->f.lane, c->f.now);
    store_value_of(c, 13);
    act_repair(c);
}
static void act_detach(scene_t *c) { sd_store_detach(&c->f.store); }

static void prepare_last_tag(scene_t *c)
{
    uint32_t n;

    prepare_dead(c);
    for (n = 0; n < SD_EPOCH_MAX - 2; n++) {
        attach_again(c);
        fixture_die(&c->f);
    }
}

static const play_t plays[] = {
    { "first put", false, prepare_first_put, act_put_13, 1 },
    { "put of a new key", false, prepare_put_new, act_put_5, 2 },
    { "replacement", false, prepare_replace_small, act_put_3, 1 },
    { "replacement of a large value", false, prepare_replace_large, act_put_3, 4 },
    { "delete in a list", false, prepare_delete, act_delete_2, 1 },
    { "delete at a list's head", false, prepare_delete_head, act_delete_4, 1 },
    { "delete at a list's end", false, prepare_delete_last, act_delete_0, 1 },
    { "get of an expired value", false, prepare_expired, act_get_expired, 1 },
    { "sweep", false, prepare_expired, act_sweep, 1 },
    { "discard", false, prepare_chain, act_discard, 1 },
    { "put that conflicts", false, prepare_chain, act_conflict, 1 },
    { "replacement under a reader", false, prepare_reader, act_replace_and_release, 1 },
    { "put that evicts", true, prepare_full_put, act_put_13, 1 },
    { "replacement in the reserve", false, prepare_full_replace, act_put_3, 1 },
    { "put that reclaims", false, prepare_full_expired, act_put_13, 1 },
    { "detach", false, some_keys, act_detach, 2 },
    { "attach", false, prepare_dead, attach_again, 2 },
    { "attach with the last tag", false, prepare_last_tag, attach_again, 1 },
    { "repair", false, prepare_repair, act_repair, 2 },
    { "repair under traffic", false, prepare_traffic_and_repair, act_traffic_and_repair, 1 },
};

static void a_death_anywhere(void **state)
{
    if (!CAN_STEP)
        skip();
    run(*state);
}

int main(void)
{
    static struct CMUnitTest tests[sizeof plays / sizeof plays[0]];
    size_t i;

    for (i = 0; i < sizeof plays / sizeof plays[0]; i++) {
        tests[i].name = plays[i].name;
        tests[i].test_func = a_death_anywhere;
        tests[i].initial_state = (void *)(uintptr_t)&plays[i];
    }
    return cmocka_run_group_tests_name("step", tests, NULL, NULL);
}
