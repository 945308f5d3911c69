/*
 * virtio over PCI, modern only (virtio 1.2, section 4.1).
 *
 * Theory of operation.  One 64-bit BAR holds all structures, a page each:
 * common configuration, ISR, device configuration, notification area, MSI-X
 * table and pending bits.  Each queue has a doorbell: an eventfd that the
 * device's loop watches.  Where the hypervisor has ioeventfds the guest's
 * write rings it without an exit to us; otherwise, and for queues that are not
 * live, the write comes here and we ring it.
 *
 * Threads.  Registers are accessed on vCPU threads under func->lock.  What
 * concerns the device model (activate, reset, a write to its configuration)
 * runs on its loop by wslx_loop_call, with func->lock held, so that the vCPU
 * sees the outcome when its instruction ends and other vCPUs wait.  The loop
 * takes only msix.lock, which guards vectors, the ISR byte and the copy of the
 * device configuration.  That copy, renewed on the loop whenever the device
 * says that it changed, answers the guest's reads without a switch to the loop.
 *
 * Trust boundary: every register value is the guest's.  Illegal ones are
 * ignored or make the device need a reset; none of them allocates.
 */
#include "dev/pci/internal.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "base/log.h"

#define STATUS_DRIVER_OK 0x04
#define STATUS_FEATURES_OK 0x08
#define STATUS_NEEDS_RESET 0x40
#define STATUS_FROM_DRIVER 0x8f /* acknowledge, driver, driver ok, features ok, failed */

#define ISR_QUEUE 0x01
#define ISR_CONFIG 0x02

#define BAR_LEN 0x8000u
#define BAR_SPACING 0x10000u
#define AREA_LEN 0x1000u
#define AREA_COMMON 0x0000u
#define AREA_ISR 0x1000u
#define AREA_DEVICE 0x2000u
#define AREA_NOTIFY 0x3000u
#define AREA_MSIX 0x4000u
#define AREA_PBA 0x5000u
#define NOTIFY_MULTIPLIER 4u

/* struct virtio_pci_cap (4.1.4). */
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR 3
#define CAP_DEVICE 4
#define CAP_PCI 5
#define CAP_LEN 16u
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_DATA 16

/* struct virtio_pci_common_cfg (4.1.4.3). */
#define COMMON_DEVICE_FEATURE_SELECT 0x00
#define COMMON_DEVICE_FEATURE 0x04
#define COMMON_DRIVER_FEATURE_SELECT 0x08
#define COMMON_DRIVER_FEATURE 0x0c
#define COMMON_CONFIG_VECTOR 0x10
#define COMMON_NUM_QUEUES 0x12
#define COMMON_STATUS 0x14
#define COMMON_GENERATION 0x15
#define COMMON_QUEUE_SELECT 0x16
#define COMMON_QUEUE_SIZE 0x18
#define COMMON_QUEUE_VECTOR 0x1a
#define COMMON_QUEUE_ENABLE 0x1c
#define COMMON_QUEUE_NOTIFY_OFF 0x1e
#define COMMON_QUEUE_DESC 0x20
#define COMMON_QUEUE_AVAIL 0x28
#define COMMON_QUEUE_USED 0x30
#define COMMON_LEN 0x38u

struct vp_queue {
	struct wslx_virtio_pci *vp;
	unsigned index;
	uint16_t size;
	bool enabled;
	uint64_t addr[3]; /* descriptors, available ring, used ring */
	int kick_fd;
	struct wslx_watch *watch;
	bool doorbell; /* the hypervisor rings kick_fd */
};

struct wslx_virtio_pci {
	struct wslx_pci_func f;
	struct wslx_vdev *d;
	unsigned cap_msix, cap_pci;

	/* func->lock: */
	uint64_t offered, accepted;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;
	struct vp_queue q[WSLX_VDEV_MAX_QUEUES];

	_Atomic uint8_t status;

	struct wslx_msix msix;
	/* msix.lock: */
	uint16_t config_vector, queue_vector[WSLX_VDEV_MAX_QUEUES];
	uint8_t isr, generation;
	uint8_t *config; /* config_len bytes */

	uint8_t *fresh; /* loop only: room for the next copy */
};

static struct wslx_virtio_pci *vp_of(struct wslx_pci_func *f)
{
	return CONTAINER_OF(f, struct wslx_virtio_pci, f);
}

/* --- interrupts: on the loop --- */

static void raise_config_locked(struct wslx_virtio_pci *vp)
{
	vp->isr |= ISR_CONFIG; /* 4.1.4.5.1: whether or not MSI-X is on */
	wslx_msix_raise_locked(&vp->msix, vp->config_vector);
}

static void vp_interrupt(void *transport, unsigned q)
{
	struct wslx_virtio_pci *vp = transport;

	pthread_mutex_lock(&vp->msix.lock);
	if (!wslx_msix_raise_locked(&vp->msix, vp->queue_vector[q]))
		vp->isr |= ISR_QUEUE;
	pthread_mutex_unlock(&vp->msix.lock);
}

/* Renews the copy of the device configuration; true if it changed. */
static bool refresh_config(struct wslx_virtio_pci *vp)
{
	uint32_t len = vp->d->config_len;
	bool changed;

	if (!len)
		return false;
	memset(vp->fresh, 0, len);
	vp->d->ops->config_read(vp->d, 0, vp->fresh, len);
	pthread_mutex_lock(&vp->msix.lock);
	changed = memcmp(vp->config, vp->fresh, len);
	if (changed) {
		memcpy(vp->config, vp->fresh, len);
		vp->generation++;
	}
	pthread_mutex_unlock(&vp->msix.lock);
	return changed;
}

static void vp_config_changed(void *transport)
{
	struct wslx_virtio_pci *vp = transport;

	refresh_config(vp);
	pthread_mutex_lock(&vp->msix.lock);
	if (atomic_load(&vp->status) & STATUS_DRIVER_OK)
		raise_config_locked(vp);
	pthread_mutex_unlock(&vp->msix.lock);
}

/* 2.1.2: the driver hears of it only after it has set DRIVER_OK. */
static void vp_needs_reset(void *transport)
{
	struct wslx_virtio_pci *vp = transport;
	uint8_t before = atomic_fetch_or(&vp->status, STATUS_NEEDS_RESET);

	pthread_mutex_lock(&vp->msix.lock);
	if ((before & STATUS_DRIVER_OK) && !(before & STATUS_NEEDS_RESET))
		raise_config_locked(vp);
	pthread_mutex_unlock(&vp->msix.lock);
}

static const struct wslx_transport_ops transport_ops = {
	.interrupt = vp_interrupt,
	.config_changed = vp_config_changed,
	.needs_reset = vp_needs_reset,
};

/* --- doorbells --- */

static void on_kick(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct vp_queue *q = opaque;
	struct wslx_vdev *d = q->vp->d;
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0)
		return;
	if (d->active && !d->broken && d->vq[q->index].enabled)
		d->ops->kick(d, q->index);
}

static void ring(struct vp_queue *q)
{
	uint64_t one = 1;

	if (write(q->kick_fd, &one, sizeof(one)) < 0)
		(void)0; /* the count is at its end: rung anyway */
}

/* Follows the BAR and the device's state.  func->lock held. */
static void set_doorbell(struct wslx_virtio_pci *vp, struct vp_queue *q, uint64_t bar, bool on)
{
	struct wslx_hv *hv = vp->msix.hv;
	struct wslx_gpa gpa = wslx_gpa(bar + AREA_NOTIFY + q->index * NOTIFY_MULTIPLIER);

	if (on == q->doorbell || !(hv->ops->caps(hv) & WSLX_HV_CAP_IOEVENTFD))
		return;
	/* If that fails the writes come to us: slower, and right. */
	if (hv->ops->ioeventfd(hv, gpa, 0, q->kick_fd, on) == 0)
		q->doorbell = on;
	else
		log_guest("%s: no doorbell for queue %u", vp->d->name, q->index);
}

static void set_doorbells(struct wslx_virtio_pci *vp, uint64_t bar, bool on)
{
	for (unsigned i = 0; i < vp->d->n_queues; i++)
		set_doorbell(vp, &vp->q[i], bar, on && vp->q[i].enabled);
}

static void vp_bar_mapped(struct wslx_pci_func *f, uint64_t base, bool mapped)
{
	struct wslx_virtio_pci *vp = vp_of(f);

	set_doorbells(vp, base, mapped && (atomic_load(&vp->status) & STATUS_DRIVER_OK));
}

/* --- device status (2.1, 3.1) --- */

static void forget_driver(struct wslx_virtio_pci *vp)
{
	vp->accepted = 0;
	vp->device_feature_select = vp->driver_feature_select = 0;
	vp->queue_select = 0;
	for (unsigned i = 0; i < vp->d->n_queues; i++) {
		vp->q[i].size = vp->d->queue_max[i];
		vp->q[i].enabled = false;
		memset(vp->q[i].addr, 0, sizeof(vp->q[i].addr));
	}
	pthread_mutex_lock(&vp->msix.lock);
	vp->config_vector = WSLX_MSIX_NONE;
	for (unsigned i = 0; i < WSLX_VDEV_MAX_QUEUES; i++)
		vp->queue_vector[i] = WSLX_MSIX_NONE;
	vp->isr = 0;
	pthread_mutex_unlock(&vp->msix.lock);
}

/* On the loop. */
static void reset_call(void *opaque)
{
	struct wslx_virtio_pci *vp = opaque;
	struct wslx_vdev *d = vp->d;

	if (d->active)
		d->ops->reset(d);
	for (unsigned i = 0; i < d->n_queues; i++)
		wslx_vq_disable(&d->vq[i]);
	d->active = d->broken = false;
	d->acked = 0;
	refresh_config(vp);
	/* Here, so that nothing the device did before can set a bit after. */
	atomic_store(&vp->status, 0);
}

static void reset(struct wslx_virtio_pci *vp)
{
	if (vp->f.bar_on)
		set_doorbells(vp, vp->f.bar_base, false);
	wslx_loop_call(vp->d->loop, reset_call, vp);
	forget_driver(vp);
}

static int enable_queues(struct wslx_virtio_pci *vp)
{
	struct wslx_vdev *d = vp->d;

	for (unsigned i = 0; i < d->n_queues; i++) {
		const struct vp_queue *q = &vp->q[i];
		int r;

		if (!q->enabled)
			continue;
		r = wslx_vq_enable(&d->vq[i], d->gm, q->size, wslx_gpa(q->addr[0]), wslx_gpa(q->addr[1]),
				   wslx_gpa(q->addr[2]), d->acked & WSLX_VIRTIO_F_EVENT_IDX);
		if (r < 0) {
			log_guest("%s: the driver's queue %u is not usable: %s", d->name, i, strerror(-r));
			return r;
		}
	}
	return 0;
}

/* On the loop; the vCPU that waits holds func->lock, so the registers stand still. */
static void activate_call(void *opaque)
{
	struct wslx_virtio_pci *vp = opaque;
	struct wslx_vdev *d = vp->d;
	int r;

	d->acked = vp->accepted;
	r = enable_queues(vp);
	if (r == 0) {
		d->active = true;
		r = d->ops->activate(d);
	}
	if (r < 0) {
		d->active = false;
		for (unsigned i = 0; i < d->n_queues; i++)
			wslx_vq_disable(&d->vq[i]);
		vp_needs_reset(vp);
		return;
	}
	refresh_config(vp);
	/* Buffers may be there already, and doorbells rung too early are lost. */
	for (unsigned i = 0; i < d->n_queues && d->active && !d->broken; i++)
		if (d->vq[i].enabled)
			d->ops->kick(d, i);
}

static bool features_ok(const struct wslx_virtio_pci *vp)
{
	/* 6.1: no driver without VERSION_1; 2.2: nothing that was not offered. */
	return !(vp->accepted & ~vp->offered) && (vp->accepted & WSLX_VIRTIO_F_VERSION_1);
}

static void write_status(struct wslx_virtio_pci *vp, uint8_t v)
{
	uint8_t now = atomic_load(&vp->status);

	if (!v) {
		reset(vp);
		return;
	}
	/* Bits are added, and go away by a reset only. */
	v &= STATUS_FROM_DRIVER & (uint8_t)~now;
	if ((v & STATUS_FEATURES_OK) && !features_ok(vp))
		v &= (uint8_t)~STATUS_FEATURES_OK;
	if (!((now | v) & STATUS_FEATURES_OK))
		v &= (uint8_t)~STATUS_DRIVER_OK;
	atomic_fetch_or(&vp->status, v);
	if (!(v & STATUS_DRIVER_OK))
		return;
	wslx_loop_call(vp->d->loop, activate_call, vp);
	if (vp->f.bar_on)
		set_doorbells(vp, vp->f.bar_base, true);
}

/* --- common configuration --- */

static struct vp_queue *selected(struct wslx_virtio_pci *vp)
{
	return vp->queue_select < vp->d->n_queues ? &vp->q[vp->queue_select] : NULL;
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static void common_encode_queue(struct wslx_virtio_pci *vp, const struct vp_queue *q, uint8_t *r)
{
	wslx_put_le16(r + COMMON_QUEUE_SIZE, q->size);
	wslx_put_le16(r + COMMON_QUEUE_VECTOR, vp->queue_vector[q->index]);
	wslx_put_le16(r + COMMON_QUEUE_ENABLE, q->enabled);
	wslx_put_le16(r + COMMON_QUEUE_NOTIFY_OFF, (uint16_t)q->index);
	for (unsigned i = 0; i < 3; i++)
		wslx_put_le64(r + COMMON_QUEUE_DESC + 8 * i, q->addr[i]);
}

static void common_read(struct wslx_virtio_pci *vp, uint64_t off, void *buf, unsigned len)
{
	const struct vp_queue *q = selected(vp);
	uint8_t r[COMMON_LEN] = { 0 };

	memset(buf, 0, len);
	if (!wslx_range_ok(off, len, sizeof(r)))
		return;
	wslx_put_le32(r + COMMON_DEVICE_FEATURE_SELECT, vp->device_feature_select);
	wslx_put_le32(r + COMMON_DEVICE_FEATURE, feature_word(vp->offered, vp->device_feature_select));
	wslx_put_le32(r + COMMON_DRIVER_FEATURE_SELECT, vp->driver_feature_select);
	wslx_put_le32(r + COMMON_DRIVER_FEATURE, feature_word(vp->accepted, vp->driver_feature_select));
	wslx_put_le16(r + COMMON_NUM_QUEUES, (uint16_t)vp->d->n_queues);
	r[COMMON_STATUS] = atomic_load(&vp->status);
	wslx_put_le16(r + COMMON_QUEUE_SELECT, vp->queue_select);
	pthread_mutex_lock(&vp->msix.lock);
	wslx_put_le16(r + COMMON_CONFIG_VECTOR, vp->config_vector);
	r[COMMON_GENERATION] = vp->generation;
	if (q)
		common_encode_queue(vp, q, r);
	pthread_mutex_unlock(&vp->msix.lock);
	memcpy(buf, r + off, len);
}

static void write_feature(struct wslx_virtio_pci *vp, uint32_t v)
{
	uint32_t shift = 32 * vp->driver_feature_select;

	/* 3.1.1: they stand once FEATURES_OK is set. */
	if (vp->driver_feature_select > 1 || (atomic_load(&vp->status) & STATUS_FEATURES_OK))
		return;
	vp->accepted = (vp->accepted & ~(0xffffffffull << shift)) | (uint64_t)v << shift;
}

/* 4.1.5.1.2.1: a vector that does not exist reads back as NO_VECTOR. */
static void write_vector(struct wslx_virtio_pci *vp, uint16_t *vector, uint16_t v)
{
	pthread_mutex_lock(&vp->msix.lock);
	*vector = v < vp->msix.n ? v : WSLX_MSIX_NONE;
	pthread_mutex_unlock(&vp->msix.lock);
}

static void write_queue_size(struct wslx_virtio_pci *vp, struct vp_queue *q, uint16_t v)
{
	if (v && v <= vp->d->queue_max[q->index] && !(v & (v - 1)))
		q->size = v;
	else
		log_guest("%s: the driver asked for %u entries in queue %u", vp->d->name, v, q->index);
}

/* Fields of the selected queue, while they may still be written. */
static void write_queue(struct wslx_virtio_pci *vp, unsigned off, uint64_t v, unsigned len)
{
	struct vp_queue *q = selected(vp);
	unsigned i = (off - COMMON_QUEUE_DESC) / 8;

	if (!q)
		return;
	if (off == COMMON_QUEUE_VECTOR && len == 2) {
		write_vector(vp, &vp->queue_vector[q->index], (uint16_t)v);
		return;
	}
	if (q->enabled || (atomic_load(&vp->status) & STATUS_DRIVER_OK))
		return;
	if (off == COMMON_QUEUE_SIZE && len == 2)
		write_queue_size(vp, q, (uint16_t)v);
	else if (off == COMMON_QUEUE_ENABLE && len == 2)
		q->enabled = v == 1;
	else if (off < COMMON_QUEUE_DESC)
		return;
	else if (len == 8 && off % 8 == 0)
		q->addr[i] = v;
	else if (len == 4 && off % 8 == 0)
		q->addr[i] = (q->addr[i] & ~0xffffffffull) | v;
	else if (len == 4 && off % 8 == 4)
		q->addr[i] = (q->addr[i] & 0xffffffff) | v << 32;
}

/* 4.1.3.1: each field is accessed at its own width, 64-bit ones also by halves. */
static void common_write(struct wslx_virtio_pci *vp, uint64_t off, const void *buf, unsigned len)
{
	uint8_t raw[8] = { 0 };
	uint64_t v;

	if (!wslx_range_ok(off, len, COMMON_LEN))
		return;
	memcpy(raw, buf, len);
	v = wslx_get_le64(raw);
	if (off == COMMON_DEVICE_FEATURE_SELECT && len == 4)
		vp->device_feature_select = (uint32_t)v;
	else if (off == COMMON_DRIVER_FEATURE_SELECT && len == 4)
		vp->driver_feature_select = (uint32_t)v;
	else if (off == COMMON_DRIVER_FEATURE && len == 4)
		write_feature(vp, (uint32_t)v);
	else if (off == COMMON_CONFIG_VECTOR && len == 2)
		write_vector(vp, &vp->config_vector, (uint16_t)v);
	else if (off == COMMON_STATUS && len == 1)
		write_status(vp, (uint8_t)v);
	else if (off == COMMON_QUEUE_SELECT && len == 2)
		vp->queue_select = (uint16_t)v;
	else if (off >= COMMON_QUEUE_SIZE)
		write_queue(vp, (unsigned)off, v, len);
}

/* --- device configuration --- */

struct config_write {
	struct wslx_virtio_pci *vp;
	uint32_t off, len;
	const void *buf;
};

static void config_write_call(void *opaque)
{
	struct config_write *c = opaque;

	c->vp->d->ops->config_write(c->vp->d, c->off, c->buf, c->len);
	refresh_config(c->vp);
}

static void device_write(struct wslx_virtio_pci *vp, uint64_t off, const void *buf, unsigned len)
{
	struct config_write c = { vp, (uint32_t)off, len, buf };

	if (vp->d->ops->config_write && wslx_range_ok(off, len, vp->d->config_len))
		wslx_loop_call(vp->d->loop, config_write_call, &c);
}

static void device_read(struct wslx_virtio_pci *vp, uint64_t off, void *buf, unsigned len)
{
	memset(buf, 0, len);
	if (!wslx_range_ok(off, len, vp->d->config_len))
		return;
	pthread_mutex_lock(&vp->msix.lock);
	memcpy(buf, vp->config + off, len);
	pthread_mutex_unlock(&vp->msix.lock);
}

static void isr_read(struct wslx_virtio_pci *vp, uint64_t off, void *buf, unsigned len)
{
	memset(buf, 0, len);
	if (off)
		return;
	pthread_mutex_lock(&vp->msix.lock);
	*(uint8_t *)buf = vp->isr;
	vp->isr = 0; /* 4.1.4.5: reading clears it */
	pthread_mutex_unlock(&vp->msix.lock);
}

static void notify_write(struct wslx_virtio_pci *vp, uint64_t off)
{
	uint64_t q = off / NOTIFY_MULTIPLIER;

	if (q < vp->d->n_queues)
		ring(&vp->q[q]);
}

/* --- the BAR --- */

static void vp_bar_read(struct wslx_pci_func *f, uint64_t off, void *buf, unsigned len)
{
	struct wslx_virtio_pci *vp = vp_of(f);
	uint64_t at = off % AREA_LEN;

	memset(buf, 0, len);
	switch (off - at) {
	case AREA_COMMON:
		common_read(vp, at, buf, len);
		break;
	case AREA_ISR:
		isr_read(vp, at, buf, len);
		break;
	case AREA_DEVICE:
		device_read(vp, at, buf, len);
		break;
	case AREA_MSIX:
		wslx_msix_table_read(&vp->msix, at, buf, len);
		break;
	case AREA_PBA:
		wslx_msix_pba_read(&vp->msix, at, buf, len);
		break;
	default:
		break;
	}
}

static void vp_bar_write(struct wslx_pci_func *f, uint64_t off, const void *buf, unsigned len)
{
	struct wslx_virtio_pci *vp = vp_of(f);
	uint64_t at = off % AREA_LEN;

	switch (off - at) {
	case AREA_COMMON:
		common_write(vp, at, buf, len);
		break;
	case AREA_DEVICE:
		device_write(vp, at, buf, len);
		break;
	case AREA_NOTIFY:
		notify_write(vp, at);
		break;
	case AREA_MSIX:
		wslx_msix_table_write(&vp->msix, at, buf, len);
		break;
	default:
		break;
	}
}

/* --- configuration space --- */

static bool touches(unsigned off, unsigned len, unsigned at, unsigned n)
{
	return off < at + n && at < off + len;
}

/* 4.1.4.9: the BAR through a window in configuration space.  Returns the
 * width of the access, 0 if the driver has not set up a legal one. */
static unsigned pci_window(struct wslx_virtio_pci *vp, uint32_t *ret_off)
{
	const uint8_t *cap = vp->f.config + vp->cap_pci;
	uint32_t off = wslx_get_le32(cap + CAP_OFFSET), len = wslx_get_le32(cap + CAP_LENGTH);

	if (cap[CAP_BAR] != 0 || (len != 1 && len != 2 && len != 4) || off % len || !wslx_range_ok(off, len, BAR_LEN))
		return 0;
	*ret_off = off;
	return len;
}

static void vp_config_read(struct wslx_pci_func *f, unsigned off, unsigned len)
{
	struct wslx_virtio_pci *vp = vp_of(f);
	unsigned data = vp->cap_pci + CAP_DATA, n;
	uint32_t at;

	if (!touches(off, len, data, 4))
		return;
	n = pci_window(vp, &at);
	if (n)
		vp_bar_read(f, at, f->config + data, n);
}

static void vp_config_written(struct wslx_pci_func *f, unsigned off, unsigned len)
{
	struct wslx_virtio_pci *vp = vp_of(f);
	unsigned data = vp->cap_pci + CAP_DATA, n;
	uint32_t at;

	if (touches(off, len, vp->cap_msix + 2, 2)) {
		uint16_t control = wslx_get_le16(f->config + vp->cap_msix + 2);

		wslx_msix_control(&vp->msix, control & 0x8000, control & 0x4000);
	}
	if (!touches(off, len, data, 4))
		return;
	n = pci_window(vp, &at);
	if (n) {
		uint8_t raw[4];

		/* A write may move the very bytes: work on a copy. */
		memcpy(raw, f->config + data, sizeof(raw));
		vp_bar_write(f, at, raw, n);
	}
}

static unsigned add_cap(struct wslx_virtio_pci *vp, uint8_t type, uint32_t off, uint32_t len, unsigned extra)
{
	unsigned at = wslx_pci_func_cap(&vp->f, PCI_CAP_VENDOR, CAP_LEN + extra);
	uint8_t *cap = vp->f.config + at;

	cap[2] = (uint8_t)(CAP_LEN + extra);
	cap[3] = type;
	cap[CAP_BAR] = 0;
	wslx_put_le32(cap + CAP_OFFSET, off);
	wslx_put_le32(cap + CAP_LENGTH, len);
	return at;
}

static void add_caps(struct wslx_virtio_pci *vp)
{
	uint8_t *config = vp->f.config, *wmask = vp->f.wmask;
	unsigned at;

	add_cap(vp, CAP_COMMON, AREA_COMMON, COMMON_LEN, 0);
	at = add_cap(vp, CAP_NOTIFY, AREA_NOTIFY, AREA_LEN, 4);
	wslx_put_le32(config + at + CAP_DATA, NOTIFY_MULTIPLIER);
	add_cap(vp, CAP_ISR, AREA_ISR, 1, 0);
	if (vp->d->config_len)
		add_cap(vp, CAP_DEVICE, AREA_DEVICE, vp->d->config_len, 0);
	vp->cap_pci = add_cap(vp, CAP_PCI, 0, 0, 4);
	wmask[vp->cap_pci + CAP_BAR] = 0xff;
	memset(wmask + vp->cap_pci + CAP_OFFSET, 0xff, 12); /* offset, length, data */
	vp->cap_msix = wslx_pci_func_cap(&vp->f, PCI_CAP_MSIX, 12);
	wslx_put_le16(config + vp->cap_msix + 2, (uint16_t)(vp->msix.n - 1));
	wslx_put_le16(wmask + vp->cap_msix + 2, 0xc000);     /* enable, function mask */
	wslx_put_le32(config + vp->cap_msix + 4, AREA_MSIX); /* BAR 0 */
	wslx_put_le32(config + vp->cap_msix + 8, AREA_PBA);
}

/* --- construction --- */

static void vp_free(struct wslx_pci_func *f)
{
	struct wslx_virtio_pci *vp = vp_of(f);

	if (f->bar_on)
		set_doorbells(vp, f->bar_base, false);
	wslx_pci_func_fini(f);
	for (unsigned i = 0; i < vp->d->n_queues; i++) {
		wslx_watch_free(vp->q[i].watch);
		if (vp->q[i].kick_fd >= 0)
			close(vp->q[i].kick_fd);
	}
	wslx_msix_fini(&vp->msix);
	if (vp->d->transport == vp) {
		vp->d->transport = NULL;
		vp->d->transport_ops = NULL;
	}
	free(vp->config);
	free(vp->fresh);
	free(vp);
}

static const struct wslx_pci_func_ops vp_ops = {
	.config_read = vp_config_read,
	.config_written = vp_config_written,
	.bar_read = vp_bar_read,
	.bar_write = vp_bar_write,
	.bar_mapped = vp_bar_mapped,
	.free = vp_free,
};

static int add_doorbell(struct wslx_virtio_pci *vp, unsigned i)
{
	struct vp_queue *q = &vp->q[i];

	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->kick_fd < 0)
		return -errno;
	return wslx_loop_watch(vp->d->loop, q->kick_fd, EPOLLIN, on_kick, q, &q->watch);
}

static bool vdev_ok(const struct wslx_vdev *d)
{
	if (!d->n_queues || d->n_queues > WSLX_VDEV_MAX_QUEUES || d->config_len > AREA_LEN)
		return false;
	for (unsigned i = 0; i < d->n_queues; i++) {
		uint16_t max = d->queue_max[i];

		if (!max || max > WSLX_VQ_MAX_SIZE || (max & (max - 1)))
			return false;
	}
	return true;
}

static int set_up(struct wslx_virtio_pci *vp, struct wslx_pci_host *host, unsigned slot)
{
	struct wslx_vdev *d = vp->d;
	int r;

	r = wslx_msix_init(&vp->msix, wslx_pci_host_hv(host), d->n_queues + 1);
	for (unsigned i = 0; r == 0 && i < d->n_queues; i++)
		r = add_doorbell(vp, i);
	if (r < 0)
		return r;
	vp->config = calloc(1, d->config_len + 1);
	vp->fresh = calloc(1, d->config_len + 1);
	if (!vp->config || !vp->fresh)
		return -ENOMEM;
	vp->offered = d->ops->features(d) | WSLX_VIRTIO_F_VERSION_1;
	refresh_config(vp);
	forget_driver(vp);
	add_caps(vp);
	wslx_pci_func_bar(&vp->f, BAR_LEN, WSLX_PCI_WIN64_BASE + (uint64_t)slot * BAR_SPACING);
	return wslx_pci_host_add(host, slot, &vp->f);
}

int wslx_virtio_pci_new(struct wslx_pci_host *host, unsigned slot, struct wslx_vdev *d, struct wslx_gm *gm,
			struct wslx_virtio_pci **ret)
{
	struct wslx_virtio_pci *vp;
	int r;

	if (!vdev_ok(d))
		return -EINVAL;
	vp = calloc(1, sizeof(*vp));
	if (!vp)
		return -ENOMEM;
	vp->d = d;
	for (unsigned i = 0; i < WSLX_VDEV_MAX_QUEUES; i++) {
		vp->q[i].vp = vp;
		vp->q[i].index = i;
		vp->q[i].kick_fd = -1;
	}
	wslx_pci_func_init(&vp->f, &vp_ops,
			   &(struct wslx_pci_ids) {
				   .vendor = 0x1af4, /* 4.1.2 */
				   .device = (uint16_t)(0x1040 + d->id),
				   .sub_vendor = 0x1af4,
				   .sub_device = (uint16_t)(0x40 + d->id),
				   .revision = 1,
				   .class_code = d->class_code,
			   });
	r = set_up(vp, host, slot);
	if (r < 0) {
		vp_free(&vp->f);
		return r;
	}
	d->gm = gm;
	d->transport = vp;
	d->transport_ops = &transport_ops;
	if (ret)
		*ret = vp;
	return 0;
}
