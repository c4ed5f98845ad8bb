/* SPDX-License-Identifier: Apache-2.0
 *
 * timer.h: deadlines of many connections, most of which never come: a wheel of
 * lists. Setting and clearing cost a few stores; a deadline that is put off
 * again and again is only looked at when its first slot comes round.
 *
 * Times are milliseconds of the loop's clock. One thread; no locking.
 */
#ifndef SD_TIMER_H
#define SD_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#define SD_TIMER_SLOTS 512u
#define SD_TIMER_TICK 128u /* ms; a deadline is met at most this late */

typedef struct sd_timer {
    struct sd_timer *prev, *next; /* next NULL = not set */
    uint64_t due;
    uint64_t slot_due; /* when its slot is looked at; never after `due` by more than a tick */
} sd_timer_t;

typedef struct sd_timer_wheel {
    sd_timer_t slot[SD_TIMER_SLOTS]; /* heads of rings */
    uint64_t tick;                   /* the next one to look at */
    uint32_t count;
} sd_timer_wheel_t;

void sd_timer_wheel_setup(sd_timer_wheel_t *wheel, uint64_t now);
/* Sets or moves a deadline. */
void sd_timer_set(sd_timer_wheel_t *wheel, sd_timer_t *timer, uint64_t due);
void sd_timer_clear(sd_timer_wheel_t *wheel, sd_timer_t *timer);
/* Takes one timer that is due by `now` off the wheel; NULL = none left. */
sd_timer_t *sd_timer_expire(sd_timer_wheel_t *wheel, uint64_t now);

#endif
