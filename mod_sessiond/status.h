/* SPDX-License-Identifier: Apache-2.0
 *
 * status.h: the reports. All of them are fed from the notice board and the
 * table in shm/counters.h; no session id appears anywhere.
 */
#ifndef SD_STATUS_H
#define SD_STATUS_H

#include <httpd.h>

/* The content handler "sessiond-status": HTML, ?auto for programs, ?metrics in
 * the text format of Prometheus, ?refresh=seconds. */
int sd_status_handler(request_rec *r);

/* mod_status's hook: our section at the end of server-status. */
int sd_status_section(request_rec *r, int flags);

/* The few lines that stand above the scoreboard; HTML, in r->pool. NULL: the
 * session server is off. */
const char *sd_status_summary(request_rec *r);

/* insert_filter hook and registration of the filter that puts them there:
 * `apachectl status` shows no more of the page than that. */
void sd_status_filter_register(apr_pool_t *pool);
void sd_status_filter_insert(request_rec *r);

#endif
