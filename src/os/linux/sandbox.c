#include "os/linux/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define VMM (1u << WSLX_SANDBOX_VMM)
#define DEV (1u << WSLX_SANDBOX_DEVICES)
#define BROKER (1u << WSLX_SANDBOX_PORTAL)
#define BOTH (VMM | DEV)
#define ALL (BOTH | BROKER)

/* ---- Landlock -------------------------------------------------------- */

/* The kernel's structure and rights by ABI version, spelled out here because
 * the headers of the build machine may be older than the running kernel. */
struct landlock_attr {
	uint64_t handled_access_fs;
	uint64_t handled_access_net; /* ABI 4 */
	uint64_t scoped;             /* ABI 6 */
};

#define LANDLOCK_VERSION_QUERY 1u

static const struct {
	int abi;
	uint64_t fs;  /* rights known from this ABI on */
	uint64_t net; /* bind and connect TCP */
	uint64_t scoped;
	size_t attr_size;
} landlock_abis[] = {
	/* execute, write, read, read dir, remove dir and file, make char, dir, reg, sock, fifo, block, sym */
	{ 1, 0x1fff, 0, 0, offsetof(struct landlock_attr, handled_access_net) },
	{ 2, 0x3fff, 0, 0, offsetof(struct landlock_attr, handled_access_net) }, /* refer */
	{ 3, 0x7fff, 0, 0, offsetof(struct landlock_attr, handled_access_net) }, /* truncate */
	{ 4, 0x7fff, 3, 0, offsetof(struct landlock_attr, scoped) },
	{ 5, 0xffff, 3, 0, offsetof(struct landlock_attr, scoped) }, /* ioctl of devices */
	{ 6, 0xffff, 3, 3, sizeof(struct landlock_attr) },           /* abstract sockets, signals */
};

/* A path_beneath rule, spelled out for the same reason. */
struct landlock_beneath {
	uint64_t allowed_access;
	int32_t parent_fd;
} __attribute__((packed));

#define LANDLOCK_BENEATH 1u
#define LANDLOCK_REMOVE_FILE (1u << 5)

/* removal_dir: files may be removed there; -1 = nowhere. */
static int enter_landlock(int removal_dir)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION_QUERY);
	struct landlock_attr attr = { 0 };
	cleanup_close int fd = -1;
	size_t size = 0;

	if (abi < 1) {
		log_debug("sandbox: no Landlock: %s", strerror(errno));
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(landlock_abis) && landlock_abis[i].abi <= abi; i++) {
		attr.handled_access_fs = landlock_abis[i].fs;
		attr.handled_access_net = landlock_abis[i].net;
		attr.scoped = landlock_abis[i].scoped;
		size = landlock_abis[i].attr_size;
	}
	/* A rule set without rules allows nothing that it handles. */
	fd = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
	if (fd < 0)
		return -errno;
	if (removal_dir >= 0) {
		struct landlock_beneath rule = { .allowed_access = LANDLOCK_REMOVE_FILE, .parent_fd = removal_dir };

		if (syscall(SYS_landlock_add_rule, fd, LANDLOCK_BENEATH, &rule, 0) < 0)
			return -errno;
	}
	return syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;
}

/* ---- seccomp --------------------------------------------------------- */

/* Allowed whatever their arguments, with the reason. */
static const struct {
	int nr;
	unsigned profiles;
} allowed[] = {
	/* Device data: disks, sockets, pipes, event counters. */
	{ SCMP_SYS(read), ALL },
	{ SCMP_SYS(write), ALL },
	{ SCMP_SYS(readv), BOTH },
	{ SCMP_SYS(writev), BOTH },
	{ SCMP_SYS(pread64), ALL },
	{ SCMP_SYS(pwrite64), ALL },
	{ SCMP_SYS(preadv), BOTH },
	{ SCMP_SYS(pwritev), BOTH },
	{ SCMP_SYS(preadv2), BOTH },
	{ SCMP_SYS(pwritev2), BOTH },
	{ SCMP_SYS(fdatasync), BOTH },
	{ SCMP_SYS(fsync), BOTH },
	{ SCMP_SYS(fallocate), BOTH }, /* discard */
	{ SCMP_SYS(lseek), ALL },      /* data and holes of an image */
	{ SCMP_SYS(io_uring_enter), BOTH },
	/* Link to the supervisor, vsock, network back end. */
	{ SCMP_SYS(sendmsg), ALL },
	{ SCMP_SYS(sendmmsg), VMM }, /* several frames at once */
	{ SCMP_SYS(recvmsg), ALL },
	{ SCMP_SYS(sendto), ALL },
	{ SCMP_SYS(recvfrom), ALL },
	{ SCMP_SYS(accept4), ALL }, /* the listening vsock socket */
	{ SCMP_SYS(shutdown), ALL },
	{ SCMP_SYS(getsockopt), ALL },
	{ SCMP_SYS(close), ALL },
	{ SCMP_SYS(eventfd2), ALL },
	/* Event loops and threads that exist already. */
	{ SCMP_SYS(epoll_ctl), ALL },
	{ SCMP_SYS(epoll_wait), ALL },
	{ SCMP_SYS(epoll_pwait), ALL },
	{ SCMP_SYS(epoll_pwait2), ALL },
	{ SCMP_SYS(poll), ALL },
	{ SCMP_SYS(ppoll), ALL },
	{ SCMP_SYS(futex), ALL },
	{ SCMP_SYS(sched_yield), ALL },
	{ SCMP_SYS(sched_getaffinity), ALL }, /* malloc, to size its arenas */
	{ SCMP_SYS(gettid), ALL },
	{ SCMP_SYS(getpid), ALL },
	{ SCMP_SYS(rt_sigprocmask), ALL },
	{ SCMP_SYS(rt_sigreturn), ALL },
	{ SCMP_SYS(sigaltstack), BOTH },
	{ SCMP_SYS(restart_syscall), ALL },
	{ SCMP_SYS(set_robust_list), BOTH }, /* a thread that was just being born */
	{ SCMP_SYS(rseq), BOTH },
	{ SCMP_SYS(exit), ALL },
	{ SCMP_SYS(exit_group), ALL },
	/* Time, where the vDSO cannot tell it. */
	{ SCMP_SYS(clock_gettime), ALL },
	{ SCMP_SYS(gettimeofday), ALL },
	{ SCMP_SYS(time), ALL },
	{ SCMP_SYS(clock_nanosleep), ALL },
	{ SCMP_SYS(nanosleep), ALL },
	/* Heap, stacks of ending threads, guest memory given back. */
	{ SCMP_SYS(brk), ALL },
	{ SCMP_SYS(munmap), ALL },
	{ SCMP_SYS(mremap), ALL },
	{ SCMP_SYS(madvise), ALL },
	{ SCMP_SYS(getrandom), ALL }, /* virtio-rng, malloc */
	/* A region's file is checked before it is mapped (wslx_fd_stat). */
	{ SCMP_SYS(fstat), ALL },
	{ SCMP_SYS(fstatfs), DEV }, /* ... and must not be on a huge-page file system */
	/* Memory of arenas: sized, sealed, closed to writers (fchmod), and its sockets removed at the end. */
	{ SCMP_SYS(memfd_create), BROKER },
	{ SCMP_SYS(ftruncate), BROKER },
	{ SCMP_SYS(fchmod), BROKER },
	{ SCMP_SYS(geteuid), BROKER },         /* is it the same user who connects? */
	{ SCMP_SYS(timerfd_settime), BROKER }, /* how long a stranger is waited for */
	{ SCMP_SYS(unlink), BROKER },
	{ SCMP_SYS(unlinkat), BROKER },
};

/* What an intruder would try, and the confinement test does: EPERM. */
static const int denied[] = {
	SCMP_SYS(open),
	SCMP_SYS(openat2),
	SCMP_SYS(creat),
	SCMP_SYS(execve),
	SCMP_SYS(execveat),
	SCMP_SYS(socket),
	SCMP_SYS(socketpair),
	SCMP_SYS(connect),
	SCMP_SYS(bind),
	SCMP_SYS(listen),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(fork),
	SCMP_SYS(vfork),
	SCMP_SYS(io_uring_register),
	/* Also the C library's fstat() in many versions, newfstatat(fd, "", AT_EMPTY_PATH):
	 * a filter cannot see that the path is empty, and any other tells about any file. */
	SCMP_SYS(newfstatat),
};

/* ioctls by request. */
static const struct {
	uint32_t request;
	unsigned profiles;
} ioctls[] = {
	{ (uint32_t)KVM_RUN, VMM },
	{ (uint32_t)KVM_IRQ_LINE, VMM },   /* serial port */
	{ (uint32_t)KVM_SIGNAL_MSI, VMM }, /* device interrupts */
	{ (uint32_t)KVM_IRQFD, VMM },      /* the guest masks and moves MSI-X vectors ... */
	{ (uint32_t)KVM_SET_GSI_ROUTING, VMM },
	{ (uint32_t)KVM_IOEVENTFD, VMM },     /* ... and BARs */
	{ (uint32_t)KVM_KVMCLOCK_CTRL, VMM }, /* a vCPU that was paused */
	{ (uint32_t)TUNSETOFFLOAD, VMM },     /* the driver negotiates offloads of a TAP */
	{ (uint32_t)TUNGETIFF, VMM },         /* a TAP that replaces another is checked and set up */
	{ (uint32_t)TUNSETVNETHDRSZ, VMM },
	{ (uint32_t)TUNSETVNETLE, VMM },
};

static int allow_ioctls(scmp_filter_ctx f, unsigned profile)
{
	for (size_t i = 0; i < ARRAY_SIZE(ioctls); i++) {
		int r;

		if (!(ioctls[i].profiles & profile))
			continue;
		/* The kernel looks at the low half only. */
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, ioctls[i].request));
		if (r < 0)
			return r;
	}
	return 0;
}

/* O_NONBLOCK and close-on-exec of received sockets; memory that vhost-user
 * shares.  No signals on I/O (O_ASYNC, F_SETOWN, F_SETSIG): they would go to
 * any process of the user's. */
static int allow_fcntl(scmp_filter_ctx f)
{
	static const unsigned commands[] = {
		F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC, F_GET_SEALS, F_ADD_SEALS,
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(commands) && r == 0; i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
				     SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, commands[i]));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 2,
				     SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, F_SETFL),
				     SCMP_A2(SCMP_CMP_MASKED_EQ, O_ASYNC, 0));
	return r;
}

/* Calls whose arguments decide. */
static int allow_checked(scmp_filter_ctx f, unsigned profile)
{
	int r;

	/* No executable memory, ever. */
	r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	/* Kicks of vCPUs: signals to this process only. */
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				     SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffffu, (uint32_t)getpid()));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				     SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffffu, PR_SET_NAME));
	if (r == 0)
		r = allow_fcntl(f);
	/* How much a broker's answers may hold that nobody reads. */
	if (r == 0 && profile == BROKER)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(setsockopt), 2,
				     SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, SOL_SOCKET),
				     SCMP_A2(SCMP_CMP_MASKED_EQ, 0xffffffffu, SO_SNDBUF));
	return r < 0 ? r : allow_ioctls(f, profile);
}

/* A broker opens its own memory once more, for reading (through /proc/self/fd); Landlock lets it open nothing else. */
static int limit_openat(scmp_filter_ctx f, unsigned profile)
{
	if (profile == BROKER)
		return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
					SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
	return WSLX_SANDBOX_LENIENT ? 0 : seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(openat), 0);
}

static int fill(scmp_filter_ctx f, unsigned profile)
{
	int r = limit_openat(f, profile);

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(allowed); i++)
		if (allowed[i].profiles & profile)
			r = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i].nr, 0);
	for (size_t i = 0; r == 0 && !WSLX_SANDBOX_LENIENT && i < ARRAY_SIZE(denied); i++)
		r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), denied[i], 0);
	if (r == 0)
		r = allow_checked(f, profile);
	if (r == 0) /* the hot path of a vCPU */
		r = seccomp_syscall_priority(f, SCMP_SYS(ioctl), 255);
	return r;
}

static int enter_seccomp(unsigned profile)
{
	scmp_filter_ctx f = seccomp_init(WSLX_SANDBOX_LENIENT ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_KILL_PROCESS);
	int r;

	if (!f)
		return -ENOMEM;
	r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0)
		r = fill(f, profile);
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	return r;
}

/* ---- the two steps --------------------------------------------------- */

static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	return syscall(SYS_capset, &head, none) < 0 ? -errno : 0;
}

static bool prepared;

int wslx_sandbox_prepare(struct wslx_err *err)
{
	return wslx_sandbox_prepare_in(-1, err);
}

int wslx_sandbox_prepare_in(int dirfd, struct wslx_err *err)
{
	const struct rlimit no_core = { 0, 0 };
	int r;

	if (setrlimit(RLIMIT_CORE, &no_core) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return wslx_err_sys(err, errno, "cannot turn off core dumps");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return wslx_err_sys(err, errno, "cannot set no_new_privs");
	r = enter_landlock(dirfd);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot enter a Landlock domain");
	r = drop_capabilities();
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot drop capabilities");
	prepared = true;
	return 0;
}

int wslx_sandbox_enter(enum wslx_sandbox_profile profile, struct wslx_err *err)
{
	int r;

	if (!prepared) {
		r = wslx_sandbox_prepare(err);
		if (r < 0)
			return r;
	}
	r = enter_seccomp(1u << profile);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot install the seccomp filter");
	return 0;
}

/* ---- test hook ------------------------------------------------------- */

static bool was_denied(long r)
{
	return r < 0 && (errno == EPERM || errno == EACCES);
}

uint64_t wslx_sandbox_test(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "/run/wslx-confinement-test" };
	uint8_t params[256] = { 0 }, st[256];
	char *argv[] = { NULL };
	uint64_t leaks = 0;

	/* Arguments that would give other errors if the calls were let through. */
	if (!was_denied(open("/etc/passwd", O_RDONLY | O_CLOEXEC)))
		leaks |= WSLX_SANDBOX_LEAK_OPEN;
	if (!was_denied(execve("/nonexistent/wslx-confinement-test", argv, argv)))
		leaks |= WSLX_SANDBOX_LEAK_EXECVE;
	if (!was_denied(connect(-1, (const struct sockaddr *)&addr, sizeof(addr))))
		leaks |= WSLX_SANDBOX_LEAK_CONNECT;
	if (!was_denied(syscall(SYS_io_uring_setup, 1, params)))
		leaks |= WSLX_SANDBOX_LEAK_IO_URING;
	if (!was_denied(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)))
		leaks |= WSLX_SANDBOX_LEAK_SOCKET;
	/* Disguised as an fstat(). */
	if (!was_denied(syscall(SYS_newfstatat, AT_FDCWD, "/etc/passwd", st, AT_EMPTY_PATH)))
		leaks |= WSLX_SANDBOX_LEAK_STAT;
	return leaks;
}
