/* SPDX-License-Identifier: Apache-2.0
 *
 * settle.c: a fork of the parent, which may be root, becomes the session process:
 * signals, descriptors, the out-of-memory killer, the run-time user. What is hard
 * is the order: what only root may do comes first, and what a change of user
 * undoes comes last.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <ap_listen.h>
#include <mpm_common.h>
#include <http_config.h>

#include "log.h"
#include "settle.h"

#define DESCRIPTORS_BESIDE 128 /* beside the clients' own */

/* The first start and a restart inherit different dispositions. All that we
 * act on is read from a descriptor by the main thread. */
int sd_settle_signals(void)
{
    static const int ignored[] = { SIGHUP, SIGUSR1, SIGWINCH, SIGINT, SIGPIPE };
    static const int normal[] = { SIGCHLD, SIGTERM, SIGUSR2, SIGALRM, SIGQUIT, SIGABRT,
                                  SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGXCPU, SIGXFSZ };
    struct sigaction sa;
    sigset_t set;
    size_t i;

    memset(&sa, 0, sizeof sa);
    sa.sa_handler = SIG_IGN;
    for (i = 0; i < sizeof ignored / sizeof *ignored; i++)
        sigaction(ignored[i], &sa, NULL);
    sa.sa_handler = SIG_DFL;
    for (i = 0; i < sizeof normal / sizeof *normal; i++)
        sigaction(normal[i], &sa, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Connections that an earlier process has, beyond the present limit or beyond its
 * own, are taken over too. */
static uint32_t descriptors_wanted(const sd_start_t *start)
{
    uint64_t open = 0, most = start->config->max_connections;
    uint32_t i;

    if (start->earlier_count > 0) {
        for (i = 0; i < SD_LANES_MAX; i++)
            open += atomic_load(&start->board->slot[i].connections_open);
        most = atomic_load(&start->board->max_connections) > most ? atomic_load(&start->board->max_connections) : most;
        most = open > most ? open : most;
    }
    return (most < INT_MAX / 2 ? (uint32_t)most : start->config->max_connections) + DESCRIPTORS_BESIDE;
}

static void raise_descriptor_limit(rlim_t want, uint32_t max_connections)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= want)
        return;
    limit.rlim_cur = want;
    if (limit.rlim_max < want)
        limit.rlim_max = want; /* root may */
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
        return;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        if (limit.rlim_max < want)
            sd_log(WARNING, 0, "only %lu descriptors may be open, too few for "
                   "SessiondMaxConnections %u: raise the limit (ulimit -n, LimitNOFILE) or lower "
                   "the directive", (unsigned long)limit.rlim_max, max_connections);
    }
}

/* In a process of several threads the kernel waits for all processors, some ten
 * milliseconds, each time the table of descriptors grows. So it grows now, to all
 * that will be open. */
static void make_room_for_descriptors(int some, uint32_t want)
{
    struct rlimit limit;
    int last = (int)want - 1;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < want)
        last = (int)limit.rlim_cur - 1;
    if (fcntl(last, F_GETFD) < 0 && dup2(some, last) == last)
        close(last);
}

/* The kernel counts the sessions' memory as ours when it looks for a victim;
 * losing it costs every user of the farm his session. Only root may lower it. */
static void ask_oom_killer_for_mercy(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    if (write(fd, "-500", 4) < 0 && errno != EACCES)
        sd_log(DEBUG, errno, "could not set oom_score_adj");
    close(fd);
}

bool sd_settle_process(const sd_start_t *start)
{
    uint32_t descriptors = descriptors_wanted(start);
    apr_pool_t *pool;

    raise_descriptor_limit(descriptors, start->config->max_connections);
    make_room_for_descriptors(start->control, descriptors);
    ask_oom_killer_for_mercy();
    ap_close_listeners(); /* the web's own sockets are none of our business */
    apr_pool_create(&pool, NULL);
    if (ap_run_drop_privileges(pool, ap_server_conf) != OK) {
        sd_log(CRIT, 0, "could not become the run-time user");
        return false;
    }
    /* after the change of user, which clears it */
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    (void)prctl(PR_SET_NAME, "sessiond");
    /* web workers run as the same user: they may not trace us or read our memory */
    (void)prctl(PR_SET_DUMPABLE, 0);
    return true;
}
