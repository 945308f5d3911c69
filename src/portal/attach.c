/* Becoming a participant, and ceasing to be one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "portal/atomic.h"
#include "portal/directory.h"
#include "portal/fence.h"
#include "portal/guest.h"
#include "portal/internal.h"

#define DEFAULT_SEGMENTS 4

static int new_map_of_segments(portal *p, uint64_t segments)
{
	p->arena_of = malloc(segments * sizeof(*p->arena_of));
	if (!p->arena_of)
		return -ENOMEM;
	memset(p->arena_of, 0xff, segments * sizeof(*p->arena_of));
	return 0;
}

/* Aligned to segments: a devdax device maps no other way, and huge pages like it too. */
int wslx_portal_reserve(portal *p, uint32_t segments)
{
	uint8_t *at;

	if (!segments || segments > PORTAL_MAX_SEGMENTS)
		return -EPROTO;
	p->length = (uint64_t)segments << PORTAL_SEGMENT_SHIFT;
	at = mmap(NULL, p->length + PORTAL_SEGMENT_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return -errno;
	p->reserved = at;
	p->base = at + (-(uintptr_t)at & (PORTAL_SEGMENT_SIZE - 1));
	p->hdr = (const struct portal_header *)(void *)p->base;
	p->geo.segments = segments;
	return new_map_of_segments(p, segments);
}

portal *wslx_portal_new(void)
{
	portal *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	pthread_mutex_init(&p->lock, NULL);
	p->sock = -1;
	p->own_arena = PORTAL_MAX_ARENAS;
	wslx_portal_fence_register();
	p->no_membarrier = !wslx_portal_fence_works();
	return p;
}

static void limit_answers(const portal *p, int64_t ns)
{
	struct timeval tv = { .tv_sec = ns / 1000000000, .tv_usec = ns % 1000000000 / 1000 };

	/* 0 would be no limit. */
	if (!tv.tv_sec && !tv.tv_usec)
		tv.tv_usec = 1;
	setsockopt(p->sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
}

static int hello(portal *p, const struct portal_attach *a, struct wslx_portal_msg *ret)
{
	struct wslx_portal_msg m = {
		.op = PORTAL_OP_HELLO,
		.version = PORTAL_VERSION,
		.kind = PORTAL_KIND_PROCESS,
		.segments = a->segments ? a->segments : DEFAULT_SEGMENTS,
	};
	int64_t ns = a->timeout_ns ? a->timeout_ns : PORTAL_ATTACH_TIMEOUT_NS;
	ssize_t n;
	int r = wslx_portal_name_set(m.name, a->name ? a->name : "process");

	if (r < 0)
		return r;
	if (ns > 0)
		limit_answers(p, ns);
	if (send(p->sock, &m, sizeof(m), MSG_NOSIGNAL) != sizeof(m))
		return -errno;
	n = recv(p->sock, ret, sizeof(*ret), 0);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	if (n == 0)
		return -EPIPE;
	if (n != sizeof(*ret) || ret->op != PORTAL_OP_WELCOME)
		return -EPROTO;
	return ret->status < 0 ? ret->status : ret->index >= PORTAL_MAX_PARTICIPANTS ? -EPROTO : 0;
}

/* Our arena is mapped: say hello in it, and take it over. */
int wslx_portal_open_own(portal *p)
{
	struct wslx_portal_view *v;
	uint8_t *arena;
	int r;

	if (p->own_arena >= PORTAL_MAX_ARENAS || !p->view[p->own_arena].writable)
		return -EPROTO;
	v = &p->view[p->own_arena];
	p->own_off = (uint64_t)v->first << PORTAL_SEGMENT_SHIFT;
	arena = p->base + p->own_off;
	p->ctl = (struct portal_control *)(void *)arena;
	p->links = (struct portal_link *)(void *)(arena + PORTAL_LINKS_OFF);
	memset(p->ctl, 0, sizeof(*p->ctl));
	for (unsigned i = 0; i < PORTAL_MAX_LINKS; i++)
		PORTAL_STORE_REL(&p->links[i].life, 0);
	/* No offer looks like one of whoever had this number before. */
	p->link_generation = p->generation << 20;
	p->ctl->magic = PORTAL_CONTROL_MAGIC;
	p->ctl->version = PORTAL_VERSION;
	p->ctl->generation = p->generation;
	p->ctl->request_seq = PORTAL_LOAD_ACQ(&p->parts[p->self].reply_seq);
	p->ctl->quiesce_ack = 0;
	PORTAL_STORE_REL(&p->ctl->epoch_seen, p->epoch);
	r = wslx_portal_heap_init(&p->heap, arena, (uint64_t)v->segments << PORTAL_SEGMENT_SHIFT,
				  PORTAL_LIFE_GENERATION(v->life));
	if (r == 0)
		wslx_portal_gate_open(p);
	return r;
}

static int attach(portal *p, const struct portal_attach *a)
{
	struct wslx_portal_msg w;
	int r = hello(p, a, &w);

	if (r < 0)
		return r;
	p->self = w.index;
	p->generation = w.life;
	r = wslx_portal_reserve(p, w.segments);
	if (r < 0)
		return r;
	p->epoch_word = &p->hdr->epoch;
	r = wslx_portal_receive_first(p);
	if (r < 0)
		return r;
	r = wslx_portal_take_geometry(p);
	if (r < 0)
		return r;
	p->ops = &wslx_portal_futex_ops;
	p->ops_ctx = p;
	r = wslx_portal_open_own(p);
	if (r < 0)
		return r;
	/* What came in between is asked for at once. */
	r = wslx_portal_refresh(p);
	if (r < 0)
		return r == -EPIPE && p->broker_lost ? -ETIMEDOUT : r;
	/* How long attaching may take says nothing about later questions. */
	limit_answers(p, PORTAL_SYNC_LIMIT_NS);
	return 0;
}

/* sock is taken. */
static int attach_broker(int sock, const struct portal_attach *a, portal **ret)
{
	portal *p = wslx_portal_new();
	int r;

	if (!p) {
		close(sock);
		return -ENOMEM;
	}
	p->sock = sock;
	r = attach(p, a);
	if (r < 0) {
		portal_detach(p);
		return r;
	}
	*ret = p;
	return 0;
}

/* The same source runs on the host, where a broker has a socket of that name, and in a machine, which has a window. */
static int attach_by_name(const struct portal_attach *a, portal **ret)
{
	char name[PORTAL_NAME_SIZE];
	int r = wslx_portal_name_set(name, a->region), sock;

	if (r < 0)
		return r;
	sock = wslx_portal_broker_connect(name);
	if (sock == -ENOENT)
		return wslx_portal_attach_guest(a, &wslx_portal_guest_linux, ret);
	return sock < 0 ? sock : attach_broker(sock, a, ret);
}

int portal_attach(const struct portal_attach *a, portal **ret)
{
	int sock;

	if (a->size != sizeof(*a))
		return -EINVAL;
	if (!a->path && a->region)
		return attach_by_name(a, ret);
	sock = a->path ? wslx_unix_connect(a->path, SOCK_SEQPACKET) : a->sock;
	if (sock < 0)
		return a->path ? sock : -EBADF;
	return attach_broker(sock, a, ret);
}

int portal_attach_mapped(const struct portal_attach_mapped *a, portal **ret)
{
	portal *p;
	int r;

	if (a->size != sizeof(*a) || a->participant >= PORTAL_MAX_PARTICIPANTS || a->length < PORTAL_SEGMENT_SIZE ||
	    !a->doorbell)
		return -EINVAL;
	p = wslx_portal_new();
	if (!p)
		return -ENOMEM;
	p->base = a->base;
	p->length = a->length;
	p->self = a->participant;
	p->generation = a->generation;
	p->ops = a->doorbell;
	p->ops_ctx = a->doorbell_ctx;
	p->hdr = (const struct portal_header *)(void *)p->base;
	p->epoch_word = a->epoch ? a->epoch : &p->hdr->epoch;
	p->epoch = UINT32_MAX;
	r = wslx_portal_take_geometry(p);
	if (r == 0)
		r = new_map_of_segments(p, p->geo.segments);
	if (r == 0)
		r = wslx_portal_refresh(p);
	if (r == 0)
		r = wslx_portal_open_own(p);
	if (r < 0) {
		portal_detach(p);
		return r;
	}
	*ret = p;
	return 0;
}

void portal_detach(portal *p)
{
	if (!p)
		return;
	if (p->ctl)
		PORTAL_STORE_REL(&p->ctl->state, PORTAL_CTL_DETACHED);
	if (p->sock >= 0)
		close(p->sock);
	else if (p->ctl)
		wslx_portal_kick(p, 0);
	wslx_portal_free_zombies(p);
	wslx_portal_heap_free(&p->heap);
	free(p->arena_of);
	if (p->reserved)
		munmap(p->reserved, p->length + PORTAL_SEGMENT_SIZE);
	wslx_portal_window_free(p->window);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void portal_get_info(const portal *p, struct portal_info *ret)
{
	*ret = (struct portal_info) { .segments = p->geo.segments, .self = p->self };
	memcpy(ret->region, p->hdr->name, sizeof(ret->region));
	ret->region[sizeof(ret->region) - 1] = '\0';
	memcpy(ret->uuid, p->hdr->uuid, sizeof(ret->uuid));
	ret->epoch = PORTAL_LOAD_ACQ(&p->epoch);
}
