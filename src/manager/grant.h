/*
 * What a distro's machine may do in a Portal region, as it is written in
 * settings: REGION:SIZE or REGION:ro, and :NAME if it is called otherwise in
 * the guest.
 */
#ifndef WSLX_MANAGER_GRANT_H
#define WSLX_MANAGER_GRANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "proto/vmconfig.h"

#define WSLX_SEGMENT_SIZE (2 * WSLX_MIB)
#define WSLX_GRANT_SEGMENTS_DEFAULT 4u
#define WSLX_GRANT_SEGMENTS_MAX 512u /* a broker gives nobody more */

struct wslx_grant {
	char region[WSLX_GRANT_NAME_SIZE];
	char as[WSLX_GRANT_NAME_SIZE];
	uint32_t segments; /* of its own, to write to; 0 with readonly */
	bool readonly;
	uint64_t asked;  /* bytes: what was written, before it was rounded up to segments; 0: nothing was */
	uint32_t tables; /* of the region's: segments that the host's take, in the window too; 0: not known. Not kept */
};

#define WSLX_GRANT_TEXT 128
WSLX_MUST_CHECK int wslx_grant_parse(const char *s, struct wslx_grant *ret, struct wslx_err *err);
void wslx_grant_format(const struct wslx_grant *g, char buf[WSLX_GRANT_TEXT]);
/* What it is rounded up to, if it is; otherwise false. */
bool wslx_grant_rounded(const struct wslx_grant *g, char buf[WSLX_GRANT_TEXT]);

/* A name that a region may have here: it is also the name of files. */
WSLX_MUST_CHECK int wslx_region_check_name(const char *name, struct wslx_err *err);
/* Fills a grant from what a user says.  size, as: NULL = the default. */
WSLX_MUST_CHECK int wslx_grant_make(const char *region, const char *size, bool readonly, const char *as,
				    struct wslx_grant *ret, struct wslx_err *err);

/* Do they have room in a window of that size (0 = the default)? */
bool wslx_grants_fit(const struct wslx_grant *g, size_t n, uint64_t window);
/* The same, and says what is taken and what to do.  region: the grant that came last, -ENOSPC; NULL: it is the window
 * that was changed, -EINVAL.  distro: whose they are; NULL: not known. */
WSLX_MUST_CHECK int wslx_grants_check_room(const struct wslx_grant *g, size_t n, uint64_t window, const char *distro,
					   const char *region, struct wslx_err *err);
/* Adds it, or takes the place of the one for the same region. */
WSLX_MUST_CHECK int wslx_grants_add(struct wslx_grant list[WSLX_MAX_GRANTS], size_t *n, uint64_t window,
				    const char *distro, const struct wslx_grant *g, struct wslx_err *err);
/* -ENOENT. */
WSLX_MUST_CHECK int wslx_grants_remove(struct wslx_grant *list, size_t *n, const char *region);
/* NULL: none. */
const struct wslx_grant *wslx_grants_find(const struct wslx_grant *list, size_t n, const char *region);

#endif
