/* A region with its socket at a path, until standard input ends: what `wslx portal create` starts, in short. */
#include <poll.h>
#include <wslx/portal.h>

#include "need.h"

int main(int argc, char **argv)
{
	struct portal_host_params q = { .size = sizeof(q),
					.name = "example",
					.path = argc > 1 ? argv[1] : "portal.sock" };
	portal_host *h;

	need("broker: portal_host_create", portal_host_create(&q, &h));
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct pollfd p[2] = { { .fd = portal_host_fd(h), .events = POLLIN }, { .fd = 0, .events = POLLIN } };

		if (poll(p, 2, -1) < 0)
			need("broker: poll", -errno);
		if (p[1].revents)
			break;
		need("broker: portal_host_dispatch", portal_host_dispatch(h, 0));
	}
	portal_host_destroy(h);
	return 0;
}
