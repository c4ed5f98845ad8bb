/* SPDX-License-Identifier: Apache-2.0
 *
 * commit.h: connections whose reply is held until what it acknowledges is on disk
 * (SessiondPersistSync always). Each loop has its own, in the order in which they
 * came; the thread that writes posts a letter when a round is over. So one commit
 * serves all who came before it, and throughput grows with their number.
 */
#ifndef SD_COMMIT_H
#define SD_COMMIT_H

#include "connection.h"

/* Its reply stands in c->stalled. It is not read from meanwhile. */
void sd_commit_wait(sd_loop_t *loop, sd_connection_t *c);
/* It ends. */
void sd_commit_forget(sd_loop_t *loop, sd_connection_t *c);
/* A letter: a round is over, or replies are not held any more. */
void sd_commit_release(sd_loop_t *loop, void *what);
/* At the end of a turn: whoever came in it is told of. */
void sd_commit_turn(sd_loop_t *loop);

#endif
