/*
 * Copy-on-write overlay files; the format is docs/overlay-format.md.
 *
 * Trust boundary: an overlay file may come from anywhere.  Opening checks the
 * header and every table entry once, keeps the checked copy in memory, and
 * never reads the table from the file again.
 */
#ifndef WSLX_DEV_BACKEND_OVERLAY_H
#define WSLX_DEV_BACKEND_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/macros.h"
#include "dev/backend/block.h"

#define WSLX_OVERLAY_CLUSTER ((uint64_t)64 * WSLX_KIB)
#define WSLX_OVERLAY_MAX_SIZE ((uint64_t)16 * 1024 * WSLX_GIB)

/* Makes fd (empty, open for reading and writing) an overlay without contents.
 * virtual_size: a multiple of 512, up to WSLX_OVERLAY_MAX_SIZE.  Stable on return. */
WSLX_MUST_CHECK int wslx_overlay_create(int fd, uint64_t virtual_size);

struct wslx_overlay_info {
	uint64_t virtual_size;
	uint64_t file_size;
	uint64_t mapped; /* clusters with data of their own */
	uint64_t zero;   /* clusters marked as zeroes */
	uint64_t unused; /* clusters of the file that nothing refers to; harmless, reused */
};

/* Checks header and table.  -EINVAL: not a sound overlay, err says why. */
WSLX_MUST_CHECK int wslx_overlay_check(int fd, struct wslx_overlay_info *ret, struct wslx_err *err);

struct wslx_overlay_params {
	struct wslx_loop *loop; /* borrowed */
	int fd;                 /* overlay; taken on success */
	int base_fd;            /* raw base image, read only; -1 = all zeroes; taken on success */
	bool readonly;
	bool no_io_uring;
	/* Flush writes the table but waits for nothing to reach the disk: for
	 * throw-away machines.  A kill of the process loses nothing flushed; a
	 * power loss may leave an overlay that wslx_overlay_check refuses. */
	bool no_sync;
	unsigned depth; /* 0 = WSLX_BLOCK_DEPTH */
};

WSLX_MUST_CHECK int wslx_overlay_open(const struct wslx_overlay_params *p, struct wslx_block **ret,
				      struct wslx_err *err);

#endif
