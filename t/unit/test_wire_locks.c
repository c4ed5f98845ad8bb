/* SPDX-License-Identifier: Apache-2.0
 *
 * test_wire_locks.c: a conversation that waits for a lock, without sockets. What
 * is hard is what stands behind an L that waits: it waits too, but for a hello,
 * which ends the wait.
 */
#include "protocol/bytes.h"
#include "protocol/wire.h"
#include "store_fixture.h"

#define WAIT 1000u

typedef struct talk {
    fixture_t f;
    sd_limits_t limits;
    sd_exec_t exec;
    sd_lock_mailbox_t mailbox;
    sd_wire_t wire;
    sd_reply_t reply;
    unsigned char frame[8192];
    size_t len;
} talk_t;

static void nobody(void *data)
{
    (void)data;
}

static void talk_open(talk_t *t)
{
    memset(t, 0, sizeof *t);
    fixture_open(&t->f, MIB, 1, false);
    t->limits = (sd_limits_t){ 1 << 20, 1000, "greeting" };
    t->exec = (sd_exec_t){ .lane = t->f.lane, .counters = sd_lane_counters(t->f.lane), .limits = &t->limits,
                           .now = t->f.now, .locks = sd_locks_create(60000), .mailbox = &t->mailbox };
    assert_non_null(t->exec.locks);
    sd_lock_mailbox_setup(&t->mailbox, nobody, NULL);
    sd_wire_setup(&t->wire);
    sd_reply_clear(&t->reply);
}

static void talk_close(talk_t *t)
{
    sd_reply_discard(&t->reply, t->exec.lane);
    sd_wire_end(&t->wire, &t->exec);
    sd_locks_destroy(&t->exec.locks);
    sd_lock_mailbox_teardown(&t->mailbox);
    fixture_close(&t->f);
}

/* Another connection over the same store. */
static void hang_up(talk_t *t)
{
    sd_reply_discard(&t->reply, t->exec.lane);
    sd_wire_end(&t->wire, &t->exec);
    sd_wire_setup(&t->wire);
}

static void add(talk_t *t, const void *bytes, size_t n)
{
    assert_true(t->len + n <= sizeof t->frame);
    memcpy(t->frame + t->len, bytes, n);
    t->len += n;
}

/* L, or one of those that have no other number. */
static void add_frame(talk_t *t, char op, const char *key)
{
    unsigned char fixed[9] = { (unsigned char)op };

    sd_put32(fixed + 1, (uint32_t)strlen(key));
    sd_put32(fixed + 5, WAIT);
    add(t, fixed, op == 'L' ? 9 : 5);
    add(t, key, strlen(key));
}

static sd_after_t feed(talk_t *t, size_t *used)
{
    sd_after_t after = sd_wire_feed(&t->wire, &t->exec, t->frame, t->len, used, &t->reply);

    t->len = 0;
    return after;
}

/* Takes and forgets the reply. */
static sd_after_t say(talk_t *t, char op, const char *key)
{
    sd_after_t after;
    size_t used;

    add_frame(t, op, key);
    after = feed(t, &used);
    sd_reply_discard(&t->reply, t->exec.lane);
    return after;
}

/* Somebody else's. */
static void hold(talk_t *t, sd_lock_owner_t *other, const char *text)
{
    sd_lock_key_t key = { (const uint8_t *)text, (uint32_t)strlen(text),
                          sd_key_hash(t->exec.lane, text, strlen(text)) };

    assert_int_equal(sd_locks_ask(t->exec.locks, other, &key, &t->mailbox, 0, t->exec.now, t->exec.counters),
                     SD_LOCK_GRANTED);
}

static void let_go(talk_t *t, sd_lock_owner_t *other)
{
    sd_locks_release_all(t->exec.locks, other, t->exec.now, t->exec.counters);
}

/* The reply as it left, `len` bytes of it. */
static void assert_reply(talk_t *t, const char *bytes, size_t len)
{
    struct iovec iov[64];
    size_t all, at = 0;
    int n = sd_reply_iov(&t->reply, t->exec.lane, iov, 64, &all), i;

    assert_int_equal(all, len);
    for (i = 0; i < n; at += iov[i].iov_len, i++)
        assert_memory_equal(iov[i].iov_base, bytes + at, iov[i].iov_len);
    sd_reply_discard(&t->reply, t->exec.lane);
}

/* What comes before is answered, what is behind it waits as well. */
static void a_lock_is_waited_for(void **state)
{
    sd_lock_owner_t other = { 0 };
    talk_t t;
    size_t used;

    (void)state;
    talk_open(&t);
    hold(&t, &other, "k");
    add_frame(&t, 'G', "x");
    add_frame(&t, 'L', "k");
    add_frame(&t, 'G', "x");
    assert_int_equal(feed(&t, &used), SD_AFTER_PENDING);
    assert_int_equal(used, 6 + 10);
    assert_reply(&t, "N\0\0\0\0", 5);
    assert_int_equal(sd_locks_wait_ends(&t.wire.owner), t.exec.now + WAIT);
    let_go(&t, &other);
    assert_ptr_equal(sd_locks_next_granted(&t.mailbox), &t.wire.owner);
    assert_int_equal(sd_wire_granted(&t.wire, &t.exec, &t.reply), SD_AFTER_KEEP);
    assert_reply(&t, "N\0\0\0\0", 5);
    assert_true(sd_wire_is_idle(&t.wire));
    assert_int_equal(say(&t, 'U', "k"), SD_AFTER_KEEP);
    assert_int_equal(counter_sum(&t.f, unlocks), 1);

    hold(&t, &other, "k");
    assert_int_equal(say(&t, 'L', "k"), SD_AFTER_PENDING);
    assert_int_equal(sd_wire_give_up(&t.wire, &t.exec, &t.reply), SD_AFTER_KEEP);
    assert_reply(&t, "B\0\0\0\0", 5);
    assert_int_equal(say(&t, 'L', "k"), SD_AFTER_PENDING);
    let_go(&t, &other); /* in the same moment */
    assert_int_equal(sd_wire_give_up(&t.wire, &t.exec, &t.reply), SD_AFTER_KEEP);
    assert_reply(&t, "N\0\0\0\0", 5);
    assert_null(sd_locks_next_granted(&t.mailbox));
    assert_int_equal(say(&t, 'L', "k"), SD_AFTER_KEEP);
    hang_up(&t);
    hold(&t, &other, "k"); /* the end of a connection ends its locks */
    assert_int_equal(say(&t, 'L', "k"), SD_AFTER_PENDING);
    hang_up(&t); /* and its wait */
    let_go(&t, &other);
    assert_null(sd_locks_next_granted(&t.mailbox));
    assert_int_equal(counter_sum(&t.f, locks_held) + counter_sum(&t.f, lock_waiters), 0);
    talk_close(&t);
}

/* Where a hello stands behind it already, nobody waits: however many such pairs
 * there are, they are answered in replies of the usual length. */
static void a_hello_behind_a_lock_ends_the_wait(void **state)
{
    sd_lock_owner_t other = { 0 };
    talk_t t;
    size_t used, at = 0, pairs = 0, bytes;
    struct iovec iov[64];
    uint32_t i;

    (void)state;
    talk_open(&t);
    hold(&t, &other, "k");
    for (i = 0; i < 400; i++) {
        add_frame(&t, 'L', "k");
        add(&t, "P12345678", 9);
    }
    while (at < t.len) {
        assert_int_equal(sd_wire_feed(&t.wire, &t.exec, t.frame + at, t.len - at, &used, &t.reply), SD_AFTER_KEEP);
        assert_true(used > 0);
        at += used;
        sd_reply_iov(&t.reply, t.exec.lane, iov, 64, &bytes);
        assert_true(bytes <= SD_REPLY_BYTES);
        pairs++;
        sd_reply_discard(&t.reply, t.exec.lane);
    }
    assert_true(pairs > 3);
    assert_int_equal(counter_sum(&t.f, hellos), 400);
    assert_int_equal(counter_sum(&t.f, lock_timeouts), 400);
    assert_int_equal(counter_sum(&t.f, lock_waiters), 0);
    t.len = 0;
    add_frame(&t, 'L', "k");
    add(&t, "P", 1); /* its first byte says it */
    assert_int_equal(feed(&t, &used), SD_AFTER_KEEP);
    assert_int_equal(used, 10);
    assert_reply(&t, "B\0\0\0\0", 5);
    let_go(&t, &other);
    talk_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lock_is_waited_for),
        cmocka_unit_test(a_hello_behind_a_lock_ends_the_wait),
    };

    return cmocka_run_group_tests_name("wire and locks", tests, NULL, NULL);
}
