/* Framing of vhost-user messages.  Trust boundary: see server.c. */
#include "dev/vhost_user/msg.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"

void wslx_vhu_msg_clear(struct vhu_msg *m)
{
	for (size_t i = 0; i < m->n_fds; i++)
		wslx_close(&m->fds[i]);
	m->n_fds = 0;
	m->got = 0;
	m->request = m->flags = m->size = 0;
}

/* Descriptors may come with any byte of a message; all are counted together. */
static ssize_t recv_part(int sock, struct vhu_msg *m, void *buf, size_t len)
{
	size_t n_fds = VHU_MAX_FDS - m->n_fds;
	ssize_t r;

	do {
		n_fds = VHU_MAX_FDS - m->n_fds;
		r = wslx_recv_fds(sock, buf, len, m->fds + m->n_fds, &n_fds, MSG_DONTWAIT);
	} while (r == -EINTR);
	if (r >= 0)
		m->n_fds += n_fds;
	return r;
}

static int check_header(struct vhu_msg *m)
{
	m->request = wslx_get_le32(m->hdr);
	m->flags = wslx_get_le32(m->hdr + 4);
	m->size = wslx_get_le32(m->hdr + 8);
	if ((m->flags & VHU_VERSION_MASK) != VHU_VERSION || (m->flags & VHU_FLAG_REPLY) || m->size > VHU_PAYLOAD_MAX)
		return -EPROTO;
	return 0;
}

int wslx_vhu_msg_recv(int sock, struct vhu_msg *m)
{
	while (m->got < VHU_HDR_LEN + m->size || m->got < VHU_HDR_LEN) {
		bool in_hdr = m->got < VHU_HDR_LEN;
		size_t left = in_hdr ? VHU_HDR_LEN - m->got : VHU_HDR_LEN + m->size - m->got;
		ssize_t r = recv_part(sock, m, in_hdr ? m->hdr + m->got : m->payload + (m->got - VHU_HDR_LEN), left);

		if (r < 0)
			return (int)r;
		if (r == 0)
			return m->got ? -EPROTO : 0;
		m->got += (size_t)r;
		if (in_hdr && m->got == VHU_HDR_LEN) {
			int e = check_header(m);

			if (e < 0)
				return e;
		}
	}
	return 1;
}

int wslx_vhu_msg_send(int sock, uint32_t request, uint32_t flags, const void *payload, uint32_t size)
{
	uint8_t buf[VHU_HDR_LEN + VHU_PAYLOAD_MAX];
	ssize_t r;

	if (size > VHU_PAYLOAD_MAX)
		return -EMSGSIZE;
	wslx_put_le32(buf, request);
	wslx_put_le32(buf + 4, flags | VHU_VERSION);
	wslx_put_le32(buf + 8, size);
	if (size)
		memcpy(buf + VHU_HDR_LEN, payload, size);
	do {
		r = send(sock, buf, VHU_HDR_LEN + size, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (r < 0 && errno == EINTR);
	if (r < 0 && errno != EAGAIN)
		return -errno;
	return r == (ssize_t)(VHU_HDR_LEN + size) ? 0 : -EPROTO;
}
