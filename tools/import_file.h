/* SPDX-License-Identifier: Apache-2.0
 *
 * import_file.h: one session's file, read so that what comes out is what was in
 * it at one moment. Nothing is written, not even the time of the access where
 * that can be helped.
 */
#ifndef SD_IMPORT_FILE_H
#define SD_IMPORT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

typedef struct import_file {
    int fd; /* -1: none is open */
    struct stat at_open;
} import_file_t;

/* 0, or an errno: ENOENT is gone, ELOOP a symbolic link, EINVAL no regular file. */
int import_file_open(import_file_t *file, int dir, const char *name);

/* A shared lock of the kind PHP takes, at once or not at all: false while a
 * request has the file. What lies on a file system without locks is taken as it
 * is; is_unchanged() is what remains there. */
bool import_file_lock(import_file_t *file);

/* Exactly so many bytes, or an errno; ESTALE if there are fewer. */
int import_file_read(import_file_t *file, uint8_t *to, size_t n);

/* Is it still the file that was opened, with the content that it had then, and
 * still the one of that name? */
bool import_file_is_unchanged(const import_file_t *file);

/* Lets the lock go, too. */
void import_file_close(import_file_t *file);

/* ns since 1970 of its last change. */
uint64_t import_file_changed_ns(const struct stat *st);

#endif
