/* SPDX-License-Identifier: Apache-2.0
 *
 * import_known.h: what this process has written, so that a later pass can bring
 * a session up to date without overwriting what anybody else wrote: the version
 * that the server gave it, and the date of the file that was read. Keys are not
 * kept, only a hash of each; one that hits another's entry finds a version that
 * the server refuses.
 */
#ifndef SD_IMPORT_KNOWN_H
#define SD_IMPORT_KNOWN_H

#include <stdint.h>

typedef enum import_state {
    IMPORT_UNSENT, /* or refused: its version is what we wrote before, if anything */
    IMPORT_SENT,  /* and not answered yet */
    IMPORT_OURS,  /* at the version, unless somebody has written meanwhile */
    IMPORT_THEIRS /* the server has another one: left alone for good */
} import_state_t;

typedef struct import_known_entry {
    uint64_t hash; /* 0: free */
    uint64_t version, changed_ns;
    uint32_t size;
    uint32_t state;
} import_known_entry_t;

typedef struct import_known import_known_t;

import_known_t *import_known_create(void);
void import_known_destroy(import_known_t **known);

uint64_t import_known_hash(const char *key);

/* The entry of that hash, which is made if there is none; valid until the next
 * call. NULL without memory. */
import_known_entry_t *import_known_at(import_known_t *known, uint64_t hash);

#endif
