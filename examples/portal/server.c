/* Doubles numbers: one inline, many by handle, answered with memory of its own.  usage: server [REGION], as client */
#include <wslx/portal.h>

#include "need.h"

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
	int n = 0;

	need("server: portal_attach", portal_attach(&a, &p));
	need("server: portal_rpc_serve 'double'", portal_rpc_serve(p, "double", &s));
	while (need("server: portal_rpc_next", portal_rpc_next(s, &q, PORTAL_FOREVER)), q.method != 0) {
		struct portal_bytes out = { .data = &n, .size = q.in.size == sizeof(n) ? sizeof(n) : 0 };
		int r = q.in.bulk.generation ? tell("server: doubling in bulk", double_many(p, &q.in, &out)) : 0;

		if (out.size)
			n = 2 * *(const int *)q.in.data;
		tell("server: portal_rpc_reply", portal_rpc_reply(s, &q, r, &out));
	}
	portal_rpc_server_free(s);
	portal_detach(p);
	return 0;
}
