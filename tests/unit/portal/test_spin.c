/* How often a waiter looks before it sleeps: what it learns from (src/portal/spin.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "portal/spin.h"

#define MIN WSLX_PORTAL_SPIN_MIN
#define MAX WSLX_PORTAL_SPIN_MAX
#define LONG INT64_C(1000000000)

static struct wslx_portal_spin spin(unsigned limit, int64_t worth_ns)
{
	return (struct wslx_portal_spin) { .limit = limit, .worth_ns = worth_ns };
}

static void test_long_sleeps_shorten_it(void **state)
{
	struct wslx_portal_spin s = spin(MAX, WSLX_PORTAL_SPIN_NEAR_NS);

	for (int i = 0; i < 20; i++)
		wslx_portal_spin_slept(&s, LONG);
	assert_int_equal(s.limit, MIN);
	wslx_portal_spin_in_vain(&s);
	assert_int_equal(s.limit, MIN);
}

/* A peer that answers by doorbell only because we rang one: whoever gave up looking comes back to it. */
static void test_short_sleeps_lengthen_it(void **state)
{
	struct wslx_portal_spin s = spin(MIN, WSLX_PORTAL_SPIN_FAR_NS);

	for (int i = 0; i < 20; i++)
		wslx_portal_spin_slept(&s, WSLX_PORTAL_SPIN_FAR_NS / 4);
	assert_int_equal(s.limit, MAX);
}

static void test_looking_pays(void **state)
{
	struct wslx_portal_spin s = spin(MIN, WSLX_PORTAL_SPIN_NEAR_NS);

	wslx_portal_spin_paid(&s, 1);
	assert_int_equal(s.limit, MIN);
	wslx_portal_spin_paid(&s, MIN - 1);
	assert_int_equal(s.limit, 2 * MIN);
	for (int i = 0; i < 20; i++)
		wslx_portal_spin_paid(&s, s.limit - 1);
	assert_int_equal(s.limit, MAX);
}

/* On the only processor nothing may make it spin, but a peer that does not need it. */
static void test_only_processor(void **state)
{
	struct wslx_portal_spin s = spin(0, WSLX_PORTAL_SPIN_NEAR_NS);

	wslx_portal_spin_slept(&s, 1);
	wslx_portal_spin_paid(&s, 1);
	wslx_portal_spin_in_vain(&s);
	assert_int_equal(s.limit, 0);
	wslx_portal_spin_far(&s);
	assert_true(s.limit >= MIN);
	assert_int_equal(s.worth_ns, WSLX_PORTAL_SPIN_FAR_NS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_sleeps_shorten_it),
		cmocka_unit_test(test_short_sleeps_lengthen_it),
		cmocka_unit_test(test_looking_pays),
		cmocka_unit_test(test_only_processor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
