/*
 * From the kernel's exec of /init to the event loop.  What the host waits for
 * comes first: the vsock transport, the connection, HELLO.  The other modules,
 * devices and cgroups follow while the host's answer is on its way.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent/machine.h"
#include "base/cleanup.h"
#include "base/log.h"

#define RETRY_MS 100
#define GIVE_UP_MS 30000
#define BACKLOG 256
/* Four a process and one a session, and as many again. */
#define FILES_MAX 65536

static void control_try(struct machine *m);

/* ---- mounts ---- */

static void mount_or_warn(const char *type, const char *target, unsigned long flags, const char *data)
{
	(void)mkdir(target, 0755);
	if (mount(type, target, type, flags, data) < 0 && errno != EBUSY)
		log_warn("mount %s: %s", target, strerror(errno));
}

static void mount_all(void)
{
	const unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	mount_or_warn("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755");
	mount_or_warn("proc", "/proc", plain, NULL);
	mount_or_warn("sysfs", "/sys", plain, NULL);
	mount_or_warn("cgroup2", DIR_CGROUP, plain, NULL);
	mount_or_warn("tmpfs", DIR_SHARED, MS_NOSUID | MS_NODEV, "mode=0755");
	/* Mounts a distro makes below /mnt/wsl show up in the others. */
	if (mount(NULL, DIR_SHARED, NULL, MS_SHARED, NULL) < 0)
		log_warn("sharing %s: %s", DIR_SHARED, strerror(errno));
	(void)mkdir(DIR_NEWROOT, 0755);
}

/* devtmpfs is one for all: what udev or a container's start makes elsewhere. */
static void make_dev(void)
{
	static const char *const links[][2] = { { "/proc/self/fd", "/dev/fd" },
						{ "/proc/self/fd/0", "/dev/stdin" },
						{ "/proc/self/fd/1", "/dev/stdout" },
						{ "/proc/self/fd/2", "/dev/stderr" } };

	(void)mkdir("/dev/pts", 0755);
	(void)mkdir("/dev/shm", 01777);
	(void)mkdir("/dev/mqueue", 0755);
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		(void)symlink(links[i][0], links[i][1]);
	/* Open to all as udev's rules make them. */
	(void)chmod("/dev/fuse", 0666);
	(void)chmod("/dev/kvm", 0666);
}

static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3 && fd >= 0; i++)
		if (fd != i)
			dup2(fd, i);
	if (fd > 2)
		close(fd);
}

/* ---- sessions ---- */

static void on_session(void *opaque, int fd, const struct sockaddr *addr, socklen_t len)
{
	const struct sockaddr_vm *peer = (const struct sockaddr_vm *)addr;
	struct machine *m = opaque;

	/* Processes of the guest reach this port too. */
	if (len < sizeof(*peer) || peer->svm_family != AF_VSOCK || peer->svm_cid != VMADDR_CID_HOST) {
		log_guest("a connection from CID %u was refused", len < sizeof(*peer) ? 0 : peer->svm_cid);
		close(fd);
		return;
	}
	if (wslx_guest_serve(m->guest, fd, false) < 0)
		log_guest("no room for another session");
}

static int listen_sessions(struct machine *m)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_port = WSLX_AGENT_PORT, .svm_cid = VMADDR_CID_ANY };

	m->listen_fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (m->listen_fd < 0 || bind(m->listen_fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(m->listen_fd, BACKLOG) < 0)
		return -errno;
	return wslx_listener_new(m->loop, m->listen_fd, on_session, m, &m->listener);
}

/* ---- the control connection ---- */

/* What the host does not wait for: it happens while HELLO travels, and before
 * the loop can read any request. */
static void late_boot(struct machine *m)
{
	int r;

	if (m->late_done)
		return;
	m->late_done = true;
	modules_load_boot(true);
	make_dev();
	(void)net_lo_up();
	/* As systemd has it: ping works for everybody. */
	(void)write_text("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
	r = distro_init_all(m);
	if (r < 0)
		log_warn("cgroups: %s", strerror(-r));
	cpus_bring_up();
}

/* err: why the last attempt failed, a positive errno. */
static void control_retry(struct machine *m, int err)
{
	wslx_watch_free(TAKE_PTR(m->control_watch));
	wslx_close(&m->control_fd);
	if (m->ending)
		return;
	/* A host that takes one connection a boot, as ours does, waits for the
	 * machine's end now: in order, while it still waits. */
	if (m->was_connected && err == ECONNRESET) {
		log_error("the host takes no other control connection");
		shutdown_begin(m, WSLX_AGENT_POWEROFF, 0);
		return;
	}
	if (!m->control_give_up_ms)
		m->control_give_up_ms = wslx_now_ms() + GIVE_UP_MS;
	if (wslx_now_ms() > m->control_give_up_ms) {
		log_error("the host does not answer");
		shutdown_begin(m, WSLX_AGENT_POWEROFF, 0);
		return;
	}
	wslx_timer_arm(m->control_timer, RETRY_MS);
}

static void on_control_timer(struct wslx_timer *t, void *opaque)
{
	control_try(opaque);
}

static void send_hello_text(struct machine *m)
{
	struct wslx_agent_hello h = { .caps = WSLX_AGENT_CAP_EXEC | WSLX_AGENT_CAP_TTY | WSLX_AGENT_CAP_DISTRO |
					      WSLX_AGENT_CAP_NET | WSLX_AGENT_CAP_PAUSE | WSLX_AGENT_CAP_STATUS |
					      WSLX_AGENT_CAP_SHUTDOWN | WSLX_AGENT_CAP_MODULES,
				      .boot_agent_ns = m->boot_agent_ns,
				      .boot_modules_ns = m->boot_modules_ns,
				      .boot_ready_ns = boottime_ns() };

	memcpy(h.agent_version, WSLX_VERSION, sizeof(WSLX_VERSION));
	memcpy(h.kernel_release, m->release, sizeof(m->release));
	wslx_guest_set_hello(m->guest, &h);
}

static void on_connected(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct machine *m = opaque;
	socklen_t len = sizeof(int);
	int err = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || err) {
		log_debug("connecting to the host: %s", strerror(err));
		control_retry(m, err);
		return;
	}
	wslx_watch_free(TAKE_PTR(m->control_watch));
	send_hello_text(m);
	if (wslx_guest_serve(m->guest, TAKE_FD(m->control_fd), true) < 0)
		control_retry(m, ENOMEM);
	late_boot(m);
}

static void control_try(struct machine *m)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_port = WSLX_AGENT_PORT, .svm_cid = VMADDR_CID_HOST };

	m->control_fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (m->control_fd < 0) {
		control_retry(m, errno);
		return;
	}
	if (connect(m->control_fd, (struct sockaddr *)&a, sizeof(a)) < 0 && errno != EINPROGRESS) {
		control_retry(m, errno);
		return;
	}
	if (wslx_loop_watch(m->loop, m->control_fd, EPOLLOUT, on_connected, m, &m->control_watch) < 0)
		control_retry(m, ENOMEM);
}

static void on_control_ready(void *opaque)
{
	struct machine *m = opaque;

	m->was_connected = true;
	m->control_give_up_ms = 0;
	log_info("connected to the host");
}

static void on_control_lost(void *opaque)
{
	log_warn("the host's control connection is gone");
	control_retry(opaque, 0);
}

/* ---- boot ---- */

static const struct wslx_guest_ops machine_ops = {
	.request = request_handle,
	.place = distro_place,
	.status = status_fill,
	.control_lost = on_control_lost,
	.control_ready = on_control_ready,
};

static void die(const char *what, int r)
{
	log_error("%s: %s", what, strerror(-r));
	shutdown_now(WSLX_AGENT_POWEROFF);
}

/* Sessions, processes and their streams cost descriptors: GUEST_MAX_CONNS and
 * GUEST_MAX_PROCS are the limits that count.  The kernel gives 1024.  Processes
 * of distros get limits of their own (launch.c). */
static void raise_fd_limit(void)
{
	const struct rlimit files = { .rlim_cur = FILES_MAX, .rlim_max = 1048576 };

	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		log_warn("cannot raise the limit on descriptors: %s", strerror(errno));
}

static void early(struct machine *m)
{
	struct utsname uts;

	umask(022);
	m->boot_agent_ns = boottime_ns();
	m->listen_fd = m->control_fd = m->uevent_fd = m->inotify_fd = -1;
	mount_all();
	open_console();
	wslx_log_init("wslx-agent", 2, WSLX_LOG_INFO);
	raise_fd_limit();
	if (uname(&uts) == 0)
		memcpy(m->release, uts.release, WSLX_MIN(sizeof(uts.release), sizeof(m->release)));
	strcpy(m->hostname, "wslx");
	/* Ctrl-Alt-Del is a signal to us, and we ignore it. */
	(void)write_text("/proc/sys/kernel/ctrl-alt-del", "0");
	(void)write_text("/proc/self/oom_score_adj", "-1000");
	modules_load_boot(false);
	m->boot_modules_ns = boottime_ns();
}

void machine_run(void)
{
	static struct machine m;
	int r;

	early(&m);
	if ((r = wslx_loop_new(&m.loop)) < 0 || (r = wslx_guest_new(m.loop, &machine_ops, &m, &m.guest)) < 0 ||
	    (r = wslx_loop_timer(m.loop, on_control_timer, &m, &m.control_timer)) < 0 || (r = device_init(&m)) < 0)
		die("cannot start", r);
	r = listen_sessions(&m);
	if (r == -EAFNOSUPPORT)
		die("the kernel lacks vsock: build it in, or add the kernel with its modules: "
		    "wslx kernel add FILE --modules DIR",
		    r);
	if (r < 0)
		die("no vsock", r);
	control_try(&m);
	for (;;) {
		r = wslx_loop_run(m.loop);
		log_error("event loop: %s", strerror(-r));
	}
}
