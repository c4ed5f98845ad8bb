/* SPDX-License-Identifier: Apache-2.0
 *
 * blocks.c: taking and freeing blocks. Each thread has a short list of free
 * blocks of its own (its lane) and moves them from and to the common pool in
 * batches, so that the usual store takes no lock for its memory.
 *
 * What is hard: the last 1% belongs to replacements of live keys. A thread's
 * own list must not become a back door to it, so the pool's level is looked at
 * before every take, and blocks freed while the pool is low go to the pool.
 */
#include "internal.h"

static uint32_t fresh_left(const sd_store_t *s)
{
    return s->block_count + 1 - __atomic_load_n(&s->header->fresh, __ATOMIC_RELAXED);
}

/* Blocks that the pool could give; may be a little old without the lock. */
static uint32_t pool_level(const sd_store_t *s)
{
    return __atomic_load_n(&s->header->pool_count, __ATOMIC_RELAXED) + fresh_left(s);
}

static void set_relaxed(uint32_t *at, uint32_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELAXED);
}

/* Moves up to `want` blocks from the pool to the lane. Under the pool lock. */
static void fill_lane(sd_store_t *s, sd_lane_list_t *list, uint32_t want)
{
    sd_header_t *h = s->header;
    uint32_t first, last, n, i;

    if (h->pool_count > 0) {
        n = h->pool_count < want ? h->pool_count : want;
        first = last = h->pool_head;
        for (i = 1; i < n; i++)
            last = sd_link_next(s, last);
        h->pool_head = sd_link_next(s, last);
        SD_KILL_POINT("fill_lane: off the pool, still counted there");
        set_relaxed(&h->pool_count, h->pool_count - n);
    }
    else {
        n = fresh_left(s) < want ? fresh_left(s) : want;
        if (n == 0)
            return;
        first = h->fresh;
        last = first + n - 1;
        for (i = first; i < last; i++)
            sd_link_set(s, i, i + 1);
        SD_KILL_POINT("fill_lane: fresh blocks linked, not taken");
        set_relaxed(&h->fresh, h->fresh + n);
    }
    SD_KILL_POINT("fill_lane: between pool and lane");
    sd_link_set(s, last, list->head);
    SD_KILL_POINT("fill_lane: led to the lane's list");
    list->head = first;
    SD_KILL_POINT("fill_lane: on the lane's list, not counted there");
    list->count += n;
}

static bool refill(sd_lane_t *lane, bool privileged)
{
    sd_store_t *s = lane->store;
    uint32_t level;

    pthread_mutex_lock(&s->pool_lock);
    level = pool_level(s);
    while (level <= s->reserve && sd_repair_find_free(lane, SD_REPAIR_STEP))
        level = pool_level(s);
    if (level > s->reserve)
        fill_lane(s, lane->list, s->batch < level - s->reserve ? s->batch : level - s->reserve);
    else if (privileged && level > 0)
        fill_lane(s, lane->list, 1);
    SD_KILL_POINT("refill: done, the pool's lock is held");
    pthread_mutex_unlock(&s->pool_lock);
    return lane->list->count > 0;
}

uint32_t sd_blocks_take(sd_lane_t *lane, bool privileged)
{
    sd_store_t *s = lane->store;
    sd_lane_list_t *list = lane->list;
    uint32_t block;

    if (list->count == 0) {
        if (!refill(lane, privileged))
            return 0;
    }
    else if (!privileged && pool_level(s) < s->reserve)
        return 0;
    block = list->head;
    list->head = sd_link_next(s, block);
    SD_KILL_POINT("blocks_take: off the lane's list, still counted there");
    list->count--;
    SD_KILL_POINT("blocks_take: taken, still marked free");
    sd_link_set(s, block, s->tag);
    SD_KILL_POINT("blocks_take: nobody's yet");
    sd_count_add(lane->counters, blocks_used, 1);
    return block;
}

/* Puts a chain of `n` free blocks onto the pool's list. Under the pool lock. */
static void pool_push(sd_store_t *s, uint32_t first, uint32_t last, uint32_t n)
{
    sd_link_set(s, last, s->header->pool_head);
    SD_KILL_POINT("pool_push: led to the pool's list");
    s->header->pool_head = first;
    SD_KILL_POINT("pool_push: on the pool's list, not counted there");
    set_relaxed(&s->header->pool_count, s->header->pool_count + n);
    SD_KILL_POINT("pool_push: counted, the pool's lock is held");
}

/* While a repair looks for free blocks, those ahead of it go on no list. */
static uint32_t free_during_repair(sd_lane_t *lane, uint32_t head)
{
    sd_store_t *s = lane->store;
    uint32_t n = 0, next;

    pthread_mutex_lock(&s->pool_lock);
    for (; head != 0; head = next, n++) {
        next = sd_link_next(s, head);
        sd_link_set(s, head, 0);
        SD_KILL_POINT("free_during_repair: freed, on no list, the rest of the chain is not");
        if (!sd_repair_will_find(s, head))
            pool_push(s, head, head, 1);
        else /* it is counted as used until it is found */
            sd_count_add(lane->counters, blocks_used, 1);
    }
    pthread_mutex_unlock(&s->pool_lock);
    return n;
}

static void give_back(sd_store_t *s, sd_lane_list_t *list, uint32_t n)
{
    uint32_t first = list->head, last = first, i;

    for (i = 1; i < n; i++)
        last = sd_link_next(s, last);
    list->head = sd_link_next(s, last);
    SD_KILL_POINT("give_back: off the lane's list, still counted there");
    list->count -= n;
    SD_KILL_POINT("give_back: between lane and pool");
    pthread_mutex_lock(&s->pool_lock);
    pool_push(s, first, last, n);
    pthread_mutex_unlock(&s->pool_lock);
}

uint32_t sd_blocks_free(sd_lane_t *lane, uint32_t head)
{
    sd_store_t *s = lane->store;
    sd_lane_list_t *list = lane->list;
    uint32_t n = 0, block, last = 0;

    if (head == 0)
        return 0;
    sd_item(s, head)->magic = 0; /* it may become the midst of a value: handover.c */
    if (atomic_load_explicit(&s->repairing, memory_order_relaxed)) {
        n = free_during_repair(lane, head);
        sd_count_sub(lane->counters, blocks_used, n);
        return n;
    }
    for (block = head; block != 0; block = sd_link_next(s, block), n++) {
        sd_link_set(s, block, sd_link_next(s, block)); /* drops the tag: free */
        SD_KILL_POINT("blocks_free: free, on no list, the rest of the chain is not");
        last = block;
    }
    if (n > 2 * s->batch || pool_level(s) < 2 * s->reserve) {
        pthread_mutex_lock(&s->pool_lock);
        pool_push(s, head, last, n);
        pthread_mutex_unlock(&s->pool_lock);
    }
    else {
        /* in its own order: the next value of this size gets neighbours again */
        sd_link_set(s, last, list->head);
        SD_KILL_POINT("blocks_free: led to the lane's list");
        list->head = head;
        SD_KILL_POINT("blocks_free: on the lane's list, not counted there");
        list->count += n;
        if (list->count > 3 * s->batch)
            give_back(s, list, list->count - s->batch);
    }
    sd_count_sub(lane->counters, blocks_used, n);
    return n;
}

void sd_blocks_flush(sd_lane_t *lane)
{
    if (lane->list->count > 0)
        give_back(lane->store, lane->list, lane->list->count);
}

uint32_t sd_blocks_free_count(sd_store_t *s)
{
    uint32_t n = s->header->pool_count + fresh_left(s), i;

    for (i = 0; i < SD_LANES_MAX; i++)
        n += s->header->lanes[i].count;
    return n;
}
