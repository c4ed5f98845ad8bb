/* SPDX-License-Identifier: Apache-2.0
 *
 * persist_dir.c: see the header. What is hard is that root makes a directory for
 * somebody else, and must not give something else away that was put in its place
 * meanwhile. No link is followed; and where anybody but root could put something
 * there, root makes nothing: the session process does, as who it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <httpd.h>
#include <http_config.h>
#include <unixd.h>
#include <apr_strings.h>

#include "log.h"
#include "persist_dir.h"

const char *sd_persist_dir_set(const char **dir, const char *path, apr_pool_t *pool)
{
#ifndef HAVE_LMDB
    (void)dir;
    return apr_psprintf(pool, "SessiondPersist %s: this mod_sessiond was built without LMDB; install liblmdb-dev "
                        "(lmdb-devel), configure and build it again", path);
#else
    char *absolute = ap_server_root_relative(pool, path);
    size_t len = absolute ? strlen(absolute) : 0;

    while (len > 1 && absolute[len - 1] == '/') /* else its parent would be itself */
        absolute[--len] = '\0';
    *dir = absolute;
    if (*path == '\0' || !*dir)
        return apr_psprintf(pool, "SessiondPersist %s: not a path; give a directory on a local disk, such as "
                            "/var/lib/sessiond", path);
    return NULL;
#endif
}

static uid_t run_time_user(void)
{
    return geteuid() == 0 ? ap_unixd_config.user_id : geteuid();
}

const char *sd_persist_dir_check(const char *dir, apr_pool_t *pool)
{
    uid_t user = run_time_user();
    struct stat s;

    if (stat(dir, &s) != 0) {
        const char *parent = ap_make_dirstr_parent(pool, dir);

        if (errno != ENOENT)
            return apr_psprintf(pool, "SessiondPersist %s: %s", dir, strerror(errno));
        if (stat(parent, &s) != 0 || !S_ISDIR(s.st_mode))
            return apr_psprintf(pool, "SessiondPersist %s: there is no directory %s to make it in", dir, parent);
        return NULL;
    }
    if (!S_ISDIR(s.st_mode))
        return apr_psprintf(pool, "SessiondPersist %s: this is not a directory", dir);
    if (s.st_uid != user)
        return apr_psprintf(pool, "SessiondPersist %s: it belongs to user %lu and has to belong to the one that httpd "
                            "runs as: chown %lu %s", dir, (unsigned long)s.st_uid, (unsigned long)user, dir);
    if ((s.st_mode & 077) != 0 || (s.st_mode & 0700) != 0700)
        return apr_psprintf(pool, "SessiondPersist %s: its mode is %04o, and sessions are nobody else's business: "
                            "chmod 0700 %s", dir, (unsigned)(s.st_mode & 07777), dir);
    return NULL;
}

/* Nobody else can rename or remove what root makes in it. */
static bool is_roots_own(int parent)
{
    struct stat s;

    return fstat(parent, &s) == 0 && s.st_uid == 0 && ((s.st_mode & 022) == 0 || (s.st_mode & S_ISVTX) != 0);
}

/* Gives it to the run-time user. False with errno. */
static bool give(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), err;
    bool given = fd >= 0 && fchown(fd, ap_unixd_config.user_id, ap_unixd_config.group_id) == 0;

    err = errno;
    if (fd >= 0)
        close(fd);
    errno = err;
    return given;
}

static const char *make_in(int parent, const char *dir, const char *name, apr_pool_t *pool)
{
    bool is_root = geteuid() == 0;
    struct stat s;

    if (is_root && !is_roots_own(parent) && fstatat(parent, name, &s, 0) != 0 && errno == ENOENT)
        return NULL; /* see above */
    if (mkdirat(parent, name, 0700) != 0)
        return errno == EEXIST ? sd_persist_dir_check(dir, pool)
                               : apr_psprintf(pool, "SessiondPersist %s: it cannot be made (%s)", dir, strerror(errno));
    if (is_root && !give(parent, name))
        return apr_psprintf(pool, "SessiondPersist %s: it was made, but cannot be given to the run-time user (%s)", dir,
                            strerror(errno));
    return NULL;
}

static const char *make(const char *dir, apr_pool_t *pool)
{
    const char *slash = strrchr(dir, '/'), *name = slash + 1, *err;
    const char *above = slash == dir ? "/" : apr_pstrmemdup(pool, dir, (apr_size_t)(slash - dir));
    int parent;

    if (*name == '\0') /* "/" */
        return sd_persist_dir_check(dir, pool);
    parent = open(above, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return apr_psprintf(pool, "SessiondPersist %s: %s cannot be opened (%s)", dir, above, strerror(errno));
    err = make_in(parent, dir, name, pool);
    close(parent);
    return err;
}

bool sd_persist_dir_make(const char *dir, apr_pool_t *pool)
{
    const char *err = dir ? make(dir, pool) : NULL;

    if (err)
        sd_log(ERR, 0, "%s", err);
    return err == NULL;
}
