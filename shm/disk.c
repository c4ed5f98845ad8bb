/* SPDX-License-Identifier: Apache-2.0
 *
 * disk.c: which disk belongs to the segment, and how far it is behind; the end of
 * versions. Plain words of the header, each of them one store, so that a death
 * leaves what was or what is.
 */
#include "internal.h"

void sd_store_disk(const sd_store_t *s, sd_disk_t *disk)
{
    const sd_header_t *h = s->header;

    memset(disk, 0, sizeof *disk);
    memcpy(disk->id, h->disk_id, sizeof disk->id);
    disk->settled = atomic_load(&h->settled);
    disk->round = h->round;
    disk->served = h->served != 0;
    disk->astray = atomic_load(&h->astray) != 0;
}

void sd_store_pair(sd_store_t *s, const unsigned char id[SD_DISK_ID_BYTES], uint32_t settled)
{
    sd_header_t *h = s->header;

    if (h->round != 0 && (int32_t)(h->round - settled) <= 0)
        h->round = settled + 1 != 0 ? settled + 1 : 1;
    atomic_store(&h->settled, settled);
    memcpy(h->disk_id, id, sizeof h->disk_id);
}

void sd_store_pair_anew(sd_store_t *s, const unsigned char id[SD_DISK_ID_BYTES])
{
    sd_header_t *h = s->header;

    atomic_store(&h->astray, SD_ASTRAY);
    memcpy(h->disk_id, id, sizeof h->disk_id);
}

void sd_store_serve(sd_store_t *s)
{
    s->header->served = 1;
}

uint64_t sd_store_version(const sd_store_t *s)
{
    return atomic_load(&s->header->version);
}

void sd_store_skip_versions(sd_store_t *s, uint64_t version)
{
    uint64_t last = atomic_load(&s->header->version);

    while (last < version && !atomic_compare_exchange_weak(&s->header->version, &last, version))
        ;
}
