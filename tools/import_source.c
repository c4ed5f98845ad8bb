/* SPDX-License-Identifier: Apache-2.0
 *
 * import_source.c: walks directories that change while they are walked.
 *
 * Nothing is opened by a path of more than one name below the first directory,
 * and no symbolic link is followed there: whoever may write into a save path
 * (on many systems every user) must not be able to lead a root's walk away.
 * Only the entries of one directory for each level are in memory.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/import_source.h"

static const char php_bytes[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789,-";
static const char php_name[] = "sess_";

typedef struct walk {
    const import_source_t *source;
    import_report_t *report; /* NULL: only counts */
    import_visit_fn *visit;
    void *context;
    uint64_t names;
    char levels[IMPORT_LEVELS]; /* the directories that we are in */
} walk_t;

const char *import_source_set(import_source_t *source, import_kind_t kind, const char *text)
{
    const char *rest = strrchr(text, ';');
    char *end;
    long levels = 0;

    source->kind = kind;
    source->levels = 0;
    source->path = text;
    if (kind == IMPORT_FROM_PHP && rest) {
        levels = strtol(text, &end, 10);
        if (end == text || *end != ';')
            return "before the first ; stands a number of levels, as in \"2;/var/lib/php/sessions\"";
        if (end != rest && strchr(end + 1, ';') != rest)
            return "it is \"N;/path\" or \"N;MODE;/path\", as in PHP's session.save_path";
        if (levels < 0 || levels > IMPORT_LEVELS)
            return "there are 0 to 16 levels";
        source->levels = (int)levels;
        source->path = rest + 1;
    }
    return source->path[0] ? NULL : "the directory is missing";
}

static void note(walk_t *walk, import_fate_t fate, const char *name, const char *why)
{
    if (walk->report)
        import_report_count(walk->report, fate, name, why);
}

/* Printable, without what no client of the old store can have had in a key, and
 * without the blank, which sharedance's frames have and the extended ones lack. */
static bool is_key(const char *key)
{
    size_t len = 0;

    for (; key[len]; len++)
        if (key[len] < 33 || key[len] > 126 || key[len] == '.' || key[len] == '/')
            return false;
    return len > 0 && len <= IMPORT_KEY_BYTES;
}

/* PHP finds a file only below the directories that its first letters name. */
static bool is_in_place(const walk_t *walk, const char *id, int level)
{
    return level == walk->source->levels && strncmp(id, walk->levels, (size_t)level) == 0;
}

/* The key of a file of this name in a directory of this level, or NULL and why not. */
static const char *key_of(const walk_t *walk, const char *name, int level, import_fate_t *fate)
{
    const char *key = name;

    *fate = IMPORT_BAD_KEY;
    if (walk->source->kind == IMPORT_FROM_SHAREDANCE) {
        if (name[0] == '.') {
            *fate = IMPORT_HALF_STORED;
            return NULL;
        }
    } else {
        if (strncmp(name, php_name, sizeof php_name - 1) != 0) {
            *fate = IMPORT_FOREIGN;
            return NULL;
        }
        key = name + sizeof php_name - 1;
        if (key[strspn(key, php_bytes)] != 0)
            return NULL;
        if (!is_in_place(walk, key, level)) {
            *fate = IMPORT_MISPLACED;
            return NULL;
        }
    }
    return is_key(key) ? key : NULL;
}

static bool is_level(const walk_t *walk, const char *name, int level)
{
    return level < walk->source->levels && name[0] && !name[1] && strchr(php_bytes, name[0]);
}

static bool look_at(walk_t *walk, int dir, const char *name, int level)
{
    import_entry_t entry = { .dir = dir, .name = name };
    import_fate_t fate;

    walk->names++;
    entry.key = key_of(walk, name, level, &fate);
    if (!entry.key) {
        note(walk, fate, name, NULL);
        return true;
    }
    if (!walk->report)
        return true;
    if (fstatat(dir, name, &entry.st, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            note(walk, IMPORT_VANISHED, name, NULL);
        else
            note(walk, IMPORT_UNREADABLE, name, strerror(errno));
        return true;
    }
    if (!S_ISREG(entry.st.st_mode)) {
        note(walk, IMPORT_NOT_REGULAR, name, S_ISLNK(entry.st.st_mode) ? "a symbolic link" : NULL);
        return true;
    }
    return walk->visit(walk->context, &entry);
}

/* Takes the descriptor. False: the visitor has had enough. */
static bool walk_directory(walk_t *walk, int fd, int level)
{
    DIR *dir = fdopendir(fd);
    const struct dirent *at;
    bool go_on = true;

    if (!dir) {
        note(walk, IMPORT_UNREADABLE, NULL, strerror(errno));
        close(fd);
        return true;
    }
    while (go_on) {
        errno = 0;
        at = readdir(dir);
        if (!at) {
            if (errno != 0)
                note(walk, IMPORT_UNREADABLE, NULL, strerror(errno));
            break;
        }
        if (strcmp(at->d_name, ".") == 0 || strcmp(at->d_name, "..") == 0)
            continue;
        if (is_level(walk, at->d_name, level)) {
            int below = openat(fd, at->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

            if (below >= 0) {
                walk->levels[level] = at->d_name[0];
                go_on = walk_directory(walk, below, level + 1);
                continue;
            }
            if (errno == ENOTDIR || errno == ELOOP)
                note(walk, IMPORT_NOT_REGULAR, NULL, NULL);
            else if (errno != ENOENT)
                note(walk, IMPORT_UNREADABLE, NULL, strerror(errno));
            continue;
        }
        go_on = look_at(walk, fd, at->d_name, level);
    }
    closedir(dir);
    return go_on;
}

/* The first directory is named by whoever runs this, and may be reached by links. */
static int begin(walk_t *walk)
{
    int fd = open(walk->source->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return errno;
    walk_directory(walk, fd, 0);
    return 0;
}

int import_source_walk(const import_source_t *source, import_report_t *report, import_visit_fn *visit, void *context)
{
    walk_t walk = { .source = source, .report = report, .visit = visit, .context = context };

    return begin(&walk);
}

uint64_t import_source_count(const import_source_t *source)
{
    walk_t walk = { .source = source };

    begin(&walk);
    return walk.names;
}
