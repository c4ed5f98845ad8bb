/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.c: may a process that is not to crash or to destroy anything open this
 * database for writing? LMDB believes its list of free pages: a page that is on
 * it and in use would be overwritten by the next commit. So each page that the
 * list names is looked for among the pages of the chunks, the table of chunks is
 * walked from end to end, and its numbers must have no gap.
 *
 * That a value's page begins 16 bytes before it and says its own number there is
 * how LMDB 0.9 lays pages out on machines of 64 bits. Elsewhere that part of the
 * check is left out.
 */
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "persist/reader.h"

#define PAGE_HEAD 16u
#define PAGE_LEAF 0x02u
#define PAGE_OVERFLOW 0x04u
#define META_PAGES 2u

typedef struct pages {
    unsigned char *taken; /* a bit for each page: free, or a chunk's */
    size_t last;          /* number of the last one */
    unsigned page_bytes;
    bool known_layout;
    const unsigned char *base; /* where the file is mapped, once that is known */
    const unsigned char *leaf; /* the last leaf that was marked */
    char *text;
} pages_t;

static const char *says(pages_t *p, const char *what, size_t page)
{
    snprintf(p->text, SD_PERSIST_REASON, "page %llu of its %llu: %s", (unsigned long long)page,
             (unsigned long long)p->last + 1, what);
    return p->text;
}

static const char *mark(pages_t *p, size_t first, size_t count, const char *twice)
{
    size_t i;

    if (first < META_PAGES || first > p->last || count > p->last - first + 1)
        return says(p, "it lies outside the file", first);
    for (i = first; i < first + count; i++) {
        if (p->taken[i / 8] & (1u << i % 8))
            return says(p, twice, i);
        p->taken[i / 8] = (unsigned char)(p->taken[i / 8] | 1u << i % 8);
    }
    return NULL;
}

/* Table 0 is LMDB's own: transaction -> how many pages it freed, and which. */
static const char *check_free(MDB_txn *txn, pages_t *p, sd_desk_t *desk)
{
    MDB_cursor *cursor;
    MDB_val key, val;
    const char *wrong = NULL;
    int rc = mdb_cursor_open(txn, 0, &cursor);

    if (rc != 0) {
        snprintf(p->text, SD_PERSIST_REASON, "its list of free pages cannot be read: %s", mdb_strerror(rc));
        return p->text;
    }
    while (wrong == NULL && (rc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT)) == 0) {
        size_t count, i, page, before = SIZE_MAX;

        atomic_fetch_add(&desk->beats, 1);
        if (key.mv_size != sizeof(size_t) || val.mv_size < sizeof(size_t)) {
            wrong = "its list of free pages is damaged";
            break;
        }
        memcpy(&count, val.mv_data, sizeof count);
        if (count > val.mv_size / sizeof count - 1) {
            wrong = "its list of free pages is damaged";
            break;
        }
        for (i = 1; i <= count && wrong == NULL; i++) {
            memcpy(&page, (const unsigned char *)val.mv_data + i * sizeof page, sizeof page);
            if (page >= before)
                wrong = says(p, "the list of free pages has it in the wrong place", page);
            else
                wrong = mark(p, page, 1, "it is free twice");
            before = page;
        }
    }
    mdb_cursor_close(cursor);
    if (wrong == NULL && rc != MDB_NOTFOUND)
        wrong = mdb_strerror(rc);
    if (wrong != NULL && wrong != p->text)
        snprintf(p->text, SD_PERSIST_REASON, "%s", wrong);
    return wrong != NULL ? p->text : NULL;
}

/* The page of a chunk, or that of the leaf that holds it. */
static const char *check_page(pages_t *p, const MDB_val *val)
{
    const unsigned char *at = val->mv_data, *page = at - ((uintptr_t)at & (p->page_bytes - 1));
    size_t number;
    uint16_t flags;
    uint32_t count = 1;

    memcpy(&number, page, sizeof number);
    memcpy(&flags, page + 10, sizeof flags);
    if (number > p->last)
        return says(p, "a page claims to be it", number);
    if (p->base == NULL)
        p->base = page - number * p->page_bytes;
    if (p->base + number * p->page_bytes != page)
        return says(p, "another page claims to be it", number);
    if ((flags & PAGE_OVERFLOW) != 0) {
        memcpy(&count, page + 12, sizeof count);
        if (at != page + PAGE_HEAD || ((uint64_t)val->mv_size + PAGE_HEAD - 1) / p->page_bytes + 1 > count)
            return says(p, "a chunk has fewer pages than it takes", number);
    }
    else if ((flags & PAGE_LEAF) == 0 || (size_t)(at - page) + val->mv_size > p->page_bytes)
        return says(p, "it is no page that holds a chunk", number);
    else if (page == p->leaf)
        return NULL;
    else
        p->leaf = page;
    return mark(p, number, count, "a chunk has it, and so has another or the list of free pages");
}

static const char *check_chunks(MDB_txn *txn, unsigned chunks, pages_t *p, sd_desk_t *desk,
                                const sd_journal_state_t *state)
{
    MDB_cursor *cursor;
    MDB_val key, val;
    uint64_t expected = state->first;
    const char *wrong = NULL;
    int rc = mdb_cursor_open(txn, chunks, &cursor);

    if (rc != 0) {
        snprintf(p->text, SD_PERSIST_REASON, "its table of chunks cannot be read: %s", mdb_strerror(rc));
        return p->text;
    }
    while (wrong == NULL && (rc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT)) == 0) {
        size_t number = 0;

        atomic_store(&desk->chunk, expected);
        atomic_fetch_add(&desk->beats, 1);
        if (key.mv_size == sizeof number)
            memcpy(&number, key.mv_data, sizeof number);
        if (number != expected) { /* what a round left over may stand behind, also without a gap */
            snprintf(p->text, SD_PERSIST_REASON, "chunk %llu stands where %llu belongs", (unsigned long long)number,
                     (unsigned long long)expected);
            wrong = p->text;
            break;
        }
        expected++;
        if (p->known_layout)
            wrong = check_page(p, &val);
    }
    mdb_cursor_close(cursor);
    atomic_store(&desk->chunk, 0);
    if (wrong == NULL && rc != MDB_NOTFOUND) {
        snprintf(p->text, SD_PERSIST_REASON, "its table of chunks breaks off at %llu: %s", (unsigned long long)expected,
                 mdb_strerror(rc));
        return p->text;
    }
    if (wrong == NULL && expected < state->next) {
        snprintf(p->text, SD_PERSIST_REASON, "its chunks end with %llu, where the state counts up to %llu",
                 (unsigned long long)expected - 1, (unsigned long long)state->next - 1);
        return p->text;
    }
    return wrong;
}

const char *sd_pages_check(MDB_txn *txn, unsigned chunks, sd_desk_t *desk, const sd_journal_state_t *state,
                           char text[SD_PERSIST_REASON])
{
    MDB_env *env = mdb_txn_env(txn);
    MDB_envinfo info;
    MDB_stat stat;
    pages_t p;
    const char *wrong;
    int major, minor, patch;

    memset(&p, 0, sizeof p);
    p.text = text;
    (void)mdb_version(&major, &minor, &patch);
    p.known_layout = major == 0 && minor == 9 && sizeof(size_t) == 8;
    if (mdb_env_info(env, &info) != 0 || mdb_env_stat(env, &stat) != 0) {
        snprintf(text, SD_PERSIST_REASON, "it does not tell its size");
        return text;
    }
    p.last = info.me_last_pgno;
    p.page_bytes = stat.ms_psize;
    p.taken = calloc(1, p.last / 8 + 1);
    if (p.taken == NULL) {
        snprintf(text, SD_PERSIST_REASON, "no memory for a map of its pages");
        return text;
    }
    wrong = check_free(txn, &p, desk);
    if (wrong == NULL)
        wrong = check_chunks(txn, chunks, &p, desk, state);
    free(p.taken);
    return wrong;
}
