/* portal create, list, stat, grant, revoke, quiesce, resume, remove. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "cli/cli.h"
#include "manager/portal.h"

#define ASK_MS 10000
#define QUIESCE_S 5
#define QUIESCE_S_MAX 60 /* as long as the broker waits */
#define REGION_SIZE_MIN (16 * WSLX_MIB)
#define REGION_SIZE_MAX (1024 * WSLX_GIB)

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static long long number_of(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

/* As wide as the column; what is written to a terminal is ours or checked by the broker, and escaped all the same. */
static void cell(const char *s, size_t width)
{
	size_t used = cli_put_escaped(s);

	printf("%*s  ", used < width ? (int)(width - used) : 0, "");
}

static int put_json(json_t *o, struct wslx_err *err)
{
	cleanup_free char *text = json_dumps(o, JSON_INDENT(2) | JSON_ENSURE_ASCII);

	if (!text)
		return wslx_err_sys(err, ENOMEM, "cannot write JSON");
	puts(text);
	return 0;
}

/* Who may take part: [{distro, as, size | access}]. */
static json_t *grants_of(struct cli *c, const char *region)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	json_t *list = json_array();
	char **names = NULL;
	size_t n = 0;

	if (d && wslx_store_names(c->m, WSLX_STORE_DISTROS, &names, &n, NULL) < 0)
		n = 0;
	for (size_t i = 0; d && i < n; i++) {
		const struct wslx_grant *g;

		if (wslx_distro_find(c->m, names[i], d, NULL) < 0)
			continue;
		g = wslx_grants_find(d->settings.grants, d->settings.n_grants, region);
		if (g)
			json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I}", "distro", d->name, "as", g->as,
							      "access", g->readonly ? "ro" : "rw", "size",
							      (json_int_t)g->segments * (json_int_t)WSLX_SEGMENT_SIZE));
	}
	wslx_names_free(names, n);
	free(d);
	return list;
}

/* ---- create, list ------------------------------------------------------------------ */

/* With the new region's tables there may be no room any more for all that its machine was granted. */
static void warn_of_room(struct cli *c, const char *distro, const char *region)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	struct wslx_err why = { 0 };

	if (d && wslx_distro_find(c->m, distro, d, NULL) == 0 &&
	    wslx_region_check_room(c->m, d->name, &d->settings, region, &why) < 0)
		cli_warn("%s cannot take part as it was granted: %s", distro, why.msg);
	free(d);
}

/* Grants of an earlier region of that name may be for more than this one has. */
static void warn_of_sizes(struct cli *c, const char *region)
{
	cleanup_json json_t *grants = grants_of(c, region);
	const json_t *o;
	size_t i;

	json_array_foreach (grants, i, o) {
		struct wslx_grant g = { .segments = (uint32_t)(number_of(o, "size") / (long long)WSLX_SEGMENT_SIZE) };
		struct wslx_err why = { 0 };

		strcpy(g.region, region);
		if (wslx_region_check_size(c->m, &g, &why) < 0)
			cli_warn("%s cannot take part as it was granted: %s", text_of(o, "distro"), why.msg);
		else
			warn_of_room(c, text_of(o, "distro"), region);
	}
}

static int create(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	uint64_t size = 0;
	int r;

	if (o->size && (wslx_size_parse(o->size, &size) < 0 || size < REGION_SIZE_MIN || size > REGION_SIZE_MAX))
		return wslx_err_set(err, EINVAL, "'%s' is no size of a region: 16M to 1024G", o->size);
	r = wslx_region_create(c->m, o->pos[1], size, err);
	if (r == 0)
		warn_of_sizes(c, o->pos[1]);
	return r;
}

static void list_row(const char *name, const json_t *info, size_t width)
{
	char memory[16], size[16];

	cli_format_size((uint64_t)number_of(info, "bytes"), memory);
	cli_format_size((uint64_t)number_of(info, "segments") * WSLX_SEGMENT_SIZE, size);
	cell(name, width);
	printf("%-8s  %-8s  %12lld  %6lld  %s\n", size, memory, number_of(info, "participants"),
	       number_of(info, "names"), json_is_true(json_object_get(info, "quiesced")) ? "Quiesced" : "Running");
}

static int list(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	cleanup_json json_t *root = json_object(), *out = json_array();
	char **names = NULL;
	size_t n = 0, width = 4;
	int r = wslx_region_names(c->m, &names, &n, err);

	for (size_t i = 0; r == 0 && i < n; i++)
		width = WSLX_MAX(width, strlen(names[i]));
	if (r == 0 && !o->json && n)
		printf("%-*s  %-8s  %-8s  %12s  %6s  %s\n", (int)width, "NAME", "SIZE", "MEMORY", "PARTICIPANTS",
		       "NAMES", "STATE");
	for (size_t i = 0; r == 0 && i < n; i++) {
		cleanup_json json_t *info = NULL;
		struct wslx_err why = { 0 };

		/* It may have ended since. */
		if (wslx_region_call(c->m, names[i], "Info", NULL, ASK_MS, &info, &why) < 0) {
			if (why.code != ENOENT)
				cli_warn("%s: %s", names[i], why.msg);
			continue;
		}
		if (o->json)
			json_array_append(out, info);
		else
			list_row(names[i], info, width);
	}
	wslx_names_free(names, n);
	if (r == 0 && o->json) {
		json_object_set(root, "regions", out);
		r = put_json(root, err);
	}
	return r;
}

/* ---- stat ------------------------------------------------------------------------------ */

static void stat_participants(const json_t *list)
{
	const json_t *p;
	size_t i;

	printf("\n%3s  %-8s  %-5s  %8s  %10s  %s\n", "N", "KIND", "STATE", "PID", "SIZE", "NAME");
	json_array_foreach (list, i, p) {
		char size[16];

		if (!number_of(p, "index"))
			continue;
		cli_format_size((uint64_t)number_of(p, "segments") * WSLX_SEGMENT_SIZE, size);
		printf("%3lld  ", number_of(p, "index"));
		cell(text_of(p, "kind"), 8);
		cell(text_of(p, "state"), 5);
		printf("%8lld  %10s  ", number_of(p, "pid"), size);
		cli_put_escaped(text_of(p, "name"));
		putchar('\n');
	}
}

static void stat_names(const json_t *o)
{
	const json_t *n;
	size_t i;

	printf("\n%-48s  %-8s  %5s  %s\n", "NAME", "KIND", "OWNER", "SIZE");
	json_array_foreach (json_object_get(o, "names"), i, n) {
		cell(text_of(n, "name"), 48);
		cell(text_of(n, "kind"), 8);
		printf("%5lld  %lld\n", number_of(n, "owner"), number_of(n, "size"));
	}
	if (json_is_true(json_object_get(o, "more")))
		puts("... and more");
}

static void stat_grants(const json_t *list)
{
	const json_t *g;
	size_t i;

	json_array_foreach (list, i, g) {
		char size[16];

		cli_format_size((uint64_t)number_of(g, "size"), size);
		printf("Granted to %s as %s: %s\n", text_of(g, "distro"), text_of(g, "as"),
		       number_of(g, "size") ? size : "to read only");
	}
}

static void stat_info(const json_t *info)
{
	char memory[16], size[16];

	cli_format_size((uint64_t)number_of(info, "bytes"), memory);
	cli_format_size((uint64_t)number_of(info, "segments") * WSLX_SEGMENT_SIZE, size);
	printf("Name: %s\nUUID: %s\nBroker: %lld\n", text_of(info, "name"), text_of(info, "uuid"),
	       number_of(info, "pid"));
	printf("Size: %s\nMemory: %s in %lld arenas\n", size, memory, number_of(info, "arenas"));
	printf("Names: %lld of at most %lld\n", number_of(info, "names"), number_of(info, "name_slots"));
	printf("Participants: %lld (%lld so far, %lld died, %lld revoked)\n", number_of(info, "participants"),
	       number_of(info, "attached"), number_of(info, "died"), number_of(info, "revoked"));
	printf("State: %s\n", json_is_true(json_object_get(info, "quiesced")) ? "quiesced" : "running");
}

static int stat_region(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	cleanup_json json_t *info = NULL, *who = NULL, *names = NULL, *grants = NULL, *all = NULL;
	const char *name = o->pos[1];
	int r = wslx_region_call(c->m, name, "Info", NULL, ASK_MS, &info, err);

	if (r == 0)
		r = wslx_region_call(c->m, name, "Participants", NULL, ASK_MS, &who, err);
	if (r == 0)
		r = wslx_region_call(c->m, name, "Names", NULL, ASK_MS, &names, err);
	if (r < 0)
		return r;
	grants = grants_of(c, name);
	if (o->json) {
		all = json_object();
		json_object_set(all, "region", info);
		json_object_update(all, who);
		json_object_update(all, names);
		json_object_set(all, "grants", grants);
		return put_json(all, err);
	}
	stat_info(info);
	stat_grants(grants);
	if (json_array_size(json_object_get(who, "participants")) > 1)
		stat_participants(json_object_get(who, "participants"));
	if (number_of(info, "names"))
		stat_names(names);
	return 0;
}

/* ---- grant, revoke ----------------------------------------------------------------------- */

static int grant(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_grant g = { 0 };
	char text[WSLX_GRANT_TEXT];
	bool later = false;
	int r = wslx_grant_make(o->pos[1], o->size, o->read_only, o->as, &g, err);

	if (r == 0)
		r = wslx_region_grant(c->m, o->pos[2], &g, &later, err);
	if (r == 0 && wslx_grant_rounded(&g, text))
		puts(text);
	if (r == 0 && later)
		puts("This takes effect at the machine's next start.");
	return r;
}

static int revoke_participant(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(o->participant, &end, 10);
	if (errno || end == o->participant || *end || n < 1 || n > 63)
		return wslx_err_set(err, EINVAL, "'%s' is no number of a participant: 1 to 63, see `wslx portal stat`",
				    o->participant);
	return wslx_region_revoke_participant(c->m, o->pos[1], (unsigned)n, -1, err);
}

/* ---- quiesce, resume ------------------------------------------------------------------------ */

static int quiesce_seconds(const char *text, struct wslx_err *err)
{
	char *end;
	long n;

	if (!text)
		return QUIESCE_S;
	errno = 0;
	n = strtol(text, &end, 10);
	if (errno || end == text || *end || n < 0 || n > QUIESCE_S_MAX)
		return wslx_err_set(err, EINVAL, "'%s' is no time to wait: 0 to %d seconds", text, QUIESCE_S_MAX);
	return (int)n;
}

/* As people know it: a machine by its name, a process by its number; who has left since, by its place. */
static void put_late(FILE *f, const json_t *participants, long long index)
{
	const json_t *p;
	size_t i;

	json_array_foreach (participants, i, p) {
		if (number_of(p, "index") != index)
			continue;
		if (strcmp(text_of(p, "kind"), "guest") == 0)
			fprintf(f, "the machine %s", text_of(p, "name"));
		else
			fprintf(f, "process %lld (%s)", number_of(p, "pid"), text_of(p, "name"));
		return;
	}
	fprintf(f, "participant %lld, which has left", index);
}

/* One line has room for so many. */
#define LATE_NAMED 10

static char *late_text(struct cli *c, const char *region, const json_t *late)
{
	cleanup_json json_t *who = NULL;
	size_t i, n = json_array_size(late), len;
	const json_t *v;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	/* Without the names there are the numbers. */
	(void)!wslx_region_call(c->m, region, "Participants", NULL, ASK_MS, &who, NULL);
	json_array_foreach (late, i, v) {
		if (i == LATE_NAMED)
			break;
		fputs(i ? ", " : "", f);
		put_late(f, json_object_get(who, "participants"), json_integer_value(v));
	}
	if (n > LATE_NAMED)
		fprintf(f, " and %zu more", n - LATE_NAMED);
	if (fclose(f) == EOF) {
		free(text);
		return NULL;
	}
	return text;
}

static int quiesce(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	cleanup_json json_t *reply = NULL;
	cleanup_free char *text = NULL;
	const json_t *late;
	int seconds = quiesce_seconds(o->timeout, err), r;

	if (seconds < 0)
		return seconds;
	r = wslx_region_call(c->m, o->pos[1], "Quiesce", json_pack("{s:i}", "timeout_ms", seconds * 1000),
			     (unsigned)seconds * 1000 + ASK_MS, &reply, err);
	if (r < 0)
		return r;
	late = json_object_get(reply, "late");
	if (!json_array_size(late))
		return 0;
	text = late_text(c, o->pos[1], late);
	return wslx_err_set(err, ETIMEDOUT, "not at rest yet, after %d s: %s; go on with: wslx portal resume %s",
			    seconds, text ? text : "out of memory", o->pos[1]);
}

/* ---- the verb --------------------------------------------------------------------------------- */

static int resume(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	return wslx_region_call(c->m, o->pos[1], "Resume", NULL, ASK_MS, NULL, err);
}

static int remove_region(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	cleanup_json json_t *grants = NULL;
	const json_t *g;
	size_t i;
	int r = wslx_region_remove(c->m, o->pos[1], err);

	if (r < 0)
		return r;
	grants = grants_of(c, o->pos[1]);
	json_array_foreach (grants, i, g)
		printf("%s keeps its grant, for the next region of that name; to take it back: wslx portal revoke %s "
		       "%s\n",
		       text_of(g, "distro"), o->pos[1], text_of(g, "distro"));
	return 0;
}

static int take_back(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_revocation done;
	int r;

	if (o->participant)
		return revoke_participant(c, o, err);
	cli_progress_line("%s: taking the region '%s' away ...", o->pos[2], o->pos[1]);
	r = wslx_region_revoke(c->m, o->pos[1], o->pos[2], &done, err);
	if (r == 0 && done.silent)
		printf("The machine of '%s' does not answer, perhaps because it is starting. It has nothing of the "
		       "region, "
		       "and will not join it.\n",
		       o->pos[2]);
	return r;
}

/* Which options a word takes. */
enum { O_SIZE = 1, O_RO = 2, O_AS = 4, O_WHO = 8, O_JSON = 16, O_TIMEOUT = 32 };

static unsigned given(const struct cli_opts *o)
{
	return (o->size ? O_SIZE : 0) | (o->read_only ? O_RO : 0) | (o->as ? O_AS : 0) | (o->participant ? O_WHO : 0) |
	       (o->json ? O_JSON : 0) | (o->timeout ? O_TIMEOUT : 0);
}

int cli_portal(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	static const struct {
		const char *name;
		int n_pos; /* itself included */
		unsigned opts;
		int (*run)(struct cli *c, const struct cli_opts *o, struct wslx_err *err);
	} words[] = {
		{ "create", 2, O_SIZE, create },      { "list", 1, O_JSON, list },
		{ "stat", 2, O_JSON, stat_region },   { "grant", 3, O_SIZE | O_RO | O_AS, grant },
		{ "revoke", 3, 0, take_back },        { "revoke", 2, O_WHO, take_back },
		{ "quiesce", 2, O_TIMEOUT, quiesce }, { "resume", 2, 0, resume },
		{ "remove", 2, 0, remove_region },
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcmp(o->pos[0], words[i].name) != 0 || o->n_pos != words[i].n_pos)
			continue;
		if (given(o) & ~words[i].opts || (words[i].opts == O_WHO && !o->participant))
			break;
		return words[i].run(c, o, err);
	}
	return wslx_err_set(err, EINVAL, "usage: wslx portal %s", c->verb->args);
}
