/*
 * One logger per process.  Libraries log at debug level only; programs decide
 * where lines go.  Each line is written with one write(2), so lines of several
 * processes sharing a file do not interleave.  Thread-safe.  Guest-triggered
 * messages must go through wslx_log_limited so that a guest cannot fill a disk.
 */
#ifndef WSLX_BASE_LOG_H
#define WSLX_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

enum wslx_log_level { WSLX_LOG_ERROR, WSLX_LOG_WARN, WSLX_LOG_INFO, WSLX_LOG_DEBUG };

/* program: prefix of each line, static storage.  fd: borrowed. Default: fd 2, WARN.
 * The environment variable WSLX_LOG=error|warn|info|debug overrides level. */
void wslx_log_init(const char *program, int fd, enum wslx_log_level level);
void wslx_log(enum wslx_log_level level, const char *fmt, ...) WSLX_PRINTF(2, 3);

/* At most 10 lines per 10 seconds from each call site's state.  False: this one was over the limit, so that a
 * caller can leave out other costs too. */
struct wslx_log_limit {
	int64_t window_start_ms;
	unsigned count;
};
bool wslx_log_limited(struct wslx_log_limit *lim, enum wslx_log_level level, const char *fmt, ...) WSLX_PRINTF(3, 4);

/* A line that another program said, with what it has of a level: under its name, whatever the level here. */
void wslx_log_relay(const char *program, const char *text);
/* After `bytes` bytes of lines fn is called, each time; it must not log.  For programs with one thread.  NULL: no more.
 */
void wslx_log_on_size(size_t bytes, void (*fn)(void *opaque), void *opaque);

#define log_error(...) wslx_log(WSLX_LOG_ERROR, __VA_ARGS__)
#define log_warn(...) wslx_log(WSLX_LOG_WARN, __VA_ARGS__)
#define log_info(...) wslx_log(WSLX_LOG_INFO, __VA_ARGS__)
#define log_debug(...) wslx_log(WSLX_LOG_DEBUG, __VA_ARGS__)
/* For anything a guest can trigger repeatedly. */
#define log_guest(...)                                                                                                 \
	do {                                                                                                           \
		static __thread struct wslx_log_limit _lim;                                                            \
		wslx_log_limited(&_lim, WSLX_LOG_WARN, __VA_ARGS__);                                                   \
	} while (0)

#endif
