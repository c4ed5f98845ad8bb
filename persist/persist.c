/* SPDX-License-Identifier: Apache-2.0
 *
 * persist.c: a round from its beginning to its end. The order matters: cleaning
 * looks at the store, then the round begins, then its changes are packed (rules 1
 * and 4 in persist.h); the commit is the moment at which all of it counts.
 */
#include "persist/persist.h"

#include <string.h>

#include "persist/pack.h"
#include "shm/changes.h"

enum { TRIES = 4 }; /* of a round for which the map was too small */

/* One without the other would lose sessions, or revive them. */
static bool is_anew(const sd_round_options_t *o)
{
    return o->everything || o->replace_all;
}

static sd_persist_status_t pack_change(sd_packer_t *p, sd_change_t *c, sd_round_result_t *result)
{
    sd_persist_status_t status;

    switch (c->kind) {
        case SD_CHANGE_VALUE:
            status = sd_pack_value(p, c->key, c->key_len, &c->value);
            sd_ref_release(p->lane, &c->value);
            result->values++;
            return status;
        case SD_CHANGE_EXPIRY:
            result->touches++;
            return sd_pack_note(p, SD_RECORD_EXPIRY, c->key, c->key_len, c->version, c->expiry);
        case SD_CHANGE_REMOVED:
            result->removals++;
            return sd_pack_note(p, SD_RECORD_REMOVED, c->key, c->key_len, c->version, 0);
    }
    return SD_PERSIST_OK;
}

static sd_persist_status_t pack_changes(sd_packer_t *p, sd_round_result_t *result)
{
    sd_persist_status_t status = SD_PERSIST_OK;
    sd_change_t change;

    while (status == SD_PERSIST_OK && sd_changes_next(p->lane, p->options->now, &change)) {
        status = pack_change(p, &change, result);
        if (status == SD_PERSIST_OK && sd_pack_is_stopped(p))
            status = sd_persist_says(SD_PERSIST_STOPPED, p->reason, "the round was stopped");
    }
    return status;
}

/* What is packed becomes what the journal says. */
static sd_persist_status_t commit(sd_packer_t *p, const sd_cleaning_t *cleaning, uint32_t round, uint64_t version)
{
    const sd_round_options_t *o = p->options;
    sd_journal_t *j = p->journal;
    sd_journal_state_t state = j->state;
    uint64_t first = cleaning->first, dropped = cleaning->dropped;
    sd_persist_status_t status = sd_pack_flush(p);

    if (status == SD_PERSIST_OK)
        status = sd_journal_begin(j, 0, p->reason);
    if (status != SD_PERSIST_OK)
        return status;
    if (is_anew(o)) {
        first = j->state.next;
        dropped = j->state.bytes;
    }
    state.round = round;
    state.version = version;
    state.wall_ms = o->wall_ms;
    if (is_anew(o) || !j->same_clock)
        state.clock_offset = (int64_t)(o->wall_ms - o->now);
    status = sd_journal_commit(j, first, dropped, &state, p->reason);
    if (status == SD_PERSIST_OK)
        j->same_clock = true;
    return status;
}

static sd_persist_status_t once(sd_packer_t *p, sd_round_result_t *result)
{
    const sd_round_options_t *o = p->options;
    sd_journal_t *j = p->journal;
    sd_persist_status_t status = SD_PERSIST_OK;
    uint64_t version, copied_bytes;
    sd_cleaning_t cleaning;
    uint32_t round;

    memset(&cleaning, 0, sizeof cleaning);
    cleaning.first = j->state.first;
    if (!is_anew(o))
        status = sd_clean(p, &cleaning);
    if (status != SD_PERSIST_OK) {
        sd_journal_abandon(j);
        return status;
    }
    copied_bytes = p->bytes;
    version = sd_store_version(sd_lane_store(p->lane));
    round = sd_changes_begin(p->lane, is_anew(o));
    status = pack_changes(p, result);
    if (status == SD_PERSIST_OK && !sd_changes_are_complete(sd_lane_store(p->lane)))
        status = sd_persist_says(SD_PERSIST_FAILED, p->reason,
                                 "a value has too many readers to be written, or there is no memory for it");
    if (status == SD_PERSIST_OK && (p->all_records > 0 || cleaning.first != j->state.first || is_anew(o)))
        status = commit(p, &cleaning, round, version);
    if (status != SD_PERSIST_OK) {
        sd_journal_abandon(j);
        sd_changes_undo(p->lane);
        return status;
    }
    sd_journal_abandon(j); /* where nothing was to be written, a transaction may be open all the same */
    sd_changes_settle(p->lane);
    j->last_round_bytes = p->bytes - copied_bytes;
    result->bytes = p->bytes;
    result->cleaned = cleaning.dropped;
    result->copied = cleaning.copied;
    result->wants_all = cleaning.unreadable;
    return SD_PERSIST_OK;
}

sd_persist_status_t sd_persist_round(sd_journal_t *j, sd_lane_t *lane, const sd_round_options_t *options,
                                     sd_round_result_t *result, char reason[SD_PERSIST_REASON])
{
    sd_persist_status_t status;
    sd_packer_t packer;
    int tries = 0;

    reason[0] = '\0';
    do {
        memset(&packer, 0, sizeof packer);
        memset(result, 0, sizeof *result);
        packer.journal = j;
        packer.lane = lane;
        packer.options = options;
        packer.reason = reason;
        status = once(&packer, result);
    } while (status == SD_PERSIST_FAILED && j->map_full && ++tries < TRIES);
    result->round = j->state.round;
    if (j->same_clock)
        result->clock_moved = (int64_t)(options->wall_ms - options->now) - j->state.clock_offset;
    return status;
}
