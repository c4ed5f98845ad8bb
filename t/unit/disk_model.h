/* SPDX-License-Identifier: Apache-2.0
 *
 * disk_model.h: a disk, as an array of records, and who writes the store's changes
 * to it (shm/changes.h). The newest record of a key decides. It is strict: a change
 * that could bring back what was removed or is older, or that moves the expiry of
 * a value that the disk has not got, is an error and is named.
 *
 * Plain data without pointers, so that it may lie in memory that outlives a
 * process; a round is on the disk by one store, however the process ends.
 */
#ifndef DISK_MODEL_H
#define DISK_MODEL_H

#include "store_fixture.h"

enum { DISK_ROOM = 8192 };

typedef struct disk_record {
    uint64_t key;     /* a hash of the key, 0 = unused */
    uint64_t version, expiry, digest;
    uint32_t len;
    uint32_t kind;    /* SD_CHANGE_... */
} disk_record_t;

typedef struct disk {
    unsigned char id[SD_DISK_ID_BYTES];
    uint32_t committed;  /* the last round that is here */
    uint32_t round;      /* the one that is being written */
    bool everything;
    _Atomic bool decided; /* the round's records are part of the disk: see disk_recover */
    uint32_t staged_count;
    disk_record_t staged[DISK_ROOM];
    disk_record_t record[DISK_ROOM];
} disk_t;

void disk_setup(disk_t *d, const char *id);

/* One round by hand: begin, write until it says no, then commit, or drop. With
 * disk_drop the round was in vain, but `partly` of its records are there. */
void disk_begin(disk_t *d, uint32_t round, bool everything);
const char *disk_write(disk_t *d, sd_lane_t *lane, sd_change_t *change);
const char *disk_commit(disk_t *d);
const char *disk_drop(disk_t *d, uint32_t partly);
/* What whoever wrote it left undone when it died. */
void disk_recover(disk_t *d);

/* What a process does that finds the segment and the disk: they belong together,
 * and the disk may have more than the segment knows. */
void disk_meet(disk_t *d, sd_store_t *store);
/* A whole round, of everything if the segment says so. NULL, or what was wrong. */
const char *disk_round(disk_t *d, sd_lane_t *lane, uint64_t now);

const disk_record_t *disk_find(const disk_t *d, const test_key_t *key); /* NULL = none */
bool disk_is_live(const disk_record_t *record, uint64_t now);
/* Has the disk just what the store has? NULL = yes. Nobody else is in the store. */
const char *disk_compare(const disk_t *d, sd_lane_t *lane, uint64_t now);

uint64_t disk_digest(const void *bytes, size_t n, uint64_t from);

#endif
