/* Descriptors that the kernel does not take just now, because too many are under way: they are sent later. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "os/linux/paths.h"
#include "vmm/supervisor/passt.h"
#include "vmm/supervisor/run_internal.h"

/* So many messages are not taken yet; what the kernel says of them. */
static unsigned refuse;
static int refuse_with;
static unsigned refused;

ssize_t __real_wslx_send_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds, int flags);
ssize_t __wrap_wslx_send_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds, int flags);

ssize_t __wrap_wslx_send_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds, int flags)
{
	if (refuse && (n_fds || refuse_with == EAGAIN)) {
		refuse--;
		refused++;
		return -refuse_with;
	}
	return __real_wslx_send_fds(sock, buf, n, fds, n_fds, flags);
}

/* The longest that was to be waited for. */
static uint64_t longest_ms;

void __real_wslx_timer_arm(struct wslx_timer *t, uint64_t delay_ms);
void __wrap_wslx_timer_arm(struct wslx_timer *t, uint64_t delay_ms);

void __wrap_wslx_timer_arm(struct wslx_timer *t, uint64_t delay_ms)
{
	longest_ms = WSLX_MAX(longest_ms, delay_ms);
	__real_wslx_timer_arm(t, delay_ms / 100);
}

/* ---- a guest's connections ---- */

struct world {
	struct wslx_run run;
	int child; /* the link's other end */
	int fd;    /* what is sent */
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	int pair[2];

	refuse = refused = 0;
	refuse_with = ETOOMANYREFS;
	longest_ms = 0;
	w->run.window.fd = -1;
	if (wslx_loop_new(&w->run.p.loop) < 0 || wslx_run_answers_init(&w->run) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -1;
	w->run.link_fd = pair[0];
	w->child = pair[1];
	w->fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	wslx_run_link_close(&w->run);
	wslx_run_answers_free(&w->run);
	wslx_loop_free(w->run.p.loop);
	close(w->child);
	close(w->fd);
	free(w);
	return 0;
}

/* The child's next message; what has to be waited for is. */
static void expect(struct world *w, uint32_t type, uint32_t id)
{
	struct wslx_link_msg m;
	int r;

	while ((r = wslx_link_recv(w->child, &m)) == -EAGAIN)
		assert_int_equal(wslx_loop_once(w->run.p.loop, 10000), 0);
	assert_int_equal(r, 1);
	assert_int_equal(m.type, type);
	assert_int_equal(m.id, id);
	assert_int_equal(m.fd >= 0, type != WSLX_LINK_CONNECT_REFUSED);
	wslx_close(&m.fd);
}

static void expect_nothing(struct world *w)
{
	struct wslx_link_msg m;

	assert_int_equal(wslx_link_recv(w->child, &m), -EAGAIN);
}

static void connections(void **state)
{
	struct world *w = *state;

	refuse = 12;
	for (uint32_t i = 1; i <= 3; i++)
		wslx_run_connected(&w->run, i, w->fd);
	/* Others need not wait. */
	wslx_run_connected(&w->run, 4, -1);
	expect(w, WSLX_LINK_CONNECT_REFUSED, 4);
	for (uint32_t i = 1; i <= 3; i++)
		expect(w, WSLX_LINK_CONNECT_OK, i);
	assert_int_equal(refused, 12);
	assert_int_equal(longest_ms, 100);
	expect_nothing(w);
	/* A child that does not read takes no refusal either. */
	refuse = 3;
	refuse_with = EAGAIN;
	wslx_run_connected(&w->run, 5, -1);
	expect(w, WSLX_LINK_CONNECT_REFUSED, 5);
	assert_int_equal(refuse, 0);
	/* What does not get better is said to the guest, too. */
	refuse = 1;
	refuse_with = EBADF;
	wslx_run_connected(&w->run, 6, w->fd);
	expect(w, WSLX_LINK_CONNECT_REFUSED, 6);
}

static void connections_have_limits(void **state)
{
	struct world *w = *state;
	int before = open("/dev/null", O_RDONLY | O_CLOEXEC), after;

	close(before);
	refuse = UINT32_MAX;
	for (uint32_t i = 0; i < MAX_ANSWERS; i++)
		wslx_run_connected(&w->run, i, w->fd);
	expect_nothing(w);
	wslx_run_connected(&w->run, MAX_ANSWERS, w->fd);
	expect(w, WSLX_LINK_CONNECT_REFUSED, MAX_ANSWERS);
	/* Half a minute, and then that is that. */
	for (uint32_t i = 0; i < MAX_ANSWERS; i++)
		expect(w, WSLX_LINK_CONNECT_REFUSED, i);
	assert_int_equal(refused, MAX_ANSWERS * 301 + 1);
	/* Those of a run that has ended are not kept. */
	wslx_run_connected(&w->run, 1, w->fd);
	wslx_run_link_close(&w->run);
	after = open("/dev/null", O_RDONLY | O_CLOEXEC);
	close(after);
	assert_true(after <= before);
	assert_int_equal(w->run.answers.n, 0);
}

/* ---- the network ---- */

struct net {
	struct wslx_loop *loop;
	unsigned asked, replaced;
	int error; /* of what is asked for, the first time excepted */
	unsigned errors;
};

static int on_connect(void *opaque)
{
	struct net *n = opaque;

	if (n->asked++ && n->errors) {
		n->errors--;
		return -n->error;
	}
	return open("/dev/null", O_RDWR | O_CLOEXEC);
}

static void on_ended(void *opaque, int64_t alive_ms, const char *text)
{
}

static void on_replaced(void *opaque)
{
	struct net *n = opaque;

	n->replaced++;
}

/* How long at most it takes from passt's end to the next, where the machine cannot be given its socket so often. */
static uint64_t replaced_after(int error, unsigned errors)
{
	struct net n = { .error = error, .errors = errors };
	struct wslx_net_config net = { .mode = WSLX_NET_PASST };
	struct wslx_passt *p = NULL;

	assert_int_equal(wslx_loop_new(&n.loop), 0);
	assert_int_equal(wslx_passt_new(&(struct wslx_passt_params) { .loop = n.loop,
								      .net = &net,
								      .connect = on_connect,
								      .ended = on_ended,
								      .replaced = on_replaced,
								      .opaque = &n },
					&p, NULL),
			 0);
	longest_ms = 0;
	assert_int_equal(wslx_passt_start(p, NULL), 0);
	while (!n.replaced)
		assert_int_equal(wslx_loop_once(n.loop, 10000), 0);
	assert_int_equal(n.asked, errors + 2);
	wslx_passt_free(p);
	wslx_loop_free(n.loop);
	return longest_ms;
}

static void network(void **state)
{
	char dir[] = "/tmp/wslx-send-later-XXXXXX";
	cleanup_free char *passt = NULL;

	assert_non_null(mkdtemp(dir));
	passt = wslx_path("%s/passt", dir);
	assert_int_equal(symlink("/bin/false", passt), 0);
	assert_int_equal(setenv("PATH", dir, 1), 0);
	assert_int_equal(replaced_after(ETOOMANYREFS, 20), 100);
	assert_int_equal(replaced_after(EAGAIN, 20), 100);
	/* It does not stay so quick for ever, and what else is wrong does not mend at once. */
	assert_true(replaced_after(ETOOMANYREFS, 310) >= 10000);
	assert_true(replaced_after(EMFILE, 10) >= 10000);
	assert_int_equal(unlink(passt), 0);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(connections, setup, teardown),
		cmocka_unit_test_setup_teardown(connections_have_limits, setup, teardown),
		cmocka_unit_test(network),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
