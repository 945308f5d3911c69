/*
 * io_uring engine.
 *
 * io_uring requests pass no seccomp filter.  So the ring is made disabled, its
 * files are registered, it is restricted to reading, writing, syncing and
 * fallocate on registered files and to no further registration, and only then
 * enabled: whoever takes over the process can do with it what the disk device
 * may do anyway, on the disk's own files.
 *
 * Completions signal an eventfd that the loop watches.  At most `depth`
 * requests are in the ring, which has at least as many entries, so neither
 * queue can overflow.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/backend/aio.h"

struct uring {
	struct wslx_aio a;
	struct io_uring ring;
	bool ring_ok;
	int eventfd;
	struct wslx_watch *watch;
	/* Started before the ring had room for them; only after commit failed. */
	struct wslx_aio_list overflow;
};

static void prep(struct io_uring_sqe *sqe, struct wslx_aio_req *r)
{
	int file = (int)r->file;

	switch (r->op) {
	case WSLX_AIO_READ:
		io_uring_prep_readv(sqe, file, r->iov, r->n_iov, r->off);
		break;
	case WSLX_AIO_WRITE:
		io_uring_prep_writev(sqe, file, r->iov, r->n_iov, r->off);
		break;
	case WSLX_AIO_SYNC:
		io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
		break;
	case WSLX_AIO_PUNCH:
		io_uring_prep_fallocate(sqe, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->off,
					(off_t)r->len);
		break;
	case WSLX_AIO_ZERO:
		if (r->by_write)
			io_uring_prep_writev(sqe, file, r->iov, r->n_iov, r->off);
		else
			io_uring_prep_fallocate(sqe, file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)r->off,
						(off_t)r->len);
		break;
	}
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, r);
}

static void uring_start(struct wslx_aio *a, struct wslx_aio_req *r)
{
	struct uring *u = CONTAINER_OF(a, struct uring, a);
	struct io_uring_sqe *sqe = u->overflow.head ? NULL : io_uring_get_sqe(&u->ring);

	if (sqe) {
		prep(sqe, r);
		return;
	}
	r->next = NULL;
	*u->overflow.tail = r;
	u->overflow.tail = &r->next;
}

static void refill(struct uring *u)
{
	while (u->overflow.head) {
		struct wslx_aio_req *r = u->overflow.head;
		struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

		if (!sqe)
			return;
		u->overflow.head = r->next;
		if (!u->overflow.head)
			u->overflow.tail = &u->overflow.head;
		prep(sqe, r);
	}
}

static int uring_commit(struct wslx_aio *a)
{
	struct uring *u = CONTAINER_OF(a, struct uring, a);
	int r;

	for (;;) {
		if (!io_uring_sq_ready(&u->ring) && !u->overflow.head)
			return 0;
		r = io_uring_submit(&u->ring);
		if (r < 0 && r != -EINTR)
			return r;
		if (r == 0)
			return -EAGAIN;
		refill(u);
	}
}

static void uring_reap(struct wslx_aio *a, bool wait)
{
	struct uring *u = CONTAINER_OF(a, struct uring, a);
	struct io_uring_cqe *cqe;

	if (wait) {
		(void)uring_commit(a);
		/* An error here (EINTR, or EAGAIN with nothing submitted) makes
		 * the caller come again. */
		(void)io_uring_submit_and_wait(&u->ring, 1);
	}
	while (io_uring_peek_cqe(&u->ring, &cqe) == 0 && cqe) {
		struct wslx_aio_req *r = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		wslx_aio_complete(a, r, result);
	}
}

static void on_eventfd(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0)
		return; /* taken already by a wait */
	wslx_aio_event(opaque);
}

static void uring_free(struct wslx_aio *a)
{
	struct uring *u = CONTAINER_OF(a, struct uring, a);

	wslx_watch_free(u->watch);
	if (u->ring_ok)
		io_uring_queue_exit(&u->ring);
	wslx_close(&u->eventfd);
	wslx_aio_fini(a);
	free(u);
}

static const struct wslx_aio_ops uring_ops = {
	.name = "io_uring",
	.start = uring_start,
	.commit = uring_commit,
	.reap = uring_reap,
	.free = uring_free,
};

/* liburing 2.3 declares these two registrations but does not export them. */
static int ring_register(struct uring *u, unsigned opcode, const void *arg, unsigned n)
{
	return syscall(SYS_io_uring_register, u->ring.ring_fd, opcode, arg, n) < 0 ? -errno : 0;
}

static int restrict_ring(struct uring *u, const struct wslx_aio_params *p)
{
	struct io_uring_restriction res[] = {
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FALLOCATE },
		{ .opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE },
	};
	int r;

	r = io_uring_register_files(&u->ring, p->fds, WSLX_AIO_MAX_FILES);
	if (r == 0)
		r = io_uring_register_eventfd(&u->ring, u->eventfd);
	if (r == 0)
		r = ring_register(u, IORING_REGISTER_RESTRICTIONS, res, ARRAY_SIZE(res));
	if (r == 0)
		r = ring_register(u, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	return r;
}

int wslx_aio_uring_new(const struct wslx_aio_params *p, struct wslx_aio **ret)
{
	struct io_uring_params params = { .flags = IORING_SETUP_R_DISABLED };
	struct uring *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return -ENOMEM;
	u->overflow.tail = &u->overflow.head;
	u->eventfd = -1;
	r = wslx_aio_init(&u->a, &uring_ops, p);
	if (r == 0) {
		u->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		r = u->eventfd < 0 ? -errno : 0;
	}
	if (r == 0) {
		r = io_uring_queue_init_params(p->depth, &u->ring, &params);
		u->ring_ok = r == 0;
	}
	if (r == 0)
		r = restrict_ring(u, p);
	if (r == 0)
		r = wslx_loop_watch(p->loop, u->eventfd, EPOLLIN, on_eventfd, &u->a, &u->watch);
	if (r < 0) {
		uring_free(&u->a);
		return r;
	}
	/* Neither a fork nor a core dump has any business with the rings. */
	(void)io_uring_ring_dontfork(&u->ring);
	*ret = &u->a;
	return 0;
}

int wslx_aio_uring_try_open(struct wslx_aio *a)
{
	struct uring *u = CONTAINER_OF(a, struct uring, a);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
	struct io_uring_cqe *cqe;
	int r;

	if (!sqe)
		return -EBUSY;
	io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY | O_CLOEXEC, 0);
	r = io_uring_submit_and_wait(&u->ring, 1);
	if (r < 0)
		return r;
	if (io_uring_peek_cqe(&u->ring, &cqe) < 0 || !cqe)
		return -EIO;
	r = cqe->res;
	io_uring_cqe_seen(&u->ring, cqe);
	return r;
}
