/* See land.h. */
#include "land.h"

#include <string.h>

#define USED_LINKS 4u /* of a table, at most */

_Alignas(4096) uint8_t land[PARTS][PORTAL_SEGMENT_SIZE];

void setup_land_of(unsigned i)
{
	const size_t used = PORTAL_LINKS_OFF + USED_LINKS * sizeof(struct portal_link);
	const size_t links = PORTAL_LINKS_OFF + PORTAL_MAX_LINKS * sizeof(struct portal_link);
	uint8_t *at = land[i];

	memset(at, 0, used);
	memset(at + PORTAL_CHUNKS_OFF, 0, 4096);
	/* Of the chunks only the beginning is used. */
	for (unsigned c = 2; c < 2 + USED_CHUNKS; c++)
		memset(at + c * PORTAL_CHUNK_SIZE, 0, 8192);
	ex_region(at, used);
	ex_quiet(at + used, links - used);
	ex_region(at + PORTAL_CHUNKS_OFF, 4096);
	ex_region(at + 2 * PORTAL_CHUNK_SIZE, USED_CHUNKS * PORTAL_CHUNK_SIZE);
	ex_assert(wslx_portal_heap_init(&side[i].heap, at, PORTAL_SEGMENT_SIZE, 1) == 0);
}
