/* SPDX-License-Identifier: Apache-2.0
 *
 * import_link.h: a connection on which the server has answered a hello, so that
 * it is known to be a mod_sessiond that looks at versions.
 */
#ifndef SD_IMPORT_LINK_H
#define SD_IMPORT_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/import_address.h"

#define IMPORT_WHY 256

typedef struct import_link {
    const import_address_t *address;
    int timeout_ms;
    int fd; /* -1: none */
    char why[IMPORT_WHY]; /* when open() has failed: what happened, and what to look at */
} import_link_t;

bool import_link_open(import_link_t *link);
void import_link_close(import_link_t *link);

/* ms of a clock that never steps. */
uint64_t import_link_now_ms(void);

#endif
