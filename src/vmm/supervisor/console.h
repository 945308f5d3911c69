/*
 * The machine's console: a stream of bytes from the child's or QEMU's serial
 * port into a size-capped log, with the last lines at hand for messages.
 *
 * Trust boundary: every byte is the guest's.  The log holds them as they came;
 * whoever prints it to a terminal escapes it (`wslx logs` does).  The lines
 * handed out here are plain ASCII without control characters.  What a guest
 * prints without end costs at most two files of WSLX_CONSOLE_LOG_MAX.
 */
#ifndef WSLX_VMM_SUPERVISOR_CONSOLE_H
#define WSLX_VMM_SUPERVISOR_CONSOLE_H

#include <stddef.h>

#include "base/err.h"
#include "base/loop.h"

#define WSLX_CONSOLE_LOG_MAX (1u << 20)
#define WSLX_CONSOLE_LINES 40
#define WSLX_CONSOLE_LINE_MAX 256

struct wslx_conlog;

/* Writes DIR/console.log; an older one becomes console.log.1.  on_panic: a line that says
 * the kernel panicked was seen; may come again. */
WSLX_MUST_CHECK int wslx_conlog_new(struct wslx_loop *loop, const char *dir,
				    void (*on_panic)(void *opaque, const char *line), void *opaque,
				    struct wslx_conlog **ret, struct wslx_err *err);
void wslx_conlog_free(struct wslx_conlog *c); /* NULL is fine */

/* Reads fd (taken in any case) from now on; replaces an earlier one. */
WSLX_MUST_CHECK int wslx_conlog_attach(struct wslx_conlog *c, int fd);
/* Takes what has been written by now: call when the writer has ended. */
void wslx_conlog_drain(struct wslx_conlog *c);
/* For tests and the fuzzer: bytes as if they had come from the descriptor. */
void wslx_conlog_feed(struct wslx_conlog *c, const char *p, size_t n);

/* The last complete lines, oldest first, and the incomplete last one. */
size_t wslx_conlog_lines(const struct wslx_conlog *c, const char *ret[WSLX_CONSOLE_LINES + 1]);

#endif
