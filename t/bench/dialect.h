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

typedef enum {
    REPLY_MORE,
    REPLY_DONE,
    REPLY_MISS,
    REPLY_REFUSED, /* no memory for it */
    REPLY_WRONG
} reply_t;

typedef struct ask {
    const char *key;
    size_t key_len;
    const char *value;
    size_t value_len;
    uint64_t version; /* what a store replaces, as it came; DIALECT_ANY = whatever is there */
} ask_t;

#define DIALECT_ANY UINT64_MAX

typedef struct dialect {
    const char *name;
    bool persistent; /* else one request per connection, ended by the server */
    bool greets;     /* its clients begin each connection with a hello */
    bool versioned;  /* its clients say which version a store replaces */
    /* Each writes a request and returns its length. */
    size_t (*hello)(char *out);
    size_t (*store)(char *out, const ask_t *ask);
    size_t (*read)(char *out, const ask_t *ask);
    /* Each looks at `len` bytes. `ended`: the server has closed in order. *used:
     * bytes of the reply; *version: that of the value now there. */
    reply_t (*greeted)(const char *in, size_t len, bool ended, size_t *used);
    reply_t (*stored)(const char *in, size_t len, bool ended, size_t *used, uint64_t *version);
    reply_t (*was_read)(const char *in, size_t len, bool ended, size_t want, size_t *used,
                        uint64_t *version);
} dialect_t;

/* NULL: no such name. */
const dialect_t *dialect_find(const char *name);

#define DIALECT_OVERHEAD 2048 /* bytes a request or reply has beside key and value, at most */

#endif
