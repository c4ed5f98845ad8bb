/* SPDX-License-Identifier: Apache-2.0
 *
 * items.c: the words, numbers and items of a transcript's lines, and the bytes
 * that they stand for.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/bytes.h"
#include "reader.h"

void fail(const reader_t *r, const char *format, ...)
{
    va_list args;

    printf("Bail out! %s:%d: ", r->path, r->line);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    exit(1);
}

void *grow(void *at, size_t count, size_t size)
{
    at = realloc(at, count * size);
    if (!at)
        abort();
    return at;
}

void text_add(text_t *text, const void *bytes, size_t n)
{
    if (text->len + n > text->room) {
        text->room = 2 * (text->len + n);
        text->at = grow(text->at, text->room, 1);
        text->any = grow(text->any, text->room, sizeof *text->any);
    }
    if (n > 0) {
        memcpy(text->at + text->len, bytes, n);
        memset(text->any + text->len, 0, n * sizeof *text->any);
    }
    text->len += n;
}

void text_append(text_t *text, const text_t *more)
{
    size_t at = text->len;

    text_add(text, more->at, more->len);
    if (more->len > 0)
        memcpy(text->any + at, more->any, more->len * sizeof *text->any);
}

size_t text_differs(const text_t *expected, const text_t *got)
{
    size_t n = got->len < expected->len ? got->len : expected->len, i;

    for (i = 0; i < n && (expected->any[i] || got->at[i] == expected->at[i]); i++)
        ;
    return i;
}

void text_free(text_t *text)
{
    free(text->at);
    free(text->any);
    memset(text, 0, sizeof *text);
}

/* ---- words and numbers ---- */

void skip_blanks(reader_t *r)
{
    while (*r->at == ' ')
        r->at++;
}

bool at_end(reader_t *r)
{
    skip_blanks(r);
    return *r->at == '\0';
}

bool next_is(reader_t *r, const char *word)
{
    size_t n = strlen(word);

    skip_blanks(r);
    if (strncmp(r->at, word, n) != 0)
        return false;
    r->at += n;
    return true;
}

char *take_word(reader_t *r)
{
    const char *from;
    char *word;

    skip_blanks(r);
    for (from = r->at; *r->at != '\0' && *r->at != ' ';)
        r->at++;
    word = strndup(from, (size_t)(r->at - from));
    if (!word)
        abort();
    return word;
}

uint64_t take_number(reader_t *r)
{
    char *end;
    uint64_t n;

    if (!isdigit((unsigned char)*r->at))
        fail(r, "a number is missing at '%s'", r->at);
    n = strtoull(r->at, &end, 0);
    r->at = end;
    switch (*r->at) {
    case 'K': r->at++; return n << 10;
    case 'M': r->at++; return n << 20;
    case 'G': r->at++; return n << 30;
    default: return n;
    }
}

uint32_t take_number32(reader_t *r)
{
    uint64_t n = take_number(r);

    if (n > UINT32_MAX)
        fail(r, "the number has more than 32 bits");
    return (uint32_t)n;
}

uint64_t take_version(reader_t *r)
{
    if (next_is(r, "absent"))
        return SD_VERSION_ABSENT;
    if (next_is(r, "any"))
        return SD_VERSION_ANY;
    return take_number(r);
}

uint64_t take_times(reader_t *r)
{
    const char *from;
    uint64_t n;

    skip_blanks(r);
    from = r->at;
    if (!isdigit((unsigned char)*r->at))
        return 1;
    n = take_number(r);
    if (*r->at != 'x') {
        r->at = from;
        return 1;
    }
    r->at++;
    return n;
}

/* ---- items ---- */

static unsigned hex_digit(reader_t *r)
{
    char c = *r->at++;

    if (!isxdigit((unsigned char)c))
        fail(r, "'%c' is no hex digit", c);
    return isdigit((unsigned char)c) ? (unsigned)(c - '0')
                                     : (unsigned)(tolower((unsigned char)c) - 'a') + 10;
}

static uint8_t hex_byte(reader_t *r)
{
    unsigned high = hex_digit(r);

    return (uint8_t)(high << 4 | hex_digit(r));
}

static void take_string(reader_t *r, text_t *out)
{
    for (r->at++; *r->at != '"'; ) {
        char c = *r->at++;
        uint8_t byte = (uint8_t)c;

        if (c == '\0')
            fail(r, "a string has no end");
        if (c == '\\') {
            c = *r->at++;
            switch (c) {
            case 'n': byte = '\n'; break;
            case 'r': byte = '\r'; break;
            case 't': byte = '\t'; break;
            case '0': byte = 0; break;
            case 'x': byte = hex_byte(r); break;
            case '"':
            case '\\': byte = (uint8_t)c; break;
            default: fail(r, "unknown escape \\%c", c);
            }
        }
        text_add(out, &byte, 1);
    }
    r->at++;
}

static void take_hex(reader_t *r, text_t *out)
{
    for (r->at += 2; *r->at != '"'; ) {
        uint8_t byte;

        if (*r->at == ' ') {
            r->at++;
            continue;
        }
        byte = hex_byte(r);
        text_add(out, &byte, 1);
    }
    r->at++;
}

/* Bytes of every value that repeat nowhere near. */
static void add_noise(text_t *out, uint64_t n, uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (; n > 0; n--) {
        uint8_t byte;

        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        byte = (uint8_t)(x >> 32);
        text_add(out, &byte, 1);
    }
}

static void take_argument_end(reader_t *r)
{
    if (!next_is(r, ")"))
        fail(r, "')' is missing at '%s'", r->at);
}

static void take_atom(reader_t *r, text_t *out)
{
    uint8_t bytes[8];

    skip_blanks(r);
    if (*r->at == '"')
        take_string(r, out);
    else if (strncmp(r->at, "x\"", 2) == 0)
        take_hex(r, out);
    else if (next_is(r, "noise(")) {
        uint64_t n = take_number(r), seed = 1;

        if (next_is(r, ","))
            seed = take_number(r);
        take_argument_end(r);
        add_noise(out, n, seed);
    }
    else if (next_is(r, "u32(")) {
        sd_put32(bytes, take_number32(r));
        take_argument_end(r);
        text_add(out, bytes, 4);
    }
    else if (next_is(r, "version(?)")) {
        text_add(out, "anything", 8);
        memset(out->any + out->len - 8, true, 8 * sizeof *out->any);
    }
    else if (next_is(r, "u64(") || next_is(r, "version(")) {
        sd_put64(bytes, take_version(r));
        take_argument_end(r);
        text_add(out, bytes, 8);
    }
    else if (next_is(r, "greeting"))
        text_add(out, r->t->limits.greeting, strlen(r->t->limits.greeting));
    else
        fail(r, "no item begins with '%s'", r->at);
}

void take_item(reader_t *r, text_t *out)
{
    text_t one = { NULL, NULL, 0, 0 };
    uint64_t times = 1;

    take_atom(r, &one);
    if (*r->at == '*') {
        r->at++;
        times = take_number(r);
    }
    for (; times > 0; times--)
        text_append(out, &one);
    text_free(&one);
}
