/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_address.c: SessiondListen and SessiondAllow as somebody may write them.
 * What is refused gets a sentence that names it. What is taken says the same
 * when it is written out again, and lets in exactly those whom the bits of the
 * written address let in, counted here one by one.
 *
 *   byte 0   1: SessiondAllow, else SessiondListen
 *   then     SessiondAllow: 16 bytes of a peer's address
 *   then     the text, and after a newline the mode, or the next text
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "fuzz.h"
#include "mod_sessiond/address.h"

enum { TEXT_MAX = 300 };

/* The next line as a string: in a configuration, texts have neither zeros nor
 * newlines. NULL: there is none. */
static char *next_text(input_t *in, apr_pool_t *pool)
{
    const uint8_t *end = memchr(in->at, '\n', in->left);
    size_t n, skipped;
    char *text;

    if (in->left == 0)
        return NULL;
    n = end ? (size_t)(end - in->at) : in->left;
    text = apr_pstrmemdup(pool, (const char *)in->at, n < TEXT_MAX ? n : TEXT_MAX);
    input_take(in, n + 1, &skipped);
    return text;
}

/* ---- SessiondListen ---- */

static void judge_refusal(const char *wrong, const char *directive, const char *text)
{
    size_t n = strlen(directive);

    must(strncmp(wrong, directive, n) == 0 && wrong[n] == ' ');
    must(strncmp(wrong + n + 1, text, strlen(text)) == 0);
    must(strncmp(wrong + n + 1 + strlen(text), ": ", 2) == 0);
}

static void judge_unix(const sd_endpoint_t *e, const char *text, const char *mode)
{
    must(strncmp(text, "unix:/", 6) == 0 && strcmp(e->path, text + 5) == 0);
    must(strlen(e->path) < sizeof(((struct sockaddr_un *)0)->sun_path));
    must(!e->host && e->port == 0);
    must(e->mode <= 0777);
    must(e->mode == (mode ? (mode_t)strtol(mode, NULL, 8) : 0660));
}

static void judge_tcp(const sd_endpoint_t *e, const char *text, apr_pool_t *pool)
{
    bool v6 = e->host && *text == '[';
    const char *again = apr_psprintf(pool, v6 ? "[%s]:%u" : "%s:%u", e->host ? e->host : "*",
                                     (unsigned)e->port);
    sd_endpoint_t second;

    must(e->port >= 1);
    must(!e->host || (*e->host && (v6 || !strchr(e->host, ':'))));
    must(sd_endpoint_parse(&second, again, NULL, pool) == NULL);
    must(second.port == e->port && !second.path);
    must(e->host ? second.host && strcmp(e->host, second.host) == 0 : !second.host);
}

static void listen_on(input_t *in, apr_pool_t *pool)
{
    const char *text = next_text(in, pool), *mode = next_text(in, pool), *wrong;
    sd_endpoint_t e;

    if (!text)
        return;
    wrong = sd_endpoint_parse(&e, text, mode, pool);
    if (wrong)
        judge_refusal(wrong, "SessiondListen", text);
    else {
        must(strcmp(e.text, text) == 0);
        if (e.path)
            judge_unix(&e, text, mode);
        else {
            must(!mode);
            judge_tcp(&e, text, pool);
        }
    }
}

/* ---- SessiondAllow ---- */

/* One subnet as it was taken: the address's bytes, and how many bits count. */
typedef struct subnet {
    unsigned char bytes[16];
    int family;
    unsigned bits;
    bool all;
} subnet_t;

static unsigned bits_of_mask(const char *text)
{
    struct in_addr mask;
    unsigned n = 0;
    uint32_t word;

    must(inet_pton(AF_INET, text, &mask) == 1);
    for (word = ntohl(mask.s_addr); word & 0x80000000u; word <<= 1)
        n++;
    must(word == 0 && n > 0);
    return n;
}

static subnet_t understand(const char *text, apr_pool_t *pool)
{
    char *address = apr_pstrdup(pool, text), *slash = strchr(address, '/');
    subnet_t s = { .family = AF_INET };

    s.all = strcasecmp(text, "all") == 0;
    if (s.all)
        return s;
    if (slash)
        *slash = '\0';
    if (inet_pton(AF_INET, address, s.bytes) != 1) {
        s.family = AF_INET6;
        must(inet_pton(AF_INET6, address, s.bytes) == 1);
    }
    s.bits = s.family == AF_INET ? 32 : 128;
    if (slash && strchr(slash + 1, '.'))
        s.bits = bits_of_mask(slash + 1);
    else if (slash) {
        must(atoi(slash + 1) >= 1 && (unsigned)atoi(slash + 1) <= s.bits);
        s.bits = (unsigned)atoi(slash + 1);
    }
    return s;
}

static bool covers(const subnet_t *s, int family, const unsigned char *peer)
{
    unsigned i;

    if (s->all)
        return true;
    if (s->family != family)
        return false;
    for (i = 0; i < s->bits; i++)
        if ((s->bytes[i / 8] ^ peer[i / 8]) & (0x80u >> i % 8))
            return false;
    return true;
}

static struct sockaddr_storage peer_at(int family, const unsigned char *bytes)
{
    struct sockaddr_storage peer = { .ss_family = (sa_family_t)family };

    if (family == AF_INET)
        memcpy(&((struct sockaddr_in *)(void *)&peer)->sin_addr, bytes, 4);
    else
        memcpy(&((struct sockaddr_in6 *)(void *)&peer)->sin6_addr, bytes, 16);
    return peer;
}

static bool is_loopback(int family, const unsigned char *bytes)
{
    static const unsigned char one[16] = { [15] = 1 };

    return family == AF_INET ? bytes[0] == 127 : memcmp(bytes, one, 16) == 0;
}

/* May this peer come in, and is that what the subnets say? */
static void judge_peer(const sd_allow_t *allow, const subnet_t *subnets, unsigned n, int family,
                       const unsigned char *bytes)
{
    static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
    struct sockaddr_storage peer = peer_at(family, bytes);
    char text[INET6_ADDRSTRLEN];
    bool expected;
    unsigned i;

    if (family == AF_INET6 && memcmp(bytes, mapped, 12) == 0) {
        family = AF_INET;
        bytes += 12;
    }
    expected = is_loopback(family, bytes);
    for (i = 0; i < n; i++)
        expected = expected || covers(&subnets[i], family, bytes);
    must(sd_allow_peer(allow, &peer, -1) == expected);
    sd_address_print(&peer, text, sizeof text);
    must(memchr(text, '\0', sizeof text) != NULL);
}

static void allow(input_t *in, apr_pool_t *pool)
{
    enum { MOST = 8 };
    unsigned char peer[16] = { 0 }, near[16];
    sd_allow_t allowed = { NULL, false };
    subnet_t subnets[MOST];
    const uint8_t *given;
    unsigned n = 0, i;
    size_t got;
    char *text;

    given = input_take(in, sizeof peer, &got);
    if (got > 0)
        memcpy(peer, given, got);
    while (n < MOST && (text = next_text(in, pool))) {
        const char *wrong = sd_allow_add(&allowed, text, pool);

        if (wrong)
            judge_refusal(wrong, "SessiondAllow", text);
        else
            subnets[n++] = understand(text, pool);
    }
    judge_peer(&allowed, subnets, n, AF_INET, peer);
    judge_peer(&allowed, subnets, n, AF_INET6, peer);
    for (i = 0; i < n; i++) { /* at each edge: the last bit that counts, and the next */
        unsigned all = subnets[i].family == AF_INET ? 32 : 128, bit = subnets[i].bits;

        memcpy(near, subnets[i].bytes, sizeof near);
        judge_peer(&allowed, subnets, n, subnets[i].family, near);
        if (bit > 0 && bit < all) {
            near[bit / 8] ^= (unsigned char)(0x80u >> bit % 8);
            judge_peer(&allowed, subnets, n, subnets[i].family, near);
        }
        if (bit > 0) {
            near[(bit - 1) / 8] ^= (unsigned char)(0x80u >> (bit - 1) % 8);
            judge_peer(&allowed, subnets, n, subnets[i].family, near);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static apr_pool_t *all;
    input_t in = { data, size };
    apr_pool_t *pool;

    must(all || (apr_initialize() == APR_SUCCESS && apr_pool_create(&all, NULL) == APR_SUCCESS));
    must(apr_pool_create(&pool, all) == APR_SUCCESS);
    if (input_byte(&in) == 1)
        allow(&in, pool);
    else
        listen_on(&in, pool);
    apr_pool_destroy(pool);
    return 0;
}
