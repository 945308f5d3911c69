/* No verb: a command, or a login shell, in a distribution. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cli/launch.h"

/* A machine that was found running may have been dying: it is started anew
 * then, as long as the command has not been. */
static int run(struct cli *c, const struct wslx_distro *d, struct cli_launch *l, struct wslx_err *err)
{
	struct wslx_start_hooks hooks = cli_start_hooks(d->name);
	int r;

	do {
		l->session.again = false;
		r = wslx_machine_start(c->m, d, &hooks, err);
		if (r == 0)
			r = cli_launch(c, l, err);
	} while (l->session.again);
	return r;
}

int cli_exec(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	char name[WSLX_NAME_MAX + 1];
	struct cli_launch l = { .opts = o, .restartable = true };
	int r = d ? cli_launch_check(o, err) : wslx_err_sys(err, ENOMEM, "cannot start");

	if (r == 0 && !o->distro)
		r = wslx_distro_default(c->m, name, err);
	if (r == 0)
		r = wslx_distro_find(c->m, o->distro ? o->distro : name, d, err);
	if (r == 0) {
		cli_interrupt_catch();
		l.machine = l.distro = d->name;
		l.default_user = d->settings.user;
		l.default_uid = d->default_uid;
		r = run(c, d, &l, err);
	}
	free(d);
	return r;
}
