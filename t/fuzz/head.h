/* SPDX-License-Identifier: Apache-2.0
 *
 * head.h: what holds for every parser of heads, whatever the bytes: it looks at
 * nothing behind its input, asks for more until it has seen enough, and says
 * the same from then on, however the input goes on. The first byte of an input
 * chooses SessiondMaxSize, the others are the head.
 */
#ifndef FUZZ_HEAD_H
#define FUZZ_HEAD_H

#include "fuzz.h"
#include "t/unit/parse_fixture.h"

/* Longer than any head, so that some bytes of the value follow it. */
#define HEAD_MAX 320u

static inline uint64_t head_max_size(uint8_t choice)
{
    static const uint64_t sizes[] = { 1024, 1, 254, 255, 256, 300, 1 << 20, UINT32_MAX };

    return sizes[choice % (sizeof sizes / sizeof sizes[0])];
}

/* The same request, whatever stands behind the bytes that made the verdict. */
static inline void head_ignores_what_follows(parse_t *p, const uint8_t *in, size_t n, size_t took,
                                             sd_parse_t verdict)
{
    static const uint8_t others[] = { 0x00, 0xff, 'W', 0x55 };
    uint8_t copy[HEAD_MAX];
    sd_request_t first;
    size_t i;

    parse(p, in, took);
    first = p->request;
    memcpy(copy, in, took);
    for (i = 0; i < sizeof others; i++) {
        memset(copy + took, others[i], n - took);
        must(parse(p, copy, n) == verdict);
        must(same_request(&p->request, &first));
    }
}

/* Parses the input in every way. Leaves the last request in p->request. */
static inline sd_parse_t head_parse(parse_t *p, const uint8_t *in, size_t n)
{
    size_t took;
    sd_parse_t verdict = parse_growing(p, in, n, &took);

    if (verdict == SD_PARSE_MORE) {
        must(parse(p, in, n) == SD_PARSE_MORE);
        return verdict;
    }
    if (verdict == SD_PARSE_DONE)
        must(took == p->request.head_len);
    head_ignores_what_follows(p, in, n, took, verdict);
    must(parse(p, in, n) == verdict);
    return verdict;
}

/* Is each of these a byte that `allowed` names? */
static inline bool head_key_is(const uint8_t *key, uint32_t n, bool (*allowed)(uint8_t))
{
    uint32_t i;

    for (i = 0; i < n; i++)
        if (!allowed(key[i]))
            return false;
    return true;
}

#endif
