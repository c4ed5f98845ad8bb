/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_reply.c: replies built of bytes and of values and sent off in steps of
 * any size, moved aside or given up half-way, while the values in them are
 * replaced and deleted. What has left must at any moment be the beginning of
 * what an unbroken send would have sent, and no block may be kept afterwards.
 */
#include "fuzz.h"
#include "protocol/reply.h"
#include "t/unit/store_fixture.h"

enum { OUT_MAX = 128 << 10, VECTORS = 40, STEPS = 300 };

typedef struct sending {
    fixture_t f;
    sd_reply_t reply[2]; /* a loop's own, and the one that was moved aside */
    sd_reply_t *at;
    unsigned char expected[OUT_MAX];
    size_t expected_len, sent;
    uint32_t value; /* numbers values: each has bytes of its own */
} sending_t;

static void add_bytes(sending_t *s, size_t n)
{
    value_fill(s->expected + s->expected_len, (uint32_t)n, ++s->value);
    sd_reply_add(s->at, s->expected + s->expected_len, n);
    s->expected_len += n;
}

/* A value under one of some keys, so that many are replaced while they wait. */
static void add_value(sending_t *s, uint32_t number, uint32_t len)
{
    test_key_t key = numbered_key(number, 12);
    sd_ref_t ref;

    if (put_try(&s->f, &key, ++s->value, len, s->f.now + 1000) != SD_OK)
        return;
    must(sd_store_get(s->f.lane, key.bytes, key.len, s->f.now, &ref) == SD_OK);
    sd_reply_add_value(s->at, &ref);
    value_fill(s->expected + s->expected_len, len, s->value);
    s->expected_len += len;
}

/* Sends at most `most` bytes in at most `max` vectors. */
static void send_some(sending_t *s, int max, size_t most)
{
    struct iovec iov[VECTORS];
    size_t bytes, sum = 0, done = 0;
    int n = sd_reply_iov(s->at, s->f.lane, iov, max, &bytes), i;
    bool end;

    must(n >= 0 && n <= max);
    for (i = 0; i < n; i++) {
        size_t here = iov[i].iov_len < most - done ? iov[i].iov_len : most - done;

        must(iov[i].iov_len > 0 && s->sent + done + here <= s->expected_len);
        must(memcmp(iov[i].iov_base, s->expected + s->sent + done, here) == 0);
        sum += iov[i].iov_len;
        done += here;
    }
    must(sum == bytes);
    must(sd_reply_left(s->at) == s->expected_len - s->sent);
    must(n == max || s->sent + bytes == s->expected_len); /* else there was more to give */
    s->sent += done;
    end = sd_reply_advance(s->at, s->f.lane, done);
    must(end == sd_reply_is_empty(s->at));
    must(end == (s->sent == s->expected_len));
    if (end)
        s->sent = s->expected_len = 0;
}

static void move_aside(sending_t *s)
{
    sd_reply_t *to = s->at == &s->reply[0] ? &s->reply[1] : &s->reply[0];

    *to = *s->at;
    sd_reply_clear(s->at);
    s->at = to;
}

static void delete_value(sending_t *s, uint32_t number)
{
    test_key_t key = numbered_key(number, 12);

    delete_key(&s->f, &key);
}

/* Parts are added a frame at a time, as wire.c does. */
static void step(sending_t *s, input_t *in)
{
    uint8_t kind = input_byte(in);
    uint32_t number;

    if (kind % 8 < 3 && (sd_reply_is_full(s->at) || s->expected_len + 70000 > OUT_MAX))
        kind = 4;
    switch (kind % 8) {
    case 0:
        add_bytes(s, input_below(in, SD_REPLY_FRAME + 1));
        break;
    case 1:
        add_bytes(s, 13);
        number = input_below(in, 4);
        add_value(s, number, input_below(in, 2000));
        break;
    case 2:
        add_value(s, kind >> 5, kind & 16 ? (kind >> 5) * 300u : input_below(in, 65000));
        break;
    case 3:
        delete_value(s, kind >> 5);
        break;
    case 4:
        send_some(s, 1 + (kind >> 5), SIZE_MAX);
        break;
    case 5:
        send_some(s, VECTORS, input_below(in, 65536));
        break;
    case 6:
        move_aside(s);
        break;
    default:
        if (kind < 64) {
            sd_reply_discard(s->at, s->f.lane);
            s->sent = s->expected_len = 0;
        }
        else
            send_some(s, 1 + (kind >> 6), input_below(in, 256));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sending_t s;
    input_t in = { data, size };
    unsigned n;

    fixture_open(&s.f, MIB, 1, false);
    sd_reply_clear(&s.reply[0]);
    s.at = &s.reply[0];
    s.sent = s.expected_len = s.value = 0;
    for (n = 0; n < STEPS && in.left > 0; n++) {
        step(&s, &in);
        must(sd_reply_holds_detached(s.at, s.f.lane) == (sd_store_detached(s.f.store) > 0));
    }
    for (n = 0; !sd_reply_is_empty(s.at); n++) {
        must(n < 10000);
        send_some(&s, 3, SIZE_MAX);
    }
    must(atomic_load(&s.f.store->detached) == 0);
    fixture_close(&s.f);
    return 0;
}
