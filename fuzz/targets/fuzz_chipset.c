/*
 * Port accesses of any width to the whole chipset.  Input: records of four
 * bytes: direction and width, port (biased towards those that exist), value.
 */
#include <fcntl.h>
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

static void access_port(struct wslx_bus *pio, const uint8_t r[4])
{
	unsigned len = 1u << ((r[0] >> 1) & 3);
	uint16_t port = (uint16_t)(bases[(r[0] >> 3) % ARRAY_SIZE(bases)] + r[1]);
	uint8_t buf[8] = { r[2], r[3], r[1], r[2], r[3], r[2], r[1], r[0] };

	if (r[0] & 1)
		(void)wslx_bus_write(pio, port, buf, len);
	else
		(void)wslx_bus_read(pio, port, buf, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct wslx_chipset_events events = { ignore, ignore, NULL };
	struct wslx_chipset *chipset;
	struct wslx_loop *loop;
	struct wslx_bus *pio;
	struct wslx_hv *hv;
	int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || wslx_hv_fake_new(&hv) < 0 || wslx_bus_new(&pio) < 0 || wslx_loop_new(&loop) < 0 ||
	    wslx_chipset_new(hv, pio, loop, fd, &events, &chipset) < 0)
		abort();
	for (size_t i = 0; i + 4 <= size; i += 4)
		access_port(pio, data + i);
	wslx_chipset_flush_console(chipset, 0);
	wslx_chipset_free(chipset);
	wslx_loop_free(loop);
	wslx_bus_free(pio);
	hv->ops->free(hv);
	close(fd);
	return 0;
}
