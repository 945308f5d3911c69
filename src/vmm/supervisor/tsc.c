#include "vmm/supervisor/tsc.h"

#include <time.h>
#include <x86intrin.h>

#define NS INT64_C(1000000000)
#define BASE_NS INT64_C(10000000)
#define TRIES 8

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NS + ts.tv_nsec;
}

/* Between two readings of the counter that are closest together: if the thread
 * is interrupted in one try, it is not in another. */
struct wslx_tsc_mark wslx_tsc_now(void)
{
	struct wslx_tsc_mark best = { 0 };
	uint64_t width = UINT64_MAX;

	for (unsigned i = 0; i < TRIES; i++) {
		uint64_t before = __rdtsc();
		int64_t ns = now_ns();
		uint64_t after = __rdtsc();

		if (after - before < width) {
			width = after - before;
			best = (struct wslx_tsc_mark) { before + width / 2, ns };
		}
	}
	return best;
}

unsigned wslx_tsc_khz(const struct wslx_tsc_mark *since)
{
	int64_t left = since->ns + BASE_NS - now_ns();
	struct wslx_tsc_mark now;
	double khz;

	if (left > 0)
		clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec) { .tv_nsec = (long)left }, NULL);
	now = wslx_tsc_now();
	if (now.tsc <= since->tsc || now.ns <= since->ns)
		return 0;
	khz = (double)(now.tsc - since->tsc) * 1e6 / (double)(now.ns - since->ns);
	/* What Linux believes of a counter, and more. */
	return khz >= 1e5 && khz <= 1e7 ? (unsigned)(khz + 0.5) : 0;
}
