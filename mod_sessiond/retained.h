/* SPDX-License-Identifier: Apache-2.0
 *
 * retained.h: what outlives a configuration. It stands in memory of httpd's
 * process pool, while our code is unloaded and loaded again at each restart,
 * perhaps in another version: so it holds plain data, no pointer into our code
 * and none into pconf.
 */
#ifndef SD_RETAINED_H
#define SD_RETAINED_H

#include <apr_shm.h>
#include <apr_thread_proc.h>

#include "board.h"
#include "listener.h"
#include "server.h"

/* Changes when a field is changed or taken away. New ones go to the end, where an
 * older version leaves zeros: there is room for them. */
#ifndef SD_RETAINED_VERSION
#define SD_RETAINED_VERSION 4u
#endif
#define SD_RETAINED_ROOM 16384u

/* One session process that has not been reaped yet. */
typedef struct sd_child {
    apr_proc_t proc;     /* pid 0 = this place is empty */
    int control;         /* our end; its other end closes when the process dies */
    bool retiring;       /* its end is expected: it was told to go, or has handed everything over */
    uint64_t retired_at; /* sd_clock_ms() when it was told, or said so */
    uint64_t started;    /* number of its start: the highest is the latest */
    uint64_t ready_at;   /* sd_clock_ms() when it began to serve, 0 = it has not */
    uint64_t heard;      /* sd_clock_ms() when, as it said last, all its threads turned */
} sd_child_t;

typedef struct sd_retained {
    uint32_t version, bytes; /* of this struct, its room included */
    bool starting;           /* httpd's first pass has been seen and its start is not over:
                              * only then may a failure end httpd */
    apr_shm_t *segment;
    void *segment_base;
    uint64_t segment_bytes;
    uint64_t memory_made;    /* SessiondMemory that the segment was made for */
    uint64_t memory_told;    /* another SessiondMemory that the log has spoken of */
    sd_board_t *board;             /* writable; NULL where it is not mapped */
    const sd_board_t *board_shown; /* the same, for those who only read */
    sd_listener_set_t listeners;
    sd_child_t child[SD_PROCESSES_MAX];
    uint32_t failures;       /* deaths in a row of processes that served for less than a moment */
    uint64_t segment_made;   /* sd_clock_ms() of that */
    uint64_t served;         /* number of the latest one that has come to serve */
    uint64_t starts;         /* session processes that were started */
    uint32_t board_version, board_bytes; /* of the board: see board.h */
} sd_retained_t;
_Static_assert(sizeof(sd_retained_t) <= SD_RETAINED_ROOM, "the room must do for later versions too");

/* The one of this httpd; made when it is first asked for. NULL: another version
 * of the module made it, and it cannot be read. */
sd_retained_t *sd_retained_get(void);

/* Makes the segment and the board if there are none; a new board, too, if the one
 * there is was made by a version that counts other things. False: no memory;
 * logged. */
bool sd_retained_make_segment(sd_retained_t *r, const sd_config_t *config, apr_pool_t *pool);

/* The writable board, or NULL: it is not mapped here, or was made by a version that
 * counts other things. */
sd_board_t *sd_retained_board(const sd_retained_t *r);

/* Whether a fork inherits the segment and the writable notice board. Only that
 * of a session process does. */
void sd_retained_share_memory(sd_retained_t *r, bool yes);

/* The notice board of this httpd, or NULL while there is none. */
const sd_board_t *sd_board_get(void);

#endif
