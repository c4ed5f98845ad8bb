/* SPDX-License-Identifier: Apache-2.0
 *
 * dialect.h: how each server is spoken to: a request to store or to read one
 * key, and whether a reply is complete, right, and a hit.
 */
#ifndef SD_BENCH_DIALECT_H
#define SD_BENCH_DIALECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { REPLY_MORE, REPLY_DONE, REPLY_MISS, REPLY_WRONG } reply_t;

typedef struct dialect {
    const char *name;
    bool persistent; /* else one request per connection, ended by the server */
    size_t (*store)(char *out, const char *key, size_t key_len, const char *value, size_t len);
    size_t (*read)(char *out, const char *key, size_t key_len);
    /* `ended`: the server has closed in order. *used: bytes of the reply. */
    reply_t (*stored)(const char *in, size_t len, bool ended, size_t *used);
    reply_t (*was_read)(const char *in, size_t len, bool ended, size_t want, size_t *used);
} dialect_t;

/* NULL: no such name. */
const dialect_t *dialect_find(const char *name);

#define DIALECT_OVERHEAD 512 /* bytes a request has beside key and value, at most */

#endif
