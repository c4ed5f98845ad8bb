/* SPDX-License-Identifier: Apache-2.0
 *
 * test_locks.c: session locks, in one thread, where every outcome is known;
 * test_locks_threads.c has several, test_locks_handover.c their way into another
 * process.
 */
#include <stdio.h>
#include <stdlib.h>

#include "locks_fixture.h"

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
    };

    return cmocka_run_group_tests_name("locks", tests, NULL, NULL);
}
