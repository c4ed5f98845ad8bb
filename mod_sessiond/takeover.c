/* SPDX-License-Identifier: Apache-2.0
 *
 * takeover.c: see the header. What is hard: any of the earlier processes may be
 * serving, waiting as we are, hanging or dying, may be of another version, and
 * may change from one to another meanwhile; and a later process may come while
 * we wait, to which we give way. The kernel's word that a process is dead is
 * the end of its control socket; its own word that it has left the store is
 * DONE. Nothing else frees the store.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection_handover.h"
#include "handover.h"
#include "log.h"
#include "protocol/bytes.h"
#include "takeover.h"

#define FINISH_MS 3000u /* for a process that was asked to finish and to go */
#define ASK_TRIES 3u
/* A process that dies may close our channel a moment before its control socket. */
#define MAYBE_DYING_MS 200u

typedef enum { ASKED, SILENT, FINISHING, KILLED, GONE } earlier_state_t;

typedef struct earlier {
    int control;
    pid_t pid;
    int channel;      /* -1 = none */
    earlier_state_t state;
    uint32_t asked;   /* how often */
    uint64_t due;     /* ms: it has to move until then */
    bool all;         /* everything it has is here */
} earlier_t;

/* ---- what was received ---- */

static void forget_parcels(sd_takeover_t *t)
{
    sd_parcel_t *p;
    uint32_t i;

    while ((p = t->first)) {
        t->first = p->next;
        for (i = 0; i < p->count; i++)
            if (p->fd[i] >= 0)
                close(p->fd[i]); /* whoever gave it has it still, or its end is a reset */
        free(p);
    }
    t->last = NULL;
    t->connections = 0;
}

/* Puts a packet away. False: no memory, or not all descriptors came. */
static bool keep_parcel(sd_takeover_t *t, const uint8_t *bytes, size_t len, uint32_t count,
                        const int *fd, uint32_t fds)
{
    sd_parcel_t *p = NULL;
    uint32_t i;

    if (count == fds && count > 0)
        p = malloc(sizeof *p + len);
    if (!p) {
        for (i = 0; i < fds; i++)
            close(fd[i]);
        return false;
    }
    p->next = NULL;
    p->count = count;
    p->len = len;
    memcpy(p->fd, fd, sizeof *fd * fds);
    memcpy(p->bytes, bytes, len);
    if (t->last)
        t->last->next = p;
    else
        t->first = p;
    t->last = p;
    t->connections += count;
    return true;
}

/* ---- asking ---- */

static bool ask(earlier_t *e)
{
    uint8_t word[SD_HANDOVER_ASK_BYTES] = { SD_WORD_HAND_OVER, 0, SD_HANDOVER_FROM >> 8, SD_HANDOVER_FROM & 0xff,
                                            SD_HANDOVER_TO >> 8, SD_HANDOVER_TO & 0xff };
    struct iovec iov = { word, sizeof word };
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } extra;
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &extra,
                          .msg_controllen = sizeof extra };
    struct cmsghdr *c;
    int pair[2], size = SD_HANDOVER_PACKET * 2;
    bool sent;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    (void)setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    memset(&extra, 0, sizeof extra);
    c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &pair[1], sizeof(int));
    sent = sendmsg(e->control, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof word;
    close(pair[1]);
    if (!sent) {
        close(pair[0]);
        return false;
    }
    e->channel = pair[0];
    e->state = ASKED;
    e->asked++;
    e->due = sd_clock_ms() + SD_HANDOVER_WAIT_MS;
    return true;
}

static void close_channel(earlier_t *e)
{
    if (e->channel >= 0)
        close(e->channel);
    e->channel = -1;
}

/* It knows no hand-over, or none of our version, or nothing came of it. The
 * word is for one that runs as another user, to whom we may not send signals. */
static void ask_to_finish(sd_takeover_t *t, earlier_t *e)
{
    char word = SD_WORD_FINISH;

    close_channel(e);
    forget_parcels(t);
    e->all = false;
    sd_log(NOTICE, 0, "session process %" APR_PID_T_FMT " cannot hand its connections over to this version: "
           "it finishes what is under way and resets the rest", e->pid);
    (void)send(e->control, &word, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)kill(e->pid, SIGTERM);
    e->state = FINISHING;
    e->due = sd_clock_ms() + FINISH_MS;
}

/* Nothing came of it, but the other side is well: perhaps it had somebody else
 * to give to, who has given up for us. */
static void ask_again(sd_takeover_t *t, earlier_t *e)
{
    close_channel(e);
    forget_parcels(t);
    e->all = false;
    if (e->asked >= ASK_TRIES || !ask(e))
        ask_to_finish(t, e);
}

static void kill_it(earlier_t *e)
{
    close_channel(e);
    sd_log(ERR, 0, "the earlier session process %" APR_PID_T_FMT " did not %s within %u ms: killing it", e->pid,
           e->state == FINISHING ? "end" : "hand over", e->state == FINISHING ? FINISH_MS : SD_HANDOVER_WAIT_MS);
    if (kill(e->pid, SIGKILL) != 0)
        sd_log(ERR, errno, "it cannot be killed from here; the parent does it if it hangs");
    e->state = KILLED;
    e->due = UINT64_MAX;
}

/* ---- hearing ---- */

typedef enum { HEARD_MORE, HEARD_NOTHING, HEARD_FREE } heard_t;

static heard_t take(sd_takeover_t *t, earlier_t *e, uint8_t *bytes, size_t len, const int *fd, uint32_t fds)
{
    uint32_t kind = len >= SD_HANDOVER_HEAD ? sd_get32(bytes) : 0, number = kind ? sd_get32(bytes + 4) : 0;
    uint8_t taken[SD_HANDOVER_HEAD] = { 0 };
    uint32_t i;

    switch (kind) {
    case SD_HANDOVER_OFFER:
        return HEARD_MORE;
    case SD_HANDOVER_STATES:
        if (!keep_parcel(t, bytes + SD_HANDOVER_HEAD, len - SD_HANDOVER_HEAD, number, fd, fds)) {
            sd_log(ERR, 0, "could not take connections over: no memory");
            ask_to_finish(t, e);
            return HEARD_NOTHING;
        }
        return HEARD_MORE;
    case SD_HANDOVER_ALL:
        sd_put32(taken, SD_HANDOVER_TAKEN);
        if (number != t->connections || send(e->channel, taken, sizeof taken, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
            ask_again(t, e);
            return HEARD_NOTHING;
        }
        e->all = true;
        return HEARD_MORE;
    case SD_HANDOVER_DONE:
        if (!e->all || len < SD_HANDOVER_HEAD + 24) {
            ask_again(t, e);
            return HEARD_NOTHING;
        }
        t->complete = number == 1;
        t->since = sd_get64(bytes + SD_HANDOVER_HEAD);
        t->stood = sd_get64(bytes + SD_HANDOVER_HEAD + 8);
        t->sent = sd_get64(bytes + SD_HANDOVER_HEAD + 16);
        return HEARD_FREE;
    case SD_HANDOVER_NONE:
        ask_to_finish(t, e);
        return HEARD_NOTHING;
    default: /* a packet that was cut off, or that we do not know */
        for (i = 0; i < fds; i++)
            close(fd[i]);
        sd_log(ERR, 0, "could not take connections over: a packet is damaged, or descriptors are lacking (ulimit -n, LimitNOFILE)");
        ask_to_finish(t, e);
        return HEARD_NOTHING;
    }
}

/* Reads one packet. */
static heard_t hear(sd_takeover_t *t, earlier_t *e, uint8_t *buffer)
{
    struct iovec iov = { buffer, SD_HANDOVER_PACKET };
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int) * SD_HANDOVER_FDS)];
    } extra;
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &extra,
                          .msg_controllen = sizeof extra };
    ssize_t got = recvmsg(e->channel, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int fd[SD_HANDOVER_FDS];
    uint32_t fds = 0;
    struct cmsghdr *c;

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return HEARD_NOTHING;
    if (got <= 0) { /* it has closed the channel, or died: its control socket tells which */
        close_channel(e);
        return HEARD_NOTHING;
    }
    for (c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            fds = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fd, CMSG_DATA(c), fds * sizeof(int));
        }
    e->due = sd_clock_ms() + SD_HANDOVER_WAIT_MS;
    if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) /* take() sees that something is missing */
        got = 0;
    return take(t, e, buffer, (size_t)got, fd, fds);
}

/* ---- waiting ---- */

static bool is_dead(const earlier_t *e)
{
    struct pollfd p = { .fd = e->control, .events = 0 };

    return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

/* A look at one of them. True: it has left the store to us. */
static bool look_at(sd_takeover_t *t, earlier_t *e, uint8_t *buffer)
{
    heard_t heard = HEARD_NOTHING;
    bool dead = is_dead(e); /* before it is heard out */

    while (e->channel >= 0 && (heard = hear(t, e, buffer)) == HEARD_MORE)
        ;
    if (heard == HEARD_FREE) {
        close_channel(e);
        return true;
    }
    if (dead) {
        close_channel(e);
        e->state = GONE;
    }
    else if (e->state == ASKED && e->channel < 0) {
        e->state = SILENT;
        e->due = sd_clock_ms() + MAYBE_DYING_MS;
    }
    else if (sd_clock_ms() < e->due)
        return false;
    else if (e->state == SILENT)
        ask_again(t, e);
    else
        kill_it(e);
    return false;
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
    word = sd_handover_hear(start->control);
    t->restarting |= word.word == SD_WORD_RESTART;
    return word.word == SD_WORD_HAND_OVER || word.word == SD_WORD_FINISH;
}

/* Once we have said TAKEN there is no way back: the other side is leaving. */
static bool is_committed(const earlier_t *e, int n)
{
    int i;

    for (i = 0; i < n; i++)
        if (e[i].all && e[i].state != GONE)
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
        if (e[i].state != GONE) {
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
        left += e[i].state != GONE;
    return left;
}

sd_takeover_end_t sd_takeover_receive(sd_takeover_t *t, const sd_start_t *start, int signals,
                                      void (*beat)(const sd_start_t *start))
{
    static uint8_t buffer[SD_HANDOVER_PACKET];
    earlier_t e[SD_PROCESSES_MAX];
    int n = start->earlier_count, i;
    uint64_t next_beat = 0, now;
    bool free_now = false;

    memset(t, 0, sizeof *t);
    for (i = 0; i < n; i++) {
        e[i] = (earlier_t){ .control = start->earlier[i], .pid = start->earlier_pid[i], .channel = -1 };
        if (!ask(&e[i]) && !is_dead(&e[i]))
            ask_to_finish(t, &e[i]);
    }
    while (!free_now && left_over(e, n) > 0) {
        if (!is_committed(e, n) && is_superseded(t, start, signals))
            return SD_TAKEOVER_LEAVE;
        wait_for_news(e, n, start, signals);
        for (i = 0; i < n && !free_now; i++)
            if (e[i].state != GONE)
                free_now = look_at(t, &e[i], buffer);
        now = sd_clock_ms();
        if (now >= next_beat) {
            beat(start);
            next_beat = now + 1000;
        }
    }
    for (i = 0; i < n; i++) {
        close_channel(&e[i]);
        close(e[i].control);
    }
    return SD_TAKEOVER_SERVE;
}

/* ---- going on ---- */

typedef struct walk {
    sd_server_t *server; /* NULL: only look whether all can be read */
    uint32_t seen, live;
} walk_t;

static void deal_one(walk_t *w, int fd, const uint8_t *bytes, size_t len)
{
    sd_loop_t *loop = w->server->loop[w->seen % w->server->loops];
    sd_handed_t state;

    if (sd_handed_unpack(bytes, len, &state))
        w->live += sd_connection_adopt(loop, fd, &state);
    else {
        sd_count(loop->counters, handover_lost);
        close(fd); /* in a reset: see handover.h */
    }
}

/* A packet that is not what it says ends early; what is left of it is closed, in
 * a reset too. */
static void walk_parcel(sd_parcel_t *p, walk_t *w)
{
    sd_handed_t ignored;
    size_t at = 0;
    uint32_t i;

    for (i = 0; i < p->count && p->len - at >= 4; i++) {
        size_t len = sd_get32(p->bytes + at);

        at += 4;
        if (len > p->len - at)
            return;
        if (w->server) {
            deal_one(w, p->fd[i], p->bytes + at, len);
            p->fd[i] = -1;
        }
        else
            w->live += sd_handed_unpack(p->bytes + at, len, &ignored);
        w->seen++;
        at += len;
    }
}

static walk_t walk(sd_takeover_t *t, sd_server_t *server)
{
    walk_t w = { server, 0, 0 };
    sd_parcel_t *p;

    for (p = t->first; p; p = p->next)
        walk_parcel(p, &w);
    return w;
}

bool sd_takeover_is_complete(sd_takeover_t *t)
{
    return t->complete && walk(t, NULL).live == t->connections;
}

uint32_t sd_takeover_deal(sd_takeover_t *t, sd_server_t *server)
{
    uint32_t live = walk(t, server).live;

    forget_parcels(t);
    return live;
}
