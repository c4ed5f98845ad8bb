/* SPDX-License-Identifier: Apache-2.0
 *
 * test_persist.c: rounds: what each kind of change comes to, cleaning that keeps
 * the log short and loses nothing, rounds that are stopped or find no space, and
 * at last chance: many operations, rounds, failures and reboots against a model.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "disk_faults.h"
#include "persist_fixture.h"

static desk_t desk;

static int set_up(void **state)
{
    (void)state;
    desk_open(&desk, 8 * MIB);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    disk_faults_none();
    desk_close(&desk);
    return 0;
}

static void nothing_changed_writes_nothing(void **state)
{
    const sd_journal_state_t *s = sd_journal_state(desk.journal);
    uint64_t serial;

    (void)state;
    desk_round(&desk); /* the first one looks at everything */
    serial = s->serial;
    desk_round(&desk);
    assert_true(s->serial == serial);
    assert_true(desk.result.values == 0 && desk.result.bytes == 0 && desk.result.round == s->round);
}

static void every_kind_of_change_comes_back(void **state)
{
    test_key_t key[5];
    sd_load_sum_t sum;
    uint64_t version, now;
    sd_ref_t ref;
    uint32_t i;

    (void)state;
    for (i = 0; i < 5; i++)
        key[i] = numbered_key(i, 30);
    version = put_ok(&desk.f, &key[0], 10, 2000, 60000);
    put_ok(&desk.f, &key[1], 11, 0, 60000);      /* no data */
    put_ok(&desk.f, &key[2], 12, 500000, 60000); /* a chunk of its own */
    put_ok(&desk.f, &key[3], 13, 70, 60000);
    put_ok(&desk.f, &key[4], 14, 80, 60000);
    desk_round(&desk);
    assert_int_equal(desk.result.values, 5);
    assert_int_equal(sd_store_touch(desk.f.lane, key[0].bytes, key[0].len, 90000, desk.f.now), SD_OK);
    assert_int_equal(delete_key(&desk.f, &key[3]), SD_OK);
    put_ok(&desk.f, &key[4], 15, 81, 2000); /* replaced by what has less time */
    desk_round(&desk);
    assert_true(desk.result.values == 1 && desk.result.touches == 1 && desk.result.removals == 1);
    desk.f.now = now = 61000;
    sum = desk_reboot(&desk);
    assert_int_equal(sum.restored, 1);
    assert_value(&desk.f, &key[0], 10, 2000);
    assert_int_equal(sd_store_get(desk.f.lane, key[0].bytes, key[0].len, now, &ref), SD_OK);
    assert_true(ref.version == version && ref.expiry == 90000);
    sd_ref_release(desk.f.lane, &ref);
    for (i = 1; i < 5; i++)
        assert_false(is_there(&desk.f, &key[i]));
    assert_true(sd_store_version(desk.f.store) >= SD_LOAD_VERSION_GAP);
}

static void what_is_loaded_is_not_written_again(void **state)
{
    test_key_t key = numbered_key(1, 30);

    (void)state;
    put_ok(&desk.f, &key, 10, 2000, 60000);
    desk_reboot(&desk);
    desk_round(&desk);
    assert_int_equal(desk.result.values, 0);
    desk_reboot(&desk);
    assert_value(&desk.f, &key, 10, 2000);
}

static void a_removed_key_may_come_again(void **state)
{
    test_key_t key = numbered_key(1, 30);

    (void)state;
    put_ok(&desk.f, &key, 10, 2000, 60000);
    desk_round(&desk);
    assert_int_equal(delete_key(&desk.f, &key), SD_OK);
    put_ok(&desk.f, &key, 11, 100, 60000); /* in one round */
    desk_round(&desk);
    assert_int_equal(delete_key(&desk.f, &key), SD_OK);
    desk_round(&desk);
    put_ok(&desk.f, &key, 12, 101, 60000); /* in two */
    desk_reboot(&desk);
    assert_value(&desk.f, &key, 12, 101);
    assert_int_equal(delete_key(&desk.f, &key), SD_OK);
    desk_reboot(&desk);
    assert_false(is_there(&desk.f, &key));
}

/* Sessions that nobody changes lie among some that are changed all the time. */
static void the_log_stays_short(void **state)
{
    uint32_t n, r, rounds = test_ops(400, 150), copied = 0;
    uint64_t most = 0;
    test_key_t key;

    (void)state;
    for (n = 0; n < 100; n++) {
        key = numbered_key(n, 30);
        put_ok(&desk.f, &key, n, 1000, 1000000);
    }
    for (r = 0; r < rounds; r++) {
        for (n = 100; n < 130; n++) {
            key = numbered_key(n, 30);
            put_ok(&desk.f, &key, n + r, 9000, 1000000);
        }
        desk_round(&desk);
        copied += (uint32_t)desk.result.copied;
        if (sd_journal_state(desk.journal)->bytes > most)
            most = sd_journal_state(desk.journal)->bytes;
        assert_false(desk.result.wants_all);
    }
    assert_true(copied > 0);
    assert_true(most < 20 * MIB);
    assert_true(sd_journal_file_bytes(desk.journal) < 32 * MIB);
    desk_reboot(&desk);
    for (n = 0; n < 130; n++) {
        key = numbered_key(n, 30);
        assert_value(&desk.f, &key, n < 100 ? n : n + rounds - 1, n < 100 ? 1000 : 9000);
    }
}

/* Rule 4: a value that was replaced, and the replacement is in memory only. */
static void cleaning_does_not_drop_the_last_copy(void **state)
{
    test_key_t victim = numbered_key(1, 30), filler = numbered_key(2, 30);
    uint32_t r;
    loaded_t l;

    (void)state;
    put_ok(&desk.f, &victim, 1, 1000, 1000000);
    desk_round(&desk);
    for (r = 0; r < 10; r++) {
        put_ok(&desk.f, &filler, r, 2000000, 1000000);
        desk_round(&desk);
    }
    put_ok(&desk.f, &victim, 2, 1000, 1000000);
    disk_faults_after(0, ENOSPC); /* this round cleans and fails */
    assert_int_equal(desk_try_round(&desk, false, NULL), SD_PERSIST_NO_SPACE);
    disk_faults_none();
    sd_journal_close(&desk.journal);
    l = load_all(desk.dir, WALL + desk.f.now, true);
    assert_int_equal(l.status, SD_PERSIST_OK);
    assert_non_null(loaded_find(&l, &victim));
    loaded_free(&l);
    desk_journal_open(&desk, SD_PERSIST_OK);
    for (r = 0; r < 10; r++) {
        put_ok(&desk.f, &filler, r, 2000000, 1000000);
        desk_round(&desk);
    }
    assert_true(sd_journal_state(desk.journal)->first > 2);
    desk_reboot(&desk);
    assert_value(&desk.f, &victim, 2, 1000);
}

static void everything_takes_the_place_of_all(void **state)
{
    test_key_t key;
    uint64_t next;
    uint32_t n;

    (void)state;
    for (n = 0; n < 50; n++) {
        key = numbered_key(n, 30);
        put_ok(&desk.f, &key, n, 5000, 1000000);
        if (n % 10 == 9)
            desk_round(&desk);
    }
    next = sd_journal_state(desk.journal)->next;
    key = numbered_key(7, 30);
    assert_int_equal(delete_key(&desk.f, &key), SD_OK);
    assert_int_equal(desk_try_round(&desk, true, NULL), SD_PERSIST_OK);
    assert_int_equal(desk.result.values, 49);
    assert_true(sd_journal_state(desk.journal)->first == next);
    assert_int_equal(desk_reboot(&desk).restored, 49);
    /* and of nothing at all */
    for (n = 0; n < 50; n++) {
        key = numbered_key(n, 30);
        (void)delete_key(&desk.f, &key);
    }
    assert_int_equal(desk_try_round(&desk, true, NULL), SD_PERSIST_OK);
    assert_true(sd_journal_state(desk.journal)->bytes == 0);
    assert_int_equal(desk_reboot(&desk).restored, 0);
}

static void a_stopped_round_is_made_up_for(void **state)
{
    atomic_bool stop = true;
    test_key_t key = numbered_key(1, 30);

    (void)state;
    put_ok(&desk.f, &key, 1, 1000, 1000000);
    assert_int_equal(desk_try_round(&desk, false, &stop), SD_PERSIST_STOPPED);
    assert_true(sd_journal_state(desk.journal)->round == 0);
    assert_true(desk.reason[0] != '\0');
    stop = false;
    assert_int_equal(desk_try_round(&desk, false, &stop), SD_PERSIST_OK);
    assert_int_equal(desk.result.values, 1);
    desk_reboot(&desk);
    assert_value(&desk.f, &key, 1, 1000);
}

/* Whatever write it is that fails, and however: short, with an error, or the sync. */
static void without_space_nothing_is_lost(void **state)
{
    static const int errors[] = { ENOSPC, EDQUOT, EFBIG, EIO, 0 };
    uint32_t budget, e, failures = 0;
    model_t m;
    dice_t dice = dice_new(3);

    (void)state;
    memset(&m, 0, sizeof m);
    for (e = 0; e < sizeof errors / sizeof errors[0]; e++) {
        for (budget = 0; budget < 60000; budget += 4096 + 700) {
            sd_persist_status_t status;
            uint32_t i;
            loaded_t l;
            model_t before = m;

            for (i = 0; i < 6; i++)
                model_step(&desk, &m, &dice, 9000);
            disk_faults_after(budget, errors[e]);
            status = desk_try_round(&desk, false, NULL);
            disk_faults_none();
            if (status != SD_PERSIST_OK) {
                failures++;
                /* LMDB says EIO for what is cut short, and this disk has room */
                assert_true(status == SD_PERSIST_FAILED || (status == SD_PERSIST_NO_SPACE && errors[e] != EIO && errors[e] != 0));
                model_check_store(&m, &desk.f);
                sd_journal_close(&desk.journal);
                l = load_all(desk.dir, WALL + desk.f.now, true);
                assert_int_equal(l.status, SD_PERSIST_OK);
                if (model_compare(&before, &l, desk.f.now) != NULL && model_compare(&m, &l, desk.f.now) != NULL)
                    fail_msg("after %d: %s", errors[e], model_compare(&before, &l, desk.f.now));
                loaded_free(&l);
                desk.same_store = true;
                desk_journal_open(&desk, SD_PERSIST_OK);
            }
            desk_round(&desk);
        }
    }
    assert_true(failures > 20);
    desk_reboot(&desk);
    model_check_store(&m, &desk.f);
}

/* A real one, of 4 MB; who is not root has to do with a limit on files. */
static void a_full_file_system(void **state)
{
    struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY }, limit = { 4 * MIB, RLIM_INFINITY };
    bool mounted;
    uint32_t n, fitted = 0;
    model_t m;
    dice_t dice = dice_new(8);

    (void)state;
    memset(&m, 0, sizeof m);
    sd_journal_close(&desk.journal);
    mounted = mount("none", desk.dir, "tmpfs", 0, "size=4M,mode=700") == 0;
    desk_journal_open(&desk, mounted ? SD_PERSIST_FRESH : SD_PERSIST_OK);
    if (!mounted) {
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &none), 0);
        limit.rlim_max = none.rlim_max;
        (void)signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    }
    for (n = 0; n < 12; n++) {
        test_key_t key = numbered_key(1000 + n, 30);
        sd_persist_status_t status;

        model_step(&desk, &m, &dice, 3000);
        put_ok(&desk.f, &key, n, 600000, 1000000);
        status = desk_try_round(&desk, false, NULL);
        if (status == SD_PERSIST_OK) {
            fitted = n + 1;
            continue;
        }
        assert_int_equal(status, SD_PERSIST_NO_SPACE);
        assert_non_null(strstr(desk.reason, strerror(ENOSPC)));
    }
    assert_true(fitted > 0 && fitted < 12);
    model_check_store(&m, &desk.f);
    for (n = fitted / 2; n < 12; n++) { /* and when there is less of it, it fits again */
        test_key_t key = numbered_key(1000 + n, 30);

        assert_int_equal(delete_key(&desk.f, &key), SD_OK);
    }
    if (mounted)
        assert_int_equal(mount("none", desk.dir, "tmpfs", MS_REMOUNT, "size=64M,mode=700"), 0);
    else
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    desk_round(&desk);
    desk_reboot(&desk);
    model_check_store(&m, &desk.f);
    assert_int_equal(sessions(&desk.f) >= fitted / 2, 1);
    sd_journal_close(&desk.journal);
    if (mounted)
        assert_int_equal(umount(desk.dir), 0);
}

/* The environment itself gives up when its head cannot be written; the next round
 * opens it anew, with the journal open all the while. */
static void a_journal_survives_its_environment(void **state)
{
    test_key_t key = numbered_key(1, 30);
    uint32_t budget, failures = 0;

    (void)state;
    for (budget = 0; budget < 40000; budget += 1000) {
        put_ok(&desk.f, &key, budget, 1000, 1000000);
        disk_faults_after(budget, EIO);
        failures += desk_try_round(&desk, false, NULL) != SD_PERSIST_OK;
        assert_true(sd_journal_is_there(desk.journal));
        disk_faults_none();
        desk_round(&desk);
    }
    assert_true(failures > 3);
    desk_reboot(&desk);
    assert_value(&desk.f, &key, 39000, 1000);
}

static void a_large_round_takes_several_transactions(void **state)
{
    uint32_t n, values = 140;
    test_key_t key;
    sd_load_sum_t sum;

    (void)state;
    desk_store_anew(&desk, 200 * MIB);
    for (n = 0; n < values; n++) {
        key = numbered_key(n, 30);
        put_ok(&desk.f, &key, n, 1000000, 1000000);
    }
    /* it fails in its third part, and what the first two have put does not count */
    disk_faults_after(UINT64_C(134) << 20, ENOSPC);
    assert_int_not_equal(desk_try_round(&desk, false, NULL), SD_PERSIST_OK);
    disk_faults_none();
    assert_true(sd_journal_state(desk.journal)->next == 1);
    sd_journal_close(&desk.journal);
    sum = desk_load(&desk, true, SD_PERSIST_OK);
    assert_int_equal(sum.report.live, 0);
    desk_journal_open(&desk, SD_PERSIST_OK);
    desk_round(&desk);
    assert_int_equal(desk.result.values, values);
    assert_true(sd_journal_file_bytes(desk.journal) < 320 * MIB);
    assert_int_equal(desk_reboot(&desk).restored, values);
    for (n = 0; n < values; n += 13) {
        key = numbered_key(n, 30);
        assert_value(&desk.f, &key, n, 1000000);
    }
}

static void a_clock_that_is_set_back_revives_nothing(void **state)
{
    test_key_t shorter = numbered_key(1, 30), longer = numbered_key(2, 30);
    sd_ref_t ref;

    (void)state;
    put_ok(&desk.f, &shorter, 1, 100, 5000);
    put_ok(&desk.f, &longer, 2, 100, 500000);
    desk_round(&desk);
    desk.f.now = 6000;
    put_ok(&desk.f, &longer, 2, 100, 500000);
    desk_round(&desk);
    assert_true(desk.result.clock_moved == 0);
    desk.wall_shift = -3600000;
    desk_round(&desk);
    assert_true(desk.result.clock_moved == -3600000);
    sd_journal_close(&desk.journal);
    desk_store_anew(&desk, 8 * MIB);
    desk_load(&desk, true, SD_PERSIST_OK);
    assert_false(is_there(&desk.f, &shorter));
    assert_int_equal(sd_store_get(desk.f.lane, longer.bytes, longer.len, desk.f.now, &ref), SD_OK);
    assert_true(ref.expiry == 500000); /* what was left of it when the last round ended */
    sd_ref_release(desk.f.lane, &ref);
    desk_journal_open(&desk, SD_PERSIST_OK);
    assert_int_equal(desk_try_round(&desk, true, NULL), SD_PERSIST_OK);
    assert_true(desk.result.clock_moved == 0);
}

static void lives_against_a_model(void **state)
{
    uint32_t ops = test_ops(6000, 800), i;
    dice_t dice = dice_new(17);
    model_t m;

    (void)state;
    memset(&m, 0, sizeof m);
    sd_journal_close(&desk.journal);
    desk.slack_bytes = 1;
    desk_journal_open(&desk, SD_PERSIST_OK);
    for (i = 0; i < ops; i++) {
        uint32_t what = dice_below(&dice, 100);

        if (what < 80)
            model_step(&desk, &m, &dice, dice_below(&dice, 20) == 0 ? 200000 : 8000);
        else if (what < 84)
            desk.f.now += dice_below(&dice, 400);
        else if (what < 94)
            desk_round(&desk);
        else if (what < 96)
            assert_int_equal(desk_try_round(&desk, true, NULL), SD_PERSIST_OK);
        else if (what < 98) {
            disk_faults_after(dice_below(&dice, 100000), ENOSPC);
            (void)desk_try_round(&desk, dice_below(&dice, 2) == 0, NULL);
            disk_faults_none();
        }
        else {
            desk_reboot(&desk);
            model_check_store(&m, &desk.f);
        }
    }
    desk_reboot(&desk);
    model_check_store(&m, &desk.f);
    assert_true(desk.cleaned > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_changed_writes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_kind_of_change_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_loaded_is_not_written_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_removed_key_may_come_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_log_stays_short, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cleaning_does_not_drop_the_last_copy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(everything_takes_the_place_of_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stopped_round_is_made_up_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_space_nothing_is_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_file_system, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_journal_survives_its_environment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_large_round_takes_several_transactions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_clock_that_is_set_back_revives_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lives_against_a_model, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
