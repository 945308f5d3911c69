/* A PCI function's configuration space and its BAR. */
#include "dev/pci/internal.h"

#include <string.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "base/log.h"

void wslx_pci_func_init(struct wslx_pci_func *f, const struct wslx_pci_func_ops *ops, const struct wslx_pci_ids *ids)
{
	f->ops = ops;
	pthread_mutex_init(&f->lock, NULL);
	f->caps_end = PCI_CAPS_START;
	wslx_put_le16(f->config + PCI_VENDOR_ID, ids->vendor);
	wslx_put_le16(f->config + PCI_DEVICE_ID, ids->device);
	f->config[PCI_REVISION] = ids->revision;
	f->config[PCI_CLASS] = (uint8_t)ids->class_code;
	wslx_put_le16(f->config + PCI_CLASS + 1, (uint16_t)(ids->class_code >> 8));
	wslx_put_le16(f->config + PCI_SUBSYSTEM_VENDOR, ids->sub_vendor);
	wslx_put_le16(f->config + PCI_SUBSYSTEM_ID, ids->sub_device);
	wslx_put_le16(f->wmask + PCI_COMMAND, PCI_COMMAND_WRITABLE);
	f->wmask[PCI_CACHE_LINE] = 0xff;
	f->wmask[PCI_INTERRUPT_LINE] = 0xff;
}

void wslx_pci_func_fini(struct wslx_pci_func *f)
{
	if (f->bar_on)
		wslx_bus_remove(f->mmio, f->bar_base);
	f->bar_on = false;
	pthread_mutex_destroy(&f->lock);
}

void wslx_pci_func_bar(struct wslx_pci_func *f, uint64_t len, uint64_t base)
{
	f->bar_len = len;
	/* Sizing (6.2.5.1): the bits below the length stay what they are. */
	wslx_put_le64(f->wmask + PCI_BAR0, ~(len - 1));
	wslx_put_le64(f->config + PCI_BAR0, base | PCI_BAR_64BIT);
}

unsigned wslx_pci_func_cap(struct wslx_pci_func *f, uint8_t id, unsigned len)
{
	unsigned at = f->caps_end;

	f->config[at] = id;
	f->config[at + 1] = 0;
	f->config[f->last_cap ? f->last_cap + 1 : PCI_CAP_PTR] = (uint8_t)at;
	f->config[PCI_STATUS] |= PCI_STATUS_CAPS;
	f->last_cap = at;
	f->caps_end = (at + len + 3) & ~3u;
	return at;
}

static void bar_bus_read(void *opaque, uint64_t off, void *buf, unsigned len)
{
	struct wslx_pci_func *f = opaque;

	pthread_mutex_lock(&f->lock);
	f->ops->bar_read(f, off, buf, len);
	pthread_mutex_unlock(&f->lock);
}

static void bar_bus_write(void *opaque, uint64_t off, const void *buf, unsigned len)
{
	struct wslx_pci_func *f = opaque;

	pthread_mutex_lock(&f->lock);
	f->ops->bar_write(f, off, buf, len);
	pthread_mutex_unlock(&f->lock);
}

static const struct wslx_bus_ops bar_bus_ops = { .read = bar_bus_read, .write = bar_bus_write };

static bool in_window(uint64_t base, uint64_t len, uint64_t win, uint64_t win_len)
{
	return base >= win && wslx_range_ok(base - win, len, win_len);
}

/* Makes the bus follow the command register and the BAR.  A BAR outside of the
 * windows, or over another one, does not answer. */
static void remap(struct wslx_pci_func *f)
{
	uint64_t base = wslx_get_le64(f->config + PCI_BAR0) & ~(uint64_t)0xf;
	bool on = f->bar_len && (wslx_get_le16(f->config + PCI_COMMAND) & PCI_COMMAND_MEMORY);

	if (on && !in_window(base, f->bar_len, WSLX_PCI_WIN32_BASE, WSLX_PCI_WIN32_LEN) &&
	    !in_window(base, f->bar_len, WSLX_PCI_WIN64_BASE, WSLX_PCI_WIN64_LEN))
		on = false;
	if (f->bar_on && on && base == f->bar_base)
		return;
	if (f->bar_on) {
		if (f->ops->bar_mapped)
			f->ops->bar_mapped(f, f->bar_base, false);
		wslx_bus_remove(f->mmio, f->bar_base);
		f->bar_on = false;
	}
	if (!on)
		return;
	if (wslx_bus_add(f->mmio, base, f->bar_len, &bar_bus_ops, f) < 0) {
		log_guest("pci 00:%02x.0: the guest put a BAR over something else, at 0x%llx", f->slot,
			  (unsigned long long)base);
		return;
	}
	f->bar_on = true;
	f->bar_base = base;
	if (f->ops->bar_mapped)
		f->ops->bar_mapped(f, base, true);
}

static bool overlap(unsigned off, unsigned len, unsigned at, unsigned n)
{
	return off < at + n && at < off + len;
}

void wslx_pci_config_read(struct wslx_pci_func *f, unsigned off, void *buf, unsigned len)
{
	/* No PCI Express: there is no extended space. */
	memset(buf, 0xff, len);
	if (!wslx_range_ok(off, len, PCI_CONFIG_LEN))
		return;
	pthread_mutex_lock(&f->lock);
	if (f->ops->config_read)
		f->ops->config_read(f, off, len);
	memcpy(buf, f->config + off, len);
	pthread_mutex_unlock(&f->lock);
}

void wslx_pci_config_write(struct wslx_pci_func *f, unsigned off, const void *buf, unsigned len)
{
	const uint8_t *in = buf;

	if (!wslx_range_ok(off, len, PCI_CONFIG_LEN))
		return;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < len; i++) {
		uint8_t mask = f->wmask[off + i];

		f->config[off + i] = (uint8_t)((f->config[off + i] & ~mask) | (in[i] & mask));
	}
	if (overlap(off, len, PCI_COMMAND, 2) || overlap(off, len, PCI_BAR0, 8))
		remap(f);
	if (f->ops->config_written)
		f->ops->config_written(f, off, len);
	pthread_mutex_unlock(&f->lock);
}
