/* virtio-blk through a driver: every request type, hostile ones, reset and pause. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "dev/backend/overlay_internal.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/blk_internal.h"
#include "fake_driver.h"
#include "support.h"

#define SECTORS 4096u
#define NO_STATUS 0xee

struct ctx {
	struct wslx_loop *loop;
	struct wslx_vdev *d;
	struct fake_driver f;
	int fd;
	uint64_t hdr, data, status; /* guest addresses */
	uint32_t used_len;
};

static void open_disk(struct ctx *c, bool readonly, bool no_io_uring, unsigned queues)
{
	struct wslx_raw_params rp = { .loop = NULL, .readonly = readonly, .no_io_uring = no_io_uring };
	struct wslx_blk_params bp = { .name = "blk0", .serial = "root-disk", .queues = queues };

	memset(c, 0, sizeof(*c));
	assert_int_equal(wslx_loop_new(&c->loop), 0);
	c->fd = temp_file((uint64_t)SECTORS * 512);
	rp.loop = bp.loop = c->loop;
	rp.fd = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(wslx_raw_open(&rp, &bp.backend), 0);
	assert_int_equal(wslx_blk_new(&bp, &c->d), 0);
	fake_driver_init(&c->f, c->d, 16u << 20);
}

static void start(struct ctx *c, uint64_t features)
{
	fake_driver_negotiate(&c->f, features);
	for (unsigned q = 0; q < c->d->n_queues; q++)
		fake_driver_queue(&c->f, q, 64);
	c->hdr = fake_driver_alloc(&c->f, 16, 16);
	c->data = fake_driver_alloc(&c->f, 1u << 20, 4096);
	c->status = fake_driver_alloc(&c->f, 1, 1);
	fake_driver_start(&c->f);
}

static void close_disk(struct ctx *c)
{
	fake_driver_free(&c->f);
	c->d->ops->free(c->d);
	wslx_loop_free(c->loop);
	close(c->fd);
}

static int setup(void **state)
{
	static struct ctx c;

	open_disk(&c, false, false, 1);
	start(&c, ~0ull);
	*state = &c;
	return 0;
}

static int setup_threads(void **state)
{
	static struct ctx c;

	open_disk(&c, false, true, 4);
	start(&c, ~0ull);
	*state = &c;
	return 0;
}

static int setup_readonly(void **state)
{
	static struct ctx c;

	open_disk(&c, true, false, 1);
	start(&c, ~0ull);
	*state = &c;
	return 0;
}

static int teardown(void **state)
{
	close_disk(*state);
	return 0;
}

static uint8_t *data(struct ctx *c)
{
	return fake_driver_ptr(&c->f, c->data, 1u << 20);
}

static void put_header(struct ctx *c, uint32_t type, uint64_t sector)
{
	uint8_t *h = fake_driver_ptr(&c->f, c->hdr, 16);

	wslx_put_le32(h, type);
	wslx_put_le32(h + 4, 0);
	wslx_put_le64(h + 8, sector);
	*(uint8_t *)fake_driver_ptr(&c->f, c->status, 1) = NO_STATUS;
}

static uint8_t finish(struct ctx *c, unsigned q)
{
	uint16_t head;

	fake_driver_kick(&c->f, q);
	assert_true(fake_driver_wait(&c->f, q, &head, &c->used_len));
	return *(uint8_t *)fake_driver_ptr(&c->f, c->status, 1);
}

/* One request with its data (len bytes at c->data) in one buffer; its status. */
static uint8_t request_on(struct ctx *c, unsigned q, uint32_t type, uint64_t sector, uint32_t len, bool write)
{
	struct fake_buf bufs[] = { { c->hdr, 16, false }, { c->data, len, write }, { c->status, 1, true } };

	put_header(c, type, sector);
	if (!len)
		bufs[1] = bufs[2];
	assert_true(fake_driver_add(&c->f, q, bufs, len ? 3 : 2, false) >= 0);
	return finish(c, q);
}

static uint8_t request(struct ctx *c, uint32_t type, uint64_t sector, uint32_t len, bool write)
{
	return request_on(c, 0, type, sector, len, write);
}

static void test_read_write(void **state)
{
	struct ctx *c = *state;
	uint8_t disk[4096];

	for (unsigned q = 0; q < c->d->n_queues; q++) {
		memset(data(c), 0xa0 + (int)q, 4096);
		assert_int_equal(request_on(c, q, BLK_T_OUT, 8 * q, 4096, false), BLK_S_OK);
		assert_int_equal(c->used_len, 1);
		assert_int_equal(request_on(c, q, BLK_T_FLUSH, 0, 0, false), BLK_S_OK);
		assert_int_equal(pread(c->fd, disk, 4096, 4096 * q), 4096);
		assert_int_equal(disk[0], 0xa0 + q);
		assert_int_equal(disk[4095], 0xa0 + q);
		memset(data(c), 0, 4096);
		assert_int_equal(request_on(c, q, BLK_T_IN, 8 * q, 4096, true), BLK_S_OK);
		assert_int_equal(c->used_len, 4097);
		assert_memory_equal(data(c), disk, 4096);
		assert_true(c->f.q[q].interrupts > 0);
	}
	/* The last sector, and nothing after it. */
	assert_int_equal(request(c, BLK_T_IN, SECTORS - 1, 512, true), BLK_S_OK);
	assert_int_equal(request(c, BLK_T_IN, SECTORS, 512, true), BLK_S_IOERR);
	assert_int_equal(c->used_len, 0);
	assert_int_equal(request(c, BLK_T_IN, SECTORS - 1, 1024, true), BLK_S_IOERR);
	assert_int_equal(request(c, BLK_T_OUT, UINT64_MAX, 512, false), BLK_S_IOERR);
	assert_int_equal(request(c, BLK_T_OUT, UINT64_MAX / 512 + 1, 512, false), BLK_S_IOERR);
	assert_int_equal(request(c, BLK_T_IN, 0, 511, true), BLK_S_IOERR);
	assert_int_equal(request(c, BLK_T_OUT, 0, 513, false), BLK_S_IOERR);
	assert_int_equal(request(c, BLK_T_IN, 0, 0, true), BLK_S_OK);
	assert_int_equal(c->f.needs_reset, 0);
}

/* The same request cut at odd places: header and status anywhere. */
static void test_any_layout(void **state)
{
	struct ctx *c = *state;

	for (unsigned indirect = 0; indirect < 2; indirect++) {
		struct fake_buf out[] = { { c->hdr, 5, false },
					  { c->hdr + 5, 11, false },
					  { c->data, 100, false },
					  { c->data + 100, 924, false },
					  { c->status, 1, true } };
		struct fake_buf in[] = { { c->hdr, 16, false }, { c->data + 8192, 1025, true } };
		struct fake_buf mixed[] = { { c->data + 16384, 16 + 512, false }, { c->status, 1, true } };

		memset(data(c), 0x5a, 1024);
		put_header(c, BLK_T_OUT, 3);
		assert_true(fake_driver_add(&c->f, 0, out, 5, indirect) >= 0);
		assert_int_equal(finish(c, 0), BLK_S_OK);

		/* Status in the data's own buffer. */
		put_header(c, BLK_T_IN, 3);
		data(c)[8192 + 1024] = NO_STATUS;
		assert_true(fake_driver_add(&c->f, 0, in, 2, indirect) >= 0);
		finish(c, 0);
		assert_int_equal(data(c)[8192 + 1024], BLK_S_OK);
		assert_memory_equal(data(c) + 8192, data(c), 1024);

		/* Header and data in one buffer. */
		memset(data(c) + 16384, 0, 16);
		wslx_put_le32(data(c) + 16384, BLK_T_OUT);
		memset(data(c) + 16400, 0x77, 512);
		put_header(c, 0, 0);
		assert_true(fake_driver_add(&c->f, 0, mixed, 2, indirect) >= 0);
		assert_int_equal(finish(c, 0), BLK_S_OK);
		assert_int_equal(pread(c->fd, data(c), 512, 0), 512);
		assert_int_equal(data(c)[0], 0x77);
		assert_int_equal(data(c)[511], 0x77);
	}
}

static void test_get_id(void **state)
{
	struct ctx *c = *state;

	memset(data(c), 0xff, 64);
	assert_int_equal(request(c, BLK_T_GET_ID, 0, 20, true), BLK_S_OK);
	assert_int_equal(c->used_len, 21);
	assert_memory_equal(data(c), "root-disk\0\0\0\0\0\0\0\0\0\0\0", 20);
	assert_int_equal(data(c)[20], 0xff);
	memset(data(c), 0xff, 64);
	assert_int_equal(request(c, BLK_T_GET_ID, 0, 4, true), BLK_S_OK);
	assert_memory_equal(data(c), "root\xff", 5);
}

static void put_range(struct ctx *c, unsigned i, uint64_t sector, uint32_t n, uint32_t flags)
{
	uint8_t *p = data(c) + 16 * i;

	wslx_put_le64(p, sector);
	wslx_put_le32(p + 8, n);
	wslx_put_le32(p + 12, flags);
}

static bool all(const uint8_t *p, size_t n, uint8_t v)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != v)
			return false;
	return true;
}

static void test_ranges(void **state)
{
	struct ctx *c = *state;
	static uint8_t disk[256 * 512];

	memset(disk, 0x33, sizeof(disk));
	assert_int_equal(pwrite(c->fd, disk, sizeof(disk), 0), sizeof(disk));
	put_range(c, 0, 0, 8, 0);
	put_range(c, 1, 16, 8, 1);
	put_range(c, 2, 33, 3, 0);
	assert_int_equal(request(c, BLK_T_WRITE_ZEROES, 0, 48, false), BLK_S_OK);
	assert_int_equal(pread(c->fd, disk, sizeof(disk), 0), sizeof(disk));
	assert_true(all(disk, 4096, 0) && all(disk + 4096, 4096, 0x33) && all(disk + 8192, 4096, 0));
	assert_true(all(disk + 12288, 4096 + 512, 0x33) && all(disk + 33 * 512, 3 * 512, 0));
	put_range(c, 0, 64, 64, 0);
	assert_int_equal(request(c, BLK_T_DISCARD, 0, 16, false), BLK_S_OK);

	/* Bad ones: nothing happens, not even in ranges before the bad one. */
	put_range(c, 0, 40, 8, 0);
	put_range(c, 1, SECTORS - 1, 2, 0);
	assert_int_equal(request(c, BLK_T_WRITE_ZEROES, 0, 32, false), BLK_S_IOERR);
	assert_int_equal(pread(c->fd, disk, 512, 40 * 512), 512);
	assert_true(all(disk, 512, 0x33));
	put_range(c, 0, UINT64_MAX, 8, 0);
	assert_int_equal(request(c, BLK_T_DISCARD, 0, 16, false), BLK_S_IOERR);
	put_range(c, 0, 0, UINT32_MAX, 0);
	assert_int_equal(request(c, BLK_T_DISCARD, 0, 16, false), BLK_S_IOERR);
	put_range(c, 0, 0, 8, 1);
	assert_int_equal(request(c, BLK_T_DISCARD, 0, 16, false), BLK_S_UNSUPP);
	put_range(c, 0, 0, 8, 2);
	assert_int_equal(request(c, BLK_T_WRITE_ZEROES, 0, 16, false), BLK_S_UNSUPP);
	assert_int_equal(request(c, BLK_T_WRITE_ZEROES, 0, 15, false), BLK_S_IOERR);
	assert_int_equal(request(c, BLK_T_WRITE_ZEROES, 0, 0, false), BLK_S_IOERR);
	assert_int_equal(request(c, BLK_T_WRITE_ZEROES, 0, 16 * 33, false), BLK_S_IOERR);
	put_range(c, 0, 0, 0, 0);
	assert_int_equal(request(c, BLK_T_WRITE_ZEROES, 0, 16, false), BLK_S_OK);
	assert_int_equal(request(c, 99, 0, 16, false), BLK_S_UNSUPP);
	assert_int_equal(c->f.needs_reset, 0);
}

static void test_readonly(void **state)
{
	struct ctx *c = *state;

	assert_true(c->d->acked & BLK_F_RO);
	assert_false(c->d->acked & BLK_F_DISCARD);
	assert_int_equal(request(c, BLK_T_OUT, 0, 512, false), BLK_S_IOERR);
	put_range(c, 0, 0, 8, 0);
	assert_int_equal(request(c, BLK_T_DISCARD, 0, 16, false), BLK_S_IOERR);
	assert_int_equal(request(c, BLK_T_FLUSH, 0, 0, false), BLK_S_OK);
	assert_int_equal(request(c, BLK_T_IN, 0, 512, true), BLK_S_OK);
}

static void test_config(void **state)
{
	struct ctx *c = *state;
	uint8_t wce = 0;

	assert_int_equal(fake_driver_config(&c->f, 0, 8), SECTORS);
	assert_int_equal(fake_driver_config(&c->f, 12, 4), 254);
	assert_int_equal(fake_driver_config(&c->f, 20, 4), 512);
	assert_int_equal(fake_driver_config(&c->f, 34, 2), 1);
	assert_int_equal(fake_driver_config(&c->f, 32, 1), 1);
	c->d->ops->config_write(c->d, 32, &wce, 1);
	assert_int_equal(fake_driver_config(&c->f, 32, 1), 0);
	c->d->ops->config_write(c->d, 0, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
	assert_int_equal(fake_driver_config(&c->f, 0, 8), SECTORS);
}

static uint64_t stat_of(struct wslx_vdev *d, const char *name)
{
	struct wslx_stat st[16];
	size_t n = d->ops->stats(d, st, ARRAY_SIZE(st));

	for (size_t i = 0; i < n; i++)
		if (strcmp(st[i].name, name) == 0)
			return st[i].value;
	fail_msg("no statistic %s", name);
	return 0;
}

/* In write-through mode each write is followed by a flush of its own. */
static void test_write_through(void **state)
{
	struct ctx *c = *state;
	uint8_t wce = 0;

	assert_int_equal(request(c, BLK_T_OUT, 0, 512, false), BLK_S_OK);
	assert_int_equal(stat_of(c->d, "flushes"), 0);
	c->d->ops->config_write(c->d, 32, &wce, 1);
	assert_int_equal(request(c, BLK_T_OUT, 0, 512, false), BLK_S_OK);
	assert_int_equal(stat_of(c->d, "flushes"), 1);
	assert_int_equal(request(c, BLK_T_IN, 0, 512, true), BLK_S_OK);
	assert_int_equal(stat_of(c->d, "flushes"), 1);

	/* A driver that knows neither FLUSH nor CONFIG_WCE gets it as well. */
	fake_driver_stop(&c->f);
	start(c, 0);
	assert_int_equal(request(c, BLK_T_OUT, 0, 512, false), BLK_S_OK);
	assert_int_equal(stat_of(c->d, "flushes"), 2);
	fake_driver_stop(&c->f);
	start(c, BLK_F_FLUSH);
	assert_int_equal(request(c, BLK_T_OUT, 0, 512, false), BLK_S_OK);
	assert_int_equal(stat_of(c->d, "flushes"), 2);
}

/* Chains without room for an answer: the device asks for a reset, serves
 * nothing more, and works again after it. */
static void test_broken(void **state)
{
	struct ctx *c = *state;
	struct fake_buf bad[][3] = {
		{ { c->hdr, 16, false } },                             /* no status */
		{ { c->hdr, 15, false }, { c->status, 1, true } },     /* header too short */
		{ { c->status, 1, true } },                            /* no header */
		{ { 1ull << 40, 16, false }, { c->status, 1, true } }, /* outside memory */
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		unsigned n = bad[i][1].len ? 2 : 1;
		uint16_t head;
		uint32_t len;

		c->f.needs_reset = 0;
		put_header(c, BLK_T_IN, 0);
		assert_true(fake_driver_add(&c->f, 0, bad[i], n, false) >= 0);
		fake_driver_kick(&c->f, 0);
		assert_int_equal(c->f.needs_reset, 1);
		assert_true(c->d->broken);
		fake_driver_kick(&c->f, 0);
		assert_int_equal(c->f.needs_reset, 1);
		assert_false(fake_driver_used(&c->f, 0, &head, &len));
		fake_driver_stop(&c->f);
		start(c, ~0ull);
		assert_int_equal(request(c, BLK_T_IN, 0, 512, true), BLK_S_OK);
	}
}

static void add_reads(struct ctx *c, unsigned q, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct fake_buf bufs[] = { { c->hdr, 16, false },
					   { c->data + 512 * i, 512, true },
					   { c->status, 1, true } };

		assert_true(fake_driver_add(&c->f, q, bufs, 3, true) >= 0);
	}
}

/* A reset with requests in flight: when it returns they have ended, and the
 * driver hears nothing of them. */
static void test_reset_in_flight(void **state)
{
	struct ctx *c = *state;
	struct fake_queue before;

	for (unsigned i = 0; i < 20; i++) {
		put_header(c, BLK_T_IN, 0);
		add_reads(c, 0, 60);
		fake_driver_kick(&c->f, 0);
		before = c->f.q[0];
		fake_driver_stop(&c->f);
		for (int k = 0; k < 3; k++)
			wslx_loop_once(c->loop, 0);
		assert_int_equal(c->f.q[0].interrupts, before.interrupts);
		c->f.next = 4096;
		start(c, ~0ull);
	}
	assert_int_equal(request(c, BLK_T_IN, 0, 512, true), BLK_S_OK);
}

static void test_quiesce(void **state)
{
	struct ctx *c = *state;
	uint16_t head;
	uint32_t len;
	unsigned n = 0;

	put_header(c, BLK_T_IN, 0);
	add_reads(c, 0, 20);
	fake_driver_kick(&c->f, 0);
	c->d->ops->quiesce(c->d);
	while (fake_driver_used(&c->f, 0, &head, &len))
		n++;
	assert_int_equal(n, 20);
	add_reads(c, 0, 20);
	fake_driver_kick(&c->f, 0);
	for (int k = 0; k < 3; k++)
		wslx_loop_once(c->loop, 0);
	assert_false(fake_driver_used(&c->f, 0, &head, &len));
	c->d->ops->resume(c->d);
	for (n = 0; n < 20; n++)
		assert_true(fake_driver_wait(&c->f, 0, &head, &len));
}

static bool disk_full;

static int full_fault(const struct wslx_aio_req *r)
{
	return disk_full && r->op == WSLX_AIO_WRITE && r->file == 0 ? -ENOSPC : 0;
}

/* The host's disk is full: requests wait.  A pause lets go of guest memory
 * though, and afterwards they are done from the start; a reset drops them. */
static void test_pause_while_full(void **state)
{
	struct wslx_overlay_params op = { .base_fd = -1 };
	struct wslx_blk_params bp = { 0 };
	struct ctx c = { 0 };
	struct wslx_err err = { 0 };

	recorder = (struct recorder) { .fault = full_fault };
	assert_int_equal(wslx_loop_new(&c.loop), 0);
	c.fd = temp_file(0);
	assert_int_equal(wslx_overlay_create(c.fd, (uint64_t)SECTORS * 512), 0);
	op.loop = bp.loop = c.loop;
	op.fd = fcntl(c.fd, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(wslx_ov_open(&op, record_aio_new, &bp.backend, &err), 0);
	assert_int_equal(wslx_blk_new(&bp, &c.d), 0);
	fake_driver_init(&c.f, c.d, 16u << 20);
	for (unsigned reset = 0; reset < 2; reset++) {
		struct fake_buf bufs[3];
		uint16_t head;
		uint32_t len;

		start(&c, ~0ull);
		bufs[0] = (struct fake_buf) { c.hdr, 16, false };
		bufs[1] = (struct fake_buf) { c.data, 4096, false };
		bufs[2] = (struct fake_buf) { c.status, 1, true };
		disk_full = true;
		memset(data(&c), 0x61 + (int)reset, 4096);
		put_header(&c, BLK_T_OUT, 8);
		assert_true(fake_driver_add(&c.f, 0, bufs, 3, reset) >= 0);
		fake_driver_kick(&c.f, 0);
		c.d->ops->quiesce(c.d);
		assert_int_equal(stat_of(c.d, "parked"), 0);
		assert_int_equal(*(uint8_t *)fake_driver_ptr(&c.f, c.status, 1), NO_STATUS);
		/* Still full: the next pause finds it waiting again. */
		c.d->ops->resume(c.d);
		c.d->ops->quiesce(c.d);
		assert_false(fake_driver_used(&c.f, 0, &head, &len));
		disk_full = false;
		if (reset) {
			fake_driver_stop(&c.f);
			start(&c, ~0ull);
		} else {
			c.d->ops->resume(c.d);
			assert_true(fake_driver_wait(&c.f, 0, &head, &len));
			assert_int_equal(*(uint8_t *)fake_driver_ptr(&c.f, c.status, 1), BLK_S_OK);
		}
		memset(data(&c), 0, 4096);
		assert_int_equal(request(&c, BLK_T_IN, 8, 4096, true), BLK_S_OK);
		assert_true(all(data(&c), 4096, 0x61));
		fake_driver_stop(&c.f);
	}
	close_disk(&c);
	recorder_clear();
}

/* More requests than slots, on several queues: all are served. */
static void test_starved(void **state)
{
	struct wslx_raw_params rp = { .no_io_uring = true };
	struct wslx_blk_params bp = { .queues = 4, .depth = 3 };
	struct ctx c = { 0 };

	assert_int_equal(wslx_loop_new(&c.loop), 0);
	c.fd = temp_file((uint64_t)SECTORS * 512);
	rp.loop = bp.loop = c.loop;
	rp.fd = fcntl(c.fd, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(wslx_raw_open(&rp, &bp.backend), 0);
	assert_int_equal(wslx_blk_new(&bp, &c.d), 0);
	fake_driver_init(&c.f, c.d, 16u << 20);
	start(&c, ~0ull);
	put_header(&c, BLK_T_IN, 0);
	for (unsigned q = 0; q < 4; q++)
		add_reads(&c, q, 60);
	for (unsigned q = 0; q < 4; q++)
		fake_driver_kick(&c.f, q);
	for (unsigned q = 0; q < 4; q++)
		for (unsigned i = 0; i < 60; i++) {
			uint16_t head;
			uint32_t len;

			assert_true(fake_driver_wait(&c.f, q, &head, &len));
		}
	close_disk(&c);
}

/* The overlay is a disk like any other. */
static void test_overlay_disk(void **state)
{
	struct ctx c = { 0 };
	struct wslx_overlay_params op = { 0 };
	struct wslx_blk_params bp = { 0 };
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_loop_new(&c.loop), 0);
	c.fd = temp_file(0);
	assert_int_equal(wslx_overlay_create(c.fd, (uint64_t)SECTORS * 512), 0);
	op.loop = bp.loop = c.loop;
	op.fd = fcntl(c.fd, F_DUPFD_CLOEXEC, 0);
	op.base_fd = temp_file(65536);
	assert_int_equal(wslx_overlay_open(&op, &bp.backend, &err), 0);
	assert_int_equal(wslx_blk_new(&bp, &c.d), 0);
	fake_driver_init(&c.f, c.d, 16u << 20);
	start(&c, ~0ull);
	assert_int_equal(fake_driver_config(&c.f, 44, 4), 128); /* discard alignment: a cluster */
	memset(data(&c), 0x42, 4096);
	assert_int_equal(request(&c, BLK_T_OUT, 100, 4096, false), BLK_S_OK);
	assert_int_equal(request(&c, BLK_T_FLUSH, 0, 0, false), BLK_S_OK);
	memset(data(&c), 0, 4096);
	assert_int_equal(request(&c, BLK_T_IN, 100, 4096, true), BLK_S_OK);
	assert_true(all(data(&c), 4096, 0x42));
	close_disk(&c);
}

static void test_params(void **state)
{
	struct wslx_raw_params rp = { 0 };
	struct wslx_blk_params bp = { 0 };
	struct wslx_vdev *d;

	assert_int_equal(wslx_blk_new(&bp, &d), -EINVAL);
	assert_int_equal(wslx_loop_new(&bp.loop), 0);
	rp.loop = bp.loop;
	rp.fd = temp_file(512);
	assert_int_equal(wslx_raw_open(&rp, &bp.backend), 0);
	bp.queues = 17;
	assert_int_equal(wslx_blk_new(&bp, &d), -EINVAL);
	bp.queues = 0;
	bp.serial = "123456789012345678901";
	assert_int_equal(wslx_blk_new(&bp, &d), -EINVAL);
	bp.serial = "12345678901234567890";
	assert_int_equal(wslx_blk_new(&bp, &d), 0);
	d->ops->free(d);
	wslx_loop_free(bp.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_read_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_write, setup_threads, teardown),
		cmocka_unit_test_setup_teardown(test_any_layout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_get_id, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ranges, setup, teardown),
		cmocka_unit_test_setup_teardown(test_readonly, setup_readonly, teardown),
		cmocka_unit_test_setup_teardown(test_config, setup, teardown),
		cmocka_unit_test_setup_teardown(test_write_through, setup, teardown),
		cmocka_unit_test_setup_teardown(test_broken, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_in_flight, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_in_flight, setup_threads, teardown),
		cmocka_unit_test_setup_teardown(test_quiesce, setup, teardown),
		cmocka_unit_test(test_pause_while_full),
		cmocka_unit_test(test_starved),
		cmocka_unit_test(test_overlay_disk),
		cmocka_unit_test(test_params),
	};

	return cmocka_run_group_tests_name("blk", tests, NULL, NULL);
}
