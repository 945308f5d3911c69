#include "agent/hangup.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Fields of /proc/PID/stat, counted from the one behind the name. */
enum { F_STATE, F_PARENT, F_GROUP, F_SESSION, F_TERMINAL, F_IGNORED = 30 };

/* The name of a program may have any characters, also blanks and brackets. */
bool hangup_parse(const char *stat, struct hangup_proc *ret)
{
	const char *p = strrchr(stat, ')');
	unsigned long long v[F_IGNORED + 1] = { 0 };

	*ret = (struct hangup_proc) { .pid = (pid_t)strtol(stat, NULL, 10) };
	if (ret->pid <= 0 || !p)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		p += strcspn(p, " ");
		p += strspn(p, " ");
		if (!*p)
			return false;
		if (i == F_STATE)
			ret->dead = *p == 'Z' || *p == 'X';
		else
			v[i] = strtoull(p, NULL, 10);
	}
	ret->parent = (pid_t)v[F_PARENT];
	ret->session = (pid_t)v[F_SESSION];
	ret->terminal = v[F_TERMINAL] != 0;
	ret->minds = !(v[F_IGNORED] >> (SIGTERM - 1) & 1);
	return true;
}

bool hangup_due(const struct hangup_proc *all, size_t n, const struct hangup_proc *p)
{
	if (p->minds || p->dead || !p->terminal)
		return false;
	for (size_t i = 0; i < n; i++)
		if (all[i].minds && !all[i].dead && (all[i].parent == p->pid || all[i].session == p->pid))
			return false;
	return true;
}

static bool read_one(int proc_fd, const char *pid, struct hangup_proc *ret)
{
	char path[32], buf[1024];
	cleanup_close int fd = -1;
	ssize_t n;

	if ((size_t)snprintf(path, sizeof(path), "%s/stat", pid) >= sizeof(path))
		return false;
	fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (n <= 0)
		return false;
	buf[n] = '\0';
	return hangup_parse(buf, ret);
}

/* All but this one, PID 1. */
static struct hangup_proc *read_all(int proc_fd, size_t *ret_n)
{
	int fd = openat(proc_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct hangup_proc *all = NULL, *more;
	const struct dirent *e;
	size_t n = 0, room = 0;

	if (!dir && fd >= 0)
		close(fd);
	while (dir && (e = readdir(dir))) {
		if (*e->d_name < '1' || *e->d_name > '9')
			continue;
		if (n == room) {
			more = reallocarray(all, room + 256, sizeof(*all));
			if (!more)
				break;
			all = more;
			room += 256;
		}
		if (read_one(proc_fd, e->d_name, &all[n]) && all[n].pid != 1)
			n++;
	}
	if (dir)
		closedir(dir);
	*ret_n = n;
	return all;
}

static bool was_told(const struct hangup *h, pid_t pid)
{
	for (size_t i = 0; i < h->n_told; i++)
		if (h->told[i] == pid)
			return true;
	return false;
}

void hangup_shells(struct hangup *h)
{
	cleanup_free struct hangup_proc *all = NULL;
	size_t n = 0;

	if (h->proc_fd >= 0)
		all = read_all(h->proc_fd, &n);
	for (size_t i = 0; i < n; i++) {
		pid_t *more;

		if (was_told(h, all[i].pid) || !hangup_due(all, n, &all[i]))
			continue;
		more = reallocarray(h->told, h->n_told + 1, sizeof(*more));
		if (!more)
			return;
		h->told = more;
		more[h->n_told++] = all[i].pid;
		kill(all[i].pid, SIGHUP);
		kill(all[i].pid, SIGCONT);
	}
}
