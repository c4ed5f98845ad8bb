/* SPDX-License-Identifier: Apache-2.0
 *
 * transcript.h: conversations as text, one file for each topic. A transcript
 * begins with a fresh store; versions count from 1.
 *
 *   transcript NAME                begins one
 *   limit max_size BYTES           (1M)   before the first step
 *   limit expiration SECONDS       (1800)
 *   limit memory BYTES             (1M)   of the segment
 *   limit evict                           SessiondWhenFull evict
 *   limit greeting ITEM
 *
 *   > [COUNTx] FRAME               the client sends; lines that follow each
 *   > ITEM...                      other make one talk
 *   < [COUNTx] STATUS ITEM...      the server must answer: an extended reply,
 *   < ITEM...                      or bytes
 *   = keep|close|drain|reset       and do this afterwards
 *   counter FIELD +N|-N|any        and count this, and nothing else
 *   holds N                        at most N blocks are held for a value on its
 *                                  way in
 *   together N REASON              the talk's last N bytes always come in one
 *                                  piece: there the split itself decides
 *
 *   connect                        another connection: the one that is open is
 *                                  given up in mid-air. After close, drain and
 *                                  reset the next talk opens one anyway.
 *   time +Ns | +Nms                the clock moves on
 *   fill leave N                   fills the store with sessions of one block,
 *                                  "fill-0" and so on, so that N blocks are
 *                                  left for new keys
 *
 *   FRAME   S|F|D|P|G|W|L|T|U|R with key= data= keylen= datalen= nonce= ttl=
 *           wait= (milliseconds) version= (absent, any or a number); then
 *           "+ ITEM..." for bytes behind it
 *   ITEM    "text" with \n \r \t \0 \" \\ \xHH | x"hex digits" | noise(N) |
 *           noise(N,SEED) | u32(N) | u64(N) | version(N) | greeting; each may
 *           be followed by *COUNT. In an answer version(?) is any version.
 *   N       decimal or 0x..., with K, M or G behind it
 */
#ifndef TRANSCRIPT_H
#define TRANSCRIPT_H

#include "protocol/wire.h"

typedef struct text {
    uint8_t *at;
    bool *any; /* this byte may be whatever it is */
    size_t len, room;
} text_t;

void text_add(text_t *text, const void *bytes, size_t n);
/* The first byte at which `got` is not as `expected` has it; the shorter one's
 * length if there is none. */
size_t text_differs(const text_t *expected, const text_t *got);
void text_free(text_t *text);

#define COUNTER_ANY INT64_MIN

typedef enum { STEP_CONNECT, STEP_TIME, STEP_FILL, STEP_TALK } step_kind_t;

typedef struct step {
    step_kind_t kind;
    int line;
    uint64_t number;  /* TIME: ms; FILL: blocks */
    text_t in, out;   /* TALK: sent, and to be answered */
    size_t together;
    uint32_t holds;   /* UINT32_MAX: not looked at */
    bool ended;       /* its "=" was there */
    sd_after_t after;
    int64_t counter[SD_COUNTERS];
} step_t;

typedef struct transcript {
    const char *file;
    char *name;
    int line;
    sd_limits_t limits;
    uint64_t memory;
    bool evict;
    step_t *step;
    size_t steps;
    size_t *edge; /* where frames begin, in all that is sent */
    size_t edges;
    size_t length; /* of all that is sent */
} transcript_t;

typedef struct transcripts {
    transcript_t *at;
    size_t count;
} transcripts_t;

extern const char *const counter_names[SD_COUNTERS];

/* Adds a file's transcripts. An error in it ends the program with a sentence. */
void transcripts_read(transcripts_t *all, const char *path);
void transcripts_free(transcripts_t *all);

#endif
