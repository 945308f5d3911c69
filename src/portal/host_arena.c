/* Arenas: memory, places, the table. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "portal/atomic.h"
#include "portal/host.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

/* Who reads keeps what is mapped of the dead.  Of that memory so much stays, besides that of the one that died last: a
 * guest may attach, fill its arena and leave, without end. */
#define KEPT_BYTES (UINT64_C(64) << 20)

static int new_memory(const char *name, uint64_t size, int more_seals, int *ret_fd, int *ret_ro)
{
	cleanup_close int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	cleanup_close int ro = -1;
	char path[64];

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, SEALS | more_seals) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	if (ro < 0)
		return -errno;
	/* Against mistakes, and for those that have no /proc: whoever is of the same user and has can change the mode
	 * and open it again for writing.  Arena 0 is sealed against that. */
	if (fchmod(fd, 0400) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	*ret_ro = TAKE_FD(ro);
	return 0;
}

void wslx_host_arena_close(struct wslx_host_arena *a)
{
	wslx_close(&a->fd);
	wslx_close(&a->ro);
}

int wslx_host_arena_memory(portal_host *h, uint32_t segments)
{
	struct wslx_host_arena *a = &h->arena[0];
	size_t size = (size_t)segments << PORTAL_SEGMENT_SHIFT;
	void *at;
	int r = new_memory(h->name, size, 0, &a->fd, &a->ro);

	if (r < 0)
		return r;
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, a->fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	a->segments = segments;
	h->base = at;
	/* Ours is the last writable mapping, whoever opens it again. */
	return fcntl(a->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0 ? -errno : 0;
}

static uint32_t find_place_from(const portal_host *h, uint32_t from, uint32_t segments)
{
	uint32_t run = 0;

	for (uint32_t s = from; s < h->segments; s++) {
		run = h->segment_used[s] ? 0 : run + 1;
		if (run == segments)
			return s + 1 - segments;
	}
	return 0;
}

/* Of what a dead one published the last may still be unread: its place, and its
 * number in the table, are used again as late as possible.  0: there is no room;
 * that place is taken for ever. */
static uint32_t find_place(const portal_host *h, uint32_t segments)
{
	uint32_t first = find_place_from(h, WSLX_MAX(h->next_place, 1u), segments);

	return first ? first : find_place_from(h, 1, segments);
}

static bool is_taken(const portal_host *h, unsigned i)
{
	uint32_t state = PORTAL_LIFE_STATE(h->arena[i].life);

	return state == PORTAL_ARENA_LIVE || state == PORTAL_ARENA_REVOKED;
}

/* PORTAL_MAX_ARENAS: all numbers are taken. */
static unsigned find_number(const portal_host *h)
{
	for (unsigned k = 0; k < PORTAL_MAX_ARENAS - 1; k++) {
		unsigned i = 1 + (h->next_arena + k) % (PORTAL_MAX_ARENAS - 1);

		if (!is_taken(h, i))
			return i;
	}
	return PORTAL_MAX_ARENAS;
}

static void write_table(portal_host *h, unsigned i)
{
	const struct wslx_host_arena *a = &h->arena[i];
	struct portal_arena e = {
		.life = a->life,
		.first = a->first,
		.segments = a->segments,
		.owner = a->owner,
		.flags = a->flags,
		.readers = a->readers,
	};

	/* life last: who sees it sees the rest. */
	wslx_portal_words_out((uint64_t *)(void *)&h->arenas[i] + 1, (uint64_t *)(void *)&e + 1, sizeof(e) - 8);
	PORTAL_STORE_REL(&h->arenas[i].life, e.life);
}

int wslx_host_arena_new(portal_host *h, uint32_t segments, unsigned owner, uint32_t flags, uint64_t readers,
			unsigned *ret)
{
	struct wslx_host_arena *a;
	uint32_t first;
	unsigned i;
	int r;

	if (!segments || segments >= h->segments)
		return -EINVAL;
	i = find_number(h);
	if (i == PORTAL_MAX_ARENAS)
		return -EMFILE;
	first = find_place(h, segments);
	if (!first)
		return -ENOSPC;
	a = &h->arena[i];
	r = new_memory(h->name, (uint64_t)segments << PORTAL_SEGMENT_SHIFT, F_SEAL_SEAL, &a->fd, &a->ro);
	if (r < 0)
		return r;
	wslx_host_epoch_begin(h);
	a->life = PORTAL_LIFE(++h->arena_generation, PORTAL_ARENA_LIVE);
	a->first = first;
	a->segments = segments;
	a->owner = owner;
	a->flags = flags;
	a->readers = readers;
	a->everybody = readers == UINT64_MAX;
	a->died = a->left = 0; /* whoever had the number before is forgotten by those who hear of this one */
	memset(h->segment_used + first, 1, segments);
	h->next_place = first + segments;
	h->next_arena = i; /* find_number() begins behind it */
	write_table(h, i);
	wslx_host_epoch_end(h);
	*ret = i;
	return 0;
}

void wslx_host_arena_disown(portal_host *h, unsigned a, unsigned i)
{
	struct wslx_host_arena *e = &h->arena[a];

	if (e->owner == i)
		e->owner = PORTAL_NOBODY;
	if (!e->everybody)
		e->readers &= ~(UINT64_C(1) << i);
	write_table(h, a);
}

static uint64_t memory_of(const struct wslx_host_arena *a)
{
	struct stat st;

	return a->fd >= 0 && wslx_fd_stat(a->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

/* The oldest of the dead that are still read, but for `last`; 0: there is none.  *ret_left: what they all hold. */
static unsigned oldest_dead(const portal_host *h, unsigned last, uint64_t *ret_left)
{
	unsigned oldest = 0;

	*ret_left = 0;
	for (unsigned i = 1; i < PORTAL_MAX_ARENAS; i++) {
		const struct wslx_host_arena *a = &h->arena[i];

		if (!a->died || i == last)
			continue;
		*ret_left += a->left;
		if (!oldest || a->died < h->arena[oldest].died)
			oldest = i;
	}
	return oldest;
}

/* With another generation it is not the one of which somebody may have the last bytes: those are let go. */
static void forget_old(portal_host *h, unsigned last)
{
	uint64_t left;
	unsigned i;

	while ((i = oldest_dead(h, last, &left)) && left > KEPT_BYTES) {
		struct wslx_host_arena *a = &h->arena[i];

		a->life = PORTAL_LIFE(++h->arena_generation, PORTAL_ARENA_DEAD);
		a->died = a->left = 0;
		write_table(h, i);
	}
}

void wslx_host_arena_dead(portal_host *h, unsigned i)
{
	struct wslx_host_arena *a = &h->arena[i];
	uint64_t generation = PORTAL_LIFE_GENERATION(a->life);

	/* Who has not heard of the revocation still has the memory that the writer writes to: it must not take that
	 * for the last bytes of this one. */
	if (PORTAL_LIFE_STATE(a->life) == PORTAL_ARENA_REVOKED)
		generation = ++h->arena_generation;
	a->life = PORTAL_LIFE(generation, PORTAL_ARENA_DEAD);
	memset(h->segment_used + a->first, 0, a->segments);
	a->died = ++h->arenas_died;
	a->left = memory_of(a);
	wslx_host_arena_close(a);
	write_table(h, i);
	forget_old(h, i);
}

/* Only what is there: an arena is mostly holes. */
static int copy_bytes(int to, int from, off_t size)
{
	off_t at = 0;

	while (at < size) {
		off_t start = lseek(from, at, SEEK_DATA), end;

		if (start < 0)
			return errno == ENXIO ? 0 : -errno;
		end = lseek(from, start, SEEK_HOLE);
		if (end < 0)
			return -errno;
		for (off_t o = start; o < end;) {
			static __thread char buf[65536];
			size_t n = end - o < (off_t)sizeof(buf) ? (size_t)(end - o) : sizeof(buf);
			int r = wslx_pread_full(from, buf, n, o);

			if (r == 0)
				r = wslx_pwrite_full(to, buf, n, o);
			if (r < 0)
				return r;
			o += (off_t)n;
		}
		at = end;
	}
	return 0;
}

int wslx_host_keep_spare(portal_host *h)
{
	for (unsigned i = 0; i < ARRAY_SIZE(h->spare); i++) {
		if (h->spare[i] < 0)
			h->spare[i] = fcntl(h->epoll, F_DUPFD_CLOEXEC, 0);
		if (h->spare[i] < 0)
			return -errno;
	}
	return 0;
}

void wslx_host_use_spare(portal_host *h)
{
	for (unsigned i = 0; i < ARRAY_SIZE(h->spare); i++)
		wslx_close(&h->spare[i]);
}

static void put_memory(portal_host *h, unsigned i, int fd, int ro, unsigned owner, enum portal_arena_state state)
{
	struct wslx_host_arena *a = &h->arena[i];

	wslx_host_epoch_begin(h);
	wslx_host_arena_close(a);
	a->fd = fd;
	a->ro = ro;
	a->owner = owner;
	a->life = PORTAL_LIFE(state == PORTAL_ARENA_LIVE ? ++h->arena_generation : PORTAL_LIFE_GENERATION(a->life),
			      state);
	write_table(h, i);
	wslx_host_epoch_end(h);
}

static int replace(portal_host *h, unsigned i, unsigned owner, enum portal_arena_state state, bool anyway)
{
	struct wslx_host_arena *a = &h->arena[i];
	off_t size = (off_t)a->segments << PORTAL_SEGMENT_SHIFT;
	cleanup_close int fd = -1, ro = -1;
	int r = new_memory(h->name, (uint64_t)size, F_SEAL_SEAL, &fd, &ro);

	if (r < 0)
		return r;
	r = copy_bytes(fd, a->fd, size);
	if (r < 0 && !anyway)
		return r;
	if (r < 0)
		log_warn("portal: the rest of arena %u reads as zeros: %s", i, strerror(-r));
	put_memory(h, i, TAKE_FD(fd), TAKE_FD(ro), owner, state);
	return 0;
}

int wslx_host_arena_replace(portal_host *h, unsigned i, unsigned owner, enum portal_arena_state state)
{
	int r;

	wslx_host_use_spare(h);
	r = replace(h, i, owner, state, false);
	(void)!wslx_host_keep_spare(h); /* as many have been closed; if another thread took them, the next time */
	return r;
}

/* There is no other memory for it, and its writer keeps what it has.  In a participant's own arena that is where it
 * goes on writing: number and place stay its until it has left, or it would meet another's arena there. */
static void lose(portal_host *h, unsigned i)
{
	struct wslx_host_arena *a = &h->arena[i];

	/* Names first: who sees it dead does not find it by name. */
	if (!(a->flags & PORTAL_ARENA_CONTROL))
		wslx_host_drop_object(h, i);
	wslx_host_epoch_begin(h);
	a->life = PORTAL_LIFE(PORTAL_LIFE_GENERATION(a->life), PORTAL_ARENA_REVOKED);
	if (a->flags & PORTAL_ARENA_CONTROL) {
		wslx_host_arena_close(a);
		write_table(h, i);
	} else {
		wslx_host_arena_dead(h, i);
	}
	wslx_host_epoch_end(h);
}

void wslx_host_arena_take(portal_host *h, unsigned i, unsigned owner, enum portal_arena_state state)
{
	int r;

	wslx_host_use_spare(h);
	r = replace(h, i, owner, state, true);
	(void)!wslx_host_keep_spare(h);
	if (r == 0)
		return;
	log_warn("portal: arena %u is lost, as there is no other memory for it: %s", i, strerror(-r));
	lose(h, i);
}

enum wslx_portal_access wslx_host_access(const portal_host *h, unsigned member, unsigned i)
{
	const struct wslx_host_arena *a = &h->arena[i];
	uint32_t state = PORTAL_LIFE_STATE(a->life);

	/* A revoked one without memory is lost. */
	if ((state != PORTAL_ARENA_LIVE && state != PORTAL_ARENA_REVOKED) || a->fd < 0)
		return PORTAL_ACCESS_NONE;
	if (i == 0)
		return PORTAL_ACCESS_READ;
	if (member == a->owner)
		return state == PORTAL_ARENA_LIVE ? PORTAL_ACCESS_WRITE : PORTAL_ACCESS_NONE;
	return a->readers >> member & 1 ? PORTAL_ACCESS_READ : PORTAL_ACCESS_NONE;
}

void wslx_host_epoch_begin(portal_host *h)
{
	h->epoch |= 1;
	PORTAL_STORE_SEQ(&h->hdr->epoch, h->epoch);
}

void wslx_host_epoch_end(portal_host *h)
{
	h->epoch = (h->epoch | 1) + 1;
	PORTAL_STORE_SEQ(&h->hdr->epoch, h->epoch);
	wslx_host_event_all(h);
}
