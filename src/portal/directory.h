/*
 * The name directory: a hash table that the host alone writes.
 *
 * Theory of operation.  Each slot has a sequence number, odd while the host
 * writes.  A reader copies the slot between two loads of the number and takes
 * the copy only if both are the same and even.  A slot that became free is GONE,
 * so that searches go on behind it, or EMPTY again if nothing lies behind.
 *
 * Trust boundary: readers believe the host, but a host that died inside a
 * change costs them a bounded number of looks and -EAGAIN, not more.
 *
 * Threads: one writer at a time; any number of readers, in any process.
 */
#ifndef WSLX_PORTAL_DIRECTORY_H
#define WSLX_PORTAL_DIRECTORY_H

#include <stdbool.h>
#include <stdint.h>
#include <wslx/portal_abi.h>

#include "base/macros.h"

uint64_t wslx_portal_name_hash(const char *name);
/* 1 to 47 bytes of printable ASCII without blank and slash, then zeros. */
bool wslx_portal_name_ok(const char name[PORTAL_NAME_SIZE]);
/* Copies a caller's name; -EINVAL. */
WSLX_MUST_CHECK int wslx_portal_name_set(char dst[PORTAL_NAME_SIZE], const char *name);

/* -ENOENT, -EAGAIN (being written).  ret_slot may be NULL. */
WSLX_MUST_CHECK int wslx_portal_lookup(const struct portal_name *table, uint32_t slots, const char *name,
				       struct portal_name *ret, uint32_t *ret_slot);
/* A consistent copy; -EAGAIN. */
WSLX_MUST_CHECK int wslx_portal_read_slot(const struct portal_name *slot, struct portal_name *ret);

/* The host's side.  n: seq and state are filled in.  -EEXIST, -ENOSPC (7/8 full). */
WSLX_MUST_CHECK int wslx_portal_directory_add(struct portal_name *table, uint32_t slots, uint32_t *used,
					      const struct portal_name *n);
void wslx_portal_directory_remove(struct portal_name *table, uint32_t slots, uint32_t *used, uint32_t slot);

#endif
