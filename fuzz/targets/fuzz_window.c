/*
 * The supervisor's part in Portal between a broker that lies and a guest that
 * does: the input is a program of messages, doorbells and answers of the
 * processes that map.
 *
 * Besides memory errors it finds tables that promise what is not there, two
 * arenas in one place, and what a guest has lost and still reaches: at the end
 * of a connection all of the window must be its own memory again.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "input.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/portal_internal.h"

#define WINDOW (64 * WSLX_MIB)
#define MAX_STEPS 100
#define MARK 0xa5 /* first byte of what a broker hands out, and nothing else */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { FILE_GOOD, FILE_RO, FILE_LOOSE, FILE_NULL, N_FILES };

static char socket_path[64];
static int listener, files[N_FILES];
static struct wslx_loop *loop;

static struct wslx_window window;
static struct {
	wslx_vmportal_mapped_fn done;
	void *opaque;
} job;
static bool ended, map_fails;

static void must(bool good)
{
	if (!good)
		abort();
}

static int sealed(uint64_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	must(fd >= 0 && ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	return fd;
}

static void remove_socket(void)
{
	unlink(socket_path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char path[64];

	wslx_log_init("fuzz", 2, WSLX_LOG_ERROR);
	signal(SIGPIPE, SIG_IGN);
	snprintf(socket_path, sizeof(socket_path), "/tmp/wslx-fuzz-window-%d", (int)getpid());
	listener = wslx_unix_listen(socket_path, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 16);
	must(listener >= 0 && wslx_loop_new(&loop) == 0);
	atexit(remove_socket);
	files[FILE_GOOD] = sealed(8 * WSLX_MIB);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", files[FILE_GOOD]);
	files[FILE_RO] = open(path, O_RDONLY | O_CLOEXEC);
	files[FILE_LOOSE] = memfd_create("loose", MFD_CLOEXEC);
	files[FILE_NULL] = open("/dev/null", O_RDWR | O_CLOEXEC);
	return 0;
}

/* ---- the processes that map ------------------------------------------------------ */

static int do_map(void *opaque, const struct wslx_vmportal_map *m, wslx_vmportal_mapped_fn done, void *done_opaque)
{
	static struct wslx_link_msg msg;

	msg = (struct wslx_link_msg) { .a = m->first | (uint64_t)m->segments << 32, .b = m->kind, .fd = m->fd };
	must(!job.done);
	/* Whatever a broker says: what is asked of the processes is sound. */
	if (!map_fails)
		must(wslx_window_apply(&window, &msg) == 0);
	job.done = done;
	job.opaque = done_opaque;
	return 0;
}

static void answer(void)
{
	wslx_vmportal_mapped_fn done = job.done;

	job.done = NULL;
	if (done)
		done(job.opaque, map_fails ? -ENOMEM : 0);
}

static void on_warning(void *opaque, const char *text)
{
}

static void on_failure(void *opaque, const char *text)
{
	must(map_fails);
	ended = true;
}

/* ---- what must hold ---------------------------------------------------------------- */

static bool mapped(uint32_t segment)
{
	return window.host[WSLX_WINDOW_DATA + segment * WSLX_WINDOW_SEGMENT] == MARK;
}

static void check(const struct wslx_vmportal *p)
{
	const struct grant *g = &p->grants[0];
	uint8_t used[32] = { 0 };

	for (unsigned i = 0; i < PORTAL_MAX_ARENAS; i++) {
		const struct grant_arena *a = &g->arenas[i];

		if (!a->place)
			continue;
		must(a->place + a->segments <= wslx_window_segments(WINDOW));
		for (uint32_t s = a->place; s < a->place + a->segments; s++) {
			must(!used[s]);
			must((p->places.owner[s] & 0x7f) == 1);
			used[s] = 1;
		}
	}
	if (g->state == GRANT_WAITING && !g->busy)
		for (uint32_t s = 1; s < wslx_window_segments(WINDOW); s++)
			must(!mapped(s));
}

/* ---- the broker and the guest -------------------------------------------------------- */

static void send_message(struct input *in, int sock)
{
	struct wslx_portal_msg m = { 0 };
	uint8_t what = in_u8(in), file = in_u8(in) % (N_FILES + 1);

	m.op = what % 10;
	m.index = in_u8(in);
	m.segments = in_u8(in) % 40;
	m.first = in_u8(in);
	m.owner = in_u8(in) % 4;
	m.access = in_u8(in) % 4;
	m.flags = in_u8(in) % 2;
	m.life = in_u16(in);
	m.epoch = in_u8(in);
	m.status = what & 0x80 ? (int32_t)in_u32(in) : 0;
	/* Often something that gets further. */
	if (what & 0x40 && m.op == PORTAL_OP_WELCOME)
		m.index = 1, m.segments = 200;
	(void)!wslx_send_fds(sock, &m, what & 0x20 ? in_u8(in) % sizeof(m) : sizeof(m), &files[file % N_FILES],
			     file < N_FILES, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void step(struct input *in, struct wslx_vmportal *p, int *sock, int *bell)
{
	uint8_t bytes[64];

	switch (in_u8(in) % 12) {
	case 0:
		wslx_close(sock);
		break;
	case 1:
		p->grants[0].joined_ms = 0;
		wslx_vmportal_retry(p);
		break;
	case 2:
		wslx_close(bell);
		*bell = wslx_vmportal_doorbell(p, PORTAL_DOORBELL_PORT + in_u8(in) % 2);
		if (*bell < 0)
			*bell = -1;
		break;
	case 3:
		in_bytes(in, bytes, sizeof(bytes));
		if (*bell >= 0)
			(void)!send(*bell, bytes, 1 + bytes[0] % sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case 4:
		wslx_close(bell);
		break;
	case 5:
		in_bytes(in, bytes, sizeof(bytes));
		memcpy(window.host + WSLX_WINDOW_DATA + in_u16(in) * 16u, bytes, sizeof(bytes));
		break;
	case 6:
		map_fails = in_u8(in) == 0xfe;
		answer();
		break;
	case 7:
		answer();
		break;
	default:
		if (*sock >= 0)
			send_message(in, *sock);
		break;
	}
	p->grants[0].joined_ms = 0;
	must(wslx_loop_once(loop, 0) == 0);
	if (*sock < 0)
		*sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void reset_files(void)
{
	struct portal_header h = { .magic = PORTAL_MAGIC, .segments = 200 };
	static const uint8_t mark = MARK;

	must(ftruncate(files[FILE_LOOSE], 8 * WSLX_MIB) == 0);
	must(pwrite(files[FILE_GOOD], &h, sizeof(h), 0) == sizeof(h));
	/* The header's first byte cannot be the mark; the next segments' can. */
	for (off_t s = 1; s < 4; s++)
		must(pwrite(files[FILE_GOOD], &mark, 1, s * (off_t)WSLX_WINDOW_SEGMENT) == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct wslx_portal_config c = { .window = WINDOW, .n_grants = 1 };
	const struct wslx_vmportal_params params = {
		.loop = loop, .machine = "m", .cid = 3, .map = do_map, .warn = on_warning, .failed = on_failure
	};
	struct input in = { data, n };
	struct wslx_vmportal *p;
	int fd = -1, sock = -1, bell = -1, stray;

	c.grants[0] = (struct wslx_portal_grant) { .region = "r", .as = "r", .socket = socket_path, .segments = 2 };
	ended = map_fails = false;
	reset_files();
	must(wslx_vmportal_new(&params, &c, &p) == 0 && wslx_vmportal_boot(p, &fd, NULL) == 0);
	must(wslx_window_open(fd, WINDOW, &window) == 0);
	wslx_vmportal_start(p);
	sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	for (int i = 0; i < MAX_STEPS && in.n && !ended; i++) {
		step(&in, p, &sock, &bell);
		if (!map_fails)
			check(p);
	}
	job.done = NULL;
	wslx_vmportal_free(p);
	wslx_window_close(&window);
	wslx_close(&sock);
	wslx_close(&bell);
	while ((stray = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(stray);
	return 0;
}
