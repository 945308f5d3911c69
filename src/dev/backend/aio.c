/* See aio.h. */
#include "dev/backend/aio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"

#define RETRY_FULL_MS 1000
#define LOG_FULL_MS 60000
#define RECOMMIT_MS 5
#define ZERO_CHUNK (256 * WSLX_KIB)

/* What zeroes are written from; never written to, so it costs no memory. */
static uint8_t zeroes[ZERO_CHUNK];

static void list_init(struct wslx_aio_list *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

static void list_add(struct wslx_aio_list *l, struct wslx_aio_req *r)
{
	r->next = NULL;
	*l->tail = r;
	l->tail = &r->next;
}

static struct wslx_aio_req *list_take(struct wslx_aio_list *l)
{
	struct wslx_aio_req *r = l->head;

	if (r) {
		l->head = r->next;
		if (!l->head)
			l->tail = &l->head;
	}
	return r;
}

void wslx_aio_advance(struct iovec **iov, unsigned *n_iov, uint64_t n)
{
	while (*n_iov && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		(*iov)++;
		(*n_iov)--;
	}
	if (*n_iov && n) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= (size_t)n;
	}
}

/* A batch of completions has been handed out: push on what they submitted,
 * then let the device tell its driver. */
static void end_batch(struct wslx_aio *a)
{
	wslx_aio_commit(a);
	if (!a->ended)
		return;
	a->ended = false;
	if (a->block->batch_end)
		a->block->batch_end(a->block->batch_opaque);
}

static void finish(struct wslx_aio *a, struct wslx_aio_req *r, int result)
{
	a->ended = true;
	r->done(r, result);
}

static void deliver_deferred(struct wslx_aio *a)
{
	/* Those deferred meanwhile wait for the next round. */
	struct wslx_aio_list now = a->deferred;
	struct wslx_aio_req *r;

	if (!now.head)
		return;
	list_init(&a->deferred);
	while ((r = list_take(&now)))
		finish(a, r, r->result);
}

static void on_deliver(struct wslx_timer *t, void *opaque)
{
	deliver_deferred(opaque);
	end_batch(opaque);
}

static void on_recommit(struct wslx_timer *t, void *opaque)
{
	wslx_aio_commit(opaque);
}

static void start(struct wslx_aio *a, struct wslx_aio_req *r)
{
	a->active++;
	a->ops->start(a, r);
}

static void on_retry(struct wslx_timer *t, void *opaque)
{
	struct wslx_aio *a = opaque;
	struct wslx_aio_req *r;

	while ((r = list_take(&a->parked))) {
		a->block->stats.parked--;
		start(a, r);
	}
	wslx_aio_commit(a);
}

/* Once a minute, however many requests wait and however often it turns full. */
static void log_full(struct wslx_aio *a)
{
	int64_t now = wslx_now_ms();

	if (a->full_log_ms && now - a->full_log_ms < LOG_FULL_MS)
		return;
	a->full_log_ms = now;
	log_warn("host disk full, machine paused: free some space and it goes on by itself");
}

static void set_full(struct wslx_aio *a, bool full)
{
	struct wslx_block *b = a->block;

	if (a->full == full)
		return;
	a->full = full;
	if (b->host_full)
		b->host_full(b->host_full_opaque, full);
}

static void park(struct wslx_aio *a, struct wslx_aio_req *r)
{
	if (a->cancel) {
		finish(a, r, -ENOSPC);
		return;
	}
	log_full(a);
	set_full(a, true);
	a->block->stats.parked++;
	if (!r->waited)
		a->block->stats.parked_ever++;
	r->waited = true;
	if (!a->parked.head && !a->paused)
		wslx_timer_arm(a->retry, RETRY_FULL_MS);
	list_add(&a->parked, r);
}

/* The next piece of a ZERO that the file system cannot do by itself. */
static void start_zero_write(struct wslx_aio *a, struct wslx_aio_req *r)
{
	r->by_write = true;
	r->zero_iov.iov_base = zeroes;
	r->zero_iov.iov_len = (size_t)WSLX_MIN(r->len, ZERO_CHUNK);
	r->iov = &r->zero_iov;
	r->n_iov = 1;
	start(a, r);
}

static void moved(struct wslx_aio *a, struct wslx_aio_req *r, uint64_t n)
{
	if (n > r->len)
		n = r->len;
	r->off += n;
	r->len -= n;
	if (!r->len) {
		finish(a, r, 0);
	} else if (r->by_write) {
		start_zero_write(a, r);
	} else {
		wslx_aio_advance(&r->iov, &r->n_iov, n);
		start(a, r);
	}
}

void wslx_aio_complete(struct wslx_aio *a, struct wslx_aio_req *r, int result)
{
	a->active--;
	switch (result) {
	case -EINTR:
	case -EAGAIN:
		start(a, r);
		return;
	case -ENOSPC:
	case -EDQUOT:
		/* A sync that is tried again succeeds: the kernel tells of what
		 * it could not write back only once. */
		if (r->op == WSLX_AIO_SYNC)
			break;
		park(a, r);
		return;
	case -EOPNOTSUPP:
		if (r->op == WSLX_AIO_PUNCH && !r->must_zero) {
			finish(a, r, 0);
			return;
		}
		if (r->op == WSLX_AIO_PUNCH) {
			r->op = WSLX_AIO_ZERO;
			start(a, r);
			return;
		}
		if (r->op == WSLX_AIO_ZERO && !r->by_write) {
			start_zero_write(a, r);
			return;
		}
		break;
	default:
		break;
	}
	if (result >= 0 && r->waited && a->full) {
		set_full(a, false);
		log_info("the host's disk has room again");
	}
	if (result < 0) {
		finish(a, r, result);
	} else if (r->op == WSLX_AIO_READ || r->op == WSLX_AIO_WRITE || r->by_write) {
		/* 0: the file ended early, or a device takes nothing more. */
		if (result == 0)
			finish(a, r, -EIO);
		else
			moved(a, r, (uint64_t)result);
	} else {
		finish(a, r, 0);
	}
}

void wslx_aio_event(struct wslx_aio *a)
{
	a->ops->reap(a, false);
	end_batch(a);
}

void wslx_aio_submit(struct wslx_aio *a, struct wslx_aio_req *r)
{
	r->by_write = false;
	r->waited = false;
	if (!r->len && r->op != WSLX_AIO_SYNC) {
		wslx_aio_defer(a, r, 0);
		return;
	}
	a->block->stats.syncs += r->op == WSLX_AIO_SYNC;
	start(a, r);
}

void wslx_aio_defer(struct wslx_aio *a, struct wslx_aio_req *r, int result)
{
	r->result = result;
	if (!a->deferred.head)
		wslx_timer_arm(a->deliver, 0);
	list_add(&a->deferred, r);
}

void wslx_aio_commit(struct wslx_aio *a)
{
	if (a->ops->commit(a) < 0)
		wslx_timer_arm(a->recommit, RECOMMIT_MS);
}

bool wslx_aio_busy(const struct wslx_aio *a)
{
	return a->active || a->deferred.head;
}

void wslx_aio_wait(struct wslx_aio *a)
{
	if (a->deferred.head)
		deliver_deferred(a);
	else if (a->active)
		a->ops->reap(a, true);
	end_batch(a);
}

void wslx_aio_set_cancel(struct wslx_aio *a, bool cancel)
{
	struct wslx_aio_req *r;

	a->cancel = cancel;
	if (!cancel)
		return;
	wslx_timer_disarm(a->retry);
	while ((r = list_take(&a->parked))) {
		a->block->stats.parked--;
		wslx_aio_defer(a, r, -ENOSPC);
	}
	/* Nobody waits any more. */
	set_full(a, false);
}

void wslx_aio_set_paused(struct wslx_aio *a, bool paused)
{
	a->paused = paused;
	if (paused)
		wslx_timer_disarm(a->retry);
	else if (a->parked.head)
		wslx_timer_arm(a->retry, 0);
}

int wslx_aio_init(struct wslx_aio *a, const struct wslx_aio_ops *ops, const struct wslx_aio_params *p)
{
	int r;

	a->ops = ops;
	a->block = p->block;
	a->loop = p->loop;
	a->depth = p->depth;
	/* The descriptors are ours only once everything else has worked. */
	for (unsigned i = 0; i < WSLX_AIO_MAX_FILES; i++)
		a->fds[i] = -1;
	list_init(&a->parked);
	list_init(&a->deferred);
	r = wslx_loop_timer(p->loop, on_retry, a, &a->retry);
	if (r == 0)
		r = wslx_loop_timer(p->loop, on_deliver, a, &a->deliver);
	if (r == 0)
		r = wslx_loop_timer(p->loop, on_recommit, a, &a->recommit);
	return r;
}

void wslx_aio_fini(struct wslx_aio *a)
{
	wslx_timer_free(a->retry);
	wslx_timer_free(a->deliver);
	wslx_timer_free(a->recommit);
	for (unsigned i = 0; i < WSLX_AIO_MAX_FILES; i++)
		wslx_close(&a->fds[i]);
}

int wslx_aio_new(const struct wslx_aio_params *p, struct wslx_aio **ret)
{
	int r = -ENOSYS;

	if (!p->depth)
		return -EINVAL;
	if (!p->no_io_uring)
		r = wslx_aio_uring_new(p, ret);
	if (r < 0) {
		if (!p->no_io_uring)
			log_debug("io_uring is not available (%s), using threads", strerror(-r));
		r = wslx_aio_threads_new(p, ret);
	}
	if (r < 0)
		return r;
	for (unsigned i = 0; i < WSLX_AIO_MAX_FILES; i++)
		(*ret)->fds[i] = p->fds[i];
	p->block->engine = (*ret)->ops->name;
	return 0;
}

void wslx_aio_free(struct wslx_aio *a)
{
	if (a)
		a->ops->free(a);
}
