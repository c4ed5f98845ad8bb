/* SPDX-License-Identifier: Apache-2.0
 *
 * import_known.c: a table with open addressing that is never more than half
 * full: 64 to 128 bytes for each session.
 */
#include <stdbool.h>
#include <stdlib.h>

#include "tools/import_known.h"

struct import_known {
    import_known_entry_t *entries;
    uint64_t size, used; /* size: a power of two */
};

enum { FIRST_SIZE = 1024 };

import_known_t *import_known_create(void)
{
    import_known_t *known = calloc(1, sizeof *known);

    if (!known)
        return NULL;
    known->size = FIRST_SIZE;
    known->entries = calloc(known->size, sizeof *known->entries);
    if (!known->entries)
        import_known_destroy(&known);
    return known;
}

void import_known_destroy(import_known_t **known)
{
    if (*known)
        free((*known)->entries);
    free(*known);
    *known = NULL;
}

/* FNV-1a, and its upper half into the lower, which picks the place. */
uint64_t import_known_hash(const char *key)
{
    uint64_t hash = 14695981039346656037u;

    for (; *key; key++)
        hash = (hash ^ (uint8_t)*key) * 1099511628211u;
    hash ^= hash >> 32;
    return hash ? hash : 1;
}

static import_known_entry_t *place_of(import_known_entry_t *entries, uint64_t size, uint64_t hash)
{
    uint64_t i = hash & (size - 1);

    while (entries[i].hash != 0 && entries[i].hash != hash)
        i = (i + 1) & (size - 1);
    return &entries[i];
}

static bool grow(import_known_t *known)
{
    uint64_t size = known->size * 2, i;
    import_known_entry_t *entries = calloc(size, sizeof *entries);

    if (!entries)
        return false;
    for (i = 0; i < known->size; i++)
        if (known->entries[i].hash)
            *place_of(entries, size, known->entries[i].hash) = known->entries[i];
    free(known->entries);
    known->entries = entries;
    known->size = size;
    return true;
}

import_known_entry_t *import_known_at(import_known_t *known, uint64_t hash)
{
    import_known_entry_t *entry = place_of(known->entries, known->size, hash);

    if (entry->hash)
        return entry;
    if (known->used * 2 >= known->size) {
        if (!grow(known))
            return NULL;
        entry = place_of(known->entries, known->size, hash);
    }
    known->used++;
    entry->hash = hash;
    return entry;
}
