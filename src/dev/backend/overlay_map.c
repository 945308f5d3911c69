/* The overlay's table and its free clusters, in memory. */
#include "dev/backend/overlay_internal.h"

/* Clusters waiting for their release to become stable, before that is hurried. */
#define MAX_FREED 1024

uint64_t wslx_ov_alloc(struct overlay *ov, uint64_t want, uint64_t *ret_phys)
{
	uint64_t max = ov->map.g.max_clusters;
	uint64_t p = wslx_ov_bit_find(ov->map.used, ov->hint, max, false);
	uint64_t n = 0;

	ov->hint = p;
	while (n < want && p + n < max && !ov_bit(ov->map.used, p + n)) {
		ov_bit_set(ov->map.used, p + n);
		n++;
	}
	ov->map.n_used += n;
	ov->hint += n;
	*ret_phys = p;
	return n;
}

void wslx_ov_unalloc(struct overlay *ov, uint64_t phys, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		ov_bit_clear(ov->map.used, phys + i);
	ov->map.n_used -= n;
	if (n && phys < ov->hint)
		ov->hint = phys;
}

void wslx_ov_set(struct overlay *ov, uint64_t i, uint64_t entry)
{
	uint64_t old = ov->map.table[i];

	if (old == entry)
		return;
	if (old > OV_ZERO) {
		/* Until the table on disk no longer points there, a crash would
		 * bring the old entry back: not free yet. */
		ov_bit_set(ov->freed, ov_phys(ov, old));
		ov->n_freed++;
	}
	ov->map.table[i] = entry;
	if (!ov_bit(ov->dirty, i / OV_PER_PAGE)) {
		ov_bit_set(ov->dirty, i / OV_PER_PAGE);
		if (!ov->n_dirty++)
			wslx_timer_arm(ov->idle, OV_IDLE_COMMIT_MS);
	}
	if (ov->n_freed == MAX_FREED)
		wslx_timer_arm(ov->idle, 0);
}
