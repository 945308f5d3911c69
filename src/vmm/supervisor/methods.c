/* The control interface, io.wslx.Machine: docs/control-protocol.md. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/sandbox.h"
#include "vmm/supervisor/internal.h"

#define IFACE "io.wslx.Machine"
#define TERMINATE_DEFAULT_MS 10000
#define TIMEOUT_MAX_MS (3600 * 1000)

static const char description[] =
	"# A machine of WSLX: docs/control-protocol.md\n"
	"interface io.wslx.Machine\n\n"
	"type Distro (name: string, state: string)\n\n"
	"type Grant (region: string, as: string, state: string, access: string)\n\n"
	"method Info() -> (name: string, engine: string, state: string, pid: int, uptime_ms: int, boots: int,\n"
	"  cpus: int, memory: int, kernel: string, agent: string, distros: []Distro, timings: [string]int,\n"
	"  net: string, warnings: []string, panic: string, host_disk_full: bool, version: string)\n"
	"method Ping() -> ()\n"
	"method WaitReady() -> (warnings: []string, timings: [string]int)\n"
	"method Terminate(force: ?bool, timeout_ms: ?int) -> ()\n"
	"method StartDistro(name: string) -> (warnings: []string)\n"
	"method StopDistro(name: string, timeout_ms: ?int) -> ()\n"
	"method Pause() -> ()\n"
	"method Resume() -> ()\n"
	"method Stats() -> (stats: [string]int)\n"
	"method Console() -> (lines: []string)\n"
	"method PortalSync(region: ?string, as: ?string, socket: ?string, segments: ?int, access: ?string)\n"
	"  -> (grants: []Grant)\n"
	"method TestConfinement() -> (succeeded: []string)\n\n"
	"error NotReady (state: string)\n"
	"error NotSupported (what: string)\n"
	"error NoSuchDistro (name: string)\n"
	"error Failed (message: string, console: ?[]string)\n";

/* ---- helpers ------------------------------------------------------------------- */

static void not_ready(struct wslx_sup *s, struct wslx_call *call)
{
	wslx_call_error(call, IFACE ".NotReady", json_pack("{s:s}", "state", wslx_sup_state_name(s)));
}

static json_t *message(const char *text)
{
	json_t *j = json_string(text);

	return json_pack("{s:o}", "message", j ? j : json_string("?"));
}

static void failed(struct wslx_call *call, const char *text)
{
	wslx_call_error(call, IFACE ".Failed", message(text));
}

static void failed_errno(struct wslx_call *call, const char *what, int e)
{
	char text[256];

	snprintf(text, sizeof(text), "%s: %s", what, strerror(-e));
	failed(call, text);
}

static json_t *console_lines(const struct wslx_sup *s)
{
	const char *lines[WSLX_CONSOLE_LINES + 1];
	size_t n = s->console ? wslx_conlog_lines(s->console, lines) : 0;
	json_t *j = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(j, json_string(lines[i]));
	return j;
}

/* An optional number in 0..max; false and answered if it is something else. */
static bool get_number(struct wslx_call *call, json_t *params, const char *key, unsigned dflt, unsigned *ret)
{
	json_t *v = json_object_get(params, key);

	*ret = dflt;
	if (!v || json_is_null(v))
		return true;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > TIMEOUT_MAX_MS) {
		wslx_call_invalid(call, key);
		return false;
	}
	*ret = (unsigned)json_integer_value(v);
	return true;
}

static bool get_bool(struct wslx_call *call, json_t *params, const char *key, bool *ret)
{
	json_t *v = json_object_get(params, key);

	*ret = json_is_true(v);
	if (!v || json_is_null(v) || json_is_boolean(v))
		return true;
	wslx_call_invalid(call, key);
	return false;
}

/* The configuration's distro of that name; NULL and answered if there is none. */
static const struct wslx_distro_config *get_distro(struct wslx_sup *s, struct wslx_call *call, json_t *params)
{
	const char *name = json_string_value(json_object_get(params, "name"));

	if (!name) {
		wslx_call_invalid(call, "name");
		return NULL;
	}
	for (size_t i = 0; i < s->config->n_distros; i++)
		if (!strcmp(s->config->distros[i].name, name))
			return &s->config->distros[i];
	wslx_call_error(call, IFACE ".NoSuchDistro", json_pack("{s:s}", "name", name));
	return NULL;
}

/* The agent of a running machine; NULL and answered if it cannot be asked now. */
static struct wslx_agentc *get_agent(struct wslx_sup *s, struct wslx_call *call)
{
	struct wslx_agentc *conn = s->agent ? wslx_agent_setup_conn(s->agent) : NULL;

	if (conn && s->state == SUP_RUNNING && !wslx_sup_at_rest(s))
		return conn;
	not_ready(s, call);
	return NULL;
}

/* ---- plain questions --------------------------------------------------------------- */

static json_t *distros(const struct wslx_sup *s)
{
	json_t *j = json_array();

	for (size_t i = 0; i < s->config->n_distros; i++) {
		const char *name = s->config->distros[i].name;
		const char *state = s->agent && wslx_agent_setup_distro(s->agent, name) == 1 ? "running"
				    : s->state == SUP_STARTING                               ? "starting"
											     : "stopped";

		json_array_append_new(j, json_pack("{s:s, s:s}", "name", name, "state", state));
	}
	return j;
}

static void on_info(void *opaque, struct wslx_call *call, json_t *params)
{
	static const char *const nets[] = { "none", "passt", "tap" };
	struct wslx_sup *s = opaque;
	const struct wslx_vm_config *c = s->config;
	json_t *j = json_pack("{s:s, s:s, s:s, s:i, s:I, s:i, s:i, s:I, s:o, s:o, s:s, s:O, s:s, s:s}", "name", c->name,
			      "engine", wslx_engine_name(c->engine), "state", wslx_sup_state_name(s), "pid",
			      (int)getpid(), "uptime_ms", (json_int_t)((wslx_now_ns() - s->start_ns) / 1000000),
			      "boots", (int)s->boots, "cpus", (int)c->cpus, "memory", (json_int_t)c->memory, "distros",
			      distros(s), "timings", wslx_sup_timings(s), "net", nets[c->net.mode], "warnings",
			      s->warnings, "panic", s->panic, "version", WSLX_VERSION);
	json_t *kernel = json_string(s->kernel_release), *agent = json_string(s->agent_version);

	json_object_set_new(j, "host_disk_full", json_boolean(s->full_disks));
	/* The agent's words may be no UTF-8. */
	json_object_set_new(j, "kernel", kernel ? kernel : json_string("?"));
	json_object_set_new(j, "agent", agent ? agent : json_string("?"));
	wslx_call_reply(call, j);
}

static void on_ping(void *opaque, struct wslx_call *call, json_t *params)
{
	wslx_call_reply(call, NULL);
}

static void on_console(void *opaque, struct wslx_call *call, json_t *params)
{
	wslx_call_reply(call, json_pack("{s:o}", "lines", console_lines(opaque)));
}

static void answer_waiter(struct wslx_sup *s, struct wslx_call *call)
{
	if (s->state == SUP_RUNNING || s->state == SUP_PAUSED)
		wslx_call_reply(call, json_pack("{s:O, s:o}", "warnings", s->warnings, "timings", wslx_sup_timings(s)));
	else
		wslx_call_error(call, IFACE ".Failed",
				json_pack("{s:o, s:o}", "message",
					  json_string(s->end_err.code ? s->end_err.msg : "the machine is stopping"),
					  "console", console_lines(s)));
}

void wslx_sup_answer_waiters(struct wslx_sup *s)
{
	while (s->n_waiters)
		answer_waiter(s, s->waiters[--s->n_waiters]);
}

static void on_wait_ready(void *opaque, struct wslx_call *call, json_t *params)
{
	struct wslx_sup *s = opaque;

	/* Who wants no answer has nothing to wait for. */
	if (s->state == SUP_RUNNING || s->state == SUP_PAUSED || s->over || wslx_call_is_oneway(call))
		answer_waiter(s, call);
	else if (s->n_waiters < MAX_WAITERS)
		s->waiters[s->n_waiters++] = call;
	else
		failed(call, "too many clients wait");
}

static bool drop_waiter(struct wslx_sup *s, const struct wslx_call *call)
{
	for (size_t i = 0; i < s->n_waiters; i++) {
		struct wslx_call *w = s->waiters[i];

		if (w != call)
			continue;
		s->waiters[i] = s->waiters[--s->n_waiters];
		wslx_call_reply(w, NULL); /* into nothing; it is freed */
		return true;
	}
	return false;
}

/* ---- life ----------------------------------------------------------------------------- */

static void on_terminate(void *opaque, struct wslx_call *call, json_t *params)
{
	struct wslx_sup *s = opaque;
	unsigned timeout;
	bool force;

	if (!get_bool(call, params, "force", &force) ||
	    !get_number(call, params, "timeout_ms", TERMINATE_DEFAULT_MS, &timeout))
		return;
	wslx_call_reply(call, NULL);
	wslx_sup_terminate(s, force, timeout);
}

struct distro_call {
	struct wslx_sup *s;
	struct wslx_call *call;
	char name[WSLX_NAME_MAX + 1];
};

static struct distro_call *distro_call_new(struct wslx_sup *s, struct wslx_call *call, const char *name)
{
	struct distro_call *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->s = s;
	d->call = call;
	snprintf(d->name, sizeof(d->name), "%s", name);
	return d;
}

static bool distro_failed(struct distro_call *d, const struct wslx_agentc_reply *r)
{
	if (r->code == 0)
		return false;
	failed(d->call, r->text[0] ? r->text : strerror(-r->code));
	return true;
}

static void on_distro_stopped(void *opaque, const struct wslx_agentc_reply *r)
{
	struct distro_call *d = opaque;

	if (!distro_failed(d, r)) {
		if (d->s->agent)
			wslx_agent_setup_distro_mark(d->s->agent, d->name, false);
		wslx_call_reply(d->call, NULL);
	}
	free(d);
}

static void on_distro_started(void *opaque, const struct wslx_agentc_reply *r)
{
	struct distro_call *d = opaque;

	if (!distro_failed(d, r)) {
		json_t *warnings = json_array();

		for (size_t i = 0; r->started && i < r->started->n_warnings; i++)
			json_array_append_new(warnings, json_string(r->started->warnings[i]));
		if (d->s->agent)
			wslx_agent_setup_distro_mark(d->s->agent, d->name, true);
		wslx_call_reply(d->call, json_pack("{s:o}", "warnings", warnings));
	}
	free(d);
}

static void on_stop_distro(void *opaque, struct wslx_call *call, json_t *params)
{
	struct wslx_sup *s = opaque;
	const struct wslx_distro_config *c = get_distro(s, call, params);
	struct wslx_agentc *conn;
	struct distro_call *d;
	unsigned timeout;
	int r;

	if (!c || !get_number(call, params, "timeout_ms", 0, &timeout))
		return;
	conn = get_agent(s, call);
	if (!conn)
		return;
	d = distro_call_new(s, call, c->name);
	r = d ? wslx_agentc_distro_stop(conn, c->name, timeout, on_distro_stopped, d) : -ENOMEM;
	if (r < 0) {
		free(d);
		failed_errno(call, "cannot ask the agent", r);
	}
}

static void on_start_distro(void *opaque, struct wslx_call *call, json_t *params)
{
	struct wslx_sup *s = opaque;
	const struct wslx_distro_config *c = get_distro(s, call, params);
	struct wslx_agent_distro m;
	struct wslx_agentc *conn;
	struct distro_call *d;
	int r;

	if (!c)
		return;
	conn = get_agent(s, call);
	if (!conn)
		return;
	wslx_agent_setup_distro_message(c, &m);
	d = distro_call_new(s, call, c->name);
	r = d ? wslx_agentc_distro_start(conn, &m, on_distro_started, d) : -ENOMEM;
	if (r < 0) {
		free(d);
		failed_errno(call, "cannot ask the agent", r);
	}
}

/* ---- pause and resume --------------------------------------------------------------------- */

static void on_pause(void *opaque, struct wslx_call *call, json_t *params)
{
	struct wslx_sup *s = opaque;
	struct wslx_agentc *conn;

	if (s->state == SUP_PAUSED && s->pause.want && !s->pause.pause_call) {
		wslx_call_reply(call, NULL);
		return;
	}
	conn = get_agent(s, call);
	if (!conn)
		return;
	if (s->pause.unanswered)
		not_ready(s, call);
	else
		wslx_sup_pause(s, conn, call);
}

static void on_resume(void *opaque, struct wslx_call *call, json_t *params)
{
	struct wslx_sup *s = opaque;

	if (s->state == SUP_RUNNING && !wslx_sup_at_rest(s))
		wslx_call_reply(call, NULL);
	else if (!s->run || !wslx_sup_at_rest(s) || s->state == SUP_STOPPING || !wslx_sup_resume(s, call))
		not_ready(s, call);
}

static void on_caller_gone(void *opaque, const struct wslx_call *call)
{
	struct wslx_sup *s = opaque;

	if (!drop_waiter(s, call))
		wslx_sup_pause_caller_gone(s, call);
}

/* ---- the child's answers -------------------------------------------------------------------- */

/* "name value" lines. */
static json_t *parse_stats(const char *text)
{
	json_t *j = json_object();

	while (*text) {
		size_t n = strcspn(text, "\n"), name = strcspn(text, " \n");
		char key[64];

		if (name < n && name && name < sizeof(key)) {
			memcpy(key, text, name);
			key[name] = '\0';
			/* A key that is no UTF-8 is refused by the library: dropped. */
			json_object_set_new(j, key, json_integer((json_int_t)strtoull(text + name, NULL, 10)));
		}
		text += n;
		text += *text == '\n';
	}
	return j;
}

static void on_stats_reply(void *opaque, int err, uint64_t a, const char *text)
{
	struct wslx_call *call = opaque;

	if (err < 0)
		failed_errno(call, "no statistics", err);
	else
		wslx_call_reply(call, json_pack("{s:o}", "stats", parse_stats(text)));
}

static void on_stats(void *opaque, struct wslx_call *call, json_t *params)
{
	struct wslx_sup *s = opaque;
	int r;

	if (!s->run) {
		not_ready(s, call);
		return;
	}
	r = wslx_run_stats(s->run, on_stats_reply, call);
	if (r < 0)
		failed_errno(call, "no statistics", r);
}

static void on_test_reply(void *opaque, int err, uint64_t a, const char *text)
{
	static const struct {
		uint64_t bit;
		const char *name;
	} leaks[] = {
		{ WSLX_SANDBOX_LEAK_OPEN, "open" },       { WSLX_SANDBOX_LEAK_EXECVE, "execve" },
		{ WSLX_SANDBOX_LEAK_CONNECT, "connect" }, { WSLX_SANDBOX_LEAK_IO_URING, "io_uring" },
		{ WSLX_SANDBOX_LEAK_SOCKET, "socket" },   { WSLX_SANDBOX_LEAK_RING, "ring" },
		{ WSLX_SANDBOX_LEAK_STAT, "stat" },
	};
	struct wslx_call *call = opaque;
	json_t *list;

	if (err < 0) {
		failed_errno(call, "the confined process did not answer", err);
		return;
	}
	list = json_array();
	for (size_t i = 0; i < ARRAY_SIZE(leaks); i++) {
		if (a & leaks[i].bit)
			json_array_append_new(list, json_string(leaks[i].name));
		a &= ~leaks[i].bit;
	}
	if (a)
		json_array_append_new(list, json_string("unknown"));
	wslx_call_reply(call, json_pack("{s:o}", "succeeded", list));
}

static void on_test_confinement(void *opaque, struct wslx_call *call, json_t *params)
{
	struct wslx_sup *s = opaque;
	int r;

	if (!s->args.test_hooks) {
		wslx_call_error(call, IFACE ".NotSupported",
				json_pack("{s:s}", "what", "not started with WSLX_TEST_HOOKS=1"));
		return;
	}
	if (!s->run) {
		not_ready(s, call);
		return;
	}
	r = wslx_run_test_confinement(s->run, on_test_reply, call);
	if (r < 0)
		failed_errno(call, "the confined process cannot be asked", r);
}

int wslx_sup_control_new(struct wslx_sup *s, const char *path, struct wslx_err *err)
{
	static const struct wslx_method methods[] = {
		{ "Info", on_info },
		{ "Ping", on_ping },
		{ "WaitReady", on_wait_ready },
		{ "Terminate", on_terminate },
		{ "StartDistro", on_start_distro },
		{ "StopDistro", on_stop_distro },
		{ "Pause", on_pause },
		{ "Resume", on_resume },
		{ "Stats", on_stats },
		{ "Console", on_console },
		{ "PortalSync", wslx_sup_portal_sync },
		{ "TestConfinement", on_test_confinement },
	};

	return wslx_control_new(
		&(struct wslx_control_params) {
			.loop = s->loop,
			.path = path,
			.interface = IFACE,
			.description = description,
			.methods = methods,
			.n_methods = ARRAY_SIZE(methods),
			.gone = on_caller_gone,
			.opaque = s,
		},
		&s->control, err);
}
