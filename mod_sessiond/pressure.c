/* SPDX-License-Identifier: Apache-2.0
 *
 * pressure.c: holding back, pacing and shedding. What is hard: it must cost
 * nothing while memory is plenty (one comparison for each read), the oldest of
 * the connections of several threads must be found without one thread touching
 * another's, and nobody may wait for ever: the one that goes first is itself
 * bound to move.
 */
#include "connection.h"
#include "loop.h"
#include "pressure.h"

#define PACE_MS 1000u
#define PACE_BYTES 65536u
#define PACE_LOOK_MS 250
#define READER_STALL_MS 1000u
#define IMPATIENT_MS 200u
#define ASK_MS 500u /* a loop that does not answer within it is not waited for */
#define TURN_MS 10

void sd_pressure_setup(sd_loop_t *loop)
{
    atomic_store(&loop->pressure.oldest_since, UINT64_MAX);
}

/* Must this connection's value wait? */
static bool is_crowded_out(const sd_loop_t *loop, const sd_connection_t *c)
{
    uint32_t from = sd_store_hold_from(loop->server->store), held = sd_wire_held_size(&c->wire);

    return from != 0 && (held > 0 ? held : sd_wire_size(&c->wire)) >= from;
}

void sd_pressure_prepare(sd_loop_t *loop, const sd_connection_t *c)
{
    loop->exec.hold_from = c->goes_first ? 0 : sd_store_hold_from(loop->server->store);
    loop->exec.patient = !c->asked && sd_store_detached(loop->server->store) > 0
                         && loop->exec.now >= loop->pressure.impatient_until
                         && !atomic_load(&loop->server->closing);
}

bool sd_pressure_holds_back(sd_loop_t *loop, const sd_connection_t *c)
{
    return !c->goes_first && sd_wire_is_taking(&c->wire) && is_crowded_out(loop, c)
           && c->transport->pending(c->fd) < sd_wire_wanted(&c->wire);
}

bool sd_pressure_at_one_go(const sd_loop_t *loop, const sd_connection_t *c)
{
    return sd_wire_is_taking(&c->wire) && is_crowded_out(loop, c)
           && c->transport->pending(c->fd) >= sd_wire_wanted(&c->wire);
}

/* ---- the queue of those who wait ---- */

/* The oldest one that waits for the quarter, as others may know it. */
static void publish_oldest(sd_loop_t *loop)
{
    const sd_connection_t *c = loop->pressure.oldest;

    while (c && c->state != SD_PAUSED_CROWDED)
        c = c->paused_next;
    atomic_store(&loop->pressure.oldest_since, c ? c->since : UINT64_MAX);
}

void sd_pressure_pause(sd_loop_t *loop, sd_connection_t *c)
{
    sd_loop_pressure_t *p = &loop->pressure;
    sd_connection_t *after = p->newest;

    while (after && after->since > c->since)
        after = after->paused_prev;
    c->paused_prev = after;
    c->paused_next = after ? after->paused_next : p->oldest;
    if (c->paused_next)
        c->paused_next->paused_prev = c;
    else
        p->newest = c;
    if (after)
        after->paused_next = c;
    else
        p->oldest = c;
    if (c->state == SD_PAUSED_CROWDED) {
        if (!c->was_held_back)
            sd_count(loop->counters, held_back);
        c->was_held_back = true;
        atomic_fetch_add(&loop->server->pressure.paused, 1);
        publish_oldest(loop);
    }
    else
        p->waiting_full++;
}

void sd_pressure_forget(sd_loop_t *loop, sd_connection_t *c)
{
    sd_loop_pressure_t *p = &loop->pressure;
    bool crowded = c->state == SD_PAUSED_CROWDED;

    if (!crowded && c->state != SD_PAUSED_FULL)
        return;
    if (c->paused_prev)
        c->paused_prev->paused_next = c->paused_next;
    else
        p->oldest = c->paused_next;
    if (c->paused_next)
        c->paused_next->paused_prev = c->paused_prev;
    else
        p->newest = c->paused_prev;
    c->paused_prev = c->paused_next = NULL;
    if (crowded) {
        atomic_fetch_sub(&loop->server->pressure.paused, 1);
        publish_oldest(loop);
    }
    else
        p->waiting_full--;
}

void sd_pressure_done(sd_loop_t *loop, sd_connection_t *c)
{
    c->asked = c->was_held_back = false;
    if (c->goes_first) {
        c->goes_first = false;
        atomic_store(&loop->server->pressure.going_first, false);
    }
}

/* ---- the quarter ---- */

/* Is the oldest one here the oldest of all? */
static bool is_oldest_of_all(const sd_loop_t *loop)
{
    uint64_t mine = atomic_load(&loop->pressure.oldest_since);
    uint32_t i;

    for (i = 0; i < loop->server->loops; i++)
        if (atomic_load(&loop->server->loop[i]->pressure.oldest_since) < mine)
            return false;
    return true;
}

static void resume(sd_loop_t *loop, sd_connection_t *c)
{
    sd_pressure_forget(loop, c);
    c->moved_at = loop->exec.now;
    c->moved_mark = (uint32_t)sd_wire_wanted(&c->wire);
    sd_connection_resume(loop, c);
}

static sd_connection_t *first_of(const sd_loop_t *loop, uint8_t state)
{
    sd_connection_t *c = loop->pressure.oldest;

    while (c && c->state != state)
        c = c->paused_next;
    return c;
}

/* Those that can go on do, in order. Each reads at once, so that the next look
 * at what incoming values hold is true. `look`: also for those whose value has
 * become complete in the socket meanwhile. */
static void resume_crowded(sd_loop_t *loop, bool look)
{
    sd_connection_t *c, *next, *first = first_of(loop, SD_PAUSED_CROWDED);

    for (c = first; c; c = next) {
        bool no = false;

        next = c->paused_next;
        if (c->state != SD_PAUSED_CROWDED)
            continue;
        if (is_crowded_out(loop, c) && !(look && c->transport->pending(c->fd) >= c->needs)) {
            if (c != first || !is_oldest_of_all(loop)
                || !atomic_compare_exchange_strong(&loop->server->pressure.going_first, &no, true))
                continue;
            c->goes_first = true;
        }
        resume(loop, c);
    }
}

/* While others wait: whoever holds memory for an incoming value must move. A
 * mark that is older than the last look but one was set before anybody waited. */
static void reset_slow_writers(sd_loop_t *loop)
{
    sd_connection_t *c, *next;
    uint64_t now = loop->exec.now;
    bool stale = now > loop->pressure.next_pace + PACE_MS;

    for (c = loop->connections; c; c = next) {
        uint32_t wanted = (uint32_t)sd_wire_wanted(&c->wire);

        next = c->next;
        if (c->state != SD_READING || !sd_wire_is_taking(&c->wire))
            continue;
        if (stale || c->moved_at == 0 || c->moved_mark < wanted
            || c->moved_mark - wanted >= PACE_BYTES) {
            c->moved_at = now;
            c->moved_mark = wanted;
        }
        else if (now - c->moved_at >= PACE_MS) {
            sd_count(loop->counters, slow_writers);
            sd_connection_reset(loop, c);
        }
    }
}

/* ---- full memory ---- */

static uint32_t reset_stalled_readers(sd_loop_t *loop)
{
    sd_connection_t *c, *next;
    uint32_t n = 0;

    for (c = loop->connections; c; c = next) {
        next = c->next;
        if (c->state != SD_SENDING || loop->exec.now - c->moved_at < READER_STALL_MS
            || !sd_reply_holds_detached(c->stalled, loop->lane))
            continue;
        sd_count(loop->counters, slow_readers);
        sd_connection_reset(loop, c);
        n++;
    }
    return n;
}

static void take_answer(sd_loop_t *loop, void *what)
{
    sd_loop_pressure_t *p = &loop->pressure;

    p->given += (uint32_t)(uintptr_t)what;
    if (p->answers_due > 0)
        p->answers_due--;
}

static void give_way(sd_loop_t *loop, void *what)
{
    (void)sd_loop_post(what, take_answer, (void *)(uintptr_t)reset_stalled_readers(loop));
}

static void ask_for_memory(sd_loop_t *loop)
{
    sd_loop_pressure_t *p = &loop->pressure;
    sd_server_t *server = loop->server;
    uint32_t i;

    p->given = reset_stalled_readers(loop); /* answers that are late from the last time are still due */
    p->ask_until = loop->exec.now + ASK_MS;
    for (i = 0; i < server->loops && !atomic_load(&server->closing); i++)
        if (server->loop[i] != loop && sd_loop_post(server->loop[i], give_way, loop))
            p->answers_due++;
}

/* When all loops have answered, those who wait get their second try. */
static void resume_full(sd_loop_t *loop)
{
    sd_loop_pressure_t *p = &loop->pressure;
    sd_connection_t *c;

    if (p->ask_until == 0)
        ask_for_memory(loop);
    if (p->answers_due > 0 && loop->exec.now < p->ask_until)
        return;
    p->ask_until = 0;
    if (p->given == 0)
        p->impatient_until = loop->exec.now + IMPATIENT_MS;
    while ((c = first_of(loop, SD_PAUSED_FULL))) {
        c->asked = true;
        resume(loop, c);
    }
}

void sd_pressure_turn(sd_loop_t *loop)
{
    bool look;

    if (loop->pressure.waiting_full > 0)
        resume_full(loop);
    if (atomic_load_explicit(&loop->server->pressure.paused, memory_order_relaxed) == 0)
        return;
    look = loop->exec.now >= loop->pressure.next_pace;
    if (look) {
        reset_slow_writers(loop);
        loop->pressure.next_pace = loop->exec.now + PACE_LOOK_MS;
    }
    resume_crowded(loop, look);
}

int sd_pressure_wait_ms(const sd_loop_t *loop)
{
    if (loop->pressure.oldest)
        return TURN_MS;
    return atomic_load_explicit(&loop->server->pressure.paused, memory_order_relaxed) > 0
               ? PACE_LOOK_MS
               : -1;
}
