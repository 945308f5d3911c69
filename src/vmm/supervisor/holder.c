#include "vmm/supervisor/holder.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define TITLE "wslx-vmm ["
#define LOCK_NAME "/lock"

/* ---- Looking ---- */

/* A file of /proc/PID as text; "" if it may not be read. */
static void read_proc(const char *pid, const char *file, char *buf, size_t size)
{
	char path[64];
	cleanup_close int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%.15s/%s", pid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, size - 1);
	buf[n > 0 ? n : 0] = '\0';
}

/* The machine of a supervisor, by the title that it was started with. */
static void read_machine(const char *pid, char ret[WSLX_NAME_MAX + 1])
{
	char title[sizeof(TITLE) + WSLX_NAME_MAX + 2], *end;

	ret[0] = '\0';
	read_proc(pid, "cmdline", title, sizeof(title));
	if (strncmp(title, TITLE, strlen(TITLE)) != 0)
		return;
	end = strchr(title, ']');
	if (!end || end[1])
		return;
	*end = '\0';
	if (wslx_name_ok(title + strlen(TITLE)))
		strcpy(ret, title + strlen(TITLE));
}

/* path is RUN/MACHINE/lock: RUN is the runtime folder. */
static bool take_run(const char *path, const char *machine, char *ret, size_t size)
{
	size_t n = strlen(path), m = strlen(machine), l = strlen(LOCK_NAME);

	if (n <= m + l + 1 || strcmp(path + n - l, LOCK_NAME) != 0)
		return false;
	n -= l + m;
	if (strncmp(path + n, machine, m) != 0 || path[n - 1] != '/' || n - 1 >= size)
		return false;
	memcpy(ret, path, n - 1);
	ret[n - 1] = '\0';
	return true;
}

/* Does the process have the file open?  On the way: where its machine lock is. */
static bool look_at(const char *pid, const struct stat *want, struct wslx_holder *h)
{
	char path[PATH_MAX];
	struct dirent *e;
	bool found = false;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%.15s/fd", pid);
	d = opendir(path);
	if (!d)
		return false;
	read_machine(pid, h->machine);
	while ((e = readdir(d))) {
		struct stat st;
		ssize_t n = e->d_name[0] == '.' ? -1 : readlinkat(dirfd(d), e->d_name, path, sizeof(path) - 1);

		if (n <= 0)
			continue;
		path[n] = '\0';
		if (h->machine[0] && !h->run[0])
			(void)take_run(path, h->machine, h->run, sizeof(h->run));
		if (!found && fstatat(dirfd(d), e->d_name, &st, 0) == 0)
			found = st.st_dev == want->st_dev && st.st_ino == want->st_ino;
	}
	closedir(d);
	return found;
}

void wslx_holder_find(int fd, struct wslx_holder *ret)
{
	DIR *proc = opendir("/proc");
	char self[16];
	struct dirent *e;
	struct stat st;

	*ret = (struct wslx_holder) { 0 };
	snprintf(self, sizeof(self), "%d", (int)getpid());
	/* A supervisor tells more than its children do, which have the file too. */
	while (proc && fstat(fd, &st) == 0 && !ret->machine[0] && (e = readdir(proc))) {
		struct wslx_holder h = { 0 };

		if (!isdigit((unsigned char)e->d_name[0]) || strlen(e->d_name) >= sizeof(h.pid) ||
		    !strcmp(e->d_name, self) || !look_at(e->d_name, &st, &h))
			continue;
		strcpy(h.pid, e->d_name);
		read_proc(h.pid, "comm", h.comm, sizeof(h.comm));
		h.comm[strcspn(h.comm, "\n")] = '\0';
		if (h.machine[0] || !ret->pid[0])
			*ret = h;
	}
	if (proc)
		closedir(proc);
}

/* ---- Telling ---- */

static bool same_folder(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The environment in which a command finds that runtime folder. */
static void describe_environment(const char *run, char *buf, size_t size)
{
	char shared[PATH_MAX];
	const char *last;

	/* A folder for another data folder than the usual one lies in the runtime folder. */
	snprintf(shared, sizeof(shared), "%.*s",
		 (int)(strstr(run, "/@") ? strstr(run, "/@") - run : (ptrdiff_t)strlen(run)), run);
	run = shared;
	last = strrchr(run, '/');
	if (last && last != run && !strcmp(last, "/wslx"))
		snprintf(buf, size, "set XDG_RUNTIME_DIR=%.*s", (int)(last - run), run);
	else if (!strncmp(run, "/tmp/wslx-", 10) && !strchr(run + 10, '/'))
		snprintf(buf, size, "unset XDG_RUNTIME_DIR");
	else
		snprintf(buf, size, "set WSLX_HOME or XDG_RUNTIME_DIR");
}

void wslx_holder_describe(const struct wslx_holder *h, const char *runtime_dir, char *buf, size_t size)
{
	char parent[PATH_MAX], how[PATH_MAX + 32];
	const char *end = strrchr(runtime_dir, '/');

	if (!h->pid[0]) {
		snprintf(buf, size, " by another machine or program");
		return;
	}
	if (!h->machine[0]) {
		snprintf(buf, size, " by another program: process %s (%.40s)", h->pid, h->comm[0] ? h->comm : "?");
		return;
	}
	snprintf(parent, sizeof(parent), "%.*s", (int)(end ? end - runtime_dir : 0), runtime_dir);
	if (h->run[0] && !same_folder(h->run, parent)) {
		describe_environment(h->run, how, sizeof(how));
		snprintf(buf, size,
			 " by the machine '%s' (process %s), which this command does not see: its runtime folder is "
			 "%s, ours is %s; %s, as when it was started",
			 h->machine, h->pid, h->run, parent, how);
		return;
	}
	snprintf(buf, size, " by the machine '%s' (process %s)%s stop it: wslx terminate %s", h->machine, h->pid,
		 strncmp(h->machine, "run-", 4) ? ";"
						: ", a throw-away one of `wslx run`: wait until its command ends, or",
		 h->machine);
}
