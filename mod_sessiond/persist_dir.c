/* SPDX-License-Identifier: Apache-2.0
 *
 * persist_dir.c: see the header. What is hard is that root makes a directory for
 * somebody else: it is given away through a descriptor of the very directory that
 * was made, so that no link put in its place gets the ownership.
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
    *dir = ap_server_root_relative(pool, path);
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

static const char *make(const char *dir, apr_pool_t *pool)
{
    struct stat s;
    int fd;

    if (mkdir(dir, 0700) != 0)
        return errno == EEXIST ? sd_persist_dir_check(dir, pool)
                               : apr_psprintf(pool, "SessiondPersist %s: it cannot be made (%s)", dir, strerror(errno));
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &s) != 0 || s.st_uid != geteuid()
        || (geteuid() == 0 && fchown(fd, ap_unixd_config.user_id, ap_unixd_config.group_id) != 0)) {
        int err = errno;

        if (fd >= 0)
            close(fd);
        return apr_psprintf(pool, "SessiondPersist %s: it was made, but cannot be given to the run-time user (%s)", dir,
                            strerror(err));
    }
    close(fd);
    return NULL;
}

bool sd_persist_dir_make(const char *dir, apr_pool_t *pool)
{
    const char *err = dir ? make(dir, pool) : NULL;

    if (err)
        sd_log(ERR, 0, "%s", err);
    return err == NULL;
}
