/* SPDX-License-Identifier: Apache-2.0
 *
 * loop.c: the event loop of one thread: accept, readiness, deadlines, letters
 * from other threads, and the drain at the end. What is hard: without a free
 * descriptor accept fails while the listener stays ready, so accepting pauses
 * instead of spinning; and the parent holds the listening sockets too, so they
 * must leave the poller before they are closed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "commit.h"
#include "connection.h"
#include "log.h"
#include "loop.h"
#include "syscalls.h"

#define EVENTS 256
#define GRANTS 64 /* of locks, in one go */
#define ACCEPTS_AT_ONCE 64
#define ACCEPT_PAUSE_MS 100u
#define IDLE_WAIT_MS 1000

/* ---- letters ---- */

bool sd_loop_post(sd_loop_t *loop, void (*call)(sd_loop_t *loop, void *what), void *what)
{
    sd_letter_t *letter = malloc(sizeof *letter);
    uint64_t one = 1;

    if (!letter)
        return false;
    letter->call = call;
    letter->what = what;
    pthread_mutex_lock(&loop->mailbox_lock);
    letter->next = loop->mailbox;
    loop->mailbox = letter;
    pthread_mutex_unlock(&loop->mailbox_lock);
    while (write(loop->mailbox_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
    return true;
}

static void read_mailbox(sd_loop_t *loop)
{
    sd_letter_t *letter, *next, *in_order = NULL;
    uint64_t ignored;

    while (read(loop->mailbox_fd, &ignored, sizeof ignored) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&loop->mailbox_lock);
    letter = loop->mailbox;
    loop->mailbox = NULL;
    pthread_mutex_unlock(&loop->mailbox_lock);
    for (; letter; letter = next) {
        next = letter->next;
        letter->next = in_order;
        in_order = letter;
    }
    for (letter = in_order; letter; letter = next) {
        next = letter->next;
        letter->call(loop, letter->what);
        free(letter);
    }
}

/* ---- accepting ---- */

static void poll_listeners(sd_loop_t *loop, bool yes)
{
    int i;

    for (i = 0; i < loop->listeners; i++) {
        sd_loop_listener_t *l = &loop->listener[i];

        if (l->fd < 0 || l->polled == yes)
            continue;
        if (yes)
            l->polled = sd_poller_add(loop->poller, l->fd, SD_POLL_READ | SD_POLL_SHARED, l) == 0;
        else {
            sd_poller_remove(loop->poller, l->fd);
            l->polled = false;
        }
    }
}

static void pause_accepting(sd_loop_t *loop, int err)
{
    if (err != EINVAL) { /* which says that the socket has been shut down: httpd has ended */
        atomic_store_explicit(&loop->server->accept_error, err, memory_order_relaxed);
        sd_count(loop->counters, accept_errors);
    }
    poll_listeners(loop, false);
    loop->accept_again = loop->exec.now + ACCEPT_PAUSE_MS;
}

static void refuse(int fd, const sd_transport_t *transport)
{
    transport->end_is_reset(fd, true);
    transport->close(fd);
}

/* True: there may be more. */
static bool accept_some(sd_loop_t *loop, sd_loop_listener_t *l)
{
    int i;

    for (i = 0; i < ACCEPTS_AT_ONCE && !atomic_load(&loop->server->closing); i++) {
        struct sockaddr_storage peer;
        socklen_t size = sizeof peer;
        int fd;

        peer.ss_family = AF_UNSPEC;
        fd = sd_sys_accept(l->fd, (struct sockaddr *)(void *)&peer, &size,
                           SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == ECONNABORTED || errno == EINTR || errno == EPERM || errno == EPROTO)
                continue; /* that one is gone, or a firewall wants none of it */
            if (errno != EAGAIN && !(errno == EINVAL && l->retiring)) /* shut down already */
                pause_accepting(loop, errno);
            return false;
        }
        if (l->transport == &sd_transport_tcp
            && !sd_allow_peer(&loop->server->config->allow, &peer, fd)) {
            sd_count(loop->counters, refused_address);
            sd_strangers_log(&loop->server->strangers, &peer, loop->exec.now);
            refuse(fd, l->transport);
            continue;
        }
        if (atomic_load_explicit(&loop->server->connections, memory_order_relaxed)
            >= loop->server->config->max_connections) {
            sd_count(loop->counters, refused_limit);
            refuse(fd, l->transport);
            continue;
        }
        sd_count(loop->counters, connections_accepted);
        sd_connection_open(loop, fd, l->transport);
    }
    return i == ACCEPTS_AT_ONCE;
}

/* Sockets that the configuration no longer has: what waits in their queues is
 * served, then they are shut down for all who still hold them. One loop does
 * it for all. */
static void close_retiring(sd_loop_t *loop)
{
    int i;

    for (i = 0; i < loop->listeners; i++) {
        sd_loop_listener_t *l = &loop->listener[i];
        uint32_t rounds;

        if (!l->retiring)
            continue;
        for (rounds = 0; rounds < 1024 && loop->number == 0 && accept_some(loop, l); rounds++)
            ;
        if (loop->number == 0)
            (void)shutdown(l->fd, SHUT_RDWR);
        l->fd = -1;
    }
}

/* ---- the end ---- */

void sd_loop_drain(sd_loop_t *loop, void *what)
{
    sd_connection_t *c, *next;

    if (loop->draining)
        return;
    loop->draining = true;
    loop->drain_until = *(uint64_t *)what;
    loop->accept_again = 0;
    poll_listeners(loop, false);
    for (c = loop->connections; c; c = next) {
        next = c->next;
        sd_connection_drain(loop, c);
    }
}

static void drain_step(sd_loop_t *loop)
{
    if (loop->open > 0 && loop->exec.now < loop->drain_until)
        return;
    while (loop->connections) {
        sd_count(loop->counters, drained);
        sd_connection_reset(loop, loop->connections);
    }
    loop->stopped = true;
}

/* ---- turning ---- */

static int wait_ms(const sd_loop_t *loop)
{
    int wait = loop->wheel.count > 0 ? SD_TIMER_TICK : IDLE_WAIT_MS,
        pressure = sd_pressure_wait_ms(loop);

    if (sd_lock_mailbox_has_some(&loop->granted))
        return 0;
    if (loop->draining)
        wait = 20;
    else if (loop->accept_again)
        wait = ACCEPT_PAUSE_MS / 2;
    return pressure >= 0 && pressure < wait ? pressure : wait;
}

/* Another thread has granted locks to connections of ours; our own turn looks for
 * itself. */
static void wake(void *data)
{
    sd_loop_t *loop = data;
    uint64_t one = 1;

    if (loop->started && pthread_equal(pthread_self(), loop->thread))
        return;
    while (write(loop->mailbox_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* Each may pass a lock on to another connection of ours, and so on without end: what
 * is left has its turn in the next one, which does not wait then. */
static void take_grants(sd_loop_t *loop)
{
    sd_lock_owner_t *owner;
    uint32_t n;

    for (n = 0; n < GRANTS && sd_lock_mailbox_has_some(&loop->granted)
                && (owner = sd_locks_next_granted(&loop->granted)); n++)
        sd_connection_granted(loop, sd_connection_of_owner(owner));
}

static void turn(sd_loop_t *loop)
{
    sd_poll_event_t events[EVENTS];
    sd_timer_t *timer;
    bool letters = false;
    uint64_t began;
    int n = sd_poller_wait(loop->poller, wait_ms(loop), events, EVENTS), i;

    began = sd_clock_us();
    loop->exec.now = began / 1000;
    atomic_store_explicit(&loop->beat, loop->exec.now, memory_order_relaxed);
    for (i = 0; i < n; i++) {
        switch (*(sd_source_t *)events[i].owner) {
        case SD_SOURCE_LISTENER:
            (void)accept_some(loop, events[i].owner);
            break;
        case SD_SOURCE_CONNECTION:
            sd_connection_ready(loop, events[i].owner, events[i].readable, events[i].writable);
            break;
        case SD_SOURCE_MAILBOX:
            letters = true; /* after the others: a letter may end connections */
            break;
        }
    }
    while ((timer = sd_timer_expire(&loop->wheel, loop->exec.now)))
        sd_connection_timeout(loop, sd_connection_of_timer(timer));
    if (letters)
        read_mailbox(loop);
    take_grants(loop);
    sd_pressure_turn(loop); /* after the events: it may end any connection */
    if (loop->accept_again && loop->exec.now >= loop->accept_again && !loop->draining) {
        loop->accept_again = 0;
        poll_listeners(loop, true);
    }
    take_grants(loop); /* what this turn's own ends have passed on: nobody wakes us for it */
    if (loop->draining)
        drain_step(loop);
    sd_commit_turn(loop);
    if (n > 0)
        sd_count_add(loop->counters, busy_us, sd_clock_us() - began);
}

/* What was taken over may have come complete in the old process's memory, and
 * then nothing more would wake it. */
static void wake_taken_over(sd_loop_t *loop)
{
    sd_connection_t *c, *next;

    for (c = loop->connections; c; c = next) {
        next = c->next;
        if (c->awake)
            sd_connection_resume(loop, c);
    }
}

static void *run(void *data)
{
    sd_loop_t *loop = data;

    sd_server_wait_for_go(loop->server);
    loop->exec.now = sd_clock_ms();
    wake_taken_over(loop);
    close_retiring(loop);
    poll_listeners(loop, true);
    while (!loop->stopped)
        turn(loop);
    return NULL;
}

/* ---- create, start, destroy ---- */

sd_loop_t *sd_loop_create(sd_server_t *server, uint32_t number)
{
    sd_loop_t *loop = calloc(1, sizeof *loop);
    int i;

    if (!loop)
        return NULL;
    loop->mailbox_source = SD_SOURCE_MAILBOX;
    sd_pressure_setup(loop);
    sd_lock_mailbox_setup(&loop->granted, wake, loop);
    loop->server = server;
    loop->number = number;
    loop->mailbox_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->poller = sd_poller_create();
    pthread_mutex_init(&loop->mailbox_lock, NULL);
    if (loop->mailbox_fd < 0 || !loop->poller
        || sd_poller_add(loop->poller, loop->mailbox_fd, SD_POLL_READ, loop) != 0) {
        int err = errno;

        sd_loop_destroy(&loop);
        errno = err;
        return NULL;
    }
    for (i = 0; i < SD_LISTENERS_MAX; i++) {
        const sd_listener_t *from = &server->listeners->listener[i];
        sd_loop_listener_t *to = &loop->listener[loop->listeners];

        if (from->fd < 0)
            continue;
        to->source = SD_SOURCE_LISTENER;
        to->fd = from->fd;
        to->transport = from->is_unix ? &sd_transport_unix : &sd_transport_tcp;
        to->retiring = from->retiring;
        loop->listeners++;
    }
    return loop;
}

void sd_loop_destroy(sd_loop_t **loop)
{
    sd_loop_t *l = *loop;
    sd_connection_t *c;
    sd_letter_t *letter;

    if (!l)
        return;
    *loop = NULL;
    while ((c = l->spare)) {
        l->spare = c->next;
        free(c);
    }
    while ((letter = l->mailbox)) {
        l->mailbox = letter->next;
        free(letter);
    }
    sd_poller_destroy(&l->poller);
    if (l->mailbox_fd >= 0)
        close(l->mailbox_fd);
    sd_lock_mailbox_teardown(&l->granted);
    pthread_mutex_destroy(&l->mailbox_lock);
    free(l);
}

void sd_loop_prepare(sd_loop_t *loop)
{
    uint64_t now = sd_clock_ms();

    loop->lane = sd_store_lane(loop->server->store, loop->number + 1);
    loop->counters = sd_lane_counters(loop->lane);
    loop->exec.lane = loop->lane;
    loop->exec.counters = loop->counters;
    loop->exec.limits = &loop->server->limits;
    loop->exec.locks = loop->server->locks;
    loop->exec.mailbox = &loop->granted;
    loop->exec.now = now;
    sd_timer_wheel_setup(&loop->wheel, now);
    atomic_store(&loop->beat, now);
}

int sd_loop_start(sd_loop_t *loop)
{
    int err;

    err = pthread_create(&loop->thread, NULL, run, loop);
    loop->started = err == 0;
    return err;
}
