/* Raw files and overlays against a model, over io_uring and threads. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/cleanup.h"
#include "dev/backend/overlay_internal.h"
#include "support.h"

#define SIZE ((uint64_t)3 * WSLX_MIB + 5 * 512) /* the last cluster is a part of one */
#define BASE_SIZE ((uint64_t)WSLX_MIB + 1000)   /* shorter, and not even whole sectors */
#define BATCH 12

struct ctx {
	struct wslx_loop *loop;
	bool overlay, no_io_uring;
	int fd, base_fd; /* ours; the back end gets duplicates */
	struct wslx_block *b;
	uint8_t *model;
	uint64_t seed;
};

static int take(int fd)
{
	return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static void reopen(struct ctx *c)
{
	struct wslx_err err = { 0 };

	wslx_block_free(c->b);
	c->b = NULL;
	if (c->overlay) {
		struct wslx_overlay_params p = {
			.loop = c->loop, .fd = take(c->fd), .base_fd = take(c->base_fd), .no_io_uring = c->no_io_uring
		};
		struct wslx_overlay_info info;

		if (wslx_overlay_check(c->fd, &info, &err) < 0 || wslx_overlay_open(&p, &c->b, &err) < 0)
			fail_msg("%s", err.msg);
		assert_int_equal(info.virtual_size, SIZE);
	} else {
		struct wslx_raw_params p = { .loop = c->loop, .fd = take(c->fd), .no_io_uring = c->no_io_uring };

		assert_int_equal(wslx_raw_open(&p, &c->b), 0);
	}
	assert_non_null(c->b);
	if (!c->b)
		return;
	assert_int_equal(c->b->size, SIZE);
	if (c->no_io_uring)
		assert_string_equal(c->b->engine, "threads");
}

static void setup(struct ctx *c, bool overlay, bool no_io_uring)
{
	*c = (struct ctx) { .overlay = overlay, .no_io_uring = no_io_uring, .fd = -1, .base_fd = -1, .seed = 1 };
	assert_int_equal(wslx_loop_new(&c->loop), 0);
	c->model = calloc(1, SIZE);
	assert_non_null(c->model);
	if (overlay) {
		c->fd = temp_file(0);
		c->base_fd = temp_file(BASE_SIZE);
		for (uint64_t i = 0; i < BASE_SIZE; i++)
			c->model[i] = (uint8_t)(rnd(&c->seed) | 1);
		assert_int_equal(pwrite(c->base_fd, c->model, BASE_SIZE, 0), BASE_SIZE);
		assert_int_equal(wslx_overlay_create(c->fd, SIZE), 0);
	} else {
		c->fd = temp_file(SIZE);
	}
	reopen(c);
}

static void teardown(struct ctx *c)
{
	wslx_block_free(c->b);
	wslx_loop_free(c->loop);
	wslx_close(&c->fd);
	wslx_close(&c->base_fd);
	free(c->model);
}

static void read_back(struct ctx *c, uint64_t off, uint64_t len, uint8_t *buf)
{
	struct op op;

	op_init(&op, WSLX_BLOCK_READ, off, len);
	op_buffer(&op, buf, 1);
	assert_int_equal(op_run(c->loop, c->b, &op), 0);
}

static void compare_all(struct ctx *c)
{
	cleanup_free uint8_t *buf = malloc(SIZE);

	read_back(c, 0, SIZE, buf);
	for (uint64_t i = 0; i < SIZE; i++)
		if (buf[i] != c->model[i])
			fail_msg("byte %llu is %u, not %u", (unsigned long long)i, buf[i], c->model[i]);
}

/* Lengths of all magnitudes; often around cluster boundaries. */
static void pick_range(struct ctx *c, uint64_t *off, uint64_t *len)
{
	uint64_t n = SIZE / 512;
	uint64_t first, count = 1;

	switch (rnd(&c->seed) % 4) {
	case 0:
		count = 1 + rnd(&c->seed) % 8;
		break;
	case 1:
		count = 1 + rnd(&c->seed) % 200;
		break;
	case 2:
		count = 128 * (1 + rnd(&c->seed) % 4);
		break;
	default:
		count = 1 + rnd(&c->seed) % 1000;
		break;
	}
	first = rnd(&c->seed) % n;
	if (rnd(&c->seed) % 2)
		first &= ~(uint64_t)127;
	if (count > n - first)
		count = n - first;
	*off = first * 512;
	*len = count * 512;
}

static bool overlaps(const struct op *ops, unsigned n, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < n; i++)
		if (off < ops[i].r.off + ops[i].r.len && ops[i].r.off < off + len)
			return true;
	return false;
}

static void check_read(struct ctx *c, const struct op *op, uint64_t off, uint64_t len)
{
	assert_memory_equal(op->buf, c->model + off, len);
}

/* What was discarded may be as before or zeroes, a sector at a time. */
static void settle_discard(struct ctx *c, uint64_t off, uint64_t len)
{
	static const uint8_t none[512];
	cleanup_free uint8_t *buf = malloc(len);

	read_back(c, off, len, buf);
	for (uint64_t i = 0; i < len; i += 512) {
		if (memcmp(buf + i, c->model + off + i, 512) == 0)
			continue;
		assert_memory_equal(buf + i, none, 512);
		memset(c->model + off + i, 0, 512);
	}
}

struct range {
	uint64_t off, len;
};

/* A batch of requests that touch different sectors, but often the same
 * clusters, all in flight at once. */
static void run_batch(struct ctx *c)
{
	struct op ops[BATCH];
	struct range range[BATCH];
	unsigned n = 0;

	for (unsigned tries = 0; tries < BATCH; tries++) {
		static const enum wslx_block_op kinds[] = { WSLX_BLOCK_READ,    WSLX_BLOCK_READ,
							    WSLX_BLOCK_WRITE,   WSLX_BLOCK_WRITE,
							    WSLX_BLOCK_WRITE,   WSLX_BLOCK_FLUSH,
							    WSLX_BLOCK_DISCARD, WSLX_BLOCK_WRITE_ZEROES };
		enum wslx_block_op kind = kinds[rnd(&c->seed) % ARRAY_SIZE(kinds)];
		uint64_t off = 0, len = 0;

		if (kind != WSLX_BLOCK_FLUSH)
			pick_range(c, &off, &len);
		if (overlaps(ops, n, off, len))
			continue;
		op_init(&ops[n], kind, off, len);
		range[n] = (struct range) { off, len };
		ops[n].r.unmap = rnd(&c->seed) % 2;
		if (kind == WSLX_BLOCK_READ || kind == WSLX_BLOCK_WRITE) {
			op_buffer(&ops[n], malloc(len), 1 + (unsigned)(rnd(&c->seed) % 4));
			memset(ops[n].buf, (int)rnd(&c->seed) | 1, len);
		}
		if (kind == WSLX_BLOCK_WRITE)
			memcpy(c->model + off, ops[n].buf, len);
		if (kind == WSLX_BLOCK_WRITE_ZEROES)
			memset(c->model + off, 0, len);
		n++;
	}
	for (unsigned i = 0; i < n; i++)
		wslx_block_submit(c->b, &ops[i].r);
	wslx_block_commit(c->b);
	if (rnd(&c->seed) % 8 == 0) {
		wslx_block_drain(c->b, rnd(&c->seed) % 2);
		wslx_block_resume(c->b);
		for (unsigned i = 0; i < n; i++)
			assert_true(ops[i].done);
	}
	for (unsigned i = 0; i < n; i++) {
		op_wait(c->loop, &ops[i]);
		assert_int_equal(ops[i].result, 0);
		if (ops[i].r.op == WSLX_BLOCK_READ)
			check_read(c, &ops[i], range[i].off, range[i].len);
		if (ops[i].r.op == WSLX_BLOCK_DISCARD)
			settle_discard(c, range[i].off, range[i].len);
		free(ops[i].buf);
	}
}

static void model_test(bool overlay, bool no_io_uring)
{
	struct ctx c;

	setup(&c, overlay, no_io_uring);
	compare_all(&c);
	for (unsigned i = 0; i < 200; i++) {
		run_batch(&c);
		if (i % 40 == 39) {
			compare_all(&c);
			reopen(&c);
			compare_all(&c);
		}
	}
	assert_int_equal(c.b->stats.errors, 0);
	teardown(&c);
}

static void test_raw_uring(void **state)
{
	model_test(false, false);
}

static void test_raw_threads(void **state)
{
	model_test(false, true);
}

static void test_overlay_uring(void **state)
{
	model_test(true, false);
}

static void test_overlay_threads(void **state)
{
	model_test(true, true);
}

/* Requests the device would never send: refused, later, without harm. */
static void test_bad_requests(void **state)
{
	for (int overlay = 0; overlay < 2; overlay++) {
		static const struct {
			enum wslx_block_op op;
			uint64_t off, len;
		} bad[] = {
			{ WSLX_BLOCK_READ, SIZE, 512 },
			{ WSLX_BLOCK_READ, SIZE - 512, 1024 },
			{ WSLX_BLOCK_WRITE, UINT64_MAX, 512 },
			{ WSLX_BLOCK_DISCARD, 512, UINT64_MAX },
			{ WSLX_BLOCK_WRITE_ZEROES, SIZE + 512, 0 },
		};
		uint8_t buf[1024];
		struct ctx c;

		setup(&c, overlay, false);
		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			struct op op;

			op_init(&op, bad[i].op, bad[i].off, bad[i].len);
			op.iov[0] = (struct iovec) { buf, sizeof(buf) };
			op.r.iov = op.iov;
			op.r.n_iov = 1;
			assert_int_equal(op_run(c.loop, c.b, &op), -EINVAL);
		}
		compare_all(&c);
		teardown(&c);
	}
}

static void test_empty_requests(void **state)
{
	for (int overlay = 0; overlay < 2; overlay++) {
		struct ctx c;

		setup(&c, overlay, false);
		for (int kind = WSLX_BLOCK_READ; kind <= WSLX_BLOCK_WRITE_ZEROES; kind++) {
			struct op op;

			op_init(&op, (enum wslx_block_op)kind, SIZE, 0);
			assert_int_equal(op_run(c.loop, c.b, &op), 0);
		}
		teardown(&c);
	}
}

static void test_readonly(void **state)
{
	struct ctx c;
	struct op op;
	uint8_t buf[512] = { 7 };
	char path[64];
	int fd;

	setup(&c, false, false);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", c.fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	wslx_block_free(c.b);
	c.b = NULL;
	assert_int_equal(wslx_raw_open(&(struct wslx_raw_params) { .loop = c.loop, .fd = fd }, &c.b), -EACCES);
	assert_int_equal(wslx_raw_open(&(struct wslx_raw_params) { .loop = c.loop, .fd = fd, .readonly = true }, &c.b),
			 0);
	op_init(&op, WSLX_BLOCK_WRITE, 0, 512);
	op_buffer(&op, buf, 1);
	assert_int_equal(op_run(c.loop, c.b, &op), -EROFS);
	op_init(&op, WSLX_BLOCK_FLUSH, 0, 0);
	assert_int_equal(op_run(c.loop, c.b, &op), 0);
	read_back(&c, 0, 512, buf);
	assert_int_equal(buf[0], 0);
	teardown(&c);
}

static void test_open_refuses(void **state)
{
	struct wslx_block *b;
	struct wslx_loop *loop;
	int pipefd[2], fd = temp_file(511);

	assert_int_equal(wslx_loop_new(&loop), 0);
	assert_int_equal(pipe(pipefd), 0);
	assert_int_equal(
		wslx_raw_open(&(struct wslx_raw_params) { .loop = loop, .fd = pipefd[0], .readonly = true }, &b),
		-EINVAL);
	assert_int_equal(wslx_raw_open(&(struct wslx_raw_params) { .loop = loop, .fd = fd }, &b), -EINVAL);
	assert_int_equal(wslx_raw_open(&(struct wslx_raw_params) { .loop = loop, .fd = fd, .depth = 100000 }, &b),
			 -EINVAL);
	close(pipefd[0]);
	close(pipefd[1]);
	close(fd);
	wslx_loop_free(loop);
}

/* tmpfs cannot zero a range: it is written instead. */
static void test_zero_by_writing(void **state)
{
	struct wslx_loop *loop;
	struct wslx_block *b;
	uint8_t *buf = malloc(WSLX_MIB);
	struct op op;

	assert_int_equal(wslx_loop_new(&loop), 0);
	for (int unmap = 0; unmap < 2; unmap++) {
		int fd = memfd_create("test", MFD_CLOEXEC);
		struct wslx_raw_params p = { .loop = loop, .fd = fd };

		assert_int_equal(ftruncate(fd, WSLX_MIB), 0);
		memset(buf, 0xaa, WSLX_MIB);
		assert_int_equal(pwrite(fd, buf, WSLX_MIB, 0), WSLX_MIB);
		assert_int_equal(wslx_raw_open(&p, &b), 0);
		op_init(&op, WSLX_BLOCK_WRITE_ZEROES, 512, WSLX_MIB - 1024);
		op.r.unmap = unmap;
		assert_int_equal(op_run(loop, b, &op), 0);
		assert_int_equal(pread(fd, buf, WSLX_MIB, 0), WSLX_MIB);
		for (unsigned i = 0; i < WSLX_MIB; i++)
			assert_int_equal(buf[i], i < 512 || i >= WSLX_MIB - 512 ? 0xaa : 0);
		wslx_block_free(b);
	}
	free(buf);
	wslx_loop_free(loop);
}

/* A throw-away raw disk: a flush is done at once. */
static void test_no_sync(void **state)
{
	for (int no_sync = 0; no_sync < 2; no_sync++) {
		struct wslx_raw_params p = { .fd = temp_file(SIZE), .no_sync = no_sync };
		struct wslx_block *b;
		struct op op;

		assert_int_equal(wslx_loop_new(&p.loop), 0);
		assert_int_equal(wslx_raw_open(&p, &b), 0);
		op_init(&op, WSLX_BLOCK_FLUSH, 0, 0);
		assert_int_equal(op_run(p.loop, b, &op), 0);
		assert_int_equal(b->stats.flushes, 1);
		assert_int_equal(b->stats.syncs, no_sync ? 0 : 1);
		wslx_block_free(b);
		wslx_loop_free(p.loop);
	}
}

/* More requests than slots, all at once. */
static void test_more_than_depth(void **state)
{
	enum { N = 500 };
	static struct op ops[N];
	static uint8_t bufs[N][512];

	for (int overlay = 0; overlay < 2; overlay++) {
		struct ctx c;

		setup(&c, overlay, false);
		for (unsigned i = 0; i < N; i++) {
			op_init(&ops[i], WSLX_BLOCK_WRITE, 512 * ((uint64_t)i * 7 % (SIZE / 512)), 512);
			memset(bufs[i], (int)(i % 255) + 1, 512);
			op_buffer(&ops[i], bufs[i], 1);
			memcpy(c.model + ops[i].r.off, bufs[i], 512);
			wslx_block_submit(c.b, &ops[i].r);
		}
		wslx_block_commit(c.b);
		for (unsigned i = 0; i < N; i++) {
			op_wait(c.loop, &ops[i]);
			assert_int_equal(ops[i].result, 0);
		}
		compare_all(&c);
		teardown(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_raw_uring),       cmocka_unit_test(test_raw_threads),
		cmocka_unit_test(test_overlay_uring),   cmocka_unit_test(test_overlay_threads),
		cmocka_unit_test(test_bad_requests),    cmocka_unit_test(test_empty_requests),
		cmocka_unit_test(test_readonly),        cmocka_unit_test(test_open_refuses),
		cmocka_unit_test(test_zero_by_writing), cmocka_unit_test(test_more_than_depth),
		cmocka_unit_test(test_no_sync),
	};

	return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
