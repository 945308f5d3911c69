/* Writes an object's bytes to standard output.  usage: cat REGION NAME, on the host or in a machine */
#include <wslx/portal.h>

#include "need.h"

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .name = "cat" };
	struct portal_object o;
	const void *at;
	portal *p;

	if (argc != 3) {
		fputs("usage: cat REGION NAME\n", stderr);
		return 2;
	}
	a.region = argv[1];
	need("cat: portal_attach", portal_attach(&a, &p));
	need("cat: portal_wait_for", portal_wait_for(p, argv[2], 5000000000, &o));
	need("cat: portal_map", portal_map(p, &o, &at, NULL));
	if (fwrite(at, 1, o.size, stdout) != o.size || fflush(stdout))
		need("cat: write", -errno);
	portal_detach(p);
	return 0;
}
