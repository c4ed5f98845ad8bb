/* SPDX-License-Identifier: Apache-2.0
 *
 * persist_fixture.h: what the tests of persist/ share: a directory of their own,
 * a store that is written behind, rounds and loads that assert, and files that are
 * compared and damaged.
 */
#ifndef PERSIST_FIXTURE_H
#define PERSIST_FIXTURE_H

#include "store_fixture.h"

#include "persist/load.h"
#include "persist/persist.h"
#include "shm/changes.h"

#define WALL UINT64_C(1700000000000) /* the wall clock where the store's says 0 */
#define MINUTE UINT64_C(60000)

typedef struct desk {
    fixture_t f;             /* f.now is the time */
    char dir[64];
    sd_journal_t *journal;
    sd_round_result_t result; /* of the last round */
    char reason[SD_PERSIST_REASON];
    bool same_store;
    bool no_sync;
    uint64_t slack_bytes;
    uint64_t cleaned;        /* bytes, in all rounds so far */
    int64_t wall_shift;      /* the wall clock has been set by so much */
} desk_t;

/* A directory, an empty store of this size and a fresh journal. */
void desk_open(desk_t *d, uint64_t size);
/* ... and away with all of it. */
void desk_close(desk_t *d);

void desk_journal_open(desk_t *d, sd_persist_status_t expected);
/* A new and empty store, as after a reboot. */
void desk_store_anew(desk_t *d, uint64_t size);

sd_persist_status_t desk_try_round(desk_t *d, bool everything, const atomic_bool *stop);
void desk_round(desk_t *d);
/* Loads into the store: OK or what else is expected. The journal must be closed. */
sd_load_sum_t desk_load(desk_t *d, bool check_first, sd_persist_status_t expected);
uint64_t desk_clock(void *desk); /* for sd_load_target_t.read_clock */
/* round, close, a new store, load, open: what a reboot does. */
sd_load_sum_t desk_reboot(desk_t *d);

void desk_path(const desk_t *d, const char *name, char path[128]);

/* ---- a load without a store ---- */

typedef struct loaded_record {
    sd_load_record_t head;
    unsigned char *data;
} loaded_record_t;

typedef struct loaded {
    sd_persist_status_t status; /* OK: all of it came */
    sd_load_report_t report;
    char reason[SD_PERSIST_REASON];
    loaded_record_t *records;
    uint32_t count;
} loaded_t;

loaded_t load_all(const char *dir, uint64_t wall_ms, bool check_first);
void loaded_free(loaded_t *l);
const loaded_record_t *loaded_find(const loaded_t *l, const test_key_t *key);

/* ---- what should be there ---- */

#define MODEL_KEYS 48u

typedef struct model_value {
    bool there;
    uint64_t seed, version;
    uint64_t expiry; /* the store's clock */
    uint32_t len;
} model_value_t;

typedef struct model {
    model_value_t key[MODEL_KEYS];
} model_t;

test_key_t model_key(uint32_t n);
/* One operation of chance: put, replace, touch, remove; values of up to `most` bytes. */
void model_step(desk_t *d, model_t *m, dice_t *dice, uint32_t most);
/* NULL: what was loaded is exactly what the model says, at store time `now`. */
const char *model_compare(const model_t *m, const loaded_t *l, uint64_t now);
/* The store has what the model says. */
void model_check_store(const model_t *m, fixture_t *f);

/* ---- files ---- */

typedef struct bytes {
    unsigned char *at;
    size_t len;
} bytes_t;

bytes_t file_read(const char *path);
void file_write(const char *path, const void *bytes, size_t len);
void dir_make(char dir[64]);
void dir_remove(const char *dir); /* with the files in it */

#endif
