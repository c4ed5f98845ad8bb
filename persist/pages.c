/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.c: may LMDB be trusted with this file? It believes every number in it: a
 * damaged one can crash a reader, and a page that is on the list of free ones and
 * in use is overwritten by the next commit. So all trees are walked here, each page
 * must say its own number, belong to one place only, and hold its nodes within its
 * bounds; keys ascend, and what a tree is said to have is what it has.
 *
 * This is how LMDB 0.9 lays out a file on little-endian machines of 64 bits:
 *
 *   a page     0 number 8 | 8 pad 2 | 10 flags 2 | 12 lower 2, upper 2 (or, of a run
 *              of overflow pages, how many 4) | 16 offsets of the nodes 2 each
 *   a node     0 size 4, or child's page 6 | 4 flags 2 | 6 key's length 2 | 8 key, data
 *   a tree     0 pad 4 | 4 flags 2 | 6 depth 2 | 8 branch, leaf, overflow pages 8 each |
 *              32 entries 8 | 40 root 8
 *   pages 0,1  16 magic 4 | 20 version 4 | 24 address 8 | 32 map 8 | 40 tree of the free
 *              pages | 88 tree of the tables | 136 last page 8 | 144 transaction 8
 *
 * Elsewhere this check is left out, and LMDB goes first; the child is still a child.
 */
#include "persist/pages.h"

#include <errno.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "persist/bytes.h"

#define LMDB_MAGIC UINT32_C(0xbeefc0de)
#define NO_PAGE UINT64_MAX
#define TREE_BYTES 48u

enum { HEAD = 16, NODE = 8, METAS = 2, DEPTH_MOST = 12, KEY_MOST = 511 };
enum { BRANCH = 1, LEAF = 2, OVERFLOW = 4, META = 8 };        /* flags of pages */
enum { BIG = 1, SUBTREE = 2 };                                /* ... and of nodes */
enum { INTEGER_KEYS = 8, NO_SUBDIR = 0x4000 };                /* ... and of trees */

typedef enum { FREE_PAGES, TABLES, CHUNKS, STATE } which_t;

typedef struct tree {
    which_t which;
    unsigned flags, depth;
    uint64_t branch, leaf, overflow, entries, root; /* as it is said, counted down while it is walked */
    uint64_t last_key;  /* integer keys */
    bool any_key;
} tree_t;

typedef struct pages {
    const unsigned char *map;
    uint64_t bytes;
    uint64_t last;        /* number of the last page */
    uint64_t txn;
    unsigned page_bytes;
    unsigned char *taken; /* a bit for each page */
    sd_desk_t *desk;
    sd_pages_info_t *info;
    tree_t found[2];      /* CHUNKS, STATE */
    unsigned tables;
    sd_persist_status_t status; /* of the first fault */
    char *text;
} pages_t;

static unsigned get16(const unsigned char *at)
{
    return at[0] | (unsigned)at[1] << 8;
}

static bool bad(pages_t *p, uint64_t page, const char *what)
{
    if (p->status == SD_PERSIST_OK) {
        p->status = SD_PERSIST_DAMAGED;
        snprintf(p->text, SD_PERSIST_REASON, "page %llu of %llu: %s", (unsigned long long)page,
                 (unsigned long long)p->last + 1, what);
    }
    return false;
}

static const unsigned char *page_at(const pages_t *p, uint64_t number)
{
    return p->map + number * p->page_bytes;
}

static bool take(pages_t *p, uint64_t first, uint64_t count)
{
    uint64_t i;

    if (first < METAS || first > p->last || count == 0 || count > p->last - first + 1)
        return bad(p, first, "it is named and does not exist");
    for (i = first; i < first + count; i++) {
        if (p->taken[i / 8] & (1u << i % 8))
            return bad(p, i, "it has two owners");
        p->taken[i / 8] = (unsigned char)(p->taken[i / 8] | 1u << i % 8);
    }
    return true;
}

static void read_tree(tree_t *t, which_t which, const unsigned char *at)
{
    memset(t, 0, sizeof *t);
    t->which = which;
    t->flags = get16(at + 4);
    t->depth = get16(at + 6);
    t->branch = sd_le_get64(at + 8);
    t->leaf = sd_le_get64(at + 16);
    t->overflow = sd_le_get64(at + 24);
    t->entries = sd_le_get64(at + 32);
    t->root = sd_le_get64(at + 40);
}

/* Transaction -> how many pages it has freed, and which, from the last to the first. */
static bool free_record(pages_t *p, uint64_t page, uint64_t txn, const unsigned char *data, uint64_t len)
{
    uint64_t count, i, before = NO_PAGE, number;

    if (len < 8 || txn == 0 || txn > p->txn)
        return bad(p, page, "its list of free pages is none");
    count = sd_le_get64(data);
    if (count > len / 8 - 1)
        return bad(p, page, "its list of free pages is longer than it is");
    for (i = 1; i <= count; i++) {
        number = sd_le_get64(data + 8 * i);
        if (number >= before)
            return bad(p, page, "its list of free pages is out of order");
        if (!take(p, number, 1))
            return false;
        before = number;
    }
    return true;
}

static bool table_record(pages_t *p, uint64_t page, const unsigned char *key, unsigned key_len, unsigned flags,
                         const unsigned char *data, uint64_t len)
{
    which_t which;

    if (key_len == 6 && memcmp(key, "chunks", 6) == 0)
        which = CHUNKS;
    else if (key_len == 5 && memcmp(key, "state", 5) == 0)
        which = STATE;
    else {
        if (p->status == SD_PERSIST_OK)
            snprintf(p->text, SD_PERSIST_REASON, "it is an LMDB database without our tables, or with others");
        p->status = SD_PERSIST_ALIEN;
        return false;
    }
    if (flags != SUBTREE || len != TREE_BYTES)
        return bad(p, page, "what it says of a table is none");
    read_tree(&p->found[which - CHUNKS], which, data);
    p->tables |= 1u << (which - CHUNKS);
    return true;
}

/* A value that does not fit into its leaf. */
static const unsigned char *overflow(pages_t *p, tree_t *t, uint64_t number, uint64_t len)
{
    uint64_t count = (len + HEAD - 1) / p->page_bytes + 1;
    const unsigned char *page;

    if (number < METAS || number > p->last) {
        bad(p, number, "it is to hold a value and does not exist");
        return NULL;
    }
    page = page_at(p, number);
    if (sd_le_get64(page) != number || get16(page + 10) != OVERFLOW || sd_le_get32(page + 12) != count) {
        bad(p, number, "it does not hold the value that it should");
        return NULL;
    }
    if (!take(p, number, count))
        return NULL;
    if (t->overflow < count) {
        bad(p, number, "its tree has more pages than it should");
        return NULL;
    }
    t->overflow -= count;
    return page + HEAD;
}

static bool leaf_node(pages_t *p, tree_t *t, uint64_t page, const unsigned char *node, unsigned room)
{
    uint64_t len = sd_le_get32(node), key = 0;
    unsigned flags = get16(node + 4), key_len = get16(node + 6);
    const unsigned char *data = node + NODE + key_len;

    if (key_len == 0 || key_len > KEY_MOST || key_len > room - NODE)
        return bad(p, page, "a key is longer than its page");
    room -= NODE + key_len;
    if (flags == BIG ? room < 8 : len > room)
        return bad(p, page, "a value is longer than its page");
    if (t->flags & INTEGER_KEYS) {
        if (key_len != 8)
            return bad(p, page, "a number has not eight bytes");
        key = sd_le_get64(node + NODE);
        if (t->any_key && key <= t->last_key)
            return bad(p, page, "its keys do not ascend");
        if (t->which == CHUNKS) {
            if (!t->any_key)
                p->info->first_chunk = key;
            else if (key != t->last_key + 1)
                return bad(p, page, "a chunk is missing");
            p->info->chunks++;
            atomic_store(&p->desk->chunk, key);
        }
        t->last_key = key;
        t->any_key = true;
    }
    if (t->entries-- == 0)
        return bad(p, page, "its tree has more entries than it should");
    if (t->which == TABLES)
        return table_record(p, page, node + NODE, key_len, flags, data, len);
    if (flags == BIG)
        data = overflow(p, t, sd_le_get64(data), len);
    else if (flags != 0)
        return bad(p, page, "a value is of a kind that we have not");
    if (data == NULL)
        return false;
    return t->which != FREE_PAGES || free_record(p, page, key, data, len);
}

/* All below one page; keys from `low` on and below `high`. */
static bool walk(pages_t *p, tree_t *t, uint64_t number, unsigned depth, uint64_t low, uint64_t high)
{
    const unsigned char *page;
    unsigned lower, upper, n, i, flags;

    atomic_fetch_add(&p->desk->beats, 1);
    if (!take(p, number, 1))
        return false;
    page = page_at(p, number);
    flags = depth > 1 ? BRANCH : LEAF;
    if (sd_le_get64(page) != number)
        return bad(p, number, "it says that it is another");
    if (get16(page + 10) != flags)
        return bad(p, number, "it is not of the kind that belongs there");
    lower = get16(page + 12);
    upper = get16(page + 14);
    if (lower < HEAD || lower % 2 != 0 || lower > upper || upper > p->page_bytes)
        return bad(p, number, "its bounds are none");
    n = (lower - HEAD) / 2;
    if (n < (flags == BRANCH ? 2u : 1u))
        return bad(p, number, "it has too few entries");
    if ((flags == BRANCH ? t->branch : t->leaf) == 0)
        return bad(p, number, "its tree has more pages than it should");
    if (flags == BRANCH)
        t->branch--;
    else
        t->leaf--;
    for (i = 0; i < n; i++) {
        unsigned at = get16(page + HEAD + 2 * i);
        const unsigned char *node = page + at;
        uint64_t child, from = low, to = high;

        if (at < upper || at % 2 != 0 || at > p->page_bytes - NODE)
            return bad(p, number, "an entry lies outside");
        if (flags == LEAF) {
            if (!leaf_node(p, t, number, node, p->page_bytes - at))
                return false;
            if ((t->flags & INTEGER_KEYS) && (t->last_key < low || t->last_key >= high))
                return bad(p, number, "a key is not where it is looked for");
            continue;
        }
        child = sd_le_get32(node) | (uint64_t)get16(node + 4) << 32;
        if (get16(node + 6) > p->page_bytes - NODE - at)
            return bad(p, number, "a key is longer than its page");
        if (t->flags & INTEGER_KEYS) {
            if (i > 0 && get16(node + 6) != 8)
                return bad(p, number, "a number has not eight bytes");
            if (i > 0)
                from = sd_le_get64(node + NODE);
            if (i + 1 < n) {
                unsigned next = get16(page + HEAD + 2 * (i + 1));

                if (next > p->page_bytes - NODE - 8)
                    return bad(p, number, "an entry lies outside");
                to = sd_le_get64(page + next + NODE);
            }
            if (from < low || to > high || from >= to)
                return bad(p, number, "its keys do not ascend");
        }
        if (!walk(p, t, child, depth - 1, from, to))
            return false;
    }
    return true;
}

static bool walk_tree(pages_t *p, tree_t *t, unsigned flags)
{
    if (t->flags != flags)
        return bad(p, t->root, "its tree has other properties than ours");
    if (t->root == NO_PAGE) {
        if (t->depth != 0 || t->branch != 0 || t->leaf != 0 || t->overflow != 0 || t->entries != 0)
            return bad(p, 0, "an empty tree is said to have pages");
        return true;
    }
    if (t->depth == 0 || t->depth > DEPTH_MOST)
        return bad(p, t->root, "its tree is too deep");
    if (!walk(p, t, t->root, t->depth, 0, UINT64_MAX))
        return false;
    if (t->branch != 0 || t->leaf != 0 || t->overflow != 0 || t->entries != 0)
        return bad(p, t->root, "its tree has less than it should");
    return true;
}

static bool is_meta(const unsigned char *page)
{
    return (get16(page + 10) & META) != 0 && sd_le_get32(page + 16) == LMDB_MAGIC && sd_le_get32(page + 20) == 1;
}

/* The later one of the two first pages counts. */
static bool check_all(pages_t *p)
{
    const unsigned char *meta = p->map, *other;
    tree_t free_pages, tables;

    if (p->bytes < 2 * 512 || !is_meta(meta)) {
        p->status = SD_PERSIST_ALIEN;
        snprintf(p->text, SD_PERSIST_REASON, "it is no LMDB database of this kind of machine, or its first page is damaged");
        return false;
    }
    p->page_bytes = sd_le_get32(meta + 40);
    if (p->page_bytes < 512 || p->page_bytes > 32768 || (p->page_bytes & (p->page_bytes - 1)) != 0
        || p->bytes < 2 * (uint64_t)p->page_bytes)
        return bad(p, 0, "its size of a page is none");
    other = page_at(p, 1);
    if (!is_meta(other) || sd_le_get32(other + 40) != p->page_bytes)
        return bad(p, 1, "it is damaged");
    if (sd_le_get64(meta) != 0 || sd_le_get64(other) != 1)
        return bad(p, 0, "it says that it is another");
    if (sd_le_get64(other + 144) > sd_le_get64(meta + 144))
        meta = other;
    p->last = sd_le_get64(meta + 136);
    p->txn = sd_le_get64(meta + 144);
    if (p->last < METAS - 1 || p->last >= p->bytes / p->page_bytes) {
        p->status = SD_PERSIST_DAMAGED;
        snprintf(p->text, SD_PERSIST_REASON, "it is cut short: %llu bytes, but its first page speaks of %llu pages of %u",
                 (unsigned long long)p->bytes, (unsigned long long)p->last + 1, p->page_bytes);
        return false;
    }
    p->taken = calloc(1, p->last / 8 + 1);
    if (p->taken == NULL) {
        p->status = SD_PERSIST_FAILED;
        snprintf(p->text, SD_PERSIST_REASON, "no memory for a map of its pages");
        return false;
    }
    read_tree(&free_pages, FREE_PAGES, meta + 40);
    read_tree(&tables, TABLES, meta + 88);
    free_pages.flags &= ~(unsigned)NO_SUBDIR; /* it was made under another name */
    if (!walk_tree(p, &free_pages, INTEGER_KEYS) || !walk_tree(p, &tables, 0))
        return false;
    if (p->tables != 3) {
        p->status = SD_PERSIST_ALIEN;
        snprintf(p->text, SD_PERSIST_REASON, "it is an LMDB database without our tables");
        return false;
    }
    return walk_tree(p, &p->found[0], INTEGER_KEYS) && walk_tree(p, &p->found[1], 0);
}

sd_persist_status_t sd_pages_check(int fd, sd_desk_t *desk, sd_pages_info_t *info, char text[SD_PERSIST_REASON])
{
    int major, minor, patch;
    uint32_t one = 1;
    struct stat st;
    pages_t p;
    void *map;

    memset(info, 0, sizeof *info);
    (void)mdb_version(&major, &minor, &patch);
    if (major != 0 || minor != 9 || sizeof(size_t) != 8 || *(const unsigned char *)&one != 1)
        return SD_PERSIST_OK;
    memset(&p, 0, sizeof p);
    p.text = text;
    p.desk = desk;
    p.info = info;
    info->known = true;
    if (fstat(fd, &st) != 0 || st.st_size <= 0) {
        snprintf(text, SD_PERSIST_REASON, "it does not tell its size");
        return SD_PERSIST_FAILED;
    }
    p.bytes = (uint64_t)st.st_size;
    map = mmap(NULL, p.bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        snprintf(text, SD_PERSIST_REASON, "it cannot be mapped: %s", strerror(errno));
        return SD_PERSIST_FAILED;
    }
    p.map = map;
    (void)check_all(&p);
    free(p.taken);
    munmap(map, p.bytes);
    atomic_store(&desk->chunk, 0);
    return p.status;
}
