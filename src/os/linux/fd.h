/* Descriptor helpers: whole reads and writes, passing over unix sockets. */
#ifndef WSLX_OS_LINUX_FD_H
#define WSLX_OS_LINUX_FD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/macros.h"

/* Until all n bytes are moved.  Returns 0, -errno, or -ENODATA on early end. */
WSLX_MUST_CHECK int wslx_read_full(int fd, void *buf, size_t n);
WSLX_MUST_CHECK int wslx_write_full(int fd, const void *buf, size_t n);
WSLX_MUST_CHECK int wslx_pread_full(int fd, void *buf, size_t n, off_t off);
WSLX_MUST_CHECK int wslx_pwrite_full(int fd, const void *buf, size_t n, off_t off);

/* A whole regular file, at most max bytes (-EFBIG), NUL-terminated for
 * convenience; caller frees. */
WSLX_MUST_CHECK int wslx_read_file(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len);
/* The same of a file that someone else made: a symbolic link is -ELOOP. */
WSLX_MUST_CHECK int wslx_read_file_nofollow(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len);

int wslx_fd_nonblock(int fd, int on);
int wslx_fd_cloexec(int fd, int on);
/* fstat() that a confined process may call: the C library's may be a call with
 * a path, which the sandbox denies.  0 or -errno. */
WSLX_MUST_CHECK int wslx_fd_stat(int fd, struct stat *ret);

#define WSLX_SCM_MAX 64

/* One message with descriptors (borrowed).  Returns bytes sent or -errno. */
WSLX_MUST_CHECK ssize_t wslx_send_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds, int flags);
/* Receives up to *n_fds descriptors (close-on-exec), sets *n_fds to the number
 * received.  Surplus descriptors are closed and -EPROTO returned; -EMFILE if
 * this process has no room for them.  In both cases the message is in buf, and
 * there are no descriptors.  Returns bytes (0 = end of stream) or -errno. */
WSLX_MUST_CHECK ssize_t wslx_recv_fds(int sock, void *buf, size_t n, int *fds, size_t *n_fds, int flags);

/* Unix stream/seqpacket sockets at paths longer than sun_path allows are
 * reached through /proc/self/fd of their directory.  type: SOCK_STREAM |
 * SOCK_CLOEXEC ...  Listening replaces a stale socket file. Mode 0600. */
WSLX_MUST_CHECK int wslx_unix_listen(const char *path, int type, int backlog);
WSLX_MUST_CHECK int wslx_unix_connect(const char *path, int type);
/* -ETIMEDOUT when the listener's queue has been full for ms: it does not
 * answer.  The limit also holds for sending, until another is set; 0 = none. */
WSLX_MUST_CHECK int wslx_unix_connect_within(const char *path, int type, unsigned ms);

#endif
