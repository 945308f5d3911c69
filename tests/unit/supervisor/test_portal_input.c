/* The parts that check, and input that lies: messages, brokers, guests. */
#include "portal_machine.h"

/* ---- parts --------------------------------------------------------------------------- */

static void test_info_block(void **state)
{
	static const uint8_t uuid[16] = { 1, 2, 3 };
	uint8_t b[PORTAL_INFO_SIZE];
	uint64_t hi = 0;
	uint32_t lo = 0;

	wslx_vmportal_info_block(256 * WSLX_MIB, uuid, b);
	assert_memory_equal(b, "NVDIMM_DAX_INFO\0\1\2\3", 19);
	assert_int_equal(wslx_get_le64(b + 56), 2 * WSLX_MIB);
	assert_int_equal(wslx_get_le64(b + 64), 254 * WSLX_MIB / 4096);
	assert_int_equal(wslx_get_le32(b + 72), 1);
	assert_int_equal(wslx_get_le32(b + 84), 2 * WSLX_MIB);
	for (unsigned i = 0; i < PORTAL_INFO_SIZE - 8; i += 4) {
		lo += wslx_get_le32(b + i);
		hi += lo;
	}
	hi += lo; /* twice, for the checksum's own words, which count as 0 */
	hi += lo;
	assert_int_equal(wslx_get_le64(b + PORTAL_INFO_SIZE - 8), hi << 32 | lo);
}

static void test_places(void **state)
{
	struct portal_places p;
	uint32_t a, b;

	assert_int_equal(wslx_vmportal_places_open(&p, 10), 0);
	assert_int_equal(wslx_vmportal_place_take(&p, 0, 0), 0);
	assert_int_equal(wslx_vmportal_place_take(&p, 0, 10), 0);
	assert_int_equal(wslx_vmportal_place_take(&p, 0, UINT32_MAX), 0);
	a = wslx_vmportal_place_take(&p, 0, 4);
	b = wslx_vmportal_place_take(&p, 1, 4);
	assert_int_equal(a, 1);
	assert_int_equal(b, 5);
	assert_int_equal(wslx_vmportal_place_take(&p, 2, 2), 0);
	wslx_vmportal_place_leave(&p, a, 4);
	assert_int_equal(wslx_vmportal_place_take(&p, 2, 2), 0);
	wslx_vmportal_place_release(&p, 1); /* another's: no effect */
	assert_int_equal(wslx_vmportal_place_take(&p, 2, 2), 0);
	wslx_vmportal_place_release(&p, 0);
	assert_int_equal(wslx_vmportal_place_take(&p, 2, 1), 9);
	assert_int_equal(wslx_vmportal_place_take(&p, 2, 2), 1);
	assert_int_equal(wslx_vmportal_place_take(&p, 2, 2), 3);
	assert_int_equal(wslx_vmportal_place_take(&p, 2, 1), 0);
	/* What was abandoned is there once, and not where somebody else is now. */
	wslx_vmportal_place_abandon(&p, 2, 1, 2);
	wslx_vmportal_place_abandon(&p, 2, 3, 2);
	wslx_vmportal_place_release(&p, 2);
	assert_int_equal(wslx_vmportal_place_take(&p, 3, 1), 1);
	assert_int_equal(wslx_vmportal_place_stale(&p, 1, &a), 0);
	assert_int_equal(wslx_vmportal_place_stale(&p, 2, &a), 2);
	assert_int_equal(a, 3);
	assert_int_equal(wslx_vmportal_place_stale(&p, 2, &b), 0);
	/* And nobody gets it while it is being unmapped: that may take longer than what would be put there. */
	assert_int_equal(wslx_vmportal_place_take(&p, 3, 3), 0);
	wslx_vmportal_place_release(&p, 2);
	assert_int_equal(wslx_vmportal_place_take(&p, 3, 3), 2);
	wslx_vmportal_places_close(&p);
}

static int apply(const struct wslx_window *w, uint64_t first, uint64_t n, uint64_t kind, int fd)
{
	static struct wslx_link_msg m;

	m = (struct wslx_link_msg) { .a = first | n << 32, .b = kind, .fd = fd };
	return wslx_window_apply(w, &m);
}

/* Messages that would map outside, over the tables, or what can vanish. */
static void test_window_refuses(void **state)
{
	int own_fd = sealed(WINDOW), two = sealed(4 * WSLX_MIB), loose = memfd_create("test", MFD_CLOEXEC);
	struct wslx_window w, none = { 0 };

	assert_int_equal(ftruncate(loose, 64 * WSLX_MIB), 0);
	assert_int_equal(wslx_window_open(loose, WINDOW, &w), -EINVAL);
	assert_int_equal(wslx_window_open(two, WINDOW, &w), -EINVAL);
	assert_int_equal(wslx_window_open(own_fd, WINDOW + 4096, &w), -EINVAL);
	assert_int_equal(wslx_window_open(own_fd, WINDOW, &w), 0);
	assert_int_equal((uintptr_t)w.host % (2 * WSLX_MIB), 0);
	assert_int_equal(apply(&none, 1, 1, WSLX_WINDOW_READ, two), -EINVAL);
	assert_int_equal(apply(&w, 0, 1, WSLX_WINDOW_READ, two), -EINVAL);
	assert_int_equal(apply(&w, 1, 0, WSLX_WINDOW_READ, two), -EINVAL);
	assert_int_equal(apply(&w, 1, 3, WSLX_WINDOW_READ, two), -EINVAL);
	assert_int_equal(apply(&w, 30, 2, WSLX_WINDOW_READ, two), -EINVAL);
	assert_int_equal(apply(&w, 31, 1, WSLX_WINDOW_READ, two), -EINVAL);
	assert_int_equal(apply(&w, UINT32_MAX, 2, WSLX_WINDOW_READ, two), -EINVAL);
	assert_int_equal(apply(&w, 2, UINT32_MAX, WSLX_WINDOW_READ, two), -EINVAL);
	assert_int_equal(apply(&w, 1, 1, 3, two), -EINVAL);
	assert_int_equal(apply(&w, 1, 1, WSLX_WINDOW_READ, -1), -EINVAL);
	assert_int_equal(apply(&w, 1, 1, WSLX_WINDOW_READ, loose), -EINVAL);
	assert_int_equal(apply(&w, 29, 2, WSLX_WINDOW_WRITE, two), 0);
	w.host[WINDOW - 1] = 42;
	assert_int_equal(apply(&w, 29, 2, WSLX_WINDOW_OWN, own_fd), 0);
	assert_int_equal(w.host[WINDOW - 1], 0);
	assert_int_equal(apply(&w, 29, 2, WSLX_WINDOW_READ, two), 0);
	assert_int_equal(w.host[WINDOW - 1], 42);
	wslx_window_close(&w);
	close(own_fd);
	close(two);
	close(loose);
}

/* ---- a broker that lies ------------------------------------------------------------------------- */

static int liar_accept(struct machine *m, int listener)
{
	struct wslx_portal_msg hello;
	struct pollfd p = { .fd = listener, .events = POLLIN };
	int fd;

	assert_int_equal(poll(&p, 1, 20000), 1);
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(recv(fd, &hello, sizeof(hello), 0), sizeof(hello));
	assert_int_equal(hello.op, PORTAL_OP_HELLO);
	assert_string_equal(hello.name, "m1");
	return fd;
}

static void lie(int fd, struct wslx_portal_msg msg, int with_fd)
{
	assert_true(wslx_send_fds(fd, &msg, sizeof(msg), &with_fd, with_fd >= 0, 0) == sizeof(msg));
}

/* A file as arena 0 should be. */
static int good_header(void)
{
	struct portal_header h = { .magic = PORTAL_MAGIC, .segments = 16 };
	int fd = sealed(2 * WSLX_MIB);

	assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
	return fd;
}

static void tell_lie(int fd, unsigned which)
{
	const struct wslx_portal_msg welcome = { .op = PORTAL_OP_WELCOME, .index = 1, .segments = 16, .life = 1 };
	const struct wslx_portal_msg good = {
		.op = PORTAL_OP_ARENA, .segments = 1, .life = 257, .access = PORTAL_ACCESS_READ
	};
	cleanup_close int file = good_header(), loose = memfd_create("test", MFD_CLOEXEC),
			  null = open("/dev/null", O_RDWR);
	cleanup_close int ro = -1;
	struct wslx_portal_msg m = good;
	char path[64];

	assert_int_equal(ftruncate(loose, 2 * WSLX_MIB), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	switch (which) {
	case 0:
		assert_int_equal(send(fd, "short", 5, 0), 5);
		return;
	case 1:
		lie(fd, good, file);
		return;
	case 2:
		lie(fd, (struct wslx_portal_msg) { .op = PORTAL_OP_WELCOME, .index = 64, .segments = 16 }, -1);
		return;
	case 3:
		lie(fd, (struct wslx_portal_msg) { .op = PORTAL_OP_WELCOME, .status = INT32_MIN, .index = 1 }, -1);
		return;
	default:
		lie(fd, welcome, -1);
	}
	switch (which) {
	case 4:
		lie(fd, welcome, -1);
		break;
	case 5:
		lie(fd, good, -1);
		break;
	case 6:
		lie(fd, good, loose);
		break;
	case 7:
		lie(fd, good, null);
		break;
	case 8:
		m.segments = 2; /* than the file has */
		lie(fd, m, file);
		break;
	case 9:
		m.index = PORTAL_MAX_ARENAS;
		lie(fd, m, file);
		break;
	case 10:
		m.index = 1;
		m.access = PORTAL_ACCESS_WRITE;
		m.owner = 2;
		lie(fd, m, file);
		break;
	case 11:
		m.index = 1;
		m.access = PORTAL_ACCESS_WRITE;
		m.owner = 1;
		lie(fd, m, ro);
		break;
	case 12:
		m.first = UINT32_MAX;
		lie(fd, m, file);
		break;
	case 13:
		m.access = 3;
		lie(fd, m, file);
		break;
	case 14:
		lie(fd, (struct wslx_portal_msg) { .op = PORTAL_OP_DONE, .epoch = 3 }, -1);
		break;
	case 15:
		lie(fd, (struct wslx_portal_msg) { .op = PORTAL_OP_DONE, .epoch = 2 }, file);
		break;
	case 16:
		lie(fd, (struct wslx_portal_msg) { .op = PORTAL_OP_SYNC }, -1);
		break;
	case 17: /* in the middle of a mapping */
		lie(fd, good, file);
		break;
	default: /* no region's header */
		assert_int_equal(pwrite(file, "x", 1, 0), 1);
		lie(fd, good, file);
	}
}
#define N_LIES 19

static void test_lying_broker(void **state)
{
	struct machine m;
	int listener;

	setup_segments(&m, 1);
	listener = wslx_unix_listen(m.sock, SOCK_SEQPACKET | SOCK_CLOEXEC, 4);
	assert_true(listener >= 0);
	boot(&m);
	for (unsigned i = 0; i < N_LIES; i++) {
		int fd = liar_accept(&m, listener);

		tell_lie(fd, i);
		if (i == 17) {
			settle(&m);
			close(fd);
		}
		until(&m, gone);
		assert_string_equal(m.failure, "");
		/* Each time, but for the limit on that. */
		assert_true(warned(&m));
		m.warning[0] = '\0';
		m.portal->grants[0].lost_warned = false;
		if (i != 17)
			close(fd);
		for (uint32_t s = 1; s < 31; s++)
			assert_int_equal(data(&m)[s * WSLX_WINDOW_SEGMENT], 0);
		for (uint32_t s = 1; s < 31; s++)
			assert_int_equal(m.portal->places.owner[s], 0);
		/* It may join again only after a while. */
		settle(&m);
		wslx_vmportal_retry(m.portal);
	}
	close(listener);
	broker_up(&m, 0);
	teardown(&m);
}

static void assert_waits(struct machine *m)
{
	settle(m);
	assert_int_equal(read_all(bell), 0);
	assert_string_equal(m->warning, "");
}

/* A broker that is there, and cannot take one more at the moment: the guest's program waits, and nobody hears of it. */
static void test_busy_broker(void **state)
{
	const struct wslx_portal_msg full = { .op = PORTAL_OP_WELCOME, .status = -EMFILE };
	int listener, others[16], fd;
	struct machine m;
	size_t n = 0;

	setup_segments(&m, 1);
	listener = wslx_unix_listen(m.sock, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_true(listener >= 0);
	while ((others[n] = wslx_unix_connect(m.sock, SOCK_SEQPACKET | SOCK_NONBLOCK)) >= 0)
		assert_true(++n < ARRAY_SIZE(others));
	boot(&m);
	bell = wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT);
	assert_true(bell >= 0);
	assert_waits(&m);
	while (n) {
		close(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
		close(others[--n]);
	}
	assert_waits(&m);
	fd = liar_accept(&m, listener);
	lie(fd, full, -1);
	assert_waits(&m);
	close(fd);
	close(liar_accept(&m, listener));
	assert_waits(&m);
	close(listener);
	broker_up(&m, 0);
	until(&m, up_to_date);
	until(&m, bell_rang);
	assert_string_equal(m.warning, "");
	close(bell);
	teardown(&m);
}

/* The next message that is no SYNCED. */
static uint32_t liar_hears(struct machine *m, int fd)
{
	struct wslx_portal_msg msg;

	do {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int64_t end = wslx_now_ms() + 20000;

		while (poll(&p, 1, 0) == 0) {
			assert_int_equal(wslx_loop_once(m->loop, 20), 0);
			assert_true(wslx_now_ms() < end);
		}
		assert_int_equal(recv(fd, &msg, sizeof(msg), 0), sizeof(msg));
	} while (msg.op == PORTAL_OP_SYNCED);
	return msg.op;
}

static bool bell_is_closed(struct machine *m)
{
	return m->portal->grants[0].bell < 0;
}

/* A broker that had no memory for another copy says of the guest's own arena that it is dead: it was revoked. */
static void test_own_arena_is_dead(void **state)
{
	struct wslx_portal_msg own = { .op = PORTAL_OP_ARENA,
				       .index = 1,
				       .first = 1,
				       .segments = 1,
				       .owner = 1,
				       .flags = PORTAL_ARENA_CONTROL,
				       .life = PORTAL_LIFE(2, PORTAL_ARENA_LIVE),
				       .access = PORTAL_ACCESS_WRITE };
	const struct wslx_portal_msg host = {
		.op = PORTAL_OP_ARENA, .segments = 1, .life = 257, .access = PORTAL_ACCESS_READ
	};
	cleanup_close int file = good_header(), mine = sealed(2 * WSLX_MIB), fd = -1;
	struct machine m;
	int listener;

	setup_segments(&m, 1);
	listener = wslx_unix_listen(m.sock, SOCK_SEQPACKET | SOCK_CLOEXEC, 4);
	assert_true(listener >= 0);
	boot(&m);
	fd = liar_accept(&m, listener);
	lie(fd, (struct wslx_portal_msg) { .op = PORTAL_OP_WELCOME, .index = 1, .segments = 16, .life = 1 }, -1);
	lie(fd, host, file);
	lie(fd, own, mine);
	lie(fd, (struct wslx_portal_msg) { .op = PORTAL_OP_DONE, .epoch = 2 }, -1);
	until(&m, granted);
	bell = ring_up(&m);
	lie(fd, (struct wslx_portal_msg) { .op = PORTAL_OP_EVENT, .epoch = 4 }, -1);
	assert_int_equal(liar_hears(&m, fd), PORTAL_OP_SYNC);
	own.life = PORTAL_LIFE(3, PORTAL_ARENA_DEAD);
	own.access = PORTAL_ACCESS_NONE;
	lie(fd, own, -1);
	lie(fd, (struct wslx_portal_msg) { .op = PORTAL_OP_DONE, .epoch = 4 }, -1);
	until(&m, gone);
	until(&m, bell_ended);
	assert_non_null(strstr(m.warning, "revoked"));
	/* The host's word is needed before it joins again, not the guest's. */
	close(bell);
	until(&m, bell_is_closed);
	assert_int_equal(wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT), -ECONNREFUSED);
	close(listener);
	unlink(m.sock);
	broker_up(&m, 0);
	teardown(&m);
}

/* A guest that writes all over the tables hurts itself. */
static void test_scribbled_tables(void **state)
{
	struct machine m;

	setup(&m);
	until(&m, up_to_date);
	m.scribbled = true;
	memset(data(&m), 0xff, WSLX_WINDOW_SEGMENT);
	assert_int_equal(portal_host_object(m.h, "thing", 1, PORTAL_NOBODY, PORTAL_EVERYBODY), 0);
	settle(&m);
	bell = wslx_vmportal_doorbell(m.portal, PORTAL_DOORBELL_PORT);
	assert_true(bell >= 0);
	until(&m, bell_rang);
	close(bell);
	settle(&m);
	assert_true(granted(&m));
	assert_int_equal(entry(&m)->part_generation, 2);
	teardown(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_info_block),       cmocka_unit_test(test_places),
		cmocka_unit_test(test_window_refuses),   cmocka_unit_test(test_lying_broker),
		cmocka_unit_test(test_busy_broker),      cmocka_unit_test(test_own_arena_is_dead),
		cmocka_unit_test(test_scribbled_tables),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(240);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
