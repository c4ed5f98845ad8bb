/* SPDX-License-Identifier: Apache-2.0
 *
 * takeover.h: the new process's side of a hand-over (handover.h): asking every
 * earlier session process for its connections, and waiting until none of them has
 * the store any more.
 */
#ifndef SD_TAKEOVER_H
#define SD_TAKEOVER_H

#include "parcel.h"

typedef struct sd_takeover {
    sd_parcels_t parcels;
    bool in_order;         /* everything is here, and the earlier process has left the store in order */
    uint64_t since;        /* us: nobody has been served since; 0 = not known */
    uint64_t stood, sent;  /* us: ... all threads stood still, and all had been sent */
    int channel;           /* to the process that has handed over: its end lets that one go; -1 = none */
    bool restarting;       /* the parent has said meanwhile that httpd restarts, and not yet that we are loaded */
} sd_takeover_t;

typedef enum {
    SD_TAKEOVER_SERVE, /* the store is free, and the takeover says what to go on with */
    SD_TAKEOVER_LEAVE, /* a SIGTERM came, or a later process asks */
    SD_TAKEOVER_FAILED /* it cannot take the connections, and has said why: whoever has them goes on */
} sd_takeover_end_t;

/* *t is zeroed but for `restarting`. One that does not move is killed, one that speaks no state of ours is asked to
 * finish and to go. beat(start) is called about once a second. */
sd_takeover_end_t sd_takeover_receive(sd_takeover_t *t, const sd_start_t *start, int signals,
                                      void (*beat)(const sd_start_t *start));

#endif
