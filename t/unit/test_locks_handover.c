/* SPDX-License-Identifier: Apache-2.0
 *
 * test_locks_handover.c: locks that go from one table to another, as at a restart.
 * What is hard is a grant of which nobody has been told yet.
 */
#include "locks_fixture.h"

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
    /* the holder is lost on the way: whoever waited has it, but not before all have come */
    release(t, &a, 10);
    assert_false(sd_lock_mailbox_has_some(&t->mailbox));
    sd_locks_settle(t->locks, 10, &t->counters);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handed_over),
        cmocka_unit_test(handed_over_when_lost_before_it_was_told),
        cmocka_unit_test(what_is_not_adopted),
        cmocka_unit_test(settled_without_a_holder),
    };

    return cmocka_run_group_tests_name("locks handed over", tests, NULL, NULL);
}
