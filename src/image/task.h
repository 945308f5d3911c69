/*
 * What every long operation of src/image takes: where to report how far it is,
 * and when to stop.
 */
#ifndef WSLX_IMAGE_TASK_H
#define WSLX_IMAGE_TASK_H

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct wslx_progress {
	const char *what; /* "importing", "installing packages" ...; static storage */
	uint64_t done;    /* bytes of the source read so far */
	uint64_t total;   /* 0 = not known (a pipe) */
	uint64_t entries; /* archive entries so far */
};

/* Called on the caller's thread, at most some ten times a second and once at
 * the end of each phase. */
typedef void (*wslx_progress_fn)(const struct wslx_progress *p, void *opaque);

struct wslx_task {
	wslx_progress_fn progress; /* NULL: none */
	void *opaque;
	/* Becomes non-zero when the user wants to stop (a signal handler may set
	 * it); NULL: never.  The operation then ends soon with -ECANCELED. */
	const volatile sig_atomic_t *cancel;
	const int *cancel_fd; /* the same, when it is readable; NULL: none */
};

static inline bool wslx_task_cancelled(const struct wslx_task *t)
{
	/* Another thread may set it as well. */
	if (t && t->cancel && __atomic_load_n(t->cancel, __ATOMIC_RELAXED))
		return true;
	return t && t->cancel_fd && poll(&(struct pollfd) { .fd = *t->cancel_fd, .events = POLLIN }, 1, 0) > 0;
}

static inline void wslx_task_report(const struct wslx_task *t, const struct wslx_progress *p)
{
	if (t && t->progress)
		t->progress(p, t->opaque);
}

#endif
