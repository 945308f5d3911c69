/*
 * wslx-vmm: the supervisor of one machine, and, with --child=, the programs it
 * starts: the VMM proper and the device server.  One executable, so that a
 * supervisor can always start the children that belong to it, even if the
 * installed files have been replaced meanwhile (/proc/self/exe).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "os/linux/fd.h"
#include "vmm/child.h"
#include "vmm/supervisor/supervisor.h"

#define PARAMS_MAX 65536
#ifdef __SANITIZE_THREAD__
#define CHILD_STACK (8 * 1024 * 1024) /* its thread-local storage alone is more than the other */
#else
#define CHILD_STACK (512 * 1024)
#endif

static const char usage[] = "usage: wslx-vmm --config=FD --ready=FD [--lock=FD] [--log=FD] [--name=NAME]\n"
			    "Supervises one machine; started by wslx. See docs/control-protocol.md.\n";

struct options {
	int config, ready, lock, log, params;
	const char *child;
};

static int parse_fd(const char *option, const char *s, int *ret)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(s, &end, 10);
	if (errno || end == s || *end || v < 0 || v > 1 << 20 || fcntl((int)v, F_GETFD) < 0) {
		fprintf(stderr, "wslx-vmm: --%s: '%s' is not an open descriptor\n", option, s);
		return -EINVAL;
	}
	*ret = (int)v;
	return 0;
}

/* 0: go on, 1: done, -errno: said why. */
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option long_options[] = {
		{ "config", required_argument, NULL, 'c' }, { "ready", required_argument, NULL, 'r' },
		{ "lock", required_argument, NULL, 'k' },   { "log", required_argument, NULL, 'l' },
		{ "name", required_argument, NULL, 'n' },   { "child", required_argument, NULL, 'x' },
		{ "params", required_argument, NULL, 'p' }, { "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },      { NULL, 0, NULL, 0 },
	};
	int c, r = 0;

	*o = (struct options) { .config = -1, .ready = -1, .lock = -1, .log = -1, .params = -1 };
	while (r == 0 && (c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (c) {
		case 'c':
			r = parse_fd("config", optarg, &o->config);
			break;
		case 'r':
			r = parse_fd("ready", optarg, &o->ready);
			break;
		case 'k':
			r = parse_fd("lock", optarg, &o->lock);
			break;
		case 'l':
			r = parse_fd("log", optarg, &o->log);
			break;
		case 'p':
			r = parse_fd("params", optarg, &o->params);
			break;
		case 'x':
			o->child = optarg;
			break;
		case 'n': /* for those who read the process list */
			break;
		case 'h':
			fputs(usage, stdout);
			return 1;
		case 'V':
			puts("wslx-vmm " WSLX_VERSION);
			return 1;
		default:
			r = -EINVAL;
			break;
		}
	}
	if (r == 0 && (o->child ? o->params < 0 : o->config < 0)) {
		fputs(usage, stderr);
		r = -EINVAL;
	}
	return r;
}

/* ---- children ------------------------------------------------------------------ */

static int read_params(int fd_, struct wslx_child_params **ret, struct wslx_err *err)
{
	cleanup_close int fd = fd_;
	cleanup_free char *buf = malloc(PARAMS_MAX);
	size_t n = 0;

	if (!buf)
		return wslx_err_sys(err, ENOMEM, "child parameters");
	while (n < PARAMS_MAX) {
		ssize_t r = read(fd, buf + n, PARAMS_MAX - n);

		if (r < 0)
			return wslx_err_sys(err, errno, "cannot read the child parameters");
		if (r == 0)
			return wslx_child_params_decode(buf, n, ret, err);
		n += (size_t)r;
	}
	return wslx_err_set(err, EFBIG, "child parameters: too long");
}

/* glibc's 8 MiB are address space only, until transparent huge pages back the
 * first touched word of such a stack with 2 MiB. */
static void use_small_stacks(void)
{
	pthread_attr_t attr;

	if (pthread_attr_init(&attr))
		return;
	if (pthread_attr_setstacksize(&attr, CHILD_STACK) == 0)
		(void)pthread_setattr_default_np(&attr);
	pthread_attr_destroy(&attr);
}

static int run_child(const struct options *o)
{
	struct wslx_child_params *p = NULL;
	struct wslx_err err = { 0 };
	bool vmm = !strcmp(o->child, "vmm");
	int status = 1;

	wslx_log_init(vmm ? "wslx-vmm[vmm]" : "wslx-vmm[devices]", STDERR_FILENO, WSLX_LOG_WARN);
	if (!vmm && strcmp(o->child, "devices") != 0) {
		fprintf(stderr, "wslx-vmm: there is no child '%s'\n", o->child);
		return 2;
	}
	use_small_stacks();
	prctl(PR_SET_NAME, vmm ? "wslx-vm" : "wslx-devices");
	if (read_params(o->params, &p, &err) < 0)
		log_error("%s", err.msg);
	else
		status = vmm ? wslx_vm_main(p) : wslx_devices_main(p);
	wslx_child_params_free(p);
	return status;
}

/* ---- the supervisor ---------------------------------------------------------------- */

/* Everything from 3 on but these, which must not reach a child by accident either. */
static int close_others(const int *keep, size_t n)
{
	unsigned from = 3;

	for (;;) {
		unsigned next = UINT_MAX;

		for (size_t i = 0; i < n; i++)
			if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < next)
				next = (unsigned)keep[i];
		if (next > from && syscall(SYS_close_range, from, next == UINT_MAX ? next : next - 1, 0) < 0)
			return -errno;
		if (next == UINT_MAX)
			return 0;
		wslx_fd_cloexec((int)next, 1);
		from = next + 1;
	}
}

/* Of the caller's nothing stays: not its terminal, session, folder, umask or descriptors. */
static int detach(const struct options *o)
{
	const int keep[] = { o->config, o->ready, o->lock };
	int null;

	setsid(); /* EPERM: a session leader already */
	umask(077);
	if (chdir("/") < 0)
		return -errno;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return -errno;
	if (dup2(null, 0) < 0 || dup2(null, 1) < 0)
		return -errno;
	if (o->log >= 0 && dup2(o->log, 2) < 0)
		return -errno;
	return close_others(keep, ARRAY_SIZE(keep));
}

static int run_supervisor(const struct options *o, uint64_t start_ns)
{
	int r;

	if ((o->config >= 0 && o->config < 3) || (o->ready >= 0 && o->ready < 3) || (o->lock >= 0 && o->lock < 3)) {
		fputs("wslx-vmm: descriptors 0 to 2 are stdio\n", stderr);
		return 2;
	}
	r = detach(o);
	if (r < 0) {
		fprintf(stderr, "wslx-vmm: cannot detach: %s\n", strerror(-r));
		return 1;
	}
	wslx_log_init("wslx-vmm", STDERR_FILENO, WSLX_LOG_INFO);
	return wslx_supervisor_run(&(struct wslx_supervisor_args) {
		.config_fd = o->config,
		.ready_fd = o->ready,
		.lock_fd = o->lock,
		.test_hooks = getenv("WSLX_TEST_HOOKS") && !strcmp(getenv("WSLX_TEST_HOOKS"), "1"),
		.no_io_uring = getenv("WSLX_NO_IO_URING") && !strcmp(getenv("WSLX_NO_IO_URING"), "1"),
		.start_ns = start_ns,
	});
}

int main(int argc, char **argv)
{
	uint64_t start_ns = wslx_now_ns();
	struct options o;
	int r = parse_options(argc, argv, &o);

	if (r != 0)
		return r < 0 ? 2 : 0;
	return o.child ? run_child(&o) : run_supervisor(&o, start_ns);
}
