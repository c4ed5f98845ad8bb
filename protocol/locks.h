/* SPDX-License-Identifier: Apache-2.0
 *
 * locks.h: session locks. A lock belongs to a key, whether there is a value or
 * not, and lives in this process's heap: it costs no store memory, outlives
 * expiry and eviction, and goes with the process (the fence of doc/protocol.md
 * covers that). Whoever asks for one that is held stands in its queue, first come,
 * first served, and is told at once when it is his; nobody polls.
 *
 *   owner (one connection) --> claim --> lock (one key) --> holder: a claim
 *                          --> claim --> lock           --> queue: claims, in order
 *
 * A claim is one owner's on one key: it waits, it holds, or it has been lost
 * because its lease was over and somebody else asked.
 *
 * Threads: an owner belongs to one thread, which is the only one to call for it
 * and to read its list of claims. What a claim is, and a lock's queue, change
 * under the mutex of the lock's shard, from any thread. Lock order: shard, then
 * mailbox, then whatever the store takes (sd_locks_enter holds a shard while the
 * caller writes). A grant for an owner of another thread goes to that thread's
 * mailbox; whoever ends a claim takes it out of there, so no grant is left behind
 * for a connection that is gone.
 *
 * Units: times in ms of the store's clock, passed in.
 */
#ifndef SD_LOCKS_H
#define SD_LOCKS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/counters.h"

typedef struct sd_locks sd_locks_t;
typedef struct sd_claim sd_claim_t;

/* One connection's claims. All zeros is "none". */
typedef struct sd_lock_owner {
    sd_claim_t *claims;
    sd_claim_t *awaited; /* the one for which the connection waits; NULL = it does not */
    struct sd_lock_mailbox *mailbox;
    uint16_t count;        /* of claims */
    bool granted;          /* the awaited one is: the mailbox has told */
} sd_lock_owner_t;

/* Claims of one owner at most; a search walks them. */
#define SD_LOCKS_MOST 64u

/* Where a thread finds what it has been granted. */
typedef struct sd_lock_mailbox {
    pthread_mutex_t lock;
    sd_claim_t *first, *last;
    atomic_bool any;
    void (*wake)(void *data); /* called by another thread once something has come */
    void *data;
} sd_lock_mailbox_t;

void sd_lock_mailbox_setup(sd_lock_mailbox_t *mailbox, void (*wake)(void *data), void *data);
void sd_lock_mailbox_teardown(sd_lock_mailbox_t *mailbox);

/* A key, and its hash (sd_key_hash), by which everything is found. */
typedef struct sd_lock_key {
    const uint8_t *bytes;
    uint32_t len;
    uint64_t hash;
} sd_lock_key_t;

/* `lease_ms`: SessiondLockTimeout. NULL: no memory. */
sd_locks_t *sd_locks_create(uint64_t lease_ms);
/* After all owners have ended. */
void sd_locks_destroy(sd_locks_t **locks);

typedef enum {
    SD_LOCK_GRANTED,
    SD_LOCK_WAITS,     /* the mailbox tells when it is granted; owner->awaited is set */
    SD_LOCK_REFUSED,   /* held by another, and `until` is not in the future */
    SD_LOCK_TOO_MANY,  /* the owner has SD_LOCKS_MOST claims */
    SD_LOCK_NO_MEMORY
} sd_lock_result_t;

/* Asks for a key's lock, or renews one's own. Not while the owner waits already. */
sd_lock_result_t sd_locks_ask(sd_locks_t *locks, sd_lock_owner_t *owner, const sd_lock_key_t *key,
                              sd_lock_mailbox_t *mailbox, uint64_t until, uint64_t now,
                              sd_counters_t *counters);

/* The wait is over by time. True: the lock was granted in the same moment, see
 * sd_locks_accept; false: it does not wait any more. */
bool sd_locks_give_up(sd_locks_t *locks, sd_lock_owner_t *owner, uint64_t now, sd_counters_t *counters);

/* The owner goes on with what it was granted: it awaits nothing any more. The key
 * is good until the claim ends. */
sd_lock_key_t sd_locks_accept(sd_lock_owner_t *owner);
/* Until when it waits. */
uint64_t sd_locks_wait_ends(const sd_lock_owner_t *owner);

/* Ends every claim, held or awaited. For P, and for the end of the connection. */
void sd_locks_release_all(sd_locks_t *locks, sd_lock_owner_t *owner, uint64_t now, sd_counters_t *counters);

/* ---- writing under the fence ---- */

typedef enum { SD_LOCK_FREE, SD_LOCK_MINE, SD_LOCK_OTHERS } sd_lock_view_t;

/* Between enter and leave nobody gets or loses this key's lock: so what is written
 * meanwhile is written by the holder, or while there is none. */
typedef struct sd_lock_passage {
    sd_lock_view_t view;
    sd_lock_owner_t *owner;
    sd_claim_t *claim; /* MINE, or a lost one of this owner's */
    bool lost;         /* it is: he held this lock, and others may have held it since */
    void *shard;
} sd_lock_passage_t;

sd_lock_passage_t sd_locks_enter(sd_locks_t *locks, sd_lock_owner_t *owner, const sd_lock_key_t *key);
/* `unlock`: one's own lock is given up. True: it was held. */
bool sd_locks_leave(sd_locks_t *locks, sd_lock_passage_t *passage, bool unlock, uint64_t now,
                    sd_counters_t *counters);

/* ---- a thread's mailbox ---- */

/* The owner of the next grant, whose `granted` is set; NULL = none. */
sd_lock_owner_t *sd_locks_next_granted(sd_lock_mailbox_t *mailbox);
static inline bool sd_lock_mailbox_has_some(const sd_lock_mailbox_t *mailbox)
{
    return atomic_load_explicit(&mailbox->any, memory_order_acquire);
}

/* ---- upkeep ---- */

/* Takes locks whose lease is over from holders whom somebody waits for. Often: a
 * lease ends this much late. */
void sd_locks_tick(sd_locks_t *locks, uint64_t now, sd_counters_t *counters);

/* One lock as a report shows it. */
typedef struct sd_lock_report {
    uint8_t key[255];
    uint32_t key_len;
    uint64_t hash;
    const sd_lock_owner_t *holder;
    uint64_t since;     /* held since then */
    uint64_t oldest;    /* the first in the queue has waited since then; 0 = nobody waits */
    uint32_t waiting;
} sd_lock_report_t;

/* The locks with the longest queues, then the longest held: at most `max`. Returns
 * how many. Walks all of them, shard by shard; holders may end meanwhile, so
 * `holder` is good for comparing only, unless their threads stand still. */
uint32_t sd_locks_report(sd_locks_t *locks, sd_lock_report_t *out, uint32_t max);
/* Calls look(owner, data) for whoever holds this key's lock, while he cannot end.
 * False: nobody does. */
bool sd_locks_look_at_holder(sd_locks_t *locks, const sd_lock_key_t *key,
                             void (*look)(sd_lock_owner_t *owner, void *data), void *data);
/* The longest that anybody has waited for a lock that was granted, ms. */
uint64_t sd_locks_longest_wait(const sd_locks_t *locks);

/* ---- handing over ---- */

typedef enum { SD_CLAIM_HELD = 0, SD_CLAIM_WAITING, SD_CLAIM_GRANTED, SD_CLAIM_LOST } sd_claim_kind_t;

/* A claim as another process needs it. GRANTED: held, and the owner has not been
 * told yet. */
typedef struct sd_claim_state {
    const uint8_t *key; /* points into the claim, or into what was received */
    uint32_t key_len;
    uint8_t kind;       /* sd_claim_kind_t; part of the format */
    uint64_t ticket;    /* orders those who wait for one key */
    uint64_t asked;     /* when it was asked for */
    uint64_t until;     /* when the wait is over */
    uint64_t since;     /* held since then; the lease counts from there */
} sd_claim_state_t;

/* All threads stand still. Walks an owner's claims: begins with *claim NULL; false
 * = there is no more. */
bool sd_locks_save(const sd_lock_owner_t *owner, sd_claim_t **claim, sd_claim_state_t *state);
/* No thread uses the locks yet. False: no memory, or two hold one key. */
bool sd_locks_adopt(sd_locks_t *locks, sd_lock_owner_t *owner, const sd_claim_state_t *state, uint64_t hash,
                    sd_lock_mailbox_t *mailbox, sd_counters_t *counters);
/* After all have been adopted: locks whose holder has been lost on the way go to
 * the next in the queue. */
void sd_locks_settle(sd_locks_t *locks, uint64_t now, sd_counters_t *counters);

#endif
