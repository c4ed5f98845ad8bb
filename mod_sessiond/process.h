/* SPDX-License-Identifier: Apache-2.0
 *
 * process.h: the httpd parent's side: the segment, the side sockets and the
 * session processes, kept over restarts. The parent follows no offset in the
 * segment and decides nothing by the notice board.
 */
#ifndef SD_PROCESS_H
#define SD_PROCESS_H

#include <httpd.h>

#include "config.h"

/* open_logs hook: sockets and memory are had here, so that at the first start
 * a failure ends httpd with a message on the console. Later it never fails. */
int sd_process_open(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);

/* post_config hook: starts the session process, lets the earlier one go. */
int sd_process_start(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);

/* monitor hook, every 10 seconds or so: kills one that hangs. */
int sd_process_monitor(apr_pool_t *pool, server_rec *s);

/* child_init hook: a web child lets go of all that is not its business, if it
 * has not done so when it was forked. */
void sd_process_leave_to_parent(apr_pool_t *pool, server_rec *s);

#endif
