/* SPDX-License-Identifier: Apache-2.0
 *
 * takeover.c: see the header. What is hard: any of the earlier processes may be
 * serving, waiting as we are, hanging or dying, may be of another version, and
 * may change from one to another meanwhile; and a later process may come while
 * we wait, to which we give way. The kernel's word that a process is dead is
 * the end of its control socket; its own word that it has left the store is
 * DONE. Nothing else frees the store. And whatever goes wrong here, a process that
 * serves is not given up for it.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "handover.h"
#include "log.h"
#include "protocol/bytes.h"
#include "takeover.h"

#define FINISH_MS 3000u /* for a process that was asked to finish and to go */
#define ASK_TRIES 5u
#define SILENCE_MS 1000u /* a process that dies closes its channel a moment before its control socket */
#define STALL_MS 1000u  /* so long between two looks: this process, or the machine, stood still */

typedef enum {
    UNASKED,
    ASKED,     /* something is to come over the channel, or the other one dies */
    FINISHING, /* it drains, and ends */
    KILLED,
    GONE
} phase_t;

typedef struct earlier {
    int control;
    pid_t pid;
    int channel;           /* -1 = none */
    phase_t phase;
    uint32_t asked;        /* how often */
    uint64_t due;          /* ms: a sign of it is to come until then */
    sd_parcels_t parcels;  /* what has come from it */
    uint64_t silent;       /* ms: the channel ended without a word; 0 = it has not */
    bool taken;            /* TAKEN has been said: it is about to go */
    bool told;             /* the log has been told that it hangs and cannot be killed */
} earlier_t;

static bool is_dead(const earlier_t *e)
{
    struct pollfd p = { .fd = e->control, .events = 0 };

    return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

static void close_channel(earlier_t *e)
{
    if (e->channel >= 0)
        close(e->channel);
    e->channel = -1;
}

/* Asks, or asks again. False: it cannot be asked, though it lives. */
static bool ask(earlier_t *e)
{
    close_channel(e);
    e->silent = 0;
    if (e->asked++ >= ASK_TRIES) {
        sd_log(ERR, 0, "session process %" APR_PID_T_FMT " did not hand over in %u tries", e->pid, ASK_TRIES);
        return false;
    }
    e->channel = sd_word_ask(e->control, SD_HANDOVER_FROM, SD_HANDOVER_TO);
    if (e->channel < 0 && !is_dead(e)) {
        sd_log(ERR, errno, "could not ask session process %" APR_PID_T_FMT " to hand over", e->pid);
        return false;
    }
    e->phase = ASKED;
    e->due = sd_clock_ms() + SD_HANDOVER_PATIENCE_MS;
    return true;
}

/* It speaks no state of ours. The word is for one that runs as another user, to
 * whom we may not send signals. */
static void ask_to_finish(earlier_t *e)
{
    close_channel(e);
    sd_parcels_forget(&e->parcels);
    sd_log(NOTICE, 0, "session process %" APR_PID_T_FMT " cannot hand its connections over to this version: "
           "it finishes what is under way and resets the rest", e->pid);
    sd_word_send(e->control, SD_WORD_FINISH);
    if (!is_dead(e))
        (void)kill(e->pid, SIGTERM);
    e->phase = FINISHING;
    e->due = sd_clock_ms() + FINISH_MS;
}

/* It does not move. One whom we may not kill may still answer, and the parent kills
 * it if it hangs for long. */
static void kill_it(earlier_t *e)
{
    bool finishing = e->phase == FINISHING;

    if (is_dead(e))
        return;
    if (kill(e->pid, SIGKILL) == 0) {
        sd_log(ERR, 0, "the earlier session process %" APR_PID_T_FMT " did not %s within %u ms: killing it",
               e->pid, finishing ? "end" : "hand over", finishing ? FINISH_MS : SD_HANDOVER_PATIENCE_MS);
        e->phase = KILLED;
        return;
    }
    if (!e->told)
        sd_log(ERR, errno, "the earlier session process %" APR_PID_T_FMT " hangs, and cannot be killed from here; "
               "the parent does it by and by", e->pid);
    e->told = true;
    e->due = sd_clock_ms() + SD_HANDOVER_PATIENCE_MS;
}

/* ---- hearing ---- */

typedef enum { HEARD_MORE, HEARD_NOTHING, HEARD_FREE, HEARD_FAILURE } heard_t;

static heard_t fail(const earlier_t *e, const char *why)
{
    sd_log(ERR, 0, "could not take the connections of session process %" APR_PID_T_FMT " over: %s", e->pid, why);
    return HEARD_FAILURE;
}

static heard_t all_came(earlier_t *e, uint32_t number)
{
    uint8_t taken[SD_HANDOVER_HEAD] = { 0 };

    if (number != e->parcels.connections)
        return fail(e, "it says that it has sent another number of them");
    sd_put32(taken, SD_HANDOVER_TAKEN);
    /* if it has died meanwhile, all that it had is here */
    (void)sd_channel_send(e->channel, taken, sizeof taken, NULL, 0, 0);
    e->taken = true;
    return HEARD_MORE;
}

static heard_t done(sd_takeover_t *t, const earlier_t *e, const uint8_t *bytes, size_t len, uint32_t in_order)
{
    if (!e->taken || len < SD_HANDOVER_HEAD + 24)
        return fail(e, "it is done before it has begun");
    t->in_order = in_order == 1;
    t->since = sd_get64(bytes + SD_HANDOVER_HEAD);
    t->stood = sd_get64(bytes + SD_HANDOVER_HEAD + 8);
    t->sent = sd_get64(bytes + SD_HANDOVER_HEAD + 16);
    return HEARD_FREE;
}

/* One packet. Descriptors come with STATES only; they are put away or closed there. */
static heard_t take(sd_takeover_t *t, earlier_t *e, const uint8_t *bytes, size_t len, const int *fds, uint32_t count)
{
    uint32_t number = sd_get32(bytes + 4);

    switch (sd_get32(bytes)) {
    case SD_HANDOVER_WAIT:
        return HEARD_MORE;
    case SD_HANDOVER_OFFER: /* it lives: what came before is worth nothing */
        sd_parcels_forget(&e->parcels);
        return HEARD_MORE;
    case SD_HANDOVER_STATES:
        if (!sd_parcels_keep(&e->parcels, bytes + SD_HANDOVER_HEAD, len - SD_HANDOVER_HEAD, number, fds, count))
            return fail(e, "there is no memory, or a packet is damaged");
        return HEARD_MORE;
    case SD_HANDOVER_ALL:
        return all_came(e, number);
    case SD_HANDOVER_DONE:
        return done(t, e, bytes, len, number);
    case SD_HANDOVER_VOID: /* it goes on; perhaps it had somebody else to give to, who has given way to us */
        sd_parcels_forget(&e->parcels);
        e->taken = false;
        return ask(e) ? HEARD_NOTHING : HEARD_FAILURE;
    case SD_HANDOVER_NONE:
        ask_to_finish(e);
        return HEARD_NOTHING;
    default: /* of a later version */
        return HEARD_MORE;
    }
}

static heard_t hear(sd_takeover_t *t, earlier_t *e, uint8_t *buffer)
{
    int fds[SD_CHANNEL_FDS];
    uint32_t count, i;
    bool whole = true;
    ssize_t got = sd_channel_receive(e->channel, buffer, SD_HANDOVER_PACKET, fds, &count, &whole);

    if (got < 0 && errno == EAGAIN)
        return HEARD_NOTHING;
    if (got <= 0) { /* it dies: its control socket follows in a moment */
        close_channel(e);
        e->silent = sd_clock_ms();
        return HEARD_NOTHING;
    }
    e->due = sd_clock_ms() + SD_HANDOVER_PATIENCE_MS;
    if (whole && got >= (ssize_t)SD_HANDOVER_HEAD && (count == 0 || sd_get32(buffer) == SD_HANDOVER_STATES))
        return take(t, e, buffer, (size_t)got, fds, count);
    for (i = 0; i < count; i++)
        close(fds[i]);
    return fail(e, whole ? "a packet is damaged" : "descriptors are lacking: raise their limit (ulimit -n, LimitNOFILE)");
}

/* ---- waiting ---- */

/* It has ended the channel without a word and lives: its VOID was lost, since we did
 * not read for long. What it sent is worth nothing, and it is asked again. */
static heard_t lives_on(earlier_t *e)
{
    sd_parcels_forget(&e->parcels);
    e->taken = false;
    return ask(e) ? HEARD_NOTHING : HEARD_FAILURE;
}

/* A look at one of them. */
static heard_t look_at(sd_takeover_t *t, earlier_t *e, uint8_t *buffer)
{
    heard_t heard = HEARD_NOTHING;
    bool dead = is_dead(e); /* before it is heard out */

    while (e->channel >= 0 && (heard = hear(t, e, buffer)) == HEARD_MORE)
        ;
    if (heard == HEARD_FREE || heard == HEARD_FAILURE)
        return heard;
    if (dead) {
        close_channel(e);
        e->phase = GONE;
    }
    else if (e->phase == ASKED && e->silent != 0) {
        if (sd_clock_ms() - e->silent >= SILENCE_MS)
            return lives_on(e);
    }
    else if (e->phase != KILLED && sd_clock_ms() >= e->due)
        kill_it(e);
    return HEARD_NOTHING;
}

/* True: a SIGTERM, or a later process that asks for what we do not have yet. It
 * asks the same ones as we do; whatever is under way between them and us ends
 * with us. */
static bool is_superseded(sd_takeover_t *t, const sd_start_t *start, int signals)
{
    struct signalfd_siginfo info;
    sd_word_t word;

    while (read(signals, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo == SIGTERM)
            return true;
    while ((word = sd_word_hear(start->control)).word != 0)
        switch (word.word) {
        case SD_WORD_RESTART:
            t->restarting = true;
            break;
        case SD_WORD_LOADED:
            t->restarting = false;
            break;
        case SD_WORD_HAND_OVER:
            close(word.channel);
            return true;
        case SD_WORD_FINISH:
            return true;
        default: /* of a later version */
            break;
        }
    return false;
}

/* Once we have said TAKEN there is no way back: the other side may be leaving. */
static bool is_committed(const earlier_t *e, int n)
{
    int i;

    for (i = 0; i < n; i++)
        if (e[i].taken && e[i].phase != GONE)
            return true;
    return false;
}

static void wait_for_news(const earlier_t *e, int n, const sd_start_t *start, int signals)
{
    struct pollfd p[2 * SD_PROCESSES_MAX + 2];
    nfds_t count = 0;
    int i;

    p[count++] = (struct pollfd){ .fd = signals, .events = POLLIN };
    p[count++] = (struct pollfd){ .fd = start->control, .events = POLLIN };
    for (i = 0; i < n; i++)
        if (e[i].phase != GONE) {
            p[count++] = (struct pollfd){ .fd = e[i].control, .events = 0 };
            if (e[i].channel >= 0)
                p[count++] = (struct pollfd){ .fd = e[i].channel, .events = POLLIN };
        }
    if (is_committed(e, n)) /* neither is read now: they must not spin */
        p[0].fd = p[1].fd = -1;
    (void)poll(p, count, 100);
}

static int left_over(const earlier_t *e, int n)
{
    int i, left = 0;

    for (i = 0; i < n; i++)
        left += e[i].phase != GONE;
    return left;
}

/* Nobody is to be killed for a time in which we could not look. */
static void forgive(earlier_t *e, int n, uint64_t gap)
{
    int i;

    for (i = 0; i < n && gap > STALL_MS; i++) {
        e[i].due += gap;
        e[i].silent += e[i].silent != 0 ? gap : 0;
    }
}

static sd_takeover_end_t receive(sd_takeover_t *t, earlier_t *e, int n, const sd_start_t *start, int signals,
                                 void (*beat)(const sd_start_t *start))
{
    static uint8_t buffer[SD_HANDOVER_PACKET];
    uint64_t next_beat = 0, now = sd_clock_ms(), before;
    int i;

    for (i = 0; i < n; i++)
        if (!ask(&e[i]))
            return SD_TAKEOVER_FAILED;
    while (left_over(e, n) > 0) {
        if (!is_committed(e, n) && is_superseded(t, start, signals))
            return SD_TAKEOVER_LEAVE;
        wait_for_news(e, n, start, signals);
        before = now;
        now = sd_clock_ms();
        forgive(e, n, now - before);
        for (i = 0; i < n; i++) {
            heard_t heard = e[i].phase != GONE ? look_at(t, &e[i], buffer) : HEARD_NOTHING;

            if (heard == HEARD_FREE) {
                t->channel = e[i].channel;
                e[i].channel = -1;
                return SD_TAKEOVER_SERVE;
            }
            if (heard == HEARD_FAILURE) {
                e[i].taken = false; /* or we would wait for it, and listen to nobody else */
                if (!is_committed(e, n))
                    return SD_TAKEOVER_FAILED;
                /* another one is about to go for us */
                close_channel(&e[i]);
                sd_parcels_forget(&e[i].parcels);
                e[i].phase = KILLED; /* or will be, by whoever comes next: its end is waited for */
            }
        }
        if (now >= next_beat) {
            beat(start);
            next_beat = now + 1000;
        }
    }
    /* All are dead. If we stood still meanwhile, a later process may have the store by
     * now: it asked us before it could get it, and waits for our end if it could not. */
    return is_superseded(t, start, signals) ? SD_TAKEOVER_LEAVE : SD_TAKEOVER_SERVE;
}

sd_takeover_end_t sd_takeover_receive(sd_takeover_t *t, const sd_start_t *start, int signals,
                                      void (*beat)(const sd_start_t *start))
{
    earlier_t e[SD_PROCESSES_MAX];
    int n = start->earlier_count, i;
    sd_takeover_end_t end;

    t->channel = -1;
    for (i = 0; i < n; i++)
        e[i] = (earlier_t){ .control = start->earlier[i], .pid = start->earlier_pid[i], .channel = -1 };
    end = receive(t, e, n, start, signals, beat);
    for (i = 0; i < n; i++) {
        close_channel(&e[i]);
        close(e[i].control);
        if (end == SD_TAKEOVER_SERVE && (e[i].phase == GONE || e[i].taken))
            sd_parcels_move(&t->parcels, &e[i].parcels);
        else
            sd_parcels_forget(&e[i].parcels);
    }
    return end;
}
