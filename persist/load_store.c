/* SPDX-License-Identifier: Apache-2.0
 *
 * load_store.c: all live sessions of a load into a store. Times: the journal keeps
 * expiries by the wall clock, the store by one that never steps; what both have in
 * common is how long a session has still to live at the moment the load began.
 */
#include <string.h>

#include "persist/internal.h"
#include "persist/load.h"
#include "shm/changes.h"

#define BEAT_MS 100u
#define PIECE_BYTES (1u << 20) /* taken from the store at once, for large values */
enum { VECTORS = 64 };

/* The data of the record at hand, straight into the chain. SD_MISS: the load broke. */
static sd_status_t receive(sd_load_t *l, sd_lane_t *lane, sd_chain_t *chain, uint32_t left, uint64_t now)
{
    struct iovec iov[VECTORS];

    while (left > 0) {
        uint32_t piece = left < PIECE_BYTES ? left : PIECE_BYTES;
        sd_status_t status = sd_chain_reserve(lane, chain, piece, now);

        if (status != SD_OK)
            return status;
        left -= piece;
        while (piece > 0) {
            int n = sd_chain_room(lane, chain, piece, iov, VECTORS);
            size_t got = sd_load_data(l, iov, n);

            if (got == 0)
                return SD_MISS;
            sd_chain_advance(lane, chain, (uint32_t)got);
            piece -= (uint32_t)got;
        }
    }
    return SD_OK;
}

/* Returns SD_OK (counted, whatever became of it), SD_FULL, SD_MISS as above. */
static sd_status_t restore(sd_load_t *l, const sd_load_target_t *t, const sd_load_record_t *r, uint64_t now,
                           sd_load_sum_t *sum)
{
    uint64_t rest = r->expiry - sd_load_report(l)->wall_ms;
    uint64_t expiry = rest < UINT64_MAX - t->now ? t->now + rest : UINT64_MAX;
    sd_chain_t chain;
    sd_status_t status;

    if (expiry <= now) {
        sum->late++;
        return SD_OK;
    }
    status = sd_chain_open_restored(t->lane, &chain, r->key, r->key_len, now);
    if (status != SD_OK)
        return status;
    status = receive(l, t->lane, &chain, r->data_len, now);
    if (status == SD_OK)
        status = sd_store_restore(t->lane, &chain, expiry, r->version, now);
    if (status == SD_OK) {
        sum->restored++;
        return SD_OK;
    }
    sd_chain_discard(t->lane, &chain);
    if (status == SD_CONFLICT) {
        sum->conflicts++;
        return SD_OK;
    }
    return status;
}

sd_persist_status_t sd_load_into_store(sd_load_t *l, const sd_load_target_t *t, sd_load_sum_t *sum,
                                       char reason[SD_PERSIST_REASON])
{
    uint64_t now = t->read_clock(t->baton), beaten = now;
    sd_persist_status_t status = SD_PERSIST_OK;
    const atomic_bool *stop = sd_load_stop_flag(l);
    sd_load_record_t record;
    sd_load_step_t step;

    memset(sum, 0, sizeof *sum);
    reason[0] = '\0';
    do {
        step = sd_load_next(l, &record, (int)BEAT_MS);
        now = t->read_clock(t->baton);
        if (step == SD_LOAD_RECORD) {
            sd_status_t said = restore(l, t, &record, now, sum);

            if (said != SD_OK && said != SD_MISS)
                status = sd_persist_says(SD_PERSIST_TOO_SMALL, reason,
                                         "the memory is full after %llu sessions of %llu and more",
                                         (unsigned long long)sum->restored, (unsigned long long)sd_load_report(l)->live);
        }
        if (status == SD_PERSIST_OK && stop != NULL && atomic_load_explicit(stop, memory_order_relaxed))
            status = sd_persist_says(SD_PERSIST_STOPPED, reason, "loading was stopped");
        if (now - beaten >= BEAT_MS && t->beat != NULL) {
            t->beat(t->baton, sd_load_report(l));
            beaten = now;
        }
    } while (status == SD_PERSIST_OK && (step == SD_LOAD_RECORD || step == SD_LOAD_WAIT));
    sum->report = *sd_load_report(l);
    if (t->beat != NULL)
        t->beat(t->baton, &sum->report);
    if (status != SD_PERSIST_OK)
        return status;
    if (step == SD_LOAD_BROKEN)
        return sd_persist_says(sd_load_status(l), reason, "%s", sd_load_reason(l));
    sd_store_skip_versions(sd_lane_store(t->lane), sum->report.state.version + SD_LOAD_VERSION_GAP);
    return SD_PERSIST_OK;
}
