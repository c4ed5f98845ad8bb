/* SPDX-License-Identifier: Apache-2.0
 *
 * persist.h: one round of write-behind: what has changed in the store since the
 * last round goes to the journal, in one commit as it seems to every reader.
 *
 * What is hard is that others change the store meanwhile, and that the log is to
 * stay short. The rules, and why each holds:
 *
 *  1. A record says what was true when it was packed, and records of one key are
 *     packed in the order in which these things became true. So a loader that
 *     goes from the newest to the oldest record may stop at the first VALUE.
 *     And so that nothing hangs on the order within a round, in which others go on
 *     changing keys, a REMOVED or an EXPIRY binds only values of its own version and
 *     earlier ones; a REMOVED has a version that was given out when the key went.
 *  2. A VALUE that has expired decides, too: what it replaced, though its time
 *     might be longer, is as dead as the value.
 *  3. Cleaning drops whole chunks from the old end, never from the middle. So
 *     when a REMOVED, an EXPIRY or a dead VALUE is dropped, every older record of
 *     its key is gone, or goes in the same commit: nothing is left for it to bind.
 *  4. A VALUE in a chunk that is dropped is packed anew if the store still has
 *     this version, with the present expiry. If the store has another version, or
 *     none, then the change is in the journal already, or it was made before this
 *     round began and so is packed in this round. For that, cleaning looks at the
 *     store before sd_changes_begin and never after: a value that is replaced later
 *     has been packed again. (The other way round a value that is replaced between
 *     the two would be dropped with its replacement still in memory only, and a
 *     power cut would lose both.)
 *  5. Chunks of a round are put by several transactions when they are many, but
 *     state counts them, and old chunks are dropped, in the last one alone. So a
 *     round is whole or not there, `replace_all` included.
 *  6. When a round fails, sd_changes_undo gives all of it to the next one, and the
 *     journal is as it was after the last whole round.
 *
 * Expiries are kept by the wall clock, as it stood to the store's clock when they
 * were packed. When that relation moves (somebody sets the clock), what lies in
 * the journal is wrong by as much; `clock_moved` tells, and a round with
 * `everything` and `replace_all` makes it right.
 */
#ifndef SD_PERSIST_H
#define SD_PERSIST_H

#include <stdatomic.h>

#include "persist/journal.h"
#include "shm/store.h"

typedef struct sd_round_options {
    uint64_t now;     /* the store's clock, ms */
    uint64_t wall_ms; /* the wall clock at the same moment */
    bool everything;  /* every live value, changed or not, */
    bool replace_all; /* ... and all that the journal had is dropped: either means both */
    const atomic_bool *stop; /* may be NULL; true: give the round up, also in its midst */
} sd_round_options_t;

typedef struct sd_round_result {
    uint64_t values;   /* records packed, by kind; without what cleaning packed anew */
    uint64_t touches;
    uint64_t removals;
    uint64_t bytes;    /* put into chunks, what cleaning packed anew included */
    uint64_t cleaned;  /* bytes of old chunks dropped */
    uint64_t copied;   /* values that cleaning packed anew */
    int64_t clock_moved; /* ms that the wall clock has moved against the store's since the journal's
                          * expiries were reckoned by it: see sd_journal_options_t.same_store */
    uint32_t round;    /* its number, or the last one's when there was nothing to do */
    bool wants_all;    /* something in the journal cannot be read: write everything */
} sd_round_result_t;

/* Runs on the persisting thread with its lane. OK: all that changed before the call
 * is on disk, sd_changes_settle has been called. Else nothing of it counts,
 * sd_changes_undo has been called, and the reason is a sentence. A round in which
 * nothing changed and nothing is to be cleaned touches no file. */
sd_persist_status_t sd_persist_round(sd_journal_t *journal, sd_lane_t *lane,
                                     const sd_round_options_t *options, sd_round_result_t *result,
                                     char reason[SD_PERSIST_REASON]);

#endif
