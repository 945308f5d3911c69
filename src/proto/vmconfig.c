/*
 * JSON codec of the machine configuration.  Decoding is strict: an unknown
 * member, a wrong type or a number out of range is an error that names the
 * member, so that a mistake in a hand-edited state file is found here and not
 * as a strange machine.
 */
#include "proto/vmconfig.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define VERSION 1
#define TEXT_MAX 4096u
#define MEMORY_ALIGN (2 * WSLX_MIB)
/* Where the PCI window begins, less the hole below 4 GiB, which displaces a GiB of memory. */
#define MEMORY_AND_WINDOW_MAX (255 * WSLX_GIB)
#define MAX_SEGMENTS (1u << 19)
#define BOOT_TIMEOUT_MAX_MS (24u * 3600 * 1000)

static const char *const engine_names[] = { "auto", "kvm", "tcg" };
static const char *const format_names[] = { "raw", "overlay" };
static const char *const net_names[] = { "none", "passt", "tap" };

static void decref_p(json_t **j)
{
	json_decref(*j);
}

void wslx_hostname_from(const char *name, char ret[WSLX_HOSTNAME_MAX + 1])
{
	size_t n = 0;

	/* RFC 952 letters. */
	for (; *name && n < WSLX_HOSTNAME_MAX; name++) {
		bool ok = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
			  (*name >= '0' && *name <= '9');

		if (ok || n) /* no leading '-' */
			ret[n++] = ok ? *name : '-';
	}
	while (n && ret[n - 1] == '-')
		n--;
	ret[n] = '\0';
	if (!n)
		memcpy(ret, "wslx", 5);
}

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdefABCDEF";
	const char *at = c ? strchr(digits, c) : NULL;
	int i = at ? (int)(at - digits) : -1;

	return i < 16 ? i : i - 6;
}

int wslx_mac_parse(const char *s, uint8_t ret[6])
{
	if (strlen(s) != 17)
		return -EINVAL;
	for (int i = 0; i < 6; i++, s += 3) {
		int hi = hex_digit(s[0]), lo = hex_digit(s[1]);

		if (hi < 0 || lo < 0 || (i < 5 && s[2] != ':'))
			return -EINVAL;
		ret[i] = (uint8_t)(hi << 4 | lo);
	}
	return 0;
}

bool wslx_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (!n || n > WSLX_NAME_MAX || name[0] == '-' || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

bool wslx_region_name_ok(const char *name)
{
	size_t n = strnlen(name, WSLX_GRANT_NAME_SIZE);

	if (!n || n == WSLX_GRANT_NAME_SIZE)
		return false;
	for (; *name; name++)
		if (*name <= ' ' || *name > '~' || *name == '/')
			return false;
	return true;
}

bool wslx_window_bytes_ok(uint64_t size)
{
	return size >= WSLX_WINDOW_SIZE_MIN && size <= WSLX_WINDOW_SIZE_MAX && !(size & (size - 1));
}

bool wslx_memory_fits(uint64_t memory, uint64_t window)
{
	/* A window begins at a whole GiB. */
	return memory <= WSLX_MEMORY_MAX && window <= MEMORY_AND_WINDOW_MAX &&
	       (!window || (memory + WSLX_GIB - 1) / WSLX_GIB * WSLX_GIB <= MEMORY_AND_WINDOW_MAX - window);
}

const char *wslx_engine_name(enum wslx_engine e)
{
	return engine_names[e];
}

static int parse_name(const char *s, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(s, names[i]))
			return (int)i;
	return -EINVAL;
}

int wslx_engine_parse(const char *s, enum wslx_engine *ret)
{
	int i = parse_name(s, engine_names, ARRAY_SIZE(engine_names));

	if (i < 0)
		return i;
	*ret = (enum wslx_engine)i;
	return 0;
}

/* ---- encoding -------------------------------------------------------- */

static const char *text(const char *s)
{
	return s ? s : "";
}

static json_t *encode_disk(const struct wslx_disk_config *d)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:i}", "path", text(d->path), "format",
			 format_names[d->format], "base", text(d->base), "serial", d->serial, "readonly",
			 (int)d->readonly, "no_sync", (int)d->no_sync, "queues", (int)d->queues);
}

static json_t *encode_distro(const struct wslx_distro_config *d)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:b}", "name", text(d->name), "serial", d->serial, "fstype",
			 text(d->fstype), "hostname", text(d->hostname), "readonly", (int)d->readonly);
}

static json_t *encode_net(const struct wslx_net_config *n)
{
	cleanup_with(decref_p) json_t *publish = json_array();

	for (size_t i = 0; i < n->n_publish; i++) {
		const struct wslx_publish *p = &n->publish[i];

		if (json_array_append_new(publish, json_pack("{s:b, s:s, s:i, s:i}", "udp", (int)p->udp, "host_addr",
							     p->host_addr, "host_port", (int)p->host_port, "guest_port",
							     (int)p->guest_port)) < 0)
			return NULL;
	}
	return json_pack("{s:s, s:s, s:s, s:O}", "mode", net_names[n->mode], "tap", n->tap, "mac", n->mac, "publish",
			 publish);
}

static json_t *encode_portal(const struct wslx_portal_config *p)
{
	cleanup_with(decref_p) json_t *grants = json_array();

	for (size_t i = 0; i < p->n_grants; i++) {
		const struct wslx_portal_grant *g = &p->grants[i];

		if (json_array_append_new(grants, json_pack("{s:s, s:s, s:s, s:i, s:s}", "region", g->region, "as",
							    g->as, "socket", text(g->socket), "segments",
							    (int)g->segments, "access", g->readonly ? "ro" : "rw")) < 0)
			return NULL;
	}
	return json_pack("{s:I, s:O}", "window", (json_int_t)p->window, "grants", grants);
}

int wslx_vm_config_encode(const struct wslx_vm_config *c, char **ret)
{
	cleanup_with(decref_p) json_t *disks = json_array();
	cleanup_with(decref_p) json_t *distros = json_array();
	cleanup_with(decref_p) json_t *root = NULL;

	for (size_t i = 0; i < c->n_disks; i++)
		if (json_array_append_new(disks, encode_disk(&c->disks[i])) < 0)
			return -ENOMEM;
	for (size_t i = 0; i < c->n_distros; i++)
		if (json_array_append_new(distros, encode_distro(&c->distros[i])) < 0)
			return -ENOMEM;
	root = json_pack("{s:i, s:s, s:s, s:i, s:I, s:b, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:O, s:O, s:o}", "version",
			 VERSION, "name", text(c->name), "engine", engine_names[c->engine], "cpus", (int)c->cpus,
			 "memory", (json_int_t)c->memory, "shared_memory", (int)c->shared_memory, "runtime_dir",
			 text(c->runtime_dir), "state_dir", text(c->state_dir), "kernel", text(c->kernel), "initramfs",
			 text(c->initramfs), "modules_serial", text(c->modules_serial), "cmdline_extra",
			 text(c->cmdline_extra), "boot_timeout_ms", (int)c->boot_timeout_ms, "disks", disks, "distros",
			 distros, "net", encode_net(&c->net));
	if (!root || (c->portal.window && json_object_set_new(root, "portal", encode_portal(&c->portal)) < 0))
		return -ENOMEM;
	*ret = json_dumps(root, JSON_COMPACT);
	return *ret ? 0 : -ENOMEM;
}

/* ---- decoding -------------------------------------------------------- */

/* One object being decoded: members are taken one by one; what is left at the
 * end is unknown. */
struct reader {
	json_t *obj;
	const char *where;
	size_t taken;
	struct wslx_err *err;
	int r; /* the first error */
};

static void fail(struct reader *d, const char *key, const char *what)
{
	if (d->r == 0)
		d->r = wslx_err_set(d->err, EINVAL, "machine configuration: %s%s: %s", d->where, key, what);
}

static json_t *take(struct reader *d, const char *key)
{
	json_t *v = json_object_get(d->obj, key);

	if (v)
		d->taken++;
	else
		fail(d, key, "missing");
	return v;
}

static const char *take_text(struct reader *d, const char *key, size_t max)
{
	json_t *v = take(d, key);

	if (!v)
		return NULL;
	if (!json_is_string(v) || json_string_length(v) != strlen(json_string_value(v))) {
		fail(d, key, "want text");
		return NULL;
	}
	if (json_string_length(v) > max) {
		fail(d, key, "too long");
		return NULL;
	}
	return json_string_value(v);
}

static char *take_dup(struct reader *d, const char *key)
{
	const char *s = take_text(d, key, TEXT_MAX);
	char *dup = s ? strdup(s) : NULL;

	if (s && !dup && d->r == 0)
		d->r = -ENOMEM;
	return dup;
}

/* An absolute path, or "" where that is allowed. */
static char *take_path(struct reader *d, const char *key, bool optional)
{
	char *s = take_dup(d, key);

	if (s && s[0] != '/' && (s[0] || !optional))
		fail(d, key, "want an absolute path");
	return s;
}

static void take_copy(struct reader *d, const char *key, char *buf, size_t size)
{
	const char *s = take_text(d, key, size - 1);

	if (s)
		memcpy(buf, s, strlen(s) + 1);
}

static uint64_t take_number(struct reader *d, const char *key, uint64_t min, uint64_t max)
{
	json_t *v = take(d, key);

	if (!v)
		return min;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) < min ||
	    (uint64_t)json_integer_value(v) > max) {
		fail(d, key, "number missing or out of range");
		return min;
	}
	return (uint64_t)json_integer_value(v);
}

static bool take_bool(struct reader *d, const char *key)
{
	json_t *v = take(d, key);

	if (v && !json_is_boolean(v))
		fail(d, key, "want true or false");
	return json_is_true(v);
}

static int take_enum(struct reader *d, const char *key, const char *const *names, size_t n)
{
	const char *s = take_text(d, key, 16);
	int i = s ? parse_name(s, names, n) : 0;

	if (i < 0)
		fail(d, key, "unknown value");
	return i < 0 ? 0 : i;
}

static json_t *take_array(struct reader *d, const char *key, size_t max)
{
	json_t *v = take(d, key);

	if (v && (!json_is_array(v) || json_array_size(v) > max)) {
		fail(d, key, "want an array, and not that many");
		return NULL;
	}
	return v;
}

static int finish(struct reader *d)
{
	if (d->r == 0 && json_object_size(d->obj) != d->taken)
		fail(d, "", "unknown member");
	return d->r;
}

static int decode_disk(json_t *j, struct wslx_disk_config *c, struct wslx_err *err)
{
	struct reader d = { .obj = j, .where = "disks.", .err = err };

	if (!json_is_object(j))
		fail(&d, "", "want an object");
	c->path = take_path(&d, "path", false);
	c->format = (enum wslx_disk_format)take_enum(&d, "format", format_names, ARRAY_SIZE(format_names));
	c->base = take_path(&d, "base", true);
	take_copy(&d, "serial", c->serial, sizeof(c->serial));
	c->readonly = take_bool(&d, "readonly");
	c->no_sync = take_bool(&d, "no_sync");
	c->queues = (unsigned)take_number(&d, "queues", 0, WSLX_MAX_CPUS);
	if (d.r == 0 && (c->format == WSLX_DISK_OVERLAY) != (c->base[0] != '\0'))
		fail(&d, "base", "an overlay needs a base, and only an overlay");
	return finish(&d);
}

static int decode_distro(json_t *j, struct wslx_distro_config *c, struct wslx_err *err)
{
	struct reader d = { .obj = j, .where = "distros.", .err = err };

	if (!json_is_object(j))
		fail(&d, "", "want an object");
	c->name = take_dup(&d, "name");
	if (c->name && !wslx_name_ok(c->name))
		fail(&d, "name", "not a valid name");
	take_copy(&d, "serial", c->serial, sizeof(c->serial));
	c->fstype = take_dup(&d, "fstype");
	c->hostname = take_dup(&d, "hostname");
	c->readonly = take_bool(&d, "readonly");
	return finish(&d);
}

static int decode_publish(json_t *j, struct wslx_publish *p, struct wslx_err *err)
{
	struct reader d = { .obj = j, .where = "net.publish.", .err = err };

	if (!json_is_object(j))
		fail(&d, "", "want an object");
	p->udp = take_bool(&d, "udp");
	take_copy(&d, "host_addr", p->host_addr, sizeof(p->host_addr));
	p->host_port = (uint16_t)take_number(&d, "host_port", 1, 65535);
	p->guest_port = (uint16_t)take_number(&d, "guest_port", 1, 65535);
	return finish(&d);
}

static int decode_net(json_t *j, struct wslx_net_config *n, struct wslx_err *err)
{
	struct reader d = { .obj = j, .where = "net.", .err = err };
	json_t *publish, *p;
	size_t i;

	if (!json_is_object(j))
		fail(&d, "", "want an object");
	n->mode = (enum wslx_net_mode)take_enum(&d, "mode", net_names, ARRAY_SIZE(net_names));
	take_copy(&d, "tap", n->tap, sizeof(n->tap));
	take_copy(&d, "mac", n->mac, sizeof(n->mac));
	publish = take_array(&d, "publish", WSLX_MAX_PUBLISH);
	if (d.r == 0 && n->mode == WSLX_NET_TAP && !n->tap[0])
		fail(&d, "tap", "want the name of an interface");
	json_array_foreach (publish, i, p) {
		if (d.r == 0)
			d.r = decode_publish(p, &n->publish[n->n_publish++], err);
	}
	return finish(&d);
}

static int decode_grant(json_t *j, struct wslx_portal_grant *g, struct wslx_err *err)
{
	static const char *const access_names[] = { "rw", "ro" };
	struct reader d = { .obj = j, .where = "portal.grants.", .err = err };

	if (!json_is_object(j))
		fail(&d, "", "want an object");
	take_copy(&d, "region", g->region, sizeof(g->region));
	take_copy(&d, "as", g->as, sizeof(g->as));
	g->socket = take_path(&d, "socket", false);
	g->segments = (uint32_t)take_number(&d, "segments", 0, MAX_SEGMENTS);
	g->readonly = take_enum(&d, "access", access_names, ARRAY_SIZE(access_names));
	if (d.r == 0 && !wslx_region_name_ok(g->region))
		fail(&d, "region", "not a valid name");
	if (d.r == 0 && !wslx_region_name_ok(g->as))
		fail(&d, "as", "not a valid name");
	return finish(&d);
}

static int decode_portal(json_t *j, struct wslx_portal_config *p, struct wslx_err *err)
{
	struct reader d = { .obj = j, .where = "portal.", .err = err };
	json_t *grants, *g;
	size_t i;

	if (!json_is_object(j))
		fail(&d, "", "want an object");
	p->window = take_number(&d, "window", 0, WSLX_WINDOW_SIZE_MAX);
	if (d.r == 0 && !wslx_window_bytes_ok(p->window))
		fail(&d, "window", "want a power of two from 64 MiB to 64 GiB");
	grants = take_array(&d, "grants", WSLX_MAX_GRANTS);
	json_array_foreach (grants, i, g) {
		if (d.r == 0)
			d.r = decode_grant(g, &p->grants[p->n_grants++], err);
	}
	return finish(&d);
}

static int decode_lists(struct reader *d, struct wslx_vm_config *c)
{
	json_t *disks = take_array(d, "disks", WSLX_MAX_DISKS);
	json_t *distros = take_array(d, "distros", WSLX_MAX_DISTROS);
	json_t *net = take(d, "net");
	json_t *j;
	size_t i;

	if (d->r < 0)
		return d->r;
	c->disks = calloc(WSLX_MAX_DISKS, sizeof(*c->disks));
	c->distros = calloc(WSLX_MAX_DISTROS, sizeof(*c->distros));
	if (!c->disks || !c->distros)
		return -ENOMEM;
	json_array_foreach (disks, i, j) {
		if (d->r == 0)
			d->r = decode_disk(j, &c->disks[c->n_disks++], d->err);
	}
	json_array_foreach (distros, i, j) {
		if (d->r == 0)
			d->r = decode_distro(j, &c->distros[c->n_distros++], d->err);
	}
	if (d->r == 0)
		d->r = decode_net(net, &c->net, d->err);
	return d->r;
}

static int decode_root(json_t *root, struct wslx_vm_config *c, struct wslx_err *err)
{
	struct reader d = { .obj = root, .where = "", .err = err };

	if (!json_is_object(root))
		return wslx_err_set(err, EINVAL, "machine configuration: want an object");
	if (take_number(&d, "version", 0, UINT32_MAX) != VERSION)
		fail(&d, "version", "not one that this wslx-vmm knows");
	c->name = take_dup(&d, "name");
	if (c->name && !wslx_name_ok(c->name))
		fail(&d, "name", "not a valid name");
	c->engine = (enum wslx_engine)take_enum(&d, "engine", engine_names, ARRAY_SIZE(engine_names));
	if (c->engine == WSLX_ENGINE_AUTO)
		fail(&d, "engine", "want kvm or tcg");
	c->cpus = (unsigned)take_number(&d, "cpus", 1, WSLX_MAX_CPUS);
	c->memory = take_number(&d, "memory", WSLX_MEMORY_MIN, WSLX_MEMORY_MAX);
	if (c->memory % MEMORY_ALIGN)
		fail(&d, "memory", "not a multiple of 2 MiB");
	c->shared_memory = take_bool(&d, "shared_memory");
	c->runtime_dir = take_path(&d, "runtime_dir", false);
	c->state_dir = take_path(&d, "state_dir", false);
	c->kernel = take_path(&d, "kernel", false);
	c->initramfs = take_path(&d, "initramfs", true);
	c->modules_serial = take_dup(&d, "modules_serial");
	if (c->modules_serial && strlen(c->modules_serial) > WSLX_SERIAL_MAX)
		fail(&d, "modules_serial", "too long");
	c->cmdline_extra = take_dup(&d, "cmdline_extra");
	c->boot_timeout_ms = (unsigned)take_number(&d, "boot_timeout_ms", 0, BOOT_TIMEOUT_MAX_MS);
	if (d.r == 0)
		d.r = decode_lists(&d, c);
	/* Written only for a machine that has it. */
	if (d.r == 0 && json_object_get(root, "portal"))
		d.r = decode_portal(take(&d, "portal"), &c->portal, err);
	if (d.r == 0 && !wslx_memory_fits(c->memory, c->portal.window))
		fail(&d, "memory", "no room for it and Portal's window: 255 GiB for both");
	return finish(&d);
}

int wslx_vm_config_decode(const char *json, size_t len, struct wslx_vm_config **ret, struct wslx_err *err)
{
	cleanup_with(decref_p) json_t *root = NULL;
	struct wslx_vm_config *c;
	json_error_t e;
	int r;

	root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &e);
	if (!root)
		return wslx_err_set(err, EINVAL, "machine configuration: line %d: %s", e.line, e.text);
	c = calloc(1, sizeof(*c));
	if (!c)
		return wslx_err_sys(err, ENOMEM, "machine configuration");
	r = decode_root(root, c, err);
	if (r < 0) {
		if (r == -ENOMEM)
			wslx_err_sys(err, ENOMEM, "machine configuration");
		wslx_vm_config_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void wslx_vm_config_free(struct wslx_vm_config *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_disks; i++) {
		free(c->disks[i].path);
		free(c->disks[i].base);
	}
	for (size_t i = 0; i < c->n_distros; i++) {
		free(c->distros[i].name);
		free(c->distros[i].fstype);
		free(c->distros[i].hostname);
	}
	for (size_t i = 0; i < c->portal.n_grants; i++)
		free(c->portal.grants[i].socket);
	free(c->disks);
	free(c->distros);
	free(c->name);
	free(c->runtime_dir);
	free(c->state_dir);
	free(c->kernel);
	free(c->initramfs);
	free(c->modules_serial);
	free(c->cmdline_extra);
	free(c);
}
