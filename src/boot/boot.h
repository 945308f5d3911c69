/*
 * Direct boot: puts a kernel, its initramfs, its command line and the ACPI
 * tables into fresh guest memory and says where the first vCPU starts.
 *
 * Theory of operation.  Three ways in, tried in this order:
 *   - an ELF vmlinux with the PVH note (XEN_ELFNOTE_PHYS32_ENTRY): 32-bit entry
 *     with an hvm_start_info;
 *   - an ELF vmlinux without it: its 64-bit entry, with a zero page and page
 *     tables (Linux Documentation/arch/x86/boot.rst, "64-bit boot protocol");
 *   - a bzImage (boot protocol 2.12 or later): its own 64-bit entry; it unpacks
 *     itself.  The fall-back for payloads that wslx_kernel_unpack cannot read.
 * Where things lie is in docs/architecture.md, memory map.
 *
 * Address-space randomization: a vmlinux unpacked from a relocatable bzImage
 * still carries the kernel's relocation table behind its ELF image.  It is
 * moved by a random multiple of 2 MiB, physically and virtually alike, unless
 * the command line says `nokaslr`.  A vmlinux without the table stays where it
 * was linked.  See docs/threat-model.md for what that keeps and what is lost.
 *
 * Trust boundary: kernel and initramfs are files from outside; each number in
 * them is checked before it is used.  Nothing here runs after the first guest
 * instruction.
 *
 * Threads: called once, before any vCPU runs.
 */
#ifndef WSLX_BOOT_BOOT_H
#define WSLX_BOOT_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "hv/hv.h"
#include "mem/gm.h"

/* Linux' COMMAND_LINE_SIZE on x86, its NUL included. */
#define WSLX_CMDLINE_SIZE 2048

struct wslx_boot_params {
	int kernel_fd;       /* regular file; borrowed */
	int initramfs_fd;    /* regular file, -1 = none; borrowed */
	const char *cmdline; /* complete; see wslx_cmdline_build */
	unsigned cpus;       /* 1..WSLX_BOOT_MAX_CPUS; APIC ids are 0..cpus-1 */
};

#define WSLX_BOOT_MAX_CPUS 254

/* gm: fresh (zero-filled) RAM made by wslx_gm_new.  On failure err says what
 * was wrong and gm's content is undefined. */
WSLX_MUST_CHECK int wslx_boot_load(struct wslx_gm *gm, const struct wslx_boot_params *p, struct wslx_vcpu_start *ret,
				   struct wslx_err *err);

/* The kvm engine's command line: its defaults, then extra (NULL or "" =
 * nothing), which wins where both name an option.  Caller frees *ret.
 * -E2BIG with a message when it does not fit. */
WSLX_MUST_CHECK int wslx_cmdline_build(const char *extra, char **ret, struct wslx_err *err);

#endif
