/*
 * What an operation costs over the size of the region and the number of objects, blocks and names: it should be the
 * same.
 *
 * What is not the same everywhere is the memory itself: a name at random out of a million is in no cache.  So that is
 * measured beside the same name once more, and beside as many accesses to as large tables, without Portal: an entry of
 * the index, and the slot that it says.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal_bench.h"

#define MOST_BATCHES 50u
#define SMALL 256u
#define BLOCK (32u << 10) /* above what slabs hold */
#define LARGE (1u << 20)
#define ROOM (1u << 21) /* of the directory */
#define AT_RANDOM 200u
#define AGAIN 16u

static unsigned batches;

enum op { ALLOC, RESOLVE, BLOCKS, LARGES, PUBLISH, CONNECT, OPS };

static const char *const op_name[OPS] = { "alloc", "resolve", "block", "large", "publish", "connect" };

/* ---- who is connected to ---- */

static void flat_peer(void)
{
	portal_listener *l;
	portal_chan *c;
	portal *p;
	char buf[8];
	size_t n;

	pin(1);
	p = attach(0);
	must(portal_listen(p, "flat", NULL, &l), "listen");
	for (;;) {
		must(portal_accept(l, PORTAL_FOREVER, &c), "accept");
		(void)portal_recv(c, NULL, buf, sizeof(buf), &n, PORTAL_FOREVER); /* until it is closed */
		portal_chan_free(c);
	}
}

/* ---- operations; the time of one ---- */

static double since(uint64_t t, unsigned n)
{
	return (double)(now() - t) / n;
}

static double time_alloc(portal *p, size_t size, unsigned n)
{
	struct portal_handle h;
	uint64_t t = now();

	for (unsigned i = 0; i < n; i++) {
		must(portal_alloc(p, size, &h, NULL), "alloc");
		must(portal_free(p, h), "free");
	}
	return since(t, n);
}

static double time_resolve(portal *p, portal *q)
{
	struct portal_handle h[64];
	const void *at_;
	double ns;
	uint64_t t;

	for (unsigned i = 0; i < 64; i++)
		must(portal_alloc(p, SMALL, &h[i], NULL), "alloc");
	t = now();
	for (unsigned i = 0; i < 1000; i++)
		must(portal_resolve(q, h[i % 64], SMALL, &at_), "resolve");
	ns = since(t, 1000);
	for (unsigned i = 0; i < 64; i++)
		must(portal_free(p, h[i]), "free");
	return ns;
}

static double time_publish(portal *p)
{
	struct portal_handle h;
	double ns;
	uint64_t t;

	must(portal_alloc(p, SMALL, &h, NULL), "alloc");
	t = now();
	for (unsigned i = 0; i < 10; i++) {
		must(portal_publish(p, "published", h, SMALL, 0), "publish");
		must(portal_unpublish(p, "published"), "unpublish");
	}
	ns = since(t, 10);
	must(portal_free(p, h), "free");
	return ns;
}

static double time_connect(portal *p)
{
	portal_chan *c;
	uint64_t t = now();

	for (unsigned i = 0; i < 4; i++) {
		must(portal_connect(p, "flat", 0, PORTAL_FOREVER, &c), "connect");
		portal_chan_free(c);
	}
	return since(t, 4);
}

static double time_op(enum op op, portal *p, portal *q)
{
	switch (op) {
	case ALLOC:
		return time_alloc(p, SMALL, 1000);
	case RESOLVE:
		return time_resolve(p, q);
	case BLOCKS:
		return time_alloc(p, BLOCK, 1000);
	case LARGES:
		return time_alloc(p, LARGE, 200);
	case PUBLISH:
		return time_publish(p);
	default:
		return time_connect(p);
	}
}

static void flat_one(portal *p, portal *q, const char *what, unsigned long size)
{
	double v[OPS][MOST_BATCHES];

	for (unsigned k = 0; k < batches; k++)
		for (enum op op = 0; op < OPS; op++)
			v[op][k] = time_op(op, p, q);
	for (enum op op = 0; op < OPS; op++)
		printf("flat.%s.%lu.%s %.1f\n", what, size, op_name[op], at(v[op], batches, 0.5));
}

/* ---- opening names ---- */

/* As large as the directory, and laid out like it. */
static struct bare_tables {
	uint32_t *index;
	struct portal_name *table;
} bare_tables;

static void name_of(char *to, unsigned i)
{
	snprintf(to, PORTAL_NAME_SIZE, "object-%u", i);
}

static uint32_t *bare_entry(const char *name)
{
	return &bare_tables.index[wslx_portal_name_hash(name) % (2 * ROOM)];
}

static void add_names(portal *p, unsigned n)
{
	static unsigned have;
	char name[PORTAL_NAME_SIZE];
	struct portal_handle h;

	must(portal_alloc(p, 64, &h, NULL), "alloc");
	for (; have < n; have++) {
		name_of(name, have);
		must(portal_publish(p, name, h, 64, 0), "publish");
		memcpy(bare_tables.table[have].name, name, sizeof(name));
		*bare_entry(name) = have + 1;
	}
}

/* Which name comes next is said by the one before, so that the processor does not begin with the next meanwhile. */
static double time_open(portal *q, char (*name)[PORTAL_NAME_SIZE], unsigned n)
{
	struct portal_object o = { .kind = PORTAL_OBJECT };
	uint64_t t = now();

	for (unsigned i = 0; i < n; i++)
		must(portal_open(q, name[i] + (o.kind != PORTAL_OBJECT), &o), "open");
	return since(t, n);
}

/* The same without Portal: each address needs the one before. */
static double time_bare(uint32_t *const *entry, unsigned n)
{
	uint64_t t = now(), odd = 0;

	for (unsigned i = 0; i < n; i++) {
		uint32_t at_ = PORTAL_LOAD(entry[i] + odd);
		const uint64_t *slot = (const uint64_t *)(const void *)&bare_tables.table[at_ ? at_ - 1 : 0];
		uint64_t all = 0;

		for (unsigned k = 0; k < sizeof(struct portal_name) / 8; k++)
			all |= PORTAL_LOAD(&slot[k]);
		odd = all == UINT64_MAX;
	}
	return since(t, n);
}

/* Has both tables' pages mapped, and the caches full of other names. */
static void touch_all(portal *q, unsigned n)
{
	char name[1][PORTAL_NAME_SIZE];

	for (unsigned i = 0; i < n; i++) {
		uint32_t *e;

		name_of(name[0], i);
		(void)time_open(q, name, 1);
		e = bare_entry(name[0]);
		(void)time_bare(&e, 1);
	}
}

static void flat_names(portal *p, portal *q, unsigned n)
{
	static char name[AT_RANDOM][PORTAL_NAME_SIZE];
	static uint32_t *entry[AT_RANDOM];
	double cold[MOST_BATCHES], again[MOST_BATCHES], bare[MOST_BATCHES];

	add_names(p, n);
	touch_all(q, n);
	for (unsigned k = 0; k < batches; k++) {
		for (unsigned i = 0; i < AT_RANDOM; i++) {
			name_of(name[i], (i * 7919u + k * 131u) % n);
			entry[i] = bare_entry(name[i]);
		}
		cold[k] = time_open(q, name, AT_RANDOM);
		bare[k] = time_bare(entry, AT_RANDOM);
		again[k] = 0;
		(void)time_open(q, name, AGAIN);
		for (unsigned i = 0; i < 10; i++)
			again[k] += time_open(q, name, AGAIN) / 10;
	}
	printf("flat.names.%u.cold %.1f\n", n, at(cold, batches, 0.5));
	printf("flat.names.%u.bare %.1f\n", n, at(bare, batches, 0.5));
	printf("flat.names.%u.open %.1f\n", n, at(again, batches, 0.5));
	flat_one(p, q, "names", n);
}

/* ---- all of it ---- */

/* Every second one is freed again, so that the free memory is in as many pieces. */
static void add_blocks(portal *p, unsigned n)
{
	static struct portal_handle gap[10000];
	static unsigned have;
	struct portal_handle h;
	unsigned first = have;

	for (; have < n; have++) {
		must(portal_alloc(p, BLOCK, &gap[have], NULL), "alloc");
		must(portal_alloc(p, BLOCK, &h, NULL), "alloc");
	}
	while (first < n)
		must(portal_free(p, gap[first++]), "free");
}

void bench_flat(void)
{
	static const uint32_t segments[] = { 2, 32, 512, 32768 };
	struct portal_handle h;
	portal *p, *q;
	unsigned names = rounds > 1000 ? 1000000 : rounds > 10 ? 10000 : 100;

	batches = rounds < MOST_BATCHES ? rounds : MOST_BATCHES;
	bare_tables.index = shared(2 * ROOM * sizeof(uint32_t));
	bare_tables.table = shared(ROOM * sizeof(struct portal_name));
	/* Its thread keeps this processor: to be woken there costs several times as much as on one's own. */
	pin(1);
	start_broker(1 << 18, 1 << 17, ROOM);
	start_child(flat_peer);
	pin(0);
	q = attach(0);
	for (unsigned i = 0; i < 4; i++) {
		p = attach(segments[i]);
		flat_one(p, q, "mib", segments[i] * 2ul);
		portal_detach(p);
	}
	p = attach(1024);
	for (unsigned have = 0, n = 10; n <= 1000000; n *= 10) {
		for (; have < n; have++)
			must(portal_alloc(p, SMALL, &h, NULL), "alloc");
		flat_one(p, q, "objects", n);
	}
	portal_detach(p);
	p = attach(1024);
	for (unsigned n = 10; n <= 10000; n *= 10) {
		add_blocks(p, n);
		flat_one(p, q, "blocks", n);
	}
	for (unsigned n = 10; n <= names; n *= 10)
		flat_names(p, q, n);
}
