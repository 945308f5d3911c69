/* virtio-blk: large requests are carried out in slices, and little is under way at a time. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "dev/backend/overlay.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/blk_internal.h"
#include "fake_driver.h"
#include "support.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define NO_STATUS 0xee
#define DATA_LEN (24 * MIB)
#define MAX_PENDING 256

/* A back end that does nothing until it is told to. */
struct fake_disk {
	struct wslx_block b;
	struct wslx_block_req *pending[MAX_PENDING];
	unsigned n;
	unsigned n_submitted;
};

struct ctx {
	struct wslx_loop *loop;
	struct wslx_vdev *d;
	struct fake_driver f;
	struct fake_disk *disk;
	uint64_t hdr, data, status;
};

static void fake_submit(struct wslx_block *b, struct wslx_block_req *r)
{
	struct fake_disk *disk = CONTAINER_OF(b, struct fake_disk, b);

	assert_true(disk->n < MAX_PENDING);
	disk->pending[disk->n++] = r;
	disk->n_submitted++;
}

/* Ends the oldest request. */
static void end_one(struct fake_disk *disk, int result)
{
	struct wslx_block_req *r = disk->pending[0];

	assert_true(disk->n > 0);
	memmove(disk->pending, disk->pending + 1, --disk->n * sizeof(disk->pending[0]));
	r->done(r, result);
	disk->b.batch_end(disk->b.batch_opaque);
}

static void fake_commit(struct wslx_block *b)
{
}

static void fake_drain(struct wslx_block *b, bool cancel)
{
	struct fake_disk *disk = CONTAINER_OF(b, struct fake_disk, b);

	while (disk->n)
		end_one(disk, 0);
}

static void fake_resume(struct wslx_block *b)
{
}

static void fake_free(struct wslx_block *b)
{
	fake_drain(b, true);
	free(CONTAINER_OF(b, struct fake_disk, b));
}

static const struct wslx_block_ops fake_ops = {
	.submit = fake_submit,
	.commit = fake_commit,
	.drain = fake_drain,
	.resume = fake_resume,
	.free = fake_free,
};

static void start(struct ctx *c)
{
	fake_driver_negotiate(&c->f, ~0ull);
	fake_driver_queue(&c->f, 0, 256);
	fake_driver_start(&c->f);
}

static void make(struct ctx *c, struct wslx_block *backend)
{
	struct wslx_blk_params bp = { .loop = c->loop, .backend = backend };

	assert_int_equal(wslx_blk_new(&bp, &c->d), 0);
	fake_driver_init(&c->f, c->d, 64 * MIB);
	c->hdr = fake_driver_alloc(&c->f, 16, 16);
	c->status = fake_driver_alloc(&c->f, 1, 1);
	c->data = fake_driver_alloc(&c->f, DATA_LEN, 4096);
	start(c);
}

static int setup(void **state)
{
	static struct ctx c;

	memset(&c, 0, sizeof(c));
	assert_int_equal(wslx_loop_new(&c.loop), 0);
	c.disk = calloc(1, sizeof(*c.disk));
	assert_non_null(c.disk);
	c.disk->b = (struct wslx_block) { .ops = &fake_ops, .size = 64 * GIB, .granularity = 65536 };
	make(&c, &c.disk->b);
	*state = &c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	fake_driver_free(&c->f);
	c->d->ops->free(c->d);
	wslx_loop_free(c->loop);
	return 0;
}

static void pump(struct ctx *c)
{
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(wslx_loop_once(c->loop, 0), 0);
}

static uint8_t status(struct ctx *c)
{
	return *(uint8_t *)fake_driver_ptr(&c->f, c->status, 1);
}

/* Adds a request with len bytes of data, in buffers that end at odd places. */
static void add(struct ctx *c, uint32_t type, uint64_t sector, uint64_t len)
{
	uint8_t *h = fake_driver_ptr(&c->f, c->hdr, 16);
	struct fake_buf bufs[7] = { { c->hdr, 16, false } };
	uint64_t at = 0;
	unsigned n = 1;

	wslx_put_le32(h, type);
	wslx_put_le64(h + 8, sector);
	while (at < len) {
		uint64_t part = n == 5 ? len - at : WSLX_MIN(len - at, len / 5 + 100 * n);

		bufs[n++] = (struct fake_buf) { c->data + at, (uint32_t)part, type == BLK_T_IN };
		at += part;
	}
	bufs[n++] = (struct fake_buf) { c->status, 1, true };
	*(uint8_t *)fake_driver_ptr(&c->f, c->status, 1) = NO_STATUS;
	assert_true(fake_driver_add(&c->f, 0, bufs, n, true) >= 0);
	fake_driver_kick(&c->f, 0);
}

static void add_range(struct ctx *c, uint32_t type, uint64_t sector, uint64_t n_sectors)
{
	uint8_t *p = fake_driver_ptr(&c->f, c->data, 16);

	wslx_put_le64(p, sector);
	wslx_put_le32(p + 8, (uint32_t)n_sectors);
	wslx_put_le32(p + 12, 0);
	add(c, type, 0, 16);
}

/* The one request under way is the next slice of a request for [*off, end),
 * whose data, if it has any, begins at data. */
static void expect_slice(struct ctx *c, uint64_t *off, uint64_t end, uint64_t max, const uint8_t *data, uint64_t start)
{
	const struct wslx_block_req *r;
	uint64_t len = 0;

	assert_int_equal(c->disk->n, 1);
	r = c->disk->pending[0];
	assert_int_equal(r->off, *off);
	assert_true(r->len > 0 && r->len <= max && r->len <= end - *off);
	if (r->off + r->len < end)
		assert_int_equal((r->off + r->len) % MIB, 0);
	for (unsigned i = 0; i < r->n_iov; i++) {
		if (i == 0 && data)
			assert_ptr_equal(r->iov[i].iov_base, data + (*off - start));
		len += r->iov[i].iov_len;
	}
	if (data)
		assert_int_equal(len, r->len);
	*off += r->len;
}

static void test_data(void **state)
{
	static const uint32_t types[] = { BLK_T_IN, BLK_T_OUT };
	struct ctx *c = *state;
	uint16_t head;
	uint32_t len;

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		uint64_t begin = 3 * 512, off = begin, end = begin + DATA_LEN;
		unsigned n = 0;

		add(c, types[i], 3, DATA_LEN);
		while (off < end) {
			assert_int_equal(status(c), NO_STATUS);
			expect_slice(c, &off, end, BLK_SLICE, fake_driver_ptr(&c->f, c->data, DATA_LEN), begin);
			end_one(c->disk, 0);
			n++;
		}
		assert_int_equal(n, 7);
		assert_int_equal(c->disk->n, 0);
		assert_int_equal(status(c), BLK_S_OK);
		assert_true(fake_driver_used(&c->f, 0, &head, &len));
		assert_int_equal(len, types[i] == BLK_T_IN ? DATA_LEN + 1 : 1);
	}
	/* What Linux sends goes as it is, wherever it begins. */
	add(c, BLK_T_OUT, 3, 4 * MIB);
	assert_int_equal(c->disk->n, 1);
	assert_int_equal(c->disk->pending[0]->len, 4 * MIB);
}

static void test_ranges(void **state)
{
	struct ctx *c = *state;

	for (unsigned zeroes = 0; zeroes < 2; zeroes++) {
		uint64_t off = 5 * 512, end = off + 2 * GIB;

		add_range(c, zeroes ? BLK_T_WRITE_ZEROES : BLK_T_DISCARD, 5, 2 * GIB / 512);
		while (off < end) {
			assert_int_equal(status(c), NO_STATUS);
			expect_slice(c, &off, end, zeroes ? BLK_SLICE_ZEROES : BLK_SLICE_DISCARD, NULL, 0);
			assert_int_equal(c->disk->pending[0]->op,
					 zeroes ? WSLX_BLOCK_WRITE_ZEROES : WSLX_BLOCK_DISCARD);
			end_one(c->disk, 0);
		}
		assert_int_equal(status(c), BLK_S_OK);
		assert_int_equal(c->disk->n, 0);
	}
}

/* An error ends the request at once. */
static void test_error(void **state)
{
	struct ctx *c = *state;

	add(c, BLK_T_OUT, 0, DATA_LEN);
	end_one(c->disk, 0);
	end_one(c->disk, -5);
	assert_int_equal(status(c), BLK_S_IOERR);
	assert_int_equal(c->disk->n, 0);
}

/* A pause waits for one slice; afterwards the request is done from the start. */
static void test_pause(void **state)
{
	struct ctx *c = *state;
	uint64_t off = 0;

	for (unsigned range = 0; range < 2; range++) {
		if (range)
			add_range(c, BLK_T_WRITE_ZEROES, 0, 2 * GIB / 512);
		else
			add(c, BLK_T_OUT, 0, DATA_LEN);
		end_one(c->disk, 0);
		end_one(c->disk, 0);
		c->disk->n_submitted = 0;
		c->d->ops->quiesce(c->d);
		assert_int_equal(c->disk->n_submitted, 0);
		assert_int_equal(status(c), NO_STATUS);
		c->d->ops->resume(c->d);
		off = 0;
		expect_slice(c, &off, range ? 2 * GIB : DATA_LEN, range ? BLK_SLICE_ZEROES : BLK_SLICE,
			     range ? NULL : fake_driver_ptr(&c->f, c->data, DATA_LEN), 0);
		while (c->disk->n)
			end_one(c->disk, 0);
		assert_int_equal(status(c), BLK_S_OK);
	}
}

static void test_reset(void **state)
{
	struct ctx *c = *state;

	add(c, BLK_T_IN, 0, DATA_LEN);
	end_one(c->disk, 0);
	c->disk->n_submitted = 0;
	fake_driver_stop(&c->f);
	assert_int_equal(c->disk->n_submitted, 0);
	assert_int_equal(status(c), NO_STATUS);
	start(c);
	assert_int_equal(c->disk->n, 0);
	add(c, BLK_T_IN, 0, 512);
	end_one(c->disk, 0);
	assert_int_equal(status(c), BLK_S_OK);
}

static uint64_t pending_bytes(const struct ctx *c)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < c->disk->n; i++)
		sum += c->disk->pending[i]->len;
	return sum;
}

/* Many large requests: some are under way, the others wait, all are served. */
static void test_in_flight(void **state)
{
	struct ctx *c = *state;
	unsigned done = 0;
	uint16_t head;
	uint32_t len;

	for (unsigned i = 0; i < 60; i++)
		add(c, BLK_T_OUT, 0, 4 * MIB);
	assert_int_equal(pending_bytes(c), BLK_MAX_IN_FLIGHT);
	/* The loop does not spin meanwhile. */
	pump(c);
	assert_int_equal(pending_bytes(c), BLK_MAX_IN_FLIGHT);
	while (c->disk->n) {
		end_one(c->disk, 0);
		pump(c);
		assert_true(pending_bytes(c) <= BLK_MAX_IN_FLIGHT);
		while (fake_driver_used(&c->f, 0, &head, &len))
			done++;
		assert_true(c->disk->n == 16 || c->disk->n == 60 - done);
	}
	assert_int_equal(done, 60);
}

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i + 8 <= n; i += 8)
		wslx_put_le64(p + i, rnd(&seed));
}

/* Through every real back end: what was written in slices is read in slices. */
static void round_trip(struct wslx_loop *loop, struct wslx_block *backend)
{
	struct ctx c = { .loop = loop };
	uint8_t *want = malloc(DATA_LEN), *data;
	void *state = &c;
	uint16_t head;
	uint32_t len;

	assert_non_null(want);
	make(&c, backend);
	data = fake_driver_ptr(&c.f, c.data, DATA_LEN);
	fill(want, DATA_LEN, 1);
	memcpy(data, want, DATA_LEN);
	add(&c, BLK_T_OUT, 7, DATA_LEN);
	assert_true(fake_driver_wait(&c.f, 0, &head, &len));
	assert_int_equal(status(&c), BLK_S_OK);
	memset(data, 0, DATA_LEN);
	add(&c, BLK_T_IN, 7, DATA_LEN);
	assert_true(fake_driver_wait(&c.f, 0, &head, &len));
	assert_int_equal(status(&c), BLK_S_OK);
	assert_memory_equal(data, want, DATA_LEN);
	/* A pause in the middle of it loses nothing. */
	add(&c, BLK_T_OUT, 8, DATA_LEN);
	c.d->ops->quiesce(c.d);
	c.d->ops->resume(c.d);
	assert_true(fake_driver_wait(&c.f, 0, &head, &len));
	add(&c, BLK_T_IN, 8, DATA_LEN);
	assert_true(fake_driver_wait(&c.f, 0, &head, &len));
	assert_memory_equal(data, want, DATA_LEN);
	/* Zeroes in the middle, over more than a slice. */
	add_range(&c, BLK_T_WRITE_ZEROES, 9, 20 * MIB / 512);
	assert_true(fake_driver_wait(&c.f, 0, &head, &len));
	assert_int_equal(status(&c), BLK_S_OK);
	memset(want + 512, 0, 20 * MIB);
	add(&c, BLK_T_IN, 8, DATA_LEN);
	assert_true(fake_driver_wait(&c.f, 0, &head, &len));
	assert_memory_equal(data, want, DATA_LEN);
	teardown(&state);
	free(want);
}

static void test_raw(void **state)
{
	for (int threads = 0; threads < 2; threads++) {
		struct wslx_raw_params p = { .no_io_uring = threads };
		struct wslx_block *b;

		assert_int_equal(wslx_loop_new(&p.loop), 0);
		p.fd = temp_file(32 * MIB);
		assert_int_equal(wslx_raw_open(&p, &b), 0);
		round_trip(p.loop, b);
	}
}

static void test_overlay(void **state)
{
	for (int threads = 0; threads < 2; threads++) {
		struct wslx_overlay_params p = { .no_io_uring = threads };
		struct wslx_err err = { 0 };
		struct wslx_block *b;

		assert_int_equal(wslx_loop_new(&p.loop), 0);
		p.fd = temp_file(0);
		p.base_fd = temp_file(10 * MIB + 512);
		assert_int_equal(wslx_overlay_create(p.fd, 32 * MIB), 0);
		assert_int_equal(wslx_overlay_open(&p, &b, &err), 0);
		round_trip(p.loop, b);
	}
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_data),
		T(test_ranges),
		T(test_error),
		T(test_pause),
		T(test_reset),
		T(test_in_flight),
		cmocka_unit_test(test_raw),
		cmocka_unit_test(test_overlay),
	};

	return cmocka_run_group_tests_name("blk_slices", tests, NULL, NULL);
}
