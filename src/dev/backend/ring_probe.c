#include "dev/backend/ring_probe.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "dev/backend/aio.h"

struct wslx_ring_probe {
	struct wslx_aio *aio;
	struct wslx_block block; /* for the engine's counters */
};

int wslx_ring_probe_new(struct wslx_loop *loop, struct wslx_ring_probe **ret)
{
	cleanup_free struct wslx_ring_probe *p = calloc(1, sizeof(*p));
	cleanup_close int fd = memfd_create("wslx-ring-probe", MFD_CLOEXEC);
	struct wslx_aio_params params = { .loop = loop, .fds = { fd, -1 }, .depth = 4 };
	int r;

	if (!p)
		return -ENOMEM;
	if (fd < 0)
		return -errno;
	params.block = &p->block;
	r = wslx_aio_uring_new(&params, &p->aio);
	if (r < 0)
		return r;
	(void)TAKE_FD(fd);
	*ret = TAKE_PTR(p);
	return 0;
}

void wslx_ring_probe_free(struct wslx_ring_probe *p)
{
	if (!p)
		return;
	wslx_aio_free(p->aio);
	free(p);
}

bool wslx_ring_probe_leaks(struct wslx_ring_probe *p)
{
	return wslx_aio_uring_try_open(p->aio) != -EACCES;
}
