/* SPDX-License-Identifier: Apache-2.0
 *
 * changes.h: what has changed in the store since it was last written to disk.
 *
 * Each item carries the number of the round in which it last changed; the header
 * has the round that runs and the last one that is on disk. So no item has to be
 * visited once it is written, and a process that dies forgets nothing: whatever
 * is newer than the settled round is still to be written. A session that goes
 * leaves a tombstone in its place, of one block, until that is on disk too.
 *
 * Where to look is kept in the heap (the buckets that changed, each once a round);
 * a new process looks at all of them once.
 *
 * A round: sd_changes_begin, sd_changes_next until it says no, then settle or
 * undo. One thread at a time makes rounds, with a lane of its own; all others use
 * the store meanwhile. A change made while a round runs may be given in it, and is
 * given in the next one again.
 */
#ifndef SD_CHANGES_H
#define SD_CHANGES_H

#include "store.h"

typedef enum {
    SD_CHANGE_VALUE = 1, /* stored, or stored anew */
    SD_CHANGE_EXPIRY,    /* touched: the value of this version is on disk */
    SD_CHANGE_REMOVED    /* deleted, evicted or expired: no version up to this one is to come back */
    /* What expired within the last minute may be told as a value or an expiry, too:
     * other threads' clocks may be behind, and find it alive. */
} sd_change_kind_t;

typedef struct sd_change {
    sd_change_kind_t kind;
    uint8_t key_len;
    unsigned char key[SD_KEY_MAX];
    uint64_t version; /* REMOVED: given out when it went */
    uint64_t expiry; /* ms of the store's clock; REMOVED: 0 */
    sd_ref_t value;  /* VALUE: whoever got it releases it; else no reference */
} sd_change_t;

/* Begins a round: all that has changed until now belongs to it. Returns its
 * number, which is never 0. `everything`: every value, changed or not, and
 * nothing that is gone, for a disk that has none of it. While the disk is astray
 * only such a round is of use. */
uint32_t sd_changes_begin(sd_lane_t *lane, bool everything);
/* The next change. False: that was all. */
bool sd_changes_next(sd_lane_t *lane, uint64_t now, sd_change_t *change);
/* When next has said no, and before the round is declared whole on disk: could all
 * of it be given? If not (no memory, or too many readers of a value) undo it. */
bool sd_changes_are_complete(const sd_store_t *store);
/* All of the round is on disk, or there was nothing in it: tombstones go. False: it is not complete, and was
 * undone instead. */
bool sd_changes_settle(sd_lane_t *lane);
/* It is not: what it had belongs to the next round. At any time within a round; a
 * round that runs must not outlive its process's detach or hand-over. */
void sd_changes_undo(sd_lane_t *lane);
/* Is there something to write? From any thread; may be a moment old. */
bool sd_changes_are_there(const sd_store_t *store);

/* ---- the disk that belongs to this segment ---- */

#define SD_DISK_ID_BYTES 16

typedef struct sd_disk {
    unsigned char id[SD_DISK_ID_BYTES]; /* all zeros: none has been */
    uint32_t settled; /* the last round that is known to be there */
    uint32_t round;   /* the one that runs */
    bool served;      /* clients have used this segment: it is newer than any disk */
    bool astray;      /* what differs is not known any more: everything has to be written */
} sd_disk_t;

void sd_store_disk(const sd_store_t *store, sd_disk_t *disk);
/* From now on the segment belongs to this disk. Between rounds. `settled`: it has
 * all up to this round. If that is less than the last one had, it is astray. */
void sd_store_pair(sd_store_t *store, const unsigned char id[SD_DISK_ID_BYTES], uint32_t settled);
/* ... or nothing, or nobody knows what: it is astray until a round of everything is
 * settled. */
void sd_store_pair_anew(sd_store_t *store, const unsigned char id[SD_DISK_ID_BYTES]);
/* Before clients come: once a segment has served, no disk is loaded into it. */
void sd_store_serve(sd_store_t *store);

/* ---- loading ---- */

/* As sd_chain_open, for sd_store_restore: the last 1% of the memory is for those who
 * were there already. */
sd_status_t sd_chain_open_restored(sd_lane_t *lane, sd_chain_t *chain, const void *key, size_t key_len,
                                   uint64_t now);

/* Publishes a value from disk, under the version that it had, as unchanged. While
 * the segment has not served. SD_CONFLICT: there is that version or a later one;
 * SD_INVALID: no store gives out such a version. The caller still has the chain.
 * Where the last process died over the same work, the repair is made first, to its
 * end: from one thread, and not beside sd_store_repair. */
sd_status_t sd_store_restore(sd_lane_t *lane, sd_chain_t *chain, uint64_t expiry, uint64_t version,
                             uint64_t now);
/* The last version given out; and no version up to this one will be given out. */
uint64_t sd_store_version(const sd_store_t *store);
void sd_store_skip_versions(sd_store_t *store, uint64_t version);

#endif
