/* wsl.exe's words for what is not there, or is asked for in another way. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "manager/distros.h"

const char *cli_absent(const char *word)
{
	static const struct {
		const char *word, *answer;
	} list[] = {
		{ "--update", "wslx is updated like any other program, and kernels come from the distribution: "
			      "`apt-get download` the package that linux-image-cloud-amd64 depends on, then "
			      "`wslx kernel add FILE.deb` and `wslx config NAME kernel=...`" },
		{ "--import-in-place", "a disk is copied when it is imported: wslx import NAME FILE takes raw ext4 "
				       "images; `qemu-img convert -O raw` makes one of a .vhdx" },
		{ "--mount", "host disks cannot be attached to a machine" },
		{ "--unmount", "host disks cannot be attached to a machine" },
		{ "--uninstall", "`wslx unregister NAME` deletes a distribution; then remove the program itself" },
		{ "--system", "machines have no system distribution" },
		{ "--debug-shell", "`wslx -u root` is a shell as root, `wslx logs NAME` the console" },
		{ "--distribution-id", "distributions go by name: -d NAME" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		if (!strcmp(word, list[i].word))
			return list[i].answer;
	return NULL;
}

/* "size" of "--size=1G", or the letter of "-s". */
static bool is_option(const char *word, const char *name, char letter)
{
	size_t n = strcspn(word, "=");

	if (word[0] == '-' && word[1] == letter && !word[2])
		return letter;
	return n == strlen(name) + 2 && !strncmp(word, "--", 2) && !strncmp(word + 2, name, n - 2);
}

const char *cli_absent_option(const struct cli_verb *v, const char *word)
{
	static const struct {
		const char *verb, *name;
		char letter;
		const char *answer;
	} list[] = {
		{ "install", "location", 'l', "disks are kept where XDG_DATA_HOME or WSLX_HOME says, all of them" },
		{ "install", "vhd-size", 0, "--size SIZE is the virtual size of the disk" },
		{ "install", "fixed-vhd", 0, "disks are always sparse" },
		{ "install", "no-distribution", 0,
		  "nothing but distributions is installed; `wslx kernel add FILE` adds a kernel alone" },
		{ "install", "enable-wsl1", 0, "every distribution is version 2" },
		{ "install", "legacy", 0, "Debian is made from its packages" },
		{ "manage", "allow-unsafe", 0, "disks are always sparse, and none is the worse for it" },
	};

	if (v == &cli_exec_verb)
		return cli_absent(word);
	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		if (!strcmp(v->name, list[i].verb) && is_option(word, list[i].name, list[i].letter))
			return list[i].answer;
	return NULL;
}

int cli_check_version(const char *version, struct wslx_err *err)
{
	if (!strcmp(version, "2"))
		return 0;
	if (!strcmp(version, "1"))
		return wslx_err_set(
			err, EOPNOTSUPP,
			"there is no version 1, which has no Linux kernel: every distribution is version 2");
	return wslx_err_set(err, EINVAL, "'%s' is no version: every distribution is version 2", version);
}

int cli_set_default_version(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	return cli_check_version(o->pos[0], err);
}

static int check_name(struct cli *c, const char *name, struct wslx_err *err)
{
	char real[WSLX_NAME_MAX + 1];

	if (wslx_store_lookup(c->m, WSLX_STORE_DISTROS, name, real) == 0)
		return 0;
	return wslx_err_set(err, ENOENT, "there is no distribution '%s'; see `wslx list`", name);
}

int cli_set_version(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	int r = check_name(c, o->pos[0], err);

	return r < 0 ? r : cli_check_version(o->pos[1], err);
}

/* Other settings than the kernel, without which the new one may not start. */
static bool has_settings(const struct wslx_settings *s)
{
	return s->engine != WSLX_ENGINE_AUTO || s->memory || s->cpus || s->user[0] || s->net.mode != WSLX_NET_PASST ||
	       s->net.n_publish || s->n_grants || s->portal_window;
}

/* What can be pasted into a shell, but for the new name. */
static int say_resize(struct cli *c, const char *name, const char *size, struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	uint64_t bytes;
	int r = cli_parse_disk_size(size, &bytes, err);

	if (r == 0)
		r = d ? wslx_distro_find(c->m, name, d, err) : wslx_err_sys(err, ENOMEM, "cannot read the settings");
	if (r == 0) {
		const char *kernel = d->settings.kernel, *n = d->name;
		bool more = has_settings(&d->settings);

		r = wslx_err_set(err, EOPNOTSUPP,
				 "a disk keeps its size; make another of that size: `wslx terminate %s; wslx export %s "
				 "- | wslx import NEW-NAME - --size %s%s%s`%s%s%s",
				 n, n, size, kernel[0] ? " --kernel " : "", kernel,
				 more ? " (its other settings are not taken along; they are shown by: wslx config "
				      : "",
				 more ? n : "", more ? ")" : "");
	}
	free(d);
	return r;
}

int cli_manage(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	const char *name = o->pos[0];
	int n = !!o->default_user + !!o->move + !!o->resize + !!o->sparse;

	if (n != 1)
		return wslx_err_set(err, EINVAL, "one thing at a time; usage: wslx --manage %s", c->verb->args);
	if (o->move)
		return wslx_err_set(err, EOPNOTSUPP,
				    "a disk cannot be moved by itself: set XDG_DATA_HOME or WSLX_HOME for all of them");
	if (o->resize)
		return say_resize(c, name, o->resize, err);
	if (o->sparse && strcmp(o->sparse, "true") != 0)
		return wslx_err_set(err, EOPNOTSUPP, "disks are always sparse: only --set-sparse true is possible");
	/* Nothing to change, but there must be such a distribution. */
	if (o->sparse)
		return check_name(c, name, err);
	return cli_config_user(c, name, o->default_user, err);
}
