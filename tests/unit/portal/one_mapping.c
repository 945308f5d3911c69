#include "one_mapping.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "portal/internal.h"

#define SEGMENTS (1u + SEATS * SEAT_SEGMENTS)
#define LENGTH (SEGMENTS * PORTAL_SEGMENT_SIZE)
#define USED (UINT64_C(512) << 10) /* of an arena, behind its control area */

/* Where the host's next mapping goes: it asks for any place. */
static void *next_place;

void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);

/* Linked with --wrap; whichever of the two names libportal calls. */
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
	if (!next_place || at || !(flags & MAP_SHARED))
		return __real_mmap(at, n, prot, flags, fd, off);
	at = next_place;
	next_place = NULL;
	return __real_mmap(at, n, prot, flags | MAP_FIXED, fd, off);
}

void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
	return __wrap_mmap(at, n, prot, flags, fd, off);
}

static void futex_wake(const uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void ring_broker(struct world *w)
{
	__atomic_fetch_add(&w->rung, 1, __ATOMIC_RELAXED);
	futex_wake(&w->rung);
}

static void bell_wait(void *ctx, const struct portal_wait *words, size_t n, int64_t timeout_ns)
{
	wslx_portal_futex_ops.wait(NULL, words, n, timeout_ns);
}

static void bell_wake(void *ctx, unsigned to, const uint32_t *word)
{
	struct seat *s = ctx;

	if (word) {
		futex_wake(word);
		return;
	}
	__atomic_fetch_or(&s->due, UINT64_C(1) << to, __ATOMIC_RELAXED);
	ring_broker(s->w);
}

static const struct portal_doorbell_ops bell = { .wait = bell_wait, .wake = bell_wake };

static void serve(struct world *w, struct seat *s)
{
	uint64_t due = __atomic_exchange_n(&s->due, 0, __ATOMIC_RELAXED);

	for (; due; due &= due - 1)
		(void)portal_host_kick(w->h, s->index, (unsigned)__builtin_ctzll(due));
}

static void *broker_main(void *arg)
{
	struct world *w = arg;

	for (;;) {
		uint32_t rung = __atomic_load_n(&w->rung, __ATOMIC_RELAXED);

		if (__atomic_load_n(&w->stop, __ATOMIC_RELAXED))
			return NULL;
		for (unsigned i = 0; i < SEATS; i++)
			serve(w, &w->seat[i]);
		syscall(SYS_futex, &w->rung, FUTEX_WAIT, rung, NULL, NULL, 0);
	}
}

static uint8_t *place_of(const struct world *w, unsigned seat)
{
	return w->base + (1 + seat * SEAT_SEGMENTS) * PORTAL_SEGMENT_SIZE;
}

static bool is_sleeping(portal_chan *const *c, unsigned n, const uint32_t *at)
{
	for (unsigned i = 0; i < n; i++)
		if (at == &c[i]->tx.tx->sleeping || at == &c[i]->rx.rx->sleeping)
			return true;
	return false;
}

uint64_t world_sum(const struct world *w, unsigned seat, portal_chan *const *c, unsigned n)
{
	const uint32_t *from = (const uint32_t *)(const void *)(place_of(w, seat) + PORTAL_CHUNKS_OFF);
	uint64_t sum = 0;

	for (const uint32_t *at = from; at < from + USED / sizeof(*at); at++)
		if (!is_sleeping(c, n, at))
			sum = sum * 31 + *at;
	return sum;
}

/* The host looks at the first part of the arena at the same addresses as its writer. */
static void take_seat(struct world *w, unsigned i)
{
	struct portal_host_member m = {
		.size = sizeof(m), .name = "seat", .kind = PORTAL_KIND_PROCESS, .segments = SEAT_SEGMENTS
	};
	struct portal_attach_mapped a = { .size = sizeof(a), .base = w->base, .length = LENGTH, .generation = 1 };
	struct seat *s = &w->seat[i];
	int fd;

	s->w = w;
	next_place = place_of(w, i);
	assert_int_equal(portal_host_add(w->h, &m, &s->index), 0);
	assert_null(next_place);
	fd = portal_host_arena_fd(w->h, 1 + i, 1);
	assert_true(fd >= 0);
	assert_ptr_equal(mmap(place_of(w, i), SEAT_SEGMENTS * PORTAL_SEGMENT_SIZE, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_FIXED, fd, 0),
			 place_of(w, i));
	close(fd);
	a.participant = s->index;
	a.doorbell = &bell;
	a.doorbell_ctx = s;
	assert_int_equal(portal_attach_mapped(&a, &s->p), 0);
	assert_ptr_equal(s->p->ctl, place_of(w, i));
}

void world_start(struct world *w)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "one", .segments = SEGMENTS };

	*w = (struct world) { 0 };
	w->base = mmap(NULL, LENGTH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(w->base, MAP_FAILED);
	next_place = w->base;
	assert_int_equal(portal_host_create(&hp, &w->h), 0);
	assert_null(next_place);
	for (unsigned i = 0; i < SEATS; i++)
		take_seat(w, i);
	assert_int_equal(pthread_create(&w->thread, NULL, broker_main, w), 0);
}

void world_end(struct world *w)
{
	for (unsigned i = 0; i < SEATS; i++)
		portal_detach(w->seat[i].p);
	__atomic_store_n(&w->stop, true, __ATOMIC_RELAXED);
	ring_broker(w);
	pthread_join(w->thread, NULL);
	portal_host_destroy(w->h);
	munmap(w->base, LENGTH);
}

void share_fences(portal_chan *a, portal_chan *b)
{
	a->tx.fenced = a->rx.fenced = b->tx.fenced = b->rx.fenced = true;
	a->tx.light = a->rx.light = b->tx.light = b->rx.light = true;
}
