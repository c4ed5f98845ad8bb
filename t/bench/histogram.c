/* SPDX-License-Identifier: Apache-2.0
 *
 * histogram.c: bins are found by the position of the highest bit and the six
 * bits below it; no floating point on the way in.
 */
#include "histogram.h"

static unsigned bin_of(uint64_t ns)
{
    unsigned high = ns < HISTOGRAM_STEPS ? 0 : 63u - (unsigned)__builtin_clzll(ns) - 5u;
    unsigned bin;

    if (high == 0)
        return (unsigned)ns;
    bin = high * HISTOGRAM_STEPS + (unsigned)(ns >> high) % HISTOGRAM_STEPS;
    return bin < HISTOGRAM_POWERS * HISTOGRAM_STEPS ? bin : HISTOGRAM_POWERS * HISTOGRAM_STEPS - 1;
}

static uint64_t upper_edge(unsigned bin)
{
    unsigned high = bin / HISTOGRAM_STEPS;

    return ((uint64_t)(bin % HISTOGRAM_STEPS) + 1) << high;
}

void histogram_add(histogram_t *h, uint64_t ns)
{
    h->bin[bin_of(ns)]++;
    h->count++;
    if (ns > h->most)
        h->most = ns;
}

uint64_t histogram_percentile(const histogram_t *h, double share)
{
    uint64_t want = (uint64_t)((double)h->count * share + 0.5), seen = 0;
    unsigned bin;

    for (bin = 0; bin < HISTOGRAM_POWERS * HISTOGRAM_STEPS; bin++) {
        seen += h->bin[bin];
        if (seen >= want && seen > 0)
            return upper_edge(bin) < h->most ? upper_edge(bin) : h->most;
    }
    return h->most;
}
