#include "hv/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

int wslx_kvm_ioctl(int fd, unsigned long req, const void *arg)
{
	int r;

	do {
		r = ioctl(fd, req, arg);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static void kvm_free(struct wslx_hv *hv)
{
	struct kvm_vm *vm = kvm_vm_of(hv);

	wslx_close(&vm->fd);
	pthread_mutex_destroy(&vm->route_lock);
	free(vm->cpuid);
	free(vm->slot_pages);
	free(vm);
}

static uint32_t kvm_caps(const struct wslx_hv *hv)
{
	return kvm_vm_of(hv)->caps;
}

static int set_region(struct kvm_vm *vm, unsigned slot, struct wslx_gpa gpa, uint64_t size, void *host, uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa.v,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};

	return wslx_kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r);
}

static int kvm_map(struct wslx_hv *hv, unsigned slot, struct wslx_gpa gpa, uint64_t size, void *host, bool readonly)
{
	struct kvm_vm *vm = kvm_vm_of(hv);

	if (slot >= vm->n_slots)
		return -ENOSPC;
	if (!size || (gpa.v | size | (uintptr_t)host) % WSLX_PAGE_SIZE)
		return -EINVAL;
	vm->slot_pages[slot] = size / WSLX_PAGE_SIZE;
	return set_region(vm, slot, gpa, size, host, readonly ? KVM_MEM_READONLY : 0);
}

static int kvm_unmap(struct wslx_hv *hv, unsigned slot)
{
	struct kvm_vm *vm = kvm_vm_of(hv);

	if (slot >= vm->n_slots)
		return -ENOENT;
	vm->slot_pages[slot] = 0;
	return set_region(vm, slot, wslx_gpa(0), 0, NULL, 0);
}

static int kvm_dirty_log(struct wslx_hv *hv, unsigned slot, void *ret_bitmap)
{
	struct kvm_vm *vm = kvm_vm_of(hv);
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = ret_bitmap };

	if (slot >= vm->n_slots || !vm->slot_pages[slot])
		return -ENOENT;
	return wslx_kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
}

static const struct wslx_hv_ops kvm_ops = {
	.name = "kvm",
	.free = kvm_free,
	.caps = kvm_caps,
	.map = kvm_map,
	.unmap = kvm_unmap,
	.dirty_log = kvm_dirty_log,
	.vcpu_new = wslx_kvm_vcpu_new,
	.irq_line = wslx_kvm_irq_line,
	.msi = wslx_kvm_msi,
	.irqfd_msi = wslx_kvm_irqfd_msi,
	.irqfd_update = wslx_kvm_irqfd_update,
	.irqfd_release = wslx_kvm_irqfd_release,
	.ioeventfd = wslx_kvm_ioeventfd,
	.vcpu_free = wslx_kvm_vcpu_free,
	.vcpu_start_state = wslx_kvm_vcpu_start_state,
	.vcpu_run = wslx_kvm_vcpu_run,
	.vcpu_kick = wslx_kvm_vcpu_kick,
	.vcpu_was_paused = wslx_kvm_vcpu_was_paused,
};

static int check_host(int kvm_fd)
{
	int v = wslx_kvm_ioctl(kvm_fd, KVM_GET_API_VERSION, NULL);

	if (v < 0)
		return v;
	if (v != KVM_API_VERSION)
		return -ENOTSUP;
	if (wslx_kvm_ioctl(kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_USER_MEMORY) <= 0 ||
	    wslx_kvm_ioctl(kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_IRQCHIP) <= 0 ||
	    wslx_kvm_ioctl(kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_IMMEDIATE_EXIT) <= 0)
		return -ENOTSUP;
	return 0;
}

static int has(int fd, unsigned long cap)
{
	return wslx_kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)cap) > 0;
}

static void find_caps(struct kvm_vm *vm, int kvm_fd)
{
	if (has(kvm_fd, KVM_CAP_IRQFD) && has(kvm_fd, KVM_CAP_IRQ_ROUTING))
		vm->caps |= WSLX_HV_CAP_IRQFD;
	if (has(kvm_fd, KVM_CAP_IOEVENTFD))
		vm->caps |= WSLX_HV_CAP_IOEVENTFD;
	vm->caps |= WSLX_HV_CAP_DIRTY_LOG;
	vm->tsc_deadline = has(kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER);
}

/* The virtual PMU is of little use and much code inside the kernel. */
static void disable_pmu(int vm_fd)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_PMU_CAPABILITY, .args = { KVM_PMU_CAP_DISABLE } };

	if (has(vm_fd, KVM_CAP_PMU_CAPABILITY))
		(void)wslx_kvm_ioctl(vm_fd, KVM_ENABLE_CAP, &cap);
}

static int setup_machine(struct kvm_vm *vm)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	uint64_t identity = KVM_IDENTITY_MAP_ADDRESS;
	int r;

	/* Both are needed on Intel CPUs without unrestricted guest, and harmless
	 * elsewhere; back ends that have no use for them may refuse. */
	(void)wslx_kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	(void)wslx_kvm_ioctl(vm->fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)KVM_TSS_ADDRESS);
	disable_pmu(vm->fd);
	r = wslx_kvm_ioctl(vm->fd, KVM_CREATE_IRQCHIP, NULL);
	if (r < 0)
		return r;
	/* Linux needs no PIT when it finds kvmclock; other kernels may. */
	r = wslx_kvm_ioctl(vm->fd, KVM_CREATE_PIT2, &pit);
	if (r < 0)
		log_debug("kvm: no PIT: %s", strerror(-r));
	return 0;
}

int wslx_hv_kvm_new(int kvm_fd, unsigned max_vcpus, struct wslx_hv **ret)
{
	struct kvm_vm *vm;
	int r, limit;

	r = check_host(kvm_fd);
	if (r < 0)
		return r;
	limit = wslx_kvm_ioctl(kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_MAX_VCPUS);
	if (!max_vcpus || (limit > 0 && max_vcpus > (unsigned)limit))
		return -EINVAL;
	r = wslx_kvm_kick_init();
	if (r < 0)
		return r;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return -ENOMEM;
	pthread_mutex_init(&vm->route_lock, NULL);
	vm->hv.ops = &kvm_ops;
	vm->max_vcpus = max_vcpus;
	find_caps(vm, kvm_fd);
	r = wslx_kvm_ioctl(kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_NR_MEMSLOTS);
	vm->n_slots = r > 0 ? (size_t)r : 32;
	vm->slot_pages = calloc(vm->n_slots, sizeof(*vm->slot_pages));
	vm->fd = wslx_kvm_ioctl(kvm_fd, KVM_CREATE_VM, NULL);
	r = vm->slot_pages ? vm->fd : -ENOMEM;
	if (r >= 0)
		r = wslx_kvm_ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
	if (r >= 0) {
		vm->run_size = (size_t)r;
		r = wslx_kvm_cpuid_get(kvm_fd, &vm->cpuid);
	}
	if (r >= 0)
		r = setup_machine(vm);
	if (r < 0) {
		kvm_free(&vm->hv);
		return r;
	}
	*ret = &vm->hv;
	return 0;
}
