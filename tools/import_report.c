/* SPDX-License-Identifier: Apache-2.0
 *
 * import_report.c: counts, the bar on a terminal, and the summary. The bar is
 * one line that is drawn over; whatever else is said has to remove it first.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/import_report.h"

enum { DETAILS = 8, DETAIL_BYTES = 160, BAR = 30, SHOWN = 4 };

static const struct {
    const char *words, *remark;
    bool mends;
} fates[IMPORT_FATES] = {
    [IMPORT_STORED] = { "imported", NULL, false },
    [IMPORT_UPDATED] = { "brought up to date", NULL, false },
    [IMPORT_THERE] = { "already there", NULL, false },
    [IMPORT_EXPIRED] = { "expired", NULL, false },
    [IMPORT_OLD] = { "not changed since", NULL, false },
    [IMPORT_EMPTY] = { "skipped: empty", "a session without data", false },
    [IMPORT_BAD_KEY] = { "skipped: bad key", "no key that the server takes", false },
    [IMPORT_FOREIGN] = { "skipped: other name", "not named like a session", false },
    [IMPORT_HALF_STORED] = { "skipped: half stored", "sharedanced's temporary files", false },
    [IMPORT_MISPLACED] = { "skipped: misplaced", "not where PHP looks for it: is the number of levels right?", false },
    [IMPORT_NOT_REGULAR] = { "skipped: not a regular file", NULL, false },
    [IMPORT_VANISHED] = { "skipped: vanished", "removed while it was looked at", false },
    [IMPORT_IN_USE] = { "skipped: in use", "a request holds its lock: run again", true },
    [IMPORT_CHANGING] = { "skipped: changing", "written while it was read: run again", true },
    [IMPORT_UNREADABLE] = { "skipped: unreadable", NULL, true },
    [IMPORT_TOO_LARGE] = { "refused: too large", NULL, true },
    [IMPORT_REFUSED] = { "refused", NULL, true },
    [IMPORT_UNANSWERED] = { "unanswered", "sent, and not acknowledged: run again", true },
};

/* A fate in the words of whoever decided it, as often as they were heard. */
typedef struct detail {
    import_fate_t fate;
    uint64_t count;
    char words[DETAIL_BYTES];
} detail_t;

struct import_report {
    bool dry, verbose, terminal, drawn;
    uint64_t count[IMPORT_FATES], seen, expected, written_before;
    detail_t detail[DETAILS];
    int details;
    uint64_t began_ms, drawn_ms;
};

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

import_report_t *import_report_create(bool dry, bool verbose)
{
    import_report_t *report = calloc(1, sizeof *report);

    if (!report) {
        fprintf(stderr, "sessiond-import: no memory\n");
        exit(3);
    }
    report->dry = dry;
    report->verbose = verbose;
    report->terminal = isatty(STDERR_FILENO) == 1;
    report->began_ms = now_ms();
    return report;
}

void import_report_destroy(import_report_t **report)
{
    free(*report);
    *report = NULL;
}

static void remove_bar(import_report_t *report)
{
    if (report->drawn)
        fprintf(stderr, "\r\033[K");
    report->drawn = false;
}

static void note_detail(import_report_t *report, import_fate_t fate, const char *words)
{
    detail_t *at = report->detail, *end = at + report->details;

    while (at < end && !(at->fate == fate && strncmp(at->words, words, DETAIL_BYTES - 1) == 0))
        at++;
    if (at == end) {
        if (report->details == DETAILS)
            return;
        report->details++;
        at->fate = fate;
        snprintf(at->words, sizeof at->words, "%s", words);
    }
    at->count++;
}

void import_report_count(import_report_t *report, import_fate_t fate, const char *name, const char *detail)
{
    const char *why = detail ? detail : fates[fate].remark;
    char shown[SHOWN + 1] = "";
    size_t i, skip;

    report->count[fate]++;
    report->seen++;
    if (detail)
        note_detail(report, fate, detail);
    if (report->verbose && name && fate > IMPORT_OLD) {
        skip = strncmp(name, "sess_", 5) == 0 ? 5 : 0;
        for (i = 0; i < SHOWN && name[skip + i]; i++)
            shown[i] = name[skip + i] < 33 || name[skip + i] > 126 ? '?' : name[skip + i];
        import_report_say(report, "%.*s%s...: %s%s%s%s", (int)skip, name, shown, fates[fate].words,
                          why ? " (" : "", why ? why : "", why ? ")" : "");
    }
    import_report_tick(report);
}

static uint64_t written(const import_report_t *report)
{
    return report->count[IMPORT_STORED] + report->count[IMPORT_UPDATED];
}

void import_report_begin_pass(import_report_t *report)
{
    int fate;

    for (fate = IMPORT_EXPIRED; fate < IMPORT_FATES; fate++)
        report->count[fate] = 0;
    report->details = 0;
    report->written_before = written(report);
}

void import_report_sum_pass(import_report_t *report, unsigned pass)
{
    uint64_t left = 0;
    int fate;

    for (fate = 0; fate < IMPORT_FATES; fate++)
        left += fates[fate].mends ? report->count[fate] : 0;
    remove_bar(report);
    printf("pass %u: %" PRIu64 " written, %" PRIu64 " left for the next\n", pass,
           written(report) - report->written_before, left);
    fflush(stdout);
}

void import_report_expect(import_report_t *report, uint64_t files)
{
    report->expected = files;
    report->seen = 0;
}

bool import_report_has_bar(const import_report_t *report)
{
    return report->terminal;
}

void import_report_tick(import_report_t *report)
{
    char bar[BAR + 1];
    uint64_t now, share;

    if (!report->terminal || report->expected == 0 || (now = now_ms()) < report->drawn_ms + 200)
        return;
    report->drawn_ms = now;
    report->drawn = true;
    share = report->seen < report->expected ? report->seen * BAR / report->expected : BAR;
    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)share);
    bar[BAR] = 0;
    fprintf(stderr, "\r[%s] %" PRIu64 " of %" PRIu64 " files, %" PRIu64 " s\033[K", bar, report->seen,
            report->expected, (now - report->began_ms) / 1000);
    fflush(stderr);
}

void import_report_say(import_report_t *report, const char *format, ...)
{
    va_list arguments;

    remove_bar(report);
    fprintf(stderr, "sessiond-import: ");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
}

bool import_report_is_incomplete(const import_report_t *report)
{
    int fate;

    for (fate = 0; fate < IMPORT_FATES; fate++)
        if (fates[fate].mends && report->count[fate] > 0)
            return true;
    return false;
}

void import_report_sum(import_report_t *report)
{
    uint64_t ms = now_ms() - report->began_ms, stored = report->count[IMPORT_STORED];
    const detail_t *detail;
    int fate;

    remove_bar(report);
    for (fate = 0; fate < IMPORT_FATES; fate++) {
        if (report->count[fate] == 0 && (fate > IMPORT_EXPIRED || fate == IMPORT_UPDATED))
            continue;
        printf("%s%s: %" PRIu64, report->dry && fate == IMPORT_STORED ? "would be " : "", fates[fate].words,
               report->count[fate]);
        if (fates[fate].remark)
            printf(" (%s)", fates[fate].remark);
        printf("\n");
        for (detail = report->detail; detail < report->detail + report->details; detail++)
            if ((int)detail->fate == fate)
                printf("    %s: %" PRIu64 "\n", detail->words, detail->count);
    }
    printf("in %" PRIu64 ".%" PRIu64 " s", ms / 1000, ms % 1000 / 100);
    if (stored > 0 && !report->dry)
        printf(", %" PRIu64 " sessions a second", stored * 1000 / (ms ? ms : 1));
    printf("\n");
    fflush(stdout);
}
