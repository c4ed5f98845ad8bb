/* SPDX-License-Identifier: Apache-2.0
 *
 * handover_faults.c: preloaded into a private httpd, has a session process fail
 * at a chosen point of a hand-over. Faults are files in the directory that
 * SESSIOND_FAULTS names; what is written in one is a number. A fault that kills
 * or stops a process takes its file away first, so that it happens once.
 *
 *   no-eventfd     eventfd() fails: a new process does not become ready
 *   giver-dies N   the old process is killed when it is to send its Nth packet of
 *                  descriptors
 *   all-dies       ... when it has said that all has been sent
 *   done-dies      ... when it is to say that it has left the store
 *   taker-dies     the new one is killed when it is to say that it has taken all
 *   taker-stops    ... stopped
 *   void-lost      what says that a hand-over came to nothing does not arrive
 *   taken-slow N   it says so N ms late
 *   slow-check N   a check of the store takes N seconds
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ALL = 3, TAKEN = 4, DONE = 5, VOID = 7 }; /* handover.h */

/* The number in a fault's file; 0 = no such fault. */
static int fault(const char *name, bool once)
{
    const char *dir = getenv("SESSIOND_FAULTS");
    char path[512], text[16] = "";
    int fd, n;

    if (!dir)
        return 0;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    n = read(fd, text, sizeof text - 1) > 0 ? atoi(text) : 1;
    close(fd);
    if (once && unlink(path) != 0)
        return 0;
    return n;
}

static uint32_t kind_of(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;

    return len >= 8 ? (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3] : 0;
}

int eventfd(unsigned int count, int flags)
{
    if (fault("no-eventfd", false)) {
        errno = EMFILE;
        return -1;
    }
    return (int)syscall(SYS_eventfd2, count, flags);
}

static bool is_packet(const struct msghdr *msg, uint32_t kind)
{
    return msg->msg_iovlen == 1 && msg->msg_controllen == 0
           && kind_of(msg->msg_iov->iov_base, msg->msg_iov->iov_len) == kind;
}

static void at_taken(void)
{
    int ms = fault("taken-slow", true);

    if (ms > 0)
        (void)usleep((unsigned)ms * 1000);
    if (fault("taker-dies", true))
        (void)raise(SIGKILL);
    if (fault("taker-stops", true))
        (void)raise(SIGSTOP);
}

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    static int packets;
    ssize_t sent;

    if (msg->msg_controllen > 0 && msg->msg_iov->iov_len >= 8) { /* a request for a hand-over is shorter */
        int n = fault("giver-dies", false);

        if (n > 0 && ++packets == n && fault("giver-dies", true))
            (void)raise(SIGKILL);
    }
    if (is_packet(msg, DONE) && fault("done-dies", true))
        (void)raise(SIGKILL);
    if (is_packet(msg, VOID) && fault("void-lost", true))
        return (ssize_t)msg->msg_iov->iov_len;
    if (is_packet(msg, TAKEN))
        at_taken();
    sent = syscall(SYS_sendmsg, fd, msg, flags);
    if (is_packet(msg, ALL) && fault("all-dies", true))
        (void)raise(SIGKILL);
    return sent;
}

/* The check of the store is walked by a thread that is joined a second at a time. */
int pthread_clockjoin_np(pthread_t thread, void **result, clockid_t clock, const struct timespec *until)
{
    static int (*real)(pthread_t, void **, clockid_t, const struct timespec *);
    static int left = -1;

    if (left < 0)
        left = fault("slow-check", true);
    if (left > 0) {
        left--;
        (void)usleep(1000000);
        return ETIMEDOUT;
    }
    left = -1;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_clockjoin_np");
    return real(thread, result, clock, until);
}
