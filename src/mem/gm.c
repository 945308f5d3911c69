/*
 * Theory of operation.  A fixed table of regions, in order of their base.  New
 * machines have one or two (below LOW_END and from 4 GiB on), carved from one
 * mapping; imported ones come and go with SET_MEM_TABLE.  Lookup is a linear
 * walk: the first region holds most of what a device asks for.
 *
 * Memory is mapped on 2 MiB boundaries and huge pages are advised: filling it
 * with a kernel is several times faster than with small pages.  It is left out
 * of core dumps: guest secrets do not belong there.
 */
#include "mem/gm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"

#define HUGE_PAGE ((size_t)2 * WSLX_MIB)
#define HIGH_BASE ((uint64_t)4 * WSLX_GIB)

struct wslx_gm {
	size_t n;
	struct wslx_gm_region regions[WSLX_GM_MAX_REGIONS];
};

int wslx_gm_new_empty(struct wslx_gm **ret)
{
	struct wslx_gm *gm = calloc(1, sizeof(*gm));

	if (!gm)
		return -ENOMEM;
	*ret = gm;
	return 0;
}

void wslx_gm_clear(struct wslx_gm *gm)
{
	for (size_t i = 0; i < gm->n; i++) {
		if (!gm->regions[i].borrowed)
			munmap(gm->regions[i].host, gm->regions[i].size);
		wslx_close(&gm->regions[i].fd);
	}
	gm->n = 0;
}

void wslx_gm_free(struct wslx_gm *gm)
{
	if (!gm)
		return;
	wslx_gm_clear(gm);
	free(gm);
}

/* A mapping of size bytes on a huge-page boundary: reserve more, map over the
 * aligned part, give the rest back.  fd -1: anonymous. */
static int map_aligned(int fd, uint64_t fd_offset, uint64_t size, uint8_t **ret)
{
	int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	uint64_t reserved;
	uint8_t *area, *start;
	size_t head;
	void *p;

	if (!wslx_add_u64(size, HUGE_PAGE, &reserved) || reserved > SIZE_MAX)
		return -ENOMEM;
	area = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return -errno;
	head = (HUGE_PAGE - ((uintptr_t)area & (HUGE_PAGE - 1))) & (HUGE_PAGE - 1);
	start = area + head;
	p = mmap(start, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, fd, (off_t)fd_offset);
	if (p == MAP_FAILED) {
		int r = -errno;

		munmap(area, reserved);
		return r;
	}
	if (head)
		munmap(area, head);
	if (HUGE_PAGE - head)
		munmap(start + size, HUGE_PAGE - head);
	/* Both are advice: a host without transparent huge pages still works. */
	(void)madvise(start, size, MADV_HUGEPAGE);
	(void)madvise(start, size, MADV_DONTDUMP);
	*ret = start;
	return 0;
}

static bool overlaps(const struct wslx_gm *gm, uint64_t base, uint64_t size)
{
	for (size_t i = 0; i < gm->n; i++) {
		const struct wslx_gm_region *r = &gm->regions[i];

		if (base < r->base.v + r->size && r->base.v < base + size)
			return true;
	}
	return false;
}

/* The caller has checked the range and the room in the table. */
static void insert(struct wslx_gm *gm, const struct wslx_gm_region *r)
{
	size_t i = gm->n;

	while (i > 0 && gm->regions[i - 1].base.v > r->base.v)
		i--;
	memmove(&gm->regions[i + 1], &gm->regions[i], (gm->n - i) * sizeof(*r));
	gm->regions[i] = *r;
	gm->n++;
}

static int add_ram(struct wslx_gm *gm, uint64_t base, uint64_t size, int memfd, uint64_t fd_offset)
{
	struct wslx_gm_region r = { .base = { base }, .size = size, .fd = -1, .fd_offset = fd_offset };
	int rc;

	if (memfd >= 0) {
		r.fd = fcntl(memfd, F_DUPFD_CLOEXEC, 3);
		if (r.fd < 0)
			return -errno;
	}
	rc = map_aligned(r.fd, fd_offset, size, &r.host);
	if (rc < 0) {
		wslx_close(&r.fd);
		return rc;
	}
	insert(gm, &r);
	return 0;
}

/* Sealed against any change of size: a peer that holds the descriptor cannot
 * turn our accesses into SIGBUS. */
static int new_memfd(uint64_t size)
{
	cleanup_close int fd = memfd_create("wslx-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) < 0)
		return -errno;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int wslx_gm_new(enum wslx_gm_mode mode, uint64_t size, struct wslx_gm **ret)
{
	uint64_t low = WSLX_MIN(size, (uint64_t)WSLX_GM_LOW_END);
	cleanup_close int memfd = -1;
	struct wslx_gm *gm;
	int r;

	if (mode == WSLX_GM_IMPORTED || !size || size % WSLX_PAGE_SIZE || size > INT64_MAX - HIGH_BASE)
		return -EINVAL;
	if (mode == WSLX_GM_SHARED) {
		memfd = new_memfd(size);
		if (memfd < 0)
			return memfd;
	}
	r = wslx_gm_new_empty(&gm);
	if (r < 0)
		return r;
	r = add_ram(gm, 0, low, memfd, 0);
	if (r == 0 && size > low)
		r = add_ram(gm, HIGH_BASE, size - low, memfd, low);
	if (r < 0) {
		wslx_gm_free(gm);
		return r;
	}
	*ret = gm;
	return 0;
}

static int check_import(const struct wslx_gm *gm, uint64_t base, uint64_t size, int fd, uint64_t fd_offset)
{
	uint64_t end, file_end;
	struct stat st;
	int r;

	if (!size || (base | size | fd_offset) % WSLX_PAGE_SIZE)
		return -EINVAL;
	if (!wslx_add_u64(base, size, &end) || !wslx_add_u64(fd_offset, size, &file_end))
		return -EINVAL;
	if (overlaps(gm, base, size))
		return -EINVAL;
	r = wslx_fd_stat(fd, &st);
	if (r < 0)
		return r;
	if (!S_ISREG(st.st_mode) || st.st_size < 0 || file_end > (uint64_t)st.st_size)
		return -EINVAL;
	if (gm->n == WSLX_GM_MAX_REGIONS)
		return -ENOSPC;
	return 0;
}

int wslx_gm_import(struct wslx_gm *gm, struct wslx_gpa base, uint64_t size, int fd, uint64_t fd_offset)
{
	struct wslx_gm_region r = { .base = base, .size = size, .fd = fd, .fd_offset = fd_offset };
	int rc, seals;

	/* A file that shrinks after the check would turn accesses into SIGBUS.
	 * Sealing first closes that; where the front end's file cannot be sealed
	 * (hugetlbfs, seals locked) it can hurt only the device server that is
	 * its own. */
	seals = fcntl(fd, F_GET_SEALS);
	if (seals >= 0 && !(seals & F_SEAL_SHRINK))
		(void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
	rc = check_import(gm, base.v, size, fd, fd_offset);
	if (rc == 0)
		rc = map_aligned(fd, fd_offset, size, &r.host);
	if (rc < 0) {
		wslx_close(&fd);
		return rc;
	}
	insert(gm, &r);
	return 0;
}

int wslx_gm_borrow(struct wslx_gm *gm, struct wslx_gpa base, uint64_t size, void *host)
{
	const struct wslx_gm_region r = { .base = base, .size = size, .host = host, .fd = -1, .borrowed = true };
	uint64_t end;

	if (!size || (base.v | size | (uintptr_t)host) % WSLX_PAGE_SIZE || !wslx_add_u64(base.v, size, &end) ||
	    overlaps(gm, base.v, size))
		return -EINVAL;
	if (gm->n == WSLX_GM_MAX_REGIONS)
		return -ENOSPC;
	insert(gm, &r);
	return 0;
}

size_t wslx_gm_n_regions(const struct wslx_gm *gm)
{
	return gm->n;
}

const struct wslx_gm_region *wslx_gm_region(const struct wslx_gm *gm, size_t i)
{
	return i < gm->n ? &gm->regions[i] : NULL;
}

uint64_t wslx_gm_size(const struct wslx_gm *gm)
{
	uint64_t size = 0;

	for (size_t i = 0; i < gm->n; i++)
		size += gm->regions[i].size;
	return size;
}

/* The region that holds gpa, and how much of it lies from there on. */
static const struct wslx_gm_region *find(const struct wslx_gm *gm, uint64_t gpa, uint64_t *ret_off)
{
	for (size_t i = 0; i < gm->n; i++) {
		const struct wslx_gm_region *r = &gm->regions[i];

		if (gpa - r->base.v < r->size) {
			*ret_off = gpa - r->base.v;
			return r;
		}
	}
	return NULL;
}

int wslx_gm_slice(const struct wslx_gm *gm, struct wslx_gpa gpa, uint64_t len, void **ret)
{
	const struct wslx_gm_region *r;
	uint64_t off;

	*ret = NULL;
	if (!len)
		return -EINVAL;
	r = find(gm, gpa.v, &off);
	if (!r || len > r->size - off)
		return -EFAULT;
	*ret = r->host + off;
	return 0;
}

bool wslx_gm_in_borrowed(const struct wslx_gm *gm, const void *host)
{
	for (size_t i = 0; i < wslx_gm_n_regions(gm); i++) {
		const struct wslx_gm_region *r = wslx_gm_region(gm, i);

		if (r->borrowed && (uintptr_t)host - (uintptr_t)r->host < r->size)
			return true;
	}
	return false;
}

/* Moves each piece of [gpa, gpa + len) that one region holds; out NULL: towards the guest. */
static int copy(const struct wslx_gm *gm, uint64_t gpa, uint8_t *out, const uint8_t *in, uint64_t len)
{
	while (len) {
		const struct wslx_gm_region *r;
		uint64_t off, n;

		r = find(gm, gpa, &off);
		if (!r)
			return -EFAULT;
		n = WSLX_MIN(len, r->size - off);
		if (out) {
			memcpy(out, r->host + off, n);
			out += n;
		} else {
			memcpy(r->host + off, in, n);
			in += n;
		}
		len -= n;
		if (len && !wslx_add_u64(gpa, n, &gpa))
			return -EFAULT;
	}
	return 0;
}

int wslx_gm_read(const struct wslx_gm *gm, struct wslx_gpa gpa, void *buf, uint64_t len)
{
	return copy(gm, gpa.v, buf, NULL, len);
}

int wslx_gm_write(const struct wslx_gm *gm, struct wslx_gpa gpa, const void *buf, uint64_t len)
{
	return copy(gm, gpa.v, NULL, buf, len);
}
