/* virtio-console under a hostile driver, with peers that come and go. */
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "dev/virtio/console.h"
#include "vdev.h"

static int out_peer, in_peer;

/* The other ends: read, write, close. */
static void special(struct wslx_vdev *d, struct input *in, unsigned q)
{
	static uint8_t buf[65536];
	uint8_t what = in_u8(in);

	switch (what % 4) {
	case 0:
		if (out_peer >= 0 && read(out_peer, buf, sizeof(buf)) < 0)
			return;
		break;
	case 1:
		memset(buf, what, 256);
		if (in_peer >= 0 && write(in_peer, buf, 1 + what) < 0)
			return;
		break;
	case 2:
		if (what & 4 && in_peer >= 0) {
			close(in_peer);
			in_peer = -1;
		} else if (what & 8 && out_peer >= 0) {
			close(out_peer);
			out_peer = -1;
		}
		break;
	default:
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct input in = { data, n };
	struct wslx_console_params p = { .loop = fz_loop };
	struct wslx_vdev *d;
	int out[2], inp[2];

	signal(SIGPIPE, SIG_IGN);
	if (pipe2(out, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(inp, O_CLOEXEC | O_NONBLOCK) < 0)
		abort();
	p.out_fd = out[1];
	out_peer = out[0];
	p.in_fd = inp[0];
	in_peer = inp[1];
	p.cols = in_u8(&in);
	if (wslx_console_new(&p, &d) < 0)
		abort();
	fz_run(d, &in, special);
	d->ops->free(d);
	if (out_peer >= 0)
		close(out_peer);
	if (in_peer >= 0)
		close(in_peer);
	return 0;
}
