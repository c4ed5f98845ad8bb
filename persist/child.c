/* SPDX-License-Identifier: Apache-2.0
 *
 * child.c: starts and ends the child that reads. It shall hold nothing of the
 * parent's: no descriptor, so that no client's connection and no lock lives on in
 * it; no handler of a signal; and it dies with the thread that started it, and not
 * of what is said to a whole process group, as a stop or a restart of httpd is with
 * some MPMs: that would look like damage.
 */
#include "persist/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIPE_BYTES (1 << 20)

enum { NULL_FD_LAST = 2, SAYS_FD = 3 };

static void close_from(unsigned first)
{
    long fd, most;

#ifdef SYS_close_range
    if (syscall(SYS_close_range, first, ~0u, 0u) == 0)
        return;
#endif
    most = sysconf(_SC_OPEN_MAX);
    if (most < 0 || most > 65536)
        most = 65536;
    for (fd = (long)first; fd < most; fd++)
        close((int)fd);
}

/* In the child, before anything else. */
static void strip(int says, pid_t parent)
{
    static const int to_all[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH };
    struct sigaction plain;
    sigset_t none;
    size_t n;
    int i, null;

    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent)
        _exit(1);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* it will have sessions in its memory */
    memset(&plain, 0, sizeof plain);
    plain.sa_handler = SIG_DFL;
    for (i = 1; i < NSIG; i++)
        (void)sigaction(i, &plain, NULL);
    plain.sa_handler = SIG_IGN;
    for (n = 0; n < sizeof to_all / sizeof *to_all; n++)
        (void)sigaction(to_all[n], &plain, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    if (says != SAYS_FD && dup2(says, SAYS_FD) < 0)
        _exit(1);
    close_from(SAYS_FD + 1);
    null = open("/dev/null", O_RDWR); /* LMDB writes to stderr before it gives up */
    for (i = 0; i <= NULL_FD_LAST; i++) {
        if (null < 0)
            close(i);
        else
            (void)dup2(null, i);
    }
    if (null > SAYS_FD)
        close(null);
}

bool sd_child_start(sd_child_t *c, void (*work)(void *order, sd_desk_t *desk, int says), void *order)
{
    pid_t parent = getpid();
    int ends[2], error;
    void *page;

    memset(c, 0, sizeof *c);
    c->pipe = -1;
    page = mmap(NULL, sizeof *c->desk, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return false;
    c->desk = page;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        error = errno;
        munmap(page, sizeof *c->desk);
        c->desk = NULL;
        errno = error;
        return false;
    }
    (void)fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES); /* less works as well */
    c->pid = fork();
    if (c->pid == 0) {
        strip(ends[1], parent);
        work(order, c->desk, SAYS_FD);
        _exit(0);
    }
    error = errno;
    close(ends[1]);
    if (c->pid < 0) {
        c->pid = 0;
        close(ends[0]);
        munmap(page, sizeof *c->desk);
        c->desk = NULL;
        errno = error;
        return false;
    }
    c->pipe = ends[0];
    (void)fcntl(c->pipe, F_SETFL, O_NONBLOCK);
    return true;
}

void sd_child_end(sd_child_t *c, bool kill_it)
{
    if (c->pid > 0) {
        if (kill_it)
            (void)kill(c->pid, SIGKILL);
        while (waitpid(c->pid, &c->wait_status, 0) < 0 && errno == EINTR)
            ;
        c->pid = 0;
    }
    if (c->pipe >= 0)
        close(c->pipe);
    c->pipe = -1;
    if (c->desk != NULL)
        munmap(c->desk, sizeof *c->desk);
    c->desk = NULL;
}
