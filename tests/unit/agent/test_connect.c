/* The handshake of a session through vsock.sock, with peers that misbehave. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "agentc/agentc.h"
#include "base/bytes.h"
#include "os/linux/fd.h"

static const char connect_line[] = "CONNECT 1024\n";

struct peer {
	struct wslx_loop *loop;
	char dir[64], path[96];
	int listen_fd, fd;
	struct wslx_agentc *c;
	bool ready, closed;
	struct wslx_err err;
	bool replied;
	int reply;
	char agent[64];
};

static void on_ready(void *opaque, const struct wslx_agent_hello *h)
{
	struct peer *p = opaque;

	p->ready = true;
	snprintf(p->agent, sizeof(p->agent), "%s", h->agent_version);
}

static void on_closed(void *opaque, const struct wslx_err *err)
{
	struct peer *p = opaque;

	p->closed = true;
	p->err = *err;
}

static void on_reply(void *opaque, const struct wslx_agentc_reply *r)
{
	struct peer *p = opaque;

	p->replied = true;
	p->reply = r->code;
}

static const struct wslx_agentc_events events = { .ready = on_ready, .closed = on_closed };

/* Connected, accepted, and CONNECT read. */
static void start(struct peer *p, unsigned timeout_ms)
{
	struct wslx_err err = { 0 };
	char line[sizeof(connect_line)] = "";

	memset(p, 0, sizeof(*p));
	strcpy(p->dir, "/tmp/wslx-test-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/vsock.sock", p->dir);
	p->listen_fd = wslx_unix_listen(p->path, SOCK_STREAM | SOCK_CLOEXEC, 4);
	assert_true(p->listen_fd >= 0);
	assert_int_equal(wslx_loop_new(&p->loop), 0);
	assert_int_equal(wslx_agentc_connect(p->loop, p->path, timeout_ms, &events, p, &p->c, &err), 0);
	p->fd = accept(p->listen_fd, NULL, NULL);
	assert_true(p->fd >= 0);
	assert_int_equal(wslx_read_full(p->fd, line, sizeof(connect_line) - 1), 0);
	assert_string_equal(line, connect_line);
}

static void finish(struct peer *p)
{
	wslx_agentc_free(p->c);
	wslx_loop_free(p->loop);
	if (p->fd >= 0)
		close(p->fd);
	close(p->listen_fd);
	unlink(p->path);
	rmdir(p->dir);
}

static void until(struct peer *p, const bool *flag)
{
	while (!*flag)
		assert_int_equal(wslx_loop_once(p->loop, 60000), 0);
}

static size_t hello(uint8_t *to, uint16_t min, uint16_t max)
{
	struct wslx_agent_hello h = { .version_min = min, .version_max = max, .agent_version = "a\x1b[2J\xc2\x9b\x9b" };
	struct wslx_buf b, out;
	size_t n;

	wslx_buf_init(&b, 1000);
	wslx_buf_init(&out, 1000);
	assert_int_equal(wslx_agent_hello_encode(&b, &h), 0);
	assert_int_equal(wslx_agent_put_message(&out, WSLX_AGENT_HELLO, 0, 0, 0, b.data, b.len), 0);
	memcpy(to, out.data, out.len);
	n = out.len;
	wslx_buf_free(&b);
	wslx_buf_free(&out);
	return n;
}

static void in_one_piece(void **state)
{
	uint8_t bytes[1000] = "OK 5\n";
	struct peer p;
	size_t n;

	start(&p, 0);
	/* A request made early waits for HELLO. */
	assert_int_equal(wslx_agentc_ping(p.c, on_reply, &p), 0);
	n = 5 + hello(bytes + 5, 1, 9);
	wslx_put_le32(bytes + n, 0);
	wslx_put_le16(bytes + n + 4, WSLX_AGENT_PONG);
	wslx_put_le16(bytes + n + 6, 0);
	wslx_put_le32(bytes + n + 8, 0);
	wslx_put_le32(bytes + n + 12, 1);
	assert_int_equal(wslx_write_full(p.fd, bytes, n + 16), 0);
	until(&p, &p.replied);
	assert_true(p.ready);
	assert_int_equal(p.reply, 0);
	assert_string_equal(p.agent, "a?[2J???");
	assert_int_equal(wslx_read_full(p.fd, bytes, 16), 0);
	assert_int_equal(wslx_get_le16(bytes + 4), WSLX_AGENT_HELLO);
	finish(&p);
}

static void byte_by_byte(void **state)
{
	uint8_t bytes[1000] = "OK 1073741824\n";
	struct peer p;
	size_t n;

	start(&p, 0);
	n = 14 + hello(bytes + 14, 1, 1);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(wslx_write_full(p.fd, bytes + i, 1), 0);
		assert_int_equal(wslx_loop_once(p.loop, 60000), 0);
		assert_int_equal(p.ready, i == n - 1);
	}
	/* What the peer left unread would make a reset of its close. */
	assert_int_equal(wslx_read_full(p.fd, bytes, 16), 0);
	assert_int_equal(wslx_read_full(p.fd, bytes, wslx_get_le32(bytes)), 0);
	close(p.fd);
	p.fd = -1;
	until(&p, &p.closed);
	assert_int_equal(p.err.code, 0);
	finish(&p);
}

static void refused(void **state)
{
	struct peer p;

	start(&p, 0);
	assert_int_equal(wslx_agentc_ping(p.c, on_reply, &p), 0);
	close(p.fd);
	p.fd = -1;
	until(&p, &p.closed);
	assert_int_equal(p.err.code, ECONNREFUSED);
	assert_true(p.replied);
	assert_int_equal(p.reply, -ECONNREFUSED);
	finish(&p);
}

static void not_ok(void **state)
{
	static const char *const answers[] = {
		"NO\n", "\n", "OK", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
	};

	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
		struct peer p;

		start(&p, 0);
		assert_int_equal(wslx_write_full(p.fd, answers[i], strlen(answers[i])), 0);
		if (i == 2) {
			close(p.fd);
			p.fd = -1;
		}
		until(&p, &p.closed);
		assert_true(p.err.code > 0);
		assert_false(p.ready);
		finish(&p);
	}
}

static void never_answers(void **state)
{
	struct peer p;

	start(&p, 1);
	until(&p, &p.closed);
	assert_int_equal(p.err.code, ETIMEDOUT);
	finish(&p);
	/* Nor after OK. */
	start(&p, 20);
	assert_int_equal(wslx_write_full(p.fd, "OK 1\n", 5), 0);
	until(&p, &p.closed);
	assert_int_equal(p.err.code, ETIMEDOUT);
	assert_non_null(strstr(p.err.msg, "in time"));
	finish(&p);
}

static void alien_version(void **state)
{
	uint8_t bytes[1000] = "OK 5\n";
	struct peer p;

	start(&p, 0);
	assert_int_equal(wslx_write_full(p.fd, bytes, 5 + hello(bytes + 5, 2, 9)), 0);
	until(&p, &p.closed);
	assert_int_equal(p.err.code, EPROTONOSUPPORT);
	finish(&p);
}

static void no_socket(void **state)
{
	struct wslx_err err = { 0 };
	struct wslx_loop *loop;
	struct wslx_agentc *c;

	assert_int_equal(wslx_loop_new(&loop), 0);
	assert_true(wslx_agentc_connect(loop, "/nonexistent/vsock.sock", 0, &events, NULL, &c, &err) < 0);
	assert_int_equal(err.code, ENOENT);
	wslx_loop_free(loop);
}

/* One that hangs, with so many in its queue that connect() itself would wait. */
static void full_queue(void **state)
{
	char dir[] = "/tmp/wslx-test-XXXXXX", path[64];
	struct wslx_err err = { 0 };
	struct wslx_loop *loop;
	struct wslx_agentc *c;
	int listen_fd, fds[8], n = 0;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/vsock.sock", dir);
	listen_fd = wslx_unix_listen(path, SOCK_STREAM | SOCK_CLOEXEC, 1);
	assert_true(listen_fd >= 0);
	while ((fds[n] = wslx_unix_connect(path, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		assert_true(++n < 8);
	assert_int_equal(wslx_loop_new(&loop), 0);
	alarm(60);
	assert_int_equal(wslx_agentc_connect(loop, path, 20, &events, NULL, &c, &err), -ETIMEDOUT);
	alarm(0);
	assert_non_null(strstr(err.msg, "takes no connections"));
	wslx_loop_free(loop);
	while (n)
		close(fds[--n]);
	close(listen_fd);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_one_piece), cmocka_unit_test(byte_by_byte),  cmocka_unit_test(refused),
		cmocka_unit_test(not_ok),       cmocka_unit_test(never_answers), cmocka_unit_test(alien_version),
		cmocka_unit_test(no_socket),    cmocka_unit_test(full_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
