/* SPDX-License-Identifier: Apache-2.0
 *
 * load.c: a closed loop of clients on a session server, in one thread. Each
 * client sends a request, waits for the whole reply, checks it and goes on.
 * It prints one line of `name=value` pairs, so that a script can compare runs.
 *
 * What counts is the server's processor time per operation: with one request
 * per connection the load side is the slower one, so requests per second say
 * more about this program than about the server.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "dialect.h"
#include "histogram.h"

#define KEY_BYTES 32
#define SERVERS_MAX 16

typedef struct client {
    int fd;
    bool reading;
    size_t out_at, out_len, in_len;
    uint64_t began; /* ns */
    char *out, *in;
} client_t;

static struct {
    const dialect_t *dialect;
    struct sockaddr_storage address;
    socklen_t address_len;
    uint32_t clients, keys, read_percent;
    uint64_t first_key;
    size_t value_bytes, in_room;
    double seconds;
    bool fill, fill_only;
    int pid[SERVERS_MAX];
    int pids;
    char *value;
    int poll;
} run;

static struct {
    histogram_t latency;
    uint64_t operations, errors, misses, filled, finished_fill;
    uint64_t since, cpu_since; /* ns */
    bool counting;
} seen;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t random_below(uint32_t n)
{
    static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * UINT64_C(0x2545f4914f6cdd1d)) >> 33) % n;
}

/* Time on the processor of all threads of the server's processes, ns. The
 * scheduler's own account; threads that have ended are not in it. */
static uint64_t server_cpu_ns(void)
{
    uint64_t sum = 0;
    int i;

    for (i = 0; i < run.pids; i++) {
        char path[300];
        struct dirent *task;
        DIR *dir;

        snprintf(path, sizeof path, "/proc/%d/task", run.pid[i]);
        dir = opendir(path);
        while (dir && (task = readdir(dir))) {
            unsigned long long ns = 0;
            FILE *f;

            snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", run.pid[i], task->d_name);
            if (task->d_name[0] == '.' || !(f = fopen(path, "r")))
                continue;
            if (fscanf(f, "%llu", &ns) == 1)
                sum += ns;
            fclose(f);
        }
        if (dir)
            closedir(dir);
    }
    return sum;
}

/* ---- one client ---- */

static void begin(client_t *c)
{
    char key[KEY_BYTES + 1];
    uint64_t n;

    if (run.fill && seen.filled < run.keys) {
        n = seen.filled++;
        c->reading = false;
    }
    else {
        n = random_below(run.keys);
        c->reading = random_below(100) < run.read_percent;
    }
    snprintf(key, sizeof key, "sess%028llu", (unsigned long long)(run.first_key + n));
    c->out_len = c->reading ? run.dialect->read(c->out, key, KEY_BYTES)
                            : run.dialect->store(c->out, key, KEY_BYTES, run.value, run.value_bytes);
    c->out_at = c->in_len = 0;
    c->began = now_ns();
}

static void dial(client_t *c)
{
    struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c };
    int on = 1;

    for (;;) {
        c->fd = socket(run.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (c->fd >= 0) {
            if (run.address.ss_family != AF_UNIX)
                setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            if (connect(c->fd, (struct sockaddr *)&run.address, run.address_len) == 0
                || errno == EINPROGRESS)
                break;
            close(c->fd);
        }
        seen.errors++;
        usleep(1000);
    }
    epoll_ctl(run.poll, EPOLL_CTL_ADD, c->fd, &e);
}

static void redial(client_t *c)
{
    close(c->fd);
    begin(c);
    dial(c);
}

static void count(client_t *c, reply_t reply)
{
    bool filling = run.fill && seen.finished_fill < run.keys;

    if (reply == REPLY_WRONG)
        seen.errors++;
    if (filling) {
        seen.finished_fill++;
        return;
    }
    if (!seen.counting) {
        seen.counting = true;
        seen.since = now_ns();
        seen.cpu_since = server_cpu_ns();
        return;
    }
    if (reply == REPLY_MISS)
        seen.misses++;
    seen.operations++;
    histogram_add(&seen.latency, now_ns() - c->began);
}

/* False: the connection is at its end. */
static bool send_some(client_t *c)
{
    while (c->out_at < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);

        if (n < 0)
            return errno == EAGAIN || errno == ENOTCONN;
        c->out_at += (size_t)n;
    }
    return true;
}

static void drive(client_t *c)
{
    for (;;) {
        size_t used = 0;
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
        c->in_len += (size_t)n;
        reply = c->reading
                    ? run.dialect->was_read(c->in, c->in_len, n == 0, run.value_bytes, &used)
                    : run.dialect->stored(c->in, c->in_len, n == 0, &used);
        if (reply == REPLY_MORE && n > 0 && c->in_len < run.in_room)
            continue;
        if (reply == REPLY_MORE)
            reply = REPLY_WRONG;
        count(c, reply);
        if (!run.dialect->persistent || reply == REPLY_WRONG) {
            redial(c);
            return; /* the new connection's events drive it */
        }
        begin(c);
    }
    seen.errors++;
    redial(c);
}

/* ---- the run ---- */

static void usage(void)
{
    fputs("usage: load -d sharedance|extended|memcached|redis (-p PORT [-h ADDRESS] | -u PATH)\n"
          "            [-c CLIENTS] [-t SECONDS] [-k KEYS] [-K FIRST] [-s VALUE_BYTES]\n"
          "            [-r READ_PERCENT] [-f] [-F] [-P PID]...\n"
          "  -f  store every key once first, not counted     -F  do only that\n"
          "  -P  a process of the server: its processor time is measured\n", stderr);
    exit(2);
}

static void set_address(const char *host, const char *port, const char *path)
{
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)&run.address;
    struct sockaddr_un *un = (struct sockaddr_un *)(void *)&run.address;

    if (path) {
        un->sun_family = AF_UNIX;
        if (strlen(path) >= sizeof un->sun_path)
            usage();
        memcpy(un->sun_path, path, strlen(path) + 1);
        run.address_len = sizeof *un;
        return;
    }
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)atoi(port ? port : "0"));
    if (!port || inet_pton(AF_INET, host, &in->sin_addr) != 1)
        usage();
    run.address_len = sizeof *in;
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
    while ((o = getopt(argc, argv, "d:h:p:u:c:t:k:K:s:r:fFP:")) != -1)
        switch (o) {
        case 'd': run.dialect = dialect_find(optarg); break;
        case 'h': host = optarg; break;
        case 'p': port = optarg; break;
        case 'u': path = optarg; break;
        case 'c': run.clients = (uint32_t)atoi(optarg); break;
        case 't': run.seconds = atof(optarg); break;
        case 'k': run.keys = (uint32_t)atoi(optarg); break;
        case 'K': run.first_key = strtoull(optarg, NULL, 10); break;
        case 's': run.value_bytes = (size_t)atol(optarg); break;
        case 'r': run.read_percent = (uint32_t)atoi(optarg); break;
        case 'F': run.fill_only = true; /* fall through */
        case 'f': run.fill = true; break;
        case 'P':
            if (run.pids < SERVERS_MAX)
                run.pid[run.pids++] = atoi(optarg);
            break;
        default: usage();
        }
    if (!run.dialect || run.clients < 1 || run.keys < 1)
        usage();
    set_address(host, port, path);
    run.in_room = run.value_bytes + DIALECT_OVERHEAD;
    run.value = malloc(run.value_bytes + 1);
    if (!run.value)
        exit(1);
    for (size_t i = 0; i < run.value_bytes; i++)
        run.value[i] = (char)('a' + random_below(26));
}

static bool is_over(uint64_t began)
{
    if (run.fill_only && seen.finished_fill >= run.keys)
        return true;
    if (seen.counting)
        return (double)(now_ns() - seen.since) >= run.seconds * 1e9;
    /* a server that never answers must not keep us */
    return seen.filled == 0 && (double)(now_ns() - began) >= (run.seconds + 60) * 1e9;
}

static void report(void)
{
    double took = (double)(now_ns() - seen.since) / 1e9;
    double cpu = (double)(server_cpu_ns() - seen.cpu_since) / 1e3;
    double n = seen.operations ? (double)seen.operations : 1;

    if (run.fill_only) {
        printf("filled=%llu errors=%llu\n", (unsigned long long)seen.finished_fill,
               (unsigned long long)seen.errors);
        return;
    }
    printf("dialect=%s clients=%u bytes=%zu read=%u%% rate=%.0f/s cpu=%.2fus p50=%.0fus p99=%.0fus "
           "p99.9=%.0fus max=%.0fus misses=%llu errors=%llu\n",
           run.dialect->name, run.clients, run.value_bytes, run.read_percent,
           (double)seen.operations / took, run.pids ? cpu / n : 0,
           (double)histogram_percentile(&seen.latency, .5) / 1e3,
           (double)histogram_percentile(&seen.latency, .99) / 1e3,
           (double)histogram_percentile(&seen.latency, .999) / 1e3,
           (double)seen.latency.most / 1e3, (unsigned long long)seen.misses,
           (unsigned long long)seen.errors);
}

int main(int argc, char **argv)
{
    struct epoll_event events[256];
    client_t *clients;
    uint64_t began;
    uint32_t i;

    options(argc, argv);
    run.poll = epoll_create1(EPOLL_CLOEXEC);
    clients = calloc(run.clients, sizeof *clients);
    for (i = 0; clients && i < run.clients; i++) {
        clients[i].out = malloc(run.value_bytes + DIALECT_OVERHEAD);
        clients[i].in = malloc(run.in_room);
        if (!clients[i].out || !clients[i].in)
            return 1;
        begin(&clients[i]);
        dial(&clients[i]);
    }
    began = now_ns();
    while (!is_over(began)) {
        int n = epoll_wait(run.poll, events, 256, 100), e;

        for (e = 0; e < n; e++)
            drive(events[e].data.ptr);
    }
    report();
    return seen.errors > 0;
}
