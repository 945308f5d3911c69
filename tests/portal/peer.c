/* Echoes records of whoever connects to "echo", in capitals, until there is an empty one.  usage: peer SOCKET */
#include <ctype.h>
#include <stdio.h>
#include <wslx/portal.h>

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .path = argc > 1 ? argv[1] : "", .name = "peer" };
	char buf[4096];
	portal_listener *l;
	portal_chan *c;
	uint32_t type;
	portal *p;
	size_t n;

	if (portal_attach(&a, &p) < 0 || portal_listen(p, "echo", NULL, &l) < 0 ||
	    portal_accept(l, 20000000000, &c) < 0)
		return 1;
	while (portal_recv(c, &type, buf, sizeof(buf), &n, 20000000000) == 0 && n) {
		for (size_t i = 0; i < n; i++)
			buf[i] = (char)toupper(buf[i]);
		if (portal_send(c, type + 1, buf, n, 20000000000) < 0)
			return 2;
	}
	portal_chan_free(c);
	portal_listener_free(l);
	portal_detach(p);
	return 0;
}
