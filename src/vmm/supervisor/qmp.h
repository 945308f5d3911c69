/*
 * QEMU's monitor protocol: JSON objects, one a line, on a socket pair.
 *
 * Trust boundary: QEMU serves a hostile guest.  A line is at most QMP_LINE_MAX
 * bytes; what is no JSON object ends the connection.
 */
#ifndef WSLX_VMM_SUPERVISOR_QMP_H
#define WSLX_VMM_SUPERVISOR_QMP_H

#include <jansson.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/macros.h"

#define WSLX_QMP_LINE_MAX (256u * 1024)

struct wslx_qmp;

/* data may be NULL. */
typedef void (*wslx_qmp_event_fn)(void *opaque, const char *name, json_t *data);
typedef void (*wslx_qmp_reply_fn)(void *opaque, int err);

/* fd is taken in any case. */
WSLX_MUST_CHECK int wslx_qmp_new(struct wslx_loop *loop, int fd, wslx_qmp_event_fn event, void *opaque,
				 struct wslx_qmp **ret);
/* fn may be NULL.  Its err: 0; -EIO: QEMU refused; -ECONNRESET. */
WSLX_MUST_CHECK int wslx_qmp_execute(struct wslx_qmp *q, const char *command, wslx_qmp_reply_fn fn, void *opaque);
/* Takes what has been written by now; the process has ended. */
void wslx_qmp_drain(struct wslx_qmp *q);
/* Not from a callback of its own.  No further callbacks; NULL is fine. */
void wslx_qmp_free(struct wslx_qmp *q);

#endif
