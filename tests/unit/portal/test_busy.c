/*
 * While both sides are busy there is no system call: a process in which every system call but its end is fatal
 * exchanges records, byte spans and a fan-in's turns with itself, as two participants.
 */
#include "support.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "portal/internal.h"

#define ROUNDS 20000u
/* Sanitizers make system calls of their own; what they look for is looked for all the same. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define OWN_SYSTEM_CALLS true
#else
#define OWN_SYSTEM_CALLS false
#endif
#ifdef __SANITIZE_THREAD__
#define IN_A_CHILD false /* which may not start threads there */
#else
#define IN_A_CHILD true
#endif

struct ends {
	portal *client, *server;
	portal_chan *records[2], *bytes[2]; /* client's, server's */
	portal_fanin *fanin;                /* of records[1] */
};

static void *connect_both(void *arg)
{
	struct ends *e = arg;
	int r = portal_connect(e->client, "records", 0, LONG, &e->records[0]);

	if (r == 0)
		r = portal_connect(e->client, "bytes", 0, LONG, &e->bytes[0]);
	return (void *)(intptr_t)r;
}

static int meet(struct ends *e, struct broker *b)
{
	struct portal_listen bytes = { .size = sizeof(bytes), .kind = PORTAL_BYTES };
	portal_listener *l[2];
	pthread_t t;
	void *r;

	e->client = broker_attach(b, "client");
	e->server = broker_attach(b, "server");
	if (!e->client || !e->server || portal_listen(e->server, "records", NULL, &l[0]) < 0 ||
	    portal_listen(e->server, "bytes", &bytes, &l[1]) < 0 || pthread_create(&t, NULL, connect_both, e) ||
	    portal_accept(l[0], LONG, &e->records[1]) < 0 || portal_accept(l[1], LONG, &e->bytes[1]) < 0 ||
	    pthread_join(t, &r) || (intptr_t)r < 0 || portal_fanin_new(e->server, &e->fanin) < 0)
		return -1;
	return portal_fanin_add(e->fanin, e->records[1]);
}

static int record_trip(struct ends *e, uint32_t i)
{
	portal_chan *from;
	uint32_t v = i, type;
	size_t n;

	if (portal_send(e->records[0], 7, &v, sizeof(v), LONG) < 0 ||
	    portal_fanin_wait(e->fanin, NULL, LONG, &from) < 0 || from != e->records[1] ||
	    portal_recv(from, &type, &v, sizeof(v), &n, LONG) < 0 || type != 7 || n != sizeof(v) || v != i)
		return -1;
	v = ~i;
	if (portal_send(e->records[1], 8, &v, sizeof(v), LONG) < 0 ||
	    portal_recv(e->records[0], &type, &v, sizeof(v), &n, LONG) < 0)
		return -1;
	if (type != 8 || v != ~i)
		return -1;
	/* Nor is there one to find out that there is nothing. */
	return portal_recv(e->records[0], &type, &v, sizeof(v), &n, 0) == -EAGAIN ? 0 : -1;
}

static int byte_trip(struct ends *e, uint32_t i)
{
	const void *from;
	void *to;
	size_t n;

	if (portal_write_span(e->bytes[0], &to, &n, LONG) < 0 || n < 4)
		return -1;
	memcpy(to, &i, 4);
	if (portal_wrote(e->bytes[0], 4) < 0 || portal_read_span(e->bytes[1], &from, &n, LONG) < 0 || n != 4 ||
	    memcmp(from, &i, 4) != 0)
		return -1;
	return portal_consumed(e->bytes[1], 4);
}

static int forbid_system_calls(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog p = { .len = sizeof(f) / sizeof(f[0]), .filter = f };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) < 0;
}

static int exchange(void *arg)
{
	struct ends e = { 0 };

	if (meet(&e, arg) < 0)
		return 1;
	for (uint32_t i = 0; i < ROUNDS; i++) {
		/* The first time around the rings touches pages. */
		if (i == ROUNDS / 2 && !OWN_SYSTEM_CALLS && forbid_system_calls())
			return 2;
		if (record_trip(&e, i) < 0)
			return 3;
		if (byte_trip(&e, i) < 0)
			return 4;
	}
	return 0;
}

static void no_system_call_while_busy(void **state)
{
	struct broker b;

	broker_start(&b, NULL);
	if (IN_A_CHILD)
		child_wait(child_start(exchange, &b));
	else
		assert_int_equal(exchange(&b), 0);
	broker_end(&b);
}

/* A filter that forbids membarrier(2), as some do. */
static int forbid_membarrier(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { .len = sizeof(f) / sizeof(f[0]), .filter = f };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) < 0;
}

/* The barriers are then where they are needed, and it is not promised to others; the explorer has what they are for. */
static int filtered(void *arg)
{
	struct ends e = { 0 };

	if (forbid_membarrier() || meet(&e, arg) < 0)
		return 1;
	if (!e.client->no_membarrier || !e.server->no_membarrier || e.records[0]->tx.tx->flags & PORTAL_FENCED)
		return 2;
	for (uint32_t i = 0; i < ROUNDS; i++)
		if (record_trip(&e, i) < 0)
			return 3;
	return 0;
}

static void without_membarrier(void **state)
{
	portal *p;
	struct broker b;

	broker_start(&b, NULL);
	if (IN_A_CHILD)
		child_wait(child_start(filtered, &b));
	p = broker_attach(&b, "free");
	assert_non_null(p);
	assert_false(p->no_membarrier);
	portal_detach(p);
	broker_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_membarrier),
		cmocka_unit_test(no_system_call_while_busy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
