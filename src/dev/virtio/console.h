/*
 * virtio-console (virtio 1.2, section 5.3), one port, no control queues.
 *
 * Output goes to out_fd.  A reader that stalls holds the guest up for at most
 * a second (Linux spins while its console is busy); after that output is
 * dropped and counted until the descriptor is writable again.  Input is read
 * only while the guest has buffers for it.  The process must ignore SIGPIPE.
 */
#ifndef WSLX_DEV_VIRTIO_CONSOLE_H
#define WSLX_DEV_VIRTIO_CONSOLE_H

#include <stdint.h>

#include "base/macros.h"
#include "dev/dev.h"

struct wslx_console_params {
	struct wslx_loop *loop; /* borrowed */
	const char *name;       /* static; NULL = "console" */
	int out_fd;             /* taken on success, made non-blocking; -1 = output is discarded */
	int in_fd;              /* taken on success, made non-blocking; -1 = no input */
	uint16_t cols, rows;    /* 0 = size not offered */
};

WSLX_MUST_CHECK int wslx_console_new(const struct wslx_console_params *p, struct wslx_vdev **ret);

#endif
