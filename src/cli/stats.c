/* stats, and debug. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/machine.h"

#define TIMEOUT_MS 10000

static void json_cleanup(json_t **j)
{
	json_decref(*j);
}

/* Asks a running machine. */
static int ask(struct cli *c, const char *given, const char *method, json_t **ret, struct wslx_err *err)
{
	char name[WSLX_NAME_MAX + 1];
	cleanup_free char *sock = NULL;
	struct wslx_machine_info info;
	int r;

	if (wslx_store_lookup(c->m, WSLX_STORE_DISTROS, given, name) < 0) {
		if (!wslx_name_ok(given) || !wslx_throwaway_is(c->m, given))
			return wslx_err_set(err, ENOENT, "there is no distribution '%s'; see `wslx list`", given);
		strcpy(name, given);
	}
	wslx_machine_query(c->m, name, &info);
	if (info.state == WSLX_MACHINE_STOPPED)
		return wslx_err_set(err, ESRCH, "'%s' is not running", name);
	if (info.silent)
		return wslx_machine_is_silent(name, err);
	sock = wslx_machine_socket(c->m, name, WSLX_CONTROL_SOCKET);
	r = sock ? wslx_control_call(sock, method, NULL, TIMEOUT_MS, ret, err)
		 : wslx_err_sys(err, ENOMEM, "cannot ask '%s'", name);
	return r;
}

int cli_stats(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	cleanup_with(json_cleanup) json_t *reply = NULL;
	const char *key;
	json_t *stats, *v;
	int r = ask(c, o->pos[0], "Stats", &reply, err);

	if (r < 0)
		return r;
	stats = json_object_get(reply, "stats");
	if (o->json) {
		cleanup_free char *text = json_dumps(stats, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_ENSURE_ASCII);

		puts(text ? text : "{}");
		return 0;
	}
	json_object_foreach (stats, key, v) {
		cli_put_escaped(key);
		printf(" %lld\n", (long long)json_integer_value(v));
	}
	return 0;
}

int cli_debug(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	cleanup_with(json_cleanup) json_t *reply = NULL;
	cleanup_free char *text = NULL;
	int r;

	if (strcmp(o->pos[0], "confinement") != 0)
		return wslx_err_set(err, EINVAL, "usage: wslx debug %s", c->verb->args);
	r = ask(c, o->pos[1], "TestConfinement", &reply, err);
	if (r < 0)
		return r;
	text = json_dumps(reply, JSON_COMPACT | JSON_ENSURE_ASCII);
	puts(text ? text : "{}");
	return 0;
}
