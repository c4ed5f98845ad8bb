/* SPDX-License-Identifier: Apache-2.0
 *
 * locks_internal.h: what the files of the session locks share.
 */
#ifndef SD_LOCKS_INTERNAL_H
#define SD_LOCKS_INTERNAL_H

#include "locks.h"

#define SD_LOCK_SHARDS 64u
#define SD_LOCK_BUCKETS 256u /* in a shard */

typedef struct sd_lock sd_lock_t;

struct sd_claim {
    sd_lock_t *lock;
    sd_lock_owner_t *owner;
    sd_claim_t *mine;          /* next in the owner's list: the owner's thread only */
    sd_claim_t *prev, *next;   /* in the queue: under the shard's mutex */
    sd_claim_t *post_prev, *post_next; /* in the mailbox: under the mailbox's mutex */
    uint64_t ticket, asked, until, since;
    uint8_t kind;              /* HELD, WAITING or LOST: under the shard's mutex */
    bool posted;               /* lies in the mailbox: under the mailbox's mutex */
};

struct sd_lock {
    sd_lock_t *next;           /* in the bucket */
    sd_lock_t *busy_prev, *busy_next; /* locks of this shard that somebody waits for */
    sd_claim_t *holder, *first, *last;
    uint64_t hash;
    uint32_t claims;           /* that point here, lost ones too */
    uint32_t waiting;
    uint8_t key_len;
    uint8_t key[];
};

typedef struct sd_lock_shard {
    _Alignas(64) pthread_mutex_t mutex;
    sd_lock_t *busy;
    _Atomic uint64_t soonest;  /* no lease of a busy lock is over before; may be too early */
    sd_lock_t *bucket[SD_LOCK_BUCKETS];
} sd_lock_shard_t;

struct sd_locks {
    sd_lock_shard_t *shard; /* SD_LOCK_SHARDS */
    uint64_t lease;
    bool adopting; /* nothing is passed on before sd_locks_settle */
    _Atomic uint64_t ticket;
    _Atomic uint64_t longest; /* wait, ms */
};

static inline sd_lock_shard_t *sd_lock_shard_of(const sd_locks_t *locks, uint64_t hash)
{
    return &locks->shard[hash % SD_LOCK_SHARDS];
}

/* ---- locks.c: with the shard's mutex ---- */
sd_lock_t *sd_lock_find(sd_lock_shard_t *shard, const sd_lock_key_t *key);

/* ---- lock_mailbox.c ---- */
/* Tells the claim's owner that it is held. With the shard's mutex. */
void sd_lock_post(sd_claim_t *claim);
/* He need not be told any more. */
void sd_lock_unpost(sd_claim_t *claim);

#endif
