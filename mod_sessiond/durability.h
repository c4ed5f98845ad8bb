/* SPDX-License-Identifier: Apache-2.0
 *
 * durability.h: SessiondPersist. A thread of its own writes what has changed in
 * the store to disk, in rounds: every SessiondPersistSync seconds, or as soon as
 * somebody waits for it (`always`). The threads that serve never wait for the disk;
 * with `always` they put replies aside until a round is over (commit.h).
 *
 * Trouble with the disk never stops the service: it is said loudly, replies are no
 * longer held, and what changes meanwhile is written when the disk is back.
 *
 * Without SessiondPersist, or without LMDB, there is none: NULL is taken by all
 * calls.
 */
#ifndef SD_DURABILITY_H
#define SD_DURABILITY_H

#include <stdbool.h>
#include <stdint.h>

#include "server.h"

typedef struct sd_durability sd_durability_t;

#ifdef HAVE_LMDB

/* NULL and *failed false: it is not wanted. */
sd_durability_t *sd_durability_create(sd_server_t *server, bool *failed);

/* Before anybody is served, with the store entered: a store that has never served
 * gets what the disk has, which may take seconds; `beat` is called meanwhile.
 * False: it was told to stop, by `beat`. */
bool sd_durability_load(sd_durability_t *d, const sd_start_t *start, bool (*beat)(void *data), void *data);

/* The thread. False: it could not be started; the log says so, and that nothing is
 * written to disk. */
bool sd_durability_start(sd_durability_t *d);

/* The thread is to let go of the store and of the directory, in the middle of a
 * round too. True: it has, within so many ms. Else ask again; and start makes it
 * go on. */
bool sd_durability_stand(sd_durability_t *d, uint64_t ms);

/* The last round, when nobody changes anything any more. True: all is on disk.
 * `beat` is called about once a second. */
bool sd_durability_finish(sd_durability_t *d, void (*beat)(void *data), void *data);

/* From the main thread, about once a second: a disk that hangs says nothing itself. */
void sd_durability_watch(sd_durability_t *d, uint64_t now);

/* ---- from the threads that serve ---- */

/* Are acknowledgements to be held until they are on disk? */
bool sd_durability_holds(const sd_durability_t *d);
/* What has been changed before this call is on disk when the ticket is settled. */
uint64_t sd_durability_ticket(const sd_durability_t *d);
bool sd_durability_is_settled(const sd_durability_t *d, uint64_t ticket);
/* Somebody waits. */
void sd_durability_want(sd_durability_t *d);

#else /* the directive is refused */

static inline sd_durability_t *sd_durability_create(sd_server_t *server, bool *failed)
{
    (void)server;
    *failed = false;
    return NULL;
}
static inline bool sd_durability_load(sd_durability_t *d, const sd_start_t *start, bool (*beat)(void *data), void *data)
{
    (void)d;
    (void)beat;
    (void)data;
    atomic_store(&start->board->durability, SD_DURABILITY_OFF);
    return true;
}
static inline bool sd_durability_start(sd_durability_t *d)
{
    return !d;
}
static inline bool sd_durability_stand(sd_durability_t *d, uint64_t ms)
{
    (void)ms;
    return !d;
}
static inline bool sd_durability_finish(sd_durability_t *d, void (*beat)(void *data), void *data)
{
    (void)beat;
    (void)data;
    return !d;
}
static inline void sd_durability_watch(sd_durability_t *d, uint64_t now)
{
    (void)d;
    (void)now;
}
static inline bool sd_durability_holds(const sd_durability_t *d)
{
    (void)d;
    return false;
}
static inline uint64_t sd_durability_ticket(const sd_durability_t *d)
{
    (void)d;
    return 0;
}
static inline bool sd_durability_is_settled(const sd_durability_t *d, uint64_t ticket)
{
    (void)ticket;
    return !d;
}
static inline void sd_durability_want(sd_durability_t *d)
{
    (void)d;
}

#endif

#endif
