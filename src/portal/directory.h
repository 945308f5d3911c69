/*
 * The name directory: slots that the host alone writes, and an index over them.
 *
 * Theory of operation.  A name has a slot as long as it lives; slots are given
 * out densely, so that a directory with room for many names touches only as
 * much memory as there are names.  Each slot has a sequence number, odd while
 * the host writes: a reader copies the slot between two loads of the number and
 * takes the copy only if both are the same and even.
 *
 * The index is a hash table of slot numbers with some bits of the hash, open,
 * with linear probing.  Removing moves later entries up, so that a search for
 * what is not there ends early however many names came and went.  While
 * entries move, index_seq is odd: a reader who found nothing looks at it before
 * and after; who found something has checked the name in the slot itself.
 *
 * Many names of one owner end together: then the index is laid out anew, as one
 * such change, instead of moving what is behind each of them up in turn.
 *
 * Names are chosen by participants, and the hash has no key, as every reader
 * has to compute it: names can be made whose searches all begin at one place.
 * What that costs is bounded by how many names a participant may have
 * (host_names.c): a search passes so many at most of each that takes part in it.
 *
 * Trust boundary: readers believe the host, but never follow it out of the
 * tables, and a host that died inside a change costs them a bounded number of
 * looks and -EAGAIN, not more.
 *
 * Threads: one writer at a time; any number of readers, in any process.
 */
#ifndef WSLX_PORTAL_DIRECTORY_H
#define WSLX_PORTAL_DIRECTORY_H

#include <stdbool.h>
#include <stdint.h>
#include <wslx/portal_abi.h>

#include "base/macros.h"

#define PORTAL_NAME_SLOTS_MAX (1u << 23)

/* As a reader has it. */
struct wslx_portal_names {
	const struct portal_name *table;
	const uint32_t *index;
	const uint32_t *index_seq, *end; /* in the header */
	uint32_t slots, index_slots;
};

/* As the host has it. */
struct wslx_portal_directory {
	struct portal_name *table;
	uint32_t *index;
	uint32_t *index_seq, *end;
	uint32_t slots, index_slots;
	uint32_t used;
	uint32_t top;   /* what *end says */
	uint32_t *free; /* slots below top, n_free of them */
	uint32_t n_free;
	uint32_t *next; /* index_slots of them, to lay the index out with */
};

uint64_t wslx_portal_name_hash(const char *name);
/* 1 to 47 bytes of printable ASCII without blank and slash, then zeros. */
bool wslx_portal_name_ok(const char name[PORTAL_NAME_SIZE]);
/* Copies a caller's name; -EINVAL. */
WSLX_MUST_CHECK int wslx_portal_name_set(char dst[PORTAL_NAME_SIZE], const char *name);

/* -ENOENT, -EAGAIN (being written).  ret_slot may be NULL. */
WSLX_MUST_CHECK int wslx_portal_lookup(const struct wslx_portal_names *d, const char *name, struct portal_name *ret,
				       uint32_t *ret_slot);
/* A consistent copy; -EAGAIN. */
WSLX_MUST_CHECK int wslx_portal_read_slot(const struct portal_name *slot, struct portal_name *ret);
/* Slots that may be in use are below this one. */
uint32_t wslx_portal_names_end(const struct wslx_portal_names *d);

/* The host's side. */
struct wslx_portal_names wslx_portal_directory_names(const struct wslx_portal_directory *d);
/* n: seq, state and generation are filled in.  -EEXIST, -ENOSPC. */
WSLX_MUST_CHECK int wslx_portal_directory_add(struct wslx_portal_directory *d, const struct portal_name *n);
/* slot: of a live name. */
void wslx_portal_directory_remove(struct wslx_portal_directory *d, uint32_t slot);
/* All names of that owner but objects of segments, which are the host's.  Returns how many. */
uint32_t wslx_portal_directory_drop(struct wslx_portal_directory *d, uint32_t owner, uint64_t generation);

#endif
