/* SPDX-License-Identifier: Apache-2.0
 *
 * locks.c: see the header. What is hard: a grant, a cancellation, the end of a
 * lease and the end of a connection may meet from four threads at once. Every
 * change of a claim is made under its shard's mutex and leaves the lock with one
 * holder or none, and nobody waiting while there is none.
 */
#include <stdlib.h>
#include <string.h>

#include "locks_internal.h"

/* ---- create, destroy, find ---- */

sd_locks_t *sd_locks_create(uint64_t lease_ms)
{
    sd_locks_t *locks = calloc(1, sizeof *locks);
    void *shards = NULL;
    uint32_t i;

    if (!locks || posix_memalign(&shards, 64, SD_LOCK_SHARDS * sizeof *locks->shard) != 0) {
        free(locks);
        return NULL;
    }
    memset(shards, 0, SD_LOCK_SHARDS * sizeof *locks->shard);
    locks->shard = shards;
    locks->lease = lease_ms;
    for (i = 0; i < SD_LOCK_SHARDS; i++) {
        pthread_mutex_init(&locks->shard[i].mutex, NULL);
        locks->shard[i].soonest = UINT64_MAX;
    }
    return locks;
}

void sd_locks_destroy(sd_locks_t **locks)
{
    sd_locks_t *l = *locks;
    uint32_t i;

    if (!l)
        return;
    *locks = NULL;
    for (i = 0; i < SD_LOCK_SHARDS; i++)
        pthread_mutex_destroy(&l->shard[i].mutex);
    free(l->shard);
    free(l);
}

static sd_lock_t **bucket_of(sd_lock_shard_t *shard, uint64_t hash)
{
    return &shard->bucket[hash / SD_LOCK_SHARDS % SD_LOCK_BUCKETS];
}

sd_lock_t *sd_lock_find(sd_lock_shard_t *shard, const sd_lock_key_t *key)
{
    sd_lock_t *lock = *bucket_of(shard, key->hash);

    while (lock && !(lock->hash == key->hash && lock->key_len == key->len
                     && memcmp(lock->key, key->bytes, key->len) == 0))
        lock = lock->next;
    return lock;
}

static sd_lock_t *make(sd_lock_shard_t *shard, const sd_lock_key_t *key)
{
    sd_lock_t *lock = calloc(1, sizeof *lock + key->len), **bucket = bucket_of(shard, key->hash);

    if (!lock)
        return NULL;
    lock->hash = key->hash;
    lock->key_len = (uint8_t)key->len;
    memcpy(lock->key, key->bytes, key->len);
    lock->next = *bucket;
    *bucket = lock;
    return lock;
}

/* ---- the queue: all with the shard's mutex ---- */

static void set_busy(sd_lock_shard_t *shard, sd_lock_t *lock, bool yes)
{
    if (yes) {
        lock->busy_prev = NULL;
        lock->busy_next = shard->busy;
        if (lock->busy_next)
            lock->busy_next->busy_prev = lock;
        shard->busy = lock;
        return;
    }
    if (lock->busy_prev)
        lock->busy_prev->busy_next = lock->busy_next;
    else
        shard->busy = lock->busy_next;
    if (lock->busy_next)
        lock->busy_next->busy_prev = lock->busy_prev;
    lock->busy_prev = lock->busy_next = NULL;
}

static uint64_t lease_end(const sd_locks_t *locks, const sd_claim_t *holder)
{
    return holder->since + locks->lease;
}

/* By ticket; only what is taken over at a restart does not go to the end. */
static void enqueue(sd_lock_shard_t *shard, sd_claim_t *claim)
{
    sd_lock_t *lock = claim->lock;
    sd_claim_t *after = lock->last;

    while (after && after->ticket > claim->ticket)
        after = after->prev;
    claim->prev = after;
    claim->next = after ? after->next : lock->first;
    if (claim->next)
        claim->next->prev = claim;
    else
        lock->last = claim;
    if (after)
        after->next = claim;
    else
        lock->first = claim;
    claim->kind = SD_CLAIM_WAITING;
    if (lock->waiting++ == 0)
        set_busy(shard, lock, true);
}

static void dequeue(sd_lock_shard_t *shard, sd_claim_t *claim)
{
    sd_lock_t *lock = claim->lock;

    if (claim->prev)
        claim->prev->next = claim->next;
    else
        lock->first = claim->next;
    if (claim->next)
        claim->next->prev = claim->prev;
    else
        lock->last = claim->prev;
    claim->prev = claim->next = NULL;
    if (--lock->waiting == 0)
        set_busy(shard, lock, false);
}

static void hold(const sd_locks_t *locks, sd_lock_shard_t *shard, sd_claim_t *claim, uint64_t now, sd_counters_t *counters)
{
    claim->kind = SD_CLAIM_HELD;
    claim->since = now;
    claim->lock->holder = claim;
    if (claim->lock->waiting > 0 && lease_end(locks, claim) < shard->soonest)
        shard->soonest = lease_end(locks, claim);
    sd_count_add(counters, locks_held, 1);
}

/* The lock has no holder: the first in the queue gets it. */
static void pass_on(sd_locks_t *locks, sd_lock_shard_t *shard, sd_lock_t *lock, uint64_t now, sd_counters_t *counters)
{
    uint64_t waited, longest = atomic_load_explicit(&locks->longest, memory_order_relaxed);
    sd_claim_t *next = lock->first;

    if (!next || locks->adopting)
        return;
    dequeue(shard, next);
    hold(locks, shard, next, now, counters);
    sd_count(counters, lock_grants);
    waited = now > next->asked ? now - next->asked : 0;
    sd_count_add(counters, lock_wait_ms, waited);
    while (waited > longest && !atomic_compare_exchange_weak(&locks->longest, &longest, waited))
        ;
    sd_count_sub(counters, lock_waiters, 1);
    sd_lock_post(next);
}

static void give_back(sd_locks_t *locks, sd_lock_shard_t *shard, sd_claim_t *claim, uint64_t now, sd_counters_t *counters)
{
    sd_lock_t *lock = claim->lock;

    lock->holder = NULL;
    sd_count_sub(counters, locks_held, 1);
    pass_on(locks, shard, lock, now, counters);
}

/* The holder's lease is over and somebody asks: the lock goes on. */
static void take_away(sd_locks_t *locks, sd_lock_shard_t *shard, sd_lock_t *lock, uint64_t now, sd_counters_t *counters)
{
    sd_claim_t *was = lock->holder;

    was->kind = SD_CLAIM_LOST;
    sd_count(counters, leases_ended);
    give_back(locks, shard, was, now, counters);
}

/* ---- claims ---- */

static sd_claim_t *claim_of(const sd_lock_owner_t *owner, const sd_lock_key_t *key)
{
    sd_claim_t *claim = owner->claims;

    while (claim && !(claim->lock->hash == key->hash && claim->lock->key_len == key->len
                      && memcmp(claim->lock->key, key->bytes, key->len) == 0))
        claim = claim->mine;
    return claim;
}

static sd_claim_t *make_claim(sd_lock_shard_t *shard, sd_lock_owner_t *owner, const sd_lock_key_t *key,
                              sd_lock_mailbox_t *mailbox)
{
    sd_claim_t *claim = calloc(1, sizeof *claim);
    sd_lock_t *lock = claim ? sd_lock_find(shard, key) : NULL;

    if (claim && !lock)
        lock = make(shard, key);
    if (!lock) {
        free(claim);
        return NULL;
    }
    lock->claims++;
    claim->lock = lock;
    claim->owner = owner;
    claim->kind = SD_CLAIM_LOST;
    claim->mine = owner->claims;
    owner->claims = claim;
    owner->count++;
    owner->mailbox = mailbox;
    return claim;
}

/* Ends a claim that is neither in the queue nor the holder, and the lock with the
 * last of its claims. */
static void drop(sd_lock_shard_t *shard, sd_claim_t *claim)
{
    sd_lock_t *lock = claim->lock, **at;
    sd_claim_t **link = &claim->owner->claims;

    while (*link != claim)
        link = &(*link)->mine;
    *link = claim->mine;
    claim->owner->count--;
    free(claim);
    if (--lock->claims > 0)
        return;
    for (at = bucket_of(shard, lock->hash); *at != lock; at = &(*at)->next)
        ;
    *at = lock->next;
    free(lock);
}

/* Ends a claim of whatever kind. True: it was held. */
static bool end(sd_locks_t *locks, sd_lock_shard_t *shard, sd_claim_t *claim, uint64_t now, sd_counters_t *counters)
{
    bool held = claim->kind == SD_CLAIM_HELD;

    if (claim->kind == SD_CLAIM_WAITING) {
        dequeue(shard, claim);
        sd_count_sub(counters, lock_waiters, 1);
    }
    else {
        sd_lock_unpost(claim);
        if (held)
            give_back(locks, shard, claim, now, counters);
    }
    if (claim->owner->awaited == claim) {
        claim->owner->awaited = NULL;
        claim->owner->granted = false;
    }
    drop(shard, claim);
    return held;
}

sd_lock_result_t sd_locks_ask(sd_locks_t *locks, sd_lock_owner_t *owner, const sd_lock_key_t *key,
                              sd_lock_mailbox_t *mailbox, uint64_t until, uint64_t now, sd_counters_t *counters)
{
    sd_lock_shard_t *shard = sd_lock_shard_of(locks, key->hash);
    sd_lock_result_t result = SD_LOCK_WAITS;
    sd_claim_t *claim;
    sd_lock_t *lock;

    pthread_mutex_lock(&shard->mutex);
    claim = claim_of(owner, key);
    if (!claim && owner->count >= SD_LOCKS_MOST) {
        pthread_mutex_unlock(&shard->mutex);
        return SD_LOCK_TOO_MANY;
    }
    if (!claim && !(claim = make_claim(shard, owner, key, mailbox))) {
        pthread_mutex_unlock(&shard->mutex);
        return SD_LOCK_NO_MEMORY;
    }
    lock = claim->lock;
    if (lock->holder && lock->holder != claim && now >= lease_end(locks, lock->holder))
        take_away(locks, shard, lock, now, counters);
    if (lock->holder == claim) { /* renewed */
        claim->since = now;
        result = SD_LOCK_GRANTED;
    }
    else if (!lock->holder) {
        hold(locks, shard, claim, now, counters);
        sd_count(counters, lock_grants);
        result = SD_LOCK_GRANTED;
    }
    else if (until <= now) {
        drop(shard, claim);
        sd_count(counters, lock_timeouts);
        result = SD_LOCK_REFUSED;
    }
    else {
        claim->ticket = atomic_fetch_add(&locks->ticket, 1) + 1;
        claim->asked = now;
        claim->until = until;
        enqueue(shard, claim);
        if (lease_end(locks, lock->holder) < shard->soonest)
            shard->soonest = lease_end(locks, lock->holder);
        sd_count(counters, lock_waits);
        sd_count_add(counters, lock_waiters, 1);
        owner->awaited = claim;
    }
    pthread_mutex_unlock(&shard->mutex);
    return result;
}

bool sd_locks_give_up(sd_locks_t *locks, sd_lock_owner_t *owner, uint64_t now, sd_counters_t *counters)
{
    sd_claim_t *claim = owner->awaited;
    sd_lock_shard_t *shard;
    bool granted;

    if (!claim)
        return false;
    shard = sd_lock_shard_of(locks, claim->lock->hash);
    pthread_mutex_lock(&shard->mutex);
    owner->granted = granted = claim->kind != SD_CLAIM_WAITING;
    if (granted)
        sd_lock_unpost(claim);
    else {
        sd_count(counters, lock_timeouts);
        (void)end(locks, shard, claim, now, counters);
    }
    pthread_mutex_unlock(&shard->mutex);
    return granted;
}

void sd_locks_release_all(sd_locks_t *locks, sd_lock_owner_t *owner, uint64_t now, sd_counters_t *counters)
{
    sd_claim_t *claim;

    while ((claim = owner->claims)) {
        sd_lock_shard_t *shard = sd_lock_shard_of(locks, claim->lock->hash);

        pthread_mutex_lock(&shard->mutex);
        (void)end(locks, shard, claim, now, counters);
        pthread_mutex_unlock(&shard->mutex);
    }
}

/* ---- writing under the fence ---- */

sd_lock_passage_t sd_locks_enter(sd_locks_t *locks, sd_lock_owner_t *owner, const sd_lock_key_t *key)
{
    sd_lock_shard_t *shard = sd_lock_shard_of(locks, key->hash);
    sd_lock_passage_t p = { SD_LOCK_FREE, owner, claim_of(owner, key), false, shard };
    sd_lock_t *lock;

    pthread_mutex_lock(&shard->mutex);
    lock = p.claim ? p.claim->lock : sd_lock_find(shard, key);
    if (lock && lock->holder)
        p.view = lock->holder == p.claim ? SD_LOCK_MINE : SD_LOCK_OTHERS;
    p.lost = p.claim && p.claim->kind == SD_CLAIM_LOST;
    return p;
}

bool sd_locks_leave(sd_locks_t *locks, sd_lock_passage_t *p, bool unlock, uint64_t now, sd_counters_t *counters)
{
    sd_lock_shard_t *shard = p->shard;
    bool held = false;

    if (unlock && p->claim)
        held = end(locks, shard, p->claim, now, counters);
    pthread_mutex_unlock(&shard->mutex);
    return held;
}

/* ---- upkeep ---- */

void sd_locks_tick(sd_locks_t *locks, uint64_t now, sd_counters_t *counters)
{
    uint32_t i;

    for (i = 0; i < SD_LOCK_SHARDS; i++) {
        sd_lock_shard_t *shard = &locks->shard[i];
        sd_lock_t *lock, *next;

        if (now < atomic_load_explicit(&shard->soonest, memory_order_relaxed))
            continue;
        pthread_mutex_lock(&shard->mutex);
        shard->soonest = UINT64_MAX;
        for (lock = shard->busy; lock; lock = next) {
            next = lock->busy_next; /* passing the lock on may take it off the list */
            if (now >= lease_end(locks, lock->holder))
                take_away(locks, shard, lock, now, counters);
            if (lock->waiting > 0 && lease_end(locks, lock->holder) < shard->soonest)
                shard->soonest = lease_end(locks, lock->holder);
        }
        pthread_mutex_unlock(&shard->mutex);
    }
}

/* ---- handing over ---- */

/* What the next process has to do about a claim. One that was granted and lost
 * before its owner was told still owes an answer: it waits again, in its old place. */
static uint8_t kind_to_save(const sd_claim_t *c)
{
    if (c->owner->awaited != c)
        return c->kind;
    return c->kind == SD_CLAIM_HELD ? SD_CLAIM_GRANTED : SD_CLAIM_WAITING;
}

bool sd_locks_save(const sd_lock_owner_t *owner, sd_claim_t **claim, sd_claim_state_t *state)
{
    const sd_claim_t *c = *claim = *claim ? (*claim)->mine : owner->claims;

    if (!c)
        return false;
    state->key = c->lock->key;
    state->key_len = c->lock->key_len;
    state->kind = kind_to_save(c);
    state->ticket = c->ticket;
    state->asked = c->asked;
    state->until = c->until;
    state->since = c->since;
    return true;
}

bool sd_locks_adopt(sd_locks_t *locks, sd_lock_owner_t *owner, const sd_claim_state_t *state, uint64_t hash,
                    sd_lock_mailbox_t *mailbox, sd_counters_t *counters)
{
    sd_lock_key_t key = { state->key, state->key_len, hash };
    sd_lock_shard_t *shard = sd_lock_shard_of(locks, hash);
    bool held = state->kind == SD_CLAIM_HELD || state->kind == SD_CLAIM_GRANTED;
    sd_claim_t *claim;

    if (state->kind > SD_CLAIM_LOST || key.len == 0 || key.len > UINT8_MAX || claim_of(owner, &key)
        || owner->count >= SD_LOCKS_MOST
        || (owner->awaited && (state->kind == SD_CLAIM_WAITING || state->kind == SD_CLAIM_GRANTED)))
        return false;
    claim = make_claim(shard, owner, &key, mailbox);
    if (!claim)
        return false;
    if (held && claim->lock->holder) {
        drop(shard, claim);
        return false;
    }
    claim->ticket = state->ticket;
    claim->asked = state->asked;
    claim->until = state->until;
    if (state->ticket > atomic_load(&locks->ticket))
        atomic_store(&locks->ticket, state->ticket);
    if (held)
        hold(locks, shard, claim, state->since, counters);
    if (state->kind == SD_CLAIM_GRANTED)
        sd_lock_post(claim);
    if (state->kind == SD_CLAIM_WAITING) {
        enqueue(shard, claim);
        shard->soonest = 0; /* the next tick looks */
        sd_count_add(counters, lock_waiters, 1);
    }
    if (state->kind == SD_CLAIM_WAITING || state->kind == SD_CLAIM_GRANTED)
        owner->awaited = claim;
    locks->adopting = true;
    return true;
}

void sd_locks_settle(sd_locks_t *locks, uint64_t now, sd_counters_t *counters)
{
    uint32_t i;

    locks->adopting = false;
    for (i = 0; i < SD_LOCK_SHARDS; i++) {
        sd_lock_shard_t *shard = &locks->shard[i];
        sd_lock_t *lock, *next;

        pthread_mutex_lock(&shard->mutex);
        for (lock = shard->busy; lock; lock = next) {
            next = lock->busy_next;
            if (!lock->holder)
                pass_on(locks, shard, lock, now, counters);
        }
        pthread_mutex_unlock(&shard->mutex);
    }
}
