/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_damage.c: a segment that somebody has written into, as an input says,
 * and a process that attaches to it. It is refused with a reason or repaired;
 * a repaired one passes check(), takes and gives values, and has every block.
 * The segment ends at a page that nobody may touch.
 *
 *   byte 0   the scene, lanes, eviction; three lanes write behind
 *   then     writes: into the header, a link, a bucket, an item, anywhere
 *
 * Three things are set right before the attach. A segment that was left in order
 * is trusted but for its header, so damage elsewhere comes with an end out of
 * order. No block has the tag of the process to come (a repair knows its own
 * blocks by that), unless all tags are used up. And a version counter that is
 * just low enough to be believed is lowered, so that it stays believed.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "t/unit/store_fixture.h"

enum { LISTED = 5, OTHERS = 30, KEYS = LISTED + OTHERS, LIVE = 1000000, WRITES = 64 };

/* How the last process ended. LAST_TAG: as the fourteenth in a row before its
 * repair was over; AGAIN: over the repair that is made with the last tag. */
typedef enum { DEAD, IN_ORDER, LAST_TAG, AGAIN, SCENES } ending_t;

typedef struct scene {
    int fd; /* the segment as that process left it; -1 = not made yet */
    test_key_t key[KEYS];
    uint32_t item[KEYS], bucket[KEYS];
} scene_t;

static const size_t mapped = MIB + 4096, offset = 8;

/* ---- scenes ---- */

/* Five items in one bucket, the others anywhere; some values were on their way
 * in, or held by readers, when it ended. */
static void store_items(fixture_t *f, scene_t *c)
{
    uint32_t n = 0, i;

    for (i = 0; i < KEYS; i++) {
        do
            c->key[i] = numbered_key(n++, i % 4 == 2 ? 240 : 12);
        while ((bucket_of_key(f, &c->key[i]) == 77) != (i < LISTED));
        put_ok(f, &c->key[i], i, 10 + i * 37, f->now + LIVE + i);
        c->item[i] = item_of(f, &c->key[i]);
        c->bucket[i] = bucket_of_key(f, &c->key[i]);
    }
}

static void leave_things_undone(fixture_t *f)
{
    test_key_t key = numbered_key(500000, 12);
    sd_chain_t incoming;
    sd_ref_t held;

    put_ok(f, &key, 1, 2000, f->now + LIVE);
    must(sd_store_get(f->lane, key.bytes, key.len, f->now, &held) == SD_OK);
    must(delete_key(f, &key) == SD_OK);
    must(sd_chain_open(f->lane, &incoming, key.bytes, key.len, f->now) == SD_OK);
    must(sd_chain_reserve(f->lane, &incoming, 3000, f->now) == SD_OK);
}

static void use_up_tags(fixture_t *f, uint32_t deaths)
{
    for (; deaths > 0; deaths--) {
        uint32_t repaired = f->store->header->repaired_epoch;

        fixture_die(f);
        fixture_attach(f, 1, false);
        f->store->header->repaired_epoch = repaired; /* ... as it died before that */
    }
}

static void make_scene(scene_t *c, ending_t ending)
{
    fixture_t *f = calloc(1, sizeof *f);

    must(f);
    fixture_open(f, mapped - offset, 2, false);
    must(f->mapped == mapped && f->raw == f->map + offset);
    store_items(f, c);
    if (ending == IN_ORDER)
        fixture_detach(f);
    else {
        leave_things_undone(f);
        if (ending == LAST_TAG)
            use_up_tags(f, SD_EPOCH_MAX - 2);
        if (ending == AGAIN)
            use_up_tags(f, SD_EPOCH_MAX - 1);
        fixture_die(f);
    }
    c->fd = memfd_create("segment", MFD_CLOEXEC);
    must(c->fd >= 0 && write(c->fd, f->map, mapped) == (ssize_t)mapped);
    fixture_unmap(f);
    free(f);
}

/* A copy of the scene's segment, between two pages that nobody may touch. */
static void show_scene(fixture_t *f, const scene_t *c)
{
    static unsigned char *place;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    if (!place) {
        place = mmap(NULL, mapped + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(place != MAP_FAILED);
        place += page;
    }
    memset(f, 0, sizeof *f);
    f->map = mmap(place, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, c->fd, 0);
    must(f->map == place);
    f->mapped = mapped;
    f->raw = f->map + offset;
    f->size = mapped - offset;
    f->now = 1000000; /* as fixture_map has it */
}

/* ---- damage ---- */

typedef struct damage {
    input_t *in;
    const scene_t *scene;
    sd_store_t at; /* addresses only, taken before the first write */
    uint32_t fresh, size;
} damage_t;

/* A block in use, or one of the first that are not; rarely one far outside. */
static uint32_t any_block(damage_t *d)
{
    uint32_t n = (uint32_t)input_number(d->in, 2);

    return n == 0xffff ? (uint32_t)input_number(d->in, 4) : n % (d->fresh + 8);
}

static uint32_t any_link(damage_t *d)
{
    return (uint32_t)input_number(d->in, 2) % (d->fresh + 8);
}

static void write_bytes(damage_t *d, unsigned char *at, size_t room)
{
    size_t n = 1 + input_byte(d->in) % 8, got;
    const uint8_t *bytes = input_take(d->in, n < room ? n : room, &got);

    if (got > 0)
        memcpy(at, bytes, got);
}

static void write_somewhere(damage_t *d)
{
    unsigned char *base = (unsigned char *)d->at.header;
    uint32_t which = input_byte(d->in) % KEYS, block, at;
    sd_item_t *item = sd_item(&d->at, d->scene->item[which]);

    switch (input_byte(d->in) % 8) {
    case 0:
        at = (uint32_t)input_number(d->in, 3) % d->size;
        write_bytes(d, base + at, d->size - at);
        break;
    case 1:
        at = (uint32_t)input_number(d->in, 2) % SD_HEADER_BYTES;
        write_bytes(d, base + at, SD_HEADER_BYTES - at);
        break;
    case 2:
        block = any_link(d);
        sd_link_set(&d->at, block, (uint32_t)input_number(d->in, 4));
        break;
    case 3: /* another neighbour, the same tag */
        block = any_link(d);
        sd_link_set(&d->at, block, (atomic_load(&d->at.links[block]) & ~SD_LINK_NEXT)
                                       | (any_block(d) & SD_LINK_NEXT));
        break;
    case 4:
        atomic_store(&d->at.buckets[d->scene->bucket[which]], any_block(d));
        break;
    case 5:
        at = input_byte(d->in) % (uint32_t)sizeof *item;
        write_bytes(d, (unsigned char *)item + at, sizeof *item - at);
        break;
    case 6:
        item->next = any_block(d);
        break;
    default:
        at = input_byte(d->in) % (uint32_t)(d->at.shard_count * sizeof(sd_shard_t));
        write_bytes(d, (unsigned char *)d->at.shards + at, d->at.shard_count * sizeof(sd_shard_t) - at);
    }
}

static void damage_header(damage_t *d)
{
    uint32_t at = (uint32_t)input_number(d->in, 2) % SD_HEADER_BYTES;

    write_bytes(d, (unsigned char *)d->at.header + at, SD_HEADER_BYTES - at);
}

/* See the top. */
static void set_right(damage_t *d, ending_t ending)
{
    sd_header_t *h = d->at.header;
    uint32_t used = (h->epoch + SD_EPOCH_MAX - h->repaired_epoch) % SD_EPOCH_MAX;
    uint32_t tag = h->epoch % SD_EPOCH_MAX + 1, block;

    if (ending != IN_ORDER && h->clean == 1)
        h->clean = 0;
    if (atomic_load(&h->version) <= INT64_MAX && atomic_load(&h->version) > INT64_MAX - 1000)
        atomic_fetch_sub(&h->version, 1000);
    if (used == SD_EPOCH_MAX - 1)
        return;
    for (block = 1; block < d->fresh + 8; block++)
        if (atomic_load(&d->at.links[block]) >> SD_LINK_TAG_SHIFT == tag)
            sd_link_set(&d->at, block, sd_link_next(&d->at, block));
}

static void do_damage(fixture_t *f, const scene_t *c, ending_t ending, input_t *in)
{
    damage_t d = { .in = in, .scene = c };
    uint32_t n;

    must(sd_segment_map(&d.at, f->raw, f->size) == NULL);
    d.fresh = d.at.header->fresh;
    d.size = (uint32_t)d.at.header->size;
    for (n = 0; n < WRITES && in->left > 0; n++)
        if (ending == IN_ORDER)
            damage_header(&d);
        else
            write_somewhere(&d);
    set_right(&d, ending);
}

/* ---- what must hold ---- */

static bool attach(fixture_t *f, uint32_t lanes, bool evict)
{
    sd_store_options_t options = { lanes, evict, f->counters, false, f->writes_behind };
    const char *reason = "unset";
    sd_segment_info_t info;
    bool known = sd_segment_peek(f->raw, f->size, &info) == SD_OK;
    sd_status_t status = sd_store_attach(&f->store, f->raw, f->size, &options, &reason);

    must(status != SD_OK
         || (known && (info.layout_version == SD_LAYOUT_VERSION || info.layout_version == SD_LAYOUT_BEFORE)));
    f->lanes = lanes;
    if (status == SD_OK) {
        must(f->store && !reason);
        f->lane = sd_store_lane(f->store, 0);
        return true;
    }
    must(status == SD_INVALID && !f->store && reason && *reason);
    return false;
}

/* One value takes every block that is free, and gives it back. */
static void take_every_block(fixture_t *f)
{
    test_key_t key = numbered_key(600000, 12);
    uint64_t used = blocks_used(f);
    sd_chain_t chain;
    uint32_t n = 0;

    must(sd_chain_open(f->lane, &chain, key.bytes, key.len, f->now) == SD_OK);
    while (sd_chain_reserve(f->lane, &chain, chain.space + 1, f->now) == SD_OK)
        must(++n <= f->store->block_count);
    must(chain.blocks + used + f->store->reserve >= f->store->block_count);
    sd_chain_discard(f->lane, &chain);
}

static void read_value(fixture_t *f, const test_key_t *key)
{
    struct iovec iov[4];
    size_t bytes;
    sd_ref_t ref;

    if (sd_store_get(f->lane, key->bytes, key->len, f->now, &ref) != SD_OK)
        return;
    while (ref.left > 0) {
        must(sd_ref_iov(f->lane, &ref, iov, 4, &bytes) > 0);
        sd_ref_advance(f->lane, &ref, bytes);
    }
    sd_ref_release(f->lane, &ref);
}

static void use(fixture_t *f, const scene_t *c)
{
    uint32_t i;

    for (i = 0; i < KEYS; i++) {
        read_value(f, &c->key[i]);
        put_ok(f, &c->key[i], 1000 + i, 300 + i, f->now + LIVE);
    }
    for (i = 0; i < KEYS; i++)
        assert_value(f, &c->key[i], 1000 + i, 300 + i);
    for (i = 0; i < KEYS; i += 2)
        must(delete_key(f, &c->key[i]) == SD_OK);
    sd_store_sweep(f->lane, f->now + LIVE, UINT32_MAX);
    assert_clean(f->store);
    if (!f->evict)
        take_every_block(f);
}

/* The whole repair, and a second one where a process has died over the first
 * with the last tag: that one cannot tell all damage from its own work. */
static void repair(fixture_t *f, uint32_t lanes, bool evict)
{
    bool again = f->store->repair.again;

    fixture_repair(f);
    if (again) {
        fixture_die(f);
        must(attach(f, lanes, evict));
        must(!f->store->repair.again);
        fixture_repair(f);
    }
    assert_clean(f->store);
}

/* Taken as it is: then its numbers are those of an end in order. */
static void must_look_in_order(const fixture_t *f, ending_t ending)
{
    const sd_header_t *h = f->store->header;
    uint32_t i;

    must(ending == IN_ORDER && h->epoch == h->repaired_epoch);
    must(h->pool_head < h->fresh && h->pool_count < h->fresh);
    for (i = 0; i < SD_LANES_MAX; i++)
        must(h->lanes[i].head == 0 && h->lanes[i].count == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static scene_t scenes[SCENES] = { { .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 } };
    static fixture_t f;
    input_t in = { data, size };
    uint8_t choice = input_byte(&in);
    ending_t ending = (ending_t)(choice % SCENES);
    scene_t *c = &scenes[ending];
    uint32_t lanes = 1 + (choice >> 2) % 3;
    bool evict = choice & 0x80;

    if (c->fd < 0)
        make_scene(c, ending);
    show_scene(&f, c);
    f.evict = evict;
    f.writes_behind = lanes == 3;
    do_damage(&f, c, ending, &in);
    if (!attach(&f, lanes, evict))
        return 0;
    if (f.store->repair.phase == SD_REPAIR_NONE && !f.store->repair.alone) {
        must_look_in_order(&f, ending);
        fixture_detach(&f);
        return 0;
    }
    repair(&f, lanes, evict);
    use(&f, c);
    fixture_detach(&f);
    must(attach(&f, 1, evict) && f.store->repair.phase == SD_REPAIR_NONE);
    assert_clean(f.store);
    fixture_detach(&f);
    return 0;
}
