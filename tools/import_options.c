/* SPDX-License-Identifier: Apache-2.0
 *
 * import_options.c: options, their bounds, and the sentences for what is wrong.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/import_options.h"

enum {
    SHAREDANCE_EXPIRATION = 1800, /* sharedanced's default */
    PHP_EXPIRATION = 1440,        /* that of session.gc_maxlifetime */
    LONGEST_EXPIRATION = 365 * 86400,
    LONGEST_PREFIX = 64
};

static const char usage[] =
    "usage: sessiond-import [options] sharedance DIRECTORY SERVER\n"
    "       sessiond-import [options] php SAVE_PATH SERVER\n"
    "\n"
    "Copies the live sessions of a sharedance directory, or of PHP's session files, into\n"
    "a running mod_sessiond. What the server has already is kept.\n"
    "\n"
    "  SAVE_PATH  as session.save_path has it: /path, \"N;/path\" or \"N;MODE;/path\"\n"
    "  SERVER     host:port, [IPv6]:port or unix:/path\n"
    "\n"
    "  -e, --expiration SECONDS  a session's lifetime since its last change\n"
    "                            (sharedance 1800; php 1440, as session.gc_maxlifetime)\n"
    "  -p, --prefix TEXT         stands before each key, as prefix= of our PHP handler\n"
    "  -s, --since SECONDS       only files changed since then (date +%s)\n"
    "  -f, --follow SECONDS      go on: look again each so often for what has changed\n"
    "      --overwrite           write also over sessions that the server has\n"
    "  -n, --dry-run             change nothing, only say what would be done\n"
    "  -v, --verbose             a line for each file that is left out\n"
    "      --lock-wait MS        how long to wait for a file that PHP holds (500)\n"
    "      --timeout SECONDS     how long the server may be silent (30)\n"
    "  -h, --help                this text\n"
    "  -V, --version             the version\n"
    "\n"
    "Exit status: 0 all is done; 1 something is left that a repeat may mend, or that the\n"
    "server refused; 2 usage; 3 trouble with the server.\n";

enum { OVERWRITE = 256, LOCK_WAIT, TIMEOUT };

static const struct option long_options[] = {
    { "expiration", required_argument, NULL, 'e' },
    { "prefix", required_argument, NULL, 'p' },
    { "since", required_argument, NULL, 's' },
    { "follow", required_argument, NULL, 'f' },
    { "overwrite", no_argument, NULL, OVERWRITE },
    { "dry-run", no_argument, NULL, 'n' },
    { "verbose", no_argument, NULL, 'v' },
    { "lock-wait", required_argument, NULL, LOCK_WAIT },
    { "timeout", required_argument, NULL, TIMEOUT },
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { NULL, 0, NULL, 0 }
};

static bool number(const char *option, const char *text, long long least, long long most, long long *value)
{
    char *end;

    errno = 0;
    *value = strtoll(text, &end, 10);
    if (end != text && *end == 0 && errno == 0 && *value >= least && *value <= most)
        return true;
    fprintf(stderr, "sessiond-import: --%s %s: give a whole number from %lld to %lld\n", option, text, least, most);
    return false;
}

/* What our PHP handler allows in its DSN's prefix. */
static bool is_prefix(const char *text)
{
    size_t len = 0;

    while (text[len] > 32 && text[len] < 127 && text[len] != '.' && text[len] != '/')
        len++;
    if (text[len] == 0 && len <= LONGEST_PREFIX)
        return true;
    fprintf(stderr, "sessiond-import: --prefix: at most 64 printable ASCII characters without blank, '.' and '/'\n");
    return false;
}

static bool take(import_options_t *options, int letter)
{
    long long value = 0;
    bool good = true;

    switch (letter) {
    case 'e':
        good = number("expiration", optarg, 1, LONGEST_EXPIRATION, &value);
        options->expiration = (uint32_t)value;
        return good;
    case 'p':
        options->prefix = optarg;
        return is_prefix(optarg);
    case 's':
        good = number("since", optarg[0] == '@' ? optarg + 1 : optarg, 0, 1LL << 40, &value);
        options->since = (uint64_t)value;
        return good;
    case 'f':
        good = number("follow", optarg, 1, 86400, &value);
        options->follow = (int)value;
        return good;
    case LOCK_WAIT:
        good = number("lock-wait", optarg, 0, 60000, &value);
        options->lock_wait_ms = (int)value;
        return good;
    case TIMEOUT:
        good = number("timeout", optarg, 1, 3600, &value);
        options->timeout_ms = (int)value * 1000;
        return good;
    case OVERWRITE: options->overwrite = true; return true;
    case 'n': options->dry_run = true; return true;
    case 'v': options->verbose = true; return true;
    default: return false;
    }
}

static bool arguments(import_options_t *options, char **argument)
{
    bool php = strcmp(argument[0], "php") == 0;
    const char *wrong;

    if (!php && strcmp(argument[0], "sharedance") != 0) {
        fprintf(stderr, "sessiond-import: %s: what can be imported is \"sharedance\" or \"php\"\n", argument[0]);
        return false;
    }
    wrong = import_source_set(&options->source, php ? IMPORT_FROM_PHP : IMPORT_FROM_SHAREDANCE, argument[1]);
    if (wrong) {
        fprintf(stderr, "sessiond-import: %s: %s\n", argument[1], wrong);
        return false;
    }
    wrong = import_address_set(&options->server, argument[2]);
    if (wrong) {
        fprintf(stderr, "sessiond-import: %s: %s\n", argument[2], wrong);
        return false;
    }
    if (options->expiration == 0)
        options->expiration = php ? PHP_EXPIRATION : SHAREDANCE_EXPIRATION;
    if (options->follow && (options->overwrite || options->dry_run)) {
        fprintf(stderr, "sessiond-import: --follow goes with neither --overwrite nor --dry-run\n");
        return false;
    }
    return true;
}

bool import_options_parse(import_options_t *options, int argc, char **argv, int *status)
{
    int letter;

    memset(options, 0, sizeof *options);
    options->prefix = "";
    options->lock_wait_ms = 500;
    options->timeout_ms = 30 * 1000;
    *status = 2;
    while ((letter = getopt_long(argc, argv, "e:p:s:f:nvhV", long_options, NULL)) != -1) {
        if (letter == 'h' || letter == 'V') {
            fputs(letter == 'h' ? usage : "sessiond-import, of mod_sessiond " SD_VERSION "\n", stdout);
            *status = 0;
            return false;
        }
        if (!take(options, letter)) {
            if (letter == '?')
                fprintf(stderr, "Try --help.\n");
            return false;
        }
    }
    if (argc - optind != 3) {
        fputs(usage, stderr);
        return false;
    }
    return arguments(options, argv + optind);
}
