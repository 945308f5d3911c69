/*
 * New files, on file systems that can do more and less: what one lacks is
 * refused by a seccomp filter, in a process of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <dirent.h>
#include <seccomp.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "os/linux/newfile.h"

static char folder[] = "/tmp/wslx-newfile-XXXXXX";

static size_t count(void)
{
	DIR *d = opendir(".");
	size_t n = 0;

	for (const struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n;
}

static void assert_holds(const char *name, const char *text)
{
	cleanup_close int fd = open(name, O_RDONLY | O_CLOEXEC);
	char buf[16] = "";

	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) < 0 || strcmp(buf, text) != 0)
		fail_msg("%s holds '%s', not '%s'", name, buf, text);
}

static void put(const char *name, const char *text)
{
	cleanup_close int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	assert_int_equal(wslx_write_full(fd, text, strlen(text)), 0);
}

static void begin(struct wslx_newfile *f, const char *path)
{
	int r = wslx_newfile_open(f, path);

	if (r < 0)
		fail_msg("%s: %s", path, strerror(-r));
	assert_int_equal(wslx_write_full(f->fd, "new", 3), 0);
}

/* ---- What a file system may lack ---- */

enum { UNNAMED = 1, NO_REPLACE = 2, LINKS = 4, RENAME = 8 };

static int refuse(scmp_filter_ctx c, int code, int call, unsigned n, struct scmp_arg_cmp arg)
{
	return seccomp_rule_add(c, SCMP_ACT_ERRNO((uint16_t)code), call, n, arg);
}

static void lack(unsigned what)
{
	scmp_filter_ctx c = seccomp_init(SCMP_ACT_ALLOW);
	const struct scmp_arg_cmp any = SCMP_A0(SCMP_CMP_NE, UINT64_MAX, 0);
	int r = 0;

	if (what & UNNAMED)
		r |= refuse(c, EOPNOTSUPP, SCMP_SYS(openat), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, O_TMPFILE, O_TMPFILE));
	if (what & NO_REPLACE)
		r |= refuse(c, EINVAL, SCMP_SYS(renameat2), 1, SCMP_A4(SCMP_CMP_NE, 0, 0));
	if (what & LINKS)
		r |= refuse(c, EPERM, SCMP_SYS(linkat), 0, any);
	if (what & RENAME)
		r |= refuse(c, EIO, SCMP_SYS(renameat), 0, any) | refuse(c, EIO, SCMP_SYS(rename), 0, any);
	assert_int_equal(r, 0);
	assert_int_equal(seccomp_load(c), 0);
	seccomp_release(c);
}

static void cannot_sync(int fd, int code)
{
	scmp_filter_ctx c = seccomp_init(SCMP_ACT_ALLOW);

	assert_int_equal(refuse(c, code, SCMP_SYS(fsync), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)fd, 0)), 0);
	assert_int_equal(seccomp_load(c), 0);
	seccomp_release(c);
}

static void clear(void)
{
	assert_int_equal(system("rm -rf x y sub .wslx-export-*"), 0);
	assert_int_equal(count(), 0);
}

static void alone(void (*fn)(unsigned), unsigned what)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		lack(what);
		fn(what);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (status)
		fail_msg("without %u", what);
	clear();
}

/* ---- The tests ---- */

static void check(unsigned what)
{
	struct wslx_newfile f;
	struct stat st;
	bool named;

	/* One that is given up leaves nothing. */
	begin(&f, "x");
	assert_int_equal(!f.temp[0], !(what & UNNAMED));
	assert_int_equal(count(), !!(what & UNNAMED));
	wslx_newfile_close(&f);
	wslx_newfile_close(&f);
	assert_int_equal(count(), 0);

	begin(&f, "x");
	assert_int_equal(wslx_newfile_publish(&f, &named), 0);
	assert_true(named);
	wslx_newfile_close(&f);
	assert_holds("x", "new");
	assert_int_equal(stat("x", &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	assert_int_equal(st.st_nlink, 1);
	assert_int_equal(count(), 1);

	/* Somebody else's stays, and be it a link to nothing. */
	for (int i = 0; i < 2; i++) {
		begin(&f, "y");
		if (i)
			assert_int_equal(symlink("nothing", "y"), 0);
		else
			put("y", "theirs");
		assert_int_equal(wslx_newfile_publish(&f, &named), -EEXIST);
		assert_false(named);
		wslx_newfile_close(&f);
		if (!i)
			assert_holds("y", "theirs");
		assert_int_equal(count(), 2);
		assert_int_equal(unlink("y"), 0);
	}
}

static void test_every_way(void **state)
{
	alone(check, 0);
	alone(check, UNNAMED);
	/* A plain rename would replace: only if there are no links either. */
	alone(check, UNNAMED | NO_REPLACE | RENAME);
	alone(check, UNNAMED | NO_REPLACE | LINKS);
}

static void check_sync(unsigned what)
{
	struct wslx_newfile f;
	bool named;

	/* The contents come first: without them no name. */
	begin(&f, "x");
	cannot_sync(f.fd, EIO);
	assert_int_equal(wslx_newfile_publish(&f, &named), -EIO);
	assert_false(named);
	wslx_newfile_close(&f);
	assert_int_equal(count(), 0);
}

static void check_folder_sync(unsigned what)
{
	struct wslx_newfile f;
	bool named;

	begin(&f, "x");
	cannot_sync(f.dir_fd, EIO);
	assert_int_equal(wslx_newfile_publish(&f, &named), -EIO);
	assert_true(named);
	wslx_newfile_close(&f);
	assert_holds("x", "new");
	assert_int_equal(count(), 1);
}

/* Where folders cannot be synced, all of the file system is. */
static void check_other_sync(unsigned what)
{
	struct wslx_newfile f;
	bool named;

	begin(&f, "x");
	cannot_sync(f.dir_fd, EINVAL);
	assert_int_equal(wslx_newfile_publish(&f, &named), 0);
	wslx_newfile_close(&f);
	assert_holds("x", "new");
}

/* The name is as durable as the contents when the caller goes on. */
static void test_syncs(void **state)
{
	static const unsigned ways[] = { 0, UNNAMED, UNNAMED | NO_REPLACE, UNNAMED | NO_REPLACE | LINKS };

	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		alone(check_sync, ways[i]);
		alone(check_folder_sync, ways[i]);
		alone(check_other_sync, ways[i]);
	}
}

static void test_paths(void **state)
{
	static const char *const bad[] = { "", "/", "sub/", "x/" };
	cleanup_free char *path = NULL;
	struct wslx_newfile f;
	bool named;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(wslx_newfile_open(&f, bad[i]), -EINVAL);
		wslx_newfile_close(&f);
	}
	assert_int_equal(wslx_newfile_open(&f, "none/x"), -ENOENT);
	wslx_newfile_close(&f);
	/* The folder may get another name meanwhile, or not be for reading. */
	assert_int_equal(mkdir("sub", 0300), 0);
	assert_true(asprintf(&path, "%s/sub/x", folder) > 0);
	begin(&f, path);
	assert_int_equal(rename("sub", "y"), 0);
	assert_int_equal(wslx_newfile_publish(&f, &named), 0);
	wslx_newfile_close(&f);
	assert_holds("y/x", "new");
	assert_int_equal(chmod("y", 0700), 0);
	clear();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_way),
		cmocka_unit_test(test_syncs),
		cmocka_unit_test(test_paths),
	};
	int r;

	if (!mkdtemp(folder) || chdir(folder) < 0)
		return 1;
	r = cmocka_run_group_tests_name("newfile", tests, NULL, NULL);
	return rmdir(folder) < 0 ? 1 : r;
}
