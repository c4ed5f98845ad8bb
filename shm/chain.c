/* SPDX-License-Identifier: Apache-2.0
 *
 * chain.c: values on their way in and on their way out, as vectors over their
 * blocks. Memory is taken as bytes arrive, never by the length that a client
 * declared, and bytes are received into the place where they stay.
 */
#include "internal.h"

/* Does this key have a live value? */
static bool is_live(sd_store_t *s, uint64_t hash, const void *key, size_t key_len, uint64_t now)
{
    uint32_t shard = sd_shard_of(s, sd_bucket_of(s, hash)), block;
    uint32_t *link;
    bool live;

    sd_shard_lock(s, shard);
    block = sd_index_find(s, hash, key, key_len, &link);
    live = block != 0 && !sd_item_is_gone(sd_item(s, block)) && sd_item(s, block)->expiry > now;
    sd_shard_unlock(s, shard);
    return live;
}

/* Links one more block to the end of the chain. `key` is NULL once the chain
 * itself holds the whole of it. */
static sd_status_t extend(sd_lane_t *lane, sd_chain_t *c, const void *key, size_t key_len,
                          uint64_t now)
{
    sd_store_t *s = lane->store;
    unsigned char copy[SD_KEY_MAX];
    uint32_t block;

    while ((block = sd_blocks_take(lane, c->privileged)) == 0) {
        /* Only now is it worth a look whether this replaces a live value. */
        if (!c->privileged) {
            if (!key) {
                key_len = sd_item_key_copy(s, c->head, copy);
                key = copy;
            }
            c->privileged = is_live(s, c->hash, key, key_len, now);
            if (c->privileged)
                continue;
        }
        if (!sd_expiry_reclaim(lane, now))
            return SD_FULL;
    }
    SD_KILL_POINT("extend: taken, not linked");
    if (c->last != 0)
        sd_link_set(s, c->last, block | s->tag);
    SD_KILL_POINT("extend: linked");
    c->last = block;
    c->blocks++;
    c->space += SD_BLOCK_BYTES;
    return SD_OK;
}

/* Extends the chain until it has `want` bytes of space, and counts what it took
 * once for all. On SD_FULL it keeps what it has. */
static sd_status_t extend_to(sd_lane_t *lane, sd_chain_t *c, uint32_t want, const void *key,
                             size_t key_len, uint64_t now)
{
    uint32_t before = c->blocks;
    sd_status_t status = SD_OK;

    while (c->space < want && status == SD_OK)
        status = extend(lane, c, key, key_len, now);
    if (c->blocks != before)
        atomic_fetch_add_explicit(&lane->store->incoming, c->blocks - before, memory_order_relaxed);
    return status;
}

/* Moves the write position on by `n` bytes that were reserved. It stays at the
 * end of a full block until a byte goes into the next: so a chain never ends
 * in an empty block that counts as written. */
static void step(const sd_store_t *s, sd_chain_t *c, uint32_t n)
{
    c->space -= n;
    while (n > SD_BLOCK_BYTES - c->write_at) {
        n -= SD_BLOCK_BYTES - c->write_at;
        c->write = sd_link_next(s, c->write);
        c->write_at = 0;
    }
    c->write_at += n;
}

static void copy_in(const sd_store_t *s, sd_chain_t *c, const unsigned char *bytes, uint32_t n)
{
    while (n > 0) {
        uint32_t here;

        if (c->write_at == SD_BLOCK_BYTES) {
            c->write = sd_link_next(s, c->write);
            c->write_at = 0;
        }
        here = SD_BLOCK_BYTES - c->write_at < n ? SD_BLOCK_BYTES - c->write_at : n;
        memcpy(sd_block(s, c->write) + c->write_at, bytes, here);
        step(s, c, here);
        bytes += here;
        n -= here;
    }
}

static sd_status_t chain_begin(sd_lane_t *lane, sd_chain_t *c, const void *key, size_t key_len, bool privileged,
                         uint64_t now)
{
    sd_store_t *s = lane->store;
    sd_item_t *item;
    sd_status_t status;

    memset(c, 0, sizeof *c);
    c->hash = sd_hash(s, key, key_len);
    c->privileged = privileged;
    sd_bucket_prefetch(s, c->hash);
    status = extend_to(lane, c, 1, key, key_len, now);
    if (status != SD_OK)
        return status;
    c->head = c->write = c->last;
    item = sd_item(s, c->head);
    memset(item, 0, sizeof *item);
    SD_KILL_POINT("chain_begin: head without a hash");
    item->hash = (uint32_t)c->hash;
    item->key_len = (uint8_t)key_len;
    item->magic = SD_ITEM_MAGIC;
    SD_KILL_POINT("chain_begin: head without a key");
    c->key_len = (uint8_t)key_len;
    step(s, c, sizeof *item);
    status = extend_to(lane, c, (uint32_t)key_len, key, key_len, now);
    if (status != SD_OK) {
        sd_chain_discard(lane, c);
        return status;
    }
    copy_in(s, c, key, (uint32_t)key_len);
    SD_KILL_POINT("chain_begin: key is there");
    return SD_OK;
}

sd_status_t sd_chain_open(sd_lane_t *lane, sd_chain_t *c, const void *key, size_t key_len,
                          uint64_t now)
{
    return chain_begin(lane, c, key, key_len, false, now);
}

sd_status_t sd_chain_open_restored(sd_lane_t *lane, sd_chain_t *c, const void *key, size_t key_len,
                                   uint64_t now)
{
    return chain_begin(lane, c, key, key_len, true, now);
}

sd_status_t sd_chain_reserve(sd_lane_t *lane, sd_chain_t *c, uint32_t want, uint64_t now)
{
    /* sums of lengths are 32 bits wide: beyond 2 GiB there is no room for one value */
    if (c->data_len > INT32_MAX || want > INT32_MAX - c->data_len)
        return SD_FULL;
    return extend_to(lane, c, want, NULL, 0, now);
}

/* Vectors over a chain from (block, at) on, `bytes` in all. Returns how many;
 * *covered says how many bytes they hold. */
static int vectors(const sd_store_t *s, uint32_t block, uint32_t at, uint32_t bytes,
                   struct iovec *iov, int max, size_t *covered)
{
    int n = 0;

    *covered = 0;
    while (bytes > 0 && block != 0) {
        unsigned char *from = sd_block(s, block) + at;
        uint32_t here = SD_BLOCK_BYTES - at < bytes ? SD_BLOCK_BYTES - at : bytes;

        if (here > 0) {
            if (n > 0 && (unsigned char *)iov[n - 1].iov_base + iov[n - 1].iov_len == from)
                iov[n - 1].iov_len += here;
            else if (n == max)
                break;
            else {
                iov[n].iov_base = from;
                iov[n].iov_len = here;
                n++;
            }
            *covered += here;
            bytes -= here;
        }
        block = sd_link_next(s, block);
        at = 0;
    }
    return n;
}

int sd_chain_room(sd_lane_t *lane, const sd_chain_t *c, uint32_t limit, struct iovec *iov, int max)
{
    size_t covered;

    return vectors(lane->store, c->write, c->write_at, limit < c->space ? limit : c->space, iov,
                   max, &covered);
}

void sd_chain_advance(sd_lane_t *lane, sd_chain_t *c, uint32_t n)
{
    step(lane->store, c, n);
    c->data_len += n;
}

sd_status_t sd_chain_append(sd_lane_t *lane, sd_chain_t *c, const void *bytes, uint32_t n,
                            uint64_t now)
{
    sd_status_t status = sd_chain_reserve(lane, c, n, now);

    if (status != SD_OK)
        return status;
    copy_in(lane->store, c, bytes, n);
    sd_item_prefetch(lane->store, c->hash);
    SD_KILL_POINT("chain_append: bytes are there");
    c->data_len += n;
    return SD_OK;
}

void sd_chain_discard(sd_lane_t *lane, sd_chain_t *c)
{
    if (c->blocks > 0) {
        atomic_fetch_sub_explicit(&lane->store->incoming, c->blocks, memory_order_relaxed);
        sd_blocks_free(lane, c->head);
    }
    memset(c, 0, sizeof *c);
}

uint32_t sd_chain_key(const sd_lane_t *lane, const sd_chain_t *c, unsigned char out[SD_KEY_MAX])
{
    return sd_item_key_copy(lane->store, c->head, out);
}

int sd_ref_iov(sd_lane_t *lane, const sd_ref_t *ref, struct iovec *iov, int max, size_t *bytes)
{
    return vectors(lane->store, ref->block, ref->block_at, ref->left, iov, max, bytes);
}

void sd_ref_advance(sd_lane_t *lane, sd_ref_t *ref, size_t n)
{
    ref->left -= (uint32_t)n;
    while (n > 0 && n >= SD_BLOCK_BYTES - ref->block_at) {
        n -= SD_BLOCK_BYTES - ref->block_at;
        ref->block = sd_link_next(lane->store, ref->block);
        ref->block_at = 0;
    }
    ref->block_at += (uint32_t)n;
}

void sd_ref_release(sd_lane_t *lane, sd_ref_t *ref)
{
    sd_store_t *s = lane->store;

    if (ref->head == 0)
        return;
    if (atomic_fetch_sub(&s->pins[ref->head], 1) == (SD_PIN_DETACHED | 1)) {
        atomic_store(&s->pins[ref->head], 0);
        atomic_fetch_sub(&s->detached, sd_blocks_free(lane, ref->head));
    }
    memset(ref, 0, sizeof *ref);
}

bool sd_ref_is_detached(sd_lane_t *lane, const sd_ref_t *ref)
{
    return ref->head != 0
           && (atomic_load_explicit(&lane->store->pins[ref->head], memory_order_relaxed)
               & SD_PIN_DETACHED);
}
