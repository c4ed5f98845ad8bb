/* SPDX-License-Identifier: Apache-2.0
 *
 * persist_dir.h: the directory of SessiondPersist as the parent sees it: its name,
 * whose it is, and its making at the first start. What is in it is the session
 * process's alone: the parent, which may be root, opens none of it.
 */
#ifndef SD_PERSIST_DIR_H
#define SD_PERSIST_DIR_H

#include <stdbool.h>

#include <apr_pools.h>

/* The directive's value, relative to ServerRoot. NULL, or a sentence. */
const char *sd_persist_dir_set(const char **dir, const char *path, apr_pool_t *pool);
/* Could it be used? What is not there yet must have a parent directory. Changes
 * nothing. NULL, or a sentence. */
const char *sd_persist_dir_check(const char *dir, apr_pool_t *pool);
/* Makes it, with mode 0700 and for the run-time user, where it is not there; NULL:
 * none is wanted. False: it cannot be used, and the log says why. */
bool sd_persist_dir_make(const char *dir, apr_pool_t *pool);

#endif
