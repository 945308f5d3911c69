/*
 * PCI: one root bus with fixed slots, and virtio devices on it.
 *
 * Theory of operation.  The host bridge decodes configuration space twice:
 * memory-mapped (ECAM, bus 0 only is populated) and through ports 0xcf8/0xcfc.
 * A function has a configuration space with a mask of writable bits, one 64-bit
 * memory BAR, and MSI-X.  BARs carry an address from the start (nothing like a
 * BIOS runs) and the guest may move them inside the two PCI windows.
 *
 * Threads and locks.  Configuration and BAR accesses come on vCPU threads.
 * Each function has two locks:
 *   - `lock` serializes those accesses and may be held while a vCPU waits for
 *     the device's loop (wslx_loop_call).  Loop threads never take it.
 *   - `irq_lock` guards MSI-X state; vCPU and loop threads take it briefly,
 *     and nothing is called under it but the hypervisor.
 * Order: lock, then irq_lock.  Consequence for the owner of the loops: a
 * device's loop thread must never wait for a vCPU thread to come to rest.
 *
 * Trust boundary: offsets, lengths and values are the guest's.
 */
#ifndef WSLX_DEV_PCI_PCI_H
#define WSLX_DEV_PCI_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "dev/chipset/bus.h"
#include "dev/dev.h"
#include "dev/pci/layout.h"
#include "hv/hv.h"
#include "mem/gm.h"

/* Slot map; stable. */
#define WSLX_PCI_SLOT_HOST 0x00
#define WSLX_PCI_SLOT_CONSOLE 0x01
#define WSLX_PCI_SLOT_RNG 0x02
#define WSLX_PCI_SLOT_VSOCK 0x03
#define WSLX_PCI_SLOT_NET 0x04
#define WSLX_PCI_SLOT_PMEM 0x05
#define WSLX_PCI_SLOT_BLK0 0x10 /* disk n: BLK0 + n, up to 0x1f */
#define WSLX_PCI_N_SLOTS 32

struct wslx_pci_host;
struct wslx_virtio_pci;

/* Registers ECAM and 0xcf8/0xcfc on the buses (all borrowed). */
WSLX_MUST_CHECK int wslx_pci_host_new(struct wslx_hv *hv, struct wslx_bus *mmio, struct wslx_bus *pio,
				      struct wslx_pci_host **ret);
/* Frees its functions too (not their vdevs).  After the vCPUs and the loops
 * have stopped, before hv, buses and loops are freed.  NULL is fine. */
void wslx_pci_host_free(struct wslx_pci_host *host);

/* Puts a virtio device into a slot: function 0, owned by the host bridge.
 * vdev is borrowed and outlives it; its loop, id, n_queues, queue_max and
 * config_len are set.  Before the vCPUs run. -EEXIST: the slot is taken.
 * ret may be NULL. */
WSLX_MUST_CHECK int wslx_virtio_pci_new(struct wslx_pci_host *host, unsigned slot, struct wslx_vdev *vdev,
					struct wslx_gm *gm, struct wslx_virtio_pci **ret);

#endif
