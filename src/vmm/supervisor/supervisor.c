/*
 * Theory of operation.  One process, one thread, one event loop.  The
 * supervisor opens everything (open.c), serves the control socket (control.c,
 * methods.c), and starts runs of the machine (run.c): one for each boot.  Beside
 * a run live the console (console.c), the agent's control connection (agent.c)
 * and passt (passt.c).  Of guest memory it maps
 * only the tables of Portal's window, which it writes and never reads.
 *
 * How a machine ends:
 *   power-off by the guest, or asked for      the supervisor ends, status 0
 *   reset                                     a new run, unless it loops, panicked, or never came up
 *   panic, triple fault, a child's death      reported with the last console lines, status 1
 * Children die with the supervisor (PDEATHSIG, and the link's or socket's end),
 * and the locks with the last process that could write.
 *
 * Trust boundary: the guest, through the child's link messages, QMP, the
 * console and the agent's frames, each bounded and checked where it is read.
 * The configuration comes from the user.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "os/linux/startup.h"
#include "vmm/supervisor/internal.h"

/* A machine that boots in a tenth of a second may need half a minute in a host that is itself emulated. */
#define HELLO_TIMEOUT_KVM_MS 60000
#define HELLO_TIMEOUT_TCG_MS 120000
#define STEP_TIMEOUT_KVM_MS 60000
#define STEP_TIMEOUT_TCG_MS 180000
#define TERMINATE_MS 10000
#define STOP_GRACE_MS 10000
/* From the end of the agent's connection to the machine's, which the agent
 * sees to: it stops the distros within 15 s, and a busy host takes longer. */
#define LOST_WAIT_MS 40000
#define REBOOT_WINDOW_MS 60000
#define LAST_CALLS_MS 500

const char *wslx_sup_state_name(const struct wslx_sup *s)
{
	static const char *const names[] = { "starting", "running", "paused", "stopping" };

	return names[s->state];
}

static void set_timing(struct wslx_sup *s, const char *name, uint64_t ns)
{
	for (size_t i = 0; i < s->n_timings; i++) {
		if (!strcmp(s->timings[i].name, name)) {
			s->timings[i].ns = ns;
			return;
		}
	}
	if (s->n_timings < MAX_TIMINGS)
		s->timings[s->n_timings++] = (struct timing) { name, ns };
}

json_t *wslx_sup_timings(const struct wslx_sup *s)
{
	json_t *j = json_object();

	for (size_t i = 0; i < s->n_timings; i++)
		json_object_set_new(j, s->timings[i].name, json_integer((json_int_t)s->timings[i].ns));
	return j;
}

/* Nanoseconds since this boot's fork. */
static uint64_t since_boot(const struct wslx_sup *s)
{
	return wslx_now_ns() - s->boot_ns;
}

void wslx_sup_warn(struct wslx_sup *s, const char *text)
{
	log_warn("%s", text);
	if (json_array_size(s->warnings) < 16)
		json_array_append_new(s->warnings, json_string(text));
}

/* ---- the end ---------------------------------------------------------------------- */

static void set_end(struct wslx_sup *s, int code, const char *text)
{
	if (!s->end_err.code)
		wslx_err_set(&s->end_err, code, "%s", text);
}

/* Does the guest's console say more of the end?  Not if a port was taken on the
 * host, or somebody stopped the machine. */
static bool console_tells(const struct wslx_sup *s)
{
	return s->console && s->end_err.code && s->end_err.code != EADDRINUSE && s->end_err.code != ECANCELED;
}

/* The run is gone, or never was. */
static void finish(struct wslx_sup *s)
{
	const char *lines[WSLX_CONSOLE_LINES + 1];
	size_t n = console_tells(s) ? wslx_conlog_lines(s->console, lines) : 0;

	if (s->over)
		return;
	s->over = true;
	s->state = SUP_STOPPING;
	if (s->end_err.code)
		wslx_report_event(&s->report, "crashed", s->end_err.msg);
	else
		wslx_report_event(&s->report, "stopped", "");
	if (!s->was_ready && !s->end_err.code)
		set_end(s, ECANCELED, "the machine was stopped while it started");
	if (!s->was_ready)
		wslx_report_failed(&s->report, s->end_err.msg, lines, n);
	wslx_sup_answer_waiters(s);
	wslx_loop_stop(s->loop, s->end_err.code ? 1 : 0);
}

void wslx_sup_fail(struct wslx_sup *s, int code, const char *text)
{
	set_end(s, code, text);
	s->state = SUP_STOPPING;
	if (s->run)
		wslx_run_stop(s->run);
	else
		finish(s);
}

static void on_stop_timer(struct wslx_timer *t, void *opaque)
{
	struct wslx_sup *s = opaque;

	log_warn("the guest did not power off in time");
	if (s->run)
		wslx_run_stop(s->run);
}

static void on_shutdown_reply(void *opaque, const struct wslx_agentc_reply *r)
{
	struct wslx_sup *s = opaque;

	if (r->code < 0 && r->code != -ECONNRESET && s->run) {
		log_warn("the agent cannot shut down: %s", r->text[0] ? r->text : strerror(-r->code));
		wslx_run_stop(s->run);
	}
}

void wslx_sup_ask_shutdown(struct wslx_sup *s, unsigned timeout_ms)
{
	struct wslx_agentc *conn = s->agent ? wslx_agent_setup_conn(s->agent) : NULL;

	if (!conn || wslx_agentc_shutdown(conn, WSLX_AGENT_POWEROFF, timeout_ms, on_shutdown_reply, s) < 0)
		wslx_run_stop(s->run);
}

void wslx_sup_terminate(struct wslx_sup *s, bool force, unsigned timeout_ms)
{
	bool again = s->state == SUP_STOPPING;
	bool can_ask = s->state == SUP_RUNNING || s->state == SUP_PAUSED;

	s->state = SUP_STOPPING;
	s->stop_wanted = true;
	if (!s->run) {
		finish(s);
		return;
	}
	if (!force && again)
		return;
	if (force || !can_ask) {
		wslx_run_stop(s->run);
		return;
	}
	wslx_timer_arm(s->stop_timer,
		       timeout_ms + (unsigned)(s->args.stop_grace_ms ? s->args.stop_grace_ms : STOP_GRACE_MS));
	/* A guest that stands still cannot shut down. */
	if (wslx_sup_at_rest(s))
		wslx_sup_resume_to_shut_down(s, timeout_ms);
	else
		wslx_sup_ask_shutdown(s, timeout_ms);
}

static void on_signal(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_sup *s = opaque;
	struct signalfd_siginfo si;

	if (read(fd, &si, sizeof(si)) != sizeof(si))
		return;
	log_info("signal %u: ending the machine", si.ssi_signo);
	/* A second one means it. */
	wslx_sup_terminate(s, s->state == SUP_STOPPING, TERMINATE_MS);
}

/* ---- the agent ------------------------------------------------------------------------ */

static void on_agent_progress(void *opaque, const char *what)
{
	struct wslx_sup *s = opaque;

	wslx_report_progress(&s->report, what);
}

static void on_agent_hello(void *opaque, const struct wslx_agent_hello *h)
{
	struct wslx_sup *s = opaque;

	set_timing(s, "hello", since_boot(s));
	set_timing(s, "guest_agent", h->boot_agent_ns);
	set_timing(s, "guest_modules", h->boot_modules_ns);
	set_timing(s, "guest_ready", h->boot_ready_ns);
	memcpy(s->kernel_release, h->kernel_release, sizeof(s->kernel_release));
	memcpy(s->agent_version, h->agent_version, sizeof(s->agent_version));
}

static void on_agent_ready(void *opaque)
{
	struct wslx_sup *s = opaque;
	json_t *timings;

	if (s->state != SUP_STARTING)
		return;
	set_timing(s, "ready", since_boot(s));
	s->state = SUP_RUNNING;
	wslx_report_event(&s->report, s->boots > 1 ? "rebooted" : "ready", s->kernel_release);
	timings = wslx_sup_timings(s);
	if (!s->was_ready)
		wslx_report_ready(&s->report, wslx_engine_name(s->config->engine), s->warnings, timings);
	json_decref(timings);
	s->was_ready = true;
	wslx_sup_answer_waiters(s);
}

static void on_agent_warning(void *opaque, const char *text)
{
	wslx_sup_warn(opaque, text);
}

static void on_agent_failed(void *opaque, const char *text)
{
	struct wslx_sup *s = opaque;

	/* After a panic the connection's end, or the silence, is its consequence;
	 * and while stopping it is what was asked for. */
	if (s->state == SUP_STOPPING || s->panic[0])
		return;
	wslx_conlog_drain(s->console);
	if (s->panic[0])
		return;
	wslx_sup_fail(s, ETIMEDOUT, text);
}

static void on_lost_timer(struct wslx_timer *t, void *opaque)
{
	struct wslx_sup *s = opaque;

	wslx_sup_fail(s, s->panic[0] ? EFAULT : ECONNRESET,
		      s->panic[0] ? s->panic : "the guest's agent is gone, and the machine did not end");
}

static void on_agent_lost(void *opaque, const char *text)
{
	struct wslx_sup *s = opaque;

	log_info("%s", text);
	s->agent_lost = true;
	if (s->state != SUP_STOPPING)
		wslx_timer_arm(s->lost_timer, LOST_WAIT_MS);
}

static void on_agent_event(void *opaque, const struct wslx_agent_event *ev)
{
	static struct wslx_log_limit limit;
	static const char *const names[] = { "?", "reboot", "poweroff", "distro-died", "oom", "warning" };
	struct wslx_sup *s = opaque;
	const char *name = ev->kind < ARRAY_SIZE(names) ? names[ev->kind] : "?";

	/* The guest decides how often: beyond the limit an event leaves no trace on the host's disk. */
	if (!wslx_log_limited(&limit, WSLX_LOG_INFO, "guest: %s %s %s", name, ev->distro, ev->text))
		return;
	if (ev->kind == WSLX_AGENT_EV_OOM || ev->kind == WSLX_AGENT_EV_DISTRO_DIED)
		wslx_report_event(&s->report, name, ev->distro);
}

static int start_agent(struct wslx_sup *s)
{
	static const struct wslx_agent_setup_events events = {
		.progress = on_agent_progress,
		.hello = on_agent_hello,
		.ready = on_agent_ready,
		.warning = on_agent_warning,
		.failed = on_agent_failed,
		.lost = on_agent_lost,
		.event = on_agent_event,
	};
	bool tcg = s->config->engine == WSLX_ENGINE_TCG;
	unsigned hello = s->config->boot_timeout_ms;

	if (!hello)
		hello = tcg ? HELLO_TIMEOUT_TCG_MS : HELLO_TIMEOUT_KVM_MS;
	return wslx_agent_setup_new(
		&(struct wslx_agent_setup_params) {
			.loop = s->loop,
			.config = s->config,
			.hello_timeout_ms = hello,
			.step_timeout_ms = tcg ? STEP_TIMEOUT_TCG_MS : STEP_TIMEOUT_KVM_MS,
			.events = &events,
			.opaque = s,
		},
		&s->agent);
}

/* ---- guest connections -------------------------------------------------------------------- */

static void connect_agent(struct wslx_sup *s, uint32_t id)
{
	int pair[2];

	if (wslx_agent_setup_has_connected(s->agent) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
		wslx_run_connected(s->run, id, -1);
		return;
	}
	wslx_run_connected(s->run, id, pair[1]);
	close(pair[1]);
	if (wslx_agent_setup_connected(s->agent, pair[0]) < 0)
		log_error("cannot talk to the agent: out of memory");
}

static void on_connect(void *opaque, uint32_t id, uint64_t port)
{
	struct wslx_sup *s = opaque;
	cleanup_free char *path = NULL;
	cleanup_close int fd = -1;
	char name[40];

	if (port == WSLX_AGENT_PORT) {
		connect_agent(s, id);
		return;
	}
	if (wslx_sup_portal_connect(s, id, port) == 0)
		return;
	snprintf(name, sizeof(name), "vsock.sock_%llu", (unsigned long long)port);
	path = port <= UINT32_MAX ? wslx_runtime_path(s->config, name) : NULL;
	if (path)
		fd = wslx_unix_connect(path, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK);
	wslx_run_connected(s->run, id, fd);
}

/* ---- the network ------------------------------------------------------------------------------ */

static int passt_connect(void *opaque)
{
	struct wslx_sup *s = opaque;
	cleanup_close int theirs = -1;
	int pair[2], r;

	if (s->config->engine == WSLX_ENGINE_TCG) {
		cleanup_free char *path = wslx_runtime_path(s->config, "net.sock");

		return path ? wslx_unix_connect(path, SOCK_STREAM | SOCK_CLOEXEC) : -ENOMEM;
	}
	if (s->net_fd >= 0) /* the run has just been started with its other end */
		return TAKE_FD(s->net_fd);
	if (!s->run)
		return -ENOTCONN;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	theirs = pair[1];
	r = wslx_run_set_net(s->run, theirs);
	if (r < 0) {
		close(pair[0]);
		return r;
	}
	return pair[0];
}

static void on_passt_ended(void *opaque, int64_t alive_ms, const char *text)
{
	struct wslx_sup *s = opaque;

	if (s->state == SUP_STOPPING)
		return;
	/* A port that cannot be published shows like this, and will not mend. */
	if (!s->was_ready && s->config->net.n_publish) {
		wslx_sup_fail(s, EADDRINUSE, text);
		return;
	}
	if (!s->was_ready)
		wslx_sup_warn(s, text);
	else
		log_warn("%s; starting it again", text);
}

/* Connections to published ports would go astray until the guest sends a frame
 * of its own accord.  A machine at rest gets this when it goes on. */
static void on_passt_replaced(void *opaque)
{
	struct wslx_sup *s = opaque;

	if (s->agent && wslx_agent_setup_conn(s->agent) && wslx_agent_setup_greet(s->agent) < 0)
		log_warn("the new passt does not know the guest yet");
}

static int start_passt(struct wslx_sup *s, struct wslx_err *err)
{
	if (s->config->net.mode != WSLX_NET_PASST)
		return 0;
	return wslx_passt_start(s->passt, err);
}

/* ---- runs ----------------------------------------------------------------------------------------- */

static int start_run(struct wslx_sup *s, struct wslx_err *err);

static bool reboots_too_often(struct wslx_sup *s)
{
	size_t slot = s->boots % ARRAY_SIZE(s->reboot_times);
	int64_t now = wslx_now_ms(), oldest = s->reboot_times[slot];

	s->reboot_times[slot] = now;
	return oldest && now - oldest < REBOOT_WINDOW_MS;
}

static void drop_run(struct wslx_sup *s)
{
	wslx_sup_pause_reset(s);
	s->full_disks = 0;
	s->agent_lost = false;
	wslx_timer_disarm(s->panic_timer);
	wslx_timer_disarm(s->stop_timer);
	wslx_timer_disarm(s->lost_timer);
	wslx_agent_setup_free(TAKE_PTR(s->agent));
	if (s->passt)
		wslx_passt_stop(s->passt);
	if (s->portal)
		wslx_vmportal_stop(s->portal);
	wslx_run_free(s->run);
	s->run = NULL;
	wslx_close(&s->net_fd);
}

static void reboot(struct wslx_sup *s)
{
	struct wslx_err err = { 0 };

	if (reboots_too_often(s)) {
		set_end(s, ELOOP, "the guest reboots again and again");
		finish(s);
		return;
	}
	wslx_report_event(&s->report, "reboot", "");
	s->state = SUP_STARTING;
	if (start_run(s, &err) < 0) {
		set_end(s, err.code, err.msg);
		finish(s);
	}
}

static void on_ended(void *opaque, enum wslx_run_end end, const char *text)
{
	struct wslx_sup *s = opaque;
	bool connected = s->agent && wslx_agent_setup_has_connected(s->agent);
	char msg[1024];

	/* A kernel that panicked does not power off: then the line was a joke. */
	if (s->panic[0] && end != WSLX_RUN_POWEROFF && !s->stop_wanted)
		set_end(s, EFAULT, s->panic);
	else if (end == WSLX_RUN_TRIPLE_FAULT)
		set_end(s, EFAULT, "the guest's processor stopped with a triple fault");
	else if (end == WSLX_RUN_FAILED) {
		snprintf(msg, sizeof(msg), "%s", text[0] ? text : "the machine ended for no known reason");
		set_end(s, EIO, msg);
	} else if (end == WSLX_RUN_POWEROFF && s->state == SUP_STARTING && !s->was_ready)
		set_end(s, EIO, "the guest powered off while it started");
	else if (end == WSLX_RUN_RESET && !connected)
		set_end(s, EIO, "the guest reset itself before its agent came up");
	drop_run(s);
	if (end == WSLX_RUN_RESET && !s->end_err.code && s->state != SUP_STOPPING)
		reboot(s);
	else
		finish(s);
}

static void on_first_entry(void *opaque, uint64_t ns)
{
	struct wslx_sup *s = opaque;

	if (ns > s->boot_ns)
		set_timing(s, "first_entry", ns - s->boot_ns);
}

static void on_host_full(void *opaque, unsigned disk, bool full)
{
	wslx_sup_host_full(opaque, disk, full);
}

static int make_net_pair(struct wslx_sup *s, int *ret_theirs, struct wslx_err *err)
{
	int pair[2];

	*ret_theirs = -1;
	if (s->config->net.mode != WSLX_NET_PASST || s->config->engine != WSLX_ENGINE_KVM)
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return wslx_err_sys(err, errno, "cannot make a socket pair");
	wslx_close(&s->net_fd);
	s->net_fd = pair[0];
	*ret_theirs = pair[1];
	return 0;
}

static int start_run(struct wslx_sup *s, struct wslx_err *err)
{
	static const struct wslx_run_events events = {
		.first_entry = on_first_entry, .connect = on_connect, .host_full = on_host_full, .ended = on_ended
	};
	cleanup_close int net = -1;
	int window = -1, r;

	s->boots++;
	r = make_net_pair(s, &net, err);
	if (r == 0 && s->portal)
		r = wslx_vmportal_boot(s->portal, &window, err);
	if (r == 0)
		r = wslx_files_listen_net(&s->files, s->config, err);
	if (r == 0) {
		r = start_agent(s);
		if (r < 0)
			wslx_err_sys(err, -r, "cannot start the machine");
	}
	if (r == 0)
		r = wslx_run_start(
			&(struct wslx_run_params) {
				.loop = s->loop,
				.config = s->config,
				.files = &s->files,
				.console = s->console,
				.net_fd = net,
				.window_fd = window,
				.self_path = s->args.self_path,
				.test_hooks = s->args.test_hooks,
				.no_io_uring = s->args.no_io_uring,
				.events = &events,
				.opaque = s,
			},
			&s->run, err);
	if (r == 0 && s->portal)
		wslx_vmportal_start(s->portal);
	/* passt takes its time to start; the kernel takes longer to need it. */
	if (r == 0) {
		s->boot_ns = wslx_run_spawn_ns(s->run);
		r = start_passt(s, err);
	}
	if (r < 0)
		drop_run(s);
	return r;
}

/* ---- start and end of the supervisor -------------------------------------------------------------- */

static int watch_signals(struct wslx_sup *s, struct wslx_err *err)
{
	sigset_t set;
	int r;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signal_fd < 0)
		return wslx_err_sys(err, errno, "signals");
	r = wslx_loop_watch(s->loop, s->signal_fd, EPOLLIN, on_signal, s, &s->signal_watch);
	return r < 0 ? wslx_err_sys(err, -r, "signals") : 0;
}

static int make_timers(struct wslx_sup *s, struct wslx_err *err)
{
	int r = wslx_loop_timer(s->loop, on_stop_timer, s, &s->stop_timer);

	if (r == 0)
		r = wslx_sup_panic_init(s);
	if (r == 0)
		r = wslx_loop_timer(s->loop, on_lost_timer, s, &s->lost_timer);
	if (r == 0)
		r = wslx_sup_pause_init(s);
	return r < 0 ? wslx_err_sys(err, -r, "timers") : 0;
}

static int prepare_passt(struct wslx_sup *s, struct wslx_err *err)
{
	int r;

	if (s->config->net.mode != WSLX_NET_PASST)
		return 0;
	r = wslx_publish_check(&s->config->net, err);
	if (r < 0)
		return r;
	return wslx_passt_new(
		&(struct wslx_passt_params) {
			.loop = s->loop,
			.net = &s->config->net,
			.connect = passt_connect,
			.ended = on_passt_ended,
			.replaced = on_passt_replaced,
			.opaque = s,
		},
		&s->passt, err);
}

/* Whoever asks meanwhile is answered: this machine starts, and does not hang. */
static int serve_while_opening(void *opaque, int ms)
{
	struct wslx_sup *s = opaque;
	int r = wslx_loop_once(s->loop, ms);

	return r == 0 && s->over ? -ECANCELED : r;
}

static int start(struct wslx_sup *s, struct wslx_err *err)
{
	cleanup_free char *path = NULL;
	int r = wslx_config_read(TAKE_FD(s->args.config_fd), &s->config, err);

	if (r < 0)
		return r;
	s->report.events_dir = strdup(s->config->state_dir);
	wslx_report_progress(&s->report, "opening the machine's files");
	path = wslx_runtime_path(s->config, "control.sock");
	if (!path)
		return wslx_err_sys(err, ENOMEM, "control socket");
	r = watch_signals(s, err);
	if (r == 0)
		r = make_timers(s, err);
	if (r == 0)
		r = wslx_sup_control_new(s, path, err);
	if (r == 0)
		r = wslx_vmmlog_new(s->config->state_dir, WSLX_VMM_LOG_MAX, &s->log, err);
	if (r == 0)
		r = wslx_conlog_new(s->loop, s->config->state_dir, wslx_sup_panic_seen, s, &s->console, err);
	if (r == 0)
		r = wslx_sup_portal_new(s, err);
	s->files.lock_wait = (struct wslx_lock_wait) { s->args.lock_wait_ms, serve_while_opening, s };
	if (r == 0)
		r = wslx_files_open(&s->files, s->config, s->args.kvm_path, err);
	if (r == 0)
		r = prepare_passt(s, err);
	if (r < 0)
		return r;
	set_timing(s, "setup", wslx_now_ns() - s->start_ns);
	wslx_report_progress(&s->report, "booting the kernel");
	r = start_run(s, err);
	if (r == 0)
		set_timing(s, "spawn", s->boot_ns);
	return r;
}

/* The start failed before the loop ran.  Others may have connected meanwhile to
 * wait for it: they are owed the reason, too. */
static void serve_last_calls(struct wslx_sup *s)
{
	int64_t end = wslx_now_ms() + LAST_CALLS_MS, left = 0;

	s->over = true;
	s->state = SUP_STOPPING;
	wslx_sup_answer_waiters(s);
	if (!s->control || wslx_loop_once(s->loop, 0) < 0)
		return;
	/* Who comes now will start the machine anew. */
	wslx_control_close_door(s->control);
	while (wslx_control_n_clients(s->control) && left >= 0) {
		left = end - wslx_now_ms();
		if (left >= 0 && wslx_loop_once(s->loop, (int)left) < 0)
			return;
	}
}

static void free_all(struct wslx_sup *s)
{
	if (s->run || s->agent)
		drop_run(s);
	wslx_vmportal_free(s->portal);
	wslx_passt_free(s->passt);
	wslx_control_free(s->control);
	wslx_conlog_free(s->console);
	wslx_vmmlog_free(s->log);
	wslx_files_close(&s->files);
	wslx_watch_free(s->signal_watch);
	wslx_close(&s->signal_fd);
	wslx_loop_free(s->loop);
	wslx_report_free(&s->report);
	wslx_vm_config_free(s->config);
	json_decref(s->warnings);
	wslx_close(&s->args.config_fd);
}

int wslx_supervisor_run(const struct wslx_supervisor_args *args)
{
	struct wslx_sup *s = calloc(1, sizeof(*s));
	struct wslx_err err = { 0 };
	int r;

	if (!s)
		return 1;
	s->args = *args;
	s->signal_fd = s->net_fd = -1;
	s->start_ns = args->start_ns ? args->start_ns : wslx_now_ns();
	wslx_files_init(&s->files);
	wslx_report_init(&s->report, args->ready_fd);
	s->warnings = json_array();
	/* Thousands of guest connections are as many descriptors in a child. */
	(void)!wslx_startup_raise_fds(65536);
	r = wslx_loop_new(&s->loop);
	if (r < 0)
		wslx_err_sys(&err, -r, "event loop");
	else
		r = start(s, &err);
	if (r < 0 && s->over) {
		r = 1; /* stopped meanwhile, and all was said */
	} else if (r < 0) {
		if (!err.code)
			wslx_err_sys(&err, -r, "cannot start the machine");
		log_error("%s", err.msg);
		set_end(s, err.code, err.msg);
		wslx_report_failed(&s->report, s->end_err.msg, NULL, 0);
		serve_last_calls(s);
		r = 1;
	} else {
		r = wslx_loop_run(s->loop);
	}
	free_all(s);
	free(s);
	return r ? 1 : 0;
}
