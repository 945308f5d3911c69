/* Reads the beginning of a file past the page cache, straight into a region: the disk writes where all others look.
 * usage: direct REGION FILE NAME: the bytes are then the region's object NAME, until standard input ends. */
#include <fcntl.h>
#include <unistd.h>
#include <wslx/portal.h>

#include "need.h"

#define SIZE (1 << 20)

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .name = "direct" };
	ssize_t n;
	portal *p;
	void *to;
	int fd;

	if (argc != 4) {
		fputs("usage: direct REGION FILE NAME\n", stderr);
		return 2;
	}
	a.region = argv[1];
	fd = open(argv[2], O_RDONLY | O_DIRECT);
	need("direct: open the file", fd < 0 ? -errno : 0);
	need("direct: portal_attach", portal_attach(&a, &p));
	need("direct: portal_create", portal_create(p, argv[3], SIZE, NULL, &to));
	n = read(fd, to, SIZE);
	need("direct: read", n < 0 ? -errno : 0);
	printf("%zd\n", n);
	fflush(stdout);
	while (getchar() != EOF)
		;
	portal_detach(p);
	return 0;
}
