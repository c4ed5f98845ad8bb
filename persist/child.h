/* SPDX-License-Identifier: Apache-2.0
 *
 * child.h: the child process that reads a journal which may be damaged, and what
 * goes between it and its parent: records through a pipe, and a page of shared
 * memory in which it notes where it is. The page outlives its end, so the parent
 * can say at which chunk it came to grief; and as long as it changes, the child
 * is at work.
 *
 * The parent has threads. After the fork the child has one, and other threads'
 * locks stay as they were: until it opens LMDB it makes system calls only, and
 * then uses of libc what glibc makes good after a fork (malloc) or that takes no
 * lock.
 */
#ifndef SD_CHILD_H
#define SD_CHILD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct sd_desk {
    _Atomic uint64_t beats;      /* changes while the child is at work */
    _Atomic uint64_t chunk;      /* the one at hand, 0 = none yet */
    _Atomic uint64_t bytes_done;
} sd_desk_t;

typedef struct sd_child {
    pid_t pid;       /* 0 = none */
    int pipe;        /* what it says, -1 = none */
    sd_desk_t *desk;
    int wait_status; /* once it has been waited for */
} sd_child_t;

/* Runs `work` in a child, which ends when work returns; `says` is where its
 * messages go, its only descriptor. False with errno. */
bool sd_child_start(sd_child_t *child, void (*work)(void *order, sd_desk_t *desk, int says), void *order);
/* Waits for the end, which is near (it has closed its pipe), or makes it. */
void sd_child_end(sd_child_t *child, bool kill_it);

/* ---- messages: native, since both ends are one program ---- */

typedef enum { SD_NOTE_STATE = 1, SD_NOTE_RECORD, SD_NOTE_TRAILER, SD_NOTE_REFUSED } sd_note_kind_t;

#define SD_NOTE_MAGIC UINT32_C(0x65746f6e)

/* Followed by `key_len` bytes of key and `len` bytes of whatever it is. */
typedef struct sd_note {
    uint32_t magic;
    uint32_t kind;
    uint64_t number;  /* 0, 1, 2... of this load's notes */
    uint64_t version; /* RECORD */
    uint64_t expiry;
    uint32_t len;
    uint32_t key_len;
} sd_note_t;
_Static_assert(sizeof(sd_note_t) == 40, "no padding that would say what was in memory");

#endif
