/* SPDX-License-Identifier: Apache-2.0
 *
 * test_load.c: a load from its start to its end, and whatever can befall the child:
 * it is killed at any moment, stands still, or is given a stop.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "persist/child.h"
#include "persist_fixture.h"

static desk_t desk;

static int set_up(void **state)
{
    (void)state;
    desk_open(&desk, 32 * MIB);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    desk_close(&desk);
    return 0;
}

static void fill(uint32_t values, uint32_t len)
{
    uint32_t n;

    for (n = 0; n < values; n++) {
        test_key_t key = numbered_key(n, 30);

        put_ok(&desk.f, &key, n, len, 1000000);
    }
    desk_round(&desk);
    sd_journal_close(&desk.journal);
}

static sd_load_options_t options(void)
{
    sd_load_options_t o;

    memset(&o, 0, sizeof o);
    o.wall_ms = WALL + desk.f.now;
    o.patience_ms = 20000;
    return o;
}

static pid_t only_child(void)
{
    char path[64], text[64] = "";
    FILE *f;

    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    f = fopen(path, "r");
    if (!f)
        return 0;
    if (!fgets(text, sizeof text, f))
        text[0] = '\0';
    fclose(f);
    return (pid_t)atoi(text);
}

static void all_of_it_comes(void **state)
{
    sd_load_sum_t sum;
    uint32_t n;

    (void)state;
    fill(3000, 700);
    for (n = 0; n < 2; n++) {
        desk_store_anew(&desk, 32 * MIB);
        sum = desk_load(&desk, n == 1, SD_PERSIST_OK);
        assert_true(sum.restored == 3000 && sum.conflicts == 0 && sum.late == 0 && sum.report.live == 3000);
        assert_true(sum.report.bytes_done == sum.report.bytes_all && sum.report.bytes_all > 2000000);
        assert_int_equal(sessions(&desk.f), 3000);
        assert_clean(desk.f.store);
    }
    for (n = 0; n < 3000; n++) {
        test_key_t key = numbered_key(n, 30);

        assert_value(&desk.f, &key, n, 700);
    }
    sum = desk_load(&desk, false, SD_PERSIST_OK); /* over what is there already */
    assert_true(sum.restored == 0 && sum.conflicts == 3000);
}

static void a_store_may_be_too_small(void **state)
{
    (void)state;
    fill(3000, 700);
    desk_store_anew(&desk, 2 * MIB);
    desk_load(&desk, true, SD_PERSIST_TOO_SMALL);
    assert_non_null(strstr(desk.reason, "full"));
    desk_store_anew(&desk, 32 * MIB);
}

static uint64_t later(void *baton)
{
    return ((desk_t *)baton)->f.now + 60;
}

static void time_goes_on_while_it_loads(void **state)
{
    test_key_t key = numbered_key(1, 30), other = numbered_key(2, 30);
    sd_load_options_t o = options();
    sd_load_target_t target;
    sd_load_sum_t sum;
    sd_load_t *load;

    (void)state;
    put_ok(&desk.f, &key, 1, 100, desk.f.now + 50);
    put_ok(&desk.f, &other, 1, 100, desk.f.now + 70);
    desk_round(&desk);
    sd_journal_close(&desk.journal);
    desk_store_anew(&desk, 8 * MIB);
    memset(&target, 0, sizeof target);
    target.lane = desk.f.lane;
    target.now = desk.f.now;
    target.read_clock = later;
    target.baton = &desk;
    assert_int_equal(sd_load_start(&load, desk.dir, &o, desk.reason), SD_PERSIST_OK);
    assert_int_equal(sd_load_into_store(load, &target, &sum, desk.reason), SD_PERSIST_OK);
    sd_load_end(&load);
    assert_true(sum.restored == 1 && sum.late == 1);
    assert_false(is_there(&desk.f, &key));
    assert_true(is_there(&desk.f, &other));
}

static void it_can_be_ended_at_once(void **state)
{
    sd_load_options_t o = options();
    sd_load_t *load;

    (void)state;
    fill(3000, 700);
    assert_int_equal(sd_load_start(&load, desk.dir, &o, desk.reason), SD_PERSIST_OK);
    sd_load_end(&load);
    assert_int_equal(only_child(), 0);
    desk_journal_open(&desk, SD_PERSIST_OK);
}

static void there_may_be_none(void **state)
{
    sd_load_options_t o = options();
    sd_load_t *load;
    char dir[64];

    (void)state;
    dir_make(dir);
    assert_int_equal(sd_load_start(&load, dir, &o, desk.reason), SD_PERSIST_FRESH);
    assert_null(load);
    dir_remove(dir);
    assert_int_equal(sd_load_start(&load, dir, &o, desk.reason), SD_PERSIST_FAILED);
    sd_load_end(&load);
}

/* Killed after so many records, or while it waits; each time there is a sentence. */
static void a_killed_child_is_no_damage(void **state)
{
    sd_load_options_t o = options();
    sd_load_record_t record;
    uint32_t after;

    (void)state;
    fill(6000, 700);
    for (after = 0; after < 4000; after = 2 * after + 1) {
        sd_load_t *load;
        sd_load_step_t step;
        uint32_t n = 0;
        pid_t child;

        assert_int_equal(sd_load_start(&load, desk.dir, &o, desk.reason), SD_PERSIST_OK);
        child = only_child();
        if (child == 0) { /* the kernel does not tell */
            sd_load_end(&load);
            skip();
        }
        while (n < after && (step = sd_load_next(load, &record, 1000)) != SD_LOAD_BROKEN && step != SD_LOAD_DONE)
            n += step == SD_LOAD_RECORD;
        assert_int_equal(kill(child, SIGKILL), 0);
        do {
            step = sd_load_next(load, &record, 1000);
        } while (step == SD_LOAD_RECORD || step == SD_LOAD_WAIT);
        assert_int_equal(step, SD_LOAD_BROKEN);
        assert_int_equal(sd_load_status(load), SD_PERSIST_FAILED);
        assert_non_null(strstr(sd_load_reason(load), "signal 9"));
        assert_int_equal(sd_load_next(load, &record, 1000), SD_LOAD_BROKEN);
        sd_load_end(&load);
        assert_int_equal(only_child(), 0);
    }
}

static void one_that_stands_still_is_given_up(void **state)
{
    sd_load_options_t o = options();
    sd_load_record_t record;
    sd_load_t *load;
    sd_load_step_t step;
    pid_t child;

    (void)state;
    fill(6000, 700);
    o.patience_ms = 300;
    assert_int_equal(sd_load_start(&load, desk.dir, &o, desk.reason), SD_PERSIST_OK);
    child = only_child();
    if (child == 0 || under_valgrind()) {
        sd_load_end(&load);
        skip();
    }
    assert_int_equal(kill(child, SIGSTOP), 0);
    do {
        step = sd_load_next(load, &record, 50);
    } while (step == SD_LOAD_RECORD || step == SD_LOAD_WAIT);
    assert_int_equal(sd_load_status(load), SD_PERSIST_DAMAGED);
    assert_non_null(strstr(sd_load_reason(load), "stood still"));
    sd_load_end(&load);
    assert_int_equal(only_child(), 0);
}

static void a_slow_parent_is_no_still_child(void **state)
{
    sd_load_options_t o = options();
    sd_load_record_t record;
    sd_load_t *load;
    sd_load_step_t step;
    uint32_t n = 0;

    (void)state;
    fill(6000, 700);
    o.patience_ms = 5000;
    assert_int_equal(sd_load_start(&load, desk.dir, &o, desk.reason), SD_PERSIST_OK);
    do {
        step = sd_load_next(load, &record, 0);
        if (n++ % 3000 == 0)
            usleep(20000);
    } while (step == SD_LOAD_RECORD || step == SD_LOAD_WAIT);
    assert_int_equal(step, SD_LOAD_DONE);
    sd_load_end(&load);
}

static void it_can_be_stopped(void **state)
{
    sd_load_options_t o = options();
    atomic_bool stop = true;
    sd_load_target_t target;
    sd_load_sum_t sum;
    sd_load_t *load;

    (void)state;
    fill(100, 700);
    desk_store_anew(&desk, 8 * MIB);
    o.stop = &stop;
    assert_int_equal(sd_load_start(&load, desk.dir, &o, desk.reason), SD_PERSIST_OK);
    memset(&target, 0, sizeof target);
    target.lane = desk.f.lane;
    target.now = desk.f.now;
    target.read_clock = desk_clock;
    target.baton = &desk;
    assert_int_equal(sd_load_into_store(load, &target, &sum, desk.reason), SD_PERSIST_STOPPED);
    sd_load_end(&load);
}

/* ---- the child itself ---- */

typedef struct findings {
    int open_fds;
    bool handler, blocked;
} findings_t;

static void look_around(void *order, sd_desk_t *d, int says)
{
    findings_t f;
    struct sigaction now;
    sigset_t mask;
    int fd;

    (void)order;
    (void)d;
    memset(&f, 0, sizeof f); /* with what pads it */
    for (fd = 0; fd < 1000; fd++)
        f.open_fds += fcntl(fd, F_GETFD) >= 0;
    sigaction(SIGTERM, NULL, &now);
    f.handler = now.sa_handler != SIG_IGN; /* it is not for this one alone */
    sigaction(SIGALRM, NULL, &now);
    f.handler |= now.sa_handler != SIG_DFL;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    f.blocked = sigismember(&mask, SIGUSR1) != 0;
    if (write(says, &f, sizeof f) != (ssize_t)sizeof f)
        _exit(9);
}

static void it_has_nothing_of_its_parent(void **state)
{
    sd_child_t child;
    findings_t f;
    sigset_t mask, before;
    void (*old)(int) = signal(SIGALRM, SIG_IGN);

    (void)state;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigprocmask(SIG_BLOCK, &mask, &before);
    assert_true(sd_child_start(&child, look_around, NULL));
    fcntl(child.pipe, F_SETFL, 0);
    assert_int_equal(read(child.pipe, &f, sizeof f), sizeof f);
    sd_child_end(&child, false);
    sigprocmask(SIG_SETMASK, &before, NULL);
    signal(SIGALRM, old);
    assert_true(WIFEXITED(child.wait_status) && WEXITSTATUS(child.wait_status) == 0);
    assert_false(f.handler);
    assert_false(f.blocked);
    if (!under_valgrind())
        assert_int_equal(f.open_fds, 4);
}

static void wait_for_ever(void *order, sd_desk_t *d, int says)
{
    (void)order;
    (void)d;
    (void)says;
    for (;;)
        pause();
}

static void it_dies_with_its_parent(void **state)
{
    int ends[2];
    char byte;
    pid_t parent, child;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    parent = fork();
    if (parent == 0) {
        sd_child_t c;

        if (!sd_child_start(&c, wait_for_ever, NULL) || write(ends[1], &c.pid, sizeof c.pid) != (ssize_t)sizeof c.pid)
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(read(ends[0], &child, sizeof child), sizeof child);
    assert_int_equal(waitpid(parent, NULL, 0), parent);
    close(ends[1]); /* the child has closed it at its start; once it is gone, nobody has it */
    while (kill(child, 0) == 0) {
        char path[64], text[256];
        FILE *f;

        snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
        f = fopen(path, "r");
        if (!f || !fgets(text, sizeof text, f) || strstr(text, ") Z ")) {
            if (f)
                fclose(f);
            break;
        }
        fclose(f);
        usleep(10000);
    }
    assert_int_equal(read(ends[0], &byte, 1), 0);
    close(ends[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_of_it_comes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_store_may_be_too_small, set_up, tear_down),
        cmocka_unit_test_setup_teardown(time_goes_on_while_it_loads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_can_be_ended_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(there_may_be_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_killed_child_is_no_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_that_stands_still_is_given_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_slow_parent_is_no_still_child, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_can_be_stopped, set_up, tear_down),
        cmocka_unit_test(it_has_nothing_of_its_parent),
        cmocka_unit_test(it_dies_with_its_parent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
