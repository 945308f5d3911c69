/*
 * virtio-pmem (virtio 1.2, section 5.19): tells the driver where memory lies
 * that somebody else mapped into the guest, and acknowledges flushes: nothing
 * in it outlives the machine.
 */
#ifndef WSLX_DEV_VIRTIO_PMEM_H
#define WSLX_DEV_VIRTIO_PMEM_H

#include <stdint.h>

#include "base/macros.h"
#include "dev/dev.h"

struct wslx_pmem_params {
	struct wslx_loop *loop; /* borrowed */
	const char *name;       /* static; NULL = "pmem" */
	struct wslx_gpa start;
	uint64_t size;
};

WSLX_MUST_CHECK int wslx_pmem_new(const struct wslx_pmem_params *p, struct wslx_vdev **ret);

#endif
