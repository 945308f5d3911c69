/*
 * A hypervisor for tests: exits are scripted, what the VMM asks for is
 * recorded.  No guest code runs.
 *
 * Threads: as for the real back ends; the recorder takes a lock.
 */
#ifndef WSLX_HV_FAKE_FAKE_H
#define WSLX_HV_FAKE_FAKE_H

#include "hv/hv.h"

#define WSLX_FAKE_MAX_EVENTS 1024
#define WSLX_FAKE_MAX_MAPS 16
#define WSLX_FAKE_MAX_ROUTES 256

enum wslx_fake_event_kind {
	WSLX_FAKE_IRQ_LINE, /* gsi, level */
	WSLX_FAKE_MSI,      /* msi, by hv->ops->msi() */
};

struct wslx_fake_event {
	enum wslx_fake_event_kind kind;
	unsigned gsi;
	bool level;
	struct wslx_msi msi;
};

/* Recorded calls, oldest first. */
size_t wslx_hv_fake_n_events(struct wslx_hv *hv);
struct wslx_fake_event wslx_hv_fake_event(struct wslx_hv *hv, size_t i);
void wslx_hv_fake_clear_events(struct wslx_hv *hv);
/* Current level of a GSI line. */
bool wslx_hv_fake_line(struct wslx_hv *hv, unsigned gsi);

/* The route behind a handle of irqfd_msi: false if there is none or it is
 * masked, else its message. */
bool wslx_hv_fake_route(struct wslx_hv *hv, int handle, struct wslx_msi *ret);
size_t wslx_hv_fake_n_routes(struct wslx_hv *hv);
/* Drains every routed, unmasked irqfd that was signalled and records one
 * WSLX_FAKE_MSI event for each.  Returns how many. */
size_t wslx_hv_fake_poll_irqfds(struct wslx_hv *hv);

/* What a guest's write would do: signals the matching ioeventfd and returns
 * true, or returns false: the write would exit. */
bool wslx_hv_fake_guest_write(struct wslx_hv *hv, uint64_t gpa, unsigned len);
size_t wslx_hv_fake_n_ioeventfds(struct wslx_hv *hv);

/* A mapped slot: false if the slot is free. */
bool wslx_hv_fake_map(struct wslx_hv *hv, unsigned slot, struct wslx_gpa *gpa, uint64_t *size);

/* Adds an exit to the end of a vCPU's script (copied; pio.data is pointed at
 * the copy's own 8 bytes, so size * count <= 8).  A vCPU whose script is
 * empty waits for a kick, and so does vcpu_run. */
int wslx_hv_fake_push_exit(struct wslx_vcpu *vcpu, const struct wslx_exit *exit, const uint8_t *pio_data);
/* What user space left in the n-th completed exit's data (reads). */
const uint8_t *wslx_hv_fake_result(struct wslx_vcpu *vcpu, size_t n);
/* State given to vcpu_start_state, or NULL. */
const struct wslx_vcpu_start *wslx_hv_fake_start(struct wslx_vcpu *vcpu);
/* How often the guest was told that it had been paused. */
unsigned wslx_hv_fake_pauses(struct wslx_vcpu *vcpu);

#endif
