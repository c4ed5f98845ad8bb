/* SPDX-License-Identifier: Apache-2.0
 *
 * takeover.h: the new process's side of a hand-over (handover.h): asking every
 * earlier session process for its connections, waiting until none of them has
 * the store any more, and going on with what was received.
 */
#ifndef SD_TAKEOVER_H
#define SD_TAKEOVER_H

#include "handover.h"

/* A packet of states, and its descriptors. */
typedef struct sd_parcel {
    struct sd_parcel *next;
    uint32_t count;   /* states in it, and descriptors */
    size_t len;
    int fd[SD_HANDOVER_FDS]; /* -1 = given away */
    uint8_t bytes[];  /* as it came, its head left out */
} sd_parcel_t;

typedef struct sd_takeover {
    sd_parcel_t *first, *last;
    uint32_t connections;  /* in them */
    bool complete;   /* everything is here, and the earlier process has left the store in order */
    uint64_t since;  /* us: nobody has been served since; 0 = not known */
    uint64_t stood, sent; /* us: ... all threads stood still, and all had been sent */
    bool restarting; /* the parent has said meanwhile that httpd restarts */
} sd_takeover_t;

typedef enum {
    SD_TAKEOVER_SERVE,    /* the store is free, and the takeover says what to go on with */
    SD_TAKEOVER_LEAVE     /* somebody else will serve: a SIGTERM came, or a later process asks */
} sd_takeover_end_t;

/* Returns when no earlier process has the store. One that does not move is
 * killed, one that cannot hand over is asked to finish and to go.
 * beat(data) is called at least once a second. */
sd_takeover_end_t sd_takeover_receive(sd_takeover_t *t, const sd_start_t *start, int signals,
                                      void (*beat)(const sd_start_t *start));

/* Everything that the earlier process held in the store is known and can be gone
 * on with. Otherwise the store is to be repaired as after a death. */
bool sd_takeover_is_complete(sd_takeover_t *t);

/* After the store has been attached and before the loops' threads go: deals the
 * connections out over the loops. Returns how many live on. */
uint32_t sd_takeover_deal(sd_takeover_t *t, sd_server_t *server);

#endif
