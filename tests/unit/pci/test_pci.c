/* PCI and the virtio transport, driven as a guest does it, on the fake hypervisor. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "dev/pci/pci.h"
#include "hv/fake/fake.h"

#define MEM (4 * WSLX_MIB)
#define SLOT 5u
#define DESC 0x10000u
#define AVAIL 0x11000u
#define USED 0x12000u
#define BUFFER 0x20000u
#define MSI_ADDR 0xfee00000u
#define NEEDS_RESET 0x40

/* A device with two queues that writes 'x' into every writable buffer. */
struct echo {
	struct wslx_vdev d;
	unsigned activated, resets, kicks, config_writes;
	int activate_result;
	uint8_t config[8];
	struct wslx_chain chain;
};

struct world {
	struct wslx_hv *hv;
	struct wslx_hv_ops ops; /* a copy, so that a test can take things away */
	struct wslx_bus *mmio, *pio;
	struct wslx_loop *loop;
	struct wslx_gm *gm;
	struct wslx_pci_host *host;
	struct echo echo;
	uint64_t bar;
	unsigned common, notify, isr, device, pci, msix; /* offsets in the BAR; pci, msix in configuration space */
	unsigned table, pba;
	uint16_t avail_idx;
};

static struct echo *echo_of(struct wslx_vdev *d)
{
	return CONTAINER_OF(d, struct echo, d);
}

static uint64_t echo_features(struct wslx_vdev *d)
{
	return 1ull << 5 | WSLX_VIRTIO_F_INDIRECT_DESC;
}

static void echo_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
	memcpy(buf, echo_of(d)->config + off, len);
}

static void echo_config_write(struct wslx_vdev *d, uint32_t off, const void *buf, uint32_t len)
{
	memcpy(echo_of(d)->config + off, buf, len);
	echo_of(d)->config_writes++;
}

static int echo_activate(struct wslx_vdev *d)
{
	echo_of(d)->activated++;
	return echo_of(d)->activate_result;
}

static void echo_kick(struct wslx_vdev *d, unsigned q)
{
	struct echo *e = echo_of(d);
	int r;

	e->kicks++;
	while ((r = wslx_vq_pop(&d->vq[q], &e->chain)) > 0) {
		wslx_iov_write(e->chain.iov + e->chain.n_out, e->chain.n_in, 0, "x", 1);
		wslx_vq_push(&d->vq[q], e->chain.head, 1);
		wslx_vdev_notify_used(d, q);
	}
	if (r < 0)
		wslx_vdev_broken(d, "bad chain");
}

static void echo_reset(struct wslx_vdev *d)
{
	echo_of(d)->resets++;
}

static void echo_nothing(struct wslx_vdev *d)
{
}

static const struct wslx_vdev_ops echo_ops = {
	.features = echo_features,
	.config_read = echo_config_read,
	.config_write = echo_config_write,
	.activate = echo_activate,
	.kick = echo_kick,
	.reset = echo_reset,
	.quiesce = echo_nothing,
	.resume = echo_nothing,
	.free = echo_nothing,
};

/* --- configuration space --- */

static uint32_t cfg_read(struct world *w, unsigned slot, unsigned off, unsigned len)
{
	uint8_t raw[4] = { 0 };

	wslx_bus_read(w->mmio, WSLX_PCI_ECAM_BASE + (slot << 15) + off, raw, len);
	return wslx_get_le32(raw);
}

static void cfg_write(struct world *w, unsigned slot, unsigned off, uint32_t v, unsigned len)
{
	uint8_t raw[4];

	wslx_put_le32(raw, v);
	wslx_bus_write(w->mmio, WSLX_PCI_ECAM_BASE + (slot << 15) + off, raw, len);
}

static uint32_t port_read(struct world *w, unsigned slot, unsigned off, unsigned len)
{
	uint8_t raw[4] = { 0 };

	wslx_put_le32(raw, 0x80000000u | slot << 11 | (off & 0xfc));
	wslx_bus_write(w->pio, 0xcf8, raw, 4);
	memset(raw, 0, sizeof(raw));
	wslx_bus_read(w->pio, 0xcfc + (off & 3), raw, len);
	return wslx_get_le32(raw);
}

static uint64_t bar_read(struct world *w, unsigned off, unsigned len)
{
	uint8_t raw[8] = { 0 };

	wslx_bus_read(w->mmio, w->bar + off, raw, len);
	return wslx_get_le64(raw);
}

static void bar_write(struct world *w, unsigned off, uint64_t v, unsigned len)
{
	uint8_t raw[8];

	wslx_put_le64(raw, v);
	wslx_bus_write(w->mmio, w->bar + off, raw, len);
}

/* Walks the capabilities as a driver does. */
static void find_caps(struct world *w)
{
	unsigned at = cfg_read(w, SLOT, 0x34, 1), n = 0;

	while (at) {
		unsigned id = cfg_read(w, SLOT, at, 1), off = cfg_read(w, SLOT, at + 8, 4);

		assert_true(at >= 0x40 && at % 4 == 0 && ++n < 16);
		if (id == 0x11) {
			w->msix = at;
			w->table = cfg_read(w, SLOT, at + 4, 4);
			w->pba = off;
		} else {
			assert_int_equal(id, 9);
			assert_int_equal(cfg_read(w, SLOT, at + 4, 1), 0);
			switch (cfg_read(w, SLOT, at + 3, 1)) {
			case 1:
				w->common = off;
				break;
			case 2:
				w->notify = off;
				assert_int_equal(cfg_read(w, SLOT, at + 16, 4), 4);
				break;
			case 3:
				w->isr = off;
				break;
			case 4:
				w->device = off;
				assert_int_equal(cfg_read(w, SLOT, at + 12, 4), 8);
				break;
			case 5:
				w->pci = at;
				break;
			default:
				fail();
			}
		}
		at = cfg_read(w, SLOT, at + 1, 1);
	}
	assert_int_equal(n, 6);
}

static void map_bar(struct world *w)
{
	w->bar = (cfg_read(w, SLOT, 0x10, 4) & ~0xfu) | (uint64_t)cfg_read(w, SLOT, 0x14, 4) << 32;
	cfg_write(w, SLOT, 4, 6, 2);
}

static int setup_world(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	struct wslx_vdev *d = &w->echo.d;

	assert_int_equal(wslx_hv_fake_new(&w->hv), 0);
	assert_int_equal(wslx_bus_new(&w->mmio), 0);
	assert_int_equal(wslx_bus_new(&w->pio), 0);
	assert_int_equal(wslx_loop_new(&w->loop), 0);
	assert_int_equal(wslx_gm_new(WSLX_GM_PRIVATE, MEM, &w->gm), 0);
	assert_int_equal(wslx_pci_host_new(w->hv, w->mmio, w->pio, &w->host), 0);
	*d = (struct wslx_vdev) {
		.ops = &echo_ops,
		.name = "echo",
		.id = WSLX_VIRTIO_ID_RNG,
		.class_code = 0x00ff00,
		.n_queues = 2,
		.queue_max = { 64, 64 },
		.config_len = 8,
		.loop = w->loop,
	};
	memcpy(w->echo.config, "configur", 8);
	*state = w;
	return 0;
}

static int setup(void **state)
{
	struct world *w;

	setup_world(state);
	w = *state;
	assert_int_equal(wslx_virtio_pci_new(w->host, SLOT, &w->echo.d, w->gm, NULL), 0);
	find_caps(w);
	map_bar(w);
	return 0;
}

static uint32_t no_caps(const struct wslx_hv *hv)
{
	return 0;
}

/* A hypervisor without irqfd and ioeventfd. */
static int setup_bare(void **state)
{
	struct world *w;

	setup_world(state);
	w = *state;
	w->ops = *w->hv->ops;
	w->ops.caps = no_caps;
	w->hv->ops = &w->ops;
	assert_int_equal(wslx_virtio_pci_new(w->host, SLOT, &w->echo.d, w->gm, NULL), 0);
	find_caps(w);
	map_bar(w);
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	wslx_pci_host_free(w->host);
	assert_int_equal(wslx_hv_fake_n_routes(w->hv), 0);
	assert_int_equal(wslx_hv_fake_n_ioeventfds(w->hv), 0);
	wslx_loop_free(w->loop);
	wslx_bus_free(w->mmio);
	wslx_bus_free(w->pio);
	wslx_gm_free(w->gm);
	w->hv->ops->free(w->hv);
	test_free(w);
	return 0;
}

/* --- a driver --- */

static void set_status(struct world *w, uint8_t bits)
{
	bar_write(w, w->common + 0x14, bar_read(w, w->common + 0x14, 1) | bits, 1);
}

static uint8_t status(struct world *w)
{
	return (uint8_t)bar_read(w, w->common + 0x14, 1);
}

static void negotiate(struct world *w, uint64_t features)
{
	bar_write(w, w->common + 0x14, 0, 1);
	set_status(w, 1);
	set_status(w, 2);
	for (unsigned i = 0; i < 2; i++) {
		bar_write(w, w->common + 8, i, 4);
		bar_write(w, w->common + 12, (uint32_t)(features >> (32 * i)), 4);
	}
	set_status(w, 8);
}

static void msix_entry(struct world *w, unsigned i, uint32_t data, bool masked)
{
	bar_write(w, w->table + 16 * i + 12, 1, 4);
	bar_write(w, w->table + 16 * i, MSI_ADDR, 4);
	bar_write(w, w->table + 16 * i + 4, 0, 4);
	bar_write(w, w->table + 16 * i + 8, data, 4);
	bar_write(w, w->table + 16 * i + 12, masked, 4);
}

static void set_queue(struct world *w, uint64_t desc)
{
	bar_write(w, w->common + 0x16, 0, 2);
	bar_write(w, w->common + 0x18, 16, 2);
	bar_write(w, w->common + 0x1a, 1, 2);
	bar_write(w, w->common + 0x20, (uint32_t)desc, 4);
	bar_write(w, w->common + 0x24, desc >> 32, 4);
	bar_write(w, w->common + 0x28, AVAIL, 8);
	bar_write(w, w->common + 0x30, USED, 4);
	bar_write(w, w->common + 0x1c, 1, 2);
}

static void start_driver(struct world *w)
{
	uint8_t zero[0x3000] = { 0 };

	assert_int_equal(wslx_gm_write(w->gm, wslx_gpa(DESC), zero, sizeof(zero)), 0);
	w->avail_idx = 0;
	negotiate(w, WSLX_VIRTIO_F_VERSION_1);
	assert_true(status(w) & 8);
	cfg_write(w, SLOT, w->msix + 2, 0x8000, 2);
	msix_entry(w, 0, 0x40, false);
	msix_entry(w, 1, 0x41, false);
	bar_write(w, w->common + 0x10, 0, 2);
	assert_int_equal(bar_read(w, w->common + 0x10, 2), 0);
	set_queue(w, DESC);
	set_status(w, 4);
}

/* One writable buffer of a byte at descriptor i. */
static void offer(struct world *w, unsigned i)
{
	uint8_t desc[16] = { 0 }, raw[2];

	wslx_put_le64(desc, BUFFER + i);
	wslx_put_le32(desc + 8, 1);
	wslx_put_le16(desc + 12, 2);
	assert_int_equal(wslx_gm_write(w->gm, wslx_gpa(DESC + 16 * i), desc, sizeof(desc)), 0);
	wslx_put_le16(raw, (uint16_t)i);
	assert_int_equal(wslx_gm_write(w->gm, wslx_gpa(AVAIL + 4u + 2u * (w->avail_idx % 16)), raw, 2), 0);
	wslx_put_le16(raw, ++w->avail_idx);
	assert_int_equal(wslx_gm_write(w->gm, wslx_gpa(AVAIL + 2), raw, 2), 0);
}

static unsigned used_idx(struct world *w)
{
	uint8_t raw[2];

	assert_int_equal(wslx_gm_read(w->gm, wslx_gpa(USED + 2), raw, 2), 0);
	return wslx_get_le16(raw);
}

/* Messages sent since the last call; they must all carry `data`. */
static unsigned messages(struct world *w, uint32_t data)
{
	size_t n;

	wslx_hv_fake_poll_irqfds(w->hv);
	n = wslx_hv_fake_n_events(w->hv);
	for (size_t i = 0; i < n; i++) {
		struct wslx_fake_event e = wslx_hv_fake_event(w->hv, i);

		assert_int_equal(e.kind, WSLX_FAKE_MSI);
		assert_int_equal(e.msi.addr, MSI_ADDR);
		assert_int_equal(e.msi.data, data);
	}
	wslx_hv_fake_clear_events(w->hv);
	return (unsigned)n;
}

static void kick(struct world *w)
{
	assert_true(wslx_hv_fake_guest_write(w->hv, w->bar + w->notify, 2));
	assert_int_equal(wslx_loop_once(w->loop, 0), 0);
}

/* --- tests --- */

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

#define WITH(setup_fn, test_fn) cmocka_unit_test_setup_teardown(test_fn, setup_fn, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(setup, test_enumerate),
		WITH(setup, test_port_latch),
		WITH(setup, test_bar_sizing),
		WITH(setup, test_bar_moves),
		WITH(setup, test_bars_collide),
		WITH(setup, test_work),
		WITH(setup_bare, test_work_without_irqfd),
		WITH(setup, test_isr_without_msix),
		WITH(setup, test_features),
		WITH(setup, test_queue_registers),
		WITH(setup, test_bad_queue),
		WITH(setup, test_activation_fails),
		WITH(setup, test_broken),
		WITH(setup, test_reset_while_active),
		WITH(setup, test_msix_mask),
		WITH(setup, test_msix_table_access),
		WITH(setup, test_device_config),
		WITH(setup, test_pci_window),
		WITH(setup, test_bad_vdev),
		WITH(setup, test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
