/*
 * A participant in a guest.
 *
 * Theory of operation.  The machine has a devdax device, the window (see
 * portal_abi.h): tables of the host in its first segment, arenas in the others.
 * The tables are mapped read-only for as long as one is attached.  An entry
 * names a region; its arena table says where in the window each arena lies, and
 * window.c maps it from there to its place in the region's address space.
 *
 * The doorbell (bell.c) is a vsock stream to the host, and the attachment: while
 * it is there, the guest is one participant of the region; the host makes it a
 * new one, with an empty arena, for each connection.  It carries only wake-ups.
 *
 * Trust boundary: the host's tables are believed, but never followed out of
 * the window.  Other arenas are as hostile as everywhere.
 *
 * One process at a time: a lock on the device, a byte an entry.
 */
#ifndef WSLX_PORTAL_GUEST_H
#define WSLX_PORTAL_GUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <wslx/portal.h>

#include "base/macros.h"

/* Where windows and doorbells come from; tests have their own. */
struct wslx_portal_guest_os {
	/* The nth device that may be a window, or -ENOENT after the last, or another error for this one. */
	int (*open_window)(void *opaque, unsigned nth);
	/* A stream to the host's port; -errno. */
	int (*open_bell)(void *opaque, uint32_t port);
	/* As mmap(2), always MAP_SHARED | MAP_FIXED; -errno. */
	int (*map)(void *opaque, void *at, size_t len, int prot, int fd, uint64_t off);
	void *opaque;
};

extern const struct wslx_portal_guest_os wslx_portal_guest_linux; /* guest_linux.c */

struct wslx_portal_bell {
	int fd;
	pthread_mutex_t lock; /* guards the next three */
	pthread_cond_t news;
	bool polling;  /* a thread waits for bytes, for all of them */
	uint64_t seen; /* counts its awakenings */
	pthread_mutex_t sending;
};

struct wslx_portal_window {
	const struct wslx_portal_guest_os *os;
	int fd; /* of the device; holds the lock */
	const struct portal_window *tables;
	uint32_t segments;
	unsigned index;
	const struct portal_window_entry *entry;
	const struct portal_window_arena *arenas;
	uint64_t life; /* of the entry */
	uint32_t seen; /* the tables' count of changes */
	struct wslx_portal_bell bell;
};

/* guest.c: by a.region, which is not NULL. */
WSLX_MUST_CHECK int wslx_portal_attach_guest(const struct portal_attach *a, const struct wslx_portal_guest_os *os,
					     portal **ret);

/* window.c */
struct wslx_portal_found {
	uint64_t life;
	uint32_t participant, segments, doorbell_port;
	uint64_t part_generation;
};
/* Looks through all devices for a grant of that name, in force or not.  -ENOENT, or why the only candidates could
 * not be looked at. */
WSLX_MUST_CHECK int wslx_portal_window_find(const struct wslx_portal_guest_os *os, const char *as,
					    struct wslx_portal_window **ret);
/* The entry as it is now; -EPIPE if there is no grant, -ETIMEDOUT if it does not stand still. */
WSLX_MUST_CHECK int wslx_portal_window_entry(const struct wslx_portal_window *w, struct wslx_portal_found *ret);
/* Whether the entry is still the one that was attached to. */
bool wslx_portal_window_same(const struct wslx_portal_window *w);
/* Maps arena 0, of which nothing is known yet. */
WSLX_MUST_CHECK int wslx_portal_window_map_host(portal *p);
/* Was what had been read in that arena's place until now that generation's, be it alive or dead? */
bool wslx_portal_window_holds(const struct wslx_portal_window *w, unsigned arena, uint64_t generation);
/* Do the tables say something new?  Also at the same epoch: an arena is there that there was no room for. */
bool wslx_portal_window_news(const struct wslx_portal_window *w);
/* Maps what has changed; p.epoch is then what it is as of.  Under the lock. */
WSLX_MUST_CHECK int wslx_portal_window_sync(portal *p);
void wslx_portal_window_free(struct wslx_portal_window *w); /* NULL is fine */

/* bell.c: connects and waits until the host is ready. */
WSLX_MUST_CHECK int wslx_portal_bell_open(struct wslx_portal_bell *b, const struct wslx_portal_guest_os *os,
					  uint32_t port, int64_t deadline);
void wslx_portal_bell_init(struct wslx_portal_bell *b);
void wslx_portal_bell_close(struct wslx_portal_bell *b);
extern const struct portal_doorbell_ops wslx_portal_bell_ops; /* opaque: the portal */

#endif
