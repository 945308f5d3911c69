/* SYNC: arenas that cannot be taken for now, and brokers that do not answer for now. */
#include "support.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "os/linux/fd.h"
#include "portal/atomic.h"
#include "portal/host.h"
#include "portal/internal.h"

/* ---- no room for descriptors ---- */

static bool has_seen(const portal *p)
{
	return PORTAL_LOAD_ACQ(&p->ctl->epoch_seen) == PORTAL_LOAD_ACQ(&p->hdr->epoch);
}

/* What was not taken is not acknowledged, and is asked for again; the answers stay in step. */
static void no_room_for_descriptors(void **state)
{
	struct portal_object o, late;
	struct portal_info info;
	struct rlimit before;
	portal *p, *reader;
	const uint8_t *ro;
	struct broker b;
	const void *at;
	void *rw;

	broker_start(&b, NULL);
	p = broker_attach(&b, "writer");
	reader = broker_attach(&b, "reader");
	portal_get_info(p, &info);
	assert_int_equal(portal_create(p, "thing", 4096, NULL, &rw), 0);
	memset(rw, 'w', 4096);
	assert_int_equal(portal_open(reader, "thing", &o), 0);
	assert_int_equal(portal_map(reader, &o, &at, NULL), 0);
	ro = at;
	/* Two that cannot be taken. */
	assert_int_equal(portal_host_object(b.h, "late", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_host_revoke(b.h, info.self, 0), -ETIMEDOUT);
	before = no_more_descriptors();
	for (int i = 0; i < 3; i++)
		assert_int_equal(portal_poll(reader, 0), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_false(has_seen(reader));
	assert_int_equal(portal_host_seen(b.h, 0), -ETIMEDOUT);
	assert_int_equal(portal_poll(reader, 0), 0);
	assert_true(has_seen(reader));
	assert_int_equal(portal_host_seen(b.h, LONG), 0);
	memset(rw, 'x', 4096);
	assert_int_equal(ro[0], 'w');
	assert_int_equal(portal_open(reader, "late", &late), 0);
	assert_int_equal(portal_map(reader, &late, &at, NULL), 0);
	/* An answer is of the question before it. */
	assert_int_equal(portal_host_unpublish(b.h, "late"), 0);
	assert_int_equal(portal_host_seen(b.h, 0), -ETIMEDOUT);
	assert_int_equal(portal_poll(reader, 0), 0);
	assert_true(has_seen(reader));
	assert_int_equal(portal_map(reader, &late, &at, NULL), -EACCES);
	portal_detach(p);
	portal_detach(reader);
	broker_end(&b);
}

/* ---- no memory for mappings ---- */

static __thread bool no_mappings;

void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);

/* Linked with --wrap; whichever of the two names libportal calls. */
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
	if (!no_mappings)
		return __real_mmap(at, n, prot, flags, fd, off);
	errno = ENOMEM;
	return MAP_FAILED;
}

void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
	return __wrap_mmap(at, n, prot, flags, fd, off);
}

/* It was revoked and is dead, and its memory could not be let go at once. */
static void no_memory_to_let_go(void **state)
{
	struct portal_object o;
	struct portal_info info;
	portal *p, *reader;
	const uint8_t *ro;
	struct broker b;
	const void *at;
	void *rw;

	broker_start(&b, NULL);
	p = broker_attach(&b, "writer");
	reader = broker_attach(&b, "reader");
	portal_get_info(p, &info);
	assert_int_equal(portal_create(p, "thing", 4096, NULL, &rw), 0);
	memset(rw, 'w', 4096);
	assert_int_equal(portal_open(reader, "thing", &o), 0);
	assert_int_equal(portal_map(reader, &o, &at, NULL), 0);
	ro = at;
	assert_int_equal(portal_host_revoke(b.h, info.self, 0), -ETIMEDOUT);
	assert_int_equal(portal_host_remove(b.h, info.self), 0);
	no_mappings = true;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(portal_poll(reader, 0), -ENOMEM);
		assert_false(has_seen(reader));
	}
	no_mappings = false;
	assert_int_equal(portal_poll(reader, 0), 0);
	assert_true(has_seen(reader));
	memset(rw, 'x', 4096);
	assert_int_equal(ro[0], 0);
	portal_detach(p);
	portal_detach(reader);
	broker_end(&b);
}

/* ---- what is told again ---- */

/* So many ARENA as the answer has, and whether `index` is among them. */
static unsigned answered(int s, const struct wslx_portal_msg *q, unsigned index, bool *ret_has)
{
	struct wslx_portal_msg m;
	unsigned arenas = 0;

	*ret_has = false;
	assert_int_equal(send(s, q, sizeof(*q), MSG_NOSIGNAL), sizeof(*q));
	for (;;) {
		int fd = -1;
		size_t n = 1;

		assert_int_equal(wslx_recv_fds(s, &m, sizeof(m), &fd, &n, 0), sizeof(m));
		if (n)
			close(fd);
		if (m.op == PORTAL_OP_DONE)
			return arenas;
		if (m.op != PORTAL_OP_ARENA)
			continue;
		arenas++;
		*ret_has |= m.index == index;
	}
}

/* That an arena is there no more can be what was not taken. */
static void told_again_that_it_is_gone(void **state)
{
	struct wslx_portal_msg q = { .op = PORTAL_OP_HELLO,
				     .version = PORTAL_VERSION,
				     .kind = PORTAL_KIND_PROCESS,
				     .segments = 1,
				     .name = "raw" };
	struct broker b;
	bool has;
	int s;

	broker_start(&b, NULL);
	s = wslx_unix_connect(b.path, SOCK_SEQPACKET);
	assert_true(s >= 0);
	assert_int_equal(portal_host_object(b.h, "o", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	/* The host's, that object, its own. */
	assert_int_equal(answered(s, &q, 1, &has), 3);
	assert_true(has);
	assert_int_equal(portal_host_unpublish(b.h, "o"), 0);
	q = (struct wslx_portal_msg) { .op = PORTAL_OP_SYNC };
	assert_int_equal(answered(s, &q, 1, &has), 1);
	assert_true(has);
	assert_int_equal(answered(s, &q, 1, &has), 0);
	q.flags = PORTAL_SYNC_AGAIN;
	q.index = 1;
	assert_int_equal(answered(s, &q, 1, &has), 1);
	assert_true(has);
	/* Of one that it never had there is nothing to tell. */
	q.index = 77;
	assert_int_equal(answered(s, &q, 77, &has), 0);
	close(s);
	broker_end(&b);
}

static void descriptors_are_not_inherited(void **state)
{
	struct broker b;
	int fd;

	broker_start(&b, NULL);
	for (int writable = 0; writable < 2; writable++) {
		fd = portal_host_arena_fd(b.h, 0, writable);
		assert_true(fd >= 0);
		assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		close(fd);
	}
	broker_end(&b);
}

/* ---- two threads that dispatch ---- */

static bool is_member(struct broker *b, unsigned i, bool in_an_answer)
{
	bool r;

	pthread_mutex_lock(&b->h->lock);
	r = b->h->member[i].used && (!in_an_answer || b->h->member[i].answering);
	pthread_mutex_unlock(&b->h->lock);
	return r;
}

static int says_hello(struct broker *b)
{
	const struct wslx_portal_msg q = { .op = PORTAL_OP_HELLO,
					   .version = PORTAL_VERSION,
					   .kind = PORTAL_KIND_PROCESS,
					   .segments = 1,
					   .name = "raw" };
	int s = wslx_unix_connect(b->path, SOCK_SEQPACKET);

	assert_true(s >= 0);
	assert_int_equal(send(s, &q, sizeof(q), MSG_NOSIGNAL), sizeof(q));
	return s;
}

/* The other thread has taken the end of the one before from epoll, and comes to it when the number is another's. */
static void end_of_the_one_before(void **state)
{
	struct wslx_portal_msg sync = { .op = PORTAL_OP_SYNC };
	struct broker b;
	uint32_t word;
	char name[8];
	bool has;
	int s;

	broker_start(&b, NULL);
	/* More than there is room for in a socket. */
	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "o%d", i);
		assert_int_equal(portal_host_object(b.h, name, 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	}
	s = says_hello(&b);
	while (!is_member(&b, 1, true))
		sched_yield();
	pthread_mutex_lock(&b.h->lock);
	word = wslx_host_word(b.h, 1);
	pthread_mutex_unlock(&b.h->lock);
	close(s);
	while (is_member(&b, 1, false))
		sched_yield();
	s = says_hello(&b);
	while (!is_member(&b, 1, true))
		sched_yield();
	pthread_mutex_lock(&b.h->lock);
	wslx_host_on_socket(b.h, word, EPOLLHUP);
	pthread_mutex_unlock(&b.h->lock);
	assert_true(is_member(&b, 1, false));
	/* The host's, the objects, its own. */
	assert_int_equal(answered(s, &sync, 1, &has), 42);
	close(s);
	broker_end(&b);
}

/* ---- a broker that takes its time ---- */

static void *poll_once(void *arg)
{
	return (void *)(intptr_t)portal_poll(arg, 0);
}

/* false: the thread has not ended in that time. */
static bool ends_within(pthread_t t, int ms, void **ret)
{
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_nsec += ms % 1000 * 1000000L;
	at.tv_sec += ms / 1000 + at.tv_nsec / 1000000000;
	at.tv_nsec %= 1000000000;
	return pthread_timedjoin_np(t, ret, &at) == 0;
}

static void ask_is_there(struct broker *b)
{
	struct pollfd p = { .fd = portal_host_fd(b->h), .events = POLLIN };

	assert_int_equal(poll(&p, 1, (int)(LONG / 1000000)), 1);
}

/* How long attaching may take is not how long it may take to answer later: it may be making a copy. */
static void patience_is_not_that_of_attaching(void **state)
{
	struct portal_attach a = { .size = sizeof(a), .name = "short", .timeout_ns = SEC / 4 };
	struct broker b;
	pthread_t t;
	portal *p;
	void *r;
	int e;

	broker_start(&b, NULL);
	a.path = b.path;
	/* On a busy machine it may take longer now and then. */
	do
		e = portal_attach(&a, &p);
	while (e == -ETIMEDOUT);
	assert_int_equal(e, 0);
	broker_stop(&b);
	assert_int_equal(portal_host_object(b.h, "o", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(pthread_create(&t, NULL, poll_once, p), 0);
	ask_is_there(&b);
	assert_false(ends_within(t, 500, &r));
	assert_int_equal(portal_host_dispatch(b.h, 0), 0);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, 0);
	assert_true(has_seen(p));
	portal_detach(p);
	broker_end(&b);
}

/* Neither is there no limit; and an answer after it is not taken for another's. */
static void patience_has_an_end(void **state)
{
	struct portal_attach a = { .size = sizeof(a), .name = "patient", .timeout_ns = PORTAL_FOREVER };
	struct timeval tv = { 0 };
	socklen_t n = sizeof(tv);
	struct broker b;
	portal *p;

	broker_start(&b, NULL);
	a.path = b.path;
	assert_int_equal(portal_attach(&a, &p), 0);
	assert_int_equal(getsockopt(p->sock, SOL_SOCKET, SO_RCVTIMEO, &tv, &n), 0);
	assert_int_equal(tv.tv_sec, PORTAL_SYNC_LIMIT_NS / SEC);
	tv = (struct timeval) { .tv_usec = 10000 };
	assert_int_equal(setsockopt(p->sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), 0);
	broker_stop(&b);
	assert_int_equal(portal_host_object(b.h, "o", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	assert_int_equal(portal_poll(p, 0), -EPIPE);
	ask_is_there(&b);
	assert_int_equal(portal_host_dispatch(b.h, 0), 0);
	assert_int_equal(portal_poll(p, 0), -EPIPE);
	assert_int_equal(portal_poll(p, LONG), -EPIPE);
	assert_false(has_seen(p));
	portal_detach(p);
	broker_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_room_for_descriptors),
		cmocka_unit_test(told_again_that_it_is_gone),
		cmocka_unit_test(descriptors_are_not_inherited),
		cmocka_unit_test(end_of_the_one_before),
		cmocka_unit_test(patience_is_not_that_of_attaching),
		cmocka_unit_test(patience_has_an_end),
		cmocka_unit_test(no_memory_to_let_go),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
