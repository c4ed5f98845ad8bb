/* SPDX-License-Identifier: Apache-2.0
 *
 * import_address.c: the three forms of an address, and a connection within a
 * bounded time: connect() waits for minutes when a firewall drops packets.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/import_address.h"

static const char *set_path(import_address_t *address, const char *path)
{
    size_t len = strlen(path);

    if (path[0] != '/')
        return "the path of a Unix socket must be absolute, as in unix:/run/sessiond";
    if (len >= sizeof address->path.sun_path)
        return "the path of a Unix socket has at most 107 bytes";
    address->path.sun_family = AF_UNIX;
    memcpy(address->path.sun_path, path, len + 1);
    address->path_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    return NULL;
}

static const char *set_port(import_address_t *address, const char *text)
{
    size_t len = strspn(text, "0123456789");

    if (len == 0 || len > 5 || text[len] != 0 || atoi(text) < 1 || atoi(text) > 65535)
        return "a port from 1 to 65535 is missing at its end, as in 192.168.0.100:1042";
    memcpy(address->port, text, len + 1);
    return NULL;
}

const char *import_address_set(import_address_t *address, const char *text)
{
    const char *host = text, *end, *port;

    memset(address, 0, sizeof *address);
    address->text = text;
    if (strncmp(text, "unix:", 5) == 0)
        return set_path(address, text + 5);
    if (text[0] == '[') {
        host = text + 1;
        end = strchr(host, ']');
        if (!end || end[1] != ':')
            return "write an IPv6 address as in [fd00::100]:1042";
        port = end + 2;
    } else {
        end = strrchr(text, ':');
        if (!end)
            return "a port is missing, as in 192.168.0.100:1042";
        if (strchr(text, ':') != end)
            return "write an IPv6 address in brackets, as in [fd00::100]:1042";
        port = end + 1;
    }
    if (end == host || (size_t)(end - host) >= sizeof address->host)
        return "the host is missing, or too long";
    memcpy(address->host, host, (size_t)(end - host));
    return set_port(address, port);
}

static int dial(int family, const struct sockaddr *to, socklen_t to_len, int timeout_ms)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct pollfd ready = { .fd = fd, .events = POLLOUT };
    int on = 1, error = 0, n;
    socklen_t len = sizeof error;

    if (fd < 0)
        return -1;
    if (family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, to, to_len) == 0)
        return fd;
    error = errno;
    /* A Unix socket whose queue is full says EAGAIN, and will not tell when it is not. */
    if (error == EINPROGRESS) {
        n = poll(&ready, 1, timeout_ms);
        if (n == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == 0)
            return fd;
        if (n == 0)
            error = ETIMEDOUT;
        else if (n < 0)
            error = errno;
    }
    close(fd);
    errno = error;
    return -1;
}

int import_address_connect(const import_address_t *address, int timeout_ms, const char **why)
{
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
    struct addrinfo *found = NULL, *at;
    int fd = -1, status;

    if (address->path.sun_path[0]) {
        fd = dial(AF_UNIX, (const struct sockaddr *)&address->path, address->path_len, timeout_ms);
        *why = strerror(errno);
        return fd;
    }
    status = getaddrinfo(address->host, address->port, &hints, &found);
    if (status != 0) {
        *why = gai_strerror(status);
        return -1;
    }
    for (at = found; at && fd < 0; at = at->ai_next)
        fd = dial(at->ai_family, at->ai_addr, at->ai_addrlen, timeout_ms);
    *why = strerror(errno);
    freeaddrinfo(found);
    return fd;
}
