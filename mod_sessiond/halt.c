/* SPDX-License-Identifier: Apache-2.0
 *
 * halt.c: a letter to each loop that is not answered until the halt is over.
 * What is hard: a thread that comes too late must neither find the halt's
 * memory gone nor stop for it.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "halt.h"
#include "loop.h"

struct sd_halt {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t owed;   /* letters not yet opened, threads that stand, and whoever began it */
    uint32_t halted;
    bool over;
};

/* With the lock, which it gives up. The last one out frees it. */
static void leave(sd_halt_t *h)
{
    bool last = --h->owed == 0;

    pthread_mutex_unlock(&h->lock);
    if (!last)
        return;
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static void stand(sd_loop_t *loop, void *what)
{
    sd_halt_t *h = what;

    (void)loop;
    pthread_mutex_lock(&h->lock);
    h->halted++;
    pthread_cond_broadcast(&h->changed);
    while (!h->over)
        pthread_cond_wait(&h->changed, &h->lock);
    leave(h);
}

static sd_halt_t *create(void)
{
    sd_halt_t *h = calloc(1, sizeof *h);
    pthread_condattr_t attr;

    if (!h)
        return NULL;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->changed, &attr);
    pthread_condattr_destroy(&attr);
    h->owed = 1;
    return h;
}

void sd_halt_end(sd_halt_t **halt)
{
    sd_halt_t *h = *halt;

    *halt = NULL;
    pthread_mutex_lock(&h->lock);
    h->over = true;
    pthread_cond_broadcast(&h->changed);
    leave(h);
}

sd_halt_t *sd_halt_begin(sd_server_t *server, uint64_t limit_ms)
{
    sd_halt_t *h = create();
    struct timespec until;
    uint32_t posted = 0;
    int err = 0;

    if (!h)
        return NULL;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(limit_ms / 1000);
    until.tv_nsec += (long)(limit_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&h->lock);
    for (; posted < server->loops; posted++) {
        if (!sd_loop_post(server->loop[posted], stand, h))
            break;
        h->owed++;
    }
    while (posted == server->loops && h->halted < posted && err == 0)
        err = pthread_cond_timedwait(&h->changed, &h->lock, &until);
    pthread_mutex_unlock(&h->lock);
    if (posted < server->loops || err != 0)
        sd_halt_end(&h);
    return h;
}
