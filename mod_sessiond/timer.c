/* SPDX-License-Identifier: Apache-2.0
 *
 * timer.c: the wheel of timer.h. A deadline beyond the wheel's horizon waits
 * in the last slot and is put on again from there.
 */
#include <stddef.h>

#include "timer.h"

void sd_timer_wheel_setup(sd_timer_wheel_t *wheel, uint64_t now)
{
    uint32_t i;

    for (i = 0; i < SD_TIMER_SLOTS; i++)
        wheel->slot[i].prev = wheel->slot[i].next = &wheel->slot[i];
    wheel->tick = now / SD_TIMER_TICK;
    wheel->count = 0;
}

static void unlink_timer(sd_timer_t *timer)
{
    timer->prev->next = timer->next;
    timer->next->prev = timer->prev;
    timer->prev = timer->next = NULL;
}

static void link_timer(sd_timer_wheel_t *wheel, sd_timer_t *timer)
{
    uint64_t tick = timer->due / SD_TIMER_TICK + 1;
    sd_timer_t *head;

    if (tick < wheel->tick)
        tick = wheel->tick;
    else if (tick >= wheel->tick + SD_TIMER_SLOTS - 1)
        tick = wheel->tick + SD_TIMER_SLOTS - 2; /* never the slot being looked at */
    timer->slot_due = tick * SD_TIMER_TICK;
    head = &wheel->slot[tick % SD_TIMER_SLOTS];
    timer->prev = head->prev;
    timer->next = head;
    head->prev->next = timer;
    head->prev = timer;
}

void sd_timer_set(sd_timer_wheel_t *wheel, sd_timer_t *timer, uint64_t due)
{
    timer->due = due;
    if (timer->next) {
        if (timer->slot_due <= due + SD_TIMER_TICK)
            return; /* later than its slot: moved when the slot comes */
        unlink_timer(timer);
    }
    else
        wheel->count++;
    link_timer(wheel, timer);
}

void sd_timer_clear(sd_timer_wheel_t *wheel, sd_timer_t *timer)
{
    if (!timer->next)
        return;
    unlink_timer(timer);
    wheel->count--;
}

sd_timer_t *sd_timer_expire(sd_timer_wheel_t *wheel, uint64_t now)
{
    uint64_t last = now / SD_TIMER_TICK;

    /* after a long stall every slot is looked at once, not every tick */
    if (last >= wheel->tick + SD_TIMER_SLOTS)
        wheel->tick = last - SD_TIMER_SLOTS + 1;
    while (wheel->tick <= last) {
        sd_timer_t *head = &wheel->slot[wheel->tick % SD_TIMER_SLOTS], *timer = head->next;

        if (timer == head) {
            wheel->tick++;
            continue;
        }
        unlink_timer(timer);
        if (timer->due <= now) {
            wheel->count--;
            return timer;
        }
        /* not this slot again: the loop would not end */
        wheel->tick++;
        link_timer(wheel, timer);
        wheel->tick--;
    }
    return NULL;
}
