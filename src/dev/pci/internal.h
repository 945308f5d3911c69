/* Shared by the files of src/dev/pci; not for others.  Theory of operation: pci.h. */
#ifndef WSLX_DEV_PCI_INTERNAL_H
#define WSLX_DEV_PCI_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "dev/chipset/bus.h"
#include "dev/dev.h"
#include "dev/pci/pci.h"
#include "hv/hv.h"

/* PCI Local Bus 3.0, 6.1 and 6.2. */
#define PCI_CONFIG_LEN 256
#define PCI_VENDOR_ID 0x00
#define PCI_DEVICE_ID 0x02
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_WRITABLE 0x0546 /* memory, master, parity, SERR#, INTx disable */
#define PCI_STATUS 0x06
#define PCI_STATUS_CAPS 0x0010
#define PCI_REVISION 0x08
#define PCI_CLASS 0x09
#define PCI_CACHE_LINE 0x0c
#define PCI_BAR0 0x10
#define PCI_BAR_64BIT 0x04
#define PCI_SUBSYSTEM_VENDOR 0x2c
#define PCI_SUBSYSTEM_ID 0x2e
#define PCI_CAP_PTR 0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_CAPS_START 0x40

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX 0x11

/* --- msix.c --- */

#define WSLX_MSIX_MAX (WSLX_VDEV_MAX_QUEUES + 1)
#define WSLX_MSIX_ENTRY 16 /* bytes of a table entry */
#define WSLX_MSIX_NONE 0xffff

struct msix_vector {
	int eventfd;            /* -1 without irqfd */
	int route;              /* -1: not routed yet */
	struct wslx_msi routed; /* what the route says now */
	bool pending;
};

struct wslx_msix {
	struct wslx_hv *hv;
	pthread_mutex_t lock; /* `irq_lock` of pci.h: all of this, and the owner's irq state */
	unsigned n;
	bool enabled, masked; /* message control */
	uint8_t table[WSLX_MSIX_MAX * WSLX_MSIX_ENTRY];
	struct msix_vector vec[WSLX_MSIX_MAX];
};

WSLX_MUST_CHECK int wslx_msix_init(struct wslx_msix *m, struct wslx_hv *hv, unsigned n);
void wslx_msix_fini(struct wslx_msix *m);
/* Message control was written. */
void wslx_msix_control(struct wslx_msix *m, bool enabled, bool masked);
void wslx_msix_table_read(struct wslx_msix *m, uint64_t off, void *buf, unsigned len);
void wslx_msix_table_write(struct wslx_msix *m, uint64_t off, const void *buf, unsigned len);
void wslx_msix_pba_read(struct wslx_msix *m, uint64_t off, void *buf, unsigned len);
/* lock held: sends or, while masked, remembers a message.  Returns false when
 * MSI-X is off.  Vectors that do not exist go nowhere. */
bool wslx_msix_raise_locked(struct wslx_msix *m, unsigned vector);

/* --- func.c --- */

struct wslx_pci_func;

struct wslx_pci_func_ops {
	/* All with func->lock held.  [off, off + len) lies inside the space. */
	void (*config_read)(struct wslx_pci_func *f, unsigned off,
			    unsigned len); /* before the bytes are taken; may be NULL */
	void (*config_written)(struct wslx_pci_func *f, unsigned off, unsigned len); /* may be NULL */
	void (*bar_read)(struct wslx_pci_func *f, uint64_t off, void *buf, unsigned len);
	void (*bar_write)(struct wslx_pci_func *f, uint64_t off, const void *buf, unsigned len);
	/* BAR 0 begins or stops to answer at `base`; may be NULL. */
	void (*bar_mapped)(struct wslx_pci_func *f, uint64_t base, bool mapped);
	void (*free)(struct wslx_pci_func *f); /* frees f itself */
};

struct wslx_pci_func {
	const struct wslx_pci_func_ops *ops;
	struct wslx_pci_host *host;
	struct wslx_bus *mmio;
	unsigned slot;
	pthread_mutex_t lock;
	uint8_t config[PCI_CONFIG_LEN];
	uint8_t wmask[PCI_CONFIG_LEN]; /* bits the guest may write */
	unsigned caps_end, last_cap;
	uint64_t bar_len; /* 0: no BAR */
	uint64_t bar_base;
	bool bar_on;
};

struct wslx_pci_ids {
	uint16_t vendor, device, sub_vendor, sub_device;
	uint8_t revision;
	uint32_t class_code;
};

void wslx_pci_func_init(struct wslx_pci_func *f, const struct wslx_pci_func_ops *ops, const struct wslx_pci_ids *ids);
void wslx_pci_func_fini(struct wslx_pci_func *f);
/* BAR 0: 64-bit memory, len a power of two, at `base` until the guest moves it. */
void wslx_pci_func_bar(struct wslx_pci_func *f, uint64_t len, uint64_t base);
/* Appends a capability of len bytes (id and next pointer included); returns
 * its offset.  The caller fills in the rest.  They fit: their number is ours. */
unsigned wslx_pci_func_cap(struct wslx_pci_func *f, uint8_t id, unsigned len);
void wslx_pci_config_read(struct wslx_pci_func *f, unsigned off, void *buf, unsigned len);
void wslx_pci_config_write(struct wslx_pci_func *f, unsigned off, const void *buf, unsigned len);

/* --- host.c --- */

/* -EEXIST, -EINVAL.  On success the host owns f. */
WSLX_MUST_CHECK int wslx_pci_host_add(struct wslx_pci_host *host, unsigned slot, struct wslx_pci_func *f);
struct wslx_hv *wslx_pci_host_hv(struct wslx_pci_host *host);

#endif
