/*
 * Errors at the edges.  Inside, functions return 0 or -errno.  Functions that
 * a user's mistake can reach also take a `struct wslx_err *`: on failure it
 * holds one line that says what was wrong, where, and what to do.  On success
 * it is not touched.  The pointer may be NULL.
 */
#ifndef WSLX_BASE_ERR_H
#define WSLX_BASE_ERR_H

#include <stdarg.h>

#include "base/macros.h"

struct wslx_err {
	int code;       /* positive errno value, 0 = unset */
	char msg[1024]; /* one line, no newline, UTF-8, control characters replaced */
};

/* Sets err and returns -code, so that `return wslx_err_set(...)` reads well.
 * Control characters in the result (file names, guest text), and what is no
 * UTF-8, become '?'. */
int wslx_err_set(struct wslx_err *err, int code, const char *fmt, ...) WSLX_PRINTF(3, 4);

/* As wslx_err_set, and appends ": " and strerror(code). */
int wslx_err_sys(struct wslx_err *err, int code, const char *fmt, ...) WSLX_PRINTF(3, 4);

/* Puts "text: " before the message already there. */
int wslx_err_prefix(struct wslx_err *err, const char *fmt, ...) WSLX_PRINTF(2, 3);

#endif
