/*
 * Debian root file systems.  mmdebstrap writes a tar to a pipe, the importer
 * reads it: no temporary archive, and both work at the same time.
 *
 * Trust boundary: what comes out of the pipe is made from signed packages, and
 * is imported with the same checks as any other archive.
 */
#include "image/debian.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/debian_internal.h"
#include "image/proc.h"
#include "os/linux/fd.h"

/* Beyond apt and what Debian calls essential: what one misses at once in a
 * shell (mount is not essential to Debian), and what the guest's own tools need
 * (ip, modprobe). */
#define PACKAGES "ca-certificates,iproute2,iputils-ping,kmod,less,mount,nano,netbase,procps,sudo"

#define PIPE_SIZE (1 << 20)

/* Does /etc/subuid or /etc/subgid have a line for this user? */
static bool has_subids(const char *path, const char *name, uid_t uid)
{
	cleanup_free char *text = NULL;
	char number[32];
	size_t len;

	snprintf(number, sizeof(number), "%u", uid);
	if (wslx_read_file(-1, path, (size_t)1 << 20, &text, &len) < 0)
		return false;
	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		size_t n = strcspn(line, ":");

		if (line[n] == ':' && ((n == strlen(name) && strncmp(line, name, n) == 0) ||
				       (n == strlen(number) && strncmp(line, number, n) == 0)))
			return true;
	}
	return false;
}

/* A file of the kernel's says so; its size is 0 whatever is in it. */
static bool user_namespaces_are_off(void)
{
	cleanup_close int fd = open("/proc/sys/kernel/unprivileged_userns_clone", O_RDONLY | O_CLOEXEC);
	char c;

	return fd >= 0 && read(fd, &c, 1) == 1 && c == '0';
}

/* An ordinary user needs a range of user ids to own the guest's files by. */
static int check_user(struct wslx_err *err)
{
	struct passwd *pw;

	if (geteuid() == 0)
		return 0;
	if (!wslx_proc_exists("newuidmap"))
		return wslx_err_set(err, ENOENT,
				    "newuidmap is not installed: install the package uidmap, or run as root");
	if (user_namespaces_are_off())
		return wslx_err_set(err, EPERM,
				    "user namespaces are off: run `sudo sysctl "
				    "kernel.unprivileged_userns_clone=1`, or run as root");
	pw = getpwuid(geteuid());
	if (!pw || !has_subids("/etc/subuid", pw->pw_name, pw->pw_uid) ||
	    !has_subids("/etc/subgid", pw->pw_name, pw->pw_uid))
		return wslx_err_set(err, EPERM,
				    "you have no subordinate ids: run `sudo usermod --add-subuids "
				    "100000-165535 --add-subgids 100000-165535 %s`, or run as root",
				    pw ? pw->pw_name : "USER");
	return 0;
}

struct sources {
	char *line[WSLX_DEBIAN_SOURCES];
	size_t n;
};

static void free_sources(struct sources *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->line[i]);
}

/* mmdebstrap, writing to out_fd. */
static int start(const struct wslx_debian_params *p, const char *suite, const struct sources *sources, int out_fd,
		 struct wslx_proc *proc, struct wslx_err *err)
{
	char include[1024], proxy[512];
	const char *env[] = { NULL, NULL };
	const char *argv[WSLX_DEBIAN_SOURCES + 24] = {
		"mmdebstrap",
		geteuid() == 0 ? "--mode=root" : "--mode=unshare",
		"--variant=apt",
		"--format=tar",
		include,
		/* Translated package descriptions: megabytes that nobody reads here. */
		"--aptopt=Acquire::Languages \"none\"",
		/* The host's name and resolver are none of the guest's. */
		"--customize-hook=rm -f \"$1/etc/hostname\" \"$1/etc/resolv.conf\"",
		/* As on WSL: whoever can start the distro is its root. */
		"--customize-hook=sed -i 's/^root:[^:]*:/root::/' \"$1/etc/shadow\"",
		suite,
		"-",
	};
	size_t n = 10;

	if ((size_t)snprintf(include, sizeof(include), "--include=%s%s%s", PACKAGES, p->include ? "," : "",
			     p->include ? p->include : "") >= sizeof(include))
		return wslx_err_set(err, E2BIG, "too many packages to include");
	if (p->mirror)
		argv[n++] = p->mirror;
	else
		for (size_t i = 0; i < sources->n; i++)
			argv[n++] = sources->line[i];
	if (wslx_debian_proxy(&p->task, proxy, sizeof(proxy)) == 0)
		env[0] = proxy;

	struct wslx_proc_params run = {
		.argv = argv, .package = "mmdebstrap", .env = env, .keep_fd = -1, .dir_fd = -1, .stdout_fd = out_fd
	};

	return wslx_proc_start(&run, proc, err);
}

/* What mmdebstrap says it is doing, as one of ours. */
static const char *phase(int log_fd)
{
	static const struct {
		const char *said, *what;
	} phases[] = {
		{ "I: creating tarball", "packing" },
		{ "I: cleaning package lists", "packing" },
		{ "I: installing remaining packages", "installing packages" },
		{ "I: installing essential packages", "installing packages" },
		{ "I: extracting archives", "unpacking packages" },
		{ "I: downloading packages", "downloading packages" },
	};
	char tail[8192];
	off_t len = lseek(log_fd, 0, SEEK_END);
	off_t from = len > (off_t)sizeof(tail) - 1 ? len - (off_t)sizeof(tail) + 1 : 0;
	ssize_t n = len > 0 ? pread(log_fd, tail, sizeof(tail) - 1, from) : 0;
	static const char *last = "looking for packages";

	tail[n > 0 ? n : 0] = 0;
	if (len <= 0 || from == 0)
		last = "looking for packages";
	for (size_t i = 0; i < ARRAY_SIZE(phases); i++)
		if (strstr(tail, phases[i].said)) {
			last = phases[i].what;
			break;
		}
	return last;
}

/* Where mmdebstrap unpacks, which may be another disk than ours. */
static const char *work_folder(void)
{
	const char *dir = getenv("TMPDIR");

	return dir && *dir ? dir : "/tmp";
}

/* Until the tar begins, or the program has ended. */
static int await_tar(const struct wslx_debian_params *p, const struct wslx_proc *proc, int fd, struct wslx_err *err)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	while (poll(&pfd, 1, 100) <= 0) {
		struct wslx_progress now = { .what = phase(proc->log_fd) };

		if (wslx_task_cancelled(&p->task))
			return wslx_err_set(err, ECANCELED, "interrupted");
		wslx_task_report(&p->task, &now);
	}
	return 0;
}

static int install(const struct wslx_debian_params *p, const char *suite, const struct sources *sources,
		   struct wslx_import_result *ret, struct wslx_err *err)
{
	cleanup_with(wslx_proc_end) struct wslx_proc proc = WSLX_PROC_NONE;
	cleanup_close int in = -1;
	cleanup_close int out = -1;
	struct wslx_err import_err = { 0 };
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return wslx_err_sys(err, errno, "cannot start mmdebstrap");
	in = fds[0];
	out = fds[1];
	/* More in flight, fewer switches between the two; not a must. */
	(void)fcntl(in, F_SETPIPE_SZ, PIPE_SIZE);
	int r = start(p, suite, sources, out, &proc, err);

	wslx_close(&out);
	if (r == 0)
		r = await_tar(p, &proc, in, err);
	if (r < 0)
		return r;

	struct wslx_import_params import = {
		.in_fd = in,
		.in_name = "mmdebstrap",
		.out_fd = p->out_fd,
		.place = p->place,
		.size = p->size,
		.task = p->task,
	};
	int imported = wslx_import(&import, ret, &import_err);

	if (imported == -ECANCELED || imported == -ENOSPC) {
		r = wslx_err_set(err, import_err.code, "%s", import_err.msg);
		return r;
	}
	/* A broken pipe ends it when we gave up; its own failure explains ours. */
	wslx_close(&in);
	r = wslx_proc_wait(&proc, &p->task, err);
	if (r == -ENOSPC)
		wslx_err_prefix(err, "the file system of %.400s, where mmdebstrap works, is full (TMPDIR says where)",
				work_folder());
	if (r == 0 && imported < 0)
		r = wslx_err_set(err, import_err.code, "%s", import_err.msg);
	return r;
}

int wslx_install_debian(const struct wslx_debian_params *p, struct wslx_import_result *ret, struct wslx_err *err)
{
	cleanup_with(free_sources) struct sources sources = { 0 };
	char suite[128];
	int r;

	wslx_debian_suite(suite, sizeof(suite));
	if (p->suite) {
		if (!wslx_debian_name_ok(p->suite))
			return wslx_err_set(err, EINVAL, "'%.64s' is no name of a Debian release", p->suite);
		snprintf(suite, sizeof(suite), "%s", p->suite);
	}
	if (!wslx_proc_exists("mmdebstrap"))
		return wslx_err_set(err, ENOENT,
				    "mmdebstrap is not installed: install the package mmdebstrap, or "
				    "import a root file system with `wslx import NAME FILE`");
	r = check_user(err);
	if (r < 0)
		return r;
	if (!p->mirror && wslx_debian_sources(suite, &p->task, sources.line, &sources.n) == -ECANCELED)
		return wslx_err_set(err, ECANCELED, "interrupted");
	return install(p, suite, &sources, ret, err);
}
