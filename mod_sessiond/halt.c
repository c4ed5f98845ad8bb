/* SPDX-License-Identifier: Apache-2.0
 *
 * halt.c: a letter to each loop that is not answered until the halt is over.
 * What is hard: a thread that comes too late must neither find the halt's
 * memory gone nor stop for it.
 */
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "halt.h"
#include "loop.h"

struct sd_halt {
    pthread_mutex_t lock;
    pthread_cond_t end;
    int came;        /* the server's eventfd: one of them stands */
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
    pthread_cond_destroy(&h->end);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static void stand(sd_loop_t *loop, void *what)
{
    sd_halt_t *h = what;
    uint64_t one = 1;

    (void)loop;
    pthread_mutex_lock(&h->lock);
    h->halted++;
    (void)!write(h->came, &one, sizeof one);
    while (!h->over)
        pthread_cond_wait(&h->end, &h->lock);
    leave(h);
}

static sd_halt_t *create(int came)
{
    sd_halt_t *h = came >= 0 ? calloc(1, sizeof *h) : NULL;

    if (!h)
        return NULL;
    h->came = came;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->end, NULL);
    h->owed = 1;
    return h;
}

void sd_halt_end(sd_halt_t **halt)
{
    sd_halt_t *h = *halt;

    *halt = NULL;
    pthread_mutex_lock(&h->lock);
    h->over = true;
    pthread_cond_broadcast(&h->end);
    leave(h);
}

/* With the lock, which it gives up while it waits. */
static bool all_stand(sd_halt_t *h, uint32_t wanted, uint64_t until)
{
    while (h->halted < wanted) {
        struct pollfd p = { .fd = h->came, .events = POLLIN };
        uint64_t now = sd_clock_ms(), ignored;

        if (now >= until)
            return false;
        pthread_mutex_unlock(&h->lock);
        if (poll(&p, 1, (int)(until - now)) > 0)
            (void)!read(h->came, &ignored, sizeof ignored);
        pthread_mutex_lock(&h->lock);
    }
    return true;
}

sd_halt_t *sd_halt_begin(sd_server_t *server, uint64_t limit_ms)
{
    sd_halt_t *h = create(server->halt_fd);
    uint64_t until = sd_clock_ms() + limit_ms;
    uint32_t posted = 0;
    bool all;

    if (!h)
        return NULL;
    pthread_mutex_lock(&h->lock);
    for (; posted < server->loops; posted++) {
        if (!sd_loop_post(server->loop[posted], stand, h))
            break;
        h->owed++;
    }
    all = posted == server->loops && all_stand(h, posted, until);
    pthread_mutex_unlock(&h->lock);
    if (!all)
        sd_halt_end(&h);
    return h;
}
