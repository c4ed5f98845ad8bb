/* SPDX-License-Identifier: Apache-2.0
 *
 * keeper.h: the housekeeping of the session process's main thread: sweeping
 * expired sessions, the repair after an unclean end, the check on request, and
 * the log lines that must not become a flood.
 */
#ifndef SD_KEEPER_H
#define SD_KEEPER_H

#include "server.h"

/* A counter whose growth is told in the log, once a minute at most. */
typedef struct sd_told {
    uint64_t seen;   /* the counter when it was last told of */
    uint64_t logged; /* ms, 0 = not yet */
} sd_told_t;

typedef struct sd_keeper {
    sd_server_t *server;
    sd_lane_t *lane;
    bool repairing;
    uint64_t repair_began; /* ms */
    sd_told_t full, accepts;
    uint64_t repaired_items, repaired_blocks; /* at the beginning of the repair */
    uint64_t next_look;    /* ms */
    uint64_t next_report;  /* ms */
} sd_keeper_t;

void sd_keeper_setup(sd_keeper_t *keeper, sd_server_t *server);
/* One tick, some 10 times a second. */
void sd_keeper_tick(sd_keeper_t *keeper, uint64_t now);
/* There is a repair to go on with: tick soon. */
bool sd_keeper_is_busy(const sd_keeper_t *keeper);
/* Stops all loops between two turns, walks the store and publishes what was
 * found; the thread that writes to disk stands already. beat(data) is called every second meanwhile, so that the parent does
 * not take a long walk for a hang. */
void sd_keeper_check(sd_keeper_t *keeper, void (*beat)(void *data), void *data);

#endif
