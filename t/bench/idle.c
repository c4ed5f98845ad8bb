/* SPDX-License-Identifier: Apache-2.0
 *
 * idle.c: holds many connections that do nothing, so that a script can look at
 * what each costs the server. It is told what to do by lines on its standard
 * input, and says the same word when it is done: "open" opens them all, "hello"
 * says hello on each and waits for the answers, "count" says how many the server
 * has not ended. At the end of the input all are reset, which leaves no ports
 * in use.
 *
 *   idle -d DIALECT -p PORT -c CONNECTIONS
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dialect.h"
#include "target.h"

static const dialect_t *dialect;
static target_t target;
static int *fds, connections;

static void die(const char *what)
{
    fprintf(stderr, "idle: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void open_all(void)
{
    struct linger reset = { .l_onoff = 1, .l_linger = 0 };
    int i;

    for (i = 0; i < connections; i++) {
        fds[i] = target_dial(&target, true, 0);
        if (fds[i] < 0)
            die("connect");
        setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    }
}

static void greet(int fd)
{
    char out[DIALECT_OVERHEAD], in[DIALECT_OVERHEAD];
    size_t len = dialect->hello(out), have = 0, used;
    reply_t reply;

    if (send(fd, out, len, MSG_NOSIGNAL) != (ssize_t)len)
        die("send");
    do {
        ssize_t n = recv(fd, in + have, sizeof in - have, 0);

        if (n <= 0)
            die("receive");
        have += (size_t)n;
        reply = dialect->greeted(in, have, false, &used);
    } while (reply == REPLY_MORE);
    if (reply != REPLY_DONE || used != have)
        die("hello");
}

/* Those that neither ended nor said anything. */
static int still_open(void)
{
    char byte;
    int i, n = 0;

    for (i = 0; i < connections; i++)
        n += recv(fds[i], &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
    return n;
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    const char *port = NULL;
    char word[64];
    int o, i;

    while ((o = getopt(argc, argv, "d:p:c:")) != -1)
        switch (o) {
        case 'd': dialect = dialect_find(optarg); break;
        case 'p': port = optarg; break;
        case 'c': connections = atoi(optarg); break;
        default: return 2;
        }
    if (!dialect || !dialect->hello || connections < 1 || !target_set(&target, "127.0.0.1", port, NULL))
        return 2;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    fds = calloc((size_t)connections, sizeof *fds);
    if (!fds)
        die("memory");
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(word, sizeof word, stdin)) {
        word[strcspn(word, "\n")] = 0;
        if (strcmp(word, "open") == 0)
            open_all();
        else if (strcmp(word, "hello") == 0)
            for (i = 0; i < connections; i++)
                greet(fds[i]);
        else if (strcmp(word, "count") == 0)
            printf("%d ", still_open());
        printf("%s\n", word);
    }
    return 0;
}
