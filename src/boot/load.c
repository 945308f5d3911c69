/* Placement of kernel, initramfs and tables; see boot.h. */
#include "boot/boot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "boot/internal.h"
#include "dev/pci/layout.h"
#include "os/linux/fd.h"

#define RELOC_ALIGN (2 * WSLX_MIB)
/* Linux maps at most this much of itself (KERNEL_IMAGE_SIZE with KASLR). */
#define KERNEL_IMAGE_MAX WSLX_GIB

struct loader {
	struct wslx_gm *gm;
	const struct wslx_boot_params *p;
	struct wslx_vcpu_start *start;
	struct wslx_err *err;
	uint64_t low_end; /* RAM below the hole ends here */
	struct wslx_boot_info info;
};

size_t wslx_boot_memmap(const struct wslx_gm *gm, struct wslx_boot_mem ret[WSLX_BOOT_MAX_MEM])
{
	size_t n = 0;

	ret[n++] = (struct wslx_boot_mem) { 0, WSLX_BOOT_LOWRAM_END, WSLX_E820_RAM };
	ret[n++] = (struct wslx_boot_mem) { WSLX_BOOT_ACPI, WSLX_BOOT_ACPI_LEN, WSLX_E820_RESERVED };
	for (size_t i = 0; i < wslx_gm_n_regions(gm) && n < WSLX_BOOT_MAX_MEM - 1; i++) {
		const struct wslx_gm_region *r = wslx_gm_region(gm, i);
		uint64_t start = WSLX_MAX(r->base.v, (uint64_t)WSLX_BOOT_HIGH);

		if (r->base.v + r->size > start)
			ret[n++] = (struct wslx_boot_mem) { start, r->base.v + r->size - start, WSLX_E820_RAM };
	}
	ret[n++] = (struct wslx_boot_mem) { WSLX_PCI_ECAM_BASE, WSLX_PCI_ECAM_LEN, WSLX_E820_RESERVED };
	return n;
}

static uint64_t mib_up(uint64_t bytes)
{
	return bytes / WSLX_MIB + (bytes % WSLX_MIB != 0);
}

static int too_small(struct loader *l, const struct wslx_boot_range *kernel, uint64_t initramfs_len)
{
	uint64_t need;

	if (!wslx_add_u64(kernel->end, initramfs_len, &need))
		need = UINT64_MAX;
	if (mib_up(need) > WSLX_GM_LOW_END / WSLX_MIB)
		return wslx_err_set(l->err, EFBIG,
				    "kernel and initramfs need %" PRIu64 " MiB below 3 GiB, which no machine has",
				    mib_up(need));
	return wslx_err_set(l->err, ENOMEM,
			    "memory is too small: kernel and initramfs need at least %" PRIu64
			    " MiB, the machine has %" PRIu64 " MiB",
			    mib_up(need), wslx_gm_size(l->gm) / WSLX_MIB);
}

static int initramfs_size(struct loader *l, uint64_t *ret)
{
	struct stat st;

	*ret = 0;
	if (l->p->initramfs_fd < 0)
		return 0;
	if (fstat(l->p->initramfs_fd, &st) < 0)
		return wslx_err_sys(l->err, errno, "reading the initramfs");
	if (!S_ISREG(st.st_mode))
		return wslx_err_set(l->err, EINVAL, "the initramfs is not a regular file");
	*ret = (uint64_t)st.st_size;
	return 0;
}

/* High below `limit`, page-aligned, above the kernel, which takes `kernel`
 * from its lowest possible place on. */
static int place_initramfs(struct loader *l, const struct wslx_boot_range *kernel, uint64_t limit)
{
	uint64_t len, start;
	void *p;
	int r;

	r = initramfs_size(l, &len);
	if (r < 0)
		return r;
	if (kernel->end > l->low_end || len > limit)
		return too_small(l, kernel, len);
	if (!len)
		return 0;
	start = wslx_align_down(limit - len, WSLX_PAGE_SIZE);
	if (start < kernel->end)
		return too_small(l, kernel, len);
	if (wslx_gm_slice(l->gm, wslx_gpa(start), len, &p) < 0)
		return too_small(l, kernel, len);
	r = wslx_pread_full(l->p->initramfs_fd, p, len, 0);
	if (r < 0)
		return wslx_err_sys(l->err, -r, "reading the initramfs");
	l->info.initramfs = (struct wslx_boot_range) { start, start + len };
	return 0;
}

int wslx_boot_check_range(const struct wslx_boot_range *k, struct wslx_err *err)
{
	if (k->start < WSLX_BOOT_HIGH)
		return wslx_err_set(err, EBADMSG,
				    "the kernel wants to be loaded at 0x%" PRIx64 ", over the boot tables below 1 MiB",
				    k->start);
	if (k->end > WSLX_GM_LOW_END)
		return wslx_err_set(
			err, EBADMSG,
			"the kernel wants to be loaded up to 0x%" PRIx64 ", where this machine has no memory", k->end);
	return 0;
}

/* Is `word` one of the command line's words? */
static bool has_word(const char *cmdline, const char *word)
{
	size_t n = strlen(word);

	for (const char *s = cmdline; (s = strstr(s, word)); s += n)
		if ((s == cmdline || s[-1] == ' ') && (s[n] == ' ' || !s[n]))
			return true;
	return false;
}

/* A random multiple of RELOC_ALIGN by which the kernel still lies in memory
 * and below the initramfs. */
static uint64_t choose_delta(const struct loader *l, const struct wslx_elf *elf)
{
	uint64_t top = WSLX_MIN(l->low_end, (uint64_t)KERNEL_IMAGE_MAX), slots, random;

	if (l->info.initramfs.end > l->info.initramfs.start)
		top = WSLX_MIN(top, l->info.initramfs.start);
	if (elf->phys.end > top)
		return 0;
	slots = (top - elf->phys.end) / RELOC_ALIGN + 1;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return 0;
	return random % slots * RELOC_ALIGN;
}

static int load_elf_image(struct loader *l, const struct wslx_elf *elf, uint64_t *ret_delta)
{
	struct wslx_relocs relocs = { 0 };
	uint64_t delta = 0;
	bool movable;
	int r;

	r = place_initramfs(l, &elf->phys, l->low_end);
	if (r < 0)
		return r;
	movable = !has_word(l->p->cmdline, "nokaslr") && wslx_relocs_read(elf, &relocs) == 0;
	if (movable)
		delta = choose_delta(l, elf);
	r = wslx_elf_load(elf, l->gm, delta, l->err);
	if (r == 0 && delta)
		r = wslx_relocs_apply(&relocs, elf, l->gm, delta, l->err);
	l->info.randomized = movable;
	*ret_delta = delta;
	wslx_relocs_free(&relocs);
	return r;
}

static int set_start(struct loader *l, bool long_mode, uint64_t rip)
{
	int r = long_mode ? wslx_boot_page_tables(l->gm) : 0;

	*l->start = (struct wslx_vcpu_start) {
		.long_mode = long_mode,
		.rip = rip,
		.rbx = long_mode ? 0 : WSLX_BOOT_INFO,
		.rsi = long_mode ? WSLX_BOOT_INFO : 0,
		.cr3 = long_mode ? WSLX_BOOT_PML4 : 0,
		.gdt_base = WSLX_BOOT_GDT,
	};
	wslx_boot_gdt(l->gm, long_mode, &l->start->gdt_limit);
	return r;
}

static int load_elf(struct loader *l, const struct wslx_elf *elf)
{
	uint64_t entry = elf->has_pvh ? elf->pvh_entry : elf->entry, delta = 0;
	int r = wslx_elf_check(elf, l->err);

	if (r == 0)
		r = load_elf_image(l, elf, &delta);
	if (r < 0)
		return r;
	r = elf->has_pvh ? wslx_boot_start_info(l->gm, &l->info) : wslx_boot_zero_page(l->gm, &l->info, NULL);
	return r < 0 ? r : set_start(l, !elf->has_pvh, entry + delta);
}

static int load_bzimage(struct loader *l, const struct wslx_bzimage *bz)
{
	uint64_t limit = l->low_end;
	struct wslx_boot_range k;
	void *p;
	int r;

	r = wslx_bzimage_check(bz, &k, l->err);
	/* The highest address that the last byte of an initramfs may have. */
	limit = WSLX_MIN(limit, (uint64_t)bz->initrd_max + 1);
	if (r == 0)
		r = place_initramfs(l, &k, limit);
	if (r < 0)
		return r;
	if (wslx_gm_slice(l->gm, wslx_gpa(k.start), bz->code_len, &p) < 0)
		return too_small(l, &k, 0);
	r = wslx_pread_full(bz->fd, p, bz->code_len, (off_t)bz->code_off);
	if (r < 0)
		return wslx_err_sys(l->err, -r, "reading the kernel");
	r = wslx_boot_zero_page(l->gm, &l->info, bz);
	return r < 0 ? r : set_start(l, true, k.start + WSLX_BZ_ENTRY_64);
}

static int load_kernel(struct loader *l)
{
	cleanup_free struct wslx_bzimage *bz = NULL;
	struct wslx_elf elf;
	uint8_t magic[4];
	int r;

	if (wslx_pread_full(l->p->kernel_fd, magic, sizeof(magic), 0) == 0 && !memcmp(magic, "\177ELF", 4)) {
		r = wslx_elf_parse(l->p->kernel_fd, &elf, l->err);
		return r < 0 ? r : load_elf(l, &elf);
	}
	bz = malloc(sizeof(*bz));
	if (!bz)
		return -ENOMEM;
	r = wslx_bzimage_parse(l->p->kernel_fd, bz, l->err);
	return r < 0 ? r : load_bzimage(l, bz);
}

static int write_cmdline(struct loader *l)
{
	size_t n = strlen(l->p->cmdline);

	if (n >= WSLX_CMDLINE_SIZE)
		return wslx_err_set(l->err, E2BIG, "the kernel command line has %zu characters, at most %d fit", n,
				    WSLX_CMDLINE_SIZE - 1);
	return wslx_gm_write(l->gm, wslx_gpa(WSLX_BOOT_CMDLINE), l->p->cmdline, n + 1);
}

static int load(struct wslx_gm *gm, const struct wslx_boot_params *p, struct wslx_vcpu_start *ret, struct wslx_err *err)
{
	struct wslx_vcpu_start start;
	struct loader l = { .gm = gm, .p = p, .start = &start, .err = err };
	const struct wslx_gm_region *low = wslx_gm_region(gm, 0), *high = wslx_gm_region(gm, 1);
	int r;

	if (!low || low->base.v || low->size <= WSLX_BOOT_HIGH)
		return wslx_err_set(err, ENOMEM, "memory is too small: a machine needs more than 1 MiB");
	if (!p->cpus || p->cpus > WSLX_BOOT_MAX_CPUS)
		return wslx_err_set(err, EINVAL, "%u CPUs: 1 to %d are possible", p->cpus, WSLX_BOOT_MAX_CPUS);
	if (high && high->base.v + high->size > WSLX_PCI_WIN64_BASE)
		return wslx_err_set(err, EFBIG, "memory is too large: %" PRIu64 " MiB, at most %llu MiB fit below PCI",
				    wslx_gm_size(gm) / WSLX_MIB,
				    (WSLX_PCI_WIN64_BASE - (4 * WSLX_GIB - WSLX_GM_LOW_END)) / WSLX_MIB);
	l.low_end = low->size;
	r = write_cmdline(&l);
	if (r == 0)
		r = wslx_acpi_write(gm, p->cpus, &l.info.rsdp);
	if (r == 0)
		r = load_kernel(&l);
	if (r == 0)
		*ret = start;
	return r;
}

int wslx_boot_load(struct wslx_gm *gm, const struct wslx_boot_params *p, struct wslx_vcpu_start *ret,
		   struct wslx_err *err)
{
	struct wslx_err why = { 0 };
	int r = load(gm, p, ret, &why);

	if (r < 0 && !why.code)
		return wslx_err_sys(err, -r, "loading the kernel");
	if (r < 0 && err)
		*err = why;
	return r;
}
