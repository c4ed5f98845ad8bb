/* SPDX-License-Identifier: Apache-2.0
 *
 * lock_report.c: who holds a lock may end at any moment in another thread, so his
 * address is asked for under the lock's mutex, and only for the few that are shown.
 */
#include <string.h>
#include <sys/socket.h>

#include <apr_strings.h>

#include "connection.h"
#include "lock_report.h"

/* A session id is as good as a password: four bytes of it do to tell two apart. */
static void mask(char out[sizeof(((sd_board_lock_t *)0)->key)], const sd_lock_report_t *lock)
{
    char head[5] = "";
    uint32_t i, shown = lock->key_len >= 16 ? 4 : 0;

    for (i = 0; i < shown; i++)
        head[i] = lock->key[i] > 32 && lock->key[i] < 127 ? (char)lock->key[i] : '?';
    apr_snprintf(out, sizeof(((sd_board_lock_t *)0)->key), "%s... (%u bytes)", head, lock->key_len);
}

static void find_address(sd_lock_owner_t *owner, void *data)
{
    const sd_connection_t *c = sd_connection_of_owner(owner);
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;

    peer.ss_family = AF_UNSPEC;
    if (c->transport == &sd_transport_unix)
        apr_cpystrn(data, "a Unix socket", sizeof(((sd_board_lock_t *)0)->holder));
    else if (getpeername(c->fd, (struct sockaddr *)(void *)&peer, &size) == 0)
        sd_address_print(&peer, data, sizeof(((sd_board_lock_t *)0)->holder));
}

void sd_lock_report(sd_server_t *server)
{
    sd_lock_report_t found[SD_BOARD_LOCKS];
    sd_board_lock_t shown[SD_BOARD_LOCKS];
    uint32_t n = sd_locks_report(server->locks, found, SD_BOARD_LOCKS), i;
    uint64_t longest = sd_locks_longest_wait(server->locks);

    memset(shown, 0, sizeof shown);
    for (i = 0; i < n; i++) {
        sd_lock_key_t key = { found[i].key, found[i].key_len, found[i].hash };

        shown[i].since = found[i].since;
        shown[i].oldest = found[i].oldest;
        shown[i].waiting = found[i].waiting;
        mask(shown[i].key, &found[i]);
        (void)sd_locks_look_at_holder(server->locks, &key, find_address, shown[i].holder);
    }
    if (n > 0 || atomic_load(&server->board->locks) > 0)
        sd_board_locks_set(server->board, shown, n);
    if (longest > atomic_load(&server->board->longest_lock_wait))
        atomic_store(&server->board->longest_lock_wait, longest);
}
