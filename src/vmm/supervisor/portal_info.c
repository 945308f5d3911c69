/*
 * The information block of Linux's libnvdimm for a "device dax" namespace
 * (struct nd_pfn_sb, drivers/nvdimm/pfn.h).  All numbers little-endian:
 *
 *      0  16 bytes  signature
 *     16  16 bytes  uuid
 *     32  16 bytes  uuid of the parent: nothing, for a region without labels
 *     48  u32       flags, 0
 *     52  u16, u16  version 1.4
 *     56  u64       offset of the data
 *     64  u64       pages of data
 *     72  u32       mode: where the page structures are; 1: in RAM
 *     76  u32, u32  padding at start and end, 0
 *     84  u32       alignment of mappings
 *     88  u32       page size
 *     92  u16       size of a page structure
 *   4088  u64       checksum: Fletcher-64 of the rest, in 32-bit words
 */
#include "base/bytes.h"
#include "vmm/supervisor/portal_internal.h"

#define MODE_RAM 1u
#define PAGE_STRUCT 64u
#define AT_CHECKSUM (PORTAL_INFO_SIZE - 8)

static uint64_t fletcher64(const uint8_t *p, size_t n)
{
	uint32_t lo = 0;
	uint64_t hi = 0;

	for (size_t i = 0; i < n; i += 4) {
		lo += wslx_get_le32(p + i);
		hi += lo;
	}
	return hi << 32 | lo;
}

void wslx_vmportal_info_block(uint64_t window, const uint8_t uuid[16], uint8_t ret[PORTAL_INFO_SIZE])
{
	memset(ret, 0, PORTAL_INFO_SIZE);
	memcpy(ret, "NVDIMM_DAX_INFO", 16);
	memcpy(ret + 16, uuid, 16);
	wslx_put_le16(ret + 52, 1);
	wslx_put_le16(ret + 54, 4);
	wslx_put_le64(ret + 56, WSLX_WINDOW_DATA);
	wslx_put_le64(ret + 64, (window - WSLX_WINDOW_DATA) / WSLX_PAGE_SIZE);
	wslx_put_le32(ret + 72, MODE_RAM);
	wslx_put_le32(ret + 84, (uint32_t)WSLX_WINDOW_SEGMENT);
	wslx_put_le32(ret + 88, (uint32_t)WSLX_PAGE_SIZE);
	wslx_put_le16(ret + 92, PAGE_STRUCT);
	wslx_put_le64(ret + AT_CHECKSUM, fletcher64(ret, PORTAL_INFO_SIZE));
}
