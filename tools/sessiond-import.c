/* SPDX-License-Identifier: Apache-2.0
 *
 * sessiond-import.c: copies the live sessions of a sharedance directory or of
 * PHP's session files into a running mod_sessiond.
 *
 * It may be run by root over directories that others write to, while a farm
 * works on them: nothing is written there or anywhere else but to the server,
 * no link is followed, and every wait has an end. Running it twice must be
 * harmless, so by default a session is only written where there is none.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/import_pass.h"
#include "tools/import_stop.h"

enum {
    ALL_DONE = 0,
    INCOMPLETE = 1,
    USAGE = 2,
    SERVER_TROUBLE = 3
};

volatile sig_atomic_t import_stop;

static void on_signal(int number)
{
    (void)number;
    import_stop = 1;
}

/* The first one ends it in order, a second one at once. */
static void catch_signals(void)
{
    static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };
    size_t i;

    sigemptyset(&action.sa_mask);
    for (i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        sigaction(numbers[i], &action, NULL);
}

/* Pass after pass until somebody interrupts, which is how it is meant to end. */
static int follow(const import_options_t *options, import_report_t *report, import_pass_t *pass, bool *cut_short)
{
    import_client_t *client = import_pass_client(pass);
    unsigned n = 1;
    int error = 0;

    while (!import_client_trouble(client) && !import_stop) {
        import_report_sum_pass(report, n++);
        if (!import_client_wait(client, options->follow * 1000) || import_stop)
            break;
        import_report_begin_pass(report);
        error = import_pass_run(pass);
        *cut_short = import_stop;
        if (error)
            break;
    }
    return error;
}

static int import(const import_options_t *options, import_report_t *report, import_pass_t *pass)
{
    import_client_t *client = import_pass_client(pass);
    bool cut_short;
    int error = 0;

    if (import_client_connect(client))
        error = import_pass_run(pass);
    if (error) {
        import_report_say(report, "%s: %s", options->source.path, strerror(error));
        return USAGE;
    }
    cut_short = import_stop;
    if (options->follow)
        error = follow(options, report, pass, &cut_short);
    if (error)
        import_report_say(report, "%s: %s", options->source.path, strerror(error));
    for (unsigned n = import_client_pending(client); n > 0; n--)
        import_report_count(report, IMPORT_UNANSWERED, NULL, NULL);
    if (import_client_trouble(client))
        import_report_say(report, "%s", import_client_trouble(client));
    else if (cut_short)
        import_report_say(report, "interrupted: not all files were looked at; run it again for the rest");
    import_report_sum(report);
    if (import_client_trouble(client))
        return SERVER_TROUBLE;
    return cut_short || error || import_report_is_incomplete(report) ? INCOMPLETE : ALL_DONE;
}

int main(int argc, char **argv)
{
    import_options_t options;
    import_report_t *report;
    import_pass_t *pass;
    int status;

    if (!import_options_parse(&options, argc, argv, &status))
        return status;
    catch_signals();
    report = import_report_create(options.dry_run, options.verbose);
    pass = import_pass_create(&options, report);
    if (pass) {
        status = import(&options, report, pass);
    } else {
        import_report_say(report, "no memory");
        status = SERVER_TROUBLE;
    }
    import_pass_destroy(&pass);
    import_report_destroy(&report);
    return status;
}
