/*
 * The host's disk is full: a guest's writes wait, and with them whoever waits
 * for the guest.  The machine says so where people look: Info, `events`.
 */
#include "base/log.h"
#include "vmm/supervisor/internal.h"

void wslx_sup_host_full(struct wslx_sup *s, unsigned disk, bool full)
{
	static struct wslx_log_limit limit;
	uint32_t before = s->full_disks, bit = UINT32_C(1) << disk;

	s->full_disks = full ? before | bit : before & ~bit;
	if (!before == !s->full_disks)
		return;
	/* At the brink it may come and go with each write. */
	if (!wslx_log_limited(&limit, WSLX_LOG_DEBUG, "host disk %s", full ? "full" : "has room"))
		return;
	wslx_report_event(&s->report, full ? "host-disk-full" : "host-disk-room",
			  full ? "the machine waits until there is room" : "");
}
