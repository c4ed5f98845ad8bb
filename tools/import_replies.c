/* SPDX-License-Identifier: Apache-2.0
 *
 * import_replies.c: a status byte, a length, and as many bytes, in any pieces.
 * Whoever answers may be no mod_sessiond at all, so only what a server of ours
 * can say is let through.
 */
#include <string.h>

#include "protocol/bytes.h"
#include "tools/import_replies.h"

void import_replies_begin(import_replies_t *replies)
{
    replies->have = 0;
}

static bool is_possible(char status, uint32_t len)
{
    switch (status) {
    case 'K': return len <= IMPORT_BODY;
    case 'E': return len <= 65536;
    case 'N':
    case 'B': return len == 0;
    case 'V': return len >= 8 && len <= UINT32_MAX - 8;
    default: return false;
    }
}

import_take_t import_replies_take(import_replies_t *replies, const uint8_t **at, const uint8_t *end)
{
    const uint32_t head = sizeof replies->head;
    import_reply_t *reply = &replies->reply;

    while (replies->have < head && *at < end)
        replies->head[replies->have++] = *(*at)++;
    if (replies->have < head)
        return IMPORT_TAKE_MORE;
    if (replies->have == head) {
        reply->status = (char)replies->head[0];
        reply->len = sd_get32(replies->head + 1);
        if (!is_possible(reply->status, reply->len))
            return IMPORT_TAKE_NONSENSE;
    }
    while (replies->have - head < reply->len && *at < end) {
        uint32_t offset = replies->have - head, n = reply->len - offset;

        if ((size_t)(end - *at) < n)
            n = (uint32_t)(end - *at);
        if (offset < IMPORT_BODY)
            memcpy(reply->body + offset, *at, n < IMPORT_BODY - offset ? n : IMPORT_BODY - offset);
        *at += n;
        replies->have += n;
    }
    if (replies->have - head < reply->len)
        return IMPORT_TAKE_MORE;
    reply->body[reply->len < IMPORT_BODY ? reply->len : IMPORT_BODY] = 0;
    replies->have = 0;
    return IMPORT_TAKE_REPLY;
}
