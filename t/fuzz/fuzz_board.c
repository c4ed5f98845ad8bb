/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_board.c: texts of the notice board, where a web child may have written
 * anything: what a reader gets of them always ends and can be printed.
 */
#include <string.h>

#include "fuzz.h"
#include "mod_sessiond/board.h"
#include "t/unit/guard.h"

static bool is_printable(const char *text)
{
    for (; *text; text++)
        if (*text < 32 || *text > 126)
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input_t in = { data, size };
    size_t room = 1 + input_below(&in, 2 * SD_BOARD_TEXT), n, expected;
    guard_t board, reader;
    const uint8_t *bytes;
    char *text, *out;

    bytes = input_take(&in, SD_BOARD_TEXT, &n);
    guard_open(&board, SD_BOARD_TEXT);
    guard_open(&reader, 2 * SD_BOARD_TEXT);
    text = (char *)guard_at(&board, SD_BOARD_TEXT);
    memset(text, 'x', SD_BOARD_TEXT); /* without an end unless the input brings one */
    if (n > 0)
        memcpy(text, bytes, n);
    out = (char *)guard_at(&reader, room);
    memset(out, 'x', room);
    sd_board_text_copy(out, room, text);
    must(memchr(out, '\0', room) != NULL);
    expected = strnlen(text, SD_BOARD_TEXT);
    must(strlen(out) == (expected < room ? expected : room - 1));
    must(is_printable(out));
    for (n = 0; out[n]; n++)
        must(out[n] == text[n] || (out[n] == '?' && (text[n] < 32 || text[n] > 126)));

    /* what we put up is cut to the room there is, and comes back as it was */
    sd_board_text_set(text, out);
    must(memchr(text, '\0', SD_BOARD_TEXT) != NULL);
    must(strncmp(text, out, SD_BOARD_TEXT - 1) == 0);
    guard_close(&board);
    guard_close(&reader);
    return 0;
}
