/* Grants: as text, in a distro's description, in what a machine is started with. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "manager/portal.h"

static void texts(void **state)
{
	static const char *const good[] = { "bus:8M", "bus:ro", "a.b_c-1:2M:other", "bus:1024M", "bus:ro:a:b" };
	static const char *const bad[] = { "",           "bus",     "bus:",    ":8M",    "bus:0",  "bus:2G",
					   "bus:x",      "bus:8M:", ".bus:8M", "b s:8M", "b/s:8M", "bus:8M:a b",
					   "bus:8M:a/b", "bus:-1",  "-bus:8M", "bus::x", "bus:RO" };
	char longest[128], buf[WSLX_GRANT_TEXT];
	struct wslx_err err;
	struct wslx_grant g;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(wslx_grant_parse(good[i], &g, NULL), 0);
		wslx_grant_format(&g, buf);
		assert_string_equal(buf, good[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		err = (struct wslx_err) { 0 };
		assert_int_equal(wslx_grant_parse(bad[i], &g, &err), -EINVAL);
		assert_true(err.msg[0]);
		assert_null(strchr(err.msg, '\n'));
	}
	/* Of what is too long it is said which. */
	memset(longest, 'n', 48);
	strcpy(longest + 48, ":8M");
	err = (struct wslx_err) { 0 };
	assert_int_equal(wslx_grant_parse(longest, &g, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "nnn' is no name of a region: 1 to 47"));
	assert_int_equal(wslx_grant_parse("bus:00000000000000000000000000000x", &g, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "is no size of memory"));
	/* Rounded up to whole segments. */
	assert_int_equal(wslx_grant_parse("bus:1", &g, NULL), 0);
	assert_int_equal(g.segments, 1);
	assert_string_equal(g.as, "bus");
	assert_true(wslx_grant_rounded(&g, buf));
	assert_string_equal(buf, "1B is rounded up to 2M: a region is granted in pieces of 2M");
	assert_int_equal(wslx_grant_parse("bus:2049K", &g, NULL), 0);
	assert_true(wslx_grant_rounded(&g, buf));
	assert_string_equal(buf, "2049K is rounded up to 4M: a region is granted in pieces of 2M");
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(wslx_grant_parse(good[i], &g, NULL) == 0 && !wslx_grant_rounded(&g, buf));
	assert_int_equal(wslx_grant_make("bus", NULL, false, NULL, &g, NULL), 0);
	assert_false(wslx_grant_rounded(&g, buf));
	memset(longest, 'n', 47);
	strcpy(longest + 47, ":1024M:");
	memset(longest + 54, 'a', 47);
	longest[101] = '\0';
	assert_int_equal(wslx_grant_parse(longest, &g, NULL), 0);
	wslx_grant_format(&g, buf);
	assert_string_equal(buf, longest);
	longest[101] = 'a';
	longest[102] = '\0';
	assert_int_equal(wslx_grant_parse(longest, &g, NULL), -EINVAL);
}

static void in_settings(void **state)
{
	struct wslx_settings s = wslx_settings_default;
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_settings_set(&s, "portal", "a:8M", NULL), 0);
	assert_int_equal(wslx_settings_set(&s, "portal", "b:ro", NULL), 0);
	assert_int_equal(wslx_settings_set(&s, "portal", "a:4M", NULL), 0);
	assert_int_equal(s.n_grants, 2);
	assert_int_equal(s.grants[0].segments, 2);
	assert_int_equal(wslx_settings_set(&s, "portal", "c:4M:b", NULL), -EEXIST);
	assert_int_equal(wslx_settings_set(&s, "portal", "c:512M", &err), -ENOSPC);
	assert_string_equal(err.msg, "the machine's window has 256M, and 14M of that are taken: there is no room for "
				     "the 514M that the region 'c' takes, with the host's tables; enlarge it: wslx "
				     "config NAME portal-window=1G");
	assert_int_equal(s.n_grants, 2);
	for (char n = 'c'; n < 'i'; n++)
		assert_int_equal(wslx_settings_set(&s, "portal", (char[]) { n, ':', '2', 'M', 0 }, NULL), 0);
	assert_int_equal(wslx_settings_set(&s, "portal", "i:2M", NULL), -E2BIG);
	assert_int_equal(wslx_settings_set(&s, "portal-window", "96M", NULL), -EINVAL);
	assert_int_equal(wslx_settings_set(&s, "portal-window", "64M", NULL), 0);
	assert_int_equal(wslx_settings_set(&s, "portal", "a:64M", &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "enlarge it: wslx config NAME portal-window=128M"));
	assert_int_equal(s.grants[0].segments, 2);
	assert_int_equal(wslx_grants_remove(s.grants, &s.n_grants, "nosuch"), -ENOENT);
	assert_int_equal(wslx_grants_remove(s.grants, &s.n_grants, "a"), 0);
	assert_int_equal(s.n_grants, 7);
	assert_string_equal(s.grants[0].region, "b");
	assert_null(wslx_grants_find(s.grants, s.n_grants, "a"));
	assert_int_equal(wslx_settings_set(&s, "portal", "", NULL), 0);
	assert_int_equal(s.n_grants, 0);
}

static void in_descriptions(void **state)
{
	static const char *const bad[] = { "\"portal\": \"a:8M\"", "\"portal\": [1]", "\"portal\": [\"a\"]",
					   "\"portal-window\": 5", "\"portal-window\": \"64M\"" };
	struct wslx_distro d = { .name = "x", .id = "0123456789abcdef", .default_uid = -1 }, e = { 0 };
	cleanup_free char *text = NULL;

	d.settings = wslx_settings_default;
	assert_int_equal(wslx_settings_set(&d.settings, "portal-window", "1G", NULL), 0);
	assert_int_equal(wslx_settings_set(&d.settings, "portal", "a:512M", NULL), 0);
	assert_int_equal(wslx_settings_set(&d.settings, "portal", "b:ro:bus", NULL), 0);
	text = wslx_distro_encode(&d);
	assert_non_null(text);
	assert_int_equal(wslx_distro_decode(text, strlen(text), &e, NULL), 0);
	assert_int_equal(e.settings.portal_window, WSLX_GIB);
	assert_int_equal(e.settings.n_grants, 2);
	assert_memory_equal(e.settings.grants, d.settings.grants, sizeof(d.settings.grants));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cleanup_free char *json =
			wslx_path("{\"version\": 1, \"name\": \"x\", \"id\": \"0123456789abcdef\", %s}", bad[i]);
		struct wslx_err err = { 0 };

		assert_int_equal(wslx_distro_decode(json, strlen(json), &e, &err), -EINVAL);
		assert_non_null(strstr(err.msg, strchr(bad[i], 'w') && i > 2 ? "window" : "'"));
	}
}

static void in_machines(void **state)
{
	struct wslx_manager m = { .paths.shared = (char *)"/run/test" };
	struct wslx_settings s = wslx_settings_default;
	struct wslx_portal_config c = { 0 };

	assert_int_equal(wslx_region_config(&m, &s, &c), 0);
	assert_int_equal(c.window, 0);
	assert_int_equal(wslx_settings_set(&s, "portal", "a:8M:bus", NULL), 0);
	assert_int_equal(wslx_settings_set(&s, "portal", "b:ro", NULL), 0);
	assert_int_equal(wslx_region_config(&m, &s, &c), 0);
	assert_int_equal(c.window, WSLX_WINDOW_SIZE_DEFAULT);
	assert_int_equal(c.n_grants, 2);
	assert_string_equal(c.grants[0].socket, "/run/test/portal/a.sock");
	assert_string_equal(c.grants[0].as, "bus");
	assert_int_equal(c.grants[0].segments, 4);
	assert_true(c.grants[1].readonly && c.grants[1].segments == 0);
	for (size_t i = 0; i < c.n_grants; i++)
		free(c.grants[i].socket);
	/* A window for grants to come. */
	c = (struct wslx_portal_config) { 0 };
	s = wslx_settings_default;
	assert_int_equal(wslx_settings_set(&s, "portal-window", "512M", NULL), 0);
	assert_int_equal(wslx_region_config(&m, &s, &c), 0);
	assert_int_equal(c.window, 512 * WSLX_MIB);
	assert_int_equal(c.n_grants, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts),
		cmocka_unit_test(in_settings),
		cmocka_unit_test(in_descriptions),
		cmocka_unit_test(in_machines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
