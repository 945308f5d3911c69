/*
 * A look at an entry's extension headers before libarchive has them, for what
 * it does badly:
 *
 *   an ACL's entries go into a list that is searched for each of them, so that
 *   the 54,000 that fit one header take a quarter of a minute in one call;
 *   a record of a million bytes or more, and a malformed one, is left out with
 *   all that follow it, and so is an ACL's entry that it does not understand.
 *
 * libarchive says where an entry begins (wslx_peek_begin), so nothing here has
 * to follow contents.  From there on come any number of extension headers, each
 * with a body, and one of another kind, which ends the look.  The bytes are
 * those that libarchive was given, a block at a time; where an entry begins
 * within what it has already, the last bytes are still here.
 */
#include "image/import_peek.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define BLOCK 512u
#define BODY_MAX (1u << 20) /* libarchive refuses larger ones */
#define RECORD_MAX 999999u  /* and leaves longer ones out */
/* POSIX.1-2017 pax, "ustar Header Block" */
#define SIZE_OFF 124
#define SIZE_LEN 12
#define TYPE_OFF 156

/* Octal digits, or a big-endian number behind a byte of 0x80; too large for a
 * body: UINT64_MAX. */
static uint64_t number(const uint8_t *p, size_t n)
{
	bool binary = p[0] & 0x80;
	uint64_t v = binary ? p[0] & 0x7f : 0;
	size_t i = binary ? 1 : 0;

	while (!binary && i < n && (p[i] == ' ' || p[i] == '\t'))
		i++;
	for (; i < n && (binary || (p[i] >= '0' && p[i] <= '7')); i++) {
		v = binary ? v << 8 | p[i] : v * 8 + (p[i] - '0');
		if (v > BODY_MAX)
			return UINT64_MAX;
	}
	return v;
}

/* Entries of an ACL's text, between commas and newlines; a '#' begins a comment. */
static size_t count_entries(const char *s, size_t n)
{
	const char *end = s + n;
	size_t count = 0;

	while (s < end) {
		while (s < end && (*s == ' ' || *s == '\t'))
			s++;
		if (s < end && *s != ',' && *s != '\n' && *s != '#')
			count++;
		while (s < end && *s != ',' && *s != '\n')
			s++;
		s += s < end;
	}
	return count;
}

/* Several of a kind add up: libarchive does not forget the one before. */
static int count_acl(struct wslx_peek *p, enum wslx_peek_acl kind, const char *text, size_t len, struct wslx_err *err)
{
	p->entries[kind] += count_entries(text, strnlen(text, len));
	if (p->entries[kind] > WSLX_PEEK_ACL_MAX)
		return wslx_err_set(err, E2BIG, "its ACL has more than %u entries", WSLX_IMPORT_ACL_MAX);
	return 0;
}

static int look_at_record(struct wslx_peek *p, const char *s, size_t len, struct wslx_err *err)
{
	static const struct {
		const char *key;
		enum wslx_peek_acl kind;
	} acls[] = {
		{ "SCHILY.acl.access=", PEEK_ACL_ACCESS },
		{ "SCHILY.acl.default=", PEEK_ACL_DEFAULT },
		{ "SCHILY.acl.ace=", PEEK_ACL_OTHER },
	};

	if (!memchr(s, '=', len) || s[0] == '=')
		return wslx_err_set(err, EBADMSG, "an attribute in its header is malformed");
	for (size_t i = 0; i < ARRAY_SIZE(acls); i++) {
		size_t key = strlen(acls[i].key);

		if (len >= key && !memcmp(s, acls[i].key, key))
			return count_acl(p, acls[i].kind, s + key, len - key, err);
	}
	return 0;
}

static bool all_zero(const char *s, size_t n)
{
	return n == 0 || (!s[0] && !memcmp(s, s + 1, n - 1));
}

/* "LENGTH KEY=VALUE\n", LENGTH being that of all of it. */
static int look_at_records(struct wslx_peek *p, const char *s, size_t left, struct wslx_err *err)
{
	while (left && !all_zero(s, left)) {
		size_t len = 0, digits = 0;

		for (; digits < left && s[digits] >= '0' && s[digits] <= '9'; digits++) {
			len = len * 10 + (size_t)(s[digits] - '0');
			if (len > RECORD_MAX)
				return wslx_err_set(err, E2BIG, "an attribute in its header is longer than %u bytes",
						    RECORD_MAX);
		}
		if (!digits || digits == left || s[digits] != ' ' || len > left || len < digits + 2 ||
		    s[len - 1] != '\n')
			return wslx_err_set(err, EBADMSG, "an attribute in its header is malformed");
		int r = look_at_record(p, s + digits + 1, len - digits - 2, err);

		if (r < 0)
			return r;
		s += len;
		left -= len;
	}
	return 0;
}

/* Solaris' own: a number that says which kind, a NUL, the text. */
static int look_at_acl(struct wslx_peek *p, const char *s, size_t len, struct wslx_err *err)
{
	size_t number_len = strnlen(s, len);

	return number_len < len ? count_acl(p, PEEK_ACL_ACCESS, s + number_len + 1, len - number_len - 1, err) : 0;
}

static int on_body(struct wslx_peek *p, struct wslx_err *err)
{
	cleanup_free char *body = TAKE_PTR(p->body);
	int r = p->type == 'A' ? look_at_acl(p, body, p->body_len, err) : look_at_records(p, body, p->body_len, err);

	p->state = PEEK_SKIP;
	p->left = -p->body_len % BLOCK;
	return r;
}

/* The kinds are libarchive's. */
static int on_header(struct wslx_peek *p, struct wslx_err *err)
{
	uint64_t size = number(p->header + SIZE_OFF, SIZE_LEN);

	p->type = (char)p->header[TYPE_OFF];
	p->have = 0;
	if (p->type == 'V')
		return 0;
	/* What comes is the entry, or libarchive says what is wrong. */
	p->state = PEEK_DONE;
	if (!p->type || !strchr("xXAgLK", p->type) || size > BODY_MAX)
		return 0;
	p->left = size;
	if (strchr("gLK", p->type)) {
		p->left += -size % BLOCK;
		p->state = PEEK_SKIP;
		return 0;
	}
	p->body = malloc(size + 1);
	if (!p->body)
		return wslx_err_sys(err, ENOMEM, "cannot read its header");
	p->body_len = 0;
	p->state = PEEK_BODY;
	return 0;
}

static size_t take(struct wslx_peek *p, const uint8_t *s, size_t n)
{
	switch (p->state) {
	case PEEK_HEADER:
		n = WSLX_MIN(n, (size_t)BLOCK - p->have);
		memcpy(p->header + p->have, s, n);
		p->have += n;
		break;
	case PEEK_BODY:
		n = WSLX_MIN(n, (size_t)p->left);
		memcpy(p->body + p->body_len, s, n);
		p->body_len += n;
		p->left -= n;
		break;
	case PEEK_SKIP:
		n = (size_t)WSLX_MIN((uint64_t)n, p->left);
		p->left -= n;
		break;
	case PEEK_DONE:
		break;
	}
	return n;
}

static int look(struct wslx_peek *p, const uint8_t *s, size_t n, struct wslx_err *err)
{
	int r = 0;

	for (;;) {
		/* What is complete, even if it is empty. */
		if (p->state == PEEK_HEADER && p->have == BLOCK)
			r = on_header(p, err);
		else if (p->state == PEEK_BODY && !p->left)
			r = on_body(p, err);
		else if (p->state == PEEK_SKIP && !p->left)
			p->state = PEEK_HEADER;
		else if (!n || p->state == PEEK_DONE)
			return 0;
		if (r < 0) {
			p->state = PEEK_DONE;
			return r;
		}
		size_t k = take(p, s, n);

		s += k;
		n -= k;
	}
}

void wslx_peek_free(struct wslx_peek *p)
{
	free(p->body);
	p->body = NULL;
}

int wslx_peek_begin(struct wslx_peek *p, uint64_t at, struct wslx_err *err)
{
	uint64_t start = p->fed - p->block_len;
	int r = 0;

	p->state = PEEK_HEADER;
	p->have = 0;
	memset(p->entries, 0, sizeof(p->entries));
	wslx_peek_free(p);
	if (at > p->fed) {
		p->state = PEEK_SKIP;
		p->left = at - p->fed;
		return 0;
	}
	/* libarchive keeps no more than a header it has not used. */
	if (at + p->tail_len < start) {
		p->state = PEEK_DONE;
		return 0;
	}
	if (at < start) {
		r = look(p, p->tail + p->tail_len - (start - at), (size_t)(start - at), err);
		at = start;
	}
	return r < 0 ? r : look(p, p->block + (at - start), (size_t)(p->fed - at), err);
}

void wslx_peek_keep(struct wslx_peek *p)
{
	size_t new = WSLX_MIN(p->block_len, sizeof(p->tail)), old = WSLX_MIN(p->tail_len, sizeof(p->tail) - new);

	memmove(p->tail, p->tail + p->tail_len - old, old);
	if (new)
		memcpy(p->tail + old, p->block + p->block_len - new, new);
	p->tail_len = old + new;
	p->block_len = 0;
}

int wslx_peek_block(struct wslx_peek *p, const void *block, size_t n, struct wslx_err *err)
{
	p->block = block;
	p->block_len = n;
	p->fed += n;
	return look(p, block, n, err);
}
