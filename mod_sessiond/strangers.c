/* SPDX-License-Identifier: Apache-2.0
 *
 * strangers.c: the memory behind strangers.h: a ring of the last addresses. An
 * address whose minute is not over keeps its place; when all places are kept,
 * further strangers are counted but not logged.
 */
#include <string.h>

#include "address.h"
#include "log.h"
#include "strangers.h"

#define QUIET_MS 60000u

void sd_strangers_setup(sd_strangers_t *s)
{
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
}

/* May this one be logged? Notes that it was. Under the lock. */
static bool is_news(sd_strangers_t *s, const char *name, uint64_t now)
{
    sd_stranger_t *one = NULL;
    int i;

    for (i = 0; i < SD_STRANGERS_KEPT && !one; i++)
        if (s->kept[i].until != 0 && strcmp(s->kept[i].name, name) == 0)
            one = &s->kept[i];
    if (!one)
        one = &s->kept[s->next];
    if (one->until > now)
        return false;
    if (one == &s->kept[s->next])
        s->next = (s->next + 1) % SD_STRANGERS_KEPT;
    memcpy(one->name, name, SD_STRANGER_NAME);
    one->until = now + QUIET_MS;
    return true;
}

void sd_strangers_log(sd_strangers_t *s, const struct sockaddr_storage *peer, uint64_t now)
{
    char name[SD_STRANGER_NAME] = "";
    bool news;

    sd_address_print(peer, name, sizeof name);
    pthread_mutex_lock(&s->lock);
    news = is_news(s, name, now);
    pthread_mutex_unlock(&s->lock);
    if (news)
        sd_log(WARNING, 0, "refused a connection from %s: not in SessiondAllow", name);
}
