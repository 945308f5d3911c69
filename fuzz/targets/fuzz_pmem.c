/* virtio-pmem under a hostile driver. */
#include "dev/virtio/pmem.h"
#include "vdev.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const struct wslx_pmem_params p = { .loop = fz_loop, .start = { 1ull << 32 }, .size = 256 * WSLX_MIB };
	struct input in = { data, n };
	struct wslx_vdev *d;

	if (wslx_pmem_new(&p, &d) < 0)
		abort();
	fz_run(d, &in, NULL);
	d->ops->free(d);
	return 0;
}
