/* SPDX-License-Identifier: Apache-2.0
 *
 * test_timer.c: deadlines on the wheel: never early, at most a tick late, moved,
 * cleared, beyond the wheel's horizon, after a stall; and a long random run
 * against a plain list. Time is a number here.
 */
#include <stdlib.h>

#include "mod_sessiond/timer.h"
#include "store_fixture.h"

#define TICK SD_TIMER_TICK
#define HORIZON ((uint64_t)SD_TIMER_SLOTS * SD_TIMER_TICK)

static sd_timer_wheel_t wheel;

/* When it fires, looking at every millisecond from `from` on, up to `to`; 0 =
 * not by then. */
static uint64_t fires_at(sd_timer_t *timer, uint64_t from, uint64_t to)
{
    uint64_t now;

    for (now = from; now <= to; now++) {
        sd_timer_t *got = sd_timer_expire(&wheel, now);

        if (!got)
            continue;
        assert_ptr_equal(got, timer);
        assert_null(sd_timer_expire(&wheel, now));
        return now;
    }
    return 0;
}

static void never_early_and_at_most_a_tick_late(void **state)
{
    static const uint64_t starts[] = { 0, 1, TICK - 1, TICK, 1000000, (uint64_t)1 << 40 };
    static const uint64_t after[] = { 0, 1, 2, TICK - 1, TICK, TICK + 1, 1000, 5000 };
    size_t s, a;

    (void)state;
    for (s = 0; s < sizeof starts / sizeof starts[0]; s++)
        for (a = 0; a < sizeof after / sizeof after[0]; a++) {
            sd_timer_t timer = { .due = 0 };
            uint64_t due = starts[s] + after[a], at;

            sd_timer_wheel_setup(&wheel, starts[s]);
            assert_null(sd_timer_expire(&wheel, starts[s]));
            sd_timer_set(&wheel, &timer, due);
            assert_int_equal(wheel.count, 1);
            at = fires_at(&timer, starts[s], due + TICK);
            assert_true(at >= due && at <= due + TICK);
            assert_true(at > 0 || due == 0);
            assert_int_equal(wheel.count, 0);
            assert_null(timer.next);
            assert_int_equal(fires_at(&timer, at, at + 2 * HORIZON / 10), 0);
        }
}

static void a_deadline_in_the_past_fires_within_a_tick(void **state)
{
    sd_timer_t timer = { .due = 0 };
    uint64_t at;

    (void)state;
    sd_timer_wheel_setup(&wheel, 100000);
    assert_null(sd_timer_expire(&wheel, 100000));
    sd_timer_set(&wheel, &timer, 5);
    at = fires_at(&timer, 100000, 100000 + TICK);
    assert_true(at >= 100000);
}

/* Put off again and again, as with every byte of a slow client. */
static void moved_later(void **state)
{
    sd_timer_t timer = { .due = 0 };
    uint64_t now, at;

    (void)state;
    sd_timer_wheel_setup(&wheel, 1000);
    for (now = 1000; now < 300000; now += 37) {
        assert_null(sd_timer_expire(&wheel, now));
        sd_timer_set(&wheel, &timer, now + 2000);
        assert_int_equal(wheel.count, 1);
    }
    now -= 37;
    at = fires_at(&timer, now, now + 2000 + TICK);
    assert_true(at >= now + 2000);
}

static void moved_earlier(void **state)
{
    static const uint64_t to[] = { 30000, 5000, TICK + 1, TICK, 1, 0 };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof to / sizeof to[0]; i++) {
        sd_timer_t timer = { .due = 0 };
        uint64_t at;

        sd_timer_wheel_setup(&wheel, 7777);
        sd_timer_set(&wheel, &timer, 7777 + 60000);
        sd_timer_set(&wheel, &timer, 7777 + to[i]);
        assert_int_equal(wheel.count, 1);
        at = fires_at(&timer, 7777, 7777 + to[i] + TICK);
        assert_true(at >= 7777 + to[i]);
    }
}

/* Later, so that it stays in its slot, then earlier again. */
static void moved_to_and_fro(void **state)
{
    sd_timer_t timer = { .due = 0 };
    uint64_t at;

    (void)state;
    sd_timer_wheel_setup(&wheel, 0);
    sd_timer_set(&wheel, &timer, 1000);
    sd_timer_set(&wheel, &timer, 50000);
    sd_timer_set(&wheel, &timer, 3000);
    assert_int_equal(fires_at(&timer, 0, 2999), 0);
    at = fires_at(&timer, 3000, 3000 + TICK);
    assert_true(at >= 3000);
}

static void cleared(void **state)
{
    sd_timer_t a = { .due = 0 }, b = { .due = 0 }, c = { .due = 0 };

    (void)state;
    sd_timer_wheel_setup(&wheel, 0);
    sd_timer_clear(&wheel, &a); /* not set: harmless */
    sd_timer_set(&wheel, &a, 500);
    sd_timer_set(&wheel, &b, 500);
    sd_timer_set(&wheel, &c, 500);
    assert_int_equal(wheel.count, 3);
    sd_timer_clear(&wheel, &b);
    sd_timer_clear(&wheel, &b);
    assert_int_equal(wheel.count, 2);
    assert_null(b.next);
    assert_ptr_equal(sd_timer_expire(&wheel, 1000), &a);
    sd_timer_clear(&wheel, &c); /* while others of its slot are being taken */
    assert_null(sd_timer_expire(&wheel, 1000));
    assert_null(sd_timer_expire(&wheel, 10 * HORIZON));
    assert_int_equal(wheel.count, 0);
    sd_timer_set(&wheel, &b, 10 * HORIZON + 500);
    assert_ptr_equal(sd_timer_expire(&wheel, 10 * HORIZON + 500 + TICK), &b);
}

static void beyond_the_horizon(void **state)
{
    static const uint64_t after[] = { HORIZON - 2 * TICK, HORIZON - TICK, HORIZON - 1, HORIZON,
                                      HORIZON + 1,        3 * HORIZON,    3600000 };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof after / sizeof after[0]; i++) {
        sd_timer_t timer = { .due = 0 };
        uint64_t start = 123456, due = start + after[i], now, step = slowed_down() ? 50 : 3;

        sd_timer_wheel_setup(&wheel, start);
        sd_timer_set(&wheel, &timer, due);
        for (now = start; now < due; now += step)
            assert_null(sd_timer_expire(&wheel, now));
        now = fires_at(&timer, due, due + TICK);
        assert_true(now >= due);
    }
}

/* The loop did not turn for minutes: what is due comes at once, each once; what
 * is not stays and comes in time. */
static void after_a_stall(void **state)
{
    static const uint64_t stalls[]
        = { HORIZON - TICK, HORIZON, HORIZON + 1, 5 * HORIZON, 1000 * HORIZON };
    static sd_timer_t timers[200];
    size_t i;
    uint32_t n;

    (void)state;
    for (i = 0; i < sizeof stalls / sizeof stalls[0]; i++) {
        uint64_t start = 1000000, end = start + stalls[i], at;
        uint32_t due = 0, got = 0;
        sd_timer_t *timer;

        memset(timers, 0, sizeof timers);
        sd_timer_wheel_setup(&wheel, start);
        for (n = 0; n < 200; n++) {
            uint64_t when = start + (stalls[i] + 60000) / 200 * n;

            sd_timer_set(&wheel, &timers[n], when);
            due += when + TICK <= end;
        }
        while ((timer = sd_timer_expire(&wheel, end))) {
            assert_true(timer->due <= end);
            got++;
        }
        assert_true(got >= due);
        assert_int_equal(wheel.count, 200 - got);
        for (at = end; got < 200; at++) {
            assert_true(at <= end + 60000 + TICK);
            while ((timer = sd_timer_expire(&wheel, at))) {
                assert_true(timer->due <= at && at <= timer->due + TICK);
                got++;
            }
        }
    }
}

/* What a deadline's end does may set others, clear others and set itself. */
static void set_and_cleared_while_expiring(void **state)
{
    static sd_timer_t timers[50];
    uint64_t now = 5000000;
    uint32_t n, fired = 0, rounds;
    sd_timer_t *timer;

    (void)state;
    memset(timers, 0, sizeof timers);
    sd_timer_wheel_setup(&wheel, now);
    for (n = 0; n < 50; n++)
        sd_timer_set(&wheel, &timers[n], now + 10 * n);
    now += 20 * HORIZON;
    for (rounds = 0; (timer = sd_timer_expire(&wheel, now)); rounds++) {
        assert_true(timer->due <= now);
        assert_true(rounds < 1000);
        fired++;
        if (fired % 3 == 0)
            sd_timer_set(&wheel, timer, now + 1);
        else if (fired % 3 == 1)
            sd_timer_clear(&wheel, &timers[fired % 50]);
        else
            sd_timer_set(&wheel, &timers[(fired * 7) % 50], now + 5 * HORIZON);
    }
    n = wheel.count;
    assert_true(n > 0);
    for (rounds = 0; wheel.count > 0 && rounds < 6 * SD_TIMER_SLOTS; rounds++) {
        now += TICK;
        while ((timer = sd_timer_expire(&wheel, now))) {
            assert_true(timer->due <= now && now < timer->due + 2 * TICK);
            n--;
        }
    }
    assert_int_equal(n, 0);
    assert_int_equal(wheel.count, 0);
}

static void a_deadline_that_never_comes(void **state)
{
    sd_timer_t timer = { .due = 0 };
    uint64_t now, at;

    (void)state;
    sd_timer_wheel_setup(&wheel, 1000);
    sd_timer_set(&wheel, &timer, UINT64_MAX);
    for (now = 1000; now < 1000 + 4 * HORIZON; now += TICK / 2)
        assert_null(sd_timer_expire(&wheel, now));
    assert_null(sd_timer_expire(&wheel, now + 100 * HORIZON));
    now += 100 * HORIZON;
    sd_timer_set(&wheel, &timer, UINT64_MAX - 1);
    sd_timer_set(&wheel, &timer, now + 300);
    at = fires_at(&timer, now, now + 300 + TICK);
    assert_true(at >= now + 300);
}

/* ---- chance, against a list ---- */

#define MANY 300u

typedef struct model {
    sd_timer_t timer[MANY];
    uint64_t due[MANY], latest[MANY]; /* latest: it must have fired by then */
    bool set[MANY];
    uint32_t count;
} model_t;

static void model_set(model_t *m, uint32_t n, uint64_t due, uint64_t now)
{
    m->count += !m->set[n];
    m->set[n] = true;
    m->due[n] = due;
    m->latest[n] = (due > now ? due : now) + TICK;
    sd_timer_set(&wheel, &m->timer[n], due);
}

static void model_expire(model_t *m, uint64_t now)
{
    sd_timer_t *timer;
    uint32_t n;

    while ((timer = sd_timer_expire(&wheel, now))) {
        n = (uint32_t)(timer - m->timer);
        assert_true(n < MANY && m->set[n]);
        assert_int_equal(timer->due, m->due[n]);
        assert_true(m->due[n] <= now);
        m->set[n] = false;
        m->count--;
    }
    for (n = 0; n < MANY; n++)
        assert_true(!m->set[n] || now < m->latest[n]);
    assert_int_equal(wheel.count, m->count);
}

static uint64_t some_time(dice_t *dice)
{
    switch (dice_below(dice, 6)) {
    case 0: return dice_below(dice, 3);
    case 1: return dice_below(dice, 2 * TICK);
    case 2: return dice_below(dice, 5000);
    case 3: return dice_below(dice, 60000);
    case 4: return HORIZON - 3 * TICK + dice_below(dice, 6 * TICK);
    default: return dice_below(dice, 4000000);
    }
}

static void chance(void **state)
{
    static model_t m;
    uint32_t run, ops, n;

    (void)state;
    for (run = 0; run < 10; run++) {
        dice_t dice = dice_new(run);
        uint64_t now = dice_below(&dice, 2) ? dice_below(&dice, 1000) : dice_roll(&dice) >> 20;

        memset(&m, 0, sizeof m);
        sd_timer_wheel_setup(&wheel, now);
        for (ops = test_ops(60000, 3000); ops > 0; ops--) {
            n = dice_below(&dice, MANY);
            switch (dice_below(&dice, 8)) {
            case 0:
            case 1:
            case 2:
                model_set(&m, n, now + some_time(&dice), now);
                break;
            case 3: /* a little later, as progress does */
                if (m.set[n])
                    model_set(&m, n, m.due[n] + dice_below(&dice, 1000), now);
                break;
            case 4: /* in the past */
                model_set(&m, n, now - (now < 500 ? 0 : dice_below(&dice, 500)), now);
                break;
            case 5:
                sd_timer_clear(&wheel, &m.timer[n]);
                m.count -= m.set[n];
                m.set[n] = false;
                break;
            default:
                now += dice_below(&dice, 50) ? dice_below(&dice, 300) : some_time(&dice);
                model_expire(&m, now);
            }
        }
        model_expire(&m, now + 5000000);
        assert_int_equal(wheel.count, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_early_and_at_most_a_tick_late),
        cmocka_unit_test(a_deadline_in_the_past_fires_within_a_tick),
        cmocka_unit_test(moved_later),
        cmocka_unit_test(moved_earlier),
        cmocka_unit_test(moved_to_and_fro),
        cmocka_unit_test(cleared),
        cmocka_unit_test(beyond_the_horizon),
        cmocka_unit_test(after_a_stall),
        cmocka_unit_test(set_and_cleared_while_expiring),
        cmocka_unit_test(a_deadline_that_never_comes),
        cmocka_unit_test(chance),
    };

    return cmocka_run_group_tests_name("timer", tests, NULL, NULL);
}
