/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz.h: what the fuzz targets share. A target is one function over bytes that
 * chance has made; it ends the process when a promise is broken. With libFuzzer
 * (configure --enable-fuzzing) that finds new inputs; replay.c runs the same
 * function over the inputs that are kept, with any compiler.
 *
 * An input is read as a program: each call takes what it needs from the front,
 * and zeros once it is spent, so that every input means something.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* libFuzzer's names. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A promise. What the fixtures of t/unit assert ends the process just so. */
#define must(condition) ((condition) ? (void)0 : fuzz_broken(#condition, __FILE__, __LINE__))
_Noreturn void fuzz_broken(const char *condition, const char *file, int line);

typedef struct input {
    const uint8_t *at;
    size_t left;
} input_t;

static inline uint8_t input_byte(input_t *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

/* Little-endian, of `bytes` bytes. */
static inline uint64_t input_number(input_t *in, unsigned bytes)
{
    uint64_t number = 0;
    unsigned i;

    for (i = 0; i < bytes; i++)
        number |= (uint64_t)input_byte(in) << (8 * i);
    return number;
}

/* 0 to n - 1 from as few bytes as that needs. */
static inline uint32_t input_below(input_t *in, uint32_t n)
{
    uint32_t most = n - 1;

    return (uint32_t)(input_number(in, most > 0xffff ? 4 : most > 0xff ? 2 : 1) % n);
}

/* Up to `want` bytes as they stand. */
static inline const uint8_t *input_take(input_t *in, size_t want, size_t *got)
{
    const uint8_t *at = in->at;

    *got = want < in->left ? want : in->left;
    in->at += *got;
    in->left -= *got;
    return at;
}

#endif
