#include "manager/settings.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/arith.h"

#define MEMORY_STEP (2 * WSLX_MIB)

const struct wslx_settings wslx_settings_default = {
	.engine = WSLX_ENGINE_AUTO,
	.net = { .mode = WSLX_NET_PASST },
};

/* Digits only, no sign, no leading blank: strtoull takes all of those. */
static int parse_u64(const char *s, const char **end, uint64_t *ret)
{
	uint64_t v = 0;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	for (; isdigit((unsigned char)*s); s++)
		if (!wslx_mul_u64(v, 10, &v) || !wslx_add_u64(v, (uint64_t)(*s - '0'), &v))
			return -ERANGE;
	*end = s;
	*ret = v;
	return 0;
}

int wslx_size_parse(const char *s, uint64_t *ret)
{
	static const char units[] = "KMGT";
	const char *end = s, *u;
	uint64_t v;
	int r = parse_u64(s, &end, &v);

	if (r < 0)
		return r;
	if (*end && *end != 'b' && *end != 'B') {
		u = strchr(units, toupper((unsigned char)*end));
		if (!u)
			return -EINVAL;
		if (!wslx_mul_u64(v, (uint64_t)1 << (10 * (u - units + 1)), &v))
			return -ERANGE;
		end++;
	}
	if (*end == 'b' || *end == 'B')
		end++;
	if (*end)
		return -EINVAL;
	*ret = v;
	return 0;
}

void wslx_size_format(uint64_t n, char buf[WSLX_SIZE_TEXT])
{
	const char *unit = "BKMGT";

	for (; n && unit[1] && n % 1024 == 0; unit++)
		n /= 1024;
	snprintf(buf, WSLX_SIZE_TEXT, "%" PRIu64 "%c", n, *unit);
}

static int parse_port(const char *s, size_t n, uint16_t *ret)
{
	char buf[8];
	const char *end;
	uint64_t v;

	if (n >= sizeof(buf))
		return -EINVAL;
	memcpy(buf, s, n);
	buf[n] = '\0';
	if (parse_u64(buf, &end, &v) < 0 || *end || v < 1 || v > UINT16_MAX)
		return -EINVAL;
	*ret = (uint16_t)v;
	return 0;
}

/* The address in s[0..n), with or without brackets. */
static int parse_host(const char *s, size_t n, char ret[64])
{
	struct in6_addr addr;
	int family = AF_INET;

	if (n >= 2 && s[0] == '[' && s[n - 1] == ']') {
		family = AF_INET6;
		s++;
		n -= 2;
	}
	if (n == 0 || n >= 64)
		return -EINVAL;
	memcpy(ret, s, n);
	ret[n] = '\0';
	return inet_pton(family, ret, &addr) == 1 ? 0 : -EINVAL;
}

int wslx_publish_parse(const char *s, struct wslx_publish *ret, struct wslx_err *err)
{
	struct wslx_publish p = { 0 };
	const char *slash = strrchr(s, '/'), *end = slash ? slash : s + strlen(s), *guest, *host;

	if (slash && !strcmp(slash, "/udp"))
		p.udp = true;
	else if (slash && strcmp(slash, "/tcp") != 0)
		goto bad;
	guest = memrchr(s, ':', (size_t)(end - s));
	if (!guest)
		goto bad;
	host = memrchr(s, ':', (size_t)(guest - s));
	/* The colons of a bracketed address are not ours. */
	if (host && parse_host(s, (size_t)(host - s), p.host_addr) < 0)
		goto bad;
	host = host ? host + 1 : s;
	if (parse_port(guest + 1, (size_t)(end - guest - 1), &p.guest_port) < 0 ||
	    parse_port(host, (size_t)(guest - host), &p.host_port) < 0)
		goto bad;
	*ret = p;
	return 0;
bad:
	return wslx_err_set(err, EINVAL, "'%s' is no port to publish: write [ADDRESS:]HOST-PORT:GUEST-PORT[/udp]", s);
}

void wslx_publish_format(const struct wslx_publish *p, char buf[WSLX_PUBLISH_TEXT])
{
	bool six = strchr(p->host_addr, ':');

	snprintf(buf, WSLX_PUBLISH_TEXT, "%s%s%s%s%u:%u%s", six ? "[" : "", p->host_addr, six ? "]" : "",
		 p->host_addr[0] ? ":" : "", (unsigned)p->host_port, (unsigned)p->guest_port, p->udp ? "/udp" : "");
}

void wslx_net_format(const struct wslx_net_config *net, char buf[WSLX_NET_TEXT])
{
	snprintf(buf, WSLX_NET_TEXT, "%s%s",
		 net->mode == WSLX_NET_NONE    ? "none"
		 : net->mode == WSLX_NET_PASST ? "passt"
					       : "tap:",
		 net->mode == WSLX_NET_TAP ? net->tap : "");
}

static int set_engine(struct wslx_settings *s, const char *v, struct wslx_err *err)
{
	if (wslx_engine_parse(*v ? v : "auto", &s->engine) < 0)
		return wslx_err_set(err, EINVAL, "unknown engine '%s': auto, kvm or tcg", v);
	return 0;
}

static int too_much_memory(const char *text, struct wslx_err *err)
{
	return wslx_err_set(err, EINVAL, "memory of %s is out of range: at most %uG", text,
			    (unsigned)(WSLX_MEMORY_MAX / WSLX_GIB));
}

static int set_memory(struct wslx_settings *s, const char *v, struct wslx_err *err)
{
	bool plain = *v && v[strspn(v, "0123456789")] == '\0';
	uint64_t size = 0;
	int r = *v ? wslx_size_parse(v, &size) : 0;

	if (r < 0 && r != -ERANGE)
		return wslx_err_set(err, EINVAL, "'%s' is no amount of memory: write something like 512M or 2G", v);
	/* What no file can say.  WSLX_MEMORY_MAX is for wslx_settings_check(): a file
	 * that says more must be read to be mended. */
	if (r < 0 || size > INT64_MAX)
		return too_much_memory(v, err);
	if (*v && size < WSLX_MEMORY_MIN)
		return wslx_err_set(
			err, EINVAL,
			"memory of %s%s is too little: at least %uM, or %uM with a kernel that is chosen with --kernel",
			v, plain && size && size < WSLX_MIB ? " bytes (write M for MiB, as in 512M)" : "",
			(unsigned)(WSLX_MEMORY_DEBIAN / WSLX_MIB), (unsigned)(WSLX_MEMORY_MIN / WSLX_MIB));
	s->memory = size;
	return 0;
}

static int set_cpus(struct wslx_settings *s, const char *v, struct wslx_err *err)
{
	const char *end = v;
	uint64_t n = 0;

	if (*v && (parse_u64(v, &end, &n) < 0 || *end || n < 1 || n > WSLX_MAX_CPUS))
		return wslx_err_set(err, EINVAL, "'%s' is no number of processors: 1 to %d", v, WSLX_MAX_CPUS);
	s->cpus = (unsigned)n;
	return 0;
}

static int set_kernel(struct wslx_settings *s, const char *v, struct wslx_err *err)
{
	if (*v && !wslx_name_ok(v))
		return wslx_err_set(err, EINVAL, "'%s' is no name of a kernel", v);
	snprintf(s->kernel, sizeof(s->kernel), "%s", v);
	return 0;
}

static int set_user(struct wslx_settings *s, const char *v, struct wslx_err *err)
{
	bool bad = strlen(v) > WSLX_USER_MAX || v[0] == '-' || strpbrk(v, ":, /\\\"'`$&|;<>()*?[]{}!#%=");

	/* Distributions differ in what they allow; nobody allows these.  A number
	 * is a user too. */
	for (const char *p = v; *p; p++)
		bad |= (unsigned char)*p < ' ' || *p == 0x7f;
	if (bad)
		return wslx_err_set(err, EINVAL, "'%s' is no name of a user", v);
	snprintf(s->user, sizeof(s->user), "%s", v);
	return 0;
}

static int set_net(struct wslx_settings *s, const char *v, struct wslx_err *err)
{
	if (!*v || !strcmp(v, "passt")) {
		s->net.mode = WSLX_NET_PASST;
	} else if (!strcmp(v, "none")) {
		s->net.mode = WSLX_NET_NONE;
	} else if (!strncmp(v, "tap:", 4)) {
		const char *name = v + 4;

		if (!*name || strlen(name) >= IFNAMSIZ || strpbrk(name, "/: \t") || !strcmp(name, ".") ||
		    !strcmp(name, ".."))
			return wslx_err_set(err, EINVAL, "'%s' is no name of a network interface", name);
		s->net.mode = WSLX_NET_TAP;
		snprintf(s->net.tap, sizeof(s->net.tap), "%s", name);
	} else {
		return wslx_err_set(err, EINVAL, "unknown network '%s': passt, none or tap:INTERFACE", v);
	}
	if (s->net.mode != WSLX_NET_TAP)
		s->net.tap[0] = '\0';
	return 0;
}

static bool same_address(const struct wslx_publish *a, const struct wslx_publish *b)
{
	static const char local[] = "127.0.0.1";

	return !strcmp(a->host_addr[0] ? a->host_addr : local, b->host_addr[0] ? b->host_addr : local);
}

static int add_publish(struct wslx_settings *s, const char *v, struct wslx_err *err)
{
	struct wslx_publish p;
	int r;

	if (!*v) {
		s->net.n_publish = 0;
		return 0;
	}
	if (s->net.n_publish == WSLX_MAX_PUBLISH)
		return wslx_err_set(err, E2BIG, "more than %d published ports", WSLX_MAX_PUBLISH);
	r = wslx_publish_parse(v, &p, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < s->net.n_publish; i++) {
		const struct wslx_publish *q = &s->net.publish[i];

		if (q->udp == p.udp && q->host_port == p.host_port && same_address(&p, q))
			return wslx_err_set(err, EINVAL, "port %u is published twice", (unsigned)p.host_port);
	}
	s->net.publish[s->net.n_publish++] = p;
	return 0;
}

static int set_window(struct wslx_settings *s, const char *v, struct wslx_err *err)
{
	uint64_t size = 0;
	int r;

	if (*v && (wslx_size_parse(v, &size) < 0 || !wslx_window_bytes_ok(size)))
		return wslx_err_set(err, EINVAL, "'%s' is no size of a window: a power of two from 64M to 64G", v);
	r = wslx_grants_check_room(s->grants, s->n_grants, size, NULL, NULL, err);
	if (r == 0)
		s->portal_window = size;
	return r;
}

static int add_grant(struct wslx_settings *s, const char *v, struct wslx_err *err)
{
	struct wslx_grant g;
	int r;

	if (!*v) {
		s->n_grants = 0;
		return 0;
	}
	r = wslx_grant_parse(v, &g, err);
	return r < 0 ? r : wslx_grants_add(s->grants, &s->n_grants, s->portal_window, NULL, &g, err);
}

int wslx_settings_set(struct wslx_settings *s, const char *key, const char *value, struct wslx_err *err)
{
	static const struct {
		const char *key;
		int (*set)(struct wslx_settings *s, const char *v, struct wslx_err *err);
	} keys[] = {
		{ "engine", set_engine },   { "memory", set_memory }, { "cpus", set_cpus },
		{ "kernel", set_kernel },   { "user", set_user },     { "net", set_net },
		{ "publish", add_publish }, { "portal", add_grant },  { "portal-window", set_window },
	};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strcmp(key, keys[i].key))
			return keys[i].set(s, value, err);
	return wslx_err_set(
		err, EINVAL,
		"unknown setting '%s': engine, memory, cpus, kernel, user, net, publish, portal, portal-window", key);
}

int wslx_settings_check_fit(const struct wslx_settings *s, struct wslx_err *err)
{
	char text[WSLX_SIZE_TEXT];

	wslx_size_format(s->memory, text);
	if (s->memory > WSLX_MEMORY_MAX)
		return too_much_memory(text, err);
	if (!wslx_memory_fits(s->memory, s->portal_window))
		return wslx_err_set(err, EINVAL,
				    "memory of %s and a window of %uM are too much together: 255G is the most", text,
				    (unsigned)(s->portal_window / WSLX_MIB));
	return 0;
}

int wslx_settings_check(const struct wslx_settings *s, struct wslx_err *err)
{
	char text[WSLX_SIZE_TEXT];

	if (s->net.n_publish && s->net.mode != WSLX_NET_PASST)
		return wslx_err_set(err, EINVAL, "ports can be published on the passt network only");
	if (s->memory && s->memory < WSLX_MEMORY_DEBIAN && !s->kernel[0]) {
		wslx_size_format(s->memory, text);
		return wslx_err_set(err, EINVAL,
				    "memory of %s is too little for Debian's kernels, which need %uM; a kernel that is "
				    "chosen with --kernel may do with less",
				    text, (unsigned)(WSLX_MEMORY_DEBIAN / WSLX_MIB));
	}
	return wslx_settings_check_fit(s, err);
}

uint64_t wslx_settings_memory(const struct wslx_settings *s)
{
	return s->memory ? wslx_align_down(s->memory, MEMORY_STEP) : wslx_default_memory();
}

uint64_t wslx_default_memory(void)
{
	struct sysinfo si;
	uint64_t total = 2 * WSLX_GIB;

	if (sysinfo(&si) == 0)
		total = (uint64_t)si.totalram * si.mem_unit;
	/* Half of the host's as WSL does, but no more than a machine for everyday
	 * work needs: several may run, and a page struct costs 1.6 % of it. */
	total = WSLX_MIN(total / 2, 4 * WSLX_GIB);
	return wslx_align_down(WSLX_MAX(total, 256 * WSLX_MIB), MEMORY_STEP);
}

unsigned wslx_default_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > WSLX_MAX_CPUS ? WSLX_MAX_CPUS : (unsigned)n;
}
