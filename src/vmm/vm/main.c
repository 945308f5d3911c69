#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/sandbox.h"
#include "os/linux/startup.h"
#include "vmm/vm/vm.h"

/* Runs in the loop's first round, so that no vCPU can call into a loop that
 * does not run yet, and no request comes before the start. */
static void on_loop_start(void *opaque)
{
	struct vm *vm = opaque;

	if (wslx_vm_control_new(vm, &vm->end_err) < 0) {
		wslx_vm_end(vm, VM_END_FAILED, NULL);
		wslx_loop_stop(vm->loop, 0);
		return;
	}
	if (wslx_vm_report(vm, WSLX_LINK_READY, 0, wslx_now_ns() - vm->start_ns, NULL) < 0) {
		wslx_vm_end(vm, VM_END_ORPHAN, NULL);
		return;
	}
	wslx_vm_set_wanted(vm, VM_RUN);
}

/* Descriptors that only building needed; the first of them could make more machines. */
static void close_spent_fds(const struct wslx_child_params *p)
{
	int fds[] = { p->kvm_fd, p->kernel_fd, p->initramfs_fd };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		wslx_close(&fds[i]);
}

#ifndef PR_SCHED_CORE
#define PR_SCHED_CORE 62
#define PR_SCHED_CORE_CREATE 1
#endif
#define SCHED_CORE_PROCESS 1 /* scope: all threads, those to come included */

/* Keeps other processes off the sibling of a hardware thread that runs this
 * guest.  Fails, harmlessly, on a host without SMT or an old kernel. */
static void schedule_by_core(void)
{
	if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, SCHED_CORE_PROCESS, 0) < 0)
		log_debug("no core scheduling: %s", strerror(errno));
}

static int start(struct vm *vm, struct wslx_err *err)
{
	/* First of all, while there is one thread; nothing below opens a path. */
	int r = wslx_sandbox_prepare(err);

	schedule_by_core();
	/* Each vsock connection is a descriptor. */
	(void)!wslx_startup_raise_fds(UINT_MAX);
	if (r == 0)
		r = wslx_vm_build(vm, err);
	wslx_vm_log_step(vm, "devices");
	if (r == 0)
		r = wslx_vm_blk_threads_start(vm, err);
	if (r == 0)
		r = wslx_vm_vcpus_start_threads(vm, err);
	if (r < 0)
		return r;
	wslx_vm_log_step(vm, "threads");
	close_spent_fds(vm->params);
	r = wslx_sandbox_enter(WSLX_SANDBOX_VMM, err);
	if (r < 0)
		return r;
	wslx_vm_log_step(vm, "confined");
	r = wslx_loop_post(vm->loop, on_loop_start, vm);
	return r < 0 ? wslx_err_sys(err, -r, "cannot start the event loop") : 0;
}

/* The last words.  Returns the exit status. */
static int report_end(struct vm *vm)
{
	switch (vm->end) {
	case VM_END_POWEROFF:
		wslx_vm_report_last(vm, WSLX_LINK_POWEROFF, 0, NULL);
		return 0;
	case VM_END_RESET:
		wslx_vm_report_last(vm, WSLX_LINK_RESET, WSLX_RESET_REQUESTED, NULL);
		return 0;
	case VM_END_TRIPLE_FAULT:
		wslx_vm_report_last(vm, WSLX_LINK_RESET, WSLX_RESET_TRIPLE_FAULT, NULL);
		return 0;
	case VM_END_STOP:
	case VM_END_ORPHAN:
		return 0;
	case VM_END_NONE:
	case VM_END_FAILED:
		break;
	}
	log_error("%s", vm->end_err.msg);
	wslx_vm_report_last(vm, WSLX_LINK_FAILED, 0, vm->end_err.msg);
	return 1;
}

#define CONSOLE_FLUSH_MS 500

int wslx_vm_main(struct wslx_child_params *p)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int r, status;

	if (!vm) {
		log_error("out of memory");
		return 1;
	}
	vm->params = p;
	vm->start_ns = wslx_now_ns();
	vm->rest_fd = -1;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	/* A reader that went away is an error of that write, no more. */
	signal(SIGPIPE, SIG_IGN);
	r = start(vm, &vm->end_err);
	if (r == 0)
		r = wslx_loop_run(vm->loop);
	if (r < 0) {
		if (!vm->end_err.code)
			wslx_err_sys(&vm->end_err, -r, "event loop");
		vm->end = VM_END_FAILED;
	}
	if (vm->chipset)
		wslx_chipset_flush_console(vm->chipset, CONSOLE_FLUSH_MS);
	wslx_vm_teardown(vm);
	status = report_end(vm);
	pthread_mutex_destroy(&vm->lock);
	pthread_cond_destroy(&vm->changed);
	free(vm);
	return status;
}
