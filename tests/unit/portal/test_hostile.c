/* Participants that use what they were given against the broker. */
#include "support.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"
#include "os/linux/fd.h"
#include "portal/wire.h"

/* Everything that a program of the same user can do with a descriptor for reading. */
static int open_again(int ro)
{
	char path[64];
	int fd;

	assert_int_equal(fchmod(ro, 0600), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ro);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void header_cannot_be_written(void **state)
{
	uint32_t segments = 0, bad = 0x7fffffff;
	struct portal_host_stat st;
	struct broker b;
	portal *p;
	void *at;
	int ro, rw;

	broker_start(&b, NULL);
	ro = portal_host_arena_fd(b.h, 0, 0);
	assert_true(ro >= 0);
	rw = open_again(ro);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, rw, 0), MAP_FAILED);
	at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, rw, 0);
	assert_ptr_not_equal(at, MAP_FAILED);
	assert_int_not_equal(mprotect(at, 4096, PROT_READ | PROT_WRITE), 0);
	munmap(at, 4096);
	assert_int_equal(pwrite(rw, &bad, sizeof(bad), offsetof(struct portal_header, segments)), -1);
	assert_int_equal(fallocate(rw, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
	assert_int_equal(ftruncate(rw, 0), -1);
	assert_int_equal(pread(rw, &segments, sizeof(segments), offsetof(struct portal_header, segments)),
			 sizeof(segments));
	assert_int_equal(portal_host_stat(b.h, &st), 0);
	assert_int_equal(segments, st.segments);
	/* A guest's VMM maps it privately, for reading and writing. */
	at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, ro, 0);
	assert_ptr_not_equal(at, MAP_FAILED);
	munmap(at, 4096);
	/* The broker itself still writes to it. */
	p = broker_attach(&b, "fine");
	assert_non_null(p);
	assert_int_equal(portal_create(p, "thing", 64, NULL, &at), 0);
	portal_detach(p);
	close(rw);
	close(ro);
	broker_end(&b);
}

/* false: nothing came, not even the end. */
static bool comes(int s, int ms)
{
	struct pollfd p = { .fd = s, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

static uint32_t next_op(int s)
{
	struct wslx_portal_msg m;
	int fd = -1;
	size_t n = 1;

	if (wslx_recv_fds(s, &m, sizeof(m), &fd, &n, 0) != sizeof(m))
		return 0;
	if (n)
		close(fd);
	return m.op;
}

/* As many as this user may have on their way; how many messages. */
static unsigned fill_flight(int s)
{
	int fds[32];
	unsigned n = 0;

	for (unsigned i = 0; i < 32; i++)
		fds[i] = 0;
	while (n < 100 && wslx_send_fds(s, "x", 1, fds, 32, MSG_DONTWAIT) == 1)
		n++;
	return errno == ETOOMANYREFS ? n : 0;
}

/* Not as root, whom the kernel does not count. */
static int somebody(void *arg)
{
	struct wslx_portal_msg hello = { .op = PORTAL_OP_HELLO,
					 .version = PORTAL_VERSION,
					 .kind = PORTAL_KIND_PROCESS,
					 .segments = 1,
					 .name = "late" };
	struct rlimit l = { .rlim_cur = 128, .rlim_max = 128 };
	int pair[2], s;
	struct broker b;
	int64_t before;
	char x;

	if (setrlimit(RLIMIT_NOFILE, &l) < 0 || (!getuid() && setresuid(64321, 64321, 64321) < 0))
		return 1;
	broker_start(&b, NULL);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0 || !fill_flight(pair[0]))
		return 2;
	s = wslx_unix_connect(b.path, SOCK_SEQPACKET);
	if (s < 0 || send(s, &hello, sizeof(hello), 0) != sizeof(hello) || next_op(s) != PORTAL_OP_WELCOME)
		return 3;
	before = broker_used_ns(&b);
	/* Neither an arena nor the end, and no haste. */
	if (comes(s, 500) || broker_used_ns(&b) - before > SEC / 20)
		return 4;
	while (comes(pair[1], 0)) {
		int fds[32];
		size_t n = 32;

		if (wslx_recv_fds(pair[1], &x, 1, fds, &n, 0) != 1)
			return 5;
		while (n)
			close(fds[--n]);
	}
	for (;;) {
		uint32_t op = comes(s, 10000) ? next_op(s) : 0;

		if (op == PORTAL_OP_DONE)
			break;
		if (op != PORTAL_OP_ARENA)
			return 6;
	}
	close(s);
	broker_end(&b);
	return 0;
}

static void descriptors_on_their_way(void **state)
{
	child_wait(child_start(somebody, NULL));
}

/* From now on this call fails in this thread as if there were no memory. */
static int fail_call(unsigned nr)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSPC),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0;
}

static int revoked_without(unsigned nr)
{
	struct portal_info info;
	struct portal_object o;
	portal *p, *q;
	struct broker b;
	const void *ro;
	void *rw;

	broker_start(&b, NULL);
	p = broker_attach(&b, "writer");
	q = broker_attach(&b, "reader");
	if (!p || !q || portal_create(p, "thing", 64, NULL, &rw) < 0 || portal_open(q, "thing", &o) < 0 ||
	    portal_map(q, &o, &ro, NULL) < 0)
		return 1;
	memset(rw, 'w', 64);
	portal_get_info(p, &info);
	if (fail_call(nr) || portal_host_revoke(b.h, info.self, 0) != -ETIMEDOUT)
		return 2;
	if (portal_poll(q, 0) < 0)
		return 3;
	memset(rw, 'x', 64);
	/* The reader has a copy, zeros or nothing any more: not what is written now. */
	if (*(const char *)ro == 'x' || portal_open(q, "thing", &o) != -ENOENT)
		return 4;
	portal_detach(p);
	portal_detach(q);
	broker_end(&b);
	return 0;
}

static int without_call(void *nr)
{
	return revoked_without((unsigned)(uintptr_t)nr);
}

/* Neither bytes that cannot be copied nor memory that is not there let it go on. */
static void revoked_without_memory(void **state)
{
	child_wait(child_start(without_call, (void *)(uintptr_t)SYS_pwrite64));
	child_wait(child_start(without_call, (void *)(uintptr_t)SYS_memfd_create));
}

static portal *attach_small(struct broker *b, const char *name)
{
	struct portal_attach a = { .size = sizeof(a), .path = b->path, .name = name, .segments = 1 };
	portal *p = NULL;

	(void)!portal_attach(&a, &p);
	return p;
}

/* Round the numbers and the places, so that the next to come find what the writer leaves. */
static int lost(void *arg)
{
	struct portal_host_params hp = { .size = sizeof(hp), .name = "r", .segments = 5, .name_slots = 8 };
	struct portal_info info;
	struct portal_handle handle;
	portal *p, *next, *q[3] = { NULL };
	struct broker b;
	void *rw, *theirs;

	broker_start(&b, &hp);
	p = attach_small(&b, "writer");
	if (!p || portal_create(p, "mine", 64, NULL, &rw) < 0 || come_and_go(b.h, PORTAL_MAX_ARENAS - 4) < 0)
		return 1;
	portal_get_info(p, &info);
	if (portal_host_object(b.h, "object", 1, info.self, PORTAL_EVERYBODY) < 0 || fail_call(SYS_memfd_create) ||
	    portal_host_revoke(b.h, info.self, 0) < 0)
		return 2;
	/* The object's place is free, and nobody comes to where the writer goes on. */
	for (unsigned i = 0; i < ARRAY_SIZE(q); i++) {
		q[i] = attach_small(&b, "other");
		if (!q[i])
			return 3;
		if (portal_create(q[i], i ? i > 1 ? "a" : "b" : "c", 64, NULL, &theirs) < 0)
			return 4;
		memset(theirs, 'o', 64);
	}
	if (attach_small(&b, "one too many"))
		return 5;
	(void)portal_poll(p, 0);
	if (portal_alloc(p, 64, &handle, NULL) != -EACCES)
		return 6;
	memset(rw, 'x', 64);
	/* The name leads to nothing, and least of all to an arena in its place. */
	if (portal_host_unpublish(b.h, "object") != -ENOENT)
		return 7;
	/* Once it has left, its place is as free as another. */
	portal_detach(p);
	(void)portal_host_remove(b.h, info.self);
	next = attach_small(&b, "next");
	if (!next)
		return 8;
	portal_detach(next);
	for (unsigned i = 0; i < ARRAY_SIZE(q); i++) {
		if (portal_poll(q[i], 0) < 0 || portal_alloc(q[i], 64, &handle, NULL) < 0)
			return 9;
		portal_detach(q[i]);
	}
	broker_end(&b);
	return 0;
}

static void lost_for_want_of_memory(void **state)
{
	child_wait(child_start(lost, NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_cannot_be_written),
		cmocka_unit_test(descriptors_on_their_way),
		cmocka_unit_test(revoked_without_memory),
		cmocka_unit_test(lost_for_want_of_memory),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
