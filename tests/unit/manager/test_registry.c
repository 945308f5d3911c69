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

#include "base/cleanup.h"
#include "home.h"
#include "manager/distros.h"
#include "manager/kernels.h"
#include "manager/lock.h"
#include "os/linux/fd.h"

static void test_names(void **state)
{
	static const char *const bad[] = { "", ".", "..", "a/b", "a b", "-x", ".hidden", ".tmp-x", "\303\251" };
	char longest[WSLX_NAME_MAX + 2];
	struct wslx_err err = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(wslx_registry_check_name(bad[i], &err), -EINVAL);
		assert_true(err.msg[0]);
	}
	memset(longest, 'x', sizeof(longest));
	longest[WSLX_NAME_MAX + 1] = '\0';
	assert_int_equal(wslx_registry_check_name(longest, NULL), -EINVAL);
	longest[WSLX_NAME_MAX] = '\0';
	assert_int_equal(wslx_registry_check_name(longest, NULL), 0);
}

static void test_unique_without_case(void **state)
{
	struct home *h = *state;
	char found[WSLX_NAME_MAX + 1];
	struct wslx_err err = { 0 };
	struct wslx_builder b;

	home_add_distro(h, "Debian");
	assert_int_equal(wslx_builder_begin(h->m, WSLX_STORE_DISTROS, "dEBIAN", &b, &err), -EEXIST);
	assert_non_null(strstr(err.msg, "Debian"));
	wslx_builder_end(&b);
	assert_int_equal(wslx_store_lookup(h->m, WSLX_STORE_DISTROS, "debian", found), 0);
	assert_string_equal(found, "Debian");
	/* Kernels have names of their own. */
	assert_int_equal(wslx_builder_begin(h->m, WSLX_STORE_KERNELS, "debian", &b, NULL), 0);
	wslx_builder_end(&b);
	assert_int_equal(home_count(h, WSLX_STORE_KERNELS), 0);
}

/* Two imports of one name: who is whole first wins. */
static void test_name_taken_meanwhile(void **state)
{
	struct home *h = *state;
	struct wslx_builder a, b;
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_builder_begin(h->m, WSLX_STORE_IMAGES, "one", &a, NULL), 0);
	assert_int_equal(wslx_builder_begin(h->m, WSLX_STORE_IMAGES, "ONE", &b, NULL), 0);
	assert_int_equal(wslx_builder_commit(&b, "x.json", "{}\n", NULL), 0);
	assert_int_equal(wslx_builder_commit(&a, "x.json", "{}\n", &err), -EEXIST);
	wslx_builder_end(&a);
	wslx_builder_end(&b);
	assert_int_equal(home_count(h, WSLX_STORE_IMAGES), 1);
}

static void test_leftovers_are_swept(void **state)
{
	struct home *h = *state;
	struct wslx_builder live;
	int status;
	pid_t pid;

	assert_int_equal(wslx_builder_begin(h->m, WSLX_STORE_DISTROS, "live", &live, NULL), 0);
	pid = fork();
	if (pid == 0) {
		struct wslx_manager *m;
		struct wslx_builder b;

		/* Dies in the middle of an import. */
		if (wslx_manager_open(&m, NULL) < 0 ||
		    wslx_builder_begin(m, WSLX_STORE_DISTROS, "dead", &b, NULL) < 0 ||
		    wslx_statefile_write(b.dir_fd, "disk.img", "x", 1, NULL) < 0)
			_exit(1);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(openat(h->m->data_fd, ".tmp-config", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(home_count(h, WSLX_STORE_DISTROS), 2);
	home_reopen(h);
	/* The dead one's is gone, the live one's is not. */
	assert_int_equal(home_count(h, WSLX_STORE_DISTROS), 1);
	assert_int_equal(faccessat(h->m->data_fd, ".tmp-config", F_OK, 0), -1);
	live.m = h->m;
	assert_int_equal(wslx_builder_commit(&live, WSLX_DISTRO_JSON, "{}\n", NULL), 0);
	wslx_builder_end(&live);
}

static void test_default(void **state)
{
	struct home *h = *state;
	char name[WSLX_NAME_MAX + 1];
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_distro_default(h->m, name, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "install"));
	home_add_distro(h, "b");
	assert_int_equal(wslx_distro_default(h->m, name, NULL), 0);
	assert_string_equal(name, "b");
	assert_int_equal(wslx_distro_set_default(h->m, "B", NULL), 0);
	home_add_distro(h, "a");
	assert_int_equal(wslx_distro_default(h->m, name, NULL), 0);
	assert_string_equal(name, "b");
	assert_int_equal(wslx_distro_set_default(h->m, "nosuch", &err), -ENOENT);
	assert_non_null(strstr(err.msg, "nosuch"));
	/* Another one is promoted when it goes. */
	assert_int_equal(wslx_distro_unregister(h->m, "b", NULL), 0);
	assert_int_equal(wslx_distro_default(h->m, name, NULL), 0);
	assert_string_equal(name, "a");
	assert_int_equal(wslx_distro_unregister(h->m, "b", &err), -ENOENT);
	assert_int_equal(home_count(h, WSLX_STORE_DISTROS), 1);
}

static void test_remove_is_refused_while_locked(void **state)
{
	struct home *h = *state;
	cleanup_close int dir = -1;
	int lock;

	home_add_distro(h, "busy");
	dir = wslx_store_open(h->m, WSLX_STORE_DISTROS, "busy");
	lock = wslx_lock_take(dir, WSLX_LOCK_FILE, WSLX_LOCK_SHARED, false);
	assert_true(lock >= 0);
	assert_int_equal(wslx_store_remove(h->m, WSLX_STORE_DISTROS, "busy", NULL, NULL, NULL), -EBUSY);
	assert_int_equal(home_count(h, WSLX_STORE_DISTROS), 1);
	close(lock);
	assert_int_equal(wslx_store_remove(h->m, WSLX_STORE_DISTROS, "busy", NULL, NULL, NULL), 0);
	assert_int_equal(home_count(h, WSLX_STORE_DISTROS), 0);
}

static void test_damaged_config_says_how_to_mend(void **state)
{
	struct home *h = *state;
	char name[WSLX_NAME_MAX + 1];
	struct wslx_err err = { 0 };

	home_add_distro(h, "a");
	assert_int_equal(wslx_statefile_write(h->m->data_fd, WSLX_CONFIG_JSON, "{ not", 5, NULL), 0);
	assert_int_equal(wslx_distro_default(h->m, name, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "data/config.json: "));
	assert_non_null(strstr(err.msg, "JSON"));
	assert_non_null(strstr(err.msg, "move the file away"));
	/* As it says. */
	assert_int_equal(renameat(h->m->data_fd, WSLX_CONFIG_JSON, h->m->data_fd, "aside"), 0);
	assert_int_equal(wslx_distro_set_default(h->m, "a", NULL), 0);
}

static void test_damaged_description_is_named(void **state)
{
	struct home *h = *state;
	struct wslx_distro *d = calloc(1, sizeof(*d));
	cleanup_close int dir = -1;
	struct wslx_err err = { 0 };

	home_add_distro(h, "torn");
	home_add_distro(h, "whole");
	dir = wslx_store_open(h->m, WSLX_STORE_DISTROS, "torn");
	assert_int_equal(wslx_statefile_write(dir, WSLX_DISTRO_JSON, "{ not", 5, NULL), 0);
	assert_int_equal(wslx_distro_find(h->m, "torn", d, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "torn/distro.json"));
	assert_int_equal(wslx_distro_find(h->m, "whole", d, NULL), 0);
	/* Settings survive being saved. */
	assert_int_equal(wslx_settings_set(&d->settings, "memory", "256M", NULL), 0);
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	memset(d, 0, sizeof(*d));
	assert_int_equal(wslx_distro_find(h->m, "WHOLE", d, NULL), 0);
	assert_true(d->settings.memory == 256 * WSLX_MIB);
	/* And a damaged one can be got rid of. */
	assert_int_equal(wslx_distro_unregister(h->m, "torn", NULL), 0);
	free(d);
}

static void test_bad_archive_leaves_nothing(void **state)
{
	struct home *h = *state;
	char path[128];
	cleanup_close int fd = -1;
	struct wslx_new_distro p = { .name = "noise", .settings = &wslx_settings_default, .in_name = "noise.tar" };
	struct wslx_err err = { 0 };

	snprintf(path, sizeof(path), "%s/noise.tar", h->dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(wslx_write_full(fd, "certainly no archive", 20), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	p.in_fd = fd;
	assert_true(wslx_distro_create(h->m, &p, NULL, &err) < 0);
	assert_non_null(strstr(err.msg, "noise.tar"));
	assert_int_equal(home_count(h, WSLX_STORE_DISTROS), 0);
}

static void test_no_kernel(void **state)
{
	struct home *h = *state;
	char name[WSLX_NAME_MAX + 1];
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_kernel_choose(h->m, NULL, name, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "kernel"));
	assert_int_equal(wslx_kernel_choose(h->m, "nosuch", name, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "nosuch"));
	assert_true(wslx_kernel_remove(h->m, "nosuch", false, &err) < 0);
}

static void add_kernel(struct home *h, const char *name)
{
	struct wslx_kernel_info info = { .version = "6.1", .source = "none", .has_vmlinux = true };
	cleanup_free char *text = wslx_kernel_encode(&info);
	struct wslx_builder b;

	assert_int_equal(wslx_builder_begin(h->m, WSLX_STORE_KERNELS, name, &b, NULL), 0);
	assert_int_equal(wslx_builder_commit(&b, WSLX_KERNEL_JSON, text, NULL), 0);
	wslx_builder_end(&b);
}

/* Named by its settings, or what it takes when they name none. */
static void test_kernel_in_use(void **state)
{
	struct home *h = *state;
	struct wslx_distro *d = calloc(1, sizeof(*d));
	struct wslx_kernel_users users;
	struct wslx_err err = { 0 };

	add_kernel(h, "mine");
	home_add_distro(h, "silent");
	home_add_distro(h, "named");
	assert_int_equal(wslx_distro_find(h->m, "named", d, NULL), 0);
	assert_int_equal(wslx_settings_set(&d->settings, "kernel", "MINE", NULL), 0);
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	free(d);
	assert_int_equal(wslx_kernel_remove(h->m, "Mine", false, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "the kernel 'mine' is that of 'named', 'silent'; give them"));
	assert_non_null(strstr(err.msg, "--force"));
	/* Another one becomes the default: one distro still names the first. */
	add_kernel(h, WSLX_KERNEL_DEFAULT);
	assert_int_equal(wslx_kernel_remove(h->m, "mine", false, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "is that of 'named'; give it"));
	assert_int_equal(wslx_kernel_remove(h->m, "mine", true, &err), 0);
	assert_int_equal(wslx_kernel_users(h->m, "", &users, NULL), 0);
	assert_int_equal(users.n, 1);
	assert_string_equal(users.text, "'named'");
	assert_int_equal(wslx_kernel_remove(h->m, WSLX_KERNEL_DEFAULT, false, &err), -EBUSY);
	assert_int_equal(wslx_distro_unregister(h->m, "silent", NULL), 0);
	assert_int_equal(wslx_kernel_remove(h->m, WSLX_KERNEL_DEFAULT, false, &err), 0);
	assert_int_equal(home_count(h, WSLX_STORE_KERNELS), 0);
}

/* However many there are, the line ends. */
static void test_kernel_of_many(void **state)
{
	struct home *h = *state;
	struct wslx_kernel_users users;
	char name[WSLX_NAME_MAX + 1];

	add_kernel(h, "k");
	for (int i = 0; i < 7; i++) {
		memset(name, 'a', 40);
		name[40] = '\0';
		name[0] = (char)('0' + i);
		home_add_distro(h, name);
	}
	assert_int_equal(wslx_kernel_users(h->m, "k", &users, NULL), 0);
	assert_int_equal(users.n, 7);
	assert_non_null(strstr(users.text, "' and 2 more"));
}

static void test_locks(void **state)
{
	struct home *h = *state;
	int a = wslx_lock_take(h->m->data_fd, "l", WSLX_LOCK_SHARED, false), b;

	assert_int_equal(wslx_lock_held(h->m->data_fd, "absent"), 0);
	assert_int_equal(wslx_lock_held(h->m->data_fd, "l"), 1);
	b = wslx_lock_take(h->m->data_fd, "l", WSLX_LOCK_SHARED, false);
	assert_true(a >= 0 && b >= 0);
	assert_int_equal(wslx_lock_take(h->m->data_fd, "l", WSLX_LOCK_EXCLUSIVE, false), -EAGAIN);
	close(a);
	close(b);
	assert_int_equal(wslx_lock_held(h->m->data_fd, "l"), 0);
}

/* ---- Where things live ---- */

static void test_paths(void **state)
{
	struct home *h = *state;
	char data[128], run[128];
	struct wslx_paths p, q;
	char other[128];
	struct stat st;

	snprintf(data, sizeof(data), "%s/xdg-data", h->dir);
	snprintf(run, sizeof(run), "%s/xdg-run", h->dir);
	assert_int_equal(mkdir(run, 0700), 0);
	unsetenv("WSLX_HOME");
	setenv("XDG_DATA_HOME", data, 1);
	setenv("XDG_STATE_HOME", data, 1);
	setenv("XDG_RUNTIME_DIR", run, 1);
	assert_int_equal(wslx_paths_open(&p, NULL), 0);
	assert_memory_equal(p.data, data, strlen(data));
	assert_memory_equal(p.run, run, strlen(run));
	assert_int_equal(stat(p.run, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	/* Machines of the same name in other data folders are others; Portal's regions are the user's. */
	snprintf(other, sizeof(other), "%s/xdg-other", h->dir);
	setenv("XDG_DATA_HOME", other, 1);
	assert_int_equal(wslx_paths_open(&q, NULL), 0);
	assert_string_not_equal(p.run, q.run);
	assert_string_equal(p.shared, q.shared);
	wslx_paths_free(&q);
	setenv("XDG_DATA_HOME", data, 1);
	assert_int_equal(wslx_paths_open(&q, NULL), 0);
	assert_string_equal(p.run, q.run);
	wslx_paths_free(&q);
	wslx_paths_free(&p);
	/* A runtime folder that others can enter is not used. */
	assert_int_equal(chmod(run, 0755), 0);
	assert_int_equal(wslx_paths_open(&p, NULL), 0);
	assert_memory_not_equal(p.run, run, strlen(run));
	wslx_paths_free(&p);
	unsetenv("XDG_DATA_HOME");
	unsetenv("XDG_STATE_HOME");
	unsetenv("XDG_RUNTIME_DIR");
}

static void test_remove_tree_does_not_follow_links(void **state)
{
	struct home *h = *state;
	int dir = h->m->data_fd;

	assert_int_equal(mkdirat(dir, "kept", 0700), 0);
	close(openat(dir, "kept/file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(mkdirat(dir, "tree", 0700), 0);
	assert_int_equal(mkdirat(dir, "tree/sub", 0700), 0);
	assert_int_equal(symlinkat("../../kept", dir, "tree/sub/link"), 0);
	assert_int_equal(wslx_remove_tree(dir, "tree"), 0);
	assert_int_equal(faccessat(dir, "tree", F_OK, 0), -1);
	assert_int_equal(faccessat(dir, "kept/file", F_OK, 0), 0);
	assert_int_equal(wslx_remove_tree(dir, "nothing"), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, home_setup, home_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		T(test_unique_without_case),
		T(test_name_taken_meanwhile),
		T(test_leftovers_are_swept),
		T(test_default),
		T(test_remove_is_refused_while_locked),
		T(test_damaged_config_says_how_to_mend),
		T(test_damaged_description_is_named),
		T(test_bad_archive_leaves_nothing),
		T(test_no_kernel),
		T(test_kernel_in_use),
		T(test_kernel_of_many),
		T(test_locks),
		T(test_paths),
		T(test_remove_tree_does_not_follow_links),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
