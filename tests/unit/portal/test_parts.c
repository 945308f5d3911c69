/* The parts by themselves: allocator, rings, directory. */
#include "support.h"

#include <sys/mman.h>
#include <time.h>

#include "portal/directory.h"
#include "portal/heap.h"
#include "portal/internal.h"
#include "portal/ring_inline.h"

#define ARENA (UINT64_C(8) << 20)

static uint8_t *new_arena(void)
{
	void *p = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void shapes(void **state)
{
	static const uint32_t objects[PORTAL_CLASSES] = { 963, 496, 252, 127, 63, 31, 15, 7, 3 };

	for (unsigned c = 0; c < PORTAL_CLASSES; c++) {
		struct wslx_portal_shape s = wslx_portal_shape(c);

		assert_int_equal(s.size, 64u << c);
		assert_int_equal(s.objects, objects[c]);
		assert_true(4 * s.objects <= s.first);
		assert_true(s.first + (uint64_t)s.objects * s.size <= PORTAL_CHUNK_SIZE);
		assert_int_equal(s.first % (s.size < 4096 ? s.size : 4096), 0);
	}
}

struct block {
	uint64_t off, size;
	uint32_t generation;
	uint8_t mark;
};

/* Random allocations and frees: none overlaps another, all are found by their handles, and in the end it is one run. */
static void heap_at_random(void **state)
{
	enum { N = 300 };
	static struct block b[N];
	uint8_t *arena = new_arena();
	struct wslx_portal_heap h;
	uint64_t whole, size, off;
	uint32_t generation;
	unsigned seed = 1;

	assert_int_equal(wslx_portal_heap_init(&h, arena, ARENA, 7), 0);
	whole = (uint64_t)(h.chunks - h.first) << PORTAL_CHUNK_SHIFT;
	for (unsigned round = 0; round < 20000; round++) {
		struct block *k = &b[rand_r(&seed) % N];

		if (k->size) {
			for (uint64_t i = 0; i < k->size; i += 61)
				assert_int_equal(arena[k->off + i], k->mark);
			assert_int_equal(wslx_portal_heap_check(arena, ARENA, 7, k->off, k->generation, &size), 0);
			assert_true(size >= k->size);
			assert_int_equal(wslx_portal_heap_release(&h, k->off, k->generation), 0);
			assert_int_not_equal(wslx_portal_heap_release(&h, k->off, k->generation), 0);
			assert_int_not_equal(wslx_portal_heap_check(arena, ARENA, 7, k->off, k->generation, &size), 0);
			k->size = 0;
			continue;
		}
		k->size = 1 + (uint64_t)rand_r(&seed) % (1u << (rand_r(&seed) % 20));
		if (wslx_portal_heap_alloc(&h, k->size, &k->off, &k->generation) < 0) {
			k->size = 0;
			continue;
		}
		k->mark = (uint8_t)round;
		memset(arena + k->off, k->mark, k->size);
	}
	for (unsigned i = 0; i < N; i++)
		if (b[i].size)
			assert_int_equal(wslx_portal_heap_release(&h, b[i].off, b[i].generation), 0);
	/* An empty slab of each class may be kept. */
	assert_int_equal(wslx_portal_heap_alloc(&h, whole / 2, &off, &generation), 0);
	assert_int_equal(wslx_portal_heap_release(&h, off, generation), 0);
	assert_int_equal(wslx_portal_heap_alloc(&h, whole + 1, &off, &generation), -ENOMEM);
	assert_int_equal(wslx_portal_heap_alloc(&h, 0, &off, &generation), -EINVAL);
	assert_int_equal(wslx_portal_heap_alloc(&h, UINT64_MAX, &off, &generation), -ENOMEM);
	wslx_portal_heap_free(&h);
	munmap(arena, ARENA);
}

/* Tables full of nonsense make errors, never a way out of the arena. */
static void heap_tables_of_a_liar(void **state)
{
	uint8_t *arena = new_arena();
	unsigned seed = 2, good = 0;

	for (unsigned i = 0; i < ARENA; i += 4096)
		for (unsigned k = 0; k < 64; k++)
			arena[i + k] = (uint8_t)rand_r(&seed);
	for (unsigned i = 0; i < 200000; i++) {
		uint64_t off = (uint64_t)rand_r(&seed) % (2 * ARENA), size = 0;
		uint32_t generation = 7u << 24 | (uint32_t)rand_r(&seed) % 1000;
		uint32_t info = i % 2 ? ((uint32_t)rand_r(&seed) % 200) << 8 | PORTAL_CHUNK_LARGE
				      : (uint32_t)rand_r(&seed) % 12;

		memcpy(arena + PORTAL_CHUNKS_OFF + 8 * ((off >> PORTAL_CHUNK_SHIFT) % 128), &info, 4);
		memcpy(arena + PORTAL_CHUNKS_OFF + 8 * ((off >> PORTAL_CHUNK_SHIFT) % 128) + 4, &generation, 4);
		if (i % 3 == 0)
			off &= ~(PORTAL_CHUNK_SIZE - 1);
		if (wslx_portal_heap_check(arena, ARENA, 7, off, generation, &size) == 0) {
			assert_true(off < ARENA && size <= ARENA - off);
			good++;
		}
	}
	assert_true(good > 0);
	munmap(arena, ARENA);
}

struct ring {
	struct portal_tx tx;
	struct portal_rx rx;
	_Alignas(8) uint8_t data[1024];
	struct wslx_portal_txe p;
	struct wslx_portal_rxe c;
};

static void ring_new(struct ring *r, uint32_t kind)
{
	memset(r, 0, sizeof(*r));
	wslx_portal_tx_format(&r->tx, kind, 1024, 0, 0);
	wslx_portal_rx_format(&r->rx, kind, 0);
	wslx_portal_txe_init(&r->p, &r->tx, &r->rx, r->data, 1024);
	wslx_portal_rxe_init(&r->c, &r->rx, &r->tx, r->data, 1024);
}

static void ring_limits(void **state)
{
	struct portal_record rec;
	const void *from = NULL;
	struct ring r;
	unsigned n = 0;
	void *to;

	ring_new(&r, PORTAL_RECORDS);
	assert_int_equal(wslx_portal_rx_peek(&r.c, &rec, &from), -EAGAIN);
	assert_int_equal(wslx_portal_tx_reserve(&r.p, 505, &to), -EMSGSIZE);
	assert_int_equal(wslx_portal_tx_reserve(&r.p, SIZE_MAX, &to), -EMSGSIZE);
	assert_int_equal(wslx_portal_tx_commit(&r.p, 0, 0), -EINVAL);
	assert_int_equal(wslx_portal_tx_reserve(&r.p, 504, &to), 0);
	assert_int_equal(wslx_portal_tx_commit(&r.p, 9, 505), -EINVAL);
	assert_int_equal(wslx_portal_tx_commit(&r.p, 9, 0), 0);
	/* Nothing is seen before it is published; an empty record is one. */
	assert_int_equal(wslx_portal_rx_ready(&r.c), 0);
	assert_false(wslx_portal_tx_publish(&r.p));
	assert_int_equal(wslx_portal_rx_peek(&r.c, &rec, &from), 0);
	assert_int_equal(rec.length, 0);
	assert_int_equal(rec.type, 9);
	wslx_portal_rx_next(&r.c, &rec);
	assert_false(wslx_portal_rx_release(&r.c));
	while (wslx_portal_tx_reserve(&r.p, 56, &to) == 0) {
		assert_int_equal(wslx_portal_tx_commit(&r.p, 0, 56), 0);
		n++;
	}
	assert_int_equal(n, 15); /* the sixteenth does not fit before the end, nor behind the pad */
}

static void ring_of_any_length(void **state)
{
	struct portal_record rec;
	const void *from = NULL;
	struct ring r;
	void *to = NULL;

	ring_new(&r, PORTAL_RECORDS);
	for (unsigned i = 0; i < 100000; i++) {
		unsigned n = i * 7919u % 505;

		assert_int_equal(wslx_portal_tx_reserve(&r.p, n, &to), 0);
		assert_true((uint8_t *)to + n <= r.data + sizeof(r.data));
		memset(to, (int)i, n);
		assert_int_equal(wslx_portal_tx_commit(&r.p, i, n), 0);
		assert_false(wslx_portal_tx_publish(&r.p));
		assert_int_equal(wslx_portal_rx_peek(&r.c, &rec, &from), 0);
		assert_int_equal(rec.length, n);
		assert_int_equal(rec.type, i);
		assert_true(!n || ((const uint8_t *)from)[n - 1] == (uint8_t)i);
		wslx_portal_rx_next(&r.c, &rec);
		assert_false(wslx_portal_rx_release(&r.c));
	}
}

/* Whatever the producer's pages say: an error that sticks, or records within bounds. */
static void ring_of_a_liar(void **state)
{
	unsigned seed = 3;

	for (unsigned round = 0; round < 20000; round++) {
		struct portal_record rec;
		const void *from = NULL;
		struct ring r;

		ring_new(&r, PORTAL_RECORDS);
		for (unsigned i = 0; i < 16; i++)
			((uint32_t *)(void *)r.data)[i * 2] = (uint32_t)rand_r(&seed) % (i % 3 ? 64 : UINT32_MAX);
		r.tx.head = (uint64_t)rand_r(&seed) % (round % 2 ? 1024 : UINT32_MAX);
		for (unsigned i = 0; i < 64; i++) {
			int e = wslx_portal_rx_peek(&r.c, &rec, &from);

			if (e < 0) {
				assert_true(e == -EAGAIN || e == -EPROTO);
				if (e == -EPROTO)
					assert_int_equal(wslx_portal_rx_peek(&r.c, &rec, &from), -EPROTO);
				break;
			}
			assert_true((const uint8_t *)from >= r.data &&
				    (const uint8_t *)from + rec.length <= r.data + 1024);
			wslx_portal_rx_next(&r.c, &rec);
			assert_true(r.c.pos <= r.c.head);
			r.tx.head += (uint64_t)rand_r(&seed) % 64;
		}
	}
}

static void consumer_of_lies(void **state)
{
	static const uint64_t bad[] = { 1, 1025, UINT64_MAX, UINT64_C(1) << 63 };
	struct ring r;
	void *to;

	for (unsigned i = 0; i < 4; i++) {
		ring_new(&r, PORTAL_RECORDS);
		r.rx.tail = bad[i];
		for (unsigned k = 0; k < 32 && wslx_portal_tx_reserve(&r.p, 56, &to) == 0; k++)
			assert_int_equal(wslx_portal_tx_commit(&r.p, 0, 56), 0);
		assert_int_equal(wslx_portal_tx_reserve(&r.p, 56, &to), -EPROTO);
		r.rx.tail = 0;
		assert_int_equal(wslx_portal_tx_reserve(&r.p, 56, &to), -EPROTO);
	}
}

/* Against a plain list: what is in it is found, what is not is not. */
static void directory_at_random(void **state)
{
	static struct portal_name table[64];
	static uint32_t index[128], free_slots[64], seq, end;
	struct wslx_portal_directory d = { .table = table,
					   .index = index,
					   .index_seq = &seq,
					   .end = &end,
					   .slots = 64,
					   .index_slots = 128,
					   .free = free_slots };
	struct wslx_portal_names names = wslx_portal_directory_names(&d);
	bool have[100] = { 0 };
	uint32_t n_have = 0;
	unsigned seed = 4;

	for (unsigned round = 0; round < 50000; round++) {
		unsigned i = (unsigned)rand_r(&seed) % 100;
		struct portal_name n = { .kind = PORTAL_OBJECT, .size = i }, got;
		uint32_t slot = 0;
		int r;

		snprintf(n.name, sizeof(n.name), "n%u", i);
		r = wslx_portal_lookup(&names, n.name, &got, &slot);
		assert_int_equal(r, have[i] ? 0 : -ENOENT);
		if (have[i]) {
			assert_int_equal(got.size, i);
			assert_int_equal(wslx_portal_directory_add(&d, &n), -EEXIST);
			wslx_portal_directory_remove(&d, slot);
			have[i] = false;
			n_have--;
		} else {
			r = wslx_portal_directory_add(&d, &n);
			assert_int_equal(r, n_have >= 64 ? -ENOSPC : 0);
			have[i] = r == 0;
			n_have += r == 0;
		}
		assert_int_equal(d.used, n_have);
	}
	/* Whatever came and went, the index holds what is there and nothing more, and slots were used again. */
	for (unsigned i = 0; i < 128; i++)
		n_have -= index[i] != 0;
	assert_int_equal(n_have, 0);
	assert_int_equal(end, 64);
	assert_int_equal(seq % 2, 0);
}

/* Names of several owners come, go, and end with their owners. */
static void owners_at_random(void **state)
{
	static struct portal_name table[64];
	static uint32_t index[128], free_slots[64], next[128], seq, end;
	struct wslx_portal_directory d = { .table = table,
					   .index = index,
					   .index_seq = &seq,
					   .end = &end,
					   .slots = 64,
					   .index_slots = 128,
					   .free = free_slots,
					   .next = next };
	struct wslx_portal_names names = wslx_portal_directory_names(&d);
	unsigned seed = 9;

	for (unsigned round = 0; round < 2000; round++) {
		uint32_t owner = 1 + (uint32_t)rand_r(&seed) % 3, its = 0;
		uint32_t owner_of[64] = { 0 };
		struct portal_name got;
		char key[16];

		for (unsigned i = 0; i < 64; i++) {
			struct portal_name n = { .kind = PORTAL_OBJECT, .size = i, .owner_generation = 5 };

			n.owner = owner_of[i] = (uint32_t)rand_r(&seed) % 4;
			n.kind = n.owner ? PORTAL_OBJECT : PORTAL_ARENA_OBJECT;
			snprintf(n.name, sizeof(n.name), "n%u", i);
			assert_int_equal(wslx_portal_directory_add(&d, &n), 0);
			its += n.owner == owner;
		}
		assert_int_equal(wslx_portal_directory_drop(&d, owner, 4), 0);
		assert_int_equal(wslx_portal_directory_drop(&d, 0, 5), 0);
		assert_int_equal(wslx_portal_directory_drop(&d, owner, 5), its);
		assert_int_equal(d.used, 64 - its);
		for (unsigned i = 0; i < 64; i++) {
			uint32_t slot;

			snprintf(key, sizeof(key), "n%u", i);
			assert_int_equal(wslx_portal_lookup(&names, key, &got, &slot),
					 owner_of[i] == owner ? -ENOENT : 0);
			if (owner_of[i] != owner)
				wslx_portal_directory_remove(&d, slot);
		}
		for (unsigned i = 0; i < 128; i++)
			assert_int_equal(index[i], 0);
		assert_int_equal(seq % 2, 0);
	}
}

enum { CLASH_SLOTS = 1 << 14, CLASH_INDEX = 2 * CLASH_SLOTS };

/* The hash is known, so its steps can be undone: three letters that lead from each state of its low bits to zero. */
static void ways_to_zero(char ret[CLASH_INDEX][3])
{
	const uint32_t prime = 0x1b3, mask = CLASH_INDEX - 1;
	uint32_t inverse = 1;

	for (unsigned i = 0; i < 5; i++)
		inverse *= 2 - prime * inverse;
	for (char a = '0'; a <= 'z'; a++) {
		for (char b = '0'; b <= 'z'; b++) {
			for (char c = '0'; c <= 'z'; c++) {
				uint32_t s = (uint32_t)c; /* before the last step, of which zero is left */

				s = s * inverse ^ (uint32_t)b;
				s = s * inverse ^ (uint32_t)a;
				memcpy(ret[s & mask], (const char[3]) { a, b, c }, 3);
			}
		}
	}
}

static int64_t cpu_ns(void)
{
	struct timespec ts;

	assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), 0);
	return ts.tv_sec * SEC + ts.tv_nsec;
}

/* One by one they would take as many steps as there are pairs of them, some seconds; together as many as there are. */
static void clashing_names_end_together(void **state)
{
	static struct portal_name table[CLASH_SLOTS];
	static uint32_t index[CLASH_INDEX], free_slots[CLASH_SLOTS], next[CLASH_INDEX], seq, end;
	static char way[CLASH_INDEX][3];
	struct wslx_portal_directory d = { .table = table,
					   .index = index,
					   .index_seq = &seq,
					   .end = &end,
					   .slots = CLASH_SLOTS,
					   .index_slots = CLASH_INDEX,
					   .free = free_slots,
					   .next = next };
	struct wslx_portal_names names = wslx_portal_directory_names(&d);
	struct portal_name other = { .kind = PORTAL_OBJECT, .owner = 2, .owner_generation = 1, .name = "other" }, got;
	uint32_t n_names = 0;
	int64_t t;

	ways_to_zero(way);
	for (unsigned i = 0; n_names < CLASH_SLOTS - 1; i++) {
		struct portal_name n = { .kind = PORTAL_OBJECT, .owner = 1, .owner_generation = 1 };
		const char *w;

		snprintf(n.name, sizeof(n.name), "%u-", i);
		w = way[wslx_portal_name_hash(n.name) & (CLASH_INDEX - 1)];
		if (!w[0])
			continue;
		memcpy(n.name + strlen(n.name), w, 3);
		assert_int_equal(wslx_portal_name_hash(n.name) & (CLASH_INDEX - 1), 0);
		assert_int_equal(wslx_portal_directory_add(&d, &n), 0);
		n_names++;
	}
	assert_int_equal(wslx_portal_directory_add(&d, &other), 0);
	t = cpu_ns();
	assert_int_equal(wslx_portal_directory_drop(&d, 1, 1), n_names);
	assert_true(cpu_ns() - t < SEC / 2);
	assert_int_equal(d.used, 1);
	assert_int_equal(wslx_portal_lookup(&names, "other", &got, NULL), 0);
}

static void names_that_are_none(void **state)
{
	char n[PORTAL_NAME_SIZE];

	assert_int_equal(wslx_portal_name_set(n, ""), -EINVAL);
	assert_int_equal(wslx_portal_name_set(n, NULL), -EINVAL);
	assert_int_equal(wslx_portal_name_set(n, "a/b"), -EINVAL);
	assert_int_equal(wslx_portal_name_set(n, "a b"), -EINVAL);
	assert_int_equal(wslx_portal_name_set(n, "\x7f"), -EINVAL);
	assert_int_equal(wslx_portal_name_set(n, "123456789012345678901234567890123456789012345678"), -EINVAL);
	assert_int_equal(wslx_portal_name_set(n, "12345678901234567890123456789012345678901234567"), 0);
}

static uint32_t one_generation(struct wslx_portal_heap *h, uint64_t *ret_off)
{
	uint32_t generation = 0;

	assert_int_equal(wslx_portal_heap_alloc(h, 64, ret_off, &generation), 0);
	assert_int_equal(wslx_portal_heap_release(h, *ret_off, generation), 0);
	return generation;
}

/* A handle is stale until the count of allocations has come around, and comes to its place just then. */
static void count_comes_around(void **state)
{
	uint8_t *arena = new_arena();
	uint64_t off, other, size;
	struct wslx_portal_heap h;
	uint32_t old, generation;

	assert_int_equal(wslx_portal_heap_init(&h, arena, ARENA, 7), 0);
	old = one_generation(&h, &off);
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_not_equal(one_generation(&h, &other), old);
		assert_int_equal(other, off);
		assert_int_equal(wslx_portal_heap_find(&h, off, old, &size), -ESTALE);
	}
	/* As after 2^24 of them. */
	h.counter = 0xfffffe;
	assert_int_equal(one_generation(&h, &other), 7u << 24 | 0xffffff);
	assert_int_equal(wslx_portal_heap_check(arena, ARENA, 7, off, old, &size), -ESTALE);
	assert_int_equal(wslx_portal_heap_alloc(&h, 64, &other, &generation), 0);
	assert_int_equal(generation, 7u << 24 | 1); /* 0 is nobody's */
	assert_int_equal(generation, old);
	assert_int_equal(wslx_portal_heap_check(arena, ARENA, 7, off, old, &size), 0);
	wslx_portal_heap_free(&h);
	munmap(arena, ARENA);
}

/* Arenas 256 generations apart have the same byte in their handles: they count far from each other. */
static void arenas_count_apart(void **state)
{
	enum { N = 64, FAR = 50000 };
	uint8_t *arena = new_arena();
	struct wslx_portal_heap h;
	uint32_t first[N];
	uint64_t off, size;

	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(wslx_portal_heap_init(&h, arena, ARENA, 7 + 256 * i), 0);
		first[i] = one_generation(&h, &off);
		assert_int_equal(first[i] >> 24, 7);
		for (unsigned k = 0; k < i; k++) {
			assert_in_range((first[i] - first[k]) & 0xffffff, FAR, 0xffffff - FAR);
			assert_int_equal(wslx_portal_heap_find(&h, off, first[k], &size), -ESTALE);
		}
		wslx_portal_heap_free(&h);
	}
	assert_int_equal(wslx_portal_heap_check(arena, ARENA, 8, off, first[0], &size), -ESTALE);
	munmap(arena, ARENA);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shapes),
		cmocka_unit_test(heap_at_random),
		cmocka_unit_test(heap_tables_of_a_liar),
		cmocka_unit_test(count_comes_around),
		cmocka_unit_test(arenas_count_apart),
		cmocka_unit_test(ring_limits),
		cmocka_unit_test(ring_of_any_length),
		cmocka_unit_test(ring_of_a_liar),
		cmocka_unit_test(consumer_of_lies),
		cmocka_unit_test(directory_at_random),
		cmocka_unit_test(owners_at_random),
		cmocka_unit_test(clashing_names_end_together),
		cmocka_unit_test(names_that_are_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
