/* SPDX-License-Identifier: Apache-2.0
 *
 * import_file.c: reads a file that others may be writing.
 *
 * PHP rewrites a session's file in place and holds an exclusive lock from
 * session_start() to the end of the page, so whoever has a shared lock reads
 * no mixture. sharedanced writes another file and renames it, so an open file
 * keeps its content; it may have lost its name. In both cases the times and
 * the size are compared again when all is read.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "tools/import_file.h"

int import_file_open(import_file_t *file, int dir, const char *name)
{
    /* O_NONBLOCK: a FIFO that has come in the file's place keeps nobody waiting. */
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    int error = 0;

    file->fd = openat(dir, name, flags | O_NOATIME);
    if (file->fd < 0 && errno == EPERM) /* O_NOATIME is for the owner and root */
        file->fd = openat(dir, name, flags);
    if (file->fd < 0)
        return errno == ENXIO ? EINVAL : errno;
    if (fstat(file->fd, &file->at_open) != 0)
        error = errno;
    else if (!S_ISREG(file->at_open.st_mode))
        error = EINVAL;
    if (error)
        import_file_close(file);
    return error;
}

bool import_file_lock(import_file_t *file)
{
    int status;

    do
        status = flock(file->fd, LOCK_SH | LOCK_NB);
    while (status != 0 && errno == EINTR);
    if (status != 0 && errno == EWOULDBLOCK)
        return false;
    /* What was there before the lock may be half of a write. */
    return fstat(file->fd, &file->at_open) == 0;
}

int import_file_read(import_file_t *file, uint8_t *to, size_t n)
{
    while (n > 0) {
        ssize_t got = read(file->fd, to, n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno;
        if (got == 0)
            return ESTALE;
        to += got;
        n -= (size_t)got;
    }
    return 0;
}

uint64_t import_file_changed_ns(const struct stat *st)
{
    if (st->st_mtim.tv_sec < 0)
        return 0;
    return (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
}

bool import_file_is_unchanged(const import_file_t *file)
{
    struct stat now;

    return fstat(file->fd, &now) == 0 && now.st_nlink > 0 && now.st_size == file->at_open.st_size
           && import_file_changed_ns(&now) == import_file_changed_ns(&file->at_open);
}

void import_file_close(import_file_t *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}
