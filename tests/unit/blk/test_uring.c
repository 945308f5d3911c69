/* The ring can do what a disk needs, on the disk's files, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* The engine's inside is what is tested. */
#include "dev/backend/aio_uring.c" // NOLINT(bugprone-suspicious-include)
#include "support.h"

static int submit_one(struct uring *u)
{
	struct io_uring_cqe *cqe;
	int res;

	assert_int_equal(io_uring_submit(&u->ring), 1);
	assert_int_equal(io_uring_wait_cqe(&u->ring, &cqe), 0);
	res = cqe->res;
	io_uring_cqe_seen(&u->ring, cqe);
	return res;
}

static void test_restricted(void **state)
{
	struct wslx_block b = { 0 };
	struct wslx_aio_params p = { .block = &b, .fds = { temp_file(4096), -1 }, .depth = 8 };
	struct iovec iov = { .iov_base = (char[16]) { 0 }, .iov_len = 16 };
	struct io_uring_sqe *sqe;
	struct wslx_aio *a = NULL;
	struct uring *u;
	int r;

	assert_int_equal(wslx_loop_new(&p.loop), 0);
	r = wslx_aio_uring_new(&p, &a);
	if (r == -ENOSYS || r == -EPERM || r == -EINVAL) {
		/* A host without it: threads do the work, there is no ring to test. */
		wslx_loop_free(p.loop);
		close(p.fds[0]);
		return;
	}
	assert_int_equal(r, 0);
	if (!a)
		return;
	u = CONTAINER_OF(a, struct uring, a);

	sqe = io_uring_get_sqe(&u->ring);
	io_uring_prep_readv(sqe, 0, &iov, 1, 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	assert_int_equal(submit_one(u), 16);

	/* An ordinary descriptor, even the same file's. */
	sqe = io_uring_get_sqe(&u->ring);
	io_uring_prep_readv(sqe, p.fds[0], &iov, 1, 0);
	assert_int_equal(submit_one(u), -EACCES);

	/* Other operations. */
	sqe = io_uring_get_sqe(&u->ring);
	io_uring_prep_openat(sqe, AT_FDCWD, "/", O_RDONLY, 0);
	assert_int_equal(submit_one(u), -EACCES);
	sqe = io_uring_get_sqe(&u->ring);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	assert_int_equal(submit_one(u), -EACCES);

	/* Linked requests would get around nothing, and are not needed. */
	sqe = io_uring_get_sqe(&u->ring);
	io_uring_prep_readv(sqe, 0, &iov, 1, 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE | IOSQE_ASYNC);
	assert_int_equal(submit_one(u), -EACCES);

	/* No other file can be put in. */
	assert_true(io_uring_register_files_update(&u->ring, 1, p.fds, 1) < 0);
	assert_int_equal(ring_register(u, IORING_REGISTER_RESTRICTIONS, NULL, 0), -EACCES);

	wslx_aio_free(a);
	wslx_loop_free(p.loop);
	close(p.fds[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_restricted) };

	return cmocka_run_group_tests_name("uring", tests, NULL, NULL);
}
