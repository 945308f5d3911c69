/* Grants and their mappings; see portal.h. */
#include "vmm/supervisor/portal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/portal_internal.h"

/* The processes answer at once, unless the host has no time for them. */
#define MAP_LIMIT_MS 30000
#define MAP_RETRY_MS 100

void wslx_vmportal_say(struct grant *g, const char *fmt, ...)
{
	char text[256], line[384];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(line, sizeof(line), "portal region '%s': %s", g->config.region, text);
	g->p->params.warn(g->p->params.opaque, line);
}

/* ---- mappings ------------------------------------------------------------------ */

static void give_up(struct grant *g, const char *why)
{
	char text[192];

	snprintf(text, sizeof(text), "portal region '%s' cannot be mapped or taken away: %s", g->config.region, why);
	g->p->params.failed(g->p->params.opaque, text);
}

void wslx_vmportal_map_over(struct grant *g)
{
	wslx_timer_disarm(g->timer);
	g->busy = g->map_later = false;
	if (g->map.kind != WSLX_WINDOW_OWN)
		wslx_close(&g->map.fd);
	g->map.fd = -1;
}

/* The kernel counts by user the descriptors that were sent and not received: those of others may be too many. */
static void failed(struct grant *g, int err)
{
	if (err == -ETOOMANYREFS && g->map.fd >= 0 && g->map_tries++ < MAP_LIMIT_MS / MAP_RETRY_MS) {
		g->map_later = true;
		wslx_timer_arm(g->timer, MAP_RETRY_MS);
		return;
	}
	give_up(g, strerror(-err));
}

static void on_mapped(void *opaque, int err)
{
	struct grant *g = opaque;

	/* The run is over, or we have given it up: its end follows. */
	if (err == -ECONNRESET || !g->busy)
		return;
	if (err < 0) {
		failed(g, err);
		return;
	}
	wslx_vmportal_map_over(g);
	/* Everybody has something else there now. */
	if (g->covered_segments)
		wslx_vmportal_page_punch(&g->p->page, g->covered_first, g->covered_segments);
	wslx_vmportal_go_on(g);
}

/* Once more, too, where only one of the two processes could not be asked: it changes nothing in the other. */
static void ask(struct grant *g)
{
	int r;

	g->map_later = false;
	wslx_timer_arm(g->timer, MAP_LIMIT_MS);
	r = g->p->params.map(g->p->params.opaque, &g->map, on_mapped, g);
	if (r < 0 && r != -ECONNRESET)
		failed(g, r);
}

static void on_timer(struct wslx_timer *t, void *opaque)
{
	struct grant *g = opaque;

	if (g->busy && g->map_later)
		ask(g);
	else if (g->busy)
		give_up(g, "no answer");
	else if (g->p->running && g->state == GRANT_WAITING)
		wslx_vmportal_join(g);
}

void wslx_vmportal_map(struct grant *g, uint32_t first, uint32_t segments, enum wslx_window_kind kind, int fd)
{
	g->map = (struct wslx_vmportal_map) {
		.first = first,
		.segments = segments,
		.kind = kind,
		.fd = kind == WSLX_WINDOW_OWN ? g->p->page.fd : fcntl(fd, F_DUPFD_CLOEXEC, 0),
	};
	g->busy = true;
	g->map_tries = 0;
	g->covered_first = first;
	g->covered_segments = kind == WSLX_WINDOW_OWN ? 0 : segments;
	if (g->map.fd < 0)
		give_up(g, strerror(errno));
	else
		ask(g);
}

/* ---- grants ---------------------------------------------------------------------- */

/* A program may wait for a region that is not there yet; it has to know of it. */
static void show_name(struct grant *g)
{
	if (g->p->page.head)
		wslx_vmportal_page_name(&g->p->page, g->index, g->revoked ? "" : g->config.as);
}

static int grant_new(struct wslx_vmportal *p, const struct wslx_portal_grant *c)
{
	struct grant *g = &p->grants[p->n_grants];
	int r;

	*g = (struct grant) {
		.p = p,
		.index = (unsigned)p->n_grants,
		.config = *c,
		.sock = -1,
		.arena_fd = -1,
		.map.fd = -1,
		.bell = -1,
	};
	g->config.socket = strdup(c->socket);
	if (!g->config.socket)
		return -ENOMEM;
	r = wslx_loop_timer(p->params.loop, on_timer, g, &g->timer);
	if (r < 0) {
		free(g->config.socket);
		return r;
	}
	p->n_grants++;
	show_name(g);
	return 0;
}

static bool same_terms(const struct wslx_portal_grant *a, const struct wslx_portal_grant *b)
{
	return a->readonly == b->readonly && a->segments == b->segments && !strcmp(a->as, b->as) &&
	       !strcmp(a->socket, b->socket);
}

static int grant_change(struct grant *g, const struct wslx_portal_grant *c)
{
	char *socket = strdup(c->socket);

	if (!socket)
		return -ENOMEM;
	free(g->config.socket);
	g->config = *c;
	g->config.socket = socket;
	/* In force on other terms: those end, for the program that has attached, too. */
	if (g->state != GRANT_WAITING && !g->revoked) {
		wslx_vmportal_bell_end(g);
		wslx_vmportal_leave(g, true);
	}
	g->revoked = g->removed = false;
	g->gone_warned = g->lost_warned = g->full_warned = false;
	if (g->state == GRANT_WAITING)
		show_name(g);
	return 0;
}

/* Of one that was removed, and that nobody in the guest holds on to; if there is no such, one that somebody has held on
 * to for the longest. */
static struct grant *find_free(struct wslx_vmportal *p)
{
	struct grant *held = NULL;

	for (size_t i = 0; i < p->n_grants; i++) {
		struct grant *g = &p->grants[i];

		if (!g->removed || g->state != GRANT_WAITING)
			continue;
		if (g->bell < 0)
			return g;
		if (!held || g->bell_ended < held->bell_ended)
			held = g;
	}
	if (held)
		wslx_vmportal_bell_reclaim(held);
	return held;
}

static struct grant *find(struct wslx_vmportal *p, const char *region)
{
	for (size_t i = 0; i < p->n_grants; i++)
		if (!strcmp(p->grants[i].config.region, region))
			return &p->grants[i];
	return NULL;
}

int wslx_vmportal_add(struct wslx_vmportal *p, const struct wslx_portal_grant *c)
{
	struct grant *g = find(p, c->region);
	int r = 0;

	if (!g && p->n_grants == WSLX_MAX_GRANTS) {
		g = find_free(p);
		if (!g)
			return -ENOSPC;
	}
	if (!g)
		r = grant_new(p, c);
	else if (g->state == GRANT_WAITING || g->revoked || !same_terms(&g->config, c))
		r = grant_change(g, c);
	if (r == 0)
		wslx_vmportal_retry(p);
	return r;
}

int wslx_vmportal_remove(struct wslx_vmportal *p, const char *region)
{
	struct grant *g = find(p, region);

	if (!g || g->removed)
		return -ENOENT;
	g->revoked = g->removed = true;
	/* WAITING: it may be about to join again, and a program may hold the doorbell meanwhile. */
	if (g->state == GRANT_WAITING) {
		wslx_timer_disarm(g->timer);
		show_name(g);
	}
	wslx_vmportal_leave(g, false);
	return 0;
}

void wslx_vmportal_retry(struct wslx_vmportal *p)
{
	for (size_t i = 0; p->running && i < p->n_grants; i++) {
		struct grant *g = &p->grants[i];

		if (g->revoked)
			continue;
		if (g->state == GRANT_WAITING)
			wslx_vmportal_join(g);
		else if (g->state == GRANT_CLEARING)
			g->join_again = true;
	}
}

static const char *state_of(const struct grant *g)
{
	if (g->state == GRANT_CLEARING)
		return "clearing";
	return g->revoked ? "revoked" : g->shown ? "granted" : "waiting";
}

json_t *wslx_vmportal_describe(const struct wslx_vmportal *p)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < p->n_grants; i++) {
		const struct grant *g = &p->grants[i];

		/* One that was removed is told of until nothing of it is left. */
		if (g->removed && g->state != GRANT_CLEARING)
			continue;
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:s, s:s}", "region", g->config.region, "as", g->config.as,
						"state", state_of(g), "access", g->config.readonly ? "ro" : "rw"));
	}
	return list;
}

/* ---- life -------------------------------------------------------------------------- */

int wslx_vmportal_new(const struct wslx_vmportal_params *params, const struct wslx_portal_config *c,
		      struct wslx_vmportal **ret)
{
	struct wslx_vmportal *p = calloc(1, sizeof(*p));
	int r = p ? 0 : -ENOMEM;

	if (!p)
		return r;
	p->params = *params;
	p->window = c->window;
	p->page.fd = -1;
	/* Letters of a machine's name are a participant's, too. */
	snprintf(p->name, sizeof(p->name), "%s", params->machine);
	for (size_t i = 0; r == 0 && i < c->n_grants; i++)
		r = grant_new(p, &c->grants[i]);
	if (r < 0) {
		wslx_vmportal_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

void wslx_vmportal_free(struct wslx_vmportal *p)
{
	if (!p)
		return;
	wslx_vmportal_stop(p);
	for (size_t i = 0; i < p->n_grants; i++) {
		wslx_timer_free(p->grants[i].timer);
		free(p->grants[i].config.socket);
	}
	free(p);
}

int wslx_vmportal_boot(struct wslx_vmportal *p, int *ret_fd, struct wslx_err *err)
{
	int r;

	wslx_vmportal_stop(p);
	r = wslx_vmportal_page_open(&p->page, p->window);
	if (r == 0)
		r = wslx_vmportal_places_open(&p->places, wslx_window_segments(p->window));
	if (r < 0) {
		wslx_vmportal_page_close(&p->page);
		return wslx_err_sys(err, -r, "cannot make Portal's window of %llu MiB",
				    (unsigned long long)(p->window / WSLX_MIB));
	}
	for (size_t i = 0; i < p->n_grants; i++)
		show_name(&p->grants[i]);
	*ret_fd = p->page.fd;
	return 0;
}

void wslx_vmportal_start(struct wslx_vmportal *p)
{
	p->running = true;
	wslx_vmportal_retry(p);
}

void wslx_vmportal_stop(struct wslx_vmportal *p)
{
	p->running = false;
	for (size_t i = 0; i < p->n_grants; i++) {
		wslx_vmportal_bell_close(&p->grants[i]);
		wslx_vmportal_drop(&p->grants[i]);
	}
	wslx_vmportal_places_close(&p->places);
	wslx_vmportal_page_close(&p->page);
}
