/* SPDX-License-Identifier: Apache-2.0
 *
 * floor.c: a server that does nothing but the system calls: what any server of
 * these shapes costs at the least on this machine.
 *
 *   floor PORT BYTES once       accept, receive, send, close
 *   floor PORT BYTES keep       receive and send on connections that stay, in
 *                               the extended frames' shape; a hello is answered
 *                               together with the read behind it
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define GREETING_BYTES 37 /* a frame's head, the nonce, and a text of the usual length */

static char in[1 << 17], *greeting, *out; /* the greeting stands directly before `out` */
static size_t out_len;
static int poller;

static void answer(int fd, bool keep)
{
    static const char stored[] = "K\0\0\0\10\0\0\0\0\0\0\0\1";

    if (in[0] == 'S' || in[0] == 'W')
        (void)!send(fd, keep ? stored : "OK\n", keep ? 13 : 3, MSG_NOSIGNAL);
    else if (in[0] == 'P') {
        memcpy(greeting + 5, in + 1, 8);
        (void)!send(fd, greeting, GREETING_BYTES + out_len, MSG_NOSIGNAL);
    }
    else
        (void)!send(fd, out, out_len, MSG_NOSIGNAL);
    if (!keep)
        close(fd);
}

static bool receive(int fd, bool keep)
{
    ssize_t n = recv(fd, in, sizeof in, 0);

    if (n > 0)
        answer(fd, keep);
    else if (n == 0 || errno != EAGAIN)
        close(fd);
    else
        return false;
    return true;
}

static void accept_all(int listener, bool keep)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };

        if (!keep && receive(fd, false))
            continue;
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    struct epoll_event e, events[256];
    bool keep;
    size_t bytes;
    int listener, on = 1;

    if (argc != 4)
        return 2;
    keep = strcmp(argv[3], "keep") == 0;
    bytes = (size_t)atol(argv[2]);
    out_len = keep ? bytes + 13 : bytes;
    greeting = malloc(GREETING_BYTES + out_len);
    if (!greeting)
        return 1;
    out = greeting + GREETING_BYTES;
    memset(greeting, 'x', GREETING_BYTES + out_len);
    memcpy(greeting, "K\0\0\0", 4);
    greeting[4] = GREETING_BYTES - 5;
    if (keep) {
        size_t body = bytes + 8;

        out[0] = 'V';
        out[1] = (char)(body >> 24);
        out[2] = (char)(body >> 16);
        out[3] = (char)(body >> 8);
        out[4] = (char)body;
    }
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    at.sin_port = htons((unsigned short)atoi(argv[1]));
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* is inherited */
    if (!keep)
        setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 4096) != 0) {
        perror("bind");
        return 1;
    }
    poller = epoll_create1(0);
    e = (struct epoll_event){ .events = EPOLLIN, .data.fd = listener };
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(poller, events, 256, -1), i;

        for (i = 0; i < n; i++)
            if (events[i].data.fd == listener)
                accept_all(listener, keep);
            else
                (void)receive(events[i].data.fd, keep);
    }
}
