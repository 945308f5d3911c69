/*
 * Test hook of the confined children: a ring made and restricted as those of
 * the disks, on an empty file of its own, through which a file is tried to be
 * opened.  io_uring requests pass no seccomp filter, so that the restriction
 * holds has to be tried out inside.
 */
#ifndef WSLX_DEV_BACKEND_RING_PROBE_H
#define WSLX_DEV_BACKEND_RING_PROBE_H

#include <stdbool.h>

#include "base/loop.h"
#include "base/macros.h"

struct wslx_ring_probe;

/* Before the process confines itself.  -errno where io_uring is not to be had:
 * then the disks have no ring either. */
WSLX_MUST_CHECK int wslx_ring_probe_new(struct wslx_loop *loop, struct wslx_ring_probe **ret);
void wslx_ring_probe_free(struct wslx_ring_probe *p); /* NULL is fine */
/* On the loop's thread.  Did the open get through? */
bool wslx_ring_probe_leaks(struct wslx_ring_probe *p);

#endif
