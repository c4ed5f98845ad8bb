/* SPDX-License-Identifier: Apache-2.0
 *
 * test_churn.c: millions of random operations against the model, in segments so
 * small that they are full most of the time, with one thread in one or several
 * lanes; some of them written to a disk meanwhile. Seeds are fixed; SESSIOND_TEST_SEED adds to them for longer hunts.
 */
#include <stdlib.h>

#include "store_model.h"

typedef struct course {
    uint64_t size;
    uint32_t lanes, keys, max_len, ttl, ops;
    bool evict;
    uint32_t restarts; /* how many times the store is detached and attached */
    uint32_t deaths;
    bool writes_behind;
} course_t;

static void run(uint64_t seed, const course_t *c)
{
    const char *more = getenv("SESSIOND_TEST_SEED");
    uint32_t ops = test_ops(c->ops, 500), n;
    static fixture_t f;
    static disk_t disk;
    model_t m;

    seed += more ? strtoull(more, NULL, 10) : 0;
    fixture_map(&f, c->size, 8);
    fixture_format(&f);
    f.writes_behind = c->writes_behind;
    fixture_attach(&f, c->lanes, c->evict);
    model_open(&m, &f, seed, c->keys, c->max_len, c->ttl);
    if (c->writes_behind)
        model_write_to(&m, &disk);
    for (n = 1; n <= ops; n++) {
        model_operate(&m);
        if (n % (ops / 25) == 0)
            model_verify(&m);
        if (c->restarts && n % (ops / (c->restarts + 1)) == 0) {
            model_settle(&m);
            fixture_detach(&f);
            fixture_attach(&f, c->lanes, c->evict);
        }
        if (c->deaths && n % (ops / (c->deaths + 1)) == 0)
            model_die(&m, c->lanes);
    }
    model_settle(&m);
    if (getenv("SESSIOND_TEST_VERBOSE"))
        print_message("# stored %llu refused %llu evicted %llu expired %llu\n",
                      (unsigned long long)m.stored, (unsigned long long)m.refused,
                      (unsigned long long)m.evicted, (unsigned long long)counter_sum(&f, expired));
    /* the run was what it was meant to be: full, and yet at work */
    if (ops >= 10000) {
        assert_true(m.stored > ops / 10);
        assert_true((c->evict ? m.evicted : m.refused) > ops / 200);
        assert_true(counter_sum(&f, expired) > 0);
        assert_true(m.rounds > ops / 200 || !c->writes_behind);
    }
    model_close(&m);
    fixture_close(&f);
}

static void one_lane_refusing(void **state)
{
    static const course_t course = { MIB, 1, 400, 40000, 4000000, 1000000, false, 3, 0, false };

    (void)state;
    run(1, &course);
}

static void many_small_values(void **state)
{
    static const course_t course = { MIB, 2, 6000, 700, 40000000, 1000000, false, 3, 0, false };

    (void)state;
    run(2, &course);
}

static void four_lanes_refusing(void **state)
{
    static const course_t course = { 2 * MIB, 4, 900, 40000, 8000000, 500000, false, 0, 0, false };

    (void)state;
    run(3, &course);
}

static void one_lane_evicting(void **state)
{
    static const course_t course = { MIB, 1, 500, 40000, 900000000, 500000, true, 3, 0, false };

    (void)state;
    run(4, &course);
}

static void three_lanes_evicting_in_a_larger_segment(void **state)
{
    static const course_t course = { 4 * MIB, 3, 2200, 40000, 900000000, 500000, true, 0, 0, false };

    (void)state;
    run(5, &course);
}

static void deaths_and_repairs_in_between(void **state)
{
    static const course_t course = { MIB, 2, 400, 40000, 4000000, 500000, false, 0, 2000, false };

    (void)state;
    run(6, &course);
}

static void deaths_while_evicting(void **state)
{
    static const course_t course = { 2 * MIB, 3, 900, 20000, 900000000, 500000, true, 0, 2000, false };

    (void)state;
    run(7, &course);
}

static void written_behind_and_full(void **state)
{
    static const course_t course = { MIB, 2, 3000, 4000, 40000000, 500000, false, 3, 0, true };

    (void)state;
    run(8, &course);
}

static void written_behind_and_evicting(void **state)
{
    static const course_t course = { MIB, 3, 1500, 4000, 900000000, 500000, true, 3, 0, true };

    (void)state;
    run(9, &course);
}

static void written_behind_with_deaths(void **state)
{
    static const course_t course = { MIB, 2, 400, 40000, 4000000, 500000, false, 0, 2000, true };

    (void)state;
    run(10, &course);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_lane_refusing),
        cmocka_unit_test(many_small_values),
        cmocka_unit_test(four_lanes_refusing),
        cmocka_unit_test(one_lane_evicting),
        cmocka_unit_test(three_lanes_evicting_in_a_larger_segment),
        cmocka_unit_test(deaths_and_repairs_in_between),
        cmocka_unit_test(deaths_while_evicting),
        cmocka_unit_test(written_behind_and_full),
        cmocka_unit_test(written_behind_and_evicting),
        cmocka_unit_test(written_behind_with_deaths),
    };

    return cmocka_run_group_tests_name("churn", tests, NULL, NULL);
}
