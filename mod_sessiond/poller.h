/* SPDX-License-Identifier: Apache-2.0
 *
 * poller.h: readiness of many descriptors, so that another mechanism than
 * epoll can stand behind it. A poller belongs to one thread. Level-triggered.
 */
#ifndef SD_POLLER_H
#define SD_POLLER_H

#include <stdbool.h>

typedef struct sd_poller sd_poller_t;

#define SD_POLL_READ 1u
#define SD_POLL_WRITE 2u
#define SD_POLL_END 8u    /* the peer has sent its last byte; an error always counts */
#define SD_POLL_SHARED 4u /* others poll it too: wake one of us, not all */

typedef struct sd_poll_event {
    void *owner;
    bool readable; /* or ended, or broken: a read will tell */
    bool writable;
} sd_poll_event_t;

sd_poller_t *sd_poller_create(void); /* NULL: errno says why */
void sd_poller_destroy(sd_poller_t **poller);

/* 0, or an errno. `owner` comes back in events. */
int sd_poller_add(sd_poller_t *poller, int fd, unsigned interest, void *owner);
int sd_poller_change(sd_poller_t *poller, int fd, unsigned interest, void *owner);
/* Before the descriptor is closed: others may hold the same open file. */
void sd_poller_remove(sd_poller_t *poller, int fd);

/* Waits up to `timeout_ms`; returns how many events were filled in. */
int sd_poller_wait(sd_poller_t *poller, int timeout_ms, sd_poll_event_t *events, int max);

#endif
