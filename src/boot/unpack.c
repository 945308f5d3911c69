/* Theory of operation: see unpack.h. */
#include "boot/unpack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "boot/internal.h"
#include "os/linux/fd.h"

#define HOLE ((size_t)64 * WSLX_KIB)
#define COPY ((size_t)WSLX_MIB)

/* Output file: blocks of zeros are skipped, which leaves holes. */
struct writer {
	int fd;
	uint64_t off;
	int write_error; /* tells a full disk from a bad payload */
};

static bool all_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (!p[0] && !memcmp(p, p + 1, n - 1));
}

static int write_out(void *opaque, const uint8_t *p, size_t n)
{
	struct writer *w = opaque;

	if (n > WSLX_KERNEL_MAX - w->off)
		return -EFBIG;
	while (n) {
		size_t k = WSLX_MIN(n, HOLE - (size_t)(w->off % HOLE));

		if (!all_zero(p, k)) {
			w->write_error = wslx_pwrite_full(w->fd, p, k, (off_t)w->off);
			if (w->write_error < 0)
				return w->write_error;
		}
		w->off += k;
		p += k;
		n -= k;
	}
	return 0;
}

static int finish(struct writer *w, struct wslx_err *err)
{
	/* The last bytes may be a hole. */
	if (ftruncate(w->fd, (off_t)w->off) < 0)
		return wslx_err_sys(err, errno, "writing the unpacked kernel");
	return 0;
}

static int copy_range(int in_fd, uint64_t off, uint64_t len, struct writer *w, struct wslx_err *err)
{
	cleanup_free uint8_t *buf = malloc(COPY);
	int r = 0;

	if (!buf)
		return -ENOMEM;
	while (len && r == 0) {
		size_t n = WSLX_MIN(len, (uint64_t)COPY);

		r = wslx_pread_full(in_fd, buf, n, (off_t)off);
		if (r < 0)
			return wslx_err_sys(err, -r, "reading the kernel");
		r = write_out(w, buf, n);
		off += n;
		len -= n;
	}
	if (r == -EFBIG)
		return wslx_err_set(err, EFBIG, "the kernel is larger than 1 GiB");
	return r < 0 ? wslx_err_sys(err, -r, "writing the unpacked kernel") : finish(w, err);
}

static int unpack_payload(const struct wslx_bzimage *bz, struct writer *w, struct wslx_err *err)
{
	cleanup_free uint8_t *payload = malloc(bz->payload_len);
	int r;

	if (!payload)
		return -ENOMEM;
	r = wslx_pread_full(bz->fd, payload, bz->payload_len, (off_t)bz->payload_off);
	if (r < 0)
		return wslx_err_sys(err, -r, "reading the kernel");
	if (bz->payload_len > 4 && !memcmp(payload, "\177ELF", 4))
		r = write_out(w, payload, bz->payload_len);
	else
		r = wslx_decompress(payload, bz->payload_len, write_out, w);
	if (w->write_error)
		return wslx_err_sys(err, -w->write_error, "writing the unpacked kernel");
	if (r == -ENOTSUP)
		return wslx_err_set(err, ENOTSUP, "the bzImage's kernel is packed in an unknown format");
	if (r == -EFBIG)
		return wslx_err_set(err, EFBIG, "the kernel unpacks to more than 1 GiB");
	if (r == -EBADMSG)
		return wslx_err_set(err, EBADMSG, "damaged bzImage: its kernel does not unpack");
	return r < 0 ? wslx_err_sys(err, -r, "unpacking the kernel") : finish(w, err);
}

static bool is_elf(int fd)
{
	uint8_t magic[4];

	return wslx_pread_full(fd, magic, sizeof(magic), 0) == 0 && !memcmp(magic, "\177ELF", sizeof(magic));
}

static bool version_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("._+~-", c));
}

bool wslx_kernel_version_ok(const char *version)
{
	const char *s = version;

	while (version_char(*s))
		s++;
	return *version >= '0' && *version <= '9' && !*s;
}

/* The release at the start of s (n bytes): begins with a digit, ends at a space. */
static int take_version(const char *s, size_t n, char *buf, size_t size)
{
	size_t k = 0;

	while (k < n && version_char(s[k]))
		k++;
	if (k == n || !k || s[0] < '0' || s[0] > '9' || (s[k] != ' ' && s[k]))
		return -ENODATA;
	if (k >= size)
		return -ENAMETOOLONG;
	memcpy(buf, s, k);
	buf[k] = 0;
	return 0;
}

static int elf_version(int fd, char *buf, size_t size)
{
	static const char banner[] = "Linux version ";
	enum { KEEP = 512 }; /* carried over from one block to the next */
	cleanup_free char *block = malloc(COPY + KEEP);
	size_t have = 0;
	off_t off = 0;

	if (!block)
		return -ENOMEM;
	for (;;) {
		ssize_t n = pread(fd, block + have, COPY, off);
		const char *p = block;

		if (n < 0)
			return -errno;
		off += n;
		have += (size_t)n;
		while ((p = memmem(p, have - (size_t)(p - block), banner, sizeof(banner) - 1))) {
			p += sizeof(banner) - 1;
			if (take_version(p, have - (size_t)(p - block), buf, size) == 0)
				return 0;
		}
		if (!n)
			return -ENODATA;
		if (have > KEEP) {
			memmove(block, block + have - KEEP, KEEP);
			have = KEEP;
		}
	}
}

/*
 * Programs are ELF files too, the statically linked ones without an interpreter.
 * Linux says what it is: by the note for PVH, or by the banner that every
 * kernel has.
 */
static int check_elf(int fd, struct wslx_elf *ret, struct wslx_err *err)
{
	char version[128];
	int r = wslx_elf_parse(fd, ret, err);

	if (r < 0)
		return r;
	if (!ret->has_pvh && elf_version(fd, version, sizeof(version)) < 0)
		return wslx_err_set(err, ENOEXEC,
				    "not a kernel: an ELF file with neither a PVH entry nor Linux's version in it");
	return wslx_elf_check(ret, err);
}

int wslx_kernel_check(int fd, struct wslx_err *err)
{
	cleanup_free struct wslx_bzimage *bz = NULL;
	struct wslx_boot_range where;
	struct wslx_elf elf;
	int r;

	if (is_elf(fd))
		return check_elf(fd, &elf, err);
	bz = malloc(sizeof(*bz));
	if (!bz)
		return wslx_err_sys(err, ENOMEM, "reading the kernel");
	r = wslx_bzimage_parse(fd, bz, err);
	return r < 0 ? r : wslx_bzimage_check(bz, &where, err);
}

int wslx_kernel_unpack(int in_fd, int out_fd, struct wslx_err *err)
{
	cleanup_free struct wslx_bzimage *bz = NULL;
	struct writer w = { .fd = out_fd };
	struct wslx_elf elf;
	int r;

	if (is_elf(in_fd)) {
		r = check_elf(in_fd, &elf, err);
		return r < 0 ? r : copy_range(in_fd, 0, elf.file_size, &w, err);
	}
	bz = malloc(sizeof(*bz));
	if (!bz)
		return -ENOMEM;
	r = wslx_bzimage_parse(in_fd, bz, err);
	if (r < 0)
		return r;
	if (!bz->payload_len)
		return wslx_err_set(err, ENOTSUP,
				    "the bzImage does not say where its kernel is (boot protocol %u.%02u)",
				    bz->version >> 8, bz->version & 0xffu);
	r = unpack_payload(bz, &w, err);
	if (r < 0)
		return r;
	if (check_elf(out_fd, &elf, NULL) < 0)
		return wslx_err_set(err, EBADMSG, "damaged bzImage: what it unpacks to is no x86-64 ELF kernel");
	return 0;
}

int wslx_kernel_version(int fd, char *buf, size_t size)
{
	cleanup_free struct wslx_bzimage *bz = malloc(sizeof(*bz));
	char text[256];
	ssize_t n;

	if (!bz)
		return -ENOMEM;
	if (wslx_bzimage_parse(fd, bz, NULL) < 0)
		return elf_version(fd, buf, size);
	if (!bz->version_off)
		return -ENODATA;
	n = pread(fd, text, sizeof(text), bz->version_off);
	if (n < 0)
		return -errno;
	return take_version(text, (size_t)n, buf, size);
}
