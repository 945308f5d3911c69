#include "manager/holder.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/loop.h"
#include "os/linux/fd.h"
#include "os/linux/paths.h"
#include "proto/vmconfig.h"

#define CHILDREN_MAX 32

static bool is_called(const char *pid, const char *title)
{
	cleanup_free char *path = wslx_path("/proc/%s/cmdline", pid);
	cleanup_close int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	char text[WSLX_NAME_MAX + 32];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));

	return n > (ssize_t)strlen(title) && !memcmp(text, title, strlen(title) + 1);
}

static bool has_open(const char *pid, const struct stat *want)
{
	for (int fd = 0; fd < 64; fd++) {
		cleanup_free char *path = wslx_path("/proc/%s/fd/%d", pid, fd);
		struct stat st;

		if (path && stat(path, &st) == 0 && st.st_dev == want->st_dev && st.st_ino == want->st_ino)
			return true;
	}
	return false;
}

bool wslx_held_together(const struct stat *a, const struct stat *b)
{
	DIR *proc = opendir("/proc");
	const struct dirent *d;
	bool found = false;

	while (proc && !found && (d = readdir(proc)))
		found = isdigit((unsigned char)d->d_name[0]) && has_open(d->d_name, a) && has_open(d->d_name, b);
	if (proc)
		closedir(proc);
	return found;
}

/* A pidfd makes sure that we kill what we looked at. */
int wslx_kill_listener(const char *sock_path, const char *title)
{
	cleanup_close int sock = wslx_unix_connect_within(sock_path, SOCK_STREAM | SOCK_NONBLOCK, 0), pidfd = -1;
	cleanup_free char *pid = NULL;
	struct ucred u;
	socklen_t n = sizeof(u);

	if (sock < 0)
		return sock;
	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &u, &n) < 0)
		return -errno;
	pidfd = pidfd_open(u.pid, 0);
	pid = wslx_path("%d", (int)u.pid);
	if (pidfd < 0 || !pid || !is_called(pid, title))
		return -ESRCH;
	return pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 ? -errno : 0;
}

/* 0: *ret_pidfd is the caller's. */
static int find_holder(int dirfd, const char *lock, const char *title, pid_t *ret_pid, int *ret_pidfd)
{
	const struct dirent *d;
	struct stat want;
	int r = -ESRCH;
	DIR *proc;

	if (fstatat(dirfd, lock, &want, 0) < 0)
		return -ESRCH;
	proc = opendir("/proc");
	while (proc && r < 0 && (d = readdir(proc))) {
		cleanup_close int pidfd = -1;
		pid_t pid;

		if (!isdigit((unsigned char)d->d_name[0]))
			continue;
		pid = (pid_t)strtol(d->d_name, NULL, 10);
		pidfd = pidfd_open(pid, 0);
		if (pidfd < 0 || !is_called(d->d_name, title) || !has_open(d->d_name, &want))
			continue;
		*ret_pid = pid;
		*ret_pidfd = TAKE_FD(pidfd);
		r = 0;
	}
	if (proc)
		closedir(proc);
	return r;
}

static pid_t parent_of(const char *pid)
{
	cleanup_free char *path = wslx_path("/proc/%s/stat", pid);
	cleanup_close int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	char text[512], *end;
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	text[n < 0 ? 0 : n] = '\0';
	/* "PID (NAME) STATE PARENT": the name is its own choice. */
	end = strrchr(text, ')');
	return end && strlen(end) > 4 ? (pid_t)strtol(end + 4, NULL, 10) : 0;
}

/* Those that it has started, as pidfds: how many. */
static size_t find_children(pid_t parent, int fds[CHILDREN_MAX])
{
	DIR *proc = opendir("/proc");
	const struct dirent *d;
	size_t n = 0;

	while (proc && n < CHILDREN_MAX && (d = readdir(proc))) {
		if (!isdigit((unsigned char)d->d_name[0]) || parent_of(d->d_name) != parent)
			continue;
		fds[n] = pidfd_open((pid_t)strtol(d->d_name, NULL, 10), 0);
		/* The number may be another's by now. */
		if (fds[n] >= 0 && parent_of(d->d_name) == parent)
			n++;
		else if (fds[n] >= 0)
			close(fds[n]);
	}
	if (proc)
		closedir(proc);
	return n;
}

static int await_end(int pidfd, int64_t deadline)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	int n;

	do {
		int64_t left = deadline - wslx_now_ms();

		n = poll(&p, 1, left > 0 ? (int)left : 0);
	} while (n < 0 && errno == EINTR);
	return n > 0 ? 0 : n < 0 ? -errno : -ETIMEDOUT;
}

int wslx_kill_holder(int dirfd, const char *lock, const char *title, int wait_ms)
{
	int64_t deadline = wslx_now_ms() + wait_ms;
	cleanup_close int pidfd = -1;
	int children[CHILDREN_MAX];
	sigset_t ends, before;
	size_t n;
	pid_t pid;
	int r = find_holder(dirfd, lock, title, &pid, &pidfd);

	if (r < 0)
		return r;
	/* Stopped, so that it starts no more of them while they are looked for; and whoever interrupts us does not
	 * leave it so. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &ends, &before);
	(void)!pidfd_send_signal(pidfd, SIGSTOP, NULL, 0);
	n = find_children(pid, children);
	r = pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 ? -errno : 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	r = r < 0 ? r : await_end(pidfd, deadline);
	for (size_t i = 0; i < n; i++) {
		int end;

		/* Mostly they have died with it: PR_SET_PDEATHSIG. */
		(void)!pidfd_send_signal(children[i], SIGKILL, NULL, 0);
		end = await_end(children[i], deadline);
		r = r < 0 ? r : end;
		close(children[i]);
	}
	return r;
}

pid_t wslx_holder_pid(int dirfd, const char *lock, const char *title)
{
	cleanup_close int pidfd = -1;
	pid_t pid;

	return find_holder(dirfd, lock, title, &pid, &pidfd) < 0 ? 0 : pid;
}
