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
	struct libwslx_distro *list;
	struct libwslx_import imp = { .size = sizeof(imp), .name = "x", .fd = -1 };
	struct libwslx_exec ex = { .size = sizeof(ex), .fds = { -1, -1, -1 } };
	libwslx *w;
	size_t n = 1;
	int status;

	assert_int_equal(libwslx_open(&w, &err), 0);
	assert_int_equal(libwslx_list(w, &list, &n, &err), 0);
	assert_int_equal(n, 0);
	libwslx_list_free(list);
	assert_int_equal(libwslx_start(w, "nosuch", &err), -ENOENT);
	assert_non_null(strstr(err.message, "nosuch"));
	assert_int_equal(libwslx_start(w, NULL, &err), -ENOENT);
	assert_int_equal(libwslx_terminate(w, "nosuch", 0, NULL), -ENOENT);
	assert_int_equal(libwslx_unregister(w, NULL, &err), -EINVAL);
	assert_int_equal(libwslx_import_distro(w, &imp, &err), -EINVAL);
	imp.size = 1;
	assert_int_equal(libwslx_import_distro(w, &imp, &err), -EINVAL);
	assert_int_equal(libwslx_exec(w, &ex, &status, &err), -EINVAL);
	ex.flags = 64;
	assert_int_equal(libwslx_exec(w, &ex, &status, &err), -EINVAL);
	assert_int_equal(libwslx_exec(w, NULL, &status, &err), -EINVAL);
	libwslx_close(w);
	libwslx_close(NULL);
	assert_true(libwslx_version()[0]);
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
