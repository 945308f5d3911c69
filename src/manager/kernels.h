/*
 * The kernel store, as the rest of the manager sees it.
 */
#ifndef WSLX_MANAGER_KERNELS_H
#define WSLX_MANAGER_KERNELS_H

#include "base/err.h"
#include "base/macros.h"
#include "image/kernel.h"
#include "image/task.h"
#include "manager/registry.h"

/* What `install` fetches, and the default of every machine that names none. */
#define WSLX_KERNEL_DEFAULT "debian-cloud"

struct wslx_kernel_paths {
	char name[WSLX_NAME_MAX + 1];
	char *kernel;    /* vmlinux if there is one, else bzImage */
	char *initramfs; /* with the agent of this release */
	char *modules;   /* NULL: none */
};

void wslx_kernel_paths_free(struct wslx_kernel_paths *p);

/* name: "" or NULL: WSLX_KERNEL_DEFAULT, else the only one there is. */
WSLX_MUST_CHECK int wslx_kernel_choose(struct wslx_manager *m, const char *name, char ret[WSLX_NAME_MAX + 1],
				       struct wslx_err *err);

/* Chooses, brings the initramfs up to date, and says where everything is. */
WSLX_MUST_CHECK int wslx_kernel_prepare(struct wslx_manager *m, const char *name, struct wslx_kernel_paths *ret,
					struct wslx_err *err);

WSLX_MUST_CHECK int wslx_kernel_load(struct wslx_manager *m, const char *name, struct wslx_kernel_info *ret,
				     struct wslx_err *err);

/* Is what it boots from still there, and a kernel? */
WSLX_MUST_CHECK int wslx_kernel_examine(struct wslx_manager *m, const char *name, const struct wslx_kernel_info *info,
					struct wslx_err *err);

/* name NULL: made from the kernel's release.  ret_name: what it was called. */
WSLX_MUST_CHECK int wslx_kernel_install(struct wslx_manager *m, const char *file, const char *name,
					const char *modules_dir, const struct wslx_task *task,
					char ret_name[WSLX_NAME_MAX + 1], struct wslx_err *err);

/* Downloads Debian's cloud kernel as WSLX_KERNEL_DEFAULT unless it is there. */
WSLX_MUST_CHECK int wslx_kernel_ensure_default(struct wslx_manager *m, const struct wslx_task *task,
					       struct wslx_err *err);

/* Distros whose next start would take this kernel, for messages. */
#define WSLX_KERNEL_USERS_NAMED 5u
struct wslx_kernel_users {
	size_t n;
	char first[WSLX_NAME_MAX + 1];
	char text[WSLX_KERNEL_USERS_NAMED * (WSLX_NAME_MAX + 5) + 32]; /* "'a', 'b' and 3 more" */
};
/* kernel: as it is written on disk; "": those that have none to start with. */
WSLX_MUST_CHECK int wslx_kernel_users(struct wslx_manager *m, const char *kernel, struct wslx_kernel_users *ret,
				      struct wslx_err *err);

/* -EBUSY while a distro would start with it, unless force. */
WSLX_MUST_CHECK int wslx_kernel_remove(struct wslx_manager *m, const char *name, bool force, struct wslx_err *err);

#endif
