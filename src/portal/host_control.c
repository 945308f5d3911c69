/* What the host decides: objects and grants, revoking, quiesce; and what it can tell. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "os/linux/fd.h"
#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/gate_inline.h"
#include "portal/host.h"

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Dispatches until ready says so.  Takes the lock itself. */
static int drive(portal_host *h, int64_t timeout_ns, bool (*ready)(portal_host *h, void *opaque), void *opaque)
{
	int64_t deadline = timeout_ns < 0 ? -1 : now_ns() + timeout_ns;

	for (;;) {
		int64_t left = deadline < 0 ? -1 : deadline - now_ns();
		bool done;
		int r;

		pthread_mutex_lock(&h->lock);
		done = ready(h, opaque);
		pthread_mutex_unlock(&h->lock);
		if (done)
			return 0;
		if (deadline >= 0 && left <= 0)
			return -ETIMEDOUT;
		/* Another thread may dispatch as well and eat the kick: look again soon. */
		r = portal_host_dispatch(h, left < 0 || left > 10000000 ? 10 : (int)(left / 1000000) + 1);
		if (r < 0)
			return r;
	}
}

/* ---- objects of whole segments ---- */

int portal_host_object(portal_host *h, const char *name, uint32_t segments, unsigned owner, uint64_t readers)
{
	struct portal_name n = { .kind = PORTAL_ARENA_OBJECT, .size = (uint64_t)segments << PORTAL_SEGMENT_SHIFT };
	unsigned a = 0;
	int r = wslx_portal_name_set(n.name, name);

	if (r < 0)
		return r;
	if (owner >= PORTAL_MAX_PARTICIPANTS)
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	if (owner && !h->member[owner].live)
		r = -ENOENT;
	if (r == 0)
		r = wslx_host_arena_new(h, segments, owner, 0, readers, &a);
	if (r == 0) {
		n.handle = (struct portal_handle) {
			.region = h->tag,
			.segment = h->arena[a].first,
			.generation = (uint32_t)PORTAL_LIFE_GENERATION(h->arena[a].life),
		};
		r = wslx_host_name_add(h, &n);
		if (r < 0) {
			wslx_host_epoch_begin(h);
			wslx_host_arena_dead(h, a);
			wslx_host_epoch_end(h);
		}
	}
	pthread_mutex_unlock(&h->lock);
	return r;
}

/* A guest's word is not needed where its VMM maps for it, and would let it hold
 * up everybody.  The VMM's is, also for one that was just revoked: until then the
 * guest still reaches the old memory. */
static bool has_seen(const struct wslx_host_member *m, uint32_t epoch)
{
	if (m->used && m->sock >= 0 && m->kind == PORTAL_KIND_GUEST)
		return (int32_t)(m->synced - epoch) >= 0;
	return !m->live || (int32_t)(PORTAL_LOAD_ACQ(&m->ctl->epoch_seen) - epoch) >= 0;
}

/* Has everybody mapped what the table says? */
static bool all_seen(portal_host *h, void *opaque)
{
	for (unsigned i = 1; i < PORTAL_MAX_PARTICIPANTS; i++)
		if (!has_seen(&h->member[i], *(uint32_t *)opaque))
			return false;
	return true;
}

static int grant_locked(portal_host *h, unsigned a, unsigned i, enum portal_right right)
{
	struct wslx_host_arena *e = &h->arena[a];
	uint64_t bit = UINT64_C(1) << i;

	if (!h->member[i].live)
		return -ENOENT;
	if (right == PORTAL_WRITE && e->owner != i) {
		/* The old writer may hold a writable mapping for ever: it keeps the old memory. */
		if (e->owner)
			e->readers |= UINT64_C(1) << e->owner;
		return wslx_host_arena_replace(h, a, i, PORTAL_ARENA_LIVE);
	}
	if (right == PORTAL_WRITE)
		return 0;
	if (right == PORTAL_NONE)
		e->readers &= ~bit;
	else
		e->readers |= bit;
	if (e->owner == i || right == PORTAL_NONE) {
		/* A mapping cannot be taken back from a process, but what is under it can be. */
		h->count.revoked += e->owner == i;
		return wslx_host_arena_replace(h, a, e->owner == i ? 0 : e->owner, PORTAL_ARENA_LIVE);
	}
	wslx_host_epoch_begin(h);
	PORTAL_STORE_REL(&h->arenas[a].readers, e->readers);
	wslx_host_epoch_end(h);
	return 0;
}

int portal_host_grant(portal_host *h, const char *name, unsigned i, enum portal_right right, int64_t timeout_ns)
{
	unsigned a = 0;
	uint32_t epoch;
	int r;

	if (!i || i >= PORTAL_MAX_PARTICIPANTS || right > PORTAL_WRITE)
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	r = wslx_host_find_arena(h, name, &a);
	if (r == 0)
		r = grant_locked(h, a, i, right);
	epoch = h->epoch;
	pthread_mutex_unlock(&h->lock);
	return r < 0 ? r : drive(h, timeout_ns, all_seen, &epoch);
}

/* ---- revoking ---- */

static int revoke_locked(portal_host *h, unsigned i)
{
	struct wslx_host_member *m = &h->member[i];
	uint64_t generation = PORTAL_LIFE_GENERATION(h->life[i]);

	if (!m->live)
		return -ENOENT;
	/* A want of memory, which may be its own doing, must not let it go on. */
	m->live = false;
	/* Dead before its memory is exchanged: who reads in the copy must not take that for what a live one wrote. */
	wslx_host_drop_names(h, i, generation);
	h->life[i] = PORTAL_LIFE(generation, PORTAL_PART_DEAD);
	PORTAL_STORE_SEQ(&h->parts[i].life, h->life[i]);
	for (unsigned a = 1; a < PORTAL_MAX_ARENAS; a++) {
		bool main = h->arena[a].flags & PORTAL_ARENA_CONTROL;

		if (h->arena[a].owner != i || PORTAL_LIFE_STATE(h->arena[a].life) != PORTAL_ARENA_LIVE)
			continue;
		if (m->notify)
			m->notify(m->opaque, (int)a);
		wslx_host_arena_take(h, a, main ? i : 0, main ? PORTAL_ARENA_REVOKED : PORTAL_ARENA_LIVE);
	}
	h->count.revoked++;
	wslx_host_event_all(h);
	return 0;
}

int portal_host_revoke(portal_host *h, unsigned i, int64_t timeout_ns)
{
	uint32_t epoch;
	int r;

	if (!i || i >= PORTAL_MAX_PARTICIPANTS)
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	r = revoke_locked(h, i);
	epoch = h->epoch;
	pthread_mutex_unlock(&h->lock);
	return r < 0 ? r : drive(h, timeout_ns, all_seen, &epoch);
}

int portal_host_seen(portal_host *h, int64_t timeout_ns)
{
	uint32_t epoch;

	pthread_mutex_lock(&h->lock);
	epoch = h->epoch;
	pthread_mutex_unlock(&h->lock);
	return drive(h, timeout_ns, all_seen, &epoch);
}

/* ---- quiesce ---- */

static void who_arrived(portal_host *h, struct portal_quiesce *q)
{
	uint32_t id = h->quiesce;

	*q = (struct portal_quiesce) { 0 };
	for (unsigned i = 1; i < PORTAL_MAX_PARTICIPANTS; i++) {
		if (!h->member[i].live)
			continue;
		if (wslx_portal_gate_at_rest(h->member[i].ctl, id))
			q->arrived |= UINT64_C(1) << i;
		else
			q->late |= UINT64_C(1) << i;
	}
}

static bool all_rest(portal_host *h, void *opaque)
{
	struct portal_quiesce *q = opaque;

	who_arrived(h, q);
	return !q->late;
}

int portal_host_quiesce(portal_host *h, int64_t timeout_ns, struct portal_quiesce *ret)
{
	struct portal_quiesce q = { 0 };
	int r;

	pthread_mutex_lock(&h->lock);
	if (!(h->quiesce & 1))
		PORTAL_STORE_SEQ(&h->hdr->quiesce, ++h->quiesce);
	wslx_host_event_all(h);
	pthread_mutex_unlock(&h->lock);
	r = drive(h, timeout_ns, all_rest, &q);
	if (ret)
		*ret = q;
	return r;
}

int portal_host_rest(portal_host *h, struct portal_quiesce *ret)
{
	int r = -EINVAL;

	pthread_mutex_lock(&h->lock);
	*ret = (struct portal_quiesce) { 0 };
	if (h->quiesce & 1)
		r = all_rest(h, ret) ? 0 : -EAGAIN;
	pthread_mutex_unlock(&h->lock);
	return r;
}

int portal_host_resume(portal_host *h)
{
	int r = 0;

	pthread_mutex_lock(&h->lock);
	if (h->quiesce & 1) {
		PORTAL_STORE_SEQ(&h->hdr->quiesce, ++h->quiesce);
		wslx_host_event_all(h);
	} else {
		r = -EINVAL;
	}
	pthread_mutex_unlock(&h->lock);
	return r;
}

/* ---- telling ---- */

int portal_host_arena_fd(portal_host *h, unsigned a, int writable)
{
	int fd = -ENOENT;

	if (a >= PORTAL_MAX_ARENAS)
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	if (h->arena[a].fd >= 0) {
		fd = fcntl(writable ? h->arena[a].fd : h->arena[a].ro, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			fd = -errno;
	}
	pthread_mutex_unlock(&h->lock);
	return fd;
}

int portal_host_next_participant(portal_host *h, uint32_t *cursor, struct portal_host_participant *ret)
{
	int r = -ENOENT;

	pthread_mutex_lock(&h->lock);
	for (; r < 0 && *cursor < PORTAL_MAX_PARTICIPANTS; ++*cursor) {
		const struct portal_participant *e = &h->parts[*cursor];

		if (*cursor && !h->member[*cursor].used)
			continue;
		*ret = (struct portal_host_participant) {
			.index = *cursor,
			.kind = e->kind,
			.id = e->id,
			.state = PORTAL_LIFE_STATE(h->life[*cursor]),
			.pid = h->member[*cursor].pid,
			.generation = PORTAL_LIFE_GENERATION(h->life[*cursor]),
		};
		memcpy(ret->name, e->name, sizeof(ret->name));
		for (unsigned a = 0; a < PORTAL_MAX_ARENAS; a++)
			if (h->arena[a].fd >= 0 && h->arena[a].owner == *cursor)
				ret->segments += h->arena[a].segments;
		r = 0;
	}
	pthread_mutex_unlock(&h->lock);
	return r;
}

int portal_host_next_name(portal_host *h, uint32_t *cursor, struct portal_object *ret)
{
	int r = -ENOENT;

	pthread_mutex_lock(&h->lock);
	for (; r < 0 && *cursor < h->names.top; ++*cursor) {
		const struct portal_name *n = &h->names.table[*cursor];

		if (n->state != PORTAL_NAME_LIVE)
			continue;
		*ret = (struct portal_object) {
			.kind = n->kind,
			.owner = n->owner,
			.owner_generation = n->owner_generation,
			.tag = n->tag,
			.generation = n->generation,
			.handle = n->handle,
			.size = n->size,
		};
		memcpy(ret->name, n->name, sizeof(ret->name));
		r = 0;
	}
	pthread_mutex_unlock(&h->lock);
	return r;
}

int portal_host_stat(portal_host *h, struct portal_host_stat *ret)
{
	pthread_mutex_lock(&h->lock);
	*ret = h->count;
	memcpy(ret->uuid, h->hdr->uuid, sizeof(ret->uuid));
	ret->segments = h->segments;
	ret->own_segments = h->arena[0].segments;
	ret->name_slots = h->names.slots;
	ret->names = h->names.used;
	ret->epoch = h->epoch;
	ret->quiesce = h->quiesce;
	for (unsigned i = 1; i < PORTAL_MAX_PARTICIPANTS; i++)
		ret->participants += h->member[i].live;
	for (unsigned a = 0; a < PORTAL_MAX_ARENAS; a++) {
		struct stat st;

		if (h->arena[a].fd < 0)
			continue;
		ret->arenas++;
		ret->segments_used += h->arena[a].segments;
		if (wslx_fd_stat(h->arena[a].fd, &st) == 0)
			ret->bytes += (uint64_t)st.st_blocks * 512;
	}
	pthread_mutex_unlock(&h->lock);
	return 0;
}
