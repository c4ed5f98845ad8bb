/* SPDX-License-Identifier: Apache-2.0
 *
 * forks.c: what the parent's forks inherit and what they must not keep, and how
 * it hears of their deaths. What is hard: other modules fork whenever they like,
 * and our code may be unloaded while a handler of ours is in place.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "forks.h"

static sd_retained_t *held;   /* what a fork has to let go of */
static bool forking_our_own;

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

void sd_forks_wake_for_deaths(apr_pool_t *pconf)
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
void sd_forks_let_go_here(void)
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
        sd_forks_let_go_here();
}

void sd_forks_are_ours(bool yes)
{
    forking_our_own = yes;
}

/* child_init would be too late for those that are no web children, such as
 * mod_cgid's daemon. The C library forgets the handler when our code goes. */
void sd_forks_let_go(sd_retained_t *r)
{
    static bool registered;

    held = r;
    if (!registered)
        registered = pthread_atfork(NULL, NULL, after_fork) == 0;
}
