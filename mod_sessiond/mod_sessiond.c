/* SPDX-License-Identifier: Apache-2.0
 *
 * mod_sessiond.c: the module record and its hooks; a contents page.
 *
 *   configuration  config.c, address.c   directives, defaults, checks
 *   the parent     process.c, retained.c, listener.c, forks.c
 *                                        sockets, segment, the session process
 *   the process    settle.c, server.c, keeper.c, halt.c
 *                                        main thread, housekeeping
 *                  loop.c, connection.c, exchange.c
 *                                        threads that serve clients
 *                  pressure.c            who gives way when memory is short
 *   restarts       handover.c, takeover.c, connection_handover.c, handover_state.c
 *                                        live connections go to the next process
 *   reports        status.c, status_filter.c
 *
 * Start order: check_config judges the directives (also for -t), open_logs
 * binds the sockets and makes the segment, the second post_config forks the
 * session process, child_init makes web children let go of it all.
 */
#include <httpd.h>
#include <http_config.h>
#include <http_log.h>
#include <http_request.h>
#include <mpm_common.h>
#include <apr_optional_hooks.h>
#include <mod_status.h>

#include "config.h"
#include "process.h"
#include "status.h"

static void register_hooks(apr_pool_t *pool)
{
    /* before the core opens the error log: what goes wrong at the first start
     * is shown on the console */
    static const char *const before_core[] = { "core.c", NULL };

    ap_hook_check_config(sd_config_check, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_open_logs(sd_process_open, NULL, before_core, APR_HOOK_REALLY_FIRST);
    ap_hook_post_config(sd_process_start, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_monitor(sd_process_monitor, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(sd_process_leave_to_parent, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_handler(sd_status_handler, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_insert_filter(sd_status_filter_insert, NULL, NULL, APR_HOOK_MIDDLE);
    APR_OPTIONAL_HOOK(ap, status_hook, sd_status_section, NULL, NULL, APR_HOOK_MIDDLE);
    sd_status_filter_register(pool);
}

AP_DECLARE_MODULE(sessiond) = {
    STANDARD20_MODULE_STUFF,
    NULL, /* per directory */
    NULL,
    sd_config_create,
    NULL, /* nothing to merge: the main server's only */
    sd_config_commands,
    register_hooks,
    AP_MODULE_FLAG_NONE
};
