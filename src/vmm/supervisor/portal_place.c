/*
 * Window segments: who has which.  Segment 0 is the tables'.
 *
 * A place is taken behind the one taken last, so that one that was given up is
 * used again as late as possible.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/supervisor/portal_internal.h"

#define LEFT 0x80u

int wslx_vmportal_places_open(struct portal_places *p, uint32_t segments)
{
	*p = (struct portal_places) {
		.owner = calloc(segments, 1), .stale = calloc(segments, 1), .n = segments, .next = 1
	};
	if (p->owner && p->stale)
		return 0;
	wslx_vmportal_places_close(p);
	return -ENOMEM;
}

void wslx_vmportal_places_close(struct portal_places *p)
{
	free(p->owner);
	free(p->stale);
	*p = (struct portal_places) { 0 };
}

/* A run of that many in [from, to). */
static uint32_t find(const struct portal_places *p, uint32_t from, uint32_t to, uint32_t segments)
{
	uint32_t run = 0;

	for (uint32_t s = from; s < to; s++) {
		run = p->owner[s] ? 0 : run + 1;
		if (run == segments)
			return s + 1 - segments;
	}
	return 0;
}

uint32_t wslx_vmportal_place_keep(struct portal_places *p, unsigned grant, uint32_t segments)
{
	uint32_t first = segments ? find(p, p->next, p->n, segments) : 0;

	if (!first && segments)
		first = find(p, 1, p->n, segments);
	if (!first)
		return 0;
	memset(p->owner + first, (int)(1 + grant), segments);
	p->next = first + segments;
	return first;
}

void wslx_vmportal_place_use(struct portal_places *p, uint32_t first, uint32_t segments)
{
	memset(p->stale + first, 0, segments);
}

void wslx_vmportal_place_free(struct portal_places *p, unsigned grant, uint32_t first, uint32_t segments)
{
	for (uint32_t s = first; s < first + segments; s++)
		if (p->owner[s] == 1 + grant)
			p->owner[s] = 0;
}

uint32_t wslx_vmportal_place_take(struct portal_places *p, unsigned grant, uint32_t segments)
{
	uint32_t first = wslx_vmportal_place_keep(p, grant, segments);

	if (first)
		wslx_vmportal_place_use(p, first, segments);
	return first;
}

bool wslx_vmportal_place_fits(const struct portal_places *p, uint32_t segments)
{
	return segments && find(p, 1, p->n, segments);
}

void wslx_vmportal_place_leave(struct portal_places *p, uint32_t first, uint32_t segments)
{
	for (uint32_t s = first; s < first + segments; s++)
		p->owner[s] |= LEFT;
}

void wslx_vmportal_place_abandon(struct portal_places *p, unsigned grant, uint32_t first, uint32_t segments)
{
	wslx_vmportal_place_leave(p, first, segments);
	memset(p->stale + first, (int)(1 + grant), segments);
}

uint32_t wslx_vmportal_place_stale(struct portal_places *p, unsigned grant, uint32_t *ret_segments)
{
	uint32_t first = 1, n = 0;

	while (first < p->n && p->stale[first] != 1 + grant)
		first++;
	for (; first + n < p->n && p->stale[first + n] == 1 + grant; n++) {
		p->stale[first + n] = 0;
		/* Released or not: what is put there next must not come before the end of this. */
		p->owner[first + n] = (uint8_t)(LEFT | (1 + grant));
	}
	*ret_segments = n;
	return n ? first : 0;
}

void wslx_vmportal_place_release(struct portal_places *p, unsigned grant)
{
	for (uint32_t s = 1; s < p->n; s++)
		if (p->owner[s] == (LEFT | (1 + grant)))
			p->owner[s] = 0;
}
