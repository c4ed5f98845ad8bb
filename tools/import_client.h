/* SPDX-License-Identifier: Apache-2.0
 *
 * import_client.h: one connection to the server, on which writes go out without
 * waiting for answers, within bounds of memory.
 *
 * A value that fits into IMPORT_PIECE is copied, and sent again by itself when
 * the connection is lost before its answer. A larger one is handed over piece by
 * piece; it must be begun anew if the connection is lost.
 */
#ifndef SD_IMPORT_CLIENT_H
#define SD_IMPORT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/import_address.h"

#define IMPORT_PIECE ((size_t)256 * 1024)
#define IMPORT_ABSENT 0u
#define IMPORT_ANY UINT64_MAX

typedef struct import_client import_client_t;

typedef enum import_answer {
    IMPORT_K, /* written; of a question: there is none */
    IMPORT_B, /* not written: another value is there, or somebody works on it */
    IMPORT_E, /* refused, with the server's sentence */
    IMPORT_E_END /* the same, and the connection ended: it is too large */
} import_answer_t;

typedef struct import_write {
    const char *prefix, *key, *name; /* name: for messages, may be cut */
    uint64_t version;                /* what must be there */
    uint32_t ttl, size;
    uint64_t token; /* the caller's */
} import_write_t;

/* Called from within any of the functions below. */
typedef void import_answer_fn(void *context, import_answer_t answer, const char *name, uint64_t token,
                              uint64_t version, const char *sentence);

/* `ask`: only look whether a value is there. NULL without memory. The address
 * outlives it. */
import_client_t *import_client_create(const import_address_t *address, int timeout_ms, bool ask,
                                      import_answer_fn *answer, void *context);
void import_client_destroy(import_client_t **client);

/* From here on false means that nothing more can be done: trouble() is the
 * reason and the remedy in a sentence, or NULL if *import_stop was set. */
bool import_client_connect(import_client_t *client);
bool import_client_put(import_client_t *client, const import_write_t *write, const uint8_t *data);

typedef enum import_stream {
    IMPORT_GOES_ON,
    IMPORT_ANSWERED, /* early: the rest is not wanted */
    IMPORT_LOST,     /* the connection; begin anew */
    IMPORT_FAILED    /* as false above */
} import_stream_t;

/* begin; piece by piece all `size` bytes; end. After anything but GOES_ON
 * nothing more of it may follow. */
import_stream_t import_client_stream_begin(import_client_t *client, const import_write_t *write);
import_stream_t import_client_stream_piece(import_client_t *client, const uint8_t *data, size_t n);
import_stream_t import_client_stream_end(import_client_t *client);
/* Instead of the rest: the server forgets what it has got. */
bool import_client_stream_abandon(import_client_t *client);

/* Was one of that size (with its key) too large? */
bool import_client_is_too_large(const import_client_t *client, uint64_t bytes);

/* Sends and receives for about so long, while the caller waits for something. */
bool import_client_wait(import_client_t *client, int ms);
/* Until all is answered, also after import_stop was set, then for some seconds. */
bool import_client_drain(import_client_t *client);

/* How many have no answer yet. */
unsigned import_client_pending(const import_client_t *client);
const char *import_client_trouble(const import_client_t *client);

#endif
