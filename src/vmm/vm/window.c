/*
 * Portal's window in the machine: a memory slot above RAM and the virtio-pmem
 * device that tells the driver where it is.
 */
#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/log.h"
#include "dev/pci/layout.h"
#include "dev/virtio/pmem.h"
#include "vmm/vm/vm.h"

/* Linux adds memory in blocks of 128 MiB, on large machines up to 2 GiB. */
#define WINDOW_ALIGN WSLX_GIB
#define ABOVE_HOLE (4 * WSLX_GIB)

/* Above RAM and the hole below 4 GiB, below the PCI window for BARs: within the
 * 39 address bits that every processor has. */
static int choose_base(const struct vm *vm, uint64_t size, uint64_t *ret)
{
	uint64_t end = ABOVE_HOLE, base;

	for (size_t i = 0; i < wslx_gm_n_regions(vm->gm); i++) {
		const struct wslx_gm_region *r = wslx_gm_region(vm->gm, i);

		end = WSLX_MAX(end, r->base.v + r->size);
	}
	if (!wslx_align_up(end, WINDOW_ALIGN, &base) || base > WSLX_PCI_WIN64_BASE || size > WSLX_PCI_WIN64_BASE - base)
		return -EFBIG;
	*ret = base;
	return 0;
}

int wslx_vm_window_new(struct vm *vm, struct wslx_vdev **ret, struct wslx_err *err)
{
	uint64_t size = vm->params->window, base = 0;
	unsigned slot = (unsigned)wslx_gm_n_regions(vm->gm);
	int r = choose_base(vm, size, &base);

	if (r < 0)
		return wslx_err_set(err, -r, "Portal's window of %llu MiB does not fit above %llu MiB of memory",
				    (unsigned long long)(size / WSLX_MIB),
				    (unsigned long long)(vm->params->memory / WSLX_MIB));
	r = wslx_window_open(vm->params->window_fd, size, &vm->window);
	if (r == 0)
		r = wslx_gm_borrow(vm->gm, wslx_gpa(base), size, vm->window.host);
	if (r == 0)
		r = vm->hv->ops->map(vm->hv, slot, wslx_gpa(base), size, vm->window.host, false);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot map Portal's window");
	r = wslx_pmem_new(&(struct wslx_pmem_params) { .loop = vm->loop, .start = wslx_gpa(base), .size = size }, ret);
	return r < 0 ? wslx_err_sys(err, -r, "cannot make Portal's device") : 0;
}

void wslx_vm_window_map(struct vm *vm, const struct wslx_link_msg *m)
{
	int r = wslx_window_apply(&vm->window, m);

	if (r < 0)
		log_error("Portal's window: %s", strerror(-r));
	if (wslx_vm_report(vm, WSLX_LINK_WINDOW_MAPPED, m->id, (uint64_t)-r, NULL) < 0)
		log_warn("reply about Portal's window lost");
}
