/* SPDX-License-Identifier: Apache-2.0
 *
 * syscalls.h: the system calls that every request makes, without what the C
 * library adds to them. There they are cancellation points: in a process of
 * several threads each call pays two atomic operations, together some 1.5% of
 * a one-shot request's processor time, and we never cancel a thread.
 *
 * Results and errno are those of the functions of the same names. Where the
 * kernel has no such call of its own (socketcall), the library's is used.
 */
#ifndef SD_SYSCALLS_H
#define SD_SYSCALLS_H

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline ssize_t sd_sys_recv(int fd, void *buffer, size_t n, int flags)
{
#ifdef SYS_recvfrom
    return syscall(SYS_recvfrom, fd, buffer, n, flags, NULL, NULL);
#else
    return recv(fd, buffer, n, flags);
#endif
}

static inline ssize_t sd_sys_send(int fd, const void *bytes, size_t n, int flags)
{
#ifdef SYS_sendto
    return syscall(SYS_sendto, fd, bytes, n, flags, NULL, 0);
#else
    return send(fd, bytes, n, flags);
#endif
}

static inline ssize_t sd_sys_sendmsg(int fd, const struct msghdr *msg, int flags)
{
#ifdef SYS_sendmsg
    return syscall(SYS_sendmsg, fd, msg, flags);
#else
    return sendmsg(fd, msg, flags);
#endif
}

static inline int sd_sys_accept(int fd, struct sockaddr *peer, socklen_t *size, int flags)
{
#ifdef SYS_accept4
    return (int)syscall(SYS_accept4, fd, peer, size, flags);
#else
    return accept4(fd, peer, size, flags);
#endif
}

static inline int sd_sys_close(int fd)
{
    return (int)syscall(SYS_close, fd);
}

#endif
