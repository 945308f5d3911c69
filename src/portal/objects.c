/* Handles and names, for a participant. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/arith.h"
#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/gate_inline.h"
#include "portal/internal.h"

#define PATIENCE 1000 /* times 100 us */

int portal_alloc(portal *p, size_t n, struct portal_handle *ret, void **ret_ptr)
{
	uint32_t generation = 0;
	uint64_t off = 0;
	int r = wslx_portal_lock_to_write(p, -1);

	if (r < 0)
		return r;
	r = wslx_portal_heap_alloc(&p->heap, n, &off, &generation);
	pthread_mutex_unlock(&p->lock);
	if (r < 0)
		return r;
	off += p->own_off;
	*ret = (struct portal_handle) {
		.region = p->geo.tag,
		.segment = (uint32_t)(off >> PORTAL_SEGMENT_SHIFT),
		.offset = (uint32_t)(off & (PORTAL_SEGMENT_SIZE - 1)),
		.generation = generation,
	};
	if (ret_ptr)
		*ret_ptr = p->base + off;
	return 0;
}

/* The region offset that a handle names; false if it is not one of this region. */
static bool offset_of(const portal *p, struct portal_handle h, uint64_t *ret)
{
	if (h.region != p->geo.tag || h.segment >= p->geo.segments || h.offset >= PORTAL_SEGMENT_SIZE)
		return false;
	*ret = ((uint64_t)h.segment << PORTAL_SEGMENT_SHIFT) + h.offset;
	return true;
}

static bool is_own(const portal *p, uint64_t off)
{
	uint64_t size = (uint64_t)p->heap.chunks << PORTAL_CHUNK_SHIFT;

	return off >= p->own_off && off - p->own_off < size;
}

int portal_free(portal *p, struct portal_handle h)
{
	uint64_t off;
	int r;

	if (!offset_of(p, h, &off) || !is_own(p, off))
		return -EFAULT;
	r = wslx_portal_lock_to_write(p, -1);
	if (r < 0)
		return r;
	r = wslx_portal_heap_release(&p->heap, off - p->own_off, h.generation);
	pthread_mutex_unlock(&p->lock);
	return r;
}

static int resolve_own_locked(portal *p, uint64_t off, uint32_t generation, size_t len)
{
	uint64_t size = 0;
	int r = wslx_portal_heap_find(&p->heap, off - p->own_off, generation, &size);

	return r < 0 ? r : len > size ? -EFAULT : 0;
}

int portal_resolve_own(portal *p, struct portal_handle h, size_t len, void **ret)
{
	uint64_t off;
	int r;

	if (!offset_of(p, h, &off) || !is_own(p, off))
		return -EFAULT;
	pthread_mutex_lock(&p->lock);
	r = resolve_own_locked(p, off, h.generation, len);
	pthread_mutex_unlock(&p->lock);
	if (r == 0)
		*ret = p->base + off;
	return r;
}

/* In a machine the names are the host's own page, and the window comes after it: what has a name, or was told of, may
 * not be there yet. */
static bool may_come(const portal *p)
{
	return p->window && PORTAL_LOAD_ACQ(&p->hdr->epoch) != PORTAL_LOAD(&p->epoch);
}

static int resolve_locked(portal *p, uint64_t off, uint32_t generation, size_t len)
{
	const struct wslx_portal_view *v;
	uint64_t start, size = 0;
	uint16_t a;
	int r;

	if (is_own(p, off))
		return resolve_own_locked(p, off, generation, len);
	if (wslx_portal_behind(p)) {
		r = wslx_portal_refresh_locked(p);
		if (r < 0)
			return r;
	}
	a = p->arena_of[off >> PORTAL_SEGMENT_SHIFT];
	if (a == NO_ARENA)
		return may_come(p) ? -ESTALE : -EFAULT;
	v = &p->view[a];
	if (PORTAL_LIFE_STATE(v->life) == PORTAL_ARENA_DEAD)
		return -ESTALE;
	if (!v->readable)
		return -EACCES;
	if (!(v->flags & PORTAL_ARENA_CONTROL))
		return -EFAULT;
	start = (uint64_t)v->first << PORTAL_SEGMENT_SHIFT;
	r = wslx_portal_heap_check(p->base + start, (uint64_t)v->segments << PORTAL_SEGMENT_SHIFT,
				   PORTAL_LIFE_GENERATION(v->life), off - start, generation, &size);
	return r < 0 ? r : len > size ? -EFAULT : 0;
}

int portal_resolve(portal *p, struct portal_handle h, size_t len, const void **ret)
{
	uint64_t off;
	int r;

	if (!offset_of(p, h, &off))
		return -EFAULT;
	pthread_mutex_lock(&p->lock);
	r = resolve_locked(p, off, h.generation, len);
	pthread_mutex_unlock(&p->lock);
	if (r == 0)
		*ret = p->base + off;
	return r;
}

/* One request to the host through the mailbox, and its answer. */
static int ask_host(portal *p, const struct portal_request *q)
{
	const struct portal_participant *me = &p->parts[p->self];
	/* What was taken back must not stay there: it is asked for when the region goes on, however long that takes. */
	bool patient = q->op == PORTAL_REQ_UNPUBLISH;
	int64_t deadline = patient ? 0 : wslx_portal_deadline(INT64_C(5000000000));
	uint32_t seq;
	int r;

	for (;;) {
		uint32_t ev = wslx_portal_event(p);

		r = wslx_portal_lock_to_write(p, patient ? -1 : deadline);
		if (r < 0)
			return r;
		if (!deadline)
			deadline = wslx_portal_deadline(INT64_C(5000000000));
		seq = PORTAL_LOAD(&p->ctl->request_seq);
		if (PORTAL_LOAD_ACQ(&me->reply_seq) == seq && !p->asking)
			break;
		pthread_mutex_unlock(&p->lock);
		r = wslx_portal_await_event(p, ev, deadline);
		if (r < 0)
			return r;
	}
	p->asking = true;
	wslx_portal_words_out(&p->ctl->request, q, sizeof(*q));
	PORTAL_STORE_REL(&p->ctl->request_seq, ++seq);
	pthread_mutex_unlock(&p->lock);
	wslx_portal_kick(p, 0);
	for (;;) {
		uint32_t ev = wslx_portal_event(p);

		r = PORTAL_LOAD_ACQ(&me->reply_seq) == seq ? PORTAL_LOAD(&me->reply_status) : 1;
		if (r <= 0)
			break;
		/* The host does not look into our mailbox any more. */
		r = wslx_portal_is_revoked(p) ? -EACCES : 0;
		if (r < 0)
			break;
		r = wslx_portal_await_event(p, ev, deadline);
		if (r < 0)
			break;
	}
	pthread_mutex_lock(&p->lock);
	p->asking = false;
	pthread_mutex_unlock(&p->lock);
	return r;
}

int wslx_portal_publish_kind(portal *p, uint32_t kind, const char *name, struct portal_handle h, uint64_t size,
			     uint32_t tag)
{
	struct portal_request q = { .op = PORTAL_REQ_PUBLISH, .kind = kind, .handle = h, .size = size, .tag = tag };
	int r = wslx_portal_name_set(q.name, name);

	return r < 0 ? r : ask_host(p, &q);
}

int portal_publish(portal *p, const char *name, struct portal_handle h, uint64_t size, uint32_t tag)
{
	void *at;
	int r = portal_resolve_own(p, h, size, &at);

	return r < 0 ? r : wslx_portal_publish_kind(p, PORTAL_OBJECT, name, h, size, tag);
}

int portal_unpublish(portal *p, const char *name)
{
	struct portal_request q = { .op = PORTAL_REQ_UNPUBLISH };
	int r = wslx_portal_name_set(q.name, name);

	return r < 0 ? r : ask_host(p, &q);
}

int portal_create(portal *p, const char *name, size_t size, struct portal_handle *ret, void **ret_ptr)
{
	struct portal_handle h;
	int r = portal_alloc(p, size, &h, ret_ptr);

	if (r < 0)
		return r;
	r = portal_publish(p, name, h, size, 0);
	if (r < 0) {
		(void)portal_free(p, h);
		return r;
	}
	if (ret)
		*ret = h;
	return 0;
}

static void to_object(const struct portal_name *n, struct portal_object *ret)
{
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
	ret->name[sizeof(ret->name) - 1] = '\0';
}

int wslx_portal_find(portal *p, const char *name, struct portal_name *ret, uint32_t *ret_slot)
{
	static const struct timespec moment = { .tv_nsec = 100000 };

	for (unsigned tries = 0;; tries++) {
		int r = wslx_portal_lookup(&p->names, name, ret, ret_slot);

		if (r != -EAGAIN || tries == PATIENCE || !wslx_portal_host_up(p))
			return r;
		nanosleep(&moment, NULL);
	}
}

int portal_open(portal *p, const char *name, struct portal_object *ret)
{
	char key[PORTAL_NAME_SIZE];
	struct portal_name n;
	int r = wslx_portal_name_set(key, name);

	if (r < 0)
		return r;
	if (!wslx_portal_host_up(p))
		return -EPIPE;
	r = wslx_portal_find(p, key, &n, NULL);
	if (r == 0)
		to_object(&n, ret);
	return r;
}

static void count_waiter(portal *p, int by)
{
	pthread_mutex_lock(&p->lock);
	if (!p->revoked)
		PORTAL_STORE_SEQ(&p->ctl->name_waiters, PORTAL_LOAD(&p->ctl->name_waiters) + (uint32_t)by);
	pthread_mutex_unlock(&p->lock);
}

/* 0, or -EACCES: revoked. */
static int still_takes_part(portal *p)
{
	int r = wslx_portal_refresh(p);

	return r < 0 ? r : wslx_portal_is_revoked(p) ? -EACCES : 0;
}

static int wait_for(portal *p, const char *name, int64_t timeout_ns, bool to_take_part, struct portal_object *ret)
{
	int64_t deadline = wslx_portal_deadline(timeout_ns);
	int r = portal_open(p, name, ret);

	if ((r != -ENOENT && r != -EAGAIN) || timeout_ns == 0)
		return r;
	count_waiter(p, 1);
	for (;;) {
		uint32_t ev = wslx_portal_event(p);

		r = portal_open(p, name, ret);
		if (r != -ENOENT && r != -EAGAIN)
			break;
		r = to_take_part ? still_takes_part(p) : 0;
		if (r == 0)
			r = wslx_portal_await_event(p, ev, deadline);
		if (r < 0)
			break;
	}
	count_waiter(p, -1);
	return r;
}

/* Whoever is revoked goes on reading: it waits like any other. */
int portal_wait_for(portal *p, const char *name, int64_t timeout_ns, struct portal_object *ret)
{
	return wait_for(p, name, timeout_ns, false, ret);
}

int wslx_portal_wait_for_peer(portal *p, const char *name, int64_t timeout_ns, struct portal_object *ret)
{
	return wait_for(p, name, timeout_ns, true, ret);
}

int portal_next(portal *p, uint32_t *cursor, struct portal_object *ret)
{
	uint32_t end = wslx_portal_names_end(&p->names);

	while (*cursor < end) {
		struct portal_name n;

		if (wslx_portal_read_slot(&p->names.table[(*cursor)++], &n) == 0 && n.state == PORTAL_NAME_LIVE) {
			to_object(&n, ret);
			return 0;
		}
	}
	return -ENOENT;
}

/* Whole segments with rights of their own. */
static int map_arena_object(portal *p, const struct portal_object *o, const void **ret, void **ret_rw)
{
	const struct wslx_portal_view *v;
	int r = 0;
	uint64_t off;
	uint16_t a;

	if (!offset_of(p, o->handle, &off))
		return -EFAULT;
	pthread_mutex_lock(&p->lock);
	r = wslx_portal_refresh_locked(p);
	a = p->arena_of[o->handle.segment];
	v = &p->view[a == NO_ARENA ? 0 : a];
	if (r == 0 && (a == NO_ARENA || !v->readable))
		r = a == NO_ARENA && may_come(p) ? -ESTALE : -EACCES;
	if (r == 0 && (v->first != o->handle.segment || o->handle.offset ||
		       (uint32_t)PORTAL_LIFE_GENERATION(v->life) < o->handle.generation ||
		       v->flags & PORTAL_ARENA_CONTROL || o->size > (uint64_t)v->segments << PORTAL_SEGMENT_SHIFT))
		r = -ESTALE;
	if (r == 0 && ret_rw)
		*ret_rw = v->writable ? p->base + off : NULL;
	pthread_mutex_unlock(&p->lock);
	if (r == 0)
		*ret = p->base + off;
	return r;
}

int portal_map(portal *p, const struct portal_object *o, const void **ret, void **ret_rw)
{
	uint64_t off;
	int r;

	if (o->kind == PORTAL_ARENA_OBJECT)
		return map_arena_object(p, o, ret, ret_rw);
	if (o->kind != PORTAL_OBJECT || !offset_of(p, o->handle, &off))
		return -EINVAL;
	r = portal_resolve(p, o->handle, o->size, ret);
	if (r == 0 && ret_rw)
		*ret_rw = is_own(p, off) ? p->base + off : NULL;
	return r;
}
