/*
 * Thread-pool engine, for hosts and sandboxes without io_uring.
 *
 * Threads: workers take requests from `queued` and put them on `ended`, both
 * under `lock`, and signal an eventfd that the loop watches.  A worker touches
 * a request only between the two.  All signals are blocked in workers.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/backend/aio.h"

#define N_WORKERS 4

struct pool {
	struct wslx_aio a;
	int eventfd;
	struct wslx_watch *watch;
	/* Started, not yet handed to the workers; loop thread only. */
	struct wslx_aio_list fresh;
	pthread_mutex_t lock; /* guards queued, ended, stop */
	pthread_cond_t wake;
	struct wslx_aio_list queued, ended;
	bool stop;
	unsigned n_threads;
	pthread_t threads[N_WORKERS];
};

static void append(struct wslx_aio_list *l, struct wslx_aio_req *r)
{
	r->next = NULL;
	*l->tail = r;
	l->tail = &r->next;
}

/* Moves all of `from` to the end of `to`. */
static void move_all(struct wslx_aio_list *to, struct wslx_aio_list *from)
{
	if (!from->head)
		return;
	*to->tail = from->head;
	to->tail = from->tail;
	from->head = NULL;
	from->tail = &from->head;
}

static ssize_t run_one(int fd, const struct wslx_aio_req *r)
{
	switch (r->op) {
	case WSLX_AIO_READ:
		return preadv2(fd, r->iov, (int)r->n_iov, (off_t)r->off, 0);
	case WSLX_AIO_WRITE:
		return pwritev2(fd, r->iov, (int)r->n_iov, (off_t)r->off, 0);
	case WSLX_AIO_SYNC:
		return fdatasync(fd);
	case WSLX_AIO_PUNCH:
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->off, (off_t)r->len);
	case WSLX_AIO_ZERO:
		if (r->by_write)
			return pwritev2(fd, r->iov, (int)r->n_iov, (off_t)r->off, 0);
		return fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)r->off, (off_t)r->len);
	}
	errno = EINVAL;
	return -1;
}

static void *worker(void *arg)
{
	struct pool *p = arg;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		struct wslx_aio_req *r;
		uint64_t one = 1;
		bool signal_it;
		ssize_t n;

		while (!p->queued.head && !p->stop)
			pthread_cond_wait(&p->wake, &p->lock);
		r = p->queued.head;
		if (!r)
			break;
		p->queued.head = r->next;
		if (!p->queued.head)
			p->queued.tail = &p->queued.head;
		pthread_mutex_unlock(&p->lock);

		n = run_one(p->a.fds[r->file], r);
		r->result = n < 0 ? -errno : (int)n;

		pthread_mutex_lock(&p->lock);
		signal_it = !p->ended.head;
		append(&p->ended, r);
		/* Under the lock, so that the descriptor cannot go away. */
		if (signal_it && write(p->eventfd, &one, sizeof(one)) < 0)
			continue; /* EAGAIN: signalled 2^64 times already */
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void pool_start(struct wslx_aio *a, struct wslx_aio_req *r)
{
	append(&CONTAINER_OF(a, struct pool, a)->fresh, r);
}

static int pool_commit(struct wslx_aio *a)
{
	struct pool *p = CONTAINER_OF(a, struct pool, a);
	bool one;

	if (!p->fresh.head)
		return 0;
	one = !p->fresh.head->next;
	pthread_mutex_lock(&p->lock);
	move_all(&p->queued, &p->fresh);
	if (one)
		pthread_cond_signal(&p->wake);
	else
		pthread_cond_broadcast(&p->wake);
	pthread_mutex_unlock(&p->lock);
	return 0;
}

static void pool_reap(struct wslx_aio *a, bool wait)
{
	struct pool *p = CONTAINER_OF(a, struct pool, a);
	struct wslx_aio_list now = { .tail = &now.head };
	struct wslx_aio_req *r, *next;
	uint64_t n;

	if (wait) {
		struct pollfd pfd = { .fd = p->eventfd, .events = POLLIN };

		(void)pool_commit(a);
		/* On a signal the caller comes again. */
		(void)poll(&pfd, 1, -1);
	}
	if (read(p->eventfd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return;
	pthread_mutex_lock(&p->lock);
	move_all(&now, &p->ended);
	pthread_mutex_unlock(&p->lock);
	for (r = now.head; r; r = next) {
		next = r->next;
		wslx_aio_complete(a, r, r->result);
	}
}

static void on_eventfd(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	wslx_aio_event(opaque);
}

static void pool_free(struct wslx_aio *a)
{
	struct pool *p = CONTAINER_OF(a, struct pool, a);

	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->wake);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->n_threads; i++)
		pthread_join(p->threads[i], NULL);
	wslx_watch_free(p->watch);
	wslx_close(&p->eventfd);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->wake);
	wslx_aio_fini(a);
	free(p);
}

static const struct wslx_aio_ops pool_ops = {
	.name = "threads",
	.start = pool_start,
	.commit = pool_commit,
	.reap = pool_reap,
	.free = pool_free,
};

static int start_threads(struct pool *p)
{
	sigset_t all, old;
	int r = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (p->n_threads < N_WORKERS && r == 0) {
		r = -pthread_create(&p->threads[p->n_threads], NULL, worker, p);
		if (r == 0)
			p->n_threads++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

int wslx_aio_threads_new(const struct wslx_aio_params *params, struct wslx_aio **ret)
{
	struct pool *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wake, NULL);
	p->fresh.tail = &p->fresh.head;
	p->queued.tail = &p->queued.head;
	p->ended.tail = &p->ended.head;
	p->eventfd = -1;
	r = wslx_aio_init(&p->a, &pool_ops, params);
	if (r == 0) {
		p->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		r = p->eventfd < 0 ? -errno : 0;
	}
	if (r == 0)
		r = wslx_loop_watch(params->loop, p->eventfd, EPOLLIN, on_eventfd, &p->a, &p->watch);
	if (r == 0)
		r = start_threads(p);
	if (r < 0) {
		pool_free(&p->a);
		return r;
	}
	*ret = &p->a;
	return 0;
}
