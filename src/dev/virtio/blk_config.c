/* virtio-blk: features and configuration space (virtio 1.2, 5.2.3 and 5.2.4). */
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio/blk_internal.h"

uint64_t wslx_blk_features(struct wslx_vdev *d)
{
	struct blk *blk = blk_of(d);
	uint64_t f = WSLX_VIRTIO_F_INDIRECT_DESC | WSLX_VIRTIO_F_EVENT_IDX | BLK_F_SEG_MAX | BLK_F_BLK_SIZE |
		     BLK_F_TOPOLOGY | BLK_F_FLUSH | BLK_F_MQ;

	if (blk->readonly)
		f |= BLK_F_RO;
	else
		f |= BLK_F_CONFIG_WCE | BLK_F_DISCARD | BLK_F_WRITE_ZEROES;
	return f;
}

bool wslx_blk_write_through(const struct blk *blk)
{
	if (blk->d.acked & BLK_F_CONFIG_WCE)
		return !blk->writeback;
	return !(blk->d.acked & BLK_F_FLUSH);
}

static unsigned log2_of(uint32_t v)
{
	return (unsigned)__builtin_ctz(v);
}

void wslx_blk_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
	struct blk *blk = blk_of(d);
	/* The fields of features that are not offered stay zero; the layout
	 * goes on to the end of virtio 1.3's, which some front ends read. */
	uint8_t c[BLK_CONFIG_LEN] = { 0 };
	uint32_t gran = blk->backend->granularity;

	if (off > sizeof(c) || len > sizeof(c) - off)
		return;
	wslx_put_le64(c, blk->backend->size / WSLX_BLOCK_SECTOR);
	wslx_put_le32(c + 12, BLK_SEG_MAX);
	wslx_put_le32(c + 20, WSLX_BLOCK_SECTOR);                                 /* blk_size */
	c[24] = (uint8_t)(log2_of((uint32_t)WSLX_PAGE_SIZE / WSLX_BLOCK_SECTOR)); /* physical_block_exp */
	wslx_put_le16(c + 26, (uint16_t)(WSLX_PAGE_SIZE / WSLX_BLOCK_SECTOR));    /* min_io_size */
	wslx_put_le32(c + 28, gran / WSLX_BLOCK_SECTOR);                          /* opt_io_size */
	c[BLK_CONFIG_WRITEBACK] = blk->writeback;
	wslx_put_le16(c + 34, (uint16_t)d->n_queues);
	if (!blk->readonly) {
		wslx_put_le32(c + 36, BLK_MAX_RANGE_SECTORS);
		wslx_put_le32(c + 40, BLK_MAX_RANGES);
		wslx_put_le32(c + 44, gran / WSLX_BLOCK_SECTOR);
		wslx_put_le32(c + 48, BLK_MAX_RANGE_SECTORS);
		wslx_put_le32(c + 52, BLK_MAX_RANGES);
		c[56] = 1; /* write_zeroes_may_unmap */
	}
	memcpy(buf, c + off, len);
}

/* Only `writeback` can be written, and only if CONFIG_WCE was negotiated. */
void wslx_blk_config_write(struct wslx_vdev *d, uint32_t off, const void *buf, uint32_t len)
{
	struct blk *blk = blk_of(d);

	if (!(d->acked & BLK_F_CONFIG_WCE))
		return;
	if (off <= BLK_CONFIG_WRITEBACK && BLK_CONFIG_WRITEBACK - off < len)
		blk->writeback = ((const uint8_t *)buf)[BLK_CONFIG_WRITEBACK - off] & 1;
}
