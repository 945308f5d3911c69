/* Overlay files: hostile ones, and what a power loss leaves of sound ones. */
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
#include "base/cleanup.h"
#include "dev/backend/overlay_internal.h"
#include "os/linux/fd.h"
#include "support.h"

#define CL OV_CLUSTER

static int memfile(void)
{
	int fd = memfd_create("overlay", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void put64(int fd, uint64_t off, uint64_t v)
{
	uint8_t b[8];

	wslx_put_le64(b, v);
	assert_int_equal(pwrite(fd, b, 8, (off_t)off), 8);
}

static void put32(int fd, uint64_t off, uint32_t v)
{
	uint8_t b[4];

	wslx_put_le32(b, v);
	assert_int_equal(pwrite(fd, b, 4, (off_t)off), 4);
}

static void test_create(void **state)
{
	struct wslx_overlay_info info;
	struct wslx_err err = { 0 };
	int fd = memfile();

	assert_int_equal(wslx_overlay_create(fd, 0), -EINVAL);
	assert_int_equal(wslx_overlay_create(fd, 1000), -EINVAL);
	assert_int_equal(wslx_overlay_create(fd, WSLX_OVERLAY_MAX_SIZE + 512), -EINVAL);
	assert_int_equal(wslx_overlay_create(fd, WSLX_OVERLAY_MAX_SIZE), 0);
	assert_int_equal(wslx_overlay_create(fd, 512), -EEXIST);
	assert_int_equal(wslx_overlay_check(fd, &info, &err), 0);
	assert_int_equal(info.virtual_size, WSLX_OVERLAY_MAX_SIZE);
	assert_int_equal(info.mapped + info.zero + info.unused, 0);
	close(fd);
}

/* One change each to a sound overlay of 100 clusters with 10 clusters in its file. */
static const struct {
	const char *what;
	uint64_t off;
	unsigned size;
	uint64_t value;
} hostile[] = {
	{ "magic", 0, 4, 0 },
	{ "version", 8, 4, 2 },
	{ "header length", 12, 4, 8192 },
	{ "virtual size 0", 16, 8, 0 },
	{ "virtual size odd", 16, 8, 100 * CL + 1 },
	{ "virtual size huge", 16, 8, UINT64_MAX - 511 },
	{ "virtual size larger than the table", 16, 8, 10000 * CL },
	{ "virtual size smaller than the table", 16, 8, 99 * CL },
	{ "cluster size", 24, 4, 12 },
	{ "flags", 28, 4, 1 },
	{ "table offset", 32, 8, 4096 },
	{ "table offset huge", 32, 8, UINT64_MAX },
	{ "table entries", 40, 8, 101 },
	{ "table entries huge", 40, 8, UINT64_MAX / 8 },
	{ "data offset", 48, 8, CL },
	{ "reserved", 56, 4, 1 },
	{ "reserved at the end", 4092, 4, 1 },
	{ "entry into the header", CL, 8, 2 * CL - 8 },
	{ "entry into the table", CL, 8, CL },
	{ "entry not aligned", CL, 8, 2 * CL + 512 },
	{ "entry at the end of the file", CL, 8, 12 * CL },
	{ "entry past the end of the file", CL, 8, 1000 * CL },
	{ "entry huge", CL, 8, UINT64_MAX & ~(CL - 1) },
	{ "entry with a stray bit", CL, 8, 2 },
	{ "entry twice", CL + 8 * 50, 8, 3 * CL },
	{ "entry past the last cluster", CL + 8 * 100, 8, 4 * CL },
	{ "zero entry past the last cluster", CL + 8 * 100, 8, 1 },
	{ "entry in the table's padding", 2 * CL - 8, 8, 1 },
};

static int sound_overlay(void)
{
	int fd = memfile();

	assert_int_equal(wslx_overlay_create(fd, 100 * CL), 0);
	assert_int_equal(ftruncate(fd, 12 * CL), 0);
	put64(fd, CL + 8 * 7, 3 * CL);
	put64(fd, CL + 8 * 99, 11 * CL);
	put64(fd, CL + 8 * 20, OV_ZERO);
	return fd;
}

static void test_hostile(void **state)
{
	struct wslx_overlay_info info;
	struct wslx_err err = { 0 };
	int fd = sound_overlay();

	assert_int_equal(wslx_overlay_check(fd, &info, &err), 0);
	assert_int_equal(info.mapped, 2);
	assert_int_equal(info.zero, 1);
	assert_int_equal(info.unused, 8);
	close(fd);
	for (size_t i = 0; i < ARRAY_SIZE(hostile); i++) {
		fd = sound_overlay();
		if (hostile[i].size == 8)
			put64(fd, hostile[i].off, hostile[i].value);
		else
			put32(fd, hostile[i].off, (uint32_t)hostile[i].value);
		memset(&err, 0, sizeof(err));
		if (wslx_overlay_check(fd, NULL, &err) != -EINVAL || !err.msg[0])
			fail_msg("%s was accepted", hostile[i].what);
		close(fd);
	}
}

static void test_hostile_sizes(void **state)
{
	static const uint64_t sizes[] = { 0, 7, 4095, 4096, CL, 2 * CL - 1, 4 * CL, 12 * CL - 1, 1ull << 40 };
	struct wslx_err err;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		int fd = sound_overlay();

		assert_int_equal(ftruncate(fd, (off_t)sizes[i]), 0);
		memset(&err, 0, sizeof(err));
		assert_int_equal(wslx_overlay_check(fd, NULL, &err), -EINVAL);
		assert_true(err.msg[0]);
		close(fd);
	}
}

static void test_open_refuses(void **state)
{
	struct wslx_overlay_params p = { .base_fd = -1 };
	struct wslx_err err = { 0 };
	struct wslx_block *b;
	int pipefd[2];
	char path[64];

	assert_int_equal(wslx_loop_new(&p.loop), 0);
	assert_int_equal(pipe(pipefd), 0);
	p.fd = pipefd[0];
	p.readonly = true;
	assert_int_equal(wslx_overlay_open(&p, &b, &err), -EINVAL);
	p.fd = sound_overlay();
	p.base_fd = pipefd[0];
	assert_int_equal(wslx_overlay_open(&p, &b, &err), -EINVAL);
	p.base_fd = -1;
	p.depth = 5000;
	assert_int_equal(wslx_overlay_open(&p, &b, &err), -EINVAL);
	p.depth = 0;
	p.readonly = false;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p.fd);
	close(pipefd[0]);
	pipefd[0] = open(path, O_RDONLY | O_CLOEXEC);
	close(p.fd);
	p.fd = pipefd[0];
	assert_int_equal(wslx_overlay_open(&p, &b, &err), -EACCES);
	p.readonly = true;
	assert_int_equal(wslx_overlay_open(&p, &b, &err), 0);
	wslx_block_free(b);
	close(pipefd[1]);
	wslx_loop_free(p.loop);
}

/* ---- power loss -------------------------------------------------------
 *
 * A run of random requests is recorded: the writes, holes and syncs of the
 * file, with marks where each request was submitted and where it ended.  Then
 * the file is put together as a power loss at some point would leave it: all
 * up to the last finished sync, and of the rest any subset, by sectors.  What
 * the overlay then shows must, sector by sector, be something that was there
 * at the last flush or was written after it.
 */

#define N_CLUSTERS 18u
#define V_SIZE (N_CLUSTERS * CL - 3 * 512)
#define V_SECTORS (V_SIZE / 512)
#define B_SIZE (7 * CL + 5 * 512)
#define N_BATCHES 30u
#define PER_BATCH 6u
#define MAX_OPS (N_BATCHES * PER_BATCH)

struct event {
	enum wslx_block_op op;
	uint64_t first, n; /* sectors */
	size_t submitted, ended;
};

struct run {
	struct wslx_loop *loop;
	struct wslx_block *b;
	int fd, base_fd;
	uint64_t seed;
	struct event ev[MAX_OPS];
	unsigned n_ev;
	struct op ops[PER_BATCH];
	unsigned op_ev[PER_BATCH];
};

/* What a sector holds after write e: its number and the write's in each word. */
static uint64_t tag_of(unsigned e, uint64_t sector)
{
	return ((uint64_t)(e + 1) << 32) | (sector + 1);
}

static uint64_t base_tag(uint64_t sector)
{
	return sector < B_SIZE / 512 ? ((uint64_t)1 << 63) | (sector + 1) : 0;
}

static void fill_tag(uint8_t *p, uint64_t tag)
{
	for (unsigned i = 0; i < 512; i += 8)
		wslx_put_le64(p + i, tag);
}

static struct run *the_run;

static void mark_end(struct op *op)
{
	struct run *run = the_run;
	unsigned i = (unsigned)(op - run->ops);

	assert_int_equal(op->result, 0);
	recorder_mark(0); /* so that no two moments are the same */
	run->ev[run->op_ev[i]].ended = recorder.n;
}

static void open_run(struct run *run, struct wslx_block **ret, int fd)
{
	struct wslx_overlay_params p = {
		.loop = run->loop,
		.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0),
		.base_fd = fcntl(run->base_fd, F_DUPFD_CLOEXEC, 0),
	};
	struct wslx_err err = { 0 };

	if (wslx_ov_open(&p, record_aio_new, ret, &err) < 0)
		fail_msg("seed %llu: %s", (unsigned long long)run->seed, err.msg);
}

static bool taken(const struct run *run, unsigned n, uint64_t first, uint64_t count)
{
	for (unsigned i = 0; i < n; i++) {
		const struct event *e = &run->ev[run->op_ev[i]];

		if (first < e->first + e->n && e->first < first + count)
			return true;
	}
	return false;
}

static void random_batch(struct run *run)
{
	static const enum wslx_block_op kinds[] = { WSLX_BLOCK_WRITE,       WSLX_BLOCK_WRITE, WSLX_BLOCK_WRITE,
						    WSLX_BLOCK_WRITE,       WSLX_BLOCK_FLUSH, WSLX_BLOCK_DISCARD,
						    WSLX_BLOCK_WRITE_ZEROES };
	unsigned n = 0;

	for (unsigned i = 0; i < PER_BATCH; i++) {
		enum wslx_block_op kind = kinds[rnd(&run->seed) % ARRAY_SIZE(kinds)];
		uint64_t first = 0, count = 0;
		struct event *e = &run->ev[run->n_ev];

		if (kind != WSLX_BLOCK_FLUSH) {
			first = rnd(&run->seed) % V_SECTORS;
			count = 1 + rnd(&run->seed) % (rnd(&run->seed) % 2 ? 300 : 20);
			if (rnd(&run->seed) % 2)
				first &= ~(uint64_t)127;
			count = WSLX_MIN(count, V_SECTORS - first);
			if (taken(run, n, first, count))
				continue;
		}
		recorder_mark(0);
		*e = (struct event) { kind, first, count, recorder.n, SIZE_MAX };
		op_init(&run->ops[n], kind, first * 512, count * 512);
		run->ops[n].on_done = mark_end;
		run->ops[n].r.unmap = rnd(&run->seed) % 2;
		if (kind == WSLX_BLOCK_WRITE) {
			op_buffer(&run->ops[n], malloc(count * 512), 1);
			for (uint64_t s = 0; s < count; s++)
				fill_tag(run->ops[n].buf + 512 * s, tag_of(run->n_ev, first + s));
		}
		run->op_ev[n++] = run->n_ev++;
	}
	for (unsigned i = 0; i < n; i++)
		wslx_block_submit(run->b, &run->ops[i].r);
	wslx_block_commit(run->b);
	for (unsigned i = 0; i < n; i++) {
		op_wait(run->loop, &run->ops[i]);
		free(run->ops[i].buf);
	}
}

/* The file after the first n records, with what was not synced partly gone. */
static void rebuild(const struct run *run, size_t n, unsigned keep_percent, uint64_t *seed, int fd,
		    const uint8_t *start, size_t start_len)
{
	size_t synced = 0;

	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(wslx_pwrite_full(fd, start, start_len, 0), 0);
	for (size_t i = 0; i < n; i++)
		if (recorder.log[i].kind == REC_SYNC)
			synced = i;
	for (size_t i = 0; i < n; i++) {
		const struct rec *r = &recorder.log[i];
		bool sure = i < synced;

		if (r->kind == REC_SYNC)
			continue;
		if (r->kind == REC_PUNCH) {
			if (sure || rnd(seed) % 100 < keep_percent)
				assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
							   (off_t)r->off, (off_t)r->len),
						 0);
			continue;
		}
		for (uint64_t k = 0; k < r->len;) {
			uint64_t m = sure ? r->len : WSLX_MIN((uint64_t)512, r->len - k);

			if (sure || rnd(seed) % 100 < keep_percent)
				assert_int_equal(wslx_pwrite_full(fd, r->data + k, m, (off_t)(r->off + k)), 0);
			k += m;
		}
	}
}

/* May sector s hold tag after a power loss at record n? */
static bool allowed(const struct run *run, size_t n, uint64_t s, uint64_t tag)
{
	size_t flushed = 0; /* what ended up to this record is stable */
	bool ok = tag == base_tag(s);

	for (unsigned i = 0; i < run->n_ev; i++)
		if (run->ev[i].op == WSLX_BLOCK_FLUSH && run->ev[i].ended < n && run->ev[i].submitted > flushed)
			flushed = run->ev[i].submitted;
	for (unsigned i = 0; i < run->n_ev; i++) {
		const struct event *e = &run->ev[i];
		uint64_t value = e->op == WSLX_BLOCK_WRITE ? tag_of(i, s) : 0;

		if (e->op == WSLX_BLOCK_FLUSH || e->submitted > n || s < e->first || s >= e->first + e->n)
			continue;
		if (e->op == WSLX_BLOCK_DISCARD) {
			/* Zeroes from now on, or unchanged. */
			ok |= tag == 0;
			continue;
		}
		if (e->ended < flushed)
			ok = false;
		ok |= tag == value;
	}
	return ok;
}

static void check_image(struct run *run, size_t n, int fd)
{
	cleanup_free uint8_t *disk = malloc(V_SIZE);
	struct wslx_err err = { 0 };
	struct wslx_block *b;
	struct op op;

	if (wslx_overlay_check(fd, NULL, &err) < 0)
		fail_msg("seed %llu, record %zu: %s", (unsigned long long)run->seed, n, err.msg);
	open_run(run, &b, fd);
	op_init(&op, WSLX_BLOCK_READ, 0, V_SIZE);
	op_buffer(&op, disk, 1);
	assert_int_equal(op_run(run->loop, b, &op), 0);
	for (uint64_t s = 0; s < V_SECTORS; s++) {
		uint64_t tag = wslx_get_le64(disk + 512 * s);

		for (unsigned i = 8; i < 512; i += 8)
			assert_int_equal(wslx_get_le64(disk + 512 * s + i), tag);
		if (!allowed(run, n, s, tag))
			fail_msg("seed %llu, record %zu of %zu: sector %llu holds %llx", (unsigned long long)run->seed,
				 n, recorder.n, (unsigned long long)s, (unsigned long long)tag);
	}
	wslx_block_free(b);
}

static void crash_run(uint64_t seed)
{
	static struct run run;
	static uint8_t start[2 * CL];
	uint64_t points = seed * 77 + 5;
	uint8_t *base = malloc(B_SIZE);
	int image = memfile();

	memset(&run, 0, sizeof(run));
	the_run = &run;
	run.seed = seed;
	assert_int_equal(wslx_loop_new(&run.loop), 0);
	run.fd = memfile();
	run.base_fd = memfile();
	for (uint64_t s = 0; s < B_SIZE / 512; s++)
		fill_tag(base + 512 * s, base_tag(s));
	assert_int_equal(wslx_pwrite_full(run.base_fd, base, B_SIZE, 0), 0);
	assert_int_equal(wslx_overlay_create(run.fd, V_SIZE), 0);
	assert_int_equal(wslx_pread_full(run.fd, start, sizeof(start), 0), 0);

	recorder = (struct recorder) { .enabled = true, .seed = seed };
	open_run(&run, &run.b, run.fd);
	for (unsigned i = 0; i < N_BATCHES; i++)
		random_batch(&run);
	wslx_block_free(run.b);
	recorder.enabled = false;

	for (unsigned i = 0; i < 24; i++) {
		static const unsigned keep[] = { 0, 50, 90, 100 };
		size_t n = i == 0 ? recorder.n : (size_t)(rnd(&points) % (recorder.n + 1));

		rebuild(&run, n, keep[i % ARRAY_SIZE(keep)], &points, image, start, sizeof(start));
		check_image(&run, n, image);
	}
	recorder_clear();
	free(base);
	close(image);
	close(run.fd);
	close(run.base_fd);
	wslx_loop_free(run.loop);
}

static void test_power_loss(void **state)
{
	for (uint64_t seed = 1; seed <= 12; seed++)
		crash_run(seed);
}

/* ---- faults ----------------------------------------------------------- */

struct small {
	struct wslx_loop *loop;
	struct wslx_block *b;
	int fd;
};

static void open_small_with(struct small *s, uint64_t clusters, bool no_sync)
{
	struct wslx_overlay_params p = { .base_fd = -1, .no_sync = no_sync };
	struct wslx_err err = { 0 };

	recorder = (struct recorder) { 0 };
	assert_int_equal(wslx_loop_new(&s->loop), 0);
	s->fd = memfile();
	assert_int_equal(wslx_overlay_create(s->fd, clusters * CL), 0);
	p.loop = s->loop;
	p.fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(wslx_ov_open(&p, record_aio_new, &s->b, &err), 0);
}

static void open_small(struct small *s, uint64_t clusters)
{
	open_small_with(s, clusters, false);
}

static void close_small(struct small *s)
{
	recorder_clear();
	wslx_block_free(s->b);
	wslx_loop_free(s->loop);
	close(s->fd);
}

static int run_op(struct small *s, enum wslx_block_op kind, uint64_t off, uint64_t len)
{
	cleanup_free uint8_t *buf = calloc(1, len + 1);
	struct op op;

	op_init(&op, kind, off, len);
	op.r.unmap = true;
	if (kind == WSLX_BLOCK_READ || kind == WSLX_BLOCK_WRITE) {
		memset(buf, 0x11, len);
		op_buffer(&op, buf, 1);
	}
	return op_run(s->loop, s->b, &op);
}

static enum wslx_aio_op fault_op;
static int fault_error;
static uint64_t fault_before; /* only below this offset */

static int fault(const struct wslx_aio_req *r)
{
	return r->op == fault_op && r->file == 0 && (!fault_before || r->off < fault_before) ? fault_error : 0;
}

static unsigned fault_countdown; /* syncs that still work */

/* Only once: a second fdatasync would succeed. */
static int sync_fault(const struct wslx_aio_req *r)
{
	int e = fault_error;

	if (r->op != WSLX_AIO_SYNC)
		return 0;
	if (fault_countdown > 0) {
		fault_countdown--;
		return 0;
	}
	fault_error = 0;
	return e;
}

/* A failed data write: the guest hears of it, the old contents stay. */
static void test_write_error(void **state)
{
	struct wslx_overlay_info info;
	struct small s;

	open_small(&s, 4);
	recorder.fault = fault;
	fault_op = WSLX_AIO_WRITE;
	fault_error = -EIO;
	fault_before = 0;
	assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, 0, CL), -EIO);
	assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, CL + 512, 512), -EIO);
	recorder.fault = NULL;
	assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, 0, CL), 0);
	assert_int_equal(run_op(&s, WSLX_BLOCK_FLUSH, 0, 0), 0);
	assert_int_equal(wslx_overlay_check(s.fd, &info, NULL), 0);
	assert_int_equal(info.mapped, 1);
	close_small(&s);
}

/* A failed sync: that flush and all later ones fail, and the table on disk
 * stays as it was.  A full disk is no exception: the kernel would tell a
 * second fdatasync that all is well. */
static void sync_error(int error, unsigned which)
{
	struct wslx_overlay_info info;
	struct small s;

	open_small(&s, 4);
	assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, 0, CL), 0);
	recorder.fault = sync_fault;
	fault_error = error;
	fault_countdown = which;
	assert_int_equal(run_op(&s, WSLX_BLOCK_FLUSH, 0, 0), error);
	assert_int_equal(s.b->stats.parked_ever, 0);
	recorder.fault = NULL;
	assert_int_equal(run_op(&s, WSLX_BLOCK_FLUSH, 0, 0), -EIO);
	assert_int_equal(run_op(&s, WSLX_BLOCK_READ, 0, CL), 0);
	assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, CL, CL), 0);
	/* The end in good order writes no table either. */
	wslx_block_free(s.b);
	s.b = NULL;
	assert_int_equal(wslx_overlay_check(s.fd, &info, NULL), 0);
	assert_int_equal(info.mapped, which);
	close_small(&s);
}

static void test_sync_error(void **state)
{
	static const int errors[] = { -EIO, -ENOSPC, -EDQUOT };

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		sync_error(errors[i], 0); /* of the data */
		sync_error(errors[i], 1); /* of the table, which is written */
	}
}

/* A full disk: the write waits.  Giving up (a reset of the device) ends it
 * with an error; afterwards all works again. */
static void full_disk(uint64_t before)
{
	uint8_t buf[512] = { 1 };
	struct op op, flush;
	struct small s;

	open_small(&s, 4);
	recorder.fault = fault;
	fault_op = WSLX_AIO_WRITE;
	fault_error = -ENOSPC;
	fault_before = before;
	op_init(&op, WSLX_BLOCK_WRITE, 0, 512);
	op_buffer(&op, buf, 1);
	wslx_block_submit(s.b, &op.r);
	wslx_block_commit(s.b);
	wslx_block_drain(s.b, false);
	wslx_block_resume(s.b);
	op_init(&flush, WSLX_BLOCK_FLUSH, 0, 0);
	if (before) {
		/* Only the table finds no room. */
		assert_true(op.done && op.result == 0);
		wslx_block_submit(s.b, &flush.r);
		wslx_block_commit(s.b);
		wslx_block_drain(s.b, false);
		wslx_block_resume(s.b);
		assert_false(flush.done);
	} else {
		assert_false(op.done);
	}
	assert_int_equal(s.b->stats.parked, 1);
	/* Others go on. */
	assert_int_equal(run_op(&s, WSLX_BLOCK_READ, CL, CL), 0);
	wslx_block_drain(s.b, true);
	wslx_block_resume(s.b);
	assert_int_equal(s.b->stats.parked, 0);
	assert_int_equal(before ? flush.result : op.result, -ENOSPC);
	assert_true(before ? flush.done : op.done);
	recorder.fault = NULL;
	assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, 0, 512), 0);
	assert_int_equal(run_op(&s, WSLX_BLOCK_FLUSH, 0, 0), 0);
	assert_true(s.b->stats.parked_ever >= 1);
	close_small(&s);
}

static void test_full_disk_data(void **state)
{
	full_disk(0);
}

static void test_full_disk_table(void **state)
{
	full_disk(2 * CL);
}

static int host_full = -1;

static void on_host_full(void *opaque, bool full)
{
	host_full = full;
}

/* Room comes back: the request goes on by itself. */
static void test_full_disk_recovers(void **state)
{
	struct op op;
	uint8_t buf[512] = { 1 };
	struct small s;

	open_small(&s, 4);
	s.b->host_full = on_host_full;
	recorder.fault = fault;
	fault_op = WSLX_AIO_WRITE;
	fault_error = -EDQUOT;
	fault_before = 0;
	op_init(&op, WSLX_BLOCK_WRITE, 0, 512);
	op_buffer(&op, buf, 1);
	wslx_block_submit(s.b, &op.r);
	wslx_block_commit(s.b);
	wslx_block_drain(s.b, false);
	assert_int_equal(s.b->stats.parked, 1);
	assert_int_equal(host_full, 1);
	recorder.fault = NULL;
	wslx_block_resume(s.b); /* tries at once */
	op_wait(s.loop, &op);
	assert_int_equal(op.result, 0);
	assert_int_equal(s.b->stats.parked, 0);
	assert_int_equal(host_full, 0);
	close_small(&s);
}

/* Clusters that are written, discarded and written again without end: the
 * file stays small, because releases are committed in time. */
static void test_reuse(void **state)
{
	struct wslx_overlay_info info;
	struct small s;

	open_small(&s, 8);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, 0, 8 * CL), 0);
		assert_int_equal(run_op(&s, i % 2 ? WSLX_BLOCK_DISCARD : WSLX_BLOCK_WRITE_ZEROES, 0, 8 * CL), 0);
		if (i % 3 == 0)
			assert_int_equal(run_op(&s, WSLX_BLOCK_FLUSH, 0, 0), 0);
	}
	assert_int_equal(run_op(&s, WSLX_BLOCK_FLUSH, 0, 0), 0);
	assert_int_equal(wslx_overlay_check(s.fd, &info, NULL), 0);
	assert_int_equal(info.mapped, 0);
	assert_int_equal(info.zero, 8);
	assert_true(info.file_size <= 2 * CL + 32 * CL);
	close_small(&s);
}

/* A throw-away disk: a flush writes the table, and waits for no sync. */
static void test_no_sync(void **state)
{
	for (int no_sync = 0; no_sync < 2; no_sync++) {
		struct wslx_overlay_info info;
		struct small s;

		open_small_with(&s, 4, no_sync);
		recorder.enabled = true;
		assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, 0, CL), 0);
		assert_int_equal(run_op(&s, WSLX_BLOCK_FLUSH, 0, 0), 0);
		assert_int_equal(s.b->stats.syncs, no_sync ? 0 : 2);
		for (size_t i = 0; i < recorder.n; i++)
			assert_true(!no_sync || recorder.log[i].kind != REC_SYNC);
		assert_int_equal(wslx_overlay_check(s.fd, &info, NULL), 0);
		assert_int_equal(info.mapped, 1);
		close_small(&s);
	}
}

/* What was never flushed is in the table after an orderly end. */
static void test_close_commits(void **state)
{
	struct wslx_overlay_info info;
	struct small s;

	open_small(&s, 8);
	assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, CL, 2 * CL), 0);
	assert_int_equal(wslx_overlay_check(s.fd, &info, NULL), 0);
	assert_int_equal(info.mapped, 0);
	wslx_block_free(s.b);
	s.b = NULL;
	assert_int_equal(wslx_overlay_check(s.fd, &info, NULL), 0);
	assert_int_equal(info.mapped, 2);
	close_small(&s);
}

static unsigned n_punched(void)
{
	unsigned n = 0;

	for (size_t i = 0; i < recorder.n; i++)
		n += recorder.log[i].kind == REC_PUNCH;
	return n;
}

/* A pause does not wait until all storage that a flush released is given back;
 * the next commit does the rest, be it the one at the end. */
static void test_punching_is_cut_short(void **state)
{
	for (int close_it = 0; close_it < 2; close_it++) {
		struct small s;
		struct op op;

		open_small(&s, 40);
		assert_int_equal(run_op(&s, WSLX_BLOCK_WRITE, 0, 40 * CL), 0);
		assert_int_equal(run_op(&s, WSLX_BLOCK_FLUSH, 0, 0), 0);
		for (unsigned i = 0; i < 40; i += 2)
			assert_int_equal(run_op(&s, WSLX_BLOCK_DISCARD, i * CL, CL), 0);
		recorder.enabled = true;
		op_init(&op, WSLX_BLOCK_FLUSH, 0, 0);
		wslx_block_submit(s.b, &op.r);
		wslx_block_commit(s.b);
		wslx_block_drain(s.b, true);
		assert_true(op.done && op.result == 0);
		assert_true(n_punched() <= 1);
		wslx_block_resume(s.b);
		if (close_it) {
			wslx_block_free(s.b);
			s.b = NULL;
		} else {
			assert_int_equal(run_op(&s, WSLX_BLOCK_FLUSH, 0, 0), 0);
			for (unsigned i = 0; i < 100 && n_punched() < 20; i++)
				assert_int_equal(wslx_loop_once(s.loop, 100), 0);
		}
		assert_int_equal(n_punched(), 20);
		close_small(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create),          cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_hostile_sizes),   cmocka_unit_test(test_open_refuses),
		cmocka_unit_test(test_power_loss),      cmocka_unit_test(test_write_error),
		cmocka_unit_test(test_sync_error),      cmocka_unit_test(test_full_disk_data),
		cmocka_unit_test(test_full_disk_table), cmocka_unit_test(test_full_disk_recovers),
		cmocka_unit_test(test_no_sync),         cmocka_unit_test(test_reuse),
		cmocka_unit_test(test_close_commits),   cmocka_unit_test(test_punching_is_cut_short),
	};

	return cmocka_run_group_tests_name("overlay", tests, NULL, NULL);
}
