/* SPDX-License-Identifier: Apache-2.0
 *
 * transport.c: plain TCP and Unix sockets.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "syscalls.h"
#include "transport.h"

static ssize_t plain_receive(int fd, struct iovec *iov, int n)
{
    ssize_t got;

    do
        got = n == 1 ? sd_sys_recv(fd, iov->iov_base, iov->iov_len, 0) : readv(fd, iov, n);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

static ssize_t plain_peek(int fd, void *buffer, size_t room)
{
    ssize_t got;

    do
        got = sd_sys_recv(fd, buffer, room, MSG_PEEK);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

static size_t plain_pending(int fd)
{
    int n = 0;

    return ioctl(fd, FIONREAD, &n) == 0 && n > 0 ? (size_t)n : 0;
}

/* TCP drops them without a copy. */
static void tcp_discard(int fd, size_t n)
{
    ssize_t got;

    for (; n > 0; n -= (size_t)got) {
        got = sd_sys_recv(fd, NULL, n, MSG_TRUNC | MSG_DONTWAIT);
        if (got <= 0)
            return;
    }
}

static void unix_discard(int fd, size_t n)
{
    char away[4096];
    ssize_t got;

    for (; n > 0; n -= (size_t)got) {
        got = sd_sys_recv(fd, away, n < sizeof away ? n : sizeof away, MSG_DONTWAIT);
        if (got <= 0)
            return;
    }
}

static ssize_t plain_send(int fd, struct iovec *iov, int n, bool last)
{
    struct msghdr msg;
    int flags = MSG_NOSIGNAL | (last ? MSG_MORE : 0);
    ssize_t sent;

    do {
        if (n == 1)
            sent = sd_sys_send(fd, iov->iov_base, iov->iov_len, flags);
        else {
            memset(&msg, 0, sizeof msg);
            msg.msg_iov = iov;
            msg.msg_iovlen = (size_t)n;
            sent = sd_sys_sendmsg(fd, &msg, flags);
        }
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

static void tcp_end_is_reset(int fd, bool yes)
{
    struct linger linger = { .l_onoff = yes, .l_linger = 0 };

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static void tcp_keep_alive(int fd)
{
    int on = 1;

    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

/* A Unix socket's peer cannot vanish unnoticed. */
static void no_keep_alive(int fd)
{
    (void)fd;
}

static void no_reset(int fd, bool yes)
{
    (void)fd;
    (void)yes;
}

static void plain_half_close(int fd)
{
    (void)shutdown(fd, SHUT_WR);
}

static void plain_close(int fd)
{
    (void)sd_sys_close(fd);
}

static void tcp_part(int fd, bool reset)
{
    static const struct sockaddr nobody = { .sa_family = AF_UNSPEC };

    if (reset)
        (void)connect(fd, &nobody, sizeof nobody);
    else
        (void)shutdown(fd, SHUT_RDWR);
}

static void unix_part(int fd, bool reset)
{
    (void)reset;
    (void)shutdown(fd, SHUT_RDWR);
}

const sd_transport_t sd_transport_tcp
    = { "tcp", plain_receive, plain_peek, plain_pending, tcp_discard, plain_send, tcp_end_is_reset,
        tcp_keep_alive, plain_half_close, plain_close, tcp_part };
const sd_transport_t sd_transport_unix
    = { "unix", plain_receive, plain_peek, plain_pending, unix_discard, plain_send, no_reset, no_keep_alive,
        plain_half_close, plain_close, unix_part };
