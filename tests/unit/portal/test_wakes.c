/*
 * What waking costs: one FUTEX_WAKE for a peer that sleeps, or one message where futexes do not reach, and nothing for
 * a peer that is awake.
 *
 * The linker puts the functions below between libportal and the C library (--wrap).  They count the calls of the thread
 * that wakes, tell when the other has gone to sleep, and take away the time limit of its sleep, so that nothing but a
 * wake-up ends it.
 */
#include "vm.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "portal/internal.h"

#ifndef __NR_futex_waitv
#define __NR_futex_waitv 449
#endif
#define BATCH 32
#define TRIPS 200

struct calls {
	int all, wakes, woken, messages;
};

static struct broker b;
static _Thread_local struct calls *counted; /* of the thread that wakes */
static _Thread_local _Atomic int *sleeps;   /* of the one that sleeps: its number while it is at it */

long __real_syscall(long nr, long a1, long a2, long a3, long a4, long a5, long a6);
ssize_t __real_send(int fd, const void *buf, size_t n, int flags);
int __real_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask);
long __wrap_syscall(long nr, long a1, long a2, long a3, long a4, long a5, long a6);
ssize_t __wrap_send(int fd, const void *buf, size_t n, int flags);
int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask);

long __wrap_syscall(long nr, long a1, long a2, long a3, long a4, long a5, long a6)
{
	bool wait = nr == __NR_futex_waitv || (nr == SYS_futex && (int)a2 == FUTEX_WAIT);
	bool wake = nr == SYS_futex && (int)a2 == FUTEX_WAKE;
	long r;

	if (wait && sleeps) {
		*sleeps = gettid();
		a4 = 0; /* the time limit, of both */
	}
	r = __real_syscall(nr, a1, a2, a3, a4, a5, a6);
	if (wait && sleeps)
		*sleeps = 0;
	if (counted) {
		counted->all++;
		counted->wakes += wake;
		counted->woken += wake ? (int)r : 0;
	}
	return r;
}

ssize_t __wrap_send(int fd, const void *buf, size_t n, int flags)
{
	if (counted) {
		counted->all++;
		counted->messages++;
	}
	return __real_send(fd, buf, n, flags);
}

int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask)
{
	int r;

	if (!sleeps)
		return __real_ppoll(fds, n, ts, mask);
	*sleeps = gettid();
	r = __real_ppoll(fds, n, NULL, mask);
	*sleeps = 0;
	return r;
}

/* ---- two that met ---- */

struct pair {
	portal *a, *b;
	portal_listener *l; /* b's */
	portal_chan *at_a, *at_b;
};

static void *connect_a(void *arg)
{
	struct pair *e = arg;

	return (void *)(intptr_t)portal_connect(e->a, "wakes", 1024, LONG, &e->at_a);
}

static void meet(struct pair *e, uint32_t kind)
{
	struct portal_listen q = { .size = sizeof(q), .kind = kind, .tx_capacity = 1024 };
	pthread_t t;
	void *r;

	assert_non_null(e->a);
	assert_non_null(e->b);
	assert_int_equal(portal_listen(e->b, "wakes", &q, &e->l), 0);
	assert_int_equal(pthread_create(&t, NULL, connect_a, e), 0);
	assert_int_equal(portal_accept(e->l, LONG, &e->at_b), 0);
	assert_int_equal(pthread_join(t, &r), 0);
	assert_int_equal((intptr_t)r, 0);
}

/* What the broker has to tell the two, such as that they met, must not end a sleep: it says nothing any more. */
static struct pair meet_here(uint32_t kind)
{
	struct pair e = { .a = broker_attach(&b, "a"), .b = broker_attach(&b, "b") };

	meet(&e, kind);
	broker_stop(&b);
	return e;
}

static void part(struct pair *e)
{
	broker_go_on(&b);
	portal_chan_free(e->at_a);
	portal_chan_free(e->at_b);
	portal_listener_free(e->l);
	portal_detach(e->a);
	portal_detach(e->b);
}

/* ---- one that sleeps ---- */

struct sleeper {
	pthread_t thread;
	struct pair *e;
	int (*fn)(struct pair *e);
	_Atomic int asleep;
};

static void *sleeper_main(void *arg)
{
	struct sleeper *s = arg;

	sleeps = &s->asleep;
	return (void *)(intptr_t)s->fn(s->e);
}

/* Does the kernel say so, too? */
static bool is_asleep(int tid)
{
	char path[64], line[256] = "";
	const char *end;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "re");
	assert_non_null(f);
	assert_non_null(fgets(line, sizeof(line), f));
	fclose(f);
	end = strrchr(line, ')');
	return end && end[1] == ' ' && end[2] == 'S';
}

static void sleeper_start(struct sleeper *s, struct pair *e, int (*fn)(struct pair *e))
{
	int tid;

	*s = (struct sleeper) { .e = e, .fn = fn };
	assert_int_equal(pthread_create(&s->thread, NULL, sleeper_main, s), 0);
	do
		tid = s->asleep;
	while (!tid || !is_asleep(tid) || s->asleep != tid);
}

static struct calls count(struct sleeper *s, int (*fn)(struct pair *e))
{
	struct calls c = { 0 };
	void *r;

	counted = &c;
	assert_int_equal(fn(s->e), 0);
	counted = NULL;
	assert_int_equal(pthread_join(s->thread, &r), 0);
	assert_int_equal((intptr_t)r, 0);
	return c;
}

static void assert_one_wake(struct calls c)
{
	assert_int_equal(c.wakes, 1);
	assert_int_equal(c.woken, 1);
	assert_int_equal(c.all, 1);
}

/* ---- what one does and the other waits for ---- */

static int send_one(struct pair *e)
{
	return portal_send(e->at_a, 0, "1234", 4, LONG);
}

static int recv_one(struct pair *e)
{
	char buf[64];
	size_t n;

	return portal_recv(e->at_b, NULL, buf, sizeof(buf), &n, LONG);
}

static int send_batch(struct pair *e)
{
	for (int i = 0; i < BATCH; i++) {
		void *at;
		int r = portal_reserve(e->at_a, 4, &at, LONG);

		if (r == 0)
			r = portal_commit(e->at_a, 0, 4);
		if (r < 0)
			return r;
	}
	return portal_flush(e->at_a);
}

static int recv_batch(struct pair *e)
{
	int r = 0;

	for (int i = 0; i < BATCH && r == 0; i++)
		r = recv_one(e);
	return r;
}

static int wait_fanin(struct pair *e)
{
	portal_fanin *f;
	portal_chan *c;
	int r = portal_fanin_new(e->b, &f);

	if (r < 0)
		return r;
	r = portal_fanin_add(f, e->at_b);
	if (r == 0)
		r = portal_fanin_wait(f, NULL, LONG, &c);
	portal_fanin_free(f);
	return r < 0 ? r : recv_one(e);
}

static int write_some(struct pair *e)
{
	size_t n;

	return portal_write(e->at_a, "1234", 4, &n, LONG);
}

static int read_some(struct pair *e)
{
	char buf[4];
	size_t n;

	return portal_read(e->at_b, buf, sizeof(buf), &n, LONG);
}

static void wakes_once(uint32_t kind, int (*wakes)(struct pair *e), int (*waits)(struct pair *e))
{
	struct pair e = meet_here(kind);
	struct sleeper s;

	/* Once before: the first time touches more than the ring. */
	assert_int_equal(wakes(&e), 0);
	assert_int_equal(waits(&e), 0);
	sleeper_start(&s, &e, waits);
	assert_one_wake(count(&s, wakes));
	part(&e);
}

static void a_record(void **state)
{
	wakes_once(PORTAL_RECORDS, send_one, recv_one);
}

static void a_batch(void **state)
{
	wakes_once(PORTAL_RECORDS, send_batch, recv_batch);
}

static void bytes(void **state)
{
	wakes_once(PORTAL_BYTES, write_some, read_some);
}

static void a_fanin(void **state)
{
	wakes_once(PORTAL_RECORDS, send_one, wait_fanin);
}

static void room(void **state)
{
	struct pair e = meet_here(PORTAL_RECORDS);
	struct sleeper s;

	while (portal_send(e.at_a, 0, "1234", 4, 0) == 0)
		;
	sleeper_start(&s, &e, send_one);
	assert_one_wake(count(&s, recv_one));
	part(&e);
}

/* ---- in another kernel ---- */

/* News of another kind may end the sleep just before the record: who got it without a message was awake.  Had it been
 * asleep, it would be so still. */
static void one_message(struct pair *e)
{
	struct calls c = { 0 };
	struct sleeper s;

	for (int tries = 0; tries < 10 && c.all == 0; tries++) {
		sleeper_start(&s, e, recv_one);
		c = count(&s, send_one);
	}
	assert_int_equal(c.messages, 1);
	assert_int_equal(c.all, 1);
}

static void to_a_machine(void **state)
{
	static struct vm v;
	struct pair e;

	vm_start(&v, &b, "test");
	e = (struct pair) { .a = broker_attach(&b, "host"), .b = vm_attach(&v) };
	meet(&e, PORTAL_RECORDS);
	one_message(&e);
	part(&e);
	vm_end(&v);
}

static void from_a_machine(void **state)
{
	static struct vm v;
	struct pair e;

	vm_start(&v, &b, "test");
	e = (struct pair) { .a = vm_attach(&v), .b = broker_attach(&b, "host") };
	meet(&e, PORTAL_RECORDS);
	one_message(&e);
	part(&e);
	vm_end(&v);
}

/* ---- peers that are awake ---- */

static int echo(struct pair *e)
{
	int r = 0;

	for (int i = 0; i < TRIPS && r == 0; i++) {
		r = recv_one(e);
		if (r == 0)
			r = portal_send(e->at_b, 0, "5678", 4, LONG);
	}
	return r;
}

static int call(struct pair *e)
{
	char buf[64];
	size_t n;
	int r = 0;

	for (int i = 0; i < TRIPS && r == 0; i++) {
		r = send_one(e);
		if (r == 0)
			r = portal_recv(e->at_a, NULL, buf, sizeof(buf), &n, LONG);
	}
	return r;
}

/* Both look until it comes, and never sleep. */
static void nobody_who_looks(void **state)
{
	struct pair e = meet_here(PORTAL_RECORDS);
	struct calls c;
	struct sleeper s = { .e = &e, .fn = echo };

	/* What the broker has said is heard, else they would stop looking for once. */
	assert_int_equal(portal_poll(e.a, 0), 0);
	assert_int_equal(portal_poll(e.b, 0), 0);
	e.at_a->spin.limit = e.at_b->spin.limit = UINT32_MAX;
	assert_int_equal(pthread_create(&s.thread, NULL, sleeper_main, &s), 0);
	c = count(&s, call);
	assert_int_equal(c.all, 0);
	part(&e);
}

/* It is awake, and busy elsewhere. */
static void nobody_who_does_not_wait(void **state)
{
	struct pair e = meet_here(PORTAL_RECORDS);
	struct calls c = { 0 };

	counted = &c;
	for (int i = 0; i < BATCH; i++)
		assert_int_equal(send_one(&e), 0);
	for (int i = 0; i < BATCH; i++)
		assert_int_equal(recv_one(&e), 0);
	counted = NULL;
	assert_int_equal(c.all, 0);
	part(&e);
}

static int setup(void **state)
{
	broker_start(&b, NULL);
	return 0;
}

static int teardown(void **state)
{
	broker_end(&b);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_record, setup, teardown),
		cmocka_unit_test_setup_teardown(a_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(a_fanin, setup, teardown),
		cmocka_unit_test_setup_teardown(room, setup, teardown),
		cmocka_unit_test_setup_teardown(to_a_machine, setup, teardown),
		cmocka_unit_test_setup_teardown(from_a_machine, setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_who_looks, setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_who_does_not_wait, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
