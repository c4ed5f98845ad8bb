/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.h: big-endian integers, which all our frames use, at any alignment.
 */
#ifndef SD_BYTES_H
#define SD_BYTES_H

#include <stdint.h>

static inline uint32_t sd_get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint64_t sd_get64(const uint8_t *at)
{
    return (uint64_t)sd_get32(at) << 32 | sd_get32(at + 4);
}

static inline void sd_put32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

static inline void sd_put64(uint8_t *at, uint64_t value)
{
    sd_put32(at, (uint32_t)(value >> 32));
    sd_put32(at + 4, (uint32_t)value);
}

#endif
