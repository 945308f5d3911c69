/*
 * The PCI side of a virtio device: a stream of accesses to configuration
 * space (both ways in), to the BAR wherever it may be, doorbells, and rings in
 * guest memory, against a small device on the fake hypervisor.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "dev/pci/pci.h"
#include "hv/fake/fake.h"
#include "input.h"

#define MEM (64 * WSLX_KIB)
#define SLOT 3u
#define CONFIG_LEN 24u

static struct wslx_hv *hv;
static struct wslx_bus *mmio, *pio;
static struct wslx_loop *loop;
static struct wslx_gm *gm;
static struct wslx_chain chain;
static uint8_t config[CONFIG_LEN];

static uint64_t dev_features(struct wslx_vdev *d)
{
	return WSLX_VIRTIO_F_EVENT_IDX | WSLX_VIRTIO_F_INDIRECT_DESC | 7;
}

static void dev_config_read(struct wslx_vdev *d, uint32_t off, void *buf, uint32_t len)
{
	if (off > CONFIG_LEN || len > CONFIG_LEN - off)
		abort();
	memcpy(buf, config + off, len);
}

static void dev_config_write(struct wslx_vdev *d, uint32_t off, const void *buf, uint32_t len)
{
	if (off > CONFIG_LEN || len > CONFIG_LEN - off)
		abort();
	memcpy(config + off, buf, len);
	if (config[0] & 1)
		d->transport_ops->config_changed(d->transport);
}

static int dev_activate(struct wslx_vdev *d)
{
	if (!d->active || !(d->acked & WSLX_VIRTIO_F_VERSION_1))
		abort();
	return config[1] == 0xff ? -1 : 0;
}

static void dev_kick(struct wslx_vdev *d, unsigned q)
{
	int r = 0;

	if (!d->active || d->broken || !d->vq[q].enabled)
		abort();
	for (unsigned i = 0; i < 64 && (r = wslx_vq_pop(&d->vq[q], &chain)) > 0; i++) {
		wslx_vq_push(&d->vq[q], chain.head, 0);
		wslx_vdev_notify_used(d, q);
	}
	if (r < 0)
		wslx_vdev_broken(d, "bad chain");
}

static void dev_nothing(struct wslx_vdev *d)
{
}

static const struct wslx_vdev_ops dev_ops = {
	.features = dev_features,
	.config_read = dev_config_read,
	.config_write = dev_config_write,
	.activate = dev_activate,
	.kick = dev_kick,
	.reset = dev_nothing,
	.quiesce = dev_nothing,
	.resume = dev_nothing,
	.free = dev_nothing,
};

static void set_up(void)
{
	wslx_log_init("fuzz", 2, WSLX_LOG_ERROR);
	if (wslx_hv_fake_new(&hv) < 0 || wslx_bus_new(&mmio) < 0 || wslx_bus_new(&pio) < 0 ||
	    wslx_loop_new(&loop) < 0 || wslx_gm_new(WSLX_GM_PRIVATE, MEM, &gm) < 0)
		abort();
}

static uint32_t ecam(unsigned slot, unsigned off)
{
	return WSLX_PCI_ECAM_BASE + (slot << 15) + off;
}

/* Where the guest last put the BAR. */
static uint64_t bar(void)
{
	uint8_t raw[8];

	wslx_bus_read(mmio, ecam(SLOT, 0x10), raw, 8);
	return wslx_get_le64(raw) & ~0xfull;
}

static void access_bus(struct wslx_bus *bus, uint64_t addr, struct input *in, bool write)
{
	unsigned len = 1u << (in_u8(in) & 3);
	uint8_t raw[8];

	if (!write) {
		wslx_bus_read(bus, addr, raw, len);
		return;
	}
	for (unsigned i = 0; i < len; i++)
		raw[i] = in_u8(in);
	wslx_bus_write(bus, addr, raw, len);
}

/* A legal driver's start, with queues where the input says. */
static void start_driver(struct input *in)
{
	static const uint8_t common[][2] = { { 0x14, 0 }, { 0x14, 1 }, { 0x14, 3 },
					     { 0x08, 1 }, { 0x0c, 1 }, { 0x14, 11 } };
	uint64_t at = bar();
	uint8_t raw[8] = { 0 };

	wslx_put_le16(raw, 6);
	wslx_bus_write(mmio, ecam(SLOT, 4), raw, 2);
	for (size_t i = 0; i < ARRAY_SIZE(common); i++) {
		wslx_put_le32(raw, common[i][1]);
		wslx_bus_write(mmio, at + common[i][0], raw, common[i][0] == 0x14 ? 1 : 4);
	}
	for (unsigned i = 0; i < 3; i++) {
		wslx_put_le64(raw, (uint64_t)in_u8(in) << 8);
		wslx_bus_write(mmio, at + 0x20 + 8 * i, raw, 8);
	}
	wslx_put_le16(raw, 1);
	wslx_bus_write(mmio, at + 0x1c, raw, 2);
	raw[0] = 15;
	wslx_bus_write(mmio, at + 0x14, raw, 1);
}

static void step(struct input *in, struct wslx_vdev *d)
{
	uint8_t op = in_u8(in), b;
	uint64_t addr;

	switch (op & 7) {
	case 0:
	case 1: /* configuration space: slot mostly ours, any offset */
		b = in_u8(in);
		access_bus(mmio, ecam(op & 0x40 ? b & 31 : SLOT, op & 0x20 ? b << 4 : b), in, op & 1);
		break;
	case 2:
		access_bus(pio, 0xcf8 + (in_u8(in) & 7), in, op & 8);
		break;
	case 3:
	case 4: /* the BAR */
		addr = bar() + (uint64_t)(op >> 5) * 0x1000 + (in_u16(in) & 0xfff);
		access_bus(mmio, addr, in, op & 4);
		break;
	case 5: /* guest memory */
		b = in_u8(in);
		(void)!wslx_gm_write(gm, wslx_gpa(in_u16(in)), &b, 1);
		break;
	case 6:
		wslx_hv_fake_guest_write(hv, bar() + 0x3000 + 4u * (op >> 6), 2);
		wslx_loop_once(loop, 0);
		wslx_hv_fake_poll_irqfds(hv);
		break;
	default:
		if (op & 8)
			start_driver(in);
		else if (op & 16)
			d->transport_ops->config_changed(d->transport);
		else
			wslx_loop_once(loop, 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct input in = { data, n };
	struct wslx_vdev d = {
		.ops = &dev_ops,
		.name = "fuzz",
		.id = WSLX_VIRTIO_ID_RNG,
		.n_queues = 3,
		.queue_max = { 8, 16, 4 },
		.config_len = CONFIG_LEN,
	};
	struct wslx_pci_host *host;
	uint8_t zero[4096] = { 0 };

	if (!hv)
		set_up();
	d.loop = loop;
	memset(config, 0, sizeof(config));
	for (uint64_t at = 0; at < MEM; at += sizeof(zero))
		if (wslx_gm_write(gm, wslx_gpa(at), zero, sizeof(zero)) < 0)
			abort();
	if (wslx_pci_host_new(hv, mmio, pio, &host) < 0 || wslx_virtio_pci_new(host, SLOT, &d, gm, NULL) < 0)
		abort();
	while (in.n)
		step(&in, &d);
	wslx_pci_host_free(host);
	/* Whatever the guest did, nothing of it stays behind. */
	if (wslx_hv_fake_n_routes(hv) || wslx_hv_fake_n_ioeventfds(hv) ||
	    wslx_bus_read(mmio, WSLX_PCI_ECAM_BASE, zero, 4))
		abort();
	wslx_hv_fake_clear_events(hv);
	wslx_loop_once(loop, 0);
	return 0;
}
