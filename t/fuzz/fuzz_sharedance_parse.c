/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_sharedance_parse.c: the heads of S, F and D. Each verdict is judged by
 * the sentences of doc/protocol.md, read anew here, not by the parser's code.
 */
#include "head.h"

static bool is_key_byte(uint8_t byte)
{
    return byte >= 32 && byte <= 126 && byte != '.' && byte != '/';
}

static void judge_bad(const sd_request_t *r, const uint8_t *in, uint32_t fixed, uint64_t max_size)
{
    must(!r->known);
    switch (r->fault) {
    case SD_FAULT_UNKNOWN:
        must(strchr("SFD", in[0]) == NULL || in[0] == '\0');
        break;
    case SD_FAULT_OVERSIZE:
        must(sd_get32(in + 1) > max_size
             || (fixed == 9 && (uint64_t)sd_get32(in + 1) + sd_get32(in + 5) > max_size));
        break;
    case SD_FAULT_KEY:
        must(sd_get32(in + 1) == 0 || sd_get32(in + 1) > 255
             || !head_key_is(in + fixed, sd_get32(in + 1), is_key_byte));
        break;
    default:
        fuzz_broken("a fault that this parser does not know", __FILE__, __LINE__);
    }
}

static void judge_done(const sd_request_t *r, const uint8_t *in, uint32_t fixed, uint64_t max_size)
{
    must(in[0] == 'S' || in[0] == 'F' || in[0] == 'D');
    must(r->op == in[0]);
    must(r->key_len == sd_get32(in + 1) && r->key_len >= 1 && r->key_len <= 255);
    must(r->data_len == (in[0] == 'S' ? sd_get32(in + 5) : 0));
    must((uint64_t)r->key_len + r->data_len <= max_size);
    must(r->head_len == fixed + r->key_len);
    must(memcmp(r->key, in + fixed, r->key_len) == 0);
    must(head_key_is(r->key, r->key_len, is_key_byte));
    must(r->ttl == 0 && r->skip == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *in = data + 1;
    size_t n = size < 1 ? 0 : size - 1 < HEAD_MAX ? size - 1 : HEAD_MAX;
    uint32_t fixed;
    parse_t p;

    if (n == 0)
        return 0;
    fixed = in[0] == 'S' ? 9 : 5;
    parse_open(&p, &sd_sharedance, head_max_size(data[0]));
    switch (head_parse(&p, in, n)) {
    case SD_PARSE_MORE: /* no head of ours is complete */
        must(n < fixed || n < (uint64_t)fixed + sd_get32(in + 1));
        break;
    case SD_PARSE_BAD:
        judge_bad(&p.request, in, fixed, p.limits.max_size);
        break;
    case SD_PARSE_DONE:
        judge_done(&p.request, in, fixed, p.limits.max_size);
        break;
    }
    parse_close(&p);
    return 0;
}
