/* SPDX-License-Identifier: Apache-2.0
 *
 * status_filter.c: puts our summary above the scoreboard of server-status.
 * mod_status calls its hook after the scoreboard, and `apachectl status` stops
 * printing at the first line that ends in "process", which is the scoreboard's
 * legend. What is hard: the place is found in a stream that may be cut
 * anywhere, so the beginning is held back until the mark is there, or for so
 * long that it will not come.
 */
#include <stdbool.h>
#include <string.h>

#include <httpd.h>
#include <http_config.h>
#include <http_request.h>
#include <apr_strings.h>
#include <util_filter.h>

#include "status.h"

#define NAME "SESSIOND_SUMMARY"
#define MARK "<pre>"               /* the scoreboard begins with it */
#define HOLD_MOST (256u * 1024)    /* bytes */

typedef struct sd_held {
    apr_bucket_brigade *brigade;
    apr_size_t bytes;
} sd_held_t;

static apr_status_t give_up(ap_filter_t *f, sd_held_t *held)
{
    ap_remove_output_filter(f);
    return ap_pass_brigade(f->next, held->brigade);
}

/* Splits what is held at the mark and puts the summary between. */
static apr_status_t insert_at(ap_filter_t *f, sd_held_t *held, apr_off_t at)
{
    const char *summary = sd_status_summary(f->r);
    apr_bucket *after;

    if (summary && apr_brigade_partition(held->brigade, at, &after) == APR_SUCCESS) {
        apr_bucket *b = apr_bucket_pool_create(summary, strlen(summary), f->r->pool,
                                               held->brigade->bucket_alloc);

        if (after == APR_BRIGADE_SENTINEL(held->brigade))
            APR_BRIGADE_INSERT_TAIL(held->brigade, b);
        else
            APR_BUCKET_INSERT_BEFORE(after, b);
    }
    return give_up(f, held);
}

static apr_status_t filter(ap_filter_t *f, apr_bucket_brigade *in)
{
    sd_held_t *held = f->ctx;
    bool end = false;
    apr_bucket *b;
    char *text;
    apr_size_t len, at;
    apr_status_t rv;

    if (!held) {
        f->ctx = held = apr_pcalloc(f->r->pool, sizeof *held);
        held->brigade = apr_brigade_create(f->r->pool, f->c->bucket_alloc);
    }
    for (b = APR_BRIGADE_FIRST(in); b != APR_BRIGADE_SENTINEL(in); b = APR_BUCKET_NEXT(b))
        if (APR_BUCKET_IS_EOS(b))
            end = true;
    rv = ap_save_brigade(f, &held->brigade, &in, f->r->pool);
    if (rv != APR_SUCCESS)
        return rv;
    rv = apr_brigade_pflatten(held->brigade, &text, &len, f->r->pool);
    if (rv != APR_SUCCESS)
        return give_up(f, held);
    for (at = 0; at + strlen(MARK) <= len; at++)
        if (memcmp(text + at, MARK, strlen(MARK)) == 0)
            return insert_at(f, held, (apr_off_t)at);
    if (end || len > HOLD_MOST)
        return give_up(f, held);
    return APR_SUCCESS;
}

void sd_status_filter_register(apr_pool_t *pool)
{
    (void)pool;
    ap_register_output_filter(NAME, filter, NULL, AP_FTYPE_RESOURCE);
}

void sd_status_filter_insert(request_rec *r)
{
    if (r->handler && r->method_number == M_GET && strcmp(r->handler, "server-status") == 0
        && !(r->args && strstr(r->args, "auto")))
        ap_add_output_filter(NAME, NULL, r, r->connection);
}
