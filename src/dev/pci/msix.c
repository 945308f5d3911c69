/*
 * MSI-X (PCI Local Bus 3.0, 6.8.2 and 6.8.3).
 *
 * Masking is done here, not in the hypervisor: a vector's eventfd is written
 * only while it is unmasked, and what comes while it is masked is remembered
 * in its pending bit and sent when the mask goes.  So a mask bit costs no
 * hypervisor call; a route is touched only when a message really changes,
 * which it may do only while masked (6.8.3.1), and is made when a vector is
 * first unmasked.
 */
#include "dev/pci/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/bytes.h"
#include "base/log.h"

#define ENTRY_DATA 8
#define ENTRY_CONTROL 12
#define CONTROL_MASK 1u

static void power_on(struct wslx_msix *m)
{
	m->enabled = m->masked = false;
	memset(m->table, 0, sizeof(m->table));
	for (unsigned i = 0; i < m->n; i++) {
		wslx_put_le32(m->table + i * WSLX_MSIX_ENTRY + ENTRY_CONTROL, CONTROL_MASK);
		m->vec[i].pending = false;
	}
}

int wslx_msix_init(struct wslx_msix *m, struct wslx_hv *hv, unsigned n)
{
	bool irqfd = hv->ops->caps(hv) & WSLX_HV_CAP_IRQFD;

	m->hv = hv;
	m->n = n;
	pthread_mutex_init(&m->lock, NULL);
	for (unsigned i = 0; i < WSLX_MSIX_MAX; i++)
		m->vec[i] = (struct msix_vector) { .eventfd = -1, .route = -1 };
	power_on(m);
	for (unsigned i = 0; irqfd && i < n; i++) {
		m->vec[i].eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (m->vec[i].eventfd < 0)
			return -errno; /* the caller calls fini */
	}
	return 0;
}

void wslx_msix_fini(struct wslx_msix *m)
{
	for (unsigned i = 0; i < m->n; i++) {
		struct msix_vector *v = &m->vec[i];

		if (v->route >= 0)
			m->hv->ops->irqfd_release(m->hv, v->route);
		if (v->eventfd >= 0)
			close(v->eventfd);
	}
	pthread_mutex_destroy(&m->lock);
}

static bool vector_masked(const struct wslx_msix *m, unsigned i)
{
	return m->masked || (m->table[i * WSLX_MSIX_ENTRY + ENTRY_CONTROL] & CONTROL_MASK);
}

static struct wslx_msi vector_message(const struct wslx_msix *m, unsigned i)
{
	const uint8_t *e = m->table + i * WSLX_MSIX_ENTRY;

	return (struct wslx_msi) { wslx_get_le64(e), wslx_get_le32(e + ENTRY_DATA) };
}

/* Makes the route say what the table says.  Without a route messages are sent
 * one by one. */
static void update_route(struct wslx_msix *m, unsigned i)
{
	struct wslx_msi msi = vector_message(m, i);
	struct msix_vector *v = &m->vec[i];
	int r;

	if (v->eventfd < 0)
		return;
	if (v->route < 0) {
		r = m->hv->ops->irqfd_msi(m->hv, v->eventfd, &msi, &v->route);
		if (r < 0)
			v->route = -1;
	} else if (v->routed.addr != msi.addr || v->routed.data != msi.data) {
		r = m->hv->ops->irqfd_update(m->hv, v->route, &msi);
	} else {
		return;
	}
	if (r < 0)
		log_guest("msix: no route for vector %u: %s", i, strerror(-r));
	else
		v->routed = msi;
}

static void send_message(struct wslx_msix *m, unsigned i)
{
	struct msix_vector *v = &m->vec[i];
	struct wslx_msi msi;
	uint64_t one = 1;

	if (v->route >= 0) {
		if (write(v->eventfd, &one, sizeof(one)) < 0)
			(void)0; /* the count is at its end: signalled anyway */
		return;
	}
	msi = vector_message(m, i);
	(void)m->hv->ops->msi(m->hv, &msi); /* a message to nowhere is the guest's own affair */
}

/* After a change of enable, function mask or vector mask. */
static void refresh(struct wslx_msix *m, unsigned i)
{
	if (!m->enabled || vector_masked(m, i))
		return;
	update_route(m, i);
	if (m->vec[i].pending) {
		m->vec[i].pending = false;
		send_message(m, i);
	}
}

void wslx_msix_control(struct wslx_msix *m, bool enabled, bool masked)
{
	pthread_mutex_lock(&m->lock);
	m->enabled = enabled;
	m->masked = masked;
	for (unsigned i = 0; i < m->n; i++) {
		if (!enabled)
			m->vec[i].pending = false;
		refresh(m, i);
	}
	pthread_mutex_unlock(&m->lock);
}

void wslx_msix_table_read(struct wslx_msix *m, uint64_t off, void *buf, unsigned len)
{
	memset(buf, 0, len);
	if (!wslx_range_ok(off, len, (uint64_t)m->n * WSLX_MSIX_ENTRY))
		return;
	pthread_mutex_lock(&m->lock);
	memcpy(buf, m->table + off, len);
	pthread_mutex_unlock(&m->lock);
}

void wslx_msix_table_write(struct wslx_msix *m, uint64_t off, const void *buf, unsigned len)
{
	unsigned i = (unsigned)(off / WSLX_MSIX_ENTRY);
	uint8_t *control;

	/* 6.8.2: accesses are of 4 or 8 bytes, aligned; others are undefined. */
	if ((len != 4 && len != 8) || off % len || !wslx_range_ok(off, len, (uint64_t)m->n * WSLX_MSIX_ENTRY))
		return;
	pthread_mutex_lock(&m->lock);
	memcpy(m->table + off, buf, len);
	control = m->table + i * WSLX_MSIX_ENTRY + ENTRY_CONTROL;
	wslx_put_le32(control, wslx_get_le32(control) & CONTROL_MASK);
	refresh(m, i);
	pthread_mutex_unlock(&m->lock);
}

void wslx_msix_pba_read(struct wslx_msix *m, uint64_t off, void *buf, unsigned len)
{
	uint8_t bits[(WSLX_MSIX_MAX + 63) / 64 * 8] = { 0 };

	memset(buf, 0, len);
	if (!wslx_range_ok(off, len, sizeof(bits)))
		return;
	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < m->n; i++)
		bits[i / 8] |= (uint8_t)(m->vec[i].pending << (i % 8));
	pthread_mutex_unlock(&m->lock);
	memcpy(buf, bits + off, len);
}

bool wslx_msix_raise_locked(struct wslx_msix *m, unsigned vector)
{
	if (!m->enabled)
		return false;
	if (vector >= m->n)
		return true;
	if (vector_masked(m, vector))
		m->vec[vector].pending = true;
	else
		send_message(m, vector);
	return true;
}
