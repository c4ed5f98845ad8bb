/* SPDX-License-Identifier: Apache-2.0
 *
 * disk_faults.c: preloaded into a private httpd, is a disk that takes its time.
 * Faults are files in the directory that SESSIOND_FAULTS names; what is written in
 * one is a number.
 *
 *   clock-ahead N  the wall clock is N seconds ahead
 *   hang-sync      fdatasync() does not return while the file is there
 *   slow-mkdir N   mkdir() returns N ms after it has made the directory
 *   slow-read N    each step that LMDB takes through a table takes N ms
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STEP_MS 20

/* The number in a fault's file; 0 = no such fault. */
static int fault(const char *name)
{
    const char *dir = getenv("SESSIOND_FAULTS");
    char path[512], text[16] = "";
    int fd, n;

    if (!dir)
        return 0;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    n = read(fd, text, sizeof text - 1) > 0 ? atoi(text) : 1;
    close(fd);
    return n;
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
    int rc = (int)syscall(SYS_clock_gettime, clock, t);

    if (rc == 0 && clock == CLOCK_REALTIME)
        t->tv_sec += fault("clock-ahead");
    return rc;
}

int fdatasync(int fd)
{
    while (fault("hang-sync") != 0)
        (void)usleep(STEP_MS * 1000);
    return (int)syscall(SYS_fdatasync, fd);
}

static int slowly(long rc)
{
    int ms = rc == 0 ? fault("slow-mkdir") : 0;

    if (ms > 0)
        (void)usleep((unsigned)ms * 1000);
    return (int)rc;
}

int mkdir(const char *path, mode_t mode)
{
    return slowly(syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

int mkdirat(int fd, const char *path, mode_t mode)
{
    return slowly(syscall(SYS_mkdirat, fd, path, mode));
}

/* LMDB's, whose header this needs not. */
int mdb_cursor_get(void *cursor, void *key, void *data, int op);
int mdb_cursor_get(void *cursor, void *key, void *data, int op)
{
    static int (*real)(void *, void *, void *, int);
    int ms = fault("slow-read");

    if (ms > 0)
        (void)usleep((unsigned)ms * 1000);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "mdb_cursor_get");
    return real(cursor, key, data, op);
}
