/* One packet from the link's other end, and a child's JSON parameters: both decoders. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "json_mutator.h"
#include "os/linux/fd.h"
#include "vmm/child.h"
#include "vmm/link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return jm_mutate(data, size, max, seed, 0);
}

/* What was received can be sent, and arrives as it was. */
static void send_back(const int pair[2], const struct wslx_link_msg *m)
{
	static struct wslx_link_msg again;

	if (wslx_link_send(pair[1], m) < 0 || wslx_link_recv(pair[0], &again) != 1)
		abort();
	if (again.type != m->type || again.id != m->id || again.a != m->a || again.b != m->b ||
	    again.text_len != m->text_len || memcmp(again.text, m->text, m->text_len) != 0 ||
	    (again.fd >= 0) != (m->fd >= 0))
		abort();
	if (again.fd >= 0)
		close(again.fd);
}

static void packet(const uint8_t *data, size_t size)
{
	static int pair[2] = { -1, -1 };
	struct wslx_link_msg m;
	int fd = STDERR_FILENO;
	bool with_fd;

	if (pair[0] < 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		abort();
	if (size < 2)
		return;
	with_fd = data[0] & 1;
	if (wslx_send_fds(pair[0], data + 1, size - 1, &fd, with_fd, 0) < 0)
		return;
	if (wslx_link_recv(pair[1], &m) != 1)
		return;
	if (m.text_len > WSLX_LINK_TEXT_MAX || m.text[m.text_len])
		abort();
	send_back(pair, &m);
	if (m.fd >= 0)
		close(m.fd);
}

static void params(const char *json, size_t size)
{
	struct wslx_child_params *p, *again;
	struct wslx_err err;
	char *out;

	if (wslx_child_params_decode(json, size, &p, &err) < 0)
		return;
	/* What was accepted survives a round trip. */
	if (wslx_child_params_encode(p, &out) == 0) {
		if (wslx_child_params_decode(out, strlen(out), &again, &err) < 0)
			abort();
		if (again->n_disks != p->n_disks || strcmp(again->cmdline, p->cmdline) != 0)
			abort();
		wslx_child_params_free(again);
		free(out);
	}
	wslx_child_params_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] == '{')
		params((const char *)data, size);
	else
		packet(data, size);
	return 0;
}
