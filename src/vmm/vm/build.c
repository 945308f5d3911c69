/* Putting the machine together, and taking it apart. */
#include "vmm/vm/vm.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "boot/boot.h"
#include "dev/chipset/ports.h"

static void on_poweroff(void *opaque)
{
	wslx_vm_end(opaque, VM_END_POWEROFF, NULL);
}

static void on_reset(void *opaque)
{
	wslx_vm_end(opaque, VM_END_RESET, NULL);
}

static int check_params(const struct wslx_child_params *p, struct wslx_err *err)
{
	if (p->cpus < 1 || p->cpus > WSLX_MAX_CPUS)
		return wslx_err_set(err, EINVAL, "%u CPUs: want 1 to %d", p->cpus, WSLX_MAX_CPUS);
	if (!p->memory || p->memory % (2 * WSLX_MIB))
		return wslx_err_set(err, EINVAL, "memory of %llu bytes is no multiple of 2 MiB",
				    (unsigned long long)p->memory);
	if (p->link_fd < 0 || p->kvm_fd < 0 || p->kernel_fd < 0)
		return wslx_err_set(err, EINVAL, "a descriptor is missing: link %d, kvm %d, kernel %d", p->link_fd,
				    p->kvm_fd, p->kernel_fd);
	return 0;
}

static int map_memory(struct vm *vm, struct wslx_err *err)
{
	for (size_t i = 0; i < wslx_gm_n_regions(vm->gm); i++) {
		const struct wslx_gm_region *r = wslx_gm_region(vm->gm, i);
		int rc = vm->hv->ops->map(vm->hv, (unsigned)i, r->base, r->size, r->host, false);

		if (rc < 0)
			return wslx_err_sys(err, -rc, "cannot map guest memory");
	}
	return 0;
}

/*
 * What a kernel finds when it reboots "through the BIOS": code at the reset
 * vector that writes the ACPI reset register.  Linux does so on a machine with
 * reduced-hardware ACPI and no EFI, unless it is told reboot=a.
 */
#define RESET_VECTOR 0xffff0u

static int write_reset_vector(struct vm *vm, struct wslx_err *err)
{
	static const uint8_t code[] = {
		0xba,
		WSLX_ACPI_RESET_PORT & 0xff,
		WSLX_ACPI_RESET_PORT >> 8, /* mov dx, port */
		0xb0,
		WSLX_ACPI_RESET_VALUE, /* mov al, value */
		0xee,                  /* out dx, al */
		0xf4,                  /* 1: hlt */
		0xeb,
		0xfd, /* jmp 1b */
	};
	int r = wslx_gm_write(vm->gm, wslx_gpa(RESET_VECTOR), code, sizeof(code));

	return r < 0 ? wslx_err_sys(err, -r, "cannot write the reset vector") : 0;
}

/* Memory slots and vCPUs, on a thread of their own while this one loads the
 * kernel: each takes milliseconds. */
struct machine_job {
	struct vm *vm;
	struct wslx_err err;
	int result;
};

static void *build_machine(void *opaque)
{
	struct machine_job *job = opaque;
	struct vm *vm = job->vm;

	job->result = map_memory(vm, &job->err);
	wslx_vm_log_step(vm, "memory mapped");
	if (job->result == 0)
		job->result = wslx_vm_vcpus_new(vm, &job->err);
	wslx_vm_log_step(vm, "vCPUs");
	return NULL;
}

static int load_kernel(struct vm *vm, struct wslx_vcpu_start *ret, struct wslx_err *err)
{
	const struct wslx_boot_params boot = {
		.kernel_fd = vm->params->kernel_fd,
		.initramfs_fd = vm->params->initramfs_fd,
		.cmdline = vm->params->cmdline,
		.cpus = vm->params->cpus,
	};

	return wslx_boot_load(vm->gm, &boot, ret, err);
}

static int build_machine_and_load(struct vm *vm, struct wslx_err *err)
{
	const struct wslx_child_params *p = vm->params;
	struct machine_job job = { .vm = vm };
	struct wslx_vcpu_start start_state;
	pthread_t thread;
	int r;

	r = wslx_gm_new(p->shared_memory ? WSLX_GM_SHARED : WSLX_GM_PRIVATE, p->memory, &vm->gm);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot get %llu MiB of guest memory",
				    (unsigned long long)(p->memory / WSLX_MIB));
	/* Not on the thread: making a KVM machine needs the address space for
	 * itself, and would wait for each page that the loader touches. */
	r = wslx_hv_kvm_new(p->kvm_fd, p->cpus, &vm->hv);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot create a KVM machine with %u CPUs", p->cpus);
	wslx_vm_log_step(vm, "KVM machine");
	r = pthread_create(&thread, NULL, build_machine, &job);
	if (r)
		return wslx_err_sys(err, r, "cannot start a thread");
	r = load_kernel(vm, &start_state, err);
	if (r == 0)
		r = write_reset_vector(vm, err);
	wslx_vm_log_step(vm, "kernel loaded");
	pthread_join(thread, NULL);
	if (job.result < 0) {
		if (err)
			*err = job.err;
		return job.result;
	}
	if (r < 0)
		return r;
	r = vm->hv->ops->vcpu_start_state(vm->vcpus[0].vcpu, &start_state);
	return r < 0 ? wslx_err_sys(err, -r, "cannot set the first vCPU's registers") : 0;
}

static int build_chipset(struct vm *vm, struct wslx_err *err)
{
	const struct wslx_chipset_events events = { .poweroff = on_poweroff, .reset = on_reset, .opaque = vm };
	int r;

	r = wslx_loop_new(&vm->loop);
	if (r == 0)
		r = wslx_bus_new(&vm->pio);
	if (r == 0)
		r = wslx_bus_new(&vm->mmio);
	if (r == 0)
		r = wslx_chipset_new(vm->hv, vm->pio, vm->loop, vm->params->console_fd, &events, &vm->chipset);
	if (r == 0)
		r = wslx_pci_host_new(vm->hv, vm->mmio, vm->pio, &vm->pci);
	return r < 0 ? wslx_err_sys(err, -r, "cannot build the chipset") : 0;
}

int wslx_vm_build(struct vm *vm, struct wslx_err *err)
{
	int r;

	vm->rest_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->rest_fd < 0)
		return wslx_err_sys(err, errno, "cannot make an event counter");
	r = check_params(vm->params, err);
	if (r == 0)
		r = build_machine_and_load(vm, err);
	if (r == 0)
		r = build_chipset(vm, err);
	return r < 0 ? r : wslx_vm_devices_new(vm, err);
}

/* What the guest's last writes reached is made to last, even if it never asked. */
static void sync_disks(const struct wslx_child_params *p)
{
	for (size_t i = 0; i < p->n_disks; i++)
		if (!p->disks[i].readonly && !p->disks[i].no_sync && fdatasync(p->disks[i].fd) < 0)
			log_error("disk %zu: cannot sync: %s", i, strerror(errno));
}

void wslx_vm_teardown(struct vm *vm)
{
	bool had_disks = vm->n_blk_loops;

	wslx_vm_vcpus_free(vm);
	wslx_vm_devices_quiesce(vm);
	wslx_vm_blk_threads_stop(vm);
	if (had_disks)
		sync_disks(vm->params);
	wslx_pci_host_free(vm->pci);
	wslx_vm_devices_free(vm);
	wslx_chipset_free(vm->chipset);
	wslx_vm_control_free(vm);
	wslx_bus_free(vm->pio);
	wslx_bus_free(vm->mmio);
	wslx_loop_free(vm->loop);
	if (vm->hv)
		vm->hv->ops->free(vm->hv);
	wslx_gm_free(vm->gm);
	wslx_window_close(&vm->window);
	wslx_close(&vm->rest_fd);
}
