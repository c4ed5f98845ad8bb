/* SPDX-License-Identifier: Apache-2.0
 *
 * test_power_cut.c: every write and sync of a run is written down; then the power
 * fails after each of them. What a disk may have by then: all that was synced, and
 * of what was written since any part, in any order, torn at sectors of 512 bytes.
 * From each such file a load must give the state of a whole round: of the last one
 * that was acknowledged, or of the one that was under way. The same run without
 * syncs must be found out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk_faults.h"
#include "persist_fixture.h"

enum { ROUNDS = 24, SECTOR = 512 };

typedef struct run {
    bytes_t before;             /* the file when the log began */
    model_t at[ROUNDS + 1];     /* what each round was to make durable */
    uint64_t now[ROUNDS + 1];
    char dir[64], data[128];
    uint32_t trials, failures;
    bool may_fail;
} run_t;

static void live(run_t *r, bool no_sync)
{
    desk_t d;
    dice_t dice = dice_new(77);
    char path[128];
    uint32_t round, i;

    memset(r, 0, sizeof *r);
    desk_open(&d, 64 * MIB);
    sd_journal_close(&d.journal);
    desk_path(&d, "data.mdb", path);
    r->before = file_read(path);
    r->now[0] = d.f.now;
    d.no_sync = no_sync;
    d.slack_bytes = 1; /* cleans as soon as it can */
    desk_journal_open(&d, SD_PERSIST_OK);
    disk_log_start();
    for (round = 1; round <= ROUNDS; round++) {
        r->at[round] = r->at[round - 1];
        for (i = 0; i < 24; i++)
            model_step(&d, &r->at[round], &dice, round % 5 == 0 ? 60000 : 6000);
        d.f.now += 20;
        r->now[round] = d.f.now;
        assert_int_equal(desk_try_round(&d, round == 4, NULL), SD_PERSIST_OK);
        disk_log_mark(round);
    }
    disk_log_stop();
    assert_true(d.cleaned > 0);
    desk_close(&d);
    dir_make(r->dir);
    snprintf(r->data, sizeof r->data, "%s/data.mdb", r->dir);
}

static void run_free(run_t *r)
{
    free(r->before.at);
    disk_log_free();
    dir_remove(r->dir);
}

/* ---- a disk ---- */

typedef struct disk {
    unsigned char *at;
    size_t len, room;
} disk_t;

static void disk_put(disk_t *d, const disk_event_t *e, size_t from, size_t to)
{
    if (e->offset + to > d->room) {
        d->room = 2 * (size_t)(e->offset + to);
        d->at = realloc(d->at, d->room);
        assert_non_null(d->at);
    }
    if (e->offset + to > d->len) {
        memset(d->at + d->len, 0, (size_t)(e->offset + to) - d->len);
        d->len = (size_t)(e->offset + to);
    }
    memcpy(d->at + e->offset + from, e->bytes + from, to - from);
}

static disk_t disk_copy(const disk_t *d)
{
    disk_t copy = { malloc(d->len + 1), d->len, d->len + 1 };

    assert_non_null(copy.at);
    memcpy(copy.at, d->at, d->len);
    return copy;
}

/* Some sectors of a write. */
static void disk_tear(disk_t *d, const disk_event_t *e, dice_t *dice)
{
    uint32_t how = dice_below(dice, 4);
    size_t at;

    if (how == 0)
        return;
    if (how == 1) {
        disk_put(d, e, 0, e->len);
        return;
    }
    for (at = 0; at < e->len; at += SECTOR)
        if (dice_below(dice, 2))
            disk_put(d, e, at, at + SECTOR < e->len ? at + SECTOR : e->len);
}

static void judge(run_t *r, const disk_t *d, uint32_t acknowledged, size_t event)
{
    const char *wrong = NULL;
    uint64_t now = r->now[acknowledged];
    loaded_t l;

    r->trials++;
    file_write(r->data, d->at, d->len);
    l = load_all(r->dir, WALL + now, r->trials % 2 == 0);
    if (l.status != SD_PERSIST_OK)
        wrong = l.reason;
    else if (l.report.state.wall_ms == WALL + now || (acknowledged == 0 && l.report.state.round == 0))
        wrong = model_compare(&r->at[acknowledged], &l, l.report.wall_ms - WALL);
    else if (acknowledged < ROUNDS && l.report.state.wall_ms == WALL + r->now[acknowledged + 1])
        wrong = model_compare(&r->at[acknowledged + 1], &l, l.report.wall_ms - WALL);
    else
        wrong = "it is the state of another round";
    if (wrong != NULL && !r->may_fail)
        fail_msg("power cut after event %zu, round %u acknowledged: %s", event, acknowledged, wrong);
    r->failures += wrong != NULL;
    loaded_free(&l);
}

/* Fails the power after each event of the log. */
static void fail_everywhere(run_t *r, uint32_t chances)
{
    const disk_event_t *e;
    size_t count, i, k, synced = 0;
    uint32_t acknowledged = 0, c;
    dice_t dice = dice_new(99);
    disk_t safe = { NULL, 0, 0 }, whole;

    e = disk_log_events(&count);
    safe.at = r->before.at;
    safe.len = r->before.len;
    safe = disk_copy(&safe);
    whole = disk_copy(&safe);
    assert_true(count > 3 * ROUNDS);
    for (i = 0; i <= count; i++) {
        /* here it fails: the events before i have returned, and i itself is under way */
        if (i == count || e[i].kind != DISK_MARK) {
            judge(r, &whole, acknowledged, i);
            for (c = 0; c < chances; c++) {
                disk_t d = disk_copy(&safe);

                for (k = synced; k <= i && k < count; k++)
                    if (e[k].kind == DISK_WRITE) {
                        if (e[k].durable && k < i)
                            disk_put(&d, &e[k], 0, e[k].len);
                        else
                            disk_tear(&d, &e[k], &dice);
                    }
                judge(r, &d, acknowledged, i);
                free(d.at);
            }
        }
        if (i == count)
            break;
        switch (e[i].kind) {
            case DISK_MARK:
                acknowledged = e[i].mark;
                break;
            case DISK_WRITE:
                disk_put(&whole, &e[i], 0, e[i].len);
                break;
            case DISK_SYNC:
                for (; synced < i; synced++)
                    if (e[synced].kind == DISK_WRITE)
                        disk_put(&safe, &e[synced], 0, e[synced].len);
                break;
        }
    }
    free(safe.at);
    free(whole.at);
}

static uint32_t chances(void)
{
    return getenv("SESSIOND_TEST_LONG") ? 40 : slowed_down() ? 1 : 6;
}

static void the_last_round_is_there(void **state)
{
    static run_t r;

    (void)state;
    live(&r, false);
    fail_everywhere(&r, chances());
    print_message("[          ] %u power cuts\n", r.trials);
    assert_int_equal(r.failures, 0);
    run_free(&r);
}

static void without_syncs_it_is_not(void **state)
{
    static run_t r;

    (void)state;
    live(&r, true);
    r.may_fail = true;
    fail_everywhere(&r, slowed_down() ? 1 : 3);
    print_message("[          ] %u of %u power cuts\n", r.failures, r.trials);
    assert_true(r.failures > 5);
    run_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_round_is_there),
        cmocka_unit_test(without_syncs_it_is_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
