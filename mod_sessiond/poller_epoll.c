/* SPDX-License-Identifier: Apache-2.0
 *
 * poller_epoll.c: the poller on Linux's epoll.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "poller.h"

#define BATCH 256

struct sd_poller {
    int fd;
    struct epoll_event events[BATCH];
};

sd_poller_t *sd_poller_create(void)
{
    sd_poller_t *p = malloc(sizeof *p);

    if (!p)
        return NULL;
    p->fd = epoll_create1(EPOLL_CLOEXEC);
    if (p->fd < 0) {
        free(p);
        return NULL;
    }
    return p;
}

void sd_poller_destroy(sd_poller_t **poller)
{
    if (!*poller)
        return;
    close((*poller)->fd);
    free(*poller);
    *poller = NULL;
}

static int control(sd_poller_t *p, int op, int fd, unsigned interest, void *owner)
{
    struct epoll_event e = { .data.ptr = owner };

    if (interest & SD_POLL_READ)
        e.events |= EPOLLIN;
    if (interest & SD_POLL_WRITE)
        e.events |= EPOLLOUT;
    if (interest & SD_POLL_END)
        e.events |= EPOLLRDHUP;
    if (interest & SD_POLL_SHARED)
        e.events = EPOLLIN | EPOLLEXCLUSIVE;
    return epoll_ctl(p->fd, op, fd, &e) == 0 ? 0 : errno;
}

int sd_poller_add(sd_poller_t *p, int fd, unsigned interest, void *owner)
{
    return control(p, EPOLL_CTL_ADD, fd, interest, owner);
}

int sd_poller_change(sd_poller_t *p, int fd, unsigned interest, void *owner)
{
    return control(p, EPOLL_CTL_MOD, fd, interest, owner);
}

void sd_poller_remove(sd_poller_t *p, int fd)
{
    struct epoll_event ignored = { 0 };

    (void)epoll_ctl(p->fd, EPOLL_CTL_DEL, fd, &ignored);
}

int sd_poller_wait(sd_poller_t *p, int timeout_ms, sd_poll_event_t *events, int max)
{
    int n = epoll_wait(p->fd, p->events, max < BATCH ? max : BATCH, timeout_ms), i;

    for (i = 0; i < n; i++) {
        events[i].owner = p->events[i].data.ptr;
        events[i].readable = p->events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR);
        events[i].writable = p->events[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR);
    }
    return n < 0 ? 0 : n;
}
