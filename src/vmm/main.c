/*
 * wslx-vmm: the supervisor of one machine, and, with --child=, the programs it
 * starts: the VMM proper and the device server.  One executable, so that a
 * supervisor can always start the children that belong to it, even if the
 * installed files have been replaced meanwhile (/proc/self/exe).
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "os/linux/startup.h"
#include "vmm/child.h"
#include "vmm/supervisor/supervisor.h"

#define PARAMS_MAX 65536
#ifdef __SANITIZE_THREAD__
#define CHILD_STACK (8 * 1024 * 1024) /* its thread-local storage alone is more than the other */
#else
#define CHILD_STACK (512 * 1024)
#endif

struct options {
	int config, ready, lock, log, params;
	const char *child;
};

/* 0: go on, 1: done, -errno: said why. */
static int parse_options(int argc, char **argv, struct options *o)
{
	const struct wslx_startup s = {
		.program = "wslx-vmm",
		.usage = "usage: wslx-vmm --config=FD --ready=FD [--lock=FD] [--log=FD] [--name=NAME]\n"
			 "Supervises one machine; started by wslx. See docs/control-protocol.md.\n",
		.operands = true, /* a child has its machine's name there */
		.options = { { "config", .fd = &o->config },
			     { "ready", .fd = &o->ready },
			     { "lock", .fd = &o->lock },
			     { "log", .fd = &o->log },
			     { "params", .fd = &o->params },
			     { "child", .text = &o->child },
			     { .name = "name" } },
	};
	int r;

	*o = (struct options) { .config = -1, .ready = -1, .lock = -1, .log = -1, .params = -1 };
	r = wslx_startup_parse(&s, argc, argv);
	if (r == 0 && (o->child ? o->params < 0 : o->config < 0)) {
		fputs(s.usage, stderr);
		r = -EINVAL;
	}
	return r;
}

/* ---- children ------------------------------------------------------------------ */

static int read_params(int fd, struct wslx_child_params **ret, struct wslx_err *err)
{
	cleanup_free char *text = NULL;
	size_t n;
	int r = wslx_startup_read(fd, PARAMS_MAX, &text, &n);

	return r < 0 ? wslx_err_sys(err, -r, "cannot read the child parameters")
		     : wslx_child_params_decode(text, n, ret, err);
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

static int run_supervisor(const struct options *o, uint64_t start_ns)
{
	const int keep[] = { o->config, o->ready, o->lock };
	int r = wslx_startup_detach(o->log, keep, ARRAY_SIZE(keep));

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
