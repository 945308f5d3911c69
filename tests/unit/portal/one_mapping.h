/*
 * Participants that share one mapping of a region with each other and with the
 * host.
 *
 * ThreadSanitizer knows memory by its address.  Where each participant maps the
 * region for itself, as processes do, it sees no two of them at the same place,
 * and no race between the two ends of a ring.  Here all of them have one base,
 * and the host's own pages lie there too.
 *
 * Nothing here orders one thread's accesses before another's for it: sleepers
 * sleep on the words themselves, and the broker's thread hears of kicks by
 * relaxed atomics.  So only what libportal does orders them.
 */
#ifndef PORTAL_TEST_ONE_MAPPING_H
#define PORTAL_TEST_ONE_MAPPING_H

#include <stdbool.h>

#include "support.h"

#define SEATS 4u
#define SEAT_SEGMENTS 2u

struct world;

struct seat {
	struct world *w;
	portal *p;
	unsigned index; /* participant */
	uint64_t due;   /* a bit for each participant it kicks; atomic */
};

struct world {
	portal_host *h;
	uint8_t *base;
	struct seat seat[SEATS];
	uint32_t rung; /* kicks; atomic, a futex word */
	bool stop;     /* atomic */
	pthread_t thread;
};

void world_start(struct world *w);
void world_end(struct world *w);
/* Of all that a participant with those channels shows to others behind its control area: allocations' tables, data and
 * indices.  Not of the words that say that it sleeps, which change at rest, too. */
uint64_t world_sum(const struct world *w, unsigned seat, portal_chan *const *c, unsigned n);

/* From now on both ends leave the barrier to the one who sleeps, as processes of one kernel do. */
void share_fences(portal_chan *a, portal_chan *b);

#endif
