/* SPDX-License-Identifier: Apache-2.0
 *
 * test_transport.c: the two ends that a client must be able to tell apart: a
 * reset is a reset however the descriptor ends, and an orderly end brings every
 * byte first, also those that were held back to leave with it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mod_sessiond/transport.h"
#include "store_fixture.h"

#define PATIENCE_MS 60000

static void set_nonblocking(int fd)
{
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

/* pair[0] is the server's end, as accept4 gives it; pair[1] the client's. */
static void tcp_pair(int pair[2])
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(listener >= 0);
    assert_int_equal(bind(listener, (struct sockaddr *)(void *)&at, size), 0);
    assert_int_equal(listen(listener, 5), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)(void *)&at, &size), 0);
    pair[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(pair[1], (struct sockaddr *)(void *)&at, size), 0);
    pair[0] = accept(listener, NULL, NULL);
    assert_true(pair[0] >= 0);
    set_nonblocking(pair[0]);
    close(listener);
}

static void unix_pair(int pair[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    set_nonblocking(pair[0]);
}

static const struct {
    const sd_transport_t *transport;
    void (*pair)(int[2]);
} kinds[] = { { &sd_transport_tcp, tcp_pair }, { &sd_transport_unix, unix_pair } };
#define KINDS 2

static void wait_readable(int fd)
{
    struct pollfd p = { fd, POLLIN, 0 };

    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
}

/* Everything up to the end. Returns the bytes; *err = 0: an orderly end. */
static size_t read_all(int fd, unsigned char *out, size_t room, int *err)
{
    size_t have = 0;

    for (;;) {
        ssize_t n;

        wait_readable(fd);
        n = recv(fd, out + have, room - have, 0);
        if (n <= 0) {
            *err = n < 0 ? errno : 0;
            return have;
        }
        have += (size_t)n;
        assert_true(have < room);
    }
}

/* valgrind takes the kernel's way to drop bytes, a recv into NULL, for an error. */
static bool can_discard(const sd_transport_t *t)
{
    return t != &sd_transport_tcp || !under_valgrind();
}

static ssize_t send_text(const sd_transport_t *t, int fd, const char *text, bool last)
{
    struct iovec iov = { (void *)(uintptr_t)text, strlen(text) };

    return t->send(fd, &iov, 1, last);
}

static void names(void **state)
{
    (void)state;
    assert_string_equal(sd_transport_tcp.name, "tcp");
    assert_string_equal(sd_transport_unix.name, "unix");
}

static void received_into_one_vector_and_many(void **state)
{
    size_t k;

    (void)state;
    for (k = 0; k < KINDS; k++) {
        const sd_transport_t *t = kinds[k].transport;
        char a[3], b[4], c[100];
        struct iovec one = { c, sizeof c }, many[3] = { { a, 3 }, { b, 4 }, { c, 100 } };
        int pair[2];

        kinds[k].pair(pair);
        assert_int_equal(t->receive(pair[0], &one, 1), -EAGAIN);
        assert_int_equal(t->receive(pair[0], many, 3), -EAGAIN);
        assert_int_equal(send(pair[1], "hello", 5, 0), 5);
        wait_readable(pair[0]);
        assert_int_equal(t->receive(pair[0], &one, 1), 5);
        assert_memory_equal(c, "hello", 5);
        assert_int_equal(send(pair[1], "abcdefghij", 10, 0), 10);
        wait_readable(pair[0]);
        assert_int_equal(t->receive(pair[0], many, 3), 10);
        assert_memory_equal(a, "abc", 3);
        assert_memory_equal(b, "defg", 4);
        assert_memory_equal(c, "hij", 3);
        close(pair[1]);
        wait_readable(pair[0]);
        assert_int_equal(t->receive(pair[0], &one, 1), 0);
        assert_int_equal(t->receive(pair[0], many, 3), 0);
        t->close(pair[0]);
    }
}

static void a_client_gone_is_an_errno_and_no_signal(void **state)
{
    size_t k;

    (void)state;
    for (k = 0; k < KINDS; k++) {
        const sd_transport_t *t = kinds[k].transport;
        struct linger reset = { 1, 0 };
        char byte;
        struct iovec iov = { &byte, 1 };
        ssize_t n = 0;
        int pair[2], tries;

        kinds[k].pair(pair);
        if (k == 0)
            setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        else
            assert_int_equal(send_text(t, pair[0], "unread", false), 6);
        close(pair[1]);
        wait_readable(pair[0]);
        assert_int_equal(t->receive(pair[0], &iov, 1), -ECONNRESET);
        for (tries = 0; tries < 100 && n >= 0; tries++)
            n = send_text(t, pair[0], "hello", false);
        assert_int_equal(n, -EPIPE);
        t->close(pair[0]);
    }
}

/* A client that reads late: the send says how much it took, then "not now". */
static void sent_from_many_vectors_until_it_is_full(void **state)
{
    static unsigned char bytes[16u << 20], out[(16u << 20) + 1];
    size_t k;

    (void)state;
    for (k = 0; k < KINDS; k++) {
        const sd_transport_t *t = kinds[k].transport;
        size_t sent = 0, have = 0;
        int pair[2], stalls = 0, err;

        kinds[k].pair(pair);
        value_fill(bytes, sizeof bytes, k);
        while (sent < sizeof bytes) {
            size_t rest = sizeof bytes - sent, third = rest / 3;
            struct iovec iov[3] = { { bytes + sent, third },
                                    { bytes + sent + third, third },
                                    { bytes + sent + 2 * third, rest - 2 * third } };
            ssize_t n = t->send(pair[0], iov, 3, true);

            if (n == -EAGAIN) {
                stalls++;
                wait_readable(pair[1]);
                n = recv(pair[1], out + have, sizeof out - have, 0);
                assert_true(n > 0);
                have += (size_t)n;
                continue;
            }
            assert_true(n > 0);
            sent += (size_t)n;
        }
        assert_true(stalls > 0);
        t->close(pair[0]);
        have += read_all(pair[1], out + have, sizeof out - have, &err);
        assert_int_equal(err, 0);
        assert_int_equal(have, sizeof bytes);
        assert_memory_equal(out, bytes, sizeof bytes);
        close(pair[1]);
    }
}

static void an_orderly_end(void **state)
{
    size_t k;

    (void)state;
    for (k = 0; k < KINDS; k++) {
        unsigned char out[100];
        int pair[2], err;

        kinds[k].pair(pair);
        assert_int_equal(send_text(kinds[k].transport, pair[0], "answer", false), 6);
        kinds[k].transport->close(pair[0]);
        assert_int_equal(read_all(pair[1], out, sizeof out, &err), 6);
        assert_int_equal(err, 0);
        close(pair[1]);
    }
}

static void a_reset_is_a_reset(void **state)
{
    unsigned char out[100];
    int pair[2], err;

    (void)state;
    tcp_pair(pair);
    sd_transport_tcp.end_is_reset(pair[0], true);
    sd_transport_tcp.close(pair[0]);
    assert_int_equal(read_all(pair[1], out, sizeof out, &err), 0);
    assert_int_equal(err, ECONNRESET);
    close(pair[1]);

    /* behind a part of an answer too: what has come does not look whole */
    tcp_pair(pair);
    assert_int_equal(send_text(&sd_transport_tcp, pair[0], "half an ans", false), 11);
    sd_transport_tcp.end_is_reset(pair[0], true);
    sd_transport_tcp.close(pair[0]);
    read_all(pair[1], out, sizeof out, &err);
    assert_int_equal(err, ECONNRESET);
    close(pair[1]);
}

static void a_reset_can_be_taken_back(void **state)
{
    unsigned char out[100];
    int pair[2], err;

    (void)state;
    tcp_pair(pair);
    sd_transport_tcp.end_is_reset(pair[0], true);
    assert_int_equal(send_text(&sd_transport_tcp, pair[0], "whole", true), 5);
    sd_transport_tcp.end_is_reset(pair[0], false);
    sd_transport_tcp.close(pair[0]);
    assert_int_equal(read_all(pair[1], out, sizeof out, &err), 5);
    assert_int_equal(err, 0);
    close(pair[1]);
}

/* It need not be we who close it: a death half-way is no orderly end. */
static void death_with_reset_set_is_a_reset(void **state)
{
    int orderly;

    (void)state;
    for (orderly = 0; orderly <= 1; orderly++) {
        unsigned char out[100];
        int pair[2], ready[2], err, status;
        char byte = 0;
        pid_t pid;

        tcp_pair(pair);
        assert_int_equal(pipe(ready), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            close(pair[1]);
            if (!orderly)
                sd_transport_tcp.end_is_reset(pair[0], true);
            if (send_text(&sd_transport_tcp, pair[0], "half", false) == 4
                && write(ready[1], &byte, 1) == 1)
                for (;;)
                    pause();
            _exit(1);
        }
        close(pair[0]);
        close(ready[1]);
        assert_int_equal(read(ready[0], &byte, 1), 1);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        (void)read_all(pair[1], out, sizeof out, &err);
        assert_int_equal(err, orderly ? 0 : ECONNRESET);
        close(ready[0]);
        close(pair[1]);
    }
}

/* Bytes that were only looked at are still there, all or a part of them. */
static void looked_at_and_taken_out(void **state)
{
    static unsigned char bytes[20000], out[20001];
    size_t k;

    (void)state;
    value_fill(bytes, sizeof bytes, 1);
    for (k = 0; k < KINDS; k++) {
        const sd_transport_t *t = kinds[k].transport;
        struct iovec iov = { out, sizeof out };
        int pair[2];
        size_t have = 0;

        if (!can_discard(t))
            continue;
        kinds[k].pair(pair);
        assert_int_equal(t->peek(pair[0], out, sizeof out), -EAGAIN);
        assert_int_equal(send(pair[1], bytes, sizeof bytes, 0), sizeof bytes);
        while (have < sizeof bytes) {
            ssize_t n;

            wait_readable(pair[0]);
            n = t->peek(pair[0], out, sizeof out);
            assert_true(n > 0 && (size_t)n >= have);
            have = (size_t)n;
        }
        assert_memory_equal(out, bytes, sizeof bytes);
        assert_int_equal(t->peek(pair[0], out, 100), 100);
        t->discard(pair[0], 0);
        t->discard(pair[0], 9000);
        memset(out, 0, sizeof out);
        assert_int_equal(t->receive(pair[0], &iov, 1), sizeof bytes - 9000);
        assert_memory_equal(out, bytes + 9000, sizeof bytes - 9000);
        /* more than there is: what there is, and no waiting */
        assert_int_equal(send(pair[1], "rest", 4, 0), 4);
        wait_readable(pair[0]);
        t->discard(pair[0], 100);
        assert_int_equal(t->receive(pair[0], &iov, 1), -EAGAIN);
        t->discard(pair[0], 100);
        close(pair[1]);
        wait_readable(pair[0]);
        assert_int_equal(t->peek(pair[0], out, sizeof out), 0);
        t->close(pair[0]);
    }
}

/* As long as a request was only looked at, the end is a reset, also on a Unix
 * socket; once it is taken out of the socket, the end is orderly. */
static void an_end_before_the_request_is_taken_is_a_reset(void **state)
{
    size_t k;
    int taken;

    (void)state;
    for (k = 0; k < KINDS; k++)
        for (taken = 0; taken <= 1; taken++) {
            const sd_transport_t *t = kinds[k].transport;
            unsigned char out[100];
            int pair[2], ready[2], err, status;
            char byte = 0;
            pid_t pid;

            if (taken && !can_discard(t))
                continue;
            kinds[k].pair(pair);
            assert_int_equal(pipe(ready), 0);
            assert_int_equal(send(pair[1], "request", 7, 0), 7);
            wait_readable(pair[0]);
            pid = fork();
            assert_true(pid >= 0);
            if (pid == 0) {
                close(pair[1]);
                if (t->peek(pair[0], out, sizeof out) != 7)
                    _exit(1);
                if (taken)
                    t->discard(pair[0], 7);
                if (write(ready[1], &byte, 1) == 1)
                    for (;;)
                        pause();
                _exit(1);
            }
            close(pair[0]);
            close(ready[1]);
            assert_int_equal(read(ready[0], &byte, 1), 1);
            assert_int_equal(kill(pid, SIGKILL), 0);
            assert_int_equal(waitpid(pid, &status, 0), pid);
            assert_int_equal(read_all(pair[1], out, sizeof out, &err), 0);
            assert_int_equal(err, taken ? 0 : ECONNRESET);
            close(ready[0]);
            close(pair[1]);
        }
}

static void kept_alive(void **state)
{
    int pair[2], on = 0;
    socklen_t size = sizeof on;

    (void)state;
    tcp_pair(pair);
    assert_int_equal(getsockopt(pair[0], SOL_SOCKET, SO_KEEPALIVE, &on, &size), 0);
    assert_int_equal(on, 0);
    sd_transport_tcp.keep_alive(pair[0]);
    assert_int_equal(getsockopt(pair[0], SOL_SOCKET, SO_KEEPALIVE, &on, &size), 0);
    assert_int_not_equal(on, 0);
    close(pair[0]);
    close(pair[1]);
    unix_pair(pair);
    sd_transport_unix.keep_alive(pair[0]);
    assert_int_equal(send_text(&sd_transport_unix, pair[0], "x", false), 1);
    close(pair[0]);
    close(pair[1]);
}

/* Unix sockets have no reset to be armed: with nothing unread their end is
 * orderly. */
static void a_unix_socket_has_no_reset(void **state)
{
    unsigned char out[100];
    int pair[2], err;

    (void)state;
    unix_pair(pair);
    assert_int_equal(send_text(&sd_transport_unix, pair[0], "answer", false), 6);
    sd_transport_unix.end_is_reset(pair[0], true);
    sd_transport_unix.close(pair[0]);
    assert_int_equal(read_all(pair[1], out, sizeof out, &err), 6);
    assert_int_equal(err, 0);
    close(pair[1]);
}

static void half_closed_it_still_receives(void **state)
{
    size_t k;

    (void)state;
    for (k = 0; k < KINDS; k++) {
        const sd_transport_t *t = kinds[k].transport;
        unsigned char out[100];
        char in[100];
        struct iovec iov = { in, sizeof in };
        int pair[2], err;

        kinds[k].pair(pair);
        assert_int_equal(send_text(t, pair[0], "last words", false), 10);
        t->half_close(pair[0]);
        assert_int_equal(read_all(pair[1], out, sizeof out, &err), 10);
        assert_int_equal(err, 0);
        assert_int_equal(t->receive(pair[0], &iov, 1), -EAGAIN);
        assert_int_equal(send(pair[1], "more", 4, MSG_NOSIGNAL), 4);
        wait_readable(pair[0]);
        assert_int_equal(t->receive(pair[0], &iov, 1), 4);
        assert_int_equal(send_text(t, pair[0], "x", false), -EPIPE);
        close(pair[1]);
        wait_readable(pair[0]);
        assert_int_equal(t->receive(pair[0], &iov, 1), 0);
        t->close(pair[0]);
    }
}

/* What is held back for the close is there with it, of every size. */
static void the_last_bytes_arrive_with_the_end(void **state)
{
    static const size_t sizes[] = { 1, 3, 1448, 1449, 5000, 16384, 60000 };
    static unsigned char bytes[60000], out[60001];
    size_t k, i;

    (void)state;
    value_fill(bytes, sizeof bytes, 1);
    for (k = 0; k < KINDS; k++)
        for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            const sd_transport_t *t = kinds[k].transport;
            struct iovec iov[2] = { { bytes, sizes[i] / 2 },
                                    { bytes + sizes[i] / 2, sizes[i] - sizes[i] / 2 } };
            int pair[2], err;

            kinds[k].pair(pair);
            assert_int_equal(t->send(pair[0], iov, 2, true), sizes[i]);
            t->close(pair[0]);
            assert_int_equal(read_all(pair[1], out, sizeof out, &err), sizes[i]);
            assert_int_equal(err, 0);
            assert_memory_equal(out, bytes, sizes[i]);
            close(pair[1]);
        }
}

/* Bytes that the kernel has not sent yet. */
static int unsent(int fd)
{
    int n = -1;

    assert_int_equal(ioctl(fd, SIOCOUTQNSD, &n), 0);
    return n;
}

/* The kernel holds them for 200 ms at most, so on a machine that stalls one try
 * may find them gone; not twenty. Bytes that are not the last leave at once. */
static void last_bytes_are_held_back_for_the_end(void **state)
{
    unsigned char out[100];
    int pair[2], tries, held = 0, err;

    (void)state;
    for (tries = 0; tries < 20 && held != 4; tries++) {
        tcp_pair(pair);
        assert_int_equal(send_text(&sd_transport_tcp, pair[0], "last", true), 4);
        held = unsent(pair[0]);
        sd_transport_tcp.close(pair[0]);
        assert_int_equal(read_all(pair[1], out, sizeof out, &err), 4);
        close(pair[1]);
    }
    assert_int_equal(held, 4);
    tcp_pair(pair);
    assert_int_equal(send_text(&sd_transport_tcp, pair[0], "not the last", false), 12);
    assert_int_equal(unsent(pair[0]), 0);
    sd_transport_tcp.close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(received_into_one_vector_and_many),
        cmocka_unit_test(a_client_gone_is_an_errno_and_no_signal),
        cmocka_unit_test(sent_from_many_vectors_until_it_is_full),
        cmocka_unit_test(an_orderly_end),
        cmocka_unit_test(a_reset_is_a_reset),
        cmocka_unit_test(a_reset_can_be_taken_back),
        cmocka_unit_test(death_with_reset_set_is_a_reset),
        cmocka_unit_test(looked_at_and_taken_out),
        cmocka_unit_test(an_end_before_the_request_is_taken_is_a_reset),
        cmocka_unit_test(kept_alive),
        cmocka_unit_test(a_unix_socket_has_no_reset),
        cmocka_unit_test(half_closed_it_still_receives),
        cmocka_unit_test(the_last_bytes_arrive_with_the_end),
        cmocka_unit_test(last_bytes_are_held_back_for_the_end),
    };

    return cmocka_run_group_tests_name("transport", tests, NULL, NULL);
}
