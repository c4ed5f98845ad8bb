/* SPDX-License-Identifier: Apache-2.0
 *
 * target.h: the server that a benchmark talks to: its address, a connection to
 * it, and the processor time of its processes.
 */
#ifndef SD_BENCH_TARGET_H
#define SD_BENCH_TARGET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define TARGET_PIDS 16

typedef struct target {
    struct sockaddr_storage address;
    socklen_t address_len;
    int pid[TARGET_PIDS];
    int pids;
} target_t;

/* False: this is no address. `path` (a Unix socket) goes before host and port. */
bool target_set(target_t *target, const char *host, const char *port, const char *path);
bool target_add_pid(target_t *target, const char *pid);

/* A socket that is connected, and whose reads give up after a minute; or, with
 * `wait` false, one that is about to be connected and does not block.
 * TCP_NODELAY is set. -1 and an errno. `from` picks the address that
 * a TCP connection comes from, 127.0.0.1 on: each has ports of its own, of
 * which those of connections that we closed are in use for a minute. */
int target_dial(const target_t *target, bool wait, unsigned from);

/* ns of processor time that the server's processes have used, to the moment,
 * all their threads, also those that have ended. */
uint64_t target_cpu_ns(const target_t *target);

/* ns of a clock that never steps. */
uint64_t target_now_ns(void);

#endif
