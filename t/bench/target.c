/* SPDX-License-Identifier: Apache-2.0
 *
 * target.c: addresses, sockets and clocks. Processor time is read from the
 * process's own clock: /proc shows what the scheduler noted at the last tick,
 * which is off by milliseconds for a process that runs just now.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "target.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

bool target_set(target_t *target, const char *host, const char *port, const char *path)
{
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)&target->address;
    struct sockaddr_un *un = (struct sockaddr_un *)(void *)&target->address;

    if (path) {
        un->sun_family = AF_UNIX;
        if (strlen(path) >= sizeof un->sun_path)
            return false;
        memcpy(un->sun_path, path, strlen(path) + 1);
        target->address_len = sizeof *un;
        return true;
    }
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)atoi(port ? port : "0"));
    target->address_len = sizeof *in;
    return in->sin_port != 0 && inet_pton(AF_INET, host, &in->sin_addr) == 1;
}

bool target_add_pid(target_t *target, const char *pid)
{
    if (target->pids == TARGET_PIDS || atoi(pid) <= 0)
        return false;
    target->pid[target->pids++] = atoi(pid);
    return true;
}

static int come_from(int fd, unsigned from)
{
    struct sockaddr_in in = { .sin_family = AF_INET };
    int on = 1;

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK + from);
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) != 0)
        return -1;
    return bind(fd, (struct sockaddr *)&in, sizeof in);
}

int target_dial(const target_t *target, bool wait, unsigned from)
{
    bool tcp = target->address.ss_family != AF_UNIX;
    int fd = socket(target->address.ss_family,
                    SOCK_STREAM | SOCK_CLOEXEC | (wait ? 0 : SOCK_NONBLOCK), 0);
    struct timeval silence = { .tv_sec = 60 };
    int on = 1, err;

    if (fd < 0)
        return -1;
    if (wait)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
    if (!tcp
        || (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0
            && (from == 0 || come_from(fd, from) == 0)))
        if (connect(fd, (const struct sockaddr *)&target->address, target->address_len) == 0
            || errno == EINPROGRESS)
            return fd;
    err = errno;
    close(fd);
    errno = err;
    return -1;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;

    if (clock_gettime(clock, &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t target_cpu_ns(const target_t *target)
{
    uint64_t sum = 0;
    clockid_t clock;
    int i;

    for (i = 0; i < target->pids; i++)
        if (clock_getcpuclockid(target->pid[i], &clock) == 0)
            sum += clock_ns(clock);
    return sum;
}

uint64_t target_now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}
