/*
 * CMOS clock (Motorola MC146818), for kernels that read the time of day from
 * it.  The time is the host's, in UTC, and cannot be set; alarms and periodic
 * interrupts do not exist.  The rest of the CMOS memory is plain storage.
 *
 * Lock: rtc->lock guards index and memory.
 */
#include "dev/chipset/chipset.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define CMOS_SIZE 128
#define REG_A 0x0a
#define REG_B 0x0b
#define REG_C 0x0c
#define REG_D 0x0d
#define REG_CENTURY 0x32
#define REG_A_32KHZ 0x26
#define REG_B_24H 0x02
#define REG_B_BINARY 0x04
#define REG_D_VALID 0x80

struct wslx_rtc {
	pthread_mutex_t lock;
	uint8_t index;
	uint8_t mem[CMOS_SIZE];
};

static uint8_t encode(const struct wslx_rtc *rtc, int v)
{
	if (rtc->mem[REG_B] & REG_B_BINARY)
		return (uint8_t)v;
	return (uint8_t)((v / 10 % 10) << 4 | v % 10);
}

/* 12-hour mode marks the afternoon with bit 7. */
static uint8_t encode_hour(const struct wslx_rtc *rtc, int hour)
{
	int h12 = hour % 12 ? hour % 12 : 12;

	if (rtc->mem[REG_B] & REG_B_24H)
		return encode(rtc, hour);
	return encode(rtc, h12) | (hour >= 12 ? 0x80 : 0);
}

static uint8_t read_reg(const struct wslx_rtc *rtc, uint8_t reg)
{
	time_t now = time(NULL);
	struct tm tm;

	if (!gmtime_r(&now, &tm))
		return 0;
	switch (reg) {
	case 0x00:
		return encode(rtc, tm.tm_sec);
	case 0x02:
		return encode(rtc, tm.tm_min);
	case 0x04:
		return encode_hour(rtc, tm.tm_hour);
	case 0x06:
		return encode(rtc, tm.tm_wday + 1);
	case 0x07:
		return encode(rtc, tm.tm_mday);
	case 0x08:
		return encode(rtc, tm.tm_mon + 1);
	case 0x09:
		return encode(rtc, tm.tm_year % 100);
	case REG_CENTURY:
		return encode(rtc, (tm.tm_year + 1900) / 100);
	case REG_A: /* never "update in progress" */
		return REG_A_32KHZ;
	case REG_C:
		return 0;
	case REG_D:
		return REG_D_VALID;
	default:
		return rtc->mem[reg];
	}
}

static void rtc_read(void *opaque, uint64_t off, void *buf, unsigned len)
{
	struct wslx_rtc *rtc = opaque;
	uint8_t *p = buf;

	pthread_mutex_lock(&rtc->lock);
	for (unsigned i = 0; i < len; i++)
		p[i] = off + i == 1 ? read_reg(rtc, rtc->index) : 0xff;
	pthread_mutex_unlock(&rtc->lock);
}

static void rtc_write(void *opaque, uint64_t off, const void *buf, unsigned len)
{
	struct wslx_rtc *rtc = opaque;
	const uint8_t *p = buf;

	pthread_mutex_lock(&rtc->lock);
	for (unsigned i = 0; i < len; i++) {
		if (off + i == 0)
			rtc->index = p[i] & (CMOS_SIZE - 1);
		else
			rtc->mem[rtc->index] = p[i];
	}
	pthread_mutex_unlock(&rtc->lock);
}

const struct wslx_bus_ops wslx_rtc_ops = { .read = rtc_read, .write = rtc_write };

int wslx_rtc_new(struct wslx_rtc **ret)
{
	struct wslx_rtc *rtc = calloc(1, sizeof(*rtc));

	if (!rtc)
		return -ENOMEM;
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->mem[REG_B] = REG_B_24H;
	*ret = rtc;
	return 0;
}

void wslx_rtc_free(struct wslx_rtc *rtc)
{
	if (!rtc)
		return;
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}
