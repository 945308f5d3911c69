/*
 * Guest memory: the only code that turns a guest-physical address (GPA) into a
 * pointer.
 *
 * Trust boundary: everything behind these pointers is written by the guest,
 * concurrently, at any time.  Rules for callers:
 *   - ask for a range with its length; a range never crosses a region's end;
 *   - copy a header or descriptor once into host memory, validate the copy,
 *     never read the original again (wslx_gm_read is that copy);
 *   - bulk data may be used in place, through wslx_gm_slice, as I/O buffers.
 *
 * Threads: the table of regions does not change while a device that uses it is
 * active (the VMM never changes it after start; the vhost-user server stops
 * its queues first).  So lookups take no lock.
 *
 * Modes.  PRIVATE: anonymous memory, huge pages advised; all virtqueues are
 * served inside the VMM.  SHARED: a memfd, for outside devices.  IMPORTED:
 * regions mapped from a vhost-user front end.
 */
#ifndef WSLX_MEM_GM_H
#define WSLX_MEM_GM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct wslx_gpa {
	uint64_t v;
};

static inline struct wslx_gpa wslx_gpa(uint64_t v)
{
	return (struct wslx_gpa) { v };
}

enum wslx_gm_mode { WSLX_GM_PRIVATE, WSLX_GM_SHARED, WSLX_GM_IMPORTED };

struct wslx_gm_region {
	struct wslx_gpa base;
	uint64_t size;
	uint8_t *host;
	int fd;             /* SHARED/IMPORTED: owned; -1 for PRIVATE and borrowed ones */
	uint64_t fd_offset; /* of base within fd */
	bool borrowed;      /* somebody else's mapping */
};

#define WSLX_GM_MAX_REGIONS 32
/* RAM below 4 GiB ends here; the hole up to 4 GiB holds PCI windows, ECAM,
 * IOAPIC and LAPIC.  See docs/architecture.md, memory map. */
#define WSLX_GM_LOW_END 0xc0000000u

struct wslx_gm;

/* RAM of `size` bytes (page aligned) laid out at 0 and, past LOW_END, at 4 GiB. */
WSLX_MUST_CHECK int wslx_gm_new(enum wslx_gm_mode mode, uint64_t size, struct wslx_gm **ret);
/* No regions yet; for IMPORTED. */
WSLX_MUST_CHECK int wslx_gm_new_empty(struct wslx_gm **ret);
/* Maps [fd_offset, +size) of fd (ownership taken in any case).  -EINVAL on
 * misalignment, overlap, overflow, or a file shorter than the range; -ENOSPC
 * when the table is full. */
WSLX_MUST_CHECK int wslx_gm_import(struct wslx_gm *gm, struct wslx_gpa base, uint64_t size, int fd, uint64_t fd_offset);
/* Memory that is mapped already, stays the caller's, and outlives this.
 * -EINVAL, -ENOSPC as above. */
WSLX_MUST_CHECK int wslx_gm_borrow(struct wslx_gm *gm, struct wslx_gpa base, uint64_t size, void *host);
void wslx_gm_clear(struct wslx_gm *gm); /* unmaps all regions */
void wslx_gm_free(struct wslx_gm *gm);  /* NULL is fine */

size_t wslx_gm_n_regions(const struct wslx_gm *gm);
const struct wslx_gm_region *wslx_gm_region(const struct wslx_gm *gm, size_t i);
uint64_t wslx_gm_size(const struct wslx_gm *gm);

/* Pointer to [gpa, gpa + len), which must lie within one region.  len 0 is
 * -EINVAL.  Returns 0, or -EFAULT and *ret = NULL. */
WSLX_MUST_CHECK int wslx_gm_slice(const struct wslx_gm *gm, struct wslx_gpa gpa, uint64_t len, void **ret);

/* Does a pointer from there lead into borrowed memory?  That is Portal's window. */
bool wslx_gm_in_borrowed(const struct wslx_gm *gm, const void *host);

/* Copies; may cross adjacent regions.  0 or -EFAULT, then nothing or a part
 * was copied. */
WSLX_MUST_CHECK int wslx_gm_read(const struct wslx_gm *gm, struct wslx_gpa gpa, void *buf, uint64_t len);
WSLX_MUST_CHECK int wslx_gm_write(const struct wslx_gm *gm, struct wslx_gpa gpa, const void *buf, uint64_t len);

#endif
