/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_store.c: an input as a program of the store's operations, made on the
 * store and on the model of t/unit beside it: values that come in piece by
 * piece, conditional writes, slow readers, deletes, sweeps, time, processes
 * that end in order or not, and steps of the repair in between. Each outcome is
 * compared, and check() must be clean at the end.
 *
 *   byte 0   lanes, eviction, how much of the segment is taken from the start
 *   byte 1   the longest lifetime; is it written behind?
 *   then     what store_model.c and the operations below roll, byte by byte
 */
#include "fuzz.h"
#include "t/unit/store_model.h"

enum { KEYS = 40, LONGEST = 30000, OPERATIONS = 400 };

/* Values are small, and a full segment is where the hard cases are. So a value
 * on its way in, which nothing is written to, holds all but some blocks. */
static void take_all_but(fixture_t *f, sd_chain_t *chain, uint32_t level)
{
    static const uint32_t leave[] = { UINT32_MAX, 3000, 700, 300, 120, 60, 45, 41 };
    uint32_t blocks = f->store->block_count, rest = leave[level];

    memset(chain, 0, sizeof *chain);
    if (rest >= blocks)
        return;
    must(sd_chain_open(f->lane, chain, "filler", 6, f->now) == SD_OK);
    must(sd_chain_reserve(f->lane, chain, (blocks - rest - 1) * SD_BLOCK_BYTES, f->now) == SD_OK);
}

/* A value as large as the store says it could take now finds room. */
static void try_the_largest(model_t *m)
{
    test_key_t key = numbered_key(1000000, 255);
    sd_usage_t usage;
    sd_chain_t chain;

    sd_store_usage(m->f->store, &usage);
    must(usage.blocks_free <= usage.blocks && usage.blocks_incoming <= usage.blocks);
    must(usage.largest <= (uint64_t)usage.blocks * usage.block_bytes);
    if (m->repairing || m->f->lanes != 1 || usage.largest == 0)
        return;
    must(sd_chain_open(m->f->lane, &chain, key.bytes, key.len, m->f->now) == SD_OK);
    must(sd_chain_reserve(m->f->lane, &chain, (uint32_t)usage.largest, m->f->now) == SD_OK);
    sd_chain_discard(m->f->lane, &chain);
}

/* As fast as processes can die: each but the last before its repair is over, or
 * at its very end where it had to be made before anything else. */
static void die_again_and_again(model_t *m, uint32_t deaths)
{
    while (deaths-- > 0) {
        uint32_t repaired = m->f->store->header->repaired_epoch;

        model_die(m, m->f->lanes);
        if (!m->repairing)
            m->f->store->header->repaired_epoch = repaired;
    }
    model_die(m, m->f->lanes);
}

/* To the very moment at which a value expires, or the last one before. */
static void move_to_an_expiry(model_t *m)
{
    const model_entry_t *e = &m->entries[dice_below(&m->dice, KEYS)];
    uint64_t at = e->expiry - dice_below(&m->dice, 2);

    if (e->present && at > m->f->now)
        m->f->now = at;
}

static void operate(model_t *m, sd_chain_t *filler)
{
    uint32_t kind = dice_below(&m->dice, 40), lanes;

    if (kind > 8) {
        model_operate(m);
        return;
    }
    switch (kind) {
    case 0:
        model_die(m, 1 + dice_below(&m->dice, 4));
        memset(filler, 0, sizeof *filler);
        break;
    case 1:
        sd_chain_discard(m->f->lane, filler);
        lanes = 1 + dice_below(&m->dice, 4);
        model_restart(m, lanes, dice_below(&m->dice, 2));
        break;
    case 2:
        die_again_and_again(m, dice_below(&m->dice, SD_EPOCH_MAX + 2));
        memset(filler, 0, sizeof *filler);
        break;
    case 3:
        model_verify(m);
        break;
    case 4:
        m->f->now += dice_below(&m->dice, m->ttl * 2);
        break;
    case 5:
        move_to_an_expiry(m);
        break;
    case 6:
        try_the_largest(m);
        break;
    default:
        m->repairing = sd_store_repair(m->f->lane, m->f->now);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t lifetimes[] = { 100, 20000, 3000000, 2000000000 };
    static fixture_t f;
    static disk_t disk;
    sd_chain_t filler;
    model_t m;
    uint32_t n;

    if (size < 3)
        return 0;
    fixture_map(&f, MIB, 8);
    fixture_format(&f);
    f.writes_behind = data[1] & 4;
    fixture_attach(&f, 1 + (data[0] & 3), data[0] & 4);
    model_open(&m, &f, 1, KEYS, LONGEST, lifetimes[data[1] & 3]);
    if (f.writes_behind)
        model_write_to(&m, &disk);
    m.dice = dice_of_bytes(data + 2, size - 2);
    take_all_but(&f, &filler, data[0] >> 5);
    for (n = 0; n < OPERATIONS && m.dice.left > 0; n++)
        operate(&m, &filler);
    sd_chain_discard(f.lane, &filler);
    model_settle(&m); /* check() included */
    model_close(&m);
    fixture_detach(&f);
    fixture_unmap(&f);
    return 0;
}
