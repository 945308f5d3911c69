/*
 * The overlay file format: creating, checking, loading (docs/overlay-format.md).
 *
 * Trust boundary: the file's contents are hostile.  All sizes are derived from
 * one checked number, the virtual size; each table entry is copied once and
 * the copy is checked.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "dev/backend/overlay_internal.h"
#include "os/linux/fd.h"

#define CHUNK ((uint64_t)64 * 1024)

static const uint8_t magic[OV_MAGIC_LEN] = { 'W', 'S', 'L', 'X', 'O', 'V', 'L', 'Y' };

uint64_t wslx_ov_bit_find(const uint64_t *map, uint64_t from, uint64_t n, bool value)
{
	while (from < n) {
		uint64_t w = map[from / 64];

		if (!value)
			w = ~w;
		w >>= from % 64;
		if (w) {
			from += (unsigned)__builtin_ctzll(w);
			return from < n ? from : n;
		}
		from = (from / 64 + 1) * 64;
	}
	return n;
}

int wslx_ov_reserve(uint64_t bytes, void *ret)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	/* Touched here and there: huge pages would fill it. */
	(void)madvise(p, bytes, MADV_NOHUGEPAGE);
	*(void **)ret = p;
	return 0;
}

void wslx_ov_release(void *p, uint64_t bytes)
{
	if (p)
		munmap(p, bytes);
}

int wslx_ov_geometry(uint64_t virtual_size, struct ov_geometry *ret)
{
	struct ov_geometry g = { .virtual_size = virtual_size };

	if (!virtual_size || virtual_size % WSLX_BLOCK_SECTOR || virtual_size > WSLX_OVERLAY_MAX_SIZE)
		return -EINVAL;
	/* No sum below can overflow: the largest is below 2^46. */
	g.n_entries = (virtual_size + OV_CLUSTER - 1) >> OV_CLUSTER_BITS;
	g.n_pages = (g.n_entries + OV_PER_PAGE - 1) / OV_PER_PAGE;
	g.data_offset = (OV_TABLE_OFFSET + g.n_pages * OV_PAGE + OV_CLUSTER - 1) & ~(OV_CLUSTER - 1);
	g.max_clusters = 2 * g.n_entries + 16;
	*ret = g;
	return 0;
}

int wslx_overlay_create(int fd, uint64_t virtual_size)
{
	uint8_t h[OV_HEADER_LEN] = { 0 };
	struct ov_geometry g;
	struct stat st;
	int r;

	r = wslx_ov_geometry(virtual_size, &g);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size)
		return -EEXIST;
	memcpy(h, magic, sizeof(magic));
	wslx_put_le32(h + 8, OV_VERSION);
	wslx_put_le32(h + 12, OV_HEADER_LEN);
	wslx_put_le64(h + 16, virtual_size);
	wslx_put_le32(h + 24, OV_CLUSTER_BITS);
	wslx_put_le64(h + 32, OV_TABLE_OFFSET);
	wslx_put_le64(h + 40, g.n_entries);
	wslx_put_le64(h + 48, g.data_offset);
	if (ftruncate(fd, (off_t)g.data_offset) < 0)
		return -errno;
	r = wslx_pwrite_full(fd, h, sizeof(h), 0);
	if (r < 0)
		return r;
	return fsync(fd) < 0 ? -errno : 0;
}

static int bad(struct wslx_err *err, const char *what)
{
	return wslx_err_set(err, EINVAL, "%s", what);
}

static int load_header(int fd, struct ov_map *m, struct wslx_err *err)
{
	uint8_t h[OV_HEADER_LEN];
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return wslx_err_sys(err, errno, "cannot examine the overlay");
	if (!S_ISREG(st.st_mode))
		return bad(err, "the overlay is not a regular file");
	m->file_size = (uint64_t)st.st_size;
	r = wslx_pread_full(fd, h, sizeof(h), 0);
	if (r == -ENODATA || (r == 0 && memcmp(h, magic, sizeof(magic)) != 0))
		return bad(err, "not an overlay file");
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot read the overlay");
	if (wslx_get_le32(h + 8) != OV_VERSION)
		return wslx_err_set(err, EINVAL, "overlay version %" PRIu32 " is not known, only %u",
				    wslx_get_le32(h + 8), OV_VERSION);
	r = wslx_ov_geometry(wslx_get_le64(h + 16), &m->g);
	if (r < 0)
		return wslx_err_set(err, EINVAL, "impossible virtual size %" PRIu64 " in the overlay",
				    wslx_get_le64(h + 16));
	if (wslx_get_le32(h + 12) != OV_HEADER_LEN || wslx_get_le32(h + 24) != OV_CLUSTER_BITS ||
	    wslx_get_le32(h + 28) != 0 || wslx_get_le64(h + 32) != OV_TABLE_OFFSET ||
	    wslx_get_le64(h + 40) != m->g.n_entries || wslx_get_le64(h + 48) != m->g.data_offset)
		return bad(err, "the overlay's header contradicts itself");
	for (unsigned i = 56; i < sizeof(h); i++)
		if (h[i])
			return bad(err, "reserved bytes of the overlay's header are in use");
	if (m->file_size < m->g.data_offset)
		return bad(err, "the overlay is truncated inside its table");
	if (m->file_size - m->g.data_offset > m->g.max_clusters * OV_CLUSTER)
		return bad(err, "the overlay is larger than its virtual size allows");
	return 0;
}

static int load_entry(struct ov_map *m, uint64_t i, uint64_t e, struct wslx_err *err)
{
	uint64_t phys;

	if (i >= m->g.n_entries)
		return bad(err, "the overlay's table is in use past its end");
	m->table[i] = e;
	if (e == OV_ZERO) {
		m->n_zero++;
		return 0;
	}
	if (e < m->g.data_offset || (e & (OV_CLUSTER - 1)) || !wslx_range_ok(e, OV_CLUSTER, m->file_size))
		return wslx_err_set(err, EINVAL,
				    "cluster %" PRIu64 " of the overlay points to %" PRIu64 ", where no cluster can be",
				    i, e);
	phys = (e - m->g.data_offset) >> OV_CLUSTER_BITS;
	if (ov_bit(m->used, phys))
		return wslx_err_set(err, EINVAL, "cluster %" PRIu64 " of the overlay shares its data with another one",
				    i);
	ov_bit_set(m->used, phys);
	m->n_used++;
	m->n_mapped++;
	return 0;
}

/* Start of the next data at or after off, for skipping holes. */
static uint64_t next_data(int fd, uint64_t off, uint64_t end)
{
	off_t d = lseek(fd, (off_t)off, SEEK_DATA);

	if (d < 0)
		return errno == ENXIO ? end : off;
	return (uint64_t)d <= off ? off : wslx_align_down((uint64_t)d, OV_PAGE);
}

static int load_table(int fd, struct ov_map *m, struct wslx_err *err)
{
	uint8_t buf[CHUNK];
	uint64_t off = OV_TABLE_OFFSET;

	/* From here to data_offset is a multiple of the chunk. */
	while ((off = next_data(fd, off, m->g.data_offset)) < m->g.data_offset) {
		uint64_t n = WSLX_MIN(CHUNK, m->g.data_offset - off);
		int r = wslx_pread_full(fd, buf, n, (off_t)off);

		if (r < 0)
			return wslx_err_sys(err, -r, "cannot read the overlay's table");
		for (uint64_t k = 0; k < n; k += 8) {
			uint64_t e = wslx_get_le64(buf + k);

			if (!e)
				continue;
			r = load_entry(m, (off + k - OV_TABLE_OFFSET) / 8, e, err);
			if (r < 0)
				return r;
		}
		off += n;
	}
	return 0;
}

int wslx_ov_load(int fd, struct ov_map *ret, struct wslx_err *err)
{
	int r;

	*ret = (struct ov_map) { 0 };
	r = load_header(fd, ret, err);
	if (r < 0)
		return r;
	r = wslx_ov_reserve(ret->g.n_pages * OV_PAGE, &ret->table);
	if (r == 0)
		r = wslx_ov_reserve(ov_bytes_of_bits(ret->g.max_clusters), &ret->used);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot reserve memory for the overlay's table");
	return load_table(fd, ret, err);
}

void wslx_ov_map_free(struct ov_map *m)
{
	wslx_ov_release(m->table, m->g.n_pages * OV_PAGE);
	wslx_ov_release(m->used, ov_bytes_of_bits(m->g.max_clusters));
	m->table = m->used = NULL;
}

int wslx_overlay_check(int fd, struct wslx_overlay_info *ret, struct wslx_err *err)
{
	struct ov_map m;
	int r = wslx_ov_load(fd, &m, err);

	if (r == 0 && ret)
		*ret = (struct wslx_overlay_info) {
			.virtual_size = m.g.virtual_size,
			.file_size = m.file_size,
			.mapped = m.n_mapped,
			.zero = m.n_zero,
			.unused = ((m.file_size - m.g.data_offset) >> OV_CLUSTER_BITS) - m.n_used,
		};
	wslx_ov_map_free(&m);
	return r;
}
