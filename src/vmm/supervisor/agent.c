#include "vmm/supervisor/agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/open.h"
#include "vmm/supervisor/passt.h"

#define RESOLV_MAX 65536
#define SEED_LEN 256

enum step { STEP_HELLO, STEP_CONFIG, STEP_DISTROS, STEP_READY };

struct distro_state {
	struct wslx_agent_setup *setup;
	size_t index;
	bool done, started;
};

struct wslx_agent_setup {
	struct wslx_agent_setup_params p;
	struct wslx_agentc *conn;
	bool connected; /* ever */
	bool over;      /* failed or lost was reported */
	enum step step;
	struct wslx_timer *timer;
	struct distro_state distros[WSLX_MAX_DISTROS];
	size_t n_done;
};

/* ---- what the guest is told ----------------------------------------------- */

static void add_search(struct wslx_agent_config *m, const char *word)
{
	if (m->n_search < WSLX_AGENT_MAX_SEARCH && strlen(word) < sizeof(m->search[0]))
		strcpy(m->search[m->n_search++], word);
}

/* A resolver on the host's loopback is of no use to a guest. */
static void add_server(struct wslx_agent_config *m, const char *word)
{
	unsigned char a[16];
	bool v4 = inet_pton(AF_INET, word, a) == 1;

	if (!v4 && inet_pton(AF_INET6, word, a) != 1)
		return;
	if ((v4 && a[0] == 127) || !strcmp(word, "::1"))
		return;
	if (m->n_dns < WSLX_AGENT_MAX_DNS && strlen(word) < sizeof(m->dns[0]))
		strcpy(m->dns[m->n_dns++], word);
}

void wslx_resolv_parse(const char *text, bool want_servers, struct wslx_agent_config *m)
{
	cleanup_free char *copy = strdup(text);
	char *line, *lines = NULL;

	if (!copy)
		return;
	for (line = strtok_r(copy, "\n", &lines); line; line = strtok_r(NULL, "\n", &lines)) {
		char *words = NULL, *key, *w;

		key = strtok_r(line, " \t\r", &words);
		if (!key || key[0] == '#' || key[0] == ';')
			continue;
		if (!strcmp(key, "search") || !strcmp(key, "domain")) {
			m->n_search = 0; /* the last line counts */
			while ((w = strtok_r(NULL, " \t\r", &words)))
				add_search(m, w);
		} else if (want_servers && !strcmp(key, "nameserver")) {
			w = strtok_r(NULL, " \t\r", &words);
			if (w)
				add_server(m, w);
		}
	}
}

static uint64_t realtime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void fill_net(const struct wslx_vm_config *c, struct wslx_agent_config *m)
{
	cleanup_free char *resolv = NULL;
	bool passt = c->net.mode == WSLX_NET_PASST;

	if (c->net.mode == WSLX_NET_NONE)
		return;
	wslx_machine_mac(c, m->mac);
	m->has_mac = true;
	if (wslx_read_file(AT_FDCWD, "/etc/resolv.conf", RESOLV_MAX, &resolv, NULL) == 0)
		wslx_resolv_parse(resolv, !passt, m);
	m->ipv6_ra = true;
	if (!passt)
		return; /* a bridge's addresses are its administrator's business */
	m->has_ipv4 = true;
	inet_pton(AF_INET, WSLX_PASST_ADDRESS, m->ipv4);
	inet_pton(AF_INET, WSLX_PASST_GATEWAY, m->ipv4_gateway);
	m->ipv4_prefix = WSLX_PASST_PREFIX;
	m->mtu = WSLX_PASST_MTU;
	strcpy(m->dns[0], WSLX_PASST_DNS);
	m->n_dns = 1;
}

/* ---- steps -------------------------------------------------------------------- */

static void fail(struct wslx_agent_setup *s, const char *text)
{
	if (s->over)
		return;
	s->over = true;
	wslx_timer_disarm(s->timer);
	s->p.events->failed(s->p.opaque, text);
}

static void on_timeout(struct wslx_timer *t, void *opaque)
{
	struct wslx_agent_setup *s = opaque;
	char text[256];

	if (s->step == STEP_HELLO && !s->connected)
		snprintf(text, sizeof(text), "time-out: the guest's agent did not connect within %u ms",
			 s->p.hello_timeout_ms);
	else if (s->step == STEP_HELLO)
		snprintf(text, sizeof(text), "time-out: the guest's agent connected but said no HELLO within %u ms",
			 s->p.hello_timeout_ms);
	else
		snprintf(text, sizeof(text), "time-out: the guest's agent did not answer %s within %u ms",
			 s->step == STEP_CONFIG ? "CONFIG" : "DISTRO_START", s->p.step_timeout_ms);
	fail(s, text);
}

static void finish_if_done(struct wslx_agent_setup *s)
{
	if (s->over || s->n_done < s->p.config->n_distros)
		return;
	s->step = STEP_READY;
	wslx_timer_disarm(s->timer);
	s->p.events->ready(s->p.opaque);
}

static void on_distro(void *opaque, const struct wslx_agentc_reply *r)
{
	struct distro_state *d = opaque;
	struct wslx_agent_setup *s = d->setup;
	const char *name = s->p.config->distros[d->index].name;
	char text[1024];

	if (s->over || r->code == -ECONNRESET)
		return; /* closed() says it */
	if (r->code < 0) {
		snprintf(text, sizeof(text), "cannot set up distro %s: %s", name,
			 r->text[0] ? r->text : strerror(-r->code));
		fail(s, text);
		return;
	}
	d->started = true;
	for (size_t i = 0; r->started && i < r->started->n_warnings; i++) {
		snprintf(text, sizeof(text), "%s: %s", name, r->started->warnings[i]);
		s->p.events->warning(s->p.opaque, text);
	}
	if (!d->done) {
		d->done = true;
		s->n_done++;
	}
	finish_if_done(s);
}

void wslx_agent_setup_distro_message(const struct wslx_distro_config *c, struct wslx_agent_distro *m)
{
	*m = (struct wslx_agent_distro) { .readonly = c->readonly };
	snprintf(m->name, sizeof(m->name), "%s", c->name);
	snprintf(m->serial, sizeof(m->serial), "%s", c->serial);
	snprintf(m->fstype, sizeof(m->fstype), "%s", c->fstype && c->fstype[0] ? c->fstype : "ext4");
	snprintf(m->hostname, sizeof(m->hostname), "%s", c->hostname ? c->hostname : "");
}

static int start_distro(struct wslx_agent_setup *s, size_t i)
{
	struct wslx_agent_distro m;

	wslx_agent_setup_distro_message(&s->p.config->distros[i], &m);
	s->distros[i] = (struct distro_state) { .setup = s, .index = i };
	return wslx_agentc_distro_start(s->conn, &m, on_distro, &s->distros[i]);
}

static void start_distros(struct wslx_agent_setup *s)
{
	int r = 0;

	s->step = STEP_DISTROS;
	wslx_timer_arm(s->timer, s->p.step_timeout_ms);
	s->p.events->progress(s->p.opaque, "setting up the distro");
	for (size_t i = 0; r == 0 && i < s->p.config->n_distros; i++)
		r = start_distro(s, i);
	if (r < 0)
		fail(s, strerror(-r));
	else
		finish_if_done(s);
}

static void on_config(void *opaque, const struct wslx_agentc_reply *r)
{
	struct wslx_agent_setup *s = opaque;

	if (s->over || r->code == -ECONNRESET)
		return;
	/* What could not be applied is named; the rest was.  A machine without,
	 * say, a network driver is still worth having. */
	if (r->code < 0) {
		char text[1100];

		snprintf(text, sizeof(text), "the guest could not apply a setting: %s",
			 r->text[0] ? r->text : strerror(-r->code));
		s->p.events->warning(s->p.opaque, text);
	}
	start_distros(s);
}

static int send_config(struct wslx_agent_setup *s)
{
	const struct wslx_vm_config *c = s->p.config;
	struct wslx_agent_config *m = calloc(1, sizeof(*m));
	ssize_t n;
	int r;

	if (!m)
		return -ENOMEM;
	wslx_hostname_from(c->name, m->hostname);
	n = getrandom(m->seed, SEED_LEN, 0);
	m->seed_len = n > 0 ? (size_t)n : 0;
	snprintf(m->modules_serial, sizeof(m->modules_serial), "%s", c->modules_serial ? c->modules_serial : "");
	fill_net(c, m);
	m->time_ns = realtime_ns();
	r = wslx_agentc_config(s->conn, m, on_config, s);
	explicit_bzero(m->seed, sizeof(m->seed));
	free(m);
	return r;
}

static void on_ready(void *opaque, const struct wslx_agent_hello *agent)
{
	struct wslx_agent_setup *s = opaque;
	int r;

	s->p.events->hello(s->p.opaque, agent);
	s->step = STEP_CONFIG;
	wslx_timer_arm(s->timer, s->p.step_timeout_ms);
	r = send_config(s);
	if (r < 0)
		fail(s, strerror(-r));
}

static void on_closed(void *opaque, const struct wslx_err *err)
{
	struct wslx_agent_setup *s = opaque;
	char text[1200];

	if (s->over)
		return;
	wslx_timer_disarm(s->timer);
	snprintf(text, sizeof(text), "the connection to the guest's agent %s%s", err->code ? "broke: " : "was closed",
		 err->code ? err->msg : "");
	if (s->step != STEP_READY) {
		fail(s, text);
		return;
	}
	s->over = true;
	s->p.events->lost(s->p.opaque, text);
}

static void on_event(void *opaque, const struct wslx_agent_event *ev)
{
	struct wslx_agent_setup *s = opaque;

	if (ev->kind == WSLX_AGENT_EV_DISTRO_DIED)
		wslx_agent_setup_distro_mark(s, ev->distro, false);
	s->p.events->event(s->p.opaque, ev);
}

/* ---- interface --------------------------------------------------------------------- */

int wslx_agent_setup_new(const struct wslx_agent_setup_params *p, struct wslx_agent_setup **ret)
{
	struct wslx_agent_setup *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->p = *p;
	r = wslx_loop_timer(p->loop, on_timeout, s, &s->timer);
	if (r < 0) {
		free(s);
		return r;
	}
	wslx_timer_arm(s->timer, p->hello_timeout_ms);
	*ret = s;
	return 0;
}

int wslx_agent_setup_connected(struct wslx_agent_setup *s, int fd_)
{
	static const struct wslx_agentc_events events = { .ready = on_ready, .closed = on_closed, .event = on_event };
	cleanup_close int fd = fd_;
	int r;

	if (s->connected)
		return -EBUSY;
	s->connected = true;
	r = wslx_agentc_new(s->p.loop, fd, &events, s, &s->conn);
	if (r == 0)
		(void)TAKE_FD(fd);
	return r;
}

bool wslx_agent_setup_has_connected(const struct wslx_agent_setup *s)
{
	return s->connected;
}

struct wslx_agentc *wslx_agent_setup_conn(struct wslx_agent_setup *s)
{
	return !s->over && s->conn && wslx_agentc_is_ready(s->conn) ? s->conn : NULL;
}

static void ignore_reply(void *opaque, const struct wslx_agentc_reply *r)
{
	if (r->code < 0)
		log_debug("the guest's %s: %s", (const char *)opaque, strerror(-r->code));
}

static int send_small_config(struct wslx_agent_setup *s, uint64_t time_ns, bool greet, const char *what)
{
	cleanup_free struct wslx_agent_config *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	if (!wslx_agent_setup_conn(s))
		return -ENOTCONN;
	m->time_ns = time_ns;
	m->greet = greet;
	return wslx_agentc_config(s->conn, m, ignore_reply, (void *)what);
}

int wslx_agent_setup_set_time(struct wslx_agent_setup *s)
{
	return send_small_config(s, realtime_ns(), false, "clock");
}

int wslx_agent_setup_greet(struct wslx_agent_setup *s)
{
	return send_small_config(s, 0, true, "network");
}

static int find_distro(const struct wslx_agent_setup *s, const char *name)
{
	for (size_t i = 0; i < s->p.config->n_distros; i++)
		if (!strcmp(s->p.config->distros[i].name, name))
			return (int)i;
	return -1;
}

int wslx_agent_setup_distro(const struct wslx_agent_setup *s, const char *name)
{
	int i = find_distro(s, name);

	return i < 0 ? -1 : s->distros[i].started;
}

void wslx_agent_setup_distro_mark(struct wslx_agent_setup *s, const char *name, bool started)
{
	int i = find_distro(s, name);

	if (i >= 0)
		s->distros[i].started = started;
}

void wslx_agent_setup_free(struct wslx_agent_setup *s)
{
	if (!s)
		return;
	s->over = true;
	wslx_agentc_abort(s->conn); /* clients wait for answers to requests of theirs */
	wslx_timer_free(s->timer);
	free(s);
}
