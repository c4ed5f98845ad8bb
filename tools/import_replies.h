/* SPDX-License-Identifier: Apache-2.0
 *
 * import_replies.h: takes the server's replies out of a stream of bytes. Values
 * are passed over, whatever their length; what else has a body is short.
 */
#ifndef SD_IMPORT_REPLIES_H
#define SD_IMPORT_REPLIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMPORT_BODY 511

typedef struct import_reply {
    char status;
    uint32_t len;
    uint8_t body[IMPORT_BODY + 1]; /* a 0 behind it; what does not fit is cut */
} import_reply_t;

typedef struct import_replies {
    uint8_t head[5];
    uint32_t have; /* of head and body together */
    import_reply_t reply;
} import_replies_t;

typedef enum import_take {
    IMPORT_TAKE_MORE,
    IMPORT_TAKE_REPLY,
    IMPORT_TAKE_NONSENSE
} import_take_t;

void import_replies_begin(import_replies_t *replies);

/* Moves *at on towards `end`. */
import_take_t import_replies_take(import_replies_t *replies, const uint8_t **at, const uint8_t *end);

#endif
