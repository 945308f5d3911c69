/* The window of a machine: finding an entry, mapping arenas.  Theory of operation: guest.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "portal/atomic.h"
#include "portal/guest.h"
#include "portal/internal.h"

/* Looks at words that somebody may be changing. */
#define TRIES 1000

_Static_assert(sizeof(struct portal_window) == 4096, "as in docs/portal.md");
_Static_assert(sizeof(struct portal_window_entry) == 4096, "as in docs/portal.md");
_Static_assert(sizeof(struct portal_window_arena) == 32, "as in docs/portal.md");

/* ---- finding ---- */

/* The entry's life, and all that is fixed with it. */
static bool read_entry(const struct portal_window_entry *e, struct portal_window_entry *ret)
{
	for (int i = 0; i < TRIES; i++) {
		uint64_t life = PORTAL_LOAD_SEQ(&e->life);

		wslx_portal_words_in(ret, e, offsetof(struct portal_window_entry, reserved1));
		if (ret->life == life && PORTAL_LOAD_SEQ(&e->life) == life)
			return true;
		PORTAL_PAUSE();
	}
	return false;
}

int wslx_portal_window_entry(const struct wslx_portal_window *w, struct wslx_portal_found *ret)
{
	struct portal_window_entry e;

	if (!read_entry(w->entry, &e))
		return -ETIMEDOUT;
	if (PORTAL_LIFE_STATE(e.life) != PORTAL_WINDOW_GRANTED)
		return -EPIPE;
	if (!e.participant || e.participant >= PORTAL_MAX_PARTICIPANTS || !e.segments ||
	    e.segments > PORTAL_MAX_SEGMENTS)
		return -EPROTO;
	*ret = (struct wslx_portal_found) {
		.life = e.life,
		.participant = e.participant,
		.segments = e.segments,
		.doorbell_port = e.doorbell_port,
		.part_generation = e.part_generation,
	};
	return 0;
}

bool wslx_portal_window_same(const struct wslx_portal_window *w)
{
	return PORTAL_LOAD_SEQ(&w->entry->life) == w->life;
}

void wslx_portal_window_free(struct wslx_portal_window *w)
{
	if (!w)
		return;
	wslx_portal_bell_close(&w->bell);
	if (w->tables)
		munmap((void *)(uintptr_t)w->tables, PORTAL_SEGMENT_SIZE);
	if (w->fd >= 0)
		close(w->fd);
	free(w);
}

/* fd is taken. */
static int open_tables(const struct wslx_portal_guest_os *os, int fd, struct wslx_portal_window **ret)
{
	struct wslx_portal_window *w = calloc(1, sizeof(*w));
	void *at;

	if (!w) {
		close(fd);
		return -ENOMEM;
	}
	w->os = os;
	w->fd = fd;
	wslx_portal_bell_init(&w->bell);
	at = mmap(NULL, PORTAL_SEGMENT_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED) {
		int r = -errno;

		wslx_portal_window_free(w);
		return r;
	}
	w->tables = at;
	w->segments = w->tables->segments;
	/* Any other device of this kind is none of ours. */
	if (w->tables->magic != PORTAL_WINDOW_MAGIC || w->tables->version != PORTAL_WINDOW_VERSION) {
		wslx_portal_window_free(w);
		return -ENOENT;
	}
	*ret = w;
	return 0;
}

static bool is_called(const struct portal_window_entry *e, const char *as)
{
	return memchr(e->as, '\0', sizeof(e->as)) && !strcmp(e->as, as);
}

/* -ENOENT. */
static int choose_entry(struct wslx_portal_window *w, const char *as)
{
	const uint8_t *base = (const uint8_t *)w->tables;
	uint32_t n = w->tables->max_entries;

	for (uint32_t i = 0; i < n && i < PORTAL_WINDOW_ENTRIES; i++) {
		struct portal_window_entry e;

		w->entry = (const struct portal_window_entry *)(const void *)(base + PORTAL_WINDOW_ENTRY_OFF(i));
		w->arenas = (const struct portal_window_arena *)(const void *)(base + PORTAL_WINDOW_ARENAS_OFF(i));
		w->index = i;
		if (read_entry(w->entry, &e) && is_called(&e, as))
			return 0;
	}
	return -ENOENT;
}

int wslx_portal_window_find(const struct wslx_portal_guest_os *os, const char *as, struct wslx_portal_window **ret)
{
	int why = -ENOENT;

	for (unsigned i = 0;; i++) {
		struct wslx_portal_window *w = NULL;
		int fd = os->open_window(os->opaque, i), r;

		if (fd == -ENOENT)
			return why;
		r = fd < 0 ? fd : open_tables(os, fd, &w);
		if (r == 0)
			r = choose_entry(w, as);
		if (r == 0) {
			*ret = w;
			return 0;
		}
		wslx_portal_window_free(w);
		if (r == -EACCES || r == -EPERM)
			why = r;
	}
}

/* ---- mapping ---- */

/* One row of the window's arena table; false if it does not stand still. */
static bool read_place(const struct portal_window_arena *shared, struct portal_window_arena *ret)
{
	uint64_t life = PORTAL_LOAD_SEQ(&shared->life);

	wslx_portal_words_in(ret, shared, sizeof(*ret));
	return ret->life == life && PORTAL_LOAD_SEQ(&shared->life) == life;
}

static bool place_ok(const struct wslx_portal_window *w, const struct portal_window_arena *at)
{
	/* Not the tables: they are no arena. */
	return at->segments && at->window_segment && wslx_range_ok(at->window_segment, at->segments, w->segments);
}

static int map_run(const portal *p, uint32_t first, const struct portal_window_arena *at, bool writable)
{
	const struct wslx_portal_guest_os *os = p->window->os;

	return os->map(os->opaque, p->base + ((uint64_t)first << PORTAL_SEGMENT_SHIFT),
		       (size_t)at->segments << PORTAL_SEGMENT_SHIFT, writable ? PROT_READ | PROT_WRITE : PROT_READ,
		       p->window->fd, (uint64_t)at->window_segment << PORTAL_SEGMENT_SHIFT);
}

int wslx_portal_window_map_host(portal *p)
{
	struct wslx_portal_window *w = p->window;
	struct portal_window_arena at;

	for (int i = 0; i < TRIES; i++) {
		if (!read_place(&w->arenas[0], &at))
			continue;
		if (PORTAL_LIFE_STATE(at.life) != PORTAL_ARENA_LIVE)
			return -EPIPE;
		if (!place_ok(w, &at) || at.segments > p->geo.segments)
			return -EPROTO;
		return map_run(p, 0, &at, false);
	}
	return -ETIMEDOUT;
}

/* Not in the window any more.  What is under a dead one's place stays, as somebody may be reading it, and so does our
 * own, which we go on writing though nobody looks; what was taken away reads as zeros.  A dead one's place is not
 * touched either, as it may be another's by now. */
static int take_away(portal *p, unsigned index, const struct portal_arena *a)
{
	struct wslx_portal_view v = { a->life, a->first, a->segments, a->owner, a->flags, true, false, false };
	struct wslx_portal_view *have = &p->view[index];
	uint8_t *at = p->base + ((uint64_t)a->first << PORTAL_SEGMENT_SHIFT);
	size_t len = (size_t)a->segments << PORTAL_SEGMENT_SHIFT;

	if (a->owner == p->self && a->flags & PORTAL_ARENA_CONTROL) {
		if (index != p->own_arena)
			return 0;
		/* All rows are cleared when the grant ends, as when the broker is gone; that is said first. */
		if (!wslx_portal_window_same(p->window))
			return -EPIPE;
		__atomic_store_n(&p->revoked, true, __ATOMIC_RELEASE);
		v.readable = true;
	} else if (!have->mapped) {
		return 0; /* never had it */
	} else if (PORTAL_LIFE_STATE(a->life) == PORTAL_ARENA_DEAD) {
		have->life = a->life;
		have->readable = have->writable = false;
		return 0;
	} else if (mmap(at, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) ==
		   MAP_FAILED) {
		return -errno;
	}
	wslx_portal_take_place(p, index, &v);
	return 0;
}

static int put_in_place(portal *p, unsigned index, const struct portal_arena *a, const struct portal_window_arena *at)
{
	struct wslx_portal_view v = { a->life, a->first, a->segments, a->owner, a->flags, true, true, false };
	int r;

	if (!place_ok(p->window, at) || at->segments != a->segments)
		return -EPROTO;
	v.writable = a->owner == p->self && at->access & PORTAL_WINDOW_WRITE &&
		     PORTAL_LIFE_STATE(a->life) == PORTAL_ARENA_LIVE;
	r = map_run(p, a->first, at, v.writable);
	if (r < 0)
		return r;
	wslx_portal_take_place(p, index, &v);
	if (a->owner == p->self && a->flags & PORTAL_ARENA_CONTROL && v.writable)
		p->own_arena = index;
	return 0;
}

static int sync_arena(portal *p, unsigned index)
{
	const struct wslx_portal_view *have = &p->view[index];
	struct portal_window_arena at;
	struct portal_arena a;
	bool here;

	if (!read_place(&p->window->arenas[index], &at))
		return -EAGAIN;
	wslx_portal_words_in(&a, &p->arenas[index], sizeof(a));
	if (PORTAL_LIFE_STATE(a.life) == PORTAL_ARENA_FREE || !a.segments ||
	    !wslx_range_ok(a.first, a.segments, p->geo.segments))
		return 0;
	here = at.life == a.life && at.access & (PORTAL_WINDOW_READ | PORTAL_WINDOW_WRITE);
	if (have->mapped && have->life == a.life && have->readable == here)
		return 0;
	/* A gap in the tables while one arena becomes another: the event after it brings us back. */
	if (!here && at.life && (have->life == at.life || PORTAL_LIFE_STATE(at.life) == PORTAL_ARENA_FREE))
		return 0;
	return here ? put_in_place(p, index, &a, &at) : take_away(p, index, &a);
}

bool wslx_portal_window_holds(const struct wslx_portal_window *w, unsigned arena, uint64_t generation)
{
	uint64_t life = PORTAL_LOAD_SEQ(&w->arenas[arena].life);

	/* Of another grant's entry the generations mean something else. */
	return (life == PORTAL_LIFE(generation, PORTAL_ARENA_LIVE) ||
		life == PORTAL_LIFE(generation, PORTAL_ARENA_DEAD)) &&
	       wslx_portal_window_same(w);
}

bool wslx_portal_window_news(const struct wslx_portal_window *w)
{
	return PORTAL_LOAD_ACQ(&w->tables->event) != PORTAL_LOAD(&w->seen);
}

int wslx_portal_window_sync(portal *p)
{
	const struct portal_window_entry *e = p->window->entry;

	if (!wslx_portal_window_same(p->window))
		return -EPIPE;
	for (int i = 0; i < TRIES; i++) {
		uint32_t seen = PORTAL_LOAD_SEQ(&p->window->tables->event);
		uint32_t epoch = PORTAL_LOAD_SEQ(&e->epoch);
		int r = 0;

		for (unsigned k = 0; k < PORTAL_MAX_ARENAS && r == 0; k++)
			r = sync_arena(p, k);
		if (r < 0 && r != -EAGAIN)
			return r;
		/* Whose arenas are these? */
		if (!wslx_portal_window_same(p->window))
			return -EPIPE;
		if (r == 0 && PORTAL_LOAD_SEQ(&e->epoch) == epoch) {
			PORTAL_STORE(&p->window->seen, seen);
			PORTAL_STORE_REL(&p->epoch, epoch);
			return 0;
		}
	}
	/* It is being changed all the time: later. */
	return 0;
}
