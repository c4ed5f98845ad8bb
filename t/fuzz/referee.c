/* SPDX-License-Identifier: Apache-2.0
 *
 * referee.c: see the header. A frame is judged once it is complete; what an
 * unfinished one must leave is judged at the end of each talk.
 */
#include <stdlib.h>

#include "fuzz.h"
#include "protocol/bytes.h"
#include "referee.h"

/* A frame as the document lays it out. */
typedef struct frame {
    uint8_t op;
    uint32_t fixed, key_len, data_len, ttl, wait;
    uint64_t version;
    const uint8_t *key, *data;
    uint64_t total;
} frame_t;

typedef enum {
    INCOMPLETE, /* a head or a value goes on */
    GOOD,
    SILENT,     /* closed without a byte */
    REJECTED,   /* an error, and the connection stays */
    HOPELESS    /* an error, and it ends */
} kind_t;

/* ---- the table ---- */

/* Large, and so the same for each referee, one after the other. */
static entry_t entries[REFEREE_ENTRIES];

void referee_setup(referee_t *r, const sd_limits_t *limits, const sd_counters_t *counters, bool evicts)
{
    memset(r, 0, sizeof *r);
    r->limits = limits;
    r->counters = counters;
    r->evicts = evicts;
    r->entry = entries;
}

void referee_teardown(referee_t *r)
{
    uint32_t i;

    for (i = 0; i < r->entries; i++)
        free(r->entry[i].data);
    memset(r->entry, 0, r->entries * sizeof *r->entry);
    memset(r, 0, sizeof *r);
}

static entry_t *entry_of(referee_t *r, const frame_t *f)
{
    uint32_t i;

    for (i = 0; i < r->entries; i++)
        if (r->entry[i].key_len == f->key_len && memcmp(r->entry[i].key, f->key, f->key_len) == 0)
            return &r->entry[i];
    must(r->entries < REFEREE_ENTRIES);
    memcpy(r->entry[i].key, f->key, f->key_len);
    r->entry[i].key_len = f->key_len;
    r->entries++;
    return &r->entry[i];
}

static bool is_live(const referee_t *r, const entry_t *e)
{
    return e->present && e->expiry > r->now;
}

/* It ought to be there and is not: then it was evicted, or else a session is lost. */
static void must_be_evicted(referee_t *r, entry_t *e)
{
    must(r->evicts);
    r->gone++;
    must(r->gone <= atomic_load(&r->counters->evicted));
    e->present = false;
}

static uint64_t expiry_of(const referee_t *r, const frame_t *f)
{
    return r->now + (f->ttl ? (uint64_t)f->ttl * 1000 : r->limits->expiration_ms);
}

static void keep(referee_t *r, const frame_t *f, uint64_t version)
{
    entry_t *e = entry_of(r, f);

    free(e->data);
    e->data = malloc(f->data_len + 1u);
    must(e->data);
    memcpy(e->data, f->data, f->data_len);
    e->len = f->data_len;
    e->version = version;
    e->expiry = expiry_of(r, f);
    e->present = true;
}

/* ---- reading frames ---- */

static bool is_key(const frame_t *f, bool plain)
{
    uint32_t i;

    for (i = 0; i < f->key_len; i++) {
        uint8_t byte = f->key[i];

        if (plain ? byte < 32 || byte > 126 || byte == '.' || byte == '/' : byte < 33 || byte == 127)
            return false;
    }
    return true;
}

static bool is_plain(uint8_t op)
{
    return op == 'S' || op == 'F' || op == 'D';
}

static bool is_extended(uint8_t op)
{
    return op != 0 && strchr("PGWLTUR", op);
}

/* Takes the fields that have come. False: more of the fixed part is to come. */
static bool take_fields(frame_t *f, const uint8_t *in, size_t n)
{
    f->op = in[0];
    f->fixed = f->op == 'W' ? 21 : f->op != 0 && strchr("SPLT", f->op) ? 9 : 5;
    if (f->op != 'P' && n >= 5)
        f->key_len = sd_get32(in + 1);
    if (n < f->fixed)
        return false;
    if (f->op == 'S' || f->op == 'W')
        f->data_len = sd_get32(in + 5);
    if (f->op == 'W') {
        f->ttl = sd_get32(in + 9);
        f->version = sd_get64(in + 13);
    }
    if (f->op == 'L')
        f->wait = sd_get32(in + 5);
    if (f->op == 'T')
        f->ttl = sd_get32(in + 5);
    f->key = in + f->fixed;
    f->data = f->key + f->key_len;
    f->total = (uint64_t)f->fixed + f->key_len + f->data_len;
    return true;
}

static kind_t read_plain(const referee_t *r, frame_t *f, const uint8_t *in, size_t n)
{
    bool whole = take_fields(f, in, n);

    if (n >= 5 && (f->key_len < 1 || f->key_len > 255 || f->key_len > r->limits->max_size))
        return SILENT;
    if (!whole)
        return INCOMPLETE;
    if ((uint64_t)f->key_len + f->data_len > r->limits->max_size)
        return SILENT;
    if (n < (uint64_t)f->fixed + f->key_len)
        return INCOMPLETE;
    if (!is_key(f, true))
        return SILENT;
    if (n < f->total)
        return INCOMPLETE;
    return n > f->total ? SILENT : GOOD; /* bytes behind the only request */
}

static kind_t read_extended(const referee_t *r, frame_t *f, const uint8_t *in, size_t n)
{
    bool whole = take_fields(f, in, n), good;

    if (!is_extended(f->op))
        return HOPELESS;
    if (f->op != 'P' && n >= 5 && f->key_len > r->limits->max_size)
        return HOPELESS;
    if (!whole)
        return INCOMPLETE;
    if (f->op == 'P')
        return GOOD;
    if ((uint64_t)f->key_len + f->data_len > r->limits->max_size)
        return HOPELESS;
    if (n < f->total)
        return INCOMPLETE;
    good = f->key_len >= 1 && f->key_len <= 250 && f->ttl <= 30u * 24 * 3600 && f->wait <= 600000
           && is_key(f, false);
    return good ? GOOD : REJECTED;
}

static kind_t read_frame(const referee_t *r, frame_t *f)
{
    uint8_t first = r->sent[0];

    memset(f, 0, sizeof *f);
    if (is_plain(first))
        return read_plain(r, f, r->sent, r->sent_len);
    if (!r->persistent && !is_extended(first))
        return SILENT;
    return read_extended(r, f, r->sent, r->sent_len);
}

/* ---- replies ---- */

static const uint8_t *take(referee_t *r, size_t n)
{
    const uint8_t *at = r->answer;

    must(n <= r->answer_len);
    r->answer += n;
    r->answer_len -= n;
    return at;
}

static uint8_t status_of(const referee_t *r)
{
    must(r->answer_len >= 5);
    return r->answer[0];
}

/* A reply frame with this status; returns its body. */
static const uint8_t *take_frame(referee_t *r, uint8_t status, uint32_t *len)
{
    const uint8_t *head = take(r, 5);

    must(head[0] == status);
    *len = sd_get32(head + 1);
    return take(r, *len);
}

static void take_empty(referee_t *r, uint8_t status)
{
    uint32_t len;

    take_frame(r, status, &len);
    must(len == 0);
}

static void take_error(referee_t *r)
{
    uint32_t len, i;
    const uint8_t *text = take_frame(r, 'E', &len);

    must(len > 0 && len < 200);
    for (i = 0; i < len; i++)
        must(text[i] >= 32 && text[i] < 127);
}

static void take_refusal(referee_t *r)
{
    take_error(r);
    r->seen.refused_full++;
}

static void judge_hello(referee_t *r)
{
    size_t greeting = strlen(r->limits->greeting);
    uint32_t len;
    const uint8_t *body = take_frame(r, 'K', &len);

    must(len >= 8 && memcmp(body, r->sent + 1, 8) == 0);
    must(len - 8 <= greeting && memcmp(body + 8, r->limits->greeting, len - 8) == 0);
    must(len - 8 == greeting || len > 400); /* a very long one is cut */
    r->seen.hellos++;
}

static void judge_get(referee_t *r, const frame_t *f)
{
    entry_t *e = entry_of(r, f);
    uint32_t len;
    const uint8_t *body;

    if (status_of(r) == 'N') {
        take_empty(r, 'N');
        r->seen.get_misses++;
        if (is_live(r, e))
            must_be_evicted(r, e);
        return;
    }
    body = take_frame(r, 'V', &len);
    must(is_live(r, e));
    must(len == 8 + e->len && sd_get64(body) == e->version);
    must(memcmp(body + 8, e->data, e->len) == 0);
    r->seen.get_hits++;
}

/* ---- locks ---- */

/* Gives up what this connection holds of a key. True: it held it. */
static bool unlock(referee_t *r, entry_t *e)
{
    if (!e->locked)
        return false;
    e->locked = false;
    r->locks--;
    return true;
}

static void unlock_all(referee_t *r)
{
    uint32_t i;

    for (i = 0; i < r->entries && r->locks > 0; i++)
        unlock(r, &r->entry[i]);
    must(r->locks == 0);
}

/* Nobody else is there: a lock is had at once, whatever the wait. */
static void judge_lock(referee_t *r, const frame_t *f)
{
    entry_t *e = entry_of(r, f);

    if (!e->locked && r->locks == REFEREE_LOCKS) {
        take_error(r);
        r->seen.bad_requests++;
        return;
    }
    if (!e->locked) {
        e->locked = true;
        r->locks++;
        r->seen.lock_grants++;
    }
    judge_get(r, f);
}

static void judge_touch(referee_t *r, const frame_t *f)
{
    entry_t *e = entry_of(r, f);

    if (status_of(r) == 'N') { /* a lock of one's own stays */
        take_empty(r, 'N');
        r->seen.touch_misses++;
        if (is_live(r, e))
            must_be_evicted(r, e);
        return;
    }
    unlock(r, e);
    take_empty(r, 'K');
    must(is_live(r, e));
    e->expiry = expiry_of(r, f);
    r->seen.touches++;
}

static void judge_unlock(referee_t *r, const frame_t *f)
{
    bool held = unlock(r, entry_of(r, f));

    take_empty(r, held ? 'K' : 'N');
    r->seen.unlocks += held;
    r->seen.unlock_misses += !held;
}

static void judge_remove(referee_t *r, const frame_t *f)
{
    entry_t *e = entry_of(r, f);

    unlock(r, e);
    if (status_of(r) == 'N') {
        take_empty(r, 'N');
        r->seen.remove_misses++;
        if (is_live(r, e))
            must_be_evicted(r, e);
        return;
    }
    take_empty(r, 'K');
    must(is_live(r, e));
    e->present = false;
    r->seen.removes++;
}

/* The holder's version is not looked at. What is refused for want of memory keeps
 * the lock. */
static void judge_write(referee_t *r, const frame_t *f)
{
    entry_t *e = entry_of(r, f);
    uint64_t asked = e->locked ? SD_VERSION_ANY : f->version;
    uint64_t there = is_live(r, e) ? e->version : SD_VERSION_ABSENT, version;
    uint8_t status = status_of(r);
    uint32_t len;

    if (status == 'E') {
        take_refusal(r);
        return;
    }
    if (there != SD_VERSION_ABSENT && (status == 'B' ? asked == there : asked == 0)) {
        must_be_evicted(r, e);
        there = SD_VERSION_ABSENT;
    }
    if (status == 'B') {
        take_empty(r, 'B');
        must(asked != SD_VERSION_ANY && asked != there);
        r->seen.writes_fenced++;
        return;
    }
    version = sd_get64(take_frame(r, 'K', &len));
    must(len == 8);
    must(asked == SD_VERSION_ANY || asked == there);
    must(version > r->last_version);
    r->last_version = version;
    r->seen.writes++;
    unlock(r, e);
    keep(r, f, version);
}

static void judge_store(referee_t *r, const frame_t *f)
{
    must(memcmp(take(r, 3), "OK\n", 3) == 0);
    r->seen.stores++;
    r->last_version++; /* the next one: stores do not tell it */
    keep(r, f, r->last_version);
}

static void judge_fetch(referee_t *r, const frame_t *f)
{
    entry_t *e = entry_of(r, f);

    if (is_live(r, e) && r->answer_len == 0 && e->len > 0)
        must_be_evicted(r, e);
    if (!is_live(r, e)) {
        r->seen.fetch_misses++;
        return;
    }
    if (e->len == 0 && atomic_load(&r->counters->fetch_misses) > r->seen.fetch_misses) {
        must_be_evicted(r, e);
        r->seen.fetch_misses++;
        return;
    }
    must(memcmp(take(r, e->len), e->data, e->len) == 0);
    r->seen.fetch_hits++;
}

static void judge_delete(referee_t *r, const frame_t *f)
{
    entry_t *e = entry_of(r, f);

    if (is_live(r, e) && r->answer_len == 0)
        must_be_evicted(r, e);
    if (!is_live(r, e)) {
        r->seen.delete_misses++;
        return;
    }
    must(memcmp(take(r, 3), "OK\n", 3) == 0);
    r->seen.deletes++;
    e->present = false;
}

/* ---- one frame ---- */

/* Over SessiondMaxSize, or wrong in another way? The length of a plain key is
 * looked at first. */
static void count_bad(referee_t *r, const frame_t *f)
{
    uint64_t max = r->limits->max_size;
    bool ours = is_plain(f->op) || (is_extended(f->op) && f->op != 'P');
    bool bad_key = is_plain(f->op) && f->key_len <= max && (f->key_len < 1 || f->key_len > 255);

    if (ours && !bad_key && (uint64_t)f->key_len + f->data_len > max)
        r->seen.oversized_requests++;
    else
        r->seen.bad_requests++;
}

static sd_after_t judge_good(referee_t *r, const frame_t *f)
{
    switch (f->op) {
    case 'S':
        judge_store(r, f);
        return SD_AFTER_CLOSE;
    case 'F':
        judge_fetch(r, f);
        return SD_AFTER_CLOSE;
    case 'D':
        judge_delete(r, f);
        return SD_AFTER_CLOSE;
    case 'P':
        judge_hello(r);
        unlock_all(r);
        return SD_AFTER_KEEP;
    case 'G':
        judge_get(r, f);
        return SD_AFTER_KEEP;
    case 'L':
        judge_lock(r, f);
        return SD_AFTER_KEEP;
    case 'T':
        judge_touch(r, f);
        return SD_AFTER_KEEP;
    case 'U':
        judge_unlock(r, f);
        return SD_AFTER_KEEP;
    case 'R':
        judge_remove(r, f);
        return SD_AFTER_KEEP;
    default:
        judge_write(r, f);
        return SD_AFTER_KEEP;
    }
}

static sd_after_t judge_frame(referee_t *r, kind_t kind, const frame_t *f)
{
    switch (kind) {
    case GOOD:
        return judge_good(r, f);
    case SILENT:
        count_bad(r, f);
        return SD_AFTER_DRAIN;
    case REJECTED:
        take_error(r);
        count_bad(r, f);
        return SD_AFTER_KEEP;
    case HOPELESS:
        take_error(r);
        count_bad(r, f);
        return SD_AFTER_DRAIN;
    case INCOMPLETE:
        break;
    }
    return SD_AFTER_KEEP;
}

void referee_hang_up(referee_t *r)
{
    unlock_all(r);
    r->sent_len = 0;
    r->persistent = false;
}

/* What an unfinished frame must have come to. */
static void judge_unfinished(referee_t *r, const frame_t *f, const client_t *c)
{
    bool plain = is_plain(f->op), in_value;
    uint64_t head = (uint64_t)f->fixed + f->key_len;

    /* a key that is bad by its length, a lifetime or a wait is known before the key has come */
    in_value = f->key && (r->sent_len >= head
                          || (!plain && (f->key_len == 0 || f->key_len > 250 || f->ttl > SD_TTL_MAX
                                     || f->wait > SD_WAIT_MAX)));
    must(sd_wire_is_idle(&c->wire) == !in_value);
    must(sd_wire_wanted(&c->wire) == (in_value ? f->total - r->sent_len : 0));
    must(c->kept_len == (in_value ? 0 : r->sent_len));
    r->persistent |= in_value && !plain;
}

void referee_judge(referee_t *r, const uint8_t *sent, size_t n, const outcome_t *o, const client_t *c)
{
    sd_after_t after = SD_AFTER_KEEP;
    frame_t f = { 0 };

    must(r->sent_len + n <= sizeof r->sent);
    memcpy(r->sent + r->sent_len, sent, n);
    r->sent_len += n;
    r->answer = o->answer;
    r->answer_len = o->len;
    while (after == SD_AFTER_KEEP && r->sent_len > 0) {
        kind_t kind = read_frame(r, &f);

        /* for S, no memory is trouble, which may show before its value is complete */
        if (f.op == 'S' && o->after == SD_AFTER_RESET) {
            must(kind != SILENT || r->sent_len > f.total); /* its head is sound */
            must(f.key && r->answer_len == 0);
            r->seen.refused_full++;
            after = SD_AFTER_RESET;
            break;
        }
        if (kind == INCOMPLETE) {
            judge_unfinished(r, &f, c);
            break;
        }
        r->persistent |= !is_plain(f.op) && f.op != 0;
        after = judge_frame(r, kind, &f);
        if (after == SD_AFTER_KEEP) {
            r->sent_len -= (size_t)f.total;
            memmove(r->sent, r->sent + f.total, r->sent_len);
        }
    }
    must(after == o->after);
    must(r->answer_len == 0);
    if (r->sent_len == 0)
        must(sd_wire_is_idle(&c->wire) && c->kept_len == 0);
    if (after != SD_AFTER_KEEP)
        referee_hang_up(r);
    else
        must(c->wire.persistent == r->persistent);
    must(atomic_load(&r->counters->locks_held) == r->locks);
}

/* ---- the end ---- */

static void judge_entry(referee_t *r, fixture_t *f, entry_t *e)
{
    struct iovec iov[64];
    size_t bytes, at = 0;
    sd_ref_t ref;
    int n, i;

    if (sd_store_get(f->lane, e->key, e->key_len, r->now, &ref) != SD_OK) {
        if (is_live(r, e))
            must_be_evicted(r, e);
        return;
    }
    must(is_live(r, e));
    must(ref.version == e->version && ref.expiry == e->expiry && ref.data_len == e->len);
    while (ref.left > 0) {
        n = sd_ref_iov(f->lane, &ref, iov, 64, &bytes);
        must(n > 0 && at + bytes <= e->len);
        for (i = 0; i < n; at += iov[i].iov_len, i++)
            must(memcmp(iov[i].iov_base, e->data + at, iov[i].iov_len) == 0);
        sd_ref_advance(f->lane, &ref, bytes);
    }
    sd_ref_release(f->lane, &ref);
}

void referee_judge_end(referee_t *r, fixture_t *f)
{
    const sd_counters_t *c = r->counters;
    uint32_t i;

#define SAME(field) must(atomic_load(&r->seen.field) == atomic_load(&c->field))
    SAME(stores);
    SAME(fetch_hits);
    SAME(fetch_misses);
    SAME(deletes);
    SAME(delete_misses);
    SAME(hellos);
    SAME(get_hits);
    SAME(get_misses);
    SAME(writes);
    SAME(writes_fenced);
    SAME(touches);
    SAME(touch_misses);
    SAME(removes);
    SAME(remove_misses);
    SAME(removes_fenced);
    SAME(unlocks);
    SAME(unlock_misses);
    SAME(locks_held);
    SAME(lock_waiters);
    SAME(lock_grants);
    SAME(lock_waits);
    SAME(lock_timeouts);
    SAME(leases_ended);
    SAME(bad_requests);
    SAME(oversized_requests);
    SAME(refused_full);
#undef SAME
    for (i = 0; i < r->entries; i++)
        judge_entry(r, f, &r->entry[i]);
    must(r->evicts || atomic_load(&c->evicted) == 0);
}
