/* SPDX-License-Identifier: Apache-2.0
 *
 * parcel.h: connections on their way into this process: packets of states and
 * descriptors, as they came from one earlier process, kept until the store is ours.
 */
#ifndef SD_PARCEL_H
#define SD_PARCEL_H

#include "channel.h"
#include "server.h"

typedef struct sd_parcel sd_parcel_t;

typedef struct sd_parcels {
    sd_parcel_t *first, *last;
    uint32_t connections; /* in them */
} sd_parcels_t;

/* Puts a packet away: `count` states, and as many descriptors, which are taken in
 * any case. False: no memory, or not one descriptor for each. */
bool sd_parcels_keep(sd_parcels_t *parcels, const uint8_t *bytes, size_t len, uint32_t count, const int *fds,
                     uint32_t fd_count);
/* They are worth nothing: whoever sent them goes on with them. */
void sd_parcels_forget(sd_parcels_t *parcels);
/* Moves all of `from` to the end of `to`. */
void sd_parcels_move(sd_parcels_t *to, sd_parcels_t *from);

/* Can every state be read? */
bool sd_parcels_are_readable(const sd_parcels_t *parcels);

/* Deals the connections out over the loops, whose threads have not begun, and
 * forgets the parcels. Returns how many live on. */
uint32_t sd_parcels_deal(sd_parcels_t *parcels, sd_server_t *server);

#endif
