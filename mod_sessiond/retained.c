/* SPDX-License-Identifier: Apache-2.0
 *
 * retained.c: making and finding what outlives a configuration: the segment
 * and the notice board; and who inherits them.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <httpd.h>
#include <http_config.h>
#include <apr_general.h>
#include <apr_strings.h>

#include "log.h"
#include "retained.h"
#include "server.h"

#define KEY "mod_sessiond"

static bool is_ours(const sd_retained_t *r)
{
    return r->version == SD_RETAINED_VERSION && r->bytes >= sizeof *r;
}

static bool has_our_board(const sd_retained_t *r)
{
    return r->board_version == SD_BOARD_VERSION && r->board_bytes == sizeof(sd_board_t);
}

sd_retained_t *sd_retained_get(void)
{
    sd_retained_t *r = ap_retained_data_get(KEY);
    int i;

    if (!r) {
        r = ap_retained_data_create(KEY, SD_RETAINED_ROOM);
        memset(r, 0, SD_RETAINED_ROOM);
        r->version = SD_RETAINED_VERSION;
        r->bytes = SD_RETAINED_ROOM;
        sd_listener_set_setup(&r->listeners);
        for (i = 0; i < SD_PROCESSES_MAX; i++)
            r->child[i].control = -1;
    }
    return is_ours(r) ? r : NULL;
}

const sd_board_t *sd_board_get(void)
{
    sd_retained_t *r = ap_retained_data_get(KEY);

    return r && is_ours(r) && has_our_board(r) ? r->board_shown : NULL;
}

sd_board_t *sd_retained_board(const sd_retained_t *r)
{
    return has_our_board(r) ? r->board : NULL;
}

/* One of another version stays mapped where it is: the process that serves writes
 * to it until it has handed over. */
static bool make_board(sd_retained_t *r)
{
    sd_board_t *board;
    const sd_board_t *shown;

    if (sd_board_make(&board, &shown)) {
        r->board = board;
        r->board_shown = shown;
        r->board_version = SD_BOARD_VERSION;
        r->board_bytes = sizeof(sd_board_t);
        return true;
    }
    ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, errno, ap_server_conf,
                 "sessiond: no shared memory for the counters (memfd_create, and /proc to open it "
                 "again read-only)");
    return false;
}

bool sd_retained_make_segment(sd_retained_t *r, const sd_config_t *config, apr_pool_t *pool)
{
    unsigned char seed[SD_SEED_BYTES];
    const char *wrong;
    apr_status_t rv;

    if (r->segment && has_our_board(r))
        return true;
    if (r->segment)
        sd_log(NOTICE, 0, "this version of mod_sessiond counts other things than the one before: the counters begin anew");
    if (!has_our_board(r) && !make_board(r))
        return false;
    if (r->segment) {
        atomic_store(&r->board->store_created, r->segment_made);
        atomic_store(&r->board->state, SD_STATE_STARTING);
        return true;
    }
    /* Anonymous: nothing to find in the file system, and no name to clash. */
    rv = apr_shm_create(&r->segment, config->memory, NULL, pool);
    if (rv == APR_SUCCESS)
        rv = apr_generate_random_bytes(seed, sizeof seed);
    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, rv, ap_server_conf,
                     "sessiond: SessiondMemory %" APR_UINT64_T_FMT ": the system does not give so "
                     "much shared memory; lower the directive, or look at 'ulimit -v', the "
                     "container's limit and vm.overcommit_memory", config->memory);
        r->segment = NULL;
        return false;
    }
    r->segment_base = apr_shm_baseaddr_get(r->segment);
    r->segment_bytes = apr_shm_size_get(r->segment);
    r->memory_made = config->memory;
    wrong = sd_segment_format(r->segment_base, r->segment_bytes, seed, sd_clock_ms());
    explicit_bzero(seed, sizeof seed); /* or web children would inherit it with this stack */
    if (wrong) {
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, ap_server_conf,
                     "sessiond: SessiondMemory %" APR_UINT64_T_FMT ": %s", config->memory, wrong);
        (void)apr_shm_destroy(r->segment);
        r->segment = NULL;
        return false;
    }
    r->segment_made = sd_clock_ms();
    atomic_store(&r->board->store_created, r->segment_made);
    atomic_store(&r->board->memory_size, r->segment_bytes);
    return true;
}

/* APR's base address lies a few bytes into its first page. */
static void pages_of(apr_shm_t *shm, void **from, size_t *bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), base = (uintptr_t)apr_shm_baseaddr_get(shm);
    uintptr_t first = base & ~(page - 1), end = base + apr_shm_size_get(shm);

    *from = (void *)first;
    *bytes = ((end + page - 1) & ~(page - 1)) - first;
}

static bool share(void *from, size_t bytes, bool yes)
{
    return madvise(from, bytes, yes ? MADV_DOFORK : MADV_DONTFORK) == 0;
}

void sd_retained_share_memory(sd_retained_t *r, bool yes)
{
    void *from;
    size_t bytes;

    if (!r->segment)
        return;
    pages_of(r->segment, &from, &bytes);
    if (!share(from, bytes, yes) || !share(r->board, sd_board_bytes(), yes)
        || (!yes && madvise(from, bytes, MADV_DONTDUMP) != 0))
        sd_log(WARNING, errno, "could not %s the session memory %s other processes",
               yes ? "share" : "hide", yes ? "with" : "from");
}
