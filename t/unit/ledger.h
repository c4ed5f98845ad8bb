/* SPDX-License-Identifier: Apache-2.0
 *
 * ledger.h: what a store must show after a death at any moment. In memory that
 * outlives the process, each key has the last operation begun and the last one
 * acknowledged; what an operation stores follows from the key and its number.
 * So a key must show the acknowledged state, or that of the one operation under
 * way. Keys that several threads write have the highest version acknowledged.
 * Where the store is written behind, the disk lies beside it in the same memory.
 *
 * Threads call all but ledger_examine; that one asserts.
 */
#ifndef LEDGER_H
#define LEDGER_H

#include "disk_model.h"

enum { LEDGER_WORKERS = 3, LEDGER_OWN = 60, LEDGER_SHARED = 6, LEDGER_LIVE = 1000000 };
enum { LEDGER_FILLERS_MAX = 4096, LEDGER_FILLER_BYTES = 100 };

typedef struct ledger {
    struct {
        _Atomic uint64_t begun, done; /* numbers of operations on this key */
    } own[LEDGER_WORKERS][LEDGER_OWN];
    _Atomic uint64_t shared_version[LEDGER_SHARED];
    _Atomic uint64_t operations;
    _Atomic uint32_t attached; /* processes that have begun to work */
    /* Values beside them that nobody changes; the last `loose` of them may go:
     * evicted, or damaged by the test. */
    uint32_t filler[LEDGER_FILLERS_MAX]; /* numbers of their keys */
    uint32_t fillers, loose;
    uint32_t damaged; /* so many items may the repair drop */
    bool tight;       /* the store is full: a new key may be refused */
    bool has_disk;
    disk_t disk;
    char failure[200];
} ledger_t;

/* One worker's hands: the operations of worker `number` on its own lane. */
typedef struct ledger_worker {
    ledger_t *ledger;
    sd_lane_t *lane;
    uint32_t number;
    uint64_t now;
    dice_t dice;
    sd_ref_t held;
    sd_chain_t open;
} ledger_worker_t;

ledger_t *ledger_map(void); /* shared with children, all zeros */
void ledger_unmap(ledger_t **ledger);

ledger_worker_t ledger_worker(ledger_t *ledger, sd_lane_t *lane, uint32_t number, uint64_t now,
                              uint64_t seed);
/* One random operation. NULL, or what was wrong. */
const char *ledger_operate(ledger_worker_t *w);
void ledger_let_go(ledger_worker_t *w); /* of what it holds and has open */

test_key_t ledger_filler_key(const ledger_t *l, uint32_t i);
/* Every key that may ever be stored, for tests that go through them. */
uint32_t ledger_key_count(const ledger_t *l);
test_key_t ledger_key(const ledger_t *l, uint32_t i);

/* Does the store show what it may? From any thread; NULL = yes. */
const char *ledger_examine_own(const ledger_t *l, sd_lane_t *lane, uint32_t worker, uint64_t now);

/* What a process does with the ledger's disk before it works: one that finds a
 * segment which has not served loads the fillers. */
const char *ledger_meet_disk(ledger_t *l, sd_lane_t *lane, uint64_t now);

/* The whole examination of what a dead process left: attaches at once, looks at
 * every key, stores and deletes before the first step of the repair and at each
 * one, and accounts for every block when it is over. With a disk: the next round
 * writes all that the dead process did not, be it made before the repair, in its
 * midst or after it. Leaves the store attached. */
void ledger_examine(fixture_t *f, ledger_t *l);

#endif
