/* Shared by the files of the kernel store; not for others. */
#ifndef WSLX_IMAGE_KERNEL_INTERNAL_H
#define WSLX_IMAGE_KERNEL_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "image/task.h"

/* Work in progress inside a kernel's folder. */
#define WSLX_KERNEL_STAGING ".staging"
/* Most that a package or a module folder may hold. */
#define WSLX_KERNEL_FILES_MAX 100000u
#define WSLX_KERNEL_BYTES_MAX ((uint64_t)8 << 30)

/* --- staging.c: a folder whose files come from outside --- */

struct wslx_staging {
	int dir_fd; /* the kernel's folder; borrowed */
	int fd;     /* the staging folder */
	uint64_t bytes;
	uint32_t files;
	const struct wslx_task *task;
};

/* Makes it, empty; an old one is removed. */
WSLX_MUST_CHECK int wslx_staging_new(struct wslx_staging *s, int dir_fd, const struct wslx_task *task,
				     struct wslx_err *err);
/* Removes it with all in it; for clean-up. */
void wslx_staging_end(struct wslx_staging *s);
/* Makes a file, its folders too.  path: relative, no "..".  -EINVAL else. */
WSLX_MUST_CHECK int wslx_staging_create(struct wslx_staging *s, const char *path, int *ret_fd);
/* A path of something in it that this process, and one that inherits dir_fd, can use. */
void wslx_staging_path(const struct wslx_staging *s, const char *sub, char *buf, size_t size);

/* --- deb.c --- */

/* boot/vmlinuz-VERSION to "vmlinuz", lib/modules/VERSION/ as it is; -EINVAL
 * when the package has no kernel. */
WSLX_MUST_CHECK int wslx_deb_stage_kernel(int deb_fd, struct wslx_staging *s, char *version, size_t version_size,
					  struct wslx_err *err);

/* --- modules_image.c --- */

/* Copies .../lib/modules/VERSION to lib/modules/VERSION, modules unpacked. */
WSLX_MUST_CHECK int wslx_modules_stage(const char *modules_dir, const char *version, struct wslx_staging *s,
				       struct wslx_err *err);
/* Unpacks what is compressed, and has depmod write the index files if they are missing or name packed files. */
WSLX_MUST_CHECK int wslx_modules_index(struct wslx_staging *s, const char *version, struct wslx_err *err);
/* lib/modules/VERSION as a read-only ext4 image into out_fd. */
WSLX_MUST_CHECK int wslx_modules_image_write(struct wslx_staging *s, const char *version, int out_fd,
					     struct wslx_err *err);
/* The inverse: the image's files to lib/modules/VERSION. */
WSLX_MUST_CHECK int wslx_modules_image_read(int image_fd, const char *version, struct wslx_staging *s,
					    struct wslx_err *err);

#endif
