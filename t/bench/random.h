/* SPDX-License-Identifier: Apache-2.0
 *
 * random.h: the benchmarks' dice: fast, seeded, the same on every run, so that
 * two servers get the same keys and sizes in the same order.
 */
#ifndef SD_BENCH_RANDOM_H
#define SD_BENCH_RANDOM_H

#include <stdint.h>

typedef struct dice {
    uint64_t state; /* never 0 */
} dice_t;

static inline dice_t dice_make(uint64_t seed)
{
    return (dice_t){ seed * UINT64_C(0xd1342543de82ef95) | 1 };
}

static inline uint64_t dice_roll(dice_t *d)
{
    d->state ^= d->state >> 12;
    d->state ^= d->state << 25;
    d->state ^= d->state >> 27;
    return d->state * UINT64_C(0x2545f4914f6cdd1d);
}

static inline uint32_t dice_below(dice_t *d, uint32_t n)
{
    return (uint32_t)(((dice_roll(d) >> 32) * n) >> 32);
}

/* Above 0, below 1. */
static inline double dice_unit(dice_t *d)
{
    return ((double)(dice_roll(d) >> 11) + 0.5) / 9007199254740992.0;
}

#endif
