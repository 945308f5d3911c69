/* terminate, shutdown, unregister. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/distros.h"

/* Throw-away machines may be named too; a distro goes first. */
static int resolve(struct cli *c, const char *name, char ret[WSLX_NAME_MAX + 1], struct wslx_err *err)
{
	if (wslx_store_lookup(c->m, WSLX_STORE_DISTROS, name, ret) == 0)
		return 0;
	if (wslx_name_ok(name) && wslx_throwaway_is(c->m, name)) {
		strcpy(ret, name);
		return 0;
	}
	return wslx_err_set(err, ENOENT, "there is no distribution '%s'; see `wslx list`", name);
}

int cli_terminate(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	char name[WSLX_NAME_MAX + 1];
	int r = resolve(c, o->pos[0], name, err);

	if (r < 0)
		return r;
	cli_progress_line("%s: stopping ...", name);
	return wslx_machine_stop(c->m, name, o->force, err);
}

/* Every folder in the runtime folder that has a held lock is a machine. */
static int collect(struct cli *c, char ***ret, size_t *ret_n)
{
	int fd = openat(c->m->run_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;
	char **names = NULL;
	size_t n = 0;
	int r = 0;

	if (!dir)
		return -errno;
	while (r == 0 && (d = readdir(dir))) {
		struct wslx_machine_info info;
		char **more;

		if (!wslx_name_ok(d->d_name) || d->d_name[0] == '.')
			continue;
		wslx_machine_query(c->m, d->d_name, &info);
		if (info.state == WSLX_MACHINE_STOPPED)
			continue;
		more = reallocarray(names, n + 1, sizeof(*names));
		names = more ? more : names;
		if (!more || !(names[n] = strdup(d->d_name)))
			r = -ENOMEM;
		else
			n++;
	}
	closedir(dir);
	*ret = names;
	*ret_n = n;
	return r;
}

int cli_shutdown(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	char **names = NULL;
	size_t n = 0;
	int r = collect(c, &names, &n), failed = 0;

	if (r < 0)
		wslx_err_sys(err, -r, "cannot look for machines in %s", c->m->paths.run);
	/* All are asked at once; each is then waited for. */
	for (size_t i = 0; r == 0 && i < n; i++)
		wslx_machine_stop_begin(c->m, names[i], o->force);
	for (size_t i = 0; r == 0 && i < n; i++) {
		struct wslx_err one = { 0 };

		cli_progress_line("%s: stopping ...", names[i]);
		if (wslx_machine_stop(c->m, names[i], o->force, &one) < 0) {
			cli_complain(&one);
			failed++;
		}
	}
	wslx_names_free(names, n);
	return r < 0 ? r : failed ? CLI_FAILED : 0;
}

int cli_unregister(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	cli_progress_line("%s: deleting ...", o->pos[0]);
	return wslx_distro_unregister(c->m, o->pos[0], err);
}
