/* EXEC and STATUS_REPLY: the messages of the agent protocol that hold lists of
 * any length.  See agent.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "proto/agent.h"

#define CWD_MAX 4095u
#define TERM_MAX 63u
#define EXEC_FLAGS (WSLX_EXEC_TTY | WSLX_EXEC_LOGIN | WSLX_EXEC_SHELL)

/* ---- EXEC ---- */

static int put_list(struct wslx_buf *b, uint32_t tag, const char *const *list, size_t max)
{
	for (size_t i = 0; list && list[i]; i++) {
		int r = i < max ? wslx_agent_put_tlv_str(b, tag, list[i]) : -E2BIG;

		if (r < 0)
			return r == -EMSGSIZE ? -E2BIG : r;
	}
	return 0;
}

static int put_text(struct wslx_buf *b, uint32_t tag, const char *s, size_t max)
{
	if (!s || !*s)
		return 0;
	return strlen(s) > max ? -ENAMETOOLONG : wslx_agent_put_tlv_str(b, tag, s);
}

int wslx_agent_exec_encode(struct wslx_buf *b, const struct wslx_agent_exec *m)
{
	uint8_t ws[8];
	int r;

	wslx_agent_winsize_encode(&m->winsize, ws);
	if ((r = put_text(b, WSLX_TAG_DISTRO, m->distro, WSLX_AGENT_NAME_MAX)) < 0 ||
	    (r = put_list(b, WSLX_TAG_ARG, m->argv, WSLX_AGENT_MAX_ARGS)) < 0 ||
	    (r = put_list(b, WSLX_TAG_ENV, m->env, WSLX_AGENT_MAX_ENV)) < 0 ||
	    (r = put_text(b, WSLX_TAG_CWD, m->cwd, CWD_MAX)) < 0 ||
	    (r = put_text(b, WSLX_TAG_USER, m->user, WSLX_AGENT_NAME_MAX)) < 0 ||
	    (r = put_text(b, WSLX_TAG_DEFAULT_USER, m->default_user, WSLX_AGENT_NAME_MAX)) < 0 ||
	    (r = put_text(b, WSLX_TAG_TERM, m->term, TERM_MAX)) < 0 ||
	    (r = wslx_agent_put_tlv_u32(b, WSLX_TAG_EXEC_FLAGS, m->flags)) < 0 ||
	    (r = wslx_agent_put_tlv(b, WSLX_TAG_STREAMS, m->streams, sizeof(m->streams))) < 0 ||
	    (r = wslx_agent_put_tlv(b, WSLX_TAG_WINSIZE, ws, sizeof(ws))) < 0 ||
	    (r = wslx_agent_put_tlv_u32(b, WSLX_TAG_WINDOW, m->window)) < 0)
		return r;
	return 0;
}

/* What a first pass over an EXEC body found. */
struct exec_scan {
	size_t n_args, n_env;
	size_t text; /* bytes of text with terminators */
	uint32_t seen;
};

static const struct exec_tag {
	uint32_t tag;
	size_t max; /* of a text; 0 = no text */
	bool repeated;
	size_t off; /* of the member, for single texts */
} exec_tags[] = {
	{ WSLX_TAG_ARG, WSLX_AGENT_MESSAGE_MAX, true, 0 },
	{ WSLX_TAG_ENV, WSLX_AGENT_MESSAGE_MAX, true, 0 },
	{ WSLX_TAG_DISTRO, WSLX_AGENT_NAME_MAX, false, offsetof(struct wslx_agent_exec, distro) },
	{ WSLX_TAG_CWD, CWD_MAX, false, offsetof(struct wslx_agent_exec, cwd) },
	{ WSLX_TAG_USER, WSLX_AGENT_NAME_MAX, false, offsetof(struct wslx_agent_exec, user) },
	{ WSLX_TAG_DEFAULT_USER, WSLX_AGENT_NAME_MAX, false, offsetof(struct wslx_agent_exec, default_user) },
	{ WSLX_TAG_TERM, TERM_MAX, false, offsetof(struct wslx_agent_exec, term) },
	{ WSLX_TAG_EXEC_FLAGS, 0, false, 0 },
	{ WSLX_TAG_STREAMS, 0, false, 0 },
	{ WSLX_TAG_WINSIZE, 0, false, 0 },
	{ WSLX_TAG_WINDOW, 0, false, 0 },
};

static int exec_scalar(const struct wslx_agent_tlv *t, struct wslx_agent_exec *m)
{
	switch (t->tag) {
	case WSLX_TAG_EXEC_FLAGS:
		if (wslx_agent_u32_decode(t->value, t->len, &m->flags) < 0 || (m->flags & ~EXEC_FLAGS))
			return -EPROTO;
		return 0;
	case WSLX_TAG_STREAMS:
		if (t->len != sizeof(m->streams))
			return -EPROTO;
		memcpy(m->streams, t->value, t->len);
		for (size_t i = 0; i < sizeof(m->streams); i++)
			if (m->streams[i] > WSLX_STREAM_IS_TTY)
				return -EPROTO;
		return 0;
	case WSLX_TAG_WINSIZE:
		return wslx_agent_winsize_decode(t->value, t->len, &m->winsize);
	case WSLX_TAG_WINDOW:
		if (wslx_agent_u32_decode(t->value, t->len, &m->window) < 0 || m->window > WSLX_AGENT_WINDOW_MAX)
			return -EPROTO;
		return 0;
	}
	return -EPROTO;
}

static int exec_scan_one(const struct wslx_agent_tlv *t, struct exec_scan *s, struct wslx_agent_exec *m)
{
	const struct exec_tag *et = NULL;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(exec_tags); i++)
		if (exec_tags[i].tag == t->tag)
			et = &exec_tags[i];
	if (!et)
		return t->critical ? -ENOTSUP : 0;
	i = (size_t)(et - exec_tags);
	if (!et->repeated && (s->seen & 1u << i))
		return -EPROTO;
	s->seen |= 1u << i;
	if (!et->max)
		return exec_scalar(t, m);
	if (t->len > et->max || memchr(t->value, 0, t->len))
		return -EPROTO;
	s->text += t->len + 1;
	if (t->tag == WSLX_TAG_ARG && ++s->n_args > WSLX_AGENT_MAX_ARGS)
		return -EPROTO;
	if (t->tag == WSLX_TAG_ENV) {
		const uint8_t *eq = memchr(t->value, '=', t->len);

		if (!eq || eq == t->value || ++s->n_env > WSLX_AGENT_MAX_ENV)
			return -EPROTO;
	}
	return 0;
}

/* Second pass: block is argv, its NULL, env, its NULL, texts. */
static void exec_fill(const uint8_t *p, size_t n, const struct exec_scan *s, void *block, struct wslx_agent_exec *m)
{
	struct wslx_agent_tlv_it it = { .p = p, .left = n };
	const char **arg = block, **env = arg + s->n_args + 1;
	char *text = (char *)(env + s->n_env + 1);
	struct wslx_agent_tlv t;

	m->argv = arg;
	m->env = env;
	while (wslx_agent_tlv_next(&it, &t) > 0) {
		for (size_t i = 0; i < ARRAY_SIZE(exec_tags); i++) {
			if (exec_tags[i].tag != t.tag || !exec_tags[i].max)
				continue;
			memcpy(text, t.value, t.len);
			text[t.len] = 0;
			if (t.tag == WSLX_TAG_ARG)
				*arg++ = text;
			else if (t.tag == WSLX_TAG_ENV)
				*env++ = text;
			else
				memcpy((char *)m + exec_tags[i].off, &text, sizeof(text));
			text += t.len + 1;
		}
	}
}

int wslx_agent_exec_decode(const uint8_t *p, size_t n, struct wslx_agent_exec *ret)
{
	struct wslx_agent_tlv_it it = { .p = p, .left = n };
	struct wslx_agent_exec m = { 0 };
	struct exec_scan s = { 0 };
	struct wslx_agent_tlv t;
	void *block;
	int r;

	memset(ret, 0, sizeof(*ret));
	while ((r = wslx_agent_tlv_next(&it, &t)) > 0) {
		r = exec_scan_one(&t, &s, &m);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(m.streams); i++)
		if (m.streams[i] == WSLX_STREAM_IS_TTY && !(m.flags & WSLX_EXEC_TTY))
			return -EPROTO;
	/* Bounded by the message's own size and MAX_ARGS, MAX_ENV. */
	block = calloc(1, (s.n_args + s.n_env + 2) * sizeof(char *) + s.text);
	if (!block)
		return -ENOMEM;
	exec_fill(p, n, &s, block, &m);
	*ret = m;
	return 0;
}

void wslx_agent_exec_free(struct wslx_agent_exec *m)
{
	free((void *)m->argv);
	memset(m, 0, sizeof(*m));
}

/* ---- STATUS_REPLY ---- */

#define STATE_FIXED 12u

static int put_state(struct wslx_buf *b, const struct wslx_agent_status_distro *d)
{
	uint8_t v[STATE_FIXED + WSLX_AGENT_NAME_MAX];
	size_t n = strnlen(d->name, WSLX_AGENT_NAME_MAX);

	wslx_put_le32(v, d->state);
	wslx_put_le32(v + 4, d->readonly ? 1 : 0);
	wslx_put_le32(v + 8, d->processes);
	memcpy(v + STATE_FIXED, d->name, n);
	return wslx_agent_put_tlv(b, WSLX_TAG_DISTRO_STATE, v, STATE_FIXED + n);
}

int wslx_agent_status_encode(struct wslx_buf *b, const struct wslx_agent_status *m)
{
	uint8_t load[12];
	int r;

	if (m->n_distros > WSLX_AGENT_MAX_DISTROS)
		return -EINVAL;
	for (size_t i = 0; i < 3; i++)
		wslx_put_le32(load + 4 * i, m->load[i]);
	if ((r = wslx_agent_put_tlv_u64(b, WSLX_TAG_UPTIME_MS, m->uptime_ms)) < 0 ||
	    (r = wslx_agent_put_tlv(b, WSLX_TAG_LOAD, load, sizeof(load))) < 0 ||
	    (r = wslx_agent_put_tlv_u64(b, WSLX_TAG_MEM_TOTAL, m->mem_total)) < 0 ||
	    (r = wslx_agent_put_tlv_u64(b, WSLX_TAG_MEM_AVAILABLE, m->mem_available)) < 0 ||
	    (r = wslx_agent_put_tlv_u32(b, WSLX_TAG_PROCESSES, m->processes)) < 0 ||
	    (r = wslx_agent_put_tlv_u32(b, WSLX_TAG_EXECS, m->execs)) < 0)
		return r;
	for (size_t i = 0; i < m->n_distros; i++)
		if ((r = put_state(b, &m->distros[i])) < 0)
			return r;
	return 0;
}

static int get_u64(const struct wslx_agent_tlv *t, uint64_t *ret)
{
	if (t->len != 8)
		return -EPROTO;
	*ret = wslx_get_le64(t->value);
	return 0;
}

static int get_state(const struct wslx_agent_tlv *t, struct wslx_agent_status *m)
{
	struct wslx_agent_status_distro *d;
	size_t n = t->len - STATE_FIXED;

	if (t->len < STATE_FIXED || n > WSLX_AGENT_NAME_MAX || m->n_distros == WSLX_AGENT_MAX_DISTROS ||
	    memchr(t->value + STATE_FIXED, 0, n))
		return -EPROTO;
	if (!m->distros) {
		m->distros = calloc(WSLX_AGENT_MAX_DISTROS, sizeof(*m->distros));
		if (!m->distros)
			return -ENOMEM;
	}
	d = &m->distros[m->n_distros++];
	d->state = wslx_get_le32(t->value);
	d->readonly = wslx_get_le32(t->value + 4) & 1;
	d->processes = wslx_get_le32(t->value + 8);
	memcpy(d->name, t->value + STATE_FIXED, n);
	return 0;
}

static int status_one(const struct wslx_agent_tlv *t, struct wslx_agent_status *m)
{
	switch (t->tag) {
	case WSLX_TAG_UPTIME_MS:
		return get_u64(t, &m->uptime_ms);
	case WSLX_TAG_LOAD:
		if (t->len != 12)
			return -EPROTO;
		for (size_t i = 0; i < 3; i++)
			m->load[i] = wslx_get_le32(t->value + 4 * i);
		return 0;
	case WSLX_TAG_MEM_TOTAL:
		return get_u64(t, &m->mem_total);
	case WSLX_TAG_MEM_AVAILABLE:
		return get_u64(t, &m->mem_available);
	case WSLX_TAG_PROCESSES:
		return wslx_agent_u32_decode(t->value, t->len, &m->processes);
	case WSLX_TAG_EXECS:
		return wslx_agent_u32_decode(t->value, t->len, &m->execs);
	case WSLX_TAG_DISTRO_STATE:
		return get_state(t, m);
	default:
		return t->critical ? -ENOTSUP : 0;
	}
}

int wslx_agent_status_decode(const uint8_t *p, size_t n, struct wslx_agent_status *ret)
{
	struct wslx_agent_tlv_it it = { .p = p, .left = n };
	struct wslx_agent_status m = { 0 };
	struct wslx_agent_tlv t;
	uint32_t seen = 0;
	int r;

	memset(ret, 0, sizeof(*ret));
	while ((r = wslx_agent_tlv_next(&it, &t)) > 0) {
		uint32_t bit = t.tag >= WSLX_TAG_UPTIME_MS && t.tag < WSLX_TAG_DISTRO_STATE
				       ? 1u << (t.tag - WSLX_TAG_UPTIME_MS)
				       : 0;

		r = seen & bit ? -EPROTO : status_one(&t, &m);
		if (r < 0)
			break;
		seen |= bit;
	}
	if (r < 0)
		wslx_agent_status_free(&m);
	else
		*ret = m;
	return r;
}

void wslx_agent_status_free(struct wslx_agent_status *m)
{
	free(m->distros);
	memset(m, 0, sizeof(*m));
}
