/* Has a number doubled, and a million of them without copying.  usage: client [REGION], on the host or in a machine */
#include <stdio.h>
#include <wslx/portal.h>

#define MANY 1000000

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .region = argc > 1 ? argv[1] : "example", .name = "client" };
	int n = 21, answer = 0, *numbers;
	const int *doubled = NULL;
	struct portal_bytes in = { .data = &n, .size = sizeof(n) }, out;
	portal_rpc *r;
	portal *p;

	if (portal_attach(&a, &p) < 0 || portal_rpc_connect(p, "double", 5000000000, &r) < 0)
		return 1;
	if (portal_rpc_call(r, 1, &in, &answer, sizeof(answer), &out, 1000000000) < 0)
		return 1;
	printf("%d\n", answer);

	in = (struct portal_bytes) { .bulk_size = MANY * sizeof(int) };
	if (portal_alloc(p, in.bulk_size, &in.bulk, (void **)&numbers) < 0)
		return 1;
	for (int i = 0; i < MANY; i++)
		numbers[i] = i;
	if (portal_rpc_call(r, 1, &in, NULL, 0, &out, 5000000000) < 0 ||
	    portal_resolve(p, out.bulk, in.bulk_size, (const void **)&doubled) < 0)
		return 1;
	printf("%d\n", doubled[MANY - 1]);
	portal_rpc_call(r, 0, NULL, NULL, 0, &out, 5000000000); /* ends the server, which does not answer */
	portal_rpc_free(r);
	portal_detach(p);
	return 0;
}
