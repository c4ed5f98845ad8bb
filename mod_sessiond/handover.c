/* SPDX-License-Identifier: Apache-2.0
 *
 * handover.c: the old process's side of a hand-over. What is hard: until the
 * other side has said that it has everything, this process must be able to go
 * on as if nothing had happened; so the threads only stand still, and states
 * are read, not taken.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection_handover.h"
#include "halt.h"
#include "handover.h"
#include "log.h"
#include "loop.h"
#include "protocol/bytes.h"

/* ---- sending ---- */

typedef struct parcel {
    int channel;
    uint8_t *bytes; /* SD_HANDOVER_PACKET of them, */
    size_t room;    /* of which so many go into a packet */
    size_t used;
    int fd[SD_HANDOVER_BATCH];
    uint32_t count; /* connections in it */
    uint32_t given; /* ... and in those that have been sent */
    uint64_t sent;  /* us: when all were */
} parcel_t;

static bool say(int channel, uint32_t kind, uint32_t number, const uint8_t *more, size_t len)
{
    uint8_t bytes[SD_HANDOVER_HEAD + 24];

    sd_put32(bytes, kind);
    sd_put32(bytes + 4, number);
    if (len > 0)
        memcpy(bytes + SD_HANDOVER_HEAD, more, len);
    return sd_channel_send(channel, bytes, SD_HANDOVER_HEAD + len, NULL, 0, SD_HANDOVER_WAIT_MS);
}

static bool flush(parcel_t *p)
{
    if (p->count == 0)
        return true;
    sd_put32(p->bytes, SD_HANDOVER_STATES);
    sd_put32(p->bytes + 4, p->count);
    if (!sd_channel_send(p->channel, p->bytes, p->used, p->fd, p->count, SD_HANDOVER_WAIT_MS))
        return false;
    p->given += p->count;
    p->count = 0;
    p->used = SD_HANDOVER_HEAD;
    return true;
}

static bool pack(parcel_t *p, sd_loop_t *loop, sd_connection_t *c)
{
    sd_handed_t state;
    size_t len;

    sd_connection_save(loop, c, &state);
    if (p->room < p->used + 4)
        return false;
    if ((p->count == SD_HANDOVER_BATCH
         || p->room - p->used
                < 4 + SD_HANDED_BYTES + state.claims * SD_HANDED_CLAIM_BYTES + state.input_len)
        && !flush(p))
        return false;
    len = sd_handed_pack(&state, p->bytes + p->used + 4, p->room - p->used - 4);
    if (len == 0)
        return false;
    sd_put32(p->bytes + p->used, (uint32_t)len);
    p->used += 4 + len;
    p->fd[p->count++] = c->fd;
    return true;
}

static bool pack_all(parcel_t *p, sd_server_t *server)
{
    sd_connection_t *c;
    uint32_t i;

    for (i = 0; i < server->loops; i++)
        for (c = server->loop[i]->connections; c; c = c->next)
            if (!pack(p, server->loop[i], c))
                return false;
    return flush(p);
}

/* The end of a connection that is under way is a reset, whoever dies; or, if
 * the hand-over comes to nothing, what it was. */
static void end_in_reset(sd_server_t *server, bool yes)
{
    sd_connection_t *c;
    uint32_t i;

    for (i = 0; i < server->loops; i++)
        for (c = server->loop[i]->connections; c; c = c->next)
            if (!c->reset_set)
                c->transport->end_is_reset(c->fd, yes);
}

/* The other side's only word. Its end comes sooner if it dies. */
static bool is_taken(int channel)
{
    struct pollfd p = { .fd = channel, .events = POLLIN };
    uint64_t until = sd_clock_ms() + SD_HANDOVER_WAIT_MS, now;
    uint8_t bytes[SD_HANDOVER_HEAD];

    while ((now = sd_clock_ms()) < until) {
        if (poll(&p, 1, (int)(until - now)) <= 0)
            continue;
        return recv(channel, bytes, sizeof bytes, MSG_DONTWAIT) == (ssize_t)sizeof bytes
               && sd_get32(bytes) == SD_HANDOVER_TAKEN;
    }
    return false;
}

/* All threads stand still. */
static bool give_all(sd_server_t *server, parcel_t *p, uint32_t version)
{
    if (!say(p->channel, SD_HANDOVER_OFFER, version, NULL, 0) || !pack_all(p, server))
        return false;
    p->sent = sd_clock_us();
    return say(p->channel, SD_HANDOVER_ALL, p->given, NULL, 0) && is_taken(p->channel);
}

static void leave_store(sd_server_t *server, int channel, uint64_t since, uint64_t stood, uint64_t sent)
{
    uint8_t times[24];
    bool in_order = sd_store_hand_over(&server->store);

    sd_put64(times, since);
    sd_put64(times + 8, stood);
    sd_put64(times + 16, sent);
    if (!say(channel, SD_HANDOVER_DONE, in_order, times, sizeof times))
        sd_log(WARNING, errno, "could not tell the next session process that it may serve: it waits for our end");
}

/* The other process has them. Ours are closed now, not when this process has given
 * its memory back, which takes its time: until then the other one's close would end
 * nothing. */
static void let_go(sd_server_t *server)
{
    sd_connection_t *c;
    uint32_t i;

    for (i = 0; i < server->loops; i++)
        for (c = server->loop[i]->connections; c; c = c->next)
            close(c->fd);
}

/* httpd's parent looks at us when we end: the next process is to be ready by then. */
static void wait_until_ready(int channel)
{
    struct pollfd p = { .fd = channel, .events = POLLIN };

    (void)poll(&p, 1, (int)SD_HANDOVER_WAIT_MS);
}

/* It goes on; but the other process, if it only hangs, still has the descriptors. */
static void take_back(sd_server_t *server)
{
    sd_connection_t *c;
    uint32_t i;

    end_in_reset(server, false);
    for (i = 0; i < server->loops; i++)
        for (c = server->loop[i]->connections; c; c = c->next)
            c->shared = true;
}

static bool say_at_once(int channel, uint32_t kind)
{
    uint8_t bytes[SD_HANDOVER_HEAD] = { 0 };

    sd_put32(bytes, kind);
    return sd_channel_send(channel, bytes, sizeof bytes, NULL, 0, 0);
}

void sd_handover_put_off(const sd_word_t *word)
{
    (void)say_at_once(word->channel, SD_HANDOVER_WAIT);
}

void sd_handover_refuse(const sd_word_t *word)
{
    (void)say_at_once(word->channel, SD_HANDOVER_VOID);
    close(word->channel);
}

bool sd_handover_give(sd_server_t *server, const sd_word_t *word)
{
    uint32_t version = word->to < SD_HANDOVER_TO ? word->to : SD_HANDOVER_TO;
    parcel_t p = { .channel = word->channel, .used = SD_HANDOVER_HEAD };
    uint64_t since = sd_clock_us(), stood;
    sd_halt_t *halt = NULL;
    bool done = false;

    if (version < word->from || version < SD_HANDOVER_FROM) {
        (void)say(p.channel, SD_HANDOVER_NONE, 0, NULL, 0);
        close(p.channel);
        return false;
    }
    p.bytes = malloc(SD_HANDOVER_PACKET);
    p.room = sd_channel_room(p.channel) < SD_HANDOVER_PACKET ? sd_channel_room(p.channel) : SD_HANDOVER_PACKET;
    if (p.bytes)
        halt = sd_halt_begin(server, SD_HANDOVER_WAIT_MS);
    if (halt) {
        stood = sd_clock_us();
        end_in_reset(server, true);
        done = give_all(server, &p, version);
        if (done) {
            leave_store(server, p.channel, since, stood, p.sent);
            let_go(server);
            wait_until_ready(p.channel);
        }
        else
            take_back(server);
    }
    if (!done) /* if there is no room, the other one finds out by our silence */
        (void)say_at_once(p.channel, SD_HANDOVER_VOID);
    free(p.bytes);
    close(p.channel);
    sd_word_keep_spare(); /* before a client takes its place */
    if (!done)
        sd_log(NOTICE, 0, "handing over to the next session process came to nothing%s: this one goes on",
               halt ? "" : " (a thread hangs, or there is no memory)");
    if (halt && !done)
        sd_halt_end(&halt);
    return done;
}
