/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_points.h: the tests' side of shm/kill_point.h. Points are numbered as
 * they stand in the linker's table. One is armed at a time, before the threads
 * that may come by are started; a child inherits it by fork.
 */
#ifndef KILL_POINTS_H
#define KILL_POINTS_H

#include <stdint.h>

#define KILL_ANY UINT32_MAX /* passages of all points count together */

uint32_t kill_point_count(void);
const char *kill_point_name(uint32_t number);
uint64_t kill_point_passed(uint32_t number); /* by this process since the last kill_points_reset */

void kill_points_reset(void); /* nothing is armed, nothing was passed */

/* The process gets SIGKILL at the n-th passage of that point. With `progress`,
 * whoever comes there first stops, with all the locks that he holds, until the
 * others have moved it on or have come to a stop too. */
void kill_points_arm(uint32_t number, uint64_t n, const _Atomic uint64_t *progress);

#endif
