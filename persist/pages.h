/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.h: the pages of an LMDB file, looked at before LMDB is let near them.
 */
#ifndef SD_PAGES_H
#define SD_PAGES_H

#include "persist/child.h"
#include "persist/journal.h"

typedef struct sd_pages_info {
    bool known;           /* this LMDB lays out its files as is checked here */
    uint64_t first_chunk; /* numbers in the table of chunks: from here on, */
    uint64_t chunks;      /* so many without a gap */
} sd_pages_info_t;

/* SD_PERSIST_OK; ALIEN: no LMDB file, or not with our tables; DAMAGED; FAILED. `fd`
 * is data.mdb. */
sd_persist_status_t sd_pages_check(int fd, sd_desk_t *desk, sd_pages_info_t *info, char text[SD_PERSIST_REASON]);

#endif
