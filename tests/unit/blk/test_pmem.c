/* virtio-pmem through a driver. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "dev/virtio/pmem.h"
#include "fake_driver.h"

#define START 0x180000000ull
#define SIZE (256 * WSLX_MIB)

struct ctx {
	struct wslx_loop *loop;
	struct wslx_vdev *d;
	struct fake_driver f;
	uint64_t req, resp;
};

static int setup(void **state)
{
	static struct ctx c;

	memset(&c, 0, sizeof(c));
	assert_int_equal(wslx_loop_new(&c.loop), 0);
	assert_int_equal(
		wslx_pmem_new(&(struct wslx_pmem_params) { .loop = c.loop, .start = { START }, .size = SIZE }, &c.d),
		0);
	fake_driver_init(&c.f, c.d, 4u << 20);
	fake_driver_negotiate(&c.f, ~0ull);
	fake_driver_queue(&c.f, 0, 64);
	c.req = fake_driver_alloc(&c.f, 64, 64);
	c.resp = fake_driver_alloc(&c.f, 64, 64);
	fake_driver_start(&c.f);
	*state = &c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	fake_driver_free(&c->f);
	c->d->ops->free(c->d);
	wslx_loop_free(c->loop);
	return 0;
}

static void put_request(struct ctx *c, uint32_t type)
{
	wslx_put_le32(fake_driver_ptr(&c->f, c->req, 4), type);
	wslx_put_le32(fake_driver_ptr(&c->f, c->resp, 4), 0x77);
}

static uint32_t answer(struct ctx *c)
{
	return wslx_get_le32(fake_driver_ptr(&c->f, c->resp, 4));
}

static void flush(struct ctx *c, uint32_t type)
{
	const struct fake_buf bufs[] = { { c->req, 4, false }, { c->resp, 4, true } };
	uint16_t head;
	uint32_t len;

	put_request(c, type);
	assert_true(fake_driver_add(&c->f, 0, bufs, 2, false) >= 0);
	fake_driver_kick(&c->f, 0);
	assert_true(fake_driver_wait(&c->f, 0, &head, &len));
	assert_int_equal(len, 4);
}

static void test_config(void **state)
{
	struct ctx *c = *state;

	assert_int_equal(c->d->id, 27);
	assert_int_equal(c->d->config_len, 16);
	assert_true(fake_driver_config(&c->f, 0, 8) == START);
	assert_true(fake_driver_config(&c->f, 8, 8) == SIZE);
	assert_int_equal(fake_driver_config(&c->f, 4, 4), START >> 32);
}

static void test_flush(void **state)
{
	struct ctx *c = *state;

	flush(c, 0);
	assert_int_equal(answer(c), 0);
	flush(c, 1);
	assert_int_equal(answer(c), 1);
	flush(c, 0);
	assert_int_equal(answer(c), 0);
	assert_int_equal(c->f.needs_reset, 0);
}

/* In pieces of one byte, and with room to spare. */
static void test_scattered(void **state)
{
	struct ctx *c = *state;
	struct fake_buf bufs[12];
	uint16_t head;
	uint32_t len;

	for (unsigned i = 0; i < 4; i++)
		bufs[i] = (struct fake_buf) { c->req + i, 1, false };
	for (unsigned i = 0; i < 8; i++)
		bufs[4 + i] = (struct fake_buf) { c->resp + i, 1, true };
	put_request(c, 0);
	assert_true(fake_driver_add(&c->f, 0, bufs, 12, true) >= 0);
	fake_driver_kick(&c->f, 0);
	assert_true(fake_driver_wait(&c->f, 0, &head, &len));
	assert_int_equal(answer(c), 0);
}

static void breaks(struct ctx *c, const struct fake_buf *bufs, unsigned n)
{
	unsigned before = c->f.needs_reset;

	put_request(c, 0);
	assert_true(fake_driver_add(&c->f, 0, bufs, n, false) >= 0);
	fake_driver_kick(&c->f, 0);
	assert_int_equal(c->f.needs_reset, before + 1);
	assert_int_equal(answer(c), 0x77);
	fake_driver_stop(&c->f);
	fake_driver_queue(&c->f, 0, 64);
	fake_driver_start(&c->f);
}

static void test_malformed(void **state)
{
	struct ctx *c = *state;

	breaks(c, (struct fake_buf[]) { { c->req, 3, false }, { c->resp, 4, true } }, 2);
	breaks(c, (struct fake_buf[]) { { c->req, 4, false }, { c->resp, 3, true } }, 2);
	breaks(c, (struct fake_buf[]) { { c->req, 4, false } }, 1);
	breaks(c, (struct fake_buf[]) { { c->resp, 4, true } }, 1);
	breaks(c, (struct fake_buf[]) { { 1ull << 40, 4, false }, { c->resp, 4, true } }, 2);
	flush(c, 0);
	assert_int_equal(answer(c), 0);
}

/* Nothing is served at rest, and what came meanwhile afterwards. */
static void test_quiesce(void **state)
{
	struct ctx *c = *state;
	const struct fake_buf bufs[] = { { c->req, 4, false }, { c->resp, 4, true } };
	uint16_t head;
	uint32_t len;

	c->d->ops->quiesce(c->d);
	put_request(c, 0);
	assert_true(fake_driver_add(&c->f, 0, bufs, 2, false) >= 0);
	fake_driver_kick(&c->f, 0);
	assert_int_equal(wslx_loop_once(c->loop, 20), 0);
	assert_false(fake_driver_used(&c->f, 0, &head, &len));
	c->d->ops->resume(c->d);
	assert_true(fake_driver_wait(&c->f, 0, &head, &len));
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(test_config), T(test_flush), T(test_scattered), T(test_malformed),
					    T(test_quiesce) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
