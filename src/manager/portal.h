/*
 * Portal regions: their brokers, and which distro may take part in which.
 *
 * Theory of operation.  A region is there if $run/portal/NAME.lock is held: its
 * broker, wslx-portal, inherits the lock from the command that starts it and
 * holds it for its life.  Of a killed one the files are left; whoever lists or
 * creates regions removes them, under the registry lock, so that a lock taken
 * for that is never mistaken for a broker's.  Regions are gone after a reboot
 * of the host; grants are settings of the distros and stay.
 *
 * A running machine is told: by the broker's revoking, and by PortalSync.  One
 * that is starting may have been given, before the settings changed, what it must
 * not have any more: revoking leaves a mark in its runtime folder, which its
 * supervisor looks for when it joins.  PortalSync with a new grant, and the next
 * start, remove it.
 *
 * Lock order: a distro's grants lock, the registry lock, then a region's.  Threads:
 * none.
 */
#ifndef WSLX_MANAGER_PORTAL_H
#define WSLX_MANAGER_PORTAL_H

#include <stdbool.h>

#include <jansson.h>

#include "base/err.h"
#include "base/macros.h"
#include "manager/registry.h"

#define WSLX_REGION_DIR "portal"
/* In a machine's runtime folder: held while a grant of its distro's is changed, and the machine is told. */
#define WSLX_GRANTS_LOCK "grants.lock"

/* size: of its address space in bytes, 0 = 64 GiB.  -EEXIST. */
WSLX_MUST_CHECK int wslx_region_create(struct wslx_manager *m, const char *name, uint64_t size, struct wslx_err *err);
/* Those that are there, sorted; wslx_names_free(). */
WSLX_MUST_CHECK int wslx_region_names(struct wslx_manager *m, char ***ret, size_t *ret_n, struct wslx_err *err);
/* Ends its broker and waits for that. */
WSLX_MUST_CHECK int wslx_region_remove(struct wslx_manager *m, const char *name, struct wslx_err *err);
/* Asks its broker (io.wslx.Portal).  -ENOENT: there is no such region.  As wslx_control_call(). */
WSLX_MUST_CHECK int wslx_region_call(struct wslx_manager *m, const char *name, const char *method, json_t *params,
				     unsigned timeout_ms, json_t **ret, struct wslx_err *err);

/* Is it more than there can be for one?  Its machine would never join.  0 also if there is no such region, or if its
 * broker does not answer: then the machine's log will say so. */
WSLX_MUST_CHECK int wslx_region_check_size(struct wslx_manager *m, const struct wslx_grant *g, struct wslx_err *err);
/* Have a distro's grants room in its window, together and with the host's tables of those regions that are there?  No
 * machine would have all of them.  region, and errors: as of wslx_grants_check_room().  Takes its time. */
WSLX_MUST_CHECK int wslx_region_check_room(struct wslx_manager *m, const char *distro, const struct wslx_settings *s,
					   const char *region, struct wslx_err *err);
/* Stores it with the distro and tells its machine; one that only reads from now on cannot write any more when this
 * returns 0, and after a failure it can be tried again.  *ret_later: it takes effect at the machine's next start. */
WSLX_MUST_CHECK int wslx_region_grant(struct wslx_manager *m, const char *distro, const struct wslx_grant *g,
				      bool *ret_later, struct wslx_err *err);
struct wslx_revocation {
	bool had;    /* the machine took part */
	bool silent; /* the machine does not answer: it has nothing of the region, and will see that it must not join */
};
/* Takes it out of the distro's settings and away from its machine; after a failure again.  -ENOENT: there is none. */
WSLX_MUST_CHECK int wslx_region_revoke(struct wslx_manager *m, const char *region, const char *distro,
				       struct wslx_revocation *ret, struct wslx_err *err);
/* For a machine that is about to start, before its settings are read: forgets what was taken from earlier ones. */
void wslx_region_forget_revoked(struct wslx_manager *m, const char *machine);
/* Takes its memory away from one participant; generation -1: whoever has that number now. */
WSLX_MUST_CHECK int wslx_region_revoke_participant(struct wslx_manager *m, const char *region, unsigned participant,
						   int64_t generation, struct wslx_err *err);

/* -EBUSY: the distro's machine is there, and would not hear that it has less than its old grants.  Does not wait.
 * *ret_lock: not -1: the machine's lock, to be closed when they are stored, so that it does not start with the old. */
WSLX_MUST_CHECK int wslx_region_check_kept(struct wslx_manager *m, const char *distro, const struct wslx_grant *old,
					   size_t n_old, const struct wslx_settings *now, int *ret_lock,
					   struct wslx_err *err);

/* What a machine with these settings is started with. */
WSLX_MUST_CHECK int wslx_region_config(struct wslx_manager *m, const struct wslx_settings *s,
				       struct wslx_portal_config *ret);

#endif
