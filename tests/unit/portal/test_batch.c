/* Records in batches and without copies: reserve, commit, flush; peek, release. */
#include "pair.h"

#include <stdbool.h>
#include <unistd.h>

#define CAPACITY 1024u
#define MOST (CAPACITY / 2 - 8) /* of a record, without its header */

/* Nothing, or the next record, which has to be like this. */
static void expect_nothing(portal_chan *rx)
{
	const void *at;
	uint32_t type;
	size_t n;

	assert_int_equal(portal_peek(rx, &type, &at, &n, 0), -EAGAIN);
}

static void expect(portal_chan *rx, uint32_t type, const char *text)
{
	const void *at;
	uint32_t have;
	size_t n;

	assert_int_equal(portal_peek(rx, &have, &at, &n, LONG), 0);
	assert_int_equal(have, type);
	assert_int_equal(n, strlen(text));
	assert_memory_equal(at, text, n);
}

static void put(portal_chan *tx, uint32_t type, const char *text)
{
	void *at;

	/* More than it will be. */
	assert_int_equal(portal_reserve(tx, strlen(text) + 20, &at, 0), 0);
	memcpy(at, text, strlen(text));
	assert_int_equal(portal_commit(tx, type, strlen(text)), 0);
}

static void shown_by_flush(void **state)
{
	struct pair p;
	void *at;

	pair_start(&p, PORTAL_RECORDS, CAPACITY);
	put(p.tx, 1, "one");
	put(p.tx, 2, "");
	put(p.tx, 3, "three");
	expect_nothing(p.rx);
	/* One that is reserved and not committed is not shown. */
	assert_int_equal(portal_reserve(p.tx, 10, &at, 0), 0);
	assert_int_equal(portal_flush(p.tx), 0);
	expect(p.rx, 1, "one");
	expect(p.rx, 2, "");
	expect(p.rx, 3, "three");
	expect_nothing(p.rx);
	assert_int_equal(portal_release(p.rx), 0);
	assert_int_equal(portal_release(p.rx), 0);
	assert_int_equal(portal_flush(p.tx), 0);
	expect_nothing(p.rx);
	/* portal_send() shows what was committed before, in its order. */
	put(p.tx, 4, "four");
	assert_int_equal(portal_send(p.tx, 5, "five", 4, 0), 0);
	expect(p.rx, 4, "four");
	expect(p.rx, 5, "five");
	pair_end(&p);
}

static void wrong_order(void **state)
{
	struct pair p;
	void *at, *again;

	pair_start(&p, PORTAL_RECORDS, CAPACITY);
	assert_int_equal(portal_commit(p.tx, 1, 0), -EINVAL);
	assert_int_equal(portal_reserve(p.tx, 16, &at, 0), 0);
	assert_int_equal(portal_commit(p.tx, 1, 17), -EINVAL);
	/* The room of a record that is not committed is the next one's. */
	assert_int_equal(portal_reserve(p.tx, 4, &again, 0), 0);
	assert_ptr_equal(at, again);
	memcpy(again, "last", 4);
	assert_int_equal(portal_commit(p.tx, 2, 4), 0);
	assert_int_equal(portal_commit(p.tx, 2, 4), -EINVAL);
	assert_int_equal(portal_flush(p.tx), 0);
	expect(p.rx, 2, "last");
	expect_nothing(p.rx);
	assert_int_equal(portal_reserve(p.tx, MOST + 1, &at, 0), -EMSGSIZE);
	assert_int_equal(portal_reserve(p.tx, SIZE_MAX, &at, 0), -EMSGSIZE);
	assert_int_equal(portal_send(p.tx, 1, NULL, MOST + 1, 0), -EMSGSIZE);
	assert_int_equal(portal_reserve(p.tx, MOST, &at, 0), 0);
	pair_end(&p);
}

/* Room comes back with release, not with peek; and a batch that fills the ring does not wait for itself. */
static void back_pressure(void **state)
{
	const char text[] = "0123456789012345678901234567890123456789012345678901234";
	unsigned n = 0;
	struct pair p;
	void *at;
	int r;

	pair_start(&p, PORTAL_RECORDS, CAPACITY);
	while ((r = portal_reserve(p.tx, sizeof(text), &at, 0)) == 0) {
		memcpy(at, text, sizeof(text) - 1);
		assert_int_equal(portal_commit(p.tx, n++, sizeof(text) - 1), 0);
	}
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(n, CAPACITY / 64);
	assert_int_equal(portal_reserve(p.tx, 1, &at, SEC / 1000), -ETIMEDOUT);
	for (unsigned i = 0; i < n; i++)
		expect(p.rx, i, text);
	assert_int_equal(portal_reserve(p.tx, 1, &at, 0), -EAGAIN);
	assert_int_equal(portal_release(p.rx), 0);
	assert_int_equal(portal_reserve(p.tx, MOST, &at, 0), 0);
	pair_end(&p);
}

/* ---- at random ---- */

struct model {
	struct {
		uint32_t type;
		size_t size;
	} sent[64];
	unsigned committed, shown, peeked; /* all modulo the array; committed - peeked is what is under way */
	unsigned seed;
};

static uint8_t byte_of(uint32_t type, size_t i)
{
	return (uint8_t)(type * 31 + i);
}

/* False: the ring is full, and then everything is shown. */
static bool commit_one(struct model *m, portal_chan *tx)
{
	size_t room = (size_t)rand_r(&m->seed) % (rand_r(&m->seed) % 8 ? 100 : MOST + 1);
	size_t n = (size_t)rand_r(&m->seed) % (room + 1);
	uint32_t type = m->committed;
	void *at;
	int r = portal_reserve(tx, room, &at, 0);

	if (r == -EAGAIN) {
		m->shown = m->committed;
		return false;
	}
	assert_int_equal(r, 0);
	for (size_t i = 0; i < n; i++)
		((uint8_t *)at)[i] = byte_of(type, i);
	assert_int_equal(portal_commit(tx, type, n), 0);
	m->sent[type % 64].type = type;
	m->sent[type % 64].size = n;
	m->committed++;
	return true;
}

/* Everything that is shown, and no more. */
static void peek_all(struct model *m, portal_chan *rx)
{
	const uint8_t *at;
	uint32_t type;
	size_t n;

	for (; m->peeked != m->shown; m->peeked++) {
		assert_int_equal(portal_peek(rx, &type, (const void **)&at, &n, LONG), 0);
		assert_int_equal(type, m->sent[m->peeked % 64].type);
		assert_int_equal(n, m->sent[m->peeked % 64].size);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(at[i], byte_of(type, i));
	}
	expect_nothing(rx);
}

static void at_random(void **state)
{
	struct model m = { .seed = 5 };
	struct pair p;

	pair_start(&p, PORTAL_RECORDS, CAPACITY);
	for (unsigned round = 0; round < 4000; round++) {
		unsigned batch = (unsigned)rand_r(&m.seed) % 20;

		while (batch-- && m.committed - m.peeked < 64 && commit_one(&m, p.tx))
			;
		peek_all(&m, p.rx);
		if (rand_r(&m.seed) % 3) {
			assert_int_equal(portal_flush(p.tx), 0);
			m.shown = m.committed;
		}
		peek_all(&m, p.rx);
		if (rand_r(&m.seed) % 2)
			assert_int_equal(portal_release(p.rx), 0);
	}
	assert_true(m.committed > 4000);
	pair_end(&p);
}

/* ---- the other end's end ---- */

static void nobody_there(void **state)
{
	struct pair p;
	void *at;

	pair_start(&p, PORTAL_RECORDS, CAPACITY);
	put(p.tx, 1, "shown");
	assert_int_equal(portal_flush(p.tx), 0);
	put(p.tx, 2, "never shown");
	portal_chan_free(p.tx);
	p.tx = NULL;
	expect(p.rx, 1, "shown");
	assert_int_equal(portal_peek(p.rx, NULL, (const void **)&at, &(size_t) { 0 }, LONG), -EPIPE);
	assert_int_equal(portal_reserve(p.rx, 1, &at, LONG), -EPIPE);
	pair_end(&p);

	pair_start(&p, PORTAL_RECORDS, CAPACITY);
	put(p.tx, 1, "too late");
	portal_chan_free(p.rx);
	p.rx = NULL;
	assert_int_equal(portal_flush(p.tx), -EPIPE);
	assert_int_equal(portal_reserve(p.tx, 1, &at, LONG), -EPIPE);
	pair_end(&p);
}

/* Between reserve and flush a participant is in the middle of something: a quiesce waits for it. */
static void open_batch_is_late(void **state)
{
	struct portal_quiesce q;
	struct portal_info info;
	struct pair p;
	void *at;

	pair_start(&p, PORTAL_RECORDS, CAPACITY);
	portal_get_info(p.client, &info);
	put(p.tx, 1, "in a batch");
	assert_int_equal(portal_host_quiesce(p.b.h, 1, NULL), -ETIMEDOUT);
	assert_int_equal(portal_poll(p.server, 0), -EAGAIN);
	assert_int_equal(portal_poll(p.client, 0), -EAGAIN);
	assert_int_equal(portal_host_rest(p.b.h, &q), -EAGAIN);
	assert_int_equal(q.late, UINT64_C(1) << info.self);
	/* It goes on to its end. */
	put(p.tx, 2, "still");
	assert_int_equal(portal_flush(p.tx), 0);
	assert_int_equal(portal_host_rest(p.b.h, &q), 0);
	assert_int_equal(portal_reserve(p.tx, 1, &at, 0), -EAGAIN);
	assert_int_equal(portal_host_resume(p.b.h), 0);
	assert_int_equal(portal_reserve(p.tx, 1, &at, 0), 0);
	expect(p.rx, 1, "in a batch");
	expect(p.rx, 2, "still");
	pair_end(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shown_by_flush), cmocka_unit_test(wrong_order),  cmocka_unit_test(back_pressure),
		cmocka_unit_test(at_random),      cmocka_unit_test(nobody_there), cmocka_unit_test(open_batch_is_late),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
