/* SPDX-License-Identifier: Apache-2.0
 *
 * index.c: buckets and their lists of items. Every change of a list is one
 * aligned store, made after the item it leads to is complete, so a process
 * that dies anywhere leaves lists that can be walked. All calls here want the
 * lock of the bucket's shard.
 */
#include "internal.h"

bool sd_item_key_equals(const sd_store_t *s, uint32_t block, const void *key, size_t key_len)
{
    const unsigned char *head = sd_block(s, block);
    const size_t room = SD_BLOCK_BYTES - sizeof(sd_item_t);
    uint32_t next;

    if (sd_item(s, block)->key_len != key_len)
        return false;
    if (key_len <= room)
        return memcmp(head + sizeof(sd_item_t), key, key_len) == 0;
    next = sd_link_next(s, block);
    return next != 0 && memcmp(head + sizeof(sd_item_t), key, room) == 0
           && memcmp(sd_block(s, next), (const unsigned char *)key + room, key_len - room) == 0;
}

uint32_t sd_item_key_copy(const sd_store_t *s, uint32_t block, unsigned char out[SD_KEY_MAX])
{
    const size_t room = SD_BLOCK_BYTES - sizeof(sd_item_t);
    size_t len = sd_item(s, block)->key_len;
    uint32_t next;

    memcpy(out, sd_block(s, block) + sizeof(sd_item_t), len < room ? len : room);
    if (len > room && (next = sd_link_next(s, block)) != 0)
        memcpy(out + room, sd_block(s, next), len - room);
    return (uint32_t)len;
}

uint32_t sd_index_find(sd_store_t *s, uint64_t hash, const void *key, size_t key_len,
                       uint32_t **link)
{
    uint32_t *at = (uint32_t *)&s->buckets[sd_bucket_of(s, hash)];
    uint32_t block;

    while ((block = *at) != 0) {
        sd_item_t *item = sd_item(s, block);

        if (item->hash == (uint32_t)hash && sd_item_key_equals(s, block, key, key_len))
            break;
        at = &item->next;
    }
    *link = at;
    return block;
}

void sd_index_insert(sd_store_t *s, uint32_t bucket, uint32_t block)
{
    sd_item(s, block)->next = atomic_load_explicit(&s->buckets[bucket], memory_order_relaxed);
    SD_KILL_POINT("index_insert: leads on, nothing leads to it");
    atomic_store_explicit(&s->buckets[bucket], block, memory_order_release);
    SD_KILL_POINT("index_insert: reachable, not counted");
    sd_shard_set_items(s, sd_shard_of(s, bucket), sd_shard_items(s, sd_shard_of(s, bucket)) + 1);
}

void sd_index_replace(sd_store_t *s, uint32_t *link, uint32_t old_block, uint32_t new_block)
{
    sd_item(s, new_block)->next = sd_item(s, old_block)->next;
    SD_KILL_POINT("index_replace: both lead on");
    __atomic_store_n(link, new_block, __ATOMIC_RELEASE);
    SD_KILL_POINT("index_replace: replaced");
}

void sd_index_remove(sd_store_t *s, uint32_t bucket, uint32_t *link, uint32_t block)
{
    __atomic_store_n(link, sd_item(s, block)->next, __ATOMIC_RELEASE);
    SD_KILL_POINT("index_remove: unreachable, still counted");
    sd_shard_set_items(s, sd_shard_of(s, bucket), sd_shard_items(s, sd_shard_of(s, bucket)) - 1);
}

bool sd_index_detach(sd_store_t *s, uint32_t block)
{
    sd_item_t *item = sd_item(s, block);
    uint32_t n = sd_item_blocks(item->key_len, item->data_len);

    if (atomic_load_explicit(&s->repairing, memory_order_relaxed))
        sd_repair_keep(s, block);
    SD_KILL_POINT("index_detach: unreachable, not detached");
    /* counted before the pin is set: from then on the last reader may free it */
    atomic_fetch_add(&s->detached, n);
    if (atomic_fetch_or(&s->pins[block], SD_PIN_DETACHED) != 0)
        return false;
    atomic_store(&s->pins[block], 0);
    atomic_fetch_sub(&s->detached, n);
    return true;
}
