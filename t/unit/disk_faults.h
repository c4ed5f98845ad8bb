/* SPDX-License-Identifier: Apache-2.0
 *
 * disk_faults.h: the system calls by which LMDB writes, in the place of libc's (a
 * program's own symbols come first): they can fail, and they can be written down,
 * so that a test may put together what a disk has after a power cut. They see to
 * files whose name ends in "data.mdb" or "data.new".
 */
#ifndef DISK_FAULTS_H
#define DISK_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* After `bytes` more bytes writes fail with `error`; with EIO the first of them is
 * cut short before. 0: writes go well, and each sync fails with EIO. */
void disk_faults_after(uint64_t bytes, int error);
void disk_faults_none(void);

typedef enum { DISK_WRITE, DISK_SYNC, DISK_MARK } disk_event_kind_t;

typedef struct disk_event {
    disk_event_kind_t kind;
    bool durable;        /* a write through a descriptor with O_DSYNC: on disk when it returns */
    uint64_t offset;
    size_t len;
    unsigned char *bytes;
    uint32_t mark;
} disk_event_t;

void disk_log_start(void);
void disk_log_mark(uint32_t mark); /* the test's own, for instance: round 7 was acknowledged */
void disk_log_stop(void);
const disk_event_t *disk_log_events(size_t *count);
void disk_log_free(void);

#endif
