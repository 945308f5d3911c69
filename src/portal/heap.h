/*
 * Memory of one's own arena.
 *
 * Theory of operation.  The arena behind its tables is cut into chunks of
 * 64 KiB.  A chunk is free, part of a large allocation, or a slab of objects of
 * one of nine sizes.  Which is which, and the bitmaps, is kept in private
 * memory; the chunk table and the generation words in the arena are written for
 * readers and never read back.  Free runs of chunks hang in 32 lists by size, and each
 * run's two ends know its length, so that neighbours join.  Cost: constant for
 * slabs; for large ones one list operation, whatever the size of the region.
 *
 * Every allocation gets a generation of its own: the low byte of the arena's
 * generation above, a count below.  Both come again: after 2^24 - 1 allocations,
 * or 256 arenas, a handle that was freed may be good again, if its place is
 * handed out just then.  Not handing out a place any more instead would end an
 * arena that is used enough.  Arenas whose low bytes are the same begin to count
 * far from each other, so that one which is like the last does not give out the
 * same handles.
 *
 * Threads: the caller's lock.
 */
#ifndef WSLX_PORTAL_HEAP_H
#define WSLX_PORTAL_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wslx/portal_abi.h>

#include "base/macros.h"

#define HEAP_BINS 32
#define HEAP_NONE UINT32_MAX

struct wslx_portal_slab;

/* Private twin of a chunk. */
struct wslx_portal_chunk_info {
	uint32_t run;        /* length, at both ends of a free run and at the start of a large allocation */
	uint32_t next, prev; /* free lists */
	uint32_t generation; /* large */
	struct wslx_portal_slab *slab;
	uint8_t state;
};

struct wslx_portal_heap {
	uint8_t *arena;
	struct portal_chunk *table; /* in the arena */
	uint32_t first, chunks;     /* chunks [first, chunks) are for allocations */
	uint32_t counter;
	uint32_t epoch8;
	uint32_t bins[HEAP_BINS];
	struct wslx_portal_chunk_info *info;
	struct wslx_portal_slab *partial[PORTAL_CLASSES];
};

/* Shape of a slab of class c: how many objects, where the first one is. */
struct wslx_portal_shape {
	uint32_t objects, first, size;
};

struct wslx_portal_shape wslx_portal_shape(unsigned class);

WSLX_MUST_CHECK int wslx_portal_heap_init(struct wslx_portal_heap *h, uint8_t *arena, uint64_t size,
					  uint64_t arena_generation);
void wslx_portal_heap_free(struct wslx_portal_heap *h);
/* Offsets are within the arena.  -ENOMEM, -EINVAL (n is 0). */
WSLX_MUST_CHECK int wslx_portal_heap_alloc(struct wslx_portal_heap *h, uint64_t n, uint64_t *ret_off,
					   uint32_t *ret_generation);
/* -ESTALE, -EFAULT. */
WSLX_MUST_CHECK int wslx_portal_heap_release(struct wslx_portal_heap *h, uint64_t off, uint32_t generation);
/* What is allocated at exactly off, from the private tables: its size. */
WSLX_MUST_CHECK int wslx_portal_heap_find(const struct wslx_portal_heap *h, uint64_t off, uint32_t generation,
					  uint64_t *ret_size);
/* The same from a peer's arena of that size, as its tables say. */
WSLX_MUST_CHECK int wslx_portal_heap_check(const uint8_t *arena, uint64_t size, uint64_t arena_generation, uint64_t off,
					   uint32_t generation, uint64_t *ret_size);

#endif
