/* SPDX-License-Identifier: Apache-2.0
 *
 * hash.c: the keyed hash of session keys. SipHash, because session ids come
 * from strangers: with a secret seed nobody can make keys that share a bucket.
 */
#include <apr_siphash.h>

#include "internal.h"

uint64_t sd_hash(const sd_store_t *s, const void *key, size_t key_len)
{
    return apr_siphash24(key, key_len, s->header->seed);
}

uint64_t sd_key_hash(const sd_lane_t *lane, const void *key, size_t key_len)
{
    return sd_hash(lane->store, key, key_len);
}
