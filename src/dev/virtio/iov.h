/* Cutting iovec arrays, for devices that hand guest buffers to the kernel. */
#ifndef WSLX_DEV_VIRTIO_IOV_H
#define WSLX_DEV_VIRTIO_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Fills out[0..max) with the bytes [off, off + len) of iov.  Returns how many
 * entries were used; *ret_len is the number of bytes they cover, which is less
 * than len when iov or out ends before. */
static inline unsigned wslx_iov_slice(const struct iovec *iov, unsigned n_iov, uint64_t off, uint64_t len,
				      struct iovec *out, unsigned max, uint64_t *ret_len)
{
	unsigned n = 0;
	uint64_t done = 0;

	for (unsigned i = 0; i < n_iov && n < max && done < len; i++) {
		uint64_t take;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		take = iov[i].iov_len - off;
		if (take > len - done)
			take = len - done;
		out[n].iov_base = (char *)iov[i].iov_base + off;
		out[n].iov_len = (size_t)take;
		n++;
		done += take;
		off = 0;
	}
	*ret_len = done;
	return n;
}

#endif
