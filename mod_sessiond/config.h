/* SPDX-License-Identifier: Apache-2.0
 *
 * config.h: the directives' values, their defaults and bounds. All directives
 * belong to the main server: there is one store and one session process.
 * Memory: everything hangs on pconf and goes at the next restart.
 */
#ifndef SD_CONFIG_H
#define SD_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <httpd.h>
#include <http_config.h>

#include "address.h"

#define SD_THREADS_MAX 64
#define SD_LISTENERS_MAX 32

typedef struct sd_config {
    apr_array_header_t *endpoints; /* sd_endpoint_t: SessiondListen, in order */
    sd_allow_t allow;              /* SessiondAllow */
    uint64_t memory;               /* bytes */
    uint64_t max_size;             /* bytes, 0 = not set */
    uint32_t expiration;           /* seconds, as all that follow */
    uint32_t timeout;
    uint32_t idle_timeout;
    uint32_t lock_timeout;
    uint32_t max_connections;
    uint32_t backlog;
    uint32_t threads;              /* 0 = not set */
    bool evict;
    const char *persist_dir;       /* NULL = sessions are not written to disk */
    uint32_t persist_sync;         /* seconds, 0 = always */
} sd_config_t;

extern const command_rec sd_config_commands[];

void *sd_config_create(apr_pool_t *pool, server_rec *s);
sd_config_t *sd_config_get(server_rec *s);

/* What is left open is decided: the defaults that depend on other values or on
 * the machine. */
uint64_t sd_config_max_size(const sd_config_t *config);
uint32_t sd_config_threads(const sd_config_t *config);

/* check_config hook: what can only be judged when all directives are known.
 * Logs a sentence and returns an HTTP error, so that -t fails too. */
int sd_config_check(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);

#endif
