/* Loading kernels into guest memory: layout, refusals, relocation. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "boot/boot.h"
#include "kernels.h"

#define MEM (32 * WSLX_MIB)

struct loaded {
	struct wslx_gm *gm;
	struct wslx_vcpu_start start;
	struct wslx_err err;
	int r;
};

static void load(struct loaded *l, uint64_t mem, int kernel_fd, int initramfs_fd, const char *cmdline)
{
	const struct wslx_boot_params p = { kernel_fd, initramfs_fd, cmdline, 2 };

	memset(l, 0, sizeof(*l));
	assert_int_equal(wslx_gm_new(WSLX_GM_PRIVATE, mem, &l->gm), 0);
	l->r = wslx_boot_load(l->gm, &p, &l->start, &l->err);
	close(kernel_fd);
	/* An error comes with a line, a success leaves err alone. */
	assert_int_equal(l->err.code, -l->r);
	assert_int_equal(l->err.msg[0] != 0, l->r != 0);
}

static void unload(struct loaded *l)
{
	wslx_gm_free(l->gm);
}

static void load_elf(struct loaded *l, const struct kernel_elf *k, const char *cmdline)
{
	load(l, MEM, kernel_file(k, sizeof(*k)), -1, cmdline);
}

/* Loads, expects the failure and the words in its message. */
static void refuse(const struct kernel_elf *k, int code, const char *words)
{
	struct loaded l;

	load_elf(&l, k, "");
	assert_int_equal(l.r, -code);
	if (!strstr(l.err.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", l.err.msg, words);
	unload(&l);
}

static uint64_t mem64(struct loaded *l, uint64_t gpa)
{
	uint8_t raw[8];

	assert_int_equal(wslx_gm_read(l->gm, wslx_gpa(gpa), raw, sizeof(raw)), 0);
	return wslx_get_le64(raw);
}

static uint32_t mem32(struct loaded *l, uint64_t gpa)
{
	return (uint32_t)mem64(l, gpa);
}

static void check_bytes(struct loaded *l, uint64_t gpa, const void *want, size_t n)
{
	cleanup_free uint8_t *got = malloc(n);

	assert_non_null(got);
	assert_int_equal(wslx_gm_read(l->gm, wslx_gpa(gpa), got, n), 0);
	assert_memory_equal(got, want, n);
}

static void check_segments(struct loaded *l, const struct kernel_elf *k)
{
	static const uint8_t zero[DATA_MEM - DATA_LEN];

	check_bytes(l, KERNEL_BASE, k->b + TEXT_OFF, TEXT_LEN);
	check_bytes(l, DATA_BASE, k->b + DATA_OFF, DATA_LEN);
	check_bytes(l, DATA_BASE + DATA_LEN, zero, sizeof(zero));
}

static void test_pvh(void **state)
{
	uint8_t initramfs[5000];
	struct kernel_elf k;
	struct loaded l;
	uint64_t module, map;
	int fd;

	memset(initramfs, 0x5a, sizeof(initramfs));
	kernel_make(&k, 1);
	fd = kernel_file(initramfs, sizeof(initramfs));
	load(&l, MEM, kernel_file(&k, sizeof(k)), fd, "console=ttyS0 x=y");
	assert_int_equal(l.r, 0);
	assert_false(l.start.long_mode);
	assert_int_equal(l.start.rip, PVH_ENTRY);
	assert_int_equal(l.start.rbx, 0x7000);
	assert_int_equal(mem64(&l, l.start.gdt_base + 0x10), 0x00cf9b000000ffff);
	assert_true(l.start.gdt_limit >= 0x27);
	check_segments(&l, &k);
	assert_int_equal(mem32(&l, 0x7000), 0x336ec578);
	assert_int_equal(mem32(&l, 0x7004), 1);
	assert_int_equal(mem32(&l, 0x700c), 1);
	check_bytes(&l, mem64(&l, 0x7018), "console=ttyS0 x=y", 18);
	check_bytes(&l, mem64(&l, 0x7020), "RSD PTR ", 8);
	module = mem64(&l, 0x7010);
	assert_int_equal(mem64(&l, module) % 4096, 0);
	assert_int_equal(mem64(&l, module), MEM - 8192);
	assert_int_equal(mem64(&l, module + 8), sizeof(initramfs));
	check_bytes(&l, mem64(&l, module), initramfs, sizeof(initramfs));
	map = mem64(&l, 0x7028);
	assert_int_equal(mem32(&l, 0x7030), 4);
	assert_int_equal(mem64(&l, map + 8), 0xa0000);
	assert_int_equal(mem32(&l, map + 16), 1);
	assert_int_equal(mem64(&l, map + 24), 0xe0000);
	assert_int_equal(mem32(&l, map + 24 + 16), 2);
	assert_int_equal(mem64(&l, map + 48), 0x100000);
	assert_int_equal(mem64(&l, map + 56), MEM - 0x100000);
	assert_int_equal(mem64(&l, map + 72), 0xe0000000);
	assert_int_equal(mem32(&l, map + 72 + 16), 2);
	unload(&l);
	close(fd);
}

/* Large enough to be shared between threads; neither place nor length is round,
 * and the file has a hole. */
static void test_large(void **state)
{
	size_t len = 11 * WSLX_MIB + 12345, hole = 3 * WSLX_MIB;
	cleanup_free uint8_t *data = calloc(1, len);
	struct kernel_elf k;
	struct loaded l;
	int fd;

	assert_non_null(data);
	for (size_t i = 0; i < len; i++)
		data[i] = i / hole == 1 ? 0 : (uint8_t)(i * 31 + (i >> 12));
	kernel_make(&k, 1);
	*kernel_phdr(&k, 1) =
		(Elf64_Phdr) { PT_LOAD,    6,   WSLX_MIB + 777, KERNEL_VIRT + 0x203000, KERNEL_BASE + 0x203000, len,
			       len + 4096, 4096 };
	fd = kernel_file(&k, sizeof(k));
	assert_int_equal(pwrite(fd, data, hole, WSLX_MIB + 777), hole);
	assert_int_equal(pwrite(fd, data + 2 * hole, len - 2 * hole, (off_t)(WSLX_MIB + 777 + 2 * hole)),
			 len - 2 * hole);
	load(&l, MEM, fd, -1, "");
	assert_int_equal(l.r, 0);
	check_bytes(&l, KERNEL_BASE, k.b + TEXT_OFF, TEXT_LEN);
	check_bytes(&l, KERNEL_BASE + 0x203000, data, len);
	unload(&l);
}

static void test_memory_above_the_hole(void **state)
{
	struct kernel_elf k;
	struct loaded l;
	uint64_t map;

	kernel_make(&k, 1);
	load(&l, 5 * WSLX_GIB, kernel_file(&k, sizeof(k)), -1, "");
	assert_int_equal(l.r, 0);
	assert_int_equal(mem32(&l, 0x700c), 0);
	map = mem64(&l, 0x7028);
	assert_int_equal(mem32(&l, 0x7030), 5);
	assert_int_equal(mem64(&l, map + 56), 0xc0000000 - 0x100000);
	assert_int_equal(mem64(&l, map + 72), 4 * WSLX_GIB);
	assert_int_equal(mem64(&l, map + 80), 2 * WSLX_GIB);
	unload(&l);
}

/* What the CPU would find for a virtual address. */
static uint64_t walk(struct loaded *l, uint64_t virt)
{
	uint64_t e = mem64(l, l->start.cr3 + 8 * (virt >> 39 & 511));

	e = mem64(l, (e & ~0xfffull) + 8 * (virt >> 30 & 511));
	e = mem64(l, (e & ~0xfffull) + 8 * (virt >> 21 & 511));
	assert_int_equal(e & 0x83, 0x83);
	return (e & ~0x1fffffull) | (virt & 0x1fffff);
}

static void test_zero_page(void **state)
{
	struct kernel_elf k;
	struct loaded l;
	int fd = kernel_file("initramfs", 9);

	kernel_make(&k, 0);
	/* Some kernels give their entry as a virtual address. */
	kernel_ehdr(&k)->e_entry = KERNEL_VIRT + 0x40;
	load(&l, MEM, kernel_file(&k, sizeof(k)), fd, "quiet");
	assert_int_equal(l.r, 0);
	assert_true(l.start.long_mode);
	assert_int_equal(l.start.rip, KERNEL_BASE + 0x40);
	assert_int_equal(l.start.rsi, 0x7000);
	assert_int_equal(mem64(&l, l.start.gdt_base + 0x10), 0x00af9b000000ffff);
	check_segments(&l, &k);
	assert_int_equal(mem32(&l, 0x71fe) & 0xffff, 0xaa55);
	check_bytes(&l, 0x7202, "HdrS", 4);
	assert_int_equal(mem32(&l, 0x7210) & 0xff, 0xff);
	assert_int_equal(mem32(&l, 0x7228), 0x20000);
	check_bytes(&l, 0x20000, "quiet", 6);
	assert_int_equal(mem32(&l, 0x7218), MEM - 4096);
	assert_int_equal(mem32(&l, 0x721c), 9);
	assert_int_equal(mem64(&l, 0x7070), 0xe0000);
	assert_int_equal(mem32(&l, 0x71e8) & 0xff, 4);
	assert_int_equal(mem64(&l, 0x72d0 + 40), 0x100000);
	assert_int_equal(walk(&l, 0), 0);
	assert_int_equal(walk(&l, KERNEL_BASE + 5), KERNEL_BASE + 5);
	assert_int_equal(walk(&l, 0xbfffffff), 0xbfffffff);
	unload(&l);
	close(fd);
}

static void test_bzimage(void **state)
{
	uint8_t b[8192];
	struct loaded l;
	size_t n = bzimage_make(b, sizeof(b), "payload", 7);
	int fd = kernel_file("initramfs", 9);

	load(&l, MEM, kernel_file(b, n), fd, "quiet");
	assert_int_equal(l.r, 0);
	assert_true(l.start.long_mode);
	assert_int_equal(l.start.rip, KERNEL_BASE + 0x200);
	check_bytes(&l, KERNEL_BASE, b + BZ_CODE_OFF, n - BZ_CODE_OFF);
	check_bytes(&l, 0x7202, "HdrS", 4);
	assert_int_equal(mem32(&l, 0x7260), 0x800000);
	assert_int_equal(mem32(&l, 0x721c), 9);
	unload(&l);
	/* An initramfs that would have to lie where the kernel cannot reach it. */
	wslx_put_le32(b + 0x22c, KERNEL_BASE);
	load(&l, MEM, kernel_file(b, n), fd, "");
	assert_int_equal(l.r, -ENOMEM);
	unload(&l);
	/* init_size counts. */
	wslx_put_le32(b + 0x260, 0x7fffffff);
	load(&l, MEM, kernel_file(b, n), -1, "");
	assert_int_equal(l.r, -ENOMEM);
	assert_non_null(strstr(l.err.msg, "at least 2064 MiB, the machine has 32 MiB"));
	unload(&l);
	/* No 64-bit entry; too old. */
	wslx_put_le16(b + 0x236, 0);
	load(&l, MEM, kernel_file(b, n), -1, "");
	assert_int_equal(l.r, -ENOTSUP);
	unload(&l);
	wslx_put_le64(b + 0x258, UINT64_MAX - 100);
	wslx_put_le16(b + 0x236, 1);
	load(&l, MEM, kernel_file(b, n), -1, "");
	assert_int_equal(l.r, -EBADMSG);
	unload(&l);
	close(fd);
}

static void test_not_a_kernel(void **state)
{
	uint8_t zero[4096] = { 0 };
	struct loaded l;

	load(&l, MEM, kernel_file("hello", 5), -1, "");
	assert_int_equal(l.r, -ENOEXEC);
	assert_string_equal(l.err.msg, "not a Linux kernel (neither bzImage nor ELF)");
	unload(&l);
	load(&l, MEM, kernel_file(zero, sizeof(zero)), -1, "");
	assert_int_equal(l.r, -ENOEXEC);
	unload(&l);
	load(&l, MEM, kernel_file("", 0), -1, "");
	assert_int_equal(l.r, -ENOEXEC);
	unload(&l);
}

static void test_hostile_headers(void **state)
{
	struct kernel_elf k;

	kernel_make(&k, 1);
	kernel_ehdr(&k)->e_machine = EM_AARCH64;
	refuse(&k, ENOEXEC, "not for x86-64");
	kernel_make(&k, 1);
	k.b[EI_CLASS] = ELFCLASS32;
	refuse(&k, ENOEXEC, "not for x86-64");
	kernel_make(&k, 1);
	kernel_ehdr(&k)->e_type = ET_REL;
	refuse(&k, ENOEXEC, "not executable");
	kernel_make(&k, 1);
	kernel_ehdr(&k)->e_phnum = 65535;
	refuse(&k, EBADMSG, "program headers");
	kernel_make(&k, 1);
	kernel_ehdr(&k)->e_phentsize = 32;
	refuse(&k, EBADMSG, "program headers");
	kernel_make(&k, 1);
	kernel_ehdr(&k)->e_phoff = UINT64_MAX - 8;
	refuse(&k, EBADMSG, "past the end");
	kernel_make(&k, 1);
	kernel_phdr(&k, 0)->p_type = kernel_phdr(&k, 1)->p_type = PT_NULL;
	refuse(&k, EBADMSG, "nothing to load");
}

static void test_hostile_segments(void **state)
{
	struct kernel_elf k;

	kernel_make(&k, 1);
	kernel_phdr(&k, 1)->p_filesz = DATA_MEM + 1;
	refuse(&k, EBADMSG, "larger in the file");
	kernel_make(&k, 1);
	kernel_phdr(&k, 1)->p_offset = UINT64_MAX - 10;
	refuse(&k, EBADMSG, "past the end of the file");
	kernel_make(&k, 1);
	kernel_phdr(&k, 1)->p_paddr = UINT64_MAX - 10;
	refuse(&k, EBADMSG, "overflows");
	kernel_make(&k, 1);
	kernel_phdr(&k, 1)->p_paddr = KERNEL_BASE + TEXT_LEN - 1;
	refuse(&k, EBADMSG, "overlap");
	kernel_make(&k, 1);
	kernel_phdr(&k, 0)->p_paddr = 0x7000;
	refuse(&k, EBADMSG, "below 1 MiB");
	kernel_make(&k, 1);
	kernel_phdr(&k, 1)->p_paddr = 4 * WSLX_GIB;
	refuse(&k, EBADMSG, "no memory");
	kernel_make(&k, 1);
	kernel_phdr(&k, 1)->p_memsz = UINT64_MAX / 2;
	refuse(&k, EBADMSG, "no memory");
	kernel_make(&k, 1);
	kernel_phdr(&k, 1)->p_memsz = 64 * WSLX_MIB;
	refuse(&k, ENOMEM, "at least 82 MiB, the machine has 32 MiB");
	kernel_make(&k, 0);
	kernel_ehdr(&k)->e_entry = 0x1234;
	refuse(&k, EBADMSG, "entry point");
	kernel_make(&k, 1);
	wslx_put_le64(k.b + NOTE_OFF + 36, 0x7000);
	refuse(&k, EBADMSG, "entry point");
}

/* Notes with impossible sizes are no PVH note, and are not followed anywhere. */
static void test_hostile_notes(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 5, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff };
	struct kernel_elf k;
	struct loaded l;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (unsigned field = 0; field < 2; field++) {
			kernel_make(&k, 1);
			wslx_put_le32(k.b + NOTE_OFF + 4 * field, sizes[i]);
			load_elf(&l, &k, "");
			assert_int_equal(l.r, 0);
			unload(&l);
			kernel_make(&k, 1);
			wslx_put_le32(k.b + NOTE_OFF + 20 + 4 * field, sizes[i]);
			load_elf(&l, &k, "");
			unload(&l);
		}
	}
	kernel_make(&k, 1);
	kernel_phdr(&k, 2)->p_offset = UINT64_MAX - 2;
	refuse(&k, EBADMSG, "notes");
}

static void test_truncated(void **state)
{
	struct kernel_elf k;
	struct loaded l;

	kernel_make(&k, 1);
	for (size_t n = 0; n < DATA_OFF + DATA_LEN; n += n < 400 ? 13 : 1999) {
		load(&l, MEM, kernel_file(&k, n), -1, "");
		assert_true(l.r < 0);
		unload(&l);
	}
}

static void test_too_small(void **state)
{
	struct kernel_elf k;
	struct loaded l;
	int fd = kernel_file("", 0);

	kernel_make(&k, 1);
	load(&l, WSLX_MIB, kernel_file(&k, sizeof(k)), -1, "");
	assert_int_equal(l.r, -ENOMEM);
	unload(&l);
	load(&l, 8 * WSLX_MIB, kernel_file(&k, sizeof(k)), -1, "");
	assert_int_equal(l.r, -ENOMEM);
	assert_non_null(strstr(l.err.msg, "at least 19 MiB, the machine has 8 MiB"));
	unload(&l);
	assert_int_equal(ftruncate(fd, 20 * (off_t)WSLX_MIB), 0);
	load(&l, MEM, kernel_file(&k, sizeof(k)), fd, "");
	assert_int_equal(l.r, -ENOMEM);
	assert_non_null(strstr(l.err.msg, "at least 39 MiB"));
	unload(&l);
	assert_int_equal(ftruncate(fd, INT64_MAX - 4096), 0);
	load(&l, MEM, kernel_file(&k, sizeof(k)), fd, "");
	assert_int_equal(l.r, -EFBIG);
	unload(&l);
	close(fd);
}

static void test_cmdline_length(void **state)
{
	char line[WSLX_CMDLINE_SIZE + 1];
	struct kernel_elf k;
	struct loaded l;

	kernel_make(&k, 1);
	memset(line, 'a', sizeof(line));
	line[WSLX_CMDLINE_SIZE] = 0;
	load_elf(&l, &k, line);
	assert_int_equal(l.r, -E2BIG);
	unload(&l);
	line[WSLX_CMDLINE_SIZE - 1] = 0;
	load_elf(&l, &k, line);
	assert_int_equal(l.r, 0);
	check_bytes(&l, 0x20000, line, WSLX_CMDLINE_SIZE);
	unload(&l);
}

/* --- relocation --- */

#define PLACE64 0x100u /* offsets in the data segment */
#define PLACE32 0x200u
#define PLACENEG 0x300u

static uint32_t data_virt(unsigned off)
{
	return (uint32_t)(KERNEL_VIRT + 0x200000 + off);
}

/* The kernel with a table behind it: two or three lists. */
static int relocatable(struct kernel_elf *k, int inverse, uint32_t odd)
{
	uint8_t b[sizeof(*k) + 64], *t = b + sizeof(*k);
	size_t n = 0;

	wslx_put_le64(k->b + DATA_OFF + PLACE64, KERNEL_VIRT);
	wslx_put_le32(k->b + DATA_OFF + PLACE32, (uint32_t)KERNEL_VIRT);
	wslx_put_le32(k->b + DATA_OFF + PLACENEG, 0x1000);
	memcpy(b, k, sizeof(*k));
	wslx_put_le32(t + 4 * n++, 0);
	wslx_put_le32(t + 4 * n++, data_virt(PLACE64));
	wslx_put_le32(t + 4 * n++, 0);
	if (inverse) {
		wslx_put_le32(t + 4 * n++, data_virt(PLACENEG));
		wslx_put_le32(t + 4 * n++, 0);
	}
	wslx_put_le32(t + 4 * n++, data_virt(PLACE32));
	if (odd)
		wslx_put_le32(t + 4 * n++, odd);
	return kernel_file(b, sizeof(*k) + 4 * n);
}

static void check_moved(struct loaded *l, int inverse, uint64_t *ret_delta)
{
	uint64_t delta = l->start.rip - PVH_ENTRY;

	assert_int_equal(l->r, 0);
	assert_int_equal(delta % (2 * WSLX_MIB), 0);
	assert_true(DATA_BASE + DATA_MEM + delta <= 512 * WSLX_MIB);
	assert_int_equal(mem64(l, DATA_BASE + delta + PLACE64), KERNEL_VIRT + delta);
	assert_int_equal(mem32(l, DATA_BASE + delta + PLACE32), (uint32_t)(KERNEL_VIRT + delta));
	assert_int_equal(mem32(l, DATA_BASE + delta + PLACENEG), inverse ? (uint32_t)(0x1000 - delta) : 0x1000);
	*ret_delta = delta;
}

static void test_relocation(void **state)
{
	struct kernel_elf k;
	struct loaded l;
	uint64_t delta, different = 0;

	kernel_make(&k, 1);
	for (unsigned i = 0; i < 16; i++) {
		load(&l, 512 * WSLX_MIB, relocatable(&k, i & 1, 0), -1, "quiet");
		check_moved(&l, i & 1, &delta);
		different |= delta;
		unload(&l);
	}
	assert_true(different);
	load(&l, MEM, relocatable(&k, 1, 0), -1, "quiet nokaslr");
	check_moved(&l, 1, &delta);
	assert_int_equal(delta, 0);
	unload(&l);
	/* Not the word. */
	load(&l, MEM, relocatable(&k, 1, 0), -1, "xnokaslr nokaslr=1");
	check_moved(&l, 1, &delta);
	unload(&l);
}

static void test_hostile_relocation(void **state)
{
	static const uint32_t places[] = { 0x10, 0x7fffffff, 0x80000000, 0xffffffff, (uint32_t)KERNEL_VIRT - 1 };
	struct kernel_elf k;
	struct loaded l;

	kernel_make(&k, 1);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		unsigned failed = 0;

		/* A move by nothing leaves the table alone: try until there is one. */
		for (unsigned j = 0; j < 8 && !failed; j++) {
			load(&l, 512 * WSLX_MIB, relocatable(&k, 1, places[i]), -1, "");
			failed = l.r == -EBADMSG;
			unload(&l);
		}
		assert_true(failed);
	}
}

/* --- the command line --- */

static void test_cmdline_build(void **state)
{
	char extra[WSLX_CMDLINE_SIZE];
	struct wslx_err err = { 0 };
	char *s;

	assert_int_equal(wslx_cmdline_build(NULL, &s, &err), 0);
	assert_ptr_equal(strstr(s, "console=ttyS0"), s);
	assert_true(s[strlen(s) - 1] != ' ');
	free(s);
	assert_int_equal(wslx_cmdline_build("panic=5 x", &s, &err), 0);
	assert_string_equal(s + strlen(s) - 10, " panic=5 x");
	free(s);
	assert_int_equal(wslx_cmdline_build("a\nb", &s, &err), -EINVAL);
	memset(extra, 'a', sizeof(extra));
	extra[sizeof(extra) - 1] = 0;
	assert_int_equal(wslx_cmdline_build(extra, &s, &err), -E2BIG);
	assert_non_null(strstr(err.msg, "2047"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pvh),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_memory_above_the_hole),
		cmocka_unit_test(test_zero_page),
		cmocka_unit_test(test_bzimage),
		cmocka_unit_test(test_not_a_kernel),
		cmocka_unit_test(test_hostile_headers),
		cmocka_unit_test(test_hostile_segments),
		cmocka_unit_test(test_hostile_notes),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_too_small),
		cmocka_unit_test(test_cmdline_length),
		cmocka_unit_test(test_relocation),
		cmocka_unit_test(test_hostile_relocation),
		cmocka_unit_test(test_cmdline_build),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
