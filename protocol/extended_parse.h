/* SPDX-License-Identifier: Apache-2.0
 *
 * extended_parse.h: the heads of our own frames, which keep the connection
 * open. doc/protocol.md is the contract.
 *
 *   'P' nonce(8)                                        hello
 *   'G' keylen(4) key                                   get
 *   'L' keylen(4) wait_ms(4) key                        lock, then get
 *   'W' keylen(4) datalen(4) ttl(4) version(8) key data write and unlock
 *   'T' keylen(4) ttl(4) key                            touch and unlock
 *   'U' keylen(4) key                                   unlock
 *   'R' keylen(4) key                                   remove and unlock
 *
 * Integers are big-endian. A key is 1 to 250 bytes of 33 to 126 and 128 to 255.
 */
#ifndef SD_EXTENDED_PARSE_H
#define SD_EXTENDED_PARSE_H

#include "wire.h"

#define SD_EXTENDED_KEY_MAX 250u

/* For 'P', request->version holds the nonce as it stands on the wire. */
sd_parse_t sd_extended_parse(const uint8_t *in, size_t len, const sd_limits_t *limits,
                             sd_request_t *request);

/* What an L is answered when its time has come: the value, or that there is none;
 * or that it was not granted. */
sd_after_t sd_extended_locked(const sd_exec_t *exec, const uint8_t *key, uint32_t key_len, sd_reply_t *reply);
sd_after_t sd_extended_not_locked(sd_reply_t *reply);

#endif
