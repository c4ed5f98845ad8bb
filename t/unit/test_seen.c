/* SPDX-License-Identifier: Apache-2.0
 *
 * test_seen.c: which record of a key counts, told from the newest to the oldest;
 * and many keys at once, each with a fate of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "persist/seen.h"

static const unsigned char seed[SD_LOAD_SEED_BYTES] = "seed";
static sd_seen_t *seen;
static uint64_t expiry;

#define NOW UINT64_C(100)

static int set_up(void **state)
{
    (void)state;
    seen = sd_seen_create(seed);
    expiry = 0;
    return seen == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    sd_seen_destroy(&seen);
    return seen != NULL;
}

static sd_seen_verdict_t say(sd_record_kind_t kind, const char *key, uint64_t version, uint64_t until)
{
    sd_record_t r = { kind, (uint8_t)strlen(key), 0, version, until, (const unsigned char *)key, NULL };

    return sd_seen_judge(seen, &r, NOW, &expiry);
}

#define VALUE(key, version, until) say(SD_RECORD_VALUE, key, version, until)
#define EXPIRY(key, version, until) say(SD_RECORD_EXPIRY, key, version, until)
#define REMOVED(key, version) say(SD_RECORD_REMOVED, key, version, 0)

static void the_newest_value_decides(void **state)
{
    (void)state;
    assert_int_equal(VALUE("k", 9, 500), SD_SEEN_TAKE);
    assert_int_equal(expiry, 500);
    assert_int_equal(VALUE("k", 7, 900), SD_SEEN_SUPERSEDED);
    assert_int_equal(REMOVED("k", 10), SD_SEEN_NOTED);
    assert_int_equal(VALUE("k", 3, 900), SD_SEEN_SUPERSEDED);
    assert_int_equal(VALUE("other", 1, 101), SD_SEEN_TAKE);
}

static void a_shorter_life_is_not_outlived_by_what_it_replaced(void **state)
{
    (void)state;
    assert_int_equal(VALUE("k", 9, 100), SD_SEEN_EXPIRED);
    assert_int_equal(VALUE("k", 8, 5000), SD_SEEN_SUPERSEDED);
}

static void what_was_removed_stays_so(void **state)
{
    (void)state;
    assert_int_equal(REMOVED("k", 8), SD_SEEN_NOTED);
    assert_int_equal(VALUE("k", 8, 5000), SD_SEEN_REMOVED);
    assert_int_equal(VALUE("k", 7, 5000), SD_SEEN_SUPERSEDED);
    assert_int_equal(REMOVED("m", 8), SD_SEEN_NOTED);
    assert_int_equal(REMOVED("m", 4), SD_SEEN_NOTED);
    assert_int_equal(EXPIRY("m", 7, 6000), SD_SEEN_NOTED);
    assert_int_equal(VALUE("m", 7, 5000), SD_SEEN_REMOVED);
}

/* Within a round nothing hangs on the order: a removal may stand behind what came after it. */
static void a_removal_does_not_bind_what_came_after_it(void **state)
{
    (void)state;
    assert_int_equal(REMOVED("k", 8), SD_SEEN_NOTED);
    assert_int_equal(VALUE("k", 9, 5000), SD_SEEN_TAKE);
    assert_int_equal(VALUE("k", 8, 5000), SD_SEEN_SUPERSEDED);
    assert_int_equal(REMOVED("m", 8), SD_SEEN_NOTED);
    assert_int_equal(EXPIRY("m", 9, 6000), SD_SEEN_NOTED);
    assert_int_equal(VALUE("m", 9, 5000), SD_SEEN_TAKE);
    assert_int_equal(expiry, 6000);
}

static void a_touch_holds_for_its_version(void **state)
{
    (void)state;
    assert_int_equal(EXPIRY("k", 5, 300), SD_SEEN_NOTED);
    assert_int_equal(EXPIRY("k", 5, 200), SD_SEEN_NOTED);
    assert_int_equal(VALUE("k", 5, 50), SD_SEEN_TAKE);
    assert_int_equal(expiry, 300);
    assert_int_equal(EXPIRY("m", 5, 90), SD_SEEN_NOTED);
    assert_int_equal(VALUE("m", 5, 5000), SD_SEEN_EXPIRED);
    assert_int_equal(EXPIRY("n", 5, 300), SD_SEEN_NOTED);
    assert_int_equal(VALUE("n", 4, 5000), SD_SEEN_SUPERSEDED);
    assert_int_equal(VALUE("n", 5, 50), SD_SEEN_TAKE);
    assert_int_equal(EXPIRY("o", 5, 300), SD_SEEN_NOTED);
    assert_int_equal(VALUE("o", 6, 400), SD_SEEN_TAKE);
    assert_int_equal(expiry, 400);
}

static void a_removal_is_stronger_than_a_touch(void **state)
{
    (void)state;
    assert_int_equal(EXPIRY("k", 5, 300), SD_SEEN_NOTED);
    assert_int_equal(REMOVED("k", 5), SD_SEEN_NOTED);
    assert_int_equal(VALUE("k", 5, 5000), SD_SEEN_REMOVED);
    assert_int_equal(REMOVED("m", 6), SD_SEEN_NOTED);
    assert_int_equal(EXPIRY("m", 5, 300), SD_SEEN_NOTED);
    assert_int_equal(VALUE("m", 5, 5000), SD_SEEN_REMOVED);
}

static void the_longest_times_are_times(void **state)
{
    (void)state;
    assert_int_equal(EXPIRY("k", 5, UINT64_MAX), SD_SEEN_NOTED);
    assert_int_equal(VALUE("k", 5, 1), SD_SEEN_TAKE);
    assert_int_equal(VALUE("m", 5, UINT64_MAX), SD_SEEN_TAKE);
    assert_true(expiry == UINT64_MAX);
}

/* Enough keys that the tables grow several times. */
static void many_keys(void **state)
{
    char key[32];
    uint32_t n, keys = 50000, pass;

    (void)state;
    for (pass = 0; pass < 2; pass++) {
        for (n = 0; n < keys; n++) {
            snprintf(key, sizeof key, "key-%u", n);
            if (n % 3 == 1)
                assert_int_equal(REMOVED(key, 2), SD_SEEN_NOTED);
            if (n % 3 == 2)
                assert_int_equal(EXPIRY(key, 2, 1000 + n), SD_SEEN_NOTED);
        }
        for (n = 0; n < keys; n++) {
            snprintf(key, sizeof key, "key-%u", n);
            assert_int_equal(VALUE(key, 2, 500), n % 3 == 1 ? SD_SEEN_REMOVED : SD_SEEN_TAKE);
            if (n % 3 != 1)
                assert_int_equal(expiry, n % 3 == 2 ? 1000 + n : 500);
        }
        for (n = 0; n < keys; n++) {
            snprintf(key, sizeof key, "key-%u", n);
            assert_int_equal(VALUE(key, 1, 500), SD_SEEN_SUPERSEDED);
        }
        sd_seen_clear(seen);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_newest_value_decides, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_shorter_life_is_not_outlived_by_what_it_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_removed_stays_so, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_removal_does_not_bind_what_came_after_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_touch_holds_for_its_version, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_removal_is_stronger_than_a_touch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_longest_times_are_times, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_keys, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
