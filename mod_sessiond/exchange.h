/* SPDX-License-Identifier: Apache-2.0
 *
 * exchange.h: what is said on a connection: input is read and fed to the
 * conversation, replies are sent, as far as the client, the connection's turn
 * and the memory allow. Each call may end the connection.
 */
#ifndef SD_EXCHANGE_H
#define SD_EXCHANGE_H

#include "connection.h"

/* Reads what there is and answers it, up to the end of this connection's turn. */
void sd_exchange_read(sd_loop_t *loop, sd_connection_t *c);
/* Reads and forgets: the connection has been half-closed. */
void sd_exchange_read_away(sd_loop_t *loop, sd_connection_t *c);
/* The client takes more of a stalled reply. */
void sd_exchange_send_more(sd_loop_t *loop, sd_connection_t *c);
/* What a held reply acknowledges is on disk. */
void sd_exchange_committed(sd_loop_t *loop, sd_connection_t *c);
/* It waits for a lock, and something has come. */
void sd_exchange_overhear(sd_loop_t *loop, sd_connection_t *c);
/* The lock has been granted, or the wait is over by time: answers, and goes on. */
void sd_exchange_wait_ends(sd_loop_t *loop, sd_connection_t *c);
/* Feeds what was kept while nothing could be done with it. True: go on reading;
 * false: the connection is gone, or waits. */
bool sd_exchange_go_on(sd_loop_t *loop, sd_connection_t *c);

#endif
