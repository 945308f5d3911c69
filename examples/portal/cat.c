/* Writes an object's bytes to standard output.  usage: cat REGION NAME, on the host or in a machine */
#include <stdio.h>
#include <string.h>
#include <wslx/portal.h>

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .name = "cat" };
	struct portal_object o;
	const void *at;
	portal *p;
	int r;

	if (argc != 3)
		return 2;
	a.region = argv[1];
	r = portal_attach(&a, &p);
	if (r == 0)
		r = portal_wait_for(p, argv[2], 5000000000, &o);
	if (r == 0)
		r = portal_map(p, &o, &at, NULL);
	if (r < 0) {
		fprintf(stderr, "cat: %s\n", strerror(-r));
		return 1;
	}
	if (fwrite(at, 1, o.size, stdout) != o.size || fflush(stdout))
		return 1;
	portal_detach(p);
	return 0;
}
