#include "hv/kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Free for programs: the C library keeps the first two real-time signals. */
#define KICK_SIGNAL (SIGRTMIN + 1)

static void on_kick(int sig)
{
	/* Its arrival ends KVM_RUN; there is nothing more to do. */
}

int wslx_kvm_kick_init(void)
{
	struct sigaction sa = { .sa_handler = on_kick };

	sigemptyset(&sa.sa_mask);
	return sigaction(KICK_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

static int set_cpuid(struct kvm_vm *vm, struct kvm_vcpu *v)
{
	cleanup_free struct kvm_cpuid2 *cpuid = NULL;
	int r = wslx_kvm_cpuid_for(vm->cpuid, v->vcpu.index, vm->max_vcpus, vm->tsc_deadline, &cpuid);

	return r < 0 ? r : wslx_kvm_ioctl(v->fd, KVM_SET_CPUID2, cpuid);
}

int wslx_kvm_vcpu_new(struct wslx_hv *hv, unsigned index, struct wslx_vcpu **ret)
{
	struct kvm_vm *vm = kvm_vm_of(hv);
	struct kvm_vcpu *v;
	int r;

	if (index >= vm->max_vcpus)
		return -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->vcpu = (struct wslx_vcpu) { .hv = hv, .index = index };
	v->run_size = vm->run_size;
	v->run = MAP_FAILED;
	v->fd = wslx_kvm_ioctl(vm->fd, KVM_CREATE_VCPU, (void *)(uintptr_t)index);
	r = v->fd;
	if (r >= 0) {
		v->run = mmap(NULL, v->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
		r = v->run == MAP_FAILED ? -errno : set_cpuid(vm, v);
	}
	if (r >= 0)
		r = wslx_kvm_vcpu_set_msrs(v);
	if (r < 0) {
		wslx_kvm_vcpu_free(&v->vcpu);
		return r;
	}
	*ret = &v->vcpu;
	return 0;
}

void wslx_kvm_vcpu_free(struct wslx_vcpu *vcpu)
{
	struct kvm_vcpu *v;

	if (!vcpu)
		return;
	v = kvm_vcpu_of(vcpu);
	if (v->run != MAP_FAILED)
		munmap(v->run, v->run_size);
	wslx_close(&v->fd);
	free(v);
}

static int decode_mmio(struct kvm_vcpu *v)
{
	const struct kvm_run *run = v->run;

	if (run->mmio.len < 1 || run->mmio.len > 8)
		return -EIO;
	v->exit.kind = WSLX_EXIT_MMIO;
	v->exit.mmio.gpa = wslx_gpa(run->mmio.phys_addr);
	v->exit.mmio.len = (uint8_t)run->mmio.len;
	v->exit.mmio.write = run->mmio.is_write;
	memcpy(v->exit.mmio.data, run->mmio.data, sizeof(v->exit.mmio.data));
	v->mmio_read_pending = !run->mmio.is_write;
	return 0;
}

static int decode_pio(struct kvm_vcpu *v)
{
	struct kvm_run *run = v->run;
	uint64_t len = (uint64_t)run->io.size * run->io.count;

	if (run->io.size < 1 || run->io.size > 4 || run->io.data_offset > v->run_size ||
	    len > v->run_size - run->io.data_offset)
		return -EIO;
	v->exit.kind = WSLX_EXIT_PIO;
	v->exit.pio.port = run->io.port;
	v->exit.pio.size = run->io.size;
	v->exit.pio.count = run->io.count;
	v->exit.pio.write = run->io.direction == KVM_EXIT_IO_OUT;
	v->exit.pio.data = (uint8_t *)run + run->io.data_offset;
	return 0;
}

static int decode_exit(struct kvm_vcpu *v)
{
	const struct kvm_run *run = v->run;

	switch (run->exit_reason) {
	case KVM_EXIT_MMIO:
		return decode_mmio(v);
	case KVM_EXIT_IO:
		return decode_pio(v);
	case KVM_EXIT_HLT:
		v->exit.kind = WSLX_EXIT_HLT;
		return 0;
	case KVM_EXIT_SHUTDOWN:
		v->exit.kind = WSLX_EXIT_SHUTDOWN;
		return 0;
	case KVM_EXIT_SYSTEM_EVENT:
		v->exit.kind = WSLX_EXIT_RESET;
		return 0;
	case KVM_EXIT_INTR:
		v->exit.kind = WSLX_EXIT_INTR;
		return 0;
	case KVM_EXIT_FAIL_ENTRY:
		v->exit.reason = run->fail_entry.hardware_entry_failure_reason;
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		v->exit.reason = run->internal.suberror;
		break;
	default:
		v->exit.reason = run->exit_reason;
		break;
	}
	v->exit.kind = WSLX_EXIT_FAIL;
	return 0;
}

int wslx_kvm_vcpu_run(struct wslx_vcpu *vcpu, struct wslx_exit **ret)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	int r;

	if (!atomic_load_explicit(&v->tid, memory_order_relaxed))
		atomic_store(&v->tid, (int)syscall(SYS_gettid));
	if (v->mmio_read_pending) {
		memcpy(v->run->mmio.data, v->exit.mmio.data, sizeof(v->run->mmio.data));
		v->mmio_read_pending = false;
	}
	*ret = &v->exit;
	r = ioctl(v->fd, KVM_RUN, NULL);
	if (r == 0)
		return decode_exit(v);
	/* EAGAIN: an application processor still waits for its SIPI. */
	if (errno != EINTR && errno != EAGAIN)
		return -errno;
	/* The kick is consumed here: its sender set its own flag before, and our
	 * caller looks at that flag after. */
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	v->exit.kind = WSLX_EXIT_INTR;
	return 0;
}

void wslx_kvm_vcpu_kick(struct wslx_vcpu *vcpu)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	int tid;

	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	tid = atomic_load(&v->tid);
	if (tid)
		syscall(SYS_tgkill, getpid(), tid, KICK_SIGNAL);
}

void wslx_kvm_vcpu_was_paused(struct wslx_vcpu *vcpu)
{
	/* EINVAL: the guest does not use the clock that this goes through. */
	(void)wslx_kvm_ioctl(kvm_vcpu_of(vcpu)->fd, KVM_KVMCLOCK_CTRL, NULL);
}
