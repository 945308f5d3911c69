/* Attaching from inside a machine.  Theory of operation: guest.h. */
#include "portal/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "portal/internal.h"

#define RETRY_NS 10000000

/* One process an entry.  The lock ends with the descriptor. */
static int lock_entry(const struct wslx_portal_window *w)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = w->index, .l_len = 1 };

	if (fcntl(w->fd, F_OFD_SETLK, &l) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

static int map_region(portal *p, const struct wslx_portal_found *e)
{
	int r = wslx_portal_reserve(p, e->segments);

	if (r == 0)
		r = wslx_portal_window_map_host(p);
	if (r == 0)
		r = wslx_portal_take_geometry(p);
	if (r == 0)
		r = wslx_portal_window_sync(p);
	return r;
}

static int attach(portal *p, const struct wslx_portal_guest_os *os, int64_t deadline)
{
	struct wslx_portal_window *w = p->window;
	struct wslx_portal_found e;
	int r = lock_entry(w);

	if (r == 0)
		r = wslx_portal_window_entry(w, &e);
	if (r == 0)
		r = wslx_portal_bell_open(&w->bell, os, e.doorbell_port, deadline);
	/* The host has made it new for this connection. */
	if (r == 0)
		r = wslx_portal_window_entry(w, &e);
	if (r < 0)
		return r;
	w->life = e.life;
	p->self = e.participant;
	p->generation = e.part_generation;
	p->epoch_word = &w->entry->epoch;
	p->ops = &wslx_portal_bell_ops;
	p->ops_ctx = p;
	r = map_region(p, &e);
	if (r == 0)
		r = wslx_portal_open_own(p);
	return r < 0 ? r : wslx_portal_refresh(p);
}

static int try_attach(const struct portal_attach *a, const struct wslx_portal_guest_os *os, int64_t deadline,
		      portal **ret)
{
	portal *p = wslx_portal_new();
	int r;

	if (!p)
		return -ENOMEM;
	r = wslx_portal_window_find(os, a->region, &p->window);
	if (r == 0)
		r = attach(p, os, deadline);
	if (r < 0) {
		portal_detach(p);
		return r;
	}
	*ret = p;
	return 0;
}

/* The host may just be making the guest a new participant, after the process that was there before; or the region's
 * broker has yet to start. */
int wslx_portal_attach_guest(const struct portal_attach *a, const struct wslx_portal_guest_os *os, portal **ret)
{
	int64_t deadline = wslx_portal_deadline(a->timeout_ns ? a->timeout_ns : PORTAL_ATTACH_TIMEOUT_NS);

	for (;;) {
		struct timespec pause = { .tv_nsec = RETRY_NS };
		int r = try_attach(a, os, deadline, ret);

		if (r != -EPIPE || wslx_portal_left(deadline) == 0)
			return r;
		nanosleep(&pause, NULL);
	}
}
