/* ELF64 kernels: headers checked, segments loaded. */
#include "boot/internal.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"

#define MAX_PHDRS 64
#define MAX_NOTES (64 * WSLX_KIB)
#define XEN_ELFNOTE_PHYS32_ENTRY 18 /* xen/include/public/elfnote.h */

static int bad(struct wslx_err *err, const char *what)
{
	return wslx_err_set(err, EBADMSG, "damaged ELF kernel: %s", what);
}

static int add_segment(struct wslx_elf *e, const Elf64_Phdr *ph, struct wslx_err *err)
{
	uint64_t end;

	if (!ph->p_memsz)
		return 0;
	if (e->n_seg == WSLX_ELF_MAX_SEGMENTS)
		return bad(err, "too many segments");
	if (ph->p_filesz > ph->p_memsz)
		return bad(err, "a segment is larger in the file than in memory");
	if (!wslx_range_ok(ph->p_offset, ph->p_filesz, e->file_size))
		return bad(err, "a segment reaches past the end of the file");
	if (!wslx_add_u64(ph->p_paddr, ph->p_memsz, &end))
		return bad(err, "a segment's address overflows");
	for (size_t i = 0; i < e->n_seg; i++)
		if (ph->p_paddr < e->seg[i].paddr + e->seg[i].memsz && e->seg[i].paddr < end)
			return bad(err, "segments overlap");
	e->seg[e->n_seg++] = (struct wslx_elf_segment) {
		.off = ph->p_offset,
		.filesz = ph->p_filesz,
		.paddr = ph->p_paddr,
		.memsz = ph->p_memsz,
		.vaddr = ph->p_vaddr,
	};
	e->phys.start = e->n_seg == 1 ? ph->p_paddr : WSLX_MIN(e->phys.start, ph->p_paddr);
	e->phys.end = WSLX_MAX(e->phys.end, end);
	e->image_end = WSLX_MAX(e->image_end, ph->p_offset + ph->p_filesz);
	return 0;
}

/* ELF gABI, "Note Section"; the kernel's are 4-byte aligned. */
static void scan_notes(struct wslx_elf *e, const uint8_t *p, size_t len, size_t align)
{
	size_t at = 0;

	while (len - at >= sizeof(Elf64_Nhdr)) {
		uint32_t namesz = wslx_get_le32(p + at), descsz = wslx_get_le32(p + at + 4);
		uint32_t type = wslx_get_le32(p + at + 8);
		uint64_t name = at + sizeof(Elf64_Nhdr), desc, next;

		if (!wslx_align_up(name + namesz, align, &desc) || !wslx_range_ok(desc, descsz, len))
			return;
		if (!wslx_align_up(desc + descsz, align, &next))
			return;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(p + name, "Xen", 4) && descsz >= 4) {
			e->pvh_entry = descsz >= 8 ? wslx_get_le64(p + desc) : wslx_get_le32(p + desc);
			e->has_pvh = true;
			return;
		}
		if (next >= len)
			return;
		at = next;
	}
}

static int read_notes(struct wslx_elf *e, const Elf64_Phdr *ph, struct wslx_err *err)
{
	cleanup_free uint8_t *notes = NULL;
	int r;

	if (e->has_pvh || !ph->p_filesz || ph->p_filesz > MAX_NOTES)
		return 0;
	if (!wslx_range_ok(ph->p_offset, ph->p_filesz, e->file_size))
		return bad(err, "its notes reach past the end of the file");
	notes = malloc(ph->p_filesz);
	if (!notes)
		return -ENOMEM;
	r = wslx_pread_full(e->fd, notes, ph->p_filesz, (off_t)ph->p_offset);
	if (r < 0)
		return wslx_err_sys(err, -r, "reading the kernel");
	scan_notes(e, notes, ph->p_filesz, ph->p_align == 8 ? 8 : 4);
	return 0;
}

/* Physical address behind e_entry, which some kernels give as a virtual one. */
static uint64_t entry_address(const struct wslx_elf *e, uint64_t entry)
{
	for (size_t i = 0; i < e->n_seg; i++)
		if (entry - e->seg[i].paddr < e->seg[i].memsz)
			return entry;
	for (size_t i = 0; i < e->n_seg; i++)
		if (entry - e->seg[i].vaddr < e->seg[i].memsz)
			return entry - e->seg[i].vaddr + e->seg[i].paddr;
	return entry;
}

static int check_ident(const Elf64_Ehdr *eh, struct wslx_err *err)
{
	if (memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0)
		return wslx_err_set(err, ENOEXEC, "not a Linux kernel (neither bzImage nor ELF)");
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB || eh->e_machine != EM_X86_64)
		return wslx_err_set(err, ENOEXEC, "not a kernel: an ELF file, but not for x86-64");
	if (eh->e_type != ET_EXEC && eh->e_type != ET_DYN)
		return wslx_err_set(err, ENOEXEC, "not a kernel: an ELF file, but not executable");
	if (eh->e_phentsize != sizeof(Elf64_Phdr) || !eh->e_phnum || eh->e_phnum > MAX_PHDRS)
		return bad(err, "bad program headers");
	return 0;
}

/* The section headers count only for where the image ends. */
static void count_sections(struct wslx_elf *e, const Elf64_Ehdr *eh)
{
	uint64_t len = (uint64_t)eh->e_shnum * eh->e_shentsize;

	if (eh->e_shoff && wslx_range_ok(eh->e_shoff, len, e->file_size))
		e->image_end = WSLX_MAX(e->image_end, eh->e_shoff + len);
}

int wslx_elf_parse(int fd, struct wslx_elf *ret, struct wslx_err *err)
{
	struct wslx_elf e = { .fd = fd };
	Elf64_Phdr ph[MAX_PHDRS];
	Elf64_Ehdr eh;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return wslx_err_sys(err, errno, "reading the kernel");
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(eh))
		return wslx_err_set(err, ENOEXEC, "not a Linux kernel (neither bzImage nor ELF)");
	e.file_size = (uint64_t)st.st_size;
	r = wslx_pread_full(fd, &eh, sizeof(eh), 0);
	if (r < 0)
		return wslx_err_sys(err, -r, "reading the kernel");
	r = check_ident(&eh, err);
	if (r < 0)
		return r;
	if (!wslx_range_ok(eh.e_phoff, eh.e_phnum * sizeof(ph[0]), e.file_size))
		return bad(err, "its program headers reach past the end of the file");
	r = wslx_pread_full(fd, ph, eh.e_phnum * sizeof(ph[0]), (off_t)eh.e_phoff);
	if (r < 0)
		return wslx_err_sys(err, -r, "reading the kernel");
	for (unsigned i = 0; i < eh.e_phnum && r == 0; i++) {
		if (ph[i].p_type == PT_LOAD)
			r = add_segment(&e, &ph[i], err);
		else if (ph[i].p_type == PT_NOTE)
			r = read_notes(&e, &ph[i], err);
		else if (ph[i].p_type == PT_INTERP)
			r = wslx_err_set(err, ENOEXEC, "not a kernel: a program that runs under Linux");
	}
	if (r < 0)
		return r;
	if (!e.n_seg)
		return bad(err, "nothing to load");
	e.entry = entry_address(&e, eh.e_entry);
	count_sections(&e, &eh);
	*ret = e;
	return 0;
}

int wslx_elf_check(const struct wslx_elf *elf, struct wslx_err *err)
{
	uint64_t entry = elf->has_pvh ? elf->pvh_entry : elf->entry;

	if (entry < elf->phys.start || entry >= elf->phys.end)
		return wslx_err_set(err, EBADMSG, "damaged ELF kernel: its entry point 0x%" PRIx64 " is outside of it",
				    entry);
	return wslx_boot_check_range(&elf->phys, err);
}

int wslx_elf_load(const struct wslx_elf *elf, struct wslx_gm *gm, uint64_t delta, struct wslx_err *err)
{
	struct wslx_boot_piece list[WSLX_ELF_MAX_SEGMENTS];
	int r;

	for (size_t i = 0; i < elf->n_seg; i++) {
		const struct wslx_elf_segment *s = &elf->seg[i];
		uint64_t at;
		void *p;

		/* The whole of it in RAM; what the file does not fill is zero
		 * already, because the memory is fresh. */
		if (!wslx_add_u64(s->paddr, delta, &at) || wslx_gm_slice(gm, wslx_gpa(at), s->memsz, &p) < 0)
			return bad(err, "a segment lies outside of memory");
		list[i] = (struct wslx_boot_piece) { .host = p, .gpa = at, .off = s->off, .len = s->filesz };
	}
	r = wslx_boot_fill(elf->fd, list, elf->n_seg);
	return r < 0 ? wslx_err_sys(err, -r, "reading the kernel") : 0;
}
