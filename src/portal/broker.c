/*
 * The broker of a region by name, on the host: where `wslx portal create` puts
 * its socket.  The folders are those of os/linux/paths.c, which also makes
 * them; here nothing is made.
 *
 * Trust boundary: one of the folders is below /tmp, so the broker has to be a
 * process of the same user.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "os/linux/fd.h"
#include "portal/internal.h"

static int connect_in(const char *dir, const char *below, const char *name)
{
	char path[4096];
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int sock;

	if (snprintf(path, sizeof(path), "%s%s/%s.sock", dir, below, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	sock = wslx_unix_connect(path, SOCK_SEQPACKET | SOCK_CLOEXEC);
	/* No folder, or one that is another user's, is no broker. */
	if (sock == -ENOTDIR || sock == -EACCES)
		return -ENOENT;
	if (sock >= 0 && (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.uid != geteuid())) {
		close(sock);
		return -EACCES;
	}
	return sock;
}

int wslx_portal_broker_connect(const char *name)
{
	const char *home = getenv("WSLX_HOME"), *xdg = getenv("XDG_RUNTIME_DIR");
	char dir[64];
	int sock = -ENOENT;

	if (home && *home)
		return connect_in(home, "/run/portal", name);
	if (xdg && *xdg == '/')
		sock = connect_in(xdg, "/wslx/portal", name);
	if (sock == -ENOENT) {
		snprintf(dir, sizeof(dir), "/run/user/%u", (unsigned)geteuid());
		sock = connect_in(dir, "/wslx/portal", name);
	}
	if (sock == -ENOENT) {
		snprintf(dir, sizeof(dir), "/tmp/wslx-%u", (unsigned)geteuid());
		sock = connect_in(dir, "/portal", name);
	}
	return sock;
}
