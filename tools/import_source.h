/* SPDX-License-Identifier: Apache-2.0
 *
 * import_source.h: where session files lie, and which of what lies there are
 * sessions: sharedance's one directory, PHP's save path with its levels.
 */
#ifndef SD_IMPORT_SOURCE_H
#define SD_IMPORT_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "tools/import_report.h"

#define IMPORT_LEVELS 16
#define IMPORT_KEY_BYTES 250

typedef enum import_kind {
    IMPORT_FROM_SHAREDANCE,
    IMPORT_FROM_PHP
} import_kind_t;

typedef struct import_source {
    import_kind_t kind;
    const char *path;
    int levels; /* of directories below it; 0 for sharedance's */
} import_source_t;

/* A file with the name of a session, in an open directory. */
typedef struct import_entry {
    int dir;
    const char *name, *key; /* the key is the end of the name */
    struct stat st;         /* not followed: a regular file */
} import_entry_t;

/* False ends the walk. */
typedef bool import_visit_fn(void *context, const import_entry_t *entry);

/* Understands `text`, a directory or PHP's "N;/path" and "N;MODE;/path". NULL,
 * or what is wrong with it. */
const char *import_source_set(import_source_t *source, import_kind_t kind, const char *text);

/* Visits all sessions' files in the order of the directories, one at a time, and
 * reports what else there is. 0, or the errno of the first directory. */
int import_source_walk(const import_source_t *source, import_report_t *report, import_visit_fn *visit, void *context);

/* How many names there are to be looked at. */
uint64_t import_source_count(const import_source_t *source);

#endif
