/* SPDX-License-Identifier: Apache-2.0
 *
 * import_report.h: what became of each file, told while it runs (on a terminal)
 * and at the end. Session ids are secrets, so no line has a whole one.
 */
#ifndef SD_IMPORT_REPORT_H
#define SD_IMPORT_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In the order of the summary; the table in import_report.c has their words. */
typedef enum import_fate {
    IMPORT_STORED,
    IMPORT_UPDATED,
    IMPORT_THERE,
    IMPORT_EXPIRED,
    IMPORT_OLD,
    /* left out, and rightly so next time, too */
    IMPORT_EMPTY,
    IMPORT_BAD_KEY,
    IMPORT_FOREIGN,
    IMPORT_HALF_STORED,
    IMPORT_MISPLACED,
    IMPORT_NOT_REGULAR,
    IMPORT_VANISHED,
    /* left out for a reason that may be gone the next time */
    IMPORT_IN_USE,
    IMPORT_CHANGING,
    IMPORT_UNREADABLE,
    IMPORT_TOO_LARGE,
    IMPORT_REFUSED,
    IMPORT_UNANSWERED,
    IMPORT_FATES
} import_fate_t;

typedef struct import_report import_report_t;

/* Never NULL: it is the first thing that is made, and there is nothing to free
 * before. `dry` words things as what would be. */
import_report_t *import_report_create(bool dry, bool verbose);
void import_report_destroy(import_report_t **report);

/* `name` (may be NULL) is the file's, of which only the beginning is shown, if
 * `verbose` asks for lines; `detail` (may be NULL) is the reason in words: the
 * server's sentence, or the system's. */
void import_report_count(import_report_t *report, import_fate_t fate, const char *name, const char *detail);

/* Another pass begins: what the last one found is forgotten, but what it has
 * written, and what is the server's own. */
void import_report_begin_pass(import_report_t *report);

/* A line on this pass, on standard output. */
void import_report_sum_pass(import_report_t *report, unsigned pass);

/* How many files there are, for the bar; 0 if nobody has looked. */
void import_report_expect(import_report_t *report, uint64_t files);

/* Has this process a terminal on which a bar can be drawn? */
bool import_report_has_bar(const import_report_t *report);

/* To be called often: draws the bar now and then. */
void import_report_tick(import_report_t *report);

/* A sentence for people, at once, on standard error. */
void import_report_say(import_report_t *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Is anything left that a repeat may mend? */
bool import_report_is_incomplete(const import_report_t *report);

/* The summary, on standard output. */
void import_report_sum(import_report_t *report);

#endif
