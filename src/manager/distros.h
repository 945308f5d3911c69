/*
 * Making and deleting distros, and finding what `wslx run` is to run.
 */
#ifndef WSLX_MANAGER_DISTROS_H
#define WSLX_MANAGER_DISTROS_H

#include "base/err.h"
#include "base/macros.h"
#include "image/debian.h"
#include "image/export.h"
#include "image/task.h"
#include "manager/machine.h"
#include "manager/registry.h"

struct wslx_new_distro {
	const char *name;
	const struct wslx_settings *settings;
	uint64_t size; /* of the disk; 0 = the default */
	struct wslx_task task;
	/* One of the two: */
	int in_fd; /* archive or image; -1: Debian's packages */
	const char *in_name;
	struct wslx_debian_params debian; /* suite, mirror, include */
};

/* On failure nothing is registered and nothing is left.  ret may be NULL. */
WSLX_MUST_CHECK int wslx_distro_create(struct wslx_manager *m, const struct wslx_new_distro *p,
				       struct wslx_import_result *ret, struct wslx_err *err);

/* Stops it, deletes it, promotes another default. */
WSLX_MUST_CHECK int wslx_distro_unregister(struct wslx_manager *m, const char *name, struct wslx_err *err);

/* Writes the files of a distro that does not run to out_fd, as a tar archive.
 * Its disk is locked meanwhile.  out_name: what messages call out_fd.  -EBUSY: it runs. */
WSLX_MUST_CHECK int wslx_distro_export(struct wslx_manager *m, const char *name, enum wslx_export_format format,
				       int out_fd, const char *out_name, const struct wslx_task *task,
				       struct wslx_export_result *ret, struct wslx_err *err);

/* image: a distro's name, or a file, which is imported into the cache of images
 * first.  *settings are the distro's, or the defaults. */
WSLX_MUST_CHECK int wslx_run_source(struct wslx_manager *m, const char *image, const struct wslx_task *task,
				    struct wslx_throwaway_source *ret, struct wslx_settings *settings,
				    struct wslx_err *err);
void wslx_run_source_free(struct wslx_throwaway_source *s);

#endif
