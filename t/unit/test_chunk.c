/* SPDX-License-Identifier: Apache-2.0
 *
 * test_chunk.c: what is sealed is read as it was; whatever byte is changed, and
 * wherever it is cut, a chunk is refused; nothing is read beyond its end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "guard.h"
#include "persist/bytes.h"
#include "persist/chunk.h"

static const unsigned char id[SD_JOURNAL_ID_BYTES] = "0123456789abcde";

enum { ROOM = 4096 };

typedef struct sample {
    unsigned char bytes[ROOM];
    size_t len;
} sample_t;

static void add(sample_t *s, sd_record_kind_t kind, const char *key, const char *data, uint64_t version, uint64_t expiry)
{
    sd_record_t r = { kind, (uint8_t)strlen(key), (uint32_t)strlen(data), version, expiry,
                      (const unsigned char *)key, NULL };
    unsigned char *to = sd_record_write(s->bytes + s->len, &r);

    memcpy(to, data, r.data_len);
    s->len += sd_record_bytes(r.key_len, r.data_len);
}

static sample_t sample(void)
{
    sample_t s;
    sd_chunk_info_t info;

    memset(&s, 0xee, sizeof s);
    s.len = SD_CHUNK_HEAD;
    add(&s, SD_RECORD_VALUE, "alpha", "the first value", 7, UINT64_C(1700000000123));
    add(&s, SD_RECORD_REMOVED, "b", "", 8, 0);
    add(&s, SD_RECORD_VALUE, "c", "", UINT64_MAX - 1, UINT64_MAX);
    add(&s, SD_RECORD_EXPIRY, "alpha", "", 7, 9);
    memset(&info, 0, sizeof info);
    info.number = 42;
    info.serial = UINT64_C(0x0102030405060708);
    memcpy(info.id, id, sizeof info.id);
    info.records = 4;
    info.bytes = s.len - SD_CHUNK_HEAD;
    sd_chunk_seal(s.bytes, &info);
    return s;
}

static void what_is_sealed_is_read(void **state)
{
    sample_t s = sample();
    sd_chunk_info_t info;
    sd_record_t r;
    size_t at = SD_CHUNK_HEAD;
    guard_t g;
    const unsigned char *chunk;

    (void)state;
    guard_open(&g, s.len);
    chunk = guard_put(&g, s.bytes, s.len);
    assert_null(sd_chunk_check(chunk, s.len, 42, id, &info));
    assert_true(info.records == 4 && info.serial == UINT64_C(0x0102030405060708) && info.number == 42);
    assert_int_equal(sd_chunk_records(chunk), 4);
    at = sd_chunk_record(chunk, s.len, at, &r);
    assert_true(r.kind == SD_RECORD_VALUE && r.key_len == 5 && r.version == 7 && r.expiry == UINT64_C(1700000000123));
    assert_memory_equal(r.key, "alpha", 5);
    assert_int_equal(r.data_len, 15);
    assert_memory_equal(r.data, "the first value", 15);
    at = sd_chunk_record(chunk, s.len, at, &r);
    assert_true(r.kind == SD_RECORD_REMOVED && r.version == 8 && r.data_len == 0);
    at = sd_chunk_record(chunk, s.len, at, &r);
    assert_true(r.kind == SD_RECORD_VALUE && r.version == UINT64_MAX - 1 && r.expiry == UINT64_MAX && r.data_len == 0);
    at = sd_chunk_record(chunk, s.len, at, &r);
    assert_true(r.kind == SD_RECORD_EXPIRY && r.expiry == 9);
    assert_int_equal(at, s.len);
    assert_int_equal(sd_chunk_record(chunk, s.len, at, &r), 0);
    guard_close(&g);
}

static void every_changed_bit_is_noticed(void **state)
{
    sample_t s = sample();
    sd_chunk_info_t info;
    size_t i;

    (void)state;
    for (i = 0; i < 8 * s.len; i++) {
        s.bytes[i / 8] ^= (unsigned char)(1u << i % 8);
        assert_non_null(sd_chunk_check(s.bytes, s.len, 42, id, &info));
        s.bytes[i / 8] ^= (unsigned char)(1u << i % 8);
    }
    assert_null(sd_chunk_check(s.bytes, s.len, 42, id, &info));
}

static void every_cut_is_noticed(void **state)
{
    sample_t s = sample();
    sd_chunk_info_t info;
    size_t len;

    (void)state;
    for (len = 0; len < s.len; len++) {
        guard_t g;

        guard_open(&g, len ? len : 1);
        assert_non_null(sd_chunk_check(guard_put(&g, s.bytes, len), len, 42, id, &info));
        guard_close(&g);
    }
    assert_non_null(sd_chunk_check(s.bytes, s.len + 1, 42, id, &info));
}

static void a_chunk_has_its_place(void **state)
{
    sample_t s = sample();
    sd_chunk_info_t info;
    unsigned char other[SD_JOURNAL_ID_BYTES];

    (void)state;
    memcpy(other, id, sizeof other);
    other[3] ^= 1;
    assert_non_null(strstr(sd_chunk_check(s.bytes, s.len, 43, id, &info), "another chunk's number"));
    assert_non_null(strstr(sd_chunk_check(s.bytes, s.len, 42, other, &info), "another journal"));
}

/* Sealed by somebody who makes mistakes: the checksum is right, the records are not. */
static void sealed_nonsense_is_refused(void **state)
{
    static const struct { size_t at; unsigned char is; } wrong[] = {
        { 0, 0 }, { 0, 4 }, { 1, 0 }, { 1, 255 }, { 2, 1 }, { 3, 1 }, { 4, 16 }, { 4, 14 }, { 7, 0x80 },
    };
    sd_chunk_info_t info;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        sample_t s = sample();

        assert_null(sd_chunk_check(s.bytes, s.len, 42, id, &info));
        s.bytes[SD_CHUNK_HEAD + wrong[i].at] = wrong[i].is;
        sd_chunk_seal(s.bytes, &info);
        assert_non_null(sd_chunk_check(s.bytes, s.len, 42, id, &info));
    }
    for (i = 0; i < 8; i++) {
        sample_t s = sample();

        assert_null(sd_chunk_check(s.bytes, s.len, 42, id, &info));
        info.records = (uint32_t)i;
        sd_chunk_seal(s.bytes, &info);
        assert_true((sd_chunk_check(s.bytes, s.len, 42, id, &info) == NULL) == (i == 4));
    }
}

static void a_touch_has_no_data(void **state)
{
    sample_t s;
    sd_record_t r;

    (void)state;
    memset(&s, 0, sizeof s);
    s.len = SD_CHUNK_HEAD;
    add(&s, SD_RECORD_VALUE, "k", "data", 1, 1);
    s.bytes[SD_CHUNK_HEAD] = SD_RECORD_EXPIRY;
    assert_int_equal(sd_chunk_record(s.bytes, s.len, SD_CHUNK_HEAD, &r), 0);
}

static void a_state_is_read_as_it_was(void **state)
{
    sd_journal_state_t s, r;
    unsigned char bytes[SD_STATE_BYTES];
    size_t i;

    (void)state;
    memset(&s, 0, sizeof s);
    memcpy(s.id, id, sizeof s.id);
    s.serial = 5;
    s.version = UINT64_MAX - 5;
    s.wall_ms = UINT64_C(1700000000000);
    s.clock_offset = -12345;
    s.first = 3;
    s.next = 9;
    s.bytes = 777;
    s.round = UINT32_MAX;
    sd_state_write(bytes, &s);
    assert_null(sd_state_read(bytes, sizeof bytes, &r));
    assert_memory_equal(&r, &s, sizeof s);
    for (i = 0; i < 8 * sizeof bytes; i++) {
        bytes[i / 8] ^= (unsigned char)(1u << i % 8);
        assert_non_null(sd_state_read(bytes, sizeof bytes, &r));
        bytes[i / 8] ^= (unsigned char)(1u << i % 8);
    }
    for (i = 0; i < sizeof bytes; i++)
        assert_non_null(sd_state_read(bytes, i, &r));
    s.first = 10; /* behind next */
    sd_state_write(bytes, &s);
    assert_non_null(strstr(sd_state_read(bytes, sizeof bytes, &r), "no sense"));
}

static void another_format_is_called_so(void **state)
{
    sd_journal_state_t s, r;
    unsigned char bytes[SD_STATE_BYTES];

    (void)state;
    memset(&s, 0, sizeof s);
    s.first = s.next = 1;
    sd_state_write(bytes, &s);
    bytes[4] = SD_JOURNAL_FORMAT + 1;
    assert_string_equal(sd_state_read(bytes, sizeof bytes, &r), "it has another format");
    sd_state_write(bytes, &s);
    sd_le_put32(bytes + 16, __builtin_bswap32(sd_le_get32(bytes + 16)));
    assert_string_equal(sd_state_read(bytes, sizeof bytes, &r), "it has another byte order");
}

static void a_witness_says_all_or_nothing(void **state)
{
    sd_journal_witness_t w, r;
    unsigned char bytes[SD_WITNESS_BYTES];
    size_t i;

    (void)state;
    memcpy(w.id, id, sizeof w.id);
    w.serial = UINT64_C(1) << 40;
    sd_witness_write(bytes, &w);
    assert_true(sd_witness_read(bytes, sizeof bytes, &r) && r.serial == w.serial);
    assert_memory_equal(r.id, id, sizeof r.id);
    for (i = 0; i < sizeof bytes; i++) {
        bytes[i] ^= 0x10;
        assert_false(sd_witness_read(bytes, sizeof bytes, &r));
        bytes[i] ^= 0x10;
        assert_false(sd_witness_read(bytes, i, &r));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_sealed_is_read),
        cmocka_unit_test(every_changed_bit_is_noticed),
        cmocka_unit_test(every_cut_is_noticed),
        cmocka_unit_test(a_chunk_has_its_place),
        cmocka_unit_test(sealed_nonsense_is_refused),
        cmocka_unit_test(a_touch_has_no_data),
        cmocka_unit_test(a_state_is_read_as_it_was),
        cmocka_unit_test(another_format_is_called_so),
        cmocka_unit_test(a_witness_says_all_or_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
