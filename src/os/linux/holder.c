#include "os/linux/holder.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "os/linux/fd.h"

#define TITLE "wslx-vmm ["
#define OURS "wslx-"
#define LOCK_NAME "/lock"
#define LOCK_WAIT_MS 3000
#define LOCK_TICK_MS 20
#define LOOK_MS 250
#define ANSWER_MS 300

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
static void take_machine(const char *cmdline, char ret[WSLX_HOLDER_NAME])
{
	static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	char title[sizeof(TITLE) + WSLX_HOLDER_NAME + 1], *name = title + strlen(TITLE), *end;

	ret[0] = '\0';
	snprintf(title, sizeof(title), "%.*s", (int)sizeof(title) - 1, cmdline);
	if (strncmp(title, TITLE, strlen(TITLE)) != 0)
		return;
	end = strchr(title, ']');
	if (!end || end[1])
		return;
	*end = '\0';
	if (*name && *name != '-' && strspn(name, chars) == strlen(name) && strlen(name) < WSLX_HOLDER_NAME)
		strcpy(ret, name);
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

/* Is the descriptor the one of a lock that is in the way of ours?  flock(2) is
 * none of them. */
static bool has_lock(const char *pid, const char *fd, bool write)
{
	char file[32], text[4096], *line;

	snprintf(file, sizeof(file), "fdinfo/%.15s", fd);
	read_proc(pid, file, text, sizeof(text));
	for (line = strstr(text, "lock:"); line; line = strstr(line + 1, "lock:")) {
		size_t n = strcspn(line, "\n");

		if (!memmem(line, n, "OFDLCK", 6) && !memmem(line, n, "POSIX", 5))
			continue;
		if (write || memmem(line, n, "WRITE", 5))
			return true;
	}
	return false;
}

/* Does the process hold the lock?  On the way: where its machine lock is. */
static bool look_at(const char *pid, const struct stat *want, bool write, struct wslx_holder *h)
{
	char path[PATH_MAX], title[512];
	struct dirent *e;
	bool found = false;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%.15s/fd", pid);
	d = opendir(path);
	if (!d)
		return false;
	read_proc(pid, "cmdline", title, sizeof(title));
	take_machine(title, h->machine);
	while ((e = readdir(d))) {
		struct stat st;
		ssize_t n = e->d_name[0] == '.' ? -1 : readlinkat(dirfd(d), e->d_name, path, sizeof(path) - 1);

		if (n <= 0)
			continue;
		path[n] = '\0';
		if (h->machine[0] && !h->run[0])
			(void)take_run(path, h->machine, h->run, sizeof(h->run));
		if (!found && fstatat(dirfd(d), e->d_name, &st, 0) == 0)
			found = st.st_dev == want->st_dev && st.st_ino == want->st_ino &&
				has_lock(pid, e->d_name, write);
	}
	closedir(d);
	read_proc(pid, "comm", h->comm, sizeof(h->comm));
	h->comm[strcspn(h->comm, "\n")] = '\0';
	/* A process without a command line has no memory any more, and soon no files. */
	h->leftover = !title[0] || (!h->machine[0] && !strncmp(h->comm, OURS, strlen(OURS)));
	return found;
}

/* A supervisor tells more than its children do, which have the file too, and
 * another program more than what a machine left. */
static unsigned rank(const struct wslx_holder *h)
{
	return !h->pid[0] ? 0 : h->leftover ? 1 : h->machine[0] ? 3 : 2;
}

static void find(int fd, bool write, struct wslx_holder *ret)
{
	DIR *proc = opendir("/proc");
	char self[16];
	struct dirent *e;
	struct stat st;

	*ret = (struct wslx_holder) { 0 };
	snprintf(self, sizeof(self), "%d", (int)getpid());
	while (proc && fstat(fd, &st) == 0 && !ret->machine[0] && (e = readdir(proc))) {
		struct wslx_holder h = { 0 };

		if (!isdigit((unsigned char)e->d_name[0]) || strlen(e->d_name) >= sizeof(h.pid) ||
		    !strcmp(e->d_name, self) || !look_at(e->d_name, &st, write, &h))
			continue;
		strcpy(h.pid, e->d_name);
		if (rank(&h) > rank(ret))
			*ret = h;
	}
	if (proc)
		closedir(proc);
}

/* ---- Locking ---- */

/* Does the machine go on?  One that does not answer may be about to end. */
static bool machine_goes_on(const struct wslx_holder *h)
{
	static const char call[] = "{\"method\":\"io.wslx.Machine.Info\"}";
	const struct timeval tv = { .tv_usec = ANSWER_MS * 1000 };
	char path[PATH_MAX + sizeof(h->machine) + 16], reply[4096];
	cleanup_close int sock = -1;
	size_t len = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/%s/control.sock", h->run, h->machine);
	sock = h->run[0] ? wslx_unix_connect_within(path, SOCK_STREAM | SOCK_CLOEXEC, ANSWER_MS) : -1;
	if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) < 0 ||
	    send(sock, call, sizeof(call), MSG_NOSIGNAL) != (ssize_t)sizeof(call))
		return false;
	while (len < sizeof(reply) - 1 && (n = recv(sock, reply + len, sizeof(reply) - 1 - len, 0)) > 0) {
		len += (size_t)n;
		if (!reply[len - 1])
			break;
	}
	reply[len] = '\0';
	return strstr(reply, "\"state\":") && !strstr(reply, "\"state\":\"stopping\"");
}

static bool stays(const struct wslx_holder *h)
{
	if (!h->pid[0] || h->leftover)
		return false;
	return !h->machine[0] || machine_goes_on(h);
}

static int sleep_ms(int ms)
{
	const struct timespec tick = { .tv_nsec = ms * 1000000L };

	nanosleep(&tick, NULL);
	return 0;
}

/* Asked for again and again: a wait in the kernel would need a signal to end it. */
int wslx_image_lock(int fd, bool write, const struct wslx_lock_wait *wait, struct wslx_holder *ret)
{
	static const struct wslx_lock_wait plain;
	const struct wslx_lock_wait *w = wait ? wait : &plain;
	int64_t now = wslx_now_ms(), end = now + (w->limit_ms ? w->limit_ms : LOCK_WAIT_MS), look = now;

	for (;; now = wslx_now_ms()) {
		struct flock fl = { .l_type = write ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET };
		int r;

		if (fcntl(fd, F_OFD_SETLK, &fl) == 0)
			return 0;
		if (errno != EAGAIN && errno != EACCES)
			return -errno;
		if (now >= look || now >= end) {
			find(fd, write, ret);
			if (now >= end || stays(ret))
				return -EAGAIN;
			look = wslx_now_ms() + LOOK_MS;
		}
		r = w->idle ? w->idle(w->opaque, LOCK_TICK_MS) : sleep_ms(LOCK_TICK_MS);
		if (r < 0)
			return r;
	}
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
