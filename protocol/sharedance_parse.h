/* SPDX-License-Identifier: Apache-2.0
 *
 * sharedance_parse.h: the heads of sharedance's three requests. Source of the
 * format: what the clients of sharedance 0.6 and 0.7 send.
 *
 *   store   'S' keylen(4) datalen(4) key data
 *   fetch   'F' keylen(4) key
 *   delete  'D' keylen(4) key
 *
 * Integers are big-endian. A key is 1 to 255 bytes of 32 to 126 without '.'
 * and '/' (the original keeps each session in a file of that name).
 */
#ifndef SD_SHAREDANCE_PARSE_H
#define SD_SHAREDANCE_PARSE_H

#include "wire.h"

sd_parse_t sd_sharedance_parse(const uint8_t *in, size_t len, const sd_limits_t *limits,
                               sd_request_t *request);

#endif
