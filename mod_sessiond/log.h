/* SPDX-License-Identifier: Apache-2.0
 *
 * log.h: logging with our own tag. Only this room logs; APLOGNO numbers belong
 * to the modules that come with httpd. Not for mod_sessiond.c: the declaration
 * of the module and its use for logging do not compile in one file.
 */
#ifndef SD_LOG_H
#define SD_LOG_H

#include <httpd.h>
#include <http_log.h>
#include <http_main.h>

APLOG_USE_MODULE(sessiond);

/* level: ERR, WARNING, NOTICE, INFO, DEBUG ...; status: an apr_status_t, 0 = none */
#define sd_log(level, status, ...) \
    ap_log_error(APLOG_MARK, APLOG_##level, status, ap_server_conf, "sessiond: " __VA_ARGS__)

#endif
