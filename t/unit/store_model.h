/* SPDX-License-Identifier: Apache-2.0
 *
 * store_model.h: a plain array that says what a store must contain, and random
 * operations that are made on both. After each operation the result of the
 * store is compared with what the array allows: statuses, versions, bytes,
 * which item an eviction took, and whether SD_FULL was true. One thread. Where the
 * store is written behind, rounds run between and across the operations, and the
 * disk is compared with the store.
 */
#ifndef STORE_MODEL_H
#define STORE_MODEL_H

#include "disk_model.h"

enum { MODEL_HOLDS = 24, MODEL_CHAINS = 8 };

typedef struct model_entry {
    uint64_t seed;
    uint64_t version;
    uint64_t expiry;
    uint32_t len;
    bool present; /* live unless expiry has come */
} model_entry_t;

typedef struct model_hold {
    sd_ref_t ref;
    uint64_t seed;
    uint32_t len;
} model_hold_t;

typedef struct model_chain {
    sd_chain_t chain;
    uint32_t key;
    uint32_t len; /* that it will have */
    uint64_t seed;
} model_chain_t;

typedef struct model {
    fixture_t *f;
    dice_t dice;
    uint32_t keys;
    uint32_t max_len;
    uint32_t ttl;           /* longest lifetime, ms */
    model_entry_t *entries;
    model_hold_t holds[MODEL_HOLDS];
    model_chain_t chains[MODEL_CHAINS];
    unsigned char *bytes;
    uint64_t last_version;
    uint64_t evicted;       /* evictions known to the array */
    uint64_t created, deleted;
    uint64_t stored, refused;
    bool repairing;         /* the store is being repaired: its counts are not exact yet */
    disk_t *disk;           /* NULL = none */
    bool in_round;
    uint64_t rounds;
} model_t;

/* `f` is attached and empty. */
void model_open(model_t *m, fixture_t *f, uint64_t seed, uint32_t keys, uint32_t max_len,
                uint32_t ttl);
/* `f` writes behind, to this disk. */
void model_write_to(model_t *m, disk_t *disk);
void model_round(model_t *m);       /* a random part of a round */
void model_whole_round(model_t *m); /* one that is settled, compared */
void model_give_up_round(model_t *m);
/* One random operation, compared. */
void model_operate(model_t *m);
/* Everything that the array says is there, and check(), and the counters. */
void model_verify(model_t *m);
/* The process dies at this moment and another one attaches. */
void model_die(model_t *m, uint32_t lanes);
/* The process ends in order, or nearly so: with what is held not let go, its
 * blocks are lost to the next one, which must notice and repair. */
void model_restart(model_t *m, uint32_t lanes, bool let_all_go);
/* The process leaves what is held and under way to the next one, which adopts
 * all of it. `dies`: it has told of everything, and then it died. */
void model_hand_over(model_t *m, uint32_t lanes, bool dies);
/* Lets go of all references and chains, sweeps, and compares every number. */
void model_settle(model_t *m);
void model_close(model_t *m);

#endif
