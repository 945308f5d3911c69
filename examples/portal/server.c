/* Doubles numbers: the small ones inline, a whole array by handle.  usage: server [REGION], as client */
#include <wslx/portal.h>

#include "need.h"

/* Bulk: read in place, answered with memory of one's own. */
static int double_many(portal *p, const struct portal_bytes *in, struct portal_bytes *out)
{
	const int *from;
	int *to, r = portal_resolve(p, in->bulk, in->bulk_size, (const void **)&from);

	if (r == 0)
		r = portal_alloc(p, in->bulk_size, &out->bulk, (void **)&to);
	for (size_t i = 0; r == 0 && i < in->bulk_size / sizeof(int); i++)
		to[i] = 2 * from[i];
	out->bulk_size = r == 0 ? in->bulk_size : 0;
	return r;
}

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .region = argc > 1 ? argv[1] : "example", .name = "server" };
	struct portal_rpc_request q;
	portal_rpc_server *s;
	portal *p;
	int r, n;

	need("server: portal_attach", portal_attach(&a, &p));
	need("server: portal_rpc_serve 'double'", portal_rpc_serve(p, "double", &s));
	while ((r = portal_rpc_next(s, &q, PORTAL_FOREVER)) == 0 && q.method != 0) {
		struct portal_bytes out = { 0 };

		if (q.in.bulk.generation) {
			r = tell("server: doubling in bulk", double_many(p, &q.in, &out));
		} else if (q.in.size == sizeof(n)) {
			n = 2 * *(const int *)q.in.data;
			out = (struct portal_bytes) { .data = &n, .size = sizeof(n) };
		}
		tell("server: portal_rpc_reply", portal_rpc_reply(s, &q, r, &out));
	}
	need("server: portal_rpc_next", r);
	portal_rpc_server_free(s);
	portal_detach(p);
	return 0;
}
