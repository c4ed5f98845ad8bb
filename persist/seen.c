/* SPDX-License-Identifier: Apache-2.0
 *
 * seen.c: two hash tables with open addressing: `decided` for keys about which
 * nothing older can say anything more, and `noted` for those of which so far only
 * an EXPIRY or a REMOVED was seen. A key that gets decided stays in `noted`, too,
 * where nobody looks for it any more.
 */
#include "persist/seen.h"

#include <stdlib.h>
#include <string.h>

#include <apr_siphash.h>

enum { SLOTS_FIRST = 4096 };

typedef struct name {
    uint64_t a, b; /* both 0: an empty slot */
} name_t;

typedef struct note {
    name_t name;
    uint64_t version;
    uint64_t expiry; /* NOTE_REMOVED: a removal */
} note_t;

#define NOTE_REMOVED UINT64_MAX

typedef struct table {
    unsigned char *slots;
    size_t slot_bytes; /* each begins with its name */
    size_t mask;       /* slots less 1 */
    size_t used;
} table_t;

struct sd_seen {
    table_t decided;
    table_t noted;
    unsigned char key_a[APR_SIPHASH_KSIZE], key_b[APR_SIPHASH_KSIZE];
};

static bool table_setup(table_t *t, size_t slot_bytes)
{
    t->slot_bytes = slot_bytes;
    t->mask = SLOTS_FIRST - 1;
    t->used = 0;
    t->slots = calloc(SLOTS_FIRST, slot_bytes);
    return t->slots != NULL;
}

/* The slot of this name, or the empty one where it belongs. */
static name_t *table_at(const table_t *t, name_t name)
{
    size_t i = (size_t)name.a & t->mask;

    for (;;) {
        name_t *slot = (name_t *)(void *)(t->slots + i * t->slot_bytes);

        if ((slot->a == name.a && slot->b == name.b) || (slot->a == 0 && slot->b == 0))
            return slot;
        i = (i + 1) & t->mask;
    }
}

static bool is_empty(const name_t *slot)
{
    return slot->a == 0 && slot->b == 0;
}

/* Room for one more. Pointers into the table are void afterwards. */
static bool table_grow(table_t *t)
{
    table_t larger = *t;
    size_t i;

    if (t->used < (t->mask + 1) / 4 * 3)
        return true;
    larger.mask = 2 * t->mask + 1;
    larger.slots = calloc(larger.mask + 1, t->slot_bytes);
    if (larger.slots == NULL)
        return false;
    for (i = 0; i <= t->mask; i++) {
        const name_t *slot = (const name_t *)(const void *)(t->slots + i * t->slot_bytes);

        if (!is_empty(slot))
            memcpy(table_at(&larger, *slot), slot, t->slot_bytes);
    }
    free(t->slots);
    *t = larger;
    return true;
}

sd_seen_t *sd_seen_create(const unsigned char seed[SD_LOAD_SEED_BYTES])
{
    sd_seen_t *s = calloc(1, sizeof *s);
    size_t i;

    if (s == NULL)
        return NULL;
    for (i = 0; i < APR_SIPHASH_KSIZE; i++) {
        s->key_a[i] = seed[i];
        s->key_b[i] = (unsigned char)(seed[i] ^ 0x5c);
    }
    if (!table_setup(&s->decided, sizeof(name_t)) || !table_setup(&s->noted, sizeof(note_t)))
        sd_seen_destroy(&s);
    return s;
}

void sd_seen_destroy(sd_seen_t **seen)
{
    sd_seen_t *s = *seen;

    *seen = NULL;
    if (s == NULL)
        return;
    free(s->decided.slots);
    free(s->noted.slots);
    free(s);
}

void sd_seen_clear(sd_seen_t *s)
{
    memset(s->decided.slots, 0, (s->decided.mask + 1) * s->decided.slot_bytes);
    memset(s->noted.slots, 0, (s->noted.mask + 1) * s->noted.slot_bytes);
    s->decided.used = s->noted.used = 0;
}

static bool decide(sd_seen_t *s, name_t name)
{
    if (!table_grow(&s->decided))
        return false;
    *table_at(&s->decided, name) = name;
    s->decided.used++;
    return true;
}

/* An EXPIRY or a REMOVED: of two, the later version holds; of one version, a
 * removal, and else the newer, which came first. */
static sd_seen_verdict_t keep_in_mind(sd_seen_t *s, name_t name, const sd_record_t *r)
{
    uint64_t expiry = r->kind == SD_RECORD_REMOVED ? NOTE_REMOVED
                      : r->expiry == NOTE_REMOVED  ? NOTE_REMOVED - 1
                                                   : r->expiry;
    note_t *n;

    if (!table_grow(&s->noted))
        return SD_SEEN_NO_MEMORY;
    n = (note_t *)(void *)table_at(&s->noted, name);
    if (is_empty(&n->name)) {
        n->name = name;
        s->noted.used++;
    }
    else if (r->version < n->version || (r->version == n->version && r->kind != SD_RECORD_REMOVED))
        return SD_SEEN_NOTED;
    n->version = r->version;
    n->expiry = expiry;
    return SD_SEEN_NOTED;
}

sd_seen_verdict_t sd_seen_judge(sd_seen_t *s, const sd_record_t *r, uint64_t wall_ms, uint64_t *expiry)
{
    const note_t *n = NULL;
    uint64_t until = r->expiry;
    name_t name;

    name.a = apr_siphash24(r->key, r->key_len, s->key_a);
    name.b = apr_siphash24(r->key, r->key_len, s->key_b);
    if (is_empty(&name))
        name.a = 1;
    if (!is_empty(table_at(&s->decided, name)))
        return r->kind == SD_RECORD_VALUE ? SD_SEEN_SUPERSEDED : SD_SEEN_NOTED;
    if (r->kind != SD_RECORD_VALUE)
        return keep_in_mind(s, name, r);

    if (s->noted.used > 0)
        n = (const note_t *)(const void *)table_at(&s->noted, name);
    if (n != NULL && !is_empty(&n->name) && n->version >= r->version) {
        if (n->expiry == NOTE_REMOVED)
            return decide(s, name) ? SD_SEEN_REMOVED : SD_SEEN_NO_MEMORY;
        if (n->version > r->version)
            return SD_SEEN_SUPERSEDED; /* and the value that the expiry is about may still come */
        until = n->expiry;
    }
    if (!decide(s, name))
        return SD_SEEN_NO_MEMORY;
    if (until <= wall_ms)
        return SD_SEEN_EXPIRED;
    *expiry = until;
    return SD_SEEN_TAKE;
}
