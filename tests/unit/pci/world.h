/* A PCI machine with one virtio device, and a driver for it, on the fake hypervisor. */
#ifndef TESTS_UNIT_PCI_WORLD_H
#define TESTS_UNIT_PCI_WORLD_H

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

static inline struct echo *echo_of(struct wslx_vdev *d)
{
	return CONTAINER_OF(d, struct echo, d);
}

static inline uint64_t echo_features(struct wslx_vdev *d)
{
	return 1ull << 5 | WSLX_VIRTIO_F_INDIRECT_DESC;
}

static inline void echo_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
	memcpy(buf, echo_of(d)->config + off, len);
}

static inline void echo_config_write(struct wslx_vdev *d, uint32_t off, const void *buf, uint32_t len)
{
	memcpy(echo_of(d)->config + off, buf, len);
	echo_of(d)->config_writes++;
}

static inline int echo_activate(struct wslx_vdev *d)
{
	echo_of(d)->activated++;
	return echo_of(d)->activate_result;
}

static inline void echo_kick(struct wslx_vdev *d, unsigned q)
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

static inline void echo_reset(struct wslx_vdev *d)
{
	echo_of(d)->resets++;
}

static inline void echo_nothing(struct wslx_vdev *d)
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

static inline uint32_t cfg_read(struct world *w, unsigned slot, unsigned off, unsigned len)
{
	uint8_t raw[4] = { 0 };

	wslx_bus_read(w->mmio, WSLX_PCI_ECAM_BASE + (slot << 15) + off, raw, len);
	return wslx_get_le32(raw);
}

static inline void cfg_write(struct world *w, unsigned slot, unsigned off, uint32_t v, unsigned len)
{
	uint8_t raw[4];

	wslx_put_le32(raw, v);
	wslx_bus_write(w->mmio, WSLX_PCI_ECAM_BASE + (slot << 15) + off, raw, len);
}

static inline uint32_t port_read(struct world *w, unsigned slot, unsigned off, unsigned len)
{
	uint8_t raw[4] = { 0 };

	wslx_put_le32(raw, 0x80000000u | slot << 11 | (off & 0xfc));
	wslx_bus_write(w->pio, 0xcf8, raw, 4);
	memset(raw, 0, sizeof(raw));
	wslx_bus_read(w->pio, 0xcfc + (off & 3), raw, len);
	return wslx_get_le32(raw);
}

static inline uint64_t bar_read(struct world *w, unsigned off, unsigned len)
{
	uint8_t raw[8] = { 0 };

	wslx_bus_read(w->mmio, w->bar + off, raw, len);
	return wslx_get_le64(raw);
}

static inline void bar_write(struct world *w, unsigned off, uint64_t v, unsigned len)
{
	uint8_t raw[8];

	wslx_put_le64(raw, v);
	wslx_bus_write(w->mmio, w->bar + off, raw, len);
}

/* Walks the capabilities as a driver does. */
static inline void find_caps(struct world *w)
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

static inline void map_bar(struct world *w)
{
	w->bar = (cfg_read(w, SLOT, 0x10, 4) & ~0xfu) | (uint64_t)cfg_read(w, SLOT, 0x14, 4) << 32;
	cfg_write(w, SLOT, 4, 6, 2);
}

static inline int setup_world(void **state)
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

static inline int setup(void **state)
{
	struct world *w;

	setup_world(state);
	w = *state;
	assert_int_equal(wslx_virtio_pci_new(w->host, SLOT, &w->echo.d, w->gm, NULL), 0);
	find_caps(w);
	map_bar(w);
	return 0;
}

static inline uint32_t no_caps(const struct wslx_hv *hv)
{
	return 0;
}

/* A hypervisor without irqfd and ioeventfd. */
static inline int setup_bare(void **state)
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

static inline int teardown(void **state)
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

static inline void set_status(struct world *w, uint8_t bits)
{
	bar_write(w, w->common + 0x14, bar_read(w, w->common + 0x14, 1) | bits, 1);
}

static inline uint8_t status(struct world *w)
{
	return (uint8_t)bar_read(w, w->common + 0x14, 1);
}

static inline void negotiate(struct world *w, uint64_t features)
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

static inline void msix_entry(struct world *w, unsigned i, uint32_t data, bool masked)
{
	bar_write(w, w->table + 16 * i + 12, 1, 4);
	bar_write(w, w->table + 16 * i, MSI_ADDR, 4);
	bar_write(w, w->table + 16 * i + 4, 0, 4);
	bar_write(w, w->table + 16 * i + 8, data, 4);
	bar_write(w, w->table + 16 * i + 12, masked, 4);
}

static inline void set_queue(struct world *w, uint64_t desc)
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

static inline void start_driver(struct world *w)
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
static inline void offer(struct world *w, unsigned i)
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

static inline unsigned used_idx(struct world *w)
{
	uint8_t raw[2];

	assert_int_equal(wslx_gm_read(w->gm, wslx_gpa(USED + 2), raw, 2), 0);
	return wslx_get_le16(raw);
}

/* Messages sent since the last call; they must all carry `data`. */
static inline unsigned messages(struct world *w, uint32_t data)
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

static inline void kick(struct world *w)
{
	assert_true(wslx_hv_fake_guest_write(w->hv, w->bar + w->notify, 2));
	assert_int_equal(wslx_loop_once(w->loop, 0), 0);
}

#define WITH(setup_fn, test_fn) cmocka_unit_test_setup_teardown(test_fn, setup_fn, teardown)

#endif
