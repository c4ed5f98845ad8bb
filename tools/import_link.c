/* SPDX-License-Identifier: Apache-2.0
 *
 * import_link.c: connects and says hello.
 *
 * Whoever is at the other end may be anything. What it does at the hello tells:
 * a plain sharedanced closes in order without a byte, a mod_sessiond that does
 * not let us in resets, and only one of those that we can use sends the nonce
 * back and names itself.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tools/import_link.h"
#include "tools/import_replies.h"
#include "tools/import_stop.h"

enum { NONCE = 8 };

uint64_t import_link_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static bool fails(import_link_t *link, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool fails(import_link_t *link, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(link->why, sizeof link->why, format, arguments);
    va_end(arguments);
    import_link_close(link);
    return false;
}

void import_link_close(import_link_t *link)
{
    if (link->fd >= 0)
        close(link->fd);
    link->fd = -1;
}

static bool is_ours(import_link_t *link, const import_reply_t *reply, const uint8_t *nonce)
{
    static const char name[] = "mod_sessiond/";
    const char *text = (const char *)reply->body + NONCE;

    if (reply->status != 'K' || reply->len < NONCE + sizeof name || memcmp(reply->body, nonce, NONCE) != 0
        || strncmp(text, name, sizeof name - 1) != 0)
        return fails(link, "what answers at %s is no mod_sessiond", link->address->text);
    if (!strstr(text, " fence"))
        return fails(link, "the mod_sessiond at %s does not look at versions: update it", link->address->text);
    return true;
}

/* Waits for the one reply; nothing may come behind it. */
static bool greeting(import_link_t *link, import_replies_t *replies, uint64_t until)
{
    const char *where = link->address->text;
    struct pollfd ready = { .fd = link->fd, .events = POLLIN };
    import_take_t take = IMPORT_TAKE_MORE;
    bool said = false;

    while (take == IMPORT_TAKE_MORE) {
        uint64_t now = import_link_now_ms();
        uint8_t in[1024];
        const uint8_t *at = in;
        ssize_t n;

        if (import_stop)
            return fails(link, "interrupted");
        if (now >= until)
            return fails(link, "%s does not answer to a hello within %d s: is it a mod_sessiond?", where,
                         link->timeout_ms / 1000);
        poll(&ready, 1, until - now < 200 ? (int)(until - now) : 200);
        n = recv(link->fd, in, sizeof in, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return fails(link, "%s breaks the connection (%s): is this host in its SessiondAllow?", where,
                         strerror(errno));
        if (n == 0)
            return fails(link, said ? "what answers at %s is no mod_sessiond"
                                    : "%s closes at a hello: it is no mod_sessiond (a sharedanced does that)", where);
        said = true;
        take = import_replies_take(replies, &at, in + n);
        if (take == IMPORT_TAKE_NONSENSE || (take == IMPORT_TAKE_REPLY && at < in + n))
            return fails(link, "what answers at %s is no mod_sessiond", where);
    }
    return true;
}

bool import_link_open(import_link_t *link)
{
    const char *reason;
    uint8_t hello[1 + NONCE] = "P";
    import_replies_t replies;

    import_link_close(link);
    link->fd = import_address_connect(link->address, link->timeout_ms, &reason);
    if (link->fd < 0)
        return fails(link, "cannot connect to %s: %s", link->address->text, reason);
    if (getrandom(hello + 1, NONCE, 0) != NONCE)
        return fails(link, "no random numbers: %s", strerror(errno));
    /* So few bytes fit into any socket that was just opened. */
    send(link->fd, hello, sizeof hello, MSG_NOSIGNAL);
    import_replies_begin(&replies);
    return greeting(link, &replies, import_link_now_ms() + (uint64_t)link->timeout_ms)
           && is_ours(link, &replies.reply, hello + 1);
}
