/* SPDX-License-Identifier: Apache-2.0
 *
 * replay.c: plays transcripts to the protocol and the store as connection.c
 * does, and prints TAP: one test for each transcript.
 *
 *   replay FILE.transcript...   (none: all of t/wire)
 *
 * What a client sends may be cut anywhere on its way, so each transcript is
 * played whole, in two pieces at every position, byte by byte and in random
 * pieces; each of these by sd_wire_feed alone and with values received straight
 * into the store; and given up at every position. The answers, the end and
 * every counter must be those of the transcript each time, the store's check
 * clean, and no block may be missing once all has expired. Each piece ends at a
 * page that nobody may touch.
 */
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/wire.h"
#include "t/unit/guard.h"
#include "transcript.h"

#define MEMORY_MAX (16u << 20)
#define PIECE_MAX (2u << 20)
/* A head that is not complete is shorter than that. */
#define HEAD_MAX (21u + 250u)
/* As connection.c has them. */
#define VECTORS 255
#define READ_AHEAD 65536u
/* Transcripts up to this length are cut at every position; those that fill the
 * store first, which takes its time, up to that. */
#define EVERY_POSITION 1500u
#define EVERY_POSITION_FILLED 60u

typedef enum { WHOLE, SPLIT, BYTES, RANDOM, CUT } way_t;
static const char *const way_names[] = { "whole", "split", "byte by byte", "random", "given up" };

typedef struct run {
    const transcript_t *t;
    way_t way;
    bool direct;
    size_t position; /* SPLIT, CUT: in all that is sent; RANDOM: the seed */
    uint64_t chance;

    sd_store_t *store;
    sd_lock_mailbox_t mailbox;
    sd_exec_t exec;
    sd_wire_t wire;
    bool open;
    sd_reply_t reply;
    text_t answer;
    uint8_t kept[HEAD_MAX]; /* the beginning of a head, as connection.c keeps it */
    size_t kept_len;
    int line;
    char why[400]; /* empty: all is as it should be */
} run_t;

static uint8_t *memory;
static sd_counters_t *counters;
static guard_t guard;
static unsigned long replays;

__attribute__((format(printf, 2, 3))) static void wrong(run_t *r, const char *format, ...)
{
    va_list args;

    if (r->why[0])
        return;
    va_start(args, format);
    vsnprintf(r->why, sizeof r->why, format, args);
    va_end(args);
}

static uint64_t roll(run_t *r, uint64_t below)
{
    r->chance ^= r->chance << 13;
    r->chance ^= r->chance >> 7;
    r->chance ^= r->chance << 17;
    return (r->chance >> 16) % below;
}

static uint64_t *counter(size_t i)
{
    return (uint64_t *)(void *)counters + i;
}

static void nobody(void *data)
{
    (void)data;
}

/* ---- the store ---- */

static void open_store(run_t *r)
{
    static const unsigned char seed[SD_SEED_BYTES] = "the same always";
    sd_store_options_t options = { 1, r->t->evict, counters, false, false };
    const char *reason;

    memset(memory, 0, r->t->memory);
    memset(counters, 0, sizeof *counters);
    r->exec.now = 5000000;
    reason = sd_segment_format(memory, r->t->memory, seed, r->exec.now);
    if (reason || sd_store_attach(&r->store, memory, r->t->memory, &options, &reason) != SD_OK) {
        printf("Bail out! %s:%d: no store: %s\n", r->t->file, r->t->line, reason);
        exit(1);
    }
    r->exec.lane = sd_store_lane(r->store, 0);
    r->exec.counters = counters;
    r->exec.limits = &r->t->limits;
    r->exec.locks = sd_locks_create(60000);
    r->exec.mailbox = &r->mailbox;
    sd_lock_mailbox_setup(&r->mailbox, nobody, NULL);
    if (!r->exec.locks) {
        printf("Bail out! no memory for the locks\n");
        exit(1);
    }
}

static void check_store(run_t *r, const char *when)
{
    uint64_t where = 0;
    const char *rule = sd_store_check(r->store, &where);

    if (rule)
        wrong(r, "%s: %s (at %llu)", when, rule, (unsigned long long)where);
}

/* Nothing is held any more; when all has expired, every block is free again. */
static void close_store(run_t *r)
{
    sd_usage_t usage;

    check_store(r, "at the end");
    sd_store_usage(r->store, &usage);
    if (usage.blocks_incoming > 0)
        wrong(r, "%u blocks are still in values on their way in", usage.blocks_incoming);
    sd_store_sweep(r->exec.lane, r->exec.now + (uint64_t)SD_TTL_MAX * 1000, UINT32_MAX);
    sd_store_usage(r->store, &usage);
    if (usage.items > 0 || usage.blocks_free != usage.blocks)
        wrong(r, "%llu sessions and %u of %u blocks are left when all has expired",
              (unsigned long long)usage.items, usage.blocks - usage.blocks_free, usage.blocks);
    check_store(r, "when all has expired");
    sd_store_detach(&r->store);
    sd_locks_destroy(&r->exec.locks);
    sd_lock_mailbox_teardown(&r->mailbox);
}

static bool store_small(run_t *r, unsigned number)
{
    char key[32];
    sd_chain_t chain;
    uint64_t version;
    int n = snprintf(key, sizeof key, "fill-%u", number);

    if (sd_chain_open(r->exec.lane, &chain, key, (size_t)n, r->exec.now) != SD_OK)
        return false;
    return sd_chain_append(r->exec.lane, &chain, "small", 5, r->exec.now) == SD_OK
           && sd_store_put(r->exec.lane, &chain, r->exec.now + r->t->limits.expiration_ms,
                           SD_VERSION_ANY, r->exec.now, &version)
                  == SD_OK;
}

static void fill(run_t *r, uint64_t leave)
{
    unsigned n = 0;
    char key[32];

    while (counters->evicted == 0 && store_small(r, n))
        n++;
    for (; leave > 0 && n > 0; leave--) {
        int len = snprintf(key, sizeof key, "fill-%u", --n);

        if (sd_store_delete(r->exec.lane, key, (size_t)len, SD_VERSION_ANY, r->exec.now) != SD_OK)
            wrong(r, "fill: %s is not there", key);
    }
}

/* ---- the client's connection ---- */

static void hang_up(run_t *r)
{
    if (!r->open)
        return;
    sd_reply_discard(&r->reply, r->exec.lane);
    sd_wire_end(&r->wire, &r->exec);
    r->open = false;
    r->kept_len = 0;
}

static void connect_anew(run_t *r)
{
    hang_up(r);
    sd_wire_setup(&r->wire);
    sd_reply_clear(&r->reply);
    r->open = true;
}

/* Takes the whole reply, as a client does that reads; in random ways a little
 * at a time and from another place, as when the reply was moved aside. */
static void take_reply(run_t *r)
{
    sd_reply_t *reply = r->way == RANDOM ? malloc(sizeof *reply) : &r->reply;
    struct iovec iov[VECTORS + 1];
    bool done = false;

    if (!reply)
        abort();
    if (r->way == RANDOM) {
        *reply = r->reply;
        sd_reply_clear(&r->reply);
    }
    while (!done && !r->why[0]) {
        size_t bytes, sum = 0, take;
        int max = r->way == RANDOM ? 1 + (int)roll(r, 6) : VECTORS + 1, i;
        int n = sd_reply_iov(reply, r->exec.lane, iov, max, &bytes);

        for (i = 0; i < n; i++)
            sum += iov[i].iov_len;
        if (sum != bytes || n > max)
            wrong(r, "the reply's vectors hold %zu bytes, it says %zu", sum, bytes);
        take = r->way == RANDOM && bytes > 0 ? (size_t)roll(r, bytes + 1) : bytes;
        for (i = 0, sum = 0; i < n && sum < take; i++) {
            size_t here = iov[i].iov_len < take - sum ? iov[i].iov_len : take - sum;

            text_add(&r->answer, iov[i].iov_base, here);
            sum += here;
        }
        done = sd_reply_advance(reply, r->exec.lane, take);
        if (!done && n == 0)
            wrong(r, "a reply without bytes does not end");
    }
    if (!sd_reply_is_empty(reply))
        sd_reply_discard(reply, r->exec.lane);
    if (reply != &r->reply)
        free(reply);
}

/* Puts as much of a piece as the value being read takes straight into it. */
static size_t receive_value(run_t *r, const uint8_t *bytes, size_t n)
{
    struct iovec iov[VECTORS];
    uint32_t limit = r->way == RANDOM ? 1 + (uint32_t)roll(r, READ_AHEAD) : READ_AHEAD;
    int max = r->way == RANDOM ? 1 + (int)roll(r, 8) : VECTORS, vectors, i;
    size_t room, at = 0, sum = 0;

    vectors = sd_wire_room(&r->wire, &r->exec, limit, iov, max, &room);
    for (i = 0; i < vectors; i++)
        sum += iov[i].iov_len;
    if (vectors > max || sum != room || room > limit || room > sd_wire_wanted(&r->wire))
        wrong(r, "room of %zu bytes in %d vectors (limits: %u, %d)", room, vectors, limit, max);
    if (vectors == 0 || r->why[0])
        return 0;
    for (i = 0; i < vectors && at < n; i++) {
        size_t here = iov[i].iov_len < n - at ? iov[i].iov_len : n - at;

        memcpy(iov[i].iov_base, bytes + at, here);
        at += here;
    }
    sd_wire_received(&r->wire, &r->exec, at);
    return at;
}

/* One piece arrives: connection.c's read_once and process. */
static sd_after_t deliver(run_t *r, const uint8_t *bytes, size_t n)
{
    size_t direct = 0, at = 0, len;
    uint8_t *in;

    if (r->direct && r->kept_len == 0 && sd_wire_wanted(&r->wire) > 0)
        direct = receive_value(r, bytes, n);
    len = r->kept_len + n - direct;
    in = guard_at(&guard, len);
    if (r->kept_len > 0)
        memcpy(in, r->kept, r->kept_len);
    if (n > direct)
        memcpy(in + r->kept_len, bytes + direct, n - direct);
    for (;;) {
        size_t used = SIZE_MAX;
        sd_after_t after = sd_wire_feed(&r->wire, &r->exec, in + at, len - at, &used, &r->reply);
        bool full = sd_reply_is_full(&r->reply);

        if (used > len - at) {
            wrong(r, "it used %zu of %zu bytes", used, len - at);
            return SD_AFTER_RESET;
        }
        at += used;
        if (!sd_reply_is_empty(&r->reply))
            take_reply(r);
        if (after != SD_AFTER_KEEP || r->why[0])
            return after;
        if (!full)
            break;
    }
    r->kept_len = len - at;
    if (r->kept_len >= HEAD_MAX || (r->kept_len > 0 && !sd_wire_is_idle(&r->wire))) {
        wrong(r, "%zu bytes were not used", r->kept_len);
        r->kept_len = 0;
    }
    memcpy(r->kept, in + at, r->kept_len);
    return SD_AFTER_KEEP;
}

/* ---- talks ---- */

/* May a piece end here? */
static bool may_end(const step_t *talk, size_t at)
{
    return at >= talk->in.len || at + talk->together <= talk->in.len;
}

/* The length of the next piece. `base` is where the talk begins in all that is
 * sent. */
static size_t next_piece(run_t *r, const step_t *talk, size_t at, size_t base)
{
    size_t rest = talk->in.len - at, n = rest;

    switch (r->way) {
    case WHOLE:
        break;
    case SPLIT:
    case CUT:
        if (base + at < r->position && r->position < base + talk->in.len)
            n = r->position - base - at;
        break;
    case BYTES:
        n = 1;
        break;
    case RANDOM:
        n = 1 + (size_t)roll(r, roll(r, 3) == 0 ? 2 : roll(r, 4) == 0 ? 70000 : 300);
        break;
    }
    return n < rest && may_end(talk, at + n) ? n : rest;
}

static void check_answer(run_t *r, const step_t *talk)
{
    size_t i = text_differs(&talk->out, &r->answer);

    if (i < r->answer.len && i < talk->out.len)
        wrong(r, "byte %zu of the answer is 0x%02x, not 0x%02x", i, r->answer.at[i],
              talk->out.at[i]);
    else if (r->answer.len != talk->out.len)
        wrong(r, "the answer has %zu bytes, not %zu", r->answer.len, talk->out.len);
}

/* What does not count requests but memory and time, or belongs to sockets. */
static bool is_counted(size_t i)
{
    return i != offsetof(sd_counters_t, blocks_used) / 8
           && i != offsetof(sd_counters_t, busy_us) / 8;
}

static void check_counters(run_t *r, const step_t *talk, const uint64_t *before)
{
    size_t i;

    for (i = 0; i < SD_COUNTERS; i++) {
        int64_t delta = (int64_t)(*counter(i) - before[i]);

        if (is_counted(i) && talk->counter[i] != COUNTER_ANY && delta != talk->counter[i])
            wrong(r, "counter %s: %+lld, not %+lld", counter_names[i], (long long)delta,
                  (long long)talk->counter[i]);
    }
}

/* False: the client has given up in the middle of this talk. */
static bool play_talk(run_t *r, const step_t *talk, size_t base)
{
    static const char *const words[] = { "keep", "close", "drain", "reset", "pending" };
    uint64_t before[SD_COUNTERS];
    sd_after_t after = SD_AFTER_KEEP;
    sd_usage_t usage;
    size_t at = 0, i;

    if (!r->open)
        connect_anew(r);
    for (i = 0; i < SD_COUNTERS; i++)
        before[i] = *counter(i);
    r->answer.len = 0;
    while (at < talk->in.len && after == SD_AFTER_KEEP && !r->why[0]) {
        size_t n = next_piece(r, talk, at, base);

        after = deliver(r, talk->in.at + at, n);
        at += n;
        if (r->way == CUT && base + at == r->position) {
            if (text_differs(&talk->out, &r->answer) != r->answer.len)
                wrong(r, "the answer to a beginning is not the beginning of the answer");
            return false;
        }
    }
    check_answer(r, talk);
    if (after != talk->after)
        wrong(r, "afterwards: %s, not %s", words[after], words[talk->after]);
    check_counters(r, talk, before);
    sd_store_usage(r->store, &usage);
    if (talk->holds != UINT32_MAX && usage.blocks_incoming > talk->holds)
        wrong(r, "%u blocks are held, not %u", usage.blocks_incoming, talk->holds);
    if (after != SD_AFTER_KEEP)
        hang_up(r);
    return true;
}

static void play(run_t *r)
{
    const transcript_t *t = r->t;
    size_t i, base = 0;
    bool on = true;

    replays++;
    r->chance = (r->position + 1) * UINT64_C(0x9e3779b97f4a7c15);
    open_store(r);
    for (i = 0; i < t->steps && on && !r->why[0]; i++) {
        const step_t *step = &t->step[i];

        r->line = step->line;
        switch (step->kind) {
        case STEP_CONNECT:
            connect_anew(r);
            break;
        case STEP_TIME:
            r->exec.now += step->number;
            break;
        case STEP_FILL:
            fill(r, step->number);
            break;
        case STEP_TALK:
            on = play_talk(r, step, base);
            base += step->in.len;
            break;
        }
    }
    hang_up(r);
    close_store(r);
    text_free(&r->answer);
}

/* ---- all the ways ---- */

/* May what is sent be cut here? Between two talks it is anyway. */
static bool may_cut(const transcript_t *t, size_t position)
{
    size_t i, base = 0;

    for (i = 0; i < t->steps; i++) {
        const step_t *step = &t->step[i];

        if (step->kind != STEP_TALK)
            continue;
        if (position <= base)
            return false;
        if (position < base + step->in.len)
            return may_end(step, position - base);
        base += step->in.len;
    }
    return false;
}

static bool near_edge(const transcript_t *t, size_t position)
{
    size_t i;

    for (i = 0; i < t->edges; i++)
        if (position + 2 >= t->edge[i] && position <= t->edge[i] + 24)
            return true;
    return false;
}

static bool try_way(const transcript_t *t, way_t way, bool direct, size_t position)
{
    static run_t r;

    memset(&r, 0, sizeof r);
    r.t = t;
    r.way = way;
    r.direct = direct;
    r.position = position;
    play(&r);
    if (!r.why[0])
        return true;
    printf("# %s:%d: %s\n#   played %s%s", t->file, r.line, r.why, way_names[way],
           direct ? ", values received directly" : "");
    if (way == SPLIT || way == CUT || way == RANDOM)
        printf(way == RANDOM ? ", seed %zu" : " at byte %zu", position);
    printf("\n");
    return false;
}

/* Stops at the first way that goes wrong: the others mostly go wrong with it. */
static bool try_all(const transcript_t *t, bool quick)
{
    size_t position, stride = 1, seed, every = EVERY_POSITION, i;
    int direct;

    for (i = 0; i < t->steps; i++)
        if (t->step[i].kind == STEP_FILL)
            every = EVERY_POSITION_FILLED;
    if (t->length > every)
        stride = t->length / (every == EVERY_POSITION ? 97 : 31) + 1;
    if (quick)
        stride = t->length / 11 + 7;
    for (direct = 0; direct <= 1; direct++) {
        if (!try_way(t, WHOLE, direct, 0) || !try_way(t, BYTES, direct, 0))
            return false;
        for (position = 1; position < t->length; position++) {
            if (position % stride != 0
                && (quick || t->edges > 40 || every != EVERY_POSITION || !near_edge(t, position)))
                continue;
            if (!may_cut(t, position))
                continue;
            if (!try_way(t, SPLIT, direct, position) || !try_way(t, CUT, direct, position))
                return false;
        }
        for (seed = 0; seed < (quick ? 2u : every == EVERY_POSITION ? 20u : 8u); seed++)
            if (!try_way(t, RANDOM, direct, seed))
                return false;
    }
    return true;
}

static void read_all(transcripts_t *all, glob_t *found, int argc, char **argv)
{
    const char *top = getenv("abs_top_srcdir");
    char pattern[1000];
    size_t i;

    found->gl_offs = 0;
    if (argc > 0) {
        for (; argc > 0; argc--, argv++)
            transcripts_read(all, *argv);
        return;
    }
    snprintf(pattern, sizeof pattern, "%s/t/wire/*.transcript", top ? top : ".");
    if (glob(pattern, 0, NULL, found) != 0) {
        printf("Bail out! no file is called %s\n", pattern);
        exit(1);
    }
    for (i = 0; i < found->gl_pathc; i++)
        transcripts_read(all, found->gl_pathv[i]);
}

int main(int argc, char **argv)
{
    transcripts_t all = { NULL, 0 };
    glob_t found;
    size_t i, failed = 0;
    bool quick = getenv("SESSIOND_VALGRIND") && *getenv("SESSIOND_VALGRIND");

    memset(&found, 0, sizeof found);
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_all(&all, &found, argc - 1, argv + 1);
    guard_open(&guard, PIECE_MAX);
    memory = mmap(NULL, MEMORY_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    counters = aligned_alloc(64, sizeof *counters);
    if (memory == MAP_FAILED || !counters)
        abort();
    printf("1..%zu\n", all.count);
    for (i = 0; i < all.count; i++) {
        const transcript_t *t = &all.at[i];
        const char *slash = strrchr(t->file, '/'), *file = slash ? slash + 1 : t->file;
        bool good = t->memory <= MEMORY_MAX && t->length < PIECE_MAX - HEAD_MAX;
        unsigned long before = replays;

        if (!good)
            printf("# %s:%d: it is larger than the player\n", t->file, t->line);
        good = good && try_all(t, quick);
        failed += !good;
        printf("%s %zu - %.*s: %s (%lu ways)\n", good ? "ok" : "not ok", i + 1,
               (int)strcspn(file, "."), file, t->name, replays - before);
    }
    transcripts_free(&all);
    globfree(&found);
    free(counters);
    guard_close(&guard);
    munmap(memory, MEMORY_MAX);
    return failed > 0;
}
