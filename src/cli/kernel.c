/* kernel list, add, remove. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/kernels.h"

static int list(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	char **names = NULL, def[WSLX_NAME_MAX + 1] = "";
	json_t *out = json_array();
	size_t n = 0, width = 4;
	int r = wslx_store_names(c->m, WSLX_STORE_KERNELS, &names, &n, err);

	if (wslx_kernel_choose(c->m, NULL, def, NULL) < 0)
		def[0] = '\0';
	for (size_t i = 0; r == 0 && i < n; i++)
		width = WSLX_MAX(width, strlen(names[i]));
	if (r == 0 && !o->quiet && !o->json)
		printf("  %-*s    %-36s%s\n", (int)width, "NAME", "RELEASE", "SOURCE");
	for (size_t i = 0; r == 0 && i < n; i++) {
		struct wslx_kernel_info info = { 0 };
		struct wslx_err why = { 0 };

		if (o->quiet) {
			puts(names[i]);
			continue;
		}
		if (wslx_kernel_load(c->m, names[i], &info, &why) < 0)
			cli_warn("%s", why.msg);
		if (o->json) {
			json_t *k = json_object();

			json_object_set_new(k, "name", json_string(names[i]));
			json_object_set_new(k, "default", json_boolean(!strcmp(names[i], def)));
			json_object_set_new(k, "release", json_string(info.version));
			json_object_set_new(k, "source", json_string(info.source));
			json_object_set_new(k, "modules", json_boolean(info.has_modules));
			json_array_append_new(out, k);
			continue;
		}
		printf("%c %-*s    ", strcmp(names[i], def) ? ' ' : '*', (int)width, names[i]);
		size_t used = cli_put_escaped(info.version);

		printf("%*s", used < 36 ? (int)(36 - used) : 0, "");
		cli_put_escaped(info.source);
		putchar('\n');
	}
	if (r == 0 && o->json) {
		cleanup_free char *text = json_dumps(out, JSON_INDENT(2) | JSON_ENSURE_ASCII);

		puts(text ? text : "[]");
	}
	json_decref(out);
	wslx_names_free(names, n);
	return r;
}

static int add(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_task task;
	struct wslx_kernel_info info;
	char name[WSLX_NAME_MAX + 1];
	int r;

	cli_interrupt_catch();
	task = cli_progress_task();
	r = wslx_kernel_install(c->m, o->pos[1], o->name, o->modules, &task, name, err);
	cli_progress_clear();
	if (r < 0)
		return r;
	printf("%s\n", name);
	if (wslx_kernel_load(c->m, name, &info, NULL) == 0 && !info.has_modules)
		cli_warn("added without modules: the drivers virtio_pci, virtio_blk, ext4 and vsock must be built in; "
			 "else: --modules DIR");
	return 0;
}

/* What cannot be started any more is said: after --force, it is the user's wish. */
static int remove_one(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_kernel_users users;
	int r = wslx_kernel_remove(c->m, o->pos[1], o->force, err);

	if (r == 0 && wslx_kernel_users(c->m, "", &users, NULL) == 0 && users.n)
		cli_warn("%s cannot be started until there is a kernel again: `wslx install debian` fetches Debian's, "
			 "`wslx kernel add FILE` adds yours",
			 users.text);
	return r;
}

/* Each option is of one of the three. */
static int check_options(const struct cli_opts *o, const char *what, struct wslx_err *err)
{
	const struct {
		const char *name, *of;
		bool given;
	} all[] = {
		{ "name", "add", o->name },  { "modules", "add", o->modules }, { "quiet", "list", o->quiet },
		{ "json", "list", o->json }, { "force", "remove", o->force },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].given && strcmp(all[i].of, what) != 0)
			return wslx_err_set(err, EINVAL, "--%s is an option of `wslx kernel %s`", all[i].name,
					    all[i].of);
	return 0;
}

int cli_kernel(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	const char *what = !strcmp(o->pos[0], "rm") ? "remove" : o->pos[0];
	int r = check_options(o, what, err);

	if (r < 0)
		return r;
	if (!strcmp(what, "list") && o->n_pos == 1)
		return list(c, o, err);
	if (!strcmp(what, "add") && o->n_pos == 2)
		return add(c, o, err);
	if (!strcmp(what, "remove") && o->n_pos == 2)
		return remove_one(c, o, err);
	return wslx_err_set(err, EINVAL, "usage: wslx kernel %s", c->verb->args);
}
