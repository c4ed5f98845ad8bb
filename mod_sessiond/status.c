/* SPDX-License-Identifier: Apache-2.0
 *
 * status.c: one list of rows, built from the notice board, written in three
 * formats. A web child runs this, so the numbers are those that the session
 * process and the parent have put up; while the process is down they are the
 * last ones, with the word that it is down.
 */
#include <string.h>

#include <httpd.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>
#include <apr_strings.h>
#include <mod_status.h>

#include "retained.h"
#include "server.h"
#include "status.h"
#include "status_locks.h"

typedef struct sd_row {
    const char *key;    /* without "Sessiond" */
    const char *metric; /* without "sessiond_"; NULL = a text, not in the metrics */
    const char *text;
    const char *value;
    bool grows;         /* a counter, not a gauge */
} sd_row_t;

typedef struct sd_report {
    apr_pool_t *pool;
    const sd_board_t *board;
    apr_array_header_t *rows;
    uint64_t used, free, blocks; /* bytes, bytes, blocks */
    uint64_t sessions, connections;
    sd_state_t state;
} sd_report_t;

static const char *state_name(sd_state_t state)
{
    static const char *const names[] = { "off", "starting", "running", "draining", "down" };

    return (unsigned)state < sizeof names / sizeof *names ? names[state] : "unknown";
}

static void add_text(sd_report_t *report, const char *key, const char *text, const char *value)
{
    sd_row_t *row = apr_array_push(report->rows);

    *row = (sd_row_t){ key, NULL, text, value, false };
}

static void add_number(sd_report_t *report, const char *key, const char *metric, const char *text,
                       uint64_t value, bool grows)
{
    sd_row_t *row = apr_array_push(report->rows);

    *row = (sd_row_t){ key, metric, text, apr_psprintf(report->pool, "%" APR_UINT64_T_FMT, value),
                       grows };
}

/* Seconds between two times of the board. */
static uint64_t between(uint64_t from, uint64_t to)
{
    return from > 0 && to > from ? (to - from) / 1000 : 0;
}

static uint64_t since(uint64_t when)
{
    return between(when, sd_clock_ms());
}

/* By the wall clock as it is now. */
static const char *time_text(apr_pool_t *pool, uint64_t when)
{
    return ap_ht_time(pool, apr_time_now() - apr_time_from_sec((apr_time_t)since(when)),
                      "%d-%b-%Y %H:%M:%S %Z", 0);
}

static const char *state_text(const sd_report_t *report)
{
    const sd_board_t *b = report->board;
    uint64_t down = atomic_load(&b->down_since);

    if (report->state != SD_STATE_DOWN && report->state != SD_STATE_STARTING)
        return state_name(report->state);
    if (down == 0)
        return state_name(report->state);
    return apr_psprintf(report->pool, "not running since %s, respawn %u",
                        time_text(report->pool, down), atomic_load(&b->respawns));
}

/* Seconds that the process has served; of one that is gone, that it had. */
static uint64_t uptime(const sd_report_t *report)
{
    uint64_t started = atomic_load(&report->board->started);
    uint64_t down = atomic_load(&report->board->down_since);

    if (report->state == SD_STATE_RUNNING || down == 0)
        return since(started);
    return between(started, down);
}

static const char *busy_text(const sd_report_t *report)
{
    const sd_board_t *b = report->board;
    uint64_t up = uptime(report);
    uint32_t n = atomic_load(&b->threads), i;
    const char *text = "";

    for (i = 1; i <= n && i < SD_LANES_MAX; i++)
        text = apr_psprintf(report->pool, "%s%s%.2f%%", text, i > 1 ? " " : "",
                            up ? (double)atomic_load(&b->slot[i].busy_us) / 1e4 / (double)up : 0.0);
    return text;
}

#define INDEX(field, key, kind, text) INDEX_##field,
enum { SD_COUNTER_TABLE(INDEX) };
#undef INDEX
#define COUNTER true
#define GAUGE false

static void sum_counters(sd_report_t *report, uint64_t sum[SD_COUNTERS])
{
    uint32_t lane;

    memset(sum, 0, sizeof(uint64_t) * SD_COUNTERS);
    for (lane = 0; lane < SD_LANES_MAX; lane++) {
        const sd_counters_t *c = &report->board->slot[lane];
        uint32_t i = 0;

#define SUM(field, key, kind, text) \
    sum[i++] += atomic_load_explicit(&c->field, memory_order_relaxed);
        SD_COUNTER_TABLE(SUM)
#undef SUM
        (void)i;
    }
    /* what one thread adds another takes away: read in between, a gauge's sum
     * can be below 0 */
#define CLAMP(field, key, kind, text) \
    if (kind == GAUGE && (int64_t)sum[INDEX_##field] < 0) \
        sum[INDEX_##field] = 0;
    SD_COUNTER_TABLE(CLAMP)
#undef CLAMP
}

static void add_memory(sd_report_t *report)
{
    const sd_board_t *b = report->board;
    uint64_t largest, most = atomic_load(&b->max_size);
    uint32_t blocks = atomic_load(&b->blocks);

    largest = sd_usage_largest(blocks, blocks > report->blocks ? blocks - (uint32_t)report->blocks : 0);
    add_number(report, "MemorySize", "memory_bytes", "shared memory, bytes",
               atomic_load(&b->memory_size), false);
    add_number(report, "MemoryUsed", "memory_used_bytes", "of it in use, tables included, bytes",
               report->used, false);
    add_number(report, "MemoryFree", "memory_free_bytes", "of it free for sessions, bytes",
               report->free, false);
    add_number(report, "LargestValue", "largest_value_bytes",
               "largest session that would fit now, bytes", largest < most ? largest : most, false);
}

static void add_durability(sd_report_t *report)
{
    static const char *const names[] = { "off", "loading", "starting", "on", "lost" };
    const sd_board_t *b = report->board;
    uint32_t state = atomic_load(&b->durability);
    char *text = apr_palloc(report->pool, SD_BOARD_TEXT);

    add_text(report, "Durability", "sessions are written to disk",
             state < sizeof names / sizeof *names ? names[state] : "unknown");
    if (state == SD_DURABILITY_OFF)
        return;
    sd_board_text_copy(text, SD_BOARD_TEXT, b->durability_reason);
    if (state == SD_DURABILITY_LOST)
        add_text(report, "DurabilityLostSince", "... not since", time_text(report->pool, atomic_load(&b->durability_since)));
    if (*text)
        add_text(report, "DurabilityReason", "...", text);
    add_number(report, "DurabilityLost", "durability_lost", "1 while sessions are not being written to disk",
               state == SD_DURABILITY_LOST, false);
    add_number(report, "LastCommitAge", "last_commit_age_seconds", "seconds since disk and memory were last the same",
               since(atomic_load(&b->last_commit)), false);
}

static bool make_report(sd_report_t *report, apr_pool_t *pool)
{
    const sd_board_t *b = sd_board_get();
    uint64_t sum[SD_COUNTERS];
    char *text;
    uint32_t i = 0;

    memset(report, 0, sizeof *report);
    if (!b)
        return false;
    report->pool = pool;
    report->board = b;
    report->rows = apr_array_make(pool, 64, sizeof(sd_row_t));
    report->state = (sd_state_t)atomic_load(&b->state);
    sum_counters(report, sum);
    report->sessions = sum[INDEX_sessions];
    report->connections = sum[INDEX_connections_open];
    report->blocks = sum[INDEX_blocks_used];
    report->free = (atomic_load(&b->blocks) - report->blocks) * atomic_load(&b->block_bytes);
    if (report->blocks > atomic_load(&b->blocks))
        report->free = 0;
    report->used = atomic_load(&b->memory_size) - report->free;

    add_text(report, "State", "state", state_name(report->state));
    if (atomic_load(&b->down_since) > 0 && report->state != SD_STATE_RUNNING)
        add_text(report, "Down", "note", state_text(report));
    add_number(report, "Pid", "pid", "process id", (uint64_t)atomic_load(&b->pid), false);
    add_number(report, "Uptime", "uptime_seconds", "seconds since it started", uptime(report),
               false);
    add_number(report, "StoreUptime", "store_uptime_seconds", "seconds since the store was made",
               since(atomic_load(&b->store_created)), false);
    add_number(report, "Respawns", "respawns", "times it was started again after an unclean end",
               atomic_load(&b->respawns), true);
    add_number(report, "Threads", "threads", "threads", atomic_load(&b->threads), false);
    add_text(report, "Busy", "share of time each thread was busy since it started",
             busy_text(report));
    add_memory(report);
    add_durability(report);
#define ADD(field, key, kind, what) add_number(report, #key, #field, what, sum[i++], kind);
    SD_COUNTER_TABLE(ADD)
#undef ADD
    add_number(report, "MaxConnections", "max_connections", "SessiondMaxConnections",
               atomic_load(&b->max_connections), false);
    add_number(report, "Checks", "checks", "checks of the store on request",
               atomic_load(&b->checks), true);
    add_number(report, "LongestLockWait", "longest_lock_wait_ms", "longest wait for a session lock, milliseconds",
               atomic_load(&b->longest_lock_wait), false);
    text = apr_palloc(pool, SD_BOARD_TEXT);
    sd_board_text_copy(text, SD_BOARD_TEXT, b->last_check);
    add_text(report, "LastCheck", "outcome of the last check", text);
    text = apr_palloc(pool, SD_BOARD_TEXT);
    sd_board_text_copy(text, SD_BOARD_TEXT, b->last_repair);
    add_text(report, "LastRepair", "outcome of the last repair", text);
    text = apr_palloc(pool, SD_BOARD_TEXT);
    sd_board_text_copy(text, SD_BOARD_TEXT, b->last_handover);
    add_text(report, "LastHandover", "outcome of the last hand-over at a restart", text);
    return true;
}

/* ---- the formats ---- */

static void write_auto(request_rec *r, const sd_report_t *report)
{
    int i;

    for (i = 0; i < report->rows->nelts; i++) {
        const sd_row_t *row = &APR_ARRAY_IDX(report->rows, i, sd_row_t);

        ap_rprintf(r, "Sessiond%s: %s\n", row->key, row->value);
    }
    sd_status_locks_auto(r, report->board);
}

static void write_metrics(request_rec *r, const sd_report_t *report)
{
    int i;

    ap_rprintf(r, "# HELP sessiond_up 1 while the session server runs\n"
                  "# TYPE sessiond_up gauge\nsessiond_up %d\n", report->state == SD_STATE_RUNNING);
    for (i = 0; i < report->rows->nelts; i++) {
        const sd_row_t *row = &APR_ARRAY_IDX(report->rows, i, sd_row_t);

        if (row->metric)
            ap_rprintf(r, "# HELP sessiond_%s %s\n# TYPE sessiond_%s %s\nsessiond_%s %s\n",
                       row->metric, row->text, row->metric, row->grows ? "counter" : "gauge",
                       row->metric, row->value);
    }
}

static void write_table(request_rec *r, const sd_report_t *report)
{
    int i;

    ap_rputs("<table border=\"0\" class=\"sessiond\">\n", r);
    for (i = 0; i < report->rows->nelts; i++) {
        const sd_row_t *row = &APR_ARRAY_IDX(report->rows, i, sd_row_t);

        ap_rvputs(r, "<tr><td>", ap_escape_html(r->pool, row->text), "</td><td align=\"right\">",
                  ap_escape_html(r->pool, row->value), "</td></tr>\n", NULL);
    }
    ap_rputs("</table>\n", r);
    sd_status_locks_table(r, report->board);
}

static const char *megabytes(apr_pool_t *pool, uint64_t bytes)
{
    return apr_psprintf(pool, "%.1f", (double)bytes / 1048576.0);
}

static const char *durability_note(const sd_report_t *report)
{
    const sd_board_t *b = report->board;
    char text[SD_BOARD_TEXT];

    if (atomic_load(&b->durability) != SD_DURABILITY_LOST)
        return "";
    sd_board_text_copy(text, sizeof text, b->durability_reason);
    return apr_psprintf(report->pool, "\n<dt>Sessions are NOT written to disk since %s: %s (in memory only)</dt>",
                        time_text(report->pool, atomic_load(&b->durability_since)), ap_escape_html(report->pool, text));
}

const char *sd_status_summary(request_rec *r)
{
    sd_report_t report;
    uint64_t size;

    if (!make_report(&report, r->pool) || report.state == SD_STATE_OFF)
        return NULL;
    size = report.used + report.free;
    /* No line may end in "process", however the page is wrapped: apachectl
     * status cuts the page there. So the word does not occur. */
    return apr_psprintf(r->pool,
                        "<dl><dt>Session server: %s - %" APR_UINT64_T_FMT " sessions - %"
                        APR_UINT64_T_FMT " connections</dt>\n"
                        "<dt>Session memory: %s of %s MB used (%.0f%%)</dt>%s</dl>\n",
                        ap_escape_html(r->pool, state_text(&report)), report.sessions,
                        report.connections, megabytes(r->pool, report.used),
                        megabytes(r->pool, size),
                        size ? 100.0 * (double)report.used / (double)size : 0.0,
                        durability_note(&report));
}

static const char style[]
    = "body{font-family:sans-serif;margin:2em;color:#222}table{border-collapse:collapse}"
      "td{padding:.2em 1em;border-bottom:1px solid #ddd}td+td{text-align:right;"
      "font-variant-numeric:tabular-nums}";

static void write_page(request_rec *r, const sd_report_t *report)
{
    ap_rvputs(r, DOCTYPE_HTML_4_01, "<html><head><title>Session server</title>\n<style>", style,
              "</style>\n</head><body>\n<h1>Session server at ",
              ap_escape_html(r->pool, ap_get_server_name(r)), "</h1>\n", NULL);
    if (report)
        ap_rvputs(r, sd_status_summary(r) ? sd_status_summary(r) : "<p>off</p>\n", NULL);
    else
        ap_rputs("<p>Off: there is no SessiondListen.</p>\n", r);
    if (report)
        write_table(r, report);
    ap_rputs("</body></html>\n", r);
}

static bool has_option(const request_rec *r, const char *name)
{
    const char *at = r->args;
    size_t len = strlen(name);

    while (at && (at = strstr(at, name))) {
        if ((at == r->args || at[-1] == '&')
            && (at[len] == '\0' || at[len] == '&' || at[len] == '='))
            return true;
        at += len;
    }
    return false;
}

static void set_refresh(request_rec *r)
{
    const char *at = r->args ? strstr(r->args, "refresh=") : NULL;
    long seconds = at ? strtol(at + strlen("refresh="), NULL, 10) : 0;

    if (has_option(r, "refresh"))
        apr_table_setn(r->headers_out, "Refresh",
                       apr_ltoa(r->pool, seconds < 1 || seconds > 86400 ? 10 : seconds));
}

int sd_status_handler(request_rec *r)
{
    sd_report_t report;
    bool known;

    if (!r->handler || strcmp(r->handler, "sessiond-status") != 0)
        return DECLINED;
    r->allowed = AP_METHOD_BIT << M_GET;
    if (r->method_number != M_GET)
        return DECLINED;
    known = make_report(&report, r->pool);
    set_refresh(r);
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    if (has_option(r, "auto")) {
        ap_set_content_type(r, "text/plain; charset=ISO-8859-1");
        if (known)
            write_auto(r, &report);
        else
            ap_rputs("SessiondState: off\n", r);
    }
    else if (has_option(r, "metrics")) {
        ap_set_content_type(r, "text/plain; version=0.0.4; charset=utf-8");
        if (known)
            write_metrics(r, &report);
        else
            ap_rputs("# TYPE sessiond_up gauge\nsessiond_up 0\n", r);
    }
    else {
        ap_set_content_type(r, "text/html; charset=ISO-8859-1");
        write_page(r, known ? &report : NULL);
    }
    return OK;
}

int sd_status_section(request_rec *r, int flags)
{
    sd_report_t report;

    if (!make_report(&report, r->pool))
        return OK;
    if (flags & AP_STATUS_SHORT) {
        write_auto(r, &report);
        return OK;
    }
    ap_rputs("<hr />\n<h2>Session server</h2>\n", r);
    write_table(r, &report);
    return OK;
}
