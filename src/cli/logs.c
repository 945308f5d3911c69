/* logs: the console of a machine. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/machine.h"

#define FOLLOW_MS 500

struct log {
	int dir, fd;
	bool escape;              /* standard output is a terminal */
	struct cli_filter filter; /* ... and what it is shown goes through this */
};

static int open_log(struct log *l)
{
	wslx_close(&l->fd);
	l->fd = openat(l->dir, WSLX_CONSOLE_LOG, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return l->fd < 0 ? -errno : 0;
}

static int copy(struct log *l)
{
	char part[65536];
	ssize_t n;

	while ((n = read(l->fd, part, sizeof(part))) > 0) {
		if (l->escape)
			cli_filter_put(&l->filter, part, (size_t)n);
		else if (fwrite(part, 1, (size_t)n, stdout) != (size_t)n)
			return -EIO;
	}
	return fflush(stdout) == EOF || n < 0 ? -errno : 0;
}

/* The log is capped: when it is full a new one takes its name. */
static bool was_replaced(const struct log *l)
{
	struct stat a, b;

	if (fstatat(l->dir, WSLX_CONSOLE_LOG, &a, AT_SYMLINK_NOFOLLOW) < 0 || fstat(l->fd, &b) < 0)
		return false;
	return a.st_ino != b.st_ino || a.st_dev != b.st_dev || a.st_size < lseek(l->fd, 0, SEEK_CUR);
}

static int follow(struct cli *c, const char *name, struct log *l)
{
	cleanup_free char *dir = wslx_machine_state_dir(c->m, name);
	cleanup_close int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	int r = dir && watch >= 0 && inotify_add_watch(watch, dir, IN_MODIFY | IN_CREATE | IN_MOVED_TO) >= 0 ? 0
													     : -errno;

	while (r == 0) {
		struct pollfd p = { .fd = watch, .events = POLLIN };
		struct wslx_machine_info info;
		char events[4096];

		wslx_machine_query(c->m, name, &info);
		r = copy(l);
		if (r == 0 && was_replaced(l))
			r = open_log(l);
		/* Asked before the copy, so that its last words are in it. */
		if (info.state == WSLX_MACHINE_STOPPED)
			return r;
		if (poll(&p, 1, FOLLOW_MS) > 0)
			while (read(watch, events, sizeof(events)) > 0)
				;
	}
	return r;
}

int cli_logs(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	char name[WSLX_NAME_MAX + 1];
	cleanup_close int dir = -1;
	struct log l = { .fd = -1, .escape = isatty(STDOUT_FILENO), .filter = { .out = stdout, .lines = true } };
	int r;

	if (wslx_store_lookup(c->m, WSLX_STORE_DISTROS, o->pos[0], name) < 0) {
		if (!wslx_name_ok(o->pos[0]) || !wslx_throwaway_is(c->m, o->pos[0]))
			return wslx_err_set(err, ENOENT, "there is no distribution '%s'; see `wslx list`", o->pos[0]);
		strcpy(name, o->pos[0]);
	}
	dir = openat(c->m->machines_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	l.dir = dir;
	r = dir < 0 ? -errno : open_log(&l);
	if (r == -ENOENT)
		return wslx_err_set(err, ENOENT, "'%s' has no console log: it has not been started yet", name);
	if (r == 0)
		r = o->follow ? follow(c, name, &l) : copy(&l);
	cli_filter_end(&l.filter);
	wslx_close(&l.fd);
	return r < 0 && r != -EPIPE ? wslx_err_sys(err, -r, "cannot show the console of '%s'", name) : 0;
}
