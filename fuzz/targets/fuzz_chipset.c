/*
 * Port accesses of any width to the whole chipset, with a console that is slow
 * to read or goes away.  Input: records of four bytes: direction and width,
 * port (biased towards those that exist), value; or what the console does.
 *
 * No byte of the console is lost unseen: each was read or counted as dropped.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "dev/chipset/chipset.h"
#include "dev/chipset/ports.h"
#include "hv/fake/fake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint16_t bases[] = { WSLX_COM1_PORT, WSLX_RTC_PORT, WSLX_ACPI_SLEEP_CONTROL_PORT, WSLX_I8042_PORT,
				  WSLX_RESET_CONTROL_PORT };

static void ignore(void *opaque)
{
}

static uint64_t n_read;
static unsigned burst_left; /* more than the ring holds, but that takes a while */

static void read_console(int fd)
{
	static uint8_t buf[65536];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		n_read += (uint64_t)n;
}

static void access_port(struct wslx_bus *pio, const uint8_t r[4])
{
	unsigned len = 1u << ((r[0] >> 1) & 3);
	uint16_t port = (uint16_t)(bases[(r[0] >> 3) % ARRAY_SIZE(bases)] + r[1]);
	const uint8_t value[8] = { r[2], r[3], r[1], r[2], r[3], r[2], r[1], r[0] };
	uint8_t *buf = malloc(len); /* just as long as the access */

	if (!buf)
		abort();
	memcpy(buf, value, len);
	if (r[0] & 1)
		(void)wslx_bus_write(pio, port, buf, len);
	else
		(void)wslx_bus_read(pio, port, buf, len);
	free(buf);
}

static void step(struct wslx_bus *pio, struct wslx_loop *loop, int *peer, const uint8_t r[4])
{
	switch (r[0] >> 3) {
	case 28: /* much output at once */
		for (unsigned i = (r[2] & 7) * 16384u + r[3]; i > 0 && burst_left; i--, burst_left--)
			(void)wslx_bus_write(pio, WSLX_COM1_PORT, r, 1);
		break;
	case 29:
		if (wslx_loop_once(loop, 0) < 0)
			abort();
		break;
	case 30:
		if (*peer >= 0)
			read_console(*peer);
		break;
	case 31:
		if (r[1] == 0x1f && *peer >= 0) {
			close(*peer);
			*peer = -1;
		}
		break;
	default:
		access_port(pio, r);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct wslx_chipset_events events = { ignore, ignore, NULL };
	struct wslx_chipset *chipset;
	struct wslx_loop *loop;
	struct wslx_bus *pio;
	struct wslx_hv *hv;
	int fd[2];

	signal(SIGPIPE, SIG_IGN);
	n_read = 0;
	burst_left = 70000;
	if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) < 0 || fcntl(fd[1], F_SETPIPE_SZ, 4096) < 0 ||
	    wslx_hv_fake_new(&hv) < 0 || wslx_bus_new(&pio) < 0 || wslx_loop_new(&loop) < 0 ||
	    wslx_chipset_new(hv, pio, loop, fd[1], &events, &chipset) < 0)
		abort();
	for (size_t i = 0; i + 4 <= size && i < 1600; i += 4)
		step(pio, loop, &fd[0], data + i);
	wslx_chipset_flush_console(chipset, 0);
	if (fd[0] >= 0) {
		uint64_t before;

		do {
			before = n_read;
			read_console(fd[0]);
			wslx_chipset_flush_console(chipset, 0);
		} while (n_read != before);
		if (n_read + wslx_chipset_console_dropped(chipset) != wslx_chipset_console_bytes(chipset))
			abort();
		close(fd[0]);
	}
	wslx_chipset_free(chipset);
	wslx_loop_free(loop);
	wslx_bus_free(pio);
	hv->ops->free(hv);
	close(fd[1]);
	return 0;
}
