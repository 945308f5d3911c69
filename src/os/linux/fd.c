#include "os/linux/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

int wslx_read_full(int fd, void *buf, size_t n)
{
	char *p = buf;

	while (n) {
		ssize_t r = read(fd, p, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -ENODATA;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

int wslx_write_full(int fd, const void *buf, size_t n)
{
	const char *p = buf;

	while (n) {
		ssize_t r = write(fd, p, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

int wslx_pread_full(int fd, void *buf, size_t n, off_t off)
{
	char *p = buf;

	while (n) {
		ssize_t r = pread(fd, p, n, off);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -ENODATA;
		p += r;
		off += r;
		n -= (size_t)r;
	}
	return 0;
}

int wslx_pwrite_full(int fd, const void *buf, size_t n, off_t off)
{
	const char *p = buf;

	while (n) {
		ssize_t r = pwrite(fd, p, n, off);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		p += r;
		off += r;
		n -= (size_t)r;
	}
	return 0;
}

static int read_file(int dirfd, const char *path, int flags, size_t max, char **ret, size_t *ret_len)
{
	cleanup_close int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | flags);
	cleanup_free char *data = NULL;
	struct stat st;
	size_t size;
	int r;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size < 0 || (uint64_t)st.st_size > max)
		return -EFBIG;
	size = (size_t)st.st_size;
	data = malloc(size + 1);
	if (!data)
		return -ENOMEM;
	r = wslx_read_full(fd, data, size);
	if (r < 0)
		return r;
	data[size] = '\0';
	if (ret_len)
		*ret_len = size;
	*ret = TAKE_PTR(data);
	return 0;
}

int wslx_read_file(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len)
{
	return read_file(dirfd, path, 0, max, ret, ret_len);
}

int wslx_read_file_nofollow(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len)
{
	return read_file(dirfd, path, O_NOFOLLOW, max, ret, ret_len);
}

int wslx_fd_nonblock(int fd, int on)
{
	int fl = fcntl(fd, F_GETFL);

	if (fl < 0 || fcntl(fd, F_SETFL, on ? fl | O_NONBLOCK : fl & ~O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

int wslx_fd_cloexec(int fd, int on)
{
	if (fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0) < 0)
		return -errno;
	return 0;
}

int wslx_fd_stat(int fd, struct stat *ret)
{
	/* The C library's structure is the kernel's where files are 64-bit from the start. */
	return syscall(SYS_fstat, fd, ret) < 0 ? -errno : 0;
}

ssize_t wslx_send_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds, int flags)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * WSLX_SCM_MAX)];
	} ctl = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t r;

	if (n_fds > WSLX_SCM_MAX)
		return -EINVAL;
	if (n_fds) {
		struct cmsghdr *c;

		msg.msg_control = ctl.space;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	do
		r = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static int collect_fds(struct msghdr *msg, int *fds, size_t max, size_t *ret_n)
{
	int r = 0;
	size_t got = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (got < max) {
				fds[got++] = fd;
			} else {
				close(fd);
				r = -EPROTO;
			}
		}
	}
	/* Less than was sent: there were no numbers for them, or they were more than anybody sends. */
	if (r == 0 && msg->msg_flags & MSG_CTRUNC)
		r = got < WSLX_SCM_MAX ? -EMFILE : -EPROTO;
	while (r < 0 && got)
		wslx_close(&fds[--got]);
	*ret_n = got;
	return r;
}

ssize_t wslx_recv_fds(int sock, void *buf, size_t n, int *fds, size_t *n_fds, int flags)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * WSLX_SCM_MAX)];
	} ctl;
	struct iovec iov = { .iov_base = buf, .iov_len = n };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = ctl.space,
		.msg_controllen = sizeof(ctl.space),
	};
	size_t max = *n_fds;
	ssize_t r;
	int c;

	*n_fds = 0;
	do
		r = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	c = collect_fds(&msg, fds, max, n_fds);
	return c < 0 ? c : r;
}

/* Fills addr for path; *dirfd stays open while the address is in use. */
static int unix_addr(const char *path, struct sockaddr_un *addr, int *dirfd)
{
	cleanup_free char *dup = strdup(path);
	const char *base;
	int n;

	*addr = (struct sockaddr_un) { .sun_family = AF_UNIX };
	if (!dup)
		return -ENOMEM;
	if (strlen(path) < sizeof(addr->sun_path)) {
		strcpy(addr->sun_path, path);
		return 0;
	}
	base = strrchr(path, '/');
	if (!base)
		return -ENAMETOOLONG;
	*dirfd = open(dirname(dup), O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*dirfd < 0)
		return -errno;
	n = snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d%s", *dirfd, base);
	return n < 0 || (size_t)n >= sizeof(addr->sun_path) ? -ENAMETOOLONG : 0;
}

int wslx_unix_listen(const char *path, int type, int backlog)
{
	cleanup_close int fd = -1, dirfd = -1;
	struct sockaddr_un addr;
	mode_t old;
	int r = unix_addr(path, &addr, &dirfd);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (unlink(addr.sun_path) < 0 && errno != ENOENT)
		return -errno;
	old = umask(0177);
	r = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
	umask(old);
	if (r < 0)
		return r;
	if (listen(fd, backlog) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int wslx_unix_connect(const char *path, int type)
{
	return wslx_unix_connect_within(path, type, 0);
}

int wslx_unix_connect_within(const char *path, int type, unsigned ms)
{
	const struct timeval limit = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000L };
	cleanup_close int fd = -1, dirfd = -1;
	struct sockaddr_un addr;
	int r = unix_addr(path, &addr, &dirfd);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* connect() waits for a place in the listener's queue as send() does. */
	if (ms && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return -errno;
	do
		r = connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
	while (r == -EINTR);
	if (r < 0)
		return r == -EAGAIN && ms ? -ETIMEDOUT : r;
	return TAKE_FD(fd);
}
