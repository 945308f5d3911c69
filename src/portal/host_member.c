/* Participants: joining, leaving, being told. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/host.h"

void wslx_host_event(portal_host *h, unsigned i)
{
	struct wslx_host_member *m = &h->member[i];
	uint32_t *event = &h->parts[i].event;

	PORTAL_STORE_SEQ(event, *event + 1);
	syscall(SYS_futex, event, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	if (m->notify)
		m->notify(m->opaque, -1);
	if (m->sock >= 0 && m->greeted && m->kind == PORTAL_KIND_GUEST)
		wslx_host_tell_vmm(h, i);
}

void wslx_host_event_all(portal_host *h)
{
	for (unsigned i = 1; i < PORTAL_MAX_PARTICIPANTS; i++)
		if (h->member[i].used)
			wslx_host_event(h, i);
}

static void describe(portal_host *h, unsigned i, const struct portal_host_member *m, unsigned arena,
		     const char name[PORTAL_NAME_SIZE])
{
	struct portal_participant *e = &h->parts[i];
	uint64_t generation = PORTAL_LIFE_GENERATION(h->life[i]) + 1;

	e->kind = m->kind;
	e->id = m->id;
	PORTAL_STORE_REL(&e->arena, arena);
	e->doorbell = m->doorbell;
	memcpy(e->name, name, PORTAL_NAME_SIZE);
	PORTAL_STORE_REL(&e->reply_seq, 0);
	h->life[i] = PORTAL_LIFE(generation, PORTAL_PART_LIVE);
	PORTAL_STORE_SEQ(&e->life, h->life[i]);
}

int wslx_host_join(portal_host *h, const struct portal_host_member *m, int sock, unsigned *ret)
{
	char name[PORTAL_NAME_SIZE];
	unsigned i = 1, arena = 0;
	void *ctl;
	int r = wslx_portal_name_set(name, m->name);

	if (r < 0)
		return r;
	while (i < PORTAL_MAX_PARTICIPANTS && h->member[i].used)
		i++;
	if (i == PORTAL_MAX_PARTICIPANTS)
		return -EUSERS;
	r = wslx_host_arena_new(h, m->segments, i, PORTAL_ARENA_CONTROL, UINT64_MAX, &arena);
	if (r < 0)
		return r;
	ctl = mmap(NULL, PORTAL_CONTROL_SIZE, PROT_READ, MAP_SHARED, h->arena[arena].ro, 0);
	if (ctl == MAP_FAILED) {
		r = -errno;
		wslx_host_epoch_begin(h);
		wslx_host_arena_dead(h, arena);
		wslx_host_epoch_end(h);
		return r;
	}
	h->member[i] = (struct wslx_host_member) {
		.used = true,
		.live = true,
		.sock = sock,
		.kind = m->kind,
		.arena = arena,
		.ctl = ctl,
		.notify = m->notify,
		.opaque = m->opaque,
	};
	describe(h, i, m, arena, name);
	h->count.attached++;
	*ret = i;
	return 0;
}

static void mark_dead(portal_host *h, unsigned i)
{
	uint64_t generation = PORTAL_LIFE_GENERATION(h->life[i]);

	/* Names first: who sees it dead does not find it by name. */
	wslx_host_drop_names(h, i, generation);
	h->life[i] = PORTAL_LIFE(generation, PORTAL_PART_DEAD);
	PORTAL_STORE_SEQ(&h->parts[i].life, h->life[i]);
	h->member[i].live = false;
}

void wslx_host_leave(portal_host *h, unsigned i, bool died)
{
	struct wslx_host_member *m = &h->member[i];

	if (!m->used)
		return;
	mark_dead(h, i);
	if (m->ctl) {
		if (died && PORTAL_LOAD_ACQ(&m->ctl->state) != PORTAL_CTL_DETACHED)
			h->count.died++;
		munmap((void *)(uintptr_t)m->ctl, PORTAL_CONTROL_SIZE);
	}
	wslx_host_epoch_begin(h);
	for (unsigned a = 1; a < PORTAL_MAX_ARENAS; a++) {
		uint32_t state = PORTAL_LIFE_STATE(h->arena[a].life);
		bool own = h->arena[a].owner == i;

		if (state != PORTAL_ARENA_LIVE && state != PORTAL_ARENA_REVOKED)
			continue;
		if (own && m->notify)
			m->notify(m->opaque, (int)a);
		if (own && h->arena[a].flags & PORTAL_ARENA_CONTROL)
			wslx_host_arena_dead(h, a);
		else
			wslx_host_arena_disown(h, a, i);
	}
	if (m->sock >= 0)
		close(m->sock);
	*m = (struct wslx_host_member) { .sock = -1 };
	wslx_host_epoch_end(h);
}

int portal_host_add(portal_host *h, const struct portal_host_member *m, unsigned *ret)
{
	int r;

	if (m->size != sizeof(*m))
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	r = wslx_host_join(h, m, -1, ret);
	pthread_mutex_unlock(&h->lock);
	return r;
}

int portal_host_remove(portal_host *h, unsigned i)
{
	int r = -ENOENT;

	if (!i || i >= PORTAL_MAX_PARTICIPANTS)
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	if (h->member[i].used) {
		wslx_host_leave(h, i, true);
		r = 0;
	}
	pthread_mutex_unlock(&h->lock);
	return r;
}

int portal_host_kick(portal_host *h, unsigned from, unsigned to)
{
	if (!from || from >= PORTAL_MAX_PARTICIPANTS || to >= PORTAL_MAX_PARTICIPANTS)
		return -EINVAL;
	pthread_mutex_lock(&h->lock);
	if (to == 0)
		wslx_host_mailbox(h, from);
	else if (h->member[to].used)
		wslx_host_event(h, to);
	pthread_mutex_unlock(&h->lock);
	return 0;
}
