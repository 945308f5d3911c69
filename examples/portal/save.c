/* Writes an object's bytes to a file past the page cache, straight out of the region: the disk reads where all look.
 * usage: save REGION NAME FILE, after `direct` or another has made the object, of a multiple of 4096 bytes */
#include <fcntl.h>
#include <unistd.h>
#include <wslx/portal.h>

#include "need.h"

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .name = "save" };
	struct portal_object o;
	const void *from;
	ssize_t n;
	portal *p;
	int fd;

	if (argc != 4) {
		fputs("usage: save REGION NAME FILE\n", stderr);
		return 2;
	}
	a.region = argv[1];
	fd = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0644);
	need("save: open the file", fd < 0 ? -errno : 0);
	need("save: portal_attach", portal_attach(&a, &p));
	need("save: portal_wait_for", portal_wait_for(p, argv[2], 5000000000, &o));
	need("save: portal_map", portal_map(p, &o, &from, NULL));
	n = write(fd, from, o.size);
	need("save: write", n < 0 ? -errno : 0);
	printf("%zd\n", n);
	portal_detach(p);
	return 0;
}
