#include "vmm/link.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"

#define HEADER_LEN 28

/* The types that carry a descriptor; all others carry none, whatever m->fd says. */
static bool takes_fd(uint32_t type)
{
	return type == WSLX_LINK_CONNECT_OK || type == WSLX_LINK_NET_FD || type == WSLX_LINK_WINDOW_MAP;
}

int wslx_link_send(int sock, const struct wslx_link_msg *m)
{
	uint8_t buf[HEADER_LEN + WSLX_LINK_TEXT_MAX];
	size_t n = HEADER_LEN + m->text_len;
	ssize_t r;

	if (m->text_len > WSLX_LINK_TEXT_MAX)
		return -EMSGSIZE;
	if (takes_fd(m->type) && m->fd < 0)
		return -EBADF;
	wslx_put_le32(buf, m->type);
	wslx_put_le32(buf + 4, m->id);
	wslx_put_le64(buf + 8, m->a);
	wslx_put_le64(buf + 16, m->b);
	wslx_put_le32(buf + 24, (uint32_t)m->text_len);
	memcpy(buf + HEADER_LEN, m->text, m->text_len);
	r = wslx_send_fds(sock, buf, n, &m->fd, takes_fd(m->type) ? 1 : 0, MSG_NOSIGNAL);
	if (r < 0)
		return (int)r;
	return (size_t)r == n ? 0 : -EPROTO;
}

static int decode(const uint8_t *buf, size_t n, struct wslx_link_msg *m)
{
	if (n < HEADER_LEN)
		return -EPROTO;
	m->type = wslx_get_le32(buf);
	m->id = wslx_get_le32(buf + 4);
	m->a = wslx_get_le64(buf + 8);
	m->b = wslx_get_le64(buf + 16);
	m->text_len = wslx_get_le32(buf + 24);
	if (m->text_len != n - HEADER_LEN)
		return -EPROTO;
	memcpy(m->text, buf + HEADER_LEN, m->text_len);
	m->text[m->text_len] = '\0';
	if ((m->fd >= 0) != takes_fd(m->type))
		return -EPROTO;
	return 0;
}

int wslx_link_recv(int sock, struct wslx_link_msg *ret)
{
	/* One byte more than a message may have: a longer one shows. */
	uint8_t buf[HEADER_LEN + WSLX_LINK_TEXT_MAX + 1];
	cleanup_close int fd = -1;
	size_t n_fds = 1;
	ssize_t n = wslx_recv_fds(sock, buf, sizeof(buf), &fd, &n_fds, 0);
	int r;

	if (!n_fds)
		fd = -1;
	if (n < 0)
		return (int)n;
	if (n == 0)
		return fd >= 0 ? -EPROTO : 0;
	ret->fd = fd;
	r = (size_t)n > HEADER_LEN + WSLX_LINK_TEXT_MAX ? -EPROTO : decode(buf, (size_t)n, ret);
	if (r < 0) {
		ret->fd = -1;
		return r;
	}
	(void)TAKE_FD(fd);
	return 1;
}
