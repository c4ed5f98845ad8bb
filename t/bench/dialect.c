/* SPDX-License-Identifier: Apache-2.0
 *
 * dialect.c: sharedance, our extended frames, memcached's text protocol and
 * Redis's. Each reply is looked at closely enough to know that the value came
 * back whole, so that a fast wrong server does not win.
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

static size_t sharedance_store(char *out, const char *key, size_t key_len, const char *value,
                               size_t len)
{
    out[0] = 'S';
    put32(out + 1, key_len);
    put32(out + 5, len);
    memcpy(out + 9, key, key_len);
    memcpy(out + 9 + key_len, value, len);
    return 9 + key_len + len;
}

static size_t sharedance_read(char *out, const char *key, size_t key_len)
{
    out[0] = 'F';
    put32(out + 1, key_len);
    memcpy(out + 5, key, key_len);
    return 5 + key_len;
}

static reply_t sharedance_stored(const char *in, size_t len, bool ended, size_t *used)
{
    *used = len;
    if (!ended)
        return REPLY_MORE;
    return len == 3 && memcmp(in, "OK\n", 3) == 0 ? REPLY_DONE : REPLY_WRONG;
}

static reply_t sharedance_was_read(const char *in, size_t len, bool ended, size_t want, size_t *used)
{
    (void)in;
    *used = len;
    if (!ended)
        return REPLY_MORE;
    return len == 0 ? REPLY_MISS : len == want ? REPLY_DONE : REPLY_WRONG;
}

/* ---- our extended frames ---- */

static size_t extended_store(char *out, const char *key, size_t key_len, const char *value,
                             size_t len)
{
    out[0] = 'W';
    put32(out + 1, key_len);
    put32(out + 5, len);
    memset(out + 9, 0, 4);
    memset(out + 13, 0xff, 8); /* unconditional */
    memcpy(out + 21, key, key_len);
    memcpy(out + 21 + key_len, value, len);
    return 21 + key_len + len;
}

static size_t extended_read(char *out, const char *key, size_t key_len)
{
    out[0] = 'G';
    put32(out + 1, key_len);
    memcpy(out + 5, key, key_len);
    return 5 + key_len;
}

static reply_t frame(const char *in, size_t len, char good, size_t want, size_t *used)
{
    if (len < 5 || len < 5 + get32(in + 1))
        return REPLY_MORE;
    *used = 5 + get32(in + 1);
    if (in[0] == 'N')
        return REPLY_MISS;
    return in[0] == good && *used == 5 + 8 + want ? REPLY_DONE : REPLY_WRONG;
}

static reply_t extended_stored(const char *in, size_t len, bool ended, size_t *used)
{
    return ended ? REPLY_WRONG : frame(in, len, 'K', 0, used);
}

static reply_t extended_was_read(const char *in, size_t len, bool ended, size_t want, size_t *used)
{
    return ended ? REPLY_WRONG : frame(in, len, 'V', want, used);
}

/* ---- memcached, Redis ---- */

/* The first line's length with its end, 0 = not there yet. */
static size_t line(const char *in, size_t len)
{
    const char *end = memchr(in, '\n', len);

    return end ? (size_t)(end - in) + 1 : 0;
}

static reply_t one_line(const char *in, size_t len, const char *good, size_t *used)
{
    *used = line(in, len);
    if (*used == 0)
        return REPLY_MORE;
    return strncmp(in, good, strlen(good)) == 0 ? REPLY_DONE : REPLY_WRONG;
}

static size_t memcached_store(char *out, const char *key, size_t key_len, const char *value,
                              size_t len)
{
    size_t n = (size_t)sprintf(out, "set %.*s 0 1800 %zu\r\n", (int)key_len, key, len);

    memcpy(out + n, value, len);
    memcpy(out + n + len, "\r\n", 2);
    return n + len + 2;
}

static size_t memcached_read(char *out, const char *key, size_t key_len)
{
    return (size_t)sprintf(out, "get %.*s\r\n", (int)key_len, key);
}

static reply_t memcached_stored(const char *in, size_t len, bool ended, size_t *used)
{
    return ended ? REPLY_WRONG : one_line(in, len, "STORED", used);
}

static reply_t memcached_was_read(const char *in, size_t len, bool ended, size_t want, size_t *used)
{
    size_t head = line(in, len);

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

static size_t redis_store(char *out, const char *key, size_t key_len, const char *value, size_t len)
{
    size_t n = (size_t)sprintf(out, "*5\r\n$3\r\nSET\r\n$%zu\r\n%.*s\r\n$%zu\r\n", key_len,
                               (int)key_len, key, len);

    memcpy(out + n, value, len);
    n += len;
    return n + (size_t)sprintf(out + n, "\r\n$2\r\nEX\r\n$4\r\n1800\r\n");
}

static size_t redis_read(char *out, const char *key, size_t key_len)
{
    return (size_t)sprintf(out, "*2\r\n$3\r\nGET\r\n$%zu\r\n%.*s\r\n", key_len, (int)key_len, key);
}

static reply_t redis_stored(const char *in, size_t len, bool ended, size_t *used)
{
    return ended ? REPLY_WRONG : one_line(in, len, "+OK", used);
}

static reply_t redis_was_read(const char *in, size_t len, bool ended, size_t want, size_t *used)
{
    size_t head = line(in, len);

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

static const dialect_t dialects[] = {
    { "sharedance", false, sharedance_store, sharedance_read, sharedance_stored, sharedance_was_read },
    { "extended", true, extended_store, extended_read, extended_stored, extended_was_read },
    { "memcached", true, memcached_store, memcached_read, memcached_stored, memcached_was_read },
    { "redis", true, redis_store, redis_read, redis_stored, redis_was_read },
};

const dialect_t *dialect_find(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof dialects / sizeof *dialects; i++)
        if (strcmp(dialects[i].name, name) == 0)
            return &dialects[i];
    return NULL;
}
