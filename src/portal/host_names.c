/*
 * Mailboxes and the directory.
 *
 * Trust boundary: a request is copied once, and the copy is checked; who goes on
 * writing to it gets an answer to some mixture.  A participant names only what lies in its own arena.
 */
#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/host.h"

/* Tells those who wait for names. */
static void changed(portal_host *h)
{
	PORTAL_STORE_SEQ(&h->hdr->names_seq, ++h->names_seq);
	for (unsigned i = 1; i < PORTAL_MAX_PARTICIPANTS; i++)
		if (h->member[i].live && PORTAL_LOAD_SEQ(&h->member[i].ctl->name_waiters))
			wslx_host_event(h, i);
}

static int find(const portal_host *h, const char *name, struct portal_name *ret, uint32_t *ret_slot)
{
	struct wslx_portal_names d = wslx_portal_directory_names(&h->names);

	return wslx_portal_lookup(&d, name, ret, ret_slot);
}

int wslx_host_name_add(portal_host *h, const struct portal_name *n)
{
	int r = wslx_portal_directory_add(&h->names, n);

	if (r == 0)
		changed(h);
	return r;
}

void wslx_host_drop_names(portal_host *h, unsigned owner, uint64_t generation)
{
	struct wslx_host_member *m = &h->member[owner];

	if (!m->names)
		return;
	(void)wslx_portal_directory_drop(&h->names, owner, generation);
	m->names = 0;
	changed(h);
}

/* Is it the arena that an object's name means?  It has had other memory since then if its generation is a later one. */
static bool is_object(const portal_host *h, const struct portal_name *n, unsigned a)
{
	const struct wslx_host_arena *e = &h->arena[a];

	return n->kind == PORTAL_ARENA_OBJECT && !(e->flags & PORTAL_ARENA_CONTROL) &&
	       PORTAL_LIFE_STATE(e->life) == PORTAL_ARENA_LIVE && e->first == n->handle.segment &&
	       (uint32_t)PORTAL_LIFE_GENERATION(e->life) >= n->handle.generation;
}

void wslx_host_drop_object(portal_host *h, unsigned a)
{
	for (uint32_t s = 0; s < h->names.top; s++) {
		const struct portal_name *n = &h->names.table[s];

		if (n->state != PORTAL_NAME_LIVE || !is_object(h, n, a))
			continue;
		wslx_portal_directory_remove(&h->names, s);
		changed(h);
		return;
	}
}

/* Does the handle lie in the participant's own memory? */
static int check_place(const portal_host *h, unsigned i, const struct portal_request *q)
{
	const struct wslx_host_arena *a = &h->arena[h->member[i].arena];
	uint64_t size = (uint64_t)a->segments << PORTAL_SEGMENT_SHIFT, off;

	if (q->kind == PORTAL_SERVICE)
		return 0;
	if (q->kind != PORTAL_OBJECT)
		return -EINVAL;
	if (q->handle.region != h->tag || q->handle.segment < a->first || q->handle.segment - a->first >= a->segments ||
	    q->handle.offset >= PORTAL_SEGMENT_SIZE)
		return -EACCES;
	off = ((uint64_t)(q->handle.segment - a->first) << PORTAL_SEGMENT_SHIFT) + q->handle.offset;
	return wslx_range_ok(off, q->size, size) ? 0 : -EACCES;
}

static int publish(portal_host *h, unsigned i, const struct portal_request *q)
{
	struct portal_name n = {
		.kind = q->kind,
		.owner = i,
		.owner_generation = PORTAL_LIFE_GENERATION(h->life[i]),
		.tag = q->tag,
		.handle = q->handle,
		.size = q->size,
	};
	struct wslx_host_member *m = &h->member[i];
	int r = check_place(h, i, q);

	if (r < 0)
		return r;
	/* The others need room, too; and names can be made that are all in each other's way. */
	if (m->names >= h->max_names)
		return -EDQUOT;
	memcpy(n.name, q->name, sizeof(n.name));
	r = wslx_host_name_add(h, &n);
	m->names += r == 0;
	return r;
}

static int unpublish(portal_host *h, unsigned i, const char *name)
{
	struct portal_name n;
	uint32_t slot = 0;
	int r = find(h, name, &n, &slot);

	if (r < 0)
		return r;
	if (i && (n.owner != i || n.kind == PORTAL_ARENA_OBJECT))
		return -EACCES;
	wslx_portal_directory_remove(&h->names, slot);
	if (n.owner)
		h->member[n.owner].names--;
	changed(h);
	return 0;
}

static int serve(portal_host *h, unsigned i, const struct portal_request *q)
{
	if (!wslx_portal_name_ok(q->name))
		return -EINVAL;
	switch (q->op) {
	case PORTAL_REQ_PUBLISH:
		return publish(h, i, q);
	case PORTAL_REQ_UNPUBLISH:
		return unpublish(h, i, q->name);
	default:
		return -ENOSYS;
	}
}

void wslx_host_mailbox(portal_host *h, unsigned i)
{
	struct wslx_host_member *m = &h->member[i];
	struct portal_participant *e = &h->parts[i];
	struct portal_request q;
	uint32_t seq;
	int r;

	if (!m->live)
		return;
	seq = PORTAL_LOAD_ACQ(&m->ctl->request_seq);
	if (seq == e->reply_seq)
		return;
	wslx_portal_words_in(&q, &m->ctl->request, sizeof(q));
	/* strnlen() and strncmp() below stay inside, whatever is in there. */
	r = serve(h, i, &q);
	h->count.requests++;
	h->count.refused += r < 0;
	PORTAL_STORE_REL(&e->reply_status, r);
	PORTAL_STORE_SEQ(&e->reply_seq, seq);
	wslx_host_event(h, i);
}

int wslx_host_find_arena(portal_host *h, const char *name, unsigned *ret)
{
	char key[PORTAL_NAME_SIZE];
	struct portal_name n;
	int r = wslx_portal_name_set(key, name);

	if (r == 0)
		r = find(h, key, &n, NULL);
	if (r < 0)
		return r;
	for (unsigned a = 1; a < PORTAL_MAX_ARENAS; a++) {
		if (is_object(h, &n, a)) {
			*ret = a;
			return 0;
		}
	}
	return -EINVAL;
}

int portal_host_unpublish(portal_host *h, const char *name)
{
	unsigned a = 0;
	int r;

	pthread_mutex_lock(&h->lock);
	r = wslx_host_find_arena(h, name, &a);
	if (r == 0) {
		r = unpublish(h, 0, name);
		wslx_host_epoch_begin(h);
		wslx_host_arena_dead(h, a);
		wslx_host_epoch_end(h);
	} else if (r == -EINVAL) {
		r = unpublish(h, 0, name);
	}
	pthread_mutex_unlock(&h->lock);
	return r;
}
