/* SPDX-License-Identifier: Apache-2.0
 *
 * extended_exec.c: the extended frames against the store. Every reply is a
 * status byte, a 32-bit length and that many bytes.
 */
#include <string.h>

#include "bytes.h"
#include "extended_parse.h"

static void add_frame(sd_reply_t *reply, char status, const void *body, uint32_t len)
{
    uint8_t head[5] = { (uint8_t)status };

    sd_put32(head + 1, len);
    sd_reply_add(reply, head, sizeof head);
    sd_reply_add(reply, body, len);
}

static sd_after_t hello(const sd_exec_t *exec, const sd_request_t *request, sd_reply_t *reply)
{
    uint8_t body[SD_REPLY_FRAME - 16];
    size_t len = strlen(exec->limits->greeting);

    if (len > sizeof body - 8)
        len = sizeof body - 8;
    memcpy(body, &request->version, 8); /* the nonce, as it came */
    memcpy(body + 8, exec->limits->greeting, len);
    add_frame(reply, 'K', body, (uint32_t)len + 8);
    sd_count(exec->counters, hellos);
    return SD_AFTER_KEEP;
}

static sd_after_t get(const sd_exec_t *exec, const sd_request_t *request, sd_reply_t *reply)
{
    sd_ref_t value;
    uint8_t head[13] = { 'V' };

    switch (sd_store_get(exec->lane, request->key, request->key_len, exec->now, &value)) {
    case SD_OK:
        sd_put32(head + 1, 8 + value.data_len);
        sd_put64(head + 5, value.version);
        sd_reply_add(reply, head, sizeof head);
        sd_reply_add_value(reply, &value);
        sd_count(exec->counters, get_hits);
        return SD_AFTER_KEEP;
    case SD_BUSY:
        return SD_AFTER_RESET;
    default:
        add_frame(reply, 'N', NULL, 0);
        sd_count(exec->counters, get_misses);
        return SD_AFTER_KEEP;
    }
}

static sd_after_t write_value(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request,
                              sd_reply_t *reply)
{
    uint64_t ttl = request->ttl ? (uint64_t)request->ttl * 1000 : exec->limits->expiration_ms;
    uint64_t version;
    uint8_t body[8];

    switch (sd_store_put(exec->lane, &wire->chain, exec->now + ttl, request->version, exec->now,
                         &version)) {
    case SD_OK:
        sd_put64(body, version);
        add_frame(reply, 'K', body, sizeof body);
        sd_count(exec->counters, writes);
        return SD_AFTER_KEEP;
    case SD_CONFLICT:
        add_frame(reply, 'B', NULL, 0);
        sd_count(exec->counters, writes_fenced);
        return SD_AFTER_KEEP;
    default:
        return SD_AFTER_RESET;
    }
}

static sd_after_t execute(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request,
                          sd_reply_t *reply)
{
    switch (request->op) {
    case 'P':
        return hello(exec, request, reply);
    case 'G':
        return get(exec, request, reply);
    default:
        return write_value(wire, exec, request, reply);
    }
}

static void add_error(sd_reply_t *reply, const char *sentence)
{
    add_frame(reply, 'E', sentence, (uint32_t)strlen(sentence));
}

static sd_after_t refuse(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request,
                         sd_reply_t *reply)
{
    (void)wire;
    switch (request->fault) {
    case SD_FAULT_FULL:
        sd_count(exec->counters, refused_full);
        add_error(reply, "the session memory is full: nothing was stored");
        break;
    case SD_FAULT_OVERSIZE:
        sd_count(exec->counters, oversized_requests);
        add_error(reply, "key and data are larger than SessiondMaxSize");
        break;
    case SD_FAULT_TTL:
        sd_count(exec->counters, bad_requests);
        add_error(reply, "the lifetime is over 2592000 seconds (30 days)");
        break;
    case SD_FAULT_KEY:
        sd_count(exec->counters, bad_requests);
        add_error(reply, "a key is 1 to 250 bytes, each 33 to 126 or 128 to 255");
        break;
    default:
        sd_count(exec->counters, bad_requests);
        add_error(reply, "unknown frame");
        break;
    }
    return request->known ? SD_AFTER_KEEP : SD_AFTER_DRAIN;
}

const sd_protocol_t sd_extended = { "extended", sd_extended_parse, execute, refuse };
