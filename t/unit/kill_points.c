/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_points.c: see the header. The linker gathers the entries of all points
 * in one section and names its two ends, so the table needs no care.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "kill_points.h"
#include "shm/kill_point.h"

extern sd_kill_point_t *__start_sd_kill_points[], *__stop_sd_kill_points[];

static struct {
    const sd_kill_point_t *point; /* NULL: any */
    uint64_t n;                   /* 0: nothing is armed */
    const _Atomic uint64_t *progress;
} armed;

static _Atomic uint64_t passed; /* all points */

uint32_t kill_point_count(void)
{
    return (uint32_t)(__stop_sd_kill_points - __start_sd_kill_points);
}

const char *kill_point_name(uint32_t number)
{
    return __start_sd_kill_points[number]->name;
}

uint64_t kill_point_passed(uint32_t number)
{
    return atomic_load(&__start_sd_kill_points[number]->passed);
}

void kill_points_reset(void)
{
    uint32_t i;

    armed.n = 0;
    atomic_store(&passed, 0);
    for (i = 0; i < kill_point_count(); i++)
        atomic_store(&__start_sd_kill_points[i]->passed, 0);
}

void kill_points_arm(uint32_t number, uint64_t n, const _Atomic uint64_t *progress)
{
    kill_points_reset();
    armed.point = number == KILL_ANY ? NULL : __start_sd_kill_points[number];
    armed.progress = progress;
    armed.n = n;
}

/* The others may wait for a lock that this thread holds, so not for long. */
static void let_others_work(void)
{
    const struct timespec moment = { 0, 100000 };
    uint64_t from = atomic_load(armed.progress);
    int i;

    for (i = 0; i < 20 && atomic_load(armed.progress) < from + 12; i++)
        nanosleep(&moment, NULL);
}

void sd_kill_point_pass(sd_kill_point_t *point)
{
    uint64_t here = atomic_fetch_add(&point->passed, 1) + 1, all = atomic_fetch_add(&passed, 1) + 1;

    if (armed.n == 0 || (armed.point ? point != armed.point || here != armed.n : all != armed.n))
        return;
    if (armed.progress)
        let_others_work();
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}
