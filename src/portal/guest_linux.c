/* Windows and doorbells as Linux shows them: /dev/daxN.M and AF_VSOCK. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
/* Needs the former. */
#include <linux/vm_sockets.h>
#include <unistd.h>

#include "portal/guest.h"

/* The length of a number; 0: there is none. */
static size_t digits(const char *s)
{
	return strspn(s, "0123456789");
}

/* "dax0.0", and nothing else. */
static bool is_devdax(const char *name)
{
	size_t n;

	if (strncmp(name, "dax", 3) != 0)
		return false;
	name += 3;
	n = digits(name);
	if (!n || name[n] != '.')
		return false;
	name += n + 1;
	n = digits(name);
	return n && !name[n];
}

static int open_window(void *opaque, unsigned nth)
{
	DIR *dir = opendir("/dev");
	struct dirent *e;
	int fd = -ENOENT;

	if (!dir)
		return -ENOENT;
	while ((e = readdir(dir)))
		if (is_devdax(e->d_name) && nth-- == 0) {
			fd = openat(dirfd(dir), e->d_name, O_RDWR | O_CLOEXEC);
			/* Gone meanwhile: there may be others after it. */
			if (fd < 0)
				fd = errno == ENOENT ? -ENODEV : -errno;
			break;
		}
	closedir(dir);
	return fd;
}

static int open_bell(void *opaque, uint32_t port)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_HOST };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

static int map(void *opaque, void *at, size_t len, int prot, int fd, uint64_t off)
{
	return mmap(at, len, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)off) == MAP_FAILED ? -errno : 0;
}

const struct wslx_portal_guest_os wslx_portal_guest_linux = { .open_window = open_window,
							      .open_bell = open_bell,
							      .map = map };
