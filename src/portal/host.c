/* The broker's life: making a region, dispatching, ending it; see host.h. */
#include "portal/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "portal/atomic.h"
#include "portal/directory.h"

#define DEFAULT_SEGMENTS 32768u
#define DEFAULT_SLOTS 1024u
#define DEFAULT_EACH 512u
/* Names of a participant: a share of the slots, within limits. */
#define NAMES_SHARE 8u
#define NAMES_MIN 16u
#define NAMES_MAX 4096u
/* Half empty at least: searches stay short. */
#define INDEX_PER_SLOT 2u

static uint64_t tables_size(uint32_t slots)
{
	return sizeof(struct portal_header) + PORTAL_MAX_PARTICIPANTS * sizeof(struct portal_participant) +
	       PORTAL_MAX_ARENAS * sizeof(struct portal_arena) + (uint64_t)slots * sizeof(struct portal_name) +
	       (uint64_t)slots * INDEX_PER_SLOT * sizeof(uint32_t);
}

static void write_header(portal_host *h, uint32_t slots)
{
	struct portal_header *d = h->hdr;

	d->version = PORTAL_VERSION;
	d->header_size = sizeof(*d);
	d->segment_shift = PORTAL_SEGMENT_SHIFT;
	d->segments = h->segments;
	(void)!getrandom(d->uuid, sizeof(d->uuid), 0);
	memcpy(&h->tag, d->uuid, sizeof(h->tag));
	d->tag = h->tag;
	memcpy(d->name, h->name, PORTAL_NAME_SIZE);
	d->max_participants = PORTAL_MAX_PARTICIPANTS;
	d->max_arenas = PORTAL_MAX_ARENAS;
	d->name_slots = slots;
	d->participants_off = sizeof(*d);
	d->arenas_off = d->participants_off + PORTAL_MAX_PARTICIPANTS * sizeof(struct portal_participant);
	d->names_off = d->arenas_off + PORTAL_MAX_ARENAS * sizeof(struct portal_arena);
	d->index_off = d->names_off + (uint64_t)slots * sizeof(struct portal_name);
	d->index_slots = slots * INDEX_PER_SLOT;
	h->parts = (struct portal_participant *)(void *)(h->base + d->participants_off);
	h->arenas = (struct portal_arena *)(void *)(h->base + d->arenas_off);
	h->names.table = (struct portal_name *)(void *)(h->base + d->names_off);
	h->names.index = (uint32_t *)(void *)(h->base + d->index_off);
	h->names.index_seq = &d->index_seq;
	h->names.end = &d->names_end;
	h->names.slots = slots;
	h->names.index_slots = slots * INDEX_PER_SLOT;
	h->life[0] = PORTAL_LIFE(1, PORTAL_PART_LIVE);
	h->parts[0].life = h->life[0];
	h->parts[0].id = (uint32_t)getpid();
	memcpy(h->parts[0].name, "host", 5);
	d->host = PORTAL_HOST_UP;
	PORTAL_STORE_REL(&d->magic, PORTAL_MAGIC);
}

/* Arena 0 is made by hand: there is no table to write it into yet. */
static int make_tables(portal_host *h, const char name[PORTAL_NAME_SIZE], uint32_t segments, uint32_t slots)
{
	uint32_t own = (uint32_t)((tables_size(slots) + PORTAL_SEGMENT_SIZE - 1) >> PORTAL_SEGMENT_SHIFT);
	struct wslx_host_arena *a = &h->arena[0];
	int r;

	if (own >= segments)
		return -EINVAL;
	memcpy(h->name, name, PORTAL_NAME_SIZE);
	h->segments = segments;
	r = wslx_host_arena_memory(h, own);
	if (r < 0)
		return r;
	h->hdr = (struct portal_header *)(void *)h->base;
	h->segment_used = calloc(1, segments);
	h->names.free = calloc(slots, sizeof(*h->names.free));
	h->names.next = calloc(slots * INDEX_PER_SLOT, sizeof(*h->names.next));
	if (!h->segment_used || !h->names.free || !h->names.next)
		return -ENOMEM;
	memset(h->segment_used, 1, own);
	write_header(h, slots);
	a->life = PORTAL_LIFE(++h->arena_generation, PORTAL_ARENA_LIVE);
	a->readers = UINT64_MAX;
	h->arenas[0] = (struct portal_arena) { .life = a->life, .segments = own, .readers = UINT64_MAX };
	return 0;
}

static int start_listening(portal_host *h, const char *path)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = WSLX_HOST_LISTENER };

	h->path = strdup(path);
	if (!h->path)
		return -ENOMEM;
	h->listener = wslx_unix_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, SOMAXCONN);
	if (h->listener < 0)
		return h->listener;
	return epoll_ctl(h->epoll, EPOLL_CTL_ADD, h->listener, &e) < 0 ? -errno : 0;
}

static uint32_t default_names(uint32_t slots)
{
	return WSLX_MIN(WSLX_MAX(slots / NAMES_SHARE, NAMES_MIN), NAMES_MAX);
}

static int create(portal_host *h, const struct portal_host_params *p)
{
	uint32_t segments = p->segments ? p->segments : DEFAULT_SEGMENTS;
	uint32_t slots = p->name_slots ? p->name_slots : DEFAULT_SLOTS;
	char name[PORTAL_NAME_SIZE];
	int r = wslx_portal_name_set(name, p->name);

	if (r < 0)
		return r;
	if (segments > PORTAL_MAX_SEGMENTS || slots < 8 || slots > PORTAL_NAME_SLOTS_MAX || (slots & (slots - 1)))
		return -EINVAL;
	h->max_each = p->max_each ? p->max_each : DEFAULT_EACH;
	h->max_names = p->max_names ? p->max_names : default_names(slots);
	h->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (h->epoll < 0)
		return -errno;
	r = wslx_host_strangers_init(h);
	if (r == 0)
		r = wslx_host_keep_spare(h);
	if (r == 0)
		r = make_tables(h, name, segments, slots);
	if (r == 0 && p->path)
		r = start_listening(h, p->path);
	return r;
}

int portal_host_create(const struct portal_host_params *p, portal_host **ret)
{
	portal_host *h;
	int r;

	if (p->size != sizeof(*p))
		return -EINVAL;
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	pthread_mutex_init(&h->lock, NULL);
	h->epoll = h->listener = h->timer = -1;
	for (unsigned i = 0; i < ARRAY_SIZE(h->spare); i++)
		h->spare[i] = -1;
	for (unsigned i = 0; i < WSLX_HOST_STRANGERS; i++)
		h->stranger[i].sock = -1;
	for (unsigned i = 0; i < PORTAL_MAX_ARENAS; i++)
		h->arena[i].fd = h->arena[i].ro = -1;
	for (unsigned i = 0; i < PORTAL_MAX_PARTICIPANTS; i++)
		h->member[i].sock = -1;
	r = create(h, p);
	if (r < 0) {
		portal_host_destroy(h);
		return r;
	}
	*ret = h;
	return 0;
}

void portal_host_destroy(portal_host *h)
{
	if (!h)
		return;
	if (h->hdr) {
		PORTAL_STORE_SEQ(&h->hdr->host, PORTAL_HOST_GONE);
		wslx_host_event_all(h);
	}
	for (unsigned i = 1; i < PORTAL_MAX_PARTICIPANTS; i++) {
		if (h->member[i].sock >= 0)
			close(h->member[i].sock);
		if (h->member[i].ctl)
			munmap((void *)(uintptr_t)h->member[i].ctl, PORTAL_CONTROL_SIZE);
	}
	if (h->base)
		munmap(h->base, (size_t)h->arena[0].segments << PORTAL_SEGMENT_SHIFT);
	for (unsigned i = 0; i < PORTAL_MAX_ARENAS; i++)
		wslx_host_arena_close(&h->arena[i]);
	wslx_host_strangers_free(h);
	wslx_host_use_spare(h);
	wslx_close(&h->listener);
	wslx_close(&h->epoll);
	if (h->path)
		unlink(h->path);
	free(h->path);
	free(h->segment_used);
	free(h->names.free);
	free(h->names.next);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

int portal_host_fd(const portal_host *h)
{
	return h->epoll;
}

static void on_event(portal_host *h, uint64_t word, uint32_t events)
{
	switch (word & WSLX_HOST_WHAT) {
	case WSLX_HOST_LISTENER:
		wslx_host_on_connection(h);
		break;
	case WSLX_HOST_TIMER:
		wslx_host_on_timer(h);
		break;
	case WSLX_HOST_STRANGER:
		wslx_host_on_stranger(h, (unsigned)word);
		break;
	default:
		wslx_host_on_socket(h, (uint32_t)word, events);
		break;
	}
}

int portal_host_dispatch(portal_host *h, int timeout_ms)
{
	struct epoll_event e[16];
	int n = epoll_wait(h->epoll, e, 16, timeout_ms);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	pthread_mutex_lock(&h->lock);
	for (int i = 0; i < n; i++)
		on_event(h, e[i].data.u64, e[i].events);
	pthread_mutex_unlock(&h->lock);
	return 0;
}

int portal_host_serve(portal_host *h, int sock)
{
	int r;

	pthread_mutex_lock(&h->lock);
	r = wslx_host_accept(h, sock);
	pthread_mutex_unlock(&h->lock);
	if (r < 0)
		close(sock);
	return r;
}
