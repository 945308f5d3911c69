/*
 * The errors that are written down: docs/portal.md has a table of what portal_attach() says in a machine, portal.h a
 * list of what all functions say.  Each is provoked here, and neither names one that is not, or lacks one that is.
 */
#include "vm.h"

#include <fcntl.h>
#include <stdbool.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"

#define SHORT (SEC / 100)

static const struct {
	const char *name;
	int code;
} known[] = {
	{ "EAGAIN", EAGAIN },       { "ETIMEDOUT", ETIMEDOUT }, { "EPIPE", EPIPE },   { "EPROTO", EPROTO },
	{ "ESTALE", ESTALE },       { "EFAULT", EFAULT },       { "EACCES", EACCES }, { "ENOENT", ENOENT },
	{ "ECANCELED", ECANCELED }, { "EBUSY", EBUSY },         { "EINVAL", EINVAL }, { "ENOMEM", ENOMEM },
	{ "EEXIST", EEXIST },       { "EMSGSIZE", EMSGSIZE },   { "ENOSPC", ENOSPC }, { "ECONNREFUSED", ECONNREFUSED },
	{ "EMFILE", EMFILE },       { "EUSERS", EUSERS },       { "EDQUOT", EDQUOT },
};

/* Bits of `known`. */
static unsigned provoked;

static unsigned bit_of(int code)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].code == code)
			return 1u << i;
	fail_msg("%s is not among the known ones", strerror(code));
	return 0;
}

static void says(int code, int r)
{
	assert_int_equal(r, -code);
	provoked |= bit_of(code);
}

/* Of the part of a file between two texts: each "-E..." in it. */
static unsigned written(const char *path, const char *from, const char *to)
{
	cleanup_free char *text = NULL;
	const char *p, *end;
	unsigned set = 0;
	size_t n;

	assert_int_equal(wslx_read_file(AT_FDCWD, path, 1 << 20, &text, &n), 0);
	p = strstr(text, from);
	end = p ? strstr(p, to) : NULL;
	if (!end)
		fail_msg("%s: no '%s' with '%s' after it", path, from, to);
	while ((p = strstr(p, "-E")) && p < end) {
		size_t i = 0;

		n = strspn(++p, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");
		while (i < ARRAY_SIZE(known) && (strlen(known[i].name) != n || strncmp(known[i].name, p, n) != 0))
			i++;
		if (i == ARRAY_SIZE(known))
			fail_msg("%s: -%.*s is not provoked", path, (int)n, p);
		set |= 1u << i;
	}
	return set;
}

static void same(unsigned set, const char *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if ((set ^ provoked) >> i & 1)
			fail_msg("%s %s -%s", path, set >> i & 1 ? "names" : "lacks", known[i].name);
}

/* ---- attaching in a machine ---- */

static int attach_as(struct vm *v, const struct wslx_portal_guest_os *os, const char *region)
{
	struct portal_attach a = { .size = sizeof(a), .region = region, .name = "guest", .timeout_ns = SEC / 10 };
	portal *p = NULL;
	int r = wslx_portal_attach_guest(&a, os ? os : &v->os, &p);

	portal_detach(p);
	return r;
}

static int forbidden(void *opaque, unsigned nth)
{
	return nth ? -ENOENT : -EACCES;
}

static int nothing_there(void *opaque, unsigned nth)
{
	return -ENOENT;
}

static bool is_withdrawn(struct vm *v)
{
	return PORTAL_LIFE_STATE(__atomic_load_n(&vm_entry(v)->life, __ATOMIC_SEQ_CST)) == PORTAL_WINDOW_NONE;
}

static void attaching_in_a_machine(void **state)
{
	struct wslx_portal_guest_os os;
	struct broker b;
	struct vm v;
	portal *p;

	provoked = 0;
	broker_start(&b, NULL);
	vm_start(&v, &b, "mine");
	says(ENOENT, attach_as(&v, NULL, "other"));
	os = v.os;
	os.open_window = nothing_there;
	says(ENOENT, attach_as(&v, &os, "mine"));
	os.open_window = forbidden;
	says(EACCES, attach_as(&v, &os, "mine"));
	p = vm_attach(&v);
	assert_non_null(p);
	says(EBUSY, attach_as(&v, NULL, "mine"));
	portal_detach(p);
	vm_withdraw(&v);
	while (!is_withdrawn(&v))
		usleep(1000);
	says(EPIPE, attach_as(&v, NULL, "mine"));
	vm_end(&v);
	broker_end(&b);
	same(written(PORTAL_DOC, "| `portal_attach` says |", "\n\n"), "the table of docs/portal.md");
	same(written(PORTAL_HEADER, "A region by name:", "*/"), "portal.h, at struct portal_attach,");
}

/* ---- all functions ---- */

struct server {
	portal_rpc_server *s;
	bool stop;
};

static void *never_answers(void *arg)
{
	struct server *s = arg;
	struct portal_rpc_request q;

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE))
		(void)!portal_rpc_next(s->s, &q, SHORT);
	return NULL;
}

static void a_call_is_cancelled(struct broker *b, portal *p)
{
	portal *q = broker_attach(b, "server");
	struct portal_bytes none = { 0 }, out;
	struct server s = { 0 };
	char buf[64];
	portal_rpc *c;
	pthread_t t;
	uint64_t id;
	int status;

	assert_int_equal(portal_rpc_serve(q, "calls", &s.s), 0);
	assert_int_equal(pthread_create(&t, NULL, never_answers, &s), 0);
	assert_int_equal(portal_rpc_connect(p, "calls", LONG, &c), 0);
	assert_int_equal(portal_rpc_start(c, 1, &none, LONG, &id), 0);
	assert_int_equal(portal_rpc_cancel(c, id), 0);
	says(ECANCELED, portal_rpc_finish(c, id, buf, sizeof(buf), &out, &status));
	for (unsigned i = 0; i < 128; i++)
		assert_int_equal(portal_rpc_start(c, 1, &none, LONG, &id), 0);
	says(EBUSY, portal_rpc_start(c, 1, &none, LONG, &id));
	portal_rpc_free(c);
	__atomic_store_n(&s.stop, true, __ATOMIC_RELEASE);
	pthread_join(t, NULL);
	portal_rpc_server_free(s.s);
	portal_detach(q);
}

/* The host is a peer, too: a guest finds a participant's number that there cannot be. */
static void the_format_is_broken(struct broker *b)
{
	struct vm v;

	vm_start(&v, b, "mine");
	vm_entry(&v)->participant = PORTAL_MAX_PARTICIPANTS;
	says(EPROTO, attach_as(&v, NULL, "mine"));
	vm_end(&v);
}

struct door {
	portal_listener *l;
	portal_chan *c;
	bool stop;
};

static void *keeps_the_door(void *arg)
{
	struct door *d = arg;
	portal_chan *c;

	while (!__atomic_load_n(&d->stop, __ATOMIC_ACQUIRE))
		if (portal_accept(d->l, SHORT, &c) == 0)
			d->c = c;
	return NULL;
}

/* One channel, which is also in a fan-in as often as there is room. */
static void there_is_no_more_room(struct broker *b, portal *p)
{
	struct portal_listen one = { .size = sizeof(one), .max = 1 };
	portal *q = broker_attach(b, "server");
	struct door d = { 0 };
	portal_chan *c, *more;
	portal_fanin *f;
	pthread_t t;
	char buf[1];
	size_t n;

	assert_int_equal(portal_listen(q, "narrow", &one, &d.l), 0);
	assert_int_equal(pthread_create(&t, NULL, keeps_the_door, &d), 0);
	assert_int_equal(portal_connect(p, "narrow", 0, LONG, &c), 0);
	says(ECONNREFUSED, portal_connect(p, "narrow", 0, LONG, &more));
	__atomic_store_n(&d.stop, true, __ATOMIC_RELEASE);
	pthread_join(t, NULL);
	assert_int_equal(portal_send(d.c, 1, "long", 4, 0), 0);
	says(EMSGSIZE, portal_recv(c, NULL, buf, sizeof(buf), &n, 0));
	assert_int_equal(portal_fanin_new(p, &f), 0);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(portal_fanin_add(f, c), 0);
	says(ENOSPC, portal_fanin_add(f, c));
	portal_fanin_free(f);
	portal_chan_free(c);
	portal_chan_free(d.c);
	portal_listener_free(d.l);
	portal_detach(q);
}

static void nobody_listens(void *opaque, int arena)
{
}

static void there_are_no_more_of_them(struct broker *b)
{
	struct portal_attach a = { .size = sizeof(a), .path = b->path, .segments = 100000 };
	struct portal_host_member m = { .size = sizeof(m), .name = "m", .segments = 1, .notify = nobody_listens };
	char name[16];
	unsigned who;
	portal *p;
	int r;

	says(EDQUOT, portal_attach(&a, &p));
	do
		r = portal_host_add(b->h, &m, &who);
	while (r == 0);
	says(EUSERS, r);
	for (unsigned i = 0; i < PORTAL_MAX_ARENAS && r != -EMFILE; i++) {
		snprintf(name, sizeof(name), "o%u", i);
		r = portal_host_object(b->h, name, 1, PORTAL_NOBODY, 0);
	}
	says(EMFILE, r);
}

static void all_functions(void **state)
{
	struct portal_handle h;
	struct portal_object o;
	portal_listener *l;
	struct broker b;
	const void *at;
	portal_chan *c;
	portal *p;

	provoked = 0;
	broker_start(&b, NULL);
	p = broker_attach(&b, "client");
	assert_int_equal(portal_listen(p, "door", NULL, &l), 0);
	says(EAGAIN, portal_accept(l, 0, &c));
	says(ETIMEDOUT, portal_accept(l, SHORT, &c));
	portal_listener_free(l);
	assert_int_equal(portal_alloc(p, 100, &h, NULL), 0);
	assert_int_equal(portal_free(p, h), 0);
	says(ESTALE, portal_resolve(p, h, 1, &at));
	h.region++;
	says(EFAULT, portal_resolve(p, h, 1, &at));
	assert_int_equal(portal_host_object(b.h, "closed", 1, PORTAL_NOBODY, 0), 0);
	assert_int_equal(portal_open(p, "closed", &o), 0);
	says(EACCES, portal_map(p, &o, &at, NULL));
	says(EINVAL, portal_alloc(p, 0, &h, NULL));
	says(ENOMEM, portal_alloc(p, (size_t)1 << 40, &h, NULL));
	says(ENOENT, portal_open(p, "nothing", &o));
	assert_int_equal(portal_create(p, "mine", 1, NULL, NULL), 0);
	says(EEXIST, portal_create(p, "mine", 1, NULL, NULL));
	a_call_is_cancelled(&b, p);
	there_is_no_more_room(&b, p);
	the_format_is_broken(&b);
	there_are_no_more_of_them(&b);
	broker_end(&b);
	says(EPIPE, portal_poll(p, 0));
	portal_detach(p);
	same(written(PORTAL_HEADER, "negative errno value:", "timeout_ns is relative"), "the list in portal.h");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attaching_in_a_machine),
		cmocka_unit_test(all_functions),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
