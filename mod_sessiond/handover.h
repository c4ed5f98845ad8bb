/* SPDX-License-Identifier: Apache-2.0
 *
 * handover.h: a session process gives all its live connections to the one that
 * takes its place. What they say to each other, over a socket pair that the new
 * one makes (SOCK_SEQPACKET, one message a packet, numbers big-endian):
 *
 *   new -> old   (over the old one's control socket) ASK: 'h' 0 from(2) to(2), and
 *                the old one's end of the pair. It is ready to serve: all that
 *                can fail has been done
 *   old -> new   NONE                    no version of the state that both know
 *                or OFFER version(2) 0(2) connections(4): all its threads stand still
 *   old -> new   STATES count(4) { length(4) state } ..., with `count` descriptors;
 *                as often as needed
 *   old -> new   ALL connections(4)
 *   new -> old   TAKEN: it has them all. Until then the old one can go on as if
 *                nothing had been asked, and does if the new one ends
 *   old -> new   DONE in_order(4) began(8) stood(8) sent(8), times in us: it has let go of the store and
 *                will touch nothing any more; the new one serves
 *
 * While they are under way the sockets are set to end in a reset: if both
 * processes die, nobody is told "no".
 */
#ifndef SD_HANDOVER_H
#define SD_HANDOVER_H

#include "server.h"

/* The versions of the connections' state that this module understands; the
 * highest that both know is spoken. */
#ifndef SD_HANDOVER_FROM
#define SD_HANDOVER_FROM 1u
#endif
#ifndef SD_HANDOVER_TO
#define SD_HANDOVER_TO 1u
#endif

#define SD_WORD_RESTART 'r' /* what comes over the control socket: httpd restarts, */
#define SD_WORD_HAND_OVER 'h' /* another process asks for the connections, */
#define SD_WORD_FINISH 't'  /* or asks to finish what is under way and to go */

enum { SD_HANDOVER_OFFER = 1, SD_HANDOVER_STATES, SD_HANDOVER_ALL, SD_HANDOVER_TAKEN, SD_HANDOVER_DONE,
       SD_HANDOVER_NONE };

#define SD_HANDOVER_ASK_BYTES 6u
#define SD_HANDOVER_HEAD 8u          /* a packet begins with kind(4) and a number(4) */
#define SD_HANDOVER_PACKET 131072u   /* bytes in a packet at most */
#define SD_HANDOVER_BATCH 64u        /* connections that we put into a packet at most, */
#define SD_HANDOVER_FDS 253u         /* and that one can have: the kernel's limit of descriptors */
#define SD_HANDOVER_WAIT_MS 5000u    /* neither side waits longer for the other to move */

/* ---- the old process ---- */

/* What has come over the control socket with one recv. */
typedef struct sd_word {
    char word;             /* SD_WORD_...; 0 = nothing */
    int channel;           /* HAND_OVER: our end; whoever read it closes it. Else -1 */
    uint32_t from, to;     /* HAND_OVER: versions of the state that the other one knows */
} sd_word_t;

/* Never blocks. */
sd_word_t sd_handover_hear(int control);

/* Gives everything away over word->channel, which is closed. True: the store
 * has been left and this process has nothing to do any more. False: nothing has
 * changed, go on serving. */
bool sd_handover_give(sd_server_t *server, const sd_word_t *word);

#endif
