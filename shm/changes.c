/* SPDX-License-Identifier: Apache-2.0
 *
 * changes.c: which items changed in which round, and the tombstones of those that
 * went. What is hard:
 *
 *  - a round's number and the place where its changes are looked for must belong
 *    together: both are taken under the lock of the thread's own queue, and a new
 *    round begins under the locks of all queues;
 *  - an item that a hot key changes all the time is never found at rest: so what
 *    is newer than the settled round is given, even if it belongs to the next one,
 *    and is given there again;
 *  - an expired item may leave without a trace only if the disk knows that it
 *    expires then. One that was touched or replaced in this very round does not:
 *    an older version there may have longer to live;
 *  - the threads' clocks are not one: what has just expired for one of them is
 *    touched by another. So as long as it stands in the index it is told as it is,
 *    and is dead on disk by its expiry;
 *  - a bucket that is empty may have a value on its way in, which has its round
 *    already: so each is looked at under its shard's lock;
 *  - there may be no block left for a tombstone, or it would be all that an
 *    eviction gains. Then the header notes that marks do not tell everything any
 *    more, and all is to be written anew.
 *
 * Locks: a queue's lock comes after the shard's.
 */
#include <stdlib.h>

#include "internal.h"

/* ms. No thread's clock is as far behind another's: one that stands still for half
 * as long is taken for hanging. */
#define SD_CLOCKS_APART 60000u
/* So many small values in a row may be evicted for tombstones of their own size. */
#define SD_EVICTED_IN_VAIN 16u

struct sd_changes {
    sd_change_queue_t queue[SD_LANES_MAX];
    _Atomic uint32_t graves; /* tombstones in all; below 0 where deaths left counts wrong */
    _Atomic bool scan;       /* the next round looks at every bucket */

    /* the round; of the one thread that makes rounds */
    _Alignas(64) uint32_t round;
    bool everything, scanning;
    bool incomplete;         /* something could not be given */
    bool given;              /* something was */
    uint32_t *pending;       /* buckets to look at */
    uint32_t pending_count, pending_room;
    _Atomic uint32_t kept;   /* pending_count between rounds, for others */
    uint32_t at;             /* next one of them; scanning: next bucket of all */
    uint32_t *grave;         /* buckets with tombstones that go once the round is settled */
    uint32_t grave_count, grave_room;
    bool graves_lost;
    sd_change_t *found;      /* in the bucket looked at last */
    uint32_t found_count, found_room, found_at;
};

static uint32_t settled_round(const sd_store_t *s)
{
    return atomic_load_explicit(&s->header->settled, memory_order_relaxed);
}

static bool is_unsettled(const sd_store_t *s, const sd_item_t *item)
{
    return item->changed != 0 && sd_round_is_newer(item->changed, settled_round(s));
}

/* True: there is room for one more in an array of `size`d elements. */
static bool make_room(void **array, uint32_t *room, uint32_t count, size_t size)
{
    uint32_t want = *room == 0 ? 64 : *room * 2;
    void *grown;

    if (count < *room)
        return true;
    grown = want > *room ? realloc(*array, want * size) : NULL;
    if (!grown)
        return false;
    *array = grown;
    *room = want;
    return true;
}

bool sd_changes_create(sd_store_t *s)
{
    uint32_t i;

    if (posix_memalign((void **)&s->changes, 64, sizeof *s->changes) != 0)
        s->changes = NULL;
    if (!s->changes)
        return false;
    memset(s->changes, 0, sizeof *s->changes);
    for (i = 0; i < SD_LANES_MAX; i++)
        pthread_mutex_init(&s->changes->queue[i].lock, NULL);
    return true;
}

void sd_changes_destroy(sd_store_t *s)
{
    uint32_t i;

    if (!s->changes)
        return;
    for (i = 0; i < SD_LANES_MAX; i++) {
        pthread_mutex_destroy(&s->changes->queue[i].lock);
        free(s->changes->queue[i].bucket);
    }
    free(s->changes->pending);
    free(s->changes->grave);
    free(s->changes->found);
    free(s->changes);
    s->changes = NULL;
}

void sd_changes_enter(sd_store_t *s)
{
    static const unsigned char none[SD_DISK_ID_BYTES];
    sd_header_t *h = s->header;
    uint32_t i, graves = 0;

    if (!s->changes) {
        /* Whatever changes from now on leaves no mark. The round stays, since items
         * have its number, and a later process goes on from it. Tombstones go with
         * the next sweep: no round will take them away. */
        if (memcmp(h->disk_id, none, sizeof none) != 0)
            atomic_store(&h->astray, SD_ASTRAY);
        for (i = 0; i < s->shard_count; i++)
            if (sd_shard_gone(s, i) != 0)
                atomic_store(&s->shards[i].min_expiry, 0);
        return;
    }
    if (h->round == 0) {
        h->round = settled_round(s) + 1;
        h->round += h->round == 0;
    }
    for (i = 0; i < s->shard_count; i++)
        graves += sd_shard_gone(s, i);
    atomic_store(&s->changes->graves, graves);
    atomic_store(&s->changes->scan, true); /* what the last process knew went with it */
}

void sd_changes_go_astray(sd_store_t *s)
{
    if (s->changes)
        atomic_store(&s->header->astray, SD_ASTRAY);
}

void sd_changes_recount(sd_store_t *s, uint32_t more)
{
    if (s->changes)
        atomic_fetch_add(&s->changes->graves, more);
}

bool sd_changes_count_is(const sd_store_t *s, uint32_t graves)
{
    return !s->changes || atomic_load(&s->changes->graves) == graves;
}

/* ---- noting ---- */

static void queue_bucket(const sd_store_t *s, sd_change_queue_t *q, uint32_t bucket)
{
    uint32_t count = atomic_load_explicit(&q->count, memory_order_relaxed);

    if (q->lost)
        return;
    /* more of them than there are buckets, and a look at all is cheaper */
    if (count > s->bucket_mask || !make_room((void **)&q->bucket, &q->room, count, sizeof *q->bucket)) {
        q->lost = true;
        return;
    }
    q->bucket[count] = bucket;
    atomic_store_explicit(&q->count, count + 1, memory_order_relaxed);
}

/* The round that a change belongs to. `before`: the item's last one; if it is the
 * same, the bucket is queued already. */
static uint32_t note(sd_lane_t *lane, uint32_t bucket, uint32_t before)
{
    sd_store_t *s = lane->store;
    sd_change_queue_t *q = &s->changes->queue[lane->number];
    uint32_t round;

    pthread_mutex_lock(&q->lock);
    round = s->header->round;
    if (before != round)
        queue_bucket(s, q, bucket);
    pthread_mutex_unlock(&q->lock);
    return round;
}

void sd_change_stored(sd_lane_t *lane, uint32_t bucket, uint32_t block, uint32_t old)
{
    sd_item_t *item = sd_item(lane->store, block);

    item->marks = 0;
    item->changed = 0;
    if (lane->store->changes)
        item->changed = note(lane, bucket, old != 0 ? sd_item(lane->store, old)->changed : 0);
}

void sd_change_touched(sd_lane_t *lane, uint32_t bucket, uint32_t block)
{
    sd_store_t *s = lane->store;
    sd_item_t *item = sd_item(s, block);

    if (!s->changes)
        return;
    if (!is_unsettled(s, item)) /* else it is as it was: the value may have to be written */
        __atomic_store_n(&item->marks, SD_MARK_EXPIRY, __ATOMIC_RELAXED);
    SD_KILL_POINT("change_touched: marked, of no round");
    __atomic_store_n(&item->changed, note(lane, bucket, item->changed), __ATOMIC_RELAXED);
    SD_KILL_POINT("change_touched: noted, not touched");
}

void sd_change_revived(sd_store_t *s, uint32_t bucket)
{
    uint32_t shard = sd_shard_of(s, bucket);

    SD_KILL_POINT("change_revived: the tombstone is still counted");
    sd_shard_set_gone(s, shard, sd_shard_gone(s, shard) - 1);
    sd_changes_recount(s, (uint32_t)-1);
}

void sd_change_bury(sd_lane_t *lane, uint32_t bucket, uint32_t *link, uint32_t block)
{
    sd_store_t *s = lane->store;

    sd_index_remove(s, bucket, link, block);
    SD_KILL_POINT("change_bury: unreachable, still counted as a tombstone");
    sd_change_revived(s, bucket);
    if (sd_index_detach(s, block))
        sd_blocks_free(lane, block);
}

/* A chain of one or two blocks with the key of an item and nothing else. 0: there
 * is no memory, or tombstones have enough of it already. */
static uint32_t make_tombstone(sd_lane_t *lane, uint32_t bucket, uint32_t block)
{
    sd_store_t *s = lane->store;
    const sd_item_t *item = sd_item(s, block);
    unsigned char key[SD_KEY_MAX];
    uint32_t head, second = 0, key_len = sd_item_key_copy(s, block, key);
    uint32_t room = SD_BLOCK_BYTES - (uint32_t)sizeof *item;
    sd_item_t *made;

    if ((int32_t)atomic_load(&s->changes->graves) > (int32_t)(s->block_count / 16)
        || (head = sd_blocks_take(lane, true)) == 0)
        return 0;
    if (key_len > room && (second = sd_blocks_take(lane, true)) == 0) {
        sd_blocks_free(lane, head);
        return 0;
    }
    SD_KILL_POINT("make_tombstone: taken, not filled in");
    made = sd_item(s, head);
    memset(made, 0, sizeof *made);
    made->hash = item->hash;
    made->version = atomic_fetch_add(&s->header->version, 1) + 1; /* repair.c tells by it whose it is */
    made->expiry = UINT64_MAX;
    made->key_len = (uint8_t)key_len;
    made->magic = SD_ITEM_MAGIC;
    made->marks = SD_MARK_GONE;
    memcpy(sd_block(s, head) + sizeof *made, key, key_len < room ? key_len : room);
    if (second != 0) {
        memcpy(sd_block(s, second), key + room, key_len - room);
        sd_link_set(s, head, second | s->tag);
    }
    made->changed = note(lane, bucket, item->changed);
    SD_KILL_POINT("make_tombstone: complete, not in its place");
    return head;
}

void sd_change_remove(sd_lane_t *lane, uint32_t bucket, uint32_t *link, uint32_t block, bool live)
{
    sd_store_t *s = lane->store;
    uint32_t shard = sd_shard_of(s, bucket), tombstone;

    if (!s->changes || !(live || is_unsettled(s, sd_item(s, block))) || atomic_load(&s->header->astray) == SD_ASTRAY) {
        sd_index_remove(s, bucket, link, block);
        return;
    }
    tombstone = make_tombstone(lane, bucket, block);
    if (tombstone == 0) {
        sd_changes_go_astray(s);
        SD_KILL_POINT("change_remove: noted that the disk goes astray");
        sd_index_remove(s, bucket, link, block);
        return;
    }
    sd_index_replace(s, link, block, tombstone);
    SD_KILL_POINT("change_remove: the tombstone stands, and is not counted");
    sd_shard_set_gone(s, shard, sd_shard_gone(s, shard) + 1);
    sd_changes_recount(s, 1);
}

void sd_change_evict(sd_lane_t *lane, uint32_t bucket, uint32_t *link, uint32_t block)
{
    sd_store_t *s = lane->store;
    const sd_item_t *item = sd_item(s, block);

    if (s->changes && atomic_load(&s->header->astray) != SD_ASTRAY
        && sd_item_blocks(item->key_len, item->data_len) == sd_item_blocks(item->key_len, 0)) {
        if (++lane->in_vain > SD_EVICTED_IN_VAIN) {
            sd_changes_go_astray(s);
            SD_KILL_POINT("change_evict: noted that the disk goes astray");
            lane->in_vain = 0;
        }
    }
    else
        lane->in_vain = 0;
    sd_change_remove(lane, bucket, link, block, true);
}

/* ---- rounds ---- */

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* In order, and each once. */
static void sort_pending(sd_changes_t *c)
{
    uint32_t i, n = 0;

    if (c->pending_count > 1) /* there may be no array */
        qsort(c->pending, c->pending_count, sizeof *c->pending, compare);
    for (i = 0; i < c->pending_count; i++)
        if (n == 0 || c->pending[n - 1] != c->pending[i])
            c->pending[n++] = c->pending[i];
    c->pending_count = n;
}

/* Moves a queue's buckets to the pending ones. False: no memory. */
static bool take_queue(sd_changes_t *c, sd_change_queue_t *q)
{
    uint32_t count = atomic_load(&q->count), *grown;
    bool complete = !q->lost;

    if (count > 0 && c->pending_count == 0) { /* the usual case: they change places */
        uint32_t *bucket = c->pending, room = c->pending_room;

        c->pending = q->bucket;
        c->pending_room = q->room;
        c->pending_count = count;
        q->bucket = bucket;
        q->room = room;
    }
    else if (count > 0) {
        if (c->pending_room - c->pending_count < count) {
            grown = realloc(c->pending, ((size_t)c->pending_count + count) * sizeof *grown);
            if (!grown)
                complete = false;
            else {
                c->pending = grown;
                c->pending_room = c->pending_count + count;
            }
        }
        if (c->pending_room - c->pending_count >= count) {
            memcpy(c->pending + c->pending_count, q->bucket, count * sizeof *q->bucket);
            c->pending_count += count;
        }
    }
    atomic_store(&q->count, 0);
    q->lost = false;
    return complete;
}

uint32_t sd_changes_begin(sd_lane_t *lane, bool everything)
{
    sd_store_t *s = lane->store;
    sd_changes_t *c = s->changes;
    bool scan = atomic_exchange(&c->scan, false) || everything;
    uint32_t i;

    /* what goes astray from now on, this round does not mend */
    if (everything && atomic_load(&s->header->astray))
        atomic_store(&s->header->astray, SD_ASTRAY_MENDING);
    for (i = 0; i < s->lane_count; i++)
        pthread_mutex_lock(&c->queue[i].lock);
    c->round = s->header->round;
    s->header->round = c->round + 1 != 0 ? c->round + 1 : 1;
    for (i = 0; i < s->lane_count; i++)
        scan |= !take_queue(c, &c->queue[i]);
    for (i = s->lane_count; i-- > 0;)
        pthread_mutex_unlock(&c->queue[i].lock);
    if (scan)
        c->pending_count = 0;
    sort_pending(c);
    atomic_store(&c->kept, c->pending_count);
    c->scanning = scan;
    c->everything = everything;
    c->given = false;
    c->incomplete = c->graves_lost = false;
    c->at = c->grave_count = c->found_count = c->found_at = 0;
    return c->round;
}

static void remember_grave(sd_changes_t *c, uint32_t bucket)
{
    if (c->grave_count > 0 && c->grave[c->grave_count - 1] == bucket)
        return;
    if (make_room((void **)&c->grave, &c->grave_room, c->grave_count, sizeof *c->grave))
        c->grave[c->grave_count++] = bucket;
    else
        c->graves_lost = true;
}

/* What is to be told of an item; 0 = nothing. */
static sd_change_kind_t kind_of(const sd_store_t *s, const sd_item_t *item, bool everything, uint64_t now)
{
    bool over = sd_item_is_gone(item) || (item->expiry < now && now - item->expiry > SD_CLOCKS_APART);

    if (everything)
        return over ? 0 : SD_CHANGE_VALUE;
    if (!is_unsettled(s, item))
        return 0;
    if (over)
        return SD_CHANGE_REMOVED;
    return item->marks & SD_MARK_EXPIRY ? SD_CHANGE_EXPIRY : SD_CHANGE_VALUE;
}

/* As sd_store_get does. False: too many readers. */
static bool pin(sd_store_t *s, uint32_t block, sd_ref_t *ref)
{
    const sd_item_t *item = sd_item(s, block);
    uint32_t at = (uint32_t)sizeof *item + item->key_len;

    if (atomic_load(&s->pins[block]) >= SD_PIN_MAX)
        return false;
    atomic_fetch_add(&s->pins[block], 1);
    ref->version = item->version;
    ref->expiry = item->expiry;
    ref->data_len = ref->left = item->data_len;
    ref->head = block;
    ref->block = at < SD_BLOCK_BYTES ? block : sd_link_next(s, block);
    ref->block_at = at < SD_BLOCK_BYTES ? at : at - SD_BLOCK_BYTES;
    return true;
}

static void give(sd_store_t *s, uint32_t block, sd_change_kind_t kind)
{
    sd_changes_t *c = s->changes;
    const sd_item_t *item = sd_item(s, block);
    sd_change_t *change;

    if (!make_room((void **)&c->found, &c->found_room, c->found_count, sizeof *c->found)) {
        c->incomplete = true;
        return;
    }
    change = &c->found[c->found_count];
    memset(change, 0, sizeof *change);
    if (kind == SD_CHANGE_VALUE && !pin(s, block, &change->value)) {
        c->incomplete = true;
        return;
    }
    change->kind = kind;
    change->key_len = (uint8_t)sd_item_key_copy(s, block, change->key);
    change->version = item->version;
    change->expiry = kind == SD_CHANGE_REMOVED ? 0 : item->expiry;
    c->found_count++;
}

static void look_into(sd_store_t *s, uint32_t bucket, uint64_t now)
{
    sd_changes_t *c = s->changes;
    uint32_t shard = sd_shard_of(s, bucket), block;

    c->found_count = c->found_at = 0;
    sd_shard_lock(s, shard);
    for (block = atomic_load(&s->buckets[bucket]); block != 0; block = sd_item(s, block)->next) {
        const sd_item_t *item = sd_item(s, block);
        sd_change_kind_t kind = kind_of(s, item, c->everything, now);

        if (kind != 0)
            give(s, block, kind);
        if (sd_item_is_gone(item))
            remember_grave(c, bucket);
    }
    sd_shard_unlock(s, shard);
}

bool sd_changes_next(sd_lane_t *lane, uint64_t now, sd_change_t *change)
{
    sd_store_t *s = lane->store;
    sd_changes_t *c = s->changes;

    while (c->found_at == c->found_count) {
        if (c->scanning ? c->at > s->bucket_mask : c->at == c->pending_count)
            return false;
        look_into(s, c->scanning ? c->at : c->pending[c->at], now);
        c->at++;
    }
    *change = c->found[c->found_at++];
    c->given = true;
    return true;
}

/* A tombstone that the disk knows of goes; one that has been made since stays. */
static void clear_graves(sd_lane_t *lane, uint32_t bucket)
{
    sd_store_t *s = lane->store;
    uint32_t shard = sd_shard_of(s, bucket), block;
    uint32_t *link = (uint32_t *)&s->buckets[bucket];

    sd_shard_lock(s, shard);
    while ((block = *link) != 0) {
        sd_item_t *item = sd_item(s, block);

        if (!sd_item_is_gone(item) || is_unsettled(s, item)) {
            link = &item->next;
            continue;
        }
        sd_change_bury(lane, bucket, link, block);
    }
    sd_shard_unlock(s, shard);
}

bool sd_changes_are_complete(const sd_store_t *s)
{
    const sd_changes_t *c = s->changes;

    return !c->incomplete && c->found_at == c->found_count
           && (c->scanning ? c->at > s->bucket_mask : c->at == c->pending_count);
}

bool sd_changes_settle(sd_lane_t *lane)
{
    sd_store_t *s = lane->store;
    sd_changes_t *c = s->changes;
    uint32_t i, mending = SD_ASTRAY_MENDING;

    if (!sd_changes_are_complete(s)) {
        sd_changes_undo(lane);
        return false;
    }
    SD_KILL_POINT("changes_settle: on disk, not noted");
    /* the disk has not heard of a round of nothing, and its number would be unknown there */
    if (c->given || c->everything)
        atomic_store(&s->header->settled, c->round);
    SD_KILL_POINT("changes_settle: noted, tombstones stand");
    if (c->everything)
        (void)atomic_compare_exchange_strong(&s->header->astray, &mending, 0);
    c->pending_count = 0;
    atomic_store(&c->kept, 0);
    for (i = 0; i < c->grave_count; i++)
        clear_graves(lane, c->grave[i]);
    if (c->graves_lost)
        atomic_store(&c->scan, true);
    c->grave_count = 0;
    return true;
}

void sd_changes_undo(sd_lane_t *lane)
{
    sd_changes_t *c = lane->store->changes;

    for (; c->found_at < c->found_count; c->found_at++)
        sd_ref_release(lane, &c->found[c->found_at].value);
    c->found_count = c->found_at = c->grave_count = 0;
    if (c->scanning)
        atomic_store(&c->scan, true);
}

bool sd_changes_are_there(const sd_store_t *s)
{
    const sd_changes_t *c = s->changes;
    uint32_t i;

    if (atomic_load_explicit(&c->scan, memory_order_relaxed) || atomic_load_explicit(&c->kept, memory_order_relaxed) > 0
        || atomic_load_explicit(&s->header->astray, memory_order_relaxed) != 0)
        return true;
    for (i = 0; i < s->lane_count; i++)
        if (atomic_load_explicit(&c->queue[i].count, memory_order_relaxed) > 0)
            return true;
    return false;
}
