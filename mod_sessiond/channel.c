/* SPDX-License-Identifier: Apache-2.0
 *
 * channel.c: see the header. What is hard: descriptors that come with a packet
 * are ours at once, whatever the packet turns out to be, and a process that has
 * none left must still be able to hear that it may give its connections away.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"

#define RETRY_MS 2
#define ASK_BYTES 6u    /* word(1) 0(1) from(2) to(2) */
#define SEND_BUFFER 262144
#define OVERHEAD 4096 /* the kernel's own, of a buffer */

typedef union extra {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int) * SD_CHANNEL_FDS)];
} extra_t;

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

bool sd_channel_send(int fd, const void *bytes, size_t len, const int *fds, uint32_t count, uint32_t wait_ms)
{
    struct iovec iov = { (void *)(uintptr_t)bytes, len };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    uint64_t until = wait_ms > 0 ? now_ms() + wait_ms : 0;
    extra_t extra;

    if (count > 0) {
        struct cmsghdr *c;

        memset(&extra, 0, sizeof extra);
        msg.msg_control = &extra;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    while (sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        struct pollfd p = { .fd = fd, .events = POLLOUT };
        int err = errno;

        if (err == EINTR)
            continue;
        /* the kernel counts descriptors that are under way; they are taken out */
        if ((err != EAGAIN && err != ETOOMANYREFS && err != ENOBUFS) || until == 0 || now_ms() >= until) {
            errno = err;
            return false;
        }
        (void)poll(&p, err == EAGAIN, RETRY_MS);
    }
    return true;
}

ssize_t sd_channel_receive(int fd, void *bytes, size_t room, int fds[SD_CHANNEL_FDS], uint32_t *count, bool *whole)
{
    struct iovec iov = { bytes, room };
    extra_t extra;
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &extra,
                          .msg_controllen = sizeof extra };
    struct cmsghdr *c;
    ssize_t got;

    *count = 0;
    do
        got = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -1;
    for (c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            *count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), sizeof(int) * *count);
        }
    *whole = (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
    return got;
}

/* ---- words ---- */

void sd_word_send(int control, char word)
{
    (void)send(control, &word, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

size_t sd_channel_room(int fd)
{
    int size = 0;
    socklen_t len = sizeof size;

    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &len) != 0 || size <= OVERHEAD)
        return 0;
    return (size_t)(size - OVERHEAD);
}

/* A whole packet has to fit; what the system gives may be more already. */
static void widen(int fd)
{
    int size = 0, want = SEND_BUFFER;
    socklen_t len = sizeof size;

    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &len) != 0 || size < want)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &want, sizeof want);
}

int sd_word_ask(int control, uint32_t from, uint32_t to)
{
    uint8_t word[ASK_BYTES] = { SD_WORD_HAND_OVER, 0, (uint8_t)(from >> 8), (uint8_t)from, (uint8_t)(to >> 8),
                                (uint8_t)to };
    int pair[2], err;
    bool sent;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    widen(pair[1]);
    sent = sd_channel_send(control, word, sizeof word, &pair[1], 1, 0);
    err = errno;
    close(pair[1]);
    if (sent)
        return pair[0];
    close(pair[0]);
    errno = err;
    return -1;
}

/* One descriptor kept back, so that there is room for the channel when clients have
 * taken all others. */
static int spare = -1;

void sd_word_keep_spare(void)
{
    if (spare < 0)
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

sd_word_t sd_word_hear(int control)
{
    sd_word_t word = { .channel = -1 };
    uint8_t bytes[ASK_BYTES];
    int fds[SD_CHANNEL_FDS];
    uint32_t count, i;
    bool whole = true;
    ssize_t got;

    if (spare >= 0)
        close(spare);
    spare = -1;
    got = sd_channel_receive(control, bytes, sizeof bytes, fds, &count, &whole);
    if (got <= 0) {
        sd_word_keep_spare();
        return word;
    }
    word.word = (char)bytes[0];
    if (word.word == SD_WORD_HAND_OVER && count == 1 && got == (ssize_t)sizeof bytes) {
        word.channel = fds[0];
        word.from = (uint32_t)bytes[2] << 8 | bytes[3];
        word.to = (uint32_t)bytes[4] << 8 | bytes[5];
        return word; /* whoever reads it closes the channel, and the next call keeps a spare again */
    }
    for (i = 0; i < count; i++)
        close(fds[i]);
    if (word.word == SD_WORD_HAND_OVER)
        word.word = 0;
    sd_word_keep_spare();
    return word;
}
