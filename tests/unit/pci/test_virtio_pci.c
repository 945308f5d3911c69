/* The virtio transport: negotiation, queues, interrupts, resets, threads. */
#include "world.h"

static void test_work(void **state)
{
	struct world *w = *state;
	char c;

	start_driver(w);
	assert_int_equal(status(w), 0xf);
	assert_int_equal(w->echo.activated, 1);
	assert_int_equal(w->echo.d.acked, WSLX_VIRTIO_F_VERSION_1);
	offer(w, 3);
	kick(w);
	assert_int_equal(used_idx(w), 1);
	assert_int_equal(wslx_gm_read(w->gm, wslx_gpa(BUFFER + 3), &c, 1), 0);
	assert_int_equal(c, 'x');
	assert_int_equal(messages(w, 0x41), 1);
	/* With MSI-X the queue bit of the ISR stays clear. */
	assert_int_equal(bar_read(w, w->isr, 1), 0);
	/* The queue that the driver did not set up has no doorbell, and a write there does nothing. */
	assert_false(wslx_hv_fake_guest_write(w->hv, w->bar + w->notify + 4, 2));
	bar_write(w, w->notify + 4, 1, 2);
	bar_write(w, w->notify + 0xff0, 1, 2);
	w->echo.kicks = 0;
	assert_int_equal(wslx_loop_once(w->loop, 0), 0);
	assert_int_equal(w->echo.kicks, 0);
}

static void test_work_without_irqfd(void **state)
{
	struct world *w = *state;

	start_driver(w);
	offer(w, 0);
	assert_false(wslx_hv_fake_guest_write(w->hv, w->bar + w->notify, 2));
	bar_write(w, w->notify, 0, 2);
	assert_int_equal(wslx_loop_once(w->loop, 0), 0);
	assert_int_equal(used_idx(w), 1);
	assert_int_equal(wslx_hv_fake_n_routes(w->hv), 0);
	assert_int_equal(messages(w, 0x41), 1);
}

static void test_isr_without_msix(void **state)
{
	struct world *w = *state;

	start_driver(w);
	cfg_write(w, SLOT, w->msix + 2, 0, 2);
	offer(w, 0);
	kick(w);
	assert_int_equal(messages(w, 0), 0);
	assert_int_equal(bar_read(w, w->isr, 1), 1);
	assert_int_equal(bar_read(w, w->isr, 1), 0);
	w->echo.d.transport_ops->config_changed(w->echo.d.transport);
	assert_int_equal(bar_read(w, w->isr, 1), 2);
}

static void test_features(void **state)
{
	struct world *w = *state;

	bar_write(w, w->common, 0, 4);
	assert_int_equal(bar_read(w, w->common + 4, 4), 1u << 5 | 1u << 28);
	bar_write(w, w->common, 1, 4);
	assert_int_equal(bar_read(w, w->common + 4, 4), 1);
	bar_write(w, w->common, 2, 4);
	assert_int_equal(bar_read(w, w->common + 4, 4), 0);
	/* Not offered; without VERSION_1; out of the words there are. */
	negotiate(w, WSLX_VIRTIO_F_VERSION_1 | 1);
	assert_int_equal(status(w), 3);
	set_status(w, 4);
	assert_int_equal(status(w), 3);
	assert_int_equal(w->echo.activated, 0);
	negotiate(w, 1u << 5);
	assert_int_equal(status(w), 3);
	negotiate(w, WSLX_VIRTIO_F_VERSION_1 | 1u << 5);
	assert_int_equal(status(w), 0xb);
	/* They stand now. */
	bar_write(w, w->common + 8, 0, 4);
	bar_write(w, w->common + 12, 0, 4);
	assert_int_equal(bar_read(w, w->common + 12, 4), 1u << 5);
	/* Bits do not go away, and the device's own cannot be set. */
	bar_write(w, w->common + 0x14, NEEDS_RESET | 1, 1);
	assert_int_equal(status(w), 0xb);
}

static void test_queue_registers(void **state)
{
	struct world *w = *state;

	negotiate(w, WSLX_VIRTIO_F_VERSION_1);
	bar_write(w, w->common + 0x16, 1, 2);
	assert_int_equal(bar_read(w, w->common + 0x18, 2), 64);
	assert_int_equal(bar_read(w, w->common + 0x1e, 2), 1);
	assert_int_equal(bar_read(w, w->common + 0x1a, 2), 0xffff);
	bar_write(w, w->common + 0x18, 65, 2);
	bar_write(w, w->common + 0x18, 128, 2);
	bar_write(w, w->common + 0x18, 0, 2);
	assert_int_equal(bar_read(w, w->common + 0x18, 2), 64);
	bar_write(w, w->common + 0x18, 32, 2);
	assert_int_equal(bar_read(w, w->common + 0x18, 2), 32);
	bar_write(w, w->common + 0x1a, 3, 2);
	assert_int_equal(bar_read(w, w->common + 0x1a, 2), 0xffff);
	bar_write(w, w->common + 0x1a, 2, 2);
	assert_int_equal(bar_read(w, w->common + 0x1a, 2), 2);
	bar_write(w, w->common + 0x20, 0x1122334455667788, 8);
	assert_int_equal(bar_read(w, w->common + 0x24, 4), 0x11223344);
	bar_write(w, w->common + 0x1c, 1, 2);
	bar_write(w, w->common + 0x20, 0, 8);
	assert_int_equal(bar_read(w, w->common + 0x20, 4), 0x55667788);
	/* A queue that does not exist. */
	bar_write(w, w->common + 0x16, 2, 2);
	assert_int_equal(bar_read(w, w->common + 0x18, 2), 0);
	bar_write(w, w->common + 0x18, 4, 2);
	bar_write(w, w->common + 0x1c, 1, 2);
	bar_write(w, w->common + 0x16, 0xffff, 2);
	bar_write(w, w->common + 0x1a, 0, 2);
}

static void test_bad_queue(void **state)
{
	struct world *w = *state;

	negotiate(w, WSLX_VIRTIO_F_VERSION_1);
	cfg_write(w, SLOT, w->msix + 2, 0x8000, 2);
	msix_entry(w, 0, 0x40, false);
	bar_write(w, w->common + 0x10, 0, 2);
	set_queue(w, MEM);
	set_status(w, 4);
	assert_int_equal(status(w), 0xf | NEEDS_RESET);
	assert_int_equal(w->echo.activated, 0);
	assert_false(w->echo.d.active);
	assert_int_equal(messages(w, 0x40), 1);
	/* A reset mends it. */
	start_driver(w);
	assert_int_equal(status(w), 0xf);
	assert_int_equal(w->echo.resets, 0); /* it was never active */
}

static void test_activation_fails(void **state)
{
	struct world *w = *state;

	w->echo.activate_result = -EIO;
	start_driver(w);
	assert_int_equal(status(w), 0xf | NEEDS_RESET);
	assert_false(w->echo.d.active);
}

static void test_broken(void **state)
{
	struct world *w = *state;
	uint8_t raw[2];

	start_driver(w);
	offer(w, 0);
	/* A descriptor number past the ring. */
	wslx_put_le16(raw, 77);
	assert_int_equal(wslx_gm_write(w->gm, wslx_gpa(AVAIL + 4), raw, 2), 0);
	kick(w);
	assert_int_equal(status(w), 0xf | NEEDS_RESET);
	assert_int_equal(messages(w, 0x40), 1);
	w->echo.kicks = 0;
	kick(w);
	assert_int_equal(w->echo.kicks, 0);
	start_driver(w);
	assert_int_equal(w->echo.resets, 1);
	offer(w, 0);
	kick(w);
	assert_int_equal(used_idx(w), 1);
}

static void test_reset_while_active(void **state)
{
	struct world *w = *state;

	start_driver(w);
	offer(w, 0);
	assert_true(wslx_hv_fake_guest_write(w->hv, w->bar + w->notify, 2));
	bar_write(w, w->common + 0x14, 0, 1);
	assert_int_equal(status(w), 0);
	assert_int_equal(w->echo.resets, 1);
	assert_false(w->echo.d.active);
	assert_int_equal(wslx_hv_fake_n_ioeventfds(w->hv), 0);
	/* The doorbell that rang before the reset finds nothing to do. */
	w->echo.kicks = 0;
	assert_int_equal(wslx_loop_once(w->loop, 0), 0);
	assert_int_equal(w->echo.kicks, 0);
	assert_int_equal(used_idx(w), 0);
	bar_write(w, w->common + 0x16, 0, 2);
	assert_int_equal(bar_read(w, w->common + 0x18, 2), 64);
	assert_int_equal(bar_read(w, w->common + 0x1c, 2), 0);
	assert_int_equal(bar_read(w, w->common + 0x1a, 2), 0xffff);
	assert_int_equal(bar_read(w, w->common + 0x20, 4), 0);
	start_driver(w);
	offer(w, 1);
	kick(w);
	assert_int_equal(used_idx(w), 1);
}

static void test_device_config(void **state)
{
	struct world *w = *state;
	unsigned generation;

	assert_int_equal(bar_read(w, w->device, 8), wslx_get_le64("configur"));
	assert_int_equal(bar_read(w, w->device + 6, 4), 0);
	generation = (unsigned)bar_read(w, w->common + 0x15, 1);
	bar_write(w, w->device + 1, 'X', 1);
	assert_int_equal(w->echo.config_writes, 1);
	assert_int_equal(bar_read(w, w->device, 4), wslx_get_le32("cXnf"));
	assert_int_not_equal(bar_read(w, w->common + 0x15, 1), generation);
	bar_write(w, w->device + 7, 0, 2);
	assert_int_equal(w->echo.config_writes, 1);
	/* Before DRIVER_OK nobody is told. */
	w->echo.config[0] = 'C';
	w->echo.d.transport_ops->config_changed(w->echo.d.transport);
	assert_int_equal(messages(w, 0), 0);
	assert_int_equal(bar_read(w, w->device, 1), 'C');
	start_driver(w);
	w->echo.d.transport_ops->config_changed(w->echo.d.transport);
	assert_int_equal(messages(w, 0x40), 1);
	assert_int_equal(bar_read(w, w->isr, 1), 2);
}

/* --- threads --- */

static void *run_loop(void *opaque)
{
	wslx_loop_run(opaque);
	return NULL;
}

static void nothing(void *opaque)
{
}

#define ROUNDS 300

/* A vCPU that resets and starts the device again and again. */
static void *vcpu_restarts(void *opaque)
{
	struct world *w = opaque;

	for (unsigned i = 0; i < ROUNDS; i++) {
		negotiate(w, WSLX_VIRTIO_F_VERSION_1);
		set_queue(w, DESC);
		set_status(w, 4);
	}
	return NULL;
}

/* Another that rings, masks, reads and moves things at the same time. */
static void *vcpu_noise(void *opaque)
{
	struct world *w = opaque;

	for (unsigned i = 0; i < ROUNDS; i++) {
		wslx_hv_fake_guest_write(w->hv, w->bar + w->notify, 2);
		bar_write(w, w->notify, 0, 2);
		msix_entry(w, i % 3, i, i & 1);
		cfg_write(w, SLOT, w->msix + 2, i & 2 ? 0x8000 : 0xc000, 2);
		bar_write(w, w->device, i, 1);
		bar_read(w, w->device, 8);
		bar_read(w, w->isr, 1);
		cfg_write(w, SLOT, 4, i % 7 ? 6 : 0, 2);
	}
	cfg_write(w, SLOT, 4, 6, 2);
	return NULL;
}

static void test_threads(void **state)
{
	struct world *w = *state;
	pthread_t loop, a, b;

	assert_int_equal(pthread_create(&loop, NULL, run_loop, w->loop), 0);
	wslx_loop_call(w->loop, nothing, NULL);
	assert_int_equal(pthread_create(&a, NULL, vcpu_restarts, w), 0);
	assert_int_equal(pthread_create(&b, NULL, vcpu_noise, w), 0);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	start_driver(w);
	assert_int_equal(status(w), 0xf);
	bar_write(w, w->common + 0x14, 0, 1);
	wslx_loop_stop(w->loop, 0);
	pthread_join(loop, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(setup, test_work),
		WITH(setup_bare, test_work_without_irqfd),
		WITH(setup, test_isr_without_msix),
		WITH(setup, test_features),
		WITH(setup, test_queue_registers),
		WITH(setup, test_bad_queue),
		WITH(setup, test_activation_fails),
		WITH(setup, test_broken),
		WITH(setup, test_reset_while_active),
		WITH(setup, test_device_config),
		WITH(setup, test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
