/* SPDX-License-Identifier: Apache-2.0
 *
 * reply.c: building a reply and sending it off piece by piece.
 */
#include <string.h>

#include "reply.h"

void sd_reply_add(sd_reply_t *reply, const void *bytes, size_t n)
{
    sd_reply_part_t *part = reply->parts > reply->first ? &reply->part[reply->parts - 1] : NULL;

    if (n == 0 || n > SD_REPLY_BYTES - reply->used)
        return;
    if (part && part->value.head == 0)
        part->len += (uint32_t)n; /* follows the last piece directly */
    else {
        part = &reply->part[reply->parts++];
        memset(&part->value, 0, sizeof part->value);
        part->at = reply->used;
        part->len = (uint32_t)n;
    }
    memcpy(reply->bytes + reply->used, bytes, n);
    reply->used += (uint32_t)n;
}

void sd_reply_add_value(sd_reply_t *reply, const sd_ref_t *value)
{
    sd_reply_part_t *part = &reply->part[reply->parts++];

    part->value = *value;
    part->at = part->len = 0;
}

int sd_reply_iov(const sd_reply_t *reply, sd_lane_t *lane, struct iovec *iov, int max, size_t *bytes)
{
    uint32_t i;
    int n = 0;

    *bytes = 0;
    for (i = reply->first; i < reply->parts && n < max; i++) {
        const sd_reply_part_t *part = &reply->part[i];
        size_t here = part->len;

        if (part->value.head != 0) {
            n += sd_ref_iov(lane, &part->value, iov + n, max - n, &here);
            *bytes += here;
            if (here < part->value.left)
                break;
            continue;
        }
        iov[n].iov_base = (void *)(uintptr_t)(reply->bytes + part->at);
        iov[n].iov_len = here;
        *bytes += here;
        n++;
    }
    return n;
}

static uint64_t part_left(const sd_reply_part_t *part)
{
    return part->value.head != 0 ? part->value.left : part->len;
}

bool sd_reply_advance(sd_reply_t *reply, sd_lane_t *lane, size_t n)
{
    while (reply->first < reply->parts) {
        sd_reply_part_t *part = &reply->part[reply->first];
        size_t left = part_left(part);

        if (n < left) {
            if (part->value.head != 0)
                sd_ref_advance(lane, &part->value, n);
            else {
                part->at += (uint32_t)n;
                part->len -= (uint32_t)n;
            }
            return false;
        }
        n -= left;
        if (part->value.head != 0)
            sd_ref_release(lane, &part->value);
        reply->first++;
    }
    sd_reply_clear(reply);
    return true;
}

uint64_t sd_reply_left(const sd_reply_t *reply)
{
    uint64_t left = 0;
    uint32_t i;

    for (i = reply->first; i < reply->parts; i++)
        left += part_left(&reply->part[i]);
    return left;
}

bool sd_reply_holds_detached(const sd_reply_t *reply, sd_lane_t *lane)
{
    uint32_t i;

    for (i = reply->first; i < reply->parts; i++)
        if (sd_ref_is_detached(lane, &reply->part[i].value))
            return true;
    return false;
}

void sd_reply_discard(sd_reply_t *reply, sd_lane_t *lane)
{
    for (; reply->first < reply->parts; reply->first++)
        sd_ref_release(lane, &reply->part[reply->first].value);
    sd_reply_clear(reply);
}
