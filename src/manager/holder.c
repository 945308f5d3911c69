#include "manager/holder.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "os/linux/paths.h"
#include "proto/vmconfig.h"

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

int wslx_kill_holder(int dirfd, const char *lock, const char *title)
{
	cleanup_close int pidfd = -1;
	pid_t pid;
	int r = find_holder(dirfd, lock, title, &pid, &pidfd);

	if (r < 0)
		return r;
	return pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 ? -errno : 0;
}

pid_t wslx_holder_pid(int dirfd, const char *lock, const char *title)
{
	cleanup_close int pidfd = -1;
	pid_t pid;

	return find_holder(dirfd, lock, title, &pid, &pidfd) < 0 ? 0 : pid;
}
