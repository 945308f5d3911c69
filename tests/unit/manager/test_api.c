/* libwslx, as another program sees it: through the shared library alone. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "wslx/wslx.h"

static void test_errors(void **state)
{
	struct libwslx_error err = { 0 };
	struct libwslx_distro **list;
	struct libwslx_import imp = LIBWSLX_IMPORT_INIT;
	struct libwslx_exec ex = LIBWSLX_EXEC_INIT;
	libwslx *w;
	size_t n = 1;
	int status;

	assert_int_equal(libwslx_open(&w, &err), 0);
	assert_int_equal(libwslx_list(w, &list, &n, &err), 0);
	assert_int_equal(n, 0);
	assert_null(list[0]);
	libwslx_list_free(list);
	libwslx_list_free(NULL);
	assert_int_equal(libwslx_start(w, "nosuch", &err), -ENOENT);
	assert_non_null(strstr(err.message, "nosuch"));
	assert_int_equal(libwslx_start(w, NULL, &err), -ENOENT);
	assert_int_equal(libwslx_terminate(w, "nosuch", 0, NULL), -ENOENT);
	assert_int_equal(libwslx_unregister(w, NULL, &err), -EINVAL);
	assert_int_equal(libwslx_import_distro(w, &imp, &err), -EINVAL);
	imp.name = "x";
	assert_int_equal(libwslx_import_distro(w, &imp, &err), -EINVAL);
	imp.size = 1;
	assert_int_equal(libwslx_import_distro(w, &imp, &err), -EINVAL);
	status = 0;
	assert_int_equal(libwslx_exec(w, &ex, &status, &err), -EINVAL);
	assert_int_equal(status, 255);
	assert_int_equal(libwslx_exec(w, &ex, NULL, &err), -EINVAL);
	ex.flags = 64;
	assert_int_equal(libwslx_exec(w, &ex, &status, &err), -EINVAL);
	assert_int_equal(libwslx_exec(w, NULL, &status, &err), -EINVAL);
	libwslx_close(w);
	libwslx_close(NULL);
	assert_true(libwslx_version()[0]);
}

/* Programs and libraries of different releases. */
static void test_structure_sizes(void **state)
{
	const char *const argv[] = { "true", NULL };
	struct {
		struct libwslx_exec now;
		const char *later;
	} ex = { LIBWSLX_EXEC_INIT, NULL };
	struct libwslx_error err = { 0 };
	libwslx *w;

	assert_int_equal(ex.now.size, sizeof(ex.now));
	assert_true(ex.now.fds[0] == -1 && ex.now.fds[1] == -1 && ex.now.fds[2] == -1);
	assert_int_equal(libwslx_open(&w, &err), 0);
	ex.now.argv = argv;
	ex.now.distro = "nosuch";
	/* A member of a later release, left alone and used. */
	ex.now.size = sizeof(ex);
	assert_int_equal(libwslx_exec(w, &ex.now, NULL, &err), -ENOENT);
	ex.later = "used";
	assert_int_equal(libwslx_exec(w, &ex.now, NULL, &err), -E2BIG);
	/* No release had less than this one. */
	ex.now.size = offsetof(struct libwslx_exec, fds);
	assert_int_equal(libwslx_exec(w, &ex.now, NULL, &err), -EINVAL);
	libwslx_close(w);
}

struct seen {
	unsigned n;
	int cancel_fd;
};

static void on_progress(void *opaque, const char *what, uint64_t done, uint64_t total)
{
	struct seen *s = opaque;

	assert_true(what[0]);
	s->n++;
	if (s->cancel_fd >= 0)
		assert_int_equal(write(s->cancel_fd, "!", 1), 1);
}

/* The archive never ends; the program sees that it goes on, and stops it. */
static void test_cancelled_import(void **state)
{
	struct libwslx_import imp = LIBWSLX_IMPORT_INIT;
	struct libwslx_distro **list;
	struct libwslx_error err = { 0 };
	static char folder[512] = "etc/";
	int data[2], cancel[2];
	struct seen seen;
	libwslx *w;
	size_t n;

	/* A ustar header of a folder, and its checksum. */
	memcpy(folder + 100, "0000755\0000000000\0000000000\00000000000000\00000000000000\0        5", 57);
	memcpy(folder + 257, "ustar\00000", 8);
	n = 0;
	for (size_t i = 0; i < sizeof(folder); i++)
		n += (unsigned char)folder[i];
	snprintf(folder + 148, 8, "%06zo", n);
	assert_int_equal(pipe2(data, O_CLOEXEC), 0);
	assert_int_equal(pipe2(cancel, O_CLOEXEC), 0);
	assert_int_equal(write(data[1], folder, sizeof(folder)), sizeof(folder));
	seen = (struct seen) { .cancel_fd = cancel[1] };
	assert_int_equal(libwslx_open(&w, &err), 0);
	libwslx_set_progress(w, on_progress, &seen);
	libwslx_set_cancel_fd(w, cancel[0]);
	imp.name = "endless";
	imp.fd = data[0];
	assert_int_equal(libwslx_import_distro(w, &imp, &err), -ECANCELED);
	assert_true(seen.n > 0);
	assert_int_equal(libwslx_list(w, &list, &n, &err), 0);
	assert_int_equal(n, 0);
	libwslx_list_free(list);
	libwslx_close(w);
	for (int i = 0; i < 2; i++) {
		close(data[i]);
		close(cancel[i]);
	}
}

static void test_open_fails_with_a_line(void **state)
{
	struct libwslx_error err = { 0 };
	libwslx *w;

	setenv("WSLX_HOME", "/dev/null/nowhere", 1);
	assert_int_equal(libwslx_open(&w, &err), -ENOTDIR);
	assert_non_null(strstr(err.message, "/dev/null"));
	assert_int_equal(err.code, ENOTDIR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_structure_sizes),
		cmocka_unit_test(test_cancelled_import),
		cmocka_unit_test(test_open_fails_with_a_line),
	};
	char dir[] = "/tmp/wslx-api-XXXXXX", cmd[64];
	int r;

	if (!mkdtemp(dir))
		return 1;
	setenv("WSLX_HOME", dir, 1);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd) ? 1 : r;
}
