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
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ap_mpm.h>
#include <http_core.h>
#include <apr_strings.h>

#include "log.h"
#include "process.h"
#include "retained.h"
#include "server.h"

#define STOP_MS 4000          /* bounded wait at the end of httpd */
#define HANG_SECONDS 30
#define SERVED_A_MOMENT_MS 250 /* less is a failure to start */
#define DELAY_FIRST_MS 100
#define DELAY_MOST_MS 30000

static const sd_config_t *present_config; /* of this load of the module; on pconf */
static apr_pool_t *present_pconf;
static pid_t parent_pid;
static sd_retained_t *held;   /* what a fork has to let go of */
static bool forking_our_own;

static bool start_child(sd_retained_t *r);

/* ---- children ---- */

static sd_child_t *serving_child(sd_retained_t *r)
{
    int i;

    for (i = 0; i < SD_PROCESSES_MAX; i++)
        if (r->child[i].proc.pid > 0 && !r->child[i].retiring)
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

/* Reads what a process has said; it never blocks, and nothing of it is more
 * than a hint: a dead process is known by the kernel's word. */
static void hear(sd_child_t *child)
{
    sd_news_t news;

    while (recv(child->control, &news, sizeof news, MSG_DONTWAIT) == (ssize_t)sizeof news) {
        switch (news.kind) {
        case SD_NEWS_READY:
            child->ready_at = news.at;
            child->heard = sd_clock_ms();
            break;
        case SD_NEWS_BEAT:
            if (news.stalled_ms < HANG_SECONDS * 1000)
                child->heard = sd_clock_ms();
            break;
        default:
            break;
        }
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

static void note_end(sd_retained_t *r, sd_child_t *child, int status)
{
    pid_t pid = child->proc.pid;
    bool expected, served;

    hear(child);
    /* prefork sends SIGTERM to its whole process group when it stops */
    expected = child->retiring || (status == 0 && is_stopping());
    served = child->ready_at != 0 && sd_clock_ms() - child->ready_at >= SERVED_A_MOMENT_MS;
    forget(child);
    if (expected)
        return;
    r->failures = served ? 0 : r->failures + 1;
    atomic_store(&r->board->down_since, sd_clock_ms());
    atomic_store(&r->board->state, SD_STATE_DOWN);
    log_end(pid, status);
}

/* One has ended; if it was serving, another one takes its place. */
static void replace(sd_retained_t *r, sd_child_t *child, int status)
{
    bool was_serving = !child->retiring;

    note_end(r, child, status);
    if (was_serving && !is_stopping()) {
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

/* What the child begins with. Those that still live are named, so that it
 * waits for them: two must never have the store at once. */
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
    forking_our_own = true;
    pid = fork();
    if (pid == 0) {
        close(pair[0]);
        sd_server_run(&start);
    }
    forking_our_own = false;
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
    register_child(child);
    return true;
}

static void retire_all(sd_retained_t *r, const sd_child_t *but)
{
    int i;

    for (i = 0; i < SD_PROCESSES_MAX; i++) {
        sd_child_t *child = &r->child[i];

        if (child->proc.pid <= 0 || child == but || child->retiring)
            continue;
        child->retiring = true;
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
    int i, left, waited;

    retire_all(r, NULL);
    for (waited = 0; waited < STOP_MS; waited += 10) {
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
 * session process to go. So it is told now that it will hear from us again. */
static void announce_restart(sd_retained_t *r)
{
    sd_child_t *child = serving_child(r);

    if (child)
        (void)send(child->control, "r", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
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
        if (r->board)
            atomic_store(&r->board->state, SD_STATE_OFF);
    }
    else
        announce_restart(r);
    return APR_SUCCESS;
}

/* ---- waking up for a death ---- */

/* httpd looks for dead children once a second. A signal that has a handler
 * ends its sleep, so that a session process is replaced at once. */
static void wake(int signal)
{
    (void)signal;
}

static apr_status_t stop_waking(void *data)
{
    struct sigaction sa;

    (void)data;
    if (sigaction(SIGCHLD, NULL, &sa) == 0 && sa.sa_handler == wake) {
        sa.sa_handler = SIG_DFL;
        (void)sigaction(SIGCHLD, &sa, NULL);
    }
    return APR_SUCCESS;
}

static void wake_for_deaths(apr_pool_t *pconf)
{
    struct sigaction sa;

    if (sigaction(SIGCHLD, NULL, &sa) != 0 || sa.sa_handler != SIG_DFL)
        return; /* somebody else's: leave it */
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = wake;
    sa.sa_flags = SA_RESTART | SA_NOCLDSTOP;
    sigemptyset(&sa.sa_mask);
    if (sigaction(SIGCHLD, &sa, NULL) == 0)
        /* before our code is unloaded */
        apr_pool_cleanup_register(pconf, NULL, stop_waking, apr_pool_cleanup_null);
}

/* ---- forks that are not ours ---- */

/* Web children, and the daemons of other modules: the sockets, the control
 * sockets and the handler of SIGCHLD are not their business. */
static void let_go(void)
{
    int i;

    if (!held)
        return;
    (void)stop_waking(NULL);
    held->board = NULL; /* not mapped here */
    sd_listener_set_close(&held->listeners);
    for (i = 0; i < SD_PROCESSES_MAX; i++) {
        if (held->child[i].control >= 0)
            close(held->child[i].control);
        held->child[i].control = -1;
    }
    held = NULL; /* these numbers may soon be others' */
}

static void after_fork(void)
{
    if (!forking_our_own)
        let_go();
}

/* child_init would be too late for those that are no web children, such as
 * mod_cgid's daemon. The C library forgets the handler when our code goes. */
static void let_forks_go(sd_retained_t *r)
{
    static bool registered;

    held = r;
    if (!registered)
        registered = pthread_atfork(NULL, NULL, after_fork) == 0;
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
        let_forks_go(r); /* before other modules' post_config */
    if (!r->starting || config->endpoints->nelts == 0)
        return OK; /* a running httpd: post_config does it, and never fails */
    if (!sd_listener_set_open(&r->listeners, config, true, ptemp)
        || !sd_retained_make_segment(r, config, s->process->pool))
        return HTTP_INTERNAL_SERVER_ERROR;
    /* Not in the first pass: the daemon's own fork is still to come. */
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_CONFIG)
        sd_retained_share_memory(r, false);
    return OK;
}

static void reopen(sd_retained_t *r, const sd_config_t *config, apr_pool_t *ptemp, server_rec *s)
{
    (void)sd_listener_set_open(&r->listeners, config, false, ptemp);
    if (!r->segment && config->endpoints->nelts > 0
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
    sd_child_t *before;
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
    if (!r->starting)
        reopen(r, present_config, ptemp, s);
    r->starting = false;
    r->failures = 0; /* whoever restarts may have mended what was wrong */
    for (i = 0; i < SD_PROCESSES_MAX; i++)
        if (r->child[i].proc.pid > 0)
            register_child(&r->child[i]);
    before = serving_child(r);
    if (sd_listener_set_count(&r->listeners) == 0 || !r->segment) {
        if (r->board) /* before it is told to go: what it puts up then is not the last word */
            atomic_store(&r->board->state, SD_STATE_OFF);
        retire_all(r, NULL);
        sd_listener_set_shutdown(&r->listeners);
        sd_listener_set_close(&r->listeners);
        if (before)
            sd_log(NOTICE, 0, "no SessiondListen any more: sessions are no longer served (they "
                   "are kept until httpd stops)");
        return OK;
    }
    wake_for_deaths(pconf);
    /* The new one is made first and waits for the old one: so the gap is the
     * old one's drain only. If it cannot be made, the old one serves on. */
    if (!start_child(r))
        return OK;
    if (before) {
        before->retiring = true;
        signal_child(before, SIGTERM);
    }
    sd_listener_set_forget_retiring(&r->listeners);
    return OK;
}

int sd_process_monitor(apr_pool_t *pool, server_rec *s)
{
    sd_retained_t *r = sd_retained_get();
    int i;

    (void)pool;
    (void)s;
    if (!r || !r->board)
        return DECLINED;
    if (!serving_child(r) && present_config && r->segment && !is_stopping()
        && sd_listener_set_count(&r->listeners) > 0)
        (void)start_child(r);
    for (i = 0; i < SD_PROCESSES_MAX; i++) {
        sd_child_t *child = &r->child[i];

        if (child->proc.pid <= 0)
            continue;
        if (!is_our_child(child)) { /* see above: httpd has reaped it for one of its own */
            apr_proc_other_child_unregister(child);
            replace(r, child, STATUS_UNKNOWN);
            continue;
        }
        hear(child);
        if (child->ready_at != 0 && sd_clock_ms() - child->heard > HANG_SECONDS * 1000) {
            sd_log(ERR, 0, "session process %" APR_PID_T_FMT " has a thread that hangs for over %d "
                   "s: killing it", child->proc.pid, HANG_SECONDS);
            signal_child(child, SIGKILL);
        }
    }
    return DECLINED;
}

void sd_process_leave_to_parent(apr_pool_t *pool, server_rec *s)
{
    (void)pool;
    (void)s;
    if (getpid() != parent_pid) /* httpd -X: the parent is its own web worker */
        let_go();
}
