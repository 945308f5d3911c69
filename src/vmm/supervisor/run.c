#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "boot/boot.h"
#include "os/linux/fd.h"
#include "vmm/child.h"
#include "vmm/supervisor/run_internal.h"

/* The child's own limit for ending in order is 5 s (vm/control.c). */
#define STOP_LIMIT_MS 8000

void wslx_run_note_end(struct wslx_run *r, enum wslx_run_end end, const char *text)
{
	if (r->have_end)
		return;
	r->have_end = true;
	r->end = end;
	snprintf(r->text, sizeof(r->text), "%s", text);
}

/* ---- the end ---------------------------------------------------------------- */

static void finish_if_gone(struct wslx_run *r)
{
	if (!r->child_gone || (r->qemu && !r->qemu_gone))
		return;
	wslx_timer_disarm(r->kill_timer);
	wslx_run_link_close(r);
	wslx_run_window_close(r);
	wslx_run_fail_requests(r);
	wslx_conlog_drain(r->p.console);
	r->p.events->ended(r->p.opaque, r->end, r->text);
}

static void describe_child_end(struct wslx_run *r, const struct wslx_exit_status *st)
{
	char how[64], text[160];

	if (r->stopping && !st->signal && !st->status) {
		wslx_run_note_end(r, WSLX_RUN_STOPPED, "");
		return;
	}
	wslx_proc_describe(st, how, sizeof(how));
	snprintf(text, sizeof(text), "the %s %s",
		 r->p.config->engine == WSLX_ENGINE_KVM ? "virtual machine monitor" : "device server", how);
	wslx_run_note_end(r, r->stopping ? WSLX_RUN_STOPPED : WSLX_RUN_FAILED, text);
}

static void on_child_exit(struct wslx_proc *proc, const struct wslx_exit_status *st, void *opaque)
{
	struct wslx_run *r = opaque;

	r->child_gone = true;
	wslx_relay_drain(r->relay);
	wslx_run_link_drain(r);
	if (r->qemu && !r->qemu_gone) {
		/* It ends in order when QEMU has closed its sockets: QEMU is
		 * about to say why.  Otherwise the guest has lost its disks. */
		if (st->status || st->signal) {
			describe_child_end(r, st);
			wslx_qemu_kill(r->qemu);
		} else {
			wslx_timer_arm(r->kill_timer, STOP_LIMIT_MS);
		}
		return;
	}
	describe_child_end(r, st);
	finish_if_gone(r);
}

static void on_qemu_ended(void *opaque, enum wslx_qemu_end end, const char *text)
{
	static const enum wslx_run_end ends[] = {
		[WSLX_QEMU_POWEROFF] = WSLX_RUN_POWEROFF,
		[WSLX_QEMU_RESET] = WSLX_RUN_RESET,
		[WSLX_QEMU_TRIPLE_FAULT] = WSLX_RUN_TRIPLE_FAULT,
		[WSLX_QEMU_QUIT] = WSLX_RUN_STOPPED,
		[WSLX_QEMU_FAILED] = WSLX_RUN_FAILED,
	};
	struct wslx_run *r = opaque;

	r->qemu_gone = true;
	/* A device server that failed first says more than QEMU's complaint about it. */
	wslx_run_link_drain(r);
	wslx_run_note_end(r, ends[end], text);
	if (!r->child_gone) {
		const struct wslx_link_msg stop = { .type = WSLX_LINK_STOP, .fd = -1 };

		if (r->link_fd < 0 || wslx_link_send(r->link_fd, &stop) < 0)
			wslx_proc_kill(r->child, SIGKILL);
		wslx_timer_arm(r->kill_timer, STOP_LIMIT_MS);
	}
	finish_if_gone(r);
}

void wslx_run_kill(struct wslx_run *r)
{
	if (!r->child_gone)
		wslx_proc_kill(r->child, SIGKILL);
	if (r->qemu && !r->qemu_gone)
		wslx_qemu_kill(r->qemu);
}

static void on_kill_timer(struct wslx_timer *t, void *opaque)
{
	struct wslx_run *r = opaque;

	log_warn("machine %s did not end by itself within %d ms: killed", r->p.config->name, STOP_LIMIT_MS);
	wslx_run_kill(r);
}

void wslx_run_stop(struct wslx_run *r)
{
	const struct wslx_link_msg stop = { .type = WSLX_LINK_STOP, .fd = -1 };

	if (r->stopping)
		return;
	r->stopping = true;
	wslx_timer_arm(r->kill_timer, STOP_LIMIT_MS);
	if (r->qemu)
		wslx_qemu_quit(r->qemu);
	else if (r->link_fd < 0 || wslx_link_send(r->link_fd, &stop) < 0)
		wslx_run_kill(r);
}

/* ---- pause --------------------------------------------------------------------- */

static void step_done(struct wslx_run *r, int err)
{
	r->step.active = false;
	r->step.fn(r->step.opaque, err, 0, "");
}

static void on_devices_step(void *opaque, int err, uint64_t a, const char *text)
{
	struct wslx_run *r = opaque;

	step_done(r, err);
}

static void on_qemu_resumed(void *opaque, int err)
{
	step_done(opaque, err);
}

/* The vCPUs stand still: now the devices. */
static void on_qemu_paused(void *opaque, int err)
{
	struct wslx_run *r = opaque;

	if (err == 0)
		err = wslx_run_request(r, WSLX_LINK_PAUSE, WSLX_LINK_PAUSED, on_devices_step, r);
	if (err < 0)
		step_done(r, err);
}

static void on_devices_resumed(void *opaque, int err, uint64_t a, const char *text)
{
	struct wslx_run *r = opaque;

	if (err == 0)
		err = wslx_qemu_pause(r->qemu, false, on_qemu_resumed, r);
	if (err < 0)
		step_done(r, err);
}

int wslx_run_pause(struct wslx_run *r, bool on, wslx_run_reply_fn fn, void *opaque)
{
	int e;

	if (!r->qemu)
		return wslx_run_request(r, on ? WSLX_LINK_PAUSE : WSLX_LINK_RESUME, WSLX_LINK_PAUSED, fn, opaque);
	if (r->step.active)
		return -EBUSY;
	r->step.fn = fn;
	r->step.opaque = opaque;
	if (on)
		e = wslx_qemu_pause(r->qemu, true, on_qemu_paused, r);
	else
		e = wslx_run_request(r, WSLX_LINK_RESUME, WSLX_LINK_PAUSED, on_devices_resumed, r);
	r->step.active = e == 0;
	return e;
}

int wslx_run_stats(struct wslx_run *r, wslx_run_reply_fn fn, void *opaque)
{
	return wslx_run_request(r, WSLX_LINK_STATS, WSLX_LINK_STATS_REPLY, fn, opaque);
}

int wslx_run_test_confinement(struct wslx_run *r, wslx_run_reply_fn fn, void *opaque)
{
	return wslx_run_request(r, WSLX_LINK_TEST_CONFINEMENT, WSLX_LINK_PAUSED, fn, opaque);
}

/* ---- the start ------------------------------------------------------------------ */

/* Descriptors made for one run: theirs go to the children and are closed here afterwards. */
struct ends {
	int link, console, vsock, err;
	int disks[WSLX_MAX_DISKS];
	/* QEMU's */
	int qemu_console, qemu_vsock;
	int qemu_disks[WSLX_MAX_DISKS];
	int qemu_window;
};

static void ends_init(struct ends *e)
{
	memset(e, 0xff, sizeof(*e)); /* all -1 */
}

static void ends_close(struct ends *e)
{
	int *fds = &e->link;

	for (size_t i = 0; i < sizeof(*e) / sizeof(int); i++)
		wslx_close(&fds[i]);
}

static int make_pair(int type, int *a, int *b, struct wslx_err *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) < 0)
		return wslx_err_sys(err, errno, "cannot make a socket pair");
	*a = pair[0];
	*b = pair[1];
	return 0;
}

static int make_ends(struct wslx_run *r, struct ends *e, int *ret_console, struct wslx_err *err)
{
	bool tcg = r->p.config->engine == WSLX_ENGINE_TCG;
	int x = make_pair(SOCK_SEQPACKET, &r->link_fd, &e->link, err);

	if (x == 0)
		x = make_pair(SOCK_STREAM, ret_console, tcg ? &e->qemu_console : &e->console, err);
	if (x == 0 && tcg)
		x = make_pair(SOCK_STREAM, &e->vsock, &e->qemu_vsock, err);
	if (x == 0 && tcg && r->p.window_fd >= 0)
		x = make_pair(SOCK_SEQPACKET, &r->window.fd, &e->qemu_window, err);
	for (size_t i = 0; x == 0 && tcg && i < r->p.config->n_disks; i++)
		x = make_pair(SOCK_STREAM, &e->disks[i], &e->qemu_disks[i], err);
	if (x == 0) {
		x = wslx_relay_new(r->p.loop, tcg ? "wslx-vmm[devices]" : "wslx-vmm[vmm]", &e->err, &r->relay);
		if (x < 0)
			wslx_err_sys(err, -x, "cannot listen to the child");
	}
	return x;
}

static void fill_disks(struct wslx_run *r, const struct ends *e, struct wslx_child_disk *disks)
{
	const struct wslx_vm_config *c = r->p.config;

	for (size_t i = 0; i < c->n_disks; i++) {
		disks[i] = (struct wslx_child_disk) {
			.fd = r->p.files->disks[i].fd,
			.base_fd = r->p.files->disks[i].base_fd,
			.format = c->disks[i].format,
			.readonly = c->disks[i].readonly,
			.no_sync = c->disks[i].no_sync,
			.queues = wslx_disk_queues(c, i),
			.vhost_fd = e->disks[i],
		};
		memcpy(disks[i].serial, c->disks[i].serial, sizeof(disks[i].serial));
	}
}

static int fill_params(struct wslx_run *r, const struct ends *e, struct wslx_child_params *cp, struct wslx_err *err)
{
	const struct wslx_vm_config *c = r->p.config;
	int x = 0;

	*cp = (struct wslx_child_params) {
		.link_fd = e->link,
		.console_fd = e->console,
		.vsock_fd = r->p.files->vsock_fd,
		.vsock_vhost_fd = e->vsock,
		.guest_cid = WSLX_GUEST_CID,
		.disks = cp->disks,
		.n_disks = c->n_disks,
		.window = r->p.window_fd >= 0 ? c->portal.window : 0,
		.window_fd = r->p.window_fd,
		.cpus = c->cpus,
		.memory = c->memory,
		.shared_memory = c->shared_memory,
		.kvm_fd = -1,
		.kernel_fd = -1,
		.initramfs_fd = -1,
		.net_mode = WSLX_NET_NONE,
		.net_fd = -1,
		.no_io_uring = r->p.no_io_uring,
		.test_hooks = r->p.test_hooks,
	};
	fill_disks(r, e, cp->disks);
	wslx_machine_mac(c, cp->mac);
	if (c->engine == WSLX_ENGINE_KVM) {
		cp->kvm_fd = r->p.files->kvm_fd;
		cp->kernel_fd = r->p.files->kernel_fd;
		cp->initramfs_fd = r->p.files->initramfs_fd;
		cp->net_mode = c->net.mode;
		cp->net_fd = c->net.mode == WSLX_NET_TAP ? r->p.files->tap_fd : r->p.net_fd;
		x = wslx_cmdline_build(c->cmdline_extra, &cp->cmdline, err);
	}
	return x;
}

/* Every descriptor that the parameters name. */
static size_t list_fds(const struct wslx_child_params *cp, int *keep, size_t max)
{
	const int fds[] = { cp->link_fd,   cp->console_fd,   cp->vsock_fd, cp->vsock_vhost_fd, cp->kvm_fd,
			    cp->kernel_fd, cp->initramfs_fd, cp->net_fd,   cp->window_fd };
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0 && n < max)
			keep[n++] = fds[i];
	for (size_t i = 0; i < cp->n_disks; i++) {
		const int d[] = { cp->disks[i].fd, cp->disks[i].base_fd, cp->disks[i].vhost_fd };

		for (size_t k = 0; k < ARRAY_SIZE(d); k++)
			if (d[k] >= 0 && n < max)
				keep[n++] = d[k];
	}
	return n;
}

static int write_params(const struct wslx_child_params *cp, int *ret, struct wslx_err *err)
{
	cleanup_close int fd = memfd_create("wslx-params", MFD_CLOEXEC);
	cleanup_free char *json = NULL;
	int x = fd < 0 ? -errno : wslx_child_params_encode(cp, &json);

	if (x == 0)
		x = wslx_write_full(fd, json, strlen(json));
	if (x == 0 && lseek(fd, 0, SEEK_SET) < 0)
		x = -errno;
	if (x < 0)
		return wslx_err_sys(err, -x, "cannot write the child's parameters");
	*ret = TAKE_FD(fd);
	return 0;
}

static int start_child(struct wslx_run *r, const struct ends *e, struct wslx_err *err)
{
	bool kvm = r->p.config->engine == WSLX_ENGINE_KVM;
	struct wslx_child_disk disks[WSLX_MAX_DISKS];
	struct wslx_child_params cp = { .disks = disks };
	cleanup_close int params_fd = -1;
	int keep[WSLX_MAX_DISKS * 3 + 16];
	char params_arg[32];
	char *argv[] = { (char *)"wslx-vmm", (char *)(kvm ? "--child=vmm" : "--child=devices"), params_arg,
			 r->p.config->name, NULL };
	struct wslx_spawn spawn = {
		.path = r->p.self_path ? r->p.self_path : "/proc/self/exe",
		.argv = argv,
		.keep = keep,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = e->err,
	};
	int x = fill_params(r, e, &cp, err);

	if (x == 0)
		x = write_params(&cp, &params_fd, err);
	if (x == 0) {
		snprintf(params_arg, sizeof(params_arg), "--params=%d", params_fd);
		spawn.n_keep = list_fds(&cp, keep, ARRAY_SIZE(keep) - 1);
		keep[spawn.n_keep++] = params_fd;
		x = wslx_proc_start(r->p.loop, &spawn, on_child_exit, r, &r->child, err);
	}
	free(cp.cmdline);
	return x;
}

static int start_processes(struct wslx_run *r, const struct ends *e, struct wslx_err *err)
{
	bool tcg = r->p.config->engine == WSLX_ENGINE_TCG;
	const struct wslx_tsc_mark mark = tcg ? wslx_tsc_now() : (struct wslx_tsc_mark) { 0 };
	int x = start_child(r, e, err);

	if (x < 0 || !tcg)
		return x;
	return wslx_qemu_start(
		&(struct wslx_qemu_params) {
			.loop = r->p.loop,
			.config = r->p.config,
			.files = r->p.files,
			.console_fd = e->qemu_console,
			.vsock_vhost_fd = e->qemu_vsock,
			.disk_vhost_fds = e->qemu_disks,
			.window_fd = r->p.window_fd,
			.window_link_fd = e->qemu_window,
			.tsc_mark = mark,
			.ended = on_qemu_ended,
			.opaque = r,
		},
		&r->qemu, err);
}

static int start(struct wslx_run *r, struct wslx_err *err)
{
	cleanup_with(ends_close) struct ends e;
	cleanup_close int console = -1;
	int x;

	ends_init(&e);
	x = make_ends(r, &e, &console, err);
	if (x < 0)
		return x;
	x = wslx_loop_timer(r->p.loop, on_kill_timer, r, &r->kill_timer);
	if (x == 0)
		x = wslx_run_answers_init(r);
	if (x == 0)
		x = wslx_run_link_watch(r);
	if (x == 0)
		x = wslx_run_window_watch(r);
	if (x == 0)
		x = wslx_conlog_attach(r->p.console, TAKE_FD(console));
	if (x < 0)
		return wslx_err_sys(err, -x, "cannot watch the machine");
	r->spawn_ns = wslx_now_ns();
	return start_processes(r, &e, err);
}

int wslx_run_start(const struct wslx_run_params *p, struct wslx_run **ret, struct wslx_err *err)
{
	struct wslx_run *r = calloc(1, sizeof(*r));
	int x;

	if (!r)
		return wslx_err_sys(err, ENOMEM, "cannot start the machine");
	r->p = *p;
	r->link_fd = r->window.fd = -1;
	x = start(r, err);
	if (x < 0) {
		wslx_run_free(r);
		return x;
	}
	*ret = r;
	return 0;
}

uint64_t wslx_run_spawn_ns(const struct wslx_run *r)
{
	return r->spawn_ns;
}

void wslx_run_free(struct wslx_run *r)
{
	if (!r)
		return;
	wslx_qemu_free(r->qemu);
	wslx_proc_free(r->child);
	wslx_run_link_close(r);
	wslx_run_answers_free(r);
	wslx_run_window_close(r); /* not ended if it never started */
	wslx_relay_free(r->relay);
	wslx_timer_free(r->kill_timer);
	free(r);
}
