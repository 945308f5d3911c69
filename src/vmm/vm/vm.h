/*
 * The VMM proper; for use inside src/vmm/vm only.
 *
 * Theory of operation.  wslx_vm_main runs in a process of its own with
 * descriptors the supervisor opened.  It builds memory, hypervisor, chipset,
 * PCI and devices, loads the kernel, makes all its threads, confines itself,
 * reports READY, and only then lets vCPU 0 enter the guest.  It never opens,
 * spawns or connects anything.
 *
 * Threads:
 *   main     one event loop: link, serial output, console, rng, net, vsock;
 *   blk<n>   one event loop a disk;
 *   vcpu<n>  KVM_RUN and the dispatch of exits.
 *
 * Stopping and pausing.  vCPU threads wait for the main loop (a write to a
 * device's registers is carried out there), so the main loop must never wait
 * for vCPUs.  It sets vm->wanted, kicks them, and goes on; the last vCPU to
 * come to rest signals rest_fd, and the main loop takes the next step: quiesce
 * and answer (pause), or end (stop).  The loops run until the vCPUs have ended.
 *
 * Locks: vm->lock guards wanted, the counts of vCPUs at rest and the reason of
 * the end; nothing is called under it.  Locks of PCI, chipset and hypervisor are inside those.
 *
 * Trust boundary: everything a vCPU exit carries is the guest's.  The link's
 * other end is trusted with this process's life, and still checked.
 */
#ifndef WSLX_VMM_VM_VM_H
#define WSLX_VMM_VM_VM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "dev/chipset/bus.h"
#include "dev/chipset/chipset.h"
#include "dev/dev.h"
#include "dev/pci/pci.h"
#include "hv/hv.h"
#include "mem/gm.h"
#include "vmm/child.h"
#include "vmm/link.h"
#include "vmm/window.h"

#define VM_MAX_VDEVS (WSLX_MAX_DISKS + 5)

enum vm_wanted { VM_HOLD, VM_RUN, VM_PAUSE, VM_STOP };

/* Why the machine ends; the first one counts. */
enum vm_end {
	VM_END_NONE,
	VM_END_STOP,     /* the supervisor said so */
	VM_END_ORPHAN,   /* the supervisor is gone */
	VM_END_POWEROFF, /* guest */
	VM_END_RESET,
	VM_END_TRIPLE_FAULT,
	VM_END_FAILED, /* vm->end_err tells */
};

struct vm;

struct vm_vcpu {
	struct vm *vm;
	struct wslx_vcpu *vcpu;
	pthread_t thread;
	bool has_thread;
	atomic_uint_fast64_t exits[WSLX_EXIT_FAIL + 1]; /* by kind */
};

struct vm_blk_loop {
	struct vm *vm;
	struct wslx_loop *loop;
	pthread_t thread;
	bool has_thread;
};

struct vm {
	const struct wslx_child_params *params;
	uint64_t start_ns;

	struct wslx_gm *gm;
	struct wslx_window window; /* Portal's, in gm as well */
	struct wslx_hv *hv;
	struct wslx_bus *pio, *mmio;
	struct wslx_chipset *chipset;
	struct wslx_pci_host *pci;

	struct wslx_loop *loop;
	struct wslx_watch *link_watch, *rest_watch;
	struct wslx_timer *stop_timer;
	struct vm_blk_loop blk_loops[WSLX_MAX_DISKS];
	size_t n_blk_loops;

	struct wslx_vdev *vdevs[VM_MAX_VDEVS];
	size_t n_vdevs;
	struct wslx_vdev *net, *vsock;      /* also in vdevs */
	struct wslx_ring_probe *ring_probe; /* test hook; NULL = none */

	struct vm_vcpu vcpus[WSLX_MAX_CPUS];
	unsigned n_vcpus;

	int rest_fd; /* eventfd: all vCPUs are at rest, or an end is near */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	atomic_int wanted; /* enum vm_wanted; changed under the lock, read without */
	unsigned n_started, n_parked, n_ended;
	enum vm_end end;
	struct wslx_err end_err;

	/* Main loop only. */
	bool paused;
	bool pause_pending;
	uint32_t pause_id;
};

/* Debug log of how long start-up has taken so far. */
static inline void wslx_vm_log_step(const struct vm *vm, const char *step)
{
	log_debug("start: %6llu us: %s", (unsigned long long)(wslx_now_ns() - vm->start_ns) / 1000, step);
}

/* build.c */
int wslx_vm_build(struct vm *vm, struct wslx_err *err);
void wslx_vm_teardown(struct vm *vm);

/* devices.c */
int wslx_vm_devices_new(struct vm *vm, struct wslx_err *err);
void wslx_vm_devices_free(struct vm *vm);
int wslx_vm_blk_threads_start(struct vm *vm, struct wslx_err *err);
void wslx_vm_blk_threads_stop(struct vm *vm);
void wslx_vm_devices_quiesce(struct vm *vm);
void wslx_vm_devices_resume(struct vm *vm);
/* Appends "name value\n" lines. */
size_t wslx_vm_devices_stats(struct vm *vm, char *buf, size_t size);

/* window.c */
int wslx_vm_window_new(struct vm *vm, struct wslx_vdev **ret, struct wslx_err *err);
void wslx_vm_window_map(struct vm *vm, const struct wslx_link_msg *m);

/* vcpu.c */
int wslx_vm_vcpus_new(struct vm *vm, struct wslx_err *err);
int wslx_vm_vcpus_start_threads(struct vm *vm, struct wslx_err *err);
/* Any thread. */
void wslx_vm_set_wanted(struct vm *vm, enum vm_wanted wanted);
/* Any thread: the machine is to end.  The first reason wins. */
void wslx_vm_end(struct vm *vm, enum vm_end why, const char *fmt, ...) WSLX_PRINTF(3, 4);
/* Joins the threads, after VM_STOP. */
void wslx_vm_vcpus_free(struct vm *vm);
size_t wslx_vm_vcpus_stats(struct vm *vm, char *buf, size_t size);

/* control.c: the link and the steps that wait for vCPUs at rest. */
int wslx_vm_control_new(struct vm *vm, struct wslx_err *err);
void wslx_vm_control_free(struct vm *vm);
/* Sends without a descriptor; the socket does not block.  0 or -errno. */
int wslx_vm_report(struct vm *vm, uint32_t type, uint32_t id, uint64_t a, const char *text);
/* As report, but waits a while for room: for the last words. */
void wslx_vm_report_last(struct vm *vm, uint32_t type, uint64_t a, const char *text);

#endif
