/* The test hook's ring: an open through it is refused, through an ordinary one it is not. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/backend/ring_probe.h"

static void test_restricted(void **state)
{
	struct wslx_ring_probe *p;
	struct wslx_loop *loop;
	int r;

	assert_int_equal(wslx_loop_new(&loop), 0);
	r = wslx_ring_probe_new(loop, &p);
	if (r == 0) {
		assert_false(wslx_ring_probe_leaks(p));
		assert_int_equal(wslx_loop_once(loop, 0), 0);
		assert_false(wslx_ring_probe_leaks(p));
		wslx_ring_probe_free(p);
	}
	wslx_loop_free(loop);
	wslx_ring_probe_free(NULL);
}

static void test_ordinary(void **state)
{
	struct io_uring ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;

	if (io_uring_queue_init(4, &ring, 0) < 0)
		skip();
	sqe = io_uring_get_sqe(&ring);
	assert_non_null(sqe);
	io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY | O_CLOEXEC, 0);
	assert_int_equal(io_uring_submit_and_wait(&ring, 1), 1);
	assert_int_equal(io_uring_peek_cqe(&ring, &cqe), 0);
	assert_true(cqe->res >= 0);
	close(cqe->res);
	io_uring_cqe_seen(&ring, cqe);
	io_uring_queue_exit(&ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_restricted),
		cmocka_unit_test(test_ordinary),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
