/* One who only asks whether there is a record, and never waits, hears what the others hear. */
#include "support.h"

#include <unistd.h>

struct polling {
	portal *p, *peer;
	portal_listener *l;
	portal_chan *c, *theirs;
	pthread_t t;
	int ready[2];
};

static void *accept_one(void *arg)
{
	struct polling *g = arg;

	return (void *)(intptr_t)portal_accept(g->l, LONG, &g->theirs);
}

/* Its result is what came instead of a record. */
static void *ask(void *arg)
{
	struct polling *g = arg;
	char buf[8];
	size_t n;
	int r;

	assert_int_equal(write(g->ready[1], "", 1), 1);
	do
		r = portal_recv(g->c, NULL, buf, sizeof(buf), &n, 0);
	while (r == -EAGAIN);
	return (void *)(intptr_t)r;
}

static void setup(struct polling *g, struct broker *b)
{
	pthread_t t;
	char byte;
	void *r;

	*g = (struct polling) { 0 };
	broker_start(b, NULL);
	g->p = broker_attach(b, "asks");
	g->peer = broker_attach(b, "mute");
	assert_int_equal(portal_listen(g->peer, "mute", NULL, &g->l), 0);
	assert_int_equal(pthread_create(&t, NULL, accept_one, g), 0);
	assert_int_equal(portal_connect(g->p, "mute", 0, LONG, &g->c), 0);
	pthread_join(t, &r);
	assert_null(r);
	assert_int_equal(pipe(g->ready), 0);
	assert_int_equal(pthread_create(&g->t, NULL, ask, g), 0);
	assert_int_equal(read(g->ready[0], &byte, 1), 1);
}

static void ends_with(struct polling *g, int error)
{
	struct timespec limit;
	void *r = NULL;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += LONG / SEC;
	if (pthread_timedjoin_np(g->t, &r, &limit) != 0)
		fail_msg("still -EAGAIN, and not %s", strerror(-error));
	assert_int_equal((intptr_t)r, error);
	portal_chan_free(g->c);
	portal_chan_free(g->theirs);
	portal_listener_free(g->l);
	portal_detach(g->p);
	portal_detach(g->peer);
	close(g->ready[0]);
	close(g->ready[1]);
}

static void hears_that_it_is_revoked(void **state)
{
	struct portal_info info;
	struct polling g;
	struct broker b;

	setup(&g, &b);
	portal_get_info(g.p, &info);
	(void)!portal_host_revoke(b.h, info.self, 0);
	ends_with(&g, -EACCES);
	broker_end(&b);
}

static void takes_note_and_rests(void **state)
{
	struct portal_info before, after;
	struct portal_quiesce q;
	struct polling g;
	struct broker b;

	setup(&g, &b);
	portal_get_info(g.p, &before);
	assert_int_equal(portal_host_object(b.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_poll(g.peer, 0), 0);
	assert_int_equal(portal_host_seen(b.h, LONG), 0);
	portal_get_info(g.p, &after);
	assert_int_not_equal(before.epoch, after.epoch);
	(void)!portal_host_quiesce(b.h, 0, NULL);
	assert_int_equal(portal_poll(g.peer, 0), -EAGAIN);
	assert_int_equal(portal_host_quiesce(b.h, LONG, &q), 0);
	assert_int_equal(portal_host_resume(b.h), 0);
	assert_int_equal(portal_send(g.theirs, 1, "end", 4, 0), 0);
	ends_with(&g, 0);
	broker_end(&b);
}

static void hears_that_the_host_has_gone(void **state)
{
	struct polling g;
	struct broker b;

	setup(&g, &b);
	broker_end(&b);
	ends_with(&g, -EPIPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hears_that_it_is_revoked),
		cmocka_unit_test(takes_note_and_rests),
		cmocka_unit_test(hears_that_the_host_has_gone),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
