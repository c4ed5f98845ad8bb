/* SPDX-License-Identifier: Apache-2.0
 *
 * test_locks_threads.c: four threads that meet over few session locks. A model
 * tells what may not be: two holders, a request that is never answered, one that
 * is answered twice, a grant that nobody is told of. The counters must agree with
 * what the threads saw. Meant to be run under the thread sanitizer as well.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "protocol/locks.h"
#include "store_fixture.h"

#define FOREVER UINT64_MAX

enum { THREADS = 4, OWNERS = 5, KEYS = 6, STUCK_S = 20 };

typedef struct arena {
    sd_locks_t *locks;
    uint64_t lease;
    uint32_t ops;
    bool ends;                     /* leases do, while the test runs */
    _Atomic uint32_t holder[KEYS]; /* who believes to hold it; where no lease ends */
    uint64_t written[KEYS];        /* in passages, by nobody else: not atomic, for that is the test */
    _Atomic bool over;
    _Atomic(const char *) failure; /* the first one */
} arena_t;

typedef struct guest {
    sd_lock_owner_t owner;
    uint32_t id, awaited;  /* the key */
    bool waits;
    uint64_t until;
    bool believes[KEYS];   /* was told that it holds it */
} guest_t;

typedef struct host {
    arena_t *arena;
    sd_counters_t counters;
    sd_lock_mailbox_t mailbox;
    sem_t woken;
    dice_t dice;
    uint64_t asks, at_once, renewed, refused, waits, told, told_late, gave_up, cancelled;
    uint64_t wrote[KEYS];
    guest_t guest[OWNERS];
} host_t;

static void complain(arena_t *a, const char *what)
{
    const char *none = NULL;

    atomic_compare_exchange_strong(&a->failure, &none, what);
}

static uint64_t clock_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Two keys in each shard. */
static sd_lock_key_t arena_key(uint32_t k)
{
    static const uint8_t bytes[KEYS] = "abcdef";

    return (sd_lock_key_t){ bytes + k, 1, k / 2 + (uint64_t)(k % 2) * 64 };
}

static void wake_host(void *data)
{
    sem_post(&((host_t *)data)->woken);
}

static void believe(host_t *h, guest_t *g, uint32_t k)
{
    g->believes[k] = true;
    if (!h->arena->ends && atomic_exchange(&h->arena->holder[k], g->id) != 0)
        complain(h->arena, "two hold one key");
}

static void disbelieve(host_t *h, guest_t *g, uint32_t k)
{
    g->believes[k] = false;
    if (!h->arena->ends && atomic_exchange(&h->arena->holder[k], 0) != g->id)
        complain(h->arena, "somebody else held it too");
}

static void accept_grant(host_t *h, guest_t *g)
{
    sd_lock_key_t key;

    if (!g->waits || !g->owner.awaited || !g->owner.granted) {
        complain(h->arena, "granted, and did not wait");
        return;
    }
    key = sd_locks_accept(&g->owner);
    if (key.bytes[0] != 'a' + g->awaited)
        complain(h->arena, "granted another key");
    g->waits = false;
    believe(h, g, g->awaited);
}

static void take_grants(host_t *h)
{
    sd_lock_owner_t *owner;

    while ((owner = sd_locks_next_granted(&h->mailbox))) {
        h->told++;
        accept_grant(h, (guest_t *)(void *)owner);
    }
}

static void ask_for(host_t *h, guest_t *g)
{
    arena_t *a = h->arena;
    uint32_t k = dice_below(&h->dice, KEYS), kind = dice_below(&h->dice, 4);
    sd_lock_key_t key = arena_key(k);
    uint64_t now = clock_ms(), until = now + dice_below(&h->dice, 5);

    if (kind == 0)
        until = now;
    if (kind == 1 && g->owner.count == 0) /* who holds nothing may wait for ever */
        until = FOREVER;
    h->asks++;
    switch (sd_locks_ask(a->locks, &g->owner, &key, &h->mailbox, until, now, &h->counters)) {
    case SD_LOCK_GRANTED:
        if (g->believes[k]) {
            h->renewed++;
            break;
        }
        h->at_once++;
        believe(h, g, k);
        break;
    case SD_LOCK_WAITS:
        if (until <= now)
            complain(a, "a try waits");
        if (g->believes[k] && !a->ends)
            complain(a, "the holder waits");
        h->waits++;
        g->waits = true;
        g->believes[k] = false;
        g->awaited = k;
        g->until = until;
        break;
    case SD_LOCK_REFUSED:
        if (until > now)
            complain(a, "refused before its time");
        if (g->believes[k] && !a->ends)
            complain(a, "the holder is refused");
        h->refused++;
        g->believes[k] = false;
        break;
    default:
        complain(a, "neither granted nor refused");
    }
}

/* In a passage: was what is not ours any more taken after its time, and not before?
 * Whoever took it may have had its time of day earlier than we have ours now. */
static bool is_over(const arena_t *a, const sd_lock_passage_t *p)
{
    sd_lock_owner_t only = { .claims = p->claim };
    sd_claim_t *claim = NULL;
    sd_claim_state_t state;

    return p->claim && sd_locks_save(&only, &claim, &state) && state.kind == SD_CLAIM_LOST
           && clock_ms() >= state.since + a->lease;
}

/* Mostly one that it holds, if there is one. */
static uint32_t choose_key(host_t *h, const guest_t *g)
{
    uint32_t k = dice_below(&h->dice, KEYS), n;

    for (n = dice_below(&h->dice, 8) ? KEYS : 0; n > 0 && !g->believes[k]; n--)
        k = (k + 1) % KEYS;
    return k;
}

static void pass(host_t *h, guest_t *g, bool unlock_it)
{
    arena_t *a = h->arena;
    uint32_t k = choose_key(h, g);
    sd_lock_key_t key = arena_key(k);
    bool believed = g->believes[k], held;
    sd_lock_passage_t p = sd_locks_enter(a->locks, &g->owner, &key);

    if (p.view != SD_LOCK_OTHERS) {
        a->written[k]++;
        h->wrote[k]++;
    }
    if (p.view == SD_LOCK_MINE && !believed)
        complain(a, "holds what it was not told of");
    if (p.view != SD_LOCK_MINE && believed) {
        if (!is_over(a, &p))
            complain(a, "lost within its lease");
        g->believes[k] = false;
    }
    if (unlock_it && g->believes[k])
        disbelieve(h, g, k);
    held = sd_locks_leave(a->locks, &p, unlock_it, clock_ms(), &h->counters);
    if (held != (unlock_it && p.view == SD_LOCK_MINE))
        complain(a, "held and not held");
}

static void let_all_go(host_t *h, guest_t *g)
{
    uint32_t k;

    for (k = 0; k < KEYS; k++)
        if (g->believes[k])
            disbelieve(h, g, k);
    h->cancelled += g->waits;
    g->waits = false;
    sd_locks_release_all(h->arena->locks, &g->owner, clock_ms(), &h->counters);
    if (g->owner.claims || g->owner.awaited || g->owner.granted || g->owner.count != 0)
        complain(h->arena, "something is left after all was released");
}

static void look_at_the_time(host_t *h, guest_t *g)
{
    if (clock_ms() < g->until)
        return;
    if (sd_locks_give_up(h->arena->locks, &g->owner, clock_ms(), &h->counters)) {
        h->told_late++;
        accept_grant(h, g);
        return;
    }
    h->gave_up++;
    g->waits = false;
    if (g->owner.awaited)
        complain(h->arena, "given up, and waits");
}

static void operate(host_t *h, guest_t *g)
{
    uint32_t kind = dice_below(&h->dice, 40);

    if (g->waits) {
        if (kind == 0 && dice_below(&h->dice, 8) == 0)
            let_all_go(h, g);
        else
            look_at_the_time(h, g);
    }
    else if (kind < 18 && g->owner.count < 2)
        ask_for(h, g);
    else if (kind < 34)
        pass(h, g, true);
    else if (kind < 39)
        pass(h, g, false);
    else
        let_all_go(h, g);
}

/* All guests wait: until somebody wakes us, or the first has waited long enough. A
 * grant of which we are not told would leave us here. */
static void sleep_if_all_wait(host_t *h)
{
    uint64_t now = clock_ms(), until = now + STUCK_S * 1000, wait;
    struct timespec t;
    uint32_t i;

    for (i = 0; i < OWNERS; i++) {
        if (!h->guest[i].waits)
            return;
        if (h->guest[i].until < until)
            until = h->guest[i].until;
    }
    wait = until > now ? until - now : 0;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += (time_t)(wait / 1000);
    t.tv_nsec += (long)(wait % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    while (sem_timedwait(&h->woken, &t) != 0) {
        if (errno == EINTR)
            continue;
        if (wait >= STUCK_S * 1000)
            complain(h->arena, "nobody was woken");
        return;
    }
    take_grants(h);
}

static void *play(void *data)
{
    host_t *h = data;
    uint32_t n, i;

    for (n = 0; n < h->arena->ops && !atomic_load(&h->arena->failure); n++) {
        /* only when it was woken: what comes without that is not found */
        if (sem_trywait(&h->woken) == 0)
            take_grants(h);
        operate(h, &h->guest[dice_below(&h->dice, OWNERS)]);
        sleep_if_all_wait(h);
    }
    for (i = 0; i < OWNERS; i++)
        let_all_go(h, &h->guest[i]);
    return NULL;
}

static void *keep_house(void *data)
{
    host_t *h = data;
    struct timespec pause = { 0, 500000 };
    sd_lock_report_t report[4];

    while (!atomic_load(&h->arena->over)) {
        sd_locks_tick(h->arena->locks, clock_ms(), &h->counters);
        if (sd_locks_report(h->arena->locks, report, 4) > 4)
            complain(h->arena, "a report of too many");
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static host_t *host_new(arena_t *a, uint32_t number)
{
    host_t *h = aligned_alloc(64, (sizeof *h + 63) / 64 * 64);
    uint32_t i;

    assert_non_null(h);
    memset(h, 0, sizeof *h);
    h->arena = a;
    h->dice = dice_new(number + 1 + a->lease);
    sem_init(&h->woken, 0, 0);
    sd_lock_mailbox_setup(&h->mailbox, wake_host, h);
    for (i = 0; i < OWNERS; i++)
        h->guest[i].id = 1 + number * OWNERS + i;
    return h;
}

static uint64_t sum(host_t *const *host, size_t at)
{
    uint64_t n = 0;
    uint32_t i;

    for (i = 0; i <= THREADS; i++)
        n += *(const uint64_t *)(const void *)((const char *)host[i] + at);
    return n;
}
#define SUM(field) sum(host, offsetof(host_t, field))

static void judge(const arena_t *a, host_t *const *host)
{
    uint64_t cancelled = SUM(cancelled), granted = SUM(at_once) + SUM(told) + SUM(told_late);
    uint32_t i, k;

    assert_int_equal(SUM(counters.locks_held), 0);
    assert_int_equal(SUM(counters.lock_waiters), 0);
    assert_int_equal(SUM(asks), SUM(at_once) + SUM(renewed) + SUM(refused) + SUM(waits));
    assert_int_equal(SUM(waits), SUM(told) + SUM(told_late) + SUM(gave_up) + cancelled);
    assert_int_equal(SUM(counters.lock_waits), SUM(waits));
    assert_int_equal(SUM(counters.lock_timeouts), SUM(refused) + SUM(gave_up));
    if (!a->ends) { /* else what was lost and had again counts as renewed here */
        assert_in_range(SUM(counters.lock_grants), granted, granted + cancelled);
        assert_int_equal(SUM(counters.leases_ended), 0);
    }
    else
        assert_true(SUM(counters.leases_ended) > 0);
    for (k = 0; k < KEYS; k++) {
        uint64_t wrote = 0;

        for (i = 0; i < THREADS; i++)
            wrote += host[i]->wrote[k];
        assert_int_equal(a->written[k], wrote);
        assert_int_equal(atomic_load(&a->holder[k]), 0);
    }
    for (i = 0; i <= THREADS; i++)
        assert_null(sd_locks_next_granted(&host[i]->mailbox));
    assert_true(SUM(told) > 0 && SUM(gave_up) > 0 && SUM(refused) > 0 && cancelled > 0);
}

static void threads_meet(uint64_t lease, bool ends, uint32_t ops)
{
    arena_t a = { .lease = lease, .ends = ends, .ops = ops };
    pthread_t thread[THREADS + 1];
    host_t *host[THREADS + 1];
    uint32_t i;

    a.locks = sd_locks_create(lease);
    assert_non_null(a.locks);
    for (i = 0; i <= THREADS; i++) {
        host[i] = host_new(&a, i);
        assert_int_equal(pthread_create(&thread[i], NULL, i < THREADS ? play : keep_house, host[i]), 0);
    }
    for (i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    atomic_store(&a.over, true);
    pthread_join(thread[THREADS], NULL);
    if (atomic_load(&a.failure))
        fail_msg("%s", atomic_load(&a.failure));
    judge(&a, host);
    for (i = 0; i <= THREADS; i++) {
        sem_destroy(&host[i]->woken);
        sd_lock_mailbox_teardown(&host[i]->mailbox);
        free(host[i]);
    }
    sd_locks_destroy(&a.locks);
}

static void threads_meet_and_leases_do_not_end(void **state)
{
    (void)state;
    threads_meet(3600000, false, test_ops(100000, 3000));
}

static void threads_meet_and_leases_end(void **state)
{
    (void)state;
    threads_meet(2, true, test_ops(100000, 3000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_meet_and_leases_do_not_end),
        cmocka_unit_test(threads_meet_and_leases_end),
    };

    alarm(600);
    return cmocka_run_group_tests_name("locks by threads", tests, NULL, NULL);
}
