/* SPDX-License-Identifier: Apache-2.0
 *
 * board.h: the notice board, a small shared segment with the counters. The
 * session process writes its part, the httpd parent writes its own, web
 * children read both for the status pages. It is mapped twice: the writable
 * mapping is inherited by session processes only, and all others have one that
 * the kernel lets nobody make writable. So a web child that was taken over
 * cannot change what the pages of other web children say, nor what the session
 * process counts by.
 *
 * All numbers are relaxed atomics: a page may mix values that are microseconds
 * apart, never a torn one.
 */
#ifndef SD_BOARD_H
#define SD_BOARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/counters.h"
#include "shm/store.h"

/* Of sd_board_t and sd_counters_t; its size tells, too. */
#ifndef SD_BOARD_VERSION
#define SD_BOARD_VERSION 2u
#endif
#define SD_BOARD_TEXT 160

#define SD_BOARD_LOCKS 16

/* A session lock as the pages show it. Times as all here; 0 = nobody waits. */
typedef struct sd_board_lock {
    uint64_t since, oldest;
    uint32_t waiting;
    char key[28];    /* masked */
    char holder[64]; /* address */
} sd_board_lock_t;

/* SessiondPersist. LOST: what changes is not being written. */
typedef enum {
    SD_DURABILITY_OFF,
    SD_DURABILITY_LOADING,
    SD_DURABILITY_STARTING,
    SD_DURABILITY_ON,
    SD_DURABILITY_LOST
} sd_durability_state_t;

typedef enum { SD_STATE_OFF, SD_STATE_STARTING, SD_STATE_RUNNING, SD_STATE_DRAINING, SD_STATE_DOWN } sd_state_t;

typedef struct sd_board {
    /* times are those of sd_clock_ms(): the wall clock may be moved */
    /* written by the httpd parent */
    _Atomic uint64_t store_created;
    _Atomic uint64_t down_since;   /* 0 = not down; set back by the process that comes up */
    _Atomic uint32_t respawns;

    /* written by the session process */
    _Atomic uint32_t state;        /* sd_state_t */
    _Atomic int64_t pid;
    _Atomic uint64_t started;
    _Atomic uint32_t threads;
    _Atomic uint32_t max_connections;
    _Atomic uint64_t max_size;     /* bytes */
    _Atomic uint64_t memory_size;  /* bytes of the segment */
    _Atomic uint32_t blocks;
    _Atomic uint32_t block_bytes;
    _Atomic uint32_t checks;       /* store checks finished */
    char last_check[SD_BOARD_TEXT];
    char last_repair[SD_BOARD_TEXT];
    char last_handover[SD_BOARD_TEXT];
    _Atomic uint32_t durability;        /* sd_durability_state_t */
    _Atomic uint64_t durability_since;  /* it has been ON or LOST */
    _Atomic uint64_t last_commit;       /* when memory and disk were last the same */
    char durability_reason[SD_BOARD_TEXT]; /* LOST: why; LOADING: how far */

    _Atomic uint64_t longest_lock_wait; /* ms */
    _Atomic uint32_t lock_edition;      /* odd while the table below is being written */
    _Atomic uint32_t locks;
    sd_board_lock_t lock[SD_BOARD_LOCKS];

    _Alignas(64) sd_counters_t slot[SD_LANES_MAX];
} sd_board_t;

/* Makes both mappings. False and an errno: the system does not give them. */
bool sd_board_make(sd_board_t **writable, const sd_board_t **readable);
/* Of each mapping. */
size_t sd_board_bytes(void);

/* Puts up to SD_BOARD_LOCKS locks up; and reads them. What a reader gets is of one
 * edition; if the writer was too busy for him, or died over it, there are none. */
void sd_board_locks_set(sd_board_t *board, const sd_board_lock_t *locks, uint32_t count);
uint32_t sd_board_locks_get(const sd_board_t *board, sd_board_lock_t locks[SD_BOARD_LOCKS]);

/* Copies a text of the board; always terminated, printable. */
void sd_board_text_copy(char *out, size_t size, const char *text);
/* Puts a text up. */
void sd_board_text_set(char text[SD_BOARD_TEXT], const char *value);

#endif
