/*
 * The front end's guest memory.
 *
 * Two address spaces meet here: descriptors in rings hold guest-physical
 * addresses, while the front end names the rings by addresses in its own
 * process.  The table of regions translates the latter into the former, and
 * everything else goes through wslx_gm.
 *
 * SIGBUS.  A mapping of a file that is cut short kills whoever touches it.  So
 * a region's descriptor must be a memfd sealed with F_SEAL_SHRINK, as QEMU's
 * memory-backend-memfd makes it by default, and at least as long as the region
 * (wslx_gm_import checks that).  A hole punched into a memfd reads as zeroes
 * and is harmless.  Huge-page memfds can run out of pages at first touch and
 * are refused as well.  allow_unsealed waives both for trusted front ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "dev/vhost_user/server_internal.h"
#include "os/linux/fd.h"

int wslx_vhu_translate(const struct wslx_vhost_user *s, uint64_t uva, struct wslx_gpa *ret)
{
	for (size_t i = 0; i < s->n_regions; i++) {
		const struct vhu_region *r = &s->regions[i];

		if (uva >= r->uva && uva - r->uva < r->size) {
			*ret = wslx_gpa(r->gpa + (uva - r->uva));
			return 0;
		}
	}
	return -EFAULT;
}

static int check_fd(const struct wslx_vhost_user *s, int fd)
{
	struct statfs fs;
	int seals;

	if (s->allow_unsealed)
		return 0;
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK)) {
		log_error("%s: guest memory is not sealed against shrinking; use a sealed memfd", s->d->name);
		return -EPERM;
	}
	if (fstatfs(fd, &fs) < 0)
		return -errno;
	if (fs.f_type == HUGETLBFS_MAGIC) {
		log_error("%s: guest memory on huge-page files is not supported here", s->d->name);
		return -EPERM;
	}
	return 0;
}

static int decode_region(const uint8_t *p, struct vhu_region *ret)
{
	struct vhu_region reg = {
		.gpa = wslx_get_le64(p),
		.size = wslx_get_le64(p + 8),
		.uva = wslx_get_le64(p + 16),
		.offset = wslx_get_le64(p + 24),
	};
	uint64_t end;

	if (!reg.size || !wslx_add_u64(reg.gpa, reg.size, &end) || !wslx_add_u64(reg.uva, reg.size, &end) ||
	    !wslx_add_u64(reg.offset, reg.size, &end))
		return -EPROTO;
	*ret = reg;
	return 0;
}

/* Part of what this process has mapped, and others may have changed since? */
static bool is_window(const struct wslx_vhost_user *s, const struct vhu_region *reg, const struct stat *st)
{
	struct stat own;

	return s->window.host && wslx_fd_stat(s->window.fd, &own) == 0 && own.st_dev == st->st_dev &&
	       own.st_ino == st->st_ino && wslx_range_ok(reg->offset, reg->size, s->window.size);
}

static int import_region(struct wslx_vhost_user *s, struct vhu_region *reg, int *fd)
{
	struct stat st;
	int r = check_fd(s, *fd);

	if (r == 0)
		r = wslx_fd_stat(*fd, &st);
	if (r == 0 && is_window(s, reg, &st))
		r = wslx_gm_borrow(s->gm, wslx_gpa(reg->gpa), reg->size, s->window.host + reg->offset);
	else if (r == 0)
		r = wslx_gm_import(s->gm, wslx_gpa(reg->gpa), reg->size, TAKE_FD(*fd), reg->offset);
	if (r < 0)
		return r;
	reg->dev = st.st_dev;
	reg->ino = st.st_ino;
	s->regions[s->n_regions++] = *reg;
	return 0;
}

static bool same_region(const struct vhu_region *have, const struct vhu_region *want, int fd)
{
	struct stat st;

	return have->gpa == want->gpa && have->size == want->size && have->uva == want->uva &&
	       have->offset == want->offset && wslx_fd_stat(fd, &st) == 0 && st.st_dev == have->dev &&
	       st.st_ino == have->ino;
}

/* Bit mask of the wanted regions that are mapped already. */
static uint32_t known_regions(const struct wslx_vhost_user *s, const struct vhu_region *want, const int *fds,
			      uint32_t n)
{
	uint32_t known = 0;

	for (uint32_t i = 0; i < n; i++) {
		for (size_t k = 0; k < s->n_regions; k++) {
			if (same_region(&s->regions[k], &want[i], fds[i]))
				known |= 1u << i;
		}
	}
	return known;
}

/*
 * u32 number of regions, u32 padding, regions; one descriptor each.  A front
 * end repeats the table at every start.  As long as what is mapped stays,
 * nothing is unmapped and the device keeps its state; otherwise the device is
 * reset, because a quiesced one may still hold requests that point into the
 * old mappings (a disk's that wait for room on the host).
 */
int wslx_vhu_set_mem_table(struct wslx_vhost_user *s, struct vhu_msg *m)
{
	struct vhu_region want[VHU_MAX_REGIONS];
	uint32_t n, running, known;
	int r = 0;

	if (m->size < 8)
		return -EPROTO;
	n = wslx_get_le32(m->payload);
	if (!n || n > VHU_MAX_REGIONS || m->n_fds != n || m->size != 8 + n * VHU_REGION_LEN)
		return -EPROTO;
	for (uint32_t i = 0; i < n && r == 0; i++)
		r = decode_region(m->payload + 8 + i * VHU_REGION_LEN, &want[i]);
	if (r < 0)
		return r;
	wslx_vhu_vrings_pause(s, &running);
	known = known_regions(s, want, m->fds, n);
	if ((size_t)__builtin_popcount(known) != s->n_regions) {
		wslx_vhu_device_reset(s);
		wslx_gm_clear(s->gm);
		s->n_regions = 0;
		known = 0;
	}
	for (uint32_t i = 0; i < n && r == 0; i++) {
		if (!(known & 1u << i))
			r = import_region(s, &want[i], &m->fds[i]);
	}
	return r < 0 ? r : wslx_vhu_vrings_continue(s, running);
}
