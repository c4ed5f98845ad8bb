/* SPDX-License-Identifier: Apache-2.0
 *
 * disk_faults.c: see its header. The functions that stand in for libc's make the
 * system call themselves, so that nothing depends on how they are found there.
 */
#include "disk_faults.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static bool faulty, logging;
static uint64_t budget;
static int fault;
static disk_event_t *events;
static size_t event_count, event_room;

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at);
ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at);
ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t at);
ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t at);

void disk_faults_after(uint64_t bytes, int error)
{
    budget = bytes;
    fault = error;
    faulty = true;
}

void disk_faults_none(void)
{
    faulty = false;
}

static bool is_data(int fd)
{
    char link[64], path[512];
    ssize_t n;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n < 8)
        return false;
    path[n] = '\0';
    return strcmp(path + n - 8, "data.mdb") == 0 || strcmp(path + n - 8, "data.new") == 0;
}

static disk_event_t *add(disk_event_kind_t kind)
{
    if (event_count == event_room) {
        event_room = event_room ? 2 * event_room : 256;
        events = realloc(events, event_room * sizeof *events);
        if (!events)
            abort();
    }
    memset(&events[event_count], 0, sizeof *events);
    events[event_count].kind = kind;
    return &events[event_count++];
}

static void log_write(int fd, const void *bytes, size_t len, off_t at)
{
    disk_event_t *e;

    if (!logging)
        return;
    e = add(DISK_WRITE);
    e->durable = (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
    e->offset = (uint64_t)at;
    e->len = len;
    e->bytes = malloc(len ? len : 1);
    if (!e->bytes)
        abort();
    memcpy(e->bytes, bytes, len);
}

static ssize_t write_at(int fd, const void *bytes, size_t len, off_t at)
{
    ssize_t n;

    if (!is_data(fd))
        return syscall(SYS_pwrite64, fd, bytes, len, at);
    if (faulty && fault != 0) {
        if (budget == 0 || (budget < len && fault != EIO)) {
            budget = 0;
            errno = fault;
            return -1;
        }
        if (len > budget)
            len = (size_t)budget;
        budget -= len;
    }
    n = syscall(SYS_pwrite64, fd, bytes, len, at);
    if (n > 0)
        log_write(fd, bytes, (size_t)n, at);
    return n;
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    return write_at(fd, bytes, len, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at)
{
    return write_at(fd, bytes, len, at);
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t at)
{
    ssize_t all = 0, got;
    int i;

    for (i = 0; i < n; i++) {
        got = write_at(fd, iov[i].iov_base, iov[i].iov_len, at + all);
        if (got < 0)
            return all > 0 ? all : got;
        all += got;
        if ((size_t)got < iov[i].iov_len)
            break;
    }
    return all;
}

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t at)
{
    return pwritev(fd, iov, n, at);
}

/* LMDB writes several runs of pages with writev, after an lseek. */
ssize_t write(int fd, const void *bytes, size_t len)
{
    off_t at;
    ssize_t n;

    if (!is_data(fd))
        return syscall(SYS_write, fd, bytes, len);
    at = lseek(fd, 0, SEEK_CUR);
    n = write_at(fd, bytes, len, at);
    if (n > 0)
        (void)lseek(fd, at + n, SEEK_SET);
    return n;
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
    ssize_t all = 0, got;
    int i;

    if (!is_data(fd))
        return syscall(SYS_writev, fd, iov, n);
    for (i = 0; i < n; i++) {
        got = write(fd, iov[i].iov_base, iov[i].iov_len);
        if (got < 0)
            return all > 0 ? all : got;
        all += got;
        if ((size_t)got < iov[i].iov_len)
            break;
    }
    return all;
}

static int sync_it(long call, int fd)
{
    if (is_data(fd)) {
        if (faulty && fault == 0) {
            errno = EIO;
            return -1;
        }
        if (logging)
            (void)add(DISK_SYNC);
    }
    return (int)syscall(call, fd);
}

int fsync(int fd)
{
    return sync_it(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return sync_it(SYS_fdatasync, fd);
}

void disk_log_start(void)
{
    disk_log_free();
    logging = true;
}

void disk_log_mark(uint32_t mark)
{
    add(DISK_MARK)->mark = mark;
}

void disk_log_stop(void)
{
    logging = false;
}

const disk_event_t *disk_log_events(size_t *count)
{
    *count = event_count;
    return events;
}

void disk_log_free(void)
{
    size_t i;

    for (i = 0; i < event_count; i++)
        free(events[i].bytes);
    free(events);
    events = NULL;
    event_count = event_room = 0;
}
