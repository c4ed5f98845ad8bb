/* SPDX-License-Identifier: Apache-2.0
 *
 * fill.c: fills a server until it takes no more, and then looks what it really
 * holds. Sizes are log-normal, as those of sessions are: most are small, a few
 * are very large.
 *
 * What is hard: "full" is no moment. Near it a large value is refused and a
 * small one still fits, so filling ends after many refusals in a row; a server
 * that evicts never refuses, so there it ends after a number of bytes. What
 * counts is what can be read back whole, byte by byte. And a full server has
 * work to do still: live sessions are rewritten, which it may refuse, too.
 *
 * Requests go out many in one piece on one connection; the replies are read
 * one piece later.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dialect.h"
#include "histogram.h"
#include "random.h"
#include "target.h"

#define KEY_BYTES 32
#define AT_ONCE 64
#define REWRITES_AT_ONCE 16
#define OUT_BYTES (1u << 18)
#define PATTERNS 4096u /* a value begins at one of so many places of the text */

static struct {
    const dialect_t *dialect;
    target_t target;
    uint32_t keys, refusals_most, rewrites;
    double median, sigma, largest;
    uint64_t bytes_most, seed;
    bool read_back;
    int fd;
    char *text, *in, *out;
    size_t in_room, in_len, out_len;
    uint32_t *size; /* of each key's value; 0 = not stored */
} run;

static struct {
    uint32_t asked, stored, refused, readable, rewritten, rewrites_refused;
    uint64_t stored_bytes, readable_bytes; /* key and data */
    double store_cpu, rewrite_cpu; /* us */
    double store_seconds;
    histogram_t rewrite;
} seen;

static void die(const char *what)
{
    fprintf(stderr, "fill: %s: %s\n", what, errno ? strerror(errno) : "wrong reply");
    exit(1);
}

static const char *value_of(uint32_t n)
{
    return run.text + n * 31u % PATTERNS;
}

static void flush_out(void)
{
    size_t at = 0;

    while (at < run.out_len) {
        ssize_t n = send(run.fd, run.out + at, run.out_len - at, MSG_NOSIGNAL);

        if (n < 0)
            die("send");
        at += (size_t)n;
    }
    run.out_len = 0;
}

static void put_request(uint32_t n, bool read, uint32_t size)
{
    char key[KEY_BYTES + 1];
    ask_t ask = { key, KEY_BYTES, value_of(n), size, DIALECT_ANY };

    snprintf(key, sizeof key, "sess%028llu", (unsigned long long)n);
    run.out_len += read ? run.dialect->read(run.out + run.out_len, &ask)
                        : run.dialect->store(run.out + run.out_len, &ask);
    if (run.out_len >= OUT_BYTES)
        flush_out();
}

/* The reply to the oldest request not answered; the value's bytes are compared. */
static reply_t take_reply(uint32_t n, bool read, uint32_t size)
{
    for (;;) {
        size_t used = 0;
        uint64_t version;
        reply_t reply = REPLY_MORE;
        ssize_t got;

        if (run.in_len > 0)
            reply = read ? run.dialect->was_read(run.in, run.in_len, false, size, &used, &version)
                         : run.dialect->stored(run.in, run.in_len, false, &used, &version);
        errno = 0;
        if (reply == REPLY_WRONG)
            die("reply");
        if (reply != REPLY_MORE) {
            if (reply == REPLY_DONE && read && !memmem(run.in, used, value_of(n), size))
                die("another value than was stored");
            run.in_len -= used;
            memmove(run.in, run.in + used, run.in_len);
            return reply;
        }
        got = recv(run.fd, run.in + run.in_len, run.in_room - run.in_len, 0);
        if (got <= 0)
            die("receive");
        run.in_len += (size_t)got;
    }
}

static double normal(dice_t *dice)
{
    return sqrt(-2 * log(dice_unit(dice))) * cos(2 * 3.14159265358979 * dice_unit(dice));
}

static uint32_t draw_size(dice_t *dice)
{
    double size = run.median;

    if (run.sigma > 0)
        size *= exp(run.sigma * normal(dice));
    return size < 1 ? 1 : size > run.largest ? (uint32_t)run.largest : (uint32_t)size;
}

/* Sends requests to store the next keys. */
static void send_batch(dice_t *dice)
{
    uint32_t n = run.keys - seen.asked < AT_ONCE ? run.keys - seen.asked : AT_ONCE;

    for (; n > 0; n--, seen.asked++) {
        run.size[seen.asked] = draw_size(dice);
        put_request(seen.asked, false, run.size[seen.asked]);
    }
    flush_out();
}

/* One batch is on its way while the replies to the one before are read. */
static void store_all(void)
{
    uint64_t began = target_now_ns(), cpu = target_cpu_ns(&run.target);
    dice_t dice = dice_make(run.seed);
    uint32_t in_a_row = 0, i = 0, end = 0;
    bool over = false;

    while (i < seen.asked || !over) {
        over |= seen.asked == run.keys || in_a_row >= run.refusals_most
                || seen.stored_bytes >= run.bytes_most;
        if (!over)
            send_batch(&dice);
        for (; i < end; i++) {
            if (take_reply(i, false, 0) == REPLY_DONE) {
                in_a_row = 0;
                seen.stored++;
                seen.stored_bytes += KEY_BYTES + run.size[i];
            }
            else {
                in_a_row++;
                seen.refused++;
                run.size[i] = 0;
            }
        }
        end = seen.asked;
    }
    seen.store_seconds = (double)(target_now_ns() - began) / 1e9;
    seen.store_cpu = (double)(target_cpu_ns(&run.target) - cpu) / 1e3 / (seen.asked ? seen.asked : 1);
}

/* Forgets those that are not there any more. */
static void read_all(void)
{
    uint32_t next = 0, i, n;

    while (next < seen.asked) {
        uint32_t batch[AT_ONCE];

        for (n = 0; next < seen.asked && n < AT_ONCE; next++)
            if (run.size[next] > 0) {
                put_request(next, true, run.size[next]);
                batch[n++] = next;
            }
        flush_out();
        for (i = 0; i < n; i++) {
            uint32_t k = batch[i];

            if (take_reply(k, true, run.size[k]) == REPLY_DONE) {
                seen.readable++;
                seen.readable_bytes += KEY_BYTES + run.size[k];
            }
            else
                run.size[k] = 0;
        }
    }
}

/* Some at a time: one by one it would measure how fast processes wake up. */
static void rewrite_some(void)
{
    uint64_t cpu = target_cpu_ns(&run.target), began;
    dice_t dice = dice_make(run.seed + 1);

    while (seen.rewritten + seen.rewrites_refused < run.rewrites && seen.readable > 0) {
        uint32_t batch[REWRITES_AT_ONCE], n = 0, i;

        while (n < REWRITES_AT_ONCE) {
            batch[n] = dice_below(&dice, seen.asked);
            n += run.size[batch[n]] > 0;
        }
        for (i = 0; i < n; i++)
            put_request(batch[i], false, run.size[batch[i]]);
        began = target_now_ns();
        flush_out();
        for (i = 0; i < n; i++) {
            if (take_reply(batch[i], false, 0) == REPLY_DONE)
                seen.rewritten++;
            else
                seen.rewrites_refused++;
            histogram_add(&seen.rewrite, target_now_ns() - began);
        }
    }
    seen.rewrite_cpu = (double)(target_cpu_ns(&run.target) - cpu) / 1e3
                       / (seen.rewrite.count ? (double)seen.rewrite.count : 1);
}

static void usage(void)
{
    fputs("usage: fill -d extended|memcached|redis (-p PORT [-h ADDRESS] | -u PATH)\n"
          "            [-k KEYS] [-s MEDIAN_BYTES] [-g SIGMA] [-x LARGEST_BYTES] [-S SEED]\n"
          "            [-L REFUSALS] [-T BYTES] [-c] [-n REWRITES] [-P PID]...\n"
          "  -g  of the sizes' logarithm; 0: all have the median size\n"
          "  -L  stop after so many refusals in a row\n"
          "  -T  stop after so many bytes of keys and data\n"
          "  -c  read everything back\n"
          "  -n  rewrite so many of those that are there, 16 in one piece\n", stderr);
    exit(2);
}

static void options(int argc, char **argv)
{
    const char *host = "127.0.0.1", *port = NULL, *path = NULL;
    int o;

    run.keys = 10000;
    run.median = 2048;
    run.largest = 1e6;
    run.seed = 1;
    run.refusals_most = 1;
    run.bytes_most = UINT64_MAX;
    while ((o = getopt(argc, argv, "d:h:p:u:k:s:g:x:S:L:T:cn:P:")) != -1)
        switch (o) {
        case 'd': run.dialect = dialect_find(optarg); break;
        case 'h': host = optarg; break;
        case 'p': port = optarg; break;
        case 'u': path = optarg; break;
        case 'k': run.keys = (uint32_t)atol(optarg); break;
        case 's': run.median = atof(optarg); break;
        case 'g': run.sigma = atof(optarg); break;
        case 'x': run.largest = atof(optarg); break;
        case 'S': run.seed = strtoull(optarg, NULL, 10); break;
        case 'L': run.refusals_most = (uint32_t)atol(optarg); break;
        case 'T': run.bytes_most = strtoull(optarg, NULL, 10); break;
        case 'c': run.read_back = true; break;
        case 'n': run.rewrites = (uint32_t)atol(optarg); break;
        case 'P':
            if (!target_add_pid(&run.target, optarg))
                usage();
            break;
        default: usage();
        }
    if (!run.dialect || !run.dialect->persistent || !run.dialect->store || run.keys < 1
        || run.median < 1 || run.largest < 1 || run.largest > 1e9
        || !target_set(&run.target, host, port, path))
        usage();
}

static void set_up(void)
{
    size_t largest = (size_t)(run.sigma > 0 ? run.largest : run.median), i;
    dice_t dice = dice_make(7);

    run.in_room = 2 * largest + (1u << 17);
    run.text = malloc(largest + PATTERNS);
    run.in = malloc(run.in_room);
    run.out = malloc(OUT_BYTES + largest + DIALECT_OVERHEAD);
    run.size = calloc(run.keys, sizeof *run.size);
    if (!run.text || !run.in || !run.out || !run.size)
        die("memory");
    for (i = 0; i < largest + PATTERNS; i++)
        run.text[i] = (char)('a' + dice_below(&dice, 26));
    run.fd = target_dial(&run.target, true, 0);
    if (run.fd < 0)
        die("connect");
}

int main(int argc, char **argv)
{
    options(argc, argv);
    set_up();
    store_all();
    if (run.read_back)
        read_all();
    rewrite_some();
    printf("asked=%u stored=%u refused=%u stored_bytes=%llu rate=%.0f/s cpu=%.2fus readable=%u "
           "readable_bytes=%llu rewritten=%u rewrites_refused=%u rewrite_cpu=%.2fus "
           "rewrite_p99=%.0fus\n",
           seen.asked, seen.stored, seen.refused, (unsigned long long)seen.stored_bytes,
           seen.asked / seen.store_seconds, seen.store_cpu, seen.readable,
           (unsigned long long)seen.readable_bytes, seen.rewritten, seen.rewrites_refused,
           seen.rewrite_cpu, (double)histogram_percentile(&seen.rewrite, .99) / 1e3);
    return 0;
}
