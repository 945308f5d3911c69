#include "manager/grant.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "manager/settings.h"

/* Of a window: what describes it, and its tables (vmm/window.h). */
#define WINDOW_OVERHEAD 2u
/* What the host's tables of a region take at least. */
#define TABLES_MIN 1u

int wslx_region_check_name(const char *name, struct wslx_err *err)
{
	if (wslx_name_ok(name) && name[0] != '.' && strlen(name) < WSLX_GRANT_NAME_SIZE)
		return 0;
	return wslx_err_set(err, EINVAL,
			    "'%s' is no name of a region: 1 to %d of A-Z a-z 0-9 . _ -, not beginning with . or -",
			    name, WSLX_GRANT_NAME_SIZE - 1);
}

static int set_size(struct wslx_grant *g, const char *size, struct wslx_err *err)
{
	uint64_t bytes;

	if (wslx_size_parse(size, &bytes) < 0 || !bytes || bytes > WSLX_GRANT_SEGMENTS_MAX * WSLX_SEGMENT_SIZE)
		return wslx_err_set(err, EINVAL,
				    "'%s' is no size of memory in a region: write something like 8M, up to 1G", size);
	g->segments = (uint32_t)((bytes + WSLX_SEGMENT_SIZE - 1) / WSLX_SEGMENT_SIZE);
	g->asked = bytes;
	return 0;
}

int wslx_grant_make(const char *region, const char *size, bool readonly, const char *as, struct wslx_grant *ret,
		    struct wslx_err *err)
{
	struct wslx_grant g = { .readonly = readonly, .segments = readonly ? 0 : WSLX_GRANT_SEGMENTS_DEFAULT };
	int r = wslx_region_check_name(region, err);

	if (r < 0)
		return r;
	if (readonly && size)
		return wslx_err_set(err, EINVAL, "a machine that only reads has no size");
	if (as && !wslx_region_name_ok(as))
		return wslx_err_set(err, EINVAL,
				    "'%s' is no name for a region: 1 to %d printable characters without blank and /",
				    as, WSLX_GRANT_NAME_SIZE - 1);
	strcpy(g.region, region);
	strcpy(g.as, as ? as : region);
	r = size ? set_size(&g, size, err) : 0;
	if (r == 0)
		*ret = g;
	return r;
}

int wslx_grant_parse(const char *s, struct wslx_grant *ret, struct wslx_err *err)
{
	const char *colon = strchr(s, ':'), *second = colon ? strchr(colon + 1, ':') : NULL;
	cleanup_free char *region = NULL, *size = NULL;
	bool readonly;

	if (!colon)
		return wslx_err_set(err, EINVAL, "'%s' is no grant: write REGION:SIZE[:NAME] or REGION:ro[:NAME]", s);
	region = strndup(s, (size_t)(colon - s));
	size = strndup(colon + 1, second ? (size_t)(second - colon - 1) : strlen(colon + 1));
	if (!region || !size)
		return wslx_err_sys(err, ENOMEM, "cannot read a grant");
	readonly = !strcmp(size, "ro");
	return wslx_grant_make(region, readonly ? NULL : size, readonly, second ? second + 1 : NULL, ret, err);
}

void wslx_grant_format(const struct wslx_grant *g, char buf[WSLX_GRANT_TEXT])
{
	char size[24] = "ro";
	bool other = strcmp(g->as, g->region) != 0;

	if (!g->readonly)
		snprintf(size, sizeof(size), "%uM", (unsigned)(g->segments * (WSLX_SEGMENT_SIZE / WSLX_MIB)));
	snprintf(buf, WSLX_GRANT_TEXT, "%s:%s%s%s", g->region, size, other ? ":" : "", other ? g->as : "");
}

bool wslx_grant_rounded(const struct wslx_grant *g, char buf[WSLX_GRANT_TEXT])
{
	char asked[WSLX_SIZE_TEXT], size[WSLX_SIZE_TEXT];

	if (!g->asked || g->asked == g->segments * WSLX_SEGMENT_SIZE)
		return false;
	wslx_size_format(g->asked, asked);
	wslx_size_format(g->segments * WSLX_SEGMENT_SIZE, size);
	snprintf(buf, WSLX_GRANT_TEXT, "%s is rounded up to %s: a region is granted in pieces of 2M", asked, size);
	return true;
}

static uint64_t size_of(uint64_t window)
{
	return window ? window : WSLX_WINDOW_SIZE_DEFAULT;
}

/* Bytes of a window; a reader has a segment too, to speak to the host through. */
static uint64_t share(const struct wslx_grant *g)
{
	uint64_t own = g->readonly ? 1 : g->segments;

	return (own + WSLX_MAX(g->tables, TABLES_MIN)) * WSLX_SEGMENT_SIZE;
}

static uint64_t taken(const struct wslx_grant *g, size_t n)
{
	uint64_t bytes = WINDOW_OVERHEAD * WSLX_SEGMENT_SIZE;

	for (size_t i = 0; i < n; i++)
		bytes += share(&g[i]);
	return bytes;
}

bool wslx_grants_fit(const struct wslx_grant *g, size_t n, uint64_t window)
{
	return taken(g, n) <= size_of(window);
}

const struct wslx_grant *wslx_grants_find(const struct wslx_grant *list, size_t n, const char *region)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(list[i].region, region))
			return &list[i];
	return NULL;
}

static int check_as(const struct wslx_grant *list, size_t n, const struct wslx_grant *g, struct wslx_err *err)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(list[i].as, g->as) && strcmp(list[i].region, g->region) != 0)
			return wslx_err_set(err, EEXIST, "the region '%s' is called '%s' there already", list[i].region,
					    g->as);
	return 0;
}

/* The smallest window that has room for them. */
static void size_for(const struct wslx_grant *g, size_t n, char ret[WSLX_SIZE_TEXT])
{
	uint64_t window = WSLX_WINDOW_SIZE_MIN;

	while (window < WSLX_WINDOW_SIZE_MAX && !wslx_grants_fit(g, n, window))
		window *= 2;
	wslx_size_format(window, ret);
}

int wslx_grants_check_room(const struct wslx_grant *g, size_t n, uint64_t window, const char *distro,
			   const char *region, struct wslx_err *err)
{
	const struct wslx_grant *last = region ? wslx_grants_find(g, n, region) : NULL;
	char has[WSLX_SIZE_TEXT], used[WSLX_SIZE_TEXT], more[WSLX_SIZE_TEXT], enough[WSLX_SIZE_TEXT];

	if (wslx_grants_fit(g, n, window))
		return 0;
	wslx_size_format(size_of(window), has);
	wslx_size_format(taken(g, n) - (last ? share(last) : 0), used);
	wslx_size_format(last ? share(last) : 0, more);
	size_for(g, n, enough);
	distro = distro ? distro : "NAME";
	if (!last)
		return wslx_err_set(err, EINVAL,
				    "a window of %s is too small for what is granted, which takes %s of it: take a "
				    "grant back, or `wslx config %s portal-window=%s`",
				    has, used, distro, enough);
	return wslx_err_set(err, ENOSPC,
			    "the machine's window has %s, and %s of that are taken: there is no room for the %s that "
			    "the region '%s' takes, with the host's tables; enlarge it: wslx config %s "
			    "portal-window=%s",
			    has, used, more, last->region, distro, enough);
}

int wslx_grants_add(struct wslx_grant list[WSLX_MAX_GRANTS], size_t *n, uint64_t window, const char *distro,
		    const struct wslx_grant *g, struct wslx_err *err)
{
	const struct wslx_grant *old = wslx_grants_find(list, *n, g->region);
	size_t at = old ? (size_t)(old - list) : *n, more = old ? *n : *n + 1;
	struct wslx_grant before = { 0 };
	int r = check_as(list, *n, g, err);

	if (r < 0)
		return r;
	if (at == WSLX_MAX_GRANTS)
		return wslx_err_set(err, E2BIG, "more than %d regions", WSLX_MAX_GRANTS);
	before = list[at];
	list[at] = *g;
	r = wslx_grants_check_room(list, more, window, distro, g->region, err);
	if (r < 0)
		list[at] = before;
	else
		*n = more;
	return r;
}

int wslx_grants_remove(struct wslx_grant *list, size_t *n, const char *region)
{
	const struct wslx_grant *g = wslx_grants_find(list, *n, region);
	size_t at = g ? (size_t)(g - list) : *n;

	if (!g)
		return -ENOENT;
	memmove(&list[at], &list[at + 1], (*n - at - 1) * sizeof(*list));
	--*n;
	return 0;
}
