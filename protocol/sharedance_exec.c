/* SPDX-License-Identifier: Apache-2.0
 *
 * sharedance_exec.c: sharedance's requests against the store. One request per
 * connection. "No" is an orderly close without a byte; trouble is a reset, so
 * that a client can tell an empty session from an outage.
 */
#include "sharedance_parse.h"

static sd_after_t store(sd_wire_t *wire, const sd_exec_t *exec, sd_reply_t *reply)
{
    uint64_t version;

    if (sd_store_put(exec->lane, &wire->chain, exec->now + exec->limits->expiration_ms,
                     SD_VERSION_ANY, exec->now, &version) != SD_OK)
        return SD_AFTER_RESET;
    sd_count(exec->counters, stores);
    reply->acknowledges = true;
    sd_reply_add(reply, "OK\n", 3);
    return SD_AFTER_CLOSE;
}

static sd_after_t fetch(const sd_exec_t *exec, const sd_request_t *request, sd_reply_t *reply)
{
    sd_ref_t value;
    sd_status_t status = sd_store_get(exec->lane, request->key, request->key_len, exec->now, &value);

    if (status == SD_BUSY)
        return SD_AFTER_RESET;
    if (status != SD_OK) {
        sd_count(exec->counters, fetch_misses);
        return SD_AFTER_CLOSE;
    }
    sd_count(exec->counters, fetch_hits);
    sd_reply_add_value(reply, &value);
    return SD_AFTER_CLOSE;
}

static sd_after_t delete_key(const sd_exec_t *exec, const sd_request_t *request, sd_reply_t *reply)
{
    if (sd_store_delete(exec->lane, request->key, request->key_len, SD_VERSION_ANY, exec->now)
        != SD_OK) {
        sd_count(exec->counters, delete_misses);
        return SD_AFTER_CLOSE;
    }
    sd_count(exec->counters, deletes);
    reply->acknowledges = true;
    sd_reply_add(reply, "OK\n", 3);
    return SD_AFTER_CLOSE;
}

static sd_after_t execute(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request,
                          sd_reply_t *reply)
{
    if (request->trailing) {
        /* the lengths in the head do not tell the truth about what was sent */
        sd_count(exec->counters, bad_requests);
        return SD_AFTER_DRAIN;
    }
    switch (request->op) {
    case 'S':
        return store(wire, exec, reply);
    case 'F':
        return fetch(exec, request, reply);
    default:
        return delete_key(exec, request, reply);
    }
}

static sd_after_t refuse(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request,
                         sd_reply_t *reply)
{
    (void)wire;
    (void)reply;
    switch (request->fault) {
    case SD_FAULT_FULL:
        sd_count(exec->counters, refused_full);
        return SD_AFTER_RESET;
    case SD_FAULT_OVERSIZE:
        sd_count(exec->counters, oversized_requests);
        return SD_AFTER_DRAIN;
    default:
        sd_count(exec->counters, bad_requests);
        return SD_AFTER_DRAIN;
    }
}

const sd_protocol_t sd_sharedance = { "sharedance", sd_sharedance_parse, execute, refuse };
