/* SPDX-License-Identifier: Apache-2.0
 *
 * sharedance_parse.c: pure parser of sharedance's heads. Lengths are compared
 * with their bounds one by one before they are added, so no sum overflows, and
 * a hopeless request is known by its first 5 or 9 bytes.
 */
#include <string.h>

#include "bytes.h"
#include "sharedance_parse.h"

static bool key_is_valid(const uint8_t *key, uint32_t len)
{
    uint32_t i;

    for (i = 0; i < len; i++)
        if (key[i] < 32 || key[i] > 126 || key[i] == '.' || key[i] == '/')
            return false;
    return true;
}

static sd_parse_t bad(sd_request_t *request, sd_fault_t fault)
{
    request->fault = fault;
    return SD_PARSE_BAD;
}

sd_parse_t sd_sharedance_parse(const uint8_t *in, size_t len, const sd_limits_t *limits,
                               sd_request_t *request)
{
    uint32_t fixed;

    memset(request, 0, sizeof *request);
    if (len == 0)
        return SD_PARSE_MORE;
    request->op = in[0];
    if (request->op != 'S' && request->op != 'F' && request->op != 'D')
        return bad(request, SD_FAULT_UNKNOWN);
    fixed = request->op == 'S' ? 9 : 5;
    if (len >= 5) {
        request->key_len = sd_get32(in + 1);
        if (request->key_len > limits->max_size)
            return bad(request, SD_FAULT_OVERSIZE);
        if (request->key_len < 1 || request->key_len > SD_KEY_MAX)
            return bad(request, SD_FAULT_KEY);
    }
    if (len < fixed)
        return SD_PARSE_MORE;
    if (request->op == 'S') {
        request->data_len = sd_get32(in + 5);
        if (request->data_len > limits->max_size - request->key_len)
            return bad(request, SD_FAULT_OVERSIZE);
    }
    request->head_len = fixed + request->key_len;
    if (len < request->head_len)
        return SD_PARSE_MORE;
    request->key = in + fixed;
    if (!key_is_valid(request->key, request->key_len))
        return bad(request, SD_FAULT_KEY);
    return SD_PARSE_DONE;
}
