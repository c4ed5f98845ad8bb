/* SPDX-License-Identifier: Apache-2.0
 *
 * config.c: the directives. A wrong value is refused with a sentence that
 * names the value, the bound and the remedy; what depends on other directives
 * or on the machine is judged in check_config, which -t runs too.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <httpd.h>
#include <http_config.h>
#include <http_core.h>
#include <apr_strings.h>

#include "config.h"
#include "log.h"
#include "persist_dir.h"
#include "shm/store.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)

extern module AP_MODULE_DECLARE_DATA sessiond_module;

static const sd_config_t defaults = {
    .memory = 64 * MIB,
    .expiration = 1800,
    .timeout = 60,
    .idle_timeout = 3600,
    .lock_timeout = 60,
    .max_connections = 10000,
    .backlog = 4096,
    .persist_sync = 1,
};

#define MAX_SIZE_DEFAULT (32 * MIB)

void *sd_config_create(apr_pool_t *pool, server_rec *s)
{
    sd_config_t *config = apr_pmemdup(pool, &defaults, sizeof defaults);

    (void)s;
    config->endpoints = apr_array_make(pool, 2, sizeof(sd_endpoint_t));
    return config;
}

sd_config_t *sd_config_get(server_rec *s)
{
    return ap_get_module_config(s->module_config, &sessiond_module);
}

uint64_t sd_config_max_size(const sd_config_t *config)
{
    if (config->max_size)
        return config->max_size;
    return config->memory / 2 < MAX_SIZE_DEFAULT ? config->memory / 2 : MAX_SIZE_DEFAULT;
}

uint32_t sd_config_threads(const sd_config_t *config)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (config->threads)
        return config->threads;
    return cores < 1 ? 1 : cores > 4 ? 4 : (uint32_t)cores;
}

/* ---- numbers ---- */

typedef struct sd_number {
    const char *name;
    size_t at;      /* offset of the uint32_t in sd_config_t */
    uint32_t least, most;
    const char *unit;
} sd_number_t;

#define NUMBER(name, member, least, most, unit) \
    static sd_number_t member##_number = { name, offsetof(sd_config_t, member), least, most, unit }
NUMBER("SessiondExpiration", expiration, 1, 2592000, "seconds");
NUMBER("SessiondTimeout", timeout, 1, 86400, "seconds");
NUMBER("SessiondIdleTimeout", idle_timeout, 1, 2592000, "seconds");
NUMBER("SessiondLockTimeout", lock_timeout, 1, 86400, "seconds");
NUMBER("SessiondMaxConnections", max_connections, 1, 1000000, "connections");
NUMBER("SessiondBacklog", backlog, 1, 65535, "connections");
NUMBER("SessiondPersistSync", persist_sync, 1, 3600, "seconds (or give 'always')");
NUMBER("SessiondThreads", threads, 1, SD_THREADS_MAX, "threads");

static const char *set_number(cmd_parms *cmd, void *dummy, const char *arg)
{
    const sd_number_t *number = cmd->info;
    const char *err = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    char *end;
    apr_int64_t n;

    (void)dummy;
    if (err)
        return err;
    errno = 0;
    n = apr_strtoi64(arg, &end, 10);
    if (*arg == '\0' || *end != '\0' || errno != 0 || n < number->least || n > number->most)
        return apr_psprintf(cmd->pool, "%s %s: give a whole number of %s from %u to %u",
                            number->name, arg, number->unit, number->least, number->most);
    *(uint32_t *)(void *)((char *)sd_config_get(cmd->server) + number->at) = (uint32_t)n;
    return NULL;
}

/* ---- sizes ---- */

/* NULL, or what is wrong with the text. */
static const char *parse_size(const char *text, uint64_t *bytes)
{
    char *end;
    apr_int64_t n;
    uint64_t unit = 1;

    errno = 0;
    n = apr_strtoi64(text, &end, 10);
    if (end == text || errno != 0 || n < 0)
        return "is not a size";
    switch (*end) {
    case 'k': case 'K': unit = KIB; end++; break;
    case 'm': case 'M': unit = MIB; end++; break;
    case 'g': case 'G': unit = GIB; end++; break;
    default: break;
    }
    if (*end != '\0')
        return "does not end in K, M or G";
    if ((uint64_t)n > UINT64_MAX / unit)
        return "is not a size";
    *bytes = (uint64_t)n * unit;
    return NULL;
}

typedef struct sd_size {
    const char *name;
    size_t at;           /* offset of the uint64_t in sd_config_t */
    uint64_t least, most;
    const char *remedy;
} sd_size_t;

static sd_size_t memory_size = { "SessiondMemory", offsetof(sd_config_t, memory), SD_SEGMENT_MIN,
                                 SD_SEGMENT_MAX, "give 1M to 60G, such as 256M" };
static sd_size_t max_size_size = { "SessiondMaxSize", offsetof(sd_config_t, max_size), KIB, GIB,
                                   "give 1K to 1G, such as 8M" };

static const char *set_size(cmd_parms *cmd, void *dummy, const char *arg)
{
    const sd_size_t *size = cmd->info;
    const char *err = ap_check_cmd_context(cmd, GLOBAL_ONLY), *wrong;
    uint64_t bytes = 0;

    (void)dummy;
    if (err)
        return err;
    wrong = parse_size(arg, &bytes);
    if (wrong)
        return apr_psprintf(cmd->pool, "%s %s: this %s; %s", size->name, arg, wrong, size->remedy);
    if (bytes < size->least || bytes > size->most)
        return apr_psprintf(cmd->pool, "%s %s: out of range; %s", size->name, arg, size->remedy);
    *(uint64_t *)(void *)((char *)sd_config_get(cmd->server) + size->at) = bytes;
    return NULL;
}

/* ---- the others ---- */

static const char *add_listen(cmd_parms *cmd, void *dummy, const char *text, const char *mode)
{
    const char *err = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    sd_config_t *config = sd_config_get(cmd->server);
    sd_endpoint_t endpoint;
    int i;

    (void)dummy;
    if (err)
        return err;
    err = sd_endpoint_parse(&endpoint, text, mode, cmd->pool);
    if (err)
        return err;
    for (i = 0; i < config->endpoints->nelts; i++)
        if (strcmp(APR_ARRAY_IDX(config->endpoints, i, sd_endpoint_t).text, text) == 0)
            return apr_psprintf(cmd->pool, "SessiondListen %s stands twice; remove one", text);
    if (config->endpoints->nelts >= SD_LISTENERS_MAX / 2)
        return apr_psprintf(cmd->pool, "SessiondListen %s: there may be at most %d of them", text,
                            SD_LISTENERS_MAX / 2);
    APR_ARRAY_PUSH(config->endpoints, sd_endpoint_t) = endpoint;
    return NULL;
}

static const char *add_allow(cmd_parms *cmd, void *dummy, const char *text)
{
    const char *err = ap_check_cmd_context(cmd, GLOBAL_ONLY);

    (void)dummy;
    return err ? err : sd_allow_add(&sd_config_get(cmd->server)->allow, text, cmd->pool);
}

static const char *set_when_full(cmd_parms *cmd, void *dummy, const char *word)
{
    const char *err = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    sd_config_t *config = sd_config_get(cmd->server);

    (void)dummy;
    if (err)
        return err;
    if (strcasecmp(word, "refuse") != 0 && strcasecmp(word, "evict") != 0)
        return apr_psprintf(cmd->pool, "SessiondWhenFull %s: unknown word; give 'refuse' (a store "
                            "fails, nothing is lost) or 'evict' (the session nearest its expiry "
                            "goes)", word);
    config->evict = strcasecmp(word, "evict") == 0;
    return NULL;
}

static const char *set_persist(cmd_parms *cmd, void *dummy, const char *path)
{
    const char *err = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    sd_config_t *config = sd_config_get(cmd->server);

    (void)dummy;
    return err ? err : sd_persist_dir_set(&config->persist_dir, path, cmd->pool);
}

static const char *set_persist_sync(cmd_parms *cmd, void *dummy, const char *arg)
{
    (void)dummy;
    if (strcasecmp(arg, "always") == 0) {
        const char *err = ap_check_cmd_context(cmd, GLOBAL_ONLY);

        if (!err)
            sd_config_get(cmd->server)->persist_sync = 0;
        return err;
    }
    return set_number(cmd, dummy, arg);
}

#define DIRECTIVE_NUMBER(name, member, help) \
    AP_INIT_TAKE1(name, set_number, &member##_number, RSRC_CONF, help)

const command_rec sd_config_commands[] = {
    AP_INIT_TAKE12("SessiondListen", add_listen, NULL, RSRC_CONF,
                   "[address:]port, or unix:/path [mode], to serve sessions on"),
    AP_INIT_ITERATE("SessiondAllow", add_allow, NULL, RSRC_CONF,
                    "addresses, address/bits or 'all': who may talk to the session server beside "
                    "this host"),
    AP_INIT_TAKE1("SessiondMemory", set_size, &memory_size, RSRC_CONF,
                  "shared memory for the sessions, 1M to 60G"),
    DIRECTIVE_NUMBER("SessiondExpiration", expiration,
                     "lifetime of a session in seconds since it was last stored"),
    DIRECTIVE_NUMBER("SessiondTimeout", timeout,
                     "seconds until a connection's first request must be complete"),
    DIRECTIVE_NUMBER("SessiondIdleTimeout", idle_timeout,
                     "seconds that a persistent connection may be idle"),
    DIRECTIVE_NUMBER("SessiondLockTimeout", lock_timeout,
                     "seconds after which a session lock goes to whoever waits for it"),
    AP_INIT_TAKE1("SessiondMaxSize", set_size, &max_size_size, RSRC_CONF,
                  "largest key plus data of one session, 1K to 1G"),
    DIRECTIVE_NUMBER("SessiondMaxConnections", max_connections,
                     "connections at once; those beyond are reset"),
    DIRECTIVE_NUMBER("SessiondBacklog", backlog, "length of the listen queue"),
    DIRECTIVE_NUMBER("SessiondThreads", threads, "threads of the session process"),
    AP_INIT_TAKE1("SessiondWhenFull", set_when_full, NULL, RSRC_CONF,
                  "'refuse' or 'evict' when the memory is full"),
    AP_INIT_TAKE1("SessiondPersist", set_persist, NULL, RSRC_CONF,
                  "directory on a local disk where the sessions are kept over stops"),
    AP_INIT_TAKE1("SessiondPersistSync", set_persist_sync, &persist_sync_number, RSRC_CONF,
                  "seconds between two writes to disk, or 'always': before a change is acknowledged"),
    { .name = NULL }
};

/* At a start and for -t the configuration is refused. In a restart httpd would
 * end for it, and with it sessions that are served well: an address may have
 * moved to another host, a name server be away. */
static int refuse_if_possible(void)
{
    return ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG
               ? HTTP_INTERNAL_SERVER_ERROR
               : OK;
}

int sd_config_check(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    sd_config_t *config = sd_config_get(s);
    uint64_t most = config->memory - config->memory / 8;
    int i;

    (void)pconf;
    (void)plog;
    if (config->max_size > most) {
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, s,
                     "sessiond: SessiondMaxSize %" APR_UINT64_T_FMT ": a session of that size does "
                     "not fit into SessiondMemory %" APR_UINT64_T_FMT "; give at most %"
                     APR_UINT64_T_FMT " or raise SessiondMemory", config->max_size, config->memory,
                     most);
        return refuse_if_possible();
    }
    for (i = 0; i < config->endpoints->nelts; i++) {
        const char *err
            = sd_endpoint_check(&APR_ARRAY_IDX(config->endpoints, i, sd_endpoint_t), ptemp);

        if (err) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, s, "sessiond: %s", err);
            return refuse_if_possible();
        }
    }
    if (config->persist_dir) {
        const char *err = sd_persist_dir_check(config->persist_dir, ptemp);

        if (err) {
            ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, 0, s, "sessiond: %s", err);
            return refuse_if_possible();
        }
    }
    return OK;
}
