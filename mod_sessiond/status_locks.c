/* SPDX-License-Identifier: Apache-2.0
 *
 * status_locks.c: see the header. The table is a second old at most; ages are those
 * of now.
 */
#include <http_protocol.h>
#include <apr_strings.h>

#include "server.h"
#include "status_locks.h"

static uint64_t seconds_since(uint64_t when)
{
    uint64_t now = sd_clock_ms();

    return when != 0 && now > when ? (now - when) / 1000 : 0;
}

/* The board is the session process's: its texts are not believed. */
static const char *text_of(request_rec *r, const char *text, size_t size)
{
    char *copy = apr_palloc(r->pool, size + 1);

    sd_board_text_copy(copy, size, text);
    return *copy ? copy : "-";
}

void sd_status_locks_table(request_rec *r, const sd_board_t *board)
{
    sd_board_lock_t lock[SD_BOARD_LOCKS];
    uint32_t n = sd_board_locks_get(board, lock), i;

    if (n == 0)
        return;
    ap_rprintf(r, "<p>Session locks: the %d with the longest queues, then those held longest</p>\n"
               "<table border=\"0\" class=\"sessiond\">\n<tr><td>session</td><td>held by</td><td>for seconds</td>"
               "<td>waiting</td><td>the first for seconds</td></tr>\n", SD_BOARD_LOCKS);
    for (i = 0; i < n; i++)
        ap_rprintf(r, "<tr><td>%s</td><td>%s</td><td>%" APR_UINT64_T_FMT "</td><td>%u</td><td>%" APR_UINT64_T_FMT
                   "</td></tr>\n", ap_escape_html(r->pool, text_of(r, lock[i].key, sizeof lock[i].key)),
                   ap_escape_html(r->pool, text_of(r, lock[i].holder, sizeof lock[i].holder)),
                   seconds_since(lock[i].since), lock[i].waiting, seconds_since(lock[i].oldest));
    ap_rputs("</table>\n", r);
}

void sd_status_locks_auto(request_rec *r, const sd_board_t *board)
{
    sd_board_lock_t lock[SD_BOARD_LOCKS];
    uint32_t n = sd_board_locks_get(board, lock), i;

    for (i = 0; i < n; i++)
        ap_rprintf(r, "SessiondLock%u: %s held by %s for %" APR_UINT64_T_FMT " s, %u waiting, the first for %"
                   APR_UINT64_T_FMT " s\n", i + 1, text_of(r, lock[i].key, sizeof lock[i].key),
                   text_of(r, lock[i].holder, sizeof lock[i].holder), seconds_since(lock[i].since), lock[i].waiting,
                   seconds_since(lock[i].oldest));
}
