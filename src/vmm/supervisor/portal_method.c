/* The supervisor's side of Portal: docs/control-protocol.md, PortalSync. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "portal/wire.h"
#include "vmm/supervisor/internal.h"
#include "vmm/supervisor/portal.h"

#define IFACE "io.wslx.Machine"

/* A text of at most size - 1 bytes; false and answered if it is something else. */
static bool get_text(struct wslx_call *call, json_t *params, const char *key, char *ret, size_t size)
{
	const char *s = json_string_value(json_object_get(params, key));

	if (!s || strlen(s) >= size) {
		wslx_call_invalid(call, key);
		return false;
	}
	memcpy(ret, s, strlen(s) + 1);
	return true;
}

static bool get_name(struct wslx_call *call, json_t *params, const char *key, char ret[WSLX_GRANT_NAME_SIZE])
{
	if (!get_text(call, params, key, ret, WSLX_GRANT_NAME_SIZE))
		return false;
	if (wslx_region_name_ok(ret))
		return true;
	wslx_call_invalid(call, key);
	return false;
}

static bool get_segments(struct wslx_call *call, json_t *params, uint32_t *ret)
{
	json_t *v = json_object_get(params, "segments");

	if (!json_is_integer(v) || json_integer_value(v) < 0 ||
	    json_integer_value(v) > (json_int_t)PORTAL_MAX_SEGMENTS) {
		wslx_call_invalid(call, "segments");
		return false;
	}
	*ret = (uint32_t)json_integer_value(v);
	return true;
}

/* False and answered if the parameters do not describe a grant. */
static bool get_grant(struct wslx_call *call, json_t *params, struct wslx_portal_grant *g, char *socket, size_t size)
{
	char access[8];

	if (!get_name(call, params, "region", g->region) || !get_text(call, params, "socket", socket, size) ||
	    !get_segments(call, params, &g->segments) || !get_text(call, params, "access", access, sizeof(access)))
		return false;
	g->readonly = !strcmp(access, "ro");
	g->socket = socket;
	memcpy(g->as, g->region, sizeof(g->as));
	if (json_object_get(params, "as") && !get_name(call, params, "as", g->as))
		return false;
	if (!g->readonly && strcmp(access, "rw") != 0)
		wslx_call_invalid(call, "access");
	else if (socket[0] != '/')
		wslx_call_invalid(call, "socket");
	else
		return true;
	return false;
}

/* manager/portal.h: what `wslx portal revoke` leaves for a machine that it cannot reach. */
static char *mark_of(struct wslx_sup *s, const char *region)
{
	char name[sizeof(WSLX_REVOKED_DIR) + WSLX_GRANT_NAME_SIZE];

	snprintf(name, sizeof(name), WSLX_REVOKED_DIR "/%s", region);
	return wslx_runtime_path(s->config, name);
}

static bool portal_withdrawn(void *opaque, const char *region)
{
	cleanup_free char *mark = mark_of(opaque, region);

	return !mark || access(mark, F_OK) == 0;
}

static void given_again(struct wslx_sup *s, const char *region)
{
	cleanup_free char *mark = mark_of(s, region);

	if (mark && unlink(mark) < 0 && errno != ENOENT)
		log_warn("cannot remove %s: %s", mark, strerror(errno));
}

void wslx_sup_portal_sync(void *opaque, struct wslx_call *call, json_t *params)
{
	struct wslx_sup *s = opaque;
	struct wslx_portal_grant g = { 0 };
	const char *access = json_string_value(json_object_get(params, "access"));
	char socket[1024];
	int r = 0;

	if (!s->portal) {
		wslx_call_error(
			call, IFACE ".NotSupported",
			json_pack("{s:s}", "what", "this machine has no Portal window; it gets one at its next start"));
		return;
	}
	if (access && !strcmp(access, "none")) {
		if (!get_name(call, params, "region", g.region))
			return;
		/* None to remove: so it is removed. */
		(void)!wslx_vmportal_remove(s->portal, g.region);
	} else if (json_object_get(params, "region")) {
		if (!get_grant(call, params, &g, socket, sizeof(socket)))
			return;
		given_again(s, g.region);
		r = wslx_vmportal_add(s->portal, &g);
	} else {
		wslx_vmportal_retry(s->portal);
	}
	if (r < 0)
		wslx_call_error(call, IFACE ".Failed",
				json_pack("{s:s}", "message",
					  r == -ENOSPC ? "this machine takes part in 8 regions already, the most it can"
						       : "out of memory"));
	else
		wslx_call_reply(call, json_pack("{s:o}", "grants", wslx_vmportal_describe(s->portal)));
}

/* ---- what Portal asks of the supervisor ---------------------------------------- */

static int portal_map(void *opaque, const struct wslx_vmportal_map *m, wslx_vmportal_mapped_fn done, void *done_opaque)
{
	struct wslx_sup *s = opaque;

	return s->run ? wslx_run_window_map(s->run, m, done, done_opaque) : -ECONNRESET;
}

static void portal_warn(void *opaque, const char *text)
{
	wslx_sup_warn(opaque, text);
}

static void portal_failed(void *opaque, const char *text)
{
	wslx_sup_fail(opaque, EIO, text);
}

int wslx_sup_portal_new(struct wslx_sup *s, struct wslx_err *err)
{
	int r;

	if (!s->config->portal.window)
		return 0;
	r = wslx_vmportal_new(
		&(struct wslx_vmportal_params) {
			.loop = s->loop,
			.machine = s->config->name,
			.cid = WSLX_GUEST_CID,
			.map = portal_map,
			.warn = portal_warn,
			.withdrawn = portal_withdrawn,
			.failed = portal_failed,
			.opaque = s,
		},
		&s->config->portal, &s->portal);
	return r < 0 ? wslx_err_sys(err, -r, "Portal") : 0;
}

int wslx_sup_portal_connect(struct wslx_sup *s, uint32_t id, uint64_t port)
{
	int fd;

	if (!s->portal || !wslx_vmportal_is_doorbell(s->portal, port))
		return -ENOENT;
	fd = wslx_vmportal_doorbell(s->portal, port);
	wslx_run_connected(s->run, id, fd);
	if (fd >= 0)
		close(fd);
	return 0;
}
