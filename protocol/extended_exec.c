/* SPDX-License-Identifier: Apache-2.0
 *
 * extended_exec.c: the extended frames against the store and the locks. Every
 * reply is a status byte, a 32-bit length and that many bytes.
 */
#include <string.h>

#include "bytes.h"
#include "extended_parse.h"

static void add_frame(sd_reply_t *reply, char status, const void *body, uint32_t len)
{
    uint8_t head[5] = { (uint8_t)status };

    sd_put32(head + 1, len);
    sd_reply_add(reply, head, sizeof head);
    sd_reply_add(reply, body, len);
}

static void add_error(sd_reply_t *reply, const char *sentence)
{
    add_frame(reply, 'E', sentence, (uint32_t)strlen(sentence));
}

static sd_after_t hello(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request, sd_reply_t *reply)
{
    uint8_t body[SD_REPLY_FRAME - 16];
    size_t len = strlen(exec->limits->greeting);

    if (wire->owner.claims)
        sd_locks_release_all(exec->locks, &wire->owner, exec->now, exec->counters);
    if (len > sizeof body - 8)
        len = sizeof body - 8;
    memcpy(body, &request->version, 8); /* the nonce, as it came */
    memcpy(body + 8, exec->limits->greeting, len);
    add_frame(reply, 'K', body, (uint32_t)len + 8);
    sd_count(exec->counters, hellos);
    return SD_AFTER_KEEP;
}

static sd_after_t get(const sd_exec_t *exec, const uint8_t *key, uint32_t key_len, sd_reply_t *reply)
{
    sd_ref_t value;
    uint8_t head[13] = { 'V' };

    switch (sd_store_get(exec->lane, key, key_len, exec->now, &value)) {
    case SD_OK:
        sd_put32(head + 1, 8 + value.data_len);
        sd_put64(head + 5, value.version);
        sd_reply_add(reply, head, sizeof head);
        sd_reply_add_value(reply, &value);
        sd_count(exec->counters, get_hits);
        return SD_AFTER_KEEP;
    case SD_BUSY:
        return SD_AFTER_RESET;
    default:
        add_frame(reply, 'N', NULL, 0);
        sd_count(exec->counters, get_misses);
        return SD_AFTER_KEEP;
    }
}

/* ---- under the fence ---- */

static sd_lock_key_t key_of(const sd_exec_t *exec, const sd_request_t *request)
{
    return (sd_lock_key_t){ request->key, request->key_len,
                            sd_key_hash(exec->lane, request->key, request->key_len) };
}

static bool leave(const sd_exec_t *exec, sd_lock_passage_t *passage, bool unlock)
{
    return sd_locks_leave(exec->locks, passage, unlock, exec->now, exec->counters);
}

static uint64_t expiry_of(const sd_exec_t *exec, uint32_t ttl)
{
    return exec->now + (ttl ? (uint64_t)ttl * 1000 : exec->limits->expiration_ms);
}

sd_after_t sd_extended_locked(const sd_exec_t *exec, const uint8_t *key, uint32_t key_len, sd_reply_t *reply)
{
    return get(exec, key, key_len, reply);
}

sd_after_t sd_extended_not_locked(sd_reply_t *reply)
{
    add_frame(reply, 'B', NULL, 0);
    return SD_AFTER_KEEP;
}

static sd_after_t lock(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request, sd_reply_t *reply)
{
    sd_lock_key_t key = key_of(exec, request);

    switch (sd_locks_ask(exec->locks, &wire->owner, &key, exec->mailbox, exec->now + request->wait_ms, exec->now,
                         exec->counters)) {
    case SD_LOCK_GRANTED:
        return sd_extended_locked(exec, request->key, request->key_len, reply);
    case SD_LOCK_WAITS:
        return SD_AFTER_PENDING;
    case SD_LOCK_REFUSED:
        return sd_extended_not_locked(reply);
    case SD_LOCK_TOO_MANY:
        sd_count(exec->counters, bad_requests);
        add_error(reply, "this connection has 64 locks: unlock some first");
        return SD_AFTER_KEEP;
    default:
        return SD_AFTER_RESET;
    }
}

/* The holder of the lock writes whatever is there. Nobody else does while there is
 * a holder; and while there is none, whoever knows the version that is there. */
static sd_after_t write_value(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request,
                              sd_reply_t *reply)
{
    unsigned char bytes[SD_KEY_MAX];
    sd_lock_key_t key = { bytes, sd_chain_key(exec->lane, &wire->chain, bytes), wire->chain.hash };
    sd_lock_passage_t passage = sd_locks_enter(exec->locks, &wire->owner, &key);
    sd_status_t status = SD_CONFLICT;
    uint64_t version;
    uint8_t body[8];

    /* "there was none" may be true again, of a session that was written and removed
     * by those who had the lock after him; versions do not come back */
    if (passage.view != SD_LOCK_OTHERS && !(passage.lost && request->version == SD_VERSION_ABSENT))
        status = sd_store_put(exec->lane, &wire->chain, expiry_of(exec, request->ttl),
                              passage.view == SD_LOCK_MINE ? SD_VERSION_ANY : request->version, exec->now,
                              &version);
    (void)leave(exec, &passage, true);
    switch (status) {
    case SD_OK:
        sd_put64(body, version);
        add_frame(reply, 'K', body, sizeof body);
        sd_count(exec->counters, writes);
        reply->acknowledges = true;
        return SD_AFTER_KEEP;
    case SD_CONFLICT:
        add_frame(reply, 'B', NULL, 0);
        sd_count(exec->counters, writes_fenced);
        return SD_AFTER_KEEP;
    default:
        return SD_AFTER_RESET;
    }
}

static sd_after_t touch(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request, sd_reply_t *reply)
{
    sd_lock_key_t key = key_of(exec, request);
    sd_lock_passage_t passage = sd_locks_enter(exec->locks, &wire->owner, &key);
    bool touched = sd_store_touch(exec->lane, request->key, request->key_len, expiry_of(exec, request->ttl),
                                  exec->now)
                   == SD_OK;

    /* the session expired while its owner worked on it: he writes it now, and is not
     * to be overtaken, nor taken for one who revives what was removed */
    (void)leave(exec, &passage, touched);
    add_frame(reply, touched ? 'K' : 'N', NULL, 0);
    reply->acknowledges |= touched;
    if (touched)
        sd_count(exec->counters, touches);
    else
        sd_count(exec->counters, touch_misses);
    return SD_AFTER_KEEP;
}

static sd_after_t unlock(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request, sd_reply_t *reply)
{
    sd_lock_key_t key = key_of(exec, request);
    sd_lock_passage_t passage = sd_locks_enter(exec->locks, &wire->owner, &key);
    bool was_ours = leave(exec, &passage, true);

    add_frame(reply, was_ours ? 'K' : 'N', NULL, 0);
    if (was_ours)
        sd_count(exec->counters, unlocks);
    else
        sd_count(exec->counters, unlock_misses);
    return SD_AFTER_KEEP;
}

static sd_after_t remove_value(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request,
                               sd_reply_t *reply)
{
    sd_lock_key_t key = key_of(exec, request);
    sd_lock_passage_t passage = sd_locks_enter(exec->locks, &wire->owner, &key);
    sd_status_t status = SD_CONFLICT;

    if (passage.view != SD_LOCK_OTHERS)
        status = sd_store_delete(exec->lane, request->key, request->key_len, SD_VERSION_ANY, exec->now);
    (void)leave(exec, &passage, true);
    switch (status) {
    case SD_OK:
        add_frame(reply, 'K', NULL, 0);
        sd_count(exec->counters, removes);
        reply->acknowledges = true;
        break;
    case SD_CONFLICT:
        add_frame(reply, 'B', NULL, 0);
        sd_count(exec->counters, removes_fenced);
        break;
    default:
        add_frame(reply, 'N', NULL, 0);
        sd_count(exec->counters, remove_misses);
        break;
    }
    return SD_AFTER_KEEP;
}

static sd_after_t execute(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request,
                          sd_reply_t *reply)
{
    switch (request->op) {
    case 'P':
        return hello(wire, exec, request, reply);
    case 'G':
        return get(exec, request->key, request->key_len, reply);
    case 'L':
        return lock(wire, exec, request, reply);
    case 'T':
        return touch(wire, exec, request, reply);
    case 'U':
        return unlock(wire, exec, request, reply);
    case 'R':
        return remove_value(wire, exec, request, reply);
    default:
        return write_value(wire, exec, request, reply);
    }
}

static sd_after_t refuse(sd_wire_t *wire, const sd_exec_t *exec, const sd_request_t *request,
                         sd_reply_t *reply)
{
    (void)wire;
    switch (request->fault) {
    case SD_FAULT_FULL:
        sd_count(exec->counters, refused_full);
        add_error(reply, "the session memory is full: nothing was stored");
        break;
    case SD_FAULT_OVERSIZE:
        sd_count(exec->counters, oversized_requests);
        add_error(reply, "key and data are larger than SessiondMaxSize");
        break;
    case SD_FAULT_TTL:
        sd_count(exec->counters, bad_requests);
        add_error(reply, "the lifetime is over 2592000 seconds (30 days)");
        break;
    case SD_FAULT_WAIT:
        sd_count(exec->counters, bad_requests);
        add_error(reply, "the wait is over 600000 milliseconds (ten minutes)");
        break;
    case SD_FAULT_KEY:
        sd_count(exec->counters, bad_requests);
        add_error(reply, "a key is 1 to 250 bytes, each 33 to 126 or 128 to 255");
        break;
    default:
        sd_count(exec->counters, bad_requests);
        add_error(reply, "unknown frame");
        break;
    }
    return request->known ? SD_AFTER_KEEP : SD_AFTER_DRAIN;
}

const sd_protocol_t sd_extended = { "extended", sd_extended_parse, execute, refuse };
