/* The vhost-user server with a front end that keeps to the protocol. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "front_end.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "dev/vhost_user/server_internal.h"

static void test_requests(void **state)
{
	struct fixture *f = *state;

	fe_start(f);
	assert_int_equal(fe_get_u64(f, VHU_GET_QUEUE_NUM), N_QUEUES);
	assert_int_equal(f->toy.n_activate, 1);
	assert_int_equal(f->toy.d.acked, F_TOY | WSLX_VIRTIO_F_VERSION_1);
	for (int i = 0; i < 20; i++) {
		fe_round_trip(f, 0);
		fe_round_trip(f, 1);
	}
	close(f->fd);
	f->fd = -1;
	fe_expect_closed(f, 0);
	assert_int_equal(f->toy.n_reset, 1);
}

static void test_waits_for_enable(void **state)
{
	struct fixture *f = *state;

	fe_handshake(f);
	fe_set_ring(f, 0, 0);
	fe_submit(f, 0); /* early: must not be lost */
	assert_false(f->toy.d.active);
	fe_set_state(f, VHU_SET_VRING_ENABLE, 0, 1);
	assert_true(f->toy.d.active);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 1);
	fe_set_state(f, VHU_SET_VRING_ENABLE, 0, 0);
	fe_submit(f, 0);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 1);
	fe_set_state(f, VHU_SET_VRING_ENABLE, 0, 1);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 2);
	assert_int_equal(f->toy.n_activate, 1);
}

static void test_old_front_end(void **state)
{
	struct fixture *f = *state;

	/* Without protocol features a ring runs once it has its kick. */
	fe_get_u64(f, VHU_GET_FEATURES);
	fe_set_u64(f, VHU_SET_FEATURES, WSLX_VIRTIO_F_VERSION_1, NULL);
	fe_set_mem(f, f->memfd);
	fe_set_ring(f, 0, 0);
	assert_true(f->toy.d.active);
	fe_round_trip(f, 0);
	fe_set_ring(f, 1, 0);
	fe_round_trip(f, 1);
	assert_int_equal(f->toy.n_activate, 1);
	assert_int_equal(f->toy.n_reset, 0);
}

static void stop(struct fixture *f, uint32_t want0, uint32_t want1)
{
	assert_int_equal(fe_get_base(f, 0), want0);
	assert_int_equal(fe_get_base(f, 1), want1);
	assert_true(f->toy.quiesced);
}

static void restart(struct fixture *f, uint32_t base0, uint32_t base1)
{
	fe_set_u64(f, VHU_SET_FEATURES, F_TOY | WSLX_VIRTIO_F_VERSION_1 | VHU_F_PROTOCOL_FEATURES, NULL);
	fe_set_mem(f, f->memfd);
	fe_set_ring(f, 0, base0);
	fe_set_ring(f, 1, base1);
	fe_set_state(f, VHU_SET_VRING_ENABLE, 0, 1);
	fe_set_state(f, VHU_SET_VRING_ENABLE, 1, 1);
}

static void test_stop_and_continue(void **state)
{
	struct fixture *f = *state;

	fe_start(f);
	fe_round_trip(f, 0);
	fe_round_trip(f, 0);
	fe_round_trip(f, 1);
	stop(f, 2, 1);
	fe_submit(f, 0);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 2);
	restart(f, 2, 1);
	assert_int_equal(wslx_get_le16(f->mem + USED(0) + 2), 3);
	fe_round_trip(f, 0);
	fe_round_trip(f, 1);
	assert_int_equal(f->toy.n_activate, 1);
	assert_int_equal(f->toy.n_reset, 0);
}

static void test_stop_and_new_driver(void **state)
{
	struct fixture *f = *state;

	fe_start(f);
	fe_round_trip(f, 0);
	stop(f, 1, 0);
	memset(f->mem, 0, MEM_SIZE);
	memset(f->avail, 0, sizeof(f->avail));
	restart(f, 0, 0);
	assert_int_equal(f->toy.n_reset, 1);
	assert_int_equal(f->toy.n_activate, 2);
	fe_round_trip(f, 0);
	fe_round_trip(f, 1);
}

static void test_reset_device(void **state)
{
	struct fixture *f = *state;

	fe_start(f);
	fe_round_trip(f, 0);
	fe_send_msg(f, VHU_RESET_DEVICE, 0, NULL, 0, NULL, 0);
	assert_int_equal(f->toy.n_reset, 1);
	assert_false(f->toy.d.active);
	assert_false(f->closed);
}

static void test_config(void **state)
{
	struct fixture *f = *state;
	uint8_t p[VHU_CONFIG_HDR_LEN + 60] = { 0 }, r[100];

	/* More than the device has: zeroes behind it. */
	wslx_put_le32(p, 4);
	wslx_put_le32(p + 4, 20);
	fe_send_msg(f, VHU_GET_CONFIG, 0, p, VHU_CONFIG_HDR_LEN + 20, NULL, 0);
	assert_int_equal(fe_recv_reply(f, VHU_GET_CONFIG, r, sizeof(r)), VHU_CONFIG_HDR_LEN + 20);
	assert_int_equal(r[VHU_CONFIG_HDR_LEN], 5);
	assert_int_equal(r[VHU_CONFIG_HDR_LEN + 11], 16);
	assert_int_equal(r[VHU_CONFIG_HDR_LEN + 12], 0);
	wslx_put_le32(p, 15);
	wslx_put_le32(p + 4, 1);
	p[VHU_CONFIG_HDR_LEN] = 99;
	fe_send_msg(f, VHU_SET_CONFIG, 0, p, VHU_CONFIG_HDR_LEN + 1, NULL, 0);
	assert_int_equal(f->toy.config[15], 99);
	wslx_put_le32(p, 16); /* behind the end */
	fe_send_msg(f, VHU_SET_CONFIG, 0, p, VHU_CONFIG_HDR_LEN + 1, NULL, 0);
	fe_expect_closed(f, -EPROTO);
}

static void test_reply_ack(void **state)
{
	struct fixture *f = *state;
	uint8_t p[8] = { 0 }, r[8];

	fe_handshake(f);
	wslx_put_le32(p + 4, RING);
	fe_send_msg(f, VHU_SET_VRING_NUM, VHU_FLAG_NEED_REPLY, p, 8, NULL, 0);
	assert_int_equal(fe_recv_reply(f, VHU_SET_VRING_NUM, r, 8), 8);
	assert_int_equal(wslx_get_le64(r), 0);
	/* No second answer to what has one anyway. */
	fe_send_msg(f, VHU_GET_QUEUE_NUM, VHU_FLAG_NEED_REPLY, NULL, 0, NULL, 0);
	fe_recv_reply(f, VHU_GET_QUEUE_NUM, r, 8);
	assert_int_equal(recv(f->fd, r, 1, MSG_DONTWAIT), -1);
}

static void test_config_change_and_error(void **state)
{
	struct fixture *f = *state;
	uint8_t raw[64];
	int sv[2];

	fe_start(f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	fe_send_msg(f, VHU_SET_BACKEND_REQ_FD, 0, NULL, 0, &sv[1], 1);
	close(sv[1]);
	f->toy.d.transport_ops->config_changed(f->toy.d.transport);
	assert_int_equal(recv(sv[0], raw, sizeof(raw), MSG_DONTWAIT), VHU_HDR_LEN);
	assert_int_equal(wslx_get_le32(raw), VHU_BACKEND_CONFIG_CHANGE);
	close(sv[0]);
	/* A ring that is nonsense breaks the device, not the connection. */
	fe_put_desc(f, 0, 0, 0x10, 4, 0, 0);
	wslx_put_le16(f->mem + AVAIL(0) + 2, 1);
	f->toy.d.ops->kick(&f->toy.d, 0);
	assert_true(f->toy.d.broken);
	assert_true(fe_take(f->err[0]) > 0);
	assert_false(f->closed);
}

static void test_memory_table_changes(void **state)
{
	struct fixture *f = *state;
	cleanup_close int second = fe_make_memfd(F_SEAL_SHRINK);
	uint8_t p[8 + 2 * VHU_REGION_LEN] = { 2 };
	int fds[2] = { f->memfd, second };

	fe_start(f);
	fe_round_trip(f, 0);
	/* The same memory and more, while the rings run. */
	fe_put_region(p + 8, GPA, MEM_SIZE, UVA, 0);
	fe_put_region(p + 8 + VHU_REGION_LEN, GPA + MEM_SIZE, MEM_SIZE, UVA + MEM_SIZE, 0);
	fe_send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), fds, 2);
	assert_int_equal(f->toy.n_reset, 0);
	fe_round_trip(f, 0);
	assert_int_equal(wslx_gm_n_regions(f->toy.d.gm), 2);
	/* Other memory under the rings: a reset, and on with what is there. */
	p[0] = 1;
	fe_put_region(p + 8, GPA, MEM_SIZE, UVA, 0);
	fe_send_msg(f, VHU_SET_MEM_TABLE, 0, p, 8 + VHU_REGION_LEN, &second, 1);
	assert_int_equal(f->toy.n_reset, 1);
	assert_int_equal(f->toy.n_activate, 2);
	assert_int_equal(wslx_gm_n_regions(f->toy.d.gm), 1);
	assert_false(f->closed);
}

/* Memory that the process has mapped already is used where it is, and stays. */
static void test_window(void **state)
{
	struct fixture *f = *state;
	cleanup_close int second = fe_make_memfd(F_SEAL_SHRINK);
	uint8_t *w = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->memfd, 0);
	uint8_t p[8 + VHU_REGION_LEN] = { 1 };

	assert_true(w != MAP_FAILED);
	f->s->window = (struct wslx_vhost_window) { w, MEM_SIZE, f->memfd };
	fe_start(f);
	assert_ptr_equal(wslx_gm_region(f->toy.d.gm, 0)->host, w);
	fe_round_trip(f, 0);
	fe_set_mem(f, second);
	assert_ptr_not_equal(wslx_gm_region(f->toy.d.gm, 0)->host, w);
	w[0] = 1;
	/* A part of it, and more than there is. */
	fe_put_region(p + 8, GPA, MEM_SIZE - 4096, UVA, 4096);
	fe_send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), &f->memfd, 1);
	assert_ptr_equal(wslx_gm_region(f->toy.d.gm, 0)->host, w + 4096);
	fe_put_region(p + 8, GPA, MEM_SIZE, UVA, 4096);
	fe_send_msg(f, VHU_SET_MEM_TABLE, 0, p, sizeof(p), &f->memfd, 1);
	fe_expect_closed(f, -EINVAL);
	wslx_vhost_user_free(TAKE_PTR(f->s));
	w[MEM_SIZE - 1] = 1;
	munmap(w, MEM_SIZE);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, fe_setup, fe_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_requests),
		T(test_waits_for_enable),
		T(test_old_front_end),
		T(test_stop_and_continue),
		T(test_stop_and_new_driver),
		T(test_reset_device),
		T(test_config),
		T(test_reply_ack),
		T(test_config_change_and_error),
		T(test_memory_table_changes),
		T(test_window),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
