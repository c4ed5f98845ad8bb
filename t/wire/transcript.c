/* SPDX-License-Identifier: Apache-2.0
 *
 * transcript.c: reading the format that transcript.h describes. It is strict:
 * a word it does not know, an answer without a talk or a talk without its end
 * stops the run, since a line that is passed over would be a test that is not
 * made.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/bytes.h"
#include "transcript.h"

#define COUNTER_NAME(field, key, kind, text) #field,
const char *const counter_names[SD_COUNTERS] = { SD_COUNTER_TABLE(COUNTER_NAME) };
#undef COUNTER_NAME

typedef struct reader {
    transcripts_t *all;
    transcript_t *t; /* the one being read */
    step_t *talk;    /* the talk that lines still belong to */
    const char *path;
    int line;
    const char *at;  /* in the line */
} reader_t;

__attribute__((noreturn, format(printf, 2, 3))) static void fail(const reader_t *r, const char *format, ...)
{
    va_list args;

    printf("Bail out! %s:%d: ", r->path, r->line);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    exit(1);
}

static void *grow(void *at, size_t count, size_t size)
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

static void text_append(text_t *text, const text_t *more)
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

static void skip_blanks(reader_t *r)
{
    while (*r->at == ' ')
        r->at++;
}

static bool at_end(reader_t *r)
{
    skip_blanks(r);
    return *r->at == '\0';
}

/* Is `word` next? Then it is passed over. */
static bool next_is(reader_t *r, const char *word)
{
    size_t n = strlen(word);

    skip_blanks(r);
    if (strncmp(r->at, word, n) != 0)
        return false;
    r->at += n;
    return true;
}

static char *take_word(reader_t *r)
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

static uint64_t take_number(reader_t *r)
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

static uint32_t take_number32(reader_t *r)
{
    uint64_t n = take_number(r);

    if (n > UINT32_MAX)
        fail(r, "the number has more than 32 bits");
    return (uint32_t)n;
}

static uint64_t take_version(reader_t *r)
{
    if (next_is(r, "absent"))
        return SD_VERSION_ABSENT;
    if (next_is(r, "any"))
        return SD_VERSION_ANY;
    return take_number(r);
}

/* "40x ..." repeats a line. */
static uint64_t take_times(reader_t *r)
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
    return isdigit((unsigned char)c) ? (unsigned)(c - '0') : (unsigned)(tolower((unsigned char)c) - 'a') + 10;
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

static void take_item(reader_t *r, text_t *out)
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

/* ---- frames and replies ---- */

typedef struct frame {
    char op;
    text_t key, data, nonce;
    uint32_t key_len, data_len, ttl;
    uint64_t version;
    bool has_key_len, has_data_len;
} frame_t;

static bool take_parameter(reader_t *r, frame_t *f)
{
    if (next_is(r, "key="))
        take_item(r, &f->key);
    else if (next_is(r, "data="))
        take_item(r, &f->data);
    else if (next_is(r, "nonce="))
        take_item(r, &f->nonce);
    else if (next_is(r, "ttl="))
        f->ttl = take_number32(r);
    else if (next_is(r, "version="))
        f->version = take_version(r);
    else if (next_is(r, "keylen=")) {
        f->key_len = take_number32(r);
        f->has_key_len = true;
    }
    else if (next_is(r, "datalen=")) {
        f->data_len = take_number32(r);
        f->has_data_len = true;
    }
    else
        return false;
    return true;
}

static void add_u32(text_t *out, uint32_t n)
{
    uint8_t bytes[4];

    sd_put32(bytes, n);
    text_add(out, bytes, 4);
}

static void take_frame(reader_t *r, text_t *out)
{
    frame_t f;
    uint8_t version[8];

    memset(&f, 0, sizeof f);
    f.op = *r->at++;
    f.version = SD_VERSION_ANY;
    while (!at_end(r) && take_parameter(r, &f))
        ;
    if (!f.has_key_len)
        f.key_len = (uint32_t)f.key.len;
    if (!f.has_data_len)
        f.data_len = (uint32_t)f.data.len;
    text_add(out, &f.op, 1);
    if (f.op == 'P') {
        if (f.nonce.len != 8 || f.key.len + f.data.len > 0)
            fail(r, "P has a nonce of 8 bytes and nothing else");
        text_add(out, f.nonce.at, 8);
    }
    else {
        add_u32(out, f.key_len);
        if (f.op == 'S' || f.op == 'W')
            add_u32(out, f.data_len);
        else if (f.data.len > 0 || f.has_data_len)
            fail(r, "%c has no data", f.op);
        if (f.op == 'W') {
            add_u32(out, f.ttl);
            sd_put64(version, f.version);
            text_add(out, version, 8);
        }
        text_append(out, &f.key);
        text_append(out, &f.data);
    }
    if (next_is(r, "+"))
        while (!at_end(r))
            take_item(r, out);
    if (!at_end(r))
        fail(r, "what is '%s'?", r->at);
    text_free(&f.key);
    text_free(&f.data);
    text_free(&f.nonce);
}

/* A capital alone: a frame or a reply. */
static bool is_letter(reader_t *r, const char *letters)
{
    skip_blanks(r);
    return *r->at != '\0' && strchr(letters, *r->at) && (r->at[1] == ' ' || r->at[1] == '\0');
}

static void take_items(reader_t *r, text_t *out)
{
    if (at_end(r))
        fail(r, "the line is empty");
    while (!at_end(r))
        take_item(r, out);
}

static step_t *add_step(reader_t *r, step_kind_t kind)
{
    step_t *step;

    r->t->step = grow(r->t->step, r->t->steps + 1, sizeof *r->t->step);
    step = &r->t->step[r->t->steps++];
    memset(step, 0, sizeof *step);
    step->kind = kind;
    step->line = r->line;
    step->holds = UINT32_MAX;
    r->talk = kind == STEP_TALK ? step : NULL;
    return step;
}

static step_t *talk_of(reader_t *r)
{
    if (!r->talk)
        fail(r, "a line '> ...' must come first");
    return r->talk;
}

static void note_edge(transcript_t *t, size_t at)
{
    t->edge = grow(t->edge, t->edges + 1, sizeof *t->edge);
    t->edge[t->edges++] = at;
}

static void check_talk(reader_t *r)
{
    if (r->talk && !r->talk->ended)
        fail(r, "the talk of line %d has no '=' line", r->talk->line);
    if (r->talk && r->talk->together > r->talk->in.len)
        fail(r, "the talk of line %d is not that long", r->talk->line);
}

static void read_sent(reader_t *r)
{
    uint64_t times;
    text_t one = { NULL, NULL, 0, 0 };
    step_t *talk = r->talk;

    if (!talk || talk->out.len > 0 || talk->ended) {
        check_talk(r);
        talk = add_step(r, STEP_TALK);
    }
    times = take_times(r);
    if (is_letter(r, "SFDPGW"))
        take_frame(r, &one);
    else
        take_items(r, &one);
    for (; times > 0; times--) {
        note_edge(r->t, r->t->length);
        text_append(&talk->in, &one);
        r->t->length += one.len;
    }
    text_free(&one);
}

static void read_answer(reader_t *r)
{
    step_t *talk = talk_of(r);
    text_t one = { NULL, NULL, 0, 0 }, body = { NULL, NULL, 0, 0 };
    uint64_t times = take_times(r);

    if (talk->ended)
        fail(r, "an answer behind its talk's end");
    if (is_letter(r, "KVNBE")) {
        text_add(&one, r->at++, 1);
        while (!at_end(r))
            take_item(r, &body);
        add_u32(&one, (uint32_t)body.len);
        text_append(&one, &body);
    }
    else
        take_items(r, &one);
    for (; times > 0; times--)
        text_append(&talk->out, &one);
    text_free(&one);
    text_free(&body);
}

static void read_end(reader_t *r)
{
    static const char *const words[] = { "keep", "close", "drain", "reset" };
    static const sd_after_t afters[]
        = { SD_AFTER_KEEP, SD_AFTER_CLOSE, SD_AFTER_DRAIN, SD_AFTER_RESET };
    step_t *talk = talk_of(r);
    size_t i;

    for (i = 0; i < 4; i++)
        if (next_is(r, words[i])) {
            talk->after = afters[i];
            talk->ended = true;
            return;
        }
    fail(r, "'= %s': give keep, close, drain or reset", r->at);
}

static void read_counter(reader_t *r)
{
    step_t *talk = talk_of(r);
    char *name = take_word(r);
    size_t i;

    for (i = 0; i < SD_COUNTERS && strcmp(name, counter_names[i]) != 0; i++)
        ;
    if (i == SD_COUNTERS)
        fail(r, "no counter is called '%s'", name);
    free(name);
    if (next_is(r, "any"))
        talk->counter[i] = COUNTER_ANY;
    else if (next_is(r, "+"))
        talk->counter[i] = (int64_t)take_number(r);
    else if (next_is(r, "-"))
        talk->counter[i] = -(int64_t)take_number(r);
    else
        fail(r, "give +N, -N or any");
}

static void read_limit(reader_t *r)
{
    transcript_t *t = r->t;

    if (t->steps > 0)
        fail(r, "limits come before the first step");
    if (next_is(r, "max_size "))
        t->limits.max_size = take_number(r);
    else if (next_is(r, "expiration "))
        t->limits.expiration_ms = take_number(r) * 1000;
    else if (next_is(r, "memory "))
        t->memory = take_number(r);
    else if (next_is(r, "evict"))
        t->evict = true;
    else if (next_is(r, "greeting ")) {
        text_t greeting = { NULL, NULL, 0, 0 };

        take_item(r, &greeting);
        text_add(&greeting, "", 1);
        free((void *)(uintptr_t)t->limits.greeting);
        t->limits.greeting = (const char *)greeting.at;
    }
    else
        fail(r, "no limit is called '%s'", r->at);
}

static void read_time(reader_t *r)
{
    step_t *step;

    check_talk(r);
    step = add_step(r, STEP_TIME);
    if (!next_is(r, "+"))
        fail(r, "give time +Ns or +Nms");
    step->number = take_number(r);
    if (next_is(r, "ms"))
        return;
    if (!next_is(r, "s"))
        fail(r, "give time +Ns or +Nms");
    step->number *= 1000;
}

static void begin_transcript(reader_t *r)
{
    transcripts_t *all = r->all;
    transcript_t *t;

    check_talk(r);
    if (r->t && r->t->steps == 0)
        fail(r, "the transcript before this one is empty");
    all->at = grow(all->at, all->count + 1, sizeof *all->at);
    r->t = t = &all->at[all->count++];
    r->talk = NULL;
    memset(t, 0, sizeof *t);
    skip_blanks(r);
    t->file = r->path;
    t->line = r->line;
    t->name = strdup(r->at);
    t->memory = SD_SEGMENT_MIN;
    t->limits.max_size = 1u << 20;
    t->limits.expiration_ms = 1800000;
    t->limits.greeting = strdup("mod_sessiond/1.0 P G W");
    if (!t->name || !*t->name || !t->limits.greeting)
        fail(r, "the transcript has no name");
    r->at += strlen(r->at);
}

static void read_line(reader_t *r)
{
    if (at_end(r) || *r->at == '#')
        return;
    if (next_is(r, "transcript ")) {
        begin_transcript(r);
        return;
    }
    if (!r->t)
        fail(r, "a line 'transcript NAME' must come first");
    if (next_is(r, "> "))
        read_sent(r);
    else if (next_is(r, "< "))
        read_answer(r);
    else if (next_is(r, "= "))
        read_end(r);
    else if (next_is(r, "counter "))
        read_counter(r);
    else if (next_is(r, "limit "))
        read_limit(r);
    else if (next_is(r, "time "))
        read_time(r);
    else if (next_is(r, "together ")) {
        talk_of(r)->together = (size_t)take_number(r);
        if (at_end(r))
            fail(r, "say why they stay together");
        r->at += strlen(r->at);
    }
    else if (next_is(r, "holds "))
        talk_of(r)->holds = take_number32(r);
    else if (next_is(r, "connect")) {
        check_talk(r);
        add_step(r, STEP_CONNECT);
    }
    else if (next_is(r, "fill leave ")) {
        check_talk(r);
        add_step(r, STEP_FILL)->number = take_number(r);
    }
    else
        fail(r, "what is '%s'?", r->at);
    if (!at_end(r))
        fail(r, "what is '%s'?", r->at);
}

void transcripts_read(transcripts_t *all, const char *path)
{
    reader_t r = { all, NULL, NULL, path, 0, NULL };
    FILE *in = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    ssize_t n;

    if (!in)
        fail(&r, "cannot be opened");
    while ((n = getline(&line, &room, in)) >= 0) {
        if (n > 0 && line[n - 1] == '\n')
            line[n - 1] = '\0';
        r.line++;
        r.at = line;
        read_line(&r);
    }
    check_talk(&r);
    if (!r.t || r.t->steps == 0)
        fail(&r, "no transcript, or an empty one");
    free(line);
    fclose(in);
}

void transcripts_free(transcripts_t *all)
{
    size_t i, k;

    for (i = 0; i < all->count; i++) {
        transcript_t *t = &all->at[i];

        for (k = 0; k < t->steps; k++) {
            text_free(&t->step[k].in);
            text_free(&t->step[k].out);
        }
        free(t->step);
        free(t->edge);
        free(t->name);
        free((void *)(uintptr_t)t->limits.greeting);
    }
    free(all->at);
    memset(all, 0, sizeof *all);
}
