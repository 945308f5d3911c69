/* What people give to import that is neither archive nor ext4 image, and what to
 * do with it instead. */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "image/import_internal.h"

#define SECTOR 512u
#define MBR_TABLE 446u
#define MBR_ENTRY 16u
#define MBR_TABLE_END 510u

#define UNPACK_SQUASHFS "`unsquashfs -d root FILE` as root, then `tar -C root -c . | wslx import NAME -`"
#define MAKE_RAW                                                                                                       \
	"`qemu-img convert -O raw FILE disk.img` makes a raw image, which can be imported if it is one ext4 file "     \
	"system"

static const struct known {
	uint32_t at;
	uint8_t len;
	const char *magic, *hint;
} known[] = {
	{ 0, 8, "vhdxfile", "it is a VHDX disk: export the distro as a tar, or " MAKE_RAW },
	{ 0, 8, "conectix", "it is a VHD disk: export the distro as a tar, or " MAKE_RAW },
	{ 0, 4, "QFI\xfb", "it is a qcow2 disk: " MAKE_RAW },
	{ 0, 4, "KDMV", "it is a VMDK disk: " MAKE_RAW },
	{ 64, 4, "\x7f\x10\xda\xbe", "it is a VDI disk: " MAKE_RAW },
	{ 0, 4, "hsqs", "it is a squashfs image: unpack it and make a tar of its content: " UNPACK_SQUASHFS },
	/* Before partitions: most can be written to a USB stick too. */
	{ 32769, 5, "CD001",
	  "it is an ISO image, and a root file system is wanted: many have one in a squashfs file, which can be copied "
	  "out of it; " UNPACK_SQUASHFS },
	{ 0, 4, "PK\3\4", "it is a zip archive: unpack it, the root file system is a tar in it" },
	{ 0, 6, "070701", "it is a cpio archive: unpack it and make a tar of its content" },
	{ 0, 4, "\177ELF", "it is a program or a kernel" },
	{ 0, 4, "XFSB", "it is an XFS image: mount it and make a tar of its content" },
	{ 65600, 8, "_BHRfS_M", "it is a btrfs image: mount it and make a tar of its content" },
	{ 0, 6, "LUKS\xba\xbe", "it is encrypted: open it with cryptsetup and give what is in it" },
};

static bool is_here(const uint8_t *p, size_t n, size_t at, const char *magic, size_t len)
{
	return n >= at + len && memcmp(p + at, magic, len) == 0;
}

/* A boot sector alone may be that of a file system, as FAT's: what it has in the
 * table's place are no partitions. */
static bool has_partitions(const uint8_t *p, size_t n)
{
	bool any = false;

	if (is_here(p, n, SECTOR, "EFI PART", 8) || is_here(p, n, 8 * SECTOR, "EFI PART", 8))
		return true;
	if (!is_here(p, n, MBR_TABLE_END, "\x55\xaa", 2))
		return false;
	for (const uint8_t *e = p + MBR_TABLE; e < p + MBR_TABLE_END; e += MBR_ENTRY) {
		if (e[0] & 0x7f)
			return false;
		any |= e[4] && wslx_get_le32(e + 12);
	}
	return any;
}

static const char *find_hint(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (is_here(p, n, known[i].at, known[i].magic, known[i].len))
			return known[i].hint;
	if (has_partitions(p, n))
		return "it is a whole disk with a partition table, and a root file system is wanted: give the root "
		       "partition. Where that is, `fdisk -l FILE` says; then "
		       "`dd if=FILE bs=512 skip=START count=SECTORS | wslx import NAME -`";
	if (is_here(p, n, MBR_TABLE_END, "\x55\xaa", 2))
		return "it begins with a boot sector: a disk, or a file system that is not ext4";
	return NULL;
}

int wslx_import_refuse(const uint8_t *p, size_t n, struct wslx_err *err)
{
	const char *hint = find_hint(p, n);

	if (n == 0)
		return wslx_err_set(err, EINVAL, "the file is empty");
	return wslx_err_set(err, EINVAL, "not a tar archive, ext4 image or .wsl package%s%s", hint ? ": " : "",
			    hint ? hint : "");
}

bool wslx_import_all_zero(const uint8_t *p, size_t n)
{
	return n && p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* Zeros are an empty archive only if nothing else follows; whoever sends them
 * without end is not listened to for ever. */
int wslx_import_refuse_zeros(struct wslx_source *src, struct wslx_import_meter *m, struct wslx_err *err)
{
	uint64_t seen = 0;
	const void *p;

	while (seen < WSLX_IMPORT_DRAIN_MAX) {
		ssize_t n = wslx_source_next(src, &p);
		int r = wslx_import_tick(m, false, err);

		if (r < 0)
			return r;
		if (n == -EAGAIN)
			continue;
		if (n < 0)
			return wslx_source_error(src, err);
		if (n == 0)
			return wslx_err_set(err, EINVAL, "the archive is empty");
		if (!wslx_import_all_zero(p, (size_t)n))
			break;
		seen += (uint64_t)n;
	}
	return wslx_err_set(err, EINVAL,
			    "not a tar archive, ext4 image or .wsl package: it begins with zeros, as no root file "
			    "system does; if it is a disk, give its root partition");
}
