/* SPDX-License-Identifier: Apache-2.0
 *
 * handover.c: chains and references that outlive their process. The old one
 * saves their few numbers and leaves; the next one makes them anew from these
 * numbers and from the blocks, where everything else still stands.
 *
 * What is hard: the numbers come from outside, and the old process may have died
 * on its way. So nothing is believed that the segment does not confirm, and all
 * is confirmed before anything is changed:
 *  - whole chain: so many blocks as it must have, each in use;
 *  - a head: magic number, key, and the hash of the key under the segment's own
 *    seed. Blocks lose their magic number as they are freed (blocks.c), so what
 *    was once a head is not taken for one in the midst of a later value;
 *  - nobody else's: an unpublished value has no version and no list of the index
 *    leads to it; none is adopted twice; and where the old process left in order
 *    it has said how many blocks it leaves so.
 *
 * During a repair what is adopted gets the present tag, or ORPHANS would free
 * it. An item that the index still leads to must keep its old one: INDEX gives it
 * the new one, and takes an item that has it already for a damaged one.
 */
#include <stdlib.h>

#include "internal.h"

void sd_store_settle(sd_store_t *s)
{
    free(s->adopted);
    s->adopted = NULL;
}

void sd_chain_save(const sd_chain_t *chain, sd_chain_state_t *state)
{
    memset(state, 0, sizeof *state);
    state->head = chain->head;
    state->blocks = chain->blocks;
    state->data_len = chain->data_len;
}

void sd_ref_save(const sd_ref_t *ref, sd_ref_state_t *state)
{
    memset(state, 0, sizeof *state);
    state->version = ref->version;
    state->head = ref->head;
    state->data_len = ref->data_len;
    state->left = ref->left;
}

bool sd_store_hand_over(sd_store_t **store)
{
    sd_store_t *s = *store;
    uint32_t held;
    bool marked = false;

    if (!s)
        return false;
    *store = NULL;
    sd_store_flush(s);
    SD_KILL_POINT("store_hand_over: lists flushed, not clean");
    held = atomic_load(&s->incoming) + atomic_load(&s->detached);
    /* What this process was told of and never adopted, nobody has: see detach. */
    if (s->repair.phase == SD_REPAIR_NONE && s->unadopted == 0) {
        s->header->held = held;
        SD_KILL_POINT("store_hand_over: what is held is counted, not clean");
        __atomic_store_n(&s->header->clean, held == 0 ? SD_CLEAN : SD_CLEAN_HELD, __ATOMIC_SEQ_CST);
        marked = true;
    }
    SD_KILL_POINT("store_hand_over: marked");
    sd_store_free(s);
    return marked;
}

/* Does a chain of exactly `n` blocks begin here, all of them in use? `tagged`:
 * all carry the present tag; else none does. */
static bool is_whole(const sd_store_t *s, uint32_t head, uint32_t n, bool tagged)
{
    uint32_t fresh = s->header->fresh, at = head, i;

    if (n == 0 || n >= fresh)
        return false;
    for (i = 0; i < n; i++) {
        uint32_t word;

        if (at == 0 || at >= fresh)
            return false;
        word = atomic_load_explicit(&s->links[at], memory_order_relaxed);
        if (sd_link_is_free(word) || ((word & ~SD_LINK_NEXT) == s->tag) != tagged)
            return false;
        at = word & SD_LINK_NEXT;
    }
    return at == 0;
}

/* Does this chain, long enough for its key, begin as sd_chain_open begins one? */
static bool is_head(const sd_store_t *s, uint32_t head, uint64_t *hash)
{
    const sd_item_t *item = sd_item(s, head);
    unsigned char key[SD_KEY_MAX];

    if (item->magic != SD_ITEM_MAGIC || item->key_len == 0)
        return false;
    *hash = sd_hash(s, key, sd_item_key_copy(s, head, key));
    return item->hash == (uint32_t)*hash;
}

typedef enum place { UNREACHABLE, REACHABLE, NOWHERE } place_t;

/* Does the list of its bucket lead to this block? By its number: the key need
 * not be compared with any other, so no other item is believed. NOWHERE: the
 * list is damaged. */
static place_t place_of(const sd_store_t *s, uint64_t hash, uint32_t head)
{
    uint32_t at = atomic_load(&s->buckets[sd_bucket_of(s, hash)]), passed = 0, n;

    for (n = 0; at != 0; at = sd_item(s, at)->next, n++) {
        if (at == head)
            return REACHABLE;
        if (at >= s->header->fresh || at == passed)
            return NOWHERE;
        if ((n & (n - 1)) == 0) /* at 0, 1, 2, 4, 8: any circle is met */
            passed = at;
    }
    return UNREACHABLE;
}

/* Takes over a chain of `n` blocks that no item owns; false if it is another's. */
static bool take_over(sd_store_t *s, uint32_t head, uint32_t n)
{
    bool repairing = s->repair.phase != SD_REPAIR_NONE;
    uint32_t at;

    if (!repairing && n > s->unadopted)
        return false;
    if (!s->adopted)
        s->adopted = calloc(s->block_count / 8 + 1, 1);
    if (!s->adopted)
        return false;
    for (at = head; at != 0; at = sd_link_next(s, at))
        if (s->adopted[at / 8] & 1u << at % 8)
            return false;
    for (at = head; at != 0; at = sd_link_next(s, at))
        s->adopted[at / 8] = (unsigned char)(s->adopted[at / 8] | 1u << at % 8);
    if (repairing)
        sd_repair_keep(s, head);
    else
        s->unadopted -= n;
    return true;
}

/* Block number `n` of a chain, counted from 0; 0 = it ends before. */
static uint32_t nth_block(const sd_store_t *s, uint32_t block, uint64_t n)
{
    for (; n > 0 && block != 0; n--)
        block = sd_link_next(s, block);
    return block;
}

sd_status_t sd_chain_adopt(sd_lane_t *lane, const sd_chain_state_t *state, sd_chain_t *c)
{
    sd_store_t *s = lane->store;
    uint64_t room = (uint64_t)state->blocks * SD_BLOCK_BYTES, bytes, full, hash;
    const sd_item_t *item;

    memset(c, 0, sizeof *c);
    if (!is_whole(s, state->head, state->blocks, s->repair.phase == SD_REPAIR_NONE))
        return SD_INVALID;
    item = sd_item(s, state->head);
    bytes = sizeof *item + (uint64_t)item->key_len + state->data_len;
    if (item->version != 0 || state->data_len > INT32_MAX || bytes > room
        || room - bytes > UINT32_MAX || !is_head(s, state->head, &hash)
        || place_of(s, hash, state->head) != UNREACHABLE || !take_over(s, state->head, state->blocks))
        return SD_INVALID;
    SD_KILL_POINT("chain_adopt: adopted");
    c->hash = hash;
    c->head = state->head;
    c->blocks = state->blocks;
    c->data_len = state->data_len;
    c->key_len = item->key_len;
    c->space = (uint32_t)(room - bytes);
    full = (bytes - 1) / SD_BLOCK_BYTES; /* at the end of a full block it stays: chain.c, step */
    c->write = nth_block(s, c->head, full);
    c->write_at = (uint32_t)(bytes - full * SD_BLOCK_BYTES);
    c->last = nth_block(s, c->write, c->blocks - 1 - full);
    atomic_fetch_add_explicit(&s->incoming, c->blocks, memory_order_relaxed);
    return SD_OK;
}

sd_status_t sd_ref_adopt(sd_lane_t *lane, const sd_ref_state_t *state, sd_ref_t *ref)
{
    sd_store_t *s = lane->store;
    sd_pins_t *pins;
    const sd_item_t *item;
    uint64_t at, hash;
    uint32_t n;
    place_t place;
    bool known; /* another reference has taken over this value's blocks */

    memset(ref, 0, sizeof *ref);
    if (state->head == 0 || state->head >= s->header->fresh)
        return SD_INVALID;
    pins = &s->pins[state->head];
    item = sd_item(s, state->head);
    n = sd_item_blocks(item->key_len, state->data_len);
    known = atomic_load(pins) & SD_PIN_DETACHED;
    if (state->left > state->data_len || state->version == 0 || item->version != state->version
        || sd_item_is_gone(item)
        || state->version > atomic_load(&s->header->version) || item->data_len != state->data_len
        || !is_whole(s, state->head, n, known || s->repair.phase == SD_REPAIR_NONE)
        || !is_head(s, state->head, &hash))
        return SD_INVALID;
    place = place_of(s, hash, state->head);
    if (place == NOWHERE)
        return SD_INVALID;
    if ((atomic_load(pins) & ~SD_PIN_DETACHED) >= SD_PIN_MAX)
        return SD_BUSY;
    if (place == UNREACHABLE && !known) {
        if (!take_over(s, state->head, n))
            return SD_INVALID;
        SD_KILL_POINT("ref_adopt: taken over, not pinned");
        atomic_fetch_add(&s->detached, n);
        atomic_fetch_or(pins, SD_PIN_DETACHED);
    }
    atomic_fetch_add(pins, 1);
    SD_KILL_POINT("ref_adopt: adopted");
    ref->version = item->version;
    ref->expiry = item->expiry;
    ref->head = state->head;
    ref->data_len = state->data_len;
    ref->left = state->left;
    at = sizeof *item + (uint64_t)item->key_len + (state->data_len - state->left);
    ref->block = nth_block(s, ref->head, at / SD_BLOCK_BYTES);
    ref->block_at = (uint32_t)(at % SD_BLOCK_BYTES);
    return SD_OK;
}
