/*
 * Room for grants, in a region and in a machine's window.
 *
 * How much the host's tables take of either only the region's broker knows: of a
 * region that is not there, or whose broker does not answer, the least is
 * assumed.  What other participants make is not foreseen: that is left out of a
 * window that is full, and the machine's log says so.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/loop.h"
#include "manager/portal.h"

#define ASK_MS 10000

/* Of a region, and of that the host's; false: nobody knows. */
static bool ask(struct wslx_manager *m, const char *region, unsigned timeout_ms, uint64_t *ret_segments,
		uint64_t *ret_tables)
{
	cleanup_json json_t *info = NULL;

	if (wslx_region_call(m, region, "Info", NULL, timeout_ms, &info, NULL) < 0)
		return false;
	*ret_segments = (uint64_t)json_integer_value(json_object_get(info, "segments"));
	*ret_tables = (uint64_t)json_integer_value(json_object_get(info, "own_segments"));
	return *ret_segments <= UINT32_MAX && *ret_tables < *ret_segments;
}

int wslx_region_check_size(struct wslx_manager *m, const struct wslx_grant *g, struct wslx_err *err)
{
	char size[WSLX_SIZE_TEXT], own[WSLX_SIZE_TEXT], most[WSLX_SIZE_TEXT];
	uint64_t segments, tables;

	if (!ask(m, g->region, ASK_MS, &segments, &tables) || g->segments <= segments - tables)
		return 0;
	wslx_size_format(segments * WSLX_SEGMENT_SIZE, size);
	wslx_size_format(tables * WSLX_SEGMENT_SIZE, own);
	wslx_size_format((segments - tables) * WSLX_SEGMENT_SIZE, most);
	return wslx_err_set(err, ENOSPC, "the region '%s' has %s, and %s of that are the host's own: grant at most %s",
			    g->region, size, own, most);
}

int wslx_region_check_room(struct wslx_manager *m, const char *distro, const struct wslx_settings *s,
			   const char *region, struct wslx_err *err)
{
	struct wslx_grant list[WSLX_MAX_GRANTS];
	int64_t deadline = wslx_now_ms() + ASK_MS, left;
	uint64_t segments, tables;

	memcpy(list, s->grants, sizeof(list));
	for (size_t i = 0; i < s->n_grants; i++) {
		left = deadline - wslx_now_ms();
		if (left > 0 && ask(m, list[i].region, (unsigned)left, &segments, &tables))
			list[i].tables = (uint32_t)tables;
	}
	return wslx_grants_check_room(list, s->n_grants, s->portal_window, distro, region, err);
}
