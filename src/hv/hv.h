/*
 * Hypervisor interface.  Back ends: kvm/, fake/ (tests), later whp/.
 *
 * Threads: a wslx_vcpu belongs to the thread that runs it; wslx_vcpu_kick may
 * come from any thread or a signal handler.  VM-wide calls are made before the
 * vCPUs run, except msi(), irq_line() and irqfd/ioeventfd changes, which are
 * thread-safe.
 *
 * Trust boundary: every field of struct wslx_exit comes from the guest.
 */
#ifndef WSLX_HV_HV_H
#define WSLX_HV_HV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "mem/gm.h"

struct wslx_hv; /* one virtual machine */
struct wslx_vcpu;

/* Capability bits: what the back end can do natively. */
#define WSLX_HV_CAP_IRQFD (1u << 0)
#define WSLX_HV_CAP_IOEVENTFD (1u << 1)
#define WSLX_HV_CAP_DIRTY_LOG (1u << 2)

enum wslx_exit_kind {
	WSLX_EXIT_MMIO,
	WSLX_EXIT_PIO,
	WSLX_EXIT_HLT,      /* no in-kernel irqchip only */
	WSLX_EXIT_SHUTDOWN, /* triple fault */
	WSLX_EXIT_RESET,    /* guest asked through the hypervisor's own event */
	WSLX_EXIT_INTR,     /* kicked: look at your flags */
	WSLX_EXIT_FAIL,     /* entry failed or internal error; detail in `reason` */
};

struct wslx_exit {
	enum wslx_exit_kind kind;
	union {
		struct {
			struct wslx_gpa gpa;
			uint8_t data[8]; /* write: guest data; read: to be filled in */
			uint8_t len;     /* 1..8 */
			bool write;
		} mmio;
		struct {
			uint16_t port;
			uint8_t size;   /* 1, 2, 4 */
			uint32_t count; /* string operations: size * count bytes at data */
			bool write;
			uint8_t *data;
		} pio;
		uint64_t reason;
	};
};

/* x86-64 register state needed to start a vCPU; enough for both PVH (32-bit
 * protected mode, flat) and the 64-bit boot protocol. */
struct wslx_vcpu_start {
	bool long_mode; /* false: 32-bit protected mode without paging (PVH) */
	uint64_t rip;
	uint64_t rbx;      /* PVH: start_info */
	uint64_t rsi;      /* bzImage 64-bit: zero page */
	uint64_t cr3;      /* long_mode */
	uint64_t gdt_base; /* GPA of a GDT the loader wrote; cs = 0x10, ds = 0x18 */
	uint16_t gdt_limit;
};

struct wslx_msi {
	uint64_t addr;
	uint32_t data;
};

struct wslx_hv_ops {
	const char *name;
	void (*free)(struct wslx_hv *hv);
	uint32_t (*caps)(const struct wslx_hv *hv);
	int (*map)(struct wslx_hv *hv, unsigned slot, struct wslx_gpa gpa, uint64_t size, void *host, bool readonly);
	int (*unmap)(struct wslx_hv *hv, unsigned slot);
	/* ret_bitmap: one bit a page of the slot, caller-allocated. */
	int (*dirty_log)(struct wslx_hv *hv, unsigned slot, void *ret_bitmap);
	int (*vcpu_new)(struct wslx_hv *hv, unsigned index, struct wslx_vcpu **ret);
	/* GSI lines (serial etc.). */
	int (*irq_line)(struct wslx_hv *hv, unsigned gsi, bool level);
	int (*msi)(struct wslx_hv *hv, const struct wslx_msi *msi);
	/* Routes an MSI to `eventfd`: *handle (opaque, >= 0) names the route.
	 * update changes or masks (msi NULL) it; release gives it back. */
	int (*irqfd_msi)(struct wslx_hv *hv, int eventfd, const struct wslx_msi *msi, int *handle);
	int (*irqfd_update)(struct wslx_hv *hv, int handle, const struct wslx_msi *msi);
	void (*irqfd_release)(struct wslx_hv *hv, int handle);
	/* A write of any value and `len` bytes (0 = any length) at gpa signals eventfd. */
	int (*ioeventfd)(struct wslx_hv *hv, struct wslx_gpa gpa, unsigned len, int eventfd, bool assign);

	void (*vcpu_free)(struct wslx_vcpu *vcpu);
	int (*vcpu_start_state)(struct wslx_vcpu *vcpu, const struct wslx_vcpu_start *start);
	/* Runs until an exit that needs user space.  MMIO/PIO reads are completed by
	 * filling exit->mmio.data / exit->pio.data before the next run. 0 or -errno. */
	int (*vcpu_run)(struct wslx_vcpu *vcpu, struct wslx_exit **ret);
	/* Makes a running or the next vcpu_run return WSLX_EXIT_INTR.  Any thread. */
	void (*vcpu_kick)(struct wslx_vcpu *vcpu);
	/* It stood still since the last vcpu_run, and the guest is to hear of it:
	 * its watchdogs then know that the host, not the kernel, lost the time. */
	void (*vcpu_was_paused)(struct wslx_vcpu *vcpu);
};

struct wslx_hv {
	const struct wslx_hv_ops *ops;
};

struct wslx_vcpu {
	struct wslx_hv *hv;
	unsigned index;
};

/* kvm_fd: an open /dev/kvm, borrowed; may be closed afterwards. max_vcpus is fixed here. */
WSLX_MUST_CHECK int wslx_hv_kvm_new(int kvm_fd, unsigned max_vcpus, struct wslx_hv **ret);
WSLX_MUST_CHECK int wslx_hv_fake_new(struct wslx_hv **ret);

/* Times a counted loop in a throw-away vCPU: is this KVM backed by hardware
 * (or by an emulator that runs guest code at its own full speed)?  Returns 1
 * usable, 0 works but far too slow for a kernel, -errno broken.  *ret_ns is
 * the loop's time. See docs/architecture.md, engines. */
WSLX_MUST_CHECK int wslx_hv_kvm_probe(int kvm_fd, uint64_t *ret_ns);

#endif
