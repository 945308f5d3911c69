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
#include "manager/settings.h"
#include "manager/state.h"

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		int r;
		uint64_t size;
	} list[] = {
		{ "0", 0, 0 },
		{ "512M", 0, 512 * WSLX_MIB },
		{ "2g", 0, 2 * WSLX_GIB },
		{ "2GB", 0, 2 * WSLX_GIB },
		{ "1T", 0, 1024 * WSLX_GIB },
		{ "100B", 0, 100 },
		{ "4k", 0, 4096 },
		{ "", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1.5G", -EINVAL, 0 },
		{ "12Q", -EINVAL, 0 },
		{ "1GG", -EINVAL, 0 },
		{ "1BB", -EINVAL, 0 },
		{ "G", -EINVAL, 0 },
		{ "0x10", -EINVAL, 0 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "18446744073709551615K", -ERANGE, 0 },
		{ "99999999T", -ERANGE, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
		uint64_t v = 0;

		assert_int_equal(wslx_size_parse(list[i].text, &v), list[i].r);
		if (!list[i].r)
			assert_true(v == list[i].size);
	}
}

static void test_publish(void **state)
{
	static const char *const good[] = { "8080:80", "127.0.0.1:8080:80", "53:53/udp", "[::1]:1:65535",
					    "[fe80::1]:22:22/udp" };
	static const char *const bad[] = { "",       "x",         "80",         "0:80",
					   "80:0",   "99999:1",   "80:80/sctp", "1:2:3",
					   ":80:80", "::1:80:80", "[::1:80:80", "300.1.1.1:80:80",
					   "80:80 ", "+80:80",    "host:80:80", "[127.0.0.1]:1:1",
					   "80:80/", "a:b:c:d" };
	struct wslx_publish p;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		char text[WSLX_PUBLISH_TEXT];

		assert_int_equal(wslx_publish_parse(good[i], &p, NULL), 0);
		wslx_publish_format(&p, text);
		assert_string_equal(text, good[i]);
	}
	assert_int_equal(wslx_publish_parse("1:2/tcp", &p, NULL), 0);
	assert_false(p.udp);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct wslx_err err = { 0 };

		assert_int_equal(wslx_publish_parse(bad[i], &p, &err), -EINVAL);
		assert_non_null(strstr(err.msg, bad[i]));
	}
}

static void test_set(void **state)
{
	static const char *const bad[][2] = {
		{ "engine", "warp" },
		{ "memory", "1K" },
		{ "memory", "0" },
		{ "memory", "31M" },
		{ "memory", "12Q" },
		{ "memory", "9000000T" },
		{ "cpus", "0" },
		{ "cpus", "many" },
		{ "cpus", "65" },
		{ "net", "carrier-pigeon" },
		{ "net", "tap:" },
		{ "net", "tap:a/b" },
		{ "net", "tap:0123456789abcdef" },
		{ "kernel", "../x" },
		{ "user", "a:b" },
		{ "user", "a b" },
		{ "user", "-a" },
		{ "user", "a\x1b[m" },
		{ "nosuch", "1" },
	};
	struct wslx_settings *s = malloc(sizeof(*s));
	struct wslx_settings before;

	*s = wslx_settings_default;
	assert_int_equal(wslx_settings_set(s, "memory", "129M", NULL), 0);
	assert_true(s->memory == 129 * WSLX_MIB && wslx_settings_memory(s) == 128 * WSLX_MIB);
	assert_int_equal(wslx_settings_set(s, "cpus", "4", NULL), 0);
	assert_int_equal(s->cpus, 4);
	assert_int_equal(wslx_settings_set(s, "net", "tap:tap0", NULL), 0);
	assert_string_equal(s->net.tap, "tap0");
	assert_int_equal(wslx_settings_set(s, "net", "none", NULL), 0);
	assert_string_equal(s->net.tap, "");
	assert_int_equal(wslx_settings_set(s, "net", "", NULL), 0);
	assert_int_equal(s->net.mode, WSLX_NET_PASST);
	assert_int_equal(wslx_settings_set(s, "publish", "80:80", NULL), 0);
	assert_int_equal(wslx_settings_set(s, "publish", "80:81", NULL), -EINVAL);
	assert_int_equal(wslx_settings_set(s, "publish", "127.0.0.1:80:81", NULL), -EINVAL);
	assert_int_equal(wslx_settings_set(s, "publish", "80:81/udp", NULL), 0);
	assert_int_equal(s->net.n_publish, 2);
	before = *s;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct wslx_err err = { 0 };

		assert_int_equal(wslx_settings_set(s, bad[i][0], bad[i][1], &err), -EINVAL);
		assert_true(err.msg[0]);
		assert_memory_equal(&before, s, sizeof(before));
	}
	for (unsigned i = 1; i <= WSLX_MAX_PUBLISH - 2; i++) {
		char text[32];

		snprintf(text, sizeof(text), "%u:80", 1000 + i);
		assert_int_equal(wslx_settings_set(s, "publish", text, NULL), 0);
	}
	assert_int_equal(wslx_settings_set(s, "publish", "9:9", NULL), -E2BIG);
	assert_int_equal(wslx_settings_set(s, "publish", "", NULL), 0);
	assert_int_equal(s->net.n_publish, 0);
	free(s);
}

static void test_check(void **state)
{
	struct wslx_settings *s = malloc(sizeof(*s));
	struct wslx_err err = { 0 };

	*s = wslx_settings_default;
	assert_int_equal(wslx_settings_check(s, NULL), 0);
	assert_int_equal(wslx_settings_set(s, "memory", "96M", NULL), 0);
	assert_int_equal(wslx_settings_check(s, NULL), 0);
	assert_int_equal(wslx_settings_set(s, "memory", "64M", NULL), 0);
	assert_int_equal(wslx_settings_check(s, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "96M"));
	assert_int_equal(wslx_settings_set(s, "kernel", "mine", NULL), 0);
	assert_int_equal(wslx_settings_check(s, NULL), 0);
	assert_int_equal(wslx_settings_set(s, "publish", "80:80", NULL), 0);
	assert_int_equal(wslx_settings_check(s, NULL), 0);
	assert_int_equal(wslx_settings_set(s, "net", "none", NULL), 0);
	assert_int_equal(wslx_settings_check(s, &err), -EINVAL);
	free(s);
}

static void test_memory_limits(void **state)
{
	static const struct {
		const char *memory, *window, *said; /* NULL: it is fine */
	} list[] = {
		{ "240G", "", NULL },
		{ "240G", "8G", NULL },
		{ "191G", "64G", NULL },
		{ "195585M", "64G", "memory of 195585M and a window of 65536M are too much together: 255G" },
		{ "1T", "", "memory of 1T is out of range: at most 240G" },
		{ "241G", "", "memory of 241G is out of range: at most 240G" },
		{ "9223372036854775808", "", "at most 240G" },
		{ "99999999999T", "", "memory of 99999999999T is out of range: at most 240G" },
		{ "95M", "", "memory of 95M is too little for Debian's kernels, which need 96M" },
		{ "97280K", "", "memory of 95M is too little" },
		{ "97283K", "", "memory of 97283K is too little" },
		{ "1", "", "memory of 1 bytes (write M for MiB, as in 512M) is too little: at least 96M, or 32M with" },
		{ "512", "", "memory of 512 bytes (write M" },
		{ "0", "", "memory of 0 is too little: at least 96M" },
		{ "31M", "", "memory of 31M is too little: at least 96M, or 32M with" },
	};
	struct wslx_settings *s = malloc(sizeof(*s));

	for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
		struct wslx_err err = { 0 };
		int r;

		*s = wslx_settings_default;
		assert_int_equal(wslx_settings_set(s, "portal-window", list[i].window, NULL), 0);
		r = wslx_settings_set(s, "memory", list[i].memory, &err);
		if (r == 0)
			r = wslx_settings_check(s, &err);
		assert_int_equal(r, list[i].said ? -EINVAL : 0);
		if (list[i].said && !strstr(err.msg, list[i].said))
			fail_msg("%s: %s", list[i].memory, err.msg);
	}
	free(s);
}

/* The last place where it is checked. */
static void test_memory_of_a_machine(void **state)
{
	static const struct {
		uint64_t memory, window;
		bool ok;
	} list[] = {
		{ 240 * WSLX_GIB, 0, true },
		{ 240 * WSLX_GIB + 2 * WSLX_MIB, 0, false },
		{ 191 * WSLX_GIB, 64 * WSLX_GIB, true },
		{ 191 * WSLX_GIB + 2 * WSLX_MIB, 64 * WSLX_GIB, false },
		{ UINT64_C(1) << 44, 0, false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
		struct wslx_vm_config c = {
			.name = (char *)"m",
			.engine = WSLX_ENGINE_KVM,
			.cpus = 1,
			.memory = list[i].memory,
			.runtime_dir = (char *)"/r",
			.state_dir = (char *)"/s",
			.kernel = (char *)"/k",
			.portal.window = list[i].window,
		};
		cleanup_free char *json = NULL;
		struct wslx_vm_config *back = NULL;
		struct wslx_err err = { 0 };
		int r;

		assert_int_equal(wslx_vm_config_encode(&c, &json), 0);
		r = wslx_vm_config_decode(json, strlen(json), &back, &err);
		if (r != (list[i].ok ? 0 : -EINVAL))
			fail_msg("%zu: %d %s", i, r, err.msg);
		assert_true(list[i].ok || strstr(err.msg, "memory"));
		wslx_vm_config_free(back);
	}
}

static void test_defaults(void **state)
{
	assert_true(wslx_default_memory() >= 64 * WSLX_MIB);
	assert_true(wslx_default_memory() % (2 * WSLX_MIB) == 0);
	assert_in_range(wslx_default_cpus(), 1, WSLX_MAX_CPUS);
}

/* ---- distro.json and its kin ---- */

static void test_distro_round_trip(void **state)
{
	struct wslx_distro *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
	cleanup_free char *text = NULL;

	strcpy(a->name, "Debian-12.x_y");
	assert_int_equal(wslx_id_new(a->id), 0);
	a->created = 1700000000;
	a->disk_size = (uint64_t)1 << 40;
	a->default_uid = 1000;
	a->settings = wslx_settings_default;
	assert_int_equal(wslx_settings_set(&a->settings, "memory", "3G", NULL), 0);
	assert_int_equal(wslx_settings_set(&a->settings, "cpus", "3", NULL), 0);
	assert_int_equal(wslx_settings_set(&a->settings, "engine", "tcg", NULL), 0);
	assert_int_equal(wslx_settings_set(&a->settings, "kernel", "mine", NULL), 0);
	assert_int_equal(wslx_settings_set(&a->settings, "user", "me", NULL), 0);
	assert_int_equal(wslx_settings_set(&a->settings, "publish", "[::1]:80:81/udp", NULL), 0);
	text = wslx_distro_encode(a);
	assert_non_null(text);
	assert_int_equal(wslx_distro_decode(text, strlen(text), b, NULL), 0);
	assert_memory_equal(a, b, sizeof(*a));
	free(a);
	free(b);
}

static void test_distro_strict(void **state)
{
	static const struct {
		const char *json, *word;
	} bad[] = {
		{ "", "JSON" },
		{ "{ not json", "JSON" },
		{ "[]", "object" },
		{ "{}", "version" },
		{ "{\"version\":2}", "newer" },
		{ "{\"version\":\"1\"}", "version" },
		{ "{\"version\":1}", "name" },
		{ "{\"version\":1,\"name\":\"a/b\",\"id\":\"0123456789abcdef\"}", "name" },
		{ "{\"version\":1,\"name\":7,\"id\":\"0123456789abcdef\"}", "name" },
		{ "{\"version\":1,\"name\":\"a\"}", "id" },
		{ "{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdeg\"}", "id" },
		{ "{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdef\",\"wat\":1}", "wat" },
		{ "{\"version\":1,\"name\":\"a\",\"name\":\"b\",\"id\":\"0123456789abcdef\"}", "JSON" },
		{ "{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdef\",\"cpus\":999}", "processors" },
		{ "{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdef\",\"cpus\":\"2\"}", "cpus" },
		{ "{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdef\",\"disk_size\":-1}", "disk_size" },
		{ "{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdef\",\"default_uid\":4294967296}",
		  "default_uid" },
		{ "{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdef\",\"publish\":\"1:1\"}", "publish" },
		{ "{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdef\",\"publish\":[1]}", "publish" },
		{ "{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdef\",\"engine\":\"warp\"}", "warp" },
		{ "{\"version\":1,\"name\":\"a\\u0000b\",\"id\":\"0123456789abcdef\"}", "JSON" },
	};
	struct wslx_distro *d = malloc(sizeof(*d));

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct wslx_err err = { 0 };

		assert_int_equal(wslx_distro_decode(bad[i].json, strlen(bad[i].json), d, &err), -EINVAL);
		assert_non_null(strstr(err.msg, bad[i].word));
	}
	free(d);
}

/* An earlier release let it be saved: it can be read, or nobody could mend it. */
static void test_distro_with_too_much_memory(void **state)
{
	static const char json[] =
		"{\"version\":1,\"name\":\"a\",\"id\":\"0123456789abcdef\",\"memory\":1099511627776}";
	struct wslx_distro *d = malloc(sizeof(*d));
	struct wslx_err err = { 0 };

	assert_int_equal(wslx_distro_decode(json, strlen(json), d, NULL), 0);
	assert_true(d->settings.memory == 1024 * WSLX_GIB);
	assert_int_equal(wslx_settings_check(&d->settings, &err), -EINVAL);
	assert_string_equal(err.msg, "memory of 1T is out of range: at most 240G");
	assert_int_equal(wslx_settings_set(&d->settings, "memory", "4G", NULL), 0);
	assert_int_equal(wslx_settings_check(&d->settings, NULL), 0);
	free(d);
}

static void test_too_large(void **state)
{
	size_t n = WSLX_STATE_FILE_MAX + 1;
	cleanup_free char *text = malloc(n);
	struct wslx_config c;

	memset(text, ' ', n);
	assert_int_equal(wslx_config_decode(text, n, &c, NULL), -EINVAL);
}

static void test_config_and_image(void **state)
{
	struct wslx_config c = { "debian" }, c2;
	struct wslx_image *i = calloc(1, sizeof(*i)), *i2 = calloc(1, sizeof(*i2));
	cleanup_free char *text = wslx_config_encode(&c), *text2 = NULL;

	assert_int_equal(wslx_config_decode(text, strlen(text), &c2, NULL), 0);
	assert_string_equal(c2.default_distro, "debian");
	assert_int_equal(wslx_id_new(i->id), 0);
	strcpy(i->source, "/home/me/x.tar");
	i->source_size = 12;
	i->source_ino = 34;
	i->source_mtime_ns = -5;
	i->disk_size = 1 << 30;
	i->default_uid = -1;
	text2 = wslx_image_encode(i);
	assert_int_equal(wslx_image_decode(text2, strlen(text2), i2, NULL), 0);
	assert_memory_equal(i, i2, sizeof(*i));
	free(i);
	free(i2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),         cmocka_unit_test(test_publish),
		cmocka_unit_test(test_set),           cmocka_unit_test(test_check),
		cmocka_unit_test(test_memory_limits), cmocka_unit_test(test_memory_of_a_machine),
		cmocka_unit_test(test_defaults),      cmocka_unit_test(test_distro_round_trip),
		cmocka_unit_test(test_distro_strict), cmocka_unit_test(test_distro_with_too_much_memory),
		cmocka_unit_test(test_too_large),     cmocka_unit_test(test_config_and_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
