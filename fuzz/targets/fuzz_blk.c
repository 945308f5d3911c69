/* virtio-blk over an overlay under a hostile driver. */
#include <sys/mman.h>
#include <unistd.h>

#include "dev/backend/overlay_internal.h"
#include "dev/virtio/blk.h"
#include "sync_aio.h"
#include "vdev.h"

#define SECTORS 700u /* some clusters, the last one in part */
#define BASE_SIZE 100000

/* A request that is sound but for what the input chooses. */
static void special(struct wslx_vdev *d, struct input *in, unsigned q)
{
	static const uint32_t types[] = { 0, 1, 4, 8, 11, 13, 1, 0 };
	uint8_t how = in_u8(in);
	uint64_t hdr = 0x90000 + 0x100 * (uint64_t)(how & 15), data = 0xa0000;
	uint32_t len = (uint32_t)in_u8(in) * ((how & 0x10) ? 512 : 16);
	bool write = how & 0x20;
	uint16_t first = (uint16_t)(3 * (how & 3));

	wslx_put_le32(fz_mem + hdr, types[in_u8(in) % 8]);
	wslx_put_le64(fz_mem + hdr + 8, in_u16(in) % (SECTORS + 8));
	/* For discards: ranges. */
	wslx_put_le64(fz_mem + data, in_u16(in) % (SECTORS + 8));
	wslx_put_le32(fz_mem + data + 8, in_u16(in));
	wslx_put_le32(fz_mem + data + 12, in_u8(in) & 3);
	fz_put_desc(FZ_DESC(q) + 16u * first, hdr, 16, 1, (uint16_t)(first + (len ? 1 : 2)));
	fz_put_desc(FZ_DESC(q) + 16u * (first + 1u), data, len, write ? 3 : 1, (uint16_t)(first + 2));
	fz_put_desc(FZ_DESC(q) + 16u * (first + 2u), hdr + 32, 1, 2, 0);
	fz_publish(q, first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct input in = { data, n };
	uint8_t flags = in_u8(&in);
	struct wslx_overlay_params op = { .loop = fz_loop, .readonly = flags & 1, .depth = 1 + (flags >> 4) };
	struct wslx_blk_params bp = { .loop = fz_loop, .serial = "fuzz", .queues = 1 + (flags >> 1) % 3 };
	struct wslx_vdev *d;

	op.fd = memfd_create("overlay", MFD_CLOEXEC);
	op.base_fd = memfd_create("base", MFD_CLOEXEC);
	if (op.fd < 0 || op.base_fd < 0 || ftruncate(op.base_fd, BASE_SIZE) < 0 ||
	    wslx_overlay_create(op.fd, SECTORS * 512) < 0)
		abort();
	bp.depth = op.depth;
	sync_aio_fault_every = flags & 8 ? 1 + in_u8(&in) % 16 : 0;
	sync_aio_fault = flags & 4 ? -EIO : -ENOSPC;
	if (wslx_ov_open(&op, sync_aio_new, &bp.backend, NULL) < 0 || wslx_blk_new(&bp, &d) < 0)
		abort();
	fz_run(d, &in, special);
	d->ops->free(d);
	return 0;
}
