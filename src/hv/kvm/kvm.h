/*
 * The kvm back end's own header; not for use outside src/hv/kvm.
 *
 * Theory of operation.  One struct kvm_vm per machine, on the full in-kernel
 * irqchip (LAPIC, IOAPIC, PIC) and PIT, so that interrupts, timers, INIT/SIPI
 * and HLT never leave the kernel.  MSIs go out in two ways: directly
 * (KVM_SIGNAL_MSI), or through an irqfd with an entry of the GSI routing table
 * of its own (irq.c).  File by file: kvm.c the machine, vcpu.c running,
 * state.c registers and MSRs, cpuid.c what the guest sees of the CPU, irq.c
 * interrupts and doorbells, probe.c the speed test.
 *
 * Kicks: user space asks a vCPU thread out of KVM_RUN with immediate_exit and
 * a signal.  immediate_exit alone misses a vCPU already in guest mode, the
 * signal alone one about to enter; both together miss none.
 *
 * Everything that needs /dev/kvm itself (supported CPUID, mmap size) is asked
 * for in wslx_hv_kvm_new, so that the descriptor can be closed after it.
 */
#ifndef WSLX_HV_KVM_KVM_H
#define WSLX_HV_KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "hv/hv.h"

/* Just below the area that holds BIOS flash on a PC; docs/architecture.md. */
#define KVM_TSS_ADDRESS 0xfffbd000u
#define KVM_IDENTITY_MAP_ADDRESS 0xfffbc000ull

#define KVM_MAX_MSI_ROUTES 1000
#define KVM_N_PINS 24
#define KVM_PIC_PINS 16

struct kvm_route {
	bool used;
	bool routed;   /* msi is in the kernel's table */
	bool assigned; /* the irqfd is connected */
	int eventfd;   /* borrowed */
	struct wslx_msi msi;
};

struct kvm_vm {
	struct wslx_hv hv;
	int fd;
	unsigned max_vcpus;
	size_t run_size;
	uint32_t caps;
	bool tsc_deadline;
	struct kvm_cpuid2 *cpuid; /* as supported by the host */
	uint64_t *slot_pages;     /* for the dirty log: pages of each slot */
	size_t n_slots;
	pthread_mutex_t route_lock; /* guards routes and the kernel's table */
	size_t n_routes;            /* one past the highest used */
	struct kvm_route routes[KVM_MAX_MSI_ROUTES];
};

struct kvm_vcpu {
	struct wslx_vcpu vcpu;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	atomic_int tid; /* thread inside vcpu_run now or last; 0 = none yet */
	struct wslx_exit exit;
	bool mmio_read_pending;
};

static inline struct kvm_vm *kvm_vm_of(const struct wslx_hv *hv)
{
	return CONTAINER_OF(hv, struct kvm_vm, hv);
}

static inline struct kvm_vcpu *kvm_vcpu_of(const struct wslx_vcpu *vcpu)
{
	return CONTAINER_OF(vcpu, struct kvm_vcpu, vcpu);
}

/* ioctl that returns -errno and goes on after EINTR. */
int wslx_kvm_ioctl(int fd, unsigned long req, const void *arg);

/* vcpu.c */
int wslx_kvm_vcpu_new(struct wslx_hv *hv, unsigned index, struct wslx_vcpu **ret);
void wslx_kvm_vcpu_free(struct wslx_vcpu *vcpu);
int wslx_kvm_vcpu_run(struct wslx_vcpu *vcpu, struct wslx_exit **ret);
void wslx_kvm_vcpu_kick(struct wslx_vcpu *vcpu);
void wslx_kvm_vcpu_was_paused(struct wslx_vcpu *vcpu);
/* Installs the kick signal's empty handler, once a process. */
int wslx_kvm_kick_init(void);

/* state.c */
int wslx_kvm_vcpu_start_state(struct wslx_vcpu *vcpu, const struct wslx_vcpu_start *start);
int wslx_kvm_vcpu_set_msrs(struct kvm_vcpu *v);

/* cpuid.c */
int wslx_kvm_cpuid_get(int kvm_fd, struct kvm_cpuid2 **ret);
/* A filtered copy for vCPU `index` of `n`; caller frees. */
int wslx_kvm_cpuid_for(const struct kvm_cpuid2 *host, unsigned index, unsigned n, bool tsc_deadline,
		       struct kvm_cpuid2 **ret);

/* irq.c */
int wslx_kvm_irq_line(struct wslx_hv *hv, unsigned gsi, bool level);
int wslx_kvm_msi(struct wslx_hv *hv, const struct wslx_msi *msi);
int wslx_kvm_irqfd_msi(struct wslx_hv *hv, int eventfd, const struct wslx_msi *msi, int *handle);
int wslx_kvm_irqfd_update(struct wslx_hv *hv, int handle, const struct wslx_msi *msi);
void wslx_kvm_irqfd_release(struct wslx_hv *hv, int handle);
int wslx_kvm_ioeventfd(struct wslx_hv *hv, struct wslx_gpa gpa, unsigned len, int eventfd, bool assign);

#endif
