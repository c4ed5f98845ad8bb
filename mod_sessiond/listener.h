/* SPDX-License-Identifier: Apache-2.0
 *
 * listener.h: the side sockets. They are opened by the parent, before it gives
 * up nothing, kept over restarts, and inherited by each session process.
 *
 * The set lives in memory that outlasts configurations and the module's code,
 * so it holds plain data only.
 */
#ifndef SD_LISTENER_H
#define SD_LISTENER_H

#include <stdbool.h>

#include <httpd.h>

#include "config.h"

#define SD_LISTENER_LABEL 128

typedef struct sd_listener {
    int fd;                        /* -1 = this place is empty */
    bool is_unix;
    uint64_t opened_for;           /* number of the session process that it was opened for; 0 = of the next */
    bool wanted;                   /* the present configuration has it */
    bool retiring;                 /* no longer wanted: its queue is served, then it is shut down */
    char label[SD_LISTENER_LABEL]; /* "127.0.0.1:1042", "[::]:1042" or the path */
} sd_listener_t;

typedef struct sd_listener_set {
    sd_listener_t listener[SD_LISTENERS_MAX];
} sd_listener_set_t;

void sd_listener_set_setup(sd_listener_set_t *set);

/* Makes the set what the configuration says. Sockets that it has already stay
 * open. False: something could not be bound; it has been logged. With
 * `starting`, to the console. Otherwise the sockets that were to go stay, so
 * that a farm whose new address fails keeps its old one. */
bool sd_listener_set_open(sd_listener_set_t *set, const sd_config_t *config, bool starting,
                          apr_pool_t *pool);

/* How many sockets are to be served. */
int sd_listener_set_count(const sd_listener_set_t *set);

/* Parent: the session process has those that retire; let go of them here. */
void sd_listener_set_forget_retiring(sd_listener_set_t *set);
/* Those that no process up to `served` has were opened for process `number`. And:
 * it never came to serve, so those that were opened for it are shut down and closed,
 * and those that were to go stay, if it was the latest. */
void sd_listener_set_opened(sd_listener_set_t *set, uint64_t number, uint64_t served);
void sd_listener_set_close_new(sd_listener_set_t *set, uint64_t number, bool latest);
/* Stops listening on all of them, for every process that holds them. They stay
 * open: threads of this process may still use the numbers. */
void sd_listener_set_shutdown(sd_listener_set_t *set);
/* Closes them in this process; others that hold them go on. */
void sd_listener_set_close(sd_listener_set_t *set);
/* Closes those that somebody has shut down: they never listen again. */
void sd_listener_set_close_dead(sd_listener_set_t *set);

#endif
