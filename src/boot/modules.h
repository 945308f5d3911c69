/*
 * A kernel's module folder, /lib/modules/VERSION as depmod(8) left it: which
 * modules stand behind a name, in which order they load, and their unpacked
 * bytes.
 *
 * Trust boundary: the folder comes from outside.  Names in its index files are
 * relative paths without "..", opened below the folder only (openat2,
 * RESOLVE_BENEATH); sizes and counts are bounded.
 */
#ifndef WSLX_BOOT_MODULES_H
#define WSLX_BOOT_MODULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"

struct wslx_modules;

/* Reads modules.dep, modules.builtin and modules.softdep.  dir: the folder
 * itself; its last component is the version. */
WSLX_MUST_CHECK int wslx_modules_open(const char *dir, struct wslx_modules **ret, struct wslx_err *err);
void wslx_modules_free(struct wslx_modules *m); /* NULL is fine */
const char *wslx_modules_version(const struct wslx_modules *m);

enum wslx_module_state { WSLX_MODULE_ABSENT, WSLX_MODULE_BUILTIN, WSLX_MODULE_LOADABLE };
/* name: "virtio_blk"; '-' and '_' are the same. */
enum wslx_module_state wslx_modules_find(const struct wslx_modules *m, const char *name);

/* Adds a module and all it depends on (hard, and soft ones that exist) to the
 * load order; those already there stay.  0 also for built-in ones; -ENOENT. */
WSLX_MUST_CHECK int wslx_modules_want(struct wslx_modules *m, const char *name, struct wslx_err *err);

/* The load order so far: paths relative to the folder, as in modules.dep
 * ("kernel/drivers/block/virtio_blk.ko.xz"). */
size_t wslx_modules_n_wanted(const struct wslx_modules *m);
const char *wslx_modules_wanted(const struct wslx_modules *m, size_t i);

/* Length of path without .xz, .zst, .gz: where the unpacked module goes. */
size_t wslx_module_plain_len(const char *path);
/* A module's bytes, unpacked; caller frees *ret. */
WSLX_MUST_CHECK int wslx_modules_read(const struct wslx_modules *m, const char *path, uint8_t **ret, size_t *ret_len,
				      struct wslx_err *err);

#endif
