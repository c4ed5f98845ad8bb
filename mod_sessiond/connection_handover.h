/* SPDX-License-Identifier: Apache-2.0
 *
 * connection_handover.h: a connection's state, read from one and put into
 * another process's. The main thread calls these while the loops' own threads
 * stand still or have not begun.
 */
#ifndef SD_CONNECTION_HANDOVER_H
#define SD_CONNECTION_HANDOVER_H

#include "connection.h"
#include "handover_state.h"

/* Fills in *state, which points into the connection. Nothing changes. */
void sd_connection_save(const sd_loop_t *loop, const sd_connection_t *c, sd_handed_t *state);

/* Goes on with a connection whose state was saved elsewhere. The descriptor
 * belongs to the loop from now on. False: the state cannot be used, or the
 * configuration does not allow the peer any more: it has been reset. */
bool sd_connection_adopt(sd_loop_t *loop, int fd, const sd_handed_t *state);

#endif
