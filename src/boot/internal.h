/* Shared by the files of src/boot; not for others. */
#ifndef WSLX_BOOT_INTERNAL_H
#define WSLX_BOOT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "mem/gm.h"

/* Fixed places below 1 MiB; docs/architecture.md, memory map. */
#define WSLX_BOOT_GDT 0x1000u
#define WSLX_BOOT_PML4 0x2000u
#define WSLX_BOOT_PDPT 0x3000u
#define WSLX_BOOT_PD 0x4000u /* three pages: 3 GiB */
#define WSLX_BOOT_N_PD 3u
#define WSLX_BOOT_INFO 0x7000u /* PVH start_info or zero page */
#define WSLX_BOOT_CMDLINE 0x20000u
#define WSLX_BOOT_LOWRAM_END 0xa0000u
#define WSLX_BOOT_ACPI 0xe0000u
#define WSLX_BOOT_ACPI_LEN 0x20000u
#define WSLX_BOOT_HIGH 0x100000u /* kernels go from here on */

/* [start, end) of guest-physical memory. */
struct wslx_boot_range {
	uint64_t start, end;
};

/* Entries of the memory map have the types of e820 (ACPI 6.5, 15.2). */
#define WSLX_E820_RAM 1
#define WSLX_E820_RESERVED 2
struct wslx_boot_mem {
	uint64_t start, size;
	uint32_t type;
};
#define WSLX_BOOT_MAX_MEM 8
size_t wslx_boot_memmap(const struct wslx_gm *gm, struct wslx_boot_mem ret[WSLX_BOOT_MAX_MEM]);

/* What the entry code is told, whichever protocol. */
struct wslx_boot_info {
	struct wslx_boot_range initramfs; /* empty: none */
	uint64_t rsdp;
	bool randomized;
};

/* --- load.c --- */

/* -EBADMSG: no machine has memory there, or the tables are. */
WSLX_MUST_CHECK int wslx_boot_check_range(const struct wslx_boot_range *k, struct wslx_err *err);

/* --- elf.c --- */

#define WSLX_ELF_MAX_SEGMENTS 16
struct wslx_elf_segment {
	uint64_t off, filesz; /* in the file */
	uint64_t paddr, memsz;
	uint64_t vaddr;
};
struct wslx_elf {
	int fd;
	uint64_t file_size;
	uint64_t image_end; /* file offset where the ELF image ends */
	struct wslx_elf_segment seg[WSLX_ELF_MAX_SEGMENTS];
	size_t n_seg;
	struct wslx_boot_range phys; /* hull of the segments */
	uint64_t entry;              /* physical */
	uint64_t pvh_entry;
	bool has_pvh;
};

/* -ENOEXEC: no x86-64 ELF at all, or a program for users; -EBADMSG: malformed. */
WSLX_MUST_CHECK int wslx_elf_parse(int fd, struct wslx_elf *ret, struct wslx_err *err);
/* Can a machine with memory enough be started with it?  -EBADMSG: no. */
WSLX_MUST_CHECK int wslx_elf_check(const struct wslx_elf *elf, struct wslx_err *err);
/* Copies the segments to their place + delta. */
WSLX_MUST_CHECK int wslx_elf_load(const struct wslx_elf *elf, struct wslx_gm *gm, uint64_t delta, struct wslx_err *err);

/* --- fill.c --- */

/* [off, off + len) of a file goes to host, which is guest memory at gpa. */
struct wslx_boot_piece {
	uint8_t *host;
	uint64_t gpa, off, len;
};
/* The ranges do not overlap.  0 or -errno. */
WSLX_MUST_CHECK int wslx_boot_fill(int fd, const struct wslx_boot_piece *list, size_t n);

/* --- relocs.c --- */

struct wslx_relocs {
	uint8_t *data;              /* owned */
	size_t n64, n32neg, n32;    /* entries */
	size_t at64, at32neg, at32; /* byte offsets into data */
};
/* The relocation table behind the ELF image.  0, or -ENODATA when there is
 * none that makes sense. */
WSLX_MUST_CHECK int wslx_relocs_read(const struct wslx_elf *elf, struct wslx_relocs *ret);
void wslx_relocs_free(struct wslx_relocs *r);
/* Adds delta to every place the table names, in an image loaded at + delta. */
WSLX_MUST_CHECK int wslx_relocs_apply(const struct wslx_relocs *r, const struct wslx_elf *elf, struct wslx_gm *gm,
				      uint64_t delta, struct wslx_err *err);

/* --- bzimage.c --- */

#define WSLX_BZ_HEADER_MAX 0x290 /* setup header of protocol 2.15 ends well before */
struct wslx_bzimage {
	int fd;
	uint64_t file_size;
	uint8_t header[WSLX_BZ_HEADER_MAX]; /* the file's first bytes */
	unsigned header_end;                /* setup header: [0x1f1, header_end) */
	uint16_t version;
	uint64_t code_off, code_len; /* protected-mode code in the file */
	/* Version 2.08 and later; else 0: */
	uint64_t payload_off, payload_len; /* in the file */
	/* 2.10 and later: */
	bool relocatable;
	uint64_t pref_address;
	uint32_t init_size;
	uint32_t alignment;
	/* 2.12 and later: */
	uint16_t xloadflags;
	uint32_t initrd_max;
	uint16_t version_off; /* of the release string in the file, 0 = none */
};

/* -ENOEXEC: no bzImage; -EBADMSG: one, but malformed. */
WSLX_MUST_CHECK int wslx_bzimage_parse(int fd, struct wslx_bzimage *ret, struct wslx_err *err);
#define WSLX_BZ_ENTRY_64 0x200 /* offset of the 64-bit entry in the protected-mode code */
/* Can it be started there, and where does it want to lie?  -ENOTSUP: no 64-bit
 * entry; -EBADMSG: malformed. */
WSLX_MUST_CHECK int wslx_bzimage_check(const struct wslx_bzimage *bz, struct wslx_boot_range *ret,
				       struct wslx_err *err);

/* --- entry.c: structures the kernel finds --- */

void wslx_boot_gdt(struct wslx_gm *gm, bool long_mode, uint16_t *ret_limit);
WSLX_MUST_CHECK int wslx_boot_page_tables(struct wslx_gm *gm);
WSLX_MUST_CHECK int wslx_boot_start_info(struct wslx_gm *gm, const struct wslx_boot_info *info);
/* header: a bzImage's, or NULL: one is made up. */
WSLX_MUST_CHECK int wslx_boot_zero_page(struct wslx_gm *gm, const struct wslx_boot_info *info,
					const struct wslx_bzimage *bz);

/* --- acpi.c --- */

WSLX_MUST_CHECK int wslx_acpi_write(struct wslx_gm *gm, unsigned cpus, uint64_t *ret_rsdp);

/* --- decompress.c --- */

/* Takes output; non-zero (-errno) ends the decompression. */
typedef int (*wslx_sink_fn)(void *opaque, const uint8_t *p, size_t n);
/* The format is told by the first bytes: gzip, xz, zstd, lz4 (legacy), bzip2,
 * lzma.  One stream; bytes behind it are ignored.  -ENOTSUP: none of these;
 * -EBADMSG: corrupt or truncated; -ENOMEM; or what sink returned. */
WSLX_MUST_CHECK int wslx_decompress(const uint8_t *in, size_t len, wslx_sink_fn sink, void *opaque);

#endif
