/* SPDX-License-Identifier: Apache-2.0
 *
 * lock_report.c: session locks as a report shows them. Walks all of them, a shard
 * at a time, so that nobody waits for longer than that.
 */
#include <string.h>

#include "locks_internal.h"

/* Is `a` to stand before `b`? */
static bool comes_before(const sd_lock_report_t *a, const sd_lock_report_t *b)
{
    return a->waiting != b->waiting ? a->waiting > b->waiting : a->since < b->since;
}

static uint32_t report_one(const sd_lock_t *lock, sd_lock_report_t *out, uint32_t n, uint32_t max)
{
    sd_lock_report_t r = { .key_len = lock->key_len, .hash = lock->hash, .holder = lock->holder->owner, .since = lock->holder->since,
                           .oldest = lock->first ? lock->first->asked : 0, .waiting = lock->waiting };
    uint32_t at = n < max ? n : max;

    while (at > 0 && comes_before(&r, &out[at - 1]))
        at--;
    if (at == max)
        return n;
    memcpy(r.key, lock->key, lock->key_len);
    memmove(&out[at + 1], &out[at], (n < max ? n - at : max - 1 - at) * sizeof *out);
    out[at] = r;
    return n < max ? n + 1 : n;
}

uint32_t sd_locks_report(sd_locks_t *locks, sd_lock_report_t *out, uint32_t max)
{
    uint32_t n = 0, i, b;

    for (i = 0; i < SD_LOCK_SHARDS; i++) {
        sd_lock_shard_t *shard = &locks->shard[i];
        const sd_lock_t *lock;

        pthread_mutex_lock(&shard->mutex);
        for (b = 0; b < SD_LOCK_BUCKETS; b++)
            for (lock = shard->bucket[b]; lock; lock = lock->next)
                if (lock->holder)
                    n = report_one(lock, out, n, max);
        pthread_mutex_unlock(&shard->mutex);
    }
    return n;
}

bool sd_locks_look_at_holder(sd_locks_t *locks, const sd_lock_key_t *key,
                             void (*look)(sd_lock_owner_t *owner, void *data), void *data)
{
    sd_lock_shard_t *shard = sd_lock_shard_of(locks, key->hash);
    sd_lock_t *lock;
    bool held;

    pthread_mutex_lock(&shard->mutex);
    lock = sd_lock_find(shard, key);
    held = lock && lock->holder;
    if (held)
        look(lock->holder->owner, data);
    pthread_mutex_unlock(&shard->mutex);
    return held;
}

uint64_t sd_locks_longest_wait(const sd_locks_t *locks)
{
    return atomic_load_explicit(&locks->longest, memory_order_relaxed);
}
