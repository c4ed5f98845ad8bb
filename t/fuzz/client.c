/* SPDX-License-Identifier: Apache-2.0
 *
 * client.c: see the header. Each piece ends at a page that nobody may touch.
 */
#include "client.h"
#include "fuzz.h"
#include "protocol/bytes.h"

/* As connection.c has them. */
#define VECTORS 255
#define READ_AHEAD 65536u

/* A cut byte: bit 0 values received directly, bit 1 the reply moved aside and
 * sent in small steps, bits 2 to 5 the piece's length, 6 first fed as while
 * incoming values are held back, 7 first fed as if others could give memory. */
typedef struct piece {
    size_t len;
    bool direct, slow, hold_back, patient;
    int vectors;
} piece_t;

static piece_t next_piece(client_t *c, size_t rest)
{
    static const size_t lengths[16] = { 1, 2, 3, 4, 5, 8, 9, 13, 21, 30, 64, 200, 256, 700, 1500, SIZE_MAX };
    static const int vectors[4] = { VECTORS, 1, 2, 5 };
    piece_t piece = { rest, false, false, false, false, VECTORS };
    uint8_t cut;

    if (c->cuts.n == 0)
        return piece;
    cut = c->cuts.bytes[c->cuts.at++ % c->cuts.n];
    piece.direct = cut & 1;
    piece.slow = cut & 2;
    piece.len = lengths[cut >> 2 & 15] < rest ? lengths[cut >> 2 & 15] : rest;
    piece.hold_back = cut & 0x40;
    piece.patient = cut & 0x80;
    piece.vectors = vectors[(cut >> 2 ^ cut >> 6) & 3];
    return piece;
}

/* Large, and so the same for each client, one after the other. */
static uint8_t answers[CLIENT_ANSWER_MAX];

static void nobody(void *data)
{
    (void)data;
}

void client_setup(client_t *c, sd_lane_t *lane, const sd_limits_t *limits, cuts_t cuts)
{
    memset(c, 0, sizeof *c);
    c->exec.lane = lane;
    c->exec.counters = sd_lane_counters(lane);
    c->exec.limits = limits;
    c->exec.locks = sd_locks_create(60000);
    c->exec.mailbox = &c->mailbox;
    must(c->exec.locks);
    sd_lock_mailbox_setup(&c->mailbox, nobody, NULL);
    c->cuts = cuts;
    guard_open(&c->guard, CLIENT_KEPT_MAX + CLIENT_SENT_MAX);
    c->answers = answers;
}

static void hang_up(client_t *c)
{
    if (!c->open)
        return;
    sd_reply_discard(&c->reply, c->exec.lane);
    sd_wire_end(&c->wire, &c->exec);
    must(sd_wire_is_idle(&c->wire) && sd_wire_wanted(&c->wire) == 0);
    c->open = false;
    c->kept_len = 0;
}

void client_teardown(client_t *c)
{
    hang_up(c);
    guard_close(&c->guard);
    sd_locks_destroy(&c->exec.locks);
    sd_lock_mailbox_teardown(&c->mailbox);
    memset(c, 0, sizeof *c);
}

void client_connect(client_t *c)
{
    hang_up(c);
    sd_wire_setup(&c->wire);
    sd_reply_clear(&c->reply);
    c->open = true;
}

/* ---- replies ---- */

/* Returns how many bytes left. */
static size_t send_some(client_t *c, sd_reply_t *reply, int max, size_t most, bool *done)
{
    struct iovec iov[VECTORS];
    size_t bytes, sum = 0, left = 0;
    int n = sd_reply_iov(reply, c->exec.lane, iov, max, &bytes), i;

    must(n >= 0 && n <= max);
    for (i = 0; i < n; i++) {
        size_t here = iov[i].iov_len < most - left ? iov[i].iov_len : most - left;

        must(c->answers_len + here <= CLIENT_ANSWER_MAX);
        memcpy(c->answers + c->answers_len, iov[i].iov_base, here);
        c->answers_len += here;
        left += here;
        sum += iov[i].iov_len;
    }
    must(sum == bytes);
    *done = sd_reply_advance(reply, c->exec.lane, left);
    must(*done || n > 0);
    return left;
}

static void take_reply(client_t *c, const piece_t *piece)
{
    sd_reply_t aside, *reply = &c->reply;
    bool done = false;

    if (piece->slow) {
        aside = c->reply;
        sd_reply_clear(&c->reply);
        reply = &aside;
    }
    while (!done)
        send_some(c, reply, piece->vectors, piece->slow ? 97 : SIZE_MAX, &done);
    must(sd_reply_is_empty(reply));
}

/* ---- input ---- */

/* Puts as much of a piece as the value being read takes straight into it. */
static size_t receive_value(client_t *c, const uint8_t *bytes, size_t n, const piece_t *piece)
{
    uint32_t limit = piece->slow ? 300 : READ_AHEAD;
    struct iovec iov[VECTORS];
    size_t room, at = 0, sum = 0;
    int vectors = sd_wire_room(&c->wire, &c->exec, limit, iov, piece->vectors, &room), i;

    must(vectors >= 0 && vectors <= piece->vectors);
    must(room <= limit && room <= sd_wire_wanted(&c->wire));
    for (i = 0; i < vectors; i++) {
        size_t here = iov[i].iov_len < n - at ? iov[i].iov_len : n - at;

        memcpy(iov[i].iov_base, bytes + at, here);
        at += here;
        sum += iov[i].iov_len;
    }
    must(sum == room);
    if (vectors > 0)
        sd_wire_received(&c->wire, &c->exec, at);
    return at;
}

/* Is the frame that begins here one with a value that has not come to its end? */
static bool value_goes_on(const uint8_t *in, size_t len)
{
    if (in[0] != 'S' && in[0] != 'W')
        return false;
    return len < (in[0] == 'S' ? 9u : 21u) + (uint64_t)sd_get32(in + 1) + sd_get32(in + 5);
}

/* Feeds; what was put off (held back, or no memory at the first try) again at
 * once, for good. */
static sd_after_t feed(client_t *c, const piece_t *piece, const uint8_t *in, size_t len, size_t *used)
{
    sd_after_t after;
    size_t more;

    c->exec.hold_from = piece->hold_back ? 1 : 0;
    c->exec.patient = piece->patient;
    *used = SIZE_MAX;
    after = sd_wire_feed(&c->wire, &c->exec, in, len, used, &c->reply);
    must(*used <= len);
    if (after != SD_AFTER_CROWDED && after != SD_AFTER_FULL)
        return after;
    if (after == SD_AFTER_CROWDED)
        must(piece->hold_back && sd_wire_is_idle(&c->wire) && value_goes_on(in + *used, len - *used));
    else
        must(piece->patient);
    c->exec.hold_from = 0;
    c->exec.patient = false;
    if (!sd_reply_is_empty(&c->reply))
        take_reply(c, piece);
    after = sd_wire_feed(&c->wire, &c->exec, in + *used, len - *used, &more, &c->reply);
    must(after != SD_AFTER_CROWDED && after != SD_AFTER_FULL);
    *used += more;
    return after;
}

/* connection.c's read_once and process. *used: how much of the piece was. */
static sd_after_t deliver(client_t *c, const uint8_t *bytes, const piece_t *piece, size_t *used)
{
    size_t direct = 0, at = 0, len, kept = c->kept_len;
    uint8_t *in;

    if (piece->direct && kept == 0 && sd_wire_wanted(&c->wire) > 0)
        direct = receive_value(c, bytes, piece->len, piece);
    len = kept + piece->len - direct;
    in = guard_at(&c->guard, len);
    memcpy(in, c->kept, kept);
    memcpy(in + kept, bytes + direct, piece->len - direct);
    for (;;) {
        size_t here;
        sd_after_t after = feed(c, piece, in + at, len - at, &here);
        bool full = sd_reply_is_full(&c->reply);

        at += here;
        *used = direct + (at > kept ? at - kept : 0);
        if (!sd_reply_is_empty(&c->reply))
            take_reply(c, piece);
        if (after != SD_AFTER_KEEP)
            return after;
        if (!full)
            break;
    }
    c->kept_len = len - at;
    must(c->kept_len < CLIENT_KEPT_MAX);
    must(c->kept_len == 0 || sd_wire_is_idle(&c->wire));
    memcpy(c->kept, in + at, c->kept_len);
    return SD_AFTER_KEEP;
}

outcome_t client_talk(client_t *c, const uint8_t *bytes, size_t n, size_t never)
{
    outcome_t o = { c->answers, 0, SD_AFTER_KEEP, n };
    size_t at = 0, used;

    c->answers_len = 0;
    if (!c->open)
        client_connect(c);
    while (at < n && o.after == SD_AFTER_KEEP) {
        piece_t piece = next_piece(c, n - at);

        if (at + piece.len == never && never < n)
            piece.len++;
        o.after = deliver(c, bytes + at, &piece, &used);
        o.stopped = at + used;
        at += piece.len;
    }
    if (o.after == SD_AFTER_KEEP)
        o.stopped = n;
    else
        hang_up(c);
    o.len = c->answers_len;
    return o;
}
