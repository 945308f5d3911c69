/* The broker and a guest's VMM: who is waited for, and what is not lost. */
#include "support.h"

#include <poll.h>
#include <stdbool.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "portal/wire.h"

struct vmm {
	int sock;
	unsigned participant;
	uint32_t epoch; /* of the last DONE */
	uint32_t news;  /* of the last EVENT */
};

/* One message; false: none came within ms. */
static bool hear(struct vmm *v, struct wslx_portal_msg *m, int ms)
{
	struct pollfd p = { .fd = v->sock, .events = POLLIN };
	cleanup_close int fd = -1;
	size_t n = 1;

	if (poll(&p, 1, ms) != 1)
		return false;
	assert_int_equal(wslx_recv_fds(v->sock, m, sizeof(*m), &fd, &n, 0), sizeof(*m));
	if (!n)
		fd = -1;
	if (m->op == PORTAL_OP_EVENT)
		v->news = m->epoch;
	return true;
}

static void hear_answer(struct vmm *v)
{
	struct wslx_portal_msg m;

	do
		assert_true(hear(v, &m, 20000));
	while (m.op != PORTAL_OP_DONE);
	v->epoch = m.epoch;
}

static void say(struct vmm *v, struct wslx_portal_msg m)
{
	assert_int_equal(send(v->sock, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
}

static void join(struct vmm *v, struct broker *b)
{
	struct wslx_portal_msg m;

	*v = (struct vmm) { .sock = wslx_unix_connect(b->path, SOCK_SEQPACKET | SOCK_CLOEXEC) };
	assert_true(v->sock >= 0);
	say(v, (struct wslx_portal_msg) { .op = PORTAL_OP_HELLO,
					  .version = PORTAL_VERSION,
					  .kind = PORTAL_KIND_GUEST,
					  .id = 3,
					  .segments = 2,
					  .name = "guest" });
	assert_true(hear(v, &m, 20000));
	assert_int_equal(m.op, PORTAL_OP_WELCOME);
	assert_int_equal(m.status, 0);
	v->participant = m.index;
	hear_answer(v);
}

static void synced(struct vmm *v)
{
	say(v, (struct wslx_portal_msg) { .op = PORTAL_OP_SYNCED, .epoch = v->epoch });
}

static void sync_now(struct vmm *v)
{
	say(v, (struct wslx_portal_msg) { .op = PORTAL_OP_SYNC });
	hear_answer(v);
}

/* The guest itself never says a word: its control area stays as it was made. */
static void vmm_is_waited_for(void **state)
{
	struct broker b;
	struct vmm v;

	broker_start(&b, NULL);
	join(&v, &b);
	synced(&v);
	assert_int_equal(portal_host_revoke(b.h, v.participant, SEC / 10), -ETIMEDOUT);
	sync_now(&v);
	/* It is known to have been told, but not to have done anything. */
	assert_int_equal(portal_host_object(b.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_host_grant(b.h, "thing", v.participant, PORTAL_NONE, SEC / 10), -ENOENT);
	synced(&v);
	close(v.sock);
	broker_end(&b);
}

static void *revoke_first(void *arg)
{
	struct broker *b = arg;

	return (void *)(intptr_t)portal_host_revoke(b->h, 1, LONG);
}

static void synced_ends_the_wait(void **state)
{
	struct wslx_portal_msg m;
	struct broker b;
	struct vmm v;
	pthread_t t;
	void *r;

	broker_start(&b, NULL);
	join(&v, &b);
	assert_int_equal(v.participant, 1);
	synced(&v);
	assert_int_equal(pthread_create(&t, NULL, revoke_first, &b), 0);
	while (v.news == v.epoch || !v.news)
		assert_true(hear(&v, &m, 20000));
	sync_now(&v);
	synced(&v);
	pthread_join(t, &r);
	assert_int_equal((int)(intptr_t)r, 0);
	close(v.sock);
	broker_end(&b);
}

/* A VMM that promises what it cannot have, and a process that speaks like one. */
static void synced_must_be_true(void **state)
{
	struct wslx_portal_msg m;
	struct broker b;
	struct vmm v;
	char c;

	broker_start(&b, NULL);
	for (uint32_t ahead = 1; ahead < 4; ahead++) {
		join(&v, &b);
		say(&v, (struct wslx_portal_msg) { .op = PORTAL_OP_SYNCED, .epoch = v.epoch + ahead });
		while (recv(v.sock, &m, sizeof(m), 0) > 0)
			;
		assert_true(recv(v.sock, &c, 1, 0) <= 0);
		close(v.sock);
	}
	broker_end(&b);
}

/* However full its socket: the last it hears of is the newest. */
static void last_event_arrives(void **state)
{
	struct portal_host_stat st;
	struct wslx_portal_msg m;
	struct broker b;
	struct vmm v;

	broker_start(&b, NULL);
	join(&v, &b);
	for (int i = 0; i < 3000; i++)
		assert_int_equal(portal_host_kick(b.h, v.participant, v.participant), 0);
	assert_int_equal(portal_host_object(b.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_host_stat(b.h, &st), 0);
	while (v.news != st.epoch)
		assert_true(hear(&v, &m, 20000));
	close(v.sock);
	broker_end(&b);
}

/* The messages ARENA of an answer. */
static unsigned count_arenas(struct vmm *v, uint32_t flags, uint32_t index)
{
	struct wslx_portal_msg m;
	unsigned n = 0;

	say(v, (struct wslx_portal_msg) { .op = PORTAL_OP_SYNC, .flags = flags, .index = index });
	do {
		assert_true(hear(v, &m, 20000));
		n += m.op == PORTAL_OP_ARENA;
	} while (m.op != PORTAL_OP_DONE);
	return n;
}

/* What it had no room for it may ask for again; what there is nothing of stays nothing. */
static void arena_once_more(void **state)
{
	struct wslx_portal_msg m;
	struct broker b;
	struct vmm v;

	broker_start(&b, NULL);
	join(&v, &b);
	assert_int_equal(count_arenas(&v, 0, 0), 0);
	assert_int_equal(count_arenas(&v, PORTAL_SYNC_AGAIN, 0), 1);
	assert_int_equal(count_arenas(&v, PORTAL_SYNC_AGAIN, 0), 1);
	assert_int_equal(count_arenas(&v, PORTAL_SYNC_AGAIN, PORTAL_MAX_ARENAS - 1), 0);
	say(&v,
	    (struct wslx_portal_msg) { .op = PORTAL_OP_SYNC, .flags = PORTAL_SYNC_AGAIN, .index = PORTAL_MAX_ARENAS });
	assert_true(recv(v.sock, &m, sizeof(m), 0) <= 0);
	close(v.sock);
	broker_end(&b);
}

/* Says one last thing and is gone; the next participant is there before anybody looks. */
static int last_words(void *arg)
{
	portal *p = broker_attach(arg, "talker");
	portal_chan *c;

	if (!p || portal_connect(p, "svc", 1024, LONG, &c) < 0 || portal_send(c, 7, "bye", 4, LONG) < 0)
		return 1;
	return 0;
}

static void last_words_are_heard(void **state)
{
	struct portal_host_stat st;
	portal_listener *l;
	struct broker b;
	portal_chan *c;
	portal *p, *q;
	char buf[16];
	uint32_t type;
	size_t n;
	int pid;

	broker_start(&b, NULL);
	p = broker_attach(&b, "listener");
	assert_int_equal(portal_listen(p, "svc", NULL, &l), 0);
	pid = child_start(last_words, &b);
	assert_int_equal(portal_accept(l, LONG, &c), 0);
	child_wait(pid);
	do
		assert_int_equal(portal_host_stat(b.h, &st), 0);
	while (st.participants > 1);
	/* As a machine does, whose next program is a new participant at once. */
	q = broker_attach(&b, "next");
	assert_non_null(q);
	assert_int_equal(portal_poll(p, 0), 0);
	assert_int_equal(portal_recv(c, &type, buf, sizeof(buf), &n, LONG), 0);
	assert_string_equal(buf, "bye");
	assert_int_equal(portal_recv(c, &type, buf, sizeof(buf), &n, LONG), -EPIPE);
	portal_detach(q);
	portal_chan_free(c);
	portal_listener_free(l);
	portal_detach(p);
	broker_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vmm_is_waited_for),    cmocka_unit_test(synced_ends_the_wait),
		cmocka_unit_test(synced_must_be_true),  cmocka_unit_test(last_event_arrives),
		cmocka_unit_test(last_words_are_heard), cmocka_unit_test(arena_once_more),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
