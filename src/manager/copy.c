#include "manager/copy.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"

#define CHUNK (8 * WSLX_MIB)
#define BUFFER WSLX_MIB

struct copy {
	int in, out, cancel_fd;
	bool by_hand; /* the kernel cannot copy between these two */
	uint8_t *buf; /* BUFFER bytes, once by_hand */
};

/* One piece through a buffer.  Bytes, 0 at the end of the file, -errno. */
static ssize_t copy_by_hand(struct copy *c, off_t at, size_t n)
{
	ssize_t got;
	int r;

	if (!c->buf)
		c->buf = malloc(BUFFER);
	if (!c->buf)
		return -ENOMEM;
	got = pread(c->in, c->buf, WSLX_MIN(n, BUFFER), at);
	if (got <= 0)
		return got < 0 ? -errno : 0;
	r = wslx_pwrite_full(c->out, c->buf, (size_t)got, at);
	return r < 0 ? r : got;
}

static ssize_t copy_piece(struct copy *c, off_t at, size_t n)
{
	if (!c->by_hand) {
		off_t in_at = at, out_at = at;
		ssize_t done = copy_file_range(c->in, &in_at, c->out, &out_at, WSLX_MIN(n, CHUNK), 0);

		if (done >= 0)
			return done;
		if (errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
			return -errno;
		c->by_hand = true;
	}
	return copy_by_hand(c, at, n);
}

static int copy_range(struct copy *c, off_t at, off_t end)
{
	while (at < end) {
		struct pollfd p = { .fd = c->cancel_fd, .events = POLLIN };
		ssize_t n = copy_piece(c, at, (size_t)(end - at));

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? (int)n : -EIO;
		if (poll(&p, 1, 0) > 0)
			return -ECANCELED;
		at += n;
	}
	return 0;
}

static int copy_all(struct copy *c, off_t size)
{
	int r = ftruncate(c->out, size) < 0 ? -errno : 0;
	off_t at = 0;

	while (r == 0 && at < size) {
		off_t start = lseek(c->in, at, SEEK_DATA), end;

		/* None left: a hole, unless there is no file any more. */
		if (start < 0)
			start = errno == ENXIO ? lseek(c->in, 0, SEEK_END) : -1;
		if (start < 0)
			return -errno;
		if (start >= size)
			return 0;
		end = lseek(c->in, start, SEEK_HOLE);
		if (end < 0)
			return errno == ENXIO ? -EIO : -errno;
		at = WSLX_MIN(end, size);
		r = copy_range(c, start, at);
	}
	return r;
}

int wslx_copy_sparse(int in, int out, uint64_t size, int cancel_fd)
{
	struct copy c = { .in = in, .out = out, .cancel_fd = cancel_fd };
	int r = size > INT64_MAX ? -EFBIG : copy_all(&c, (off_t)size);

	free(c.buf);
	return r;
}
