/* Calls of portal.h that have no test of another thing: what each promises. */
#include "pair.h"

#include <sys/socket.h>
#include <unistd.h>

static void handed_over_socket(void **state)
{
	struct portal_attach a = { .size = sizeof(a), .name = "by-socket" };
	struct portal_info info;
	struct broker b;
	int pair[2];
	portal *p;

	broker_start(&b, NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(portal_host_serve(b.h, pair[0]), 0);
	a.sock = pair[1];
	assert_int_equal(portal_attach(&a, &p), 0);
	portal_get_info(p, &info);
	assert_int_equal(info.self, 1);
	assert_int_equal(portal_create(p, "thing", 8, NULL, NULL), 0);
	portal_detach(p);
	/* Who says nothing is let go. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(portal_host_serve(b.h, pair[0]), 0);
	assert_int_equal(read(pair[1], &info, sizeof(info)), 0);
	close(pair[1]);
	broker_end(&b);
}

static void own_memory(void **state)
{
	struct portal_handle mine, other;
	struct portal_object o;
	struct pair p;
	void *at, *again;

	pair_start(&p, PORTAL_RECORDS, 0);
	assert_int_equal(portal_alloc(p.client, 100, &mine, &at), 0);
	assert_int_equal(portal_alloc(p.server, 100, &other, NULL), 0);
	assert_int_equal(portal_resolve_own(p.client, mine, 100, &again), 0);
	assert_ptr_equal(at, again);
	assert_int_equal(portal_resolve_own(p.client, mine, 129, &again), -EFAULT);
	assert_int_equal(portal_resolve_own(p.client, other, 100, &again), -EFAULT);
	assert_int_equal(portal_publish(p.client, "mine", other, 100, 0), -EFAULT);
	assert_int_equal(portal_publish(p.client, "mine", mine, 129, 0), -EFAULT);
	assert_int_equal(portal_publish(p.client, "mine", mine, 90, 77), 0);
	assert_int_equal(portal_publish(p.client, "mine", mine, 90, 77), -EEXIST);
	assert_int_equal(portal_open(p.server, "mine", &o), 0);
	assert_int_equal(o.kind, PORTAL_OBJECT);
	assert_int_equal(o.owner, portal_chan_peer(p.rx));
	assert_int_equal(o.size, 90);
	assert_int_equal(o.tag, 77);
	assert_memory_equal(&o.handle, &mine, sizeof(mine));
	assert_int_equal(portal_free(p.client, mine), 0);
	assert_int_equal(portal_resolve_own(p.client, mine, 100, &again), -ESTALE);
	assert_int_equal(portal_publish(p.client, "again", mine, 90, 0), -ESTALE);
	pair_end(&p);
}

static void peers(void **state)
{
	struct portal_info info;
	struct pair p;

	pair_start(&p, PORTAL_RECORDS, 0);
	portal_get_info(p.client, &info);
	assert_int_equal(portal_chan_peer(p.rx), info.self);
	portal_get_info(p.server, &info);
	assert_int_equal(portal_chan_peer(p.tx), info.self);
	pair_end(&p);
}

/* The host tells the same names as a participant is told. */
static void names_for_the_host(void **state)
{
	uint32_t cursor = 0, other = 0;
	struct portal_object o, q;
	struct pair p;
	unsigned n = 0;

	pair_start(&p, PORTAL_RECORDS, 0);
	assert_int_equal(portal_create(p.client, "one", 10, NULL, NULL), 0);
	assert_int_equal(portal_create(p.server, "two", 20, NULL, NULL), 0);
	assert_int_equal(portal_host_object(p.b.h, "three", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_unpublish(p.client, "one"), 0);
	for (; portal_host_next_name(p.b.h, &cursor, &o) == 0; n++) {
		assert_int_equal(portal_next(p.server, &other, &q), 0);
		assert_memory_equal(&o, &q, sizeof(o));
	}
	assert_int_equal(n, 3); /* svc, two, three */
	assert_int_equal(portal_host_next_name(p.b.h, &cursor, &o), -ENOENT);
	assert_int_equal(portal_next(p.server, &other, &q), -ENOENT);
	pair_end(&p);
}

static void *poll_once(void *arg)
{
	return (void *)(intptr_t)portal_poll(arg, LONG);
}

static void who_is_at_rest(void **state)
{
	struct portal_quiesce q;
	pthread_t t[2];
	struct pair p;
	void *r;

	pair_start(&p, PORTAL_RECORDS, 0);
	assert_int_equal(portal_host_rest(p.b.h, &q), -EINVAL);
	assert_int_equal(portal_host_resume(p.b.h), -EINVAL);
	assert_int_equal(portal_host_quiesce(p.b.h, 1, NULL), -ETIMEDOUT);
	assert_int_equal(portal_host_rest(p.b.h, &q), -EAGAIN);
	assert_int_equal(q.arrived, 0);
	assert_int_equal(q.late, 6);
	assert_int_equal(portal_poll(p.client, 0), -EAGAIN);
	assert_int_equal(portal_host_rest(p.b.h, &q), -EAGAIN);
	assert_int_equal(q.arrived, 2);
	assert_int_equal(q.late, 4);
	assert_int_equal(pthread_create(&t[0], NULL, poll_once, p.client), 0);
	assert_int_equal(pthread_create(&t[1], NULL, poll_once, p.server), 0);
	assert_int_equal(portal_host_quiesce(p.b.h, LONG, &q), 0);
	assert_int_equal(q.arrived, 6);
	assert_int_equal(portal_host_rest(p.b.h, &q), 0);
	assert_int_equal(q.arrived, 6);
	assert_int_equal(portal_host_resume(p.b.h), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(pthread_join(t[i], &r), 0);
		assert_int_equal((intptr_t)r, 0);
	}
	pair_end(&p);
}

static void taken_out_of_a_fanin(void **state)
{
	portal_chan *c = NULL;
	portal_fanin *f;
	struct pair p;

	pair_start(&p, PORTAL_RECORDS, 0);
	assert_int_equal(portal_fanin_new(p.server, &f), 0);
	assert_int_equal(portal_fanin_add(f, p.rx), 0);
	assert_int_equal(portal_fanin_wait(f, NULL, 0, &c), -EAGAIN);
	assert_int_equal(portal_send(p.tx, 1, "x", 1, LONG), 0);
	assert_int_equal(portal_fanin_wait(f, NULL, LONG, &c), 0);
	assert_ptr_equal(c, p.rx);
	portal_fanin_remove(f, p.rx);
	assert_int_equal(portal_fanin_wait(f, NULL, 0, &c), -EAGAIN);
	portal_fanin_remove(f, p.rx);
	/* As many as it takes, and no more. */
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(portal_fanin_add(f, p.rx), 0);
	assert_int_equal(portal_fanin_add(f, p.rx), -ENOSPC);
	portal_fanin_free(f);
	pair_end(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(handed_over_socket),
		cmocka_unit_test(own_memory),
		cmocka_unit_test(peers),
		cmocka_unit_test(names_for_the_host),
		cmocka_unit_test(who_is_at_rest),
		cmocka_unit_test(taken_out_of_a_fanin),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
