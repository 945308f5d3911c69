/*
 * The registry: folders of distros, kernels and cached images, each with a
 * JSON description.
 *
 * Theory of operation.  A folder is built under a temporary name and renamed
 * when it is whole (struct wslx_builder), and renamed away before it is taken
 * apart, so a name always leads to something whole.  Names are unique without
 * regard to case; that is checked before the work starts, and again under the
 * registry lock before the rename.  Whoever builds or removes holds the lock
 * file in that folder; a temporary folder whose lock nobody holds was left by
 * a process that died, and the next wslx_manager_open() removes it.
 *
 * Threads: a manager is used by one thread at a time.  Processes agree through
 * the locks in docs/architecture.md.
 */
#ifndef WSLX_MANAGER_REGISTRY_H
#define WSLX_MANAGER_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/macros.h"
#include "manager/state.h"
#include "os/linux/paths.h"
#include "os/linux/statefile.h"

enum wslx_store { WSLX_STORE_DISTROS, WSLX_STORE_KERNELS, WSLX_STORE_IMAGES, WSLX_STORE_COUNT };

struct wslx_manager {
	struct wslx_paths paths;
	int data_fd;
	int store_fd[WSLX_STORE_COUNT];
	int run_fd;      /* folders of running machines */
	int machines_fd; /* state/machines */
	const struct wslx_statefile_recorder *recorder;
};

/* Opens, makes missing folders, sweeps leftovers of stores. */
WSLX_MUST_CHECK int wslx_manager_open(struct wslx_manager **ret, struct wslx_err *err);
void wslx_manager_free(struct wslx_manager *m); /* NULL is fine */

/* The registry lock; close the descriptor to drop it. */
WSLX_MUST_CHECK int wslx_registry_lock(struct wslx_manager *m, struct wslx_err *err);

/* A name a distro, kernel or image may have. */
WSLX_MUST_CHECK int wslx_registry_check_name(const char *name, struct wslx_err *err);

/* Names in a store, sorted without case, without temporary ones. */
WSLX_MUST_CHECK int wslx_store_names(struct wslx_manager *m, enum wslx_store store, char ***ret, size_t *ret_n,
				     struct wslx_err *err);
void wslx_names_free(char **names, size_t n);
/* The name as it is written on disk, found without case.  -ENOENT without message. */
WSLX_MUST_CHECK int wslx_store_lookup(struct wslx_manager *m, enum wslx_store store, const char *name,
				      char ret[WSLX_NAME_MAX + 1]);
/* The folder's descriptor (O_RDONLY). */
WSLX_MUST_CHECK int wslx_store_open(struct wslx_manager *m, enum wslx_store store, const char *name);

/* What is being made or taken apart right now.  file: the description's name.
 * The caller frees *ret. */
struct wslx_busy {
	char name[WSLX_NAME_MAX + 1];
	bool removing;
};
WSLX_MUST_CHECK int wslx_store_busy(struct wslx_manager *m, enum wslx_store store, const char *file,
				    struct wslx_busy **ret, size_t *ret_n, struct wslx_err *err);

/* ---- Distros ---- */

/* -ENOENT with a line for the user when there is no such distro; other errors
 * name the file. */
WSLX_MUST_CHECK int wslx_distro_find(struct wslx_manager *m, const char *name, struct wslx_distro *ret,
				     struct wslx_err *err);
/* Writes a changed description.  Call with the registry lock held. */
WSLX_MUST_CHECK int wslx_distro_save(struct wslx_manager *m, const struct wslx_distro *d, struct wslx_err *err);
/* The default distro's name.  -ENOENT: there is none. */
WSLX_MUST_CHECK int wslx_distro_default(struct wslx_manager *m, char ret[WSLX_NAME_MAX + 1], struct wslx_err *err);
WSLX_MUST_CHECK int wslx_distro_set_default(struct wslx_manager *m, const char *name, struct wslx_err *err);

/* ---- Building and removing folders ---- */

struct wslx_builder {
	struct wslx_manager *m;
	enum wslx_store store;
	char name[WSLX_NAME_MAX + 1];
	char temp[32];
	int dir_fd;  /* the temporary folder */
	int lock_fd; /* its lock */
};

/* -EEXIST with a line when the name is taken. */
WSLX_MUST_CHECK int wslx_builder_begin(struct wslx_manager *m, enum wslx_store store, const char *name,
				       struct wslx_builder *ret, struct wslx_err *err);
/* Writes the description (file, text), syncs, and gives the folder its name.
 * What else is in the folder must be synced already.  On failure the caller
 * still aborts. */
WSLX_MUST_CHECK int wslx_builder_commit(struct wslx_builder *b, const char *file, const char *text,
					struct wslx_err *err);
/* Removes what was built; after a commit it only closes. */
void wslx_builder_end(struct wslx_builder *b);

/* Takes the folder away and removes it.  guard, called under registry and
 * folder lock, may refuse.  -EBUSY: the folder's lock is held. */
WSLX_MUST_CHECK int wslx_store_remove(struct wslx_manager *m, enum wslx_store store, const char *name,
				      int (*guard)(void *opaque, struct wslx_err *err), void *opaque,
				      struct wslx_err *err);

#define WSLX_DISTRO_JSON "distro.json"
#define WSLX_KERNEL_JSON "kernel.json"
#define WSLX_IMAGE_JSON "image.json"
#define WSLX_CONFIG_JSON "config.json"
#define WSLX_DISK_FILE "disk.img"
#define WSLX_LOCK_FILE "lock"

#endif
