#include "dev/chipset/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* 16 chipset ranges, and at most a few BAR regions for each of 32 PCI functions. */
#define BUS_MAX_RANGES 256

struct range {
	uint64_t base, len;
	const struct wslx_bus_ops *ops;
	void *opaque;
};

struct wslx_bus {
	pthread_rwlock_t lock; /* guards ranges and n; see bus.h on callbacks */
	size_t n;
	struct range ranges[BUS_MAX_RANGES];
};

int wslx_bus_new(struct wslx_bus **ret)
{
	struct wslx_bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return -ENOMEM;
	pthread_rwlock_init(&bus->lock, NULL);
	*ret = bus;
	return 0;
}

void wslx_bus_free(struct wslx_bus *bus)
{
	if (!bus)
		return;
	pthread_rwlock_destroy(&bus->lock);
	free(bus);
}

/* Index of the first range whose base is above addr. */
static size_t upper_bound(const struct wslx_bus *bus, uint64_t addr)
{
	size_t lo = 0, hi = bus->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (bus->ranges[mid].base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Disjoint, or one strictly inside the other? */
static bool compatible(const struct range *a, const struct range *b)
{
	uint64_t a_last = a->base + (a->len - 1), b_last = b->base + (b->len - 1);

	if (a->base == b->base)
		return false;
	if (a_last < b->base || b_last < a->base)
		return true;
	return a->base < b->base ? b_last <= a_last : a_last <= b_last;
}

static int add_locked(struct wslx_bus *bus, const struct range *r)
{
	size_t at = upper_bound(bus, r->base);

	if (bus->n == BUS_MAX_RANGES)
		return -ENOSPC;
	for (size_t i = 0; i < bus->n; i++)
		if (!compatible(&bus->ranges[i], r))
			return -EEXIST;
	memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->n - at) * sizeof(*r));
	bus->ranges[at] = *r;
	bus->n++;
	return 0;
}

int wslx_bus_add(struct wslx_bus *bus, uint64_t base, uint64_t len, const struct wslx_bus_ops *ops, void *opaque)
{
	struct range r = { base, len, ops, opaque };
	int rc;

	if (!len || base + (len - 1) < base)
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	rc = add_locked(bus, &r);
	pthread_rwlock_unlock(&bus->lock);
	return rc;
}

int wslx_bus_remove(struct wslx_bus *bus, uint64_t base)
{
	int rc = -ENOENT;
	size_t i;

	pthread_rwlock_wrlock(&bus->lock);
	i = upper_bound(bus, base);
	if (i > 0 && bus->ranges[i - 1].base == base) {
		memmove(&bus->ranges[i - 1], &bus->ranges[i], (bus->n - i) * sizeof(struct range));
		bus->n--;
		rc = 0;
	}
	pthread_rwlock_unlock(&bus->lock);
	return rc;
}

/* Copies the range that holds [addr, addr + len), so that the lock can be
 * dropped before its callback runs. */
static bool find(struct wslx_bus *bus, uint64_t addr, unsigned len, struct range *ret)
{
	bool found = false;

	if (len < 1 || len > 8)
		return false;
	pthread_rwlock_rdlock(&bus->lock);
	/* Backwards, so that an inner range comes before the one around it. */
	for (size_t i = upper_bound(bus, addr); i > 0 && !found; i--) {
		const struct range *r = &bus->ranges[i - 1];
		uint64_t off = addr - r->base;

		found = off < r->len && len <= r->len - off;
		if (found)
			*ret = *r;
	}
	pthread_rwlock_unlock(&bus->lock);
	return found;
}

bool wslx_bus_read(struct wslx_bus *bus, uint64_t addr, void *buf, unsigned len)
{
	struct range r;

	memset(buf, 0xff, len);
	if (!find(bus, addr, len, &r))
		return false;
	r.ops->read(r.opaque, addr - r.base, buf, len);
	return true;
}

bool wslx_bus_write(struct wslx_bus *bus, uint64_t addr, const void *buf, unsigned len)
{
	struct range r;

	if (!find(bus, addr, len, &r))
		return false;
	r.ops->write(r.opaque, addr - r.base, buf, len);
	return true;
}
