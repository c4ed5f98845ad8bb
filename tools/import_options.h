/* SPDX-License-Identifier: Apache-2.0
 *
 * import_options.h: what the command line says.
 */
#ifndef SD_IMPORT_OPTIONS_H
#define SD_IMPORT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/import_address.h"
#include "tools/import_source.h"

typedef struct import_options {
    import_source_t source;
    import_address_t server;
    const char *prefix;
    bool dry_run, overwrite, verbose;
    uint32_t expiration; /* seconds */
    uint64_t since;      /* seconds since 1970; 0: all */
    int follow;          /* seconds between two passes; 0: one pass */
    int lock_wait_ms, timeout_ms;
} import_options_t;

/* Returns true, or false when the program is to end with *status: after --help
 * and the like with 0, or with 2 and a sentence on standard error. */
bool import_options_parse(import_options_t *options, int argc, char **argv, int *status);

#endif
