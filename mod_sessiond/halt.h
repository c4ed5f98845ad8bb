/* SPDX-License-Identifier: Apache-2.0
 *
 * halt.h: all loop threads stand still between two turns, so that the main
 * thread has the store and every connection to itself for a while.
 */
#ifndef SD_HALT_H
#define SD_HALT_H

#include "server.h"

typedef struct sd_halt sd_halt_t;

/* Returns when all threads stand still. NULL: there was no memory, or one of
 * them did not come within `limit_ms`; they go on. */
sd_halt_t *sd_halt_begin(sd_server_t *server, uint64_t limit_ms);
/* They go on. Frees it. */
void sd_halt_end(sd_halt_t **halt);

#endif
