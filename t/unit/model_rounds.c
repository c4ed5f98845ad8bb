/* SPDX-License-Identifier: Apache-2.0
 *
 * model_rounds.c: the part of store_model.h that writes the store to a disk: whole
 * rounds, after which the disk must have what the store has, and rounds in pieces
 * with operations in between, which may come to nothing at any time.
 */
#include "store_model.h"

void model_write_to(model_t *m, disk_t *disk)
{
    m->disk = disk;
    disk_setup(disk, "the model's disk");
    sd_store_pair(m->f->store, disk->id, 0);
}

static bool is_astray(const model_t *m)
{
    sd_disk_t known;

    sd_store_disk(m->f->store, &known);
    return known.astray;
}

static void succeeds(const char *wrong)
{
    if (wrong)
        fail_msg("%s", wrong);
}

void model_give_up_round(model_t *m)
{
    if (!m->in_round)
        return;
    m->in_round = false;
    succeeds(disk_drop(m->disk, dice_below(&m->dice, m->disk->staged_count + 1)));
    sd_changes_undo(m->f->lane);
}

void model_whole_round(model_t *m)
{
    model_give_up_round(m);
    m->rounds++;
    succeeds(disk_round(m->disk, m->f->lane, m->f->now));
    if (!is_astray(m))
        succeeds(disk_compare(m->disk, m->f->lane, m->f->now));
}

void model_round(model_t *m)
{
    uint32_t kind = dice_below(&m->dice, 8), n;
    bool everything = kind == 1 || is_astray(m);
    sd_change_t change;

    if (kind == 0) {
        model_whole_round(m);
        return;
    }
    if (!m->in_round) {
        disk_begin(m->disk, sd_changes_begin(m->f->lane, everything), everything);
        m->in_round = true;
        return;
    }
    if (kind == 1) {
        model_give_up_round(m);
        return;
    }
    for (n = dice_below(&m->dice, 60); n > 0; n--) {
        if (sd_changes_next(m->f->lane, m->f->now, &change)) {
            succeeds(disk_write(m->disk, m->f->lane, &change));
            continue;
        }
        m->in_round = false;
        m->rounds++;
        succeeds(disk_commit(m->disk));
        assert_true(sd_changes_settle(m->f->lane));
        return;
    }
}
