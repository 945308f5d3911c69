/*
 * The supervisor's part in Portal against a real broker.  The test is the
 * machine: it maps the window as the VMM does, and looks into it as a guest.
 */
#ifndef WSLX_TESTS_PORTAL_MACHINE_H
#define WSLX_TESTS_PORTAL_MACHINE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <wslx/portal.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/portal_internal.h"

#define SEC INT64_C(1000000000)
#define WINDOW (64 * WSLX_MIB) /* 31 segments, the tables' included */
#define MAX_JOBS 16

struct job {
	wslx_vmportal_mapped_fn done;
	void *opaque;
};

struct machine {
	char dir[64], sock[96];
	portal_host *h;
	struct wslx_watch *host_watch;
	struct wslx_loop *loop;
	struct wslx_vmportal *portal;
	struct wslx_portal_config config;
	struct wslx_window w;
	struct job jobs[MAX_JOBS];
	size_t n_jobs;
	bool hold;     /* mappings are not carried out */
	int map_error; /* ... but fail with this */
	unsigned n_maps;
	bool scribbled;                 /* the tables are the test's */
	unsigned asked, withdrawn_from; /* from the nth question on the grant is withdrawn; 0: it is not */
	char warning[512], failure[512];
};

/* ---- the machine ---------------------------------------------------------------- */

static inline void answer_jobs(void *opaque)
{
	struct machine *m = opaque;

	while (m->n_jobs && !m->hold) {
		struct job j = m->jobs[0];

		memmove(m->jobs, m->jobs + 1, --m->n_jobs * sizeof(j));
		j.done(j.opaque, -m->map_error);
	}
}

/* A reader of the dead, or of one that is revoked, looks at its row after reading: what is there was the row's. */
static inline void assert_no_row_names(struct machine *m, uint32_t first, uint32_t segments)
{
	for (unsigned i = 0; i < PORTAL_WINDOW_ENTRIES; i++) {
		const struct portal_window_arena *t =
			(void *)(m->w.host + WSLX_WINDOW_DATA + PORTAL_WINDOW_ARENAS_OFF(i));

		for (unsigned a = 0; a < PORTAL_MAX_ARENAS; a++)
			if (PORTAL_LIFE_STATE(t[a].life) != PORTAL_ARENA_FREE &&
			    t[a].window_segment < first + segments && first < t[a].window_segment + t[a].segments)
				fail_msg("entry %u's arena %u is still said to be in %u", i, a, t[a].window_segment);
	}
}

static inline int do_map(void *opaque, const struct wslx_vmportal_map *map, wslx_vmportal_mapped_fn done,
			 void *done_opaque)
{
	static struct wslx_link_msg msg;
	struct machine *m = opaque;

	msg = (struct wslx_link_msg) { .type = WSLX_LINK_WINDOW_MAP,
				       .a = map->first | (uint64_t)map->segments << 32,
				       .b = map->kind,
				       .fd = map->fd };
	m->n_maps++;
	if (!m->scribbled)
		assert_no_row_names(m, map->first, map->segments);
	if (!m->map_error)
		assert_int_equal(wslx_window_apply(&m->w, &msg), 0);
	assert_true(m->n_jobs < MAX_JOBS);
	m->jobs[m->n_jobs++] = (struct job) { done, done_opaque };
	return wslx_loop_post(m->loop, answer_jobs, m);
}

static inline void on_warning(void *opaque, const char *text)
{
	struct machine *m = opaque;

	snprintf(m->warning, sizeof(m->warning), "%s", text);
}

static inline bool is_withdrawn(void *opaque, const char *region)
{
	struct machine *m = opaque;

	return ++m->asked >= m->withdrawn_from && m->withdrawn_from;
}

static inline void on_failure(void *opaque, const char *text)
{
	struct machine *m = opaque;

	snprintf(m->failure, sizeof(m->failure), "%s", text);
}

static inline void on_host(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	assert_int_equal(portal_host_dispatch(opaque, 0), 0);
}

static inline void broker_up(struct machine *m, uint32_t max_each)
{
	const struct portal_host_params p = {
		.size = sizeof(p), .name = "reg", .path = m->sock, .segments = 4096, .max_each = max_each
	};

	assert_int_equal(portal_host_create(&p, &m->h), 0);
	assert_int_equal(wslx_loop_watch(m->loop, portal_host_fd(m->h), EPOLLIN, on_host, m->h, &m->host_watch), 0);
}

static inline void broker_down(struct machine *m)
{
	wslx_watch_free(m->host_watch);
	m->host_watch = NULL;
	portal_host_destroy(m->h);
	m->h = NULL;
}

static inline void boot(struct machine *m)
{
	int fd = -1;

	assert_int_equal(wslx_vmportal_boot(m->portal, &fd, NULL), 0);
	assert_int_equal(wslx_window_open(fd, WINDOW, &m->w), 0);
	wslx_vmportal_start(m->portal);
}

static inline void halt(struct machine *m)
{
	m->n_jobs = 0;
	wslx_vmportal_stop(m->portal);
	wslx_window_close(&m->w);
}

static inline void setup_segments(struct machine *m, uint32_t segments)
{
	*m = (struct machine) { 0 };
	strcpy(m->dir, "/tmp/wslx-portal-XXXXXX");
	assert_non_null(mkdtemp(m->dir));
	snprintf(m->sock, sizeof(m->sock), "%s/reg.sock", m->dir);
	m->config = (struct wslx_portal_config) {
		.window = WINDOW,
		.grants = { { .region = "reg", .as = "mine", .socket = m->sock, .segments = segments } },
		.n_grants = 1,
	};
	assert_int_equal(wslx_loop_new(&m->loop), 0);
	assert_int_equal(wslx_vmportal_new(
				 &(struct wslx_vmportal_params) {
					 .loop = m->loop,
					 .machine = "m1",
					 .cid = 3,
					 .map = do_map,
					 .warn = on_warning,
					 .withdrawn = is_withdrawn,
					 .failed = on_failure,
					 .opaque = m,
				 },
				 &m->config, &m->portal),
			 0);
}

static inline void setup(struct machine *m)
{
	setup_segments(m, 2);
	broker_up(m, 0);
	boot(m);
}

static inline void teardown(struct machine *m)
{
	halt(m);
	wslx_vmportal_free(m->portal);
	broker_down(m);
	wslx_loop_free(m->loop);
	unlink(m->sock);
	assert_int_equal(rmdir(m->dir), 0);
	assert_string_equal(m->failure, "");
}

/* ---- what a guest sees ------------------------------------------------------------ */

static inline uint8_t *data(struct machine *m)
{
	return m->w.host + WSLX_WINDOW_DATA;
}

static inline struct portal_window_entry *entry(struct machine *m)
{
	return (void *)(data(m) + PORTAL_WINDOW_ENTRY_OFF(0));
}

static inline struct portal_window_entry *entry_n(struct machine *m, unsigned i)
{
	return (void *)(data(m) + PORTAL_WINDOW_ENTRY_OFF(i));
}

static inline struct portal_window_arena *arenas(struct machine *m)
{
	return (void *)(data(m) + PORTAL_WINDOW_ARENAS_OFF(0));
}

static inline uint8_t *arena(struct machine *m, unsigned i)
{
	assert_true(arenas(m)[i].life != 0);
	return data(m) + ((uint64_t)arenas(m)[i].window_segment << PORTAL_SEGMENT_SHIFT);
}

static inline const struct portal_header *header(struct machine *m)
{
	return (void *)arena(m, 0);
}

/* The arena that the guest writes to; 0: none. */
static inline unsigned own(struct machine *m)
{
	for (unsigned i = 1; i < PORTAL_MAX_ARENAS; i++)
		if (arenas(m)[i].life && arenas(m)[i].access == PORTAL_WINDOW_WRITE)
			return i;
	return 0;
}

static inline bool granted(struct machine *m)
{
	return (entry(m)->life & 0xff) == PORTAL_WINDOW_GRANTED;
}

static inline bool up_to_date(struct machine *m)
{
	return granted(m) && entry(m)->epoch == header(m)->epoch;
}

static inline bool gone(struct machine *m)
{
	return !granted(m) && m->portal->grants[0].state == GRANT_WAITING;
}

static inline bool warned(struct machine *m)
{
	return m->warning[0];
}

static inline void until(struct machine *m, bool (*cond)(struct machine *m))
{
	int64_t end = wslx_now_ms() + 20000;

	while (!cond(m)) {
		assert_int_equal(wslx_loop_once(m->loop, 100), 0);
		assert_true(wslx_now_ms() < end);
	}
}

/* Everything that is on its way has come. */
static inline void settle(struct machine *m)
{
	int64_t end = wslx_now_ms() + 250;

	while (wslx_now_ms() < end)
		assert_int_equal(wslx_loop_once(m->loop, 20), 0);
}

static inline int ring_up(struct machine *m)
{
	int fd = wslx_vmportal_doorbell(m->portal, entry(m)->doorbell_port);

	assert_true(fd >= 0);
	return fd;
}

/* Bytes read until there are none; -1: the end. */
static inline int read_all(int fd)
{
	char buf[4096];
	ssize_t r = read(fd, buf, sizeof(buf));

	if (r < 0)
		assert_int_equal(errno, EAGAIN);
	return r == 0 ? -1 : r < 0 ? 0 : (int)r;
}

WSLX_UNUSED static int bell; /* of the test that runs */

static inline bool bell_rang(struct machine *m)
{
	return read_all(bell) > 0;
}

static inline bool bell_ended(struct machine *m)
{
	int r;

	while ((r = read_all(bell)) > 0)
		;
	return r < 0;
}

/* What the host's programs see of an arena. */
static inline uint8_t host_sees(struct machine *m, unsigned i, off_t off)
{
	int fd = portal_host_arena_fd(m->h, i, 0);
	uint8_t b;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &b, 1, off), 1);
	close(fd);
	return b;
}

static inline int sealed(uint64_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0 && ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	return fd;
}

#endif
