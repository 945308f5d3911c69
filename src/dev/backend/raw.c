/*
 * Raw images and block devices: requests go to the file as they are.
 *
 * A request gets a slot, and waits in line when all are taken, so nothing is
 * allocated after open.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "dev/backend/aio.h"
#include "dev/backend/block.h"

struct slot {
	struct wslx_aio_req a;
	struct wslx_block_req *req;
	struct raw *raw;
	struct slot *next_free;
};

struct raw {
	struct wslx_block b;
	struct wslx_aio *aio;
	bool no_sync;
	struct slot *slots, *free;
	struct wslx_block_req *wait, **wait_tail; /* for a slot */
};

static struct raw *raw_of(struct wslx_block *b)
{
	return CONTAINER_OF(b, struct raw, b);
}

static int check(const struct raw *raw, const struct wslx_block_req *r)
{
	if (r->op == WSLX_BLOCK_FLUSH)
		return 0;
	if (!wslx_range_ok(r->off, r->len, raw->b.size) || r->n_iov > WSLX_BLOCK_MAX_IOV)
		return -EINVAL;
	if (raw->b.readonly && r->op != WSLX_BLOCK_READ)
		return -EROFS;
	return 0;
}

static void on_done(struct wslx_aio_req *a, int result);

/* Fills the slot's I/O from its request.  Returns 1: submit it; else its result. */
static int translate(struct raw *raw, struct slot *s)
{
	struct wslx_block_req *r = s->req;
	int e = check(raw, r);

	if (e < 0)
		return e;
	s->a = (struct wslx_aio_req) {
		.off = r->off, .len = r->len, .iov = r->iov, .n_iov = r->n_iov, .done = on_done
	};
	switch (r->op) {
	case WSLX_BLOCK_READ:
		s->a.op = WSLX_AIO_READ;
		raw->b.stats.reads++;
		raw->b.stats.read_bytes += r->len;
		return 1;
	case WSLX_BLOCK_WRITE:
		s->a.op = WSLX_AIO_WRITE;
		raw->b.stats.writes++;
		raw->b.stats.written_bytes += r->len;
		return 1;
	case WSLX_BLOCK_FLUSH:
		s->a.op = WSLX_AIO_SYNC;
		raw->b.stats.flushes++;
		return raw->no_sync || raw->b.readonly ? 0 : 1;
	case WSLX_BLOCK_DISCARD:
		s->a.op = WSLX_AIO_PUNCH;
		raw->b.stats.discards++;
		return 1;
	case WSLX_BLOCK_WRITE_ZEROES:
		s->a.op = r->unmap ? WSLX_AIO_PUNCH : WSLX_AIO_ZERO;
		s->a.must_zero = true;
		raw->b.stats.writes++;
		return 1;
	}
	return -EINVAL;
}

static void begin(struct raw *raw, struct slot *s, struct wslx_block_req *r)
{
	int e;

	s->req = r;
	e = translate(raw, s);
	if (e == 1) {
		wslx_aio_submit(raw->aio, &s->a);
		return;
	}
	s->a.done = on_done;
	wslx_aio_defer(raw->aio, &s->a, e);
}

static void on_done(struct wslx_aio_req *a, int result)
{
	struct slot *s = CONTAINER_OF(a, struct slot, a);
	struct wslx_block_req *r = s->req, *next;
	struct raw *raw = s->raw;

	if (result < 0)
		raw->b.stats.errors++;
	next = raw->wait;
	if (next) {
		raw->wait = next->next;
		if (!raw->wait)
			raw->wait_tail = &raw->wait;
		begin(raw, s, next);
	} else {
		s->next_free = raw->free;
		raw->free = s;
	}
	r->done(r, result);
}

static void raw_submit(struct wslx_block *b, struct wslx_block_req *r)
{
	struct raw *raw = raw_of(b);
	struct slot *s = raw->free;

	if (s) {
		raw->free = s->next_free;
		begin(raw, s, r);
		return;
	}
	r->next = NULL;
	*raw->wait_tail = r;
	raw->wait_tail = &r->next;
}

static void raw_commit(struct wslx_block *b)
{
	wslx_aio_commit(raw_of(b)->aio);
}

static void raw_drain(struct wslx_block *b, bool cancel)
{
	struct raw *raw = raw_of(b);

	wslx_aio_set_cancel(raw->aio, cancel);
	wslx_aio_set_paused(raw->aio, true);
	while (wslx_aio_busy(raw->aio))
		wslx_aio_wait(raw->aio);
	wslx_aio_set_cancel(raw->aio, false);
}

static void raw_resume(struct wslx_block *b)
{
	wslx_aio_set_paused(raw_of(b)->aio, false);
}

static void raw_free(struct wslx_block *b)
{
	struct raw *raw = raw_of(b);

	if (raw->aio)
		raw_drain(b, true);
	wslx_aio_free(raw->aio);
	free(raw->slots);
	free(raw);
}

static const struct wslx_block_ops raw_ops = {
	.submit = raw_submit,
	.commit = raw_commit,
	.drain = raw_drain,
	.resume = raw_resume,
	.free = raw_free,
};

/* The size a descriptor offers, if it can serve as a disk. */
static int probe(int fd, bool readonly, uint64_t *ret_size)
{
	int mode = fcntl(fd, F_GETFL);
	struct stat st;
	off_t end;

	if (mode < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -EINVAL;
	if ((mode & O_ACCMODE) == O_WRONLY || (!readonly && (mode & O_ACCMODE) != O_RDWR))
		return -EACCES;
	end = lseek(fd, 0, SEEK_END);
	if (end < 0)
		return -errno;
	*ret_size = wslx_align_down((uint64_t)end, WSLX_BLOCK_SECTOR);
	return *ret_size ? 0 : -EINVAL;
}

int wslx_raw_open(const struct wslx_raw_params *p, struct wslx_block **ret)
{
	unsigned depth = p->depth ? p->depth : WSLX_BLOCK_DEPTH;
	struct wslx_aio_params ap;
	struct raw *raw;
	uint64_t size = 0;
	int r;

	if (depth > WSLX_BLOCK_MAX_DEPTH)
		return -EINVAL;
	r = probe(p->fd, p->readonly, &size);
	if (r < 0)
		return r;
	raw = calloc(1, sizeof(*raw));
	if (!raw)
		return -ENOMEM;
	raw->b = (struct wslx_block) {
		.ops = &raw_ops, .size = size, .readonly = p->readonly, .granularity = (uint32_t)WSLX_PAGE_SIZE
	};
	raw->no_sync = p->no_sync;
	raw->wait_tail = &raw->wait;
	raw->slots = calloc(depth, sizeof(*raw->slots));
	r = raw->slots ? 0 : -ENOMEM;
	for (unsigned i = 0; r == 0 && i < depth; i++) {
		raw->slots[i].raw = raw;
		raw->slots[i].next_free = raw->free;
		raw->free = &raw->slots[i];
	}
	ap = (struct wslx_aio_params) {
		.loop = p->loop, .block = &raw->b, .fds = { p->fd, -1 }, .depth = depth, .no_io_uring = p->no_io_uring
	};
	if (r == 0)
		r = wslx_aio_new(&ap, &raw->aio);
	if (r < 0) {
		raw_free(&raw->b);
		return r;
	}
	*ret = &raw->b;
	return 0;
}
