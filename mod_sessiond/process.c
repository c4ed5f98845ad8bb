/* SPDX-License-Identifier: Apache-2.0
 *
 * process.c: the parent's care for its session process. What is hard:
 *
 *  - httpd runs its configuration twice and becomes a daemon in between, so
 *    what is forked or hidden from forks in the first pass is the wrong one's;
 *  - at a restart all of pconf goes, and with it the registration by which we
 *    would learn of a death; so every process that is not reaped yet is
 *    registered anew on each pconf;
 *  - when pconf goes, only the main state tells a restart, at which the process
 *    serves on until its successor is there, from a stop;
 *  - nothing here may fail once httpd runs, since that would end httpd;
 *  - httpd finds its own children by their pids in the scoreboard, where every
 *    web child can write: so it may reap a session process unknown to us, whose
 *    number is then anybody's, and only the kernel is asked who is our child.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ap_mpm.h>
#include <http_core.h>
#include <apr_strings.h>

#include "channel.h"
#include "forks.h"
#include "log.h"
#include "persist_dir.h"
#include "process.h"
#include "retained.h"
#include "server.h"

#define STOP_MS 4000          /* bounded wait at the end of httpd */
#define STOP_PERSIST_MS 60000 /* ... for the last round to disk; systemd gives all of it 90 s */
#define HANG_SECONDS 30
#define SERVED_A_MOMENT_MS 250 /* less is a failure to start */
#define DELAY_FIRST_MS 100
#define DELAY_MOST_MS 30000

static const sd_config_t *present_config; /* of this load of the module; on pconf */
static apr_pool_t *present_pconf;
static pid_t parent_pid;

static bool start_child(sd_retained_t *r);

/* ---- children ---- */

/* The latest process that is to serve, or already does; NULL = none. */
static sd_child_t *latest_child(sd_retained_t *r)
{
    sd_child_t *latest = NULL;
    int i;

    for (i = 0; i < SD_PROCESSES_MAX; i++) {
        sd_child_t *child = &r->child[i];

        if (child->proc.pid > 0 && !child->retiring && (!latest || child->started > latest->started))
            latest = child;
    }
    return latest;
}

/* One that serves: it has not been told to go, and has not handed over. */
static sd_child_t *ready_child(sd_retained_t *r)
{
    int i;

    for (i = 0; i < SD_PROCESSES_MAX; i++)
        if (r->child[i].proc.pid > 0 && !r->child[i].retiring && r->child[i].ready_at != 0)
            return &r->child[i];
    return NULL;
}

/* Not reaped yet, so that its number is its own. */
static bool is_our_child(const sd_child_t *child)
{
    siginfo_t ignored;

    return waitid(P_PID, (id_t)child->proc.pid, &ignored, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static void signal_child(const sd_child_t *child, int signal)
{
    if (is_our_child(child))
        (void)kill(child->proc.pid, signal);
}

static void forget(sd_child_t *child)
{
    if (child->control >= 0)
        close(child->control);
    memset(child, 0, sizeof *child);
    child->control = -1;
}

static void retire(sd_child_t *child)
{
    if (!child->retiring)
        child->retired_at = sd_clock_ms();
    child->retiring = true;
}

/* Reads what a process has said; it never blocks, and nothing of it is more
 * than a hint: a dead process is known by the kernel's word. */
static void hear(sd_child_t *child)
{
    sd_news_t news;
    uint64_t heard;
    int rounds = 0; /* whoever floods us does not hold us */

    while (rounds++ < 64
           && recv(child->control, &news, sizeof news, MSG_DONTWAIT) == (ssize_t)sizeof news) {
        switch (news.kind) {
        case SD_NEWS_READY:
            child->ready_at = news.at;
            child->heard = sd_clock_ms();
            break;
        case SD_NEWS_HANDED_OVER:
            retire(child);
            break;
        case SD_NEWS_BEAT:
            heard = news.at > news.stalled_ms ? news.at - news.stalled_ms : 0;
            child->heard = heard < sd_clock_ms() ? heard : sd_clock_ms();
            break;
        default:
            break;
        }
    }
}

static void hear_all(sd_retained_t *r)
{
    int i;

    for (i = 0; i < SD_PROCESSES_MAX; i++) {
        sd_child_t *child = &r->child[i];

        if (child->proc.pid <= 0)
            continue;
        hear(child);
        if (child->ready_at != 0 && child->started > r->served)
            r->served = child->started;
    }
}

static bool is_stopping(void)
{
    int state = AP_MPMQ_STOPPING;

    (void)ap_mpm_query(AP_MPMQ_MPM_STATE, &state);
    return state == AP_MPMQ_STOPPING;
}

#define STATUS_UNKNOWN (-1)

/* On one path httpd gives an exit code or a signal's number, on another a wait
 * status. Our exit codes are no signals' numbers, so they can be told apart. */
static void log_end(pid_t pid, int status)
{
    int code = status > 255 ? status >> 8 : status & 0x7f;

    if (status == STATUS_UNKNOWN)
        sd_log(ERR, 0, "session process %" APR_PID_T_FMT " is gone, and httpd did not tell how it "
               "ended", pid);
    else if (code == SD_EXIT_FAILED)
        sd_log(ERR, 0, "session process %" APR_PID_T_FMT " could not start; see above", pid);
    else if (code == 0 || status > 255 || code > 64)
        sd_log(ERR, 0, "session process %" APR_PID_T_FMT " ended unexpectedly (exit code %d)", pid,
               code);
    else
        sd_log(ERR, 0, "session process %" APR_PID_T_FMT " was killed by signal %d", pid, code);
}

/* Whoever serves, alone, has served what waited in the queues of sockets that are no
 * longer wanted, and has shut them down. */
static void tidy(sd_retained_t *r)
{
    int i, living = 0;

    for (i = 0; i < SD_PROCESSES_MAX; i++)
        living += r->child[i].proc.pid > 0;
    if (living == 1 && ready_child(r) && ready_child(r)->started == r->starts)
        sd_listener_set_forget_retiring(&r->listeners);
}

/* A process that has ended: was that to be expected? One that was started for a
 * restart and ends before it serves leaves the service to whoever has it. */
static void note_end(sd_retained_t *r, sd_child_t *child, int status)
{
    sd_child_t ended;
    sd_child_t *other;

    hear_all(r);
    ended = *child;
    forget(child);
    tidy(r);
    if (ended.retiring)
        return;
    /* prefork sends SIGTERM to its whole process group when it stops; and one that
     * could not hand over ends in order, as one does that gave way to a later one */
    other = latest_child(r);
    if (status == 0 && (is_stopping() || other))
        return;
    log_end(ended.proc.pid, status);
    if ((other = ready_child(r))) {
        if (other->started < ended.started) /* nobody accepts on what was opened for it */
            sd_listener_set_close_new(&r->listeners, ended.started, ended.started == r->starts);
        sd_log(NOTICE, 0, "session process %" APR_PID_T_FMT " goes on serving%s", other->proc.pid,
               other->started < ended.started ? ", with the configuration that it was started with" : "");
        return;
    }
    r->failures = ended.ready_at != 0 && sd_clock_ms() - ended.ready_at >= SERVED_A_MOMENT_MS
                      ? 0
                      : r->failures + 1;
    if (sd_retained_board(r)) {
        atomic_store(&r->board->down_since, sd_clock_ms());
        atomic_store(&r->board->state, SD_STATE_DOWN);
    }
}

/* There is something to serve, and nobody to do it. */
static bool is_needed(sd_retained_t *r)
{
    return !latest_child(r) && present_config && r->segment && sd_retained_board(r) && !is_stopping()
           && present_config->endpoints->nelts > 0;
}

/* Sockets that somebody has shut down never listen again; and a restart that came to
 * nothing has closed what it had opened. */
static void mend_listeners(sd_retained_t *r)
{
    apr_pool_t *pool;

    sd_listener_set_close_dead(&r->listeners);
    apr_pool_create(&pool, present_pconf);
    (void)sd_listener_set_open(&r->listeners, present_config, false, pool);
    apr_pool_destroy(pool);
}

/* One has ended; if nobody serves or is about to, another one takes its place. */
static void replace(sd_retained_t *r, sd_child_t *child, int status)
{
    note_end(r, child, status);
    if (is_needed(r)) {
        mend_listeners(r);
        atomic_fetch_add(&r->board->respawns, 1);
        (void)start_child(r); /* if it fails, the monitor tries again */
    }
}

/* httpd's word on a child that is not one of its own. Its going off the list
 * (UNREGISTER) says nothing: see end_of_config. */
static void maintain(int reason, void *data, apr_wait_t status)
{
    sd_child_t *child = data;
    sd_retained_t *r = sd_retained_get();

    if (!r || (reason != APR_OC_REASON_DEATH && reason != APR_OC_REASON_LOST))
        return;
    apr_proc_other_child_unregister(data);
    if (child->proc.pid > 0)
        replace(r, child, reason == APR_OC_REASON_DEATH ? status : STATUS_UNKNOWN);
}

static void register_child(sd_child_t *child)
{
    apr_proc_other_child_register(&child->proc, maintain, child, NULL, present_pconf);
}

/* Reaps those that died while nobody was registered: between two pconfs, or
 * while the configuration did not load us. In the second case httpd has reaped
 * it, its number may be anybody's by now, and it may have shut its sockets
 * down at its end. */
static void reap(sd_retained_t *r)
{
    int i, status;

    for (i = 0; i < SD_PROCESSES_MAX; i++) {
        sd_child_t *child = &r->child[i];
        pid_t gone;

        if (child->proc.pid <= 0)
            continue;
        gone = waitpid(child->proc.pid, &status, WNOHANG);
        if (gone == child->proc.pid)
            note_end(r, child, status);
        else if (gone < 0 && errno == ECHILD) {
            if (!child->retiring)
                sd_listener_set_close_dead(&r->listeners);
            forget(child);
        }
    }
}

static sd_child_t *empty_place(sd_retained_t *r)
{
    int i;

    for (i = 0; i < SD_PROCESSES_MAX; i++)
        if (r->child[i].proc.pid <= 0)
            return &r->child[i];
    return NULL;
}

static int delay_ms(const sd_retained_t *r)
{
    uint32_t n = r->failures;
    int ms = DELAY_FIRST_MS;

    if (n < 2) /* the first time at once */
        return 0;
    for (; n > 2 && ms < DELAY_MOST_MS; n--)
        ms *= 2;
    return ms < DELAY_MOST_MS ? ms : DELAY_MOST_MS;
}

/* What the child begins with. Those that may have the store are named, so that it
 * asks them for it and waits: two must never have it at once. */
static void prepare(sd_retained_t *r, sd_start_t *start, int control)
{
    int i;

    memset(start, 0, sizeof *start);
    start->config = present_config;
    start->listeners = &r->listeners;
    start->board = r->board;
    start->segment = r->segment_base;
    start->segment_bytes = r->segment_bytes;
    start->control = control;
    start->delay_ms = delay_ms(r);
    start->parent = getpid();
    for (i = 0; i < SD_PROCESSES_MAX; i++)
        if (r->child[i].proc.pid > 0) {
            start->earlier[start->earlier_count] = r->child[i].control;
            start->earlier_pid[start->earlier_count++] = r->child[i].proc.pid;
        }
}

static bool start_child(sd_retained_t *r)
{
    sd_child_t *child = empty_place(r);
    int pair[2];
    sd_start_t start;
    sigset_t all, before;
    pid_t pid;

    if (!child) {
        sd_log(CRIT, 0, "%d earlier session processes have not ended: not starting another one",
               SD_PROCESSES_MAX);
        return false;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        sd_log(CRIT, errno, "could not make the control socket of a session process");
        return false;
    }
    prepare(r, &start, pair[1]);
    sd_retained_share_memory(r, true);
    /* A SIGTERM that comes before the child has set its own dispositions would
     * run httpd's handler there and be lost. */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    sd_forks_are_ours(true);
    pid = fork();
    if (pid == 0) {
        close(pair[0]);
        sd_server_run(&start);
    }
    sd_forks_are_ours(false);
    sigprocmask(SIG_SETMASK, &before, NULL);
    sd_retained_share_memory(r, false);
    close(pair[1]);
    if (pid < 0) {
        sd_log(CRIT, errno, "could not fork a session process");
        close(pair[0]);
        return false;
    }
    child->proc.pid = pid;
    child->control = pair[0];
    child->heard = sd_clock_ms();
    child->started = ++r->starts;
    hear_all(r);
    sd_listener_set_opened(&r->listeners, child->started, r->served);
    register_child(child);
    return true;
}

static void retire_all(sd_retained_t *r)
{
    int i;

    for (i = 0; i < SD_PROCESSES_MAX; i++) {
        sd_child_t *child = &r->child[i];

        if (child->proc.pid <= 0 || child->retiring)
            continue;
        retire(child);
        signal_child(child, SIGTERM);
    }
}

/* ---- the end of httpd ---- */

static bool is_reaped(sd_child_t *child)
{
    int status;
    pid_t gone = waitpid(child->proc.pid, &status, WNOHANG);

    if (gone == 0 || (gone < 0 && errno == EINTR))
        return false;
    forget(child);
    return true;
}

static void stop_all(sd_retained_t *r)
{
    int i, left, waited, most = present_config && present_config->persist_dir ? STOP_PERSIST_MS : STOP_MS;

    retire_all(r);
    for (waited = 0; waited < most; waited += 10) {
        for (i = left = 0; i < SD_PROCESSES_MAX; i++)
            left += r->child[i].proc.pid > 0 && !is_reaped(&r->child[i]);
        if (left == 0)
            return;
        apr_sleep(apr_time_from_msec(10));
    }
    for (i = 0; i < SD_PROCESSES_MAX; i++)
        if (r->child[i].proc.pid > 0) {
            signal_child(&r->child[i], SIGKILL);
            (void)waitpid(r->child[i].proc.pid, &left, 0);
            forget(&r->child[i]);
        }
}

/* If the next configuration does not load this module, nobody will tell the
 * session process to go. So it is told now that it will hear from us again
 * (SD_WORD_RESTART, then SD_WORD_LOADED). */
static void tell_all(sd_retained_t *r, char word)
{
    int i;

    for (i = 0; i < SD_PROCESSES_MAX; i++)
        if (r->child[i].proc.pid > 0 && !r->child[i].retiring)
            sd_word_send(r->child[i].control, word);
}

/* pconf goes: at a restart the process serves on until its successor is there,
 * at a stop it goes too. */
static apr_status_t end_of_config(void *data)
{
    sd_retained_t *r = sd_retained_get();

    (void)data;
    if (!r)
        return APR_SUCCESS;
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_EXITING) {
        stop_all(r);
        sd_listener_set_shutdown(&r->listeners);
        sd_listener_set_close(&r->listeners);
        if (sd_retained_board(r))
            atomic_store(&r->board->state, SD_STATE_OFF);
    }
    else
        tell_all(r, SD_WORD_RESTART);
    return APR_SUCCESS;
}

/* ---- hooks ---- */

int sd_process_open(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    const sd_config_t *config = sd_config_get(s);
    sd_retained_t *r = sd_retained_get();

    (void)plog;
    if (!r)
        return OK; /* said in post_config */
    apr_pool_cleanup_register(pconf, NULL, end_of_config, apr_pool_cleanup_null);
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG)
        r->starting = true;
    else
        sd_forks_let_go(r); /* before other modules' post_config */
    if (!r->starting || config->endpoints->nelts == 0)
        return OK; /* a running httpd: post_config does it, and never fails */
    if (!sd_listener_set_open(&r->listeners, config, true, ptemp)
        || !sd_retained_make_segment(r, config, s->process->pool) || !sd_persist_dir_make(config->persist_dir, ptemp))
        return HTTP_INTERNAL_SERVER_ERROR;
    /* Not in the first pass: the daemon's own fork is still to come. */
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_CONFIG)
        sd_retained_share_memory(r, false);
    return OK;
}

static void reopen(sd_retained_t *r, const sd_config_t *config, apr_pool_t *ptemp, server_rec *s)
{
    (void)sd_listener_set_open(&r->listeners, config, false, ptemp);
    if (config->endpoints->nelts > 0)
        (void)sd_persist_dir_make(config->persist_dir, ptemp);
    if (config->endpoints->nelts > 0
        && sd_retained_make_segment(r, config, s->process->pool))
        sd_retained_share_memory(r, false);
    if (r->segment && config->memory != r->memory_made && config->memory != r->memory_told)
        sd_log(WARNING, 0, "SessiondMemory was changed from %" APR_UINT64_T_FMT " to %"
               APR_UINT64_T_FMT " bytes: this takes effect at the next stop and start; a restart "
               "keeps the memory and the sessions in it", r->memory_made, config->memory);
    r->memory_told = config->memory;
}

int sd_process_start(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    sd_retained_t *r = sd_retained_get();
    bool serves;
    int i;

    (void)plog;
    if (ap_state_query(AP_SQ_MAIN_STATE) != AP_SQ_MS_CREATE_CONFIG)
        return OK;
    if (!r) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, 0, s, "sessiond: this httpd was started with another "
                     "version of mod_sessiond, which serves for ten minutes yet: stop and start it "
                     "to use this one");
        return OK;
    }
    present_config = sd_config_get(s);
    present_pconf = pconf;
    parent_pid = getpid();
    reap(r);
    sd_listener_set_close_dead(&r->listeners); /* those that were to go, and have gone */
    if (!r->starting)
        reopen(r, present_config, ptemp, s);
    r->starting = false;
    r->failures = 0; /* whoever restarts may have mended what was wrong */
    for (i = 0; i < SD_PROCESSES_MAX; i++)
        if (r->child[i].proc.pid > 0)
            register_child(&r->child[i]);
    if (sd_listener_set_count(&r->listeners) == 0 || !r->segment) {
        if (sd_retained_board(r)) /* before it is told to go: what it puts up then is not the last word */
            atomic_store(&r->board->state, SD_STATE_OFF);
        serves = latest_child(r) != NULL;
        retire_all(r);
        sd_listener_set_shutdown(&r->listeners);
        sd_listener_set_close(&r->listeners);
        if (serves)
            sd_log(NOTICE, 0, "no SessiondListen any more: sessions are no longer served (they "
                   "are kept until httpd stops)");
        return OK;
    }
    sd_forks_wake_for_deaths(pconf);
    /* It asks the earlier one for all that it has once it is ready itself. If it
     * cannot be made, or does not become ready, the earlier one serves on. */
    if (sd_retained_board(r)) /* else the log has said why not */
        (void)start_child(r);
    tell_all(r, SD_WORD_LOADED); /* whatever came of it */
    return OK;
}

/* Kills one that hangs: whose threads do not turn, or that does not end. */
static void look_for_hang(sd_child_t *child, uint64_t now)
{
    uint64_t since = child->retiring ? child->retired_at : child->heard;

    if (now - since <= HANG_SECONDS * 1000)
        return;
    sd_log(ERR, 0, "session process %" APR_PID_T_FMT " %s %d s: killing it", child->proc.pid,
           child->retiring ? "was to end, and has not for"
           : child->ready_at != 0 ? "has a thread that hangs for over"
                                  : "has not become ready, nor said why, for",
           HANG_SECONDS);
    signal_child(child, SIGKILL);
}

int sd_process_monitor(apr_pool_t *pool, server_rec *s)
{
    sd_retained_t *r = sd_retained_get();
    int i;

    (void)pool;
    (void)s;
    if (!r || !sd_retained_board(r))
        return DECLINED;
    hear_all(r);
    if (is_needed(r)) {
        mend_listeners(r);
        (void)start_child(r);
    }
    for (i = 0; i < SD_PROCESSES_MAX; i++) {
        sd_child_t *child = &r->child[i];

        if (child->proc.pid <= 0)
            continue;
        if (!is_our_child(child)) { /* see above: httpd has reaped it for one of its own */
            apr_proc_other_child_unregister(child);
            replace(r, child, STATUS_UNKNOWN);
            continue;
        }
        tidy(r);
        look_for_hang(child, sd_clock_ms());
    }
    return DECLINED;
}

void sd_process_leave_to_parent(apr_pool_t *pool, server_rec *s)
{
    (void)pool;
    (void)s;
    if (getpid() != parent_pid) /* httpd -X: the parent is its own web worker */
        sd_forks_let_go_here();
}
