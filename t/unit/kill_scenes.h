/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_scenes.h: what a process finds and does before it is killed at a point:
 * scenes that together come by every point, and the life that is led in each.
 * A life in one thread takes the same course every time, so the n-th passage of
 * a point is the same moment in each.
 */
#ifndef KILL_SCENES_H
#define KILL_SCENES_H

#include "ledger.h"

typedef struct kill_site kill_site_t;

typedef struct scene {
    const char *name;
    void (*prepare)(kill_site_t *site); /* from an empty, attached store on; leaves it detached */
    bool evict;
    bool repair_first; /* damage can make a walk go round for ever until it is repaired */
    bool writes_behind; /* to the ledger's disk */
} scene_t;

struct kill_site {
    const scene_t *scene;
    fixture_t f;
    ledger_t *ledger;     /* shared with the child */
    unsigned char *base;  /* the segment and ... */
    ledger_t base_ledger; /* ... the ledger as the scene begins */
};

extern const scene_t kill_scenes[];
extern const uint32_t kill_scene_count;

void site_open(kill_site_t *s, const scene_t *scene);
void site_close(kill_site_t *s);
void site_rewind(kill_site_t *s); /* to the beginning of the scene */

/* Attaches, works, repairs beside it, detaches. With company, a second thread
 * works at the same time. NULL, or what was wrong. */
const char *site_live(kill_site_t *s, uint64_t seed, bool company);

/* The same in a child with a point armed (kill_points_arm). True: it was
 * killed there; false: it lived to the end. */
bool site_live_and_die(kill_site_t *s, uint64_t seed, bool company);

#endif
