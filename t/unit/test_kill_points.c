/* SPDX-License-Identifier: Apache-2.0
 *
 * test_kill_points.c: a process killed between every two stores that the next
 * one could meet half-done (shm/kill_point.h), in every scene in which it comes
 * by there, alone and while another thread works on, and over the repair again
 * and again. The next process must show every acknowledged value, serve before
 * it has repaired, and find every block (ledger_examine). A point that no scene
 * comes by fails the test. SESSIOND_TEST_LONG=1 adds thousands of random ones.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kill_points.h"
#include "kill_scenes.h"

/* Said when a trial fails, by the teardown: the assertions do not know it. */
static struct {
    const char *scene, *point;
    unsigned long long passage, seed;
} trial;

static int begin(void **state)
{
    (void)state;
    memset(&trial, 0, sizeof trial);
    return 0;
}

static int tell(void **state)
{
    (void)state;
    if (trial.scene)
        print_error("scene \"%s\", seed %llu, passage %llu of \"%s\"\n", trial.scene, trial.seed,
                    trial.passage, trial.point);
    return 0;
}

static bool is_long(void)
{
    const char *value = getenv("SESSIOND_TEST_LONG");

    return value && *value && strcmp(value, "0") != 0;
}

/* How often a life in this scene passes each point. The caller frees. */
static uint64_t *count_passages(kill_site_t *s, uint64_t seed, uint64_t *all)
{
    uint64_t *passed = calloc(kill_point_count(), sizeof *passed);
    const char *wrong;
    uint32_t p;

    assert_non_null(passed);
    site_rewind(s);
    kill_points_reset();
    wrong = site_live(s, seed, false);
    if (wrong)
        fail_msg("scene \"%s\" without a death: %s", s->scene->name, wrong);
    *all = 0;
    for (p = 0; p < kill_point_count(); p++)
        *all += passed[p] = kill_point_passed(p);
    return passed;
}

static bool die_at(kill_site_t *s, uint32_t point, uint64_t passage, uint64_t seed, bool company)
{
    trial.scene = s->scene->name;
    trial.point = point == KILL_ANY ? "any" : kill_point_name(point);
    trial.passage = passage;
    trial.seed = seed;
    kill_points_arm(point, passage, company ? &s->ledger->operations : NULL);
    return site_live_and_die(s, seed, company);
}

/* What the dead process left, and then a life in order upon it. */
static void examine_and_go_on(kill_site_t *s)
{
    ledger_examine(&s->f, s->ledger);
    fixture_detach(&s->f);
    trial.scene = NULL;
}

static void every_point_is_come_by(void **state)
{
    uint64_t *sum = calloc(kill_point_count(), sizeof *sum), all;
    uint32_t scene, p, missed = 0;

    (void)state;
    assert_true(kill_point_count() > 60);
    assert_non_null(sum);
    for (scene = 0; scene < kill_scene_count; scene++) {
        kill_site_t s;
        uint64_t *passed;

        site_open(&s, &kill_scenes[scene]);
        passed = count_passages(&s, 1, &all);
        for (p = 0; p < kill_point_count(); p++)
            sum[p] += passed[p];
        free(passed);
        site_close(&s);
    }
    for (p = 0; p < kill_point_count(); p++)
        if (sum[p] == 0) {
            print_error("no scene comes by \"%s\"\n", kill_point_name(p));
            missed++;
        }
    free(sum);
    assert_int_equal(missed, 0);
}

/* Under valgrind and the sanitizers a scene has a part of the points, and the
 * next scene another one. */
static bool is_left_out(const kill_site_t *s, uint32_t point, uint32_t part)
{
    uint32_t scene = (uint32_t)(s->scene - kill_scenes);

    return slowed_down() && (point + scene) % (under_valgrind() ? 2 * part : part) != 0;
}

/* The first, the second, a middle and the last passage of each point. Slowed
 * down, one of them, by turns. */
static void killed_at_every_point(void **state)
{
    kill_site_t s;
    uint64_t *passed, all, last;
    uint32_t p, k, turn = 0;

    site_open(&s, *state);
    passed = count_passages(&s, 1, &all);
    for (p = 0; p < kill_point_count(); p++) {
        uint64_t at[4] = { 1, 2, passed[p] / 2, passed[p] };

        if (is_left_out(&s, p, 4))
            continue;
        for (last = 0, k = 0; k < 4; k++) {
            if (at[k] <= last || at[k] > passed[p])
                continue;
            last = at[k];
            if (slowed_down() && k != turn++ % 4 && passed[p] > 1)
                continue;
            site_rewind(&s);
            if (!die_at(&s, p, at[k], 1, false))
                fail_msg("the process was not killed");
            examine_and_go_on(&s);
        }
    }
    free(passed);
    site_close(&s);
}

/* A thread stops at the point with its locks held, another goes on until it
 * stops too, then both are gone. */
static void killed_while_another_thread_works(void **state)
{
    kill_site_t s;
    uint64_t *passed, all;
    uint32_t p, tried = 0, died = 0;

    site_open(&s, *state);
    passed = count_passages(&s, 1, &all);
    for (p = 0; p < kill_point_count(); p++) {
        if (passed[p] == 0 || is_left_out(&s, p, 8))
            continue;
        site_rewind(&s);
        tried++;
        died += die_at(&s, p, 1 + passed[p] / 4, p, true);
        examine_and_go_on(&s);
    }
    free(passed);
    site_close(&s);
    /* what two threads come by, and in which order, differs from run to run */
    assert_true(died >= tried / 2);
}

/* One death after the other, the first twenty and most later ones before the
 * repair is over, so that all tags are used up and some die over the last one.
 * What each one left is examined in a copy. */
static void killed_over_the_repair_again_and_again(void **state)
{
    uint32_t deaths = is_long() ? 3000 : test_ops(160, 30), n;
    uint32_t in_a_row = 0, longest = 0, last_tags = 0;
    dice_t dice = dice_new(3);
    uint64_t *passed, all;
    ledger_t *ledger = malloc(sizeof *ledger);
    kill_site_t s;
    fixture_t copy;

    assert_non_null(ledger);
    site_open(&s, *state);
    fixture_map(&copy, s.f.size, 8);
    passed = count_passages(&s, 1, &all);
    free(passed);
    site_rewind(&s);
    for (n = 0; n < deaths; n++) {
        const sd_header_t *h = (const sd_header_t *)(const void *)(s.f.map + 64);
        bool early = n < 20 || dice_below(&dice, 8) != 0;
        uint64_t at = 1 + dice_below(&dice, early ? 60 : (uint32_t)all);
        uint32_t repaired = h->repaired_epoch;
        bool died = die_at(&s, KILL_ANY, at, n, false);

        assert_int_equal(h->magic, SD_MAGIC);
        last_tags += died && h->epoch % SD_EPOCH_MAX + 1 == h->repaired_epoch;
        in_a_row = died && h->repaired_epoch == repaired ? in_a_row + 1 : 0;
        longest = in_a_row > longest ? in_a_row : longest;
        memcpy(copy.map, s.f.map, copy.mapped);
        memcpy(ledger, s.ledger, sizeof *ledger);
        ledger_examine(&copy, ledger);
        fixture_die(&copy);
        trial.scene = NULL;
    }
    examine_and_go_on(&s);
    fixture_unmap(&copy);
    free(ledger);
    site_close(&s);
    assert_true(longest > SD_EPOCH_MAX);
    assert_true(last_tags > 1);
}

static void killed_at_random_points(void **state)
{
    uint32_t rounds = is_long() ? 6000 : test_ops(210, 14), scene, n;
    dice_t dice = dice_new(4);

    (void)state;
    for (scene = 0; scene < kill_scene_count; scene++) {
        uint64_t *passed = NULL, all, at, seed = 0;
        kill_site_t s;

        site_open(&s, &kill_scenes[scene]);
        for (n = 0; n < rounds / kill_scene_count; n++) {
            uint32_t p = dice_below(&dice, kill_point_count());
            bool company = dice_below(&dice, 3) == 0;

            if (n % 50 == 0) {
                free(passed);
                passed = count_passages(&s, ++seed, &all);
            }
            while (passed[p] == 0)
                p = dice_below(&dice, kill_point_count());
            site_rewind(&s);
            at = 1 + dice_below(&dice, (uint32_t)passed[p]);
            if (!die_at(&s, p, at, seed, company) && !company)
                fail_msg("the process was not killed");
            examine_and_go_on(&s);
        }
        free(passed);
        site_close(&s);
    }
}

#define IN_SCENE(test, number) \
    { #test " (scene " #number ")", test, begin, tell, (void *)(uintptr_t)&kill_scenes[number] }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_point_is_come_by),
        IN_SCENE(killed_at_every_point, 0),
        IN_SCENE(killed_at_every_point, 1),
        IN_SCENE(killed_at_every_point, 2),
        IN_SCENE(killed_at_every_point, 3),
        IN_SCENE(killed_at_every_point, 4),
        IN_SCENE(killed_at_every_point, 5),
        IN_SCENE(killed_at_every_point, 6),
        IN_SCENE(killed_while_another_thread_works, 0),
        IN_SCENE(killed_while_another_thread_works, 1),
        IN_SCENE(killed_while_another_thread_works, 2),
        IN_SCENE(killed_while_another_thread_works, 3),
        IN_SCENE(killed_at_every_point, 7),
        IN_SCENE(killed_at_every_point, 8),
        IN_SCENE(killed_at_every_point, 9),
        IN_SCENE(killed_at_every_point, 10),
        IN_SCENE(killed_at_every_point, 11),
        IN_SCENE(killed_at_every_point, 12),
        IN_SCENE(killed_while_another_thread_works, 4),
        IN_SCENE(killed_while_another_thread_works, 7),
        IN_SCENE(killed_while_another_thread_works, 8),
        IN_SCENE(killed_while_another_thread_works, 9),
        IN_SCENE(killed_while_another_thread_works, 10),
        IN_SCENE(killed_while_another_thread_works, 12),
        IN_SCENE(killed_over_the_repair_again_and_again, 1),
        IN_SCENE(killed_over_the_repair_again_and_again, 8),
        cmocka_unit_test_setup_teardown(killed_at_random_points, begin, tell),
    };

    alarm(900);
    return cmocka_run_group_tests_name("kill points", tests, NULL, NULL);
}
