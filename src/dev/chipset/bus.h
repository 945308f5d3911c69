/*
 * Address decoding: which device answers a guest's port or MMIO access.
 *
 * A bus is a small table of ranges, sorted by base.  There is one for port I/O
 * and one for MMIO.  Ranges are disjoint or one lies inside the other (port
 * 0xcf9 inside PCI's 0xcf8); the inner one answers what it holds wholly.
 *
 * Threads: all calls are thread-safe, because PCI BARs move at run time on
 * vCPU threads.  The table's lock is not held while a callback runs, so a
 * callback may itself add and remove ranges.  The price: a callback may still
 * run on another vCPU just after its range was removed.  So an opaque must
 * live as long as the machine, and its callbacks bring their own locking.
 *
 * Trust boundary: address, length and data come from the guest.  A callback is
 * only called for an access that lies wholly inside its range (off + len <=
 * the range's length), with len 1 to 8.
 */
#ifndef WSLX_DEV_CHIPSET_BUS_H
#define WSLX_DEV_CHIPSET_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct wslx_bus_ops {
	void (*read)(void *opaque, uint64_t off, void *buf, unsigned len);
	void (*write)(void *opaque, uint64_t off, const void *buf, unsigned len);
};

struct wslx_bus;

WSLX_MUST_CHECK int wslx_bus_new(struct wslx_bus **ret);
void wslx_bus_free(struct wslx_bus *bus); /* NULL is fine */

/* [base, base + len).  -EINVAL: empty or past 2^64; -EEXIST: overlaps
 * another range in part or has the same base; -ENOSPC: the table is full.  ops is static. */
WSLX_MUST_CHECK int wslx_bus_add(struct wslx_bus *bus, uint64_t base, uint64_t len, const struct wslx_bus_ops *ops,
				 void *opaque);
/* By the base given to add.  -ENOENT. */
int wslx_bus_remove(struct wslx_bus *bus, uint64_t base);

/* Returns false when no range holds the whole access; a read then gave all
 * ones, a write went nowhere: what an absent device does. */
bool wslx_bus_read(struct wslx_bus *bus, uint64_t addr, void *buf, unsigned len);
bool wslx_bus_write(struct wslx_bus *bus, uint64_t addr, const void *buf, unsigned len);

#endif
