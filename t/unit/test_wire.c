/* SPDX-License-Identifier: Apache-2.0
 *
 * test_wire.c: what the owner of a socket asks a conversation beside feeding
 * it: is a request under way, how large is it, where can its value be received,
 * may the connection stay; and that it can be ended in any state. What is said
 * over the wire stands in t/wire/.
 */
#include <stdlib.h>

#include "protocol/bytes.h"
#include "protocol/extended_parse.h"
#include "protocol/wire.h"
#include "store_fixture.h"

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
    t->exec = (sd_exec_t){ .lane = t->f.lane, .counters = sd_lane_counters(t->f.lane),
                           .limits = &t->limits, .now = t->f.now, .locks = sd_locks_create(60000), .mailbox = &t->mailbox };
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

/* ---- frames ---- */

static void add(talk_t *t, const void *bytes, size_t n)
{
    assert_true(t->len + n <= sizeof t->frame);
    memcpy(t->frame + t->len, bytes, n);
    t->len += n;
}

/* The head of a frame, behind what is there. */
static void head(talk_t *t, char op, const char *key, uint32_t data_len)
{
    unsigned char fixed[21] = { (unsigned char)op };
    size_t n = 5;

    sd_put32(fixed + 1, (uint32_t)strlen(key));
    if (op == 'S' || op == 'W') {
        sd_put32(fixed + 5, data_len);
        n = 9;
    }
    if (op == 'W') {
        sd_put32(fixed + 9, 0);
        sd_put64(fixed + 13, SD_VERSION_ANY);
        n = 21;
    }
    add(t, fixed, n);
    add(t, key, strlen(key));
}

static void zeros(talk_t *t, size_t n)
{
    assert_true(t->len + n <= sizeof t->frame);
    memset(t->frame + t->len, 0, n);
    t->len += n;
}

static sd_after_t feed(talk_t *t, size_t *used)
{
    size_t ignored;
    sd_after_t after = sd_wire_feed(&t->wire, &t->exec, t->frame, t->len, used ? used : &ignored,
                                    &t->reply);

    t->len = 0;
    return after;
}

/* One whole frame with `n` bytes of value; takes and forgets the reply. */
static sd_after_t say(talk_t *t, char op, const char *key, uint32_t n)
{
    sd_after_t after;

    t->len = 0;
    if (op == 'P')
        add(t, "P12345678", 9);
    else
        head(t, op, key, n);
    zeros(t, n);
    after = feed(t, NULL);
    sd_reply_discard(&t->reply, t->exec.lane);
    return after;
}

static void assert_state(talk_t *t, bool idle, uint64_t wanted, uint64_t size)
{
    assert_int_equal(sd_wire_is_idle(&t->wire), idle);
    assert_int_equal(sd_wire_wanted(&t->wire), wanted);
    assert_int_equal(sd_wire_size(&t->wire), size);
}

static uint32_t held(const talk_t *t)
{
    sd_usage_t usage;

    sd_store_usage(t->f.store, &usage);
    return usage.blocks_incoming;
}

/* ---- tests ---- */

static void at_first_nothing_is_under_way(void **state)
{
    talk_t t;
    size_t used = 99;
    struct iovec iov;
    size_t bytes = 99;

    (void)state;
    talk_open(&t);
    assert_state(&t, true, 0, 0);
    assert_false(t.wire.persistent);
    assert_int_equal(sd_wire_feed(&t.wire, &t.exec, t.frame, 0, &used, &t.reply), SD_AFTER_KEEP);
    assert_int_equal(used, 0);
    assert_true(sd_reply_is_empty(&t.reply));
    assert_int_equal(sd_wire_room(&t.wire, &t.exec, 1000, &iov, 1, &bytes), 0);
    assert_int_equal(bytes, 0);
    talk_close(&t);
}

static void extended_frames_make_a_connection_persistent(void **state)
{
    static const char plain[] = "SFD", extended[] = "PGW";
    talk_t t;
    size_t i;

    (void)state;
    talk_open(&t);
    for (i = 0; plain[i]; i++) {
        hang_up(&t);
        assert_int_equal(say(&t, plain[i], "key", 0), SD_AFTER_CLOSE);
        assert_false(t.wire.persistent);
    }
    for (i = 0; extended[i]; i++) {
        hang_up(&t);
        assert_int_equal(say(&t, extended[i], "key", 0), SD_AFTER_KEEP);
        assert_true(t.wire.persistent);
    }
    /* the beginning of a head tells nothing yet */
    hang_up(&t);
    add(&t, "G\0\0\0\3ke", 7);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    assert_false(t.wire.persistent);
    /* a value on its way: the head has told */
    hang_up(&t);
    head(&t, 'W', "key", 10);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    assert_true(t.wire.persistent);
    /* an error that keeps the connection keeps it like an answer */
    hang_up(&t);
    assert_int_equal(say(&t, 'G', "bad key", 0), SD_AFTER_KEEP);
    assert_true(t.wire.persistent);
    hang_up(&t);
    assert_int_equal(say(&t, 'W', "", 10), SD_AFTER_KEEP);
    assert_true(t.wire.persistent);
    talk_close(&t);
}

static void size_stays_while_wanted_shrinks(void **state)
{
    static const struct {
        char op;
        const char *key;
        uint32_t more; /* passed over beside the value: the key */
    } cases[] = { { 'S', "key", 0 }, { 'W', "key", 0 }, { 'W', "bad key", 7 } };
    talk_t t;
    size_t i;

    (void)state;
    talk_open(&t);
    for (i = 0; i < 3; i++) {
        uint32_t all = 1000 + cases[i].more;

        hang_up(&t);
        head(&t, cases[i].op, cases[i].key, 1000);
        t.len -= cases[i].more;
        assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
        if (cases[i].more) {
            /* a bad key is known when it is there */
            assert_state(&t, true, 0, 0);
            head(&t, cases[i].op, cases[i].key, 1000);
            assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
            assert_state(&t, false, 1000, all);
        }
        else
            assert_state(&t, false, 1000, all);
        zeros(&t, 400);
        assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
        assert_state(&t, false, 600, all);
        zeros(&t, 599);
        assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
        assert_state(&t, false, 1, all);
        zeros(&t, 1);
        assert_int_equal(feed(&t, NULL), cases[i].op == 'S' ? SD_AFTER_CLOSE : SD_AFTER_KEEP);
        assert_state(&t, true, 0, 0);
    }
    talk_close(&t);
}

/* A deadline is set from the size: it must not come nearer because the store
 * has become full and the rest is only passed over. */
static void size_stays_when_memory_ends(void **state)
{
    talk_t t;

    (void)state;
    talk_open(&t);
    head(&t, 'W', "new", 8000);
    zeros(&t, 500);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    assert_state(&t, false, 7500, 8000);
    fill_up(&t.f, 1, t.f.now + 1000);
    zeros(&t, 500);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    assert_int_equal(held(&t), 0);
    assert_state(&t, false, 7000, 8000);
    zeros(&t, 7000);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    assert_state(&t, true, 0, 0);
    assert_int_equal(t.reply.bytes[0], 'E');
    assert_int_equal(counter_sum(&t.f, refused_full), 1);
    talk_close(&t);
}

/* In each state that a client can leave a conversation in. */
static void teardown_gives_everything_back(void **state)
{
    talk_t t;
    uint32_t n;

    (void)state;
    talk_open(&t);
    for (n = 0; n < 7; n++) {
        struct iovec iov[64];
        size_t bytes = 0;
        uint64_t used = blocks_used(&t.f);
        bool takes = false;

        sd_wire_setup(&t.wire);
        switch (n) {
        case 0: /* nothing was sent */
            break;
        case 1: /* in the middle of a head */
            add(&t, "S\0\0\0\3", 5);
            break;
        case 2: /* a head and nothing of the value */
            head(&t, 'S', "key", 5000);
            takes = true;
            break;
        case 3: /* in the middle of a value */
            head(&t, 'W', "key", 5000);
            zeros(&t, 3000);
            takes = true;
            break;
        case 4: /* with room that waits for bytes */
            head(&t, 'S', "key", 5000);
            zeros(&t, 3000);
            takes = true;
            break;
        case 5: /* passing over a bad frame */
            head(&t, 'W', "bad key", 5000);
            zeros(&t, 3000);
            break;
        case 6: /* passing over what memory has no room for */
            fill_up(&t.f, 1, t.f.now + 1000);
            used = blocks_used(&t.f);
            head(&t, 'W', "key", 5000);
            zeros(&t, 3000);
            break;
        }
        assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
        if (n == 4)
            assert_true(sd_wire_room(&t.wire, &t.exec, 65536, iov, 64, &bytes) > 0);
        assert_int_equal(held(&t) > 0, takes);
        sd_wire_teardown(&t.wire, t.exec.lane);
        assert_state(&t, true, 0, 0);
        assert_int_equal(held(&t), 0);
        assert_int_equal(blocks_used(&t.f), used);
        assert_clean(t.f.store);
        sd_wire_teardown(&t.wire, t.exec.lane); /* harmless on nothing */
    }
    assert_int_equal(counter_sum(&t.f, stores) + counter_sum(&t.f, writes), 0);
    talk_close(&t);
}

/* The bytes that `frame` frames of 40 stand for, in one piece. */
static void a_full_reply_goes_on_once_it_is_sent(void **state)
{
    talk_t t;
    size_t at = 0, len, rounds = 0;
    uint32_t i, replies = 0;

    (void)state;
    talk_open(&t);
    say(&t, 'W', "key", 100);
    t.len = 0;
    for (i = 0; i < 40; i++)
        head(&t, 'G', "key", 0);
    len = t.len;
    while (at < len) {
        struct iovec iov[256];
        size_t used, bytes;
        bool done;

        assert_int_equal(sd_wire_feed(&t.wire, &t.exec, t.frame + at, len - at, &used, &t.reply),
                         SD_AFTER_KEEP);
        assert_true(used > 0 && used % 8 == 0); /* whole frames */
        at += used;
        assert_true(t.reply.parts <= SD_REPLY_PARTS);
        assert_int_equal(sd_reply_is_full(&t.reply), at < len);
        /* as long as it is full nothing more is taken */
        if (at < len) {
            assert_int_equal(
                sd_wire_feed(&t.wire, &t.exec, t.frame + at, len - at, &used, &t.reply),
                SD_AFTER_KEEP);
            assert_int_equal(used, 0);
        }
        sd_reply_iov(&t.reply, t.exec.lane, iov, 256, &bytes);
        assert_int_equal(bytes % 113, 0);
        replies += (uint32_t)bytes / 113;
        done = sd_reply_advance(&t.reply, t.exec.lane, bytes);
        assert_true(done);
        rounds++;
    }
    assert_int_equal(replies, 40);
    assert_int_equal(rounds, 3); /* 15 or 16 hits fill 32 parts */
    assert_int_equal(counter_sum(&t.f, get_hits), 40);
    talk_close(&t);
}

/* The value of a request that is complete is executed although the reply that
 * is being built was full when its last byte came: once that is sent. */
static void a_full_reply_holds_a_value_back(void **state)
{
    talk_t t;
    size_t used;
    uint32_t i;

    (void)state;
    talk_open(&t);
    say(&t, 'W', "key", 10);
    t.len = 0;
    for (i = 0; i < 40; i++)
        head(&t, 'G', "key", 0);
    assert_int_equal(sd_wire_feed(&t.wire, &t.exec, t.frame, t.len, &used, &t.reply),
                     SD_AFTER_KEEP);
    assert_true(sd_reply_is_full(&t.reply));
    t.len = 0;
    head(&t, 'W', "other", 0);
    assert_int_equal(sd_wire_feed(&t.wire, &t.exec, t.frame, t.len, &used, &t.reply),
                     SD_AFTER_KEEP);
    assert_int_equal(used, 0);
    assert_int_equal(counter_sum(&t.f, writes), 1);
    sd_reply_discard(&t.reply, t.exec.lane);
    assert_int_equal(sd_wire_feed(&t.wire, &t.exec, t.frame, t.len, &used, &t.reply),
                     SD_AFTER_KEEP);
    assert_int_equal(used, t.len);
    assert_int_equal(counter_sum(&t.f, writes), 2);
    talk_close(&t);
}

static size_t sum(const struct iovec *iov, int n)
{
    size_t bytes = 0;
    int i;

    for (i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

static void room_is_within_its_limits(void **state)
{
    talk_t t;
    struct iovec iov[64];
    size_t bytes = 0, used = 99;
    int n;

    (void)state;
    talk_open(&t);
    head(&t, 'S', "key", 8000);
    zeros(&t, 4000);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    n = sd_wire_room(&t.wire, &t.exec, 100, iov, 64, &bytes);
    assert_true(n > 0 && bytes == 100 && sum(iov, n) == 100);
    n = sd_wire_room(&t.wire, &t.exec, 65536, iov, 64, &bytes);
    assert_true(n > 0 && bytes == 4000 && sum(iov, n) == 4000);
    /* fewer vectors, fewer bytes */
    n = sd_wire_room(&t.wire, &t.exec, 65536, iov, 1, &bytes);
    assert_true(n == 1 && bytes == iov[0].iov_len && bytes <= 4000);
    n = sd_wire_room(&t.wire, &t.exec, 65536, iov, 64, &bytes);
    assert_int_equal(bytes, 4000);
    memset(iov[0].iov_base, 0, iov[0].iov_len);
    sd_wire_received(&t.wire, &t.exec, iov[0].iov_len);
    assert_state(&t, false, 4000 - iov[0].iov_len, 8000);
    while (sd_wire_wanted(&t.wire) > 0) {
        n = sd_wire_room(&t.wire, &t.exec, 65536, iov, 1, &bytes);
        assert_int_equal(n, 1);
        memset(iov[0].iov_base, 0, bytes);
        sd_wire_received(&t.wire, &t.exec, bytes);
    }
    assert_int_equal(sd_wire_room(&t.wire, &t.exec, 65536, iov, 64, &bytes), 0);
    assert_int_equal(counter_sum(&t.f, stores), 0); /* not before it is fed */
    assert_int_equal(sd_wire_feed(&t.wire, &t.exec, t.frame, 0, &used, &t.reply), SD_AFTER_CLOSE);
    assert_int_equal(used, 0);
    assert_int_equal(counter_sum(&t.f, stores), 1);
    talk_close(&t);
}

/* Memory is taken for bytes that come, not for bytes that are declared: who
 * sends little must not hold much, however often he is waited for. */
static void room_is_not_taken_far_ahead(void **state)
{
    talk_t t;
    struct iovec iov[64];
    size_t bytes = 0;
    uint32_t come = 0;

    (void)state;
    talk_open(&t);
    head(&t, 'S', "key", 900000);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    assert_int_equal(held(&t), 1);
    while (come < 200000) {
        uint32_t most = come < 1024 ? 1024 : come, n = come < 64 ? 1 : come / 7;

        assert_true(sd_wire_room(&t.wire, &t.exec, 65536, iov, 64, &bytes) > 0);
        assert_true(bytes <= most);
        assert_true(held(&t) <= 2 + (come + most) / 256);
        n = n < bytes ? n : (uint32_t)bytes;
        sd_wire_received(&t.wire, &t.exec, n);
        come += n;
    }
    /* and yet it becomes as large as a read */
    assert_true(sd_wire_room(&t.wire, &t.exec, 65536, iov, 64, &bytes) > 0);
    assert_int_equal(bytes, 65536);
    talk_close(&t);
}

static void there_is_no_room_for_what_is_passed_over(void **state)
{
    talk_t t;
    struct iovec iov[4];
    size_t bytes = 99;

    (void)state;
    talk_open(&t);
    head(&t, 'W', "bad key", 5000);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    assert_int_equal(sd_wire_wanted(&t.wire), 5000);
    assert_int_equal(sd_wire_room(&t.wire, &t.exec, 65536, iov, 4, &bytes), 0);
    assert_int_equal(bytes, 0);
    talk_close(&t);
}

static void no_room_when_memory_is_full(void **state)
{
    talk_t t;
    struct iovec iov[4];
    size_t bytes = 99;

    (void)state;
    talk_open(&t);
    head(&t, 'S', "key", 5000);
    zeros(&t, 10);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    fill_up(&t.f, 1, t.f.now + 1000);
    assert_int_equal(sd_wire_room(&t.wire, &t.exec, 65536, iov, 4, &bytes), 0);
    assert_int_equal(bytes, 0);
    zeros(&t, 4990);
    assert_int_equal(feed(&t, NULL), SD_AFTER_RESET);
    assert_int_equal(held(&t), 0);
    assert_int_equal(counter_sum(&t.f, refused_full), 1);
    talk_close(&t);
}

/* So many readers of one value that one more cannot be counted: that is
 * trouble, not a miss. */
static void too_many_readers_are_no_answer(void **state)
{
    talk_t t;
    sd_ref_t *refs = calloc(40000, sizeof *refs);
    uint32_t n = 0;

    (void)state;
    assert_non_null(refs);
    talk_open(&t);
    say(&t, 'W', "key", 10);
    while (sd_store_get(t.exec.lane, "key", 3, t.exec.now, &refs[n]) == SD_OK)
        assert_true(++n < 40000);
    assert_int_equal(say(&t, 'G', "key", 0), SD_AFTER_RESET);
    hang_up(&t);
    assert_int_equal(say(&t, 'F', "key", 0), SD_AFTER_RESET);
    assert_int_equal(counter_sum(&t.f, get_misses) + counter_sum(&t.f, fetch_misses), 0);
    hang_up(&t);
    sd_ref_release(t.exec.lane, &refs[--n]);
    assert_int_equal(say(&t, 'F', "key", 0), SD_AFTER_CLOSE);
    assert_int_equal(counter_sum(&t.f, fetch_hits), 1);
    hang_up(&t);
    assert_int_equal(say(&t, 'W', "key", 20), SD_AFTER_KEEP);
    while (n > 0)
        sd_ref_release(t.exec.lane, &refs[--n]);
    free(refs);
    talk_close(&t);
}

/* Two clients send values for one key at the same time: what was complete last
 * is there, and neither is mixed with the other. */
static void conversations_do_not_mix(void **state)
{
    talk_t t;
    sd_wire_t other;
    sd_reply_t reply;
    sd_ref_t ref;
    unsigned char a[3000], b[3000];
    size_t used, i;

    (void)state;
    talk_open(&t);
    sd_wire_setup(&other);
    sd_reply_clear(&reply);
    value_fill(a, sizeof a, 1);
    value_fill(b, sizeof b, 2);
    head(&t, 'S', "key", sizeof a);
    assert_int_equal(sd_wire_feed(&other, &t.exec, t.frame, t.len, &used, &reply), SD_AFTER_KEEP);
    assert_int_equal(feed(&t, NULL), SD_AFTER_KEEP);
    for (i = 0; i < sizeof a; i += 100) {
        bool last = i + 100 == sizeof a;

        assert_int_equal(sd_wire_feed(&t.wire, &t.exec, a + i, 100, &used, &t.reply),
                         last ? SD_AFTER_CLOSE : SD_AFTER_KEEP);
        assert_int_equal(sd_wire_feed(&other, &t.exec, b + i, 100, &used, &reply),
                         last ? SD_AFTER_CLOSE : SD_AFTER_KEEP);
    }
    assert_int_equal(sd_store_get(t.exec.lane, "key", 3, t.exec.now, &ref), SD_OK);
    assert_true(ref_shows(t.exec.lane, &ref, 2, sizeof b));
    sd_ref_release(t.exec.lane, &ref);
    sd_reply_discard(&reply, t.exec.lane);
    talk_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(at_first_nothing_is_under_way),
        cmocka_unit_test(extended_frames_make_a_connection_persistent),
        cmocka_unit_test(size_stays_while_wanted_shrinks),
        cmocka_unit_test(size_stays_when_memory_ends),
        cmocka_unit_test(teardown_gives_everything_back),
        cmocka_unit_test(a_full_reply_goes_on_once_it_is_sent),
        cmocka_unit_test(a_full_reply_holds_a_value_back),
        cmocka_unit_test(room_is_within_its_limits),
        cmocka_unit_test(room_is_not_taken_far_ahead),
        cmocka_unit_test(there_is_no_room_for_what_is_passed_over),
        cmocka_unit_test(no_room_when_memory_is_full),
        cmocka_unit_test(too_many_readers_are_no_answer),
        cmocka_unit_test(conversations_do_not_mix),
    };

    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
