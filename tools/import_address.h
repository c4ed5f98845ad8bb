/* SPDX-License-Identifier: Apache-2.0
 *
 * import_address.h: where the server is, and how to reach it.
 */
#ifndef SD_IMPORT_ADDRESS_H
#define SD_IMPORT_ADDRESS_H

#include <netdb.h>
#include <stdbool.h>
#include <sys/un.h>

typedef struct import_address {
    const char *text; /* as it was given; outlives this */
    char host[256];
    char port[6];
    struct sockaddr_un path; /* sun_path[0] is 0 for TCP */
    socklen_t path_len;
} import_address_t;

/* Takes host:port, [v6]:port or unix:/path apart. NULL, or what is wrong with it. */
const char *import_address_set(import_address_t *address, const char *text);

/* A connected socket that does not block, or -1. Gives up after `timeout_ms` for
 * each of the addresses that a name has; names are looked up anew each time,
 * since a server may have moved. `why` is then a word on the reason, which lasts
 * until the next call. */
int import_address_connect(const import_address_t *address, int timeout_ms, const char **why);

#endif
