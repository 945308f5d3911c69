/* The chain walker over memory that the input filled: whatever a ring says,
 * what comes out lies in guest memory and is bounded. */
#include "dev/virtio/iov.h"
#include "vdev.h"

/* The input is guest memory from here on: available ring, descriptors, tables. */
#define IMAGE_AT 0x1000u
#define AVAIL_AT 0x1000u
#define USED_AT 0x20000u

static void check(const struct wslx_chain *c)
{
	uint64_t out = 0, in = 0;

	if (c->n_out + c->n_in > WSLX_VQ_MAX_CHAIN || c->head >= 1024)
		abort();
	for (unsigned i = 0; i < c->n_out + c->n_in; i++) {
		const uint8_t *p = c->iov[i].iov_base;
		size_t n = c->iov[i].iov_len;

		if (!n || p < fz_mem || p >= fz_mem + FZ_MEM || n > (size_t)(fz_mem + FZ_MEM - p))
			abort();
		if (i < c->n_out)
			out += n;
		else
			in += n;
	}
	if (out != c->out_len || in != c->in_len)
		abort();
}

/* The cursors see the same bytes, wherever they start. */
static void check_cursors(const struct wslx_chain *c, uint32_t off, uint32_t len)
{
	static uint8_t buf[4096], sliced[4096];
	static struct iovec out[WSLX_VQ_MAX_CHAIN];
	size_t want = len % sizeof(buf), got = wslx_iov_read(c->iov, c->n_out, off, buf, want), k = 0;
	uint64_t have;
	unsigned n = wslx_iov_slice(c->iov, c->n_out, off, want, out, WSLX_VQ_MAX_CHAIN, &have);

	if (got != (off < c->out_len ? WSLX_MIN(c->out_len - off, (uint64_t)want) : 0) || have != got)
		abort();
	for (unsigned i = 0; i < n; i++) {
		memcpy(sliced + k, out[i].iov_base, out[i].iov_len);
		k += out[i].iov_len;
	}
	if (k != got || memcmp(buf, sliced, got) != 0)
		abort();
	if (wslx_iov_write(c->iov + c->n_out, c->n_in, off, buf, want) !=
	    (off < c->in_len ? WSLX_MIN(c->in_len - off, (uint64_t)want) : 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct wslx_chain chain;
	struct input in = { data, n };
	uint8_t flags = in_u8(&in);
	uint16_t size = (uint16_t)(1u << (flags % 11));
	struct wslx_vq vq = { 0 };
	uint64_t desc_at = (AVAIL_AT + 6 + 2u * size + 15) & ~15u;
	unsigned popped = 0;

	memset(fz_mem, 0, 0x24000);
	in_bytes(&in, fz_mem + IMAGE_AT, in.n < 0x1f000 ? in.n : 0x1f000);
	if (wslx_vq_enable(&vq, fz_gm, size, wslx_gpa(desc_at), wslx_gpa(AVAIL_AT), wslx_gpa(USED_AT), flags & 0x80) <
	    0)
		return 0;
	wslx_vq_disable_kick(&vq);
	while (popped < 2048) {
		int r = wslx_vq_pop(&vq, &chain);

		if (r < 0)
			break;
		if (r == 0) {
			if (!wslx_vq_enable_kick(&vq))
				break;
			continue;
		}
		check(&chain);
		if (popped < 64)
			check_cursors(&chain, popped % 3 ? (uint32_t)chain.out_len / 2 : flags, 16u << popped % 8);
		popped++;
		if (popped % 7 == 3) {
			wslx_vq_unpop(&vq);
			if (wslx_vq_pop(&vq, &chain) < 0)
				break;
		}
		if (popped % 5 == 2)
			wslx_vq_push_many(&vq, (const uint16_t[]) { chain.head, chain.head },
					  (const uint32_t[]) { 1, (uint32_t)chain.in_len }, 2);
		else
			wslx_vq_push(&vq, chain.head, (uint32_t)chain.in_len);
		(void)wslx_vq_should_notify(&vq);
	}
	wslx_vq_disable(&vq);
	if (wslx_vq_pop(&vq, &chain) != 0 || wslx_vq_should_notify(&vq) || wslx_vq_enable_kick(&vq) ||
	    wslx_vq_rewalk(&vq, 0, &chain) == 0)
		abort();
	return 0;
}
