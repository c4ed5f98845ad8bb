/* SPDX-License-Identifier: Apache-2.0
 *
 * settle.h: what a fork does before it is the session process.
 */
#ifndef SD_SETTLE_H
#define SD_SETTLE_H

#include "server.h"

/* Sets every signal's disposition. Returns a descriptor from which those that we
 * act on are read. */
int sd_settle_signals(void);

/* Takes what is needed and gives up all rights. False: it could not, and has said
 * why in the log. */
bool sd_settle_process(const sd_start_t *start);

#endif
