/*
 * A distro's PID 1: sets its namespaces up, then reaps orphans until told to
 * stop.  A child of the agent, without exec, so it needs nothing of the distro.
 *
 * Order matters for safety.  What comes from the initramfs (the shared tmpfs,
 * the modules) is taken as detached mounts first; then the disk's root is
 * moved over "/" and chroot follows; every path after that is resolved inside
 * the distro, so no symbolic link of the disk leads out of it.
 *
 * On the status pipe: warnings, then one record LAUNCH_FAILED, or LAUNCH_PID
 * (code 1: the disk is used read-only) when everything is in place.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/core.h"
#include "agent/etc.h"
#include "agent/hangup.h"
#include "agent/machine.h"
#include "agent/user.h"
#include "base/cleanup.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#endif

#define DIR_LOWER "/distro-lower"
#define DIR_RW "/distro-rw"
#define KEPT_FD 3u
#define STOP_POLL_NS 10000000
/* In polls: from one look at the processes to the next. */
#define STOP_SCAN_MAX 16u

static void WSLX_PRINTF(4, 5) note(const struct distro_setup *s, uint32_t kind, int code, const char *fmt, ...)
{
	struct launch_record r = { .kind = kind, .code = code };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r.text, sizeof(r.text), fmt, ap);
	va_end(ap);
	(void)!write(s->status_fd, &r, sizeof(r));
}

#define WARN(s, ...) note(s, LAUNCH_WARNING, 0, __VA_ARGS__)
#define FAIL(s, code, ...)                                                                                             \
	do {                                                                                                           \
		note(s, LAUNCH_FAILED, (code), __VA_ARGS__);                                                           \
		_exit(1);                                                                                              \
	} while (0)

/* ---- the root file system ---- */

/* A root for tmpfs changes over a disk that stays as it is. */
static void mount_overlay(const struct distro_setup *s)
{
	const char *options = s->options;

	if (mkdir(DIR_LOWER, 0755) < 0 && errno != EEXIST)
		FAIL(s, errno, "cannot make a mount point: %s", strerror(errno));
	if (mount(s->device, DIR_LOWER, s->fstype, MS_RDONLY, NULL) < 0) {
		/* A journal that cannot be replayed because nothing can be written. */
		int first = errno;

		options = !strncmp(s->fstype, "ext", 3) ? "noload" : NULL;
		if (!options || mount(s->device, DIR_LOWER, s->fstype, MS_RDONLY, options) < 0)
			FAIL(s, first, "cannot mount the disk of '%s' as %s: %s", s->name, s->fstype, strerror(first));
	}
	if ((mkdir(DIR_RW, 0755) < 0 && errno != EEXIST) ||
	    mount("tmpfs", DIR_RW, "tmpfs", MS_NODEV, "mode=0755") < 0 || mkdir(DIR_RW "/upper", 0755) < 0 ||
	    mkdir(DIR_RW "/work", 0755) < 0)
		FAIL(s, errno, "cannot make a temporary layer: %s", strerror(errno));
	if (mount("overlay", DIR_NEWROOT, "overlay", 0,
		  "lowerdir=" DIR_LOWER ",upperdir=" DIR_RW "/upper,workdir=" DIR_RW "/work") < 0)
		FAIL(s, errno, "the disk of '%s' is read-only and this kernel has no overlay file system: %s", s->name,
		     strerror(errno));
}

/* Returns whether changes go to memory only. */
static bool mount_root(const struct distro_setup *s)
{
	struct statvfs st;

	if (s->readonly) {
		mount_overlay(s);
		return true;
	}
	if (mount(s->device, DIR_NEWROOT, s->fstype, 0, s->options) == 0) {
		if (statvfs(DIR_NEWROOT, &st) < 0 || !(st.f_flag & ST_RDONLY))
			return false;
		umount2(DIR_NEWROOT, MNT_DETACH);
		errno = EROFS;
	}
	if (errno != EROFS && errno != EACCES)
		FAIL(s, errno, "cannot mount the disk of '%s' as %s: %s", s->name, s->fstype, strerror(errno));
	WARN(s, "the disk of '%s' cannot be written: changes are lost when it stops", s->name);
	mount_overlay(s);
	return true;
}

static int clone_tree(const char *path)
{
	return (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | O_CLOEXEC);
}

static void put_tree(const struct distro_setup *s, int fd, const char *target)
{
	int r = mkdir_parents(target, 0755);

	if (fd < 0)
		return;
	if (syscall(SYS_move_mount, fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		WARN(s, "cannot mount %s: %s", target, strerror(r < 0 ? -r : errno));
	close(fd);
}

/* ---- what every distro has ---- */

static void api_mount(const struct distro_setup *s, const char *type, const char *target, unsigned long flags,
		      const char *data, bool required)
{
	int r = mkdir_parents(target, 0755);

	if (mount(type, target, type, flags, data) == 0)
		return;
	if (required)
		FAIL(s, errno, "cannot mount %s in '%s': %s", target, s->name, strerror(r < 0 ? -r : errno));
}

static void mount_apis(const struct distro_setup *s)
{
	const unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	api_mount(s, "proc", "/proc", plain, NULL, true);
	api_mount(s, "sysfs", "/sys", plain, NULL, true);
	api_mount(s, "cgroup2", "/sys/fs/cgroup", plain, NULL, false);
	api_mount(s, "devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755", true);
	api_mount(s, "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5", true);
	api_mount(s, "tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777", true);
	api_mount(s, "mqueue", "/dev/mqueue", plain, NULL, false);
	api_mount(s, "tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755", true);
	(void)mkdir("/run/lock", 01777);
	(void)chmod("/run/lock", 01777);
	(void)mkdir("/run/user", 0755);
	(void)mkdir("/tmp", 01777);
}

static void write_files(const struct distro_setup *s, const struct wslx_wslconf *conf, const char *hostname)
{
	char hosts[1024];
	int r;

	(void)mkdir("/etc", 0755);
	if (conf->generate_hosts) {
		etc_hosts(hostname, hosts, sizeof(hosts));
		r = etc_replace_file("/etc/hosts", hosts);
		if (r < 0)
			WARN(s, "cannot write /etc/hosts: %s", strerror(-r));
	}
	if (conf->generate_resolv_conf) {
		r = etc_replace_link("/etc/resolv.conf", "/mnt/wsl/resolv.conf");
		if (r < 0)
			WARN(s, "cannot write /etc/resolv.conf: %s", strerror(-r));
	}
}

static bool hostname_ok(const char *h)
{
	size_t n = strlen(h);

	return n > 0 && n <= 64 && h[0] != '-' && h[0] != '.' &&
	       strspn(h, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") == n;
}

static void set_names(const struct distro_setup *s)
{
	struct wslx_wslconf conf;
	const char *hostname = s->hostname;

	wslx_wslconf_load(NULL, &conf);
	if (*conf.hostname && hostname_ok(conf.hostname))
		hostname = conf.hostname;
	else if (*conf.hostname)
		WARN(s, "/etc/wsl.conf: '%.64s' is no host name", conf.hostname);
	if (sethostname(hostname, strlen(hostname)) < 0)
		WARN(s, "cannot set the host name: %s", strerror(errno));
	write_files(s, &conf, hostname);
}

/* The distro's cgroup is the root of its view; its processes start in a leaf,
 * so that it may turn controllers on for groups of its own. */
static void enter_cgroup(const struct distro_setup *s)
{
	static const char *const controllers[] = { "+cpu", "+io", "+memory", "+pids", "+cpuset" };

	if (unshare(CLONE_NEWCGROUP) < 0)
		FAIL(s, errno, "cannot make a cgroup namespace: %s", strerror(errno));
	if (s->procs_fd >= 0 && write(s->procs_fd, "0", 1) < 0)
		FAIL(s, errno, "cannot enter the cgroup: %s", strerror(errno));
	for (size_t i = 0; s->subtree_fd >= 0 && i < ARRAY_SIZE(controllers); i++)
		(void)!write(s->subtree_fd, controllers[i], strlen(controllers[i]));
}

static bool enter_root(const struct distro_setup *s)
{
	char modules_path[128];
	bool readonly = mount_root(s);
	int shared = clone_tree(DIR_SHARED), modules;

	snprintf(modules_path, sizeof(modules_path), "/lib/modules/%s", s->release);
	modules = s->modules ? clone_tree(modules_path) : -1;
	if (chdir(DIR_NEWROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		FAIL(s, errno, "cannot enter the root of '%s': %s", s->name, strerror(errno));
	mount_apis(s);
	put_tree(s, shared, "/mnt/wsl");
	if (modules >= 0)
		put_tree(s, modules, modules_path);
	return readonly;
}

/* ---- PID 1 ---- */

static void stop_all(int proc_fd)
{
	struct timespec ts = { .tv_nsec = STOP_POLL_NS };
	struct hangup h = { .proc_fd = proc_fd };

	kill(-1, SIGTERM);
	kill(-1, SIGCONT);
	/* Reading of thousands of processes takes its time: less and less often. */
	for (unsigned turn = 0, next = 0, pause = 1;; turn++) {
		if (turn == next) {
			hangup_shells(&h);
			pause = WSLX_MIN(pause * 2, STOP_SCAN_MAX);
			next = turn + pause;
		}
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		/* Clients' processes are the agent's children: all that can be
		 * seen of their end is that nobody is left.  The agent sets the
		 * limit with SIGKILL. */
		if (kill(-1, 0) < 0 && errno == ESRCH)
			_exit(0);
		nanosleep(&ts, NULL);
	}
}

static void reap_for_ever(int proc_fd)
{
	siginfo_t si;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	for (;;) {
		if (sigwaitinfo(&set, &si) < 0)
			continue;
		/* From outside our PID namespace only: si_pid is 0. */
		if (si.si_signo == SIGTERM && si.si_pid == 0)
			stop_all(proc_fd);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static void block_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

/* All but one, which gets a number of its own. */
static int close_all(int keep)
{
	int null = open("/dev/null", O_RDWR);

	for (int i = 0; i < 3 && null >= 0; i++)
		dup2(null, i);
	/* Whatever has that number is ours to close, unless it is the one. */
	if (keep >= 0 && keep != KEPT_FD)
		keep = dup3(keep, KEPT_FD, O_CLOEXEC);
	syscall(SYS_close_range, keep < 0 ? KEPT_FD : KEPT_FD + 1, ~0u, 0u);
	return keep;
}

void distro_init_main(const struct distro_setup *s)
{
	bool readonly;
	int proc;

	block_signals();
	prctl(PR_SET_NAME, "wslx-init");
	setsid();
	umask(022);
	enter_cgroup(s);
	readonly = enter_root(s);
	set_names(s);
	/* A mount of our own: nothing that is mounted over /proc holds the end up. */
	proc = clone_tree("/proc");
	note(s, LAUNCH_PID, readonly, "%s", "");
	reap_for_ever(close_all(proc));
	_exit(0);
}
