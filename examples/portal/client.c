/* Has a number doubled, and a million of them without copying.  usage: client [REGION], on the host or in a machine */
#include <wslx/portal.h>

#include "need.h"

#define MANY 1000000

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .region = argc > 1 ? argv[1] : "example", .name = "client" };
	int n = 21, answer = 0, *numbers, r;
	const int *doubled = NULL;
	struct portal_bytes in = { .data = &n, .size = sizeof(n) }, out;
	portal_rpc *c;
	portal *p;

	need("client: portal_attach", portal_attach(&a, &p));
	need("client: portal_rpc_connect to 'double'", portal_rpc_connect(p, "double", 5000000000, &c));
	need("client: portal_rpc_call", portal_rpc_call(c, 1, &in, &answer, sizeof(answer), &out, 1000000000));
	printf("%d\n", answer);

	in = (struct portal_bytes) { .bulk_size = MANY * sizeof(int) };
	need("client: portal_alloc", portal_alloc(p, in.bulk_size, &in.bulk, (void **)&numbers));
	for (int i = 0; i < MANY; i++)
		numbers[i] = i;
	need("client: portal_rpc_call in bulk", portal_rpc_call(c, 1, &in, NULL, 0, &out, 5000000000));
	need("client: portal_resolve", portal_resolve(p, out.bulk, in.bulk_size, (const void **)&doubled));
	printf("%d\n", doubled[MANY - 1]);
	/* Ends the server, which does not answer. */
	r = portal_rpc_call(c, 0, NULL, NULL, 0, &out, 5000000000);
	if (r != -EPIPE)
		need("client: portal_rpc_call to end it", r);
	portal_rpc_free(c);
	portal_detach(p);
	return 0;
}
