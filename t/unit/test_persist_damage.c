/* SPDX-License-Identifier: Apache-2.0
 *
 * test_persist_damage.c: a journal's file in which bits are turned over, or which
 * is cut or filled up: a load gives exactly the state of the last commit or refuses
 * with a sentence, it never crashes or hangs, and it leaves the file as it is.
 * SESSIOND_TEST_LONG=1 goes through every byte.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "persist_fixture.h"

enum { PAGE = 4096 };

typedef struct trial {
    char dir[64];
    char data[128];
    bytes_t image;  /* as it was written */
    bytes_t owner;
    model_t model;
    uint64_t now;
    uint32_t whole, refused, opened; /* how it came out */
} trial_t;

/* A file of all kinds of pages, values of several sizes, and a list of free pages. */
static int set_up(void **state)
{
    static trial_t t;
    char path[128];
    dice_t dice = dice_new(5);
    desk_t d;
    uint32_t round, i;

    memset(&t, 0, sizeof t);
    desk_open(&d, 4 * MIB);
    for (round = 0; round < 12; round++) {
        for (i = 0; i < 6; i++)
            model_step(&d, &t.model, &dice, 3000);
        d.f.now += 10;
        assert_int_equal(desk_try_round(&d, round == 8, NULL), SD_PERSIST_OK);
    }
    t.now = d.f.now;
    sd_journal_close(&d.journal);
    desk_path(&d, "data.mdb", path);
    t.image = file_read(path);
    desk_path(&d, "owner", path);
    t.owner = file_read(path);
    desk_close(&d);
    dir_make(t.dir);
    snprintf(t.data, sizeof t.data, "%s/data.mdb", t.dir);
    snprintf(path, sizeof path, "%s/owner", t.dir);
    file_write(path, t.owner.at, t.owner.len);
    *state = &t;
    return 0;
}

static int tear_down(void **state)
{
    trial_t *t = *state;

    print_message("[          ] whole %u, refused %u, opened for writing %u\n", t->whole, t->refused, t->opened);
    free(t->image.at);
    free(t->owner.at);
    dir_remove(t->dir);
    return 0;
}

/* What stands in the file now. */
static void judge(trial_t *t, const char *what, size_t where)
{
    bytes_t before = file_read(t->data), after;
    const char *wrong;
    loaded_t l = load_all(t->dir, WALL + t->now, where % 2 == 0);

    if (l.status == SD_PERSIST_OK) {
        t->whole++;
        wrong = model_compare(&t->model, &l, t->now);
        if (wrong)
            fail_msg("%s at %zu: %s", what, where, wrong);
    }
    else {
        t->refused++;
        if (l.status != SD_PERSIST_DAMAGED && l.status != SD_PERSIST_ALIEN && l.status != SD_PERSIST_FAILED)
            fail_msg("%s at %zu: %s", what, where, sd_persist_status_name(l.status));
        if (strstr(l.reason, "data.mdb: ") == NULL)
            fail_msg("%s at %zu: no reason: \"%s\"", what, where, l.reason);
    }
    loaded_free(&l);
    after = file_read(t->data);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.at, after.at, before.len);
    free(before.at);
    free(after.at);
}

static void turn_over(trial_t *t, size_t at, unsigned bit)
{
    t->image.at[at] ^= (unsigned char)(1u << bit);
    file_write(t->data, t->image.at, t->image.len);
    judge(t, "a bit turned over", at);
    t->image.at[at] ^= (unsigned char)(1u << bit);
}

static void unharmed_it_is_whole(void **state)
{
    trial_t *t = *state;

    file_write(t->data, t->image.at, t->image.len);
    judge(t, "nothing", 0);
    judge(t, "nothing", 1);
    assert_int_equal(t->whole, 2);
}

static void bits_turned_over(void **state)
{
    trial_t *t = *state;
    dice_t dice = dice_new(11);
    size_t at;
    uint32_t i;

    if (getenv("SESSIOND_TEST_LONG")) {
        for (at = 0; at < t->image.len; at++)
            turn_over(t, at, dice_below(&dice, 8));
        return;
    }
    for (at = 0; at < t->image.len; at += PAGE)
        for (i = 0; i < 24; i += slowed_down() ? 5 : 1)
            turn_over(t, at + i, dice_below(&dice, 8));
    for (i = 0; i < test_ops(1200, 60); i++)
        turn_over(t, dice_below(&dice, (uint32_t)t->image.len), dice_below(&dice, 8));
    assert_true(t->whole > 0 && t->refused > 0);
}

/* All bits of the two first pages: what they say is what LMDB believes first. */
static void every_bit_of_the_heads(void **state)
{
    trial_t *t = *state;
    size_t page, at;
    unsigned bit;

    for (page = 0; page < 2; page++)
        for (at = 0; at < 160; at += slowed_down() ? 7 : 1)
            for (bit = 0; bit < 8; bit += slowed_down() ? 3 : 1)
                turn_over(t, page * PAGE + at, bit);
}

static void cut_anywhere(void **state)
{
    trial_t *t = *state;
    size_t len, step = slowed_down() ? 3 * PAGE + 100 : 512;

    for (len = 0; len < t->image.len; len += step) {
        file_write(t->data, t->image.at, len);
        judge(t, "cut", len);
    }
}

/* A page that was never written, or that another has overwritten. */
static void pages_of_zeros_and_of_others(void **state)
{
    trial_t *t = *state;
    unsigned char keep[PAGE];
    size_t page, other, pages = t->image.len / PAGE;
    dice_t dice = dice_new(2);

    for (page = 0; page < pages; page++) {
        memcpy(keep, t->image.at + page * PAGE, PAGE);
        memset(t->image.at + page * PAGE, 0, PAGE);
        file_write(t->data, t->image.at, t->image.len);
        judge(t, "zeros", page);
        other = dice_below(&dice, (uint32_t)pages);
        memcpy(t->image.at + page * PAGE, other == page ? keep : t->image.at + other * PAGE, PAGE);
        file_write(t->data, t->image.at, t->image.len);
        judge(t, "another page", page);
        memcpy(t->image.at + page * PAGE, keep, PAGE);
    }
}

/* A damaged file that is accepted for writing, too, must bear it: rounds go on, and
 * what is loaded after them is right. */
static void what_is_opened_can_be_written(void **state)
{
    trial_t *t = *state;
    dice_t dice = dice_new(23);
    uint32_t i, trials = test_ops(300, 12);

    for (i = 0; i < trials; i++) {
        size_t at = dice_below(&dice, (uint32_t)t->image.len);
        unsigned char bit = (unsigned char)(1u << dice_below(&dice, 8));
        sd_persist_status_t status;
        sd_journal_options_t o;
        char owner[128];
        desk_t d;

        memset(&d, 0, sizeof d);
        memset(&o, 0, sizeof o);
        if (i % 2 == 0)
            at = at / PAGE * PAGE + at % 64;
        t->image.at[at] ^= bit;
        file_write(t->data, t->image.at, t->image.len);
        t->image.at[at] ^= bit;
        snprintf(d.dir, sizeof d.dir, "%s", t->dir);
        d.f.now = t->now;
        status = sd_journal_open(&d.journal, d.dir, &o, d.reason);
        if (status == SD_PERSIST_OK) {
            sd_load_sum_t sum;
            model_t m;
            uint32_t r;

            t->opened++;
            memset(&m, 0, sizeof m);
            desk_store_anew(&d, 4 * MIB);
            for (r = 0; r < 4; r++) {
                uint32_t k;

                for (k = 0; k < 6; k++)
                    model_step(&d, &m, &dice, 6000);
                assert_int_equal(desk_try_round(&d, r == 0, NULL), SD_PERSIST_OK);
            }
            sd_journal_close(&d.journal);
            desk_store_anew(&d, 4 * MIB);
            sum = desk_load(&d, true, SD_PERSIST_OK);
            assert_true(sum.restored == sum.report.live);
            model_check_store(&m, &d.f);
            fixture_close(&d.f);
        }
        else
            assert_true(status == SD_PERSIST_ALIEN || status == SD_PERSIST_FAILED);
        snprintf(owner, sizeof owner, "%s/owner", t->dir);
        file_write(owner, t->owner.at, t->owner.len);
    }
    assert_true(t->opened > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(unharmed_it_is_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bits_turned_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_bit_of_the_heads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cut_anywhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pages_of_zeros_and_of_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_opened_can_be_written, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
