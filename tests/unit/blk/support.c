#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cmocka.h>

struct recorder recorder;

int temp_file(uint64_t size)
{
	char path[] = "/var/tmp/wslx-test-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void on_done(struct wslx_block_req *r, int result)
{
	struct op *op = CONTAINER_OF(r, struct op, r);

	assert_false(op->done);
	op->done = true;
	op->result = result;
	if (op->on_done)
		op->on_done(op);
}

void op_init(struct op *op, enum wslx_block_op kind, uint64_t off, uint64_t len)
{
	memset(op, 0, sizeof(*op));
	op->r.op = kind;
	op->r.off = off;
	op->r.len = len;
	op->r.done = on_done;
}

void op_buffer(struct op *op, uint8_t *buf, unsigned n)
{
	size_t left = (size_t)op->r.len;

	op->buf = buf;
	for (unsigned i = 0; i < n; i++) {
		size_t part = i + 1 == n ? left : left / 2 + 1;

		if (part > left)
			part = left;
		op->iov[i] = (struct iovec) { buf, part };
		buf += part;
		left -= part;
	}
	op->r.iov = op->iov;
	op->r.n_iov = n;
}

void op_wait(struct wslx_loop *loop, struct op *op)
{
	for (int i = 0; i < 10000 && !op->done; i++)
		assert_int_equal(wslx_loop_once(loop, 100), 0);
	assert_true(op->done);
}

int op_run(struct wslx_loop *loop, struct wslx_block *b, struct op *op)
{
	wslx_block_submit(b, &op->r);
	assert_false(op->done);
	wslx_block_commit(b);
	op_wait(loop, op);
	return op->result;
}

/* ---- recording engine ------------------------------------------------- */

#define MAX_QUEUED 256

struct rec_aio {
	struct wslx_aio a;
	struct wslx_aio_req *queued[MAX_QUEUED];
	unsigned n;
	struct wslx_timer *tick;
};

static void add(enum rec_kind kind, uint64_t off, uint64_t len, uint8_t *data, int mark)
{
	if (!recorder.enabled) {
		free(data);
		return;
	}
	if (recorder.n == recorder.cap) {
		recorder.cap = recorder.cap ? 2 * recorder.cap : 256;
		recorder.log = realloc(recorder.log, recorder.cap * sizeof(*recorder.log));
		assert_non_null(recorder.log);
	}
	recorder.log[recorder.n++] = (struct rec) { kind, off, len, data, mark };
}

void recorder_mark(int mark)
{
	add(REC_MARK, 0, 0, NULL, mark);
}

void recorder_clear(void)
{
	for (size_t i = 0; i < recorder.n; i++)
		free(recorder.log[i].data);
	free(recorder.log);
	memset(&recorder, 0, sizeof(recorder));
}

static int do_write(int fd, const struct wslx_aio_req *r)
{
	uint8_t *copy = malloc(r->len);
	size_t n = 0;

	assert_non_null(copy);
	for (unsigned i = 0; i < r->n_iov && n < r->len; i++) {
		memcpy(copy + n, r->iov[i].iov_base, r->iov[i].iov_len);
		n += r->iov[i].iov_len;
	}
	assert_int_equal(n, r->len);
	assert_int_equal(pwrite(fd, copy, n, (off_t)r->off), n);
	add(REC_WRITE, r->off, n, copy, 0);
	return (int)n;
}

static int execute(struct rec_aio *ra, const struct wslx_aio_req *r)
{
	int fd = ra->a.fds[r->file];
	int e = recorder.fault ? recorder.fault(r) : 0;

	if (e)
		return e;
	switch (r->op) {
	case WSLX_AIO_READ:
		return (int)preadv(fd, r->iov, (int)r->n_iov, (off_t)r->off);
	case WSLX_AIO_WRITE:
		return do_write(fd, r);
	case WSLX_AIO_SYNC:
		add(REC_SYNC, 0, 0, NULL, 0);
		return 0;
	case WSLX_AIO_PUNCH:
		assert_int_equal(
			fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->off, (off_t)r->len), 0);
		add(REC_PUNCH, r->off, r->len, NULL, 0);
		return 0;
	case WSLX_AIO_ZERO:
		if (!r->by_write)
			return -EOPNOTSUPP;
		return do_write(fd, r);
	}
	return -EINVAL;
}

static void rec_start(struct wslx_aio *a, struct wslx_aio_req *r)
{
	struct rec_aio *ra = CONTAINER_OF(a, struct rec_aio, a);

	assert_true(ra->n < MAX_QUEUED && a->active <= a->depth);
	ra->queued[ra->n++] = r;
	wslx_timer_arm(ra->tick, 0);
}

static int rec_commit(struct wslx_aio *a)
{
	return 0;
}

static void rec_reap(struct wslx_aio *a, bool wait)
{
	struct rec_aio *ra = CONTAINER_OF(a, struct rec_aio, a);
	unsigned i;
	struct wslx_aio_req *r;

	if (!ra->n)
		return;
	i = (unsigned)(rnd(&recorder.seed) % ra->n);
	r = ra->queued[i];
	ra->queued[i] = ra->queued[--ra->n];
	if (ra->n)
		wslx_timer_arm(ra->tick, 0);
	wslx_aio_complete(a, r, execute(ra, r));
}

static void on_tick(struct wslx_timer *t, void *opaque)
{
	wslx_aio_event(opaque);
}

static void rec_free(struct wslx_aio *a)
{
	struct rec_aio *ra = CONTAINER_OF(a, struct rec_aio, a);

	assert_int_equal(ra->n, 0);
	wslx_timer_free(ra->tick);
	wslx_aio_fini(a);
	free(ra);
}

static const struct wslx_aio_ops rec_ops = {
	.name = "recorder",
	.start = rec_start,
	.commit = rec_commit,
	.reap = rec_reap,
	.free = rec_free,
};

int record_aio_new(const struct wslx_aio_params *p, struct wslx_aio **ret)
{
	struct rec_aio *ra = calloc(1, sizeof(*ra));

	assert_non_null(ra);
	assert_int_equal(wslx_aio_init(&ra->a, &rec_ops, p), 0);
	assert_int_equal(wslx_loop_timer(p->loop, on_tick, &ra->a, &ra->tick), 0);
	for (unsigned i = 0; i < WSLX_AIO_MAX_FILES; i++)
		ra->a.fds[i] = p->fds[i];
	p->block->engine = "recorder";
	*ret = &ra->a;
	return 0;
}
