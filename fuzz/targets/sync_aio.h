/* An I/O engine without threads or rings: each request is carried out when it
 * is waited for.  Faults can be had by the input. */
#ifndef WSLX_FUZZ_SYNC_AIO_H
#define WSLX_FUZZ_SYNC_AIO_H

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "dev/backend/aio.h"

struct sync_aio {
	struct wslx_aio a;
	struct wslx_aio_req *head, **tail;
	struct wslx_timer *tick;
};

/* Every n-th operation fails; 0 = none. */
static unsigned sync_aio_fault_every;
static int sync_aio_fault;
static unsigned sync_aio_count;

static inline int sync_aio_run(struct sync_aio *s, const struct wslx_aio_req *r)
{
	int fd = s->a.fds[r->file];
	ssize_t n;

	if (sync_aio_fault_every && ++sync_aio_count % sync_aio_fault_every == 0)
		return sync_aio_fault;
	switch (r->op) {
	case WSLX_AIO_READ:
		n = preadv(fd, r->iov, (int)r->n_iov, (off_t)r->off);
		return n < 0 ? -errno : (int)n;
	case WSLX_AIO_WRITE:
		n = pwritev(fd, r->iov, (int)r->n_iov, (off_t)r->off);
		return n < 0 ? -errno : (int)n;
	case WSLX_AIO_SYNC:
		return 0;
	case WSLX_AIO_PUNCH:
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->off, (off_t)r->len) ? -errno
													       : 0;
	case WSLX_AIO_ZERO:
		if (!r->by_write)
			return -EOPNOTSUPP;
		n = pwritev(fd, r->iov, (int)r->n_iov, (off_t)r->off);
		return n < 0 ? -errno : (int)n;
	}
	abort();
}

static inline void sync_aio_start(struct wslx_aio *a, struct wslx_aio_req *r)
{
	struct sync_aio *s = CONTAINER_OF(a, struct sync_aio, a);

	if (a->active > a->depth)
		abort();
	r->next = NULL;
	*s->tail = r;
	s->tail = &r->next;
	wslx_timer_arm(s->tick, 0);
}

static inline int sync_aio_commit(struct wslx_aio *a)
{
	return 0;
}

static inline void sync_aio_reap(struct wslx_aio *a, bool wait)
{
	struct sync_aio *s = CONTAINER_OF(a, struct sync_aio, a);
	struct wslx_aio_req *r = s->head;

	if (!r)
		return;
	s->head = r->next;
	if (!s->head)
		s->tail = &s->head;
	else
		wslx_timer_arm(s->tick, 0);
	wslx_aio_complete(a, r, sync_aio_run(s, r));
}

static inline void sync_aio_on_tick(struct wslx_timer *t, void *opaque)
{
	wslx_aio_event(opaque);
}

static inline void sync_aio_free(struct wslx_aio *a)
{
	struct sync_aio *s = CONTAINER_OF(a, struct sync_aio, a);

	if (s->head)
		abort();
	wslx_timer_free(s->tick);
	wslx_aio_fini(a);
	free(s);
}

static const struct wslx_aio_ops sync_aio_ops = {
	.name = "sync",
	.start = sync_aio_start,
	.commit = sync_aio_commit,
	.reap = sync_aio_reap,
	.free = sync_aio_free,
};

static inline int sync_aio_new(const struct wslx_aio_params *p, struct wslx_aio **ret)
{
	struct sync_aio *s = calloc(1, sizeof(*s));

	if (!s || wslx_aio_init(&s->a, &sync_aio_ops, p) < 0 ||
	    wslx_loop_timer(p->loop, sync_aio_on_tick, &s->a, &s->tick) < 0)
		abort();
	s->tail = &s->head;
	for (unsigned i = 0; i < WSLX_AIO_MAX_FILES; i++)
		s->a.fds[i] = p->fds[i];
	*ret = &s->a;
	return 0;
}

#endif
