/*
 * virtio-rng (virtio 1.2, section 5.4): the host's getrandom(2), at a bounded
 * rate, so that a guest cannot keep a host CPU busy through it.
 */
#ifndef WSLX_DEV_VIRTIO_RNG_H
#define WSLX_DEV_VIRTIO_RNG_H

#include <stdint.h>

#include "base/macros.h"
#include "dev/dev.h"

struct wslx_rng_params {
	struct wslx_loop *loop;    /* borrowed */
	const char *name;          /* static; NULL = "rng" */
	uint32_t bytes_per_second; /* 0 = 1 MiB */
};

WSLX_MUST_CHECK int wslx_rng_new(const struct wslx_rng_params *p, struct wslx_vdev **ret);

#endif
