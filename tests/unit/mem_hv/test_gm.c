/* Guest memory: layout, bounds, imports. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/gm.h"

#define HIGH (4 * WSLX_GIB)

static int memfd(uint64_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void test_layout(void **state)
{
	static const enum wslx_gm_mode modes[] = { WSLX_GM_PRIVATE, WSLX_GM_SHARED };

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct wslx_gm *gm;
		const struct wslx_gm_region *r;

		assert_int_equal(wslx_gm_new(modes[i], 4 * WSLX_GIB, &gm), 0);
		assert_int_equal(wslx_gm_n_regions(gm), 2);
		assert_true(wslx_gm_size(gm) == 4 * WSLX_GIB);
		r = wslx_gm_region(gm, 0);
		assert_true(r->base.v == 0 && r->size == WSLX_GM_LOW_END);
		assert_true((uintptr_t)r->host % (2 * WSLX_MIB) == 0);
		r = wslx_gm_region(gm, 1);
		assert_true(r->base.v == HIGH && r->size == WSLX_GIB);
		assert_int_equal(r->fd >= 0, modes[i] == WSLX_GM_SHARED);
		assert_true(modes[i] != WSLX_GM_SHARED || r->fd_offset == WSLX_GM_LOW_END);
		assert_null(wslx_gm_region(gm, 2));
		wslx_gm_free(gm);
	}
}

static void test_bad_sizes(void **state)
{
	struct wslx_gm *gm;

	assert_int_equal(wslx_gm_new(WSLX_GM_PRIVATE, 0, &gm), -EINVAL);
	assert_int_equal(wslx_gm_new(WSLX_GM_PRIVATE, 4097, &gm), -EINVAL);
	assert_int_equal(wslx_gm_new(WSLX_GM_PRIVATE, UINT64_MAX & ~4095ull, &gm), -EINVAL);
	assert_int_equal(wslx_gm_new(WSLX_GM_IMPORTED, 4096, &gm), -EINVAL);
	wslx_gm_free(NULL);
}

static void test_shared_is_sealed(void **state)
{
	struct wslx_gm *gm;
	int fd;

	assert_int_equal(wslx_gm_new(WSLX_GM_SHARED, 2 * WSLX_MIB, &gm), 0);
	fd = wslx_gm_region(gm, 0)->fd;
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(errno, EPERM);
	wslx_gm_free(gm);
}

static void test_slice(void **state)
{
	struct wslx_gm *gm;
	void *p;

	assert_int_equal(wslx_gm_new(WSLX_GM_PRIVATE, 2 * WSLX_MIB, &gm), 0);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(0), 2 * WSLX_MIB, &p), 0);
	assert_ptr_equal(p, wslx_gm_region(gm, 0)->host);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(2 * WSLX_MIB - 1), 1, &p), 0);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(2 * WSLX_MIB - 1), 2, &p), -EFAULT);
	assert_null(p);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(2 * WSLX_MIB), 1, &p), -EFAULT);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(0), 0, &p), -EINVAL);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(UINT64_MAX), 1, &p), -EFAULT);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(4096), UINT64_MAX, &p), -EFAULT);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(UINT64_MAX - 1), 4, &p), -EFAULT);
	wslx_gm_free(gm);
}

static void test_borrowed(void **state)
{
	static uint8_t pages[3 * 4096] __attribute__((aligned(4096)));
	uint8_t *page = pages + 4096;
	struct wslx_gm *gm;
	void *p;

	assert_int_equal(wslx_gm_new_empty(&gm), 0);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(0), 4096, memfd(4096), 0), 0);
	assert_int_equal(wslx_gm_borrow(gm, wslx_gpa(8192), 4096, page), 0);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(8192 + 4095), 1, &p), 0);
	assert_true(wslx_gm_in_borrowed(gm, p) && wslx_gm_in_borrowed(gm, page));
	assert_false(wslx_gm_in_borrowed(gm, page + 4096) || wslx_gm_in_borrowed(gm, page - 1));
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(0), 4096, &p), 0);
	assert_false(wslx_gm_in_borrowed(gm, p));
	wslx_gm_free(gm);
}

static void test_copy(void **state)
{
	const char text[] = "guest";
	char back[sizeof(text)];
	struct wslx_gm *gm;

	assert_int_equal(wslx_gm_new(WSLX_GM_PRIVATE, 2 * WSLX_MIB, &gm), 0);
	assert_int_equal(wslx_gm_write(gm, wslx_gpa(100), text, sizeof(text)), 0);
	assert_int_equal(wslx_gm_read(gm, wslx_gpa(100), back, sizeof(back)), 0);
	assert_string_equal(back, text);
	assert_int_equal(wslx_gm_write(gm, wslx_gpa(2 * WSLX_MIB - 2), text, sizeof(text)), -EFAULT);
	assert_int_equal(wslx_gm_read(gm, wslx_gpa(UINT64_MAX - 2), back, sizeof(back)), -EFAULT);
	assert_int_equal(wslx_gm_read(gm, wslx_gpa(UINT64_MAX), back, 0), 0);
	wslx_gm_free(gm);
}

static void test_cross_region(void **state)
{
	const char text[] = "across";
	char back[sizeof(text)] = { 0 };
	struct wslx_gm *gm;
	void *p;

	assert_int_equal(wslx_gm_new_empty(&gm), 0);
	/* Imported out of order; adjacent in guest addresses. */
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(8192), 4096, memfd(4096), 0), 0);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(0), 8192, memfd(12288), 4096), 0);
	assert_true(wslx_gm_region(gm, 0)->base.v == 0);
	assert_int_equal(wslx_gm_write(gm, wslx_gpa(8192 - 3), text, sizeof(text)), 0);
	assert_int_equal(wslx_gm_read(gm, wslx_gpa(8192 - 3), back, sizeof(back)), 0);
	assert_string_equal(back, text);
	assert_memory_equal(wslx_gm_region(gm, 1)->host, "oss", 3);
	/* A slice stays within one. */
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(8192 - 3), 4, &p), -EFAULT);
	wslx_gm_clear(gm);
	assert_int_equal(wslx_gm_n_regions(gm), 0);
	assert_int_equal(wslx_gm_slice(gm, wslx_gpa(0), 1, &p), -EFAULT);
	wslx_gm_free(gm);
}

static void test_import_refuses(void **state)
{
	struct wslx_gm *gm;
	int pipes[2];

	assert_int_equal(wslx_gm_new_empty(&gm), 0);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(4096), 8192, memfd(8192), 0), 0);
	/* Overlaps from below, above, inside, and exactly. */
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(0), 8192, memfd(8192), 0), -EINVAL);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(8192), 8192, memfd(8192), 0), -EINVAL);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(8192), 4096, memfd(8192), 0), -EINVAL);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(4096), 8192, memfd(8192), 0), -EINVAL);
	/* Misaligned, empty, overflowing. */
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(65537), 4096, memfd(8192), 0), -EINVAL);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(65536), 4095, memfd(8192), 0), -EINVAL);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(65536), 4096, memfd(8192), 1), -EINVAL);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(65536), 0, memfd(8192), 0), -EINVAL);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(UINT64_MAX - 4095), 8192, memfd(8192), 0), -EINVAL);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(65536), 8192, memfd(8192), UINT64_MAX - 4095), -EINVAL);
	/* Past the file's end, no file, no descriptor. */
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(65536), 8192, memfd(8192), 4096), -EINVAL);
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(65536), 4096, pipes[0], 0), -EINVAL);
	assert_int_equal(fcntl(pipes[0], F_GETFD), -1); /* taken in any case */
	close(pipes[1]);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(65536), 4096, -1, 0), -EBADF);
	assert_int_equal(wslx_gm_n_regions(gm), 1);
	wslx_gm_free(gm);
}

static void test_import_seals(void **state)
{
	int fd = memfd(4096), peer = dup(fd);
	struct wslx_gm *gm;

	assert_int_equal(wslx_gm_new_empty(&gm), 0);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(0), 4096, fd, 0), 0);
	assert_int_equal(ftruncate(peer, 0), -1);
	close(peer);
	wslx_gm_free(gm);
}

static void test_table_full(void **state)
{
	struct wslx_gm *gm;

	assert_int_equal(wslx_gm_new_empty(&gm), 0);
	for (uint64_t i = 0; i < WSLX_GM_MAX_REGIONS; i++)
		assert_int_equal(wslx_gm_import(gm, wslx_gpa(i * 8192), 4096, memfd(4096), 0), 0);
	assert_int_equal(wslx_gm_import(gm, wslx_gpa(WSLX_GIB), 4096, memfd(4096), 0), -ENOSPC);
	wslx_gm_free(gm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),           cmocka_unit_test(test_bad_sizes),
		cmocka_unit_test(test_shared_is_sealed), cmocka_unit_test(test_slice),
		cmocka_unit_test(test_borrowed),         cmocka_unit_test(test_copy),
		cmocka_unit_test(test_cross_region),     cmocka_unit_test(test_import_refuses),
		cmocka_unit_test(test_import_seals),     cmocka_unit_test(test_table_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
