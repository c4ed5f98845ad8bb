/* SPDX-License-Identifier: Apache-2.0
 *
 * address.c: parsing and checking endpoints, and the allow-list. What is hard:
 * a dual-stack socket shows IPv4 peers as ::ffff:a.b.c.d, and "this host" is
 * more than loopback: a web server that is its own session server connects
 * from the address that it connects to.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include <apr_strings.h>

#include "address.h"

/* A number in digits alone: no sign, no blank. -1 = it is not, or too large. */
static long parse_digits(const char *text, int base)
{
    const char *all = base == 8 ? "01234567" : "0123456789";
    size_t len = strlen(text);

    return len >= 1 && len <= 6 && strspn(text, all) == len ? strtol(text, NULL, base) : -1;
}

static const char *parse_port(const char *text, const char *digits, apr_port_t *port,
                              apr_pool_t *pool)
{
    long n = parse_digits(digits, 10);

    if (n < 1 || n > 65535)
        return apr_psprintf(pool, "SessiondListen %s: '%s' is not a port; a port is 1 to 65535, "
                            "sharedance's clients use %d", text, digits, SD_PORT_DEFAULT);
    *port = (apr_port_t)n;
    return NULL;
}

static const char *parse_unix(sd_endpoint_t *e, const char *mode, apr_pool_t *pool)
{
    long bits = 0660;

    e->path = e->text + strlen("unix:");
    if (*e->path != '/')
        return apr_psprintf(pool, "SessiondListen %s: the path of a Unix socket must be absolute, "
                            "as in unix:/run/sessiond.sock", e->text);
    if (strlen(e->path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return apr_psprintf(pool, "SessiondListen %s: the path is %d bytes long; a Unix socket's "
                            "path has at most %d", e->text, (int)strlen(e->path),
                            (int)sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
    if (mode) {
        bits = parse_digits(mode, 8);
        if (bits < 0 || bits > 0777)
            return apr_psprintf(pool, "SessiondListen %s: '%s' is not a mode; give octal "
                                "permissions from 0 to 0777, such as 0660", e->text, mode);
    }
    e->mode = (mode_t)bits;
    return NULL;
}

const char *sd_endpoint_parse(sd_endpoint_t *e, const char *text, const char *mode, apr_pool_t *pool)
{
    const char *colon = strrchr(text, ':');
    struct in_addr v4;

    memset(e, 0, sizeof *e);
    e->text = apr_pstrdup(pool, text);
    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(e, mode, pool);
    if (mode)
        return apr_psprintf(pool, "SessiondListen %s: the mode '%s' is for unix:/path only", text,
                            mode);
    /* PHP's save_path has a scheme; somebody copies it */
    if (strstr(text, "://"))
        return apr_psprintf(pool, "SessiondListen %s: write it without '%.*s', as in "
                            "127.0.0.1:%d, or unix:/path", text,
                            (int)(strstr(text, "://") - text) + 3, text, SD_PORT_DEFAULT);
    if (!colon && inet_pton(AF_INET, text, &v4) == 1)
        return apr_psprintf(pool, "SessiondListen %s: a port is missing after the address, as in "
                            "%s:%d", text, text, SD_PORT_DEFAULT);
    if (!colon)
        return parse_port(text, text, &e->port, pool);
    if (*text == '[') {
        if (colon == text || colon[-1] != ']')
            return apr_psprintf(pool, "SessiondListen %s: a port is missing after the address, as "
                                "in [::1]:%d", text, SD_PORT_DEFAULT);
        e->host = apr_pstrmemdup(pool, text + 1, (apr_size_t)(colon - text) - 2);
    }
    else {
        e->host = apr_pstrmemdup(pool, text, (apr_size_t)(colon - text));
        if (strchr(e->host, ':'))
            return apr_psprintf(pool, "SessiondListen %s: write an IPv6 address in brackets, as in "
                                "[::1]:%d", text, SD_PORT_DEFAULT);
    }
    if (strcmp(e->host, "*") == 0 && *text != '[')
        e->host = NULL;
    else if (*e->host == '\0')
        return apr_psprintf(pool, "SessiondListen %s: the address is empty; leave out the colon to "
                            "listen on every address", text);
    return parse_port(text, colon + 1, &e->port, pool);
}

/* Can a socket be bound to this address at all? Any port will do. */
static int bind_error(const apr_sockaddr_t *at)
{
    int fd = socket(at->family, SOCK_STREAM | SOCK_CLOEXEC, 0), err = 0;
    struct sockaddr_storage any;

    if (fd < 0)
        return errno;
    memset(&any, 0, sizeof any);
    memcpy(&any, &at->sa, at->salen);
    if (at->family == AF_INET)
        ((struct sockaddr_in *)(void *)&any)->sin_port = 0;
    else
        ((struct sockaddr_in6 *)(void *)&any)->sin6_port = 0;
    if (bind(fd, (struct sockaddr *)(void *)&any, at->salen) != 0)
        err = errno;
    close(fd);
    return err;
}

const char *sd_endpoint_check(const sd_endpoint_t *e, apr_pool_t *pool)
{
    apr_sockaddr_t *at;
    apr_status_t rv;
    char buf[120];
    int err = 0;

    if (e->path || !e->host)
        return NULL;
    rv = apr_sockaddr_info_get(&at, e->host, APR_UNSPEC, e->port, 0, pool);
    if (rv != APR_SUCCESS)
        return apr_psprintf(pool, "SessiondListen %s: '%s' is no address (%s); use one that "
                            "'ip address' lists, or the port alone to listen on every one",
                            e->text, e->host, apr_strerror(rv, buf, sizeof buf));
    for (; at; at = at->next) {
        err = bind_error(at);
        if (err == 0)
            return NULL; /* one that can be bound is enough for a name */
    }
    if (err == EADDRNOTAVAIL)
        return apr_psprintf(pool, "SessiondListen %s: %s is not an address of this host; use one "
                            "that 'ip address' lists, or the port alone to listen on every one",
                            e->text, e->host);
    return apr_psprintf(pool, "SessiondListen %s: cannot bind to %s: %s", e->text, e->host,
                        apr_strerror(err, buf, sizeof buf));
}

/* A number of bits, or for IPv4 a netmask whose ones come before its zeros. */
static bool mask_is_valid(const char *text, bool is_v4)
{
    long bits = parse_digits(text, 10);
    struct in_addr mask;
    uint32_t zeros;

    if (bits >= 0)
        return bits >= 1 && bits <= (is_v4 ? 32 : 128);
    if (!is_v4 || inet_pton(AF_INET, text, &mask) != 1)
        return false;
    zeros = ~ntohl(mask.s_addr);
    return zeros != UINT32_MAX && (zeros & (zeros + 1)) == 0;
}

const char *sd_allow_add(sd_allow_t *allow, const char *text, apr_pool_t *pool)
{
    char *address = apr_pstrdup(pool, text), *bits = strchr(address, '/');
    apr_ipsubnet_t *subnet;
    struct in_addr v4;
    struct in6_addr v6;
    bool is_v4;

    if (strcasecmp(text, "all") == 0) {
        allow->all = true;
        return NULL;
    }
    if (bits)
        *bits++ = '\0';
    /* APR would take "10" for 10.0.0.0/8: a forgotten part must not open a network */
    is_v4 = inet_pton(AF_INET, address, &v4) == 1;
    if (!is_v4 && inet_pton(AF_INET6, address, &v6) != 1)
        return apr_psprintf(pool, "SessiondAllow %s: not an address; give a whole addr, addr/bits "
                            "or 'all', as in 192.168.0.0/24 (host names are not looked up)", text);
    if (!is_v4 && IN6_IS_ADDR_V4MAPPED(&v6))
        return apr_psprintf(pool, "SessiondAllow %s: write an IPv4 address without ::ffff:", text);
    if (bits && !mask_is_valid(bits, is_v4))
        return apr_psprintf(pool, "SessiondAllow %s: '%s' is no mask; give the number of bits, 1 to "
                            "32 for IPv4 and 1 to 128 for IPv6, as in 192.168.0.0/24, or 'all' for "
                            "everyone", text, bits);
    if (apr_ipsubnet_create(&subnet, address, bits, pool) != APR_SUCCESS)
        return apr_psprintf(pool, "SessiondAllow %s: not an address", text);
    if (!allow->subnets)
        allow->subnets = apr_array_make(pool, 4, sizeof(apr_ipsubnet_t *));
    APR_ARRAY_PUSH(allow->subnets, apr_ipsubnet_t *) = subnet;
    return NULL;
}

/* The 4 or 16 bytes of an address, IPv4 in IPv6 taken out. */
static const unsigned char *address_bytes(const struct sockaddr_storage *a, size_t *len)
{
    if (a->ss_family == AF_INET) {
        *len = 4;
        return (const unsigned char *)&((const struct sockaddr_in *)(const void *)a)->sin_addr;
    }
    if (a->ss_family == AF_INET6) {
        const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;

        *len = IN6_IS_ADDR_V4MAPPED(v6) ? 4 : 16;
        return *len == 4 ? v6->s6_addr + 12 : v6->s6_addr;
    }
    *len = 0;
    return NULL;
}

static bool is_own(const unsigned char *peer, size_t len, int fd)
{
    struct sockaddr_storage local;
    socklen_t size = sizeof local;
    const unsigned char *own;
    size_t own_len;

    if (getsockname(fd, (struct sockaddr *)(void *)&local, &size) != 0)
        return false;
    own = address_bytes(&local, &own_len);
    return own_len == len && memcmp(own, peer, len) == 0;
}

bool sd_allow_peer(const sd_allow_t *allow, const struct sockaddr_storage *peer, int fd)
{
    static const unsigned char loopback6[16] = { [15] = 1 };
    size_t len;
    const unsigned char *bytes = address_bytes(peer, &len);
    int i;

    if (peer->ss_family == AF_UNIX || allow->all)
        return true; /* a Unix socket has its file's mode */
    if (len == 0)
        return false;
    if (len == 4 ? bytes[0] == 127 : memcmp(bytes, loopback6, 16) == 0)
        return true;
    if (allow->subnets) {
        apr_sockaddr_t at;

        memset(&at, 0, sizeof at);
        if (len == 4) {
            at.family = AF_INET;
            at.sa.sin.sin_family = AF_INET;
            memcpy(&at.sa.sin.sin_addr, bytes, 4);
            at.ipaddr_ptr = &at.sa.sin.sin_addr;
        }
        else {
            at.family = AF_INET6;
            at.sa.sin6.sin6_family = AF_INET6;
            memcpy(&at.sa.sin6.sin6_addr, bytes, 16);
            at.ipaddr_ptr = &at.sa.sin6.sin6_addr;
        }
        at.ipaddr_len = (int)len;
        for (i = 0; i < allow->subnets->nelts; i++)
            if (apr_ipsubnet_test(APR_ARRAY_IDX(allow->subnets, i, apr_ipsubnet_t *), &at))
                return true;
    }
    return is_own(bytes, len, fd);
}

void sd_address_print(const struct sockaddr_storage *peer, char *out, size_t size)
{
    size_t len;
    const unsigned char *bytes = address_bytes(peer, &len);

    if (len == 0 || !inet_ntop(len == 4 ? AF_INET : AF_INET6, bytes, out, (socklen_t)size))
        apr_cpystrn(out, "a Unix socket", size);
}
