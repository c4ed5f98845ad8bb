/* SPDX-License-Identifier: Apache-2.0
 *
 * disk_model.c: see the header. Keys and values are kept as hashes of 64 bits:
 * what is compared here is which value it is, not its bytes.
 */
#include "disk_model.h"

uint64_t disk_digest(const void *bytes, size_t n, uint64_t from)
{
    const unsigned char *at = bytes;
    uint64_t h = from ^ UINT64_C(0xcbf29ce484222325);
    size_t i;

    for (i = 0; i < n; i++)
        h = (h ^ at[i]) * UINT64_C(0x100000001b3);
    return h ^ (h >> 31);
}

static uint64_t key_digest(const void *key, size_t len)
{
    uint64_t h = disk_digest(key, len, len);

    return h != 0 ? h : 1;
}

static uint64_t value_digest(sd_lane_t *lane, const sd_ref_t *ref)
{
    sd_ref_t at = *ref;
    struct iovec iov;
    uint64_t h = 0;
    size_t n;

    while (sd_ref_iov(lane, &at, &iov, 1, &n) > 0) {
        h = disk_digest(&n, sizeof n, disk_digest(iov.iov_base, 8 < n ? 8 : n, h));
        h = disk_digest((const char *)iov.iov_base + (n < 8 ? 0 : n - 8), n < 8 ? n : 8, h);
        sd_ref_advance(lane, &at, n);
    }
    return h;
}

void disk_setup(disk_t *d, const char *id)
{
    memset(d, 0, sizeof *d);
    memcpy(d->id, id, strlen(id) < sizeof d->id ? strlen(id) : sizeof d->id);
}

static disk_record_t *place_of(disk_t *d, uint64_t key)
{
    uint32_t i = (uint32_t)key % DISK_ROOM, n;

    for (n = 0; n < DISK_ROOM; n++, i = (i + 1) % DISK_ROOM)
        if (d->record[i].key == key || d->record[i].key == 0)
            return &d->record[i];
    return NULL;
}

const disk_record_t *disk_find(const disk_t *d, const test_key_t *key)
{
    disk_record_t *r = place_of((disk_t *)(uintptr_t)d, key_digest(key->bytes, key->len));

    return r && r->key != 0 ? r : NULL;
}

bool disk_is_live(const disk_record_t *r, uint64_t now)
{
    return r && r->key != 0 && r->kind != SD_CHANGE_REMOVED && r->expiry > now;
}

/* ---- a round ---- */

void disk_begin(disk_t *d, uint32_t round, bool everything)
{
    d->round = round;
    d->everything = everything;
    d->staged_count = 0;
}

const char *disk_write(disk_t *d, sd_lane_t *lane, sd_change_t *change)
{
    disk_record_t *r = &d->staged[d->staged_count];

    if (d->staged_count == DISK_ROOM)
        return "a round without an end";
    memset(r, 0, sizeof *r);
    r->key = key_digest(change->key, change->key_len);
    r->version = change->version;
    r->expiry = change->expiry;
    r->kind = change->kind;
    if (change->kind == SD_CHANGE_VALUE) {
        if (change->value.head == 0)
            return "a value without a reference";
        r->len = change->value.data_len;
        r->digest = value_digest(lane, &change->value);
    }
    else if (change->value.head != 0)
        return "a reference without a value";
    sd_ref_release(lane, &change->value);
    d->staged_count++;
    return NULL;
}

/* `again`: some of it may be here already. */
static const char *apply(disk_t *d, uint32_t count, bool again)
{
    const char *wrong = NULL;
    uint32_t i;

    if (d->everything)
        memset(d->record, 0, sizeof d->record);
    for (i = 0; i < count; i++) {
        const disk_record_t *new = &d->staged[i];
        disk_record_t *r = place_of(d, new->key);
        const char *here = NULL;

        if (!r)
            return "the disk is full";
        if (r->key != 0 && new->version < r->version)
            here = "an older version was given after a newer one";
        else if (new->kind != SD_CHANGE_REMOVED && r->kind == SD_CHANGE_REMOVED && new->version == r->version)
            here = "a removed version was given again";
        else if (new->kind == SD_CHANGE_EXPIRY && (r->key == 0 || r->version != new->version))
            here = "the expiry of a value that is not on disk was given";
        else if (new->kind == SD_CHANGE_EXPIRY)
            r->expiry = new->expiry;
        else if (new->kind == SD_CHANGE_VALUE && r->version == new->version && r->key != 0
                 && (r->digest != new->digest || r->len != new->len))
            here = "a version was given with other bytes than before";
        else
            *r = *new;
        if (!again && !wrong)
            wrong = here;
    }
    return wrong;
}

static const char *finish(disk_t *d, bool again)
{
    const char *wrong = apply(d, d->staged_count, again);

    d->committed = d->round;
    atomic_store(&d->decided, false);
    return wrong;
}

const char *disk_commit(disk_t *d)
{
    atomic_store(&d->decided, true);
    return finish(d, false);
}

const char *disk_drop(disk_t *d, uint32_t partly)
{
    const char *wrong = NULL;

    if (!d->everything) /* a new disk that came to nothing is thrown away */
        wrong = apply(d, partly < d->staged_count ? partly : d->staged_count, false);
    d->staged_count = 0;
    return wrong;
}

void disk_recover(disk_t *d)
{
    if (atomic_load(&d->decided))
        finish(d, true);
}

void disk_meet(disk_t *d, sd_store_t *store)
{
    sd_disk_t known;

    disk_recover(d);
    sd_store_disk(store, &known);
    if (memcmp(known.id, d->id, sizeof d->id) != 0)
        sd_store_pair_anew(store, d->id);
    else if (known.settled != d->committed)
        sd_store_pair(store, d->id, d->committed);
}

const char *disk_round(disk_t *d, sd_lane_t *lane, uint64_t now)
{
    sd_disk_t known;
    sd_change_t change;
    const char *wrong = NULL;

    sd_store_disk(lane->store, &known);
    disk_begin(d, sd_changes_begin(lane, known.astray), known.astray);
    while (!wrong && sd_changes_next(lane, now, &change))
        wrong = disk_write(d, lane, &change);
    if (!wrong && !sd_changes_are_complete(lane->store))
        wrong = "a round is not complete";
    if (!wrong)
        wrong = disk_commit(d);
    if (!wrong && !sd_changes_settle(lane))
        wrong = "a round was not settled";
    return wrong;
}

/* ---- the comparison ---- */

static const char *compare_item(const disk_t *d, sd_lane_t *lane, uint32_t block)
{
    const sd_item_t *item = sd_item(lane->store, block);
    const disk_record_t *r;
    unsigned char bytes[SD_KEY_MAX];
    uint32_t len = sd_item_key_copy(lane->store, block, bytes);
    sd_ref_t ref;
    uint64_t digest;

    r = place_of((disk_t *)(uintptr_t)d, key_digest(bytes, len));
    if (!r || r->key == 0)
        return "a value is missing on disk";
    if (r->kind == SD_CHANGE_REMOVED)
        return "a value is there and the disk says that it was removed";
    if (r->version != item->version)
        return "the disk has another version";
    if (r->expiry != item->expiry)
        return "the disk has another expiry";
    if (sd_store_get(lane, bytes, len, item->expiry - 1, &ref) != SD_OK)
        return "a value cannot be read";
    digest = value_digest(lane, &ref);
    sd_ref_release(lane, &ref);
    return digest == r->digest ? NULL : "the disk has other bytes";
}

const char *disk_compare(const disk_t *d, sd_lane_t *lane, uint64_t now)
{
    const sd_store_t *s = lane->store;
    uint32_t bucket, block, items = 0, records = 0, i;
    const char *wrong;

    for (bucket = 0; bucket <= s->bucket_mask; bucket++)
        for (block = atomic_load(&s->buckets[bucket]); block != 0; block = sd_item(s, block)->next) {
            if (sd_item_is_gone(sd_item(s, block)) || sd_item(s, block)->expiry <= now)
                continue;
            if ((wrong = compare_item(d, lane, block)))
                return wrong;
            items++;
        }
    for (i = 0; i < DISK_ROOM; i++)
        records += disk_is_live(&d->record[i], now);
    return items == records ? NULL : "the disk has a value that the store has not";
}
