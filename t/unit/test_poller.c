/* SPDX-License-Identifier: Apache-2.0
 *
 * test_poller.c: what any poller behind poller.h must do: say what is ready for
 * as long as it is, hand the owner back, and forget a descriptor when told to,
 * also while others hold the same open file.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mod_sessiond/poller.h"
#include "store_fixture.h"

#define PATIENCE_MS 60000
/* More than the poller takes from the kernel at once. */
#define PAIRS 300

typedef struct ends {
    sd_poller_t *poller;
    int a, b;
    char owner[2];
} ends_t;

static void ends_open(ends_t *e)
{
    int pair[2];

    memset(e, 0, sizeof *e);
    e->poller = sd_poller_create();
    assert_non_null(e->poller);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    e->a = pair[0];
    e->b = pair[1];
}

static void ends_close(ends_t *e)
{
    close(e->a);
    if (e->b >= 0)
        close(e->b);
    sd_poller_destroy(&e->poller);
    assert_null(e->poller);
    sd_poller_destroy(&e->poller); /* harmless on none */
}

static int wait_for(ends_t *e, int timeout, sd_poll_event_t *event)
{
    memset(event, 0xee, sizeof *event);
    return sd_poller_wait(e->poller, timeout, event, 1);
}

static void readable_for_as_long_as_it_is(void **state)
{
    ends_t e;
    sd_poll_event_t event;
    char byte;

    (void)state;
    ends_open(&e);
    assert_int_equal(sd_poller_add(e.poller, e.a, SD_POLL_READ, &e.owner[0]), 0);
    assert_int_equal(wait_for(&e, 0, &event), 0);
    assert_int_equal(write(e.b, "x", 1), 1);
    assert_int_equal(wait_for(&e, PATIENCE_MS, &event), 1);
    assert_ptr_equal(event.owner, &e.owner[0]);
    assert_true(event.readable);
    assert_false(event.writable);
    assert_int_equal(wait_for(&e, 0, &event), 1);
    assert_int_equal(read(e.a, &byte, 1), 1);
    assert_int_equal(wait_for(&e, 0, &event), 0);
    ends_close(&e);
}

static void interest_changes(void **state)
{
    ends_t e;
    sd_poll_event_t event;

    (void)state;
    ends_open(&e);
    assert_int_equal(write(e.b, "x", 1), 1);
    assert_int_equal(sd_poller_add(e.poller, e.a, SD_POLL_WRITE, &e.owner[0]), 0);
    assert_int_equal(wait_for(&e, PATIENCE_MS, &event), 1);
    assert_true(event.writable);
    assert_false(event.readable);
    assert_int_equal(
        sd_poller_change(e.poller, e.a, SD_POLL_READ | SD_POLL_WRITE, &e.owner[1]), 0);
    assert_int_equal(wait_for(&e, PATIENCE_MS, &event), 1);
    assert_ptr_equal(event.owner, &e.owner[1]);
    assert_true(event.writable && event.readable);
    assert_int_equal(sd_poller_change(e.poller, e.a, 0, &e.owner[1]), 0);
    assert_int_equal(wait_for(&e, 0, &event), 0);
    ends_close(&e);
}

/* A read will tell what has happened to it; also where nothing is asked for. */
static void the_end_is_readable(void **state)
{
    ends_t e;
    sd_poll_event_t event;

    (void)state;
    ends_open(&e);
    assert_int_equal(sd_poller_add(e.poller, e.a, SD_POLL_READ, &e.owner[0]), 0);
    close(e.b);
    e.b = -1;
    assert_int_equal(wait_for(&e, PATIENCE_MS, &event), 1);
    assert_true(event.readable);
    assert_int_equal(sd_poller_change(e.poller, e.a, 0, &e.owner[0]), 0);
    assert_int_equal(wait_for(&e, PATIENCE_MS, &event), 1);
    assert_true(event.readable);
    ends_close(&e);
}

/* A close alone would not do: another process may hold the same open file. */
static void removed_while_another_holds_it(void **state)
{
    ends_t e;
    sd_poll_event_t event;
    int other;

    (void)state;
    ends_open(&e);
    other = dup(e.a);
    assert_true(other >= 0);
    assert_int_equal(sd_poller_add(e.poller, e.a, SD_POLL_READ, &e.owner[0]), 0);
    assert_int_equal(write(e.b, "x", 1), 1);
    assert_int_equal(wait_for(&e, PATIENCE_MS, &event), 1);
    sd_poller_remove(e.poller, e.a);
    assert_int_equal(wait_for(&e, 0, &event), 0);
    close(e.a);
    e.a = other;
    assert_int_equal(wait_for(&e, 0, &event), 0);
    sd_poller_remove(e.poller, e.a); /* harmless on a stranger */
    ends_close(&e);
}

static void shared_descriptors_are_polled_by_two(void **state)
{
    ends_t e, other;
    sd_poll_event_t event;

    (void)state;
    ends_open(&e);
    ends_open(&other);
    assert_int_equal(sd_poller_add(e.poller, e.a, SD_POLL_READ | SD_POLL_SHARED, &e.owner[0]), 0);
    assert_int_equal(sd_poller_add(other.poller, e.a, SD_POLL_READ | SD_POLL_SHARED, &e.owner[1]),
                     0);
    assert_int_equal(write(e.b, "x", 1), 1);
    assert_int_equal(wait_for(&e, PATIENCE_MS, &event), 1);
    assert_ptr_equal(event.owner, &e.owner[0]);
    assert_true(event.readable);
    sd_poller_remove(e.poller, e.a);
    assert_int_equal(wait_for(&other, PATIENCE_MS, &event), 1);
    assert_ptr_equal(event.owner, &e.owner[1]);
    sd_poller_remove(other.poller, e.a);
    ends_close(&other);
    ends_close(&e);
}

static void no_more_events_than_asked_for(void **state)
{
    ends_t e;
    sd_poll_event_t events[3];
    int fds[PAIRS][2], i, n, seen = 0;

    (void)state;
    ends_open(&e);
    for (i = 0; i < PAIRS; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds[i]), 0);
        assert_int_equal(write(fds[i][1], "x", 1), 1);
        assert_int_equal(sd_poller_add(e.poller, fds[i][0], SD_POLL_READ, &fds[i]), 0);
    }
    assert_int_equal(sd_poller_wait(e.poller, PATIENCE_MS, events, 3), 3);
    /* all of them in the end, however many fit at once */
    for (i = 0; i < 1000 && seen < PAIRS; i++) {
        sd_poll_event_t many[500];
        int k;

        n = sd_poller_wait(e.poller, PATIENCE_MS, many, 500);
        assert_true(n > 0);
        for (k = 0; k < n; k++) {
            int *pair = many[k].owner;
            char byte;

            assert_int_equal(read(pair[0], &byte, 1), 1);
            seen++;
        }
    }
    assert_int_equal(seen, PAIRS);
    for (i = 0; i < PAIRS; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
    ends_close(&e);
}

static void errors_are_told(void **state)
{
    ends_t e;

    (void)state;
    ends_open(&e);
    assert_int_equal(sd_poller_add(e.poller, -1, SD_POLL_READ, NULL), EBADF);
    assert_int_equal(sd_poller_change(e.poller, e.a, SD_POLL_READ, NULL), ENOENT);
    assert_int_equal(sd_poller_add(e.poller, e.a, SD_POLL_READ, NULL), 0);
    assert_int_equal(sd_poller_add(e.poller, e.a, SD_POLL_READ, NULL), EEXIST);
    ends_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readable_for_as_long_as_it_is),
        cmocka_unit_test(interest_changes),
        cmocka_unit_test(the_end_is_readable),
        cmocka_unit_test(removed_while_another_holds_it),
        cmocka_unit_test(shared_descriptors_are_polled_by_two),
        cmocka_unit_test(no_more_events_than_asked_for),
        cmocka_unit_test(errors_are_told),
    };

    return cmocka_run_group_tests_name("poller", tests, NULL, NULL);
}
