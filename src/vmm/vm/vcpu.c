/* vCPU threads: run, dispatch, come to rest. */
#include "vmm/vm/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static void signal_rest(struct vm *vm)
{
	uint64_t one = 1;

	if (write(vm->rest_fd, &one, sizeof(one)) < 0)
		return; /* full: the loop has been woken already */
}

static void kick_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->n_vcpus; i++)
		vm->hv->ops->vcpu_kick(vm->vcpus[i].vcpu);
}

void wslx_vm_set_wanted(struct vm *vm, enum vm_wanted wanted)
{
	bool kick;

	pthread_mutex_lock(&vm->lock);
	kick = vm->wanted == VM_RUN && wanted != VM_RUN;
	if (vm->wanted != VM_STOP) /* which is final */
		vm->wanted = wanted;
	/* A vCPU that has not noticed the last resume yet is still parked. */
	if (wanted == VM_PAUSE && vm->n_parked == vm->n_vcpus)
		signal_rest(vm);
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	if (kick)
		kick_all(vm);
}

void wslx_vm_end(struct vm *vm, enum vm_end why, const char *fmt, ...)
{
	bool first;
	va_list ap;

	pthread_mutex_lock(&vm->lock);
	first = vm->end == VM_END_NONE;
	if (first) {
		vm->end = why;
		if (fmt) {
			va_start(ap, fmt);
			vsnprintf(vm->end_err.msg, sizeof(vm->end_err.msg), fmt, ap);
			va_end(ap);
		}
	}
	pthread_mutex_unlock(&vm->lock);
	if (first) {
		wslx_vm_set_wanted(vm, VM_STOP);
		signal_rest(vm);
	}
}

/* Waits while the vCPU is not to run.  False: end the thread. */
static bool wait_to_run(struct vm_vcpu *v)
{
	struct vm *vm = v->vm;
	bool parked = false, run;

	pthread_mutex_lock(&vm->lock);
	vm->n_started += vm->wanted == VM_HOLD;
	pthread_cond_broadcast(&vm->changed);
	while (vm->wanted == VM_HOLD || vm->wanted == VM_PAUSE) {
		/* In here, as the pause may come before the start was noticed. */
		if (vm->wanted == VM_PAUSE && !parked) {
			parked = true;
			if (++vm->n_parked == vm->n_vcpus)
				signal_rest(vm);
		}
		pthread_cond_wait(&vm->changed, &vm->lock);
	}
	run = vm->wanted == VM_RUN;
	if (parked)
		vm->n_parked--;
	pthread_mutex_unlock(&vm->lock);
	if (parked && run)
		vm->hv->ops->vcpu_was_paused(v->vcpu);
	return run;
}

static void do_pio(struct vm *vm, struct wslx_exit *e)
{
	uint8_t *p = e->pio.data;

	for (uint32_t i = 0; i < e->pio.count; i++, p += e->pio.size) {
		if (e->pio.write)
			(void)wslx_bus_write(vm->pio, e->pio.port, p, e->pio.size);
		else
			(void)wslx_bus_read(vm->pio, e->pio.port, p, e->pio.size);
	}
}

static void do_mmio(struct vm *vm, struct wslx_exit *e)
{
	if (e->mmio.write)
		(void)wslx_bus_write(vm->mmio, e->mmio.gpa.v, e->mmio.data, e->mmio.len);
	else
		(void)wslx_bus_read(vm->mmio, e->mmio.gpa.v, e->mmio.data, e->mmio.len);
}

static void dispatch(struct vm_vcpu *v, struct wslx_exit *e)
{
	struct vm *vm = v->vm;

	atomic_fetch_add_explicit(&v->exits[e->kind], 1, memory_order_relaxed);
	switch (e->kind) {
	case WSLX_EXIT_PIO:
		do_pio(vm, e);
		break;
	case WSLX_EXIT_MMIO:
		do_mmio(vm, e);
		break;
	case WSLX_EXIT_SHUTDOWN:
		wslx_vm_end(vm, VM_END_TRIPLE_FAULT, NULL);
		break;
	case WSLX_EXIT_RESET:
		wslx_vm_end(vm, VM_END_RESET, NULL);
		break;
	case WSLX_EXIT_FAIL:
		wslx_vm_end(vm, VM_END_FAILED, "vCPU %u: the hypervisor gave up (reason 0x%llx)", v->vcpu->index,
			    (unsigned long long)e->reason);
		break;
	case WSLX_EXIT_HLT:
	case WSLX_EXIT_INTR:
		break;
	}
}

/* What a kick may interrupt is looked at before each entry: cheap enough next
 * to an exit, and no flag is missed. */
static void run_guest(struct vm_vcpu *v)
{
	struct vm *vm = v->vm;

	while (atomic_load(&vm->wanted) == VM_RUN) {
		struct wslx_exit *e;
		int r = vm->hv->ops->vcpu_run(v->vcpu, &e);

		if (r < 0) {
			wslx_vm_end(vm, VM_END_FAILED, "vCPU %u: cannot run: %s", v->vcpu->index, strerror(-r));
			return;
		}
		dispatch(v, e);
	}
}

static void report_first_entry(struct vm_vcpu *v)
{
	if (v->vcpu->index == 0)
		(void)wslx_vm_report(v->vm, WSLX_LINK_FIRST_ENTRY, 0, wslx_now_ns(), NULL);
}

static void *vcpu_thread(void *opaque)
{
	struct vm_vcpu *v = opaque;
	struct vm *vm = v->vm;
	bool entered = false;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", v->vcpu->index);
	prctl(PR_SET_NAME, name);
	while (wait_to_run(v)) {
		if (!entered)
			report_first_entry(v);
		entered = true;
		run_guest(v);
	}
	pthread_mutex_lock(&vm->lock);
	vm->n_ended++;
	pthread_mutex_unlock(&vm->lock);
	signal_rest(vm);
	return NULL;
}

int wslx_vm_vcpus_new(struct vm *vm, struct wslx_err *err)
{
	for (unsigned i = 0; i < vm->params->cpus; i++) {
		struct vm_vcpu *v = &vm->vcpus[i];
		int r = vm->hv->ops->vcpu_new(vm->hv, i, &v->vcpu);

		if (r < 0)
			return wslx_err_sys(err, -r, "cannot create vCPU %u", i);
		v->vm = vm;
		vm->n_vcpus++;
	}
	return 0;
}

/* Returns when all of them wait for the start. */
int wslx_vm_vcpus_start_threads(struct vm *vm, struct wslx_err *err)
{
	for (unsigned i = 0; i < vm->n_vcpus; i++) {
		struct vm_vcpu *v = &vm->vcpus[i];
		int r = pthread_create(&v->thread, NULL, vcpu_thread, v);

		if (r)
			return wslx_err_sys(err, r, "cannot start the thread of vCPU %u", i);
		v->has_thread = true;
	}
	/* A starting thread makes calls that a running one never does: confine
	 * the process only after that. */
	pthread_mutex_lock(&vm->lock);
	while (vm->n_started < vm->n_vcpus)
		pthread_cond_wait(&vm->changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

void wslx_vm_vcpus_free(struct vm *vm)
{
	wslx_vm_set_wanted(vm, VM_STOP);
	for (unsigned i = 0; i < vm->n_vcpus; i++)
		if (vm->vcpus[i].has_thread)
			pthread_join(vm->vcpus[i].thread, NULL);
	for (unsigned i = 0; i < vm->n_vcpus; i++)
		vm->hv->ops->vcpu_free(vm->vcpus[i].vcpu);
	vm->n_vcpus = 0;
}

static const char *const exit_names[WSLX_EXIT_FAIL + 1] = {
	[WSLX_EXIT_MMIO] = "mmio",
	[WSLX_EXIT_PIO] = "pio",
	[WSLX_EXIT_INTR] = "intr",
};

/* The line's length, 0 if it does not fit. */
static size_t stat_line(char *buf, size_t size, const char *vcpu, const char *name, uint64_t value)
{
	int r = snprintf(buf, size, "%s.exits_%s %llu\n", vcpu, name, (unsigned long long)value);

	return r < 0 || (size_t)r >= size ? 0 : (size_t)r;
}

/* The sums first: where many vCPUs leave no room for all of them, those are there. */
size_t wslx_vm_vcpus_stats(struct vm *vm, char *buf, size_t size)
{
	uint64_t sums[ARRAY_SIZE(exit_names)] = { 0 };
	size_t n = 0, len = 1;
	char name[16];

	for (unsigned i = 0; i < vm->n_vcpus; i++)
		for (size_t k = 0; k < ARRAY_SIZE(exit_names); k++)
			sums[k] += atomic_load(&vm->vcpus[i].exits[k]);
	for (size_t k = 0; k < ARRAY_SIZE(exit_names) && len; k++) {
		if (!exit_names[k])
			continue;
		len = stat_line(buf + n, size - n, "vcpus", exit_names[k], sums[k]);
		n += len;
	}
	for (unsigned i = 0; i < vm->n_vcpus && len; i++) {
		snprintf(name, sizeof(name), "vcpu%u", i);
		for (size_t k = 0; k < ARRAY_SIZE(exit_names) && len; k++) {
			if (!exit_names[k])
				continue;
			len = stat_line(buf + n, size - n, name, exit_names[k], atomic_load(&vm->vcpus[i].exits[k]));
			n += len;
		}
	}
	return n;
}
