/* SPDX-License-Identifier: Apache-2.0
 *
 * mod_hostile.c: a web worker that somebody has taken over, for t/httpd/hostile.t
 * only and never installed. A request tells it what to try; it answers in lines
 * what came of it. What is hard: to look for a session's bytes without having
 * them itself. So they come with each byte changed by MASK and are compared one
 * by one; they are in this process's memory in no other form.
 *
 *   /hostile?search&needle=HEX        where are these bytes, in all that can be read
 *   /hostile?search&plant=HEX&...     the same, with these put into the heap first
 *   /hostile?scribble&what=others     over every shared mapping but the scoreboard
 *   /hostile?scribble&what=scoreboard over the scoreboard
 *   /hostile?claim&pid=N              N for every child's pid in the scoreboard
 *   /hostile?attack&pid=N             what the kernel lets us do to process N
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <httpd.h>
#include <http_config.h>
#include <http_protocol.h>
#include <scoreboard.h>
#include <apr_strings.h>

#define MASK 0x5a
#define NEEDLE_MAX 512u
#define WINDOW (1u << 20)

typedef struct mapping {
    uintptr_t from, to;
    char perms[5];
    char name[128];
} mapping_t;

typedef struct needle {
    size_t len;
    uint8_t masked[NEEDLE_MAX];
} needle_t;

/* ---- what this process has mapped ---- */

/* Reads them all before anything is done to them. */
static apr_array_header_t *mappings(request_rec *r)
{
    apr_array_header_t *list = apr_array_make(r->pool, 256, sizeof(mapping_t));
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];

    while (maps && fgets(line, sizeof line, maps)) {
        mapping_t m;
        int name_at = 0;

        memset(&m, 0, sizeof m);
        if (sscanf(line, "%lx-%lx %4s %*s %*s %*s %n", &m.from, &m.to, m.perms, &name_at) < 3)
            continue;
        line[strcspn(line, "\n")] = '\0';
        apr_cpystrn(m.name, name_at && line[name_at] ? line + name_at : "anonymous", sizeof m.name);
        APR_ARRAY_PUSH(list, mapping_t) = m;
    }
    if (maps)
        fclose(maps);
    return list;
}

static bool is_scoreboard(const mapping_t *m)
{
    uintptr_t at = ap_scoreboard_image ? (uintptr_t)ap_scoreboard_image->global : 0;

    return at >= m->from && at < m->to;
}

/* ---- arguments ---- */

static const char *argument(request_rec *r, const char *name)
{
    char *rest = apr_pstrdup(r->pool, r->args ? r->args : ""), *state, *pair;
    size_t len = strlen(name);

    for (pair = apr_strtok(rest, "&", &state); pair; pair = apr_strtok(NULL, "&", &state))
        if (strncmp(pair, name, len) == 0 && (pair[len] == '=' || pair[len] == '\0'))
            return pair[len] ? pair + len + 1 : pair + len;
    return NULL;
}

static bool needle_of(request_rec *r, const char *name, needle_t *needle)
{
    const char *hex = argument(r, name);
    unsigned byte;

    needle->len = 0;
    for (; hex && needle->len < NEEDLE_MAX && sscanf(hex, "%2x", &byte) == 1; hex += 2)
        needle->masked[needle->len++] = (uint8_t)byte;
    return needle->len > 0;
}

/* ---- searching ---- */

static size_t count_in(const uint8_t *at, size_t bytes, const needle_t *needle)
{
    size_t i, k, found = 0;

    for (i = 0; i + needle->len <= bytes; i++) {
        for (k = 0; k < needle->len && (at[i + k] ^ MASK) == needle->masked[k]; k++)
            ;
        found += k == needle->len;
    }
    return found;
}

/* A mapped file may be shorter than its mapping: so the kernel copies, which
 * fails where reading would be a SIGBUS. */
static size_t search_mapping(const mapping_t *m, const needle_t *needle, uint8_t *window,
                             uint64_t *read)
{
    uintptr_t at = m->from;
    size_t found = 0, kept = 0;

    while (at < m->to) {
        size_t want = m->to - at < WINDOW ? m->to - at : WINDOW;
        struct iovec to = { window + kept, want }, from = { (void *)at, want };
        ssize_t got = process_vm_readv(getpid(), &to, 1, &from, 1, 0);

        if (got <= 0)
            break;
        *read += (uint64_t)got;
        found += count_in(window, kept + (size_t)got, needle);
        at += (size_t)got;
        /* what may be the beginning of a match */
        got += (ssize_t)kept;
        kept = (size_t)got < needle->len - 1 ? (size_t)got : needle->len - 1;
        memmove(window, window + got - kept, kept);
    }
    return found;
}

static void search(request_rec *r, const char *name)
{
    apr_array_header_t *list;
    uint64_t read = 0;
    size_t found = 0, room = WINDOW + NEEDLE_MAX;
    needle_t needle;
    uint8_t *window;
    int i, looked = 0;

    if (!needle_of(r, name, &needle))
        return;
    /* the copies in here are not counted, or each finding would make another */
    window = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (window == MAP_FAILED)
        return;
    list = mappings(r);
    for (i = 0; i < list->nelts; i++) {
        mapping_t m = APR_ARRAY_IDX(list, i, mapping_t);
        uintptr_t own = (uintptr_t)window;
        size_t here;

        if (m.perms[0] != 'r')
            continue;
        looked++;
        if (m.from <= own && own < m.to) { /* it may have grown together with its neighbours */
            mapping_t before = m, after = m;

            before.to = own;
            after.from = own + ((room + 4095) & ~(size_t)4095);
            here = search_mapping(&before, &needle, window, &read);
            if (after.from < after.to)
                here += search_mapping(&after, &needle, window, &read);
        }
        else
            here = search_mapping(&m, &needle, window, &read);
        if (here > 0)
            ap_rprintf(r, "%s: %" APR_SIZE_T_FMT " in %s %s\n", name, here, m.perms, m.name);
        found += here;
    }
    munmap(window, room);
    ap_rprintf(r, "%s: found %" APR_SIZE_T_FMT " in %d mappings, %" APR_UINT64_T_FMT " bytes\n", name,
               found, looked, read);
}

/* The proof that the search works: here are the bytes, plain. */
static void plant_and_search(request_rec *r)
{
    needle_t needle;
    uint8_t *plain;
    size_t i;

    if (!needle_of(r, "plant", &needle))
        return;
    plain = malloc(needle.len);
    if (!plain)
        return;
    for (i = 0; i < needle.len; i++)
        ((volatile uint8_t *)plain)[i] = needle.masked[i] ^ MASK;
    search(r, "plant");
    memset(plain, 0, needle.len);
    free(plain);
}

/* ---- scribbling ---- */

static void scribble_over(const mapping_t *m)
{
    volatile uint64_t *at = (volatile uint64_t *)m->from;
    uint64_t x = (uint64_t)getpid() * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (; (uintptr_t)at < m->to; at++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *at = x;
    }
}

static void scribble(request_rec *r)
{
    const char *what = argument(r, "what");
    bool scoreboard = what && strcmp(what, "scoreboard") == 0;
    apr_array_header_t *list = mappings(r);
    int i;

    for (i = 0; i < list->nelts; i++) {
        const mapping_t *m = &APR_ARRAY_IDX(list, i, mapping_t);
        const char *how = "scribbled";

        if (m->perms[3] != 's' || is_scoreboard(m) != scoreboard)
            continue;
        if (m->perms[1] != 'w') { /* MADV_REMOVE would make zeroes of it */
            how = "made writable and scribbled";
            if (mprotect((void *)m->from, m->to - m->from, PROT_READ | PROT_WRITE) != 0
                && madvise((void *)m->from, m->to - m->from, MADV_REMOVE) != 0) {
                ap_rprintf(r, "%s %s: %s\n", m->perms, m->name, strerror(errno));
                continue;
            }
        }
        scribble_over(m);
        ap_rprintf(r, "%s %s: %s\n", m->perms, m->name, how);
    }
    ap_rputs("done\n", r);
}

/* httpd takes the death of a process for the end of the child whose pid stands
 * in the scoreboard, and asks no other module then. */
static void claim(request_rec *r, pid_t pid)
{
    int slot, servers = ap_scoreboard_image->global->server_limit;

    for (slot = 0; slot < servers; slot++)
        ap_scoreboard_image->parent[slot].pid = pid;
    ap_rprintf(r, "claimed: %d places\n", slot);
}

/* ---- attacking another process ---- */

static void told(request_rec *r, const char *name, bool succeeded)
{
    ap_rprintf(r, "%s: %s\n", name, succeeded ? "yes" : strerror(errno));
}

static void try_file(request_rec *r, pid_t pid, const char *file, int flags)
{
    char byte;
    int fd = open(apr_psprintf(r->pool, "/proc/%d/%s", (int)pid, file), flags | O_CLOEXEC);

    /* some files can be opened by everybody and are empty then */
    told(r, file, fd >= 0 && (flags != O_RDONLY || read(fd, &byte, 1) == 1));
    if (fd >= 0)
        close(fd);
}

/* An address that is surely mapped there: where its code, ours as well, is. */
static void *somewhere(void)
{
    return (void *)(uintptr_t)&ap_scoreboard_image;
}

static void try_memory(request_rec *r, pid_t pid)
{
    char byte = 0;
    struct iovec mine = { &byte, 1 }, theirs = { somewhere(), 1 };

    told(r, "process_vm_readv", process_vm_readv(pid, &mine, 1, &theirs, 1, 0) == 1);
    told(r, "process_vm_writev", process_vm_writev(pid, &mine, 1, &theirs, 1, 0) == 1);
}

static void try_trace(request_rec *r, pid_t pid)
{
    bool attached = ptrace(PTRACE_ATTACH, pid, NULL, NULL) == 0;

    told(r, "ptrace", attached);
    if (attached) {
        (void)waitpid(pid, NULL, __WALL);
        (void)ptrace(PTRACE_DETACH, pid, NULL, NULL);
    }
}

static void try_descriptors(request_rec *r, pid_t pid)
{
#if defined SYS_pidfd_open && defined SYS_pidfd_getfd
    int handle = (int)syscall(SYS_pidfd_open, pid, 0), fd, n;
    bool stolen = false;

    errno = ENOENT;
    for (n = 0; handle >= 0 && n < 64 && !stolen; n++) {
        fd = (int)syscall(SYS_pidfd_getfd, handle, n, 0);
        stolen = fd >= 0;
        if (stolen)
            close(fd);
    }
    told(r, "pidfd_getfd", stolen);
    if (handle >= 0)
        close(handle);
#else
    (void)pid;
    (void)r;
#endif
}

static void attack(request_rec *r, pid_t pid)
{
    try_file(r, pid, "mem", O_RDONLY);
    try_file(r, pid, "mem", O_RDWR);
    try_file(r, pid, "maps", O_RDONLY);
    try_file(r, pid, "environ", O_RDONLY);
    try_file(r, pid, "auxv", O_RDONLY);
    try_file(r, pid, "fd", O_RDONLY | O_DIRECTORY);
    try_file(r, pid, "map_files", O_RDONLY | O_DIRECTORY);
    try_memory(r, pid);
    try_trace(r, pid);
    try_descriptors(r, pid);
    told(r, "signal", kill(pid, 0) == 0);
}

/* ---- the handler ---- */

static int handler(request_rec *r)
{
    const char *pid = argument(r, "pid");

    if (!r->handler || strcmp(r->handler, "hostile") != 0)
        return DECLINED;
    ap_set_content_type(r, "text/plain");
    ap_rprintf(r, "pid: %d\n", (int)getpid());
    if (argument(r, "search")) {
        plant_and_search(r);
        search(r, "needle");
    }
    if (argument(r, "scribble"))
        scribble(r);
    if (argument(r, "claim") && pid)
        claim(r, (pid_t)atoi(pid));
    if (argument(r, "attack") && pid)
        attack(r, (pid_t)atoi(pid));
    return OK;
}

static void register_hooks(apr_pool_t *pool)
{
    (void)pool;
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_MIDDLE);
}

AP_DECLARE_MODULE(hostile) = {
    STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, NULL, register_hooks, AP_MODULE_FLAG_NONE
};
