/*
 * The host bridge: finds the function behind a configuration access.
 *
 * The table of functions is filled before the vCPUs run and then only read, so
 * it has no lock.  Port 0xcf8 is one register for all vCPUs, as on hardware;
 * guests serialize its use themselves.
 */
#include "dev/pci/internal.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/chipset/ports.h"

#define CONFIG_ENABLE 0x80000000u
#define CONFIG_PORTS 8

struct wslx_pci_host {
	struct wslx_hv *hv;
	struct wslx_bus *mmio, *pio;
	struct wslx_pci_func *slot[WSLX_PCI_N_SLOTS];
	_Atomic uint32_t address; /* 0xcf8 */
	bool ecam_added, ports_added;
};

struct wslx_hv *wslx_pci_host_hv(struct wslx_pci_host *host)
{
	return host->hv;
}

static struct wslx_pci_func *find(struct wslx_pci_host *h, unsigned bus, unsigned slot, unsigned fn)
{
	return bus == 0 && fn == 0 && slot < WSLX_PCI_N_SLOTS ? h->slot[slot] : NULL;
}

static void config_read(struct wslx_pci_host *h, uint32_t bdf, unsigned off, void *buf, unsigned len)
{
	struct wslx_pci_func *f = find(h, bdf >> 8, (bdf >> 3) & 0x1f, bdf & 7);

	if (f)
		wslx_pci_config_read(f, off, buf, len);
	else
		memset(buf, 0xff, len);
}

static void config_write(struct wslx_pci_host *h, uint32_t bdf, unsigned off, const void *buf, unsigned len)
{
	struct wslx_pci_func *f = find(h, bdf >> 8, (bdf >> 3) & 0x1f, bdf & 7);

	if (f)
		wslx_pci_config_write(f, off, buf, len);
}

/* PCI Express 5.0, 7.2.2: bus in bits 27-20, device 19-15, function 14-12. */
static void ecam_read(void *opaque, uint64_t off, void *buf, unsigned len)
{
	config_read(opaque, (uint32_t)(off >> 12), (unsigned)off & 0xfff, buf, len);
}

static void ecam_write(void *opaque, uint64_t off, const void *buf, unsigned len)
{
	config_write(opaque, (uint32_t)(off >> 12), (unsigned)off & 0xfff, buf, len);
}

/* PCI Local Bus 3.0, 3.2.2.3.2: only a 32-bit access reaches CONFIG_ADDRESS. */
static void ports_read(void *opaque, uint64_t off, void *buf, unsigned len)
{
	struct wslx_pci_host *h = opaque;
	uint32_t address = atomic_load(&h->address);

	memset(buf, 0xff, len);
	if (off == 0 && len == 4)
		wslx_put_le32(buf, address);
	else if (off >= 4 && (address & CONFIG_ENABLE))
		config_read(h, (address >> 8) & 0xffff, (unsigned)((address & 0xfc) + (off - 4)), buf, len);
}

static void ports_write(void *opaque, uint64_t off, const void *buf, unsigned len)
{
	struct wslx_pci_host *h = opaque;
	uint32_t address = atomic_load(&h->address);

	if (off == 0 && len == 4)
		atomic_store(&h->address, wslx_get_le32(buf) & ~0x7f000003u);
	else if (off >= 4 && (address & CONFIG_ENABLE))
		config_write(h, (address >> 8) & 0xffff, (unsigned)((address & 0xfc) + (off - 4)), buf, len);
}

static const struct wslx_bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write };
static const struct wslx_bus_ops ports_ops = { .read = ports_read, .write = ports_write };

static void bridge_free(struct wslx_pci_func *f)
{
	wslx_pci_func_fini(f);
	free(f);
}

/* The bridge itself has no registers beyond its identity. */
static const struct wslx_pci_func_ops bridge_ops = { .free = bridge_free };

static int add_bridge(struct wslx_pci_host *h)
{
	/* The generic PCIe host bridge that QEMU's arm machines show: no
	 * operating system has a quirk for it. */
	static const struct wslx_pci_ids ids = {
		.vendor = 0x1b36,
		.device = 0x0008,
		.sub_vendor = 0x1af4,
		.sub_device = 0x1100,
		.class_code = 0x060000,
	};
	struct wslx_pci_func *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return -ENOMEM;
	wslx_pci_func_init(f, &bridge_ops, &ids);
	r = wslx_pci_host_add(h, WSLX_PCI_SLOT_HOST, f);
	if (r < 0)
		bridge_free(f);
	return r;
}

int wslx_pci_host_new(struct wslx_hv *hv, struct wslx_bus *mmio, struct wslx_bus *pio, struct wslx_pci_host **ret)
{
	struct wslx_pci_host *h = calloc(1, sizeof(*h));
	int r;

	if (!h)
		return -ENOMEM;
	h->hv = hv;
	h->mmio = mmio;
	h->pio = pio;
	r = add_bridge(h);
	if (r == 0) {
		r = wslx_bus_add(mmio, WSLX_PCI_ECAM_BASE, WSLX_PCI_ECAM_LEN, &ecam_ops, h);
		h->ecam_added = r == 0;
	}
	if (r == 0) {
		r = wslx_bus_add(pio, WSLX_PCI_CONFIG_PORT, CONFIG_PORTS, &ports_ops, h);
		h->ports_added = r == 0;
	}
	if (r < 0) {
		wslx_pci_host_free(h);
		return r;
	}
	*ret = h;
	return 0;
}

void wslx_pci_host_free(struct wslx_pci_host *h)
{
	if (!h)
		return;
	if (h->ecam_added)
		wslx_bus_remove(h->mmio, WSLX_PCI_ECAM_BASE);
	if (h->ports_added)
		wslx_bus_remove(h->pio, WSLX_PCI_CONFIG_PORT);
	for (unsigned i = 0; i < WSLX_PCI_N_SLOTS; i++)
		if (h->slot[i])
			h->slot[i]->ops->free(h->slot[i]);
	free(h);
}

int wslx_pci_host_add(struct wslx_pci_host *h, unsigned slot, struct wslx_pci_func *f)
{
	if (slot >= WSLX_PCI_N_SLOTS)
		return -EINVAL;
	if (h->slot[slot])
		return -EEXIST;
	f->host = h;
	f->mmio = h->mmio;
	f->slot = slot;
	h->slot[slot] = f;
	return 0;
}
