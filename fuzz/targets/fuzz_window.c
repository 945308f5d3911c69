/*
 * The supervisor's part in Portal between two brokers that lie and a guest that
 * does: the input is a program of answers, doorbells, grants, and of when the
 * processes that map are done.  Steps are what a broker may say rather than
 * bytes; one of them is bytes all the same.
 *
 * Besides memory errors it finds a window that is not what was granted.  Each
 * segment of a broker's file says on its second page which it is, so what lies
 * where is read from the window itself: of an arena that is there all of its
 * segments, of the last that the broker said; nowhere else anything but the
 * window's own memory, or the last words of somebody dead.
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
#define BROKERS 2
#define FILE_SEGMENTS 8
#define REGION 200u      /* segments */
#define MARK_AT 4096u    /* in a segment: struct mark; the guest leaves that page alone */
#define SCRATCH_AT 8192u /* ... and here the guest writes */
#define MARK_MAGIC 0x6d61726bu
#define MAX_LIVES (8 * MAX_STEPS)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* OTHERS is never granted for writing. */
enum { FILE_OTHERS, FILE_OWN, FILE_RO, FILE_LOOSE, FILE_NULL, N_FILES };

struct mark {
	uint32_t magic, file, segment;
};

static struct wslx_loop *loop;
static int files[N_FILES];
static const uint8_t *others; /* all of FILE_OTHERS */
static struct wslx_window window, spare;
static struct wslx_vmportal *portal_of_machine;
static bool ended, map_fails, withdrawn, tables_written;

static struct broker {
	char path[64];
	int listener, sock, bell;
	uint32_t epoch;
	/* A mapping that the processes have been asked for. */
	struct wslx_vmportal_map map;
	wslx_vmportal_mapped_fn done;
	void *opaque;
} brokers[BROKERS];

/* What was said of an arena, by the generation of its life word, which is never used twice. */
static struct said {
	uint32_t file, segments, access;
	bool last_bytes; /* what is mapped of it when it has gone may stay: nobody writes there any more */
} said[MAX_LIVES];
static uint32_t n_said;
static uint32_t placed[WINDOW / WSLX_WINDOW_SEGMENT]; /* whose generation the processes have mapped in a segment */

static void must(bool good)
{
	if (!good)
		abort();
}

/* ---- what there is to map ------------------------------------------------------------ */

static int sealed(uint64_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	must(fd >= 0 && ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	return fd;
}

/* Anything of it can be arena 0. */
static int region_file(uint32_t file)
{
	struct portal_header h = { .magic = PORTAL_MAGIC, .segments = REGION };
	int fd = sealed(FILE_SEGMENTS * WSLX_WINDOW_SEGMENT);

	must(pwrite(fd, &h, sizeof(h), 0) == sizeof(h));
	for (uint32_t s = 0; s < FILE_SEGMENTS; s++) {
		struct mark m = { MARK_MAGIC, file, s };

		must(pwrite(fd, &m, sizeof(m), (off_t)(s * WSLX_WINDOW_SEGMENT + MARK_AT)) == sizeof(m));
	}
	return fd;
}

static void open_files(void)
{
	char path[64];

	files[FILE_OTHERS] = region_file(FILE_OTHERS);
	files[FILE_OWN] = region_file(FILE_OWN);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", files[FILE_OTHERS]);
	files[FILE_RO] = open(path, O_RDONLY | O_CLOEXEC);
	files[FILE_LOOSE] = memfd_create("loose", MFD_CLOEXEC);
	files[FILE_NULL] = open("/dev/null", O_RDWR | O_CLOEXEC);
	must(ftruncate(files[FILE_LOOSE], FILE_SEGMENTS * WSLX_WINDOW_SEGMENT) == 0);
	others = mmap(NULL, FILE_SEGMENTS * WSLX_WINDOW_SEGMENT, PROT_READ, MAP_SHARED, files[FILE_OTHERS], 0);
	must(others != MAP_FAILED);
}

static void remove_sockets(void)
{
	for (unsigned i = 0; i < BROKERS; i++)
		unlink(brokers[i].path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int fd = sealed(WINDOW);

	wslx_log_init("fuzz", 2, WSLX_LOG_ERROR);
	signal(SIGPIPE, SIG_IGN);
	must(wslx_loop_new(&loop) == 0 && wslx_window_open(fd, WINDOW, &spare) == 0);
	close(fd);
	for (unsigned i = 0; i < BROKERS; i++) {
		struct broker *b = &brokers[i];

		snprintf(b->path, sizeof(b->path), "/tmp/wslx-fuzz-window-%d-%u", (int)getpid(), i);
		b->listener = wslx_unix_listen(b->path, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 16);
		must(b->listener >= 0);
	}
	atexit(remove_sockets);
	open_files();
	return 0;
}

/* ---- the processes that map ------------------------------------------------------ */

static int do_map(void *opaque, const struct wslx_vmportal_map *m, wslx_vmportal_mapped_fn done, void *done_opaque)
{
	struct broker *b = &brokers[((struct grant *)done_opaque)->index];

	must(!b->done);
	b->map = *m;
	b->done = done;
	b->opaque = done_opaque;
	return 0;
}

static void note(const struct wslx_vmportal_map *m, const struct grant *g)
{
	uint64_t generation = 0;

	for (unsigned i = 0; m->kind != WSLX_WINDOW_OWN && i < PORTAL_MAX_ARENAS; i++)
		if (g->arenas[i].place == m->first)
			generation = PORTAL_LIFE_GENERATION(g->arenas[i].life);
	for (uint32_t s = m->first; s < m->first + m->segments; s++)
		placed[s] = generation < n_said ? (uint32_t)generation : 0;
}

static void answer(struct broker *b, int err)
{
	struct wslx_link_msg msg = { .a = b->map.first | (uint64_t)b->map.segments << 32,
				     .b = b->map.kind,
				     .fd = b->map.fd };
	wslx_vmportal_mapped_fn done = b->done;

	b->done = NULL;
	if (!done)
		return;
	/* Whatever a broker says: what is asked of the processes is sound. */
	if (!err) {
		must(wslx_window_apply(&window, &msg) == 0);
		note(&b->map, b->opaque);
	}
	done(b->opaque, err);
}

static void on_warning(void *opaque, const char *text)
{
}

static void on_failure(void *opaque, const char *text)
{
	must(map_fails);
	ended = true;
}

static bool is_withdrawn(void *opaque, const char *region)
{
	return withdrawn && region[0] == 'b';
}

/* ---- what must hold ---------------------------------------------------------------- */

static struct mark mark_at(uint32_t segment)
{
	struct mark m;

	memcpy(&m, window.host + WSLX_WINDOW_DATA + segment * WSLX_WINDOW_SEGMENT + MARK_AT, sizeof(m));
	return m;
}

static bool under_way(uint32_t segment)
{
	for (size_t i = 0; i < portal_of_machine->n_grants; i++) {
		const struct grant *g = &portal_of_machine->grants[i];

		if (g->busy && segment >= g->map.first && segment - g->map.first < g->map.segments)
			return true;
	}
	return false;
}

/* One arena lies where nothing else does, and is what was said last. */
static void check_arena(const struct grant *g, const struct grant_arena *a, uint8_t *used)
{
	uint64_t generation = PORTAL_LIFE_GENERATION(a->life);
	const struct said *s = &said[generation < n_said ? generation : 0];

	must(generation < n_said && a->segments == s->segments && a->access == s->access);
	must(a->place + a->segments <= wslx_window_segments(WINDOW));
	for (uint32_t k = 0; k < a->segments; k++) {
		struct mark m = mark_at(a->place + k);

		must(!used[a->place + k]);
		must(portal_of_machine->places.owner[a->place + k] == 1 + g->index);
		used[a->place + k] = 1;
		if (!under_way(a->place + k))
			must(m.magic == MARK_MAGIC && m.file == s->file && m.segment == k);
	}
}

/* A dead one is said to be there for as long as what it left is.  When the grant ends its entry ends first. */
static void check_dead(const struct grant *g, const struct grant_arena *a)
{
	for (uint32_t k = 0; k < a->segments && g->state != GRANT_CLEARING && g->state != GRANT_WAITING; k++)
		must(portal_of_machine->places.stale[a->place + k] && !under_way(a->place + k));
}

/* The tables are what the guest goes by. */
static void check_tables(const struct grant *g)
{
	const uint8_t *tables = window.host + WSLX_WINDOW_DATA;
	const struct portal_window_entry *e = (const void *)(tables + PORTAL_WINDOW_ENTRY_OFF(g->index));
	const struct portal_window_arena *t = (const void *)(tables + PORTAL_WINDOW_ARENAS_OFF(g->index));

	if (g->state != GRANT_READY) {
		must(g->shown || PORTAL_LIFE_STATE(e->life) == PORTAL_WINDOW_NONE);
		return;
	}
	must(PORTAL_LIFE_STATE(e->life) == PORTAL_WINDOW_GRANTED && e->epoch == g->epoch && !(e->epoch & 1));
	for (unsigned i = 0; i < PORTAL_MAX_ARENAS; i++) {
		const struct grant_arena *a = &g->arenas[i];

		must(t[i].life == a->life);
		must(!a->life ||
		     (t[i].window_segment == a->place && t[i].segments == a->segments && t[i].access == a->access));
	}
}

static void check(const struct wslx_vmportal *p)
{
	uint8_t used[WINDOW / WSLX_WINDOW_SEGMENT] = { 0 };

	for (size_t i = 0; i < p->n_grants; i++) {
		for (unsigned a = 0; a < PORTAL_MAX_ARENAS; a++) {
			const struct grant_arena *arena = &p->grants[i].arenas[a];

			if (arena->place && arena->dead)
				check_dead(&p->grants[i], arena);
			else if (arena->place)
				check_arena(&p->grants[i], arena, used);
		}
		if (!tables_written)
			check_tables(&p->grants[i]);
		/* Where something is still being put nothing else is. */
		for (uint32_t k = 0; p->grants[i].busy && k < p->grants[i].map.segments; k++)
			must((p->places.owner[p->grants[i].map.first + k] & 0x7f) == 1 + i);
	}
	for (uint32_t s = 1; s < wslx_window_segments(WINDOW); s++) {
		must(used[s] || p->places.stale[s] || under_way(s) || mark_at(s).magic != MARK_MAGIC);
		must(!p->places.stale[s] || said[placed[s]].last_bytes);
	}
	/* The guest's writes stay its own. */
	for (uint32_t s = 0; s < FILE_SEGMENTS; s++)
		must(!others[s * WSLX_WINDOW_SEGMENT + SCRATCH_AT]);
}

/* ---- what brokers say ---------------------------------------------------------------- */

static uint64_t new_life(uint32_t file, uint32_t segments, uint32_t access, uint8_t state)
{
	if (n_said == MAX_LIVES)
		return 0;
	said[n_said] =
		(struct said) { file == FILE_RO ? FILE_OTHERS : file, segments, access, state == PORTAL_ARENA_REVOKED };
	return PORTAL_LIFE(n_said++, state);
}

static void say(const struct broker *b, const struct wslx_portal_msg *m, size_t n, uint32_t file)
{
	if (b->sock >= 0)
		(void)!wslx_send_fds(b->sock, m, n, &files[file % N_FILES], file < N_FILES,
				     MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void say_whole(const struct broker *b, const struct wslx_portal_msg *m)
{
	say(b, m, sizeof(*m), N_FILES);
}

static void say_bytes(struct input *in, const struct broker *b)
{
	struct wslx_portal_msg m = { 0 };
	uint8_t what = in_u8(in), file = in_u8(in) % (N_FILES + 1), state;

	m.op = what % 10;
	m.index = in_u8(in);
	m.segments = in_u8(in) % 40;
	m.first = in_u8(in);
	m.owner = in_u8(in) % 4;
	m.access = in_u8(in) % 4;
	m.flags = in_u8(in) % 2;
	state = in_u8(in);
	m.epoch = in_u8(in);
	m.status = what & 0x80 ? (int32_t)in_u32(in) : 0;
	if (m.access == PORTAL_ACCESS_WRITE && (file == FILE_OTHERS || file == FILE_RO))
		m.owner = 3; /* nobody's: to be refused */
	m.life = new_life(file, m.segments, m.access, state);
	say(b, &m, what & 0x40 ? in_u8(in) % sizeof(m) : sizeof(m), file);
}

static void say_welcome(const struct broker *b, uint8_t how)
{
	static const int32_t status[] = { -EAGAIN, -EUSERS, -ENOSPC, -EPROTO };

	say_whole(b, &(struct wslx_portal_msg) { .op = PORTAL_OP_WELCOME,
						 .index = 1 + how % 2,
						 .segments = REGION,
						 .life = 1,
						 .status = how < 0xf0 ? 0 : status[how % ARRAY_SIZE(status)] });
}

/* Of others, or the machine's own; one that was there already comes with other memory, and longer or shorter. */
static void say_arena(const struct broker *b, const struct grant *g, uint8_t index, uint8_t segments, bool own)
{
	uint32_t file = own ? FILE_OWN : segments & 0x80 ? FILE_RO : FILE_OTHERS;
	struct wslx_portal_msg m = {
		.op = PORTAL_OP_ARENA,
		.index = index % 8,
		.segments = 1 + segments % FILE_SEGMENTS,
		.first = index % 8 * FILE_SEGMENTS,
		.owner = own ? g->participant : 3,
		.flags = PORTAL_ARENA_CONTROL,
		.access = own ? PORTAL_ACCESS_WRITE : PORTAL_ACCESS_READ,
	};

	m.life = new_life(file, m.segments, m.access, PORTAL_ARENA_LIVE);
	say(b, &m, sizeof(m), file);
}

/* The same once more, as an answer to SYNC_AGAIN may say it. */
static void say_again(const struct broker *b, const struct grant *g, uint8_t index)
{
	const struct grant_arena *a = &g->arenas[index % 8];
	uint64_t generation = PORTAL_LIFE_GENERATION(a->life);
	struct wslx_portal_msg m = {
		.op = PORTAL_OP_ARENA,
		.index = index % 8,
		.segments = a->segments,
		.owner = a->access == PORTAL_ACCESS_WRITE ? g->participant : 3,
		.access = a->access,
		.life = a->life,
	};

	if (a->place && generation < n_said)
		say(b, &m, sizeof(m), said[generation].file);
}

/* Taken away, dead, or revoked; the machine's own among them. */
static void say_gone(struct input *in, const struct broker *b, const struct grant *g)
{
	uint8_t index = in_u8(in), how = in_u8(in);
	uint64_t generation = PORTAL_LIFE_GENERATION(g->arenas[index % 8].life) + (how >> 2 & 1);

	/* Another generation's death says that the memory was exchanged in between. */
	if (how % 4 == PORTAL_ARENA_DEAD && generation < n_said)
		said[generation].last_bytes = true;
	say_whole(b, &(struct wslx_portal_msg) { .op = PORTAL_OP_ARENA,
						 .index = index % 8,
						 .segments = 1,
						 .owner = how & 0x80 ? g->participant : 3,
						 .flags = how >> 3 & 1,
						 .life = PORTAL_LIFE(generation, how % 4) });
}

static void say_done(struct broker *b, uint8_t how)
{
	b->epoch += 2 + (how == 0xff);
	say_whole(b, &(struct wslx_portal_msg) { .op = PORTAL_OP_DONE, .epoch = b->epoch });
}

/* What it hears. */
static void hear(struct broker *b)
{
	struct wslx_portal_msg m;

	while (b->sock >= 0 && recv(b->sock, &m, sizeof(m), MSG_DONTWAIT) == sizeof(m)) {
		must(m.op == PORTAL_OP_HELLO || m.op == PORTAL_OP_SYNC || m.op == PORTAL_OP_KICK ||
		     m.op == PORTAL_OP_SYNCED);
		must(m.op != PORTAL_OP_KICK || m.index < PORTAL_MAX_PARTICIPANTS);
		must(m.op != PORTAL_OP_SYNC || m.index < PORTAL_MAX_ARENAS);
		must(m.op != PORTAL_OP_SYNCED || !(m.epoch & 1));
	}
}

/* Nobody waits for a clock here. */
static void hurry(void)
{
	for (size_t i = 0; i < portal_of_machine->n_grants; i++) {
		struct grant *g = &portal_of_machine->grants[i];

		g->joined_ms = 0;
		if (g->map_later)
			wslx_timer_arm(g->timer, 0);
	}
}

static void turn(void)
{
	hurry();
	must(wslx_loop_once(loop, 0) == 0);
	for (unsigned i = 0; i < BROKERS; i++)
		if (brokers[i].sock < 0)
			brokers[i].sock = accept4(brokers[i].listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/* All of an answer of an honest one, and all of it carried out. */
static void join(struct broker *b, const struct grant *g, uint8_t how)
{
	say_welcome(b, 0);
	turn();
	say_arena(b, g, 0, 0, false);
	say_arena(b, g, 1, how, true);
	say_done(b, 0);
	for (int i = 0; i < 6; i++) {
		turn();
		answer(b, 0);
	}
}

/* ---- the guest, and whoever grants ---------------------------------------------------- */

static void ring_up(struct broker *b, uint32_t port)
{
	wslx_close(&b->bell);
	b->bell = wslx_vmportal_doorbell(portal_of_machine, PORTAL_DOORBELL_PORT + port);
	if (b->bell < 0)
		b->bell = -1;
}

static void kick(struct input *in, const struct broker *b)
{
	uint8_t bytes[8] = { in_u8(in) % 64 }, n = in_u8(in);

	if (n & 0x80)
		in_bytes(in, bytes, sizeof(bytes));
	if (b->bell >= 0)
		(void)!send(b->bell, bytes, 1 + n % sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void write_somewhere(struct input *in)
{
	uint8_t bytes[16], segment = in_u8(in) % wslx_window_segments(WINDOW);
	uint8_t *at = window.host + WSLX_WINDOW_DATA + segment * WSLX_WINDOW_SEGMENT;

	if (segment) {
		at[SCRATCH_AT] = 1;
		return;
	}
	in_bytes(in, bytes, sizeof(bytes));
	memcpy(at + in_u16(in) * 16u, bytes, sizeof(bytes));
	tables_written = true;
}

static struct wslx_portal_grant grant_of(unsigned i, uint8_t terms)
{
	struct wslx_portal_grant g = { .region = "a", .as = "a", .segments = 2, .readonly = terms & 1 };

	g.region[0] = g.as[0] = (char)('a' + i);
	g.socket = terms & 2 ? (char *)"/nowhere/at/all" : brokers[i].path;
	return g;
}

static void grant_or_revoke(unsigned i, uint8_t how)
{
	struct wslx_portal_grant g = grant_of(i, how);

	if (how & 4)
		(void)!wslx_vmportal_remove(portal_of_machine, g.region);
	else
		(void)!wslx_vmportal_add(portal_of_machine, &g);
}

/* A window that nobody uses takes what no supervisor would say. */
static void map_anything(struct input *in)
{
	uint8_t first = in_u8(in), n = in_u8(in), kind = in_u8(in), file = in_u8(in) % N_FILES;
	struct wslx_link_msg m = { .a = first | (uint64_t)n << 32,
				   .b = kind % 4,
				   .fd = kind & 0x80 ? -1 : files[file] };
	struct wslx_window w;

	if (wslx_window_apply(&spare, &m) == 0) {
		must(first && n && first + n <= wslx_window_segments(WINDOW));
		/* Without memory this would be the end. */
		for (uint32_t s = first; s < (uint32_t)first + n; s++)
			*(volatile uint8_t *)(spare.host + WSLX_WINDOW_DATA + s * WSLX_WINDOW_SEGMENT) += 0;
	}
	/* None of them is long enough. */
	must(wslx_window_open(files[file], (uint64_t)n << 22, &w) < 0);
}

/* ---- the program ------------------------------------------------------------------------ */

static void boot(void)
{
	int fd = -1;

	for (unsigned i = 0; i < BROKERS; i++)
		brokers[i].done = NULL;
	must(wslx_vmportal_boot(portal_of_machine, &fd, NULL) == 0);
	must(wslx_window_open(fd, WINDOW, &window) == 0);
	tables_written = false;
	wslx_vmportal_start(portal_of_machine);
	turn();
}

static void reboot(void)
{
	wslx_vmportal_stop(portal_of_machine);
	wslx_window_close(&window);
	boot();
}

static void fail_to_map(struct broker *b, uint8_t how)
{
	map_fails = how & 1;
	answer(b, how & 1 ? -ENOMEM : -ETOOMANYREFS);
}

static void step(struct input *in)
{
	uint8_t op = in_u8(in), index;
	struct broker *b = &brokers[op >> 7];
	struct grant *g = &portal_of_machine->grants[op >> 7];

	switch (op & 0x1f) {
	case 0:
		wslx_close(&b->sock);
		break;
	case 1:
		wslx_vmportal_retry(portal_of_machine);
		break;
	case 2:
		ring_up(b, in_u8(in) ? g->index : WSLX_MAX_GRANTS);
		break;
	case 3:
		kick(in, b);
		break;
	case 4:
		wslx_close(&b->bell);
		break;
	case 5:
		write_somewhere(in);
		break;
	case 6:
		fail_to_map(b, in_u8(in));
		break;
	case 7:
		grant_or_revoke(g->index, in_u8(in));
		break;
	case 8:
		withdrawn = in_u8(in) & 1;
		break;
	case 9:
		map_anything(in);
		break;
	case 10:
		if (in_u8(in) == 1)
			reboot();
		break;
	case 11:
		say_bytes(in, b);
		break;
	case 12:
		say_welcome(b, in_u8(in));
		break;
	case 13:
		say_done(b, in_u8(in));
		break;
	case 14:
		say_whole(b, &(struct wslx_portal_msg) { .op = PORTAL_OP_EVENT, .epoch = b->epoch + in_u8(in) });
		break;
	case 15:
		say_again(b, g, in_u8(in));
		break;
	case 16:
	case 17:
		say_gone(in, b, g);
		break;
	case 18:
	case 19:
		join(b, g, in_u8(in));
		break;
	case 20:
	case 21:
	case 22:
	case 23:
		answer(b, 0);
		break;
	case 24:
		say_arena(b, g, 1, in_u8(in), true);
		break;
	default:
		index = in_u8(in);
		say_arena(b, g, index, in_u8(in), false);
		break;
	}
	turn();
	for (unsigned i = 0; i < BROKERS; i++)
		hear(&brokers[i]);
}

static void start(void)
{
	static struct wslx_portal_config c = { .window = WINDOW, .n_grants = BROKERS };
	const struct wslx_vmportal_params params = { .loop = loop,
						     .machine = "m",
						     .cid = 3,
						     .map = do_map,
						     .warn = on_warning,
						     .withdrawn = is_withdrawn,
						     .failed = on_failure };

	ended = map_fails = withdrawn = false;
	n_said = 1;
	for (unsigned i = 0; i < BROKERS; i++) {
		brokers[i].sock = brokers[i].bell = -1;
		brokers[i].epoch = 0;
		c.grants[i] = grant_of(i, 0);
	}
	must(wslx_vmportal_new(&params, &c, &portal_of_machine) == 0);
	boot();
}

static void stop(void)
{
	int stray;

	for (unsigned i = 0; i < BROKERS; i++)
		brokers[i].done = NULL;
	wslx_vmportal_free(portal_of_machine);
	wslx_window_close(&window);
	for (unsigned i = 0; i < BROKERS; i++) {
		wslx_close(&brokers[i].sock);
		wslx_close(&brokers[i].bell);
		while ((stray = accept4(brokers[i].listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
			close(stray);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct input in = { data, n };

	start();
	for (int i = 0; i < MAX_STEPS && in.n && !ended; i++) {
		step(&in);
		if (!map_fails)
			check(portal_of_machine);
	}
	stop();
	return 0;
}
