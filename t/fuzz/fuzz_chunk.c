/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_chunk.c: a chunk as it may stand in a damaged file, and one that somebody
 * has sealed whose records are anything. What is accepted holds only records that
 * lie within it, and written anew they are the same bytes; whichever records come,
 * a key is handed out once at most. A state and a witness that are accepted are
 * the same when written again.
 *
 *   what it is 1 (0 a chunk, 1 a chunk to be sealed, 2 a state, 3 a witness), the bytes
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "persist/seen.h"

static const unsigned char id[SD_JOURNAL_ID_BYTES] = "0123456789abcde";
static const unsigned char seed[SD_LOAD_SEED_BYTES] = "fuzz";

#define WALL UINT64_C(1000)

static void judge_records(const uint8_t *chunk, size_t len, const sd_chunk_info_t *info)
{
    unsigned char head[SD_RECORD_HEAD + SD_KEY_MAX];
    uint64_t taken = 0, values = 0, expiry = 0;
    sd_seen_t *seen = sd_seen_create(seed);
    size_t at = SD_CHUNK_HEAD, next, bytes;
    uint32_t i;
    sd_record_t r;

    must(seen);
    for (i = 0; i < info->records; i++) {
        next = sd_chunk_record(chunk, len, at, &r);
        must(next > at && next <= len);
        must(r.key_len > 0 && r.key >= chunk + at && r.data + r.data_len == chunk + next);
        must(r.kind == SD_RECORD_VALUE || r.data_len == 0);
        bytes = (size_t)(sd_record_write(head, &r) - head);
        must(bytes == (size_t)(r.data - (chunk + at)) && memcmp(head, chunk + at, bytes) == 0);
        values += r.kind == SD_RECORD_VALUE;
        if (sd_seen_judge(seen, &r, WALL, &expiry) == SD_SEEN_TAKE) {
            must(r.kind == SD_RECORD_VALUE && expiry > WALL);
            taken++;
            must(sd_seen_judge(seen, &r, WALL, &expiry) == SD_SEEN_SUPERSEDED);
        }
        at = next;
    }
    must(at == len && taken <= values);
    sd_seen_destroy(&seen);
}

static void chunk(const uint8_t *data, size_t len, bool seal)
{
    uint8_t *copy = malloc(len + 1); /* so that a sanitizer sees its end */
    sd_chunk_info_t info;

    must(copy);
    copy = realloc(copy, len ? len : 1);
    must(copy);
    if (len > 0)
        memcpy(copy, data, len);
    if (seal && len >= SD_CHUNK_HEAD) {
        memset(&info, 0, sizeof info);
        info.number = 7;
        memcpy(info.id, id, sizeof info.id);
        info.records = sd_chunk_records(copy);
        info.bytes = len - SD_CHUNK_HEAD;
        sd_chunk_seal(copy, &info);
    }
    if (sd_chunk_check(copy, len, 7, id, &info) == NULL)
        judge_records(copy, len, &info);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input_t in = { data, size };
    uint32_t what = input_below(&in, 4);
    unsigned char out[SD_STATE_BYTES];
    sd_journal_state_t s;
    sd_journal_witness_t w;

    switch (what) {
        case 0: chunk(in.at, in.left, false); break;
        case 1: chunk(in.at, in.left, true); break;
        case 2:
            if (sd_state_read(in.at, in.left, &s) == NULL) {
                must(s.first > 0 && s.first <= s.next);
                sd_state_write(out, &s);
                must(memcmp(out + 16, in.at + 16, 80) == 0);
            }
            break;
        default:
            if (sd_witness_read(in.at, in.left, &w)) {
                sd_witness_write(out, &w);
                must(memcmp(out, in.at, 8) == 0);
            }
    }
    return 0;
}
