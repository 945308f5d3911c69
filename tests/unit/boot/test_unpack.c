/* Kernel files: every compression, versions, damage. */
#include <bzlib.h>
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <lzma.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "boot/unpack.h"
#include "kernels.h"

#define TRAILER 16u /* stands for the relocation table */
#define PLAIN_LEN (sizeof(struct kernel_elf) + TRAILER)
#define CAP (64u * 1024)

enum format { PLAIN, GZIP, XZ, LZMA, ZSTD, LZ4, BZIP2, N_FORMATS };

static void plain(uint8_t b[PLAIN_LEN])
{
	kernel_make((struct kernel_elf *)(void *)b, 1);
	memset(b + sizeof(struct kernel_elf), 0x11, TRAILER);
}

static size_t pack_gzip(const uint8_t *in, size_t n, uint8_t *out)
{
	z_stream z = { .next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)n, .next_out = out, .avail_out = CAP };

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

/* As the kernel's build does: x86 BCJ and LZMA2 with CRC32, or bare LZMA. */
static size_t pack_lzma(const uint8_t *in, size_t n, uint8_t *out, int xz)
{
	lzma_stream l = LZMA_STREAM_INIT;
	lzma_options_lzma o;
	lzma_filter f[] = { { LZMA_FILTER_X86, NULL }, { LZMA_FILTER_LZMA2, &o }, { LZMA_VLI_UNKNOWN, NULL } };

	assert_false(lzma_lzma_preset(&o, 6));
	assert_int_equal(xz ? lzma_stream_encoder(&l, f, LZMA_CHECK_CRC32) : lzma_alone_encoder(&l, &o), LZMA_OK);
	l.next_in = in;
	l.avail_in = n;
	l.next_out = out;
	l.avail_out = CAP;
	assert_int_equal(lzma_code(&l, LZMA_FINISH), LZMA_STREAM_END);
	n = l.total_out;
	lzma_end(&l);
	return n;
}

static size_t pack_lz4(const uint8_t *in, size_t n, uint8_t *out)
{
	size_t half = n / 2, at = 4;

	wslx_put_le32(out, 0x184c2102);
	for (unsigned i = 0; i < 2; i++) {
		int k = LZ4_compress_default((const char *)in + i * half, (char *)out + at + 4,
					     (int)(i ? n - half : half), (int)(CAP - at - 4));

		assert_true(k > 0);
		wslx_put_le32(out + at, (uint32_t)k);
		at += 4 + (size_t)k;
	}
	return at;
}

static size_t pack(enum format f, const uint8_t *in, size_t n, uint8_t *out)
{
	unsigned bz = CAP;
	size_t k = 0;

	switch (f) {
	case PLAIN:
		memcpy(out, in, n);
		return n;
	case GZIP:
		k = pack_gzip(in, n, out);
		break;
	case XZ:
		k = pack_lzma(in, n, out, 1);
		break;
	case LZMA:
		k = pack_lzma(in, n, out, 0);
		break;
	case ZSTD:
		k = ZSTD_compress(out, CAP, in, n, 3);
		break;
	case LZ4:
		k = pack_lz4(in, n, out);
		break;
	case BZIP2:
		assert_int_equal(
			BZ2_bzBuffToBuffCompress((char *)out, &bz, (char *)(uintptr_t)in, (unsigned)n, 9, 0, 0), BZ_OK);
		k = bz;
		break;
	default:
		fail();
	}
	if (f != GZIP) { /* the build appends the unpacked length; gzip has it anyway */
		wslx_put_le32(out + k, (uint32_t)n);
		k += 4;
	}
	return k;
}

static int unpack(const void *p, size_t n, int *ret_fd, struct wslx_err *err)
{
	int in = kernel_file(p, n), out = kernel_file("", 0), r;

	memset(err, 0, sizeof(*err));
	r = wslx_kernel_unpack(in, out, err);
	assert_int_equal(err->code, -r);
	assert_int_equal(err->msg[0] != 0, r != 0);
	close(in);
	if (ret_fd)
		*ret_fd = out;
	else
		close(out);
	return r;
}

static void check_output(int fd, const uint8_t *want, size_t n)
{
	cleanup_free uint8_t *got = malloc(n + 1);

	assert_int_equal(pread(fd, got, n + 1, 0), n);
	assert_memory_equal(got, want, n);
	close(fd);
}

static void test_formats(void **state)
{
	cleanup_free uint8_t *packed = malloc(CAP), *bz = malloc(CAP);
	uint8_t b[PLAIN_LEN];
	struct wslx_err err;

	plain(b);
	for (enum format f = 0; f < N_FORMATS; f++) {
		size_t n = bzimage_make(bz, CAP, packed, pack(f, b, sizeof(b), packed));
		int fd;

		assert_true(n);
		assert_int_equal(unpack(bz, n, &fd, &err), 0);
		check_output(fd, b, sizeof(b));
	}
}

/* Each truncation and each damaged byte ends in an error or, where a format has
 * no check of its own, in some output; never in anything else. */
static void test_damage(void **state)
{
	cleanup_free uint8_t *packed = malloc(CAP), *bz = malloc(CAP);
	uint8_t b[PLAIN_LEN];
	struct wslx_err err;

	plain(b);
	for (enum format f = 0; f < N_FORMATS; f++) {
		size_t k = pack(f, b, sizeof(b), packed), n;

		for (size_t cut = 0; cut + 8 < k; cut += 1 + k / 16) {
			n = bzimage_make(bz, CAP, packed, cut);
			assert_true(unpack(bz, n, NULL, &err) < 0);
		}
		n = bzimage_make(bz, CAP, packed, k);
		for (size_t at = BZ_CODE_OFF + BZ_PAYLOAD_OFF; at < n - BZ_TAIL; at += 1 + k / 16) {
			bz[at] ^= 0x55;
			(void)!unpack(bz, n, NULL, &err);
			bz[at] ^= 0x55;
		}
		/* The file itself is cut within the payload. */
		assert_int_equal(unpack(bz, n - BZ_TAIL - 10, NULL, &err), -EBADMSG);
		assert_non_null(strstr(err.msg, "truncated"));
	}
}

static void test_elf(void **state)
{
	uint8_t b[PLAIN_LEN];
	struct wslx_err err;
	int fd;

	plain(b);
	assert_int_equal(unpack(b, sizeof(b), &fd, &err), 0);
	check_output(fd, b, sizeof(b));
	kernel_ehdr((struct kernel_elf *)(void *)b)->e_phoff = UINT64_MAX;
	assert_int_equal(unpack(b, sizeof(b), NULL, &err), -EBADMSG);
}

static void test_holes(void **state)
{
	size_t len = 4 * WSLX_MIB;
	cleanup_free uint8_t *b = calloc(1, len);
	struct wslx_err err;
	struct stat st;
	int fd;

	kernel_make((struct kernel_elf *)(void *)b, 1);
	assert_int_equal(unpack(b, len, &fd, &err), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 <= WSLX_MIB);
	check_output(fd, b, len);
}

static void test_refused(void **state)
{
	uint8_t bz[8192];
	struct wslx_err err;
	size_t n;

	assert_int_equal(unpack("junk", 4, NULL, &err), -ENOEXEC);
	assert_string_equal(err.msg, "not a Linux kernel (neither bzImage nor ELF)");
	n = bzimage_make(bz, sizeof(bz), "an unknown compression", 22);
	assert_int_equal(unpack(bz, n, NULL, &err), -ENOTSUP);
	wslx_put_le16(bz + 0x206, 0x207); /* before there was a payload field */
	assert_int_equal(unpack(bz, n, NULL, &err), -ENOTSUP);
	wslx_put_le16(bz + 0x206, 0x20f);
	wslx_put_le32(bz + 0x248, 0xfffffff0);
	assert_int_equal(unpack(bz, n, NULL, &err), -EBADMSG);
	bz[0x1f1] = 200;
	assert_int_equal(unpack(bz, n, NULL, &err), -EBADMSG);
	bz[0x1f1] = 4;
	bz[0x201] = 0xff;
	assert_int_equal(unpack(bz, n, NULL, &err), -EBADMSG);
}

static void not_bootable(struct kernel_elf *k, int code, const char *needle)
{
	int fd = kernel_file(k, sizeof(*k));
	struct wslx_err err = { 0 };

	assert_int_equal(unpack(k, sizeof(*k), NULL, &err), -code);
	assert_non_null(strstr(err.msg, needle));
	memset(&err, 0, sizeof(err));
	assert_int_equal(wslx_kernel_check(fd, &err), -code);
	assert_non_null(strstr(err.msg, needle));
	close(fd);
}

/* ELF files that no machine can be started with. */
static void test_no_kernel(void **state)
{
	static const char *const programs[] = { "/bin/ls", "/sbin/ldconfig", "/proc/self/exe" };
	struct wslx_err err = { 0 };
	struct kernel_elf k;
	uint8_t bz[8192];

	kernel_make(&k, 1);
	kernel_phdr(&k, 1)->p_type = PT_INTERP;
	not_bootable(&k, ENOEXEC, "not a kernel: a program");
	kernel_make(&k, 0);
	memset(k.b + TEXT_OFF + 0x100, 0, 33);
	not_bootable(&k, ENOEXEC, "neither a PVH entry nor Linux's version");
	kernel_make(&k, 0);
	kernel_phdr(&k, 0)->p_paddr = 0x7000;
	not_bootable(&k, EBADMSG, "below 1 MiB");
	kernel_make(&k, 1);
	kernel_phdr(&k, 1)->p_paddr = 4 * WSLX_GIB;
	not_bootable(&k, EBADMSG, "no memory");
	kernel_make(&k, 0);
	kernel_ehdr(&k)->e_entry = 0x1234;
	not_bootable(&k, EBADMSG, "entry point");
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
		int fd = open(programs[i], O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			continue;
		assert_int_equal(wslx_kernel_check(fd, &err), -ENOEXEC);
		close(fd);
	}
	/* Both kinds that boot, and a bzImage that only a 32-bit loader can start. */
	for (int pvh = 0; pvh < 2; pvh++) {
		int fd;

		kernel_make(&k, pvh);
		fd = kernel_file(&k, sizeof(k));
		assert_int_equal(wslx_kernel_check(fd, NULL), 0);
		close(fd);
	}
	for (int wide = 0; wide < 2; wide++) {
		int fd;

		size_t n = bzimage_make(bz, sizeof(bz), "x", 1);

		wslx_put_le16(bz + 0x236, (uint16_t)wide);
		fd = kernel_file(bz, n);
		assert_int_equal(wslx_kernel_check(fd, &err), wide ? 0 : -ENOTSUP);
		close(fd);
	}
	assert_non_null(strstr(err.msg, "no 64-bit entry"));
}

/* What unpacks well, but to no kernel. */
static void test_payload_is_no_kernel(void **state)
{
	uint8_t packed[CAP], bz[CAP];
	struct wslx_err err;
	size_t n = bzimage_make(bz, sizeof(bz), packed, pack(GZIP, (const uint8_t *)"hello", 5, packed));

	assert_int_equal(unpack(bz, n, NULL, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "no x86-64 ELF kernel"));
}

/* zstd: a frame of run-length blocks, four bytes for each 128 KiB. */
static void test_bomb(void **state)
{
	size_t blocks = (WSLX_GIB >> 17) + 1, n = 6, len;
	uint8_t packed[40 * 1024], bz[CAP];
	struct wslx_err err;

	memcpy(packed, "\x28\xb5\x2f\xfd\x00\x58", 6); /* no checksum; a window of 2 MiB */
	for (size_t i = 0; i < blocks; i++, n += 4) {
		uint32_t header = 1u << 20 | 1u << 1 | (i == blocks - 1); /* 128 KiB, RLE, last */

		wslx_put_le32(packed + n, header);
		packed[n + 3] = 0;
	}
	len = bzimage_make(bz, sizeof(bz), packed, n);
	assert_true(len);
	assert_int_equal(unpack(bz, len, NULL, &err), -EFBIG);
	assert_non_null(strstr(err.msg, "1 GiB"));
}

static void test_full_disk(void **state)
{
	uint8_t b[PLAIN_LEN];
	struct wslx_err err = { 0 };
	int in;

	plain(b);
	in = kernel_file(b, sizeof(b));
	/* A descriptor that cannot be written to stands for a full disk. */
	assert_int_equal(wslx_kernel_unpack(in, STDIN_FILENO + 1000, &err), -EBADF);
	assert_non_null(strstr(err.msg, "writing"));
	close(in);
}

static void version_is(const void *p, size_t n, int want_r, const char *want)
{
	int fd = kernel_file(p, n);
	char buf[32] = "";

	assert_int_equal(wslx_kernel_version(fd, buf, sizeof(buf)), want_r);
	if (want)
		assert_string_equal(buf, want);
	close(fd);
}

static void test_version(void **state)
{
	size_t len = 3 * WSLX_MIB, n;
	cleanup_free uint8_t *big = calloc(1, len);
	struct kernel_elf k;
	uint8_t bz[8192];

	kernel_make(&k, 1);
	version_is(&k, sizeof(k), 0, "6.6.6-test+1");
	n = bzimage_make(bz, sizeof(bz), "x", 1);
	version_is(bz, n, 0, "6.7.8-bz");
	memcpy(bz + 0x500, "../../etc 1", 12);
	version_is(bz, n, -ENODATA, NULL);
	memcpy(bz + 0x500, "6.1/../x ", 10);
	version_is(bz, n, -ENODATA, NULL);
	memset(bz + 0x500, '6', 100);
	version_is(bz, n, -ENAMETOOLONG, NULL);
	wslx_put_le16(bz + 0x20e, 0);
	version_is(bz, n, -ENODATA, NULL);
	/* A banner across the blocks in which the file is read, behind a decoy. */
	memcpy(big + 100, "Linux version %s (", 18);
	memcpy(big + WSLX_MIB - 17, "Linux version 5.10.0-x (", 24);
	version_is(big, len, 0, "5.10.0-x");
	version_is("", 0, -ENODATA, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_formats), cmocka_unit_test(test_damage),
		cmocka_unit_test(test_elf),     cmocka_unit_test(test_holes),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_payload_is_no_kernel),
		cmocka_unit_test(test_bomb),    cmocka_unit_test(test_full_disk),
		cmocka_unit_test(test_version), cmocka_unit_test(test_no_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
