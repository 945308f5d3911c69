/*
 * Overlay files.  The first byte chooses: the input is the file as it is, or it
 * says how to change a sound file and which requests to send then.  A file
 * that was accepted must show the same contents as a model, stay sound, and
 * show them again after it was closed and opened.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "dev/backend/overlay_internal.h"
#include "input.h"
#include "os/linux/fd.h"
#include "sync_aio.h"

#define MAX_CLUSTERS 6u
#define BASE_SIZE 150000u

static struct wslx_loop *loop;
static int base_fd;
static uint8_t model[MAX_CLUSTERS * OV_CLUSTER], buf[MAX_CLUSTERS * OV_CLUSTER];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static uint8_t base[BASE_SIZE];

	wslx_log_init("fuzz", 2, WSLX_LOG_ERROR);
	base_fd = memfd_create("base", MFD_CLOEXEC);
	memset(base, 0xbb, sizeof(base));
	if (base_fd < 0 || wslx_pwrite_full(base_fd, base, sizeof(base), 0) < 0 || wslx_loop_new(&loop) < 0)
		abort();
	return 0;
}

struct done {
	struct wslx_block_req r;
	bool done;
	int result;
};

static void on_done(struct wslx_block_req *r, int result)
{
	struct done *d = CONTAINER_OF(r, struct done, r);

	d->done = true;
	d->result = result;
}

static int run(struct wslx_block *b, enum wslx_block_op op, uint64_t off, uint64_t len, uint8_t *p, bool unmap)
{
	struct iovec iov[2] = { { p, (size_t)len / 3 }, { p ? p + len / 3 : NULL, (size_t)(len - len / 3) } };
	struct done d = {
		.r = { .op = op, .off = off, .len = len, .iov = iov, .n_iov = 2, .unmap = unmap, .done = on_done }
	};

	wslx_block_submit(b, &d.r);
	if (d.done)
		abort(); /* never from inside submit */
	wslx_block_commit(b);
	wslx_block_drain(b, true);
	wslx_block_resume(b);
	if (!d.done)
		abort();
	return d.result;
}

static struct wslx_block *open_overlay(int fd)
{
	struct wslx_overlay_params p = { .loop = loop, .depth = 4 };
	struct wslx_block *b = NULL;
	struct wslx_err err = { 0 };

	p.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	p.base_fd = fcntl(base_fd, F_DUPFD_CLOEXEC, 0);
	if (p.fd < 0 || p.base_fd < 0)
		abort();
	if (wslx_ov_open(&p, sync_aio_new, &b, &err) == 0)
		return b;
	if (!err.msg[0])
		abort();
	close(p.fd);
	close(p.base_fd);
	return NULL;
}

static void compare(struct wslx_block *b)
{
	if (run(b, WSLX_BLOCK_READ, 0, b->size, buf, false) != 0 || memcmp(buf, model, b->size) != 0)
		abort();
}

/* Requests by the input; the model follows. */
static void requests(struct wslx_block *b, struct input *in)
{
	for (unsigned i = 0; in->n && i < 40; i++) {
		uint8_t code = in_u8(in);
		uint64_t off = (uint64_t)in_u16(in) * 512, len = (uint64_t)in_u16(in) % 300 * 512;
		uint8_t fill = in_u8(in);
		int r;

		switch (code % 6) {
		case 0:
		case 1:
			len = WSLX_MIN(len, sizeof(buf));
			memset(buf, fill, len);
			r = run(b, WSLX_BLOCK_WRITE, off, len, buf, false);
			if (r == 0)
				memset(model + off, fill, len);
			break;
		case 2:
			r = run(b, WSLX_BLOCK_WRITE_ZEROES, off, len, NULL, code & 0x80);
			if (r == 0)
				memset(model + off, 0, len);
			break;
		case 3:
			r = run(b, WSLX_BLOCK_DISCARD, off, len, NULL, false);
			/* As before or zeroes: take what it says. */
			if (r == 0 && run(b, WSLX_BLOCK_READ, off, len, model + off, false) != 0)
				abort();
			break;
		case 4:
			r = run(b, WSLX_BLOCK_FLUSH, 0, 0, NULL, false);
			break;
		default:
			len = WSLX_MIN(len, sizeof(buf));
			r = run(b, WSLX_BLOCK_READ, off, len, buf, false);
			if (r == 0 && memcmp(buf, model + off, len) != 0)
				abort();
			break;
		}
		if (r != 0 && r != -EINVAL)
			abort();
	}
}

/* A sound file with changes: header bytes, table entries, length. */
static void build(int fd, struct input *in)
{
	uint64_t size = (1 + in_u16(in) % (MAX_CLUSTERS * 128u)) * 512u;
	uint8_t b[8], clusters = in_u8(in) % 16, n = in_u8(in);

	if (wslx_overlay_create(fd, size) < 0 || ftruncate(fd, (off_t)((2u + clusters) * OV_CLUSTER)) < 0)
		abort();
	for (unsigned i = 0; i < n % 4u; i++) {
		uint64_t at = in_u8(in) % 64;

		b[0] = in_u8(in);
		if (pwrite(fd, b, 1, (off_t)at) != 1)
			abort();
	}
	for (unsigned i = 0; i < n / 4 % 8u; i++) {
		uint64_t at = OV_TABLE_OFFSET + 8 * (uint64_t)(in_u8(in) % (MAX_CLUSTERS + 1));
		uint8_t kind = in_u8(in);
		uint64_t v = kind < 200 ? (2 + kind % 16u) * OV_CLUSTER : kind < 240 ? kind % 2u : in_u64(in);

		wslx_put_le64(b, v);
		if (pwrite(fd, b, 8, (off_t)at) != 8)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct input in = { data, n };
	uint8_t mode = in_u8(&in);
	int fd = memfd_create("overlay", MFD_CLOEXEC);
	struct wslx_overlay_info info;
	struct wslx_block *b;

	if (fd < 0)
		abort();
	if (mode & 1) {
		if (in.n && write(fd, in.p, in.n) != (ssize_t)in.n)
			abort();
		(void)wslx_overlay_check(fd, &info, NULL);
		close(fd);
		return 0;
	}
	build(fd, &in);
	b = open_overlay(fd);
	if ((wslx_overlay_check(fd, &info, NULL) == 0) != (b != NULL))
		abort();
	if (b && b->size <= sizeof(model)) {
		if (run(b, WSLX_BLOCK_READ, 0, b->size, model, false) != 0)
			abort();
		requests(b, &in);
		compare(b);
		wslx_block_free(b);
		if (wslx_overlay_check(fd, &info, NULL) < 0)
			abort();
		b = open_overlay(fd);
		if (!b)
			abort();
		compare(b);
	}
	wslx_block_free(b);
	close(fd);
	return 0;
}
