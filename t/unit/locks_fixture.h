/* SPDX-License-Identifier: Apache-2.0
 *
 * locks_fixture.h: what the tests of protocol/locks.c share: a table with one
 * mailbox and one set of counters, and keys that are words.
 */
#ifndef LOCKS_FIXTURE_H
#define LOCKS_FIXTURE_H

#include <stdlib.h>

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

static inline void wake(void *data)
{
    ((table_t *)data)->wakes++;
}

static inline table_t *table_open(uint64_t lease)
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

static inline void table_close(table_t *t)
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
static inline sd_lock_key_t key_of(const char *text)
{
    sd_lock_key_t key = { (const uint8_t *)text, (uint32_t)strlen(text), 1469598103934665603u };
    uint32_t i;

    for (i = 0; i < key.len; i++)
        key.hash = (key.hash ^ key.bytes[i]) * 1099511628211u;
    return key;
}

static inline sd_lock_result_t ask(table_t *t, sd_lock_owner_t *owner, const char *text, uint64_t until, uint64_t now)
{
    sd_lock_key_t key = key_of(text);

    return sd_locks_ask(t->locks, owner, &key, &t->mailbox, until, now, &t->counters);
}

static inline sd_lock_view_t view_of(table_t *t, sd_lock_owner_t *owner, const char *text)
{
    sd_lock_key_t key = key_of(text);
    sd_lock_passage_t p = sd_locks_enter(t->locks, owner, &key);
    sd_lock_view_t view = p.view;

    assert_false(sd_locks_leave(t->locks, &p, false, 0, &t->counters));
    return view;
}

static inline bool unlock(table_t *t, sd_lock_owner_t *owner, const char *text, uint64_t now)
{
    sd_lock_key_t key = key_of(text);
    sd_lock_passage_t p = sd_locks_enter(t->locks, owner, &key);

    return sd_locks_leave(t->locks, &p, true, now, &t->counters);
}

static inline void release(table_t *t, sd_lock_owner_t *owner, uint64_t now)
{
    sd_locks_release_all(t->locks, owner, now, &t->counters);
    assert_null(owner->claims);
    assert_null(owner->awaited);
    assert_false(owner->granted);
    assert_int_equal(owner->count, 0);
}

/* The mailbox tells of this owner and no other. */
static inline void is_told(table_t *t, sd_lock_owner_t *owner, const char *text)
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

static inline void nobody_is_told(table_t *t)
{
    assert_false(sd_lock_mailbox_has_some(&t->mailbox));
    assert_null(sd_locks_next_granted(&t->mailbox));
}

#endif
