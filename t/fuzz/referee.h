/* SPDX-License-Identifier: Apache-2.0
 *
 * referee.h: judges conversations by doc/protocol.md. It reads the frames that
 * a client sent in a way of its own, keeps a plain table of what must be stored
 * and locked, and holds each byte that came back against it. Where memory was short it
 * takes what the document allows: a refusal that was counted, and with
 * "SessiondWhenFull evict" sessions that are gone, as many as were evicted.
 */
#ifndef FUZZ_REFEREE_H
#define FUZZ_REFEREE_H

#include "client.h"

enum { REFEREE_ENTRIES = 1280, REFEREE_LOCKS = 64 };

typedef struct entry {
    uint8_t key[SD_KEY_MAX];
    uint8_t *data;
    uint64_t version, expiry;
    uint32_t key_len, len;
    bool present; /* live unless its expiry has come */
    bool locked;  /* by this connection */
} entry_t;

typedef struct referee {
    const sd_limits_t *limits;
    const sd_counters_t *counters; /* the server's own, one slot */
    sd_counters_t seen;            /* what they must be */
    bool evicts;
    uint64_t now;
    uint64_t last_version, gone; /* gone: evictions that were noticed */
    entry_t *entry;
    uint32_t entries;
    uint32_t locks; /* entries that are locked */

    uint8_t sent[CLIENT_SENT_MAX]; /* on this connection, from the first frame not answered on */
    size_t sent_len;
    bool persistent;

    const uint8_t *answer; /* not yet held against anything */
    size_t answer_len;
} referee_t;

/* One referee at a time. */
void referee_setup(referee_t *r, const sd_limits_t *limits, const sd_counters_t *counters, bool evicts);
void referee_teardown(referee_t *r);
void referee_hang_up(referee_t *r);
void referee_judge(referee_t *r, const uint8_t *sent, size_t n, const outcome_t *outcome,
                   const client_t *client);
/* Everything that must be stored is, and every counter is right. */
void referee_judge_end(referee_t *r, fixture_t *f);

#endif
