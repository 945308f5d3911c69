/* See user.h. */
#include "agent/user.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define DB_MAX ((size_t)16 << 20)
#define CONF_MAX ((size_t)1 << 20)

int wslx_read_regular(const char *path, size_t max, char **ret, size_t *ret_len)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	cleanup_free char *buf = NULL;
	size_t len = 0, cap;
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size < 0 || (size_t)st.st_size > max)
		return -EFBIG;
	/* Files of proc say 0 and have content. */
	cap = st.st_size ? (size_t)st.st_size : WSLX_MIN(max, (size_t)65536);
	buf = malloc(cap + 1);
	if (!buf)
		return -ENOMEM;
	while (len < cap) {
		ssize_t n = read(fd, buf + len, cap - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	buf[len] = 0;
	*ret = TAKE_PTR(buf);
	*ret_len = len;
	return 0;
}

/* Cuts the next line off *p; NULL at the end. */
static char *next_line(char **p)
{
	char *line = *p, *nl;

	if (!line || !*line)
		return NULL;
	nl = strchr(line, '\n');
	if (nl)
		*nl = 0;
	*p = nl ? nl + 1 : NULL;
	return line;
}

/* Splits at ':' in place; returns the number of fields. */
static size_t split(char *line, char **fields, size_t max)
{
	size_t n = 0;

	while (n < max) {
		fields[n++] = line;
		line = strchr(line, ':');
		if (!line)
			break;
		*line++ = 0;
	}
	return n;
}

static bool parse_id(const char *s, unsigned *ret)
{
	unsigned long v;
	char *end;

	if (!isdigit((unsigned char)*s))
		return false;
	errno = 0;
	v = strtoul(s, &end, 10);
	/* All ones means "no change" to the kernel. */
	if (errno || *end || v >= 0xffffffffu)
		return false;
	*ret = (unsigned)v;
	return true;
}

static void copy(char *dst, const char *src, size_t size)
{
	size_t n = WSLX_MIN(strlen(src), size - 1);

	memcpy(dst, src, n);
	dst[n] = 0;
}

/* Calls for a line that fits; by name if by_name, else by uid. */
static bool scan_passwd(char *text, const char *name, bool by_name, unsigned uid, struct wslx_user *u)
{
	char *line;

	while ((line = next_line(&text))) {
		char *f[7] = { 0 };
		unsigned id, gid;

		if (split(line, f, 7) < 7 || !parse_id(f[2], &id) || !parse_id(f[3], &gid))
			continue;
		if (by_name ? strcmp(f[0], name) != 0 : id != uid)
			continue;
		u->uid = id;
		u->gid = gid;
		copy(u->name, f[0], sizeof(u->name));
		copy(u->home, *f[5] == '/' ? f[5] : "/", sizeof(u->home));
		copy(u->shell, *f[6] == '/' ? f[6] : "/bin/sh", sizeof(u->shell));
		return true;
	}
	return false;
}

static bool is_member(char *members, const char *name)
{
	char *save = NULL;

	for (char *m = strtok_r(members, ",", &save); m; m = strtok_r(NULL, ",", &save))
		if (!strcmp(m, name))
			return true;
	return false;
}

static void find_groups(const char *path, struct wslx_user *u)
{
	cleanup_free char *text = NULL;
	char *rest, *line;
	size_t len;

	u->groups[0] = u->gid;
	u->n_groups = 1;
	if (!*u->name || wslx_read_regular(path, DB_MAX, &text, &len) < 0)
		return;
	rest = text;
	while ((line = next_line(&rest)) && u->n_groups < WSLX_USER_GROUPS_MAX) {
		char *f[4] = { 0 };
		unsigned gid;

		if (split(line, f, 4) == 4 && parse_id(f[2], &gid) && gid != u->gid && is_member(f[3], u->name))
			u->groups[u->n_groups++] = gid;
	}
}

int wslx_user_find(const char *who, const char *passwd, const char *group, struct wslx_user *ret)
{
	cleanup_free char *text = NULL, *again = NULL;
	unsigned uid = 0;
	bool number = parse_id(who, &uid), found = false;
	size_t len;

	memset(ret, 0, sizeof(*ret));
	if (!*who)
		who = "root";
	if (wslx_read_regular(passwd ? passwd : "/etc/passwd", DB_MAX, &text, &len) == 0) {
		again = strdup(text);
		if (!again)
			return -ENOMEM;
		found = scan_passwd(text, who, true, 0, ret);
		if (!found && number)
			found = scan_passwd(again, NULL, false, uid, ret);
	}
	if (!found) {
		bool root = !strcmp(who, "root") || (number && uid == 0);

		if (!root && !number)
			return -ENOENT;
		ret->uid = uid;
		ret->gid = uid;
		copy(ret->name, root ? "root" : who, sizeof(ret->name));
		copy(ret->home, root ? "/root" : "/", sizeof(ret->home));
		copy(ret->shell, "/bin/sh", sizeof(ret->shell));
	}
	find_groups(group ? group : "/etc/group", ret);
	return 0;
}

/* ---- wsl.conf ---- */

struct ini {
	const char *p, *end;
};

/* The next logical line's character; escapes are left to the value parser. */
static int peek(const struct ini *in)
{
	return in->p < in->end ? (unsigned char)*in->p : -1;
}

static void skip_blanks(struct ini *in)
{
	while (peek(in) == ' ' || peek(in) == '\t' || peek(in) == '\r')
		in->p++;
}

static void skip_line(struct ini *in)
{
	while (peek(in) >= 0 && peek(in) != '\n')
		in->p++;
	if (peek(in) == '\n')
		in->p++;
}

/* A bare word up to one of stop, a comment or the line's end; blanks at its end are cut. */
static bool word(struct ini *in, char stop, char *dst, size_t size)
{
	const char *start = in->p, *last;

	while (peek(in) >= 0 && peek(in) != '\n' && peek(in) != '#' && peek(in) != stop)
		in->p++;
	last = in->p;
	while (last > start && isspace((unsigned char)last[-1]))
		last--;
	if (last == start || (size_t)(last - start) >= size || peek(in) != stop)
		return false;
	memcpy(dst, start, (size_t)(last - start));
	dst[last - start] = 0;
	return true;
}

static int escaped(int c)
{
	switch (c) {
	case 'n':
		return '\n';
	case 't':
		return '\t';
	case 'b':
		return '\b';
	case '\\':
	case '"':
	case '\'':
	case '#':
		return c;
	default:
		return -1;
	}
}

/* A backslash at *in: its character, 0 for a continued line, -1 for an unknown escape. */
static int backslash(struct ini *in)
{
	int c;

	in->p++;
	if (peek(in) == '\r' && in->p + 1 < in->end && in->p[1] == '\n')
		in->p++;
	c = peek(in);
	if (c < 0)
		return -1;
	in->p++;
	return c == '\n' ? 0 : escaped(c);
}

/* The value; false if it is malformed or too long. */
static bool value(struct ini *in, char *dst, size_t size)
{
	size_t n = 0, solid = 0;
	bool quoted = false;

	for (;;) {
		int c = peek(in);
		bool keep = quoted;

		if (c < 0 || c == '\n' || (c == '#' && !quoted))
			break;
		if (c == '"') {
			quoted = !quoted;
			in->p++;
			solid = n;
			continue;
		}
		if (c == '\\') {
			c = backslash(in);
			if (c < 0)
				return false;
			if (c == 0)
				continue;
			keep = true;
		} else {
			in->p++;
		}
		if (n + 1 >= size)
			return false;
		dst[n++] = (char)c;
		/* Blanks at the end count only inside quotes. */
		if (keep || !isspace(c))
			solid = n;
	}
	dst[solid] = 0;
	return !quoted;
}

struct setting {
	const char *section, *key;
	bool *flag;
	char *text;
	size_t size;
	bool seen;
};

static bool parse_bool(const char *s, bool *ret)
{
	if (!strcasecmp(s, "true") || !strcmp(s, "1"))
		*ret = true;
	else if (!strcasecmp(s, "false") || !strcmp(s, "0"))
		*ret = false;
	else
		return false;
	return true;
}

static void apply(struct setting *s, size_t n, const char *section, const char *key, const char *val)
{
	for (size_t i = 0; i < n; i++) {
		if (strcasecmp(s[i].section, section) != 0 || strcasecmp(s[i].key, key) != 0 || s[i].seen)
			continue;
		if (s[i].flag)
			s[i].seen = parse_bool(val, s[i].flag);
		else if (strlen(val) < s[i].size) {
			copy(s[i].text, val, s[i].size);
			s[i].seen = true;
		}
	}
}

void wslx_wslconf_parse(const char *text, size_t len, struct wslx_wslconf *ret)
{
	struct setting settings[] = {
		{ "network", "generateHosts", &ret->generate_hosts, NULL, 0, false },
		{ "network", "generateResolvConf", &ret->generate_resolv_conf, NULL, 0, false },
		{ "network", "hostname", NULL, ret->hostname, sizeof(ret->hostname), false },
		{ "user", "default", NULL, ret->user, sizeof(ret->user), false },
	};
	struct ini in = { .p = text, .end = text + len };
	char section[64] = "", key[64], val[1024];

	*ret = (struct wslx_wslconf) { .generate_hosts = true, .generate_resolv_conf = true };
	while (peek(&in) >= 0) {
		skip_blanks(&in);
		if (peek(&in) == '[') {
			in.p++;
			skip_blanks(&in);
			/* Keys of a section whose name is broken belong nowhere. */
			if (!word(&in, ']', section, sizeof(section)))
				section[0] = 0;
		} else if (peek(&in) != '#' && peek(&in) != '\n' && word(&in, '=', key, sizeof(key))) {
			in.p++;
			skip_blanks(&in);
			if (value(&in, val, sizeof(val)))
				apply(settings, ARRAY_SIZE(settings), section, key, val);
		}
		skip_line(&in);
	}
}

void wslx_wslconf_load(const char *path, struct wslx_wslconf *ret)
{
	cleanup_free char *text = NULL;
	size_t len = 0;

	if (wslx_read_regular(path ? path : "/etc/wsl.conf", CONF_MAX, &text, &len) < 0)
		len = 0;
	wslx_wslconf_parse(text ? text : "", len, ret);
}
