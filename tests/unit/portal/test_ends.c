/* Ends: what the dead leave, and names that are taken back. */
#include "support.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "portal/atomic.h"
#include "portal/internal.h"

static portal *attach_with(struct broker *b, const char *name, uint32_t segments)
{
	struct portal_attach a = { .size = sizeof(a), .path = b->path, .name = name, .segments = segments };
	portal *p = NULL;

	assert_int_equal(portal_attach(&a, &p), 0);
	return p;
}

struct connecting {
	portal *p;
	int64_t timeout;
	portal_chan *c;
};

static void *connects(void *arg)
{
	struct connecting *k = arg;

	return (void *)(intptr_t)portal_connect(k->p, "svc", 0, k->timeout, &k->c);
}

static void connect_to(portal_listener *l, struct connecting *k, portal_chan **ret)
{
	pthread_t t;
	void *r;

	k->timeout = LONG;
	assert_int_equal(pthread_create(&t, NULL, connects, k), 0);
	assert_int_equal(portal_accept(l, LONG, ret), 0);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, 0);
}

/* ---- the dead ---- */

static void await_participants(struct broker *b, unsigned n)
{
	struct portal_host_stat st;

	do {
		sched_yield();
		assert_int_equal(portal_host_stat(b->h, &st), 0);
	} while (st.participants != n);
}

static uint32_t place_of(portal *p, const char *name)
{
	struct portal_object o;

	assert_int_equal(portal_open(p, name, &o), 0);
	return o.handle.segment;
}

/* Its blocks lie where nobody is, and its data may lie where somebody is. */
static void half_of_a_dead_ones_place_is_taken(void **state)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "r", .segments = 6, .name_slots = 8 };
	struct connecting k = { 0 };
	portal_listener *l;
	portal_chan *out;
	portal *writer;
	struct broker b;
	char buf[8];
	size_t n;

	broker_start(&b, &hp);
	k.p = attach_with(&b, "reader", 1);
	writer = attach_with(&b, "writer", 4);
	assert_int_equal(writer->own_off, 2 * PORTAL_SEGMENT_SIZE);
	assert_int_equal(portal_listen(writer, "svc", NULL, &l), 0);
	connect_to(l, &k, &out);
	for (int i = 0; i < 3; i++)
		assert_int_equal(portal_send(out, 1, "x", 1, LONG), 0);
	assert_int_equal(portal_recv(k.c, NULL, buf, sizeof(buf), &n, LONG), 0);
	portal_chan_free(out);
	portal_listener_free(l);
	portal_detach(writer);
	await_participants(&b, 1);
	/* It is read as long as nobody takes the place. */
	assert_int_equal(portal_recv(k.c, NULL, buf, sizeof(buf), &n, LONG), 0);
	/* Somebody has the first half, and is gone before the reader looks; and somebody has the second. */
	assert_int_equal(portal_host_object(b.h, "p", 2, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(place_of(k.p, "p"), 2);
	assert_int_equal(portal_host_unpublish(b.h, "p"), 0);
	assert_int_equal(portal_host_object(b.h, "q", 2, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(place_of(k.p, "q"), 4);
	assert_int_equal(portal_recv(k.c, NULL, buf, sizeof(buf), &n, LONG), -EPIPE);
	portal_chan_free(k.c);
	portal_detach(k.p);
	broker_end(&b);
}

/* ---- names ---- */

static void *frees_listener(void *arg)
{
	portal_listener_free(arg);
	return NULL;
}

/* A name is taken back when the region goes on, though that is later than a request to the host may take. */
static void name_is_taken_back_after_a_quiesce(void **state)
{
	struct portal_quiesce q;
	struct portal_object o;
	struct timespec at;
	portal_listener *l;
	struct broker b;
	pthread_t t;
	portal *p;

	broker_start(&b, NULL);
	p = broker_attach(&b, "server");
	assert_non_null(p);
	assert_int_equal(portal_listen(p, "svc", NULL, &l), 0);
	assert_int_equal(portal_host_quiesce(b.h, 0, &q), -ETIMEDOUT);
	assert_int_equal(pthread_create(&t, NULL, frees_listener, l), 0);
	assert_int_equal(portal_host_quiesce(b.h, LONG, &q), 0);
	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_sec += 6;
	assert_int_equal(pthread_timedjoin_np(t, NULL, &at), ETIMEDOUT);
	assert_int_equal(portal_open(p, "svc", &o), 0);
	assert_int_equal(portal_host_resume(b.h), 0);
	pthread_join(t, NULL);
	assert_int_equal(portal_open(p, "svc", &o), -ENOENT);
	assert_int_equal(portal_listen(p, "svc", NULL, &l), 0);
	portal_listener_free(l);
	portal_detach(p);
	broker_end(&b);
}

/* A service that cannot be found where it was just entered is not left there for nobody. */
static void no_name_without_a_listener(void **state)
{
	struct wslx_portal_names names;
	portal_listener *l;
	struct portal_object o;
	uint32_t *nothing;
	struct broker b;
	portal *p;

	broker_start(&b, NULL);
	p = broker_attach(&b, "server");
	assert_non_null(p);
	names = p->names;
	nothing = calloc(names.index_slots, sizeof(*nothing));
	assert_non_null(nothing);
	p->names.index = nothing;
	assert_int_equal(portal_listen(p, "svc", NULL, &l), -ENOENT);
	p->names = names;
	free(nothing);
	assert_int_equal(portal_open(p, "svc", &o), -ENOENT);
	assert_int_equal(portal_listen(p, "svc", NULL, &l), 0);
	portal_listener_free(l);
	portal_detach(p);
	broker_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(half_of_a_dead_ones_place_is_taken),
		cmocka_unit_test(name_is_taken_back_after_a_quiesce),
		cmocka_unit_test(no_name_without_a_listener),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
