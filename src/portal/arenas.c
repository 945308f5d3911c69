/*
 * The private copy of the arena table, and the mapping behind it.
 *
 * With a broker's socket, SYNC brings what has changed with descriptors, and
 * each is mapped over its place.  In a guest, the window says where each is
 * (window.c).  Where a transport has mapped the region, the table itself is
 * copied.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "portal/atomic.h"
#include "portal/guest.h"
#include "portal/internal.h"

int wslx_portal_take_geometry(portal *p)
{
	const struct portal_header *h = p->hdr;
	struct wslx_portal_geometry *g = &p->geo;
	uint64_t size = p->length;

	*g = (struct wslx_portal_geometry) {
		.segments = h->segments,
		.tag = h->tag,
		.name_slots = h->name_slots,
		.participants_off = h->participants_off,
		.arenas_off = h->arenas_off,
		.names_off = h->names_off,
		.index_off = h->index_off,
		.index_slots = h->index_slots,
	};
	if (h->magic != PORTAL_MAGIC)
		return -EPROTO;
	if (h->version != PORTAL_VERSION || h->features || h->segment_shift != PORTAL_SEGMENT_SHIFT)
		return -EPROTONOSUPPORT;
	if (!g->name_slots || (g->name_slots & (g->name_slots - 1)) || g->name_slots > PORTAL_NAME_SLOTS_MAX ||
	    !g->index_slots || (g->index_slots & (g->index_slots - 1)) || g->segments > size >> PORTAL_SEGMENT_SHIFT ||
	    g->participants_off % 64 || g->arenas_off % 64 || g->names_off % 64 || g->index_off % 64 ||
	    !wslx_range_ok(g->participants_off, PORTAL_MAX_PARTICIPANTS * sizeof(struct portal_participant), size) ||
	    !wslx_range_ok(g->arenas_off, PORTAL_MAX_ARENAS * sizeof(struct portal_arena), size) ||
	    !wslx_range_ok(g->names_off, g->name_slots * sizeof(struct portal_name), size) ||
	    !wslx_range_ok(g->index_off, g->index_slots * sizeof(uint32_t), size))
		return -EPROTO;
	p->parts = (const struct portal_participant *)(void *)(p->base + g->participants_off);
	p->arenas = (const struct portal_arena *)(void *)(p->base + g->arenas_off);
	p->names = (struct wslx_portal_names) {
		.table = (const struct portal_name *)(void *)(p->base + g->names_off),
		.index = (const uint32_t *)(void *)(p->base + g->index_off),
		.index_seq = &h->index_seq,
		.end = &h->names_end,
		.slots = g->name_slots,
		.index_slots = g->index_slots,
	};
	return 0;
}

static void set_segments(portal *p, const struct wslx_portal_view *v, uint16_t arena)
{
	for (uint32_t s = v->first; s < v->first + v->segments; s++)
		PORTAL_STORE_REL(&p->arena_of[s], arena);
}

/* arena_of[] may still name one here whose number has since come with another place: nothing here is that one's. */
static bool lies_at(const struct wslx_portal_view *v, uint32_t segment)
{
	return segment >= v->first && segment - v->first < v->segments;
}

void wslx_portal_take_place(portal *p, unsigned index, const struct wslx_portal_view *v)
{
	for (uint32_t s = v->first; s < v->first + v->segments; s++) {
		uint16_t old = p->arena_of[s];

		if (old != NO_ARENA && old != index && lies_at(&p->view[old], s))
			p->view[old].readable = p->view[old].writable = false;
	}
	p->view[index] = *v;
	set_segments(p, v, (uint16_t)index);
}

static int map_zeros(portal *p, uint32_t first, uint32_t segments)
{
	uint8_t *at = p->base + ((uint64_t)first << PORTAL_SEGMENT_SHIFT);

	return mmap(at, (size_t)segments << PORTAL_SEGMENT_SHIFT, PROT_READ,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED
		       ? -errno
		       : 0;
}

/* Takes away what is mapped of the arena that had this number, wherever it lies. */
static int let_go(portal *p, unsigned index)
{
	const struct wslx_portal_view *v = &p->view[index];
	int r = 0;

	for (uint32_t s = v->first; r == 0 && v->mapped && s < v->first + v->segments; s++)
		if (p->arena_of[s] == index)
			r = map_zeros(p, s, 1);
	return r;
}

/* The number is another's by now.  If the one before lived when we last heard of it, nobody tells how it ended: if it
 * was revoked, what is mapped of it is memory that its writer still has.  If it was dead, its last bytes are nobody's
 * any more, as a channel finds by the number; the dead must not add up.  What we write to ourselves is nobody else's.
 */
static int let_go_of_last(portal *p, unsigned index, const struct wslx_portal_msg *m)
{
	const struct wslx_portal_view *v = &p->view[index];

	if (v->writable || (v->first == m->first && v->segments == m->segments))
		return 0;
	return let_go(p, index);
}

/* A dead one's last bytes stay: somebody may be reading them.  Its place is not touched, as it may be another's by
 * now. */
static int bury(portal *p, unsigned index, uint64_t life)
{
	struct wslx_portal_view *v = &p->view[index];
	int r = wslx_portal_last_bytes(v->life, life) ? 0 : let_go(p, index);

	/* Until it is gone we have the one before, and the next try lets go of it. */
	if (r == 0)
		v->life = life;
	v->readable = v->writable = false;
	return r;
}

static int hide_arena(portal *p, unsigned index, const struct wslx_portal_msg *m)
{
	struct wslx_portal_view v = { m->life, m->first, m->segments, m->owner, m->flags, true, false, false };
	int r = 0;

	if (m->owner == p->self && m->flags & PORTAL_ARENA_CONTROL && p->ctl) {
		/* Revoked: we go on writing into what nobody else looks at. */
		__atomic_store_n(&p->revoked, true, __ATOMIC_RELEASE);
		v.readable = true;
	} else if (PORTAL_LIFE_STATE(m->life) == PORTAL_ARENA_DEAD) {
		return bury(p, index, m->life);
	} else {
		r = let_go(p, index);
		/* There may be an arena that lost this place and of which we shall hear only now. */
		if (r == 0)
			r = map_zeros(p, m->first, m->segments);
	}
	if (r == 0)
		wslx_portal_take_place(p, index, &v);
	return r;
}

static int map_arena(portal *p, unsigned index, const struct wslx_portal_msg *m, int fd)
{
	struct wslx_portal_view v = { m->life, m->first, m->segments, m->owner, m->flags, true, true, false };
	uint8_t *at = p->base + ((uint64_t)m->first << PORTAL_SEGMENT_SHIFT);
	size_t len = (size_t)m->segments << PORTAL_SEGMENT_SHIFT;
	int r;

	if (m->access == PORTAL_ACCESS_NONE)
		return hide_arena(p, index, m);
	r = let_go_of_last(p, index, m);
	if (r < 0)
		return r;
	v.writable = m->access == PORTAL_ACCESS_WRITE && m->owner == p->self;
	if (mmap(at, len, v.writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd,
		 0) == MAP_FAILED)
		return -errno;
	wslx_portal_take_place(p, index, &v);
	if (m->owner == p->self && m->flags & PORTAL_ARENA_CONTROL)
		p->own_arena = index;
	return 0;
}

/* What one ARENA asks for; n as received. */
static int take_arena(portal *p, ssize_t n, const struct wslx_portal_msg *m, int fd)
{
	if (n == -EMFILE)
		return -EMFILE;
	if (!m->segments || !wslx_range_ok(m->first, m->segments, p->length >> PORTAL_SEGMENT_SHIFT) ||
	    (m->access != PORTAL_ACCESS_NONE && fd < 0))
		return -EPROTO;
	return map_arena(p, m->index, m, fd);
}

/* One answer of the broker: any number of ARENA, then DONE.  For want of descriptors or memory one may not be taken: it
 * is kept in mind, and the rest is read all the same, as the next answer comes behind it.  The first such error. */
static int receive_arenas(portal *p, uint32_t *ret_epoch)
{
	int first = 0;

	for (;;) {
		struct wslx_portal_msg m = { 0 };
		cleanup_close int fd = -1;
		size_t n_fds = 1;
		ssize_t n = wslx_recv_fds(p->sock, &m, sizeof(m), &fd, &n_fds, 0);
		int r;

		if (n == 0 || n == -ECONNRESET)
			return -EPIPE;
		if (n < 0 && n != -EMFILE)
			return n == -EAGAIN ? -ETIMEDOUT : (int)n;
		if (n >= 0 && n != sizeof(m))
			return -EPROTO;
		if (m.op == PORTAL_OP_DONE) {
			*ret_epoch = m.epoch;
			return first;
		}
		if (m.op != PORTAL_OP_ARENA || m.index >= PORTAL_MAX_ARENAS)
			return -EPROTO;
		r = take_arena(p, n, &m, fd);
		if (r == -EPROTO)
			return r;
		p->missed[m.index] = r < 0;
		first = first ? first : r;
	}
}

int wslx_portal_receive_first(portal *p)
{
	uint32_t epoch = 0;
	int r = receive_arenas(p, &epoch);

	if (r == 0)
		PORTAL_STORE_REL(&p->epoch, epoch);
	return r;
}

static int ask_broker(portal *p, const struct wslx_portal_msg *m, uint32_t *ret_epoch)
{
	int r;

	if (send(p->sock, m, sizeof(*m), MSG_NOSIGNAL) != sizeof(*m))
		return errno == EPIPE || errno == ECONNRESET ? -EPIPE : -errno;
	r = receive_arenas(p, ret_epoch);
	/* Its answer may still come, and would be taken for the next one. */
	if (r == -ETIMEDOUT || r == -EPROTO)
		__atomic_store_n(&p->broker_lost, true, __ATOMIC_RELEASE);
	return r == -ETIMEDOUT ? -EPIPE : r;
}

/* PORTAL_MAX_ARENAS: none. */
static unsigned next_missed(const portal *p)
{
	unsigned i = 0;

	while (i < PORTAL_MAX_ARENAS && !p->missed[i])
		i++;
	return i;
}

/* The epoch is acknowledged only with all that belongs to it. */
static int sync_broker(portal *p)
{
	uint32_t epoch = 0;
	unsigned i;
	int r;

	do {
		struct wslx_portal_msg m = { .op = PORTAL_OP_SYNC };

		i = next_missed(p);
		if (i < PORTAL_MAX_ARENAS) {
			m.flags = PORTAL_SYNC_AGAIN;
			m.index = i;
		}
		r = ask_broker(p, &m, &epoch);
		if (r < 0)
			return r;
		if (i < PORTAL_MAX_ARENAS)
			p->missed[i] = false;
	} while (next_missed(p) < PORTAL_MAX_ARENAS);
	PORTAL_STORE_REL(&p->epoch, epoch);
	return 0;
}

/* Where a transport maps, the table is all there is to take over. */
static void copy_table(portal *p)
{
	for (unsigned i = 0; i < PORTAL_MAX_ARENAS; i++) {
		struct portal_arena a;
		struct wslx_portal_view v;
		uint32_t state;

		wslx_portal_words_in(&a, &p->arenas[i], sizeof(a));
		state = PORTAL_LIFE_STATE(a.life);
		if (state == PORTAL_ARENA_FREE || a.life == p->view[i].life || !a.segments ||
		    !wslx_range_ok(a.first, a.segments, p->geo.segments))
			continue;
		v = (struct wslx_portal_view) { a.life, a.first, a.segments, a.owner, a.flags, true, true, false };
		if (a.owner != p->self)
			v.readable = !a.owner || (a.readers >> p->self & 1);
		v.writable = a.owner == p->self && state == PORTAL_ARENA_LIVE;
		if (a.owner == p->self && a.flags & PORTAL_ARENA_CONTROL) {
			if (state == PORTAL_ARENA_LIVE)
				p->own_arena = i;
			else if (i == p->own_arena)
				__atomic_store_n(&p->revoked, true, __ATOMIC_RELEASE);
		}
		wslx_portal_take_place(p, i, &v);
	}
}

bool wslx_portal_behind(const portal *p)
{
	return PORTAL_LOAD_ACQ(p->epoch_word) != PORTAL_LOAD(&p->epoch) ||
	       (p->window && wslx_portal_window_news(p->window));
}

int wslx_portal_refresh_locked(portal *p)
{
	uint32_t epoch = PORTAL_LOAD_ACQ(p->epoch_word), was = p->epoch;
	int r = 0;

	wslx_portal_close_due(p);
	if (!wslx_portal_behind(p) || epoch & 1)
		return wslx_portal_host_up(p) ? 0 : -EPIPE;
	/* Whatever still comes from it answers another question. */
	if (p->sock >= 0 && __atomic_load_n(&p->broker_lost, __ATOMIC_ACQUIRE))
		return -EPIPE;
	if (p->sock >= 0) {
		r = sync_broker(p);
	} else if (p->window) {
		r = wslx_portal_window_sync(p);
	} else {
		copy_table(p);
		PORTAL_STORE_REL(&p->epoch, epoch);
	}
	if (r == 0 && p->ctl && !p->revoked)
		PORTAL_STORE_REL(&p->ctl->epoch_seen, p->epoch);
	/* Whoever waits for everybody's having seen it is told. */
	if (r == 0 && p->ctl && p->epoch != was)
		wslx_portal_kick(p, 0);
	return r;
}

int wslx_portal_refresh(portal *p)
{
	int r;

	pthread_mutex_lock(&p->lock);
	r = wslx_portal_refresh_locked(p);
	pthread_mutex_unlock(&p->lock);
	return r;
}

const void *wslx_portal_peer_bytes(portal *p, unsigned owner, uint64_t off, uint64_t len)
{
	uint64_t seg = off >> PORTAL_SEGMENT_SHIFT, start;
	const struct wslx_portal_view *v;
	uint16_t a;

	if (seg >= p->geo.segments)
		return NULL;
	a = PORTAL_LOAD_ACQ(&p->arena_of[seg]);
	if (a == NO_ARENA)
		return NULL;
	v = &p->view[a];
	start = (uint64_t)v->first << PORTAL_SEGMENT_SHIFT;
	if (!v->readable || v->owner != owner || !(v->flags & PORTAL_ARENA_CONTROL) ||
	    PORTAL_LIFE_STATE(v->life) != PORTAL_ARENA_LIVE ||
	    !wslx_range_ok(off - start, len, (uint64_t)v->segments << PORTAL_SEGMENT_SHIFT))
		return NULL;
	return p->base + off;
}

bool wslx_portal_peer_life(const portal *p, unsigned peer, uint64_t *ret_generation)
{
	uint64_t life;

	if (peer >= PORTAL_MAX_PARTICIPANTS)
		return false;
	life = PORTAL_LOAD_ACQ(&p->parts[peer].life);
	*ret_generation = PORTAL_LIFE_GENERATION(life);
	return PORTAL_LIFE_STATE(life) == PORTAL_PART_LIVE;
}
