/* SPDX-License-Identifier: Apache-2.0
 *
 * strangers.h: who was refused lately, so that the log tells of each address
 * once a minute and a flood from many addresses does not fill it.
 */
#ifndef SD_STRANGERS_H
#define SD_STRANGERS_H

#include <pthread.h>
#include <stdint.h>
#include <sys/socket.h>

#define SD_STRANGERS_KEPT 64
#define SD_STRANGER_NAME 64

typedef struct sd_stranger {
    char name[SD_STRANGER_NAME]; /* the address */
    uint64_t until;              /* ms: not logged again before; 0 = this place is empty */
} sd_stranger_t;

typedef struct sd_strangers {
    pthread_mutex_t lock;
    sd_stranger_t kept[SD_STRANGERS_KEPT];
    uint32_t next;
} sd_strangers_t;

void sd_strangers_setup(sd_strangers_t *strangers);

/* Logs that this peer was refused, or not. From any thread. */
void sd_strangers_log(sd_strangers_t *strangers, const struct sockaddr_storage *peer, uint64_t now);

#endif
