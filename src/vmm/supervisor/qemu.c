/*
 * Theory of operation.  The supervisor makes the socket pairs, starts the
 * device server with one end of each and QEMU with the other, and learns from
 * QMP how the guest ended: SHUTDOWN's reason tells a power-off from a reset.  A
 * triple fault looks like a reset there; QEMU's reset log on stderr tells.
 * With -no-reboot either ends the process.
 *
 * Confinement, from outside in: no new privileges; root becomes nobody in
 * network and IPC namespaces of its own; Landlock leaves the system's folders,
 * the kernel and the initramfs, all read-only; QEMU's own seccomp filter then
 * takes away spawning, privilege changes and resource control.
 *
 * Network: a stream netdev that listens.  passt's death closes its connection,
 * the netdev goes on listening, and the next passt gets a new connection to the
 * same socket; the guest sees lost packets and nothing else.
 */
#include "vmm/supervisor/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "boot/boot.h"
#include "os/linux/fd.h"
#include "os/linux/paths.h"
#include "vmm/supervisor/proc.h"
#include "vmm/supervisor/qmp.h"

#define MAX_ARGS 160
#define MAX_KEEP (WSLX_MAX_DISKS + 12)
#define STDERR_LINE 512

/* What emulation needs or gains on top of the kernel's common command line:
 *   mitigations=off  an emulated CPU has no speculation to guard against, and
 *                    each mitigation is real work: a third of a fork
 *   idle=nomwait     a vCPU in MWAIT is not woken by another vCPU's write under
 *                    TCG: a vsock round trip took 3.4 ms instead of 0.16
 *   no_timer_check   on a busy host the kernel's check of its timer interrupt
 *                    fails, and it panics
 *   maxcpus=1 wslx.late_cpus noreplace-smp
 *                    QEMU before 8.1 may keep the translation of an instruction
 *                    that another vCPU changed while it was being translated.
 *                    Linux changes its code all through its boot; a vCPU then
 *                    met a breakpoint for ever that was no longer there, in one
 *                    of some hundred boots on a busy host.  So it boots on one
 *                    vCPU, and the agent brings up the others; code for one CPU
 *                    is not put in, which would have to be taken out again */
static const char tcg_cmdline[] = "mitigations=off idle=nomwait no_timer_check maxcpus=1 wslx.late_cpus noreplace-smp";

struct wslx_qemu {
	struct wslx_qemu_params p;
	struct wslx_proc *proc;
	struct wslx_qmp *qmp;
	int stderr_fd;
	struct wslx_watch *stderr_watch;
	char line[STDERR_LINE];
	size_t line_len;
	char complaint[STDERR_LINE]; /* the last line QEMU said in its own name */
	bool triple_fault;
	bool have_end, quitting;
	enum wslx_qemu_end end;
};

/* ---- command line ------------------------------------------------------- */

struct args {
	char *v[MAX_ARGS + 1];
	size_t n;
	bool failed;
	int keep[MAX_KEEP];
	size_t n_keep;
	char env_text[3][48];
	char *env[4]; /* beyond the minimal one */
};

static void args_free(struct args *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
}

static void add(struct args *a, const char *fmt, ...) WSLX_PRINTF(2, 3);
static void add(struct args *a, const char *fmt, ...)
{
	va_list ap;

	if (a->n == MAX_ARGS) {
		a->failed = true;
		return;
	}
	va_start(ap, fmt);
	if (vasprintf(&a->v[a->n], fmt, ap) < 0)
		a->failed = true;
	else
		a->n++;
	va_end(ap);
}

static int keep(struct args *a, int fd)
{
	if (a->n_keep < MAX_KEEP)
		a->keep[a->n_keep++] = fd;
	else
		a->failed = true;
	return fd;
}

/* PCI addresses are those of docs/architecture.md; on q35 slot 1f is the
 * chipset's own, so the sixteenth disk goes to the reserved slot 0f. */
static unsigned disk_slot(size_t i)
{
	return i == 15 ? 0x0f : 0x10 + (unsigned)i;
}

static void add_disks(struct args *a, const struct wslx_qemu_params *p)
{
	for (size_t i = 0; i < p->config->n_disks; i++) {
		add(a, "-chardev");
		add(a, "socket,id=cblk%zu,fd=%d", i, keep(a, p->disk_vhost_fds[i]));
		add(a, "-device");
		add(a, "vhost-user-blk-pci,chardev=cblk%zu,num-queues=%u,addr=0x%x,disable-legacy=on", i,
		    wslx_disk_queues(p->config, i), disk_slot(i));
	}
}

static void add_net(struct args *a, const struct wslx_qemu_params *p)
{
	unsigned char m[6];

	if (p->config->net.mode == WSLX_NET_NONE)
		return;
	wslx_machine_mac(p->config, m);
	add(a, "-netdev");
	if (p->config->net.mode == WSLX_NET_TAP)
		add(a, "tap,id=net0,fd=%d,vhost=off", keep(a, p->files->tap_fd));
	else
		add(a, "stream,id=net0,server=on,addr.type=fd,addr.str=%d", keep(a, p->files->net_listen_fd));
	add(a, "-device");
	add(a, "virtio-net-pci,netdev=net0,addr=0x4,disable-legacy=on,romfile=,mac=%02x:%02x:%02x:%02x:%02x:%02x", m[0],
	    m[1], m[2], m[3], m[4], m[5]);
}

static void add_window(struct args *a, const struct wslx_qemu_params *p)
{
	if (p->window_fd < 0)
		return;
	add(a, "-object");
	add(a, "memory-backend-file,id=window,share=on,size=%llu,mem-path=/proc/self/fd/%d",
	    (unsigned long long)p->config->portal.window, keep(a, p->window_fd));
	add(a, "-device");
	add(a, "virtio-pmem-pci,memdev=window,addr=0x5");
	(void)keep(a, p->window_link_fd);
}

static void add_machine(struct args *a, const struct wslx_vm_config *c)
{
	/* Old devices cost probes at boot.  qboot brings the kernel up without a BIOS. */
	add(a, "-machine");
	add(a, "q35,smm=off,vmport=off,hpet=off,i8042=off,sata=off,smbus=off,usb=off,graphics=off,memory-backend=mem");
	add(a, "-bios");
	add(a, "qboot.rom");
	add(a, "-accel");
	add(a, "tcg,thread=multi");
	/* x86-64-v2, which is what current distributions ask for; more (AVX) is
	 * slow to emulate.  RDRAND: the kernel has entropy from the start. */
	add(a, "-cpu");
	add(a, "Nehalem,+rdrand");
	add(a, "-smp");
	add(a, "%u", c->cpus);
	add(a, "-m");
	/* The window is in the part of the address space that is for memory added later. */
	add(a, c->portal.window ? "%lluM,slots=1,maxmem=%lluM" : "%lluM", (unsigned long long)(c->memory / WSLX_MIB),
	    (unsigned long long)((c->memory + c->portal.window) / WSLX_MIB));
	add(a, "-object");
	add(a, "memory-backend-memfd,id=mem,size=%llu,share=on", (unsigned long long)c->memory);
}

/* tsc_early_khz: the emulated counter has the host's rate.  The kernel would take it from a timer's interrupts, and on
 * a busy host get it wrong by so much that the guest's clock ran several times too fast. */
static int build_cmdline(const struct wslx_qemu_params *p, char **ret, struct wslx_err *err)
{
	unsigned khz = wslx_tsc_khz(&p->tsc_mark);
	cleanup_free char *extra = NULL;
	char rate[40] = "";

	if (khz)
		snprintf(rate, sizeof(rate), " tsc_early_khz=%u", khz);
	if (asprintf(&extra, "%s%s %s", tcg_cmdline, rate, p->config->cmdline_extra ? p->config->cmdline_extra : "") <
	    0)
		return wslx_err_sys(err, ENOMEM, "command line");
	return wslx_cmdline_build(extra, ret, err);
}

static int add_kernel(struct args *a, const struct wslx_qemu_params *p, int kernel_fd, int initramfs_fd,
		      struct wslx_err *err)
{
	cleanup_free char *cmdline = NULL;
	int r = build_cmdline(p, &cmdline, err);

	if (r < 0)
		return r;
	add(a, "-kernel");
	add(a, "/proc/self/fd/%d", keep(a, kernel_fd));
	if (initramfs_fd >= 0) {
		add(a, "-initrd");
		add(a, "/proc/self/fd/%d", keep(a, initramfs_fd));
	}
	add(a, "-append");
	add(a, "%s", cmdline);
	return 0;
}

static void add_common(struct args *a, const struct wslx_qemu_params *p, const char *path, int qmp_fd)
{
	add(a, "%s", path);
	add(a, "-name");
	add(a, "guest=%s", p->config->name);
	add(a, "-nodefaults");
	add(a, "-no-user-config");
	add(a, "-display");
	add(a, "none");
	add(a, "-no-reboot");
	add(a, "-sandbox");
	add(a, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
	add(a, "-d");
	add(a, "cpu_reset");
	add(a, "-chardev");
	add(a, "socket,id=qmp,fd=%d", keep(a, qmp_fd));
	add(a, "-mon");
	add(a, "chardev=qmp,mode=control");
	add(a, "-chardev");
	add(a, "socket,id=con,fd=%d", keep(a, p->console_fd));
	add(a, "-serial");
	add(a, "chardev:con");
	add(a, "-device");
	add(a, "virtio-rng-pci,addr=0x2,disable-legacy=on");
	add(a, "-chardev");
	add(a, "socket,id=cvsock,fd=%d", keep(a, p->vsock_vhost_fd));
	add(a, "-device");
	add(a, "vhost-user-vsock-pci,chardev=cvsock,addr=0x3,disable-legacy=on");
}

/* ---- files ---------------------------------------------------------------- */

/* QEMU opens the kernel again through /proc/self/fd.  As nobody it may do so
 * only if everybody may; else it gets a copy in memory. */
static int readable_fd(int fd, int *ret, struct wslx_err *err)
{
	cleanup_close int copy = -1;
	struct stat st;
	off_t off = 0;

	*ret = -1;
	if (fd < 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot read the kernel");
	if (geteuid() != 0 || (st.st_mode & S_IROTH)) {
		*ret = fcntl(fd, F_DUPFD_CLOEXEC, 3);
		return *ret < 0 ? wslx_err_sys(err, errno, "cannot pass the kernel on") : 0;
	}
	copy = memfd_create("wslx-boot-file", MFD_CLOEXEC);
	if (copy < 0)
		return wslx_err_sys(err, errno, "cannot copy the kernel");
	while (off < st.st_size) {
		ssize_t n = sendfile(copy, fd, &off, (size_t)(st.st_size - off));

		if (n < 0)
			return wslx_err_sys(err, errno, "cannot copy the kernel");
		if (n == 0)
			return wslx_err_set(err, EIO, "the kernel file became shorter while it was read");
	}
	if (fchmod(copy, 0444) < 0)
		return wslx_err_sys(err, errno, "cannot copy the kernel");
	*ret = TAKE_FD(copy);
	return 0;
}

/* The library that changes the window under QEMU, by descriptor: QEMU may not
 * be able to read the folder that it is in. */
static int preload(struct args *a, const struct wslx_qemu_params *p, int *ret_fd, struct wslx_err *err)
{
	cleanup_free char *path = NULL;
	cleanup_close int fd = -1;
	int r;

	if (p->window_fd < 0)
		return 0;
	r = wslx_find_own("libwslx-window.so", &path, err);
	if (r < 0)
		return r;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return wslx_err_sys(err, errno, "cannot open %s", path);
	r = readable_fd(fd, ret_fd, err);
	if (r < 0)
		return r;
	snprintf(a->env_text[0], sizeof(a->env_text[0]), "LD_PRELOAD=/proc/self/fd/%d", keep(a, *ret_fd));
	snprintf(a->env_text[1], sizeof(a->env_text[1]), "WSLX_WINDOW_FD=%d", p->window_fd);
	snprintf(a->env_text[2], sizeof(a->env_text[2]), "WSLX_WINDOW_LINK=%d", p->window_link_fd);
	for (size_t i = 0; i < ARRAY_SIZE(a->env_text); i++)
		a->env[i] = a->env_text[i];
	return 0;
}

/* ---- events --------------------------------------------------------------- */

static void note_end(struct wslx_qemu *q, enum wslx_qemu_end end)
{
	if (!q->have_end) {
		q->have_end = true;
		q->end = end;
	}
}

static void on_event(void *opaque, const char *name, json_t *data)
{
	struct wslx_qemu *q = opaque;
	const char *reason;

	if (strcmp(name, "SHUTDOWN") != 0)
		return;
	reason = json_string_value(json_object_get(data, "reason"));
	if (!reason)
		note_end(q, WSLX_QEMU_FAILED);
	else if (!strcmp(reason, "guest-shutdown"))
		note_end(q, WSLX_QEMU_POWEROFF);
	else if (!strcmp(reason, "guest-reset") || !strcmp(reason, "subsystem-reset"))
		note_end(q, WSLX_QEMU_RESET);
	else if (!strcmp(reason, "host-qmp-quit"))
		note_end(q, WSLX_QEMU_QUIT);
	else
		note_end(q, WSLX_QEMU_FAILED);
}

/* Most of it is the register dump of each CPU reset; only what matters is kept. */
static void on_stderr_line(struct wslx_qemu *q)
{
	static struct wslx_log_limit limit;
	const char *text;

	q->line[q->line_len] = '\0';
	q->line_len = 0;
	if (strstr(q->line, "Triple fault"))
		q->triple_fault = true;
	if (strncmp(q->line, "qemu", 4) != 0)
		return;
	text = strstr(q->line, ": ");
	snprintf(q->complaint, sizeof(q->complaint), "%s", text ? text + 2 : q->line);
	wslx_log_limited(&limit, WSLX_LOG_WARN, "QEMU: %s", q->complaint);
}

/* 1, 0: nothing there, -1: the end. */
static int read_stderr(struct wslx_qemu *q)
{
	char buf[4096];
	ssize_t n = read(q->stderr_fd, buf, sizeof(buf));

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n')
			on_stderr_line(q);
		else if (q->line_len < sizeof(q->line) - 1)
			q->line[q->line_len++] = buf[i] >= 0x20 && buf[i] < 0x7f ? buf[i] : '?';
	}
	return 1;
}

static void close_stderr(struct wslx_qemu *q)
{
	wslx_watch_free(q->stderr_watch);
	q->stderr_watch = NULL;
	wslx_close(&q->stderr_fd);
}

static void on_stderr(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_qemu *q = opaque;

	if (read_stderr(q) < 0)
		close_stderr(q);
}

static void on_proc_exit(struct wslx_proc *proc, const struct wslx_exit_status *st, void *opaque)
{
	struct wslx_qemu *q = opaque;
	char text[STDERR_LINE + 64] = "", how[64];
	enum wslx_qemu_end end;
	int r = 1;

	wslx_qmp_drain(q->qmp);
	while (q->stderr_fd >= 0 && r > 0)
		r = read_stderr(q);
	end = q->have_end ? q->end : q->quitting ? WSLX_QEMU_QUIT : WSLX_QEMU_FAILED;
	if (end == WSLX_QEMU_RESET && q->triple_fault)
		end = WSLX_QEMU_TRIPLE_FAULT;
	if (end == WSLX_QEMU_FAILED && q->complaint[0] && !st->signal) {
		snprintf(text, sizeof(text), "QEMU: %s", q->complaint);
	} else if (end == WSLX_QEMU_FAILED) {
		wslx_proc_describe(st, how, sizeof(how));
		snprintf(text, sizeof(text), "QEMU %s", how);
	}
	q->p.ended(q->p.opaque, end, text);
}

/* ---- start and stop --------------------------------------------------------- */

static int start_process(struct wslx_qemu *q, struct args *a, const char *path, int stderr_w, struct wslx_err *err)
{
	const struct wslx_spawn spawn = {
		.path = path,
		.argv = a->v,
		.env_more = a->env,
		.keep = a->keep,
		.n_keep = a->n_keep,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = stderr_w,
		.drop_rights = true,
		.system_files_only = true,
	};

	if (a->failed)
		return wslx_err_sys(err, ENOMEM, "cannot start QEMU");
	a->v[a->n] = NULL;
	return wslx_proc_start(q->p.loop, &spawn, on_proc_exit, q, &q->proc, err);
}

static int make_channels(struct wslx_qemu *q, int *ret_qmp, int *ret_stderr, struct wslx_err *err)
{
	int pair[2], pipefd[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return wslx_err_sys(err, errno, "cannot make a socket pair");
	*ret_qmp = pair[1];
	r = wslx_qmp_new(q->p.loop, pair[0], on_event, q, &q->qmp);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot talk to QEMU");
	if (pipe2(pipefd, O_CLOEXEC) < 0)
		return wslx_err_sys(err, errno, "cannot make a pipe");
	q->stderr_fd = pipefd[0];
	*ret_stderr = pipefd[1];
	r = wslx_fd_nonblock(q->stderr_fd, 1);
	if (r == 0)
		r = wslx_loop_watch(q->p.loop, q->stderr_fd, EPOLLIN, on_stderr, q, &q->stderr_watch);
	return r < 0 ? wslx_err_sys(err, -r, "cannot listen to QEMU") : 0;
}

static int start(struct wslx_qemu *q, const char *path, struct wslx_err *err)
{
	cleanup_close int qmp = -1, err_w = -1, kernel = -1, initramfs = -1, library = -1;
	cleanup_with(args_free) struct args a = { 0 };
	int r;

	r = readable_fd(q->p.files->kernel_fd, &kernel, err);
	if (r == 0)
		r = readable_fd(q->p.files->initramfs_fd, &initramfs, err);
	if (r == 0)
		r = make_channels(q, &qmp, &err_w, err);
	if (r < 0)
		return r;
	add_common(&a, &q->p, path, qmp);
	add_machine(&a, q->p.config);
	add_window(&a, &q->p);
	add_disks(&a, &q->p);
	add_net(&a, &q->p);
	r = add_kernel(&a, &q->p, kernel, initramfs, err);
	if (r == 0)
		r = preload(&a, &q->p, &library, err);
	return r < 0 ? r : start_process(q, &a, path, err_w, err);
}

int wslx_qemu_find(char **ret, struct wslx_err *err)
{
	int r = wslx_find_program("qemu-system-x86_64", ret);

	if (r < 0)
		wslx_err_set(err, -r,
			     "qemu-system-x86_64 is not in PATH: the tcg engine needs it; install "
			     "qemu-system-x86");
	return r;
}

int wslx_qemu_start(const struct wslx_qemu_params *p, struct wslx_qemu **ret, struct wslx_err *err)
{
	cleanup_free char *path = NULL;
	struct wslx_qemu *q;
	int r = wslx_qemu_find(&path, err);

	if (r < 0)
		return r;
	q = calloc(1, sizeof(*q));
	if (!q)
		return wslx_err_sys(err, ENOMEM, "cannot start QEMU");
	q->p = *p;
	q->stderr_fd = -1;
	r = start(q, path, err);
	if (r < 0) {
		wslx_qemu_free(q);
		return r;
	}
	*ret = q;
	return 0;
}

void wslx_qemu_quit(struct wslx_qemu *q)
{
	q->quitting = true;
	if (wslx_qmp_execute(q->qmp, "quit", NULL, NULL) < 0)
		wslx_qemu_kill(q);
}

void wslx_qemu_kill(struct wslx_qemu *q)
{
	wslx_proc_kill(q->proc, SIGKILL);
}

int wslx_qemu_pause(struct wslx_qemu *q, bool on, wslx_qemu_reply_fn fn, void *opaque)
{
	return wslx_qmp_execute(q->qmp, on ? "stop" : "cont", fn, opaque);
}

void wslx_qemu_free(struct wslx_qemu *q)
{
	if (!q)
		return;
	wslx_proc_free(q->proc);
	wslx_qmp_free(q->qmp);
	close_stderr(q);
	free(q);
}
