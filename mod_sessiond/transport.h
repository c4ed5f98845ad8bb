/* SPDX-License-Identifier: Apache-2.0
 *
 * transport.h: what a connection needs of its socket, so that TLS can stand
 * here one day. Calls return bytes, 0 at the end of input, or minus an errno
 * (-EAGAIN: not now). None blocks.
 */
#ifndef SD_TRANSPORT_H
#define SD_TRANSPORT_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef struct sd_transport {
    const char *name;
    ssize_t (*receive)(int fd, struct iovec *iov, int n);
    /* The same into one buffer, but the bytes stay in the socket: while they do,
     * its end is a reset, even if we are killed. */
    ssize_t (*peek)(int fd, void *buffer, size_t room);
    /* Bytes that a receive would find now. */
    size_t (*pending)(int fd);
    /* Takes `n` bytes that were looked at out of the socket. */
    void (*discard)(int fd, size_t n);
    /* `last`: nothing follows but the close, so hold it back and let them leave
     * together */
    ssize_t (*send)(int fd, struct iovec *iov, int n, bool last);
    /* Makes the end of the descriptor, however it comes, a reset; or not. */
    void (*end_is_reset)(int fd, bool yes);
    /* The connection stays: let the kernel find out when the peer is gone. */
    void (*keep_alive)(int fd);
    void (*half_close)(int fd);
    void (*close)(int fd);
    /* Before a close, where another process still has the descriptor: the connection
     * ends now, for all, as a close would end it. */
    void (*part)(int fd, bool reset);
} sd_transport_t;

extern const sd_transport_t sd_transport_tcp;
/* The same without end_is_reset, which Unix sockets do not have. */
extern const sd_transport_t sd_transport_unix;

#endif
