/*
 * virtio-blk (virtio 1.2, section 5.2) over any block back end.
 *
 * Features: FLUSH, CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES, SEG_MAX, BLK_SIZE,
 * TOPOLOGY, RO, indirect descriptors, event index.
 *
 * A request may be of any size.  It is carried out in slices of a few MiB, so
 * that neither one request nor all of them together hold up a pause, a reset
 * or each other for long.
 */
#ifndef WSLX_DEV_VIRTIO_BLK_H
#define WSLX_DEV_VIRTIO_BLK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "dev/backend/block.h"
#include "dev/dev.h"

#define WSLX_BLK_MAX_QUEUES 16u
#define WSLX_BLK_SERIAL_LEN 20u

struct wslx_blk_params {
	struct wslx_loop *loop;     /* borrowed; the back end must be on the same one */
	const char *name;           /* copied; NULL = "blk" */
	struct wslx_block *backend; /* taken on success */
	const char *serial;         /* up to WSLX_BLK_SERIAL_LEN bytes; NULL = "" */
	bool readonly;              /* a read-only back end makes the device read-only too */
	unsigned queues;            /* 0 = 1; at most WSLX_BLK_MAX_QUEUES */
	unsigned depth;             /* requests in flight; 0 = WSLX_BLOCK_DEPTH */
};

WSLX_MUST_CHECK int wslx_blk_new(const struct wslx_blk_params *p, struct wslx_vdev **ret);

#endif
