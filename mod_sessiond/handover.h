/* SPDX-License-Identifier: Apache-2.0
 *
 * handover.h: a session process gives all its live connections to the one that
 * takes its place. What they say to each other, over a channel that the new one
 * makes (channel.h); a packet begins with kind(4) and a number(4), big-endian:
 *
 *   new -> old   the word HAND_OVER, with the old one's end of the channel. The new
 *                one is ready to serve: all that can fail has been done
 *   old -> new   NONE     no version of the state that both know: it will not come
 *                WAIT     it cannot just now; ask me by and by
 *                OFFER version: all its threads stand still
 *   old -> new   STATES count { length(4) state } ..., with `count` descriptors; as
 *                often as needed
 *   old -> new   ALL count, over all packets
 *   new -> old   TAKEN    it has them. Until then the old one can go on as if
 *                nothing had been asked, and does if the new one ends or hangs
 *   old -> new   VOID     it goes on: what was sent is worth nothing any more
 *                DONE in_order began(8) stood(8) sent(8), times in us: it has let go
 *                of the store and will touch nothing any more; the new one serves,
 *                and closes the channel when it has told the parent
 *
 * A channel that ends without VOID, NONE or DONE belongs to a process that dies:
 * what has come over it is all that is left of its connections, and is gone on
 * with once the kernel says that it is dead. If it does not say so within a second,
 * the VOID has been lost.
 *
 * While they are under way, TCP connections are set to end in a reset: if both
 * processes die, nobody is told "no".
 */
#ifndef SD_HANDOVER_H
#define SD_HANDOVER_H

#include "channel.h"
#include "server.h"

/* The versions of the connections' state (handover_state.h) that this module
 * understands; the highest that both know is spoken. Whoever raises TO makes
 * sd_handed_pack heed the version that was agreed upon. */
#ifndef SD_HANDOVER_FROM
#define SD_HANDOVER_FROM 1u
#endif
#ifndef SD_HANDOVER_TO
#define SD_HANDOVER_TO 1u
#endif

enum { SD_HANDOVER_OFFER = 1, SD_HANDOVER_STATES, SD_HANDOVER_ALL, SD_HANDOVER_TAKEN, SD_HANDOVER_DONE,
       SD_HANDOVER_NONE, SD_HANDOVER_VOID, SD_HANDOVER_WAIT };

#define SD_HANDOVER_HEAD 8u
#define SD_HANDOVER_PACKET 131072u /* bytes in a packet at most */
#define SD_HANDOVER_BATCH 64u      /* connections that we put into one */

/* The new one waits so long for the next sign of the old one. The old one waits less
 * for its threads, for room in the channel, or for TAKEN: so it has gone on, and
 * heard who else asks, before anybody takes it for hanging. */
#define SD_HANDOVER_PATIENCE_MS 6000u
#define SD_HANDOVER_WAIT_MS 2500u

/* Gives everything away over word->channel, which is closed. True: the store has
 * been left and this process has nothing to do any more. False: nothing has
 * changed, go on serving. */
bool sd_handover_give(sd_server_t *server, const sd_word_t *word);
/* Not now: the other one shall be patient. The channel stays open. */
void sd_handover_put_off(const sd_word_t *word);
/* Not at all: somebody else has asked later. The channel is closed. */
void sd_handover_refuse(const sd_word_t *word);

#endif
