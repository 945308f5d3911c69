/*
 * Debian as a source, with stand-ins for its programs: what they are asked,
 * what happens when they fail, are missing, or must be stopped.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/debian.h"
#include "image/proc.h"

struct world {
	char root[64];
	char bin[96];
	char *path_before;
};

static void put(struct world *w, const char *name, mode_t mode, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", w->root, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static char *get(struct world *w, const char *name)
{
	static char buf[8192];
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", w->root, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);

	buf[n > 0 ? n : 0] = 0;
	if (fd >= 0)
		close(fd);
	return buf;
}

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	char path[8192];
	struct tar t;
	char tar[20000];

	assert_non_null(w);
	strcpy(w->root, "/tmp/wslx-debian-XXXXXX");
	assert_non_null(mkdtemp(w->root));
	snprintf(w->bin, sizeof(w->bin), "%s/bin", w->root);
	mkdir(w->bin, 0700);
	w->path_before = strdup(getenv("PATH"));
	snprintf(path, sizeof(path), "%s:%s", w->bin, w->path_before);
	setenv("PATH", path, 1);
	setenv("W", w->root, 1);
	tar_begin(&t, "pax", "none");
	tar_root(&t);
	tar_file(&t, "etc/hostname", 0644, "x");
	int fd = tar_end(&t);
	ssize_t n = read(fd, tar, sizeof(tar));

	close(fd);
	snprintf(path, sizeof(path), "%s/root.tar", w->root);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_int_equal(write(fd, tar, (size_t)n), n);
	close(fd);
	/* The host's sources: one Debian, one not, one of another release. */
	put(w, "bin/apt-get", 0755,
	    "#!/bin/sh\n"
	    "echo \"$@\" >>$W/apt.args\n"
	    "case \"$*\" in\n"
	    "indextargets*) cat $W/targets;;\n"
	    "*download*) [ -e $W/have-lists ] || [ \"${*#*Dir::State::lists=}\" != \"$*\" ] || exit 100\n"
	    "  for p; do :; done; echo deb >${p}_1_amd64.deb;;\n"
	    "*update*) [ ! -e $W/offline ] || { echo 'E: Could not resolve host' >&2; exit 100; };;\n"
	    "esac\n");
	put(w, "bin/apt-cache", 0755,
	    "#!/bin/sh\n"
	    "[ ! -e $W/offline ] || { echo 'E: No packages found' >&2; exit 100; }\n"
	    "echo Package: x\n"
	    "echo 'Depends: foo, linux-image-6.1.0-9-cloud-amd64 (= 6.1.9-1)'\n");
	put(w, "bin/apt-config", 0755, "#!/bin/sh\n[ ! -e $W/proxy ] || cat $W/proxy\n");
	put(w, "targets", 0644,
	    "http://m.example/debian/ trixie main Debian\n"
	    "http://m.example/debian/ trixie-updates main Debian\n"
	    "http://m.example/debian-security/ trixie-security main Debian\n"
	    "http://m.example/debian/ bookworm main Debian\n"
	    "http://other.example/apt/ trixie main Other\n"
	    "http://localhost:3142/debian/ trixie contrib Debian\n");
	put(w, "bin/mmdebstrap", 0755,
	    "#!/bin/sh\n"
	    "for a; do echo \"$a\"; done >$W/mm.args; echo \"$http_proxy\" >$W/mm.proxy\n"
	    "echo 'I: downloading packages with apt...' >&2\n"
	    "[ ! -e $W/fail ] || { echo 'E: it went wrong' >&2; echo I: bye >&2; exit 25; }\n"
	    "[ ! -e $W/full ] || { echo 'tar: a: Cannot write: No space left on device' >&2; echo 'E: tar failed' >&2; "
	    "exit 1; }\n"
	    "[ ! -e $W/hang ] || { sleep 1000 & echo $$ $! >$W/pids; wait; }\n"
	    "cat $W/root.tar\n"
	    "[ ! -e $W/fail-late ] || { echo 'E: late' >&2; exit 1; }\n");
	/* So that it does not matter who runs the test. */
	put(w, "bin/newuidmap", 0755, "#!/bin/sh\n");
	*state = w;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int tear_down(void **state)
{
	struct world *w = *state;

	setenv("PATH", w->path_before, 1);
	nftw(w->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(w->path_before);
	free(w);
	return 0;
}

/* An ordinary user without subordinate ids gets no further than being told. */
static bool may_install(struct world *w, struct image *im)
{
	if (geteuid() == 0 || im->r != -EPERM)
		return true;
	assert_non_null(strstr(im->err.msg, "subordinate ids"));
	image_free(im);
	return false;
}

static void install(struct image *im, struct wslx_debian_params *p)
{
	memset(im, 0, sizeof(*im));
	im->fd = make_temp();
	snprintf(im->path, sizeof(im->path), "/proc/self/fd/%d", im->fd);
	p->out_fd = im->fd;
	p->size = 64 * WSLX_MIB;
	im->r = wslx_install_debian(p, &im->res, &im->err);
}

static void test_install(void **state)
{
	struct world *w = *state;
	static const char *const wanted[] = { ",iproute2,", ",less,", ",mount,", ",procps," };
	struct wslx_debian_params p = { .suite = "trixie", .include = "vim" };
	struct image im;

	put(w, "proxy", 0644, "P='http://proxy.example:3128'\n");
	install(&im, &p);
	if (!may_install(w, &im))
		return;
	image_check(&im);
	image_assert_text(&im, "/etc/hostname", "x");
	image_free(&im);
	char *args = get(w, "mm.args");

	assert_non_null(strstr(args, "\ntrixie\n-\ndeb http://m.example/debian/ trixie main\n"
				     "deb http://m.example/debian/ trixie-updates main\n"
				     "deb http://m.example/debian-security/ trixie-security main\n"));
	assert_null(strstr(args, "bookworm"));
	assert_null(strstr(args, "other.example"));
	assert_null(strstr(args, "localhost"));
	assert_non_null(strstr(args, ",vim\n"));
	/* What apt's own packages lack, and everybody types. */
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		assert_non_null(strstr(args, wanted[i]));
	assert_string_equal(get(w, "mm.proxy"), "http://proxy.example:3128\n");

	/* Not the host's: mmdebstrap's own idea of the mirror, or the one given. */
	p.suite = "sid";
	install(&im, &p);
	image_check(&im);
	image_free(&im);
	assert_null(strstr(get(w, "mm.args"), "m.example"));
	p.mirror = "http://mine.example/debian";
	install(&im, &p);
	image_check(&im);
	image_free(&im);
	assert_non_null(strstr(get(w, "mm.args"), "\nsid\n-\nhttp://mine.example/debian\n"));

	p.suite = "--help";
	install(&im, &p);
	image_assert_fails(&im, EINVAL, "no name of a Debian release");
	image_free(&im);
}

static void test_failures(void **state)
{
	struct world *w = *state;
	struct wslx_debian_params p = { .suite = "trixie" };
	struct image im;
	char path[256];

	put(w, "fail", 0644, "");
	install(&im, &p);
	if (!may_install(w, &im))
		return;
	image_assert_fails(&im, ECHILD, "mmdebstrap failed: it went wrong");
	image_free(&im);
	snprintf(path, sizeof(path), "%s/fail", w->root);
	unlink(path);

	/* Where it unpacks may be another disk than that of distributions. */
	put(w, "full", 0644, "");
	setenv("TMPDIR", "/tmp/", 1);
	install(&im, &p);
	image_assert_fails(&im, ENOSPC,
			   "the file system of /tmp/, where mmdebstrap works, is full (TMPDIR says where): mmdebstrap "
			   "failed: tar failed");
	unsetenv("TMPDIR");
	image_free(&im);
	snprintf(path, sizeof(path), "%s/full", w->root);
	unlink(path);

	/* A whole tar, and then a failure, is a failure. */
	put(w, "fail-late", 0644, "");
	install(&im, &p);
	image_assert_fails(&im, ECHILD, "mmdebstrap failed: late");
	image_free(&im);

	snprintf(path, sizeof(path), "%s/bin/mmdebstrap", w->root);
	put(w, "bin/mmdebstrap", 0755, "#!/bin/sh\nkill -9 $$\n");
	install(&im, &p);
	image_assert_fails(&im, ECHILD, "mmdebstrap was killed by signal 9");
	image_free(&im);

	put(w, "bin/mmdebstrap", 0755, "#!/bin/sh\nexit 0\n");
	install(&im, &p);
	image_assert_fails(&im, EINVAL, "the file is empty");
	image_free(&im);
}

static volatile sig_atomic_t cancel;

/* Stops as soon as the program has started its child. */
static void stop_when_running(const struct wslx_progress *now, void *opaque)
{
	struct world *w = opaque;

	if (strchr(get(w, "pids"), '\n'))
		cancel = 1;
}

static void test_cancel(void **state)
{
	struct world *w = *state;
	struct wslx_debian_params p = { .suite = "trixie",
					.task = { .progress = stop_when_running, .opaque = w, .cancel = &cancel } };
	struct image im;
	int a, b;

	cancel = 0;
	put(w, "hang", 0644, "");
	install(&im, &p);
	if (!may_install(w, &im))
		return;
	assert_int_equal(im.r, -ECANCELED);
	image_free(&im);
	assert_int_equal(sscanf(get(w, "pids"), "%d %d", &a, &b), 2);
	/* Its children are gone with it: at most a zombie that init has yet to reap. */
	assert_int_equal(kill(a, 0), -1);
	for (int i = 0; i < 2000 && kill(b, 0) == 0; i++) {
		char stat[64];
		char text[256] = "";

		snprintf(stat, sizeof(stat), "/proc/%d/stat", b);
		FILE *f = fopen(stat, "re");

		if (!f || !fgets(text, sizeof(text), f) || strstr(text, ") Z ")) {
			if (f)
				fclose(f);
			break;
		}
		fclose(f);
		usleep(1000);
		assert_int_not_equal(i, 1999);
	}
}

static void test_fetch(void **state)
{
	struct world *w = *state;
	int dir = open(w->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct wslx_err err = { 0 };
	char *name = NULL;

	/* With the host's lists. */
	put(w, "have-lists", 0644, "");
	assert_int_equal(wslx_kernel_fetch_debian("cloud", dir, NULL, &name, &err), 0);
	assert_string_equal(name, "linux-image-6.1.0-9-cloud-amd64_1_amd64.deb");
	assert_null(strstr(get(w, "apt.args"), "update"));
	unlinkat(dir, name, 0);
	free(name);

	/* Without: lists of our own, gone afterwards. */
	unlinkat(dir, "have-lists", 0);
	assert_int_equal(wslx_kernel_fetch_debian("standard", dir, NULL, &name, &err), 0);
	assert_non_null(strstr(get(w, "apt.args"), "update"));
	assert_int_equal(faccessat(dir, ".staging", F_OK, 0), -1);
	free(name);

	put(w, "offline", 0644, "");
	assert_int_equal(wslx_kernel_fetch_debian("cloud", dir, NULL, &name, &err), -ECHILD);
	assert_non_null(strstr(err.msg, "linux-image-cloud-amd64: apt-cache failed: No packages found"));
	assert_non_null(strstr(err.msg, "sudo apt-get update"));
	assert_int_equal(wslx_kernel_fetch_debian("-o=x", dir, NULL, &name, &err), -EINVAL);
	close(dir);
}

static void test_missing_programs(void **state)
{
	static const char *const missing[] = { "wslx-no-such-program", NULL };
	struct wslx_proc_params run = {
		.argv = missing, .package = "no-package", .keep_fd = -1, .dir_fd = -1, .stdout_fd = -1
	};
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_proc_run(&run, NULL, NULL, &err), -ENOENT);
	assert_string_equal(err.msg, "wslx-no-such-program is not installed: install the package no-package");
}

static void test_proc_output(void **state)
{
	static const char *const argv[] = { "sh", "-c", "echo out; echo $X; echo noise >&2; ls /proc/self/fd", NULL };
	static const char *const env[] = { "X=given", NULL };
	struct wslx_proc_params run = {
		.argv = argv, .package = "dash", .env = env, .keep_fd = -1, .dir_fd = -1, .stdout_fd = -1
	};
	int extra = open("/dev/null", O_RDONLY);
	char *out;

	/* Descriptors of ours stay ours, marked close-on-exec or not. */
	assert_int_equal(wslx_proc_run(&run, NULL, &out, NULL), 0);
	assert_string_equal(out, "out\ngiven\n0\n1\n2\n3\n");
	free(out);
	close(extra);
}

/* Without its status nobody knows whether mke2fs did its work. */
static void test_proc_without_sigchld(void **state)
{
	static const char *const argv[] = { "true", NULL };
	struct wslx_proc_params run = {
		.argv = argv, .package = "coreutils", .keep_fd = -1, .dir_fd = -1, .stdout_fd = -1
	};
	struct wslx_err err = { 0 };

	signal(SIGCHLD, SIG_IGN);
	assert_int_equal(wslx_proc_run(&run, NULL, NULL, &err), -ECHILD);
	signal(SIGCHLD, SIG_DFL);
	assert_non_null(strstr(err.msg, "SIGCHLD"));
	assert_int_equal(wslx_proc_run(&run, NULL, NULL, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_install, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_failures, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_fetch, set_up, tear_down),
		cmocka_unit_test(test_missing_programs),
		cmocka_unit_test(test_proc_output),
		cmocka_unit_test(test_proc_without_sigchld),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
