/* SPDX-License-Identifier: Apache-2.0
 *
 * parcel.c: see the header. A packet that is not what it says ends early. What is
 * left over is closed: in a reset where it is TCP, since it was set so for the
 * journey (handover.h).
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "connection_handover.h"
#include "parcel.h"
#include "protocol/bytes.h"

struct sd_parcel {
    sd_parcel_t *next;
    uint32_t count;          /* states in it, and descriptors */
    size_t len;
    int fd[SD_CHANNEL_FDS];  /* -1 = given away */
    uint8_t bytes[];         /* { length(4) state } ... */
};

static void close_all(const int *fds, uint32_t count)
{
    uint32_t i;

    for (i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

bool sd_parcels_keep(sd_parcels_t *parcels, const uint8_t *bytes, size_t len, uint32_t count, const int *fds,
                     uint32_t fd_count)
{
    sd_parcel_t *p = NULL;

    if (count == fd_count && count > 0)
        p = malloc(sizeof *p + len);
    if (!p) {
        close_all(fds, fd_count);
        return false;
    }
    p->next = NULL;
    p->count = count;
    p->len = len;
    memcpy(p->fd, fds, sizeof *fds * fd_count);
    memcpy(p->bytes, bytes, len);
    if (parcels->last)
        parcels->last->next = p;
    else
        parcels->first = p;
    parcels->last = p;
    parcels->connections += count;
    return true;
}

static void drop_first(sd_parcels_t *parcels)
{
    sd_parcel_t *p = parcels->first;

    parcels->first = p->next;
    close_all(p->fd, p->count);
    free(p);
}

void sd_parcels_forget(sd_parcels_t *parcels)
{
    while (parcels->first)
        drop_first(parcels);
    parcels->last = NULL;
    parcels->connections = 0;
}

void sd_parcels_move(sd_parcels_t *to, sd_parcels_t *from)
{
    if (!from->first)
        return;
    if (to->last)
        to->last->next = from->first;
    else
        to->first = from->first;
    to->last = from->last;
    to->connections += from->connections;
    memset(from, 0, sizeof *from);
}

/* The state number i, which begins at *at. False: there is none. */
static bool next_state(const sd_parcel_t *p, uint32_t i, size_t *at, const uint8_t **state, size_t *len)
{
    if (i >= p->count || p->len - *at < 4)
        return false;
    *len = sd_get32(p->bytes + *at);
    *at += 4;
    if (*len > p->len - *at)
        return false;
    *state = p->bytes + *at;
    *at += *len;
    return true;
}

bool sd_parcels_are_readable(const sd_parcels_t *parcels)
{
    const sd_parcel_t *p;
    uint32_t n = 0;

    for (p = parcels->first; p; p = p->next) {
        const uint8_t *bytes;
        size_t at = 0, len;
        uint32_t i;

        for (i = 0; next_state(p, i, &at, &bytes, &len); i++) {
            sd_handed_t state;

            if (!sd_handed_unpack(bytes, len, &state))
                return false;
            n++;
        }
    }
    return n == parcels->connections;
}

static bool deal_one(sd_loop_t *loop, int fd, const uint8_t *bytes, size_t len)
{
    sd_handed_t state;

    if (sd_handed_unpack(bytes, len, &state))
        return sd_connection_adopt(loop, fd, &state);
    sd_count(loop->counters, handover_lost);
    close(fd);
    return false;
}

uint32_t sd_parcels_deal(sd_parcels_t *parcels, sd_server_t *server)
{
    uint32_t n = 0, live = 0;

    while (parcels->first) {
        sd_parcel_t *p = parcels->first;
        const uint8_t *bytes;
        size_t at = 0, len;
        uint32_t i;

        for (i = 0; next_state(p, i, &at, &bytes, &len); i++) {
            live += deal_one(server->loop[n++ % server->loops], p->fd[i], bytes, len);
            p->fd[i] = -1;
        }
        drop_first(parcels); /* at once: all connections' input would stand in memory twice */
    }
    sd_count_add(server->loop[0]->counters, handover_lost, parcels->connections - n);
    sd_parcels_forget(parcels);
    sd_locks_settle(server->locks, sd_clock_ms(), server->loop[0]->counters);
    return live;
}
