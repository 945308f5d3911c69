/* Where a process is to run. */
#include <poll.h>

#include "agent/core.h"

bool wslx_place_ended(const struct wslx_guest_place *place)
{
	struct pollfd p = { .fd = place->pidfd, .events = POLLIN };

	return place->pidfd >= 0 && poll(&p, 1, 0) > 0;
}
