/* SPDX-License-Identifier: Apache-2.0
 *
 * load.c: the parent's side of a load. The child is not trusted: it may have been
 * led astray by the file before it wrote what is read here. So every note has its
 * mark and its number, every length its bound, the counts at the end must be those
 * that came, and a child that does not move is killed.
 */
#include "persist/load.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "persist/internal.h"
#include "persist/reader.h"

#define IN_BYTES (256u << 10)
#define SLICE_MS 50 /* how often it is looked at whether the child is at work */
#define BEAT_MS 100

typedef enum { SOME, NOTHING_YET, BROKEN } filled_t;

struct sd_load {
    sd_child_t child;
    sd_reader_order_t order;
    sd_load_report_t report;
    sd_persist_status_t status;
    char reason[SD_PERSIST_REASON];
    char *dir;
    int owner;             /* -1: the caller holds the lock */
    int patience_ms;
    int still_ms;          /* for so long the child has not moved */
    uint64_t beats;        /* of the desk, when it was last looked at */
    uint64_t notes;        /* that have come */
    uint64_t data_bytes;
    uint32_t data_left;    /* of the record at hand */
    bool done;
    const atomic_bool *stop;
    unsigned char *in;
    size_t at, end;        /* of what has come and was not taken */
};

static void look_at_desk(sd_load_t *l)
{
    if (l->child.desk != NULL)
        l->report.bytes_done = atomic_load(&l->child.desk->bytes_done);
}

/* The load has come to nothing, and this is the sentence. */
static void __attribute__((format(printf, 3, 4)))
breaks(sd_load_t *l, sd_persist_status_t status, const char *format, ...)
{
    char what[SD_PERSIST_REASON];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (l->status != SD_PERSIST_OK)
        return;
    look_at_desk(l);
    sd_child_end(&l->child, true);
    l->status = status;
    sd_persist_says(status, l->reason, "%.100s/data.mdb: %.150s", l->dir, what);
}

/* A damaged file ends it by one of these; all others come from somebody else. */
static bool is_of_its_own_doing(int signal)
{
    return signal == SIGSEGV || signal == SIGBUS || signal == SIGABRT || signal == SIGFPE || signal == SIGILL;
}

/* It has closed its end without having said that all is over. */
static void ended_early(sd_load_t *l)
{
    uint64_t chunk = atomic_load(&l->child.desk->chunk);
    char where[64] = "", how[64];
    int status;

    if (l->status != SD_PERSIST_OK)
        return;
    look_at_desk(l);
    sd_child_end(&l->child, false);
    status = l->child.wait_status;
    if (chunk != 0)
        snprintf(where, sizeof where, " at chunk %llu", (unsigned long long)chunk);
    if (WIFSIGNALED(status) && !is_of_its_own_doing(WTERMSIG(status))) {
        breaks(l, SD_PERSIST_FAILED, "the process that reads it was killed by signal %d", WTERMSIG(status));
        return;
    }
    if (WIFSIGNALED(status))
        snprintf(how, sizeof how, "was ended by signal %d", WTERMSIG(status));
    else
        snprintf(how, sizeof how, "ended early (status %d)", WEXITSTATUS(status));
    breaks(l, SD_PERSIST_DAMAGED, "it is damaged: the process that read it %s%s", how, where);
}

/* Waits until the pipe has something, at most wait_ms. */
static filled_t wait_for_it(sd_load_t *l, int wait_ms)
{
    for (;;) {
        struct pollfd p = { l->child.pipe, POLLIN, 0 };
        int slice = wait_ms < SLICE_MS ? wait_ms : SLICE_MS, n = poll(&p, 1, slice);
        uint64_t beats = atomic_load(&l->child.desk->beats);

        if (n > 0)
            return SOME;
        if (n < 0 && errno != EINTR) {
            breaks(l, SD_PERSIST_FAILED, "the process that reads it cannot be heard: %s", strerror(errno));
            return BROKEN;
        }
        if (beats != l->beats)
            l->still_ms = 0;
        else if (n == 0)
            l->still_ms += slice;
        l->beats = beats;
        if (l->still_ms >= l->patience_ms) {
            breaks(l, SD_PERSIST_DAMAGED, "it cannot be read: the process that does stood still for %d ms at chunk %llu",
                   l->still_ms, (unsigned long long)atomic_load(&l->child.desk->chunk));
            return BROKEN;
        }
        wait_ms -= slice;
        if (wait_ms <= 0)
            return NOTHING_YET;
    }
}

/* More bytes into the buffer, behind what has not been taken. */
static filled_t fill(sd_load_t *l, int wait_ms)
{
    filled_t filled;
    ssize_t n;

    if (l->status != SD_PERSIST_OK || l->child.pipe < 0)
        return BROKEN;
    if (l->at > 0) {
        memmove(l->in, l->in + l->at, l->end - l->at);
        l->end -= l->at;
        l->at = 0;
    }
    for (;;) {
        n = read(l->child.pipe, l->in + l->end, IN_BYTES - l->end);
        if (n > 0) {
            l->end += (size_t)n;
            l->still_ms = 0;
            return SOME;
        }
        if (n == 0) {
            ended_early(l);
            return BROKEN;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN) {
            breaks(l, SD_PERSIST_FAILED, "the process that reads it cannot be heard: %s", strerror(errno));
            return BROKEN;
        }
        filled = wait_for_it(l, wait_ms);
        if (filled != SOME)
            return filled;
    }
}

/* Until `want` bytes (few) stand in the buffer. */
static filled_t need(sd_load_t *l, size_t want, int wait_ms)
{
    while (l->end - l->at < want) {
        filled_t filled = fill(l, wait_ms);

        if (filled != SOME)
            return filled;
    }
    return SOME;
}

static sd_load_step_t junk(sd_load_t *l, const char *what)
{
    breaks(l, SD_PERSIST_DAMAGED, "it is damaged: the process that read it said what makes no sense (%s, note %llu)", what,
           (unsigned long long)l->notes);
    return SD_LOAD_BROKEN;
}

static sd_load_step_t take_refusal(sd_load_t *l, const void *bytes)
{
    sd_reader_refusal_t refusal;

    memcpy(&refusal, bytes, sizeof refusal);
    refusal.text[sizeof refusal.text - 1] = '\0';
    if (refusal.status != SD_PERSIST_ALIEN && refusal.status != SD_PERSIST_FAILED)
        refusal.status = SD_PERSIST_DAMAGED;
    breaks(l, (sd_persist_status_t)refusal.status, "%s", refusal.text);
    return SD_LOAD_BROKEN;
}

static sd_load_step_t take_trailer(sd_load_t *l, const void *bytes, uint64_t records)
{
    sd_load_report_t *rep = &l->report;
    sd_reader_trailer_t t;

    memcpy(&t, bytes, sizeof t);
    if (memcmp(&t.state, &rep->state, sizeof t.state) != 0)
        return junk(l, "another state at the end");
    if (t.live != records || t.live_bytes != l->data_bytes)
        return junk(l, "counts that are not those of what came");
    rep->live = t.live;
    rep->expired = t.expired;
    rep->removed = t.removed;
    rep->superseded = t.superseded;
    look_at_desk(l);
    sd_child_end(&l->child, false);
    l->done = true;
    return SD_LOAD_DONE;
}

static sd_load_step_t take_record(sd_load_t *l, const sd_note_t *n, sd_load_record_t *r)
{
    if (r == NULL || n->key_len == 0 || n->key_len > SD_KEY_MAX || n->len > INT32_MAX || n->expiry <= l->report.wall_ms)
        return junk(l, "a record that cannot be");
    r->version = n->version;
    r->expiry = n->expiry;
    r->data_len = l->data_left = n->len;
    r->key_len = (uint8_t)n->key_len;
    memcpy(r->key, l->in + l->at, n->key_len);
    l->at += n->key_len;
    l->report.live++;
    return SD_LOAD_RECORD;
}

static sd_load_step_t unready(filled_t filled)
{
    return filled == NOTHING_YET ? SD_LOAD_WAIT : SD_LOAD_BROKEN;
}

sd_load_step_t sd_load_next(sd_load_t *l, sd_load_record_t *record, int wait_ms)
{
    sd_note_t n;
    size_t body;
    filled_t filled;
    const unsigned char *at;

    if (l->done)
        return SD_LOAD_DONE;
    if (l->status != SD_PERSIST_OK)
        return SD_LOAD_BROKEN;
    look_at_desk(l);
    while (l->data_left > 0) {
        size_t here;

        filled = need(l, 1, wait_ms);
        if (filled != SOME)
            return unready(filled);
        here = l->end - l->at < l->data_left ? l->end - l->at : l->data_left;
        l->at += here;
        l->data_left -= (uint32_t)here;
        l->data_bytes += here;
    }
    filled = need(l, sizeof n, wait_ms);
    if (filled != SOME)
        return unready(filled);
    memcpy(&n, l->in + l->at, sizeof n);
    if (n.magic != SD_NOTE_MAGIC || n.number != l->notes)
        return junk(l, "no note");
    body = n.kind == SD_NOTE_RECORD ? n.key_len : n.len;
    if ((n.kind == SD_NOTE_RECORD && body > SD_KEY_MAX)
        || (n.kind == SD_NOTE_TRAILER && body != sizeof(sd_reader_trailer_t))
        || (n.kind == SD_NOTE_REFUSED && body != sizeof(sd_reader_refusal_t))
        || (n.kind == SD_NOTE_STATE && (body != sizeof(sd_reader_opening_t) || l->notes != 0))
        || (n.kind == SD_NOTE_RECORD && l->notes == 0) || n.kind < SD_NOTE_STATE || n.kind > SD_NOTE_REFUSED)
        return junk(l, "a note that does not belong here");
    filled = need(l, sizeof n + body, wait_ms);
    if (filled != SOME)
        return unready(filled);
    l->at += sizeof n;
    l->notes++;
    at = l->in + l->at;
    switch ((sd_note_kind_t)n.kind) {
        case SD_NOTE_RECORD: return take_record(l, &n, record);
        case SD_NOTE_REFUSED: return take_refusal(l, at);
        case SD_NOTE_TRAILER: return take_trailer(l, at, l->report.live);
        case SD_NOTE_STATE: break;
    }
    memcpy(&l->report.state, at + offsetof(sd_reader_opening_t, state), sizeof l->report.state);
    memcpy(&l->report.wall_ms, at + offsetof(sd_reader_opening_t, wall_ms), sizeof l->report.wall_ms);
    l->report.bytes_all = l->report.state.bytes * (l->order.check_first ? 2 : 1);
    l->at += body;
    return SD_LOAD_WAIT;
}

size_t sd_load_data(sd_load_t *l, const struct iovec *iov, int n)
{
    size_t got = 0;
    int i;

    for (i = 0; i < n && l->data_left > 0; i++) {
        unsigned char *to = iov[i].iov_base;
        size_t room = iov[i].iov_len;

        while (room > 0 && l->data_left > 0) {
            size_t here;

            while (l->end == l->at) {
                if (fill(l, l->patience_ms) == BROKEN)
                    return 0;
            }
            here = l->end - l->at;
            if (here > room)
                here = room;
            if (here > l->data_left)
                here = l->data_left;
            memcpy(to, l->in + l->at, here);
            l->at += here;
            to += here;
            room -= here;
            got += here;
            l->data_left -= (uint32_t)here;
        }
    }
    l->data_bytes += got;
    return got;
}

/* Starts the child and hears its first note, which may take long. */
static sd_persist_status_t start(sd_load_t *l, bool (*beat)(void *baton), void *baton, char *reason)
{
    sd_load_step_t step;

    if (!sd_child_start(&l->child, sd_reader_work, &l->order))
        return sd_persist_says(SD_PERSIST_FAILED, reason, "no process can be started to read %.150s: %s", l->dir,
                               strerror(errno));
    do {
        step = sd_load_next(l, NULL, BEAT_MS);
        if (step == SD_LOAD_WAIT && l->notes == 0 && beat != NULL && !beat(baton))
            return sd_persist_says(SD_PERSIST_STOPPED, reason, "loading was stopped");
    } while (step == SD_LOAD_WAIT && l->notes == 0);
    if (step == SD_LOAD_BROKEN)
        return sd_persist_says(l->status, reason, "%s", l->reason);
    return SD_PERSIST_OK;
}

static sd_load_t *create(const char *dir, int patience_ms)
{
    sd_load_t *l = calloc(1, sizeof *l);

    if (l == NULL)
        return NULL;
    l->owner = -1;
    l->child.pipe = -1;
    l->patience_ms = patience_ms > 0 ? patience_ms : SD_PATIENCE_MS;
    l->dir = strdup(dir);
    l->in = malloc(IN_BYTES);
    if (l->dir == NULL || l->in == NULL)
        sd_load_end(&l);
    else
        l->order.dir = l->dir;
    return l;
}

void sd_reader_witness(sd_reader_order_t *order, int owner)
{
    unsigned char bytes[SD_WITNESS_BYTES];
    ssize_t n = pread(owner, bytes, sizeof bytes, 0);

    order->has_witness = n > 0 && sd_witness_read(bytes, (size_t)n, &order->witness);
}

sd_persist_status_t sd_load_start(sd_load_t **load, const char *dir, const sd_load_options_t *o,
                                  char reason[SD_PERSIST_REASON])
{
    sd_persist_status_t status;
    sd_load_t *l;

    *load = NULL;
    reason[0] = '\0';
    status = sd_data_is_there(dir, reason);
    if (status != SD_PERSIST_OK)
        return status;
    l = create(dir, o->patience_ms);
    if (l == NULL)
        return sd_persist_says(SD_PERSIST_FAILED, reason, "no memory for a load");
    l->order.wall_ms = o->wall_ms;
    l->order.check_first = o->check_first;
    l->stop = o->stop;
    memcpy(l->order.seed, o->seed, sizeof l->order.seed);
    status = sd_owner_lock(dir, &l->owner, reason);
    if (status == SD_PERSIST_OK) {
        sd_reader_witness(&l->order, l->owner);
        status = start(l, o->beat, o->baton, reason);
    }
    if (status != SD_PERSIST_OK) {
        sd_load_end(&l);
        return status;
    }
    *load = l;
    return SD_PERSIST_OK;
}

sd_persist_status_t sd_reader_look(const char *dir, int owner, int patience_ms, char reason[SD_PERSIST_REASON])
{
    sd_load_t *l = create(dir, patience_ms);
    sd_persist_status_t status;
    sd_load_step_t step;

    if (l == NULL)
        return sd_persist_says(SD_PERSIST_FAILED, reason, "no memory to look at a journal");
    l->order.look_only = true;
    sd_reader_witness(&l->order, owner);
    status = start(l, NULL, NULL, reason);
    if (status == SD_PERSIST_OK) {
        do {
            step = sd_load_next(l, NULL, l->patience_ms);
        } while (step == SD_LOAD_WAIT);
        if (step != SD_LOAD_DONE)
            status = sd_persist_says(l->status, reason, "%s", l->reason);
    }
    sd_load_end(&l);
    /* for one who wants to write, all that must be left alone is the same */
    return status == SD_PERSIST_DAMAGED ? SD_PERSIST_ALIEN : status;
}

const sd_load_report_t *sd_load_report(const sd_load_t *l)
{
    return &l->report;
}

sd_persist_status_t sd_load_status(const sd_load_t *l)
{
    return l->status;
}

const char *sd_load_reason(const sd_load_t *l)
{
    return l->reason;
}

const atomic_bool *sd_load_stop_flag(const sd_load_t *l)
{
    return l->stop;
}

void sd_load_end(sd_load_t **load)
{
    sd_load_t *l = *load;

    *load = NULL;
    if (l == NULL)
        return;
    sd_child_end(&l->child, true);
    if (l->owner >= 0)
        close(l->owner);
    free(l->in);
    free(l->dir);
    free(l);
}
