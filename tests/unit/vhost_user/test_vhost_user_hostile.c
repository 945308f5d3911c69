/* The vhost-user server with a front end that breaks the protocol, offers memory that will not do, or wants it all. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "front_end.h"

#include "base/bytes.h"
#include "base/cleanup.h"

static void test_unsealed_memory(void **state)
{
	struct fixture *f = *state;
	cleanup_close int fd = fe_make_memfd(0);

	fe_set_mem(f, fd);
	fe_expect_closed(f, -EPERM);
}

static void test_short_memory(void **state)
{
	struct fixture *f = *state;
	uint8_t p[8 + VHU_REGION_LEN] = { 1 };

	fe_put_region(p + 8, GPA, 2 * MEM_SIZE, UVA, 0);
	fe_send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), &f->memfd, 1);
	fe_expect_closed(f, -EINVAL);
}

/* Each of these, sent after the handshake, ends the connection. */
static void test_malformed(void **state)
{
	static const struct {
		uint32_t request, flags, size;
		uint64_t words[5];
		unsigned n_fds;
	} bad[] = {
		{ .request = 0 },
		{ .request = 99 },
		{ .request = VHU_SET_FEATURES, .size = 4 },
		{ .request = VHU_SET_FEATURES, .size = 8, .words = { 1 } },
		{ .request = VHU_SET_PROTOCOL_FEATURES, .size = 8, .words = { 1ull << 60 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 2 | 8ull << 32 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 0xffffffff | 8ull << 32 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 0 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 3ull << 32 } },
		{ .request = VHU_SET_VRING_NUM, .size = 8, .words = { 65536ull << 32 } },
		{ .request = VHU_SET_VRING_BASE, .size = 8, .words = { 65536ull << 32 } },
		{ .request = VHU_SET_VRING_ADDR, .size = 40, .words = { 2 } },
		{ .request = VHU_SET_VRING_ADDR, .size = 32 },
		{ .request = VHU_SET_VRING_ADDR, .size = 40, .words = { 1ull << 32 } },
		{ .request = VHU_SET_VRING_ENABLE, .size = 8, .words = { 2ull << 32 } },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .words = { 0 } },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .words = { 0 }, .n_fds = 2 },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .words = { 5 }, .n_fds = 1 },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .words = { 1 << 10 }, .n_fds = 1 },
		{ .request = VHU_SET_VRING_CALL, .size = 8, .words = { VHU_VRING_NOFD }, .n_fds = 1 },
		{ .request = VHU_GET_VRING_BASE, .size = 8, .words = { 7 } },
		{ .request = VHU_GET_CONFIG, .size = 12, .words = { 1ull << 32 } },
		{ .request = VHU_GET_CONFIG, .size = 12, .words = { 257 } },
		{ .request = VHU_GET_CONFIG, .size = 12, .words = { 0xfffffff0 | 0x20ull << 32 } },
		{ .request = VHU_GET_CONFIG, .size = 8 },
		{ .request = VHU_SET_MEM_TABLE, .size = 8, .words = { 1 }, .n_fds = 1 },
		{ .request = VHU_SET_MEM_TABLE, .size = 8, .words = { 0 } },
		{ .request = VHU_SET_MEM_TABLE, .size = 40, .words = { 1, GPA, MEM_SIZE, UVA } },
		{ .request = VHU_SET_MEM_TABLE, .size = 40, .words = { 1, UINT64_MAX, MEM_SIZE, UVA }, .n_fds = 1 },
		{ .request = VHU_SET_MEM_TABLE, .size = 40, .words = { 1, GPA, 0, UVA }, .n_fds = 1 },
		{ .request = VHU_SET_MEM_TABLE, .size = 40, .words = { 9 }, .n_fds = 1 },
		{ .request = VHU_SET_BACKEND_REQ_FD },
		{ .request = VHU_GET_FEATURES, .n_fds = 1 },
		{ .request = VHU_GET_FEATURES, .flags = VHU_FLAG_REPLY },
		{ .request = VHU_GET_FEATURES, .flags = 2 },
		{ .request = VHU_SET_VRING_KICK, .size = 8, .n_fds = VHU_MAX_FDS + 1 },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		uint8_t p[40];
		int fds[VHU_MAX_FDS + 1];

		for (unsigned k = 0; k < 5; k++)
			wslx_put_le64(p + 8 * k, bad[i].words[k]);
		for (size_t k = 0; k < ARRAY_SIZE(fds); k++)
			fds[k] = f->memfd;
		fe_handshake(f);
		assert_false(f->closed);
		fe_send_msg(f, bad[i].request, bad[i].flags, p, bad[i].size, fds, bad[i].n_fds);
		if (!f->closed)
			print_error("message %zu was accepted\n", i);
		assert_true(f->closed);
		assert_true(f->closed_err < 0);
		fe_teardown(state);
		fe_setup(state);
	}
}

static void test_addresses_outside_memory(void **state)
{
	struct fixture *f = *state;
	static const uint64_t off[] = { MEM_SIZE, MEM_SIZE - 16, UINT64_MAX - UVA - 7, 0 - UVA, 8 };

	for (size_t i = 0; i < ARRAY_SIZE(off); i++) {
		for (unsigned which = 0; which < 3; which++) {
			uint64_t a[3] = { UVA + DESC(0), UVA + AVAIL(0), UVA + USED(0) };

			/* Offset 8 is misaligned for descriptors only; end - 16 is
			 * enough room for none of the three. */
			if (off[i] == 8 && which)
				continue;
			a[which] = UVA + off[i];
			fe_handshake(f);
			fe_set_ring(f, 0, 0);
			fe_set_addr(f, 0, a[0], a[1], a[2]);
			assert_false(f->closed);
			fe_set_state(f, VHU_SET_VRING_ENABLE, 0, 1);
			assert_true(f->closed);
			fe_teardown(state);
			fe_setup(state);
		}
	}
}

static void test_changes_under_a_running_ring(void **state)
{
	struct fixture *f = *state;

	fe_start(f);
	fe_set_addr(f, 0, UVA + DESC(0), UVA + AVAIL(0), UVA + USED(0));
	fe_expect_closed(f, -EPROTO);
}

static void test_message_in_pieces(void **state)
{
	struct fixture *f = *state;
	uint8_t m[VHU_HDR_LEN] = { VHU_GET_QUEUE_NUM, 0, 0, 0, VHU_VERSION }, r[8];

	for (size_t i = 0; i < sizeof(m); i++) {
		assert_int_equal(recv(f->fd, r, 1, MSG_DONTWAIT), -1);
		assert_int_equal(write(f->fd, m + i, 1), 1);
		fe_pump(f);
	}
	assert_int_equal(fe_recv_reply(f, VHU_GET_QUEUE_NUM, r, 8), 8);
	assert_int_equal(write(f->fd, m, 5), 5);
	shutdown(f->fd, SHUT_WR);
	fe_expect_closed(f, -EPROTO);
}

static void test_front_end_that_does_not_read(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 100000 && !f->closed; i++) {
		uint8_t m[VHU_HDR_LEN] = { VHU_GET_QUEUE_NUM, 0, 0, 0, VHU_VERSION };

		if (send(f->fd, m, sizeof(m), MSG_NOSIGNAL) < 0)
			break;
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
	}
	fe_expect_closed(f, -EPROTO);
}

/* A front end that always has another message does not keep the loop to itself. */
static void test_turns(void **state)
{
	uint8_t m[5 * VHU_HDR_LEN] = { 0 }, raw[256];
	struct fixture *f = *state;

	for (unsigned i = 0; i < 5; i++) {
		m[i * VHU_HDR_LEN] = VHU_GET_QUEUE_NUM;
		m[i * VHU_HDR_LEN + 4] = VHU_VERSION;
	}
	assert_int_equal(write(f->fd, m, sizeof(m)), sizeof(m));
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(wslx_loop_once(f->loop, 0), 0);
		assert_int_equal(recv(f->fd, raw, sizeof(raw), MSG_DONTWAIT), VHU_HDR_LEN + 8);
	}
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, fe_setup, fe_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_unsealed_memory),
		T(test_short_memory),
		T(test_malformed),
		T(test_addresses_outside_memory),
		T(test_changes_under_a_running_ring),
		T(test_message_in_pieces),
		T(test_front_end_that_does_not_read),
		T(test_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
