/* Kernels made up for tests. */
#ifndef TESTS_UNIT_BOOT_KERNELS_H
#define TESTS_UNIT_BOOT_KERNELS_H

#include <elf.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/macros.h"

#define KERNEL_BASE 0x1000000ull
#define KERNEL_VIRT 0xffffffff81000000ull
#define PVH_ENTRY (KERNEL_BASE + 0x50)
#define TEXT_OFF 0x1000u
#define TEXT_LEN 0x3000u
#define DATA_OFF (TEXT_OFF + TEXT_LEN)
#define DATA_LEN 0x1000u
#define DATA_MEM 0x5000u
#define DATA_BASE (KERNEL_BASE + 0x200000)
#define NOTE_OFF 0x800u
#define SHDRS_OFF (DATA_OFF + DATA_LEN)
#define ELF_LEN (SHDRS_OFF + 64u)

struct kernel_elf {
	uint8_t b[ELF_LEN];
};

static inline Elf64_Ehdr *kernel_ehdr(struct kernel_elf *k)
{
	return (Elf64_Ehdr *)(void *)k->b;
}

static inline Elf64_Phdr *kernel_phdr(struct kernel_elf *k, unsigned i)
{
	return (Elf64_Phdr *)(void *)(k->b + 64) + i;
}

/* Two segments full of a pattern, a note (two notes, the second one's is PVH's) and one section header. */
static inline void kernel_make(struct kernel_elf *k, int pvh)
{
	Elf64_Ehdr *eh = kernel_ehdr(k);
	uint8_t *n = k->b + NOTE_OFF;

	memset(k, 0, sizeof(*k));
	memcpy(eh->e_ident, "\177ELF\2\1\1", 7);
	eh->e_type = ET_EXEC;
	eh->e_machine = EM_X86_64;
	eh->e_version = 1;
	eh->e_entry = KERNEL_BASE;
	eh->e_phoff = 64;
	eh->e_ehsize = 64;
	eh->e_phentsize = 56;
	eh->e_phnum = 3;
	eh->e_shoff = SHDRS_OFF;
	eh->e_shentsize = 64;
	eh->e_shnum = 1;
	*kernel_phdr(k, 0) = (Elf64_Phdr) { PT_LOAD, 5, TEXT_OFF, KERNEL_VIRT, KERNEL_BASE, TEXT_LEN, TEXT_LEN, 4096 };
	*kernel_phdr(k, 1) =
		(Elf64_Phdr) { PT_LOAD, 6, DATA_OFF, KERNEL_VIRT + 0x200000, DATA_BASE, DATA_LEN, DATA_MEM, 4096 };
	*kernel_phdr(k, 2) = (Elf64_Phdr) { PT_NOTE, 4, NOTE_OFF, 0, 0, pvh ? 44 : 20, pvh ? 44 : 20, 4 };
	wslx_put_le32(n, 4); /* "GNU", type 3, four bytes */
	wslx_put_le32(n + 4, 4);
	wslx_put_le32(n + 8, 3);
	memcpy(n + 12, "GNU", 4);
	wslx_put_le32(n + 20, 4); /* "Xen", type 18 */
	wslx_put_le32(n + 24, 8);
	wslx_put_le32(n + 28, 18);
	memcpy(n + 32, "Xen", 4);
	wslx_put_le64(n + 36, PVH_ENTRY);
	for (unsigned i = 0; i < TEXT_LEN + DATA_LEN; i++)
		k->b[TEXT_OFF + i] = (uint8_t)(i * 7 + 1);
	memcpy(k->b + TEXT_OFF + 0x100, "Linux version 6.6.6-test+1 (x@y)", 33);
}

static inline int kernel_file(const void *p, size_t n)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	if (fd < 0 || write(fd, p, n) != (ssize_t)n)
		return -1;
	return fd;
}

/* A bzImage around a payload: 4 setup sectors, then 0x300 bytes of code, the payload, a tail. */
#define BZ_CODE_OFF (5u * 512)
#define BZ_PAYLOAD_OFF 0x300u
#define BZ_TAIL 64u

static inline size_t bzimage_make(uint8_t *b, size_t cap, const void *payload, size_t n)
{
	size_t len = BZ_CODE_OFF + BZ_PAYLOAD_OFF + n + BZ_TAIL;

	if (len > cap)
		return 0;
	memset(b, 0, len);
	b[0x1f1] = 4;
	wslx_put_le16(b + 0x1fe, 0xaa55);
	b[0x200] = 0xeb;
	b[0x201] = 0x6a;
	memcpy(b + 0x202, "HdrS", 4);
	wslx_put_le16(b + 0x206, 0x20f);
	wslx_put_le16(b + 0x20e, 0x300);
	memcpy(b + 0x500, "6.7.8-bz (me@here) #1", 22);
	wslx_put_le32(b + 0x22c, 0x7fffffff);
	wslx_put_le32(b + 0x230, 0x200000);
	b[0x234] = 1;
	wslx_put_le16(b + 0x236, 1);
	wslx_put_le32(b + 0x248, BZ_PAYLOAD_OFF);
	wslx_put_le32(b + 0x24c, (uint32_t)n);
	wslx_put_le64(b + 0x258, KERNEL_BASE);
	wslx_put_le32(b + 0x260, 0x800000);
	for (unsigned i = 0; i < BZ_PAYLOAD_OFF; i++)
		b[BZ_CODE_OFF + i] = (uint8_t)(i + 3);
	memcpy(b + BZ_CODE_OFF + BZ_PAYLOAD_OFF, payload, n);
	return len;
}

#endif
