/* SPDX-License-Identifier: Apache-2.0
 *
 * replay.c: a main for the fuzz targets without libFuzzer: runs one over each
 * file of its corpus (t/fuzz/corpus/NAME for the program fuzz_NAME) and prints
 * TAP.
 *
 *   fuzz_NAME [FILE...]     (none: the whole corpus)
 *
 * The files are run in a process of its own, one after the other as libFuzzer
 * does: one that dies is named by the file that it died over, and the next goes
 * on behind that. The last test is the end of that process, where valgrind and
 * the sanitizers tell what they have found. Each input ends at a page that
 * nobody may touch.
 */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"
#include "t/unit/guard.h"

#define INPUT_MAX (1u << 20)
/* For one file, valgrind and a machine that stalls included. */
#define SECONDS_EACH 120

static _Noreturn void bail_out(const char *why, const char *what)
{
    printf("Bail out! %s: %s\n", what, why);
    exit(1);
}

static void run_file(const guard_t *guard, uint8_t *bytes, const char *path)
{
    FILE *file = fopen(path, "rb");
    size_t n;

    if (!file) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(1);
    }
    n = fread(bytes, 1, INPUT_MAX, file);
    if (ferror(file) || !feof(file)) {
        fprintf(stderr, "%s: cannot be read, or is larger than %u bytes\n", path, INPUT_MAX - 1);
        exit(1);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(guard_put(guard, bytes, n), n);
}

/* In the child: all files from `first` on; a byte into the pipe after each. */
static _Noreturn void run_files(char **files, size_t first, size_t count, int pipe_end)
{
    uint8_t *bytes = malloc(INPUT_MAX);
    guard_t guard;
    size_t i;

    if (!bytes)
        exit(1);
    guard_open(&guard, INPUT_MAX);
    for (i = first; i < count; i++) {
        alarm(SECONDS_EACH);
        run_file(&guard, bytes, files[i]);
        if (write(pipe_end, "", 1) != 1)
            exit(1);
    }
    guard_close(&guard);
    free(bytes);
    exit(0);
}

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static void not_ok(size_t number, const char *name, int status)
{
    printf("not ok %zu - %s (%s %d)\n", number, name,
           WIFSIGNALED(status) ? "died of signal" : "exit status",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* Runs the files from `first` on until one ends the process. Returns how many
 * are done with; *status is how that process ended. */
static size_t run_from(char **files, size_t first, size_t count, int *status)
{
    int ends[2];
    size_t done = first;
    char byte;
    pid_t pid;

    fflush(stdout); /* or the child would print it again */
    if (pipe(ends) != 0 || (pid = fork()) < 0)
        bail_out(strerror(errno), "no process to run it in");
    if (pid == 0) {
        close(ends[0]);
        run_files(files, first, count, ends[1]);
    }
    close(ends[1]);
    while (read(ends[0], &byte, 1) == 1) {
        done++;
        printf("ok %zu - %s\n", done, name_of(files[done - 1]));
    }
    close(ends[0]);
    if (waitpid(pid, status, 0) != pid)
        bail_out(strerror(errno), "the process is lost");
    return done;
}

static char **corpus(const char *program, glob_t *found)
{
    const char *top = getenv("abs_top_srcdir"), *name = strstr(name_of(program), "fuzz_");
    char pattern[1000];

    if (!name)
        bail_out("its name does not begin with fuzz_", program);
    snprintf(pattern, sizeof pattern, "%s/t/fuzz/corpus/%s/*", top ? top : ".", name + 5);
    if (glob(pattern, 0, NULL, found) != 0)
        bail_out("there is no such file", pattern);
    return found->gl_pathv;
}

int main(int argc, char **argv)
{
    glob_t found = { 0 };
    char **files = argc > 1 ? argv + 1 : corpus(argv[0], &found);
    size_t count = argc > 1 ? (size_t)argc - 1 : found.gl_pathc, done = 0, failed = 0;
    int status = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (LLVMFuzzerInitialize(&argc, &argv) != 0)
        bail_out("cannot be set up", argv[0]);
    printf("1..%zu\n", count + 1);
    while ((done = run_from(files, done, count, &status)) < count) {
        not_ok(done + 1, name_of(files[done]), status);
        done++;
        failed++;
    }
    if (status == 0)
        printf("ok %zu - the end of the process\n", count + 1);
    else
        not_ok(count + 1, "the end of the process", status);
    failed += status != 0;
    globfree(&found);
    return failed > 0;
}
