/* SPDX-License-Identifier: Apache-2.0
 *
 * extended_parse.c: pure parser of the extended frames' heads. A frame that is
 * wrong but whose end is known (a bad key, a bad lifetime) is told apart from
 * one that is not to be read to its end (oversized, unknown), since only after
 * the first kind can the connection go on.
 */
#include <string.h>

#include "bytes.h"
#include "extended_parse.h"

static bool key_is_valid(const uint8_t *key, uint32_t len)
{
    uint32_t i;

    for (i = 0; i < len; i++)
        if (key[i] < 33 || key[i] == 127)
            return false;
    return true;
}

static sd_parse_t bad(sd_request_t *request, sd_fault_t fault)
{
    request->fault = fault;
    return SD_PARSE_BAD;
}

/* Bad, but the frame's length is known: `done` bytes of it have been looked at
 * and `skip` bytes follow. */
static sd_parse_t bad_known(sd_request_t *request, sd_fault_t fault, uint32_t done, uint64_t skip)
{
    request->head_len = done;
    request->skip = skip;
    request->known = true;
    return bad(request, fault);
}

static sd_parse_t parse_hello(const uint8_t *in, size_t len, sd_request_t *request)
{
    if (len < 9)
        return SD_PARSE_MORE;
    memcpy(&request->version, in + 1, 8);
    request->head_len = 9;
    return SD_PARSE_DONE;
}

/* All but P: the fixed part is there; lengths are in the request. */
static sd_parse_t parse_key(const uint8_t *in, size_t len, uint32_t fixed, sd_request_t *request)
{
    uint64_t rest = (uint64_t)request->key_len + request->data_len;

    if (request->key_len < 1 || request->key_len > SD_EXTENDED_KEY_MAX)
        return bad_known(request, SD_FAULT_KEY, fixed, rest);
    if (request->ttl > SD_TTL_MAX)
        return bad_known(request, SD_FAULT_TTL, fixed, rest);
    if (request->wait_ms > SD_WAIT_MAX)
        return bad_known(request, SD_FAULT_WAIT, fixed, rest);
    request->head_len = fixed + request->key_len;
    if (len < request->head_len)
        return SD_PARSE_MORE;
    request->key = in + fixed;
    if (!key_is_valid(request->key, request->key_len))
        return bad_known(request, SD_FAULT_KEY, fixed, rest);
    return SD_PARSE_DONE;
}

/* Bytes before the key; 0 = no frame begins so. */
static uint32_t fixed_part(uint8_t op)
{
    switch (op) {
    case 'W':
        return 21;
    case 'L':
    case 'T':
        return 9;
    case 'G':
    case 'U':
    case 'R':
        return 5;
    default:
        return 0;
    }
}

sd_parse_t sd_extended_parse(const uint8_t *in, size_t len, const sd_limits_t *limits,
                             sd_request_t *request)
{
    uint32_t fixed;

    memset(request, 0, sizeof *request);
    if (len == 0)
        return SD_PARSE_MORE;
    request->op = in[0];
    if (request->op == 'P')
        return parse_hello(in, len, request);
    fixed = fixed_part(request->op);
    if (fixed == 0)
        return bad(request, SD_FAULT_UNKNOWN);
    if (len >= 5) {
        request->key_len = sd_get32(in + 1);
        if (request->key_len > limits->max_size)
            return bad(request, SD_FAULT_OVERSIZE);
    }
    if (len < fixed)
        return SD_PARSE_MORE;
    if (request->op == 'W') {
        request->data_len = sd_get32(in + 5);
        if (request->data_len > limits->max_size - request->key_len)
            return bad(request, SD_FAULT_OVERSIZE);
        request->ttl = sd_get32(in + 9);
        request->version = sd_get64(in + 13);
    }
    if (request->op == 'L')
        request->wait_ms = sd_get32(in + 5);
    if (request->op == 'T')
        request->ttl = sd_get32(in + 5);
    return parse_key(in, len, fixed, request);
}
