/* SPDX-License-Identifier: Apache-2.0
 *
 * board.c: the two mappings of the notice board, and its texts. What is hard: a
 * mapping that was inherited can be made writable again, except one of a file
 * that was opened for reading only. So the memory is a file that has no name,
 * is opened a second time through /proc, and is closed again: nobody finds it
 * any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <apr_strings.h>

#include "board.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u /* Linux 6.3 */
#endif

size_t sd_board_bytes(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (sizeof(sd_board_t) + page - 1) / page * page;
}

static void *map(int fd, int protection)
{
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sd_board_bytes(), protection, MAP_SHARED, fd, 0);

    return at == MAP_FAILED ? NULL : at;
}

/* Some systems give none that could be executed, others do not know the word. */
static int memory_file(void)
{
    int fd = memfd_create("sessiond-board", MFD_CLOEXEC | MFD_NOEXEC_SEAL);

    return fd < 0 && errno == EINVAL ? memfd_create("sessiond-board", MFD_CLOEXEC) : fd;
}

static int open_again_read_only(int fd)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

bool sd_board_make(sd_board_t **writable, const sd_board_t **readable)
{
    int fd = memory_file(), read_only = -1, err;

    *writable = NULL;
    *readable = NULL;
    if (fd >= 0 && ftruncate(fd, (off_t)sd_board_bytes()) == 0
        && (read_only = open_again_read_only(fd)) >= 0
        && (*writable = map(fd, PROT_READ | PROT_WRITE)) != NULL)
        *readable = map(read_only, PROT_READ);
    err = errno;
    if (read_only >= 0)
        close(read_only);
    if (fd >= 0)
        close(fd);
    if (!*readable) {
        if (*writable)
            (void)munmap(*writable, sd_board_bytes());
        *writable = NULL;
        errno = err;
        return false;
    }
    sd_board_text_set((*writable)->last_check, "never");
    sd_board_text_set((*writable)->last_repair, "never");
    sd_board_text_set((*writable)->last_handover, "never");
    return true;
}

void sd_board_locks_set(sd_board_t *board, const sd_board_lock_t *locks, uint32_t count)
{
    uint32_t edition = atomic_load(&board->lock_edition) | 1;

    atomic_store(&board->lock_edition, edition);
    atomic_thread_fence(memory_order_seq_cst);
    if (count > 0)
        memcpy(board->lock, locks, sizeof *locks * count);
    atomic_store(&board->locks, count);
    atomic_thread_fence(memory_order_seq_cst);
    atomic_store(&board->lock_edition, edition + 1);
}

uint32_t sd_board_locks_get(const sd_board_t *board, sd_board_lock_t locks[SD_BOARD_LOCKS])
{
    int tries;

    for (tries = 0; tries < 100; tries++) {
        uint32_t edition = atomic_load(&board->lock_edition), count = atomic_load(&board->locks);

        atomic_thread_fence(memory_order_seq_cst);
        memcpy(locks, board->lock, sizeof *locks * SD_BOARD_LOCKS);
        atomic_thread_fence(memory_order_seq_cst);
        if (edition % 2 == 0 && edition == atomic_load(&board->lock_edition))
            return count < SD_BOARD_LOCKS ? count : SD_BOARD_LOCKS;
    }
    return 0;
}

void sd_board_text_copy(char *out, size_t size, const char *text)
{
    size_t i;

    for (i = 0; i + 1 < size && i < SD_BOARD_TEXT && text[i]; i++)
        out[i] = text[i] >= 32 && text[i] < 127 ? text[i] : '?';
    out[i] = '\0';
}

void sd_board_text_set(char text[SD_BOARD_TEXT], const char *value)
{
    apr_cpystrn(text, value, SD_BOARD_TEXT);
}
