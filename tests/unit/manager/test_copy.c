/* Copies of disks: between file systems, with holes, of files that end early. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "manager/copy.h"

#define HOLE ((off_t)16 * WSLX_MIB)
#define SIZE ((uint64_t)40 * WSLX_MIB + 512)

static int no_range; /* the error that copy_file_range gives; 0 = the kernel's own */

/* In place of the C library's: other file systems. */
ssize_t copy_file_range(int in, off_t *in_at, int out, off_t *out_at, size_t len, unsigned flags)
{
	if (!no_range)
		return syscall(SYS_copy_file_range, in, in_at, out, out_at, len, flags);
	errno = no_range;
	return -1;
}

static int file_on_disk(void)
{
	char path[] = "/var/tmp/wslx-copy-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

/* Data at the start, in the middle, and in the last sector. */
static int source(void)
{
	int fd = memfd_create("source", MFD_CLOEXEC);
	uint8_t *buf = malloc(3 * WSLX_MIB);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)SIZE), 0);
	for (size_t i = 0; i < 3 * WSLX_MIB; i++)
		buf[i] = (uint8_t)(i * 7 + i / 4096 + 1);
	assert_int_equal(pwrite(fd, buf, 4096, 0), 4096);
	assert_int_equal(pwrite(fd, buf, 3 * WSLX_MIB, HOLE), 3 * WSLX_MIB);
	assert_int_equal(pwrite(fd, buf, 512, (off_t)SIZE - 512), 512);
	free(buf);
	return fd;
}

static void same(int a, int b)
{
	uint8_t *x = malloc(WSLX_MIB), *y = malloc(WSLX_MIB);
	struct stat st;

	assert_int_equal(fstat(b, &st), 0);
	assert_int_equal(st.st_size, SIZE);
	assert_true(st.st_blocks * 512 < 8 * (off_t)WSLX_MIB);
	for (off_t at = 0; at < (off_t)SIZE; at += (off_t)WSLX_MIB) {
		ssize_t n = pread(a, x, WSLX_MIB, at);

		assert_true(n > 0);
		assert_int_equal(pread(b, y, WSLX_MIB, at), n);
		assert_memory_equal(x, y, (size_t)n);
	}
	free(x);
	free(y);
}

static void test_copies(void **state)
{
	static const int errors[] = { 0, EXDEV, EINVAL, EOPNOTSUPP };

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		int in = source(), near = memfd_create("near", MFD_CLOEXEC), far = file_on_disk();

		no_range = errors[i];
		assert_int_equal(wslx_copy_sparse(in, near, SIZE, -1), 0);
		same(in, near);
		/* The same file system or not, that one cannot tell from here. */
		assert_int_equal(wslx_copy_sparse(in, far, SIZE, -1), 0);
		same(in, far);
		close(in);
		close(near);
		close(far);
	}
	no_range = 0;
}

static void test_other_errors_count(void **state)
{
	int in = source(), out = memfd_create("out", MFD_CLOEXEC);

	no_range = ENOSPC;
	assert_int_equal(wslx_copy_sparse(in, out, SIZE, -1), -ENOSPC);
	no_range = 0;
	close(in);
	close(out);
}

/* A disk that ends early is not a whole copy. */
static void test_short_source(void **state)
{
	static const off_t ends[] = { HOLE + 4096, HOLE - 4096, 4096, 0 };

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		int in = source(), out = memfd_create("out", MFD_CLOEXEC);

		assert_int_equal(ftruncate(in, ends[i]), 0);
		assert_int_equal(wslx_copy_sparse(in, out, SIZE, -1), -EIO);
		close(in);
		close(out);
	}
}

static void test_cancelled(void **state)
{
	int in = source(), out = memfd_create("out", MFD_CLOEXEC), p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(write(p[1], "!", 1), 1);
	assert_int_equal(wslx_copy_sparse(in, out, SIZE, p[0]), -ECANCELED);
	close(p[0]);
	close(p[1]);
	close(in);
	close(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_copies),
		cmocka_unit_test(test_other_errors_count),
		cmocka_unit_test(test_short_source),
		cmocka_unit_test(test_cancelled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
