/* SPDX-License-Identifier: Apache-2.0
 *
 * channel.h: packets with descriptors between session processes, over a socket
 * pair of SOCK_SEQPACKET; and the few words that come over a session process's
 * control socket, from its parent and from later session processes.
 */
#ifndef SD_CHANNEL_H
#define SD_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SD_CHANNEL_FDS 253u /* descriptors in a packet: the kernel's limit */

/* Sends one packet; waits up to `wait_ms` for room. False: an errno says why. */
bool sd_channel_send(int fd, const void *bytes, size_t len, const int *fds, uint32_t count, uint32_t wait_ms);

/* Bytes that a packet over this socket can have. */
size_t sd_channel_room(int fd);

/* Takes one packet, at most `room` bytes and SD_CHANNEL_FDS descriptors; never
 * waits. Bytes, 0 = the other end is closed, -1 and an errno; *whole says that
 * nothing of it was cut off. */
ssize_t sd_channel_receive(int fd, void *bytes, size_t room, int fds[SD_CHANNEL_FDS], uint32_t *count, bool *whole);

/* ---- words ---- */

#define SD_WORD_RESTART 'r'   /* parent: httpd restarts, and may not load us again */
#define SD_WORD_LOADED 'k'    /* parent: it has */
#define SD_WORD_HAND_OVER 'h' /* a later process asks for the connections */
#define SD_WORD_FINISH 't'    /* ... or to finish what is under way and to go */

typedef struct sd_word {
    char word;         /* SD_WORD_...; 0 = nothing came */
    int channel;       /* HAND_OVER: our end of a socket pair; whoever read it closes it. Else -1 */
    uint32_t from, to; /* HAND_OVER: versions of the connections' state that the other one knows */
} sd_word_t;

/* Sends a word without a channel. It may be lost if the other one does not read. */
void sd_word_send(int control, char word);
/* Asks for a hand-over. Returns our end of the channel, or -1 and an errno. */
int sd_word_ask(int control, uint32_t from, uint32_t to);
/* Keeps a descriptor back, so that there is one for the channel when clients have taken
 * all others; sd_word_hear keeps it from then on. */
void sd_word_keep_spare(void);
/* Reads one; never waits. */
sd_word_t sd_word_hear(int control);

#endif
