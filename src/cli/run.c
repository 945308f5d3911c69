/* run: a command in a throw-away machine. */
#include <errno.h>
#include <stdlib.h>

#include "cli/launch.h"
#include "manager/distros.h"

int cli_run(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_task task;
	struct wslx_throwaway_source src = { .lock = -1 };
	struct wslx_settings *s = malloc(sizeof(*s));
	struct wslx_throwaway t = { .owner_fd = -1, .source_lock = -1 };
	struct wslx_start_hooks hooks;
	struct cli_launch l = { .opts = o };
	int r = s ? cli_launch_check(o, err) : wslx_err_sys(err, ENOMEM, "cannot start");

	/* A mistake in an option is said before an image is imported. */
	if (r == 0) {
		*s = wslx_settings_default;
		r = cli_apply_settings(o, s, err);
	}
	if (r == 0) {
		cli_interrupt_catch();
		task = cli_progress_task();
		r = wslx_run_source(c->m, o->pos[0], &task, &src, s, err);
	}
	if (r == 0) {
		/* Its published ports and its grants are its own machine's. */
		s->net.n_publish = 0;
		s->n_grants = 0;
		r = cli_apply_settings(o, s, err);
	}
	if (r == 0)
		r = wslx_settings_check(s, err);
	if (r == 0) {
		hooks = cli_start_hooks(src.distro);
		r = wslx_throwaway_start(c->m, &src, s, &hooks, &t, err);
	}
	if (r == 0) {
		l.machine = t.name;
		l.distro = src.distro;
		l.default_user = s->user;
		l.default_uid = src.default_uid;
		r = cli_launch(c, &l, err);
		wslx_throwaway_end(c->m, &t);
	}
	wslx_run_source_free(&src);
	free(s);
	return r;
}
