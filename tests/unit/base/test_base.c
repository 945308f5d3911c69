/* base: errors, checked arithmetic, buffers, the event loop; os: whole reads, descriptor passing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/buf.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/listener.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/siphash.h"
#include "os/linux/fd.h"

static void err_is_one_clean_line(void **state)
{
	struct wslx_err e = { 0 };

	assert_int_equal(wslx_err_set(&e, EINVAL, "bad name '%s'", "a\nb\033[2J"), -EINVAL);
	assert_string_equal(e.msg, "bad name 'a?b?[2J'");
	assert_int_equal(wslx_err_sys(&e, ENOENT, "opening %s", "x"), -ENOENT);
	assert_string_equal(e.msg, "opening x: No such file or directory");
	assert_int_equal(wslx_err_prefix(&e, "import"), -ENOENT);
	assert_string_equal(e.msg, "import: opening x: No such file or directory");
	assert_int_equal(wslx_err_set(NULL, EIO, "x"), -EIO);
	/* C1 controls, in UTF-8 and on their own; what is cut off in a character. */
	wslx_err_set(&e, EIO,
		     "\xc2\x9b"
		     "2J \x9b"
		     "2J \xc3\xa9 %.4s",
		     "abc\xc3\xa9");
	assert_string_equal(e.msg, "??2J ?2J \xc3\xa9 abc?");
}

static void log_lines_are_clean(void **state)
{
	char buf[256] = "";
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	wslx_log_init("test", fds[1], WSLX_LOG_WARN);
	log_error("a\nb\xc2\x9b"
		  "c\x9b"
		  "d\033\xe2\x82\xac");
	wslx_log_init("test", STDERR_FILENO, WSLX_LOG_WARN);
	assert_true(read(fds[0], buf, sizeof(buf) - 1) > 0);
	assert_string_equal(buf, "test: error: a?b??c?d?\xe2\x82\xac\n");
	close(fds[0]);
	close(fds[1]);
}

static void ranges(void **state)
{
	uint64_t v;

	assert_int_equal(wslx_sub_sat_u64(10, 3), 7);
	assert_int_equal(wslx_sub_sat_u64(3, 3), 0);
	assert_int_equal(wslx_sub_sat_u64(3, UINT64_MAX), 0);
	assert_true(wslx_range_ok(0, 10, 10));
	assert_true(wslx_range_ok(10, 0, 10));
	assert_false(wslx_range_ok(10, 1, 10));
	assert_false(wslx_range_ok(11, 0, 10));
	assert_false(wslx_range_ok(5, UINT64_MAX, 10));
	assert_false(wslx_add_u64(UINT64_MAX, 1, &v));
	assert_false(wslx_align_up(UINT64_MAX, 4096, &v));
	assert_true(wslx_align_up(4097, 4096, &v));
	assert_int_equal(v, 8192);
}

/* From the authors' test vectors: the eight bytes 0 to 7, the key 0 to 15. */
static void siphash_is_siphash(void **state)
{
	struct wslx_siphash_key key = { 0x0706050403020100u, 0x0f0e0d0c0b0a0908u };

	assert_true(wslx_siphash_u64(&key, 0x0706050403020100u) == 0x93f5f5799a932462u);
}

static void buffer_is_bounded(void **state)
{
	struct wslx_buf b;
	char block[100] = { 0 };

	wslx_buf_init(&b, 250);
	assert_int_equal(wslx_buf_append(&b, block, 100), 0);
	assert_int_equal(wslx_buf_append(&b, block, 100), 0);
	assert_int_equal(wslx_buf_append(&b, block, 100), -EMSGSIZE);
	assert_int_equal(b.len, 200);
	wslx_buf_consume(&b, 150);
	assert_int_equal(b.len, 50);
	assert_int_equal(wslx_buf_put_le32(&b, 0x01020304), 0);
	assert_int_equal(wslx_get_le16(b.data + 50), 0x0304);
	wslx_buf_free(&b);
}

static void remove_other(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_watch **all = opaque;

	/* Both descriptors are ready in one round: whoever comes first frees
	 * both, and the second must not be called. */
	all[2] = (struct wslx_watch *)((uintptr_t)all[2] + 1);
	wslx_watch_free(all[0]);
	wslx_watch_free(all[1]);
	all[0] = all[1] = NULL;
}

static void removed_watch_is_not_called(void **state)
{
	struct wslx_watch *all[3] = { 0 };
	struct wslx_loop *l;
	int a[2], b[2];

	assert_int_equal(wslx_loop_new(&l), 0);
	assert_int_equal(pipe(a), 0);
	assert_int_equal(pipe(b), 0);
	assert_int_equal(wslx_loop_watch(l, a[0], EPOLLIN, remove_other, all, &all[0]), 0);
	assert_int_equal(wslx_loop_watch(l, b[0], EPOLLIN, remove_other, all, &all[1]), 0);
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "x", 1), 1);
	assert_int_equal(wslx_loop_once(l, 1000), 0);
	assert_int_equal((uintptr_t)all[2], 1);
	wslx_loop_free(l);
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
}

static void guest_log_is_limited(void **state)
{
	struct wslx_log_limit limit = { 0 };
	unsigned passed = 0;

	/* Below the level nothing is printed, and the limit counts all the same. */
	for (int i = 0; i < 1000; i++)
		passed += wslx_log_limited(&limit, WSLX_LOG_DEBUG, "line %d", i);
	assert_in_range(passed, 1, 20); /* a new window may begin meanwhile */
}

struct ticking {
	struct wslx_loop *loop;
	int left;
};

static void tick(struct wslx_timer *t, void *opaque)
{
	struct ticking *s = opaque;

	if (--s->left)
		wslx_timer_arm(t, 1);
	else
		wslx_loop_stop(s->loop, 42);
}

static void timers_fire_and_rearm(void **state)
{
	struct ticking s = { .left = 3 };
	struct wslx_timer *t;

	assert_int_equal(wslx_loop_new(&s.loop), 0);
	assert_int_equal(wslx_loop_timer(s.loop, tick, &s, &t), 0);
	wslx_timer_arm(t, 1);
	assert_int_equal(wslx_loop_run(s.loop), 42);
	assert_int_equal(s.left, 0);
	wslx_loop_free(s.loop);
}

struct calling {
	struct wslx_loop *loop;
	int n;
	pthread_t thread;
	int wrong_thread;
};

static void bump(void *opaque)
{
	struct calling *c = opaque;

	if (!pthread_equal(pthread_self(), c->thread))
		c->wrong_thread++;
	c->n++;
}

static void *caller(void *opaque)
{
	struct calling *c = opaque;

	for (int i = 0; i < 1000; i++)
		wslx_loop_call(c->loop, bump, c);
	for (int i = 0; i < 1000; i++)
		if (wslx_loop_post(c->loop, bump, c) < 0)
			abort();
	wslx_loop_stop(c->loop, 0);
	return NULL;
}

static void set_thread(void *opaque)
{
	((struct calling *)opaque)->thread = pthread_self();
}

static void calls_run_on_the_loop_thread(void **state)
{
	struct calling c = { 0 };
	pthread_t t;

	assert_int_equal(wslx_loop_new(&c.loop), 0);
	assert_int_equal(wslx_loop_post(c.loop, set_thread, &c), 0);
	/* The first round marks the loop's thread before anybody else calls. */
	c.thread = pthread_self();
	assert_int_equal(pthread_create(&t, NULL, caller, &c), 0);
	assert_int_equal(wslx_loop_run(c.loop), 0);
	pthread_join(t, NULL);
	wslx_loop_free(c.loop);
	assert_true(c.n >= 1000);
}

struct greedy {
	struct wslx_loop *loop;
	unsigned calls, ticks, other;
};

/* Always has more to do. */
static void call_again(void *opaque)
{
	struct greedy *g = opaque;

	assert_true(++g->calls < 1000);
	assert_int_equal(wslx_loop_post(g->loop, call_again, g), 0);
}

static void tick_again(struct wslx_timer *t, void *opaque)
{
	struct greedy *g = opaque;

	assert_true(++g->ticks < 1000);
	wslx_timer_arm(t, 0);
}

static void count_other(struct wslx_timer *t, void *opaque)
{
	struct greedy *g = opaque;

	g->other++;
	wslx_timer_arm(t, 0);
}

static void turns_are_taken(void **state)
{
	struct greedy g = { 0 };
	struct wslx_timer *greedy, *other;

	assert_int_equal(wslx_loop_new(&g.loop), 0);
	assert_int_equal(wslx_loop_timer(g.loop, count_other, &g, &other), 0);
	assert_int_equal(wslx_loop_timer(g.loop, tick_again, &g, &greedy), 0);
	assert_int_equal(wslx_loop_post(g.loop, call_again, &g), 0);
	wslx_timer_arm(greedy, 0);
	wslx_timer_arm(other, 0);
	for (unsigned i = 1; i <= 20; i++) {
		assert_int_equal(wslx_loop_once(g.loop, 1000), 0);
		assert_int_equal(g.calls, i);
		assert_int_equal(g.ticks, i);
		assert_int_equal(g.other, i);
	}
	wslx_loop_free(g.loop);
}

static void descriptors_travel(void **state)
{
	int sv[2], p[2], got[4];
	struct rlimit before, none;
	size_t n = 4;
	char buf[8];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv), 0);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(wslx_send_fds(sv[0], "hi", 2, p, 2, 0), 2);
	assert_int_equal(wslx_recv_fds(sv[1], buf, sizeof(buf), got, &n, 0), 2);
	assert_int_equal(n, 2);
	assert_true(fcntl(got[0], F_GETFD) & FD_CLOEXEC);
	close(got[0]);
	close(got[1]);

	/* More than asked for: refused, and nothing leaks. */
	n = 1;
	assert_int_equal(wslx_send_fds(sv[0], "hi", 2, p, 2, 0), 2);
	got[0] = 77;
	assert_int_equal(wslx_recv_fds(sv[1], buf, sizeof(buf), got, &n, 0), -EPROTO);
	assert_int_equal(n, 0);
	/* Nor does the caller close what is another's by now. */
	assert_int_equal(got[0], -1);

	/* No room for them here: that is not the sender's fault, and the message is there. */
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	none.rlim_cur = (rlim_t)p[1] + 1;
	n = 1;
	assert_int_equal(wslx_send_fds(sv[0], "ho", 2, p, 1, 0), 2);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(wslx_recv_fds(sv[1], buf, sizeof(buf), got, &n, 0), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(n, 0);
	assert_memory_equal(buf, "ho", 2);
	close(sv[0]);
	close(sv[1]);
	close(p[0]);
	close(p[1]);
}

static void long_socket_paths_work(void **state)
{
	char dir[] = "/tmp/wslx-base-XXXXXX";
	char path[300], deep[200];
	int l, c;

	assert_non_null(mkdtemp(dir));
	memset(deep, 'd', sizeof(deep));
	snprintf(path, sizeof(path), "%s/%.*s", dir, 150, deep);
	assert_int_equal(mkdir(path, 0700), 0);
	strcat(path, "/control.sock");
	l = wslx_unix_listen(path, SOCK_STREAM, 4);
	assert_true(l >= 0);
	c = wslx_unix_connect(path, SOCK_STREAM);
	assert_true(c >= 0);
	close(c);
	close(l);
	unlink(path);
	*strrchr(path, '/') = '\0';
	rmdir(path);
	rmdir(dir);
}

/* Nobody accepts: whoever connects next would wait without end. */
static void full_socket_is_not_waited_for(void **state)
{
	char path[] = "/tmp/wslx-base-XXXXXX";
	int fd = mkstemp(path), l, held[8], c;
	size_t n = 0;

	close(fd);
	l = wslx_unix_listen(path, SOCK_STREAM, 1);
	assert_true(l >= 0);
	while ((c = wslx_unix_connect(path, SOCK_STREAM | SOCK_NONBLOCK)) >= 0) {
		assert_true(n < ARRAY_SIZE(held));
		held[n++] = c;
	}
	assert_int_equal(c, -EAGAIN);
	assert_int_equal(wslx_unix_connect_within(path, SOCK_STREAM, 20), -ETIMEDOUT);
	close(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	c = wslx_unix_connect_within(path, SOCK_STREAM, 20);
	assert_true(c >= 0);
	close(c);
	while (n)
		close(held[--n]);
	close(l);
	unlink(path);
}

struct accepted {
	struct wslx_listener *l;
	unsigned n, hold_at;
};

static void on_accept(void *opaque, int fd, const struct sockaddr *peer, socklen_t peer_len)
{
	struct accepted *a = opaque;

	assert_int_equal(peer->sa_family, AF_UNIX);
	close(fd);
	if (++a->n == a->hold_at)
		wslx_listener_hold(a->l, true);
}

static void listener_waits_for_descriptors(void **state)
{
	int fd, clients[3];
	char path[64];
	struct accepted a = { .hold_at = 2 };
	struct rlimit old, none;
	struct wslx_loop *loop;
	int64_t start;

	snprintf(path, sizeof(path), "/tmp/wslx-test-%d.sock", (int)getpid());
	fd = wslx_unix_listen(path, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 8);
	assert_true(fd >= 0);
	assert_int_equal(wslx_loop_new(&loop), 0);
	assert_int_equal(wslx_listener_new(loop, fd, on_accept, &a, &a.l), 0);
	for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
		clients[i] = wslx_unix_connect(path, SOCK_STREAM | SOCK_CLOEXEC);
		assert_true(clients[i] >= 0);
	}
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = (struct rlimit) { .rlim_cur = 3, .rlim_max = old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(wslx_loop_once(loop, 0), 0);
	/* Connections are there, and yet this round waits. */
	start = wslx_now_ms();
	assert_int_equal(wslx_loop_once(loop, 10000), 0);
	assert_in_range(wslx_now_ms() - start, 50, 5000);
	assert_int_equal(a.n, 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	while (a.n < 2)
		assert_int_equal(wslx_loop_once(loop, 1000), 0);
	/* Held by its owner. */
	assert_int_equal(wslx_loop_once(loop, 0), 0);
	assert_int_equal(a.n, 2);
	wslx_listener_hold(a.l, false);
	while (a.n < 3)
		assert_int_equal(wslx_loop_once(loop, 1000), 0);
	for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
		close(clients[i]);
	wslx_listener_free(a.l);
	wslx_loop_free(loop);
	close(fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(err_is_one_clean_line),
		cmocka_unit_test(log_lines_are_clean),
		cmocka_unit_test(ranges),
		cmocka_unit_test(buffer_is_bounded),
		cmocka_unit_test(siphash_is_siphash),
		cmocka_unit_test(removed_watch_is_not_called),
		cmocka_unit_test(guest_log_is_limited),
		cmocka_unit_test(timers_fire_and_rearm),
		cmocka_unit_test(calls_run_on_the_loop_thread),
		cmocka_unit_test(turns_are_taken),
		cmocka_unit_test(descriptors_travel),
		cmocka_unit_test(long_socket_paths_work),
		cmocka_unit_test(full_socket_is_not_waited_for),
		cmocka_unit_test(listener_waits_for_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
