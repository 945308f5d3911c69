/* Doubles numbers: the small ones inline, a whole array by handle.  usage: server [REGION], as client */
#include <stdio.h>
#include <wslx/portal.h>

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .region = argc > 1 ? argv[1] : "example", .name = "server" };
	struct portal_rpc_request q;
	portal_rpc_server *s;
	portal *p;

	if (portal_attach(&a, &p) < 0 || portal_rpc_serve(p, "double", &s) < 0)
		return 1;
	while (portal_rpc_next(s, &q, PORTAL_FOREVER) == 0) {
		struct portal_bytes out = { 0 };
		const int *in = q.in.data;
		void *to;
		int n;

		if (q.method == 0)
			break;
		if (q.in.bulk.generation) {
			/* Bulk: read in place, answered with memory of one's own. */
			if (portal_resolve(p, q.in.bulk, q.in.bulk_size, (const void **)&in) < 0 ||
			    portal_alloc(p, q.in.bulk_size, &out.bulk, &to) < 0)
				continue;
			for (size_t i = 0; i < q.in.bulk_size / sizeof(int); i++)
				((int *)to)[i] = 2 * in[i];
			out.bulk_size = q.in.bulk_size;
		} else if (q.in.size == sizeof(n)) {
			n = 2 * *in;
			out = (struct portal_bytes) { .data = &n, .size = sizeof(n) };
		}
		portal_rpc_reply(s, &q, 0, &out);
	}
	portal_rpc_server_free(s);
	portal_detach(p);
	return 0;
}
