/*
 * The few legacy devices of the machine: serial port, ACPI sleep and reset
 * registers, keyboard-controller and port-0xcf9 reset, clock.
 *
 * Threads: registers are accessed on vCPU threads; each device has its own
 * lock.  Serial output leaves on the loop's thread.
 *
 * Trust boundary: all register values come from the guest.  None of them makes
 * a device wait, allocate or fail.
 */
#ifndef WSLX_DEV_CHIPSET_CHIPSET_H
#define WSLX_DEV_CHIPSET_CHIPSET_H

#include "base/loop.h"
#include "dev/chipset/bus.h"
#include "hv/hv.h"

struct wslx_chipset_events {
	void (*poweroff)(void *opaque); /* on a vCPU thread; may come more than once */
	void (*reset)(void *opaque);
	void *opaque;
};

struct wslx_chipset;

/* console_fd: borrowed, made non-blocking; -1 drops the output. */
WSLX_MUST_CHECK int wslx_chipset_new(struct wslx_hv *hv, struct wslx_bus *pio, struct wslx_loop *loop, int console_fd,
				     const struct wslx_chipset_events *events, struct wslx_chipset **ret);
void wslx_chipset_free(struct wslx_chipset *c); /* before hv and loop; NULL is fine */
/* Writes out what the serial port still holds, for at most timeout_ms.  After
 * the loop and the vCPUs have stopped. */
void wslx_chipset_flush_console(struct wslx_chipset *c, int timeout_ms);
uint64_t wslx_chipset_console_bytes(struct wslx_chipset *c);
uint64_t wslx_chipset_console_dropped(struct wslx_chipset *c);

/* Parts, for tests. */

struct wslx_serial;
WSLX_MUST_CHECK int wslx_serial_new(struct wslx_hv *hv, unsigned gsi, struct wslx_loop *loop, int fd,
				    struct wslx_serial **ret);
void wslx_serial_free(struct wslx_serial *s); /* NULL is fine */
void wslx_serial_flush(struct wslx_serial *s, int timeout_ms);
void wslx_serial_counts(struct wslx_serial *s, uint64_t *bytes, uint64_t *dropped);
extern const struct wslx_bus_ops wslx_serial_ops; /* 8 byte-wide registers */

struct wslx_rtc;
WSLX_MUST_CHECK int wslx_rtc_new(struct wslx_rtc **ret);
void wslx_rtc_free(struct wslx_rtc *rtc);      /* NULL is fine */
extern const struct wslx_bus_ops wslx_rtc_ops; /* index and data port */

#endif
