/* Handles: who holds one of what was freed since learns it, whatever is there by then. */
#include <errno.h>

#include "land.h"
#include "portal/atomic.h"
#include "world.h"

#define SMALL 64u
#define BIG 16384u   /* three in a slab */
#define LARGE 20000u /* a chunk of its own */
#define MEDIUM 8192u /* begins where a big one does */

struct held {
	uint64_t off;
	uint32_t generation;
};

static struct held old;

/* m.index[0] says: the old one is freed; m.index[1]: and another one is there. */
#define FREED (&m.index[0])
#define THERE (&m.index[1])
static struct held fresh;

static struct held take(uint64_t n)
{
	struct held h = { 0, 0 };

	ex_assert(wslx_portal_heap_alloc(&side[1].heap, n, &h.off, &h.generation) == 0);
	return h;
}

static void give(struct held h)
{
	ex_assert(wslx_portal_heap_release(&side[1].heap, h.off, h.generation) == 0);
}

static uint64_t *word_of(struct held h)
{
	return (uint64_t *)(void *)(land[1] + h.off);
}

static int look_up(struct held h, uint64_t *ret_size)
{
	return wslx_portal_heap_check(land[1], PORTAL_SEGMENT_SIZE, 1, h.off, h.generation, ret_size);
}

static void setup_heap(void)
{
	setup_base();
	setup_land_of(1);
}

static void setup_small(void)
{
	setup_heap();
	old = take(SMALL);
	*word_of(old) = 1;
}

static void setup_large(void)
{
	setup_heap();
	old = take(LARGE);
	*word_of(old) = 1;
}

static void reuse(uint64_t n)
{
	give(old);
	PORTAL_STORE_REL(FREED, 1);
	fresh = take(n);
	ex_assert(fresh.off == old.off);
	PORTAL_STORE_REL(word_of(fresh), 2);
	PORTAL_STORE_REL(THERE, 1);
}

static void reuse_small(void)
{
	reuse(SMALL);
}

static void reuse_large(void)
{
	reuse(2 * PORTAL_CHUNK_SIZE);
}

/* What was read between two looks that are both good is the old one's. */
static void holder(void)
{
	bool freed = PORTAL_LOAD_ACQ(FREED);
	uint64_t size = 0, v;
	int e = look_up(old, &size);

	ex_assert(e == -ESTALE || e == -EFAULT || (e == 0 && !freed));
	if (e < 0)
		return;
	v = PORTAL_LOAD_ACQ(word_of(old));
	ex_assert(look_up(old, &size) < 0 || v == 1);
}

/* Who is given the new one finds it. */
static void heir(void)
{
	uint64_t size = 0;

	holder();
	if (!PORTAL_LOAD_ACQ(THERE))
		return;
	ex_assert(look_up(old, &size) == -ESTALE);
	ex_assert(look_up(fresh, &size) == 0 && PORTAL_LOAD_ACQ(word_of(fresh)) == 2);
	ex_assert(size == SMALL || size == 2 * PORTAL_CHUNK_SIZE);
}

/* ---- what is there by then is of another kind, and looks like it ---- */

static void setup_kinds(void)
{
	struct held h[4];

	setup_heap();
	for (unsigned i = 0; i < 4; i++)
		h[i] = take(BIG);
	give(h[1]);
	give(h[2]);
	old = h[0];
}

static void change_kind(void)
{
	struct held large, other;

	/* Its slab goes with it, as there is another one of its class. */
	give(old);
	PORTAL_STORE_REL(FREED, 1);
	large = take(LARGE);
	ex_assert(large.off == (old.off & ~(PORTAL_CHUNK_SIZE - 1)));
	/* Its owner may write there what looks like generations. */
	PORTAL_STORE((uint32_t *)(void *)word_of(large), old.generation);
	give(large);
	other = take(MEDIUM);
	ex_assert(other.off == old.off);
}

static void holder_of_kinds(void)
{
	bool freed = PORTAL_LOAD_ACQ(FREED);
	uint64_t size = 0;
	int e = look_up(old, &size);

	ex_assert((e == 0 && !freed && size == BIG) || e == -ESTALE || e == -EFAULT);
}

const struct scenario handle_scenarios[] = {
	{ .name = "handles",
	  .fibers = 2,
	  .preemptions = 4,
	  .store_points = true,
	  .setup = setup_small,
	  .fiber = { heir, reuse_small } },
	{ .name = "handles-large",
	  .fibers = 2,
	  .preemptions = 4,
	  .store_points = true,
	  .setup = setup_large,
	  .fiber = { heir, reuse_large } },
	{ .name = "handles-kinds",
	  .fibers = 2,
	  .preemptions = 2,
	  .store_points = true,
	  .setup = setup_kinds,
	  .fiber = { holder_of_kinds, change_kind } },
	{ 0 },
};
