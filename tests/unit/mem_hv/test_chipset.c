/* Bus, serial port, power and reset registers, clock; on the fake hypervisor. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/chipset/chipset.h"
#include "dev/chipset/ports.h"
#include "hv/fake/fake.h"

#define COM(reg) (WSLX_COM1_PORT + (reg))

struct world {
	struct wslx_hv *hv;
	struct wslx_bus *pio;
	struct wslx_loop *loop;
	struct wslx_chipset *chipset;
	int console[2];
	unsigned poweroffs, resets;
};

static void on_poweroff(void *opaque)
{
	((struct world *)opaque)->poweroffs++;
}

static void on_reset(void *opaque)
{
	((struct world *)opaque)->resets++;
}

static int setup(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	const struct wslx_chipset_events events = { on_poweroff, on_reset, w };

	assert_int_equal(pipe2(w->console, O_CLOEXEC), 0);
	assert_int_equal(wslx_hv_fake_new(&w->hv), 0);
	assert_int_equal(wslx_bus_new(&w->pio), 0);
	assert_int_equal(wslx_loop_new(&w->loop), 0);
	assert_int_equal(wslx_chipset_new(w->hv, w->pio, w->loop, w->console[1], &events, &w->chipset), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	wslx_chipset_free(w->chipset);
	wslx_loop_free(w->loop);
	wslx_bus_free(w->pio);
	w->hv->ops->free(w->hv);
	close(w->console[0]);
	close(w->console[1]);
	test_free(w);
	return 0;
}

static uint8_t in(struct world *w, uint16_t port)
{
	uint8_t v = 0;

	assert_true(wslx_bus_read(w->pio, port, &v, 1));
	return v;
}

static void out(struct world *w, uint16_t port, uint8_t v)
{
	assert_true(wslx_bus_write(w->pio, port, &v, 1));
}

static size_t console_read(struct world *w, char *buf, size_t size)
{
	ssize_t n = read(w->console[0], buf, size);

	assert_true(n >= 0);
	return (size_t)n;
}

static bool readable(struct world *w)
{
	struct pollfd p = { .fd = w->console[0], .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

/* The loop's thread works between any two characters, and still they leave together. */
static void test_serial_output(void **state)
{
	struct world *w = *state;
	char buf[16];

	for (const char *p = "hello"; *p; p++) {
		out(w, COM(0), (uint8_t)*p);
		if (p[1] == 'e')
			assert_int_equal(wslx_loop_once(w->loop, 0), 0);
	}
	assert_false(readable(w));
	while (!readable(w))
		assert_int_equal(wslx_loop_once(w->loop, -1), 0);
	assert_int_equal(console_read(w, buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_true(wslx_chipset_console_bytes(w->chipset) == 5);
	/* No interrupt was enabled, so no line moved. */
	assert_int_equal(wslx_hv_fake_n_events(w->hv), 0);
}

/* As Linux' 8250 driver finds out what it has. */
static void test_serial_detection(void **state)
{
	struct world *w = *state;

	out(w, COM(1), 0);
	assert_int_equal(in(w, COM(1)), 0);
	out(w, COM(1), 0xff);
	assert_int_equal(in(w, COM(1)), 0x0f);
	out(w, COM(1), 0);
	out(w, COM(4), 0x10 | 0x0a); /* loopback: RTS, OUT2 */
	assert_int_equal(in(w, COM(6)) & 0xf0, 0x90);
	out(w, COM(4), 0);
	out(w, COM(2), 1);
	assert_int_equal(in(w, COM(2)) >> 6, 3);
	out(w, COM(7), 0xa5);
	assert_int_equal(in(w, COM(7)), 0xa5);
	assert_int_equal(in(w, COM(5)), 0x60);
	out(w, COM(3), 0x83);
	out(w, COM(0), 0x0c);
	out(w, COM(1), 0x01);
	assert_int_equal(in(w, COM(0)), 0x0c);
	assert_int_equal(in(w, COM(1)), 0x01);
	out(w, COM(3), 0x03);
	assert_int_equal(in(w, COM(1)), 0);
}

static void test_serial_thre(void **state)
{
	struct world *w = *state;

	out(w, COM(1), 0x02);
	assert_true(wslx_hv_fake_line(w->hv, WSLX_COM1_GSI));
	assert_int_equal(in(w, COM(2)) & 0x0f, 0x02); /* acknowledges */
	assert_false(wslx_hv_fake_line(w->hv, WSLX_COM1_GSI));
	assert_int_equal(in(w, COM(2)) & 0x0f, 0x01);
	/* A FIFO's worth of bytes: one edge. */
	wslx_hv_fake_clear_events(w->hv);
	for (int i = 0; i < 16; i++)
		out(w, COM(0), 'x');
	assert_int_equal(wslx_hv_fake_n_events(w->hv), 1);
	assert_true(wslx_hv_fake_line(w->hv, WSLX_COM1_GSI));
	out(w, COM(1), 0);
	assert_false(wslx_hv_fake_line(w->hv, WSLX_COM1_GSI));
	/* Enabled anew: asserted anew. */
	out(w, COM(1), 0x02);
	assert_true(wslx_hv_fake_line(w->hv, WSLX_COM1_GSI));
}

/* Nobody reads: the guest goes on, the newest bytes survive. */
static void test_serial_bounded(void **state)
{
	struct world *w = *state;
	char buf[8192];
	char last = 0;
	size_t n;

	for (unsigned i = 0; i < 400000; i++) {
		out(w, COM(0), (uint8_t)('a' + i % 26));
		if (i % 1000 == 0)
			assert_int_equal(wslx_loop_once(w->loop, 0), 0);
	}
	assert_true(wslx_chipset_console_dropped(w->chipset) > 0);
	fcntl(w->console[0], F_SETFL, O_NONBLOCK);
	for (int round = 0; round < 100; round++) {
		ssize_t r;

		while ((r = read(w->console[0], buf, sizeof(buf))) > 0) {
			n = (size_t)r;
			last = buf[n - 1];
		}
		assert_int_equal(wslx_loop_once(w->loop, 0), 0);
	}
	assert_int_equal(last, 'a' + 399999 % 26);
}

static void test_serial_reader_gone(void **state)
{
	struct world *w = *state;

	signal(SIGPIPE, SIG_IGN);
	close(w->console[0]);
	w->console[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < 100; i++)
		out(w, COM(0), 'x');
	while (wslx_chipset_console_dropped(w->chipset) < 100)
		assert_int_equal(wslx_loop_once(w->loop, -1), 0);
	wslx_chipset_flush_console(w->chipset, 10);
}

static void test_serial_flush(void **state)
{
	struct world *w = *state;
	char buf[4];

	out(w, COM(0), 'z');
	wslx_chipset_flush_console(w->chipset, 100);
	assert_int_equal(console_read(w, buf, sizeof(buf)), 1);
	assert_int_equal(buf[0], 'z');
}

static struct world *storm;
static unsigned storm_writes;

/* In place of the C library's: while it writes, the guest adds as much again. */
ssize_t write(int fd, const void *buf, size_t n)
{
	if (!storm || fd != storm->console[1])
		return syscall(SYS_write, fd, buf, n);
	assert_true(++storm_writes < 10000);
	for (size_t i = 0; i < n; i++)
		out(storm, COM(0), 'x');
	return (ssize_t)n;
}

static void on_turn(struct wslx_timer *t, void *opaque)
{
	++*(unsigned *)opaque;
	wslx_timer_arm(t, 0);
}

/* A guest that never stops printing: the loop's other work gets its turns. */
static void test_serial_storm(void **state)
{
	struct world *w = *state;
	struct wslx_timer *t;
	unsigned turns = 0;

	assert_int_equal(wslx_loop_timer(w->loop, on_turn, &turns, &t), 0);
	wslx_timer_arm(t, 0);
	for (unsigned i = 0; i < 4096; i++)
		out(w, COM(0), 'x');
	storm = w;
	for (unsigned i = 1; i <= 10; i++) {
		assert_int_equal(wslx_loop_once(w->loop, 0), 0);
		assert_int_equal(turns, i);
		assert_int_equal(storm_writes, 16 * i); /* 64 KiB each */
	}
	wslx_chipset_flush_console(w->chipset, 5); /* ends as well */
	storm = NULL;
	wslx_timer_free(t);
	assert_int_equal(wslx_loop_once(w->loop, 0), 0);
	assert_int_equal(wslx_chipset_console_dropped(w->chipset), 0);
}

static void test_power(void **state)
{
	struct world *w = *state;

	out(w, WSLX_ACPI_SLEEP_CONTROL_PORT, 0x20 | 3 << 2); /* S3: does not exist */
	out(w, WSLX_ACPI_SLEEP_CONTROL_PORT, WSLX_ACPI_SLP_TYP_S5 << 2);
	assert_int_equal(w->poweroffs, 0);
	out(w, WSLX_ACPI_SLEEP_CONTROL_PORT, 0x20 | WSLX_ACPI_SLP_TYP_S5 << 2);
	assert_int_equal(w->poweroffs, 1);
	out(w, WSLX_ACPI_RESET_PORT, 0);
	out(w, WSLX_I8042_PORT, 0xd1);
	out(w, WSLX_RESET_CONTROL_PORT, 0x02);
	assert_int_equal(w->resets, 0);
	out(w, WSLX_ACPI_RESET_PORT, WSLX_ACPI_RESET_VALUE);
	out(w, WSLX_I8042_PORT, 0xfe);
	out(w, WSLX_RESET_CONTROL_PORT, 0x06);
	assert_int_equal(w->resets, 3);
	assert_int_equal(in(w, WSLX_I8042_PORT), 0);
	assert_int_equal(in(w, WSLX_ACPI_SLEEP_STATUS_PORT), 0);
}

static uint8_t cmos(struct world *w, uint8_t reg)
{
	out(w, WSLX_RTC_PORT, reg);
	return in(w, WSLX_RTC_PORT + 1);
}

static unsigned bcd(uint8_t v)
{
	return (v >> 4) * 10u + (v & 15u);
}

static void test_rtc(void **state)
{
	struct world *w = *state;
	time_t now = time(NULL), after;
	struct tm tm = { 0 };

	/* Read again when the second changed in between. */
	do {
		now = time(NULL);
		tm.tm_sec = (int)bcd(cmos(w, 0x00));
		tm.tm_min = (int)bcd(cmos(w, 0x02));
		tm.tm_hour = (int)bcd(cmos(w, 0x04));
		tm.tm_mday = (int)bcd(cmos(w, 0x07));
		tm.tm_mon = (int)bcd(cmos(w, 0x08)) - 1;
		tm.tm_year = (int)(bcd(cmos(w, 0x32)) * 100 + bcd(cmos(w, 0x09))) - 1900;
		after = time(NULL);
	} while (now != after);
	assert_true(timegm(&tm) == now);
	assert_int_equal(cmos(w, 0x0a) & 0x80, 0);
	assert_int_equal(cmos(w, 0x0d), 0x80);
	out(w, WSLX_RTC_PORT, 0x40);
	out(w, WSLX_RTC_PORT + 1, 0x77);
	assert_int_equal(cmos(w, 0xc0), 0x77); /* bit 7 is the NMI mask */
}

/* ---- bus ---- */

struct probe {
	uint64_t off;
	unsigned len, writes;
};

static void probe_read(void *opaque, uint64_t off, void *buf, unsigned len)
{
	struct probe *p = opaque;

	p->off = off;
	p->len = len;
	memset(buf, 0x11, len);
}

static void probe_write(void *opaque, uint64_t off, const void *buf, unsigned len)
{
	struct probe *p = opaque;

	p->off = off;
	p->len = len;
	p->writes++;
}

static const struct wslx_bus_ops probe_ops = { probe_read, probe_write };

static void test_bus(void **state)
{
	struct probe a = { 0 }, b = { 0 }, c = { 0 };
	struct wslx_bus *bus;
	uint32_t v = 0;

	assert_int_equal(wslx_bus_new(&bus), 0);
	assert_int_equal(wslx_bus_add(bus, 0x1000, 0x100, &probe_ops, &a), 0);
	assert_int_equal(wslx_bus_add(bus, 0x1100, 0x100, &probe_ops, &b), 0);
	assert_int_equal(wslx_bus_add(bus, 0x1010, 1, &probe_ops, &c), 0);
	assert_int_equal(wslx_bus_add(bus, 0x10ff, 2, &probe_ops, &c), -EEXIST);
	assert_int_equal(wslx_bus_add(bus, 0x1000, 0x80, &probe_ops, &c), -EEXIST);
	assert_int_equal(wslx_bus_add(bus, 0x2000, 0, &probe_ops, &c), -EINVAL);
	assert_int_equal(wslx_bus_add(bus, UINT64_MAX, 2, &probe_ops, &c), -EINVAL);
	assert_int_equal(wslx_bus_add(bus, UINT64_MAX, 1, &probe_ops, &c), 0);
	assert_true(wslx_bus_read(bus, 0x1100, &v, 4));
	assert_true(b.off == 0 && b.len == 4 && v == 0x11111111);
	/* The inner range answers what it holds, the outer one the rest. */
	assert_true(wslx_bus_write(bus, 0x1010, &v, 1));
	assert_int_equal(c.writes, 1);
	assert_true(wslx_bus_write(bus, 0x1010, &v, 4));
	assert_true(a.writes == 1 && a.off == 0x10 && a.len == 4);
	/* Across an end, nowhere, bad lengths. */
	assert_false(wslx_bus_read(bus, 0x10fe, &v, 4));
	assert_true(v == UINT32_MAX);
	assert_false(wslx_bus_read(bus, 0xfff, &v, 1));
	assert_false(wslx_bus_write(bus, 0x5000, &v, 4));
	assert_false(wslx_bus_write(bus, 0x1000, &v, 0));
	assert_int_equal(wslx_bus_remove(bus, 0x1001), -ENOENT);
	assert_int_equal(wslx_bus_remove(bus, 0x1100), 0);
	assert_false(wslx_bus_read(bus, 0x1100, &v, 4));
	assert_true(wslx_bus_write(bus, UINT64_MAX, &v, 1));
	wslx_bus_free(bus);
	wslx_bus_free(NULL);
}

static void test_bus_full(void **state)
{
	struct probe a = { 0 };
	struct wslx_bus *bus;
	uint64_t n = 0;
	int r;

	assert_int_equal(wslx_bus_new(&bus), 0);
	while ((r = wslx_bus_add(bus, n * 16, 16, &probe_ops, &a)) == 0)
		n++;
	assert_int_equal(r, -ENOSPC);
	assert_true(n >= 128);
	wslx_bus_free(bus);
}

int main(void)
{
#define WITH_WORLD(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_WORLD(test_serial_output),
		WITH_WORLD(test_serial_detection),
		WITH_WORLD(test_serial_thre),
		WITH_WORLD(test_serial_bounded),
		WITH_WORLD(test_serial_reader_gone),
		WITH_WORLD(test_serial_flush),
		WITH_WORLD(test_serial_storm),
		WITH_WORLD(test_power),
		WITH_WORLD(test_rtc),
		cmocka_unit_test(test_bus),
		cmocka_unit_test(test_bus_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
