/* SPDX-License-Identifier: Apache-2.0
 *
 * address.h: where to listen and whom to let in. An endpoint is one
 * SessiondListen as written; it may stand for several sockets (a host name
 * with several addresses).
 */
#ifndef SD_ADDRESS_H
#define SD_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <apr_network_io.h>
#include <apr_tables.h>

#define SD_PORT_DEFAULT 1042

typedef struct sd_endpoint {
    const char *text;  /* as written, for messages */
    const char *path;  /* Unix socket, absolute; NULL = TCP */
    mode_t mode;       /* of the Unix socket */
    const char *host;  /* NULL = every address of this host */
    apr_port_t port;
} sd_endpoint_t;

/* Parses "port", "addr:port", "[v6]:port", "*:port" or "unix:/path". Returns
 * NULL or a sentence (in pool) that names the value, the bound and the remedy. */
const char *sd_endpoint_parse(sd_endpoint_t *endpoint, const char *text, const char *mode,
                              apr_pool_t *pool);
/* Is the address one of this host's? NULL or a sentence. Binds port 0 only:
 * it runs for -t and -k graceful too, while the real port is in use. */
const char *sd_endpoint_check(const sd_endpoint_t *endpoint, apr_pool_t *pool);

typedef struct sd_allow {
    apr_array_header_t *subnets; /* apr_ipsubnet_t *; NULL = this host only */
    bool all;
} sd_allow_t;

/* Adds "addr", "addr/bits", "addr/mask" or "all". NULL or a sentence. */
const char *sd_allow_add(sd_allow_t *allow, const char *text, apr_pool_t *pool);

/* May this peer talk to us? Loopback and a peer with our own local address
 * always may; IPv4 in IPv6 is taken as IPv4. `fd` is asked for the local
 * address only if nothing else decided. */
bool sd_allow_peer(const sd_allow_t *allow, const struct sockaddr_storage *peer, int fd);

/* The address without the port, for messages. */
void sd_address_print(const struct sockaddr_storage *peer, char *out, size_t size);

#endif
