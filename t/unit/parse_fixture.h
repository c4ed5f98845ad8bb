/* SPDX-License-Identifier: Apache-2.0
 *
 * parse_fixture.h: what the tests of the parsers share: input that ends at a
 * page nobody may touch, and what holds for every parser: it asks for more
 * until it has seen enough, then says the same however much follows.
 */
#ifndef PARSE_FIXTURE_H
#define PARSE_FIXTURE_H

#include "guard.h"
#include "protocol/bytes.h"
#include "protocol/wire.h"
#include "store_fixture.h"

typedef struct parse {
    const sd_protocol_t *protocol;
    sd_limits_t limits;
    guard_t guard;
    const uint8_t *in; /* where the parser saw it */
    sd_request_t request;
} parse_t;

static inline void parse_open(parse_t *p, const sd_protocol_t *protocol, uint64_t max_size)
{
    memset(p, 0, sizeof *p);
    p->protocol = protocol;
    p->limits = (sd_limits_t){ max_size, 1000, "greeting" };
    guard_open(&p->guard, 8192);
}

static inline void parse_close(parse_t *p)
{
    guard_close(&p->guard);
}

/* The request is full of rubbish before: the parser sets every field. */
static inline sd_parse_t parse(parse_t *p, const void *bytes, size_t n)
{
    sd_parse_t result;

    p->in = guard_put(&p->guard, bytes, n);
    memset(&p->request, 0xee, sizeof p->request);
    result = p->protocol->parse(p->in, n, &p->limits, &p->request);
    assert_memory_equal(p->in, bytes, n);
    return result;
}

static inline bool same_request(const sd_request_t *a, const sd_request_t *b)
{
    return a->version == b->version && a->key_len == b->key_len && a->data_len == b->data_len
           && a->ttl == b->ttl && a->wait_ms == b->wait_ms && a->head_len == b->head_len && a->skip == b->skip
           && a->fault == b->fault && a->op == b->op && a->known == b->known;
}

/* Parses every beginning of the input. Returns the result, and how many bytes
 * it took to come to it (0: never). Asserts that it was MORE until then and
 * the same from then on. */
static inline sd_parse_t parse_growing(parse_t *p, const void *bytes, size_t n, size_t *took)
{
    sd_request_t first = { 0 };
    sd_parse_t result = SD_PARSE_MORE;
    size_t len;

    *took = 0;
    for (len = 0; len <= n; len++) {
        sd_parse_t now = parse(p, bytes, len);

        if (result == SD_PARSE_MORE && now != SD_PARSE_MORE) {
            result = now;
            first = p->request;
            *took = len;
        }
        assert_int_equal(now, result);
        if (now == SD_PARSE_DONE) {
            assert_true(p->request.head_len <= len);
            assert_true(p->request.key_len == 0
                        || p->request.key + p->request.key_len == p->in + p->request.head_len);
            assert_int_equal(p->request.fault, SD_FAULT_NONE);
        }
        if (now == SD_PARSE_BAD) {
            assert_int_not_equal(p->request.fault, SD_FAULT_NONE);
            if (p->request.known)
                assert_true(p->request.head_len <= len);
        }
        if (result != SD_PARSE_MORE)
            assert_true(same_request(&p->request, &first));
    }
    return result;
}

#endif
