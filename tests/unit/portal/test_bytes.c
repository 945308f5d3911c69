/* Byte streams: random pieces over the wrap, a full ring, the end of either side. */
#include "pair.h"

#include <stdbool.h>
#include <unistd.h>

#define CAPACITY 1024u
#define TOTAL (UINT64_C(1) << 20)
#define LAST 700u /* what a writer leaves unread */

static uint8_t byte_at(uint64_t i)
{
	return (uint8_t)((i * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static void fill(uint8_t *buf, uint64_t at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		buf[i] = byte_at(at + i);
}

static bool is_stream(const uint8_t *buf, uint64_t at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (buf[i] != byte_at(at + i))
			return false;
	return true;
}

/* Up to three times what there is room for; by copy or in place. */
static int write_some(portal_chan *c, uint64_t at, unsigned *seed, size_t *did)
{
	size_t n = 1 + (size_t)rand_r(seed) % (rand_r(seed) % 2 ? 30 : 3 * CAPACITY), room;
	uint8_t buf[3 * CAPACITY];
	void *to;
	int r;

	if (n > TOTAL - at)
		n = TOTAL - at;
	if (rand_r(seed) % 2) {
		fill(buf, at, n);
		return portal_write(c, buf, n, did, LONG);
	}
	r = portal_write_span(c, &to, &room, LONG);
	if (r < 0)
		return r;
	*did = n < room ? n : room;
	fill(to, at, *did);
	return portal_wrote(c, *did);
}

static void *write_all(void *arg)
{
	struct pair *p = arg;
	unsigned seed = 1;
	size_t did = 0;

	for (uint64_t at = 0; at < TOTAL; at += did)
		if (write_some(p->tx, at, &seed, &did) < 0 || !did)
			return "write";
	return NULL;
}

static int read_some(portal_chan *c, uint64_t at, unsigned *seed, size_t *did)
{
	uint8_t buf[3 * CAPACITY];
	size_t cap = 1 + (size_t)rand_r(seed) % (rand_r(seed) % 2 ? 30 : sizeof(buf));
	const void *from;
	int r;

	if (rand_r(seed) % 2) {
		r = portal_read(c, buf, cap, did, LONG);
		return r < 0 ? r : is_stream(buf, at, *did) ? 0 : -EILSEQ;
	}
	r = portal_read_span(c, &from, did, LONG);
	if (r < 0)
		return r;
	if (*did > cap)
		*did = cap;
	return is_stream(from, at, *did) ? portal_consumed(c, *did) : -EILSEQ;
}

static void random_pieces(void **state)
{
	unsigned seed = 2;
	struct pair p;
	size_t did = 0;
	pthread_t t;
	void *r;

	pair_start(&p, PORTAL_BYTES, CAPACITY);
	assert_int_equal(pthread_create(&t, NULL, write_all, &p), 0);
	for (uint64_t at = 0; at < TOTAL; at += did) {
		assert_int_equal(read_some(p.rx, at, &seed, &did), 0);
		assert_true(did);
	}
	assert_int_equal(pthread_join(t, &r), 0);
	assert_null(r);
	assert_int_equal(portal_read(p.rx, &did, 1, &did, 0), -EAGAIN);
	pair_end(&p);
}

/* Writes until no more fits; how many did. */
static uint64_t fill_up(portal_chan *c, uint64_t at)
{
	uint64_t end = at;
	uint8_t buf[300];
	size_t did;
	int r;

	for (;;) {
		fill(buf, end, sizeof(buf));
		r = portal_write(c, buf, sizeof(buf), &did, 0);
		if (r < 0)
			break;
		assert_in_range(did, 1, sizeof(buf));
		end += did;
	}
	assert_int_equal(r, -EAGAIN);
	return end - at;
}

static void read_exactly(portal_chan *c, uint64_t at, size_t n)
{
	uint8_t buf[CAPACITY];
	size_t did;

	for (uint64_t end = at + n; at < end; at += did) {
		assert_int_equal(portal_read(c, buf, end - at < sizeof(buf) ? end - at : sizeof(buf), &did, LONG), 0);
		assert_true(is_stream(buf, at, did));
	}
}

/* A ring holds its capacity, all of it, wherever it begins; and the room for one byte is room for one byte. */
static void back_pressure(void **state)
{
	uint64_t at = 0;
	struct pair p;
	size_t did;

	pair_start(&p, PORTAL_BYTES, CAPACITY);
	for (unsigned i = 0; i < 20; i++) {
		uint8_t b[2];

		assert_int_equal(fill_up(p.tx, at), CAPACITY);
		assert_int_equal(portal_write(p.tx, "x", 1, &did, SEC / 1000), -ETIMEDOUT);
		read_exactly(p.rx, at, 1);
		fill(b, at + CAPACITY, 2);
		assert_int_equal(portal_write(p.tx, b, 2, &did, 0), 0);
		assert_int_equal(did, 1);
		read_exactly(p.rx, at + 1, CAPACITY);
		/* Another place to begin. */
		assert_int_equal(portal_read(p.rx, b, 2, &did, 0), -EAGAIN);
		at += CAPACITY + 1;
	}
	pair_end(&p);
}

/* What was written before the writer ended is read, then -EPIPE; nobody is left to write to. */
static void read_the_rest(portal_chan *c)
{
	uint8_t b;
	size_t did;

	read_exactly(c, 0, LAST);
	assert_int_equal(portal_read(c, &b, 1, &did, LONG), -EPIPE);
	assert_int_equal(portal_read(c, &b, 1, &did, 0), -EPIPE);
	assert_int_equal(portal_read_span(c, &(const void *) { NULL }, &did, LONG), -EPIPE);
	assert_int_equal(portal_write(c, &b, 1, &did, LONG), -EPIPE);
	assert_int_equal(portal_write_span(c, &(void *) { NULL }, &did, LONG), -EPIPE);
}

static int write_last(portal_chan *c)
{
	uint8_t buf[LAST];
	size_t did;

	fill(buf, 0, sizeof(buf));
	return portal_write(c, buf, sizeof(buf), &did, LONG) < 0 || did != sizeof(buf);
}

static void writer_closes(void **state)
{
	struct pair p;

	pair_start(&p, PORTAL_BYTES, CAPACITY);
	assert_int_equal(write_last(p.tx), 0);
	portal_chan_free(p.tx);
	p.tx = NULL;
	read_the_rest(p.rx);
	pair_end(&p);
}

static int write_and_hang(void *arg)
{
	portal *p = broker_attach(arg, "client");
	portal_chan *c;

	if (!p || portal_connect(p, "bytes", CAPACITY, LONG, &c) < 0 || write_last(c))
		return 1;
	for (;;)
		pause();
}

static void writer_is_killed(void **state)
{
	struct portal_listen params = { .size = sizeof(params), .kind = PORTAL_BYTES };
	const void *at;
	struct broker b;
	portal_listener *l;
	portal_chan *c;
	size_t n = 0;
	portal *p;
	int pid;

	broker_start(&b, NULL);
	pid = child_start(write_and_hang, &b);
	p = broker_attach(&b, "server");
	assert_non_null(p);
	assert_int_equal(portal_listen(p, "bytes", &params, &l), 0);
	assert_int_equal(portal_accept(l, LONG, &c), 0);
	/* It has written all that it will. */
	while (n < LAST)
		assert_int_equal(portal_read_span(c, &at, &n, LONG), 0);
	child_kill(pid);
	read_the_rest(c);
	portal_chan_free(c);
	portal_listener_free(l);
	portal_detach(p);
	broker_end(&b);
}

static void *write_until_it_fails(void *arg)
{
	struct pair *p = arg;
	uint8_t buf[CAPACITY] = { 0 };
	size_t did;
	int r;

	do
		r = portal_write(p->tx, buf, sizeof(buf), &did, LONG);
	while (r == 0);
	return (void *)(intptr_t)r;
}

/* A writer that waits for room, and for whom there will be none. */
static void reader_closes(void **state)
{
	struct pair p;
	uint8_t b;
	size_t n;
	pthread_t t;
	void *r;

	pair_start(&p, PORTAL_BYTES, CAPACITY);
	assert_int_equal(pthread_create(&t, NULL, write_until_it_fails, &p), 0);
	assert_int_equal(portal_read(p.rx, &b, 1, &n, LONG), 0);
	portal_chan_free(p.rx);
	p.rx = NULL;
	assert_int_equal(pthread_join(t, &r), 0);
	assert_int_equal((intptr_t)r, -EPIPE);
	pair_end(&p);
}

static void what_is_refused(void **state)
{
	struct pair p;
	const void *ro;
	uint8_t b = 0;
	uint32_t type;
	size_t n;
	void *rw;

	pair_start(&p, PORTAL_BYTES, CAPACITY);
	assert_int_equal(portal_write(p.tx, &b, 0, &n, 0), -EINVAL);
	assert_int_equal(portal_read(p.rx, &b, 0, &n, 0), -EINVAL);
	assert_int_equal(portal_write_span(p.tx, &rw, &n, 0), 0);
	/* What is to be filled is no record. */
	assert_int_equal(portal_commit(p.tx, 1, 1), -EINVAL);
	assert_int_equal(portal_wrote(p.tx, n + 1), -EINVAL);
	/* It was given once. */
	assert_int_equal(portal_wrote(p.tx, 1), -EINVAL);
	assert_int_equal(portal_read_span(p.rx, &ro, &n, 0), -EAGAIN);
	assert_int_equal(portal_write(p.tx, &b, 1, &n, 0), 0);
	assert_int_equal(portal_consumed(p.rx, 2), -EINVAL);
	assert_int_equal(portal_read_span(p.rx, &ro, &n, 0), 0);
	assert_int_equal(n, 1);
	assert_int_equal(portal_consumed(p.rx, 2), -EINVAL);
	assert_int_equal(portal_consumed(p.rx, 1), 0);
	/* A stream has no records. */
	assert_int_equal(portal_send(p.tx, 1, &b, 1, 0), -EINVAL);
	assert_int_equal(portal_reserve(p.tx, 1, &rw, 0), -EINVAL);
	assert_int_equal(portal_recv(p.rx, &type, &b, 1, &n, 0), -EINVAL);
	assert_int_equal(portal_peek(p.rx, &type, &ro, &n, 0), -EINVAL);
	pair_end(&p);

	pair_start(&p, PORTAL_RECORDS, CAPACITY);
	assert_int_equal(portal_write(p.tx, &b, 1, &n, 0), -EINVAL);
	assert_int_equal(portal_write_span(p.tx, &rw, &n, 0), -EINVAL);
	assert_int_equal(portal_reserve(p.tx, 1, &rw, 0), 0);
	assert_int_equal(portal_wrote(p.tx, 1), -EINVAL);
	assert_int_equal(portal_commit(p.tx, 1, 1), 0);
	assert_int_equal(portal_flush(p.tx), 0);
	assert_int_equal(portal_read(p.rx, &b, 1, &n, 0), -EINVAL);
	assert_int_equal(portal_read_span(p.rx, &ro, &n, 0), -EINVAL);
	pair_end(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_pieces), cmocka_unit_test(back_pressure),    cmocka_unit_test(writer_closes),
		cmocka_unit_test(reader_closes), cmocka_unit_test(writer_is_killed), cmocka_unit_test(what_is_refused),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
