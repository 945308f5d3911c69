/*
 * Interrupt routing and doorbells.
 *
 * KVM_SET_GSI_ROUTING replaces the whole table and waits for readers, so it is
 * called only when an entry really changes.  Masking an MSI takes the irqfd
 * off its GSI instead: signals then stay in the eventfd's count, and KVM
 * delivers one when the irqfd is assigned again, which is just what the
 * pending bit of MSI-X asks for (PCI 3.0, 6.8.3.5).
 */
#include "hv/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"

/* Message addresses of the local APICs (SDM vol. 3, 11.11.1); a guest may
 * program anything else, and nothing listens there. */
static bool msi_ok(const struct wslx_msi *msi)
{
	return (msi->addr & ~0xfffffull) == 0xfee00000ull;
}

int wslx_kvm_irq_line(struct wslx_hv *hv, unsigned gsi, bool level)
{
	struct kvm_irq_level l = { .irq = gsi, .level = level };

	if (gsi >= KVM_N_PINS)
		return -EINVAL;
	return wslx_kvm_ioctl(kvm_vm_of(hv)->fd, KVM_IRQ_LINE, &l);
}

int wslx_kvm_msi(struct wslx_hv *hv, const struct wslx_msi *msi)
{
	struct kvm_msi m = {
		.address_lo = (uint32_t)msi->addr,
		.address_hi = (uint32_t)(msi->addr >> 32),
		.data = msi->data,
	};
	int r;

	if (!msi_ok(msi))
		return -EINVAL;
	r = wslx_kvm_ioctl(kvm_vm_of(hv)->fd, KVM_SIGNAL_MSI, &m);
	return r < 0 ? r : 0; /* > 0: delivered, 0: the guest blocked it */
}

static void pin_route(struct kvm_irq_routing *t, unsigned gsi, unsigned chip, unsigned pin)
{
	t->entries[t->nr++] = (struct kvm_irq_routing_entry) {
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

/* The table KVM starts with, plus our MSIs. */
static int write_routes(struct kvm_vm *vm)
{
	size_t max = KVM_N_PINS + KVM_PIC_PINS + vm->n_routes;
	cleanup_free struct kvm_irq_routing *t = calloc(1, sizeof(*t) + max * sizeof(t->entries[0]));

	if (!t)
		return -ENOMEM;
	for (unsigned i = 0; i < KVM_N_PINS; i++) {
		pin_route(t, i, KVM_IRQCHIP_IOAPIC, i);
		if (i < KVM_PIC_PINS)
			pin_route(t, i, i < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, i % 8);
	}
	for (size_t i = 0; i < vm->n_routes; i++) {
		const struct kvm_route *rt = &vm->routes[i];

		if (!rt->used || !rt->routed)
			continue;
		t->entries[t->nr++] = (struct kvm_irq_routing_entry) {
			.gsi = (uint32_t)(KVM_N_PINS + i),
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = { .address_lo = (uint32_t)rt->msi.addr,
				   .address_hi = (uint32_t)(rt->msi.addr >> 32),
				   .data = rt->msi.data },
		};
	}
	return wslx_kvm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, t);
}

static int irqfd(struct kvm_vm *vm, int eventfd, unsigned gsi, bool assign)
{
	struct kvm_irqfd f = { .fd = (uint32_t)eventfd, .gsi = gsi, .flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN };

	return wslx_kvm_ioctl(vm->fd, KVM_IRQFD, &f);
}

static int set_assigned(struct kvm_vm *vm, size_t i, bool assigned)
{
	struct kvm_route *rt = &vm->routes[i];
	int r;

	if (rt->assigned == assigned)
		return 0;
	r = irqfd(vm, rt->eventfd, (unsigned)(KVM_N_PINS + i), assigned);
	if (r == 0)
		rt->assigned = assigned;
	return r;
}

/* route_lock held.  msi NULL: mask. */
static int update(struct kvm_vm *vm, size_t i, const struct wslx_msi *msi)
{
	struct kvm_route *rt = &vm->routes[i];
	int r;

	if (!msi || !msi_ok(msi))
		return set_assigned(vm, i, false);
	if (!rt->routed || rt->msi.addr != msi->addr || rt->msi.data != msi->data) {
		struct kvm_route old = *rt;

		rt->msi = *msi;
		rt->routed = true;
		r = write_routes(vm);
		if (r < 0) {
			rt->msi = old.msi;
			rt->routed = old.routed;
			return r;
		}
	}
	return set_assigned(vm, i, true);
}

int wslx_kvm_irqfd_msi(struct wslx_hv *hv, int eventfd, const struct wslx_msi *msi, int *handle)
{
	struct kvm_vm *vm = kvm_vm_of(hv);
	int r = -ENOSPC;
	size_t i;

	if (!(vm->caps & WSLX_HV_CAP_IRQFD))
		return -ENOTSUP;
	pthread_mutex_lock(&vm->route_lock);
	for (i = 0; i < KVM_MAX_MSI_ROUTES && vm->routes[i].used; i++)
		;
	if (i < KVM_MAX_MSI_ROUTES) {
		vm->routes[i] = (struct kvm_route) { .used = true, .eventfd = eventfd };
		if (i >= vm->n_routes)
			vm->n_routes = i + 1;
		r = update(vm, i, msi);
		if (r < 0)
			vm->routes[i].used = false;
		else
			*handle = (int)i;
	}
	pthread_mutex_unlock(&vm->route_lock);
	return r;
}

static bool handle_ok(const struct kvm_vm *vm, int handle)
{
	return handle >= 0 && (size_t)handle < vm->n_routes && vm->routes[handle].used;
}

int wslx_kvm_irqfd_update(struct wslx_hv *hv, int handle, const struct wslx_msi *msi)
{
	struct kvm_vm *vm = kvm_vm_of(hv);
	int r = -EINVAL;

	pthread_mutex_lock(&vm->route_lock);
	if (handle_ok(vm, handle))
		r = update(vm, (size_t)handle, msi);
	pthread_mutex_unlock(&vm->route_lock);
	return r;
}

void wslx_kvm_irqfd_release(struct wslx_hv *hv, int handle)
{
	struct kvm_vm *vm = kvm_vm_of(hv);

	pthread_mutex_lock(&vm->route_lock);
	if (handle_ok(vm, handle)) {
		/* The stale entry goes with the table's next write. */
		(void)set_assigned(vm, (size_t)handle, false);
		vm->routes[handle].used = false;
	}
	pthread_mutex_unlock(&vm->route_lock);
}

int wslx_kvm_ioeventfd(struct wslx_hv *hv, struct wslx_gpa gpa, unsigned len, int eventfd, bool assign)
{
	struct kvm_vm *vm = kvm_vm_of(hv);
	struct kvm_ioeventfd e = {
		.addr = gpa.v,
		.len = len,
		.fd = eventfd,
		.flags = assign ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
	};

	if (!(vm->caps & WSLX_HV_CAP_IOEVENTFD))
		return -ENOTSUP;
	return wslx_kvm_ioctl(vm->fd, KVM_IOEVENTFD, &e);
}
