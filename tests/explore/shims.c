/* Memory for one run, and what the explored sources call and do not get to run here. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "explore.h"
#include "os/linux/fd.h"
#include "portal/guest.h"
#include "portal/internal.h"

#define POOL (256u * 1024)

struct allocation {
	size_t n;
	uint64_t live;
};

static _Alignas(16) uint8_t pool[POOL];
static size_t used;

void ex_forget_allocations(void)
{
	used = 0;
	ex_region(pool, sizeof(pool)); /* channels have words in them that several threads look at */
}

void *explore_calloc(size_t n, size_t size)
{
	struct allocation *a = (struct allocation *)(void *)(pool + used);
	size_t total = (n * size + 15) & ~(size_t)15;

	if (total > POOL - used - sizeof(*a))
		ex_fail("out of memory");
	used += sizeof(*a) + total;
	*a = (struct allocation) { total, 1 };
	return memset(a + 1, 0, total);
}

/* Nothing is given out twice in a run: who looks at it later sees rubbish. */
void explore_free(void *p)
{
	struct allocation *a = (struct allocation *)p - 1;

	if (!p)
		return;
	if (!a->live)
		ex_fail("freed twice");
	a->live = 0;
	memset(p, 0xa5, a->n);
}

/* Regions here are mapped from the beginning, as by a transport: no broker's socket, no window. */
ssize_t wslx_recv_fds(int fd, void *buf, size_t n, int *fds, size_t *n_fds, int flags)
{
	return -EPIPE;
}

bool wslx_portal_window_news(const struct wslx_portal_window *w)
{
	return false;
}

bool wslx_portal_window_holds(const struct wslx_portal_window *w, unsigned index, uint64_t generation)
{
	return false;
}

int wslx_portal_window_sync(portal *p)
{
	return -EPIPE;
}
