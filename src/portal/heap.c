/* Slabs, large allocations, and what readers check; see heap.h. */
#include "portal/heap.h"

#include <errno.h>
#include <stdlib.h>

#include "portal/atomic.h"

#define SLAB_WORDS 16 /* bits for the 960 objects of the smallest class */
#define COUNT_MASK 0xffffffu
#define COUNT_STEP 0x9e3779u /* the golden ratio of it: multiples lie far apart */

enum chunk_state { CH_TAKEN = 0, CH_FREE, CH_SLAB, CH_LARGE, CH_INSIDE };

struct wslx_portal_slab {
	struct wslx_portal_slab *next, *prev;
	uint64_t used[SLAB_WORDS];
	uint32_t *generations; /* private twin */
	uint32_t chunk, n_used;
	uint8_t class;
	bool listed;
};

struct wslx_portal_shape wslx_portal_shape(unsigned class)
{
	uint32_t size = 64u << class, align = size < 4096 ? size : 4096, n, first;

	n = (uint32_t)(PORTAL_CHUNK_SIZE / (size + 4));
	for (;; n--) {
		first = (4 * n + align - 1) & ~(align - 1);
		if (first + (uint64_t)n * size <= PORTAL_CHUNK_SIZE)
			return (struct wslx_portal_shape) { .objects = n, .first = first, .size = size };
	}
}

static unsigned bin_of(uint32_t run)
{
	return 31u - (unsigned)__builtin_clz(run);
}

static void unlink_run(struct wslx_portal_heap *h, uint32_t c)
{
	struct wslx_portal_chunk_info *i = &h->info[c];

	if (i->prev == HEAP_NONE)
		h->bins[bin_of(i->run)] = i->next;
	else
		h->info[i->prev].next = i->next;
	if (i->next != HEAP_NONE)
		h->info[i->next].prev = i->prev;
}

static void insert_run(struct wslx_portal_heap *h, uint32_t c, uint32_t n)
{
	struct wslx_portal_chunk_info *i = &h->info[c];
	uint32_t *bin = &h->bins[bin_of(n)];

	h->info[c + n - 1].run = n;
	h->info[c + n - 1].state = CH_FREE;
	*i = (struct wslx_portal_chunk_info) { .run = n, .next = *bin, .prev = HEAP_NONE, .state = CH_FREE };
	if (*bin != HEAP_NONE)
		h->info[*bin].prev = c;
	*bin = c;
}

/* A run of at least n: any of a larger bin, or one of the first few of its own. */
static uint32_t find_run(struct wslx_portal_heap *h, uint32_t n)
{
	unsigned b = bin_of(n), looks = 16;

	for (uint32_t c = h->bins[b]; c != HEAP_NONE && looks--; c = h->info[c].next)
		if (h->info[c].run >= n)
			return c;
	for (b++; b < HEAP_BINS; b++)
		if (h->bins[b] != HEAP_NONE)
			return h->bins[b];
	/* Rather slow than out of memory. */
	for (uint32_t c = h->bins[bin_of(n)]; c != HEAP_NONE; c = h->info[c].next)
		if (h->info[c].run >= n)
			return c;
	return HEAP_NONE;
}

static uint32_t take_run(struct wslx_portal_heap *h, uint32_t n)
{
	uint32_t c = find_run(h, n), rest;

	if (c == HEAP_NONE)
		return c;
	rest = h->info[c].run - n;
	unlink_run(h, c);
	if (rest)
		insert_run(h, c + n, rest);
	for (uint32_t k = c; k < c + n; k++)
		h->info[k] = (struct wslx_portal_chunk_info) { .state = CH_INSIDE };
	h->info[c].run = n;
	return c;
}

static void give_run(struct wslx_portal_heap *h, uint32_t c, uint32_t n)
{
	for (uint32_t k = c; k < c + n; k++)
		h->info[k] = (struct wslx_portal_chunk_info) { .state = CH_INSIDE };
	if (c + n < h->chunks && h->info[c + n].state == CH_FREE) {
		uint32_t more = h->info[c + n].run;

		unlink_run(h, c + n);
		h->info[c + n].state = CH_INSIDE;
		n += more;
	}
	if (c > h->first && h->info[c - 1].state == CH_FREE) {
		uint32_t before = h->info[c - 1].run;

		unlink_run(h, c - before);
		h->info[c - 1].state = CH_INSIDE;
		c -= before;
		n += before;
	}
	insert_run(h, c, n);
}

static uint32_t new_generation(struct wslx_portal_heap *h)
{
	h->counter = (h->counter + 1) & COUNT_MASK;
	if (!h->counter)
		h->counter = 1;
	return h->epoch8 << 24 | h->counter;
}

int wslx_portal_heap_init(struct wslx_portal_heap *h, uint8_t *arena, uint64_t size, uint64_t arena_generation)
{
	uint64_t chunks = size >> PORTAL_CHUNK_SHIFT, table = chunks * sizeof(struct portal_chunk);
	uint64_t first = (PORTAL_CHUNKS_OFF + table + PORTAL_CHUNK_SIZE - 1) >> PORTAL_CHUNK_SHIFT;

	if (first >= chunks || chunks >= HEAP_NONE)
		return -EINVAL;
	*h = (struct wslx_portal_heap) {
		.arena = arena,
		.table = (struct portal_chunk *)(void *)(arena + PORTAL_CHUNKS_OFF),
		.first = (uint32_t)first,
		.chunks = (uint32_t)chunks,
		.epoch8 = (uint32_t)(arena_generation & 0xff),
		/* The next arena with that low byte counts other numbers for a long time. */
		.counter = (uint32_t)(arena_generation >> 8) * COUNT_STEP & COUNT_MASK,
	};
	h->info = calloc(chunks, sizeof(*h->info));
	if (!h->info)
		return -ENOMEM;
	for (unsigned i = 0; i < HEAP_BINS; i++)
		h->bins[i] = HEAP_NONE;
	insert_run(h, h->first, h->chunks - h->first);
	return 0;
}

static void free_slab(struct wslx_portal_slab *s)
{
	if (s)
		free(s->generations);
	free(s);
}

void wslx_portal_heap_free(struct wslx_portal_heap *h)
{
	if (!h->info)
		return;
	for (uint32_t c = h->first; c < h->chunks; c++) {
		struct wslx_portal_chunk_info *i = &h->info[c];

		if (i->state == CH_SLAB)
			free_slab(i->slab);
		else if ((i->state == CH_FREE || i->state == CH_LARGE) && i->run)
			c += i->run - 1;
	}
	free(h->info);
	h->info = NULL;
}

static void tell_chunk(struct wslx_portal_heap *h, uint32_t c, uint32_t kind, uint32_t n, uint32_t generation)
{
	PORTAL_STORE_REL(&h->table[c].info, kind | n << 8);
	PORTAL_STORE_REL(&h->table[c].generation, generation);
}

static void list_slab(struct wslx_portal_heap *h, struct wslx_portal_slab *s)
{
	struct wslx_portal_slab **head = &h->partial[s->class];

	s->prev = NULL;
	s->next = *head;
	if (*head)
		(*head)->prev = s;
	*head = s;
	s->listed = true;
}

static void unlist_slab(struct wslx_portal_heap *h, struct wslx_portal_slab *s)
{
	if (s->prev)
		s->prev->next = s->next;
	else
		h->partial[s->class] = s->next;
	if (s->next)
		s->next->prev = s->prev;
	s->listed = false;
}

static struct wslx_portal_slab *new_slab(struct wslx_portal_heap *h, unsigned class)
{
	struct wslx_portal_shape shape = wslx_portal_shape(class);
	struct wslx_portal_slab *s = calloc(1, sizeof(*s));
	uint32_t *gens;

	if (s)
		s->generations = calloc(shape.objects, sizeof(uint32_t));
	if (!s || !s->generations) {
		free_slab(s);
		return NULL;
	}
	s->chunk = take_run(h, 1);
	if (s->chunk == HEAP_NONE) {
		free_slab(s);
		return NULL;
	}
	s->class = (uint8_t) class;
	for (uint32_t i = shape.objects; i < SLAB_WORDS * 64; i++)
		s->used[i / 64] |= UINT64_C(1) << (i % 64);
	h->info[s->chunk].slab = s;
	h->info[s->chunk].state = CH_SLAB;
	gens = (uint32_t *)(void *)(h->arena + ((uint64_t)s->chunk << PORTAL_CHUNK_SHIFT));
	for (uint32_t i = 0; i < shape.objects; i++)
		PORTAL_STORE(&gens[i], 0);
	tell_chunk(h, s->chunk, 1 + class, 1, 0);
	list_slab(h, s);
	return s;
}

static int alloc_small(struct wslx_portal_heap *h, unsigned class, uint64_t *ret_off, uint32_t *ret_generation)
{
	struct wslx_portal_slab *s = h->partial[class];
	struct wslx_portal_shape shape = wslx_portal_shape(class);
	uint32_t *gens, i, w = 0;

	if (!s)
		s = new_slab(h, class);
	if (!s)
		return -ENOMEM;
	while (!~s->used[w])
		w++;
	i = w * 64 + (uint32_t)__builtin_ctzll(~s->used[w]);
	s->used[w] |= UINT64_C(1) << (i % 64);
	if (++s->n_used == shape.objects)
		unlist_slab(h, s);
	gens = (uint32_t *)(void *)(h->arena + ((uint64_t)s->chunk << PORTAL_CHUNK_SHIFT));
	s->generations[i] = *ret_generation = new_generation(h);
	PORTAL_STORE_REL(&gens[i], s->generations[i]);
	*ret_off = ((uint64_t)s->chunk << PORTAL_CHUNK_SHIFT) + shape.first + (uint64_t)i * shape.size;
	return 0;
}

static int alloc_large(struct wslx_portal_heap *h, uint64_t n, uint64_t *ret_off, uint32_t *ret_generation)
{
	uint64_t chunks = (n + PORTAL_CHUNK_SIZE - 1) >> PORTAL_CHUNK_SHIFT;
	uint32_t c;

	if (chunks > h->chunks)
		return -ENOMEM;
	c = take_run(h, (uint32_t)chunks);
	if (c == HEAP_NONE)
		return -ENOMEM;
	h->info[c].state = CH_LARGE;
	h->info[c].generation = *ret_generation = new_generation(h);
	for (uint32_t k = c + 1; k < c + chunks; k++)
		tell_chunk(h, k, PORTAL_CHUNK_NONE, 0, 0);
	tell_chunk(h, c, PORTAL_CHUNK_LARGE, (uint32_t)chunks, *ret_generation);
	*ret_off = (uint64_t)c << PORTAL_CHUNK_SHIFT;
	return 0;
}

int wslx_portal_heap_alloc(struct wslx_portal_heap *h, uint64_t n, uint64_t *ret_off, uint32_t *ret_generation)
{
	unsigned class = 0;

	if (!n)
		return -EINVAL;
	if (n > (uint64_t)h->chunks << PORTAL_CHUNK_SHIFT)
		return -ENOMEM;
	while (class < PORTAL_CLASSES && n > UINT64_C(64) << class)
		class ++;
	if (class < PORTAL_CLASSES)
		return alloc_small(h, class, ret_off, ret_generation);
	return alloc_large(h, n, ret_off, ret_generation);
}

/* Which object of a slab starts there? */
static int object_at(unsigned class, uint64_t in_chunk, uint32_t *ret)
{
	struct wslx_portal_shape shape = wslx_portal_shape(class);
	uint64_t i;

	if (in_chunk < shape.first || (in_chunk - shape.first) % shape.size)
		return -EFAULT;
	i = (in_chunk - shape.first) / shape.size;
	if (i >= shape.objects)
		return -EFAULT;
	*ret = (uint32_t)i;
	return 0;
}

int wslx_portal_heap_find(const struct wslx_portal_heap *h, uint64_t off, uint32_t generation, uint64_t *ret_size)
{
	uint64_t c = off >> PORTAL_CHUNK_SHIFT, in_chunk = off & (PORTAL_CHUNK_SIZE - 1);
	const struct wslx_portal_chunk_info *i;
	uint32_t k = 0;
	int r;

	if (c < h->first || c >= h->chunks || !generation)
		return -EFAULT;
	i = &h->info[c];
	if (i->state == CH_LARGE) {
		*ret_size = (uint64_t)i->run << PORTAL_CHUNK_SHIFT;
		return in_chunk ? -EFAULT : i->generation == generation ? 0 : -ESTALE;
	}
	if (i->state != CH_SLAB)
		return -ESTALE;
	r = object_at(i->slab->class, in_chunk, &k);
	if (r < 0)
		return r;
	*ret_size = wslx_portal_shape(i->slab->class).size;
	return i->slab->generations[k] == generation ? 0 : -ESTALE;
}

static void release_small(struct wslx_portal_heap *h, struct wslx_portal_slab *s, uint64_t in_chunk)
{
	uint32_t *gens = (uint32_t *)(void *)(h->arena + ((uint64_t)s->chunk << PORTAL_CHUNK_SHIFT)), k = 0;

	if (object_at(s->class, in_chunk, &k) < 0)
		return;
	PORTAL_STORE_REL(&gens[k], 0);
	s->generations[k] = 0;
	s->used[k / 64] &= ~(UINT64_C(1) << (k % 64));
	s->n_used--;
	if (!s->listed)
		list_slab(h, s);
	/* Keep one empty slab a class, so that a lone object does not make and unmake it. */
	if (!s->n_used && (s->next || s->prev)) {
		unlist_slab(h, s);
		tell_chunk(h, s->chunk, PORTAL_CHUNK_NONE, 0, 0);
		give_run(h, s->chunk, 1);
		free_slab(s);
	}
}

int wslx_portal_heap_release(struct wslx_portal_heap *h, uint64_t off, uint32_t generation)
{
	uint32_t c = (uint32_t)(off >> PORTAL_CHUNK_SHIFT);
	uint64_t size;
	int r = wslx_portal_heap_find(h, off, generation, &size);

	if (r < 0)
		return r;
	if (h->info[c].state == CH_SLAB) {
		release_small(h, h->info[c].slab, off & (PORTAL_CHUNK_SIZE - 1));
		return 0;
	}
	tell_chunk(h, c, PORTAL_CHUNK_NONE, 0, 0);
	give_run(h, c, h->info[c].run);
	return 0;
}

int wslx_portal_heap_check(const uint8_t *arena, uint64_t size, uint64_t arena_generation, uint64_t off,
			   uint32_t generation, uint64_t *ret_size)
{
	uint64_t chunks = size >> PORTAL_CHUNK_SHIFT, c = off >> PORTAL_CHUNK_SHIFT;
	uint64_t in_chunk = off & (PORTAL_CHUNK_SIZE - 1), n;
	const struct portal_chunk *table = (const struct portal_chunk *)(const void *)(arena + PORTAL_CHUNKS_OFF);
	const uint32_t *gens = (const uint32_t *)(const void *)(arena + (c << PORTAL_CHUNK_SHIFT));
	uint32_t info, k = 0;
	int r;

	if (c < PORTAL_CHUNKS_OFF >> PORTAL_CHUNK_SHIFT || c >= chunks || !generation)
		return -EFAULT;
	if (generation >> 24 != (arena_generation & 0xff))
		return -ESTALE;
	info = PORTAL_LOAD_ACQ(&table[c].info);
	if ((info & 0xff) == PORTAL_CHUNK_LARGE) {
		n = info >> 8;
		if (in_chunk || !n || n > chunks - c)
			return -EFAULT;
		*ret_size = n << PORTAL_CHUNK_SHIFT;
		return PORTAL_LOAD_ACQ(&table[c].generation) == generation ? 0 : -ESTALE;
	}
	if (!(info & 0xff) || (info & 0xff) > PORTAL_CLASSES)
		return -ESTALE;
	r = object_at((info & 0xff) - 1, in_chunk, &k);
	if (r < 0)
		return r;
	*ret_size = wslx_portal_shape((info & 0xff) - 1).size;
	return PORTAL_LOAD_ACQ(&gens[k]) == generation ? 0 : -ESTALE;
}
