/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz.c: how a target ends the process. cmocka's assertions, which the
 * fixtures of t/unit use, would jump to a test that is not there; asked by the
 * environment they abort instead, and the stack shows where.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return setenv("CMOCKA_TEST_ABORT", "1", 1);
}

void fuzz_broken(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: broken: %s\n", file, line, condition);
    abort();
}
