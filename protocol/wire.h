/* SPDX-License-Identifier: Apache-2.0
 *
 * wire.h: one client's conversation, from bytes to reply. It knows the store's
 * header, but no sockets, no clock and no httpd: whoever owns the socket feeds
 * bytes in, sends the reply out and does what the conversation asks for.
 *
 * The first byte binds a connection to a family of protocols. S, F and D
 * (sharedance) and the other upper-case frames (extended) are one family;
 * anything else is closed. Each frame is then parsed by a pure function, so
 * what a client sends in one piece or byte by byte comes to the same.
 *
 * Units: lengths in bytes, times in milliseconds, a lifetime (ttl) on the wire
 * in seconds. A conversation belongs to one thread; only locks.h is shared.
 */
#ifndef SD_WIRE_H
#define SD_WIRE_H

#include "locks.h"
#include "reply.h"
#include "shm/store.h"

#define SD_TTL_MAX 2592000u /* seconds: 30 days, as memcached has it */
#define SD_WAIT_MAX 600000u /* ms: how long a lock may be waited for */

typedef struct sd_limits {
    uint64_t max_size;      /* key plus data, bytes */
    uint64_t expiration_ms; /* lifetime when a client names none */
    const char *greeting;   /* the text of the hello reply: product, version, features */
} sd_limits_t;

/* What a request is executed with; belongs to the calling thread. */
typedef struct sd_exec {
    sd_lane_t *lane;
    sd_counters_t *counters;
    const sd_limits_t *limits;
    uint64_t now; /* ms, the store's clock */
    uint32_t hold_from; /* begin no value of so many bytes that is not all there:
                         * SD_AFTER_CROWDED; 0 = begin any */
    sd_locks_t *locks;
    sd_lock_mailbox_t *mailbox; /* where this thread finds what it was granted */
    bool patient;       /* full memory is worth a second try: SD_AFTER_FULL, not a refusal */
} sd_exec_t;

typedef enum { SD_PARSE_MORE, SD_PARSE_DONE, SD_PARSE_BAD } sd_parse_t;

typedef enum {
    SD_FAULT_NONE = 0,
    SD_FAULT_UNKNOWN,  /* no frame begins with this byte */
    SD_FAULT_KEY,      /* a key that this frame does not allow */
    SD_FAULT_OVERSIZE, /* key and data are more than SessiondMaxSize */
    SD_FAULT_TTL,      /* a lifetime over SD_TTL_MAX */
    SD_FAULT_FULL,     /* no memory */
    SD_FAULT_WAIT,     /* a wait over SD_WAIT_MAX */
    SD_FAULT_LAST = SD_FAULT_WAIT /* new ones go to the end: numbers travel between versions */
} sd_fault_t;

/* A frame's head, as a parser found it. `key` points into the input. */
typedef struct sd_request {
    const uint8_t *key;
    uint64_t version;
    uint32_t key_len;
    uint32_t data_len;  /* bytes of value that follow the head */
    uint32_t ttl;       /* seconds, 0 = the server's; or */
    uint32_t wait_ms;   /* how long to wait for a lock */
    uint32_t head_len;  /* bytes of the head, key included; with SKIP: those read */
    uint64_t skip;      /* SD_PARSE_BAD: bytes of the frame that follow head_len, if `known` */
    sd_fault_t fault;
    uint8_t op;
    bool known;         /* SD_PARSE_BAD: the frame's end is known, so the next can be read */
    bool trailing;      /* there is input beyond the frame's end already */
} sd_request_t;

/* What the owner of the socket does once the reply has gone out. */
typedef enum {
    SD_AFTER_KEEP,   /* read on */
    SD_AFTER_CLOSE,  /* close in order: nothing more is expected */
    SD_AFTER_DRAIN,  /* half-close, read what still comes for a while, close in order */
    SD_AFTER_RESET,  /* reset: this is trouble, not an answer */
    SD_AFTER_CROWDED, /* exec->hold_from: feed the rest again when it is over */
    SD_AFTER_FULL,    /* exec->patient: feed the rest again when others have given memory back */
    SD_AFTER_PENDING /* the reply comes later, from elsewhere: feed nothing until then */
} sd_after_t;

struct sd_wire;

typedef struct sd_protocol {
    const char *name;
    /* Pure: looks at `len` bytes, allocates nothing. DONE: the head is complete
     * and sound; BAD: request->fault says why. */
    sd_parse_t (*parse)(const uint8_t *in, size_t len, const sd_limits_t *limits,
                        sd_request_t *request);
    /* A request whose value, if it has one, stands in wire->chain. */
    sd_after_t (*execute)(struct sd_wire *wire, const sd_exec_t *exec, const sd_request_t *request,
                          sd_reply_t *reply);
    /* A request that cannot be executed; its bytes have been passed over if
     * its end was known. */
    sd_after_t (*refuse)(struct sd_wire *wire, const sd_exec_t *exec, const sd_request_t *request,
                         sd_reply_t *reply);
} sd_protocol_t;

extern const sd_protocol_t sd_sharedance;
extern const sd_protocol_t sd_extended;

typedef struct sd_wire {
    const sd_protocol_t *protocol; /* of the frame being read */
    uint64_t left;                 /* bytes of value, or to pass over, still to come */
    uint64_t size;                 /* ... and in all */
    uint64_t version;
    sd_chain_t chain;
    uint32_t held_size;            /* of the value for which SD_AFTER_CROWDED was said last: in all, */
    uint32_t held_missing;         /* ... and not in the input that was fed; 0 once it has begun */
    uint32_t ttl;
    uint8_t op;
    uint8_t fault;
    uint8_t state;
    uint8_t bound;      /* 0 = no byte seen yet */
    sd_lock_owner_t owner; /* the locks that this connection holds or awaits */
    bool persistent;    /* an extended frame was seen: stays open between requests */
} sd_wire_t;

/* A conversation as another process needs it to go on: plain numbers that stay
 * the same over versions of this code. All zeros is one that has not begun. */
typedef struct sd_wire_state {
    sd_chain_state_t chain;  /* SD_WIRE_VALUE: what has come of the value */
    uint64_t left, size, version;
    uint32_t ttl;
    uint8_t phase;           /* SD_WIRE_... */
    uint8_t op;
    uint8_t fault;           /* sd_fault_t */
    uint8_t bound;
    bool persistent;
} sd_wire_state_t;

#define SD_WIRE_HEAD 0    /* between frames, or in the middle of a head */
#define SD_WIRE_VALUE 1   /* `left` bytes of value to come, then execute */
#define SD_WIRE_PASSING 2 /* `left` bytes to pass over, then refuse */

void sd_wire_setup(sd_wire_t *wire);
/* Gives back what a request under way holds; not the locks. */
void sd_wire_teardown(sd_wire_t *wire, sd_lane_t *lane);
/* The connection ends: so do its locks and its wait. */
void sd_wire_end(sd_wire_t *wire, const sd_exec_t *exec);

/* Feeds input. Returns what to do after the reply has been sent; *used says how
 * many bytes were taken. With SD_AFTER_KEEP and *used < len the rest is either
 * the beginning of a head (wait for more) or, if the reply is full
 * (sd_reply_is_full), wants feeding again once it has been sent. With
 * SD_AFTER_PENDING the rest is no hello: an L that one stands behind is given up. */
sd_after_t sd_wire_feed(sd_wire_t *wire, const sd_exec_t *exec, const uint8_t *in, size_t len,
                        size_t *used, sd_reply_t *reply);

/* After SD_AFTER_PENDING: the lock has been granted (owner.granted), or its time is
 * over. Builds the reply that was due. */
sd_after_t sd_wire_granted(sd_wire_t *wire, const sd_exec_t *exec, sd_reply_t *reply);
sd_after_t sd_wire_give_up(sd_wire_t *wire, const sd_exec_t *exec, sd_reply_t *reply);

/* Where the value being read can be received directly, at most `limit` bytes
 * and not far ahead of those that have come: returns the number of vectors, 0 =
 * nowhere (use feed). */
int sd_wire_room(sd_wire_t *wire, const sd_exec_t *exec, uint32_t limit, struct iovec *iov, int max,
                 size_t *bytes);
/* `n` bytes were received there. Then call sd_wire_feed, with what came beyond
 * them or with nothing. */
void sd_wire_received(sd_wire_t *wire, const sd_exec_t *exec, size_t n);

/* A value is coming in whose bytes want memory. */
bool sd_wire_is_taking(const sd_wire_t *wire);
/* No request is under way. */
bool sd_wire_is_idle(const sd_wire_t *wire);
/* Bytes of value, or of a refused frame, that the request under way still wants. */
uint64_t sd_wire_wanted(const sd_wire_t *wire);
/* ... and has in all, those that have come included; 0 = none is under way. */
uint64_t sd_wire_size(const sd_wire_t *wire);
/* Bytes of the value that is held back, in all and beyond the input that was
 * fed; 0 = none is. */
uint32_t sd_wire_held_size(const sd_wire_t *wire);
uint32_t sd_wire_held_missing(const sd_wire_t *wire);

/* Handing a conversation to another process. Saving changes nothing; whoever
 * saved it must not use it any more once the other has adopted it. Adopting
 * into a fresh conversation fails (SD_INVALID, it stays fresh) on a state that
 * no conversation has, or that does not fit the segment. */
void sd_wire_save(const sd_wire_t *wire, sd_wire_state_t *state);
sd_status_t sd_wire_adopt(sd_wire_t *wire, sd_lane_t *lane, const sd_wire_state_t *state);

#endif
