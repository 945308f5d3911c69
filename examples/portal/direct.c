/* Reads the beginning of a file past the page cache, straight into a region: the disk writes where all others look.
 * usage: direct REGION FILE NAME: the bytes are then the region's object NAME, until standard input ends. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wslx/portal.h>

#define SIZE (1 << 20)

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .name = "direct" };
	ssize_t n;
	portal *p;
	void *to;
	int fd, r;

	if (argc != 4)
		return 2;
	a.region = argv[1];
	fd = open(argv[2], O_RDONLY | O_DIRECT);
	r = fd < 0 ? -errno : portal_attach(&a, &p);
	if (r == 0)
		r = portal_create(p, argv[3], SIZE, NULL, &to);
	n = r == 0 ? read(fd, to, SIZE) : r;
	if (n < 0) {
		fprintf(stderr, "direct: %s\n", strerror(r ? -r : errno));
		return 1;
	}
	printf("%zd\n", n);
	fflush(stdout);
	while (getchar() != EOF)
		;
	portal_detach(p);
	return 0;
}
