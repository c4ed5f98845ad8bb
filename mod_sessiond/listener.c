/* SPDX-License-Identifier: Apache-2.0
 *
 * listener.c: opening, keeping and giving up the side sockets. What is hard:
 * at a restart nothing may fail (httpd would end) and nothing may be lost: a
 * connection that waits in the queue of a socket that the new configuration
 * does not have any more is still served.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <apr_strings.h>
#include <unixd.h>

#include "listener.h"
#include "log.h"

void sd_listener_set_setup(sd_listener_set_t *set)
{
    int i;

    memset(set, 0, sizeof *set);
    for (i = 0; i < SD_LISTENERS_MAX; i++)
        set->listener[i].fd = -1;
}

/* At the first start errors go to the console, where the admin looks. */
static void complain(bool starting, int err, const char *sentence)
{
    if (starting)
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, err, NULL, "sessiond: %s", sentence);
    else
        sd_log(ERR, err, "%s", sentence);
}

/* What to do about it; who reads this at the start has nothing but the console. */
static const char *remedy(const sd_endpoint_t *e, int err)
{
    switch (err) {
    case EADDRINUSE:
        return e->path ? "; a server that runs has it, or the file is no socket: stop the one, "
                         "remove the other, or take another path"
                       : "; 'ss -ltnp' shows who has the port (httpd, if two directives overlap): "
                         "stop that, or take another port";
    case EACCES:
        return e->path ? "; who starts httpd must be able to write its directory"
                       : "; a port below 1024 needs root";
    case ENOENT:
        return e->path ? "; make its directory" : "";
    case EADDRNOTAVAIL:
        return "; use an address that 'ip address' lists";
    default:
        return "";
    }
}

/* ---- one socket ---- */

static int open_tcp(const apr_sockaddr_t *at, bool dual, int *err)
{
    int fd = socket(at->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, off = 0;

    if (fd < 0) {
        *err = errno;
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (at->family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, dual ? &off : &on, sizeof on);
    /* What every connection wants is set here once and inherited. Not keep-alive:
     * it would cost each one-shot connection a kernel timer. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &on, sizeof on);
    if (bind(fd, (const struct sockaddr *)&at->sa, at->salen) != 0) {
        *err = errno;
        close(fd);
        return -1;
    }
    return fd;
}

/* Does somebody answer on this path? */
static bool is_served(const struct sockaddr_un *at)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool served;

    if (fd < 0)
        return true;
    served = connect(fd, (const struct sockaddr *)(const void *)at, sizeof *at) == 0
             || errno != ECONNREFUSED;
    close(fd);
    return served;
}

static int open_unix(const sd_endpoint_t *e, int *err)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    struct stat st;
    mode_t old;

    if (fd < 0) {
        *err = errno;
        return -1;
    }
    apr_cpystrn(at.sun_path, e->path, sizeof at.sun_path);
    /* A file left by a server that was killed is in the way; one that is
     * served, or that is no socket, is somebody's. */
    if (lstat(e->path, &st) == 0 && S_ISSOCK(st.st_mode) && !is_served(&at))
        (void)unlink(e->path);
    old = umask(0777 & ~e->mode);
    *err = bind(fd, (const struct sockaddr *)(const void *)&at, sizeof at) == 0 ? 0 : errno;
    umask(old);
    if (*err == 0 && geteuid() == 0
        && lchown(e->path, ap_unixd_config.user_id, ap_unixd_config.group_id) != 0)
        *err = errno;
    if (*err != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* ---- the set ---- */

static sd_listener_t *find(sd_listener_set_t *set, const char *label)
{
    int i;

    for (i = 0; i < SD_LISTENERS_MAX; i++)
        if (set->listener[i].fd >= 0 && strcmp(set->listener[i].label, label) == 0)
            return &set->listener[i];
    return NULL;
}

static sd_listener_t *empty_place(sd_listener_set_t *set)
{
    int i;

    for (i = 0; i < SD_LISTENERS_MAX; i++)
        if (set->listener[i].fd < 0)
            return &set->listener[i];
    return NULL;
}

/* Puts a socket into the set and listens. The queue's length may have changed:
 * listening again sets it. */
static bool adopt(sd_listener_set_t *set, sd_listener_t *l, int fd, const char *label,
                  bool is_unix, const sd_config_t *config, int *err)
{
    if (!l && (l = empty_place(set)))
        l->opened_for = 0;
    if (!l) {
        *err = EMFILE;
        return false;
    }
    if (listen(fd, (int)config->backlog) != 0) {
        *err = errno;
        return false;
    }
    l->fd = fd;
    l->is_unix = is_unix; /* the allow-list is asked for the others only */
    l->wanted = true;
    l->retiring = false;
    apr_cpystrn(l->label, label, sizeof l->label);
    return true;
}

/* The mode may have changed. The directory may belong to the web user, who
 * could put a link in the place of the socket: root must not follow it. */
static void set_mode(const sd_endpoint_t *e)
{
    int fd = open(e->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    char path[64];
    struct stat st;

    if (fd < 0)
        return;
    apr_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode))
        (void)chmod(path, e->mode);
    close(fd);
}

static bool open_unix_endpoint(sd_listener_set_t *set, const sd_endpoint_t *e,
                               const sd_config_t *config, int *err)
{
    sd_listener_t *l = find(set, e->path);
    int fd = l ? l->fd : open_unix(e, err);

    if (l)
        set_mode(e);
    if (fd < 0 || !adopt(set, l, fd, e->path, true, config, err)) {
        if (!l && fd >= 0) {
            close(fd);
            unlink(e->path);
        }
        return false;
    }
    return true;
}

/* Every address of the name; one that is not this host's is no error while
 * another one works. */
static bool open_tcp_endpoint(sd_listener_set_t *set, const sd_endpoint_t *e,
                              const sd_config_t *config, int *err, apr_pool_t *pool)
{
    apr_sockaddr_t *at;
    const char *host = e->host;
    bool any = false;

    *err = apr_sockaddr_info_get(&at, host ? host : "::", APR_UNSPEC, e->port, 0, pool);
    if (*err != APR_SUCCESS && !host)
        *err = apr_sockaddr_info_get(&at, "0.0.0.0", APR_INET, e->port, 0, pool);
    if (*err != APR_SUCCESS)
        return false;
    for (; at; at = at->next) {
        sd_listener_t *l;
        char *ip;
        const char *label;
        int fd;

        apr_sockaddr_ip_get(&ip, at);
        label = apr_psprintf(pool, at->family == AF_INET6 ? "[%s]:%d" : "%s:%d", ip, (int)e->port);
        l = find(set, label);
        fd = l ? l->fd : open_tcp(at, !host, err);
        if (fd < 0 && !host && at->family == AF_INET6 && *err == EAFNOSUPPORT) {
            apr_sockaddr_t *v4;

            if (apr_sockaddr_info_get(&v4, "0.0.0.0", APR_INET, e->port, 0, pool) != APR_SUCCESS)
                return false;
            fd = open_tcp(v4, false, err);
        }
        if (fd < 0) {
            if (*err == EADDRNOTAVAIL && (any || at->next))
                continue;
            return false;
        }
        if (!adopt(set, l, fd, label, false, config, err)) {
            if (!l)
                close(fd);
            return false;
        }
        any = true;
    }
    return any;
}

/* A socket that is no longer wanted: what waits in its queue is served by the next
 * session process. Its file goes when that one has come to serve. */
static void retire(sd_listener_t *l)
{
    l->retiring = true;
}

bool sd_listener_set_open(sd_listener_set_t *set, const sd_config_t *config, bool starting,
                          apr_pool_t *pool)
{
    bool all = true;
    int i, err = 0;

    for (i = 0; i < SD_LISTENERS_MAX; i++)
        set->listener[i].wanted = false;
    for (i = 0; i < config->endpoints->nelts; i++) {
        const sd_endpoint_t *e = &APR_ARRAY_IDX(config->endpoints, i, sd_endpoint_t);
        bool ok = e->path ? open_unix_endpoint(set, e, config, &err)
                          : open_tcp_endpoint(set, e, config, &err, pool);

        if (!ok) {
            complain(starting, err,
                     apr_psprintf(pool, "SessiondListen %s: could not bind to it%s%s", e->text,
                                  remedy(e, err),
                                  starting ? "" : "; the sockets that were open stay open"));
            all = false;
        }
    }
    for (i = 0; i < SD_LISTENERS_MAX; i++) {
        sd_listener_t *l = &set->listener[i];

        if (l->fd < 0 || l->wanted || l->retiring)
            continue;
        if (all)
            retire(l);
        else
            l->wanted = true;
    }
    return all;
}

int sd_listener_set_count(const sd_listener_set_t *set)
{
    int i, n = 0;

    for (i = 0; i < SD_LISTENERS_MAX; i++)
        n += set->listener[i].fd >= 0 && !set->listener[i].retiring;
    return n;
}

void sd_listener_set_forget_retiring(sd_listener_set_t *set)
{
    int i;

    for (i = 0; i < SD_LISTENERS_MAX; i++) {
        sd_listener_t *l = &set->listener[i];

        if (l->fd >= 0 && l->retiring) {
            if (l->is_unix)
                (void)unlink(l->label);
            close(l->fd);
            l->fd = -1;
        }
    }
}

void sd_listener_set_shutdown(sd_listener_set_t *set)
{
    int i;

    for (i = 0; i < SD_LISTENERS_MAX; i++) {
        sd_listener_t *l = &set->listener[i];

        if (l->fd < 0)
            continue;
        if (l->is_unix && !l->retiring)
            (void)unlink(l->label);
        (void)shutdown(l->fd, SHUT_RDWR);
    }
}

void sd_listener_set_opened(sd_listener_set_t *set, uint64_t number, uint64_t served)
{
    int i;

    for (i = 0; i < SD_LISTENERS_MAX; i++)
        if (set->listener[i].fd >= 0 && (set->listener[i].opened_for == 0 || set->listener[i].opened_for > served))
            set->listener[i].opened_for = number;
}

void sd_listener_set_close_new(sd_listener_set_t *set, uint64_t number, bool latest)
{
    int i;

    for (i = 0; i < SD_LISTENERS_MAX; i++) {
        sd_listener_t *l = &set->listener[i];

        if (latest)
            l->retiring = false; /* whoever goes on serving has those that were to go */
        if (l->fd < 0 || l->opened_for != number)
            continue;
        if (l->is_unix)
            (void)unlink(l->label);
        (void)shutdown(l->fd, SHUT_RDWR);
        close(l->fd);
        l->fd = -1;
    }
}

static bool is_dead(int fd)
{
    struct pollfd p = { .fd = fd, .events = 0 };

    return poll(&p, 1, 0) == 1;
}

void sd_listener_set_close_dead(sd_listener_set_t *set)
{
    int i;

    for (i = 0; i < SD_LISTENERS_MAX; i++)
        if (set->listener[i].fd >= 0 && is_dead(set->listener[i].fd)) {
            close(set->listener[i].fd);
            set->listener[i].fd = -1;
        }
}

void sd_listener_set_close(sd_listener_set_t *set)
{
    int i;

    for (i = 0; i < SD_LISTENERS_MAX; i++) {
        if (set->listener[i].fd >= 0)
            close(set->listener[i].fd);
        set->listener[i].fd = -1;
    }
}
