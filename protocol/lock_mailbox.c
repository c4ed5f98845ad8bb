/* SPDX-License-Identifier: Apache-2.0
 *
 * lock_mailbox.c: grants on their way to the thread of whoever waited. What is hard:
 * the claim may end before its owner has heard, so it lies in a list that both
 * sides can take it out of.
 */
#include <string.h>

#include "locks_internal.h"

void sd_lock_mailbox_setup(sd_lock_mailbox_t *m, void (*wake)(void *data), void *data)
{
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    m->wake = wake;
    m->data = data;
}

void sd_lock_mailbox_teardown(sd_lock_mailbox_t *m)
{
    pthread_mutex_destroy(&m->lock);
}

void sd_lock_post(sd_claim_t *claim)
{
    sd_lock_mailbox_t *m = claim->owner->mailbox;
    bool first;

    pthread_mutex_lock(&m->lock);
    first = m->first == NULL;
    claim->posted = true;
    claim->post_prev = m->last;
    claim->post_next = NULL;
    if (m->last)
        m->last->post_next = claim;
    else
        m->first = claim;
    m->last = claim;
    atomic_store_explicit(&m->any, true, memory_order_release);
    pthread_mutex_unlock(&m->lock);
    if (first)
        m->wake(m->data);
}

/* With the mailbox's mutex. */
static void take_out(sd_lock_mailbox_t *m, sd_claim_t *claim)
{
    if (claim->post_prev)
        claim->post_prev->post_next = claim->post_next;
    else
        m->first = claim->post_next;
    if (claim->post_next)
        claim->post_next->post_prev = claim->post_prev;
    else
        m->last = claim->post_prev;
    claim->posted = false;
    if (!m->first)
        atomic_store_explicit(&m->any, false, memory_order_release);
}

void sd_lock_unpost(sd_claim_t *claim)
{
    sd_lock_mailbox_t *m = claim->owner->mailbox;

    pthread_mutex_lock(&m->lock);
    if (claim->posted)
        take_out(m, claim);
    pthread_mutex_unlock(&m->lock);
}

sd_lock_owner_t *sd_locks_next_granted(sd_lock_mailbox_t *m)
{
    sd_claim_t *claim;

    pthread_mutex_lock(&m->lock);
    claim = m->first;
    if (claim)
        take_out(m, claim);
    pthread_mutex_unlock(&m->lock);
    if (!claim)
        return NULL;
    claim->owner->granted = true;
    return claim->owner;
}

sd_lock_key_t sd_locks_accept(sd_lock_owner_t *owner)
{
    const sd_lock_t *lock = owner->awaited->lock;

    owner->awaited = NULL;
    owner->granted = false;
    return (sd_lock_key_t){ lock->key, lock->key_len, lock->hash };
}

uint64_t sd_locks_wait_ends(const sd_lock_owner_t *owner)
{
    return owner->awaited->until;
}
