/*
 * The client of a region's broker: docs/portal.md, "The broker's socket".
 *
 * What an ARENA takes (a place given up, another mapped) is done in steps, each
 * of which ends in wslx_vmportal_go_on().  Places that are given up may be taken
 * again once the tables no longer name them; a dead arena's is named until it is
 * taken, as what was published there is still read, and not any more when
 * something else is put there.
 *
 * Trust boundary: messages and descriptors are the broker's.  A file must be
 * sealed and long enough, or an access to the window would fail in the machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/portal_internal.h"

/* A program in the guest that attaches and detaches all the time makes the host
 * and all participants work: not more often than this. */
#define JOIN_INTERVAL_MS 100
#define MESSAGES_IN_A_ROW 64
/* A broker that is too busy is tried again as often; after so many times it is said, and it is tried again more
 * seldom, since it may never have room. */
#define BUSY_TRIES 100
#define BUSY_INTERVAL_MS 1000

/* ---- sending ------------------------------------------------------------------- */

static int say(struct grant *g, const struct wslx_portal_msg *m)
{
	ssize_t n = send(g->sock, m, sizeof(*m), MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0)
		return -errno;
	return n == sizeof(*m) ? 0 : -EPROTO;
}

static int say_all(struct grant *g)
{
	int r = 0;

	if (g->say_synced) {
		r = say(g, &(struct wslx_portal_msg) { .op = PORTAL_OP_SYNCED, .epoch = g->epoch });
		g->say_synced = r < 0;
	}
	if (r == 0 && g->say_sync) {
		r = say(g, &(struct wslx_portal_msg) { .op = PORTAL_OP_SYNC,
						       .flags = g->say_again ? PORTAL_SYNC_AGAIN : 0,
						       .index = g->say_again ? g->again : 0 });
		g->say_sync = r < 0;
	}
	while (r == 0 && g->kicks) {
		uint32_t to = (uint32_t)__builtin_ctzll(g->kicks);

		r = say(g, &(struct wslx_portal_msg) { .op = PORTAL_OP_KICK, .index = to });
		if (r == 0)
			g->kicks &= g->kicks - 1;
	}
	return r;
}

static void on_broker(struct wslx_watch *w, int fd, uint32_t events, void *opaque);

/* No watch while a mapping is under way: its end takes up what has come. */
static void watch(struct grant *g, uint32_t events)
{
	if (g->watch && events) {
		wslx_watch_set_events(g->watch, events);
		return;
	}
	wslx_watch_free(g->watch);
	g->watch = NULL;
	if (events && wslx_loop_watch(g->p->params.loop, g->sock, events, on_broker, g, &g->watch) < 0)
		log_error("portal: out of memory");
}

static void lost(struct grant *g, int err)
{
	/* A guest can have it tried again ten times a second. */
	if (!g->lost_warned)
		wslx_vmportal_say(g, "the broker is gone (%s)", strerror(-err));
	g->lost_warned = true;
	wslx_vmportal_leave(g, false);
}

void wslx_vmportal_flush(struct grant *g)
{
	int r;

	if (g->sock < 0 || g->state < GRANT_ANSWER)
		return;
	r = say_all(g);
	if (g->state == GRANT_CLEARING || g->busy)
		return;
	if (r < 0 && r != -EAGAIN)
		lost(g, r);
	else
		watch(g, r == -EAGAIN ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* ---- joining and leaving --------------------------------------------------------- */

static uint32_t own_segments(const struct grant *g)
{
	return g->config.readonly || !g->config.segments ? 1 : g->config.segments;
}

static void free_room(struct grant *g)
{
	if (g->kept)
		wslx_vmportal_place_free(&g->p->places, g->index, g->kept, g->kept_segments);
	g->kept = 0;
}

/* For the arena without which no program can attach. */
static void keep_room(struct grant *g)
{
	if (g->kept && g->kept_segments == own_segments(g))
		return;
	free_room(g);
	g->kept_segments = own_segments(g);
	g->kept = wslx_vmportal_place_keep(&g->p->places, g->index, g->kept_segments);
}

/* As the last resort from those who hold doorbells that have ended, as take_place(): before others' arenas get that. */
static void keep_room_at_last(struct grant *g)
{
	struct grant *old;

	keep_room(g);
	while (!g->kept && (old = wslx_vmportal_bell_oldest(g->p))) {
		wslx_vmportal_bell_reclaim(old);
		keep_room(g);
	}
}

static void forget(struct grant *g)
{
	wslx_watch_free(g->watch);
	g->watch = NULL;
	wslx_close(&g->sock);
	wslx_close(&g->arena_fd);
	free_room(g);
	g->own = 0;
	memset(g->arenas, 0, sizeof(g->arenas));
	g->arena_waits = g->shown = g->own_revoked = false;
	g->say_synced = g->say_sync = g->say_again = false;
	g->kicks = 0;
	g->state = GRANT_WAITING;
}

void wslx_vmportal_drop(struct grant *g)
{
	forget(g);
	g->full_warned = false;
	wslx_vmportal_map_over(g);
}

/* Not while a program still holds its doorbell: it may go on writing there. */
static void release_places(struct grant *g)
{
	if (g->bell < 0 || !g->bell_ending)
		wslx_vmportal_place_release(&g->p->places, g->index);
}

static int connect_broker(struct grant *g)
{
	struct wslx_portal_msg hello = {
		.op = PORTAL_OP_HELLO,
		.version = PORTAL_VERSION,
		.kind = PORTAL_KIND_GUEST,
		.id = g->p->params.cid,
		.segments = own_segments(g),
	};
	int r;

	memcpy(hello.name, g->p->name, sizeof(hello.name));
	g->sock = wslx_unix_connect(g->config.socket, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (g->sock < 0)
		return g->sock;
	r = say(g, &hello);
	return r;
}

/* Its machine has not been told, but must not take part.  As wslx_vmportal_remove(). */
static bool withdrawn(struct grant *g)
{
	const struct wslx_vmportal_params *p = &g->p->params;

	if (!p->withdrawn || !p->withdrawn(p->opaque, g->config.region))
		return false;
	(void)!wslx_vmportal_remove(g->p, g->config.region);
	return true;
}

/* What a broker that is there says to one more: its queue is full, it has no descriptors, it needs the place of one
 * that has not said hello yet, the region has as many participants as it can or no room for another's arena.  If it is
 * gone instead, the next try finds that. */
static bool is_busy(int err)
{
	return err == -EAGAIN || err == -EMFILE || err == -ENFILE || err == -EPIPE || err == -ECONNRESET ||
	       err == -EUSERS || err == -ENOSPC;
}

/* A program that waits for it goes on waiting, and has not missed anything.  One of before may have let go of its
 * doorbell meanwhile, and its places waited for this answer. */
static void join_later(struct grant *g, int err)
{
	forget(g);
	release_places(g);
	wslx_vmportal_room(g->p);
	if (++g->busy_tries == BUSY_TRIES)
		wslx_vmportal_say(g, "its broker has no room for one more (%s); it is tried again", strerror(-err));
	wslx_timer_arm(g->timer, g->busy_tries < BUSY_TRIES ? JOIN_INTERVAL_MS : BUSY_INTERVAL_MS);
}

void wslx_vmportal_join(struct grant *g)
{
	int64_t now = wslx_now_ms(), next = g->joined_ms + JOIN_INTERVAL_MS;
	int r;

	if (g->revoked)
		return;
	if (g->joined_ms && now < next) {
		wslx_timer_arm(g->timer, (uint64_t)(next - now));
		return;
	}
	if (withdrawn(g))
		return;
	g->joined_ms = now;
	g->attached = g->bell >= 0 && !g->bell_ending;
	g->bell_told = false;
	r = connect_broker(g);
	if (is_busy(r)) {
		join_later(g, r);
		return;
	}
	if (r < 0) {
		forget(g);
		g->busy_tries = 0;
		wslx_vmportal_bell_end(g);
		if (!g->gone_warned && (r == -ENOENT || r == -ECONNREFUSED))
			wslx_vmportal_say(g, "it is not there; `wslx portal create %s`", g->config.region);
		else if (!g->gone_warned)
			wslx_vmportal_say(g, "no connection to its broker: %s", strerror(-r));
		g->gone_warned = true;
		return;
	}
	g->gone_warned = false;
	keep_room_at_last(g);
	g->state = GRANT_HELLO;
	watch(g, EPOLLIN);
}

/* A dead arena is taken away where room was kept: that is kept somewhere else, as this may have to be asked for again.
 */
static void move_kept(struct wslx_vmportal *p, uint32_t first, uint32_t segments)
{
	for (size_t i = 0; i < p->n_grants; i++) {
		struct grant *g = &p->grants[i];

		if (!g->kept || g->kept >= first + segments || first >= g->kept + g->kept_segments)
			continue;
		free_room(g);
		keep_room(g);
	}
}

/* The next arena that is still mapped; false: none is. */
static bool clear_next(struct grant *g)
{
	uint32_t first, n;

	for (unsigned i = 0; i < PORTAL_MAX_ARENAS; i++) {
		struct grant_arena *a = &g->arenas[i];

		if (!a->place || a->dead)
			continue;
		wslx_vmportal_map(g, a->place, a->segments, WSLX_WINDOW_OWN, -1);
		wslx_vmportal_place_leave(&g->p->places, a->place, a->segments);
		a->place = 0;
		return true;
	}
	first = wslx_vmportal_place_stale(&g->p->places, g->index, &n);
	if (!first)
		return false;
	move_kept(g->p, first, n);
	wslx_vmportal_map(g, first, n, WSLX_WINDOW_OWN, -1);
	return true;
}

static void cleared(struct grant *g)
{
	bool again = g->join_again;

	/* What this guest could reach it cannot any more: whoever waits for that is told. */
	if (g->sock >= 0 && g->say_synced)
		(void)!say_all(g);
	forget(g);
	wslx_vmportal_page_name(&g->p->page, g->index, g->revoked ? "" : g->config.as);
	release_places(g);
	if (again && g->p->running) {
		keep_room(g);
		wslx_vmportal_join(g);
	}
	wslx_vmportal_room(g->p);
}

void wslx_vmportal_leave(struct grant *g, bool join_again)
{
	g->join_again = join_again && !g->revoked;
	if (!join_again)
		wslx_vmportal_bell_end(g);
	if (!g->join_again)
		free_room(g);
	if (g->state == GRANT_CLEARING || g->state == GRANT_WAITING)
		return;
	g->state = GRANT_CLEARING;
	wslx_watch_free(g->watch);
	g->watch = NULL;
	g->arena_waits = false;
	wslx_close(&g->arena_fd);
	if (g->shown)
		wslx_vmportal_page_revoke(&g->p->page, g->index);
	g->shown = false;
	if (!g->busy)
		wslx_vmportal_go_on(g);
}

/* ---- arenas ---------------------------------------------------------------------- */

static int check_file(int fd, const struct wslx_portal_msg *m)
{
	uint64_t size = (uint64_t)m->segments << PORTAL_SEGMENT_SHIFT;
	int seals = fcntl(fd, F_GET_SEALS), mode = fcntl(fd, F_GETFL);
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || st.st_size < 0 || (uint64_t)st.st_size < size)
		return -EPROTO;
	if (m->access == PORTAL_ACCESS_WRITE && (mode & O_ACCMODE) != O_RDWR)
		return -EPROTO;
	return 0;
}

/* Who and what the region is stands in its header, at the start of arena 0. */
static int read_header(struct grant *g)
{
	struct portal_header h;
	int r = wslx_pread_full(g->arena_fd, &h, sizeof(h), 0);

	if (r < 0)
		return r;
	if (h.magic != PORTAL_MAGIC || h.segments != g->segments)
		return -EPROTO;
	memcpy(g->uuid, h.uuid, sizeof(g->uuid));
	return 0;
}

static bool is_own(const struct grant *g, const struct wslx_portal_msg *m)
{
	return m->owner == g->participant && m->flags & PORTAL_ARENA_CONTROL;
}

static int check_arena(struct grant *g)
{
	const struct wslx_portal_msg *m = &g->arena;
	int r;

	if (m->index >= PORTAL_MAX_ARENAS || !m->segments || m->segments > g->segments ||
	    m->first > g->segments - m->segments || m->access > PORTAL_ACCESS_WRITE ||
	    (m->access != PORTAL_ACCESS_NONE) != (g->arena_fd >= 0) ||
	    (m->access == PORTAL_ACCESS_WRITE && m->owner != g->participant))
		return -EPROTO;
	/* Its own is taken from one that is there for no other reason, whatever became of the memory. */
	if (m->access == PORTAL_ACCESS_NONE) {
		g->own_revoked |= is_own(g, m);
		return 0;
	}
	r = check_file(g->arena_fd, m);
	return r == 0 && m->index == 0 ? read_header(g) : r;
}

/* What the dead left there is about to be another's. */
static void evict(struct wslx_vmportal *p, uint32_t first, uint32_t segments)
{
	for (size_t k = 0; k < p->n_grants; k++) {
		for (unsigned i = 0; i < PORTAL_MAX_ARENAS; i++) {
			struct grant_arena *a = &p->grants[k].arenas[i];

			if (!a->dead || a->place >= first + segments || first >= a->place + a->segments)
				continue;
			*a = (struct grant_arena) { 0 };
			wslx_vmportal_page_arena(&p->page, p->grants[k].index, i, &(struct portal_window_arena) { 0 });
		}
	}
}

/* As the last resort from those who hold doorbells that have ended: they may go on writing there, but what they reach
 * is their own machine's.  0: there is no room, perhaps only until this answer is in place. */
static uint32_t take_place(struct grant *g, uint32_t segments)
{
	uint32_t first = wslx_vmportal_place_take(&g->p->places, g->index, segments);
	struct grant *old;

	while (!first && (old = wslx_vmportal_bell_oldest(g->p))) {
		wslx_vmportal_bell_reclaim(old);
		first = wslx_vmportal_place_take(&g->p->places, g->index, segments);
	}
	return first;
}

/* The place that was kept for it, or any. */
static uint32_t take_own_place(struct grant *g, uint32_t segments)
{
	uint32_t first = g->kept;

	g->own = g->arena.index;
	if (!first || segments != g->kept_segments) {
		free_room(g);
		return take_place(g, segments);
	}
	wslx_vmportal_place_use(&g->p->places, first, segments);
	g->kept = 0;
	return first;
}

/* One step of what g->arena asks for.  Afterwards a mapping is under way, or it
 * is done. */
static void arena_step(struct grant *g)
{
	const struct wslx_portal_msg *m = &g->arena;
	struct grant_arena *a = &g->arenas[m->index];

	/* As on the host: what a dead one published is still read.  But if what is
	 * mapped is not that one, it was taken away before its writer went.  And what
	 * the guest itself wrote it must not write any more: an object of its. */
	if (a->place && m->access == PORTAL_ACCESS_NONE && PORTAL_LIFE_STATE(m->life) == PORTAL_ARENA_DEAD &&
	    wslx_portal_last_bytes(a->life, m->life) && a->access != PORTAL_ACCESS_WRITE) {
		if (!a->dead)
			wslx_vmportal_place_abandon(&g->p->places, g->index, a->place, a->segments);
		*a = (struct grant_arena) { .life = m->life, .place = a->place, .segments = a->segments, .dead = true };
		g->arena_waits = false;
		return;
	}
	if (a->life != m->life || m->access == PORTAL_ACCESS_NONE)
		wslx_vmportal_page_leave(&g->p->page, g->index, m->index);
	/* Nobody knows any more of what the number's last one left, though it stays a while: its place is not ours. */
	if (a->dead)
		*a = (struct grant_arena) { 0 };
	if (a->place && (m->access == PORTAL_ACCESS_NONE || a->segments != m->segments)) {
		wslx_vmportal_place_leave(&g->p->places, a->place, a->segments);
		wslx_vmportal_map(g, a->place, a->segments, WSLX_WINDOW_OWN, -1);
		*a = (struct grant_arena) { 0 };
		return;
	}
	g->arena_waits = false;
	if (m->access != PORTAL_ACCESS_NONE && !a->place)
		a->place = is_own(g, m) ? take_own_place(g, m->segments) : take_place(g, m->segments);
	if (m->access == PORTAL_ACCESS_NONE || !a->place) {
		*a = (struct grant_arena) { 0 };
		if (m->access != PORTAL_ACCESS_NONE)
			a->segments = m->segments;
	} else {
		*a = (struct grant_arena) {
			.life = m->life, .place = a->place, .segments = m->segments, .access = m->access
		};
		evict(g->p, a->place, a->segments);
		wslx_vmportal_map(g, a->place, a->segments,
				  m->access == PORTAL_ACCESS_WRITE ? WSLX_WINDOW_WRITE : WSLX_WINDOW_READ, g->arena_fd);
	}
	wslx_close(&g->arena_fd);
}

/* ---- receiving ------------------------------------------------------------------- */

static int on_welcome(struct grant *g, const struct wslx_portal_msg *m)
{
	if (g->state != GRANT_HELLO)
		return -EPROTO;
	if (m->status < 0)
		return m->status > -4096 ? m->status : -EPROTO;
	if (!m->index || m->index >= PORTAL_MAX_PARTICIPANTS || !m->segments || m->segments > PORTAL_MAX_SEGMENTS)
		return -EPROTO;
	g->busy_tries = 0;
	g->participant = m->index;
	g->segments = m->segments;
	g->generation = m->life;
	g->epoch = g->news = 0;
	g->state = GRANT_ANSWER;
	/* Whoever takes it back marks it first and then looks who is there: one of the two sees the other. */
	(void)withdrawn(g);
	return 0;
}

/* All that is given back for now has been. */
static void warn_of_no_room(struct grant *g)
{
	for (unsigned i = 0; i < PORTAL_MAX_ARENAS && !g->full_warned; i++) {
		const struct grant_arena *a = &g->arenas[i];

		if (a->place || !a->segments || wslx_vmportal_place_fits(&g->p->places, a->segments))
			continue;
		wslx_vmportal_say(g, "the window is full: %u MiB of it are left out",
				  a->segments << (PORTAL_SEGMENT_SHIFT - 20));
		g->full_warned = true;
	}
}

static void show_entry(struct grant *g)
{
	struct portal_window_entry e = {
		.participant = g->participant,
		.segments = g->segments,
		.part_generation = g->generation,
		.epoch = g->epoch,
		.doorbell_port = PORTAL_DOORBELL_PORT + g->index,
		.access = g->config.readonly ? PORTAL_WINDOW_READ : PORTAL_WINDOW_READ | PORTAL_WINDOW_WRITE,
	};

	memcpy(e.name, g->config.region, sizeof(e.name));
	memcpy(e.as, g->config.as, sizeof(e.as));
	memcpy(e.uuid, g->uuid, sizeof(e.uuid));
	wslx_vmportal_page_grant(&g->p->page, g->index, &e);
	g->shown = true;
}

/* All of an answer is in place. */
static int on_done(struct grant *g, const struct wslx_portal_msg *m)
{
	if (g->state != GRANT_ANSWER || m->epoch & 1)
		return -EPROTO;
	g->epoch = m->epoch;
	g->say_synced = true;
	if (g->own_revoked) {
		g->revoked = true;
		wslx_vmportal_say(g, "it was revoked");
		wslx_vmportal_leave(g, false);
		return 0;
	}
	for (unsigned i = 0; i < PORTAL_MAX_ARENAS; i++) {
		const struct grant_arena *a = &g->arenas[i];

		wslx_vmportal_page_arena(&g->p->page, g->index, i,
					 &(struct portal_window_arena) { .life = a->life,
									 .window_segment = a->place,
									 .segments = a->segments,
									 .access = a->access });
	}
	if (!g->shown)
		show_entry(g);
	wslx_vmportal_page_epoch(&g->p->page, g->index, g->epoch);
	release_places(g);
	warn_of_no_room(g);
	g->state = GRANT_READY;
	g->lost_warned = false;
	wslx_vmportal_bell_ready(g);
	wslx_vmportal_room(g->p);
	return 0;
}

static int on_message(struct grant *g, const struct wslx_portal_msg *m, int *fd)
{
	if (m->op != PORTAL_OP_ARENA && *fd >= 0)
		return -EPROTO;
	switch (m->op) {
	case PORTAL_OP_WELCOME:
		return on_welcome(g, m);
	case PORTAL_OP_ARENA:
		if (g->state != GRANT_ANSWER)
			return -EPROTO;
		g->arena = *m;
		g->arena_fd = TAKE_FD(*fd);
		g->arena_waits = true;
		return check_arena(g);
	case PORTAL_OP_DONE:
		return on_done(g, m);
	case PORTAL_OP_EVENT:
		if (g->state < GRANT_ANSWER)
			return -EPROTO;
		g->news = m->epoch;
		wslx_vmportal_ring(g);
		return 0;
	default:
		return -EPROTO;
	}
}

/* 1: one message, 0: none there, -errno. */
static int receive(struct grant *g)
{
	struct wslx_portal_msg m;
	cleanup_close int fd = -1;
	size_t n_fds = 1;
	ssize_t n = wslx_recv_fds(g->sock, &m, sizeof(m), &fd, &n_fds, MSG_DONTWAIT);
	int r;

	if (!n_fds)
		fd = -1;
	if (n == -EAGAIN || n == -EINTR)
		return 0;
	if (n <= 0)
		return n < 0 ? (int)n : -EPIPE;
	r = n == sizeof(m) ? on_message(g, &m, &fd) : -EPROTO;
	return r < 0 ? r : 1;
}

/* Is there one that was left out and that would fit by now?  It is asked for once: if it comes it is taken, or left
 * out anew. */
static bool left_out(struct grant *g, uint32_t *ret)
{
	for (uint32_t i = 0; i < PORTAL_MAX_ARENAS; i++) {
		struct grant_arena *a = &g->arenas[i];
		bool kept = i == g->own && g->kept && a->segments;

		if (a->place || (!kept && !wslx_vmportal_place_fits(&g->p->places, a->segments)))
			continue;
		a->segments = 0;
		*ret = i;
		return true;
	}
	return false;
}

/* The broker's news are asked for when the last answer is in place, and so is what was left out of it. */
static void ask(struct grant *g)
{
	if (g->state != GRANT_READY)
		return;
	g->say_again = left_out(g, &g->again);
	if (g->say_again || (g->news != g->epoch && !(g->news & 1))) {
		/* An answer to this one is at least as new. */
		g->news = g->epoch;
		g->say_sync = true;
		g->state = GRANT_ANSWER;
	}
}

/* Was there none for its own arena? */
static bool lacks_own(const struct grant *g)
{
	return g->state == GRANT_READY && g->own && !g->arenas[g->own].place && g->arenas[g->own].segments;
}

void wslx_vmportal_room(struct wslx_vmportal *p)
{
	for (size_t i = 0; p->running && i < p->n_grants; i++)
		if (lacks_own(&p->grants[i]))
			keep_room(&p->grants[i]);
	for (size_t i = 0; p->running && i < p->n_grants; i++) {
		struct grant *g = &p->grants[i];

		if (g->state != GRANT_READY)
			continue;
		ask(g);
		if (g->state == GRANT_ANSWER)
			wslx_vmportal_flush(g);
	}
}

void wslx_vmportal_go_on(struct grant *g)
{
	int r = 1;

	if (g->state == GRANT_CLEARING) {
		if (!clear_next(g))
			cleared(g);
		return;
	}
	for (int budget = MESSAGES_IN_A_ROW;
	     budget && r == 1 && g->state != GRANT_CLEARING && g->state != GRANT_WAITING; budget--) {
		if (g->arena_waits)
			arena_step(g);
		if (g->busy) {
			watch(g, 0);
			return;
		}
		if (!g->arena_waits)
			r = receive(g);
		ask(g);
	}
	if (g->state == GRANT_CLEARING || g->state == GRANT_WAITING)
		return;
	if (r < 0 && g->state == GRANT_HELLO && is_busy(r)) {
		join_later(g, r);
		return;
	}
	if (r < 0) {
		lost(g, r);
		return;
	}
	if (g->state == GRANT_HELLO)
		watch(g, EPOLLIN);
	wslx_vmportal_flush(g);
}

static void on_broker(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	wslx_vmportal_go_on(opaque);
}
