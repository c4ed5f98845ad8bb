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
#include "tools/import_pass.h"
#include "tools/import_stop.h"

enum {
    ATTEMPTS = 3,   /* for a file that changes under our hands */
    LOCK_POLL_MS = 5,
    LONGEST_TTL = 30 * 86400
};

/* SessiondMaxSize is at most 1 GB. */
static const off_t largest = (off_t)1 << 30;

struct import_pass {
    const import_options_t *options;
    import_report_t *report;
    import_client_t *client;
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

    (void)token;
    (void)version;
    import_report_count(pass->report,
                        answer == IMPORT_B && pass->options->overwrite && pass->options->dry_run ? IMPORT_STORED
                                                                                                 : fate[answer],
                        name, sentence);
}

import_pass_t *import_pass_create(const import_options_t *options, import_report_t *report)
{
    import_pass_t *pass = calloc(1, sizeof *pass);

    if (!pass)
        return NULL;
    pass->options = options;
    pass->report = report;
    pass->client = import_client_create(&options->server, options->timeout_ms, options->dry_run, answered, pass);
    if (!pass->client)
        import_pass_destroy(&pass);
    return pass;
}

void import_pass_destroy(import_pass_t **pass)
{
    if (*pass)
        import_client_destroy(&(*pass)->client);
    free(*pass);
    *pass = NULL;
}

import_client_t *import_pass_client(import_pass_t *pass)
{
    return pass->client;
}

/* The rest of the lifetime in seconds, rounded up so that nobody loses a part
 * of one; 0: it is over. A date in the future is another host's clock. */
static uint32_t rest_of(const import_pass_t *pass, const struct stat *st)
{
    const uint64_t second = 1000000000u, whole = pass->options->expiration * second;
    uint64_t now, end = import_file_changed_ns(st) + whole, left;
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    now = (uint64_t)t.tv_sec * second + (uint64_t)t.tv_nsec;
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
    else if (import_file_changed_ns(&entry->st) / 1000000000u < pass->options->since)
        fate(pass, entry, IMPORT_OLD, NULL);
    else {
        for (n = 0; n < ATTEMPTS && outcome == AGAIN; n++)
            outcome = attempt(pass, entry);
        if (outcome == AGAIN)
            fate(pass, entry, IMPORT_CHANGING, NULL);
    }
    return outcome != FAILED;
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
    return error;
}
