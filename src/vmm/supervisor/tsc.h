/*
 * The rate of the host's time stamp counter, which is the one that QEMU's
 * emulated CPUs have.
 */
#ifndef WSLX_VMM_SUPERVISOR_TSC_H
#define WSLX_VMM_SUPERVISOR_TSC_H

#include <stdint.h>

/* A reading of the counter and of the clock at the same moment. */
struct wslx_tsc_mark {
	uint64_t tsc;
	int64_t ns; /* CLOCK_MONOTONIC */
};

struct wslx_tsc_mark wslx_tsc_now(void);

/* Ticks a millisecond since the mark, which is as old as 10 ms at least: it
 * waits for that.  0: there is no such counter. */
unsigned wslx_tsc_khz(const struct wslx_tsc_mark *since);

#endif
