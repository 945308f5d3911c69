/*
 * The relocation table of a relocatable x86-64 Linux kernel, as the kernel's
 * build appends it to vmlinux before compression (arch/x86/tools/relocs.c,
 * arch/x86/boot/compressed/misc.c):
 *
 *   0, 64-bit entries, 0, [inverse 32-bit entries, 0,] 32-bit entries
 *
 * Each entry is the low half of a kernel virtual address, sign-extended.  The
 * inverse list went away in Linux 6.15.  The table begins right where the ELF
 * image ends, so the number of zeros between there and the end of the file
 * tells which form it is.
 *
 * Moving physical and virtual addresses by the same delta gives the image that
 * a link at another address would have given.  So also the PVH entry code,
 * which runs on physical addresses, comes out right.
 */
#include "boot/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"

#define START_KERNEL_MAP 0xffffffff80000000ull
#define MAX_TABLE (64 * WSLX_MIB)

/* Start of the list that ends before byte offset `end`: just behind its zero. */
static bool list_start(const uint8_t *p, size_t end, size_t *ret)
{
	while (end >= 4) {
		if (!wslx_get_le32(p + end - 4)) {
			*ret = end;
			return true;
		}
		end -= 4;
	}
	return false;
}

static bool split(struct wslx_relocs *r, size_t len)
{
	size_t at32, mid, first;

	if (!list_start(r->data, len, &at32))
		return false;
	r->at32 = at32;
	r->n32 = (len - at32) / 4;
	if (!list_start(r->data, at32 - 4, &mid))
		return false;
	if (mid == 4) { /* two lists */
		r->at64 = mid;
		r->n64 = (at32 - 4 - mid) / 4;
		return true;
	}
	r->at32neg = mid;
	r->n32neg = (at32 - 4 - mid) / 4;
	if (!list_start(r->data, mid - 4, &first) || first != 4)
		return false;
	r->at64 = first;
	r->n64 = (mid - 4 - first) / 4;
	return true;
}

int wslx_relocs_read(const struct wslx_elf *elf, struct wslx_relocs *ret)
{
	uint64_t len = elf->file_size - elf->image_end;
	struct wslx_relocs r = { 0 };

	if (elf->image_end > elf->file_size || len < 12 || len % 4 || len > MAX_TABLE)
		return -ENODATA;
	r.data = malloc(len);
	if (!r.data)
		return -ENOMEM;
	if (wslx_pread_full(elf->fd, r.data, len, (off_t)elf->image_end) < 0 || !split(&r, len) || !r.n32) {
		wslx_relocs_free(&r);
		return -ENODATA;
	}
	*ret = r;
	return 0;
}

void wslx_relocs_free(struct wslx_relocs *r)
{
	free(r->data);
	*r = (struct wslx_relocs) { 0 };
}

/* The loaded kernel as one run of memory. */
struct image {
	uint8_t *p;
	uint64_t start; /* linked physical address of p */
	uint64_t len;
};

/* Where entry i points, if all `width` bytes of it are in the image. */
static uint8_t *place(const struct image *im, const uint8_t *list, size_t i, size_t width)
{
	uint64_t virt = (uint64_t)(int64_t)(int32_t)wslx_get_le32(list + 4 * i);
	uint64_t off = virt - START_KERNEL_MAP - im->start;

	return wslx_range_ok(off, width, im->len) ? im->p + off : NULL;
}

static bool apply32(const struct image *im, const uint8_t *list, size_t n, uint32_t delta)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t *at = place(im, list, i, 4);

		if (!at)
			return false;
		wslx_put_le32(at, wslx_get_le32(at) + delta);
	}
	return true;
}

static bool apply64(const struct image *im, const uint8_t *list, size_t n, uint64_t delta)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t *at = place(im, list, i, 8);

		if (!at)
			return false;
		wslx_put_le64(at, wslx_get_le64(at) + delta);
	}
	return true;
}

int wslx_relocs_apply(const struct wslx_relocs *r, const struct wslx_elf *elf, struct wslx_gm *gm, uint64_t delta,
		      struct wslx_err *err)
{
	struct image im = { .start = elf->phys.start, .len = elf->phys.end - elf->phys.start };
	void *p;

	if (wslx_gm_slice(gm, wslx_gpa(elf->phys.start + delta), im.len, &p) < 0)
		return wslx_err_set(err, EBADMSG, "damaged ELF kernel: it lies outside of memory");
	im.p = p;
	if (!apply64(&im, r->data + r->at64, r->n64, delta) ||
	    !apply32(&im, r->data + r->at32neg, r->n32neg, (uint32_t)-delta) ||
	    !apply32(&im, r->data + r->at32, r->n32, (uint32_t)delta))
		return wslx_err_set(err, EBADMSG,
				    "damaged kernel: its relocation table points outside of it (`nokaslr` on the "
				    "kernel command line leaves the table alone)");
	return 0;
}
