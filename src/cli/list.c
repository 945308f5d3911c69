/* list, and status. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/engine.h"
#include "manager/kernels.h"
#include "manager/machine.h"

struct row {
	char name[WSLX_NAME_MAX + 1];
	bool is_default;
	const char *state;
	struct wslx_machine_info info;
	struct wslx_distro *d; /* NULL: its description cannot be read */
};

static const char *state_word(enum wslx_machine_state s)
{
	static const char *const words[] = { "Stopped", "Starting", "Running", "Paused", "Stopping" };

	return words[s];
}

static int fill_row(struct cli *c, const char *name, const char *def, struct row *row)
{
	struct wslx_err err = { 0 };

	*row = (struct row) { 0 };
	strcpy(row->name, name);
	row->is_default = !strcmp(name, def);
	row->d = malloc(sizeof(*row->d));
	if (!row->d)
		return -ENOMEM;
	wslx_machine_query(c->m, name, &row->info);
	row->state = row->info.silent ? "Not answering" : state_word(row->info.state);
	if (wslx_distro_find(c->m, name, row->d, &err) == 0)
		return 0;
	free(row->d);
	row->d = NULL;
	if (row->info.state == WSLX_MACHINE_STOPPED)
		row->state = "Broken";
	cli_warn("%s", err.msg);
	return 0;
}

/* The default first, as WSL has it. */
static int compare_rows(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->is_default != y->is_default)
		return x->is_default ? -1 : 1;
	return strcasecmp(x->name, y->name);
}

static void print_table(const struct row *rows, size_t n)
{
	size_t width = 4;

	for (size_t i = 0; i < n; i++)
		width = WSLX_MAX(width, strlen(rows[i].name));
	printf("  %-*s    %-16s%s\n", (int)width, "NAME", "STATE", "VERSION");
	for (size_t i = 0; i < n; i++)
		printf("%c %-*s    %-16s%d\n", rows[i].is_default ? '*' : ' ', (int)width, rows[i].name, rows[i].state,
		       2);
}

static void warn_of_trouble(const struct row *rows, size_t n)
{
	struct wslx_err err;

	for (size_t i = 0; i < n; i++) {
		if (rows[i].info.host_disk_full)
			cli_warn("'%s' waits: the host's disk is full; free some space and it goes on by itself",
				 rows[i].name);
		if (rows[i].info.silent && wslx_machine_is_silent(rows[i].name, &err) < 0)
			cli_warn("%s", err.msg);
	}
}

static json_t *row_json(struct cli *c, const struct row *row)
{
	cleanup_free char *disk = wslx_path("%s/distros/%s/%s", c->m->paths.data, row->name, WSLX_DISK_FILE);
	bool up = row->info.state != WSLX_MACHINE_STOPPED;
	json_t *o = json_object();
	struct stat st;

	json_object_set_new(o, "name", json_string(row->name));
	json_object_set_new(o, "state", json_string(row->state));
	json_object_set_new(o, "default", json_boolean(row->is_default));
	if (row->d) {
		const struct wslx_settings *s = &row->d->settings;

		json_object_set_new(o, "engine", json_string(wslx_engine_name(s->engine)));
		json_object_set_new(o, "kernel", json_string(s->kernel));
		json_object_set_new(o, "cpus", json_integer(s->cpus ? s->cpus : wslx_default_cpus()));
		json_object_set_new(o, "memory", json_integer((json_int_t)wslx_settings_memory(s)));
		json_object_set_new(o, "disk_size", json_integer((json_int_t)row->d->disk_size));
		json_object_set_new(o, "created", json_integer(row->d->created));
	}
	if (disk && stat(disk, &st) == 0)
		json_object_set_new(o, "disk_used", json_integer((json_int_t)st.st_blocks * 512));
	if (up && row->info.engine != WSLX_ENGINE_AUTO)
		json_object_set_new(o, "engine", json_string(wslx_engine_name(row->info.engine)));
	if (up && row->info.pid) {
		json_object_set_new(o, "pid", json_integer(row->info.pid));
		json_object_set_new(o, "host_disk_full", json_boolean(row->info.host_disk_full));
		json_object_set_new(o, "uptime_ms", json_integer(row->info.uptime_ms));
		json_object_set_new(o, "release", json_string(row->info.kernel));
	}
	return o;
}

static int print_json(struct cli *c, const struct row *rows, size_t n, struct wslx_err *err)
{
	cleanup_free char *text = NULL;
	json_t *root = json_object(), *list = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, row_json(c, &rows[i]));
	json_object_set_new(root, "distros", list);
	text = json_dumps(root, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	json_decref(root);
	if (!text)
		return wslx_err_sys(err, ENOMEM, "cannot list");
	puts(text);
	return 0;
}

static int print_rows(struct cli *c, const struct cli_opts *o, const struct row *rows, size_t n, struct wslx_err *err)
{
	if (o->json)
		return print_json(c, rows, n, err);
	if (o->quiet) {
		for (size_t i = 0; i < n; i++)
			puts(rows[i].name);
		return 0;
	}
	if (!n && o->running)
		return wslx_err_set(err, ENOENT, "no distribution is running");
	if (!n)
		return wslx_err_set(err, ENOENT, "no distribution is installed; install one: wslx install debian");
	if (o->verbose) {
		print_table(rows, n);
		warn_of_trouble(rows, n);
		return 0;
	}
	puts("WSLX distributions:");
	for (size_t i = 0; i < n; i++)
		printf("%s%s\n", rows[i].name, rows[i].is_default ? " (Default)" : "");
	return 0;
}

/* Those that have no name in the store yet, or not any more. */
static int add_busy(struct cli *c, struct row **rows, size_t *n, struct wslx_err *err)
{
	struct wslx_busy *list = NULL;
	struct row *more;
	size_t k = 0;
	int r = wslx_store_busy(c->m, WSLX_STORE_DISTROS, WSLX_DISTRO_JSON, &list, &k, err);

	if (r < 0)
		return r;
	more = reallocarray(*rows, *n + k + 1, sizeof(**rows));
	if (!more) {
		free(list);
		return wslx_err_sys(err, ENOMEM, "cannot list");
	}
	*rows = more;
	for (size_t i = 0; i < k; i++) {
		struct row *row = &more[(*n)++];

		*row = (struct row) { .state = list[i].removing ? "Uninstalling" : "Installing" };
		strcpy(row->name, list[i].name);
	}
	free(list);
	return 0;
}

static size_t keep_running(struct row *rows, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		if (rows[i].info.state != WSLX_MACHINE_STOPPED)
			rows[kept++] = rows[i];
		else
			free(rows[i].d);
	}
	return kept;
}

static int collect(struct cli *c, const struct cli_opts *o, struct row **ret, size_t *ret_n, struct wslx_err *err)
{
	char **names = NULL, def[WSLX_NAME_MAX + 1] = "";
	struct row *rows = NULL;
	size_t n = 0, done = 0;
	int r = wslx_store_names(c->m, WSLX_STORE_DISTROS, &names, &n, err);

	if (r < 0)
		return r;
	if (n && wslx_distro_default(c->m, def, err) < 0)
		cli_warn("%s", err->msg);
	rows = calloc(n + 1, sizeof(*rows));
	r = rows ? 0 : -ENOMEM;
	while (r == 0 && done < n) {
		r = fill_row(c, names[done], def, &rows[done]);
		done += r == 0;
	}
	if (r < 0)
		wslx_err_sys(err, -r, "cannot list");
	wslx_names_free(names, n);
	if (r == 0 && o->running)
		done = keep_running(rows, done);
	else if (r == 0 && o->all)
		r = add_busy(c, &rows, &done, err);
	*ret = rows;
	*ret_n = done;
	return r;
}

/* What `wslx install` knows. */
static int list_online(const struct cli_opts *o, struct wslx_err *err)
{
	if (o->running || o->all || o->verbose || o->json)
		return wslx_err_set(err, EINVAL, "--online goes with -q only");
	if (o->quiet) {
		puts("debian");
		return 0;
	}
	puts("These can be installed by `wslx install NAME`; any other by `wslx import NAME FILE`.\n\n"
	     "NAME      FRIENDLY NAME\n"
	     "debian    Debian GNU/Linux");
	return 0;
}

int cli_list(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct row *rows = NULL;
	size_t n = 0;
	int r;

	if (o->online)
		return list_online(o, err);
	if (o->running && o->all)
		return wslx_err_set(err, EINVAL, "--running and --all do not go together");
	if (o->verbose + o->quiet + o->json > 1)
		return wslx_err_set(err, EINVAL, "-v, -q and --json do not go together");
	r = collect(c, o, &rows, &n, err);
	if (r == 0) {
		if (n)
			qsort(rows, n, sizeof(*rows), compare_rows);
		r = print_rows(c, o, rows, n, err);
	}
	for (size_t i = 0; i < n; i++)
		free(rows[i].d);
	free(rows);
	return r;
}

int cli_status(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	char name[WSLX_NAME_MAX + 1], kernel[WSLX_NAME_MAX + 1];
	enum wslx_engine engine;
	struct wslx_err why = { 0 };
	int r = wslx_distro_default(c->m, name, &why);

	if (r < 0 && r != -ENOENT)
		cli_warn("%s", why.msg);
	printf("Default Distribution: %s\n", r == 0 ? name : "none");
	if (wslx_kernel_choose(c->m, NULL, kernel, &why) == 0)
		printf("Default Kernel: %s\n", kernel);
	else
		printf("Default Kernel: none\n");
	if (wslx_engine_choose(c->m, WSLX_ENGINE_AUTO, &engine, &why) == 0)
		printf("Engine: %s\n", wslx_engine_name(engine));
	else
		printf("Engine: none (%s)\n", why.msg);
	return 0;
}
