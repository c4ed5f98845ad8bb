/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_point.h: moments at which tests kill the process: each stands between
 * two stores, where a successor could meet a change half-done. In the module a
 * point is nothing at all. The tests compile shm/ a second time, with
 * SD_KILL_POINTS; there each point enters itself in a table that the linker
 * makes, so that none can be forgotten. A point's name begins with its function.
 */
#ifndef SD_KILL_POINT_H
#define SD_KILL_POINT_H

#ifdef SD_KILL_POINTS

#include <stdatomic.h>
#include <stdint.h>

typedef struct sd_kill_point {
    const char *name;
    _Atomic uint64_t passed; /* how often this process came by */
} sd_kill_point_t;

void sd_kill_point_pass(sd_kill_point_t *point); /* the tests' own */

/* Pointers, since the linker may pad between structs. */
#define SD_KILL_POINT(text)                                                                  \
    do {                                                                                     \
        static sd_kill_point_t sd_point = { text, 0 };                                       \
        static sd_kill_point_t *sd_entry __attribute__((used, section("sd_kill_points")))    \
            = &sd_point;                                                                     \
        sd_kill_point_pass(&sd_point);                                                       \
    } while (0)

#else
#define SD_KILL_POINT(text) ((void)0)
#endif

#endif
