/*
 * The kernel store: what is in one kernel's folder and how it is made.
 *
 *   bzImage         the kernel as shipped (absent when an ELF kernel was given)
 *   vmlinux         unpacked ELF kernel (absent when its payload cannot be unpacked)
 *   initramfs.cpio  agent and the modules needed until the root disk is there
 *   modules.img     read-only ext4: the content of /lib/modules/VERSION, modules
 *                   unpacked (absent when the kernel came without modules)
 *
 * The caller makes the folder, holds whatever lock guards it, writes
 * kernel.json from struct wslx_kernel_info, and removes the folder when adding
 * fails.
 */
#ifndef WSLX_IMAGE_KERNEL_H
#define WSLX_IMAGE_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "base/macros.h"
#include "image/task.h"

#define WSLX_KERNEL_BZIMAGE "bzImage"
#define WSLX_KERNEL_VMLINUX "vmlinux"
#define WSLX_KERNEL_INITRAMFS "initramfs.cpio"
#define WSLX_KERNEL_MODULES "modules.img"

struct wslx_kernel_info {
	char version[128]; /* release, "6.1.0-56-cloud-amd64"; "" = not known */
	char source[256];  /* the file it came from, base name, for `kernel list` */
	bool has_bzimage;
	bool has_vmlinux;
	bool has_modules;
	/* Identity of the agent in initramfs.cpio. */
	uint64_t agent_size;
	int64_t agent_mtime_ns;
	char agent_hash[65]; /* hex */
};

struct wslx_kernel_params {
	int dir_fd;              /* the kernel's folder, empty; borrowed */
	const char *file;        /* bzImage, ELF vmlinux, or a Debian kernel package (.deb) */
	const char *modules_dir; /* .../lib/modules/VERSION for a bare kernel; NULL = none, or the package's */
	const char *agent_path;  /* static executable that becomes /init */
	struct wslx_task task;
};

/* -EINVAL: not a kernel; -ENOENT: a file or a needed driver is missing;
 * -ECANCELED.  err has the line for the user. */
WSLX_MUST_CHECK int wslx_kernel_add(const struct wslx_kernel_params *p, struct wslx_kernel_info *ret,
				    struct wslx_err *err);

/* Rebuilds initramfs.cpio (atomically: temporary file and rename) if the agent
 * at agent_path is another one than info names, and updates info.
 * *ret_changed: info must be written again (the initramfs was rebuilt, or only
 * the agent's time differs).  Cheap when nothing changed: one stat. */
WSLX_MUST_CHECK int wslx_kernel_refresh(int dir_fd, const char *agent_path, struct wslx_kernel_info *info,
					bool *ret_changed, struct wslx_err *err);

/* kernel.json.  New reference, or NULL when out of memory. */
json_t *wslx_kernel_info_to_json(const struct wslx_kernel_info *info);
/* Checks every field; unknown ones are ignored.  -EINVAL. */
WSLX_MUST_CHECK int wslx_kernel_info_from_json(const json_t *json, struct wslx_kernel_info *ret, struct wslx_err *err);

#endif
