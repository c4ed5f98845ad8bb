/* SPDX-License-Identifier: Apache-2.0
 *
 * import_pass.c: from a file to a write.
 *
 * A value's length is sent before its bytes, so what is read must be known to
 * be whole before the last of it is sent. A value that fits into a piece is read
 * first and sent when it was seen unchanged. Of a larger one the last piece is
 * held back until then, and if it has changed, the connection is closed, which
 * makes the server forget the rest.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/import_file.h"
#include "tools/import_known.h"
#include "tools/import_pass.h"
#include "tools/import_stop.h"

enum {
    ATTEMPTS = 3,   /* for a file that changes under our hands */
    LOCK_POLL_MS = 5,
    SETTLE_MS = 20,
    LONGEST_TTL = 30 * 86400
};

/* SessiondMaxSize is at most 1 GB. */
static const off_t largest = (off_t)1 << 30;

static const uint64_t second = 1000000000u; /* in ns */

struct import_pass {
    const import_options_t *options;
    import_report_t *report;
    import_client_t *client;
    import_known_t *known; /* NULL: there will be no other pass */
    bool no_memory;
    uint8_t piece[IMPORT_PIECE];
};

/* What has become of an attempt; a fate is final. */
typedef enum outcome {
    QUEUED,
    AGAIN,   /* it has changed */
    FAILED,  /* the client, or an interruption */
    REPORTED
} outcome_t;

static void answered(void *context, import_answer_t answer, const char *name, uint64_t token, uint64_t version,
                     const char *sentence)
{
    static const import_fate_t fate[] = {
        [IMPORT_K] = IMPORT_STORED, [IMPORT_B] = IMPORT_THERE,
        [IMPORT_E] = IMPORT_REFUSED, [IMPORT_E_END] = IMPORT_TOO_LARGE
    };
    import_pass_t *pass = context;
    import_known_entry_t *entry = pass->known ? import_known_at(pass->known, token) : NULL;
    import_fate_t is = fate[answer];

    if (answer == IMPORT_B && pass->options->overwrite && pass->options->dry_run)
        is = IMPORT_STORED;
    if (entry && answer == IMPORT_K && entry->version)
        is = IMPORT_UPDATED;
    import_report_count(pass->report, is, name, sentence);
    if (!entry)
        return;
    entry->state = answer == IMPORT_K ? IMPORT_OURS : answer == IMPORT_B ? IMPORT_THEIRS : IMPORT_UNSENT;
    if (answer == IMPORT_K)
        entry->version = version;
}

import_pass_t *import_pass_create(const import_options_t *options, import_report_t *report)
{
    import_pass_t *pass = calloc(1, sizeof *pass);

    if (!pass)
        return NULL;
    pass->options = options;
    pass->report = report;
    pass->client = import_client_create(&options->server, options->timeout_ms, options->dry_run, answered, pass);
    if (options->follow)
        pass->known = import_known_create();
    if (!pass->client || (options->follow && !pass->known))
        import_pass_destroy(&pass);
    return pass;
}

void import_pass_destroy(import_pass_t **pass)
{
    if (*pass) {
        import_client_destroy(&(*pass)->client);
        import_known_destroy(&(*pass)->known);
    }
    free(*pass);
    *pass = NULL;
}

import_client_t *import_pass_client(import_pass_t *pass)
{
    return pass->client;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * second + (uint64_t)t.tv_nsec;
}

/* The rest of the lifetime in seconds, rounded up so that nobody loses a part
 * of one; 0: it is over. A date in the future is another host's clock. */
static uint32_t rest_of(const import_pass_t *pass, const struct stat *st)
{
    const uint64_t whole = pass->options->expiration * second, now = now_ns();
    uint64_t end = import_file_changed_ns(st) + whole, left;

    if (end <= now)
        return 0;
    left = end - now < whole ? end - now : whole;
    left = (left + second - 1) / second;
    return left < LONGEST_TTL ? (uint32_t)left : LONGEST_TTL;
}

static outcome_t fate(import_pass_t *pass, const import_entry_t *entry, import_fate_t is, const char *why)
{
    import_report_count(pass->report, is, entry->name, why);
    return REPORTED;
}

/* Waits for a while for the request that has the file. */
static bool lock(import_pass_t *pass, import_file_t *file, bool *failed)
{
    int left = pass->options->lock_wait_ms;

    while (!import_file_lock(file)) {
        if (left <= 0)
            return false;
        if (!import_client_wait(pass->client, LOCK_POLL_MS) || import_stop) {
            *failed = true;
            return false;
        }
        left -= LOCK_POLL_MS;
        import_report_tick(pass->report);
    }
    return true;
}

/* Is there nothing to do for this file? */
static bool is_done(import_pass_t *pass, uint64_t hash, const struct stat *st)
{
    const import_known_entry_t *entry = import_known_at(pass->known, hash);

    if (!entry) {
        pass->no_memory = true;
        return true;
    }
    /* A directory that changes may show a name twice. */
    return entry->state == IMPORT_THEIRS || entry->state == IMPORT_SENT
           || (entry->state == IMPORT_OURS && entry->changed_ns == import_file_changed_ns(st)
               && entry->size == (uint32_t)st->st_size);
}

static void note_sent(import_pass_t *pass, import_write_t *write, const struct stat *st)
{
    import_known_entry_t *entry = import_known_at(pass->known, write->token);

    if (!entry)
        return;
    write->version = entry->version;
    entry->state = IMPORT_SENT;
    entry->changed_ns = import_file_changed_ns(st);
    entry->size = (uint32_t)st->st_size;
}

/* It was not sent after all: the next pass tries again. */
static void note_unsent(import_pass_t *pass, const char *key)
{
    import_known_entry_t *entry = pass->known ? import_known_at(pass->known, import_known_hash(key)) : NULL;

    if (entry && entry->state == IMPORT_SENT)
        entry->state = IMPORT_UNSENT;
}

/* A change within the same tick of the clock as the one before leaves the file's
 * date as it is, so a file that was changed just now is let rest. */
static bool settle(import_pass_t *pass, import_file_t *file)
{
    uint64_t changed = import_file_changed_ns(&file->at_open), now = now_ns();

    /* Far in the future is another host's clock. */
    if (changed + SETTLE_MS * (uint64_t)1000000u < now || changed > now + second)
        return true;
    return import_client_wait(pass->client, SETTLE_MS);
}

static outcome_t stream(import_pass_t *pass, const import_entry_t *entry, import_file_t *file, import_write_t *write)
{
    size_t left = write->size, n;
    import_stream_t state = import_client_stream_begin(pass->client, write);
    int error;

    while (state == IMPORT_GOES_ON && left > 0) {
        n = left < IMPORT_PIECE ? left : IMPORT_PIECE;
        error = import_file_read(file, pass->piece, n);
        left -= n;
        if (error || (left == 0 && !import_file_is_unchanged(file))) {
            if (!import_client_stream_abandon(pass->client))
                return FAILED;
            return error == 0 || error == ESTALE ? AGAIN : fate(pass, entry, IMPORT_UNREADABLE, strerror(error));
        }
        state = import_client_stream_piece(pass->client, pass->piece, n);
        import_report_tick(pass->report);
    }
    if (state == IMPORT_GOES_ON)
        state = import_client_stream_end(pass->client);
    return state == IMPORT_ANSWERED ? QUEUED : state == IMPORT_LOST ? AGAIN : FAILED;
}

static outcome_t send_file(import_pass_t *pass, const import_entry_t *entry, import_file_t *file)
{
    const struct stat *st = &file->at_open;
    size_t key_bytes = strlen(pass->options->prefix) + strlen(entry->key);
    import_write_t write = { .prefix = pass->options->prefix, .key = entry->key, .name = entry->name };
    int error;

    write.version = pass->options->overwrite ? IMPORT_ANY : IMPORT_ABSENT;
    write.ttl = rest_of(pass, st);
    if (write.ttl == 0)
        return fate(pass, entry, IMPORT_EXPIRED, NULL);
    if (st->st_size == 0)
        return fate(pass, entry, IMPORT_EMPTY, NULL);
    if (st->st_size > largest || import_client_is_too_large(pass->client, key_bytes + (uint64_t)st->st_size))
        return fate(pass, entry, IMPORT_TOO_LARGE, "not sent: one that is not larger was refused, or it is over 1 GB");
    write.size = (uint32_t)st->st_size;
    if (pass->known) {
        write.token = import_known_hash(entry->key);
        note_sent(pass, &write, st);
    }
    if (!settle(pass, file))
        return FAILED;
    if (!pass->options->dry_run && write.size > IMPORT_PIECE)
        return stream(pass, entry, file, &write);
    if (!pass->options->dry_run) {
        error = import_file_read(file, pass->piece, write.size);
        if (error && error != ESTALE)
            return fate(pass, entry, IMPORT_UNREADABLE, strerror(error));
        if (error || !import_file_is_unchanged(file))
            return AGAIN;
    }
    return import_client_put(pass->client, &write, pass->piece) ? QUEUED : FAILED;
}

static outcome_t attempt(import_pass_t *pass, const import_entry_t *entry)
{
    import_file_t file;
    outcome_t outcome;
    bool failed = false;
    int error = import_file_open(&file, entry->dir, entry->name);

    if (error == ENOENT)
        return fate(pass, entry, IMPORT_VANISHED, NULL);
    if (error == ELOOP || error == EINVAL)
        return fate(pass, entry, IMPORT_NOT_REGULAR, NULL);
    if (error)
        return fate(pass, entry, IMPORT_UNREADABLE, strerror(error));
    if (pass->options->source.kind == IMPORT_FROM_PHP && !lock(pass, &file, &failed)) {
        import_file_close(&file);
        return failed ? FAILED : fate(pass, entry, IMPORT_IN_USE, NULL);
    }
    outcome = send_file(pass, entry, &file);
    import_file_close(&file);
    return outcome;
}

static bool visit(void *context, const import_entry_t *entry)
{
    import_pass_t *pass = context;
    outcome_t outcome = AGAIN;
    int n;

    if (import_stop)
        return false;
    if (strlen(pass->options->prefix) + strlen(entry->key) > IMPORT_KEY_BYTES)
        fate(pass, entry, IMPORT_BAD_KEY, NULL);
    else if (rest_of(pass, &entry->st) == 0)
        fate(pass, entry, IMPORT_EXPIRED, NULL);
    else if (import_file_changed_ns(&entry->st) / second < pass->options->since)
        fate(pass, entry, IMPORT_OLD, NULL);
    else if (!pass->known || !is_done(pass, import_known_hash(entry->key), &entry->st)) {
        for (n = 0; n < ATTEMPTS && outcome == AGAIN; n++)
            outcome = attempt(pass, entry);
        if (outcome != QUEUED)
            note_unsent(pass, entry->key);
        if (outcome == AGAIN)
            fate(pass, entry, IMPORT_CHANGING, NULL);
    }
    return outcome != FAILED && !pass->no_memory;
}

int import_pass_run(import_pass_t *pass)
{
    const import_source_t *source = &pass->options->source;
    int error;

    if (import_report_has_bar(pass->report))
        import_report_expect(pass->report, import_source_count(source));
    error = import_source_walk(source, pass->report, visit, pass);
    if (!import_client_trouble(pass->client))
        import_client_drain(pass->client);
    return pass->no_memory ? ENOMEM : error;
}
