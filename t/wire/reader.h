/* SPDX-License-Identifier: Apache-2.0
 *
 * reader.h: what items.c and transcript.c share: where the reader stands in a
 * file. An error in the file ends the program with a sentence.
 */
#ifndef READER_H
#define READER_H

#include "transcript.h"

typedef struct reader {
    transcripts_t *all;
    transcript_t *t; /* the one being read */
    step_t *talk;    /* the talk that lines still belong to */
    const char *path;
    int line;
    const char *at;  /* in the line */
} reader_t;

__attribute__((noreturn, format(printf, 2, 3))) void fail(const reader_t *r, const char *format,
                                                          ...);
/* realloc that does not fail. */
void *grow(void *at, size_t count, size_t size);
void text_append(text_t *text, const text_t *more);

void skip_blanks(reader_t *r);
bool at_end(reader_t *r);
/* Is `word` next? Then it is passed over. */
bool next_is(reader_t *r, const char *word);
char *take_word(reader_t *r); /* to be freed */
uint64_t take_number(reader_t *r);
uint32_t take_number32(reader_t *r);
uint64_t take_version(reader_t *r);
/* "40x ..." repeats a line. */
uint64_t take_times(reader_t *r);
void take_item(reader_t *r, text_t *out);

#endif
