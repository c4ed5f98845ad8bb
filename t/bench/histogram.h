/* SPDX-License-Identifier: Apache-2.0
 *
 * histogram.h: latencies with a bounded relative error: 64 steps in each power
 * of two, so that a percentile is at most 1.6% off from nanoseconds to hours.
 */
#ifndef SD_BENCH_HISTOGRAM_H
#define SD_BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEPS 64
#define HISTOGRAM_POWERS 42

typedef struct histogram {
    uint64_t count;
    uint64_t most; /* ns */
    uint64_t bin[HISTOGRAM_POWERS * HISTOGRAM_STEPS];
} histogram_t;

void histogram_add(histogram_t *h, uint64_t ns);
/* The latency in ns that `share` (0 to 1) of all stayed under or met. */
uint64_t histogram_percentile(const histogram_t *h, double share);

#endif
