/* virtio-rng and virtio-console through a driver. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "dev/virtio/console.h"
#include "dev/virtio/rng.h"
#include "fake_driver.h"

enum { RX, TX };

static bool rng_not_ready;
static unsigned rng_asked;
static void (*rng_hook)(void);

/* In place of the C library's: a host early in its boot has nothing to give,
 * and a guest may add requests meanwhile. */
ssize_t getrandom(void *buf, size_t len, unsigned flags)
{
	rng_asked++;
	if (rng_hook)
		rng_hook();
	if (!rng_not_ready)
		return syscall(SYS_getrandom, buf, len, flags);
	assert_true(rng_asked < 1000);
	errno = EAGAIN;
	return -1;
}

struct ctx {
	struct wslx_loop *loop;
	struct wslx_vdev *d;
	struct fake_driver f;
	uint64_t data;
	int out[2], in[2];
};

static uint8_t *data(struct ctx *c)
{
	return fake_driver_ptr(&c->f, c->data, 1u << 20);
}

static void begin(struct ctx *c)
{
	fake_driver_init(&c->f, c->d, 8u << 20);
	fake_driver_negotiate(&c->f, ~0ull);
	for (unsigned q = 0; q < c->d->n_queues; q++)
		fake_driver_queue(&c->f, q, 64);
	c->data = fake_driver_alloc(&c->f, 1u << 20, 4096);
	fake_driver_start(&c->f);
}

static void end(struct ctx *c)
{
	fake_driver_free(&c->f);
	c->d->ops->free(c->d);
	wslx_loop_free(c->loop);
}

static int setup_rng(void **state)
{
	static struct ctx c;
	struct wslx_rng_params p = { .bytes_per_second = 40960 };

	memset(&c, 0, sizeof(c));
	assert_int_equal(wslx_loop_new(&c.loop), 0);
	p.loop = c.loop;
	assert_int_equal(wslx_rng_new(&p, &c.d), 0);
	begin(&c);
	*state = &c;
	return 0;
}

static int setup_console(void **state)
{
	static struct ctx c;
	struct wslx_console_params p = { .cols = 80, .rows = 25 };

	signal(SIGPIPE, SIG_IGN);
	memset(&c, 0, sizeof(c));
	assert_int_equal(wslx_loop_new(&c.loop), 0);
	assert_int_equal(pipe2(c.out, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(pipe2(c.in, O_CLOEXEC | O_NONBLOCK), 0);
	p.loop = c.loop;
	p.out_fd = c.out[1];
	p.in_fd = c.in[0];
	assert_int_equal(wslx_console_new(&p, &c.d), 0);
	begin(&c);
	*state = &c;
	return 0;
}

static int teardown_rng(void **state)
{
	end(*state);
	return 0;
}

static int teardown_console(void **state)
{
	struct ctx *c = *state;

	end(c);
	if (c->out[0] >= 0)
		close(c->out[0]);
	if (c->in[1] >= 0)
		close(c->in[1]);
	return 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

static void test_rng(void **state)
{
	struct ctx *c = *state;
	struct fake_buf bufs[] = { { c->data, 32, true }, { c->data + 100, 32, true } };
	uint16_t head;
	uint32_t len;

	assert_int_equal(c->d->id, WSLX_VIRTIO_ID_RNG);
	assert_true(fake_driver_add(&c->f, 0, bufs, 2, false) >= 0);
	fake_driver_kick(&c->f, 0);
	assert_true(fake_driver_used(&c->f, 0, &head, &len));
	assert_int_equal(len, 64);
	assert_false(all_zero(data(c), 32));
	assert_true(all_zero(data(c) + 32, 68));
	assert_false(all_zero(data(c) + 100, 32));
	assert_true(all_zero(data(c) + 132, 1000));
}

/* The bucket holds 4096 bytes: what is asked for beyond waits for the timer. */
static void test_rng_rate(void **state)
{
	struct ctx *c = *state;
	struct fake_buf buf = { c->data, 1u << 20, true };
	uint64_t total = 0;
	uint16_t head;
	uint32_t len;

	for (unsigned i = 0; i < 40; i++)
		assert_true(fake_driver_add(&c->f, 0, &buf, 1, false) >= 0);
	fake_driver_kick(&c->f, 0);
	while (fake_driver_used(&c->f, 0, &head, &len)) {
		assert_true(len > 0 && len <= 4096);
		total += len;
	}
	assert_true(total >= 4096 && total < 8192);
	assert_true(fake_driver_wait(&c->f, 0, &head, &len));
	/* Paused, the timer brings nothing. */
	c->d->ops->quiesce(c->d);
	while (fake_driver_used(&c->f, 0, &head, &len))
		;
	for (unsigned i = 0; i < 3; i++)
		wslx_loop_once(c->loop, 15);
	assert_false(fake_driver_used(&c->f, 0, &head, &len));
	c->d->ops->resume(c->d);
	assert_true(fake_driver_wait(&c->f, 0, &head, &len));
}

/* The request waits for the timer; the loop does not spin on it. */
static void test_rng_host_not_ready(void **state)
{
	struct ctx *c = *state;
	struct fake_buf buf = { c->data, 32, true };
	uint16_t head;
	uint32_t len;

	rng_not_ready = true;
	rng_asked = 0;
	assert_true(fake_driver_add(&c->f, 0, &buf, 1, false) >= 0);
	fake_driver_kick(&c->f, 0);
	assert_int_equal(rng_asked, 1);
	assert_false(fake_driver_used(&c->f, 0, &head, &len));
	rng_not_ready = false;
	assert_true(fake_driver_wait(&c->f, 0, &head, &len));
	assert_int_equal(len, 32);
}

static struct ctx *flooded;

/* The guest has always another request for a single byte. */
static void add_byte(void)
{
	struct fake_buf buf = { flooded->data, 1, true };
	uint16_t head;
	uint32_t len;

	(void)fake_driver_used(&flooded->f, 0, &head, &len);
	assert_true(fake_driver_add(&flooded->f, 0, &buf, 1, false) >= 0);
}

static void on_turn(struct wslx_timer *t, void *opaque)
{
	++*(unsigned *)opaque;
	wslx_timer_arm(t, 0);
}

/* Others on the loop get their turn, whatever the guest adds. */
static void test_rng_turns(void **state)
{
	struct ctx *c = *state;
	struct wslx_timer *t;
	unsigned turns = 0;

	assert_int_equal(wslx_loop_timer(c->loop, on_turn, &turns, &t), 0);
	wslx_timer_arm(t, 0);
	flooded = c;
	rng_asked = 0;
	add_byte();
	rng_hook = add_byte;
	fake_driver_kick(&c->f, 0);
	for (unsigned i = 1; i <= 10; i++) {
		assert_int_equal(rng_asked, 64 * i);
		assert_int_equal(turns, i - 1);
		assert_int_equal(wslx_loop_once(c->loop, 0), 0);
	}
	rng_hook = NULL;
	wslx_timer_free(t);
}

static void test_rng_broken(void **state)
{
	struct ctx *c = *state;
	struct fake_buf bad[] = { { c->data, 16, false }, { c->data, 16, true } };
	uint16_t head;
	uint32_t len;

	for (unsigned n = 1; n <= 2; n++) {
		c->f.needs_reset = 0;
		assert_true(fake_driver_add(&c->f, 0, bad, n, false) >= 0);
		fake_driver_kick(&c->f, 0);
		assert_int_equal(c->f.needs_reset, 1);
		fake_driver_stop(&c->f);
		fake_driver_negotiate(&c->f, ~0ull);
		fake_driver_queue(&c->f, 0, 64);
		fake_driver_start(&c->f);
	}
	assert_true(fake_driver_add(&c->f, 0, &bad[1], 1, false) >= 0);
	fake_driver_kick(&c->f, 0);
	assert_true(fake_driver_used(&c->f, 0, &head, &len));
}

static void test_console_output(void **state)
{
	struct ctx *c = *state;
	struct fake_buf bufs[] = { { c->data, 5, false }, { c->data + 100, 6, false } };
	char got[64];
	uint16_t head;
	uint32_t len;

	memcpy(data(c), "hello", 5);
	memcpy(data(c) + 100, " world", 6);
	assert_true(fake_driver_add(&c->f, TX, bufs, 2, true) >= 0);
	fake_driver_kick(&c->f, TX);
	assert_true(fake_driver_used(&c->f, TX, &head, &len));
	assert_int_equal(len, 0);
	assert_int_equal(read(c->out[0], got, sizeof(got)), 11);
	assert_memory_equal(got, "hello world", 11);
}

/* A full pipe holds the chain back until the reader takes some; every byte
 * arrives, in order. */
static void test_console_backpressure(void **state)
{
	struct ctx *c = *state;
	struct fake_buf buf = { c->data, 1u << 20, false };
	static uint8_t got[1u << 20];
	size_t n = 0;
	uint16_t head;
	uint32_t len;

	for (unsigned i = 0; i < 1u << 20; i++)
		data(c)[i] = (uint8_t)(i * 7 + i / 251);
	assert_true(fake_driver_add(&c->f, TX, &buf, 1, false) >= 0);
	fake_driver_kick(&c->f, TX);
	assert_false(fake_driver_used(&c->f, TX, &head, &len));
	while (n < sizeof(got)) {
		ssize_t r = read(c->out[0], got + n, sizeof(got) - n);

		if (r > 0)
			n += (size_t)r;
		else
			assert_int_equal(wslx_loop_once(c->loop, 100), 0);
	}
	assert_true(fake_driver_wait(&c->f, TX, &head, &len));
	assert_memory_equal(got, data(c), sizeof(got));
}

/* A reader that never reads costs the guest a second at most; one that is
 * gone costs nothing. */
static void test_console_stalled(void **state)
{
	struct ctx *c = *state;
	struct fake_buf buf = { c->data, 1u << 20, false };
	struct fake_buf small = { c->data, 3, false };
	static uint8_t got[1u << 20];
	uint16_t head;
	uint32_t len;

	assert_true(fake_driver_add(&c->f, TX, &buf, 1, false) >= 0);
	fake_driver_kick(&c->f, TX);
	assert_true(fake_driver_wait(&c->f, TX, &head, &len));
	assert_true(fake_driver_add(&c->f, TX, &small, 1, false) >= 0);
	fake_driver_kick(&c->f, TX);
	assert_true(fake_driver_used(&c->f, TX, &head, &len)); /* dropped at once */
	/* The reader wakes up: output flows again. */
	while (read(c->out[0], got, sizeof(got)) > 0)
		;
	wslx_loop_once(c->loop, 100);
	memcpy(data(c), "abc", 3);
	assert_true(fake_driver_add(&c->f, TX, &small, 1, false) >= 0);
	fake_driver_kick(&c->f, TX);
	assert_int_equal(read(c->out[0], got, sizeof(got)), 3);
	assert_memory_equal(got, "abc", 3);
	assert_true(fake_driver_used(&c->f, TX, &head, &len));
	/* And away it goes. */
	close(c->out[0]);
	c->out[0] = -1;
	for (unsigned i = 0; i < 3; i++) {
		assert_true(fake_driver_add(&c->f, TX, &small, 1, false) >= 0);
		fake_driver_kick(&c->f, TX);
		assert_true(fake_driver_used(&c->f, TX, &head, &len));
	}
}

static uint64_t stat_of(struct wslx_vdev *d, const char *name)
{
	struct wslx_stat st[16];
	size_t n = d->ops->stats(d, st, ARRAY_SIZE(st));

	for (size_t i = 0; i < n; i++)
		if (strcmp(st[i].name, name) == 0)
			return st[i].value;
	fail_msg("no statistic %s", name);
	return 0;
}

/* One chain of 32 MiB to a reader that takes everything at once: it goes out in
 * pieces, between which others on the loop get their turn. */
static void test_console_turns(void **state)
{
	enum { N = 32 };
	struct ctx *c = *state;
	struct fake_buf bufs[N];
	struct wslx_timer *t;
	unsigned turns = 0, rounds = 0;
	uint64_t before = 0;
	uint16_t head;
	uint32_t len;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	assert_true(null >= 0);
	assert_int_equal(dup2(null, c->out[1]), c->out[1]);
	close(null);
	for (unsigned i = 0; i < N; i++)
		bufs[i] = (struct fake_buf) { c->data, 1u << 20, false };
	assert_int_equal(wslx_loop_timer(c->loop, on_turn, &turns, &t), 0);
	wslx_timer_arm(t, 0);
	assert_true(fake_driver_add(&c->f, TX, bufs, N, true) >= 0);
	fake_driver_kick(&c->f, TX);
	while (!fake_driver_used(&c->f, TX, &head, &len)) {
		uint64_t now = stat_of(c->d, "out_bytes");

		assert_true(now > before && now - before <= 1u << 20);
		before = now;
		assert_int_equal(wslx_loop_once(c->loop, 0), 0);
		assert_int_equal(turns, ++rounds);
	}
	assert_int_equal(stat_of(c->d, "out_bytes"), N << 20);
	assert_int_equal(stat_of(c->d, "dropped_bytes"), 0);
	wslx_timer_free(t);
}

static void test_console_input(void **state)
{
	struct ctx *c = *state;
	struct fake_buf bufs[] = { { c->data, 4, true }, { c->data + 100, 4, true } };
	uint16_t head;
	uint32_t len;

	/* Before the guest has buffers, input stays in the pipe. */
	assert_int_equal(write(c->in[1], "abcdefghij", 10), 10);
	wslx_loop_once(c->loop, 0);
	assert_true(fake_driver_add(&c->f, RX, bufs, 2, false) >= 0);
	fake_driver_kick(&c->f, RX);
	assert_true(fake_driver_used(&c->f, RX, &head, &len));
	assert_int_equal(len, 8);
	assert_memory_equal(data(c), "abcd", 4);
	assert_memory_equal(data(c) + 100, "efgh", 4);
	assert_true(fake_driver_add(&c->f, RX, bufs, 2, false) >= 0);
	fake_driver_kick(&c->f, RX);
	assert_true(fake_driver_used(&c->f, RX, &head, &len));
	assert_int_equal(len, 2);
	/* With buffers waiting, it arrives when it comes. */
	assert_true(fake_driver_add(&c->f, RX, bufs, 1, false) >= 0);
	fake_driver_kick(&c->f, RX);
	assert_false(fake_driver_used(&c->f, RX, &head, &len));
	assert_int_equal(write(c->in[1], "xy", 2), 2);
	assert_true(fake_driver_wait(&c->f, RX, &head, &len));
	assert_int_equal(len, 2);
	assert_memory_equal(data(c), "xy", 2);
	/* The end of input is no event for the guest. */
	assert_true(fake_driver_add(&c->f, RX, bufs, 1, false) >= 0);
	fake_driver_kick(&c->f, RX);
	close(c->in[1]);
	c->in[1] = -1;
	for (unsigned i = 0; i < 3; i++)
		wslx_loop_once(c->loop, 0);
	assert_false(fake_driver_used(&c->f, RX, &head, &len));
}

static void test_console_config(void **state)
{
	struct ctx *c = *state;
	char got[8];

	assert_int_equal(fake_driver_config(&c->f, 0, 4), 80 | 25 << 16);
	c->d->ops->config_write(c->d, 8, "!\0\0\0", 4);
	assert_int_equal(read(c->out[0], got, sizeof(got)), 1);
	assert_int_equal(got[0], '!');
	c->d->ops->config_write(c->d, 0, "\0\0\0\0", 4);
	assert_int_equal(fake_driver_config(&c->f, 0, 4), 80 | 25 << 16);
}

static void test_console_broken(void **state)
{
	struct ctx *c = *state;
	struct fake_buf bad = { c->data, 16, false };

	assert_int_equal(write(c->in[1], "x", 1), 1);
	assert_true(fake_driver_add(&c->f, RX, &bad, 1, false) >= 0);
	fake_driver_kick(&c->f, RX);
	assert_int_equal(c->f.needs_reset, 1);
	fake_driver_publish(&c->f, TX, 64);
	fake_driver_kick(&c->f, TX);
	assert_int_equal(c->f.needs_reset, 1); /* stopped already */
}

/* Pausing in the middle of a chain: it is given back, not repeated. */
static void test_console_quiesce(void **state)
{
	struct ctx *c = *state;
	struct fake_buf buf = { c->data, 1u << 20, false };
	uint16_t head;
	uint32_t len;

	assert_true(fake_driver_add(&c->f, TX, &buf, 1, false) >= 0);
	fake_driver_kick(&c->f, TX);
	c->d->ops->quiesce(c->d);
	assert_true(fake_driver_used(&c->f, TX, &head, &len));
	assert_true(fake_driver_add(&c->f, TX, &buf, 1, false) >= 0);
	fake_driver_kick(&c->f, TX);
	assert_false(fake_driver_used(&c->f, TX, &head, &len));
	c->d->ops->resume(c->d);
	while (!fake_driver_used(&c->f, TX, &head, &len)) {
		uint8_t got[65536];

		if (read(c->out[0], got, sizeof(got)) < 0)
			assert_int_equal(errno, EAGAIN);
		assert_int_equal(wslx_loop_once(c->loop, 0), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_rng, setup_rng, teardown_rng),
		cmocka_unit_test_setup_teardown(test_rng_rate, setup_rng, teardown_rng),
		cmocka_unit_test_setup_teardown(test_rng_host_not_ready, setup_rng, teardown_rng),
		cmocka_unit_test_setup_teardown(test_rng_turns, setup_rng, teardown_rng),
		cmocka_unit_test_setup_teardown(test_rng_broken, setup_rng, teardown_rng),
		cmocka_unit_test_setup_teardown(test_console_output, setup_console, teardown_console),
		cmocka_unit_test_setup_teardown(test_console_backpressure, setup_console, teardown_console),
		cmocka_unit_test_setup_teardown(test_console_stalled, setup_console, teardown_console),
		cmocka_unit_test_setup_teardown(test_console_turns, setup_console, teardown_console),
		cmocka_unit_test_setup_teardown(test_console_input, setup_console, teardown_console),
		cmocka_unit_test_setup_teardown(test_console_config, setup_console, teardown_console),
		cmocka_unit_test_setup_teardown(test_console_broken, setup_console, teardown_console),
		cmocka_unit_test_setup_teardown(test_console_quiesce, setup_console, teardown_console),
	};

	return cmocka_run_group_tests_name("rng_console", tests, NULL, NULL);
}
