/* Grants that have room in a region or a window singly, and not together. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "home.h"
#include "manager/lock.h"
#include "manager/portal.h"

/* Brokers, as far as they are asked here: whose region has tables of so many segments; 0: it does not answer. */
static const struct {
	const char *region;
	int tables;
} regions[] = { { "big", 12 }, { "also-big", 12 }, { "small", 1 }, { "mute", 0 } };

int __wrap_wslx_control_call_region(const char *sock_path, const char *method, json_t *params, unsigned timeout_ms,
				    json_t **ret, struct wslx_err *err);

int __wrap_wslx_control_call_region(const char *sock_path, const char *method, json_t *params, unsigned timeout_ms,
				    json_t **ret, struct wslx_err *err)
{
	json_decref(params);
	assert_string_equal(method, "Info");
	assert_true(timeout_ms > 0);
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++) {
		cleanup_free char *file = wslx_path("/%s.ctl", regions[i].region);

		if (!strstr(sock_path, file) || !regions[i].tables)
			continue;
		*ret = json_pack("{s:i, s:i}", "segments", 32768, "own_segments", regions[i].tables);
		return 0;
	}
	return wslx_err_set(err, ETIMEDOUT, "it does not answer");
}

/* All of them are there. */
static int locks[ARRAY_SIZE(regions)];

static int setup(void **state)
{
	cleanup_free char *path = NULL;
	cleanup_close int dir = -1;
	struct home *h;

	if (home_setup(state) < 0)
		return -1;
	h = *state;
	home_add_distro(h, "one");
	path = wslx_path("%s/" WSLX_REGION_DIR, h->m->paths.shared);
	if (mkdir(path, 0700) < 0)
		return -1;
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++) {
		cleanup_free char *file = wslx_path("%s.lock", regions[i].region);

		locks[i] = wslx_lock_take(dir, file, WSLX_LOCK_EXCLUSIVE, false);
		if (locks[i] < 0)
			return -1;
	}
	return 0;
}

static int teardown(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++)
		close(locks[i]);
	return home_teardown(state);
}

static int grant(struct home *h, const char *text, struct wslx_err *err)
{
	struct wslx_grant g;
	bool later;

	assert_int_equal(wslx_grant_parse(text, &g, NULL), 0);
	return wslx_region_grant(h->m, "one", &g, &later, err);
}

static void look(struct home *h, struct wslx_distro *ret)
{
	assert_int_equal(wslx_distro_find(h->m, "one", ret, NULL), 0);
}

static void test_the_second_is_refused(void **state)
{
	struct home *h = *state;
	struct wslx_distro *d = malloc(sizeof(*d));
	struct wslx_err err = { 0 };

	/* 120 + 24 and 100 + 24 MiB and the window's own 4; with tables of a segment each it would be enough. */
	assert_int_equal(grant(h, "big:120M", NULL), 0);
	assert_int_equal(grant(h, "also-big:100M", &err), -ENOSPC);
	assert_string_equal(err.msg, "the machine's window has 256M, and 148M of that are taken: there is no room for "
				     "the 124M that the region 'also-big' takes, with the host's tables; enlarge it: "
				     "wslx config one portal-window=512M");
	look(h, d);
	assert_int_equal(d->settings.n_grants, 1);
	assert_string_equal(d->settings.grants[0].region, "big");
	/* What is there fits to the last segment; a place that is taken again is not counted twice. */
	assert_int_equal(grant(h, "also-big:84M", NULL), 0);
	assert_int_equal(grant(h, "also-big:82M", NULL), 0);
	assert_int_equal(grant(h, "also-big:86M", &err), -ENOSPC);
	assert_int_equal(grant(h, "small:2M", &err), -ENOSPC);
	assert_int_equal(grant(h, "also-big:80M", NULL), 0);
	assert_int_equal(grant(h, "small:2M", NULL), 0);
	assert_int_equal(grant(h, "mute:2M", &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "256M, and 256M of that are taken"));
	/* With what it says to do there is room. */
	look(h, d);
	assert_int_equal(d->settings.n_grants, 3);
	assert_int_equal(d->settings.grants[1].segments, 40);
	assert_int_equal(wslx_settings_set(&d->settings, "portal-window", "512M", NULL), 0);
	assert_int_equal(wslx_distro_save(h->m, d, NULL), 0);
	assert_int_equal(grant(h, "mute:2M", NULL), 0);
	free(d);
}

static void test_the_window_is_not_made_too_small(void **state)
{
	struct home *h = *state;
	struct wslx_settings s = wslx_settings_default;
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_settings_set(&s, "portal-window", "128M", NULL), 0);
	assert_int_equal(wslx_region_check_room(h->m, "one", &s, NULL, NULL), 0);
	assert_int_equal(wslx_settings_set(&s, "portal", "big:60M", NULL), 0);
	assert_int_equal(wslx_settings_set(&s, "portal", "also-big:ro", NULL), 0);
	assert_int_equal(wslx_region_check_room(h->m, "one", &s, NULL, NULL), 0);
	assert_int_equal(wslx_settings_set(&s, "portal", "small:14M", NULL), 0);
	assert_int_equal(wslx_region_check_room(h->m, "one", &s, NULL, &err), -EINVAL);
	assert_string_equal(err.msg, "a window of 128M is too small for what is granted, which takes 130M of it: take "
				     "a grant back, or `wslx config one portal-window=256M`");
	assert_int_equal(wslx_settings_set(&s, "portal-window", "256M", NULL), 0);
	assert_int_equal(wslx_region_check_room(h->m, "one", &s, NULL, NULL), 0);
	/* What is known without anybody's being asked. */
	assert_int_equal(wslx_settings_set(&s, "portal-window", "64M", &err), -EINVAL);
	assert_non_null(strstr(err.msg, "a window of 64M is too small"));
	assert_int_equal(s.portal_window, 256 * WSLX_MIB);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_the_second_is_refused),
		T(test_the_window_is_not_made_too_small),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
