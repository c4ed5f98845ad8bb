/* SPDX-License-Identifier: Apache-2.0
 *
 * journal_txn.c: chunks go into the database and out of it, and errors are told
 * apart. What is hard is that an error can come at any call, and after it the
 * journal must be what its last commit made it: so every failure aborts the
 * transaction here, and an environment that LMDB itself has given up (its head
 * could not be written) is closed, to be opened anew by the next round.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "persist/chunk.h"
#include "persist/internal.h"

#define MAP_MARGIN ((uint64_t)32 << 20) /* for the tables' own pages and the list of free ones */
#define MAP_STEP ((uint64_t)1 << 30)

/* LMDB says EIO for a write that came out short, whatever cut it. */
static bool is_full(const sd_journal_t *j)
{
    struct statvfs fs;
    struct rlimit limit;
    struct stat st;
    mdb_filehandle_t fd;
    uint64_t want = j->part_bytes + MAP_MARGIN;

    if (j->env == NULL || mdb_env_get_fd(j->env, &fd) != 0)
        return false;
    if (fstatvfs(fd, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < want)
        return true;
    return fstat(fd, &st) == 0 && getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
           && (uint64_t)st.st_size + want > limit.rlim_cur;
}

/* What LMDB or the system said at `doing`; gives the transaction up. */
static sd_persist_status_t failed(sd_journal_t *j, int rc, const char *doing, char *reason)
{
    sd_persist_status_t status = SD_PERSIST_FAILED;

    if (rc == ENOSPC || rc == EDQUOT || rc == EFBIG || (rc == EIO && is_full(j)))
        status = SD_PERSIST_NO_SPACE;
    if (rc == MDB_MAP_FULL)
        j->map_full = true;
    sd_persist_says(status, reason, "%.150s/data.mdb: %s: %s", j->dir, doing,
                    status == SD_PERSIST_NO_SPACE && rc == EIO ? mdb_strerror(ENOSPC) : mdb_strerror(rc));
    sd_journal_abandon(j);
    return status;
}

void sd_journal_abandon(sd_journal_t *j)
{
    MDB_txn *probe;

    if (j->txn != NULL)
        mdb_txn_abort(j->txn);
    j->txn = NULL;
    if (j->put_next != j->state.next)
        j->leftover = true;
    j->put_next = j->state.next;
    j->put_bytes = j->part_bytes = 0;
    /* an environment that has given up says so at once, and for good */
    if (j->env != NULL && mdb_txn_begin(j->env, NULL, 0, &probe) == 0)
        mdb_txn_abort(probe);
    else if (j->env != NULL) {
        mdb_env_close(j->env);
        j->env = NULL;
    }
}

/* The map must hold all that this transaction may append; it can only grow between two. */
static int ensure_room(sd_journal_t *j, uint64_t want)
{
    MDB_envinfo info;
    MDB_stat stat;
    uint64_t used, need;
    int rc = mdb_env_info(j->env, &info);

    if (rc == 0)
        rc = mdb_env_stat(j->env, &stat);
    if (rc != 0)
        return rc;
    used = ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize;
    need = used + want + SD_PART_BYTES + MAP_MARGIN;
    if (j->map_full)
        need = need > 2 * (uint64_t)info.me_mapsize ? need : 2 * (uint64_t)info.me_mapsize;
    j->map_full = false;
    if (need <= info.me_mapsize)
        return 0;
    return mdb_env_set_mapsize(j->env, (size_t)((need / MAP_STEP + 1) * MAP_STEP));
}

/* Deletes chunks from number `from` on and before `end`. */
static int delete_chunks(sd_journal_t *j, uint64_t from, uint64_t end)
{
    MDB_cursor *cursor;
    MDB_val key, val;
    size_t number = (size_t)from;
    int rc = mdb_cursor_open(j->txn, j->chunks, &cursor);

    if (rc != 0)
        return rc;
    key.mv_size = sizeof number;
    key.mv_data = &number;
    rc = mdb_cursor_get(cursor, &key, &val, MDB_SET_RANGE);
    while (rc == 0) {
        memcpy(&number, key.mv_data, sizeof number);
        if (number >= end)
            break;
        rc = mdb_cursor_del(cursor, 0);
        if (rc == 0)
            rc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

sd_persist_status_t sd_journal_begin(sd_journal_t *j, uint64_t want, char *reason)
{
    sd_persist_status_t status;
    int rc;

    if (j->txn != NULL)
        return SD_PERSIST_OK;
    if (j->env == NULL) {
        status = sd_journal_reopen(j, reason);
        if (status != SD_PERSIST_OK)
            return status;
        j->put_next = j->state.next;
    }
    if (j->put_bytes == 0) {
        j->put_next = j->state.next;
        /* one that was killed in the middle of a copy would keep all pages from now on */
        (void)mdb_reader_check(j->env, NULL);
    }
    rc = ensure_room(j, want);
    if (rc != 0)
        return failed(j, rc, "its map cannot grow", reason);
    rc = mdb_txn_begin(j->env, NULL, 0, &j->txn);
    if (rc != 0) {
        j->txn = NULL;
        return failed(j, rc, "no transaction can begin", reason);
    }
    j->part_bytes = 0;
    if (j->leftover && j->put_bytes == 0) {
        rc = delete_chunks(j, j->state.next, UINT64_MAX);
        if (rc != 0)
            return failed(j, rc, "what a round left over cannot be dropped", reason);
    }
    return SD_PERSIST_OK;
}

sd_persist_status_t sd_journal_put(sd_journal_t *j, uint64_t len, unsigned char **at, char *reason)
{
    size_t number = (size_t)j->put_next;
    MDB_val key = { sizeof number, &number }, val = { (size_t)len, NULL };
    int rc = mdb_put(j->txn, j->chunks, &key, &val, MDB_RESERVE | MDB_APPEND);

    if (rc != 0)
        return failed(j, rc, "a chunk cannot be put", reason);
    j->put_next++;
    j->put_bytes += len;
    j->part_bytes += len;
    *at = val.mv_data;
    return SD_PERSIST_OK;
}

sd_persist_status_t sd_journal_get(sd_journal_t *j, uint64_t number, const void **at, size_t *len, char *reason)
{
    size_t n = (size_t)number;
    MDB_val key = { sizeof n, &n }, val;
    int rc = mdb_get(j->txn, j->chunks, &key, &val);

    *len = 0;
    *at = NULL;
    if (rc == MDB_NOTFOUND)
        return SD_PERSIST_OK;
    if (rc != 0)
        return failed(j, rc, "a chunk cannot be read", reason);
    *at = val.mv_data;
    *len = val.mv_size;
    return SD_PERSIST_OK;
}

sd_persist_status_t sd_journal_part(sd_journal_t *j, char *reason)
{
    int rc = mdb_txn_commit(j->txn);

    j->txn = NULL;
    if (rc != 0)
        return failed(j, rc, "a part of a round cannot be committed", reason);
    j->leftover = true; /* until the round is whole */
    return SD_PERSIST_OK;
}

void sd_journal_note(const sd_journal_t *j)
{
    unsigned char bytes[SD_WITNESS_BYTES];
    sd_journal_witness_t w;
    ssize_t n;

    memcpy(w.id, j->state.id, sizeof w.id);
    w.serial = j->state.serial;
    sd_witness_write(bytes, &w);
    do {
        n = pwrite(j->owner, bytes, sizeof bytes, 0);
    } while (n < 0 && errno == EINTR);
    /* what could not be written whole says nothing, and nothing else needs it */
}

sd_persist_status_t sd_journal_commit(sd_journal_t *j, uint64_t first, uint64_t dropped,
                                      const sd_journal_state_t *state, char *reason)
{
    unsigned char bytes[SD_STATE_BYTES];
    MDB_val key = { sizeof SD_STATE_KEY - 1, (void *)SD_STATE_KEY }, val = { sizeof bytes, bytes };
    sd_journal_state_t next = *state;
    int rc;

    memcpy(next.id, j->state.id, sizeof next.id);
    next.serial = j->state.serial + 1;
    next.first = first;
    next.next = j->put_next;
    next.bytes = j->state.bytes - dropped + j->put_bytes;
    rc = first > j->state.first ? delete_chunks(j, j->state.first, first) : 0;
    if (rc != 0)
        return failed(j, rc, "old chunks cannot be dropped", reason);
    sd_state_write(bytes, &next);
    rc = mdb_put(j->txn, j->state_table, &key, &val, 0);
    if (rc != 0)
        return failed(j, rc, "the state cannot be written", reason);
    rc = mdb_txn_commit(j->txn);
    j->txn = NULL;
    if (rc != 0)
        return failed(j, rc, "a round cannot be committed", reason);
    j->state = next;
    j->put_bytes = j->part_bytes = 0;
    j->leftover = false;
    sd_journal_note(j);
    return SD_PERSIST_OK;
}
