/* SPDX-License-Identifier: Apache-2.0
 *
 * lock_report.h: puts the session locks that matter up on the notice board.
 */
#ifndef SD_LOCK_REPORT_H
#define SD_LOCK_REPORT_H

#include "server.h"

/* Those with the longest queues, then those held longest. From the main thread. */
void sd_lock_report(sd_server_t *server);

#endif
