/*
 * The structures a kernel finds when it starts.
 *
 * PVH: xen/include/public/arch-x86/hvm/start_info.h.  64-bit protocol: Linux
 * Documentation/arch/x86/boot.rst and zero-page.rst.  All of them are encoded
 * field by field.
 */
#include "boot/internal.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

#define PAGE_TABLE_LEN 4096u
#define PTE_PRESENT_WRITE 3ull
#define PDE_LARGE 0x80ull

#define START_INFO_MAGIC 0x336ec578
#define START_INFO_LEN 56
#define MODLIST_OFF 64 /* after start_info; one entry of 32 bytes */
#define MEMMAP_OFF 128
#define MEMMAP_ENTRY 24

#define ZP_ACPI_RSDP 0x070
#define ZP_E820_ENTRIES 0x1e8
#define ZP_HEADER 0x1f1
#define ZP_VIDEO_MODE 0x1fa
#define ZP_BOOT_FLAG 0x1fe
#define ZP_MAGIC 0x202
#define ZP_VERSION 0x206
#define ZP_LOADER 0x210
#define ZP_LOADFLAGS 0x211
#define ZP_RAMDISK 0x218
#define ZP_RAMDISK_LEN 0x21c
#define ZP_CMDLINE 0x228
#define ZP_ALIGNMENT 0x230
#define ZP_E820 0x2d0
#define ZP_E820_ENTRY 20
#define LOADED_HIGH 0x01
#define KASLR_FLAG 0x02

void wslx_boot_gdt(struct wslx_gm *gm, bool long_mode, uint16_t *ret_limit)
{
	/* Selectors 0x10 code, 0x18 data, 0x20 TSS (two slots in long mode):
	 * SDM vol. 3, 3.4.5.  PVH asks for flat 4 GiB segments. */
	static const uint64_t code[2] = { 0x00cf9b000000ffff, 0x00af9b000000ffff };
	uint64_t entries[6] = { 0, 0, code[long_mode], 0x00cf93000000ffff, 0x00008b0000000067, 0 };
	uint8_t raw[sizeof(entries)];

	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		wslx_put_le64(raw + 8 * i, entries[i]);
	*ret_limit = sizeof(raw) - 1;
	/* Below 1 MiB: wslx_boot_load has checked that there is that much. */
	if (wslx_gm_write(gm, wslx_gpa(WSLX_BOOT_GDT), raw, sizeof(raw)) < 0)
		*ret_limit = 0;
}

/* Identity map of the first 3 GiB, where everything that is loaded lies, in 2 MiB pages. */
int wslx_boot_page_tables(struct wslx_gm *gm)
{
	uint8_t table[PAGE_TABLE_LEN] = { 0 };
	int r;

	wslx_put_le64(table, WSLX_BOOT_PDPT | PTE_PRESENT_WRITE);
	r = wslx_gm_write(gm, wslx_gpa(WSLX_BOOT_PML4), table, sizeof(table));
	for (unsigned i = 0; i < WSLX_BOOT_N_PD; i++)
		wslx_put_le64(table + 8 * i, (WSLX_BOOT_PD + i * PAGE_TABLE_LEN) | PTE_PRESENT_WRITE);
	if (r == 0)
		r = wslx_gm_write(gm, wslx_gpa(WSLX_BOOT_PDPT), table, sizeof(table));
	for (unsigned i = 0; i < WSLX_BOOT_N_PD && r == 0; i++) {
		for (unsigned j = 0; j < 512; j++)
			wslx_put_le64(table + 8 * j, i * WSLX_GIB + j * 2 * WSLX_MIB + (PTE_PRESENT_WRITE | PDE_LARGE));
		r = wslx_gm_write(gm, wslx_gpa(WSLX_BOOT_PD + i * PAGE_TABLE_LEN), table, sizeof(table));
	}
	return r;
}

int wslx_boot_start_info(struct wslx_gm *gm, const struct wslx_boot_info *info)
{
	uint8_t page[MEMMAP_OFF + WSLX_BOOT_MAX_MEM * MEMMAP_ENTRY] = { 0 };
	struct wslx_boot_mem mem[WSLX_BOOT_MAX_MEM];
	size_t n = wslx_boot_memmap(gm, mem);
	bool module = info->initramfs.end > info->initramfs.start;

	_Static_assert(START_INFO_LEN <= MODLIST_OFF && MODLIST_OFF + 32 <= MEMMAP_OFF, "layout");
	wslx_put_le32(page, START_INFO_MAGIC);
	wslx_put_le32(page + 4, 1);       /* version: has a memory map */
	wslx_put_le32(page + 12, module); /* nr_modules */
	wslx_put_le64(page + 16, module ? WSLX_BOOT_INFO + MODLIST_OFF : 0);
	wslx_put_le64(page + 24, WSLX_BOOT_CMDLINE);
	wslx_put_le64(page + 32, info->rsdp);
	wslx_put_le64(page + 40, WSLX_BOOT_INFO + MEMMAP_OFF);
	wslx_put_le32(page + 48, (uint32_t)n);
	wslx_put_le64(page + MODLIST_OFF, info->initramfs.start);
	wslx_put_le64(page + MODLIST_OFF + 8, info->initramfs.end - info->initramfs.start);
	for (size_t i = 0; i < n; i++) {
		uint8_t *e = page + MEMMAP_OFF + i * MEMMAP_ENTRY;

		wslx_put_le64(e, mem[i].start);
		wslx_put_le64(e + 8, mem[i].size);
		wslx_put_le32(e + 16, mem[i].type);
	}
	return wslx_gm_write(gm, wslx_gpa(WSLX_BOOT_INFO), page, sizeof(page));
}

/* What a bzImage's setup header would say, for a vmlinux that has none. */
static void make_up_header(uint8_t *zp)
{
	wslx_put_le16(zp + ZP_BOOT_FLAG, 0xaa55);
	wslx_put_le32(zp + ZP_MAGIC, 0x53726448); /* "HdrS" */
	wslx_put_le16(zp + ZP_VERSION, 0x20f);
	wslx_put_le32(zp + ZP_ALIGNMENT, (uint32_t)(2 * WSLX_MIB));
}

int wslx_boot_zero_page(struct wslx_gm *gm, const struct wslx_boot_info *info, const struct wslx_bzimage *bz)
{
	uint8_t zp[4096] = { 0 };
	struct wslx_boot_mem mem[WSLX_BOOT_MAX_MEM];
	size_t n = wslx_boot_memmap(gm, mem);

	if (bz)
		memcpy(zp + ZP_HEADER, bz->header + ZP_HEADER, bz->header_end - ZP_HEADER);
	else
		make_up_header(zp);
	wslx_put_le64(zp + ZP_ACPI_RSDP, info->rsdp);
	wslx_put_le16(zp + ZP_VIDEO_MODE, 0xffff); /* "normal" */
	zp[ZP_LOADER] = 0xff;                      /* no number assigned */
	zp[ZP_LOADFLAGS] |= LOADED_HIGH;
	if (info->randomized)
		zp[ZP_LOADFLAGS] |= KASLR_FLAG;
	if (info->initramfs.end > info->initramfs.start) {
		/* Both below 4 GiB: place_initramfs saw to it. */
		wslx_put_le32(zp + ZP_RAMDISK, (uint32_t)info->initramfs.start);
		wslx_put_le32(zp + ZP_RAMDISK_LEN, (uint32_t)(info->initramfs.end - info->initramfs.start));
	}
	wslx_put_le32(zp + ZP_CMDLINE, WSLX_BOOT_CMDLINE);
	zp[ZP_E820_ENTRIES] = (uint8_t)n;
	for (size_t i = 0; i < n; i++) {
		uint8_t *e = zp + ZP_E820 + i * ZP_E820_ENTRY;

		wslx_put_le64(e, mem[i].start);
		wslx_put_le64(e + 8, mem[i].size);
		wslx_put_le32(e + 16, mem[i].type);
	}
	return wslx_gm_write(gm, wslx_gpa(WSLX_BOOT_INFO), zp, sizeof(zp));
}
