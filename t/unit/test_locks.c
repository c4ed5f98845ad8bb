/* SPDX-License-Identifier: Apache-2.0
 *
 * test_locks.c: session locks. First by one thread, where every outcome is known;
 * then by four that meet over few keys, where a model tells what may not be: two
 * holders, a request that is never answered, one that is answered twice, a grant
 * that nobody is told of. The counters must agree with what the threads saw.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "protocol/locks.h"
#include "store_fixture.h"

#define LEASE 60000u
#define FOREVER UINT64_MAX

typedef struct table {
    sd_locks_t *locks;
    sd_counters_t counters;
    sd_lock_mailbox_t mailbox;
    uint32_t wakes;
} table_t;

static void wake(void *data)
{
    ((table_t *)data)->wakes++;
}

static table_t *table_open(uint64_t lease)
{
    table_t *t = aligned_alloc(64, (sizeof *t + 63) / 64 * 64);

    assert_non_null(t);
    memset(t, 0, sizeof *t);
    t->locks = sd_locks_create(lease);
    assert_non_null(t->locks);
    sd_lock_mailbox_setup(&t->mailbox, wake, t);
    return t;
}

#define count(t, field) ((uint32_t)atomic_load(&(t)->counters.field))

static void table_close(table_t *t)
{
    sd_lock_report_t report;

    assert_int_equal(count(t, locks_held), 0);
    assert_int_equal(count(t, lock_waiters), 0);
    assert_int_equal(sd_locks_report(t->locks, &report, 1), 0);
    assert_false(sd_lock_mailbox_has_some(&t->mailbox));
    assert_null(sd_locks_next_granted(&t->mailbox));
    sd_locks_destroy(&t->locks);
    assert_null(t->locks);
    sd_lock_mailbox_teardown(&t->mailbox);
    free(t);
}

/* A key of its text; the hash is spread, as the store's is. */
static sd_lock_key_t key_of(const char *text)
{
    sd_lock_key_t key = { (const uint8_t *)text, (uint32_t)strlen(text), 1469598103934665603u };
    uint32_t i;

    for (i = 0; i < key.len; i++)
        key.hash = (key.hash ^ key.bytes[i]) * 1099511628211u;
    return key;
}

static sd_lock_result_t ask(table_t *t, sd_lock_owner_t *owner, const char *text, uint64_t until, uint64_t now)
{
    sd_lock_key_t key = key_of(text);

    return sd_locks_ask(t->locks, owner, &key, &t->mailbox, until, now, &t->counters);
}

static sd_lock_view_t view_of(table_t *t, sd_lock_owner_t *owner, const char *text)
{
    sd_lock_key_t key = key_of(text);
    sd_lock_passage_t p = sd_locks_enter(t->locks, owner, &key);
    sd_lock_view_t view = p.view;

    assert_false(sd_locks_leave(t->locks, &p, false, 0, &t->counters));
    return view;
}

static bool unlock(table_t *t, sd_lock_owner_t *owner, const char *text, uint64_t now)
{
    sd_lock_key_t key = key_of(text);
    sd_lock_passage_t p = sd_locks_enter(t->locks, owner, &key);

    return sd_locks_leave(t->locks, &p, true, now, &t->counters);
}

static void release(table_t *t, sd_lock_owner_t *owner, uint64_t now)
{
    sd_locks_release_all(t->locks, owner, now, &t->counters);
    assert_null(owner->claims);
    assert_null(owner->awaited);
    assert_false(owner->granted);
    assert_int_equal(owner->count, 0);
}

/* The mailbox tells of this owner and no other. */
static void is_told(table_t *t, sd_lock_owner_t *owner, const char *text)
{
    sd_lock_key_t key;

    assert_true(sd_lock_mailbox_has_some(&t->mailbox));
    assert_ptr_equal(sd_locks_next_granted(&t->mailbox), owner);
    assert_true(owner->granted);
    assert_non_null(owner->awaited);
    assert_null(sd_locks_next_granted(&t->mailbox));
    assert_false(sd_lock_mailbox_has_some(&t->mailbox));
    key = sd_locks_accept(owner);
    assert_int_equal(key.len, strlen(text));
    assert_memory_equal(key.bytes, text, key.len);
    assert_int_equal(key.hash, key_of(text).hash);
    assert_false(owner->granted);
    assert_null(owner->awaited);
}

static void nobody_is_told(table_t *t)
{
    assert_false(sd_lock_mailbox_has_some(&t->mailbox));
    assert_null(sd_locks_next_granted(&t->mailbox));
}

/* ---- one thread ---- */

static void first_come_first_served(void **state)
{
    enum { OWNERS = 40 };
    table_t *t = table_open(LEASE);
    sd_lock_owner_t owner[OWNERS] = { { 0 } };
    uint64_t now = 1000;
    uint32_t i;

    (void)state;
    assert_int_equal(ask(t, &owner[0], "k", FOREVER, now), SD_LOCK_GRANTED);
    assert_null(owner[0].awaited);
    for (i = 1; i < OWNERS; i++) {
        assert_int_equal(ask(t, &owner[i], "k", FOREVER, now + i), SD_LOCK_WAITS);
        assert_non_null(owner[i].awaited);
        assert_true(sd_locks_wait_ends(&owner[i]) == FOREVER);
        assert_int_equal(count(t, lock_waiters), i);
    }
    assert_int_equal(count(t, locks_held), 1);
    nobody_is_told(t);
    for (i = 1; i < OWNERS; i++) {
        assert_true(unlock(t, &owner[i - 1], "k", now + 1000));
        is_told(t, &owner[i], "k");
        assert_int_equal(t->wakes, i);
        assert_int_equal(view_of(t, &owner[i], "k"), SD_LOCK_MINE);
        assert_int_equal(view_of(t, &owner[i - 1], "k"), SD_LOCK_OTHERS);
        assert_int_equal(count(t, lock_waiters), OWNERS - 1 - i);
        assert_int_equal(count(t, locks_held), 1);
    }
    assert_true(unlock(t, &owner[OWNERS - 1], "k", now));
    assert_false(unlock(t, &owner[OWNERS - 1], "k", now));
    nobody_is_told(t);
    assert_int_equal(count(t, lock_grants), OWNERS);
    assert_int_equal(count(t, lock_waits), OWNERS - 1);
    assert_int_equal(count(t, lock_wait_ms), 39 * 1000 - 39 * 40 / 2);
    assert_int_equal(count(t, lock_timeouts) + count(t, leases_ended), 0);
    table_close(t);
}

static void renewed_by_the_holder(void **state)
{
    table_t *t = table_open(1000);
    sd_lock_owner_t a = { 0 }, b = { 0 };

    (void)state;
    assert_int_equal(ask(t, &a, "k", 0, 10000), SD_LOCK_GRANTED);
    assert_int_equal(ask(t, &a, "k", 0, 10900), SD_LOCK_GRANTED);
    assert_int_equal(a.count, 1);
    assert_int_equal(count(t, lock_grants), 1);
    assert_int_equal(ask(t, &b, "k", 10999, 11000), SD_LOCK_REFUSED); /* else it would be over */
    assert_int_equal(ask(t, &b, "k", FOREVER, 11000), SD_LOCK_WAITS);
    sd_locks_tick(t->locks, 11899, &t->counters);
    nobody_is_told(t);
    assert_int_equal(ask(t, &a, "k", 0, 11899), SD_LOCK_GRANTED); /* also past those who wait */
    sd_locks_tick(t->locks, 12898, &t->counters);
    nobody_is_told(t);
    sd_locks_tick(t->locks, 12899, &t->counters);
    is_told(t, &b, "k");
    assert_int_equal(count(t, leases_ended), 1);
    release(t, &a, 13000);
    release(t, &b, 13000);
    table_close(t);
}

static void a_try_does_not_wait(void **state)
{
    table_t *t = table_open(LEASE);
    sd_lock_owner_t a = { 0 }, b = { 0 };

    (void)state;
    assert_int_equal(ask(t, &a, "k", 5000, 5000), SD_LOCK_GRANTED);
    assert_int_equal(ask(t, &b, "k", 5000, 5000), SD_LOCK_REFUSED);
    assert_int_equal(ask(t, &b, "k", 4000, 5000), SD_LOCK_REFUSED);
    assert_null(b.claims);
    assert_int_equal(b.count, 0);
    assert_int_equal(count(t, lock_timeouts), 2);
    assert_int_equal(count(t, lock_waits), 0);
    assert_int_equal(ask(t, &b, "K", 5000, 5000), SD_LOCK_GRANTED); /* another key */
    assert_int_equal(count(t, locks_held), 2);
    release(t, &a, 5000);
    assert_int_equal(ask(t, &b, "k", 5000, 5000), SD_LOCK_GRANTED);
    assert_int_equal(b.count, 2);
    release(t, &b, 5000);
    table_close(t);
}

static void waiting_is_given_up(void **state)
{
    table_t *t = table_open(LEASE);
    sd_lock_owner_t a = { 0 }, b = { 0 }, c = { 0 };

    (void)state;
    assert_false(sd_locks_give_up(t->locks, &a, 0, &t->counters)); /* it does not wait */
    ask(t, &a, "k", FOREVER, 1);
    assert_int_equal(ask(t, &b, "k", 500, 1), SD_LOCK_WAITS);
    assert_int_equal(ask(t, &c, "k", 900, 1), SD_LOCK_WAITS);
    assert_int_equal(sd_locks_wait_ends(&b), 500);
    assert_false(sd_locks_give_up(t->locks, &b, 500, &t->counters));
    assert_null(b.claims);
    assert_null(b.awaited);
    assert_int_equal(count(t, lock_timeouts), 1);
    assert_int_equal(count(t, lock_waiters), 1);
    unlock(t, &a, "k", 600);
    is_told(t, &c, "k");
    assert_int_equal(count(t, lock_wait_ms), 599);
    release(t, &c, 600);
    table_close(t);
}

/* Granted, and given up before the mailbox was looked at: it is granted, and no
 * second time. */
static void a_grant_races_giving_up(void **state)
{
    table_t *t = table_open(LEASE);
    sd_lock_owner_t a = { 0 }, b = { 0 }, c = { 0 };

    (void)state;
    ask(t, &a, "k", FOREVER, 1);
    ask(t, &b, "k", 500, 1);
    ask(t, &c, "k", 500, 1);
    unlock(t, &a, "k", 500);
    assert_true(sd_lock_mailbox_has_some(&t->mailbox));
    assert_true(sd_locks_give_up(t->locks, &b, 500, &t->counters));
    assert_true(b.granted);
    nobody_is_told(t);
    sd_locks_accept(&b);
    assert_int_equal(view_of(t, &b, "k"), SD_LOCK_MINE);
    /* the one after it ends before it is told */
    unlock(t, &b, "k", 500);
    assert_true(sd_lock_mailbox_has_some(&t->mailbox));
    release(t, &c, 500);
    nobody_is_told(t);
    assert_int_equal(count(t, lock_timeouts), 0);
    assert_int_equal(count(t, lock_grants), 3);
    table_close(t);
}

/* Several grants lie in one mailbox; one is taken out of the middle. */
static void grants_of_a_mailbox(void **state)
{
    table_t *t = table_open(LEASE);
    sd_lock_owner_t a = { 0 }, w[5] = { { 0 } };
    static const char *const keys[] = { "1", "2", "3", "4", "5" };
    uint32_t i;

    (void)state;
    for (i = 0; i < 5; i++) {
        ask(t, &a, keys[i], FOREVER, 1);
        ask(t, &w[i], keys[i], FOREVER, 1);
    }
    for (i = 0; i < 5; i++)
        unlock(t, &a, keys[i], 2);
    assert_int_equal(t->wakes, 1); /* whoever is awake takes them all */
    release(t, &w[2], 3);
    release(t, &w[4], 3);
    release(t, &w[0], 3);
    assert_ptr_equal(sd_locks_next_granted(&t->mailbox), &w[1]);
    assert_true(sd_lock_mailbox_has_some(&t->mailbox));
    assert_ptr_equal(sd_locks_next_granted(&t->mailbox), &w[3]);
    nobody_is_told(t);
    sd_locks_accept(&w[1]);
    sd_locks_accept(&w[3]);
    release(t, &w[1], 4);
    release(t, &w[3], 4);
    table_close(t);
}

/* Over, and somebody asks: both are needed. */
static void a_lease_ends_by_a_request(void **state)
{
    table_t *t = table_open(1000);
    sd_lock_owner_t a = { 0 }, b = { 0 }, c = { 0 };

    (void)state;
    ask(t, &a, "k", FOREVER, 1);
    sd_locks_tick(t->locks, 999999, &t->counters);
    assert_int_equal(view_of(t, &a, "k"), SD_LOCK_MINE);
    assert_int_equal(view_of(t, &b, "k"), SD_LOCK_OTHERS); /* to write is not to ask */
    assert_int_equal(count(t, leases_ended), 0);
    assert_int_equal(ask(t, &b, "k", 0, 999999), SD_LOCK_GRANTED); /* a try is */
    assert_int_equal(count(t, leases_ended), 1);
    nobody_is_told(t);
    assert_int_equal(view_of(t, &a, "k"), SD_LOCK_OTHERS);
    assert_int_equal(view_of(t, &b, "k"), SD_LOCK_MINE);
    /* who asks behind those who wait stands behind them, though the lease is over */
    assert_int_equal(ask(t, &c, "k", FOREVER, 1000000), SD_LOCK_WAITS);
    assert_int_equal(ask(t, &a, "k", FOREVER, 1000999), SD_LOCK_WAITS);
    is_told(t, &c, "k");
    assert_int_equal(count(t, leases_ended), 2);
    assert_int_equal(view_of(t, &b, "k"), SD_LOCK_OTHERS);
    release(t, &c, 1001000);
    is_told(t, &a, "k");
    release(t, &a, 1001000);
    release(t, &b, 1001000);
    table_close(t);
}

static void leases_end_by_the_tick(void **state)
{
    enum { KEYS = 300 };
    table_t *t = table_open(1000);
    sd_lock_owner_t holder[KEYS] = { { 0 } }, waiter[KEYS] = { { 0 } };
    char text[KEYS][8];
    uint32_t i, told = 0;
    uint64_t now;

    (void)state;
    for (i = 0; i < KEYS; i++) {
        snprintf(text[i], sizeof text[i], "k%u", i);
        assert_int_equal(ask(t, &holder[i], text[i], FOREVER, 1000 + i), SD_LOCK_GRANTED);
        if (i % 3 != 0)
            assert_int_equal(ask(t, &waiter[i], text[i], FOREVER, 1500), SD_LOCK_WAITS);
    }
    for (now = 1990; now < 2400; now += 7) {
        sd_lock_owner_t *owner;

        sd_locks_tick(t->locks, now, &t->counters);
        while ((owner = sd_locks_next_granted(&t->mailbox))) {
            i = (uint32_t)(owner - waiter);
            assert_true(now >= 2000 + i && now < 2000 + i + 7);
            sd_locks_accept(owner);
            assert_int_equal(view_of(t, &holder[i], text[i]), SD_LOCK_OTHERS);
            told++;
        }
    }
    assert_int_equal(told, KEYS - KEYS / 3);
    assert_int_equal(count(t, leases_ended), told);
    assert_int_equal(count(t, locks_held), KEYS);
    for (i = 0; i < KEYS; i++) {
        release(t, &holder[i], now);
        release(t, &waiter[i], now);
    }
    table_close(t);
}

/* Whoever has lost a lock learns it by what he tries, and may ask again. */
static void lost_claims(void **state)
{
    table_t *t = table_open(1000);
    sd_lock_owner_t a = { 0 }, b = { 0 };

    (void)state;
    ask(t, &a, "k", FOREVER, 1);
    ask(t, &b, "k", 0, 1001);
    assert_int_equal(a.count, 1);
    assert_int_equal(ask(t, &a, "k", 0, 1002), SD_LOCK_REFUSED);
    assert_int_equal(a.count, 0);
    release(t, &b, 1003);
    ask(t, &a, "k", FOREVER, 1100);
    ask(t, &b, "k", 0, 2100);
    assert_int_equal(ask(t, &a, "k", FOREVER, 2101), SD_LOCK_WAITS); /* the lost one waits now */
    assert_int_equal(a.count, 1);
    unlock(t, &b, "k", 2102);
    is_told(t, &a, "k");
    ask(t, &b, "k", 0, 3102);
    assert_false(unlock(t, &a, "k", 3103));
    assert_int_equal(a.count, 0);
    assert_int_equal(view_of(t, &b, "k"), SD_LOCK_MINE);
    ask(t, &a, "k", 0, 4102);
    release(t, &b, 4103); /* a lost one is nothing to release */
    assert_int_equal(view_of(t, &a, "k"), SD_LOCK_MINE);
    release(t, &a, 4104);
    assert_int_equal(count(t, leases_ended), 4);
    table_close(t);
}

/* Taken away before the owner was told: it is told all the same. */
static void lost_before_it_was_told(void **state)
{
    table_t *t = table_open(1000);
    sd_lock_owner_t a = { 0 }, b = { 0 }, c = { 0 };

    (void)state;
    ask(t, &a, "k", FOREVER, 1);
    ask(t, &b, "k", FOREVER, 1);
    ask(t, &c, "k", FOREVER, 1);
    unlock(t, &a, "k", 10);
    sd_locks_tick(t->locks, 1010, &t->counters);
    assert_ptr_equal(sd_locks_next_granted(&t->mailbox), &b);
    assert_ptr_equal(sd_locks_next_granted(&t->mailbox), &c);
    sd_locks_accept(&b);
    sd_locks_accept(&c);
    assert_int_equal(view_of(t, &b, "k"), SD_LOCK_OTHERS);
    assert_int_equal(view_of(t, &c, "k"), SD_LOCK_MINE);
    release(t, &b, 1011);
    release(t, &c, 1011);
    table_close(t);
}

static void all_is_released(void **state)
{
    table_t *t = table_open(1000);
    sd_lock_owner_t a = { 0 }, b = { 0 }, c = { 0 };

    (void)state;
    ask(t, &b, "lost", FOREVER, 1);
    ask(t, &c, "lost", 0, 1001);
    ask(t, &b, "held", 0, 1001);
    ask(t, &b, "contended", 0, 1001);
    ask(t, &a, "awaited", 0, 1001);
    ask(t, &c, "contended", FOREVER, 1001);
    ask(t, &b, "awaited", FOREVER, 1001);
    assert_int_equal(b.count, 4);
    assert_int_equal(count(t, locks_held), 4);
    assert_int_equal(count(t, lock_waiters), 2);
    release(t, &b, 1002);
    is_told(t, &c, "contended");
    assert_int_equal(count(t, locks_held), 3);
    assert_int_equal(count(t, lock_waiters), 0);
    assert_int_equal(view_of(t, &b, "held"), SD_LOCK_FREE);
    assert_int_equal(view_of(t, &b, "lost"), SD_LOCK_OTHERS);
    release(t, &b, 1002); /* of nothing */
    unlock(t, &a, "awaited", 1003);
    nobody_is_told(t);
    release(t, &a, 1003);
    release(t, &c, 1003);
    table_close(t);
}

static void views_of_a_passage(void **state)
{
    table_t *t = table_open(LEASE);
    sd_lock_owner_t a = { 0 }, b = { 0 };

    (void)state;
    assert_int_equal(view_of(t, &a, "k"), SD_LOCK_FREE);
    assert_false(unlock(t, &a, "k", 1));
    ask(t, &a, "k", 0, 1);
    assert_int_equal(view_of(t, &a, "k"), SD_LOCK_MINE);
    assert_int_equal(view_of(t, &b, "k"), SD_LOCK_OTHERS);
    assert_int_equal(view_of(t, &a, "j"), SD_LOCK_FREE);
    assert_false(unlock(t, &b, "k", 1)); /* not his */
    assert_int_equal(view_of(t, &a, "k"), SD_LOCK_MINE);
    assert_true(unlock(t, &a, "k", 1));
    assert_int_equal(view_of(t, &b, "k"), SD_LOCK_FREE);
    table_close(t);
}

static void most_claims_of_one_owner(void **state)
{
    table_t *t = table_open(LEASE);
    sd_lock_owner_t a = { 0 }, b = { 0 };
    char text[8];
    uint32_t i;

    (void)state;
    assert_int_equal(SD_LOCKS_MOST, 64);
    for (i = 0; i < SD_LOCKS_MOST; i++) {
        snprintf(text, sizeof text, "k%u", i);
        assert_int_equal(ask(t, &a, text, 0, 1), SD_LOCK_GRANTED);
    }
    assert_int_equal(ask(t, &a, "one more", FOREVER, 1), SD_LOCK_TOO_MANY);
    assert_int_equal(view_of(t, &b, "one more"), SD_LOCK_FREE);
    assert_int_equal(ask(t, &a, "k0", 0, 1), SD_LOCK_GRANTED); /* one that it has */
    assert_true(unlock(t, &a, "k63", 1));
    assert_int_equal(ask(t, &b, "k63", 0, 1), SD_LOCK_GRANTED);
    assert_int_equal(ask(t, &a, "k63", FOREVER, 1), SD_LOCK_WAITS); /* what is awaited counts */
    assert_false(sd_locks_give_up(t->locks, &a, 2, &t->counters));
    assert_int_equal(a.count, SD_LOCKS_MOST - 1);
    assert_int_equal(ask(t, &a, "one more", 0, 2), SD_LOCK_GRANTED);
    release(t, &a, 3);
    release(t, &b, 3);
    table_close(t);
}

/* Keys that share a bucket, or the whole hash, or are beginnings of each other. */
static void many_locks_in_one_bucket(void **state)
{
    enum { KEYS = 500 };
    table_t *t = table_open(LEASE);
    static sd_lock_owner_t holder[KEYS], waiter[KEYS];
    uint8_t bytes[KEYS];
    uint32_t i, n, told = 0;
    dice_t dice = dice_new(7);

    (void)state;
    memset(bytes, 'k', sizeof bytes);
    for (i = 0; i < KEYS; i++) {
        sd_lock_key_t key = { bytes, 1 + i % 250, i < 250 ? 77 : 77 + 64 * 256 };

        assert_int_equal(sd_locks_ask(t->locks, &holder[i], &key, &t->mailbox, 0, 1, &t->counters),
                         SD_LOCK_GRANTED);
        assert_int_equal(sd_locks_ask(t->locks, &waiter[i], &key, &t->mailbox, FOREVER, 1, &t->counters),
                         SD_LOCK_WAITS);
    }
    for (n = 0; n < 3 * KEYS; n++)
        release(t, &holder[dice_below(&dice, KEYS)], 2);
    for (i = KEYS; i-- > 0;)
        release(t, &holder[i], 2);
    for (i = 0; i < KEYS; i++) {
        sd_lock_owner_t *owner = sd_locks_next_granted(&t->mailbox);
        sd_lock_key_t key;

        assert_non_null(owner);
        n = (uint32_t)(owner - waiter);
        key = sd_locks_accept(owner);
        assert_int_equal(key.len, 1 + n % 250);
        assert_int_equal(key.hash, n < 250 ? 77 : 77 + 64 * 256);
        release(t, owner, 3);
        told++;
    }
    assert_int_equal(told, KEYS);
    table_close(t);
}

static void a_report_has_the_worst_first(void **state)
{
    table_t *t = table_open(LEASE);
    sd_lock_owner_t holder[5] = { { 0 } }, waiter[6] = { { 0 } };
    static const char *const keys[] = { "a", "b", "c", "d", "eeee" };
    /* waiting: a 0, b 1, c 2, d 3, e 0; held since 10, 9, 8, 7, 6 */
    static const uint32_t expected[] = { 3, 2, 1, 4, 0 }, waits[] = { 3, 2, 1, 0, 0 };
    sd_lock_report_t r[8];
    uint32_t i, k, max, w = 0;

    (void)state;
    for (i = 0; i < 5; i++) {
        ask(t, &holder[i], keys[i], 0, 10 - i);
        for (k = 0; k < i && i < 4; k++)
            ask(t, &waiter[w++], keys[i], FOREVER, 20 + i + k);
    }
    for (max = 0; max <= 8; max++) {
        memset(r, 0xee, sizeof r);
        assert_int_equal(sd_locks_report(t->locks, r, max), max < 5 ? max : 5);
        for (i = 0; i < max && i < 5; i++) {
            uint32_t e = expected[i];

            assert_int_equal(r[i].key_len, strlen(keys[e]));
            assert_memory_equal(r[i].key, keys[e], r[i].key_len);
            assert_ptr_equal(r[i].holder, &holder[e]);
            assert_int_equal(r[i].since, 10 - e);
            assert_int_equal(r[i].waiting, waits[i]);
            assert_int_equal(r[i].oldest, waits[i] > 0 ? 20 + e : 0);
        }
        if (max < 8)
            assert_int_equal(r[max < 5 ? max : 5].key[0], 0xee); /* not a byte beyond */
    }
    for (i = 0; i < 5; i++)
        release(t, &holder[i], 30);
    for (i = 0; i < w; i++)
        release(t, &waiter[i], 30);
    table_close(t);
}

/* ---- handing over ---- */

/* What a wire would carry: a copy that does not point into the old table. */
typedef struct carried {
    sd_claim_state_t state;
    uint8_t key[255];
    uint32_t owner;
    uint64_t hash;
} carried_t;

static uint32_t save_all(sd_lock_owner_t *owners, uint32_t n, carried_t *out)
{
    uint32_t i, count = 0;

    for (i = 0; i < n; i++) {
        sd_claim_t *claim = NULL;
        sd_claim_state_t state;

        while (sd_locks_save(&owners[i], &claim, &state)) {
            carried_t *c = &out[count++];

            c->state = state;
            memcpy(c->key, state.key, state.key_len);
            c->state.key = c->key;
            c->owner = i;
            c->hash = 1469598103934665603u;
            for (uint32_t k = 0; k < state.key_len; k++)
                c->hash = (c->hash ^ c->key[k]) * 1099511628211u;
        }
    }
    return count;
}

static bool adopt(table_t *t, sd_lock_owner_t *owners, const carried_t *c)
{
    return sd_locks_adopt(t->locks, &owners[c->owner], &c->state, c->hash, &t->mailbox, &t->counters);
}

/* Held, awaited, granted and not told, lost: in whatever order they come, the next
 * process goes on with them. */
static void handed_over(void **state)
{
    enum { OWNERS = 8, ROUNDS = 50 };
    dice_t dice = dice_new(11);
    uint32_t round;

    (void)state;
    for (round = 0; round < ROUNDS; round++) {
        table_t *old = table_open(1000), *new = table_open(1000);
        sd_lock_owner_t was[OWNERS] = { { 0 } }, is[OWNERS] = { { 0 } };
        carried_t carried[20];
        uint32_t n, i;

        ask(old, &was[7], "lost", 0, 1);
        ask(old, &was[6], "lost", 0, 1001);
        ask(old, &was[7], "lost and free", 0, 1);
        ask(old, &was[6], "lost and free", 0, 1001);
        unlock(old, &was[6], "lost and free", 1001);
        ask(old, &was[0], "k", 0, 1100);
        for (i = 1; i < 5; i++)
            ask(old, &was[i], "k", 5000 + i, 1100 + i);
        ask(old, &was[0], "passed on", 0, 1100);
        ask(old, &was[5], "passed on", 6000, 1100);
        unlock(old, &was[0], "passed on", 1200); /* and 5 has not been told */
        n = save_all(was, OWNERS, carried);
        assert_int_equal(n, 9);
        for (i = n; i-- > 1;) { /* in any order */
            uint32_t k = dice_below(&dice, i + 1);
            carried_t c = carried[i];

            carried[i] = carried[k];
            carried[k] = c;
        }
        for (i = 0; i < n; i++)
            carried[i].state.key = carried[i].key;
        for (i = 0; i < OWNERS; i++)
            release(old, &was[i], 1300);
        table_close(old);

        for (i = 0; i < n; i++)
            assert_true(adopt(new, is, &carried[i]));
        sd_locks_settle(new->locks, 1300, &new->counters);
        assert_int_equal(count(new, locks_held), 3);
        assert_int_equal(count(new, lock_waiters), 4);
        is_told(new, &is[5], "passed on");
        for (i = 1; i < 5; i++)
            assert_int_equal(sd_locks_wait_ends(&is[i]), 5000 + i);
        assert_int_equal(view_of(new, &is[7], "lost"), SD_LOCK_OTHERS);
        assert_int_equal(view_of(new, &is[6], "lost"), SD_LOCK_MINE);
        assert_false(unlock(new, &is[7], "lost and free", 1300));
        /* a newcomer stands behind those who have waited */
        assert_int_equal(ask(new, &is[7], "k", 9000, 1300), SD_LOCK_WAITS);
        sd_locks_tick(new->locks, 2099, &new->counters);
        nobody_is_told(new);
        sd_locks_tick(new->locks, 2100, &new->counters); /* the lease counts from the grant */
        is_told(new, &is[1], "k");
        for (i = 2; i < 5; i++) {
            unlock(new, &is[i - 1], "k", 2200);
            is_told(new, &is[i], "k");
        }
        unlock(new, &is[4], "k", 2200);
        is_told(new, &is[7], "k");
        assert_int_equal(count(new, lock_wait_ms), 999 + 1098 + 1097 + 1096 + 900);
        for (i = 0; i < OWNERS; i++)
            release(new, &is[i], 3000);
        table_close(new);
    }
}

/* A grant that the owner was not told of, and whose lease ended: it must not be
 * lost on the way, or its owner would wait for an answer for ever. */
static void handed_over_when_lost_before_it_was_told(void **state)
{
    table_t *old = table_open(1000), *new = table_open(1000);
    sd_lock_owner_t was[3] = { { 0 } }, is[3] = { { 0 } };
    carried_t carried[4];
    uint32_t n, i;

    (void)state;
    ask(old, &was[0], "k", 0, 1);
    ask(old, &was[1], "k", 5000, 1);
    ask(old, &was[2], "k", 5000, 1);
    unlock(old, &was[0], "k", 10);
    sd_locks_tick(old->locks, 1010, &old->counters);
    n = save_all(was, 3, carried);
    assert_int_equal(n, 2);
    for (i = 0; i < 3; i++)
        release(old, &was[i], 1300);
    table_close(old);
    for (i = 0; i < n; i++)
        assert_true(adopt(new, is, &carried[i]));
    sd_locks_settle(new->locks, 1300, &new->counters);
    is_told(new, &is[2], "k");
    assert_non_null(is[1].awaited); /* it stands in the queue once more, before all newer ones */
    assert_int_equal(sd_locks_wait_ends(&is[1]), 5000);
    assert_int_equal(ask(new, &is[0], "k", 9000, 1300), SD_LOCK_WAITS);
    unlock(new, &is[2], "k", 1400);
    is_told(new, &is[1], "k");
    for (i = 0; i < 3; i++)
        release(new, &is[i], 1500);
    table_close(new);
}

static void what_is_not_adopted(void **state)
{
    table_t *t = table_open(1000);
    sd_lock_owner_t a = { 0 }, b = { 0 }, c = { 0 };
    uint8_t bytes[300] = "k";
    sd_claim_state_t good = { bytes, 1, SD_CLAIM_HELD, 5, 1, 2, 3 }, s;
    uint64_t hash = key_of("k").hash;
    uint32_t i;

    (void)state;
    s = good;
    s.kind = SD_CLAIM_LOST + 1;
    assert_false(sd_locks_adopt(t->locks, &a, &s, hash, &t->mailbox, &t->counters));
    s = good;
    s.key_len = 0;
    assert_false(sd_locks_adopt(t->locks, &a, &s, hash, &t->mailbox, &t->counters));
    s.key_len = 256;
    assert_false(sd_locks_adopt(t->locks, &a, &s, hash, &t->mailbox, &t->counters));
    assert_true(sd_locks_adopt(t->locks, &a, &good, hash, &t->mailbox, &t->counters));
    assert_false(sd_locks_adopt(t->locks, &a, &good, hash, &t->mailbox, &t->counters)); /* twice */
    assert_false(sd_locks_adopt(t->locks, &b, &good, hash, &t->mailbox, &t->counters)); /* two hold it */
    s = good;
    s.kind = SD_CLAIM_GRANTED;
    assert_false(sd_locks_adopt(t->locks, &b, &s, hash, &t->mailbox, &t->counters));
    assert_null(b.claims);
    assert_null(b.awaited);
    nobody_is_told(t);
    s.kind = SD_CLAIM_WAITING;
    assert_true(sd_locks_adopt(t->locks, &b, &s, hash, &t->mailbox, &t->counters));
    s.key = (const uint8_t *)"j";
    assert_false(sd_locks_adopt(t->locks, &b, &s, key_of("j").hash, &t->mailbox, &t->counters)); /* waits twice */
    for (i = 0; i < SD_LOCKS_MOST + 2; i++) {
        s = good;
        s.key = bytes + 1;
        s.key_len = 1 + i;
        assert_int_equal(sd_locks_adopt(t->locks, &c, &s, 9, &t->mailbox, &t->counters), i < SD_LOCKS_MOST);
    }
    assert_int_equal(count(t, locks_held), 1 + SD_LOCKS_MOST);
    /* the holder is lost on the way: whoever waited has it */
    release(t, &a, 10);
    is_told(t, &b, "k");
    release(t, &b, 10);
    release(t, &c, 10);
    table_close(t);
}

static void settled_without_a_holder(void **state)
{
    table_t *t = table_open(1000);
    sd_lock_owner_t a = { 0 }, b = { 0 };
    sd_claim_state_t s = { (const uint8_t *)"k", 1, SD_CLAIM_WAITING, 7, 100, 5000, 0 };
    uint64_t hash = key_of("k").hash;

    (void)state;
    assert_true(sd_locks_adopt(t->locks, &a, &s, hash, &t->mailbox, &t->counters));
    s.ticket = 6;
    assert_true(sd_locks_adopt(t->locks, &b, &s, hash, &t->mailbox, &t->counters));
    nobody_is_told(t);
    sd_locks_settle(t->locks, 300, &t->counters);
    is_told(t, &b, "k");
    assert_int_equal(count(t, lock_wait_ms), 200);
    sd_locks_tick(t->locks, 1299, &t->counters);
    nobody_is_told(t);
    sd_locks_tick(t->locks, 1300, &t->counters);
    is_told(t, &a, "k");
    release(t, &a, 2000);
    release(t, &b, 2000);
    table_close(t);
}

/* ---- four threads ---- */

enum { THREADS = 4, OWNERS = 24, KEYS = 6, STUCK_S = 20 };

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
    uint64_t asked, until;
    bool believes[KEYS];   /* was told that it holds it */
    uint64_t since[KEYS];  /* no earlier than that */
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

static void believe(host_t *h, guest_t *g, uint32_t k, uint64_t since)
{
    g->believes[k] = true;
    g->since[k] = since;
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
    believe(h, g, g->awaited, g->asked);
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
    uint64_t now = clock_ms(), until = now + dice_below(&h->dice, 20);

    if (kind == 0)
        until = now;
    if (kind == 1 && g->owner.count == 0) /* who holds nothing may wait for ever */
        until = FOREVER;
    h->asks++;
    switch (sd_locks_ask(a->locks, &g->owner, &key, &h->mailbox, until, now, &h->counters)) {
    case SD_LOCK_GRANTED:
        if (g->believes[k]) {
            h->renewed++;
            g->since[k] = now;
            break;
        }
        h->at_once++;
        believe(h, g, k, now);
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
        g->asked = now;
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

static void pass(host_t *h, guest_t *g, bool unlock_it)
{
    arena_t *a = h->arena;
    uint32_t k = dice_below(&h->dice, KEYS);
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
        if (clock_ms() < g->since[k] + a->lease)
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
        if (kind == 0)
            let_all_go(h, g);
        else
            look_at_the_time(h, g);
    }
    else if (kind < 18)
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
        if (n % 16 == 0)
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
    threads_meet(3600000, false, test_ops(300000, 3000));
}

static void threads_meet_and_leases_end(void **state)
{
    (void)state;
    threads_meet(2, true, test_ops(300000, 3000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_come_first_served),
        cmocka_unit_test(renewed_by_the_holder),
        cmocka_unit_test(a_try_does_not_wait),
        cmocka_unit_test(waiting_is_given_up),
        cmocka_unit_test(a_grant_races_giving_up),
        cmocka_unit_test(grants_of_a_mailbox),
        cmocka_unit_test(a_lease_ends_by_a_request),
        cmocka_unit_test(leases_end_by_the_tick),
        cmocka_unit_test(lost_claims),
        cmocka_unit_test(lost_before_it_was_told),
        cmocka_unit_test(all_is_released),
        cmocka_unit_test(views_of_a_passage),
        cmocka_unit_test(most_claims_of_one_owner),
        cmocka_unit_test(many_locks_in_one_bucket),
        cmocka_unit_test(a_report_has_the_worst_first),
        cmocka_unit_test(handed_over),
        cmocka_unit_test(handed_over_when_lost_before_it_was_told),
        cmocka_unit_test(what_is_not_adopted),
        cmocka_unit_test(settled_without_a_holder),
        cmocka_unit_test(threads_meet_and_leases_do_not_end),
        cmocka_unit_test(threads_meet_and_leases_end),
    };

    alarm(600);
    return cmocka_run_group_tests_name("locks", tests, NULL, NULL);
}
