/* Configuration space, BARs and MSI-X, as a guest sees them. */
#include "world.h"

static void test_enumerate(void **state)
{
	struct world *w = *state;

	assert_int_equal(cfg_read(w, 0, 0x0a, 2), 0x0600);
	assert_int_equal(cfg_read(w, SLOT, 0, 4), 0x10441af4);
	assert_int_equal(cfg_read(w, SLOT, 8, 4), 0x00ff0001);
	assert_int_equal(cfg_read(w, SLOT, 0x3d, 1), 0);
	for (unsigned slot = 0; slot < 32; slot++) {
		assert_int_equal(port_read(w, slot, 0, 4), cfg_read(w, slot, 0, 4));
		if (slot != 0 && slot != SLOT)
			assert_int_equal(cfg_read(w, slot, 0, 4), 0xffffffff);
	}
	assert_int_equal(port_read(w, SLOT, 2, 2), 0x1044);
	/* Another function, another bus, extended space, an access across the end. */
	assert_int_equal(cfg_read(w, SLOT, 1u << 12, 4), 0xffffffff);
	assert_int_equal(cfg_read(w, SLOT, 1u << 20, 4), 0xffffffff);
	assert_int_equal(cfg_read(w, SLOT, 0x100, 4), 0xffffffff);
	assert_int_equal(cfg_read(w, SLOT, 0xfe, 4), 0xffffffff);
	cfg_write(w, SLOT, 0xfe, 0, 4);
	/* Identity is read-only. */
	cfg_write(w, SLOT, 0, 0, 4);
	assert_int_equal(cfg_read(w, SLOT, 0, 4), 0x10441af4);
}

static void test_port_latch(void **state)
{
	struct world *w = *state;
	uint8_t raw[4] = { 0 };

	/* Without the enable bit, and after a write that is not 32 bits wide, nothing is addressed. */
	wslx_bus_write(w->pio, 0xcf8, raw, 4);
	wslx_bus_write(w->pio, 0xcfb, "\x80", 1);
	wslx_bus_read(w->pio, 0xcfc, raw, 4);
	assert_int_equal(wslx_get_le32(raw), 0xffffffff);
	wslx_bus_read(w->pio, 0xcf8, raw, 4);
	assert_int_equal(wslx_get_le32(raw), 0);
}

static void test_bar_sizing(void **state)
{
	struct world *w = *state;
	uint32_t lo = cfg_read(w, SLOT, 0x10, 4), hi = cfg_read(w, SLOT, 0x14, 4);

	assert_int_equal(lo & 0xf, 4);
	cfg_write(w, SLOT, 4, 0, 2);
	cfg_write(w, SLOT, 0x10, 0xffffffff, 4);
	cfg_write(w, SLOT, 0x14, 0xffffffff, 4);
	assert_int_equal(cfg_read(w, SLOT, 0x10, 4), 0xffff8004);
	assert_int_equal(cfg_read(w, SLOT, 0x14, 4), 0xffffffff);
	for (unsigned i = 2; i < 6; i++) {
		cfg_write(w, SLOT, 0x10 + 4 * i, 0xffffffff, 4);
		assert_int_equal(cfg_read(w, SLOT, 0x10 + 4 * i, 4), 0);
	}
	cfg_write(w, SLOT, 0x10, lo, 4);
	cfg_write(w, SLOT, 0x14, hi, 4);
	assert_int_equal(bar_read(w, w->common + 0x12, 2), 0xffff);
	cfg_write(w, SLOT, 4, 2, 2);
	assert_int_equal(bar_read(w, w->common + 0x12, 2), 2);
}

static void move_bar(struct world *w, uint64_t to)
{
	cfg_write(w, SLOT, 4, 0, 2);
	cfg_write(w, SLOT, 0x10, (uint32_t)to, 4);
	cfg_write(w, SLOT, 0x14, (uint32_t)(to >> 32), 4);
	cfg_write(w, SLOT, 4, 6, 2);
	w->bar = to;
}

static void test_bar_moves(void **state)
{
	static const uint64_t nowhere[] = {
		0, 0x100000, 0xe0000000, 0xfee00000, 0x3fffffc000, 0x8000000000, 0xffffffffffff8000
	};
	struct world *w = *state;
	uint64_t old;

	start_driver(w);
	old = w->bar;
	move_bar(w, 0xd0000000);
	assert_int_equal(bar_read(w, w->common + 0x12, 2), 2);
	assert_false(wslx_hv_fake_guest_write(w->hv, old + w->notify, 2));
	offer(w, 0);
	kick(w);
	assert_int_equal(used_idx(w), 1);
	for (size_t i = 0; i < ARRAY_SIZE(nowhere); i++) {
		move_bar(w, nowhere[i]);
		/* Nothing answers there, or something else does. */
		assert_int_not_equal(bar_read(w, w->common + 0x12, 2), 2);
		assert_int_equal(wslx_hv_fake_n_ioeventfds(w->hv), 0);
	}
	move_bar(w, WSLX_PCI_WIN64_BASE + WSLX_PCI_WIN64_LEN - 0x8000);
	assert_int_equal(bar_read(w, w->common + 0x12, 2), 2);
	offer(w, 1);
	kick(w);
	assert_int_equal(used_idx(w), 2);
}

static void test_bars_collide(void **state)
{
	struct world *w = *state;
	struct echo other = w->echo;
	uint64_t first = w->bar;

	other.d.transport = NULL;
	assert_int_equal(wslx_virtio_pci_new(w->host, SLOT, &other.d, w->gm, NULL), -EEXIST);
	assert_int_equal(wslx_virtio_pci_new(w->host, 32, &other.d, w->gm, NULL), -EINVAL);
	assert_int_equal(wslx_virtio_pci_new(w->host, 6, &other.d, w->gm, NULL), 0);
	cfg_write(w, 6, 0x10, (uint32_t)first, 4);
	cfg_write(w, 6, 0x14, (uint32_t)(first >> 32), 4);
	cfg_write(w, 6, 4, 2, 2);
	/* The first still answers, and keeps doing so when the second goes away. */
	bar_write(w, w->common + 0x16, 1, 2);
	cfg_write(w, 6, 4, 0, 2);
	assert_int_equal(bar_read(w, w->common + 0x16, 2), 1);
	/* other lives on this stack: its function goes now. */
	wslx_pci_host_free(w->host);
	w->host = NULL;
}

static void test_msix_mask(void **state)
{
	struct world *w = *state;

	start_driver(w);
	messages(w, 0x41);
	bar_write(w, w->table + 16 + 12, 1, 4);
	offer(w, 0);
	kick(w);
	assert_int_equal(messages(w, 0), 0);
	assert_int_equal(bar_read(w, w->pba, 8), 2);
	/* A new message while masked; unmasking sends it once. */
	bar_write(w, w->table + 16 + 8, 0x77, 4);
	bar_write(w, w->table + 16 + 12, 0, 4);
	assert_int_equal(messages(w, 0x77), 1);
	assert_int_equal(bar_read(w, w->pba, 8), 0);
	/* Reserved bits of vector control do not stick. */
	bar_write(w, w->table + 16 + 12, 0xfffffffe, 4);
	assert_int_equal(bar_read(w, w->table + 16 + 12, 4), 0);
	/* The whole function. */
	cfg_write(w, SLOT, w->msix + 2, 0xc000, 2);
	offer(w, 1);
	kick(w);
	offer(w, 2);
	kick(w);
	assert_int_equal(messages(w, 0), 0);
	assert_int_equal(bar_read(w, w->pba, 4), 2);
	cfg_write(w, SLOT, w->msix + 2, 0x8000, 2);
	assert_int_equal(messages(w, 0x77), 1);
	/* Both at once: neither alone sends it. */
	cfg_write(w, SLOT, w->msix + 2, 0xc000, 2);
	bar_write(w, w->table + 16 + 12, 1, 4);
	offer(w, 3);
	kick(w);
	cfg_write(w, SLOT, w->msix + 2, 0x8000, 2);
	assert_int_equal(messages(w, 0), 0);
	bar_write(w, w->table + 16 + 12, 0, 4);
	assert_int_equal(messages(w, 0x77), 1);
}

static void test_msix_table_access(void **state)
{
	struct world *w = *state;

	/* Three vectors: two queues and the configuration. */
	assert_int_equal(cfg_read(w, SLOT, w->msix + 2, 2), 2);
	assert_int_equal(bar_read(w, w->table + 12, 4), 1);
	bar_write(w, w->table, 0x1111111122222222, 8);
	assert_int_equal(bar_read(w, w->table + 4, 4), 0x11111111);
	bar_write(w, w->table, 0xff, 1);
	bar_write(w, w->table + 2, 0xffff, 2);
	assert_int_equal(bar_read(w, w->table, 8), 0x1111111122222222);
	bar_write(w, w->table + 48, 1, 4);
	assert_int_equal(bar_read(w, w->table + 48, 4), 0);
	bar_write(w, w->pba, 0xff, 4);
	assert_int_equal(bar_read(w, w->pba, 4), 0);
	assert_int_equal(bar_read(w, w->pba + 0x100, 4), 0);
}

static void pci_window(struct world *w, unsigned bar, uint32_t off, uint32_t len)
{
	cfg_write(w, SLOT, w->pci + 4, bar, 1);
	cfg_write(w, SLOT, w->pci + 8, off, 4);
	cfg_write(w, SLOT, w->pci + 12, len, 4);
}

static void test_pci_window(void **state)
{
	struct world *w = *state;
	unsigned data = w->pci + 16;

	cfg_write(w, SLOT, 4, 0, 2); /* works with memory decoding off */
	pci_window(w, 0, w->common + 0x12, 2);
	assert_int_equal(cfg_read(w, SLOT, data, 2), 2);
	pci_window(w, 0, w->common + 0x14, 1);
	cfg_write(w, SLOT, data, 3, 1);
	assert_int_equal(cfg_read(w, SLOT, data, 1), 3);
	assert_int_equal(port_read(w, SLOT, data, 1), 3);
	/* Illegal ones do nothing: odd offset, bad length, other BAR, past the end. */
	cfg_write(w, SLOT, w->pci + 12, 0, 4);
	cfg_write(w, SLOT, data, 0x5a5a5a5a, 4);
	pci_window(w, 0, w->common + 0x13, 2);
	assert_int_equal(cfg_read(w, SLOT, data, 4), 0x5a5a5a5a);
	pci_window(w, 0, 0, 3);
	assert_int_equal(cfg_read(w, SLOT, data, 4), 0x5a5a5a5a);
	pci_window(w, 1, 0, 4);
	assert_int_equal(cfg_read(w, SLOT, data, 4), 0x5a5a5a5a);
	pci_window(w, 0, 0x8000, 4);
	assert_int_equal(cfg_read(w, SLOT, data, 4), 0x5a5a5a5a);
	pci_window(w, 0, 0xfffffffc, 4);
	assert_int_equal(cfg_read(w, SLOT, data, 4), 0x5a5a5a5a);
}

static void test_bad_vdev(void **state)
{
	struct world *w = *state;
	struct echo other = w->echo;

	other.d.queue_max[1] = 48;
	assert_int_equal(wslx_virtio_pci_new(w->host, 7, &other.d, w->gm, NULL), -EINVAL);
	other.d.queue_max[1] = 2048;
	assert_int_equal(wslx_virtio_pci_new(w->host, 7, &other.d, w->gm, NULL), -EINVAL);
	other.d.n_queues = 0;
	assert_int_equal(wslx_virtio_pci_new(w->host, 7, &other.d, w->gm, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(setup, test_enumerate),         WITH(setup, test_port_latch),   WITH(setup, test_bar_sizing),
		WITH(setup, test_bar_moves),         WITH(setup, test_bars_collide), WITH(setup, test_msix_mask),
		WITH(setup, test_msix_table_access), WITH(setup, test_pci_window),   WITH(setup, test_bad_vdev),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
