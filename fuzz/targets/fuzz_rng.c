/* virtio-rng under a hostile driver. */
#include "dev/virtio/rng.h"
#include "vdev.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct input in = { data, n };
	struct wslx_rng_params p = { .loop = fz_loop, .bytes_per_second = 1u << in_u8(&in) % 28 };
	struct wslx_vdev *d;

	if (wslx_rng_new(&p, &d) < 0)
		abort();
	fz_run(d, &in, NULL);
	d->ops->free(d);
	return 0;
}
