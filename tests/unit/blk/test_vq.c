/* The chain walker and the notification rules, with honest and hostile rings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "dev/virtio/vq.h"
#include "dev/virtio/iov.h"
#include "fake_driver.h"

#define MEM (1u << 20)

struct ctx {
	struct fake_driver f;
	struct wslx_vq vq;
	struct wslx_chain chain;
};

static int setup_size(void **state, uint16_t size, bool event_idx)
{
	static struct ctx ctx;
	struct ctx *c = &ctx;
	struct fake_queue *q;

	memset(c, 0, sizeof(*c));
	fake_driver_init(&c->f, NULL, MEM);
	fake_driver_queue(&c->f, 0, size);
	q = &c->f.q[0];
	assert_int_equal(wslx_vq_enable(&c->vq, c->f.gm, size, wslx_gpa(q->desc), wslx_gpa(q->avail), wslx_gpa(q->used),
					event_idx),
			 0);
	*state = c;
	return 0;
}

static int setup(void **state)
{
	return setup_size(state, 8, false);
}

static int setup_event(void **state)
{
	return setup_size(state, 8, true);
}

static int setup_big(void **state)
{
	return setup_size(state, 1024, false);
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	fake_driver_free(&c->f);
	return 0;
}

static void test_enable_checks(void **state)
{
	struct ctx *c = *state;
	struct fake_queue *q = &c->f.q[0];
	static const struct {
		uint64_t size, desc, avail, used;
		int64_t expect;
	} cases[] = {
		{ 8, 0x1000, 0x2000, 0x3000, 0 },         { 0, 0x1000, 0x2000, 0x3000, -EINVAL },
		{ 3, 0x1000, 0x2000, 0x3000, -EINVAL },   { 2048, 0x1000, 0x20000, 0x30000, -EINVAL },
		{ 8, 0x1008, 0x2000, 0x3000, -EINVAL },   { 8, 0x1000, 0x2001, 0x3000, -EINVAL },
		{ 8, 0x1000, 0x2000, 0x3002, -EINVAL },   { 8, MEM - 112, 0x2000, 0x3000, -EFAULT },
		{ 8, 0x1000, MEM - 20, 0x3000, -EFAULT }, { 8, 0x1000, 0x2000, MEM - 68, -EFAULT },
		{ 8, MEM - 128, MEM - 22, MEM - 72, 0 },  { 8, ~15ull, 0x2000, 0x3000, -EFAULT },
		{ 8, 0x1000, ~1ull, 0x3000, -EFAULT },
	};

	(void)q;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct wslx_vq vq = { 0 };

		assert_int_equal(wslx_vq_enable(&vq, c->f.gm, (uint16_t)cases[i].size, wslx_gpa(cases[i].desc),
						wslx_gpa(cases[i].avail), wslx_gpa(cases[i].used), false),
				 cases[i].expect);
		assert_int_equal(vq.enabled, cases[i].expect == 0);
	}
}

static void test_pop_push(void **state)
{
	struct ctx *c = *state;
	uint64_t a = fake_driver_alloc(&c->f, 4096, 16);
	struct fake_buf bufs[] = { { a, 10, false }, { a + 100, 20, false }, { a + 200, 30, true } };

	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), 0);
	/* Many rounds, so that all indices wrap past 65536. */
	for (unsigned i = 0; i < 70000; i++) {
		uint16_t head;
		uint32_t len;
		int h = fake_driver_add(&c->f, 0, bufs, 3, false);

		assert_true(h >= 0);
		assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), 1);
		assert_int_equal(c->chain.head, h);
		assert_int_equal(c->chain.n_out, 2);
		assert_int_equal(c->chain.n_in, 1);
		assert_int_equal(c->chain.out_len, 30);
		assert_int_equal(c->chain.in_len, 30);
		assert_ptr_equal(c->chain.iov[1].iov_base, fake_driver_ptr(&c->f, a + 100, 20));
		assert_int_equal(c->chain.iov[2].iov_len, 30);
		assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), 0);
		wslx_vq_push(&c->vq, c->chain.head, i);
		assert_true(fake_driver_used(&c->f, 0, &head, &len));
		assert_int_equal(head, h);
		assert_int_equal(len, i);
	}
}

static void test_unpop(void **state)
{
	struct ctx *c = *state;
	uint64_t a = fake_driver_alloc(&c->f, 4096, 16);
	struct fake_buf buf = { a, 10, false };
	int h = fake_driver_add(&c->f, 0, &buf, 1, false);

	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), 1);
	wslx_vq_unpop(&c->vq);
	c->chain.head = 77;
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), 1);
	assert_int_equal(c->chain.head, h);
}

static void test_indirect(void **state)
{
	struct ctx *c = *state;
	uint64_t a = fake_driver_alloc(&c->f, 65536, 16);
	struct fake_buf bufs[WSLX_VQ_MAX_CHAIN + 1];

	for (unsigned i = 0; i < ARRAY_SIZE(bufs); i++)
		bufs[i] = (struct fake_buf) { a + 64 * i, 1 + i % 64, i >= 100 };
	assert_true(fake_driver_add(&c->f, 0, bufs, 256, true) >= 0);
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), 1);
	assert_int_equal(c->chain.n_out, 100);
	assert_int_equal(c->chain.n_in, 156);
	assert_true(fake_driver_add(&c->f, 0, bufs, 257, true) >= 0);
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), -EPROTO);
}

static void test_indirect_after_direct(void **state)
{
	struct ctx *c = *state;
	uint64_t a = fake_driver_alloc(&c->f, 4096, 16);
	uint8_t *table = fake_driver_ptr(&c->f, a, 4096);

	/* 0 (direct, readable) -> 1 (indirect, with a meaningless WRITE flag) -> one writable buffer */
	fake_driver_desc(&c->f, 0, 0, a + 1000, 16, FAKE_DESC_F_NEXT, 1);
	fake_driver_desc(&c->f, 0, 1, a, 16, FAKE_DESC_F_INDIRECT | FAKE_DESC_F_WRITE, 0);
	*(uint64_t *)(void *)table = a + 2000;
	*(uint32_t *)(void *)(table + 8) = 5;
	*(uint16_t *)(void *)(table + 12) = FAKE_DESC_F_WRITE;
	fake_driver_publish(&c->f, 0, 0);
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), 1);
	assert_int_equal(c->chain.out_len, 16);
	assert_int_equal(c->chain.in_len, 5);
}

struct bad_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

#define N FAKE_DESC_F_NEXT
#define W FAKE_DESC_F_WRITE
#define I FAKE_DESC_F_INDIRECT
/* Descriptors 0..3 of the ring, and the first three of an indirect table at 0x80000. */
static const struct {
	const char *what;
	struct bad_desc ring[4], table[3];
	int expect;
} hostile[] = {
	{ "loop", { { 0x1000, 8, N, 0 } }, { { 0 } }, -EPROTO },
	{ "longer loop", { { 0x1000, 8, N, 1 }, { 0x1000, 8, N, 2 }, { 0x1000, 8, N, 1 } }, { { 0 } }, -EPROTO },
	{ "loop of empty buffers", { { 0x1000, 0, N, 1 }, { 0x1000, 0, N, 0 } }, { { 0 } }, -EPROTO },
	{ "next out of range", { { 0x1000, 8, N, 8 } }, { { 0 } }, -EPROTO },
	{ "next far out of range", { { 0x1000, 8, N, 0xffff } }, { { 0 } }, -EPROTO },
	{ "readable after writable", { { 0x1000, 8, N | W, 1 }, { 0x1000, 8, 0, 0 } }, { { 0 } }, -EPROTO },
	{ "empty readable after writable", { { 0x1000, 8, N | W, 1 }, { 0x1000, 0, 0, 0 } }, { { 0 } }, -EPROTO },
	{ "outside memory", { { MEM, 8, 0, 0 } }, { { 0 } }, -EFAULT },
	{ "past the end", { { MEM - 4, 8, 0, 0 } }, { { 0 } }, -EFAULT },
	{ "wraps around", { { UINT64_MAX - 3, 8, 0, 0 } }, { { 0 } }, -EFAULT },
	{ "4 GiB long", { { 0x1000, UINT32_MAX, W, 0 } }, { { 0 } }, -EFAULT },
	{ "indirect and next", { { 0x80000, 16, I | N, 1 } }, { { 0x1000, 8, 0, 0 } }, -EPROTO },
	{ "empty table", { { 0x80000, 0, I, 0 } }, { { 0 } }, -EPROTO },
	{ "odd table", { { 0x80000, 24, I, 0 } }, { { 0x1000, 8, 0, 0 } }, -EPROTO },
	{ "table outside memory", { { MEM, 32, I, 0 } }, { { 0 } }, -EFAULT },
	{ "table wraps around", { { UINT64_MAX - 15, 32, I, 0 } }, { { 0 } }, -EFAULT },
	{ "nested table", { { 0x80000, 32, I, 0 } }, { { 0x80000, 16, I, 0 } }, -EPROTO },
	{ "loop in the table", { { 0x80000, 32, I, 0 } }, { { 0x1000, 8, N, 1 }, { 0x1000, 8, N, 0 } }, -EPROTO },
	{ "next past the table", { { 0x80000, 32, I, 0 } }, { { 0x1000, 8, N, 2 } }, -EPROTO },
	{ "table entry outside memory", { { 0x80000, 16, I, 0 } }, { { MEM, 1, 0, 0 } }, -EFAULT },
	{ "table: readable after writable",
	  { { 0x80000, 32, I, 0 } },
	  { { 0x1000, 8, N | W, 1 }, { 0x1000, 8, 0, 0 } },
	  -EPROTO },
	{ "writable, then a table with a readable one",
	  { { 0x1000, 8, W | N, 1 }, { 0x80000, 16, I, 0 } },
	  { { 0x1000, 8, 0, 0 } },
	  -EPROTO },
	{ "empty buffer only", { { UINT64_MAX, 0, 0, 0 } }, { { 0 } }, 1 },
};
#undef N
#undef W
#undef I

static void test_hostile(void **state)
{
	struct ctx *c = *state;

	for (size_t i = 0; i < ARRAY_SIZE(hostile); i++) {
		uint8_t *table = fake_driver_ptr(&c->f, 0x80000, 48);
		int r;

		c->vq.last_avail = c->f.q[0].avail_idx;
		for (uint16_t k = 0; k < 4; k++)
			fake_driver_desc(&c->f, 0, k, hostile[i].ring[k].addr, hostile[i].ring[k].len,
					 hostile[i].ring[k].flags, hostile[i].ring[k].next);
		for (unsigned k = 0; k < 3; k++) {
			const struct bad_desc *d = &hostile[i].table[k];

			memcpy(table + 16 * k, &d->addr, 8);
			memcpy(table + 16 * k + 8, &d->len, 4);
			memcpy(table + 16 * k + 12, &d->flags, 2);
			memcpy(table + 16 * k + 14, &d->next, 2);
		}
		fake_driver_publish(&c->f, 0, 0);
		r = wslx_vq_pop(&c->vq, &c->chain);
		if (r != hostile[i].expect)
			fail_msg("%s: %d instead of %d", hostile[i].what, r, hostile[i].expect);
		if (r < 0) /* stays where it was: nothing is consumed */
			assert_int_equal(c->vq.last_avail, (uint16_t)(c->f.q[0].avail_idx - 1));
	}
}

static void test_bad_head_and_index(void **state)
{
	struct ctx *c = *state;

	fake_driver_publish(&c->f, 0, 8);
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), -EPROTO);
	c->vq.last_avail = 1;
	fake_driver_set_avail_idx(&c->f, 0, 10); /* 9 ahead in a ring of 8 */
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), -EPROTO);
	fake_driver_set_avail_idx(&c->f, 0, 0); /* backwards */
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), -EPROTO);
	wslx_vq_disable(&c->vq);
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), 0);
	wslx_vq_push(&c->vq, 0, 0);
	assert_false(wslx_vq_should_notify(&c->vq));
	assert_false(wslx_vq_enable_kick(&c->vq));
}

/* A direct chain longer than the walker's bound, in a ring that would allow it. */
static void test_long_direct_chain(void **state)
{
	struct ctx *c = *state;
	uint64_t a = fake_driver_alloc(&c->f, 4096, 16);
	struct fake_buf bufs[257];

	for (unsigned i = 0; i < ARRAY_SIZE(bufs); i++)
		bufs[i] = (struct fake_buf) { a, 8, true };
	assert_true(fake_driver_add(&c->f, 0, bufs, 256, false) >= 0);
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), 1);
	assert_int_equal(c->chain.n_in, 256);
	assert_true(fake_driver_add(&c->f, 0, bufs, 257, false) >= 0);
	assert_int_equal(wslx_vq_pop(&c->vq, &c->chain), -EPROTO);
}

static void push_n(struct ctx *c, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		wslx_vq_push(&c->vq, 0, 0);
}

static void test_notify_flags(void **state)
{
	struct ctx *c = *state;

	push_n(c, 1);
	assert_true(wslx_vq_should_notify(&c->vq));
	assert_false(wslx_vq_should_notify(&c->vq)); /* nothing new */
	fake_driver_set_avail_flags(&c->f, 0, 1);
	push_n(c, 1);
	assert_false(wslx_vq_should_notify(&c->vq));
	fake_driver_set_avail_flags(&c->f, 0, 0);
	push_n(c, 1);
	assert_true(wslx_vq_should_notify(&c->vq));

	wslx_vq_disable_kick(&c->vq);
	assert_int_equal(fake_driver_used_flags(&c->f, 0), 1);
	assert_false(wslx_vq_enable_kick(&c->vq));
	assert_int_equal(fake_driver_used_flags(&c->f, 0), 0);
	fake_driver_set_avail_idx(&c->f, 0, 1);
	assert_true(wslx_vq_enable_kick(&c->vq));
}

static void test_notify_event_idx(void **state)
{
	struct ctx *c = *state;

	push_n(c, 1);
	assert_true(wslx_vq_should_notify(&c->vq)); /* the first time always */
	fake_driver_set_used_event(&c->f, 0, 3);    /* tell me when 4 are there */
	push_n(c, 1);
	assert_false(wslx_vq_should_notify(&c->vq)); /* 2 */
	push_n(c, 1);
	assert_false(wslx_vq_should_notify(&c->vq)); /* 3 */
	push_n(c, 1);
	assert_true(wslx_vq_should_notify(&c->vq)); /* 4 */
	push_n(c, 1);
	assert_false(wslx_vq_should_notify(&c->vq)); /* passed before */
	/* Across the wrap of the index. */
	c->vq.used_idx = 0xfffe;
	c->vq.signalled = 0xfffe;
	fake_driver_set_used_event(&c->f, 0, 0);
	push_n(c, 2);
	assert_false(wslx_vq_should_notify(&c->vq)); /* 0 */
	push_n(c, 3);
	assert_true(wslx_vq_should_notify(&c->vq)); /* 3: passed 0 -> 1 */

	c->vq.last_avail = 5;
	fake_driver_set_avail_idx(&c->f, 0, 5);
	assert_false(wslx_vq_enable_kick(&c->vq));
	assert_int_equal(fake_driver_avail_event(&c->f, 0), 5);
	fake_driver_set_avail_idx(&c->f, 0, 6);
	assert_true(wslx_vq_enable_kick(&c->vq));
}

static void test_iov(void **state)
{
	uint8_t mem[100], buf[100];
	struct iovec iov[] = { { mem, 10 }, { mem + 20, 0 }, { mem + 30, 5 }, { mem + 50, 50 } };
	struct iovec out[4];
	uint64_t len;

	for (unsigned i = 0; i < 100; i++)
		mem[i] = (uint8_t)i;
	assert_int_equal(wslx_iov_read(iov, 4, 8, buf, 10), 10);
	assert_memory_equal(buf, ((uint8_t[]) { 8, 9, 30, 31, 32, 33, 34, 50, 51, 52 }), 10);
	assert_int_equal(wslx_iov_read(iov, 4, 60, buf, 10), 5);
	assert_int_equal(wslx_iov_read(iov, 4, 65, buf, 10), 0);
	assert_int_equal(wslx_iov_read(iov, 4, UINT64_MAX, buf, 10), 0);
	assert_int_equal(wslx_iov_write(iov, 4, 14, "xyz", 3), 3);
	assert_int_equal(mem[34], 'x');
	assert_int_equal(mem[51], 'z');
	assert_int_equal(wslx_iov_slice(iov, 4, 9, 7, out, 4, &len), 3);
	assert_int_equal(len, 7);
	assert_int_equal(out[0].iov_len, 1);
	assert_int_equal(out[1].iov_len, 5);
	assert_int_equal(out[2].iov_len, 1);
	assert_int_equal(wslx_iov_slice(iov, 4, 0, 100, out, 2, &len), 2);
	assert_int_equal(len, 15);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_enable_checks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pop_push, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unpop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_indirect, setup, teardown),
		cmocka_unit_test_setup_teardown(test_indirect_after_direct, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_head_and_index, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_direct_chain, setup_big, teardown),
		cmocka_unit_test_setup_teardown(test_notify_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_notify_event_idx, setup_event, teardown),
		cmocka_unit_test(test_iov),
	};

	return cmocka_run_group_tests_name("vq", tests, NULL, NULL);
}
