/* SPDX-License-Identifier: Apache-2.0
 *
 * load.c: clients of a session server, all in one thread. Each sends a request,
 * waits for the whole reply, checks it and goes on: at once, or when the next
 * request of a given pace is due. It prints one line of `name=value` pairs, so
 * that a script can compare runs.
 *
 * What counts is the server's processor time per operation: with one request
 * per connection the load side is the slower one, so requests per second say
 * more about this program than about the server.
 *
 * What is hard is to measure the server and not ourselves. Every key is stored
 * before anything counts, and no client goes on before the last one is, so that
 * nothing is a miss. A client owns its share of the keys and remembers their
 * versions, so that each write replaces what its client knows, as a PHP handler
 * does it, and none is a conflict. With a pace, latency counts from when a
 * request was due, not from when a client was free to send it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "dialect.h"
#include "histogram.h"
#include "random.h"
#include "target.h"

#define KEY_BYTES 32
#define ERRORS_MOST 1000 /* then it is no use to go on */
#define SILENCE_MOST UINT64_C(60000000000) /* ns */
#define SOURCES 16 /* addresses that connections come from when we close them first */

/* What a client waits for; in a cycle one follows the other. */
typedef enum { GREETING, READING, STORING } wait_t;

typedef struct client {
    int fd; /* -1 = none */
    uint32_t number, key;
    wait_t waits;
    bool filling;
    size_t out_at, out_len, in_at, in_len;
    uint64_t began; /* ns; with a pace: was due */
    char *out, *in;
} client_t;

static struct {
    const dialect_t *dialect;
    target_t target;
    uint32_t clients, keys, read_percent;
    uint64_t first_key;
    size_t value_bytes, in_room;
    double seconds, warm_up, pace; /* pace: operations per second, 0 = as fast as it goes */
    bool fill, cycle, owned;
    char *value;
    uint64_t *version; /* of each key, 0 = not known */
    int poll, timer;
    dice_t dice;
    client_t **parked; /* have nothing to do yet */
    uint32_t parked_count;
} run;

static struct {
    histogram_t latency;
    uint64_t operations, errors, misses, handed_out, filled;
    uint64_t progress, warm_since, since, cpu_since, due; /* ns */
    bool counting;
} seen;

static bool is_filled(void)
{
    return !run.fill || seen.filled >= run.keys;
}

/* ---- what a client asks next ---- */

static uint32_t draw_key(const client_t *c)
{
    if (!run.owned)
        return dice_below(&run.dice, run.keys);
    return c->number + run.clients * dice_below(&run.dice, (run.keys - c->number - 1) / run.clients + 1);
}

static void compose(client_t *c)
{
    char key[KEY_BYTES + 1];
    ask_t ask = { key, KEY_BYTES, run.value, run.value_bytes, DIALECT_ANY };

    snprintf(key, sizeof key, "sess%028llu", (unsigned long long)(run.first_key + c->key));
    if (run.version && (run.version[c->key] || run.cycle) && !c->filling)
        ask.version = run.version[c->key];
    c->out_at = c->out_len = c->in_at = c->in_len = 0;
    if (c->waits == GREETING)
        c->out_len = run.dialect->hello(c->out);
    c->out_len += c->waits == STORING ? run.dialect->store(c->out + c->out_len, &ask)
                                      : run.dialect->read(c->out + c->out_len, &ask);
}

static void dial(client_t *c)
{
    struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c };

    while ((c->fd = target_dial(&run.target, false, run.cycle ? c->number % SOURCES : 0)) < 0) {
        seen.errors++;
        usleep(1000);
    }
    epoll_ctl(run.poll, EPOLL_CTL_ADD, c->fd, &e);
}

static void hang_up(client_t *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

/* False: a cycle's connection ends with it, and so does that of a dialect
 * without persistent ones with each request. */
static bool keeps_connection(const client_t *c)
{
    return run.dialect->persistent && (!run.cycle || c->filling || c->waits != STORING);
}

/* Picks the next operation; false: there is none yet. */
static bool pick(client_t *c)
{
    c->began = target_now_ns();
    c->filling = run.fill && seen.handed_out < run.keys;
    if (c->filling) {
        c->key = (uint32_t)seen.handed_out++;
        c->waits = STORING;
        return true;
    }
    if (!is_filled())
        return false;
    if (run.pace > 0) {
        if (seen.due == 0)
            seen.due = c->began;
        if (seen.due > c->began)
            return false;
        c->began = seen.due;
        seen.due += (uint64_t)(1e9 / run.pace);
    }
    c->key = draw_key(c);
    if (run.cycle)
        c->waits = run.dialect->greets ? GREETING : READING;
    else
        c->waits = dice_below(&run.dice, 100) < run.read_percent ? READING : STORING;
    return true;
}

static bool send_some(client_t *c)
{
    while (c->out_at < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);

        if (n < 0)
            return errno == EAGAIN || errno == ENOTCONN || errno == EINPROGRESS;
        c->out_at += (size_t)n;
    }
    return true;
}

/* Sends the request composed, on a new connection if there is none. */
static void ask(client_t *c)
{
    compose(c);
    if (c->fd < 0)
        dial(c); /* its events send and receive */
    else if (!send_some(c)) {
        seen.errors++;
        hang_up(c);
        dial(c);
    }
}

static void next(client_t *c)
{
    if (pick(c))
        ask(c);
    else {
        c->out_len = 0; /* nothing is asked, nothing may come */
        run.parked[run.parked_count++] = c;
    }
}

/* Clients that wait for the end of the filling or for their time. */
static void release(void)
{
    while (run.parked_count > 0) {
        client_t *c = run.parked[run.parked_count - 1];

        if (!pick(c))
            break;
        run.parked_count--;
        ask(c);
    }
    if (run.pace > 0 && seen.due > 0 && run.parked_count > 0) {
        struct itimerspec at = { 0 };

        at.it_value.tv_sec = (time_t)(seen.due / 1000000000u);
        at.it_value.tv_nsec = (long)(seen.due % 1000000000u);
        timerfd_settime(run.timer, TFD_TIMER_ABSTIME, &at, NULL);
    }
}

/* ---- what came back ---- */

static void count(const client_t *c, reply_t reply)
{
    uint64_t now = target_now_ns();

    seen.progress = now;
    if (reply == REPLY_WRONG || reply == REPLY_REFUSED)
        seen.errors++;
    if (c->filling) {
        seen.filled++;
        return;
    }
    if (!seen.counting) {
        if (seen.warm_since == 0)
            seen.warm_since = now;
        if ((double)(now - seen.warm_since) < run.warm_up * 1e9)
            return;
        seen.counting = true;
        seen.cpu_since = target_cpu_ns(&run.target);
        seen.since = now;
        return;
    }
    if (reply == REPLY_MISS)
        seen.misses++;
    seen.operations++;
    histogram_add(&seen.latency, now - c->began);
}

/* Looks at what has come. REPLY_MORE: wait for more. */
static reply_t look(client_t *c, bool ended)
{
    const dialect_t *d = run.dialect;
    const char *in = c->in + c->in_at;
    size_t len = c->in_len - c->in_at, used = 0;
    uint64_t ignored, *version = run.version ? &run.version[c->key] : &ignored;
    reply_t reply;

    switch (c->waits) {
    case GREETING:
        reply = d->greeted(in, len, ended, &used);
        if (reply != REPLY_DONE)
            return reply;
        c->in_at += used;
        c->waits = READING;
        return look(c, false);
    case READING:
        reply = d->was_read(in, len, ended, run.value_bytes, &used, version);
        if (reply == REPLY_MISS && run.version)
            *version = 0;
        break;
    default:
        reply = d->stored(in, len, ended, &used, version);
        break;
    }
    if (reply == REPLY_MORE)
        return ended ? REPLY_WRONG : REPLY_MORE;
    return used == len ? reply : REPLY_WRONG;
}

/* A reply is complete. */
static void finish(client_t *c, reply_t reply)
{
    bool stays = keeps_connection(c) && reply != REPLY_WRONG;

    if (!stays)
        hang_up(c);
    if (run.cycle && c->waits == READING && reply != REPLY_WRONG) {
        if (reply == REPLY_MISS)
            seen.misses++;
        c->waits = STORING;
        ask(c);
        return;
    }
    count(c, reply);
    next(c);
}

static void drive(client_t *c)
{
    while (c->fd >= 0) {
        reply_t reply;
        ssize_t n;

        if (!send_some(c))
            break;
        n = recv(c->fd, c->in + c->in_len, run.in_room - c->in_len, 0);
        if (n < 0) {
            if (errno == EAGAIN || errno == ENOTCONN)
                return;
            break;
        }
        if (c->out_len == 0 || (c->out_at < c->out_len && n > 0))
            break; /* an answer before the question was out */
        c->in_len += (size_t)n;
        reply = look(c, n == 0);
        if (reply == REPLY_MORE && c->in_len < run.in_room)
            continue;
        finish(c, reply == REPLY_MORE ? REPLY_WRONG : reply);
        if (!run.dialect->persistent || run.cycle)
            return; /* the new connection's events drive it */
    }
    if (c->fd >= 0) {
        seen.errors++;
        hang_up(c);
        if (c->out_len > 0)
            ask(c);
    }
}

/* ---- the run ---- */

static void usage(void)
{
    fputs("usage: load -d sharedance|extended|memcached|redis|http (-p PORT [-h ADDRESS] | -u PATH)\n"
          "            [-c CLIENTS] [-t SECONDS] [-w SECONDS] [-k KEYS] [-K FIRST]\n"
          "            [-s VALUE_BYTES] [-r READ_PERCENT] [-R PER_SECOND] [-f] [-y] [-P PID]...\n"
          "  -f  store every key once first, not counted\n"
          "  -w  warm-up before anything counts (0.2 s)\n"
          "  -y  an operation is a session cycle: a connection, read, store, close\n"
          "  -R  so many operations in a second; latency counts from when each was due\n"
          "  -P  a process of the server: its processor time is measured\n", stderr);
    exit(2);
}

static void options(int argc, char **argv)
{
    const char *host = "127.0.0.1", *port = NULL, *path = NULL;
    int o;

    run.clients = 32;
    run.keys = 10000;
    run.read_percent = 50;
    run.value_bytes = 2048;
    run.seconds = 5;
    run.warm_up = 0.2;
    while ((o = getopt(argc, argv, "d:h:p:u:c:t:w:k:K:s:r:R:fyP:")) != -1)
        switch (o) {
        case 'd': run.dialect = dialect_find(optarg); break;
        case 'h': host = optarg; break;
        case 'p': port = optarg; break;
        case 'u': path = optarg; break;
        case 'c': run.clients = (uint32_t)atoi(optarg); break;
        case 't': run.seconds = atof(optarg); break;
        case 'w': run.warm_up = atof(optarg); break;
        case 'k': run.keys = (uint32_t)atoi(optarg); break;
        case 'K': run.first_key = strtoull(optarg, NULL, 10); break;
        case 's': run.value_bytes = (size_t)atol(optarg); break;
        case 'r': run.read_percent = (uint32_t)atoi(optarg); break;
        case 'R': run.pace = atof(optarg); break;
        case 'f': run.fill = true; break;
        case 'y': run.cycle = true; break;
        case 'P':
            if (!target_add_pid(&run.target, optarg))
                usage();
            break;
        default: usage();
        }
    if (!run.dialect || run.clients < 1 || run.keys < 1 || !target_set(&run.target, host, port, path)
        || (!run.dialect->store && (run.fill || run.cycle || run.read_percent < 100)))
        usage();
}

static bool set_up(void)
{
    struct epoll_event e = { .events = EPOLLIN };
    size_t i;

    run.dice = dice_make(1);
    run.owned = run.keys >= run.clients;
    run.in_room = run.value_bytes + DIALECT_OVERHEAD;
    run.value = malloc(run.value_bytes + 1);
    run.parked = calloc(run.clients, sizeof *run.parked);
    if (run.dialect->versioned && run.owned)
        run.version = calloc(run.keys, sizeof *run.version);
    if (!run.value || !run.parked || (run.dialect->versioned && run.owned && !run.version))
        return false;
    for (i = 0; i < run.value_bytes; i++)
        run.value[i] = (char)('a' + dice_below(&run.dice, 26));
    run.poll = epoll_create1(EPOLL_CLOEXEC);
    run.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return epoll_ctl(run.poll, EPOLL_CTL_ADD, run.timer, &e) == 0;
}

static bool start_clients(void)
{
    client_t *clients = calloc(run.clients, sizeof *clients);
    uint32_t i;

    for (i = 0; clients && i < run.clients; i++) {
        client_t *c = &clients[i];

        c->number = i;
        c->fd = -1;
        c->out = malloc(run.value_bytes + DIALECT_OVERHEAD);
        c->in = malloc(run.in_room);
        if (!c->out || !c->in)
            return false;
        next(c);
    }
    return clients != NULL;
}

static bool is_over(void)
{
    uint64_t now = target_now_ns();

    if (seen.errors > ERRORS_MOST)
        return true;
    if (seen.counting)
        return (double)(now - seen.since) >= run.seconds * 1e9;
    /* a server that does not answer must not keep us */
    return now - seen.progress >= SILENCE_MOST;
}

static void report(void)
{
    double took = (double)(target_now_ns() - seen.since) / 1e9;
    double cpu = (double)(target_cpu_ns(&run.target) - seen.cpu_since) / 1e3;
    double n = seen.operations ? (double)seen.operations : 1;

    printf("dialect=%s clients=%u bytes=%zu read=%u%% rate=%.0f/s cpu=%.2fus p50=%.0fus p99=%.0fus "
           "p99.9=%.0fus max=%.0fus misses=%llu errors=%llu\n",
           run.dialect->name, run.clients, run.value_bytes, run.read_percent,
           (double)seen.operations / took, run.target.pids ? cpu / n : 0,
           (double)histogram_percentile(&seen.latency, .5) / 1e3,
           (double)histogram_percentile(&seen.latency, .99) / 1e3,
           (double)histogram_percentile(&seen.latency, .999) / 1e3,
           (double)seen.latency.most / 1e3, (unsigned long long)seen.misses,
           (unsigned long long)seen.errors);
}

int main(int argc, char **argv)
{
    struct epoll_event events[256];

    options(argc, argv);
    seen.progress = target_now_ns();
    if (!set_up() || !start_clients()) {
        perror("load");
        return 1;
    }
    while (!is_over()) {
        int n = epoll_wait(run.poll, events, 256, 100), e;

        for (e = 0; e < n; e++)
            if (events[e].data.ptr)
                drive(events[e].data.ptr);
        if (run.parked_count > 0)
            release();
    }
    report();
    return seen.errors > 0;
}
