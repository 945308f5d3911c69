/* The codec: what goes in comes out, and what is malformed is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/agent.h"

#define MAX (1u << 20)

static void header(void **state)
{
	uint8_t p[16] = { 0, 0, 1, 0, 0x22, 0, 2, 0, 4, 3, 2, 1, 8, 7, 6, 5 };
	struct wslx_agent_header h;
	uint8_t q[16];

	assert_int_equal(wslx_agent_header_decode(p, &h), 0);
	assert_int_equal(h.len, 65536);
	assert_int_equal(h.type, WSLX_AGENT_DATA);
	assert_int_equal(h.flags, WSLX_AGENT_F_EOF);
	assert_int_equal(h.channel, 0x01020304);
	assert_int_equal(h.id, 0x05060708);
	wslx_agent_header_encode(&h, q);
	assert_memory_equal(p, q, 16);
	p[0] = 1;
	assert_int_equal(wslx_agent_header_decode(p, &h), -EPROTO);
	p[0] = 0;
	p[6] = 8; /* unknown flag */
	assert_int_equal(wslx_agent_header_decode(p, &h), -EPROTO);
}

/* The bytes of section 10 of docs/agent-protocol.md. */
static void documented_example(void **state)
{
	static const uint8_t exec[] = { 0x01, 0x05, 0, 0, 4, 0, 0, 0, 't', 'r', 'u', 'e' };
	static const uint8_t hello[] = { 0x57, 0x58, 0x41, 0x47, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
	static const uint8_t exited[] = { 0x06, 0x02, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0 };
	struct wslx_agent_hello h = { .version_min = 1, .version_max = 1 };
	struct wslx_agent_exec e;
	struct wslx_agent_exit x = { 0 };
	struct wslx_buf b;

	wslx_buf_init(&b, MAX);
	assert_int_equal(wslx_agent_hello_encode(&b, &h), 0);
	assert_int_equal(b.len, sizeof(hello));
	assert_memory_equal(b.data, hello, sizeof(hello));
	assert_int_equal(wslx_agent_exec_decode(exec, sizeof(exec), &e), 0);
	assert_string_equal(e.argv[0], "true");
	assert_null(e.argv[1]);
	wslx_agent_exec_free(&e);
	b.len = 0;
	assert_int_equal(wslx_agent_exit_encode(&b, &x), 0);
	assert_int_equal(b.len, sizeof(exited));
	assert_memory_equal(b.data, exited, sizeof(exited));
	wslx_buf_free(&b);
}

/* Feeds bytes in pieces of `step`; returns the last result. */
static int feed(struct wslx_agent_rx *rx, const uint8_t *p, size_t n, size_t step, unsigned *messages,
		struct wslx_agent_msg *last)
{
	int r = 0;

	while (n) {
		uint8_t *to;
		size_t room, k;

		assert_int_equal(wslx_agent_rx_space(rx, &to, &room), 0);
		k = WSLX_MIN(WSLX_MIN(step, n), room);
		memcpy(to, p, k);
		wslx_agent_rx_filled(rx, k);
		p += k;
		n -= k;
		while ((r = wslx_agent_rx_next(rx, last)) > 0)
			++*messages;
		if (r < 0)
			return r;
	}
	return r;
}

static void joined_message(void **state)
{
	static const size_t steps[] = { 1, 7, 16, 4096, 65536, MAX };
	size_t n = 200000;
	uint8_t *body = malloc(n);
	struct wslx_buf b;

	for (size_t i = 0; i < n; i++)
		body[i] = (uint8_t)(i * 7 + i / 256);
	wslx_buf_init(&b, MAX);
	assert_int_equal(wslx_agent_put_message(&b, WSLX_AGENT_EXEC, 0, 5, 6, body, n), 0);
	assert_int_equal(b.len, n + 4 * 16);
	for (unsigned s = 0; s < ARRAY_SIZE(steps); s++) {
		struct wslx_agent_rx rx;
		struct wslx_agent_msg m = { 0 };
		unsigned count = 0;
		uint8_t *to;
		size_t room;

		wslx_agent_rx_init(&rx);
		/* All but the last byte, so that the message can be looked at. */
		assert_int_equal(feed(&rx, b.data, b.len - 1, steps[s], &count, &m), 0);
		assert_int_equal(count, 0);
		assert_int_equal(wslx_agent_rx_space(&rx, &to, &room), 0);
		*to = b.data[b.len - 1];
		wslx_agent_rx_filled(&rx, 1);
		assert_int_equal(wslx_agent_rx_next(&rx, &m), 1);
		assert_int_equal(m.h.len, n);
		assert_int_equal(m.h.channel, 5);
		assert_memory_equal(m.body, body, n);
		assert_int_equal(wslx_agent_rx_next(&rx, &m), 0);
		wslx_agent_rx_free(&rx);
	}
	wslx_buf_free(&b);
	free(body);
}

static int receive(const struct wslx_agent_header *h, size_t count)
{
	struct wslx_agent_rx rx;
	struct wslx_agent_msg m;
	unsigned n = 0;
	int r = 0;

	wslx_agent_rx_init(&rx);
	for (size_t i = 0; i < count && r >= 0; i++) {
		uint8_t *frame = calloc(1, 16 + h[i].len);

		wslx_agent_header_encode(&h[i], frame);
		r = feed(&rx, frame, 16 + h[i].len, MAX, &n, &m);
		free(frame);
	}
	wslx_agent_rx_free(&rx);
	return r;
}

static void broken_joins(void **state)
{
	struct wslx_agent_header data[] = { { .len = 1, .type = WSLX_AGENT_DATA, .flags = WSLX_AGENT_F_MORE } };
	struct wslx_agent_header other[] = {
		{ .len = 1, .type = WSLX_AGENT_EXEC, .flags = WSLX_AGENT_F_MORE, .channel = 1 },
		{ .len = 1, .type = WSLX_AGENT_EXEC, .channel = 2 },
	};
	struct wslx_agent_header empty[] = { { .type = WSLX_AGENT_EXEC, .flags = WSLX_AGENT_F_MORE } };
	struct wslx_agent_header large[70];

	assert_int_equal(receive(data, 1), -EPROTO);
	assert_int_equal(receive(other, 2), -EPROTO);
	assert_int_equal(receive(empty, 1), -EPROTO);
	for (size_t i = 0; i < ARRAY_SIZE(large); i++)
		large[i] = (struct wslx_agent_header) { .len = 65536,
							.type = WSLX_AGENT_EXEC,
							.flags = WSLX_AGENT_F_MORE };
	assert_int_equal(receive(large, ARRAY_SIZE(large)), -EPROTO);
}

static void tlvs(void **state)
{
	static const uint8_t unknown[] = { 0xff, 0x7f, 0, 0, 1, 0, 0, 0, 9 };
	static const uint8_t critical[] = { 0xff, 0x7f, 0, 0x80, 1, 0, 0, 0, 9 };
	static const uint8_t cut[] = { 0xff, 0x7f, 0, 0, 2, 0, 0, 0, 9 };
	static const uint8_t stub[] = { 0xff, 0x7f, 0 };
	static const uint8_t twice[] = { 6, 2, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 6, 2, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0 };
	static const uint8_t known_critical[] = { 6, 2, 0, 0x80, 4, 0, 0, 0, 9, 0, 0, 0 };
	struct wslx_agent_exit x;

	assert_int_equal(wslx_agent_exit_decode(unknown, sizeof(unknown), &x), 0);
	assert_int_equal(wslx_agent_exit_decode(critical, sizeof(critical), &x), -ENOTSUP);
	assert_int_equal(wslx_agent_exit_decode(cut, sizeof(cut), &x), -EPROTO);
	assert_int_equal(wslx_agent_exit_decode(stub, sizeof(stub), &x), -EPROTO);
	assert_int_equal(wslx_agent_exit_decode(twice, sizeof(twice), &x), -EPROTO);
	assert_int_equal(wslx_agent_exit_decode(known_critical, sizeof(known_critical), &x), 0);
	assert_int_equal(x.status, 9);
}

static void config_round_trip(void **state)
{
	struct wslx_agent_config a = { .hostname = "box",
				       .time_ns = 1ull << 60,
				       .seed = { 1, 2, 3 },
				       .seed_len = 3,
				       .modules_serial = "mod",
				       .has_mac = true,
				       .mac = { 1, 2, 3, 4, 5, 6 },
				       .has_ipv4 = true,
				       .ipv4 = { 10, 0, 2, 15 },
				       .ipv4_prefix = 24,
				       .ipv4_gateway = { 10, 0, 2, 2 },
				       .mtu = 1500,
				       .ipv6_ra = true,
				       .greet = true,
				       .dns = { "1.2.3.4", "::1" },
				       .n_dns = 2,
				       .search = { "a.example" },
				       .n_search = 1 },
				 b;
	struct wslx_buf buf;

	wslx_buf_init(&buf, MAX);
	assert_int_equal(wslx_agent_config_encode(&buf, &a), 0);
	assert_int_equal(wslx_agent_config_decode(buf.data, buf.len, &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	/* Every truncation is refused or gives less, and never reads beyond. */
	for (size_t n = 0; n < buf.len; n++) {
		uint8_t *copy = malloc(n ? n : 1);
		int r;

		memcpy(copy, buf.data, n);
		r = wslx_agent_config_decode(copy, n, &b);
		assert_true(r == 0 || r == -EPROTO);
		free(copy);
	}
	buf.len = 0;
	a.ipv4_prefix = 33;
	assert_int_equal(wslx_agent_config_encode(&buf, &a), 0);
	assert_int_equal(wslx_agent_config_decode(buf.data, buf.len, &b), -EPROTO);
	wslx_buf_free(&buf);
}

static void text_limits(void **state)
{
	struct wslx_agent_distro d;
	struct wslx_buf b;
	char name[WSLX_AGENT_NAME_MAX + 1];

	memset(name, 'a', sizeof(name));
	wslx_buf_init(&b, MAX);
	assert_int_equal(wslx_agent_put_tlv(&b, WSLX_TAG_DISTRO, name, WSLX_AGENT_NAME_MAX), 0);
	assert_int_equal(wslx_agent_distro_decode(b.data, b.len, &d), 0);
	b.len = 0;
	assert_int_equal(wslx_agent_put_tlv(&b, WSLX_TAG_DISTRO, name, WSLX_AGENT_NAME_MAX + 1), 0);
	assert_int_equal(wslx_agent_distro_decode(b.data, b.len, &d), -EPROTO);
	b.len = 0;
	assert_int_equal(wslx_agent_put_tlv(&b, WSLX_TAG_DISTRO, "a\0b", 3), 0);
	assert_int_equal(wslx_agent_distro_decode(b.data, b.len, &d), -EPROTO);
	b.len = 0;
	assert_int_equal(wslx_agent_put_tlv_u32(&b, WSLX_TAG_READONLY, 2), 0);
	assert_int_equal(wslx_agent_distro_decode(b.data, b.len, &d), -EPROTO);
	wslx_buf_free(&b);
}

static void too_many_items(void **state)
{
	struct wslx_agent_distro_started st;
	struct wslx_agent_exec e;
	struct wslx_buf b;

	wslx_buf_init(&b, MAX);
	for (unsigned i = 0; i <= WSLX_AGENT_MAX_WARNINGS; i++)
		assert_int_equal(wslx_agent_put_tlv_str(&b, WSLX_TAG_WARNING, "w"), 0);
	assert_int_equal(wslx_agent_distro_started_decode(b.data, b.len, &st), -EPROTO);
	b.len = 0;
	for (unsigned i = 0; i <= WSLX_AGENT_MAX_ARGS; i++)
		assert_int_equal(wslx_agent_put_tlv_str(&b, WSLX_TAG_ARG, ""), 0);
	assert_int_equal(wslx_agent_exec_decode(b.data, b.len, &e), -EPROTO);
	wslx_buf_free(&b);
}

static void exec_round_trip(void **state)
{
	static const char *const argv[] = { "a b", "", "$HOME", NULL }, *const env[] = { "A=", "B=c=d", NULL };
	struct wslx_agent_exec a = { .distro = "d",
				     .argv = argv,
				     .env = env,
				     .cwd = "/x",
				     .user = "u",
				     .default_user = "du",
				     .term = "xterm",
				     .flags = WSLX_EXEC_TTY,
				     .streams = { WSLX_STREAM_IS_TTY, WSLX_STREAM_PIPE, WSLX_STREAM_NULL },
				     .winsize = { 1, 2, 3, 4 },
				     .window = 99 },
			       b;
	struct wslx_buf buf;

	wslx_buf_init(&buf, MAX);
	assert_int_equal(wslx_agent_exec_encode(&buf, &a), 0);
	assert_int_equal(wslx_agent_exec_decode(buf.data, buf.len, &b), 0);
	for (int i = 0; i < 3; i++)
		assert_string_equal(b.argv[i], argv[i]);
	assert_null(b.argv[3]);
	assert_string_equal(b.env[1], "B=c=d");
	assert_null(b.env[2]);
	assert_string_equal(b.distro, "d");
	assert_string_equal(b.default_user, "du");
	assert_string_equal(b.term, "xterm");
	assert_memory_equal(b.streams, a.streams, 3);
	assert_int_equal(b.winsize.ypixel, 4);
	assert_int_equal(b.window, 99);
	wslx_agent_exec_free(&b);
	/* A stream on the terminal needs one. */
	buf.len = 0;
	a.flags = 0;
	assert_int_equal(wslx_agent_exec_encode(&buf, &a), 0);
	assert_int_equal(wslx_agent_exec_decode(buf.data, buf.len, &b), -EPROTO);
	/* Variables without a name, or without '='. */
	buf.len = 0;
	assert_int_equal(wslx_agent_put_tlv_str(&buf, WSLX_TAG_ENV, "=x"), 0);
	assert_int_equal(wslx_agent_exec_decode(buf.data, buf.len, &b), -EPROTO);
	buf.len = 0;
	assert_int_equal(wslx_agent_put_tlv_str(&buf, WSLX_TAG_ENV, "x"), 0);
	assert_int_equal(wslx_agent_exec_decode(buf.data, buf.len, &b), -EPROTO);
	wslx_buf_free(&buf);
}

static void status_round_trip(void **state)
{
	struct wslx_agent_status_distro ds[2] = { { .name = "a", .state = 2, .processes = 7 },
						  { .name = "b", .readonly = true } };
	struct wslx_agent_status a = { .uptime_ms = 5, .load = { 1, 2, 3 }, .execs = 4, .distros = ds, .n_distros = 2 },
				 b;
	struct wslx_buf buf;

	wslx_buf_init(&buf, MAX);
	assert_int_equal(wslx_agent_status_encode(&buf, &a), 0);
	assert_int_equal(wslx_agent_status_decode(buf.data, buf.len, &b), 0);
	assert_int_equal(b.n_distros, 2);
	assert_string_equal(b.distros[0].name, "a");
	assert_int_equal(b.distros[0].processes, 7);
	assert_true(b.distros[1].readonly);
	assert_int_equal(b.load[2], 3);
	wslx_agent_status_free(&b);
	for (size_t n = 0; n < buf.len; n++)
		if (wslx_agent_status_decode(buf.data, n, &b) == 0)
			wslx_agent_status_free(&b);
	wslx_buf_free(&buf);
}

static void versions(void **state)
{
	struct wslx_agent_hello us = { .version_min = 1, .version_max = 1 };
	struct wslx_agent_hello newer = { .version_min = 1, .version_max = 7 };
	struct wslx_agent_hello alien = { .version_min = 2, .version_max = 7 };
	struct wslx_agent_hello both = { .version_min = 2, .version_max = 3 };

	assert_int_equal(wslx_agent_version_pick(&us, &newer), 1);
	assert_int_equal(wslx_agent_version_pick(&newer, &us), 1);
	assert_int_equal(wslx_agent_version_pick(&us, &alien), -EPROTONOSUPPORT);
	assert_int_equal(wslx_agent_version_pick(&both, &alien), 3);
}

static void errors(void **state)
{
	struct wslx_agent_error a = { .code = ENOENT, .exit_status = 127, .text = "no" }, b;
	struct wslx_buf buf;

	wslx_buf_init(&buf, MAX);
	assert_int_equal(wslx_agent_error_encode(&buf, &a), 0);
	assert_int_equal(wslx_agent_error_decode(buf.data, buf.len, &b), 0);
	assert_int_equal(b.code, ENOENT);
	assert_int_equal(b.exit_status, 127);
	assert_string_equal(b.text, "no");
	buf.len = 0;
	assert_int_equal(wslx_agent_put_tlv_u32(&buf, WSLX_TAG_ERRNO, 0x80000000u), 0);
	assert_int_equal(wslx_agent_error_decode(buf.data, buf.len, &b), 0);
	assert_int_equal(b.code, EPROTO);
	assert_int_equal(b.exit_status, -1);
	wslx_buf_free(&buf);
}

static void send_queue(void **state)
{
	struct wslx_agent_tx tx;
	uint8_t *p;
	size_t total = 0;

	wslx_agent_tx_init(&tx);
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(wslx_agent_tx_data_begin(&tx, 1000, &p), 0);
		memset(p, (int)i, 1000);
		wslx_agent_tx_data_end(&tx, 1, 1, 0, 1000);
		total += 1016;
		wslx_agent_tx_sent(&tx, 900);
		total -= WSLX_MIN(total, (size_t)900);
		assert_int_equal(wslx_agent_tx_pending(&tx), total);
	}
	wslx_agent_tx_sent(&tx, total);
	assert_int_equal(wslx_agent_tx_pending(&tx), 0);
	/* The bound holds and leaves the queue as it was. */
	p = calloc(1, WSLX_AGENT_MESSAGE_MAX);
	assert_int_equal(wslx_agent_tx_message(&tx, WSLX_AGENT_EXEC, 0, 1, 1, p, WSLX_AGENT_MESSAGE_MAX), 0);
	assert_int_equal(wslx_agent_tx_message(&tx, WSLX_AGENT_EXEC, 0, 1, 1, p, WSLX_AGENT_MESSAGE_MAX), 0);
	total = wslx_agent_tx_pending(&tx);
	assert_int_equal(wslx_agent_tx_message(&tx, WSLX_AGENT_EXEC, 0, 1, 1, p, WSLX_AGENT_MESSAGE_MAX), -EMSGSIZE);
	assert_int_equal(wslx_agent_tx_pending(&tx), total);
	free(p);
	wslx_agent_tx_free(&tx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header),
		cmocka_unit_test(documented_example),
		cmocka_unit_test(joined_message),
		cmocka_unit_test(broken_joins),
		cmocka_unit_test(tlvs),
		cmocka_unit_test(config_round_trip),
		cmocka_unit_test(text_limits),
		cmocka_unit_test(too_many_items),
		cmocka_unit_test(exec_round_trip),
		cmocka_unit_test(status_round_trip),
		cmocka_unit_test(versions),
		cmocka_unit_test(errors),
		cmocka_unit_test(send_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
