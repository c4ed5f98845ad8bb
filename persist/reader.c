/* SPDX-License-Identifier: Apache-2.0
 *
 * reader.c: the child's work. It may crash at any step where LMDB or the mapped
 * file betrays it; so it notes on the desk where it is before it takes each, and
 * says a sentence itself where it can. Nothing here writes to the directory.
 */
#include "persist/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "persist/internal.h"
#include "persist/pages.h"
#include "persist/seen.h"

#define OUT_BYTES (256u << 10)
#define TOUCH_BYTES ((size_t)1 << 20)

typedef struct reader {
    const sd_reader_order_t *order;
    sd_desk_t *desk;
    int says;
    unsigned char *out;   /* notes on their way */
    size_t out_len;
    uint64_t notes;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi chunks, state_table;
    sd_reader_opening_t opening;
    sd_reader_trailer_t trailer;
    sd_seen_t *seen;
    uint32_t *offsets;    /* of the records of the chunk at hand */
    uint32_t offsets_room;
} reader_t;

static void beat(reader_t *r)
{
    atomic_fetch_add(&r->desk->beats, 1);
}

/* ---- what it says ---- */

static void write_all(reader_t *r, const void *bytes, size_t len)
{
    const unsigned char *at = bytes;

    while (len > 0) {
        ssize_t n = write(r->says, at, len);

        if (n < 0 && errno != EINTR)
            _exit(1); /* the parent does not listen any more */
        if (n > 0) {
            at += n;
            len -= (size_t)n;
            beat(r);
        }
    }
}

static void flush(reader_t *r)
{
    write_all(r, r->out, r->out_len);
    r->out_len = 0;
}

static void say(reader_t *r, const void *bytes, size_t len)
{
    if (len > OUT_BYTES - r->out_len)
        flush(r);
    if (len > OUT_BYTES) {
        write_all(r, bytes, len);
        return;
    }
    memcpy(r->out + r->out_len, bytes, len);
    r->out_len += len;
}

static void note(reader_t *r, sd_note_kind_t kind, const void *bytes, size_t len)
{
    sd_note_t head;

    memset(&head, 0, sizeof head);
    head.magic = SD_NOTE_MAGIC;
    head.kind = (uint32_t)kind;
    head.number = r->notes++;
    head.len = (uint32_t)len;
    say(r, &head, sizeof head);
    say(r, bytes, len);
}

static void note_record(reader_t *r, const sd_record_t *record, uint64_t expiry)
{
    sd_note_t head;

    memset(&head, 0, sizeof head);
    head.magic = SD_NOTE_MAGIC;
    head.kind = SD_NOTE_RECORD;
    head.number = r->notes++;
    head.version = record->version;
    head.expiry = expiry;
    head.len = record->data_len;
    head.key_len = record->key_len;
    say(r, &head, sizeof head);
    say(r, record->key, (size_t)record->key_len + record->data_len); /* they stand together */
}

static void __attribute__((format(printf, 3, 4), noreturn))
refuse(reader_t *r, sd_persist_status_t status, const char *format, ...)
{
    sd_reader_refusal_t refusal;
    va_list args;

    memset(&refusal, 0, sizeof refusal);
    refusal.status = (uint32_t)status;
    va_start(args, format);
    vsnprintf(refusal.text, sizeof refusal.text, format, args);
    va_end(args);
    note(r, SD_NOTE_REFUSED, &refusal, sizeof refusal);
    flush(r);
    _exit(0);
}

/* ---- what it reads ---- */

/* Before LMDB is let near it. */
static void look_at_pages(reader_t *r, sd_pages_info_t *info)
{
    char path[SD_PERSIST_PATH], text[SD_PERSIST_REASON];
    sd_persist_status_t status;
    int fd;

    if (!sd_persist_path(path, r->order->dir, "data.mdb"))
        refuse(r, SD_PERSIST_FAILED, "its name is too long");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        refuse(r, SD_PERSIST_FAILED, "it cannot be opened: %s", strerror(errno));
    status = sd_pages_check(fd, r->desk, info, text);
    if (status != SD_PERSIST_OK)
        refuse(r, status, "%s", text);
    close(fd);
}

static void open_database(reader_t *r)
{
    int rc = sd_env_open(r->order->dir, MDB_RDONLY | MDB_NOLOCK, 0, &r->env);

    if (rc == MDB_INVALID || rc == MDB_VERSION_MISMATCH)
        refuse(r, SD_PERSIST_ALIEN, "it is no LMDB database of this kind of machine, or its first page is damaged (%s)",
               mdb_strerror(rc));
    if (rc != 0)
        refuse(r, SD_PERSIST_FAILED, "it cannot be opened: %s", mdb_strerror(rc));
    beat(r);
}

static void open_tables(reader_t *r)
{
    const sd_journal_witness_t *w = &r->order->witness;
    sd_journal_state_t *state = &r->opening.state;
    MDB_val key = { sizeof SD_STATE_KEY - 1, (void *)SD_STATE_KEY }, val;
    const char *wrong;
    int rc = mdb_txn_begin(r->env, NULL, MDB_RDONLY, &r->txn);

    if (rc != 0)
        refuse(r, SD_PERSIST_DAMAGED, "it cannot be read: %s", mdb_strerror(rc));
    rc = sd_tables_open(r->txn, 0, &r->chunks, &r->state_table);
    if (rc == MDB_NOTFOUND)
        refuse(r, SD_PERSIST_ALIEN, "it is an LMDB database without our tables");
    if (rc == MDB_INCOMPATIBLE)
        refuse(r, SD_PERSIST_ALIEN, "it is an LMDB database whose tables are not ours");
    if (rc == 0)
        rc = mdb_get(r->txn, r->state_table, &key, &val);
    if (rc == MDB_NOTFOUND)
        refuse(r, SD_PERSIST_ALIEN, "its table of the state has no state");
    if (rc != 0)
        refuse(r, SD_PERSIST_DAMAGED, "its state cannot be found: %s", mdb_strerror(rc));
    beat(r);
    wrong = sd_state_read(val.mv_data, val.mv_size, state);
    if (wrong != NULL)
        refuse(r, strstr(wrong, "checksum") != NULL || strstr(wrong, "sense") != NULL ? SD_PERSIST_DAMAGED : SD_PERSIST_ALIEN,
               "its state: %s", wrong);
    if (r->order->has_witness && memcmp(w->id, state->id, sizeof w->id) == 0 && w->serial > state->serial)
        refuse(r, SD_PERSIST_DAMAGED, "it shows the state after commit %llu, but %llu was the last one: its first pages are damaged, or it is an older copy (then remove the file owner)",
               (unsigned long long)state->serial, (unsigned long long)w->serial);
}

/* A large chunk takes a while to come from the disk: each step of it is a beat. */
static void fetch(reader_t *r, const MDB_val *val)
{
    const volatile unsigned char *at = val->mv_data;
    size_t i, next = TOUCH_BYTES;
    unsigned char all = 0;

    for (i = 0; i < val->mv_size; i += 4096) {
        all |= at[i];
        if (i >= next) {
            next += TOUCH_BYTES;
            beat(r);
        }
    }
    (void)all;
}

static void find_offsets(reader_t *r, const MDB_val *val, uint32_t records)
{
    sd_record_t record;
    size_t offset = SD_CHUNK_HEAD;
    uint32_t i;

    if (records > r->offsets_room) {
        free(r->offsets);
        r->offsets = malloc(sizeof *r->offsets * records);
        if (r->offsets == NULL)
            refuse(r, SD_PERSIST_FAILED, "no memory for the %u records of a chunk", records);
        r->offsets_room = records;
    }
    for (i = 0; i < records; i++) {
        r->offsets[i] = (uint32_t)offset;
        offset = sd_chunk_record(val->mv_data, val->mv_size, offset, &record);
    }
}

static void judge(reader_t *r, const sd_record_t *record, bool tell)
{
    uint64_t expiry = 0;

    switch (sd_seen_judge(r->seen, record, r->opening.wall_ms, &expiry)) {
        case SD_SEEN_TAKE:
            r->trailer.live++;
            r->trailer.live_bytes += record->data_len;
            if (tell)
                note_record(r, record, expiry);
            break;
        case SD_SEEN_EXPIRED: r->trailer.expired++; break;
        case SD_SEEN_REMOVED: r->trailer.removed++; break;
        case SD_SEEN_SUPERSEDED: r->trailer.superseded++; break;
        case SD_SEEN_NOTED: break;
        case SD_SEEN_NO_MEMORY: refuse(r, SD_PERSIST_FAILED, "no memory to remember its keys");
    }
}

/* From the newest chunk to the oldest, and so through each. `check`: nothing has been
 * checked so far. `tell`: the live ones are handed over. */
static void walk(reader_t *r, bool check, bool tell)
{
    const sd_journal_state_t *state = &r->opening.state;
    uint64_t number, bytes = 0, all_before = atomic_load(&r->desk->bytes_done);
    sd_chunk_info_t info;
    sd_record_t record;
    uint32_t i;

    memset(&r->trailer, 0, sizeof r->trailer);
    for (number = state->next; number-- > state->first;) {
        size_t n = (size_t)number;
        MDB_val key = { sizeof n, &n }, val;
        const char *wrong = NULL;
        int rc;

        atomic_store(&r->desk->chunk, number);
        beat(r);
        rc = mdb_get(r->txn, r->chunks, &key, &val);
        if (rc != 0)
            refuse(r, SD_PERSIST_DAMAGED, "chunk %llu (of %llu to %llu) cannot be found: %s", (unsigned long long)number,
                   (unsigned long long)state->first, (unsigned long long)state->next - 1, mdb_strerror(rc));
        if (val.mv_size > TOUCH_BYTES)
            fetch(r, &val);
        if (check)
            wrong = sd_chunk_check(val.mv_data, val.mv_size, number, state->id, &info);
        else
            info.records = sd_chunk_records(val.mv_data);
        if (wrong != NULL)
            refuse(r, SD_PERSIST_DAMAGED, "chunk %llu (of %llu to %llu): %s", (unsigned long long)number,
                   (unsigned long long)state->first, (unsigned long long)state->next - 1, wrong);
        bytes += val.mv_size;
        find_offsets(r, &val, info.records);
        for (i = info.records; i-- > 0;) {
            (void)sd_chunk_record(val.mv_data, val.mv_size, r->offsets[i], &record);
            judge(r, &record, tell);
        }
        atomic_store(&r->desk->bytes_done, all_before + bytes);
        if (tell)
            flush(r);
    }
    atomic_store(&r->desk->chunk, 0);
    if (bytes != state->bytes)
        refuse(r, SD_PERSIST_DAMAGED, "its chunks have %llu bytes, where the state counts %llu", (unsigned long long)bytes,
               (unsigned long long)state->bytes);
}

void sd_reader_work(void *order, sd_desk_t *desk, int says)
{
    static reader_t reader;
    reader_t *r = &reader;
    const sd_journal_state_t *state = &r->opening.state;
    sd_pages_info_t pages;

    r->order = order;
    r->desk = desk;
    r->says = says;
    r->out = malloc(OUT_BYTES);
    if (r->out == NULL)
        _exit(1);
    look_at_pages(r, &pages);
    open_database(r);
    open_tables(r);
    /* what a round left over may stand behind them */
    if (pages.known && state->next > state->first
        && (pages.first_chunk != state->first || pages.chunks < state->next - state->first))
        refuse(r, SD_PERSIST_DAMAGED, "it has %llu chunks from %llu on, where the state counts %llu to %llu",
               (unsigned long long)pages.chunks, (unsigned long long)pages.first_chunk, (unsigned long long)state->first,
               (unsigned long long)state->next - 1);
    r->opening.wall_ms = r->order->wall_ms > r->opening.state.wall_ms ? r->order->wall_ms : r->opening.state.wall_ms;
    note(r, SD_NOTE_STATE, &r->opening, sizeof r->opening);
    flush(r);
    if (!r->order->look_only) {
        r->seen = sd_seen_create(r->order->seed);
        if (r->seen == NULL)
            refuse(r, SD_PERSIST_FAILED, "no memory to remember its keys");
        if (r->order->check_first) {
            walk(r, true, false);
            sd_seen_clear(r->seen);
        }
        walk(r, !r->order->check_first, true);
    }
    r->trailer.state = r->opening.state;
    note(r, SD_NOTE_TRAILER, &r->trailer, sizeof r->trailer);
    flush(r);
}
