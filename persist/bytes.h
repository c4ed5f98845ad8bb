/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.h: numbers in the journal, little-endian wherever it is read. Written byte
 * by byte, which compilers make one move of; so neither alignment nor the order
 * of the machine matters.
 */
#ifndef SD_PERSIST_BYTES_H
#define SD_PERSIST_BYTES_H

#include <stdint.h>

static inline void sd_le_put32(unsigned char *at, uint32_t n)
{
    at[0] = (unsigned char)n;
    at[1] = (unsigned char)(n >> 8);
    at[2] = (unsigned char)(n >> 16);
    at[3] = (unsigned char)(n >> 24);
}

static inline void sd_le_put64(unsigned char *at, uint64_t n)
{
    sd_le_put32(at, (uint32_t)n);
    sd_le_put32(at + 4, (uint32_t)(n >> 32));
}

static inline uint32_t sd_le_get32(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t sd_le_get64(const unsigned char *at)
{
    return sd_le_get32(at) | (uint64_t)sd_le_get32(at + 4) << 32;
}

#endif
