/* SPDX-License-Identifier: Apache-2.0
 *
 * pressure.h: who gives way when memory is short. Three rules, so that slow
 * clients hurt themselves only:
 *
 *  - values on their way in hold a quarter of the segment at most, those of less
 *    than a 256th of it three eighths. Beyond it a loop stops reading from those
 *    whose value is not complete; the oldest of all goes on, one at a time, so
 *    that there is always one that can finish;
 *  - while somebody waits, an incoming value must move: who sends less than
 *    64 KB in a second, and not the rest of the value either, is reset;
 *  - a store that finds the memory full makes every loop reset the clients that
 *    keep replaced or expired values alive and have taken nothing for a second;
 *    only if it still finds no room is it refused.
 *
 * Everything here is called by the loop's own thread. Loops see each other's
 * state by a few atomics in sd_pressure_t and by letters.
 */
#ifndef SD_PRESSURE_H
#define SD_PRESSURE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct sd_loop;
struct sd_connection;

/* What all loops share. */
typedef struct sd_pressure {
    _Atomic uint32_t paused;   /* connections that wait because of the quarter */
    atomic_bool going_first;   /* one may go on beyond the quarter */
} sd_pressure_t;

/* A loop's own part. */
typedef struct sd_loop_pressure {
    struct sd_connection *oldest, *newest; /* paused ones, in the order of their requests */
    _Atomic uint64_t oldest_since; /* ms: the oldest one's request began; UINT64_MAX = none waits
                                    * for the quarter */
    uint64_t next_pace;      /* ms: when slow ones, and complete ones, are looked for again */
    uint64_t impatient_until; /* ms: asking for memory was of no use a moment ago */
    uint64_t ask_until;      /* ms: answers are waited for until then; 0 = none was asked */
    uint32_t waiting_full;   /* paused ones that wait for memory */
    uint32_t answers_due;    /* loops that were asked to reset their stalled readers */
    uint32_t given;          /* ... and how many readers they and we reset */
} sd_loop_pressure_t;

void sd_pressure_setup(struct sd_loop *loop);

/* Fills in exec->hold_from and exec->patient for this connection's next feed. */
void sd_pressure_prepare(struct sd_loop *loop, const struct sd_connection *c);
/* Reading on would take memory beyond its share, and would not end the value. */
bool sd_pressure_holds_back(struct sd_loop *loop, const struct sd_connection *c);
/* Memory is short, and the rest of this connection's value lies in the socket:
 * taken beyond its turn, so that such values hold memory one after the other. */
bool sd_pressure_at_one_go(const struct sd_loop *loop, const struct sd_connection *c);

/* Puts a connection aside, in the state SD_PAUSED_CROWDED or SD_PAUSED_FULL, or
 * takes it out again because it ends. */
void sd_pressure_pause(struct sd_loop *loop, struct sd_connection *c);
void sd_pressure_forget(struct sd_loop *loop, struct sd_connection *c);
/* No request of this connection is under way any more. */
void sd_pressure_done(struct sd_loop *loop, struct sd_connection *c);

/* Once in every turn of the loop, after its events: resumes, resets. */
void sd_pressure_turn(struct sd_loop *loop);
/* In how many ms the loop must turn again; -1: pressure does not ask for it. */
int sd_pressure_wait_ms(const struct sd_loop *loop);

#endif
