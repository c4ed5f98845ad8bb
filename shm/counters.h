/* SPDX-License-Identifier: Apache-2.0
 *
 * counters.h: the one table of everything that is counted.
 *
 * The table feeds the struct below, every status format and the tests, so a
 * counter is added in one line. Each loop thread owns one slot and is its only
 * writer; readers add the slots up. A reader may therefore see a sum that is
 * a few operations old, never a torn number.
 */
#ifndef SD_COUNTERS_H
#define SD_COUNTERS_H

#include <stdint.h>

/* X(field, Key, kind, text)
 *   field  member of sd_counters_t; the metric is "sessiond_<field>"
 *   Key    the key in ?auto is "Sessiond<Key>"
 *   kind   COUNTER only grows (64 bits, survives the session process)
 *          GAUGE goes up and down; a slot holds this thread's share of the
 *                changes, so that only the sum over all slots means anything
 *                (set anew when a session process starts)
 *   text   what the HTML table says */
#define SD_COUNTER_TABLE(X) \
    X(sessions,              Sessions,             GAUGE,   "sessions stored")                               \
    X(blocks_used,           BlocksUsed,           GAUGE,   "blocks of 256 bytes in use")                    \
    X(connections_open,      ConnectionsOpen,      GAUGE,   "connections open")                              \
    X(connections_accepted,  ConnectionsAccepted,  COUNTER, "connections accepted")                          \
    X(refused_address,       RefusedAddress,       COUNTER, "refused: address not in SessiondAllow")         \
    X(refused_limit,         RefusedLimit,         COUNTER, "refused: SessiondMaxConnections reached")       \
    X(accept_errors,         AcceptErrors,         COUNTER, "accepts put off (no descriptor or memory)")     \
    X(timeouts,              Timeouts,             COUNTER, "connections reset by SessiondTimeout")          \
    X(idle_timeouts,         IdleTimeouts,         COUNTER, "connections closed by SessiondIdleTimeout")     \
    X(held_back,             HeldBack,             COUNTER, "values made to wait: a quarter of the memory is in incoming ones") \
    X(slow_writers,          SlowWriters,          COUNTER, "reset: under 64 KB a second while others waited")   \
    X(slow_readers,          SlowReaders,          COUNTER, "reset: kept replaced sessions in a full memory")    \
    X(aborted,               Aborted,              COUNTER, "clients gone in the middle of a request")       \
    X(drained,               Drained,              COUNTER, "connections reset by a restart")                \
    X(taken_over,            TakenOver,            COUNTER, "connections taken over at a restart")              \
    X(handover_lost,         HandoverLost,         COUNTER, "connections that a restart could not take over")   \
    X(bad_requests,          BadRequests,          COUNTER, "malformed requests and keys")                   \
    X(oversized_requests,    OversizedRequests,    COUNTER, "requests over SessiondMaxSize")                 \
    X(stores,                Stores,               COUNTER, "stores (S)")                                    \
    X(fetch_hits,            FetchHits,            COUNTER, "fetches (F) that found a session")              \
    X(fetch_misses,          FetchMisses,          COUNTER, "fetches (F) that found none")                   \
    X(deletes,               Deletes,              COUNTER, "deletes (D) that removed a session")            \
    X(delete_misses,         DeleteMisses,         COUNTER, "deletes (D) that found none")                   \
    X(hellos,                Hellos,               COUNTER, "hellos (P)")                                    \
    X(get_hits,              GetHits,              COUNTER, "gets (G) that found a session")                 \
    X(get_misses,            GetMisses,            COUNTER, "gets (G) that found none")                      \
    X(writes,                Writes,               COUNTER, "writes (W)")                                    \
    X(writes_fenced,         WritesFenced,         COUNTER, "writes (W) refused: another's lock, or not the version read") \
    X(touches,               Touches,              COUNTER, "touches (T) of a session")                      \
    X(touch_misses,          TouchMisses,          COUNTER, "touches (T) that found none")                   \
    X(removes,               Removes,              COUNTER, "removals (R) of a session")                     \
    X(remove_misses,         RemoveMisses,         COUNTER, "removals (R) that found none")                  \
    X(removes_fenced,        RemovesFenced,        COUNTER, "removals (R) refused: another holds the lock")  \
    X(unlocks,               Unlocks,              COUNTER, "unlocks (U)")                                   \
    X(unlock_misses,         UnlockMisses,         COUNTER, "unlocks (U) of a lock that was not held")       \
    X(locks_held,            LocksHeld,            GAUGE,   "session locks held")                            \
    X(lock_waiters,          LockWaiters,          GAUGE,   "requests that wait for a lock")                 \
    X(lock_grants,           LockGrants,           COUNTER, "locks granted (L)")                             \
    X(lock_waits,            LockWaits,            COUNTER, "of these requests (L), those that had to wait") \
    X(lock_wait_ms,          LockWaitMilliseconds, COUNTER, "milliseconds waited for locks that were granted") \
    X(lock_timeouts,         LockTimeouts,         COUNTER, "lock requests (L) given up: not granted in time") \
    X(leases_ended,          LeasesEnded,          COUNTER, "locks taken away: the lease was over and somebody waited") \
    X(read_expired,          ReadExpired,          COUNTER, "reads that met an expired session")             \
    X(bytes_in,              BytesIn,              COUNTER, "bytes received")                                \
    X(bytes_out,             BytesOut,             COUNTER, "bytes sent")                                    \
    X(expired,               Expired,              COUNTER, "sessions expired")                              \
    X(evicted,               Evicted,              COUNTER, "sessions evicted (SessiondWhenFull evict)")     \
    X(refused_full,          RefusedFull,          COUNTER, "stores refused: memory full")                   \
    X(repaired_blocks,       RepairedBlocks,       COUNTER, "orphan blocks returned after an unclean end")   \
    X(repaired_items,        RepairedItems,        COUNTER, "damaged sessions dropped after an unclean end") \
    X(disk_commits,          DiskCommits,          COUNTER, "commits to disk")                                 \
    X(disk_values,           DiskValues,           COUNTER, "sessions written to disk")                        \
    X(disk_touches,          DiskTouches,          COUNTER, "lifetimes written to disk")                       \
    X(disk_removals,         DiskRemovals,         COUNTER, "removals written to disk")                        \
    X(disk_bytes,            DiskBytes,            COUNTER, "bytes written to disk, before the disk's own overhead") \
    X(disk_failures,         DiskFailures,         COUNTER, "tries to write to disk that failed")              \
    X(busy_us,               BusyMicroseconds,     GAUGE,   "microseconds spent busy")

#define SD_COUNTER_ONE(field, key, kind, text) +1
enum { SD_COUNTERS = 0 SD_COUNTER_TABLE(SD_COUNTER_ONE) };
#undef SD_COUNTER_ONE

/* Filled up to whole cache lines, so that two threads' slots in an array that
 * begins on one never share a line. */
typedef struct sd_counters {
#define SD_COUNTER_MEMBER(field, key, kind, text) _Atomic uint64_t field;
    SD_COUNTER_TABLE(SD_COUNTER_MEMBER)
#undef SD_COUNTER_MEMBER
    uint64_t unused[8 + (8 - SD_COUNTERS % 8) % 8];
} sd_counters_t;
_Static_assert(sizeof(sd_counters_t) % 64 == 0, "a slot is whole cache lines");

/* Adds to a counter of the calling thread's own slot: a plain load and store,
 * since no other thread writes there. */
#define sd_count_add(counters, field, n)                                              \
    __atomic_store_n((uint64_t *)&(counters)->field,                                  \
                     __atomic_load_n((uint64_t *)&(counters)->field, __ATOMIC_RELAXED) \
                         + (uint64_t)(n),                                             \
                     __ATOMIC_RELAXED)
#define sd_count(counters, field) sd_count_add(counters, field, 1)
#define sd_count_sub(counters, field, n) sd_count_add(counters, field, (uint64_t)0 - (uint64_t)(n))

#endif
