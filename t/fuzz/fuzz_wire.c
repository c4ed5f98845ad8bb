/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_wire.c: whole conversations over a real store. An input is played twice,
 * each talk in one piece, then in pieces that the input chooses. A referee holds
 * both against doc/protocol.md; and where memory was never short both must have
 * got the same bytes to the last one. check() must be clean at the end, and
 * every block free once all has expired.
 *
 *   byte 0   bits 0 to 2 SessiondMaxSize, 3 eviction, 4 to 6 how much memory is
 *            left, 7 a very long greeting
 *   byte 1   how many cuts follow (client.c), then these
 *   then     talks: a byte (bits 0 to 2 time that passes before, 3 a new
 *            connection), a 16-bit little-endian length, so many bytes
 */
#include <stdlib.h>

#include "client.h"
#include "fuzz.h"
#include "referee.h"

enum { TALKS = 64, CUTS = 32 };

typedef struct talk {
    const uint8_t *bytes;
    size_t n, never; /* no piece may end at `never` */
    uint32_t wait;   /* ms */
    bool anew;
} talk_t;

typedef struct script {
    sd_limits_t limits;
    bool evict;
    uint32_t leave; /* blocks */
    cuts_t cuts;
    talk_t talk[TALKS];
    uint32_t talks;
} script_t;

/* What a run came to: all answers and ends, one behind the other. */
typedef struct record {
    uint8_t *bytes;
    size_t len, room;
    bool short_of_memory;
} record_t;

static char long_greeting[1000];

static void read_script(script_t *s, input_t in)
{
    static const uint64_t max_sizes[] = { 1 << 20, 3000, 256, 255, 10, 1, UINT32_MAX, UINT64_MAX };
    static const uint32_t leaves[] = { UINT32_MAX, 1, 41, 42, 43, 46, 60, 300 };
    static const uint32_t waits[] = { 0, 0, 1, 500, 999, 1000, 1001, 3600000 };
    uint8_t choice = input_byte(&in);

    memset(s, 0, sizeof *s);
    s->limits = (sd_limits_t){ max_sizes[choice & 7], 1000, choice & 0x80 ? long_greeting : "greeting" };
    s->evict = choice & 8;
    s->leave = leaves[choice >> 4 & 7];
    s->cuts.bytes = input_take(&in, input_byte(&in) % CUTS, &s->cuts.n);
    while (s->talks < TALKS && in.left > 0) {
        talk_t *t = &s->talk[s->talks++];
        uint8_t head = input_byte(&in);

        t->wait = waits[head & 7];
        t->anew = head & 8;
        t->bytes = input_take(&in, input_number(&in, 2), &t->n);
        t->never = SIZE_MAX;
    }
}

/* A value on its way in, which nothing is written to, holds all but some blocks. */
static void leave_blocks(fixture_t *f, sd_chain_t *chain, uint32_t leave)
{
    uint32_t blocks = f->store->block_count;

    memset(chain, 0, sizeof *chain);
    if (leave >= blocks)
        return;
    must(sd_chain_open(f->lane, chain, "filler", 6, f->now) == SD_OK);
    must(sd_chain_reserve(f->lane, chain, (blocks - leave - 1) * SD_BLOCK_BYTES, f->now) == SD_OK
         || leave <= f->store->reserve);
}

static void note(record_t *record, const void *bytes, size_t n)
{
    if (record->len + n > record->room) {
        record->room = 2 * (record->len + n);
        record->bytes = realloc(record->bytes, record->room);
        must(record->bytes);
    }
    if (n > 0)
        memcpy(record->bytes + record->len, bytes, n);
    record->len += n;
}

/* Only a value that is being taken holds memory, and about twice what has come. */
static void judge_memory(const client_t *client, const fixture_t *f, const sd_chain_t *filler)
{
    uint32_t held = atomic_load(&f->store->incoming) - filler->blocks;
    uint64_t come = sd_wire_size(&client->wire) - sd_wire_wanted(&client->wire);

    if (sd_wire_is_taking(&client->wire))
        must(held <= sd_item_blocks(SD_KEY_MAX, 1024) + 2 * (come / SD_BLOCK_BYTES + 1));
    else
        must(held == 0);
}

static void play_talks(script_t *s, client_t *client, referee_t *referee, record_t *record,
                       const fixture_t *f, const sd_chain_t *filler)
{
    uint32_t i;

    for (i = 0; i < s->talks; i++) {
        talk_t *t = &s->talk[i];
        outcome_t o;
        uint8_t after;

        if (t->anew) {
            client_connect(client);
            referee_hang_up(referee);
        }
        client->exec.now += t->wait;
        referee->now = client->exec.now;
        o = client_talk(client, t->bytes, t->n, t->never);
        referee_judge(referee, t->bytes, t->n, &o, client);
        judge_memory(client, f, filler);
        if (client->cuts.n == 0)
            t->never = o.stopped;
        note(record, o.answer, o.len);
        after = (uint8_t)o.after;
        note(record, &after, 1);
    }
}

static void play(script_t *s, cuts_t cuts, record_t *record)
{
    static fixture_t f;
    sd_chain_t filler;
    client_t client;
    referee_t referee;
    sd_usage_t usage;

    fixture_open(&f, MIB, 1, s->evict);
    leave_blocks(&f, &filler, s->leave);
    client_setup(&client, f.lane, &s->limits, cuts);
    client.exec.now = f.now;
    referee_setup(&referee, &s->limits, f.counters, s->evict);
    referee.now = f.now;
    play_talks(s, &client, &referee, record, &f, &filler);
    f.now = client.exec.now;
    client_teardown(&client);
    referee_judge_end(&referee, &f);
    referee_teardown(&referee);
    record->short_of_memory = counter_sum(&f, refused_full) > 0 || counter_sum(&f, evicted) > 0;

    sd_chain_discard(f.lane, &filler);
    assert_clean(f.store);
    sd_store_sweep(f.lane, f.now + (uint64_t)SD_TTL_MAX * 1000, UINT32_MAX);
    sd_store_usage(f.store, &usage);
    must(usage.items == 0 && usage.blocks_free == usage.blocks && usage.blocks_incoming == 0);
    fixture_detach(&f);
    fixture_unmap(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static script_t s;
    record_t whole = { 0 }, cut = { 0 };

    if (size > CLIENT_SENT_MAX)
        return 0;
    if (!long_greeting[0])
        memset(long_greeting, 'g', sizeof long_greeting - 1);
    read_script(&s, (input_t){ data, size });
    play(&s, (cuts_t){ NULL, 0, 0 }, &whole);
    if (s.cuts.n > 0) {
        play(&s, s.cuts, &cut);
        if (!whole.short_of_memory && !cut.short_of_memory) {
            must(whole.len == cut.len);
            must(whole.len == 0 || memcmp(whole.bytes, cut.bytes, whole.len) == 0);
        }
    }
    free(whole.bytes);
    free(cut.bytes);
    return 0;
}
