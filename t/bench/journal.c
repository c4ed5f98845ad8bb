/* SPDX-License-Identifier: Apache-2.0
 *
 * journal.c: what write-behind and loading cost. Fills a store with sessions of
 * one size, writes all of them by one round, then makes rounds in which some have
 * changed, and loads the journal into another store. Processor time is that of
 * the process and its children, threads of the kernel excepted.
 *
 *   journal DIRECTORY SESSIONS BYTES CHANGES ROUNDS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "persist/load.h"
#include "persist/persist.h"
#include "random.h"

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double processor(int who)
{
    struct rusage u;

    getrusage(who, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static uint64_t now_ms(void *baton)
{
    (void)baton;
    return (uint64_t)(seconds() * 1000);
}

typedef struct memory {
    void *at;
    uint64_t size;
    sd_store_t *store;
    sd_counters_t *counters;
} memory_t;

static memory_t memory_open(uint64_t sessions, uint64_t bytes)
{
    memory_t m = { NULL, (sessions * (bytes + 400) / 15 * 16) + ((uint64_t)64 << 20), NULL, NULL };
    sd_store_options_t o;
    unsigned char seed[SD_SEED_BYTES] = { 1 };
    const char *reason = NULL;

    m.at = mmap(NULL, m.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    m.counters = calloc(2, sizeof *m.counters);
    memset(&o, 0, sizeof o);
    o.lanes = 2;
    o.counters = m.counters;
    o.writes_behind = true;
    if (m.at == MAP_FAILED || !m.counters || sd_segment_format(m.at, m.size, seed, 0) != NULL
        || sd_store_attach(&m.store, m.at, m.size, &o, &reason) != SD_OK) {
        fprintf(stderr, "no store: %s\n", reason ? reason : "no memory");
        exit(1);
    }
    return m;
}

static void store_one(memory_t *m, uint64_t n, const unsigned char *data, uint32_t bytes)
{
    sd_lane_t *lane = sd_store_lane(m->store, 0);
    char key[40];
    int len = snprintf(key, sizeof key, "sess_%026llu", (unsigned long long)n);
    uint64_t version, now = now_ms(NULL);
    sd_chain_t chain;

    if (sd_chain_open(lane, &chain, key, (size_t)len, now) != SD_OK
        || sd_chain_append(lane, &chain, data, bytes, now) != SD_OK
        || sd_store_put(lane, &chain, now + 3600000, SD_VERSION_ANY, now, &version) != SD_OK) {
        fprintf(stderr, "the store is full\n");
        exit(1);
    }
}

static void round_of(sd_journal_t *j, memory_t *m, bool everything, const char *what)
{
    uint64_t now = now_ms(NULL);
    sd_round_options_t o = { now, UINT64_C(1700000000000) + now, everything, everything, NULL };
    sd_round_result_t r;
    char reason[SD_PERSIST_REASON];
    double wall = seconds(), cpu = processor(RUSAGE_SELF);

    if (sd_persist_round(j, sd_store_lane(m->store, 1), &o, &r, reason) != SD_PERSIST_OK) {
        fprintf(stderr, "%s: %s\n", what, reason);
        exit(1);
    }
    wall = seconds() - wall;
    cpu = processor(RUSAGE_SELF) - cpu;
    printf("%-12s %8llu values, copied %7llu, put %6.1f MB, cleaned %6.1f MB; %7.1f ms, processor %7.1f ms, %5.2f us each; file %6.1f MB\n",
           what, (unsigned long long)r.values, (unsigned long long)r.copied, (double)r.bytes / 1e6, (double)r.cleaned / 1e6,
           wall * 1e3, cpu * 1e3, r.values ? cpu * 1e6 / (double)r.values : 0.0, (double)sd_journal_file_bytes(j) / 1e6);
}

static void load(const char *dir, memory_t *m, bool check_first)
{
    sd_load_options_t o;
    sd_load_target_t t = { sd_store_lane(m->store, 0), now_ms(NULL), now_ms, NULL, NULL };
    sd_load_sum_t sum;
    sd_load_t *l;
    char reason[SD_PERSIST_REASON];
    double wall = seconds(), cpu = processor(RUSAGE_SELF), child = processor(RUSAGE_CHILDREN);

    memset(&o, 0, sizeof o);
    o.wall_ms = UINT64_C(1700000000000) + t.now;
    o.check_first = check_first;
    if (sd_load_start(&l, dir, &o, reason) != SD_PERSIST_OK || sd_load_into_store(l, &t, &sum, reason) != SD_PERSIST_OK) {
        fprintf(stderr, "load: %s\n", reason);
        exit(1);
    }
    sd_load_end(&l);
    printf("load%s: %llu sessions, %llu superseded: %.2f s; processor %.2f s, of the reader %.2f s\n",
           check_first ? ", checked first" : "", (unsigned long long)sum.restored, (unsigned long long)sum.report.superseded,
           seconds() - wall, processor(RUSAGE_SELF) - cpu, processor(RUSAGE_CHILDREN) - child);
}

int main(int argc, char **argv)
{
    uint64_t sessions, i, changes;
    uint32_t bytes, rounds, r;
    sd_journal_options_t o;
    sd_journal_t *j;
    char reason[SD_PERSIST_REASON];
    unsigned char *data;
    dice_t dice = dice_make(1);
    memory_t m, other;

    if (argc != 6) {
        fprintf(stderr, "usage: journal DIRECTORY SESSIONS BYTES CHANGES ROUNDS\n");
        return 2;
    }
    sessions = strtoull(argv[2], NULL, 10);
    bytes = (uint32_t)strtoul(argv[3], NULL, 10);
    changes = strtoull(argv[4], NULL, 10);
    rounds = (uint32_t)strtoul(argv[5], NULL, 10);
    data = malloc(bytes + 1);
    m = memory_open(sessions, bytes);
    for (i = 0; i < bytes; i++)
        data[i] = (unsigned char)(i * 7);
    memset(&o, 0, sizeof o);
    o.create = true;
    o.wall_ms = UINT64_C(1700000000000);
    if (sd_journal_open(&j, argv[1], &o, reason) > SD_PERSIST_FRESH) {
        fprintf(stderr, "%s\n", reason);
        return 1;
    }
    for (i = 0; i < sessions; i++)
        store_one(&m, i, data, bytes);
    round_of(j, &m, false, "all at once");
    for (r = 0; r < rounds; r++) {
        char what[32];

        for (i = 0; i < changes; i++)
            store_one(&m, dice_below(&dice, (uint32_t)sessions), data, bytes);
        snprintf(what, sizeof what, "round %u", r + 1);
        round_of(j, &m, false, what);
    }
    sd_journal_close(&j);
    for (i = 0; i < 2; i++) {
        other = memory_open(sessions, bytes);
        load(argv[1], &other, i > 0);
        sd_store_detach(&other.store);
        munmap(other.at, other.size);
        free(other.counters);
    }
    free(data);
    return 0;
}
