/*
 * Scope-bound clean-up.  `cleanup_free char *s = ...;` frees at the end of the
 * scope; TAKE_PTR()/TAKE_FD() hand ownership on and disarm the clean-up.
 */
#ifndef WSLX_BASE_CLEANUP_H
#define WSLX_BASE_CLEANUP_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void wslx_cleanup_free_p(void *p)
{
	free(*(void **)p);
}

static inline void wslx_cleanup_close_p(const int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

static inline void wslx_cleanup_fclose_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define cleanup_free __attribute__((cleanup(wslx_cleanup_free_p)))
#define cleanup_close __attribute__((cleanup(wslx_cleanup_close_p)))
#define cleanup_fclose __attribute__((cleanup(wslx_cleanup_fclose_p)))
/* cleanup_with(fn): fn takes a pointer to the variable. */
#define cleanup_with(fn) __attribute__((cleanup(fn)))

#define TAKE_PTR(p)                                                                                                    \
	({                                                                                                             \
		typeof(p) _take = (p);                                                                                 \
		(p) = NULL;                                                                                            \
		_take;                                                                                                 \
	})

#define TAKE_FD(fd)                                                                                                    \
	({                                                                                                             \
		int _take = (fd);                                                                                      \
		(fd) = -1;                                                                                             \
		_take;                                                                                                 \
	})

/* Close and forget; accepts -1. */
static inline void wslx_close(int *fd)
{
	wslx_cleanup_close_p(fd);
	*fd = -1;
}

#endif
