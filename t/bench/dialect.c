/* SPDX-License-Identifier: Apache-2.0
 *
 * dialect.c: sharedance, our extended frames, memcached's text protocol,
 * Redis's, and a page of a web server. Each reply is looked at closely enough
 * to know that the value came back whole, so that a fast wrong server does not
 * win. What is sent is what the PHP clients of each server send.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dialect.h"

static void put32(char *at, size_t n)
{
    at[0] = (char)(n >> 24);
    at[1] = (char)(n >> 16);
    at[2] = (char)(n >> 8);
    at[3] = (char)n;
}

static size_t get32(const char *at)
{
    const unsigned char *u = (const unsigned char *)at;

    return (size_t)u[0] << 24 | (size_t)u[1] << 16 | (size_t)u[2] << 8 | u[3];
}

/* ---- sharedance ---- */

static size_t sharedance_store(char *out, const ask_t *ask)
{
    out[0] = 'S';
    put32(out + 1, ask->key_len);
    put32(out + 5, ask->value_len);
    memcpy(out + 9, ask->key, ask->key_len);
    memcpy(out + 9 + ask->key_len, ask->value, ask->value_len);
    return 9 + ask->key_len + ask->value_len;
}

static size_t sharedance_read(char *out, const ask_t *ask)
{
    out[0] = 'F';
    put32(out + 1, ask->key_len);
    memcpy(out + 5, ask->key, ask->key_len);
    return 5 + ask->key_len;
}

static reply_t sharedance_stored(const char *in, size_t len, bool ended, size_t *used,
                                 uint64_t *version)
{
    (void)version;
    *used = len;
    if (!ended)
        return REPLY_MORE;
    return len == 3 && memcmp(in, "OK\n", 3) == 0 ? REPLY_DONE : REPLY_WRONG;
}

static reply_t sharedance_was_read(const char *in, size_t len, bool ended, size_t want,
                                   size_t *used, uint64_t *version)
{
    (void)in;
    (void)version;
    *used = len;
    if (!ended)
        return REPLY_MORE;
    return len == 0 ? REPLY_MISS : len == want ? REPLY_DONE : REPLY_WRONG;
}

/* ---- our extended frames ---- */

static const char nonce[] = "12345678";

static size_t extended_hello(char *out)
{
    out[0] = 'P';
    memcpy(out + 1, nonce, 8);
    return 9;
}

static size_t extended_store(char *out, const ask_t *ask)
{
    out[0] = 'W';
    put32(out + 1, ask->key_len);
    put32(out + 5, ask->value_len);
    memset(out + 9, 0, 4); /* the server's lifetime */
    memcpy(out + 13, &ask->version, 8);
    memcpy(out + 21, ask->key, ask->key_len);
    memcpy(out + 21 + ask->key_len, ask->value, ask->value_len);
    return 21 + ask->key_len + ask->value_len;
}

static size_t extended_read(char *out, const ask_t *ask)
{
    out[0] = 'G';
    put32(out + 1, ask->key_len);
    memcpy(out + 5, ask->key, ask->key_len);
    return 5 + ask->key_len;
}

/* A whole frame: its length, 0 = not there yet. */
static size_t frame(const char *in, size_t len)
{
    return len < 5 || len < 5 + get32(in + 1) ? 0 : 5 + get32(in + 1);
}

static reply_t extended_greeted(const char *in, size_t len, bool ended, size_t *used)
{
    *used = frame(in, len);
    if (ended)
        return REPLY_WRONG;
    if (*used == 0)
        return REPLY_MORE;
    return in[0] == 'K' && *used > 13 && memcmp(in + 5, nonce, 8) == 0 ? REPLY_DONE : REPLY_WRONG;
}

static reply_t extended_reply(const char *in, size_t len, bool ended, char good, size_t want,
                              size_t *used, uint64_t *version)
{
    *used = frame(in, len);
    if (ended)
        return REPLY_WRONG;
    if (*used == 0)
        return REPLY_MORE;
    if (in[0] == 'N')
        return REPLY_MISS;
    if (in[0] == 'E')
        return REPLY_REFUSED;
    if (in[0] != good || *used != 5 + 8 + want)
        return REPLY_WRONG;
    memcpy(version, in + 5, 8);
    return REPLY_DONE;
}

static reply_t extended_stored(const char *in, size_t len, bool ended, size_t *used,
                               uint64_t *version)
{
    return extended_reply(in, len, ended, 'K', 0, used, version);
}

static reply_t extended_was_read(const char *in, size_t len, bool ended, size_t want, size_t *used,
                                 uint64_t *version)
{
    return extended_reply(in, len, ended, 'V', want, used, version);
}

/* ---- memcached, Redis ---- */

/* The first line's length with its end, 0 = not there yet. */
static size_t line(const char *in, size_t len)
{
    const char *end = memchr(in, '\n', len);

    return end ? (size_t)(end - in) + 1 : 0;
}

static reply_t one_line(const char *in, size_t len, bool ended, const char *good,
                        const char *refusal, size_t *used)
{
    *used = line(in, len);
    if (ended)
        return REPLY_WRONG;
    if (*used == 0)
        return REPLY_MORE;
    if (strncmp(in, good, strlen(good)) == 0)
        return REPLY_DONE;
    return strncmp(in, refusal, strlen(refusal)) == 0 ? REPLY_REFUSED : REPLY_WRONG;
}

static size_t memcached_hello(char *out)
{
    return (size_t)sprintf(out, "version\r\n");
}

static size_t memcached_store(char *out, const ask_t *ask)
{
    size_t n = (size_t)sprintf(out, "set %.*s 0 1800 %zu\r\n", (int)ask->key_len, ask->key,
                               ask->value_len);

    memcpy(out + n, ask->value, ask->value_len);
    memcpy(out + n + ask->value_len, "\r\n", 2);
    return n + ask->value_len + 2;
}

static size_t memcached_read(char *out, const ask_t *ask)
{
    return (size_t)sprintf(out, "get %.*s\r\n", (int)ask->key_len, ask->key);
}

static reply_t memcached_greeted(const char *in, size_t len, bool ended, size_t *used)
{
    return one_line(in, len, ended, "VERSION", "\n", used);
}

static reply_t memcached_stored(const char *in, size_t len, bool ended, size_t *used,
                                uint64_t *version)
{
    (void)version;
    return one_line(in, len, ended, "STORED", "SERVER_ERROR", used);
}

static reply_t memcached_was_read(const char *in, size_t len, bool ended, size_t want, size_t *used,
                                  uint64_t *version)
{
    size_t head = line(in, len);

    (void)version;
    if (ended)
        return REPLY_WRONG;
    if (head == 0)
        return REPLY_MORE;
    *used = head;
    if (strncmp(in, "END", 3) == 0)
        return REPLY_MISS;
    if (strncmp(in, "VALUE ", 6) != 0)
        return REPLY_WRONG;
    *used = head + want + 2 + 5;
    if (len < *used)
        return REPLY_MORE;
    return memcmp(in + head + want, "\r\nEND\r\n", 7) == 0 ? REPLY_DONE : REPLY_WRONG;
}

static size_t redis_hello(char *out)
{
    return (size_t)sprintf(out, "*1\r\n$4\r\nPING\r\n");
}

static size_t redis_store(char *out, const ask_t *ask)
{
    size_t n = (size_t)sprintf(out, "*4\r\n$5\r\nSETEX\r\n$%zu\r\n%.*s\r\n$4\r\n1800\r\n$%zu\r\n",
                               ask->key_len, (int)ask->key_len, ask->key, ask->value_len);

    memcpy(out + n, ask->value, ask->value_len);
    memcpy(out + n + ask->value_len, "\r\n", 2);
    return n + ask->value_len + 2;
}

static size_t redis_read(char *out, const ask_t *ask)
{
    return (size_t)sprintf(out, "*2\r\n$3\r\nGET\r\n$%zu\r\n%.*s\r\n", ask->key_len,
                           (int)ask->key_len, ask->key);
}

static reply_t redis_greeted(const char *in, size_t len, bool ended, size_t *used)
{
    return one_line(in, len, ended, "+PONG", "\n", used);
}

static reply_t redis_stored(const char *in, size_t len, bool ended, size_t *used, uint64_t *version)
{
    (void)version;
    return one_line(in, len, ended, "+OK", "-OOM", used);
}

static reply_t redis_was_read(const char *in, size_t len, bool ended, size_t want, size_t *used,
                              uint64_t *version)
{
    size_t head = line(in, len);

    (void)version;
    if (ended)
        return REPLY_WRONG;
    if (head == 0)
        return REPLY_MORE;
    *used = head;
    if (strncmp(in, "$-1", 3) == 0)
        return REPLY_MISS;
    if (in[0] != '$' || strtoul(in + 1, NULL, 10) != want)
        return REPLY_WRONG;
    *used = head + want + 2;
    return len < *used ? REPLY_MORE : REPLY_DONE;
}

/* ---- a page of a web server, on connections that stay; reads only ---- */

static size_t http_read(char *out, const ask_t *ask)
{
    (void)ask;
    return (size_t)sprintf(out, "GET /page.html HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

static reply_t http_was_read(const char *in, size_t len, bool ended, size_t want, size_t *used,
                             uint64_t *version)
{
    const char *end = memmem(in, len, "\r\n\r\n", 4);

    (void)version;
    *used = 0;
    if (ended)
        return REPLY_WRONG;
    if (!end)
        return REPLY_MORE;
    if (strncmp(in, "HTTP/1.1 200 ", 13) != 0)
        return REPLY_WRONG;
    *used = (size_t)(end - in) + 4 + want;
    return len < *used ? REPLY_MORE : REPLY_DONE;
}

static const dialect_t dialects[] = {
    { "sharedance", false, false, false, NULL, sharedance_store, sharedance_read, NULL,
      sharedance_stored, sharedance_was_read },
    { "extended", true, true, true, extended_hello, extended_store, extended_read,
      extended_greeted, extended_stored, extended_was_read },
    { "memcached", true, false, false, memcached_hello, memcached_store, memcached_read,
      memcached_greeted, memcached_stored, memcached_was_read },
    { "redis", true, false, false, redis_hello, redis_store, redis_read, redis_greeted,
      redis_stored, redis_was_read },
    { "http", true, false, false, NULL, NULL, http_read, NULL, NULL, http_was_read },
};

const dialect_t *dialect_find(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof dialects / sizeof *dialects; i++)
        if (strcmp(dialects[i].name, name) == 0)
            return &dialects[i];
    return NULL;
}
