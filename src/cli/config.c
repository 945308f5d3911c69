/* config, and set-default. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/kernels.h"
#include "manager/machine.h"
#include "manager/portal.h"
#include "manager/session.h"

#define USER_KEY "user="
#define PORTAL_KEY "portal="
#define WINDOW_KEY "portal-window="

/* ---- Showing ---- */

static void show_defaulted(const char *key, const char *value, bool is_default)
{
	printf("%s=%s%s\n", key, value, is_default ? " (default)" : "");
}

/* What counts where nothing is set: "" if there is no kernel yet. */
static void get_kernel(struct cli *c, const struct wslx_settings *s, char ret[WSLX_NAME_MAX + 1])
{
	strcpy(ret, s->kernel);
	if (!s->kernel[0] && wslx_kernel_choose(c->m, NULL, ret, NULL) < 0)
		ret[0] = '\0';
}

static void get_user(const struct wslx_distro *d, char ret[WSLX_USER_MAX + 1])
{
	strcpy(ret, d->settings.user[0] ? d->settings.user : "root");
	if (!d->settings.user[0] && d->default_uid > 0)
		snprintf(ret, WSLX_USER_MAX + 1, "%" PRId64, d->default_uid);
}

static void show_portal(const struct wslx_settings *s)
{
	char grant[WSLX_GRANT_TEXT];

	if (s->portal_window)
		printf("portal-window=%" PRIu64 "M\n", s->portal_window / WSLX_MIB);
	for (size_t i = 0; i < s->n_grants; i++) {
		wslx_grant_format(&s->grants[i], grant);
		printf("portal=%s\n", grant);
	}
}

static void show(struct cli *c, const struct wslx_distro *d)
{
	const struct wslx_settings *s = &d->settings;
	char net[WSLX_NET_TEXT], port[WSLX_PUBLISH_TEXT], text[32], kernel[WSLX_NAME_MAX + 1], user[WSLX_USER_MAX + 1];

	wslx_net_format(&s->net, net);
	get_kernel(c, s, kernel);
	get_user(d, user);
	show_defaulted("engine", wslx_engine_name(s->engine), s->engine == WSLX_ENGINE_AUTO);
	show_defaulted("kernel", kernel, !s->kernel[0]);
	/* Always a multiple of 2 MiB. */
	snprintf(text, sizeof(text), "%" PRIu64 "M", wslx_settings_memory(s) / WSLX_MIB);
	show_defaulted("memory", text, !s->memory);
	snprintf(text, sizeof(text), "%u", s->cpus ? s->cpus : wslx_default_cpus());
	show_defaulted("cpus", text, !s->cpus);
	show_defaulted("user", user, !s->user[0]);
	show_defaulted("net", net, s->net.mode == WSLX_NET_PASST);
	for (size_t i = 0; i < s->net.n_publish; i++) {
		wslx_publish_format(&s->net.publish[i], port);
		printf("publish=%s\n", port);
	}
	show_portal(s);
}

/* ---- The same for programs ---- */

struct shown {
	json_t *all, *defaults;
};

/* A value that counts; its name is among the defaults if it is not set. */
static void put(struct shown *x, const char *name, json_t *value, bool is_default)
{
	json_object_set_new(x->all, name, value);
	if (is_default)
		json_array_append_new(x->defaults, json_string(name));
}

static json_t *publish_json(const struct wslx_net_config *net)
{
	char text[WSLX_PUBLISH_TEXT];
	json_t *list = json_array();

	for (size_t i = 0; i < net->n_publish; i++) {
		wslx_publish_format(&net->publish[i], text);
		json_array_append_new(list, json_string(text));
	}
	return list;
}

static json_t *portal_json(const struct wslx_settings *s)
{
	char text[WSLX_GRANT_TEXT];
	json_t *list = json_array();

	for (size_t i = 0; i < s->n_grants; i++) {
		wslx_grant_format(&s->grants[i], text);
		json_array_append_new(list, json_string(text));
	}
	return list;
}

static int show_json(struct cli *c, const struct wslx_distro *d, struct wslx_err *err)
{
	const struct wslx_settings *s = &d->settings;
	const uint64_t window = s->portal_window ? s->portal_window : WSLX_WINDOW_SIZE_DEFAULT;
	struct shown x = { json_object(), json_array() };
	char net[WSLX_NET_TEXT], kernel[WSLX_NAME_MAX + 1], user[WSLX_USER_MAX + 1];
	cleanup_free char *text = NULL;

	wslx_net_format(&s->net, net);
	get_kernel(c, s, kernel);
	get_user(d, user);
	json_object_set_new(x.all, "name", json_string(d->name));
	put(&x, "engine", json_string(wslx_engine_name(s->engine)), s->engine == WSLX_ENGINE_AUTO);
	put(&x, "kernel", json_string(kernel), !s->kernel[0]);
	put(&x, "memory", json_integer((json_int_t)wslx_settings_memory(s)), !s->memory);
	put(&x, "cpus", json_integer(s->cpus ? s->cpus : wslx_default_cpus()), !s->cpus);
	put(&x, "user", json_string(user), !s->user[0]);
	put(&x, "net", json_string(net), s->net.mode == WSLX_NET_PASST);
	put(&x, "publish", publish_json(&s->net), !s->net.n_publish);
	put(&x, "portal", portal_json(s), !s->n_grants);
	put(&x, "portal_window", json_integer((json_int_t)window), !s->portal_window);
	json_object_set_new(x.all, "defaults", x.defaults);
	text = json_dumps(x.all, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	json_decref(x.all);
	if (!text)
		return wslx_err_sys(err, ENOMEM, "cannot show the settings");
	puts(text);
	return 0;
}

/* ---- Is there such a user? ---- */

/* Asks the distro itself, by running nothing much as that user. */
static int ask_for_user(struct cli *c, const char *name, const char *user, struct wslx_err *err)
{
	cleanup_free char *vsock = wslx_machine_socket(c->m, name, WSLX_VSOCK_SOCKET);
	static const char *const argv[] = { "true", NULL };
	const struct wslx_agent_exec exec = {
		.distro = name,
		.argv = argv,
		.user = user,
		.streams = { WSLX_STREAM_NULL, WSLX_STREAM_NULL, WSLX_STREAM_NULL },
	};
	const struct wslx_session_params p = {
		.vsock_path = vsock,
		.exec = &exec,
		.fds = { .in = -1, .out = -1, .err = -1, .tty_in = -1, .tty_out = -1 },
		.winsize_fd = -1,
		.cancel_fd = cli_interrupt.fd,
	};
	struct wslx_err why = { 0 };
	enum wslx_session_loss loss;
	int status = 0, r;

	if (!vsock)
		return wslx_err_sys(err, ENOMEM, "cannot ask '%s'", name);
	cli_interrupt_catch();
	r = wslx_session_run(&p, &status, &loss, &why);
	/* 127: there is such a user, only no such program. */
	if (r == -ENOENT && status != 127)
		return wslx_err_set(err, ENOENT, "there is no user '%s' in '%s'", user, name);
	if (r < 0 && status != 126 && status != 127)
		cli_warn("it could not be checked whether there is a user '%s' in '%s': %s", user, name, why.msg);
	return 0;
}

/* While its machine runs it is asked; no machine is started just for that. */
static int check_user(struct cli *c, const char *name, const char *user, struct wslx_err *err)
{
	char real[WSLX_NAME_MAX + 1];
	struct wslx_machine_info info;

	if (!*user || wslx_store_lookup(c->m, WSLX_STORE_DISTROS, name, real) < 0)
		return 0; /* said elsewhere */
	wslx_machine_query(c->m, real, &info);
	if (info.state == WSLX_MACHINE_RUNNING)
		return ask_for_user(c, real, user, err);
	cli_warn("'%s' is not running or does not answer, so it was not checked whether there is a user '%s' in it",
		 real, user);
	return 0;
}

/* ---- Changing ---- */

static int apply(struct cli *c, const char *word, struct wslx_settings *s, struct wslx_err *err)
{
	const char *eq = strchr(word, '=');
	char key[32], kernel[WSLX_NAME_MAX + 1];
	int r;

	if (!eq || (size_t)(eq - word) >= sizeof(key))
		return wslx_err_set(err, EINVAL, "'%s' is no KEY=VALUE; see `wslx config --help`", word);
	memcpy(key, word, (size_t)(eq - word));
	key[eq - word] = '\0';
	r = wslx_settings_set(s, key, eq + 1, err);
	if (r == 0 && !strcmp(key, "kernel") && s->kernel[0])
		r = wslx_kernel_choose(c->m, s->kernel, kernel, err);
	return r;
}

/* The words applied to the distro's settings; d is what it is now.  *ret_lock: wslx_region_check_kept(). */
static int apply_all(struct cli *c, const char *name, const char *const *words, int n, struct wslx_distro *d,
		     int *ret_lock, struct wslx_err *err)
{
	struct wslx_settings *s = &d->settings;
	struct wslx_grant old[WSLX_MAX_GRANTS];
	size_t n_old = 0;
	int r = wslx_distro_find(c->m, name, d, err);

	if (r == 0) {
		n_old = s->n_grants;
		memcpy(old, s->grants, sizeof(old));
	}
	for (int i = 0; r == 0 && i < n; i++)
		r = apply(c, words[i], s, err);
	if (r == 0)
		r = wslx_settings_check(s, err);
	return r < 0 ? r : wslx_region_check_kept(c->m, d->name, old, n_old, s, ret_lock, err);
}

/* What is kept is what was rounded up: here, once, is known what was written. */
static void say_rounded(const struct wslx_settings *s)
{
	char text[WSLX_GRANT_TEXT];

	for (size_t i = 0; i < s->n_grants; i++)
		if (wslx_grant_rounded(&s->grants[i], text))
			cli_warn("portal=%s: %s", s->grants[i].region, text);
}

static int check_size(struct cli *c, const char *word, struct wslx_err *err)
{
	struct wslx_grant g;
	int r = wslx_grant_parse(word, &g, err);

	return r < 0 ? r : wslx_region_check_size(c->m, &g, err);
}

/* Of those that change the room for regions: whose grant came last.  *ret NULL: the window's size has. */
static bool changes_room(const char *const *words, int n, char region[WSLX_GRANT_NAME_SIZE], const char **ret)
{
	struct wslx_grant g;
	bool changes = false;

	*ret = NULL;
	for (int i = 0; i < n; i++) {
		if (!strncmp(words[i], WINDOW_KEY, strlen(WINDOW_KEY))) {
			*ret = NULL;
			return true;
		}
		if (strncmp(words[i], PORTAL_KEY, strlen(PORTAL_KEY)) != 0 ||
		    wslx_grant_parse(words[i] + strlen(PORTAL_KEY), &g, NULL) < 0)
			continue;
		memcpy(region, g.region, sizeof(g.region));
		*ret = region;
		changes = true;
	}
	return changes;
}

static int change(struct cli *c, const char *name, const char *const *words, int n, struct wslx_distro *d,
		  struct wslx_err *err)
{
	cleanup_close int lock = -1, machine = -1;
	char region[WSLX_GRANT_NAME_SIZE];
	const char *last;
	int r = apply_all(c, name, words, n, d, &machine, err);

	/* That takes its time: not under the locks. */
	wslx_close(&machine);
	for (int i = 0; r == 0 && i < n; i++) {
		if (!strncmp(words[i], USER_KEY, strlen(USER_KEY)))
			r = check_user(c, name, words[i] + strlen(USER_KEY), err);
		else if (!strncmp(words[i], PORTAL_KEY, strlen(PORTAL_KEY)) && words[i][strlen(PORTAL_KEY)])
			r = check_size(c, words[i] + strlen(PORTAL_KEY), err);
	}
	if (r == 0 && changes_room(words, n, region, &last))
		r = wslx_region_check_room(c->m, d->name, &d->settings, last, err);
	if (r == 0)
		r = lock = wslx_registry_lock(c->m, err);
	if (r >= 0)
		r = apply_all(c, name, words, n, d, &machine, err);
	if (r == 0)
		r = wslx_distro_save(c->m, d, err);
	if (r == 0)
		say_rounded(&d->settings);
	return r;
}

int cli_config(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	int r;

	if (o->json && o->n_tail) {
		free(d);
		return wslx_err_set(err, EINVAL, "--json shows the settings; it does not go with KEY=VALUE");
	}
	if (!d)
		return wslx_err_sys(err, ENOMEM, "cannot read the settings");
	if (o->n_tail) {
		r = change(c, o->pos[0], o->tail, o->n_tail, d, err);
	} else {
		r = wslx_distro_find(c->m, o->pos[0], d, err);
		if (r == 0 && o->json)
			r = show_json(c, d, err);
		else if (r == 0)
			show(c, d);
	}
	free(d);
	return r;
}

int cli_config_user(struct cli *c, const char *name, const char *user, struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	cleanup_free char *word = wslx_path(USER_KEY "%s", user);
	const char *const words[] = { word };
	int r = d && word ? 0 : wslx_err_sys(err, ENOMEM, "cannot change the settings");

	if (r == 0)
		r = change(c, name, words, 1, d, err);
	free(d);
	return r;
}

int cli_set_default(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	return wslx_distro_set_default(c->m, o->pos[0], err);
}
