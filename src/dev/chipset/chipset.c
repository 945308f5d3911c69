/*
 * Power and reset registers, and the assembly of the chipset.
 *
 * The registers keep no state worth a lock: a write either means "power off"
 * or "reset" at once, or nothing.
 */
#include "dev/chipset/chipset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/chipset/ports.h"

#define SLP_TYP(v) (((v) >> 2) & 7)
#define SLP_EN 0x20
#define I8042_PULSE_RESET 0xfe
#define CF9_RESET_CPU 0x04

struct wslx_chipset {
	struct wslx_bus *pio;
	struct wslx_chipset_events events;
	struct wslx_serial *serial;
	struct wslx_rtc *rtc;
};

static void acpi_write(void *opaque, uint64_t off, const void *buf, unsigned len)
{
	struct wslx_chipset *c = opaque;
	uint8_t v = *(const uint8_t *)buf;

	switch (WSLX_ACPI_SLEEP_CONTROL_PORT + off) {
	case WSLX_ACPI_SLEEP_CONTROL_PORT:
		if ((v & SLP_EN) && SLP_TYP(v) == WSLX_ACPI_SLP_TYP_S5)
			c->events.poweroff(c->events.opaque);
		break;
	case WSLX_ACPI_RESET_PORT:
		if (v == WSLX_ACPI_RESET_VALUE)
			c->events.reset(c->events.opaque);
		break;
	default: /* sleep status: write 1 to clear, and never set */
		break;
	}
}

static void read_zero(void *opaque, uint64_t off, void *buf, unsigned len)
{
	memset(buf, 0, len);
}

static void i8042_write(void *opaque, uint64_t off, const void *buf, unsigned len)
{
	struct wslx_chipset *c = opaque;

	if (*(const uint8_t *)buf == I8042_PULSE_RESET)
		c->events.reset(c->events.opaque);
}

static void cf9_write(void *opaque, uint64_t off, const void *buf, unsigned len)
{
	struct wslx_chipset *c = opaque;

	if (*(const uint8_t *)buf & CF9_RESET_CPU)
		c->events.reset(c->events.opaque);
}

static const struct wslx_bus_ops acpi_ops = { .read = read_zero, .write = acpi_write };
/* Status 0: input buffer empty, so that "wait until ready" ends at once. */
static const struct wslx_bus_ops i8042_ops = { .read = read_zero, .write = i8042_write };
static const struct wslx_bus_ops cf9_ops = { .read = read_zero, .write = cf9_write };

static const struct {
	uint16_t port;
	uint16_t len;
	const struct wslx_bus_ops *ops;
} fixed_ports[] = {
	{ WSLX_ACPI_SLEEP_CONTROL_PORT, WSLX_ACPI_PORTS_LEN, &acpi_ops },
	{ WSLX_I8042_PORT, 1, &i8042_ops },
	{ WSLX_RESET_CONTROL_PORT, 1, &cf9_ops },
	{ WSLX_COM1_PORT, 8, &wslx_serial_ops },
	{ WSLX_RTC_PORT, 2, &wslx_rtc_ops },
};

static void *port_owner(struct wslx_chipset *c, const struct wslx_bus_ops *ops)
{
	if (ops == &wslx_serial_ops)
		return c->serial;
	if (ops == &wslx_rtc_ops)
		return c->rtc;
	return c;
}

int wslx_chipset_new(struct wslx_hv *hv, struct wslx_bus *pio, struct wslx_loop *loop, int console_fd,
		     const struct wslx_chipset_events *events, struct wslx_chipset **ret)
{
	struct wslx_chipset *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->events = *events;
	r = wslx_serial_new(hv, WSLX_COM1_GSI, loop, console_fd, &c->serial);
	if (r == 0)
		r = wslx_rtc_new(&c->rtc);
	if (r == 0)
		c->pio = pio;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(fixed_ports); i++)
		r = wslx_bus_add(pio, fixed_ports[i].port, fixed_ports[i].len, fixed_ports[i].ops,
				 port_owner(c, fixed_ports[i].ops));
	if (r < 0) {
		wslx_chipset_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void wslx_chipset_free(struct wslx_chipset *c)
{
	if (!c)
		return;
	for (size_t i = 0; c->pio && i < ARRAY_SIZE(fixed_ports); i++)
		wslx_bus_remove(c->pio, fixed_ports[i].port);
	wslx_serial_free(c->serial);
	wslx_rtc_free(c->rtc);
	free(c);
}

void wslx_chipset_flush_console(struct wslx_chipset *c, int timeout_ms)
{
	wslx_serial_flush(c->serial, timeout_ms);
}

uint64_t wslx_chipset_console_bytes(struct wslx_chipset *c)
{
	uint64_t bytes, dropped;

	wslx_serial_counts(c->serial, &bytes, &dropped);
	return bytes;
}

uint64_t wslx_chipset_console_dropped(struct wslx_chipset *c)
{
	uint64_t bytes, dropped;

	wslx_serial_counts(c->serial, &bytes, &dropped);
	return dropped;
}
