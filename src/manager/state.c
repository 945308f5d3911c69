#include "manager/state.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/json.h"

#define STATE_VERSION 1

int wslx_id_new(char id[WSLX_DISTRO_ID_LEN + 1])
{
	uint64_t rnd;

	if (getrandom(&rnd, sizeof(rnd), 0) != (ssize_t)sizeof(rnd))
		return -EIO;
	snprintf(id, WSLX_DISTRO_ID_LEN + 1, "%016" PRIx64, rnd);
	return 0;
}

/* ---- Strict reading ---- */

static int parse_any(const char *text, size_t len, json_t **ret, struct wslx_err *err)
{
	cleanup_json json_t *root = NULL;
	json_error_t je;

	if (len > WSLX_STATE_FILE_MAX)
		return wslx_err_set(err, EINVAL, "too large");
	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
	if (!root)
		return wslx_err_set(err, EINVAL, "no valid JSON: line %d: %s", je.line, je.text);
	if (!json_is_object(root))
		return wslx_err_set(err, EINVAL, "no JSON object");
	*ret = TAKE_PTR(root);
	return 0;
}

static int parse_object(const char *text, size_t len, json_t **ret, struct wslx_err *err)
{
	cleanup_json json_t *root = NULL;
	const json_t *v;
	int r = parse_any(text, len, &root, err);

	if (r < 0)
		return r;
	v = json_object_get(root, "version");
	if (!json_is_integer(v) || json_integer_value(v) < 1)
		return wslx_err_set(err, EINVAL, "'version' is missing or no number");
	if (json_integer_value(v) > STATE_VERSION)
		return wslx_err_set(err, EINVAL, "made by a newer release of wslx (format %lld, this one knows %d)",
				    (long long)json_integer_value(v), STATE_VERSION);
	*ret = TAKE_PTR(root);
	return 0;
}

static int only_keys(json_t *o, const char *const *keys, struct wslx_err *err)
{
	const char *key;
	json_t *v;

	json_object_foreach (o, key, v) {
		const char *const *k = keys;

		while (*k && strcmp(*k, key) != 0)
			k++;
		if (!*k)
			return wslx_err_set(err, EINVAL, "unknown member '%s'", key);
	}
	return 0;
}

/* A text without NUL; absent is "" unless required. */
static int get_text(const json_t *o, const char *key, bool required, char *buf, size_t size, struct wslx_err *err)
{
	const json_t *v = json_object_get(o, key);
	const char *s;

	buf[0] = '\0';
	if (!v)
		return required ? wslx_err_set(err, EINVAL, "'%s' is missing", key) : 0;
	s = json_string_value(v);
	if (!s || strlen(s) != json_string_length(v) || strlen(s) >= size)
		return wslx_err_set(err, EINVAL, "'%s' is no text, or too long", key);
	strcpy(buf, s);
	return 0;
}

static int get_int(const json_t *o, const char *key, int64_t min, int64_t absent, int64_t *ret, struct wslx_err *err)
{
	const json_t *v = json_object_get(o, key);

	*ret = absent;
	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < min)
		return wslx_err_set(err, EINVAL, "'%s' is no number, or out of range", key);
	*ret = json_integer_value(v);
	return 0;
}

static int get_size(const json_t *o, const char *key, uint64_t *ret, struct wslx_err *err)
{
	int64_t v;
	int r = get_int(o, key, 0, 0, &v, err);

	*ret = (uint64_t)v;
	return r;
}

static int get_id(const json_t *o, char id[WSLX_DISTRO_ID_LEN + 1], struct wslx_err *err)
{
	int r = get_text(o, "id", true, id, WSLX_DISTRO_ID_LEN + 1, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < WSLX_DISTRO_ID_LEN; i++)
		if (!isdigit((unsigned char)id[i]) && !(id[i] >= 'a' && id[i] <= 'f'))
			return wslx_err_set(err, EINVAL, "'id' is not %d hexadecimal digits", WSLX_DISTRO_ID_LEN);
	return 0;
}

/* ---- Settings ---- */

static int get_setting_text(const json_t *o, const char *key, struct wslx_settings *s, struct wslx_err *err)
{
	char buf[WSLX_NAME_MAX + 1];
	int r = get_text(o, key, false, buf, sizeof(buf), err);

	return r < 0 || !buf[0] ? r : wslx_settings_set(s, key, buf, err);
}

static int get_setting_number(const json_t *o, const char *key, struct wslx_settings *s, struct wslx_err *err)
{
	char buf[24];
	int64_t v;
	int r = get_int(o, key, 1, 0, &v, err);

	if (r < 0 || !v)
		return r;
	snprintf(buf, sizeof(buf), "%" PRId64, v);
	return wslx_settings_set(s, key, buf, err);
}

static int get_list(const json_t *o, const char *key, struct wslx_settings *s, struct wslx_err *err)
{
	const json_t *list = json_object_get(o, key);
	const json_t *v;
	size_t i;

	if (!list)
		return 0;
	if (!json_is_array(list))
		return wslx_err_set(err, EINVAL, "'%s' is no list", key);
	json_array_foreach (list, i, v) {
		const char *text = json_string_value(v);
		int r;

		if (!text || !*text)
			return wslx_err_set(err, EINVAL, "'%s' holds something that is no text", key);
		r = wslx_settings_set(s, key, text, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int get_settings(const json_t *o, struct wslx_settings *s, struct wslx_err *err)
{
	static const char *const texts[] = { "engine", "kernel", "user", "net" };
	int r = 0;

	*s = wslx_settings_default;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(texts); i++)
		r = get_setting_text(o, texts[i], s, err);
	if (r == 0)
		r = get_setting_number(o, "memory", s, err);
	if (r == 0)
		r = get_setting_number(o, "cpus", s, err);
	if (r == 0)
		r = get_setting_number(o, "portal-window", s, err);
	if (r == 0)
		r = get_list(o, "publish", s, err);
	if (r == 0)
		r = get_list(o, "portal", s, err);
	return r;
}

static int put_publish(json_t *o, const struct wslx_settings *s)
{
	json_t *list = json_array();
	char buf[WSLX_PUBLISH_TEXT];
	int r = 0;

	for (size_t i = 0; i < s->net.n_publish; i++) {
		wslx_publish_format(&s->net.publish[i], buf);
		r |= json_array_append_new(list, json_string(buf));
	}
	if (s->net.n_publish)
		return r | json_object_set_new(o, "publish", list);
	json_decref(list);
	return r;
}

static int put_grants(json_t *o, const struct wslx_settings *s)
{
	json_t *list = json_array();
	char buf[WSLX_GRANT_TEXT];
	int r = 0;

	for (size_t i = 0; i < s->n_grants; i++) {
		wslx_grant_format(&s->grants[i], buf);
		r |= json_array_append_new(list, json_string(buf));
	}
	if (s->n_grants)
		return r | json_object_set_new(o, "portal", list);
	json_decref(list);
	return r;
}

/* Members with their default value are left out, so that a later release may
 * choose better defaults. */
static int put_settings(json_t *o, const struct wslx_settings *s)
{
	char buf[WSLX_PUBLISH_TEXT];
	int r = 0;

	if (s->engine != WSLX_ENGINE_AUTO)
		r |= json_object_set_new(o, "engine", json_string(wslx_engine_name(s->engine)));
	if (s->kernel[0])
		r |= json_object_set_new(o, "kernel", json_string(s->kernel));
	if (s->user[0])
		r |= json_object_set_new(o, "user", json_string(s->user));
	if (s->memory)
		r |= json_object_set_new(o, "memory", json_integer((json_int_t)s->memory));
	if (s->cpus)
		r |= json_object_set_new(o, "cpus", json_integer(s->cpus));
	wslx_net_format(&s->net, buf);
	if (s->net.mode != WSLX_NET_PASST)
		r |= json_object_set_new(o, "net", json_string(buf));
	if (s->portal_window)
		r |= json_object_set_new(o, "portal-window", json_integer((json_int_t)s->portal_window));
	return r | put_publish(o, s) | put_grants(o, s);
}

/* Consumes o. */
static char *dump(json_t *o, int failed)
{
	cleanup_free char *text = failed ? NULL : json_dumps(o, JSON_INDENT(2) | JSON_SORT_KEYS);
	char *line = NULL;

	json_decref(o);
	return text && asprintf(&line, "%s\n", text) >= 0 ? line : NULL;
}

static char *finish(json_t *o, int failed)
{
	failed |= json_object_set_new(o, "version", json_integer(STATE_VERSION));
	return dump(o, failed);
}

/* ---- distro.json ---- */

int wslx_distro_decode(const char *json, size_t len, struct wslx_distro *ret, struct wslx_err *err)
{
	static const char *const keys[] = { "version",     "name",   "id",      "created", "disk_size",
					    "default_uid", "engine", "kernel",  "user",    "memory",
					    "cpus",        "net",    "publish", "portal",  "portal-window",
					    NULL };
	cleanup_json json_t *o = NULL;
	struct wslx_distro *d = ret;
	int r = parse_object(json, len, &o, err);

	if (r == 0)
		r = only_keys(o, keys, err);
	if (r == 0)
		r = get_text(o, "name", true, d->name, sizeof(d->name), err);
	if (r == 0 && !wslx_name_ok(d->name))
		r = wslx_err_set(err, EINVAL, "'name' is no valid name");
	if (r == 0)
		r = get_id(o, d->id, err);
	if (r == 0)
		r = get_int(o, "created", 0, 0, &d->created, err);
	if (r == 0)
		r = get_size(o, "disk_size", &d->disk_size, err);
	if (r == 0)
		r = get_int(o, "default_uid", 0, -1, &d->default_uid, err);
	if (r == 0 && d->default_uid > UINT32_MAX)
		r = wslx_err_set(err, EINVAL, "'default_uid' is out of range");
	return r == 0 ? get_settings(o, &d->settings, err) : r;
}

char *wslx_distro_encode(const struct wslx_distro *d)
{
	json_t *o = json_object();
	int r = 0;

	r |= json_object_set_new(o, "name", json_string(d->name));
	r |= json_object_set_new(o, "id", json_string(d->id));
	r |= json_object_set_new(o, "created", json_integer(d->created));
	r |= json_object_set_new(o, "disk_size", json_integer((json_int_t)d->disk_size));
	if (d->default_uid >= 0)
		r |= json_object_set_new(o, "default_uid", json_integer(d->default_uid));
	return finish(o, r | put_settings(o, &d->settings));
}

/* ---- config.json ---- */

int wslx_config_decode(const char *json, size_t len, struct wslx_config *ret, struct wslx_err *err)
{
	static const char *const keys[] = { "version", "default", NULL };
	cleanup_json json_t *o = NULL;
	int r = parse_object(json, len, &o, err);

	if (r == 0)
		r = only_keys(o, keys, err);
	if (r == 0)
		r = get_text(o, "default", false, ret->default_distro, sizeof(ret->default_distro), err);
	if (r == 0 && ret->default_distro[0] && !wslx_name_ok(ret->default_distro))
		r = wslx_err_set(err, EINVAL, "'default' is no valid name");
	return r;
}

char *wslx_config_encode(const struct wslx_config *c)
{
	json_t *o = json_object();
	int r = 0;

	if (c->default_distro[0])
		r = json_object_set_new(o, "default", json_string(c->default_distro));
	return finish(o, r);
}

/* ---- image.json ---- */

int wslx_image_decode(const char *json, size_t len, struct wslx_image *ret, struct wslx_err *err)
{
	static const char *const keys[] = { "version",         "id",        "source",      "source_size", "source_ino",
					    "source_mtime_ns", "disk_size", "default_uid", NULL };
	cleanup_json json_t *o = NULL;
	int r = parse_object(json, len, &o, err);

	if (r == 0)
		r = only_keys(o, keys, err);
	if (r == 0)
		r = get_id(o, ret->id, err);
	if (r == 0)
		r = get_text(o, "source", true, ret->source, sizeof(ret->source), err);
	if (r == 0)
		r = get_size(o, "source_size", &ret->source_size, err);
	if (r == 0)
		r = get_size(o, "source_ino", &ret->source_ino, err);
	if (r == 0)
		r = get_int(o, "source_mtime_ns", INT64_MIN, 0, &ret->source_mtime_ns, err);
	if (r == 0)
		r = get_size(o, "disk_size", &ret->disk_size, err);
	if (r == 0)
		r = get_int(o, "default_uid", 0, -1, &ret->default_uid, err);
	if (r == 0 && ret->default_uid > UINT32_MAX)
		r = wslx_err_set(err, EINVAL, "'default_uid' is out of range");
	return r;
}

char *wslx_image_encode(const struct wslx_image *i)
{
	json_t *o = json_object();
	int r = 0;

	r |= json_object_set_new(o, "id", json_string(i->id));
	r |= json_object_set_new(o, "source", json_string(i->source));
	r |= json_object_set_new(o, "source_size", json_integer((json_int_t)i->source_size));
	r |= json_object_set_new(o, "source_ino", json_integer((json_int_t)i->source_ino));
	r |= json_object_set_new(o, "source_mtime_ns", json_integer(i->source_mtime_ns));
	r |= json_object_set_new(o, "disk_size", json_integer((json_int_t)i->disk_size));
	if (i->default_uid >= 0)
		r |= json_object_set_new(o, "default_uid", json_integer(i->default_uid));
	return finish(o, r);
}

/* ---- kernel.json: its members, and their format, belong to src/image ---- */

int wslx_kernel_decode(const char *json, size_t len, struct wslx_kernel_info *ret, struct wslx_err *err)
{
	cleanup_json json_t *o = NULL;
	int r = parse_any(json, len, &o, err);

	return r < 0 ? r : wslx_kernel_info_from_json(o, ret, err);
}

char *wslx_kernel_encode(const struct wslx_kernel_info *k)
{
	json_t *o = wslx_kernel_info_to_json(k);

	return o ? dump(o, 0) : NULL;
}
