/* SPDX-License-Identifier: Apache-2.0
 *
 * guard.h: memory that ends at a page nobody may touch. A parser that looks one
 * byte beyond its input dies there, with and without sanitizers. Input is put
 * at the very end, so its beginning stands at any alignment.
 */
#ifndef GUARD_H
#define GUARD_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct guard {
    uint8_t *map;
    size_t mapped; /* bytes, the guard page included */
    size_t room;   /* of these, to be used */
} guard_t;

static inline void guard_open(guard_t *g, size_t room)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    g->room = (room + page - 1) / page * page;
    g->mapped = g->room + page;
    g->map = mmap(NULL, g->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->map == MAP_FAILED || mprotect(g->map + g->room, page, PROT_NONE) != 0)
        abort();
}

static inline void guard_close(guard_t *g)
{
    munmap(g->map, g->mapped);
    memset(g, 0, sizeof *g);
}

/* Where `n` bytes stand that end at the guard page. */
static inline uint8_t *guard_at(const guard_t *g, size_t n)
{
    if (n > g->room)
        abort();
    return g->map + g->room - n;
}

static inline uint8_t *guard_put(const guard_t *g, const void *bytes, size_t n)
{
    uint8_t *at = guard_at(g, n);

    if (n > 0)
        memmove(at, bytes, n);
    return at;
}

#endif
