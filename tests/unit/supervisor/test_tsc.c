/* The rate of the time stamp counter that emulated guests are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <x86intrin.h>

#include <cmocka.h>

#include "vmm/supervisor/tsc.h"

/* Against a measurement of another kind: long, and without care for the ends. */
static void test_rate(void **state)
{
	const struct wslx_tsc_mark mark = wslx_tsc_now();
	unsigned khz = wslx_tsc_khz(&mark);
	uint64_t begin = __rdtsc(), ticks;
	int64_t ns;

	clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec) { .tv_nsec = 300000000 }, NULL);
	ticks = __rdtsc() - begin;
	assert_true(khz > 0);
	ns = wslx_tsc_now().ns - mark.ns;
	/* The sleep is longer than it should be, never shorter, and was within the second interval. */
	assert_true(ticks >= (uint64_t)khz * 300 - khz);
	assert_true(ticks <= (uint64_t)khz * (uint64_t)(ns / 1000000 + 1) + khz);
}

static void test_two_agree(void **state)
{
	struct wslx_tsc_mark mark = wslx_tsc_now();
	unsigned a = wslx_tsc_khz(&mark), b;

	mark = wslx_tsc_now();
	b = wslx_tsc_khz(&mark);
	assert_in_range(b, a - a / 1000, a + a / 1000);
}

/* A counter that stands still, or was set back. */
static void test_no_counter(void **state)
{
	struct wslx_tsc_mark mark = wslx_tsc_now();

	mark.tsc = UINT64_MAX;
	assert_int_equal(wslx_tsc_khz(&mark), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rate),
		cmocka_unit_test(test_two_agree),
		cmocka_unit_test(test_no_counter),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
