/* SPDX-License-Identifier: Apache-2.0
 *
 * disk.c: which disk belongs to the segment, and how far it is behind; the end of
 * versions. What is hard: a death between two stores must not leave the number of
 * one disk beside the name of another. A name that is half written is nobody's.
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

    /* marks of what has been settled since, and tombstones, are gone */
    if (sd_round_is_newer(atomic_load(&h->settled), settled))
        atomic_store(&h->astray, SD_ASTRAY);
    if (memcmp(h->disk_id, id, sizeof h->disk_id) != 0)
        memset(h->disk_id, 0, sizeof h->disk_id);
    SD_KILL_POINT("store_pair: of no disk, or the same");
    if (h->round != 0 && !sd_round_is_newer(h->round, settled))
        h->round = settled + 1 != 0 ? settled + 1 : 1;
    SD_KILL_POINT("store_pair: the last round on disk is old");
    atomic_store(&h->settled, settled);
    SD_KILL_POINT("store_pair: the disk has no name");
    memcpy(h->disk_id, id, sizeof h->disk_id);
}

void sd_store_pair_anew(sd_store_t *s, const unsigned char id[SD_DISK_ID_BYTES])
{
    sd_header_t *h = s->header;

    atomic_store(&h->astray, SD_ASTRAY);
    SD_KILL_POINT("store_pair_anew: astray, of the old disk");
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
