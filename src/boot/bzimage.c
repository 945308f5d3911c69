/* bzImage headers.  Offsets: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header". */
#include "boot/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "os/linux/fd.h"

#define OFF_SETUP_SECTS 0x1f1
#define OFF_BOOT_FLAG 0x1fe
#define OFF_HEADER_LEN 0x201 /* the jump's displacement */
#define OFF_MAGIC 0x202
#define OFF_VERSION 0x206
#define OFF_KERNEL_VERSION 0x20e
#define OFF_INITRD_MAX 0x22c
#define OFF_ALIGNMENT 0x230
#define OFF_RELOCATABLE 0x234
#define OFF_XLOADFLAGS 0x236
#define OFF_PAYLOAD_OFFSET 0x248
#define OFF_PAYLOAD_LENGTH 0x24c
#define OFF_PREF_ADDRESS 0x258
#define OFF_INIT_SIZE 0x260
#define HEADER_MIN 0x264

#define MAX_FILE WSLX_GIB
#define XLF_KERNEL_64 0x01

static int bad(struct wslx_err *err, const char *what)
{
	return wslx_err_set(err, EBADMSG, "damaged bzImage: %s", what);
}

static int locate_payload(struct wslx_bzimage *bz, struct wslx_err *err)
{
	uint64_t off = wslx_get_le32(bz->header + OFF_PAYLOAD_OFFSET);
	uint64_t len = wslx_get_le32(bz->header + OFF_PAYLOAD_LENGTH);

	if (!wslx_range_ok(off, len, bz->code_len))
		return bad(err, "the compressed kernel reaches past the end of the file (truncated?)");
	bz->payload_off = bz->code_off + off;
	bz->payload_len = len;
	return 0;
}

static int read_fields(struct wslx_bzimage *bz, struct wslx_err *err)
{
	const uint8_t *h = bz->header;
	unsigned setup_sects = h[OFF_SETUP_SECTS] ? h[OFF_SETUP_SECTS] : 4;
	uint16_t kernel_version = wslx_get_le16(h + OFF_KERNEL_VERSION);

	bz->version = wslx_get_le16(h + OFF_VERSION);
	bz->header_end = OFF_MAGIC + h[OFF_HEADER_LEN];
	if (bz->header_end > WSLX_BZ_HEADER_MAX)
		return bad(err, "its setup header is too long");
	bz->code_off = (setup_sects + 1) * 512ull;
	if (bz->code_off >= bz->file_size)
		return bad(err, "it ends within its setup code (truncated?)");
	bz->code_len = bz->file_size - bz->code_off;
	if (kernel_version && kernel_version < setup_sects * 512u)
		bz->version_off = (uint16_t)WSLX_MIN(kernel_version + 0x200u, UINT16_MAX);
	bz->initrd_max = bz->version >= 0x203 ? wslx_get_le32(h + OFF_INITRD_MAX) : 0x37ffffff;
	if (bz->version >= 0x20a) {
		bz->relocatable = h[OFF_RELOCATABLE];
		bz->alignment = wslx_get_le32(h + OFF_ALIGNMENT);
		bz->pref_address = wslx_get_le64(h + OFF_PREF_ADDRESS);
		bz->init_size = wslx_get_le32(h + OFF_INIT_SIZE);
	}
	if (bz->version >= 0x20c)
		bz->xloadflags = wslx_get_le16(h + OFF_XLOADFLAGS);
	return bz->version >= 0x208 ? locate_payload(bz, err) : 0;
}

int wslx_bzimage_parse(int fd, struct wslx_bzimage *ret, struct wslx_err *err)
{
	struct wslx_bzimage bz = { .fd = fd };
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return wslx_err_sys(err, errno, "reading the kernel");
	if (!S_ISREG(st.st_mode) || st.st_size < HEADER_MIN)
		return wslx_err_set(err, ENOEXEC, "not a Linux kernel (neither bzImage nor ELF)");
	bz.file_size = (uint64_t)st.st_size;
	r = wslx_pread_full(fd, bz.header, WSLX_MIN(bz.file_size, (uint64_t)sizeof(bz.header)), 0);
	if (r < 0)
		return wslx_err_sys(err, -r, "reading the kernel");
	if (wslx_get_le16(bz.header + OFF_BOOT_FLAG) != 0xaa55 || memcmp(bz.header + OFF_MAGIC, "HdrS", 4) != 0)
		return wslx_err_set(err, ENOEXEC, "not a Linux kernel (neither bzImage nor ELF)");
	if (bz.file_size > MAX_FILE)
		return wslx_err_set(err, EFBIG, "the bzImage is larger than 1 GiB");
	r = read_fields(&bz, err);
	if (r < 0)
		return r;
	*ret = bz;
	return 0;
}

int wslx_bzimage_check(const struct wslx_bzimage *bz, struct wslx_boot_range *ret, struct wslx_err *err)
{
	struct wslx_boot_range k = { .start = bz->pref_address };

	if (bz->version < 0x20c || !(bz->xloadflags & XLF_KERNEL_64))
		return wslx_err_set(err, ENOTSUP,
				    "the bzImage has no 64-bit entry (boot protocol %u.%02u; 2.12 is needed)",
				    bz->version >> 8, bz->version & 0xffu);
	if (bz->code_len <= WSLX_BZ_ENTRY_64)
		return bad(err, "its code is too short");
	if (!wslx_add_u64(k.start, WSLX_MAX((uint64_t)bz->init_size, bz->code_len), &k.end))
		return bad(err, "its load address overflows");
	*ret = k;
	return wslx_boot_check_range(&k, err);
}
