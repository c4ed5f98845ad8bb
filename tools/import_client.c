/* SPDX-License-Identifier: Apache-2.0
 *
 * import_client.c: the window of frames that are sent and not yet answered.
 *
 * Answers come in the order of the frames, so the window is a queue of bytes
 * and one of jobs. When the connection is lost, all that is in it is sent again
 * on the next one. That does no harm: a write that is executed twice finds its
 * own value the second time, and is answered by B.
 *
 * What is hard is the refusal of a value that is too large. The server says E
 * and then ends the connection, and what was sent behind it is not executed;
 * after any other E the connection stays. So an E is kept back until the next
 * answer or the end of the connection says which of the two it was, and when
 * there is nothing else to come, a hello is sent to find out.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/bytes.h"
#include "tools/import_client.h"
#include "tools/import_link.h"
#include "tools/import_replies.h"
#include "tools/import_stop.h"

enum {
    WINDOW = 1024 * 1024,
    JOBS = 1024,
    FLUSH = 32 * 1024,  /* unsent bytes that are worth a system call */
    TRIES = 8,          /* connections in a row that bring no answer: some ten seconds */
    SLICE_MS = 200,     /* so often a wait looks whether it was interrupted */
    LAST_WORDS_MS = 5000,
    EARLY_END_MS = 1500, /* the server closes a second after an E that ends the connection */
    SMALLEST_LIMIT = 1024 /* of SessiondMaxSize */
};

typedef struct job {
    bool probe;
    uint32_t len; /* in the window */
    uint64_t bytes; /* key and value, by which the server measures */
    uint64_t token;
    char name[16];
} job_t;

struct import_client {
    import_link_t link;
    bool ask;
    import_answer_fn *answer;
    void *context;

    uint8_t window[WINDOW];
    size_t begin, sent, end; /* sent may be before begin: an answer that came early */
    job_t jobs[JOBS];
    unsigned first, count;
    import_replies_t replies;
    int send_error;
    unsigned connections;

    const uint8_t *piece; /* of a stream, behind the window */
    size_t piece_left;
    bool streaming, stream_over, stream_lost;

    bool refused; /* an E is kept back */
    job_t refused_job;
    char refused_words[IMPORT_BODY + 1];

    uint64_t too_large; /* 0: nothing was, so far */
    uint64_t newest;    /* version */
    uint64_t moved_ms;
    int losses;
    char trouble[2 * IMPORT_WHY + 200];
};

import_client_t *import_client_create(const import_address_t *address, int timeout_ms, bool ask,
                                      import_answer_fn *answer, void *context)
{
    import_client_t *client = calloc(1, sizeof *client);

    if (!client)
        return NULL;
    client->link.address = address;
    client->link.timeout_ms = timeout_ms;
    client->link.fd = -1;
    client->ask = ask;
    client->answer = answer;
    client->context = context;
    return client;
}

void import_client_destroy(import_client_t **client)
{
    if (*client)
        import_link_close(&(*client)->link);
    free(*client);
    *client = NULL;
}

unsigned import_client_pending(const import_client_t *client)
{
    return client->count;
}

const char *import_client_trouble(const import_client_t *client)
{
    return client->trouble[0] ? client->trouble : NULL;
}

bool import_client_is_too_large(const import_client_t *client, uint64_t bytes)
{
    return bytes > UINT32_MAX || (client->too_large > 0 && bytes >= client->too_large);
}

static void is_open(import_client_t *client)
{
    import_replies_begin(&client->replies);
    client->send_error = 0;
    client->connections++;
    client->moved_ms = import_link_now_ms();
}

bool import_client_connect(import_client_t *client)
{
    if (!import_link_open(&client->link)) {
        if (!import_stop)
            snprintf(client->trouble, sizeof client->trouble, "%s", client->link.why);
        return false;
    }
    is_open(client);
    return true;
}

/* ---- what answers do ---------------------------------------------------- */

static void deliver(import_client_t *client, const job_t *job, import_answer_t answer, uint64_t version,
                    const char *words)
{
    if (!job->probe)
        client->answer(client->context, answer, job->name, job->token, version, words);
}

static void settle_refusal(import_client_t *client, import_answer_t answer)
{
    if (!client->refused)
        return;
    client->refused = false;
    if (answer == IMPORT_E_END && client->refused_job.bytes >= SMALLEST_LIMIT
        && (client->too_large == 0 || client->refused_job.bytes < client->too_large))
        client->too_large = client->refused_job.bytes;
    deliver(client, &client->refused_job, answer, 0, client->refused_words);
}

static job_t pop(import_client_t *client)
{
    job_t job = client->jobs[client->first];

    client->first = (client->first + 1) % JOBS;
    client->count--;
    client->begin += job.len;
    return job;
}

static bool gives_up(import_client_t *client, const char *what, const char *remedy)
{
    snprintf(client->trouble, sizeof client->trouble, "%s: %s; %s", client->link.address->text, what, remedy);
    import_link_close(&client->link);
    return false;
}

/* Versions only grow while a store lives. */
static bool is_same_store(import_client_t *client, uint64_t version)
{
    if (version <= client->newest)
        return gives_up(client, "the server was stopped and started meanwhile, and has lost its sessions",
                        "run this again");
    client->newest = version;
    return true;
}

static bool take_answer(import_client_t *client)
{
    const import_reply_t *reply = &client->replies.reply;
    bool known = client->count > 0;
    uint64_t version = 0;
    job_t job;

    settle_refusal(client, IMPORT_E);
    if (known) {
        job = pop(client);
        if (reply->status == 'E') {
            client->refused = true;
            client->refused_job = job;
            memcpy(client->refused_words, reply->body, sizeof client->refused_words);
        } else if (reply->status == 'K' && !client->ask && reply->len == (job.probe ? reply->len : 8)) {
            version = job.probe ? 0 : sd_get64(reply->body);
            if (!job.probe && !is_same_store(client, version))
                return false;
            deliver(client, &job, IMPORT_K, version, NULL);
        } else if (job.probe ? reply->status == 'K' : client->ask && reply->status == 'N') {
            deliver(client, &job, IMPORT_K, 0, NULL);
        } else if (!job.probe && reply->status == (client->ask ? 'V' : 'B')) {
            deliver(client, &job, IMPORT_B, 0, NULL);
        } else {
            known = false;
        }
    }
    if (!known)
        return gives_up(client, "an answer that belongs to nothing that was asked", "is it a mod_sessiond?");
    client->losses = 0;
    client->stream_over = client->streaming;
    return true;
}

/* ---- the connection, and another one -------------------------------------- */

static void pause_ms(int ms)
{
    if (!import_stop)
        poll(NULL, 0, ms);
}

static bool open_again(import_client_t *client, const char *why)
{
    char lost[64];
    int n;

    snprintf(lost, sizeof lost, "%s", why);
    client->sent = client->begin;
    client->piece_left = 0;
    for (n = 0; !import_link_open(&client->link); n++) {
        if (import_stop)
            return false;
        if (++client->losses > TRIES) {
            snprintf(client->trouble, sizeof client->trouble,
                     "lost the connection to %s (%s), and could not have it back: %s; see that the server runs "
                     "(its error log tells), and run this again", client->link.address->text, lost, client->link.why);
            return false;
        }
        pause_ms(n < 6 ? 50 << n : 3000);
    }
    is_open(client);
    return true;
}

/* The connection is over: in order (0), or by an error. False if there is no other. */
static bool ended(import_client_t *client, int error)
{
    /* A quiet connection may be closed, and so is one after a value that is too large. */
    bool blame = client->count > 0 && !(client->refused && error == 0);

    import_link_close(&client->link);
    settle_refusal(client, error == 0 ? IMPORT_E_END : IMPORT_E);
    if (client->streaming && !client->stream_over) {
        client->stream_lost = true;
        pop(client);
    } else if (client->count == 1 && client->jobs[client->first].probe) {
        pop(client);
    }
    if (blame && ++client->losses > TRIES)
        return gives_up(client, "the connection was lost again and again without an answer",
                        "see its error log, and run this again");
    if (blame)
        pause_ms(client->losses > 1 ? 20 << client->losses : 10);
    return open_again(client, error ? strerror(error) : "it was closed");
}

/* What there is to read. False: see ended(). */
static bool receive(import_client_t *client)
{
    uint8_t in[65536];
    const uint8_t *at = in;
    ssize_t n = recv(client->link.fd, in, sizeof in, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0)
        return ended(client, n == 0 ? client->send_error : errno);
    client->moved_ms = import_link_now_ms();
    while (at < in + n) {
        import_take_t take = import_replies_take(&client->replies, &at, in + n);

        if (take == IMPORT_TAKE_NONSENSE)
            return gives_up(client, "an answer that no mod_sessiond gives", "see what listens there");
        if (take == IMPORT_TAKE_REPLY && !take_answer(client))
            return false;
    }
    return true;
}

static bool transmit(import_client_t *client)
{
    bool from_window = client->sent < client->end;
    const uint8_t *from = from_window ? client->window + client->sent : client->piece;
    size_t left = from_window ? client->end - client->sent : client->piece_left;
    ssize_t n = send(client->link.fd, from, left, MSG_NOSIGNAL | MSG_DONTWAIT);
    int error = errno;

    if (n >= 0) {
        client->moved_ms = import_link_now_ms();
        if (from_window) {
            client->sent += (size_t)n;
        } else {
            client->piece += n;
            client->piece_left -= (size_t)n;
        }
        return true;
    }
    if (error == EAGAIN || error == EINTR)
        return true;
    /* An answer may have come before the end, so receive() deals with it; to
     * that, an end whose error was told here looks like one in order. */
    client->send_error = error;
    return true;
}

/* Sends and receives once, waiting at most so long until either can be done. */
static bool turn(import_client_t *client, int wait_ms)
{
    bool out = client->sent < client->end || client->piece_left > 0;
    struct pollfd ready = { .fd = client->link.fd, .events = (short)(POLLIN | (out ? POLLOUT : 0)) };
    int n;

    if (client->link.fd < 0)
        return false;
    n = poll(&ready, 1, wait_ms);
    if (n < 0)
        return errno == EINTR;
    if (n == 0) {
        if ((client->count > 0 || out)
            && import_link_now_ms() - client->moved_ms > (uint64_t)client->link.timeout_ms)
            return ended(client, ETIMEDOUT);
        return true;
    }
    if ((ready.revents & (POLLIN | POLLHUP | POLLERR)) && !receive(client))
        return false;
    /* receive() may have opened another one, of which nothing is known yet. */
    if ((ready.revents & POLLOUT) && (client->sent < client->end || client->piece_left > 0))
        return transmit(client);
    return true;
}

/* ---- frames ------------------------------------------------------------- */

enum { WRITE_HEAD = 21, GET_HEAD = 5 };

static size_t put_head(const import_client_t *client, uint8_t *at, const import_write_t *write)
{
    size_t prefix = strlen(write->prefix), key = strlen(write->key), head = client->ask ? GET_HEAD : WRITE_HEAD;

    at[0] = client->ask ? 'G' : 'W';
    sd_put32(at + 1, (uint32_t)(prefix + key));
    if (!client->ask) {
        sd_put32(at + 5, write->size);
        sd_put32(at + 9, write->ttl);
        sd_put64(at + 13, write->version);
    }
    memcpy(at + head, write->prefix, prefix);
    memcpy(at + head + prefix, write->key, key);
    return head + prefix + key;
}

/* Waits until a frame of so many bytes and a job fit. */
static bool make_room(import_client_t *client, size_t bytes)
{
    for (;;) {
        size_t low = client->sent < client->begin ? client->sent : client->begin;

        if (client->count < JOBS - 1 && client->end - low + bytes <= WINDOW) {
            if (client->end + bytes > WINDOW) {
                memmove(client->window, client->window + low, client->end - low);
                client->begin -= low;
                client->sent -= low;
                client->end -= low;
            }
            return true;
        }
        if (import_stop || !turn(client, SLICE_MS))
            return false;
    }
}

static void push(import_client_t *client, const import_write_t *write, size_t len)
{
    job_t *job = &client->jobs[(client->first + client->count++) % JOBS];

    if (client->count == 1)
        client->moved_ms = import_link_now_ms();
    memset(job, 0, sizeof *job);
    job->len = (uint32_t)len;
    client->end += len;
    if (!write) {
        job->probe = true;
        return;
    }
    job->bytes = strlen(write->prefix) + strlen(write->key) + write->size;
    job->token = write->token;
    snprintf(job->name, sizeof job->name, "%s", write->name);
}

bool import_client_put(import_client_t *client, const import_write_t *write, const uint8_t *data)
{
    size_t most = WRITE_HEAD + strlen(write->prefix) + strlen(write->key) + write->size, len;

    if (!make_room(client, most))
        return false;
    len = put_head(client, client->window + client->end, write);
    if (!client->ask) {
        memcpy(client->window + client->end + len, data, write->size);
        len += write->size;
    }
    push(client, write, len);
    return client->end - client->sent < FLUSH && client->count % 64 != 0 ? true : turn(client, 0);
}

bool import_client_wait(import_client_t *client, int ms)
{
    uint64_t until = import_link_now_ms() + (uint64_t)ms;

    /* Without anything to send or to come, poll() just waits. */
    do
        if (!turn(client, ms < SLICE_MS ? ms : SLICE_MS))
            return false;
    while (!import_stop && import_link_now_ms() < until);
    return true;
}

static void probe(import_client_t *client)
{
    static const uint8_t hello[] = "P-import-"; /* nobody looks at this nonce */

    memcpy(client->window + client->end, hello, sizeof hello - 1);
    push(client, NULL, sizeof hello - 1);
}

bool import_client_drain(import_client_t *client)
{
    uint64_t until = 0;

    if (client->streaming) /* interrupted within a value: there will be no answer */
        return false;
    while (client->count > 0 || client->refused) {
        if (import_stop && until == 0)
            until = import_link_now_ms() + LAST_WORDS_MS;
        if (until && import_link_now_ms() > until)
            return false;
        if (client->count == 0 && make_room(client, 16))
            probe(client);
        if (!turn(client, SLICE_MS))
            return false;
    }
    return true;
}

/* ---- values that do not fit into the window ------------------------------- */

static import_stream_t stream_state(const import_client_t *client)
{
    return client->stream_lost ? IMPORT_LOST : client->stream_over ? IMPORT_ANSWERED : IMPORT_GOES_ON;
}

static bool start_over(import_client_t *client)
{
    import_link_close(&client->link);
    client->streaming = client->stream_over = client->stream_lost = false;
    client->begin = client->end;
    return open_again(client, "it was given up");
}

import_stream_t import_client_stream_begin(import_client_t *client, const import_write_t *write)
{
    if (!import_client_drain(client) || import_stop || !make_room(client, WRITE_HEAD + 512))
        return IMPORT_FAILED;
    client->streaming = true;
    client->stream_over = client->stream_lost = false;
    push(client, write, put_head(client, client->window + client->end, write));
    return IMPORT_GOES_ON;
}

/* An answer to a frame that is not complete: the connection is of no use. */
static import_stream_t early_end(import_client_t *client)
{
    uint64_t until = import_link_now_ms() + EARLY_END_MS;
    unsigned connections = client->connections;

    client->piece_left = 0;
    while (client->refused && import_link_now_ms() < until)
        if (!turn(client, 50))
            return IMPORT_FAILED;
    settle_refusal(client, IMPORT_E);
    client->streaming = client->stream_over = false;
    if (client->connections != connections)
        return IMPORT_ANSWERED;
    return start_over(client) ? IMPORT_ANSWERED : IMPORT_FAILED;
}

static import_stream_t stream_turns(import_client_t *client, bool for_answer)
{
    import_stream_t state;

    while ((state = stream_state(client)) == IMPORT_GOES_ON && (for_answer || client->piece_left > 0))
        if (import_stop || !turn(client, SLICE_MS))
            return IMPORT_FAILED;
    if (state == IMPORT_LOST)
        client->streaming = false;
    return state;
}

import_stream_t import_client_stream_piece(import_client_t *client, const uint8_t *data, size_t n)
{
    import_stream_t state;

    client->piece = data;
    client->piece_left = n;
    client->moved_ms = import_link_now_ms();
    state = stream_turns(client, false);
    return state == IMPORT_ANSWERED ? early_end(client) : state;
}

import_stream_t import_client_stream_end(import_client_t *client)
{
    import_stream_t state = stream_turns(client, true);

    if (state == IMPORT_ANSWERED)
        client->streaming = client->stream_over = false;
    return state;
}

bool import_client_stream_abandon(import_client_t *client)
{
    if (client->count > 0)
        pop(client);
    return start_over(client);
}
