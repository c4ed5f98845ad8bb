/* SPDX-License-Identifier: Apache-2.0
 *
 * journal.c: opening and closing a journal, and who may have it.
 *
 * A journal is made under another name and renamed when it is whole and on disk,
 * so that whatever stands under the name data.mdb was once a journal: an empty or
 * half-written file is damage, not a beginning, and is left alone.
 */
#include "persist/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "persist/chunk.h"
#include "persist/internal.h"
#include "persist/load.h"
#include "persist/reader.h"

#define FILE_MODE 0600
#define MAP_STEP ((uint64_t)1 << 30)
#define SLACK_BYTES ((uint64_t)16 << 20)
#define NEW_NAME "data.new"

sd_persist_status_t sd_persist_says(sd_persist_status_t status, char *reason, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(reason, SD_PERSIST_REASON, format, args);
    va_end(args);
    return status;
}

const char *sd_persist_status_name(sd_persist_status_t status)
{
    switch (status) {
        case SD_PERSIST_OK: return "ok";
        case SD_PERSIST_FRESH: return "fresh";
        case SD_PERSIST_BUSY: return "busy";
        case SD_PERSIST_ALIEN: return "alien";
        case SD_PERSIST_NO_SPACE: return "no space";
        case SD_PERSIST_STOPPED: return "stopped";
        case SD_PERSIST_DAMAGED: return "damaged";
        case SD_PERSIST_TOO_SMALL: return "too small";
        case SD_PERSIST_FAILED: break;
    }
    return "failed";
}

bool sd_persist_path(char out[SD_PERSIST_PATH], const char *dir, const char *name)
{
    int n = snprintf(out, SD_PERSIST_PATH, "%s/%s", dir, name);

    return n > 0 && (unsigned)n < SD_PERSIST_PATH;
}

sd_persist_status_t sd_owner_lock(const char *dir, int *fd, char *reason)
{
    char path[SD_PERSIST_PATH];

    *fd = -1;
    if (!sd_persist_path(path, dir, "owner"))
        return sd_persist_says(SD_PERSIST_FAILED, reason, "the directory's name is too long");
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, FILE_MODE);
    if (*fd < 0)
        return sd_persist_says(SD_PERSIST_FAILED, reason, "%.150s cannot be opened: %s", path, strerror(errno));
    if (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
        int error = errno;

        close(*fd);
        *fd = -1;
        if (error == EWOULDBLOCK)
            return sd_persist_says(SD_PERSIST_BUSY, reason, "%.150s is locked: another process has this directory", path);
        return sd_persist_says(SD_PERSIST_FAILED, reason, "%.150s cannot be locked: %s", path, strerror(error));
    }
    return SD_PERSIST_OK;
}

sd_persist_status_t sd_data_is_there(const char *dir, char *reason)
{
    char path[SD_PERSIST_PATH];
    struct stat st;

    if (!sd_persist_path(path, dir, "data.mdb"))
        return sd_persist_says(SD_PERSIST_FAILED, reason, "the directory's name is too long");
    if (stat(dir, &st) != 0)
        return sd_persist_says(SD_PERSIST_FAILED, reason, "%.150s cannot be used: %s", dir, strerror(errno));
    if (lstat(path, &st) == 0) {
        if (S_ISREG(st.st_mode) && st.st_size > 0)
            return SD_PERSIST_OK;
        if (S_ISREG(st.st_mode)) /* LMDB would take it for one to begin */
            return sd_persist_says(SD_PERSIST_ALIEN, reason, "%.150s: it is empty", path);
        return sd_persist_says(SD_PERSIST_ALIEN, reason, "%.150s is no regular file", path);
    }
    if (errno == ENOENT)
        return sd_persist_says(SD_PERSIST_FRESH, reason, "%.150s holds no journal", dir);
    return sd_persist_says(SD_PERSIST_FAILED, reason, "%.150s cannot be used: %s", path, strerror(errno));
}

int sd_env_open(const char *dir, unsigned flags, uint64_t map_bytes, MDB_env **env)
{
    int rc = mdb_env_create(env);

    if (rc != 0) {
        *env = NULL;
        return rc;
    }
    rc = mdb_env_set_maxdbs(*env, 2);
    if (rc == 0 && map_bytes != 0)
        rc = mdb_env_set_mapsize(*env, (size_t)map_bytes);
    if (rc == 0)
        rc = mdb_env_open(*env, dir, flags, FILE_MODE);
    if (rc != 0) {
        mdb_env_close(*env);
        *env = NULL;
    }
    return rc;
}

int sd_tables_open(MDB_txn *txn, unsigned flags, MDB_dbi *chunks, MDB_dbi *state_table)
{
    int rc = mdb_dbi_open(txn, "chunks", MDB_INTEGERKEY | flags, chunks);

    return rc != 0 ? rc : mdb_dbi_open(txn, "state", flags, state_table);
}

static int sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;

    if (fd < 0)
        return errno;
    rc = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return rc;
}

static void remove_new(const char *dir)
{
    char path[SD_PERSIST_PATH];

    if (sd_persist_path(path, dir, NEW_NAME))
        (void)unlink(path);
    if (sd_persist_path(path, dir, NEW_NAME "-lock"))
        (void)unlink(path);
}

/* An empty journal under its other name, on disk. */
static int write_new(const char *path, const sd_journal_state_t *state)
{
    unsigned char bytes[SD_STATE_BYTES];
    MDB_val key = { sizeof SD_STATE_KEY - 1, (void *)SD_STATE_KEY }, val = { sizeof bytes, bytes };
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi chunks, table;
    int rc = sd_env_open(path, MDB_NOSUBDIR, MAP_STEP, &env);

    if (rc != 0)
        return rc;
    sd_state_write(bytes, state);
    rc = mdb_txn_begin(env, NULL, 0, &txn);
    if (rc == 0) {
        rc = sd_tables_open(txn, MDB_CREATE, &chunks, &table);
        if (rc == 0)
            rc = mdb_put(txn, table, &key, &val, 0);
        if (rc == 0)
            rc = mdb_txn_commit(txn);
        else
            mdb_txn_abort(txn);
    }
    mdb_env_close(env);
    return rc;
}

static sd_persist_status_t create(const char *dir, const sd_journal_options_t *o, char *reason)
{
    char from[SD_PERSIST_PATH], to[SD_PERSIST_PATH];
    sd_journal_state_t state;
    int rc;

    memset(&state, 0, sizeof state);
    memcpy(state.id, o->id, sizeof state.id);
    state.wall_ms = o->wall_ms;
    state.first = state.next = 1;
    if (!sd_persist_path(from, dir, NEW_NAME) || !sd_persist_path(to, dir, "data.mdb"))
        return sd_persist_says(SD_PERSIST_FAILED, reason, "the directory's name is too long");
    remove_new(dir);
    rc = write_new(from, &state);
    if (rc == 0 && rename(from, to) != 0)
        rc = errno;
    remove_new(dir);
    if (rc == 0)
        rc = sync_dir(dir);
    if (rc != 0)
        return sd_persist_says(rc == ENOSPC || rc == EDQUOT ? SD_PERSIST_NO_SPACE : SD_PERSIST_FAILED, reason,
                               "no journal can be made in %.150s: %s", dir, mdb_strerror(rc));
    return SD_PERSIST_OK;
}

/* Opens LMDB and reads the state. What is there has been looked at before. */
static int open_env(sd_journal_t *j, uint64_t map_bytes, sd_journal_state_t *state, const char **wrong)
{
    MDB_val key = { sizeof SD_STATE_KEY - 1, (void *)SD_STATE_KEY }, val;
    MDB_txn *txn;
    int rc;

    *wrong = NULL;
    if (map_bytes == 0) {
        struct stat st;
        char path[SD_PERSIST_PATH];
        uint64_t size = sd_persist_path(path, j->dir, "data.mdb") && stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;

        map_bytes = (2 * size / MAP_STEP + 1) * MAP_STEP;
    }
    rc = sd_env_open(j->dir, j->no_sync ? MDB_NOSYNC : 0, map_bytes, &j->env);
    if (rc != 0)
        return rc;
    rc = mdb_txn_begin(j->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0) {
        rc = sd_tables_open(txn, 0, &j->chunks, &j->state_table);
        if (rc == 0)
            rc = mdb_get(txn, j->state_table, &key, &val);
        if (rc == 0)
            *wrong = sd_state_read(val.mv_data, val.mv_size, state);
        if (rc == 0)
            rc = mdb_txn_commit(txn); /* keeps the tables' handles */
        else
            mdb_txn_abort(txn);
    }
    if (rc != 0 || *wrong != NULL) {
        mdb_env_close(j->env);
        j->env = NULL;
    }
    return rc;
}

sd_persist_status_t sd_journal_reopen(sd_journal_t *j, char *reason)
{
    sd_journal_state_t state;
    const char *wrong;
    int rc = open_env(j, 0, &state, &wrong);

    if (rc != 0)
        return sd_persist_says(SD_PERSIST_FAILED, reason, "%.150s cannot be opened again: %s", j->dir, mdb_strerror(rc));
    /* Only the commit that failed may be there beside what we know of. */
    if (wrong == NULL && (memcmp(state.id, j->state.id, sizeof state.id) != 0
                          || (state.serial != j->state.serial && state.serial != j->state.serial + 1)))
        wrong = "it is another journal now";
    if (wrong != NULL) {
        mdb_env_close(j->env);
        j->env = NULL;
        return sd_persist_says(SD_PERSIST_FAILED, reason, "the state in %.150s: %s", j->dir, wrong);
    }
    j->state = state;
    j->leftover = true;
    return SD_PERSIST_OK;
}

sd_persist_status_t sd_journal_open(sd_journal_t **journal, const char *dir, const sd_journal_options_t *o,
                                    char reason[SD_PERSIST_REASON])
{
    sd_journal_t *j;
    sd_persist_status_t found, status;
    const char *wrong = NULL;
    int rc;

    *journal = NULL;
    reason[0] = '\0';
    found = sd_data_is_there(dir, reason);
    if (found != SD_PERSIST_OK && (found != SD_PERSIST_FRESH || !o->create))
        return found;
    j = calloc(1, sizeof *j);
    if (j == NULL)
        return sd_persist_says(SD_PERSIST_FAILED, reason, "no memory for a journal");
    j->owner = -1;
    j->dir = strdup(dir);
    j->buffer = malloc(SD_CHUNK_BYTES);
    j->old_chunk = malloc(SD_CHUNK_BYTES);
    if (j->dir == NULL || j->buffer == NULL || j->old_chunk == NULL) {
        sd_journal_close(&j);
        return sd_persist_says(SD_PERSIST_FAILED, reason, "no memory for a journal");
    }
    j->no_sync = o->no_sync;
    j->same_clock = o->same_store;
    j->slack_bytes = o->slack_bytes != 0 ? o->slack_bytes : SLACK_BYTES;
    j->leftover = true;
    status = sd_owner_lock(dir, &j->owner, reason);
    if (status == SD_PERSIST_OK) {
        /* once more, now that nobody else makes one */
        found = sd_data_is_there(dir, reason);
        status = found == SD_PERSIST_FRESH ? create(dir, o, reason) : found;
    }
    if (status == SD_PERSIST_OK && found == SD_PERSIST_OK)
        status = sd_reader_look(dir, j->owner, o->patience_ms, reason);
    if (status == SD_PERSIST_OK) {
        rc = open_env(j, o->map_bytes, &j->state, &wrong);
        if (rc != 0)
            status = sd_persist_says(SD_PERSIST_FAILED, reason, "%.150s/data.mdb cannot be opened: %s", dir,
                                     mdb_strerror(rc));
        else if (wrong != NULL)
            status = sd_persist_says(SD_PERSIST_ALIEN, reason, "the state in %.150s/data.mdb: %s", dir, wrong);
    }
    if (status != SD_PERSIST_OK) {
        sd_journal_close(&j);
        return status;
    }
    sd_journal_note(j);
    *journal = j;
    reason[0] = '\0';
    return found;
}

void sd_journal_close(sd_journal_t **journal)
{
    sd_journal_t *j = *journal;

    *journal = NULL;
    if (j == NULL)
        return;
    sd_journal_abandon(j);
    if (j->env != NULL)
        mdb_env_close(j->env);
    if (j->owner >= 0)
        close(j->owner);
    free(j->old_chunk);
    free(j->buffer);
    free(j->dir);
    free(j);
}

const sd_journal_state_t *sd_journal_state(const sd_journal_t *j)
{
    return &j->state;
}

bool sd_journal_is_there(const sd_journal_t *j)
{
    char path[SD_PERSIST_PATH];
    struct stat ours, there;
    mdb_filehandle_t fd;

    if (!sd_persist_path(path, j->dir, "data.mdb") || stat(path, &there) != 0)
        return false;
    if (j->env == NULL || mdb_env_get_fd(j->env, &fd) != 0 || fstat(fd, &ours) != 0)
        return j->env == NULL; /* closed after an error; what is there is looked at when it is reopened */
    if (ours.st_dev != there.st_dev || ours.st_ino != there.st_ino)
        return false;
    /* the same for the lock, by which another httpd would know of us */
    return sd_persist_path(path, j->dir, "owner") && stat(path, &there) == 0 && fstat(j->owner, &ours) == 0
           && ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

uint64_t sd_journal_file_bytes(const sd_journal_t *j)
{
    struct stat st;
    mdb_filehandle_t fd;

    if (j->env == NULL || mdb_env_get_fd(j->env, &fd) != 0 || fstat(fd, &st) != 0)
        return 0;
    return (uint64_t)st.st_size;
}
