/* What can be asked of a broker: io.wslx.Portal; see docs/control-protocol.md. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "portal/broker/broker.h"

#define INTERFACE "io.wslx.Portal"
#define LOOK_MS 5
#define TIMEOUT_DEFAULT_MS 5000
#define TIMEOUT_MAX_MS 60000
/* A reply of them stays under the 64 KiB that a client takes. */
#define NAMES_MAX 128u
#define FDS_MAX 4096

enum wait_kind { WAIT_NONE, WAIT_SEEN, WAIT_REST };

struct waiting {
	struct wslx_call *call;
	enum wait_kind kind;
	int64_t deadline;
};

struct broker {
	struct wslx_loop *loop;
	portal_host *host;
	const char *name;
	struct wslx_control *control;
	struct wslx_timer *timer;
	struct waiting waiting[WSLX_CONTROL_MAX_CLIENTS];
};

static const char description[] =
	"# The broker of one Portal region\n"
	"interface " INTERFACE "\n\n"
	"type Participant (index: int, kind: string, state: string, name: string, pid: int, id: int, generation: int,\n"
	"  segments: int)\n"
	"type Object (name: string, kind: string, owner: int, size: int, tag: int)\n\n"
	"method Info() -> (name: string, pid: int, version: string, uuid: string, segments: int, segments_used: int,\n"
	"  own_segments: int, bytes: int, arenas: int, participants: int, names: int, name_slots: int, epoch: int, "
	"quiesced: bool,\n"
	"  attached: int, died: int, requests: int, refused: int, revoked: int, descriptors: int)\n"
	"method Participants() -> (participants: []Participant)\n"
	"method Names() -> (names: []Object, more: bool)\n"
	"method CreateObject(name: string, size: int, writer: ?int, writer_generation: ?int, readers: ?[]int,\n"
	"  reader_generations: ?[]int) -> ()\n"
	"method Unpublish(name: string) -> ()\n"
	"method Grant(name: string, participant: int, generation: ?int, right: string, timeout_ms: ?int) -> ()\n"
	"method Revoke(participant: int, generation: ?int, timeout_ms: ?int) -> ()\n"
	"method Quiesce(timeout_ms: ?int) -> (arrived: []int, late: []int)\n"
	"method Resume() -> ()\n"
	"method Shutdown() -> ()\n\n"
	"error Failed (code: int, message: string)\n"
	"error Late (participants: []int)\n";

/* ---- parameters ---------------------------------------------------------------- */

/* A whole number of that range; absent: def, unless def is outside the range. */
static bool take_int(struct wslx_call *call, const json_t *params, const char *key, int64_t min, int64_t max,
		     int64_t def, int64_t *ret)
{
	const json_t *v = json_object_get(params, key);

	*ret = v ? json_integer_value(v) : def;
	if ((!v || json_is_integer(v)) && *ret >= min && *ret <= max)
		return true;
	wslx_call_invalid(call, key);
	return false;
}

static bool take_timeout(struct wslx_call *call, const json_t *params, int64_t *ret)
{
	return take_int(call, params, "timeout_ms", 0, TIMEOUT_MAX_MS, TIMEOUT_DEFAULT_MS, ret);
}

static const char *take_text(struct wslx_call *call, const json_t *params, const char *key)
{
	const json_t *v = json_object_get(params, key);
	const char *s = json_string_value(v);

	if (s && *s && strlen(s) == json_string_length(v))
		return s;
	wslx_call_invalid(call, key);
	return NULL;
}

/* ---- answers -------------------------------------------------------------------- */

static void fail(struct wslx_call *call, int r, const char *message)
{
	wslx_call_error(call, INTERFACE ".Failed",
			json_pack("{s:i, s:s}", "code", -r, "message", message ? message : strerror(-r)));
}

static void finish(struct wslx_call *call, int r)
{
	if (r < 0)
		fail(call, r, NULL);
	else
		wslx_call_reply(call, NULL);
}

static json_t *bits(uint64_t mask)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < PORTAL_MAX_PARTICIPANTS; i++)
		if (mask >> i & 1)
			json_array_append_new(list, json_integer(i));
	return list;
}

/* ---- waiting for participants ------------------------------------------------------ */

static void await(struct broker *b, struct wslx_call *call, enum wait_kind kind, int64_t timeout_ms)
{
	for (size_t i = 0; i < ARRAY_SIZE(b->waiting); i++) {
		if (b->waiting[i].kind != WAIT_NONE)
			continue;
		b->waiting[i] = (struct waiting) { call, kind, wslx_now_ms() + timeout_ms };
		wslx_timer_arm(b->timer, 0);
		return;
	}
	fail(call, -EBUSY, NULL);
}

/* Is it over?  Then it has been answered. */
static bool look(struct broker *b, const struct waiting *w)
{
	bool late = wslx_now_ms() >= w->deadline;
	struct portal_quiesce q;
	int r;

	if (w->kind == WAIT_SEEN) {
		r = portal_host_seen(b->host, 0);
		if (r == -ETIMEDOUT && !late)
			return false;
		if (r == -ETIMEDOUT)
			fail(w->call, r, "somebody has not taken note in time and may still see the old memory");
		else
			finish(w->call, r);
		return true;
	}
	r = portal_host_rest(b->host, &q);
	if (r == -EAGAIN && !late)
		return false;
	if (r == -EINVAL)
		fail(w->call, r, "the region was resumed meanwhile");
	else
		wslx_call_reply(w->call, json_pack("{s:o, s:o}", "arrived", bits(q.arrived), "late", bits(q.late)));
	return true;
}

static void on_timer(struct wslx_timer *t, void *opaque)
{
	struct broker *b = opaque;
	bool more = false;

	for (size_t i = 0; i < ARRAY_SIZE(b->waiting); i++) {
		struct waiting *w = &b->waiting[i];

		if (w->kind == WAIT_NONE)
			continue;
		if (look(b, w))
			*w = (struct waiting) { 0 };
		else
			more = true;
	}
	if (more)
		wslx_timer_arm(b->timer, LOOK_MS);
}

/* Nobody is there to hear the answer. */
static void on_gone(void *opaque, const struct wslx_call *call)
{
	struct broker *b = opaque;

	for (size_t i = 0; i < ARRAY_SIZE(b->waiting); i++) {
		if (b->waiting[i].kind == WAIT_NONE || b->waiting[i].call != call)
			continue;
		fail(b->waiting[i].call, -ECANCELED, NULL);
		b->waiting[i] = (struct waiting) { 0 };
	}
}

/* ---- telling ----------------------------------------------------------------------- */

/* Its own, counted without /proc, which a confined process cannot open. */
static int descriptors(void)
{
	int n = 0;

	for (int fd = 0; fd < FDS_MAX; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void uuid_text(const uint8_t uuid[16], char ret[33])
{
	static const char digits[] = "0123456789abcdef";

	for (unsigned i = 0; i < 16; i++) {
		ret[2 * i] = digits[uuid[i] >> 4];
		ret[2 * i + 1] = digits[uuid[i] & 15];
	}
	ret[32] = '\0';
}

static void m_info(void *opaque, struct wslx_call *call, json_t *params)
{
	struct broker *b = opaque;
	struct portal_host_stat st;
	char uuid[33];
	json_t *o;
	int r = portal_host_stat(b->host, &st);

	if (r < 0) {
		fail(call, r, NULL);
		return;
	}
	uuid_text(st.uuid, uuid);
	o = json_pack("{s:s, s:i, s:s, s:s, s:b}", "name", b->name, "pid", (int)getpid(), "version", WSLX_VERSION,
		      "uuid", uuid, "quiesced", (int)(st.quiesce & 1));
	const struct {
		const char *key;
		uint64_t value;
	} numbers[] = {
		{ "segments", st.segments },
		{ "segments_used", st.segments_used },
		{ "own_segments", st.own_segments },
		{ "bytes", st.bytes },
		{ "arenas", st.arenas },
		{ "names", st.names },
		{ "name_slots", st.name_slots },
		{ "epoch", st.epoch },
		{ "participants", st.participants },
		{ "attached", st.attached },
		{ "died", st.died },
		{ "requests", st.requests },
		{ "refused", st.refused },
		{ "revoked", st.revoked },
		{ "descriptors", (uint64_t)descriptors() },
	};

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		json_object_set_new(o, numbers[i].key, json_integer((json_int_t)numbers[i].value));
	wslx_call_reply(call, o);
}

static const char *word(const char *const *words, size_t n, uint32_t i)
{
	return i < n ? words[i] : "unknown";
}

static void m_participants(void *opaque, struct wslx_call *call, json_t *params)
{
	static const char *const kinds[] = { "host", "process", "guest" };
	static const char *const states[] = { "free", "live", "dead" };
	struct broker *b = opaque;
	struct portal_host_participant p;
	json_t *list = json_array();
	uint32_t cursor = 0;

	while (portal_host_next_participant(b->host, &cursor, &p) == 0)
		json_array_append_new(list, json_pack("{s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:I}", "index", (int)p.index,
						      "kind", word(kinds, ARRAY_SIZE(kinds), p.kind), "state",
						      word(states, ARRAY_SIZE(states), p.state), "name", p.name, "pid",
						      (json_int_t)p.pid, "id", (json_int_t)p.id, "generation",
						      (json_int_t)p.generation, "segments", (json_int_t)p.segments));
	wslx_call_reply(call, json_pack("{s:o}", "participants", list));
}

static void m_names(void *opaque, struct wslx_call *call, json_t *params)
{
	static const char *const kinds[] = { "none", "object", "service", "segments" };
	struct broker *b = opaque;
	json_t *list = json_array();
	struct portal_object n;
	uint32_t cursor = 0;
	int r;

	while ((r = portal_host_next_name(b->host, &cursor, &n)) == 0 && json_array_size(list) < NAMES_MAX)
		json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:I, s:I}", "name", n.name, "kind",
						      word(kinds, ARRAY_SIZE(kinds), n.kind), "owner", (int)n.owner,
						      "size", (json_int_t)n.size, "tag", (json_int_t)n.tag));
	wslx_call_reply(call, json_pack("{s:o, s:b}", "names", list, "more", (int)(r == 0)));
}

/* ---- deciding ----------------------------------------------------------------------- */

/* Is that participant the one that was meant?  Its number may be another's by now.  -1: whoever has it.  False:
 * answered. */
static bool is_meant(struct broker *b, struct wslx_call *call, unsigned index, int64_t generation)
{
	struct portal_host_participant p;
	uint32_t cursor = index;

	if (generation < 0 || (portal_host_next_participant(b->host, &cursor, &p) == 0 && p.index == index &&
			       p.generation == (uint64_t)generation))
		return true;
	fail(call, -ENOENT, "there is no such participant");
	return false;
}

static bool take_generation(struct wslx_call *call, const json_t *params, const char *key, int64_t *ret)
{
	return take_int(call, params, key, -1, INT64_MAX, -1, ret);
}

/* An array of whole numbers of that range, or nothing.  False: answered. */
static bool take_list(struct wslx_call *call, const json_t *params, const char *key, int64_t min, int64_t max,
		      const json_t **ret)
{
	const json_t *v;
	size_t i;

	*ret = json_object_get(params, key);
	if (*ret && !json_is_array(*ret)) {
		wslx_call_invalid(call, key);
		return false;
	}
	json_array_foreach (*ret, i, v) {
		if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) {
			wslx_call_invalid(call, key);
			return false;
		}
	}
	return true;
}

/* Absent: everybody.  False: answered. */
static bool take_readers(struct broker *b, struct wslx_call *call, const json_t *params, uint64_t *ret)
{
	const json_t *list, *generations, *v;
	size_t i;

	if (!take_list(call, params, "readers", 1, PORTAL_MAX_PARTICIPANTS - 1, &list) ||
	    !take_list(call, params, "reader_generations", -1, INT64_MAX, &generations))
		return false;
	if (generations && json_array_size(generations) != json_array_size(list)) {
		wslx_call_invalid(call, "reader_generations");
		return false;
	}
	*ret = list ? 0 : PORTAL_EVERYBODY;
	json_array_foreach (list, i, v) {
		const json_t *g = json_array_get(generations, i);

		if (!is_meant(b, call, (unsigned)json_integer_value(v), g ? json_integer_value(g) : -1))
			return false;
		*ret |= UINT64_C(1) << json_integer_value(v);
	}
	return true;
}

static void m_create_object(void *opaque, struct wslx_call *call, json_t *params)
{
	struct broker *b = opaque;
	const char *name = take_text(call, params, "name");
	int64_t size, writer, generation;
	uint64_t readers;

	if (!name ||
	    !take_int(call, params, "size", 1, (int64_t)(PORTAL_MAX_SEGMENTS * PORTAL_SEGMENT_SIZE), 0, &size) ||
	    !take_int(call, params, "writer", 0, PORTAL_MAX_PARTICIPANTS - 1, PORTAL_NOBODY, &writer) ||
	    !take_generation(call, params, "writer_generation", &generation) ||
	    !take_readers(b, call, params, &readers) || !is_meant(b, call, (unsigned)writer, generation))
		return;
	finish(call, portal_host_object(b->host, name,
					(uint32_t)(((uint64_t)size + PORTAL_SEGMENT_SIZE - 1) >> PORTAL_SEGMENT_SHIFT),
					(unsigned)writer, readers));
}

static void m_unpublish(void *opaque, struct wslx_call *call, json_t *params)
{
	struct broker *b = opaque;
	const char *name = take_text(call, params, "name");

	if (name)
		finish(call, portal_host_unpublish(b->host, name));
}

static void m_grant(void *opaque, struct wslx_call *call, json_t *params)
{
	static const char *const rights[] = { "none", "read", "write" };
	struct broker *b = opaque;
	const char *name = take_text(call, params, "name"), *right = name ? take_text(call, params, "right") : NULL;
	int64_t participant, generation, timeout;
	unsigned i = 0;
	int r;

	if (!right || !take_int(call, params, "participant", 1, PORTAL_MAX_PARTICIPANTS - 1, 0, &participant) ||
	    !take_generation(call, params, "generation", &generation) || !take_timeout(call, params, &timeout))
		return;
	while (i < ARRAY_SIZE(rights) && strcmp(right, rights[i]) != 0)
		i++;
	if (i == ARRAY_SIZE(rights)) {
		wslx_call_invalid(call, "right");
		return;
	}
	if (!is_meant(b, call, (unsigned)participant, generation))
		return;
	r = portal_host_grant(b->host, name, (unsigned)participant, (enum portal_right)i, 0);
	if (r == -ETIMEDOUT)
		await(b, call, WAIT_SEEN, timeout);
	else
		finish(call, r);
}

static void m_revoke(void *opaque, struct wslx_call *call, json_t *params)
{
	struct broker *b = opaque;
	int64_t participant, generation, timeout;
	int r;

	if (!take_int(call, params, "participant", 1, PORTAL_MAX_PARTICIPANTS - 1, 0, &participant) ||
	    !take_generation(call, params, "generation", &generation) || !take_timeout(call, params, &timeout))
		return;
	if (!is_meant(b, call, (unsigned)participant, generation))
		return;
	r = portal_host_revoke(b->host, (unsigned)participant, 0);
	if (r == -ETIMEDOUT)
		await(b, call, WAIT_SEEN, timeout);
	else if (r == -ENOENT)
		fail(call, r, "there is no such participant, or it was revoked before");
	else
		finish(call, r);
}

static void m_quiesce(void *opaque, struct wslx_call *call, json_t *params)
{
	struct broker *b = opaque;
	int64_t timeout;
	int r;

	if (!take_timeout(call, params, &timeout))
		return;
	r = portal_host_quiesce(b->host, 0, NULL);
	if (r < 0 && r != -ETIMEDOUT)
		fail(call, r, NULL);
	else
		await(b, call, WAIT_REST, timeout);
}

static void m_resume(void *opaque, struct wslx_call *call, json_t *params)
{
	struct broker *b = opaque;
	int r = portal_host_resume(b->host);

	if (r < 0)
		fail(call, r, "the region is not quiesced");
	else
		wslx_call_reply(call, NULL);
}

static void m_shutdown(void *opaque, struct wslx_call *call, json_t *params)
{
	struct broker *b = opaque;

	wslx_call_reply(call, NULL);
	wslx_loop_stop(b->loop, 0);
}

static const struct wslx_method methods[] = {
	{ "Info", m_info },           { "Participants", m_participants },
	{ "Names", m_names },         { "CreateObject", m_create_object },
	{ "Unpublish", m_unpublish }, { "Grant", m_grant },
	{ "Revoke", m_revoke },       { "Quiesce", m_quiesce },
	{ "Resume", m_resume },       { "Shutdown", m_shutdown },
};

int wslx_broker_new(struct wslx_loop *loop, portal_host *host, const char *name, const char *path, struct broker **ret,
		    struct wslx_err *err)
{
	struct broker *b = calloc(1, sizeof(*b));
	const struct wslx_control_params p = {
		.loop = loop,
		.path = path,
		.interface = INTERFACE,
		.product = "wslx-portal",
		.description = description,
		.methods = methods,
		.n_methods = ARRAY_SIZE(methods),
		.gone = on_gone,
		.opaque = b,
	};
	int r = b ? 0 : -ENOMEM;

	if (r == 0) {
		b->loop = loop;
		b->host = host;
		b->name = name;
		r = wslx_loop_timer(loop, on_timer, b, &b->timer);
	}
	if (r < 0) {
		free(b);
		return wslx_err_sys(err, -r, "cannot start");
	}
	r = wslx_control_new(&p, &b->control, err);
	if (r < 0) {
		wslx_broker_free(b);
		return r;
	}
	*ret = b;
	return 0;
}

void wslx_broker_free(struct broker *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(b->waiting); i++)
		if (b->waiting[i].kind != WAIT_NONE)
			fail(b->waiting[i].call, -ECANCELED, "the region ends");
	wslx_timer_free(b->timer);
	wslx_control_free(b->control);
	free(b);
}
