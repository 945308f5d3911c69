/* Byte cursors over guest buffers. */
#include <string.h>

#include "dev/virtio/vq.h"

/* Copies between buf and [off, off + n) of iov; to_iov: the direction. */
static size_t copy(const struct iovec *iov, unsigned n_iov, uint64_t off, void *buf, size_t n, bool to_iov)
{
	size_t done = 0;

	for (unsigned i = 0; i < n_iov && done < n; i++) {
		size_t part;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		part = iov[i].iov_len - (size_t)off;
		part = WSLX_MIN(part, n - done);
		if (to_iov)
			memcpy((char *)iov[i].iov_base + off, (char *)buf + done, part);
		else
			memcpy((char *)buf + done, (char *)iov[i].iov_base + off, part);
		done += part;
		off = 0;
	}
	return done;
}

size_t wslx_iov_read(const struct iovec *iov, unsigned n_iov, uint64_t off, void *buf, size_t n)
{
	return copy(iov, n_iov, off, buf, n, false);
}

size_t wslx_iov_write(const struct iovec *iov, unsigned n_iov, uint64_t off, const void *buf, size_t n)
{
	return copy(iov, n_iov, off, (void *)(uintptr_t)buf, n, true);
}
