/* Several send each other numbered records.  usage: records REGION NAME PEER..., each on the host or in a machine */
#include <wslx/portal.h>

#include "need.h"

#define MANY 1000u

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .region = argv[1], .name = "records" };
	portal_chan *c[64];
	char from[PORTAL_NAME_SIZE];
	portal_listener *l;
	size_t size;
	portal *p = NULL;

	need("records REGION NAME PEER...: portal_attach", argc > 3 && argc <= 64 ? portal_attach(&a, &p) : -EINVAL);
	need("records: portal_listen", portal_listen(p, argv[2], NULL, &l));
	/* Two share a channel: who comes later in the alphabet connects. */
	for (int i = 3; i < argc; i++)
		need("records: portal_connect or portal_accept",
		     strcmp(argv[2], argv[i]) > 0 ? portal_connect(p, argv[i], 0, PORTAL_FOREVER, &c[i])
						  : portal_accept(l, PORTAL_FOREVER, &c[i]));
	/* The last one tells that all others were read: who has it, or finds its sender gone by then, may go. */
	for (uint32_t n = 0, number; n <= MANY; n++) {
		for (int i = 3; i < argc; i++) {
			int r = portal_send(c[i], n, argv[2], strlen(argv[2]), PORTAL_FOREVER);
			need("records: portal_send", n < MANY ? r : 0);
		}
		for (int i = 3; i < argc; i++) {
			int r = portal_recv(c[i], &number, from, sizeof(from), &size, PORTAL_FOREVER);
			n < MANY ? need("records: portal_recv", r) : portal_chan_free(c[i]);
			if (n < MANY)
				printf("%.*s %u\n", (int)size, from, number);
		}
	}
	portal_listener_free(l);
	portal_detach(p);
	return 0;
}
