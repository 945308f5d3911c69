/*
 * Bodies of the agent protocol's messages that map to flat structs.  Each
 * message is a table of fields; one encoder and one decoder walk the tables,
 * so that the checks (length, duplicates, NUL in text, counts) are the same
 * for all.  A field at its default (0, "", false, empty list) is not sent.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "proto/agent.h"

enum kind {
	F_U32,   /* uint32_t; int for `code` and friends: see the casts */
	F_U64,   /* uint64_t */
	F_BOOL,  /* bool on the wire as u32 0 or 1 */
	F_TEXT,  /* char[size], NUL-terminated */
	F_TEXTS, /* char[max][size], size_t count at count_off */
	F_BYTES, /* uint8_t[size] exactly, bool present at count_off */
	F_BLOB,  /* at most size bytes, size_t length at count_off */
};

struct field {
	uint32_t tag;
	enum kind kind;
	size_t off, size;
	size_t count_off, max;
};

#define MEMBER_SIZE(s, m) sizeof(((struct s *)0)->m)
#define U32(s, m, t)                                                                                                   \
	{                                                                                                              \
		.tag = (t), .kind = F_U32, .off = offsetof(struct s, m)                                                \
	}
#define U64(s, m, t)                                                                                                   \
	{                                                                                                              \
		.tag = (t), .kind = F_U64, .off = offsetof(struct s, m)                                                \
	}
#define BOOL(s, m, t)                                                                                                  \
	{                                                                                                              \
		.tag = (t), .kind = F_BOOL, .off = offsetof(struct s, m)                                               \
	}
#define TEXT(s, m, t)                                                                                                  \
	{                                                                                                              \
		.tag = (t), .kind = F_TEXT, .off = offsetof(struct s, m), .size = MEMBER_SIZE(s, m)                    \
	}
#define TEXTS(s, m, n, t)                                                                                              \
	{                                                                                                              \
		.tag = (t), .kind = F_TEXTS, .off = offsetof(struct s, m), .size = MEMBER_SIZE(s, m[0]),               \
		.count_off = offsetof(struct s, n), .max = MEMBER_SIZE(s, m) / MEMBER_SIZE(s, m[0])                    \
	}
#define BYTES(s, m, n, present, t)                                                                                     \
	{                                                                                                              \
		.tag = (t), .kind = F_BYTES, .off = offsetof(struct s, m), .size = (n),                                \
		.count_off = offsetof(struct s, present)                                                               \
	}
#define BLOB(s, m, n, t)                                                                                               \
	{                                                                                                              \
		.tag = (t), .kind = F_BLOB, .off = offsetof(struct s, m), .size = MEMBER_SIZE(s, m),                   \
		.count_off = offsetof(struct s, n)                                                                     \
	}

/* ---- encoding ---- */

static int encode_texts(struct wslx_buf *b, const struct field *f, const char *base)
{
	size_t n = *(const size_t *)(const void *)(base + f->count_off);

	if (n > f->max)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		int r = wslx_agent_put_tlv_str(b, f->tag, base + f->off + i * f->size);

		if (r < 0)
			return r;
	}
	return 0;
}

static int encode_field(struct wslx_buf *b, const struct field *f, const char *base)
{
	const void *p = base + f->off;

	switch (f->kind) {
	case F_U32:
		return *(const uint32_t *)p ? wslx_agent_put_tlv_u32(b, f->tag, *(const uint32_t *)p) : 0;
	case F_U64:
		return *(const uint64_t *)p ? wslx_agent_put_tlv_u64(b, f->tag, *(const uint64_t *)p) : 0;
	case F_BOOL:
		return *(const bool *)p ? wslx_agent_put_tlv_u32(b, f->tag, 1) : 0;
	case F_TEXT:
		return *(const char *)p ? wslx_agent_put_tlv_str(b, f->tag, p) : 0;
	case F_TEXTS:
		return encode_texts(b, f, base);
	case F_BYTES:
		return *(const bool *)(const void *)(base + f->count_off) ? wslx_agent_put_tlv(b, f->tag, p, f->size)
									  : 0;
	case F_BLOB: {
		size_t n = *(const size_t *)(const void *)(base + f->count_off);

		if (n > f->size)
			return -EINVAL;
		return n ? wslx_agent_put_tlv(b, f->tag, p, n) : 0;
	}
	}
	return -EINVAL;
}

static int encode_fields(struct wslx_buf *b, const struct field *fields, size_t n, const void *m)
{
	for (size_t i = 0; i < n; i++) {
		int r = encode_field(b, &fields[i], m);

		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- decoding ---- */

static int decode_text(const struct wslx_agent_tlv *t, char *dst, size_t size)
{
	if (t->len >= size || memchr(t->value, 0, t->len))
		return -EPROTO;
	memcpy(dst, t->value, t->len);
	dst[t->len] = 0;
	return 0;
}

static int decode_texts(const struct field *f, const struct wslx_agent_tlv *t, char *base)
{
	size_t *n = (size_t *)(void *)(base + f->count_off);
	int r;

	if (*n >= f->max)
		return -EPROTO;
	r = decode_text(t, base + f->off + *n * f->size, f->size);
	if (r == 0)
		++*n;
	return r;
}

static int decode_field(const struct field *f, const struct wslx_agent_tlv *t, char *base)
{
	void *p = base + f->off;
	uint32_t v;

	switch (f->kind) {
	case F_U32:
		return wslx_agent_u32_decode(t->value, t->len, p);
	case F_U64:
		if (t->len != 8)
			return -EPROTO;
		*(uint64_t *)p = wslx_get_le64(t->value);
		return 0;
	case F_BOOL:
		if (wslx_agent_u32_decode(t->value, t->len, &v) < 0 || v > 1)
			return -EPROTO;
		*(bool *)p = v;
		return 0;
	case F_TEXT:
		return decode_text(t, p, f->size);
	case F_TEXTS:
		return decode_texts(f, t, base);
	case F_BYTES:
		if (t->len != f->size)
			return -EPROTO;
		memcpy(p, t->value, t->len);
		*(bool *)(void *)(base + f->count_off) = true;
		return 0;
	case F_BLOB:
		if (t->len > f->size)
			return -EPROTO;
		memcpy(p, t->value, t->len);
		*(size_t *)(void *)(base + f->count_off) = t->len;
		return 0;
	}
	return -EPROTO;
}

/* m is zeroed by the caller, defaults other than 0 filled in. */
static int decode_fields(const struct field *fields, size_t n, const uint8_t *p, size_t len, void *m)
{
	struct wslx_agent_tlv_it it = { .p = p, .left = len };
	struct wslx_agent_tlv t;
	uint32_t seen = 0;
	int r;

	while ((r = wslx_agent_tlv_next(&it, &t)) > 0) {
		size_t i = 0;

		while (i < n && fields[i].tag != t.tag)
			i++;
		if (i == n) {
			if (t.critical)
				return -ENOTSUP;
			continue;
		}
		if (fields[i].kind != F_TEXTS && (seen & 1u << i))
			return -EPROTO;
		seen |= 1u << i;
		r = decode_field(&fields[i], &t, m);
		if (r < 0)
			return r;
	}
	return r;
}

int wslx_agent_u32_decode(const uint8_t *p, size_t n, uint32_t *ret)
{
	if (n != 4)
		return -EPROTO;
	*ret = wslx_get_le32(p);
	return 0;
}

/* Decodes into a local so that *ret stays untouched by half a message. */
#define DECODE(type, fields, init)                                                                                     \
	struct type m = init;                                                                                          \
	int r = decode_fields(fields, ARRAY_SIZE(fields), p, n, &m);                                                   \
	if (r < 0) {                                                                                                   \
		memset(ret, 0, sizeof(*ret));                                                                          \
		return r;                                                                                              \
	}                                                                                                              \
	*ret = m

/* ---- HELLO ---- */

#define HELLO_FIXED 16u

static const struct field hello_fields[] = {
	TEXT(wslx_agent_hello, agent_version, WSLX_TAG_AGENT_VERSION),
	TEXT(wslx_agent_hello, kernel_release, WSLX_TAG_KERNEL_RELEASE),
	U64(wslx_agent_hello, boot_agent_ns, WSLX_TAG_BOOT_AGENT_NS),
	U64(wslx_agent_hello, boot_modules_ns, WSLX_TAG_BOOT_MODULES_NS),
	U64(wslx_agent_hello, boot_ready_ns, WSLX_TAG_BOOT_READY_NS),
};

int wslx_agent_hello_encode(struct wslx_buf *b, const struct wslx_agent_hello *m)
{
	uint8_t fixed[HELLO_FIXED];
	int r;

	wslx_put_le32(fixed, WSLX_AGENT_MAGIC);
	wslx_put_le16(fixed + 4, m->version_min);
	wslx_put_le16(fixed + 6, m->version_max);
	wslx_put_le64(fixed + 8, m->caps);
	r = wslx_buf_append(b, fixed, sizeof(fixed));
	return r < 0 ? r : encode_fields(b, hello_fields, ARRAY_SIZE(hello_fields), m);
}

int wslx_agent_hello_decode(const uint8_t *p, size_t n, struct wslx_agent_hello *ret)
{
	struct wslx_agent_hello m = { 0 };
	int r;

	memset(ret, 0, sizeof(*ret));
	if (n < HELLO_FIXED || wslx_get_le32(p) != WSLX_AGENT_MAGIC)
		return -EPROTO;
	m.version_min = wslx_get_le16(p + 4);
	m.version_max = wslx_get_le16(p + 6);
	m.caps = wslx_get_le64(p + 8);
	if (m.version_min > m.version_max)
		return -EPROTO;
	r = decode_fields(hello_fields, ARRAY_SIZE(hello_fields), p + HELLO_FIXED, n - HELLO_FIXED, &m);
	if (r == 0)
		*ret = m;
	return r;
}

int wslx_agent_version_pick(const struct wslx_agent_hello *a, const struct wslx_agent_hello *b)
{
	uint16_t lo = WSLX_MAX(a->version_min, b->version_min);
	uint16_t hi = WSLX_MIN(a->version_max, b->version_max);

	return hi < lo ? -EPROTONOSUPPORT : hi;
}

/* ---- ERROR, OK ---- */

/* int members travel as u32. */
_Static_assert(sizeof(int) == sizeof(uint32_t), "errno and exit status are u32 on the wire");
static const struct field error_fields[] = {
	U32(wslx_agent_error, code, WSLX_TAG_ERRNO),
	TEXT(wslx_agent_error, text, WSLX_TAG_TEXT),
	U32(wslx_agent_error, exit_status, WSLX_TAG_EXIT_STATUS),
};

int wslx_agent_error_encode(struct wslx_buf *b, const struct wslx_agent_error *m)
{
	struct wslx_agent_error copy = *m;

	/* 0 is not sent either: nobody fails with "would exit 0". */
	if (copy.exit_status < 0)
		copy.exit_status = 0;
	return encode_fields(b, error_fields, ARRAY_SIZE(error_fields), &copy);
}

int wslx_agent_error_decode(const uint8_t *p, size_t n, struct wslx_agent_error *ret)
{
	DECODE(wslx_agent_error, error_fields, { .exit_status = -1 });
	/* Errno values fit in 12 bits; anything else is a lie that could turn
	 * into success or an odd sign further on. */
	if (ret->code < 0 || ret->code > 4095)
		ret->code = EPROTO;
	if (ret->exit_status < -1 || ret->exit_status > 255)
		ret->exit_status = -1;
	return 0;
}

/* ---- CONFIG ---- */

/* The three members of IPV4 travel as one value. */
_Static_assert(offsetof(struct wslx_agent_config, ipv4_prefix) == offsetof(struct wslx_agent_config, ipv4) + 4 &&
		       offsetof(struct wslx_agent_config, ipv4_gateway) == offsetof(struct wslx_agent_config, ipv4) + 5,
	       "contiguous");
static const struct field config_fields[] = {
	TEXT(wslx_agent_config, hostname, WSLX_TAG_HOSTNAME),
	U64(wslx_agent_config, time_ns, WSLX_TAG_TIME_NS),
	BLOB(wslx_agent_config, seed, seed_len, WSLX_TAG_SEED),
	TEXT(wslx_agent_config, modules_serial, WSLX_TAG_MODULES_SERIAL),
	BYTES(wslx_agent_config, mac, 6, has_mac, WSLX_TAG_NIC_MAC),
	BYTES(wslx_agent_config, ipv4, 9, has_ipv4, WSLX_TAG_IPV4),
	U32(wslx_agent_config, mtu, WSLX_TAG_MTU),
	BOOL(wslx_agent_config, ipv6_ra, WSLX_TAG_IPV6_RA),
	BOOL(wslx_agent_config, greet, WSLX_TAG_GREET),
	TEXTS(wslx_agent_config, dns, n_dns, WSLX_TAG_DNS),
	TEXTS(wslx_agent_config, search, n_search, WSLX_TAG_SEARCH),
};

int wslx_agent_config_encode(struct wslx_buf *b, const struct wslx_agent_config *m)
{
	return encode_fields(b, config_fields, ARRAY_SIZE(config_fields), m);
}

int wslx_agent_config_decode(const uint8_t *p, size_t n, struct wslx_agent_config *ret)
{
	DECODE(wslx_agent_config, config_fields, { 0 });
	if ((ret->has_ipv4 && ret->ipv4_prefix > 32) || (ret->mtu && (ret->mtu < 68 || ret->mtu > 65535))) {
		memset(ret, 0, sizeof(*ret));
		return -EPROTO;
	}
	return 0;
}

/* ---- DISTRO_START, DISTRO_STOP, DISTRO_STARTED ---- */

static const struct field distro_fields[] = {
	TEXT(wslx_agent_distro, name, WSLX_TAG_DISTRO),          TEXT(wslx_agent_distro, serial, WSLX_TAG_SERIAL),
	TEXT(wslx_agent_distro, fstype, WSLX_TAG_FSTYPE),        TEXT(wslx_agent_distro, hostname, WSLX_TAG_HOSTNAME),
	TEXT(wslx_agent_distro, options, WSLX_TAG_OPTIONS),      BOOL(wslx_agent_distro, readonly, WSLX_TAG_READONLY),
	U32(wslx_agent_distro, timeout_ms, WSLX_TAG_TIMEOUT_MS),
};

int wslx_agent_distro_encode(struct wslx_buf *b, const struct wslx_agent_distro *m)
{
	return encode_fields(b, distro_fields, ARRAY_SIZE(distro_fields), m);
}

int wslx_agent_distro_decode(const uint8_t *p, size_t n, struct wslx_agent_distro *ret)
{
	DECODE(wslx_agent_distro, distro_fields, { 0 });
	return 0;
}

static const struct field distro_started_fields[] = {
	BOOL(wslx_agent_distro_started, readonly, WSLX_TAG_READONLY),
	TEXTS(wslx_agent_distro_started, warnings, n_warnings, WSLX_TAG_WARNING),
};

int wslx_agent_distro_started_encode(struct wslx_buf *b, const struct wslx_agent_distro_started *m)
{
	return encode_fields(b, distro_started_fields, ARRAY_SIZE(distro_started_fields), m);
}

int wslx_agent_distro_started_decode(const uint8_t *p, size_t n, struct wslx_agent_distro_started *ret)
{
	DECODE(wslx_agent_distro_started, distro_started_fields, { 0 });
	return 0;
}

/* ---- SHUTDOWN ---- */

struct shutdown_msg {
	uint32_t how, timeout_ms;
};
static const struct field shutdown_fields[] = {
	U32(shutdown_msg, how, WSLX_TAG_HOW),
	U32(shutdown_msg, timeout_ms, WSLX_TAG_TIMEOUT_MS),
};

int wslx_agent_shutdown_encode(struct wslx_buf *b, enum wslx_agent_shutdown how, uint32_t timeout_ms)
{
	struct shutdown_msg m = { .how = how, .timeout_ms = timeout_ms };

	return encode_fields(b, shutdown_fields, ARRAY_SIZE(shutdown_fields), &m);
}

int wslx_agent_shutdown_decode(const uint8_t *p, size_t n, enum wslx_agent_shutdown *ret, uint32_t *ret_timeout_ms)
{
	struct shutdown_msg m = { 0 };
	int r = decode_fields(shutdown_fields, ARRAY_SIZE(shutdown_fields), p, n, &m);

	if (r < 0)
		return r;
	if (m.how > WSLX_AGENT_REBOOT)
		return -EPROTO;
	*ret = (enum wslx_agent_shutdown)m.how;
	*ret_timeout_ms = m.timeout_ms;
	return 0;
}

/* ---- STARTED, EXIT, WINSIZE ---- */

static const struct field started_fields[] = {
	U32(wslx_agent_started, pid, WSLX_TAG_PID),
	U32(wslx_agent_started, window, WSLX_TAG_WINDOW),
	TEXTS(wslx_agent_started, warnings, n_warnings, WSLX_TAG_WARNING),
};

int wslx_agent_started_encode(struct wslx_buf *b, const struct wslx_agent_started *m)
{
	return encode_fields(b, started_fields, ARRAY_SIZE(started_fields), m);
}

int wslx_agent_started_decode(const uint8_t *p, size_t n, struct wslx_agent_started *ret)
{
	DECODE(wslx_agent_started, started_fields, { 0 });
	if (ret->window > WSLX_AGENT_WINDOW_MAX) {
		memset(ret, 0, sizeof(*ret));
		return -EPROTO;
	}
	return 0;
}

static const struct field exit_fields[] = {
	U32(wslx_agent_exit, status, WSLX_TAG_STATUS),
	U32(wslx_agent_exit, signal, WSLX_TAG_SIGNAL),
	BOOL(wslx_agent_exit, core, WSLX_TAG_CORE),
};

int wslx_agent_exit_encode(struct wslx_buf *b, const struct wslx_agent_exit *m)
{
	/* The status of a normal end is always said, 0 too. */
	if (!m->signal)
		return wslx_agent_put_tlv_u32(b, WSLX_TAG_STATUS, m->status);
	return encode_fields(b, exit_fields, ARRAY_SIZE(exit_fields), m);
}

int wslx_agent_exit_decode(const uint8_t *p, size_t n, struct wslx_agent_exit *ret)
{
	DECODE(wslx_agent_exit, exit_fields, { 0 });
	if (ret->status > 255 || ret->signal > 64) {
		memset(ret, 0, sizeof(*ret));
		return -EPROTO;
	}
	return 0;
}

void wslx_agent_winsize_encode(const struct wslx_agent_winsize *m, uint8_t p[8])
{
	wslx_put_le16(p, m->rows);
	wslx_put_le16(p + 2, m->cols);
	wslx_put_le16(p + 4, m->xpixel);
	wslx_put_le16(p + 6, m->ypixel);
}

int wslx_agent_winsize_decode(const uint8_t *p, size_t n, struct wslx_agent_winsize *ret)
{
	if (n != 8)
		return -EPROTO;
	*ret = (struct wslx_agent_winsize) { .rows = wslx_get_le16(p),
					     .cols = wslx_get_le16(p + 2),
					     .xpixel = wslx_get_le16(p + 4),
					     .ypixel = wslx_get_le16(p + 6) };
	return 0;
}

/* ---- EVENT ---- */

static const struct field event_fields[] = {
	U32(wslx_agent_event, kind, WSLX_TAG_EVENT),    TEXT(wslx_agent_event, distro, WSLX_TAG_DISTRO),
	TEXT(wslx_agent_event, text, WSLX_TAG_TEXT),    U32(wslx_agent_event, status, WSLX_TAG_STATUS),
	U32(wslx_agent_event, signal, WSLX_TAG_SIGNAL),
};

int wslx_agent_event_encode(struct wslx_buf *b, const struct wslx_agent_event *m)
{
	return encode_fields(b, event_fields, ARRAY_SIZE(event_fields), m);
}

int wslx_agent_event_decode(const uint8_t *p, size_t n, struct wslx_agent_event *ret)
{
	DECODE(wslx_agent_event, event_fields, { 0 });
	return 0;
}
