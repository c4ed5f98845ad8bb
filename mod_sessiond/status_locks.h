/* SPDX-License-Identifier: Apache-2.0
 *
 * status_locks.h: the session locks on the status pages.
 */
#ifndef SD_STATUS_LOCKS_H
#define SD_STATUS_LOCKS_H

#include <httpd.h>

#include "board.h"

/* A table of its own; nothing while there are no locks. */
void sd_status_locks_table(request_rec *r, const sd_board_t *board);
/* "SessiondLock1: ..." and so on. */
void sd_status_locks_auto(request_rec *r, const sd_board_t *board);

#endif
