/* SPDX-License-Identifier: Apache-2.0
 *
 * transcript.c: reading the format that transcript.h describes. It is strict:
 * a word it does not know, an answer without a talk or a talk without its end
 * stops the run, since a line that is passed over would be a test that is not
 * made.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/bytes.h"
#include "reader.h"

#define COUNTER_NAME(field, key, kind, text) #field,
const char *const counter_names[SD_COUNTERS] = { SD_COUNTER_TABLE(COUNTER_NAME) };
#undef COUNTER_NAME

/* ---- frames and replies ---- */

typedef struct frame {
    char op;
    text_t key, data, nonce;
    uint32_t key_len, data_len, ttl, wait;
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
    else if (next_is(r, "wait="))
        f->wait = take_number32(r);
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
        if (f.op == 'L')
            add_u32(out, f.wait);
        if (f.op == 'T')
            add_u32(out, f.ttl);
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
    if (is_letter(r, "SFDPGWLTUR"))
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
        free(greeting.any);
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
