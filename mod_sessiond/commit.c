/* SPDX-License-Identifier: Apache-2.0
 *
 * commit.c: see the header. What is hard: a connection that goes on may have its
 * next request ready, be held again, or end; so only those that were there when
 * the round was over are looked at, and each is taken off the list first.
 */
#include "commit.h"
#include "durability.h"
#include "exchange.h"

static void unlink_one(sd_loop_t *loop, sd_connection_t *c)
{
    if (c->paused_prev)
        c->paused_prev->paused_next = c->paused_next;
    else
        loop->first_held = c->paused_next;
    if (c->paused_next)
        c->paused_next->paused_prev = c->paused_prev;
    else
        loop->last_held = c->paused_prev;
    c->paused_prev = c->paused_next = NULL;
}

void sd_commit_wait(sd_loop_t *loop, sd_connection_t *c)
{
    c->state = SD_COMMITTING;
    c->ticket = sd_durability_ticket(loop->server->durability);
    c->paused_prev = loop->last_held;
    c->paused_next = NULL;
    if (loop->last_held)
        loop->last_held->paused_next = c;
    else
        loop->first_held = c;
    loop->last_held = c;
    loop->commit_wanted = true;
    sd_timer_clear(&loop->wheel, &c->timer); /* the disk's time is not the client's */
    sd_connection_poll(loop, c, 0);
}

void sd_commit_forget(sd_loop_t *loop, sd_connection_t *c)
{
    if (c->state == SD_COMMITTING)
        unlink_one(loop, c);
}

void sd_commit_release(sd_loop_t *loop, void *what)
{
    const sd_durability_t *d = loop->server->durability;
    sd_connection_t *c;

    (void)what;
    while ((c = loop->first_held)
           && (!sd_durability_holds(d) || sd_durability_is_settled(d, c->ticket))) {
        unlink_one(loop, c);
        sd_exchange_committed(loop, c);
    }
    if (loop->first_held)
        loop->commit_wanted = true;
}

void sd_commit_turn(sd_loop_t *loop)
{
    if (!loop->commit_wanted)
        return;
    loop->commit_wanted = false;
    sd_durability_want(loop->server->durability);
}
