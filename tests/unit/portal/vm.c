/* See vm.h. */
#include "vm.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"
#include "portal/atomic.h"
#include "portal/wire.h"

#define MUST(cond)                                                                                                     \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #cond, strerror(errno));                \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

struct portal_window_entry *vm_entry(struct vm *v)
{
	return (struct portal_window_entry *)(void *)(v->tables + PORTAL_WINDOW_ENTRY_OFF(0));
}

struct portal_window_arena *vm_places(struct vm *v)
{
	return (struct portal_window_arena *)(void *)(v->tables + PORTAL_WINDOW_ARENAS_OFF(0));
}

/* ---- the guest's view of memory ---- */

/* Past ThreadSanitizer, which takes it for a write to all of that memory: to the guest it is none. */
static void put_under(uint8_t *at, size_t len, int prot, int flags, int fd)
{
	MUST(syscall(SYS_mmap, at, len, prot, flags | MAP_FIXED, fd, 0L) == (long)(uintptr_t)at);
}

/* Under the lock: len bytes at the window's off, shown at a guest's address. */
static void show(struct vm *v, uint8_t *at, size_t len, uint64_t off, int prot)
{
	const struct vm_run *r = NULL;

	for (unsigned i = 0; i < PORTAL_MAX_ARENAS; i++)
		if (v->run[i].segments && v->run[i].first * PORTAL_SEGMENT_SIZE == off && (!r || v->run[i].fd >= 0))
			r = &v->run[i];
	if (r && r->fd >= 0)
		put_under(at, len, r->writable ? prot : PROT_READ, MAP_SHARED, r->fd);
	else
		put_under(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

static int guest_map(void *opaque, void *at, size_t len, int prot, int fd, uint64_t off)
{
	struct vm *v = opaque;
	uint8_t *a = at;

	pthread_mutex_lock(&v->lock);
	for (size_t i = 0; i < v->n_mappings;) {
		struct vm_mapping *m = &v->mapping[i];

		if (m->at < a + len && a < m->at + m->len)
			*m = v->mapping[--v->n_mappings];
		else
			i++;
	}
	MUST(v->n_mappings < VM_MAPPINGS);
	v->mapping[v->n_mappings++] = (struct vm_mapping) { a, len, off };
	show(v, a, len, off, prot);
	pthread_mutex_unlock(&v->lock);
	return 0;
}

/* Something else lies under a run now: also where the guest sees it already. */
static void replace(struct vm *v, const struct vm_run *r)
{
	pthread_mutex_lock(&v->lock);
	for (size_t i = 0; i < v->n_mappings; i++)
		if (v->mapping[i].off == r->first * PORTAL_SEGMENT_SIZE)
			show(v, v->mapping[i].at, v->mapping[i].len, v->mapping[i].off,
			     r->writable ? PROT_READ | PROT_WRITE : PROT_READ);
	pthread_mutex_unlock(&v->lock);
}

/* ---- the supervisor ---- */

static void drop_run(struct vm *v, unsigned a)
{
	struct vm_run *r = &v->run[a];

	PORTAL_STORE_SEQ(&vm_places(v)[a].life, 0);
	if (!r->segments)
		return;
	if (r->fd >= 0)
		close(r->fd);
	r->fd = -1;
	replace(v, r);
}

/* The dead have it no more. */
static void evict(struct vm *v, uint32_t first, uint32_t segments)
{
	for (unsigned a = 0; a < PORTAL_MAX_ARENAS; a++) {
		struct vm_run *r = &v->run[a];

		if (PORTAL_LIFE_STATE(PORTAL_LOAD_ACQ(&vm_places(v)[a].life)) != PORTAL_ARENA_DEAD ||
		    r->first >= first + segments || first >= r->first + r->segments)
			continue;
		PORTAL_STORE_SEQ(&vm_places(v)[a].life, 0);
		pthread_mutex_lock(&v->lock);
		close(r->fd);
		*r = (struct vm_run) { .fd = -1 };
		pthread_mutex_unlock(&v->lock);
	}
}

static void place(struct vm *v, const struct wslx_portal_msg *m, int fd)
{
	struct portal_window_arena *t = &vm_places(v)[m->index];
	struct vm_run *r = &v->run[m->index];

	if (m->access == PORTAL_ACCESS_NONE && PORTAL_LIFE_STATE(m->life) == PORTAL_ARENA_DEAD &&
	    wslx_portal_last_bytes(PORTAL_LOAD_ACQ(&t->life), m->life)) {
		/* Until somebody takes the place. */
		t->access = 0;
		PORTAL_STORE_REL(&t->life, m->life);
		return;
	}
	drop_run(v, m->index);
	if (m->access == PORTAL_ACCESS_NONE)
		return;
	if (m->access == PORTAL_ACCESS_READ && __atomic_load_n(&v->full, __ATOMIC_SEQ_CST)) {
		__atomic_store_n(&v->left_out, m->index, __ATOMIC_SEQ_CST);
		close(fd);
		return;
	}
	if (v->cursor + m->segments > VM_SEGMENTS)
		v->cursor = 1;
	evict(v, v->cursor, m->segments);
	pthread_mutex_lock(&v->lock);
	if (r->segments && r->fd >= 0)
		close(r->fd);
	*r = (struct vm_run) { v->cursor, m->segments, fd, m->access == PORTAL_ACCESS_WRITE };
	pthread_mutex_unlock(&v->lock);
	/* A guest that has not looked has it under what was there before. */
	replace(v, r);
	v->cursor += m->segments;
	t->window_segment = r->first;
	t->segments = m->segments;
	t->access = r->writable ? PORTAL_WINDOW_READ | PORTAL_WINDOW_WRITE : PORTAL_WINDOW_READ;
	PORTAL_STORE_REL(&t->life, m->life);
}

static void receive(struct vm *v)
{
	struct wslx_portal_msg m;

	do {
		size_t n = 1;
		int fd = -1;

		MUST(wslx_recv_fds(v->sock, &m, sizeof(m), &fd, &n, 0) == sizeof(m));
		if (m.op == PORTAL_OP_ARENA)
			place(v, &m, n ? fd : -1);
	} while (m.op != PORTAL_OP_DONE);
	v->epoch = m.epoch;
	PORTAL_STORE_SEQ(&vm_entry(v)->epoch, m.epoch);
	__atomic_fetch_add(&((struct portal_window *)(void *)v->tables)->event, 1, __ATOMIC_SEQ_CST);
	m = (struct wslx_portal_msg) { .op = PORTAL_OP_SYNCED, .epoch = v->epoch };
	(void)!send(v->sock, &m, sizeof(m), MSG_NOSIGNAL);
}

static void leave(struct vm *v)
{
	struct portal_window_entry *e = vm_entry(v);

	PORTAL_STORE_SEQ(&e->life, PORTAL_LIFE(PORTAL_LIFE_GENERATION(e->life) + 1, PORTAL_WINDOW_NONE));
	for (unsigned a = 0; a < PORTAL_MAX_ARENAS; a++)
		drop_run(v, a);
	if (v->sock >= 0)
		close(v->sock);
	v->sock = -1;
}

static void join(struct vm *v)
{
	struct portal_window_entry *e = vm_entry(v);
	struct wslx_portal_msg m = { .op = PORTAL_OP_HELLO,
				     .version = PORTAL_VERSION,
				     .kind = PORTAL_KIND_GUEST,
				     .id = 3,
				     .segments = v->own_segments,
				     .name = "guest" };

	v->sock = wslx_unix_connect(v->b->path, SOCK_SEQPACKET);
	MUST(v->sock >= 0 && send(v->sock, &m, sizeof(m), 0) == sizeof(m));
	MUST(recv(v->sock, &m, sizeof(m), 0) == sizeof(m) && m.op == PORTAL_OP_WELCOME && m.status == 0);
	strcpy(e->name, "test");
	strcpy(e->as, v->as);
	e->participant = m.index;
	e->segments = m.segments;
	e->part_generation = m.life;
	e->doorbell_port = PORTAL_DOORBELL_PORT;
	e->access = PORTAL_WINDOW_READ | PORTAL_WINDOW_WRITE;
	receive(v);
	v->used = false;
	PORTAL_STORE_SEQ(&e->life, PORTAL_LIFE(PORTAL_LIFE_GENERATION(e->life) + 1, PORTAL_WINDOW_GRANTED));
}

static void ring(struct vm *v)
{
	if (v->bell >= 0)
		(void)!send(v->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void end_bell(struct vm *v)
{
	if (v->bell >= 0)
		close(v->bell);
	v->bell = -1;
	pthread_mutex_lock(&v->lock);
	v->n_mappings = 0;
	pthread_mutex_unlock(&v->lock);
}

static void from_broker(struct vm *v)
{
	struct wslx_portal_msg m;

	if (recv(v->sock, &m, sizeof(m), MSG_DONTWAIT) != sizeof(m)) {
		/* The broker is gone, or has thrown us out. */
		leave(v);
		end_bell(v);
		return;
	}
	if (m.op != PORTAL_OP_EVENT)
		return;
	if (m.epoch != v->epoch) {
		m = (struct wslx_portal_msg) { .op = PORTAL_OP_SYNC };
		if (send(v->sock, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m))
			receive(v);
	}
	ring(v);
}

static void from_guest(struct vm *v)
{
	struct wslx_portal_msg m = { .op = PORTAL_OP_KICK };

	if (recv(v->bell, &m.index, 4, MSG_WAITALL) == 4) {
		(void)!send(v->sock, &m, sizeof(m), MSG_NOSIGNAL);
		return;
	}
	end_bell(v);
	leave(v);
	join(v);
}

static void commands(struct vm *v)
{
	char c;
	int fd;

	MUST(read(v->wake[0], &c, 1) == 1);
	pthread_mutex_lock(&v->lock);
	fd = v->new_bell;
	v->new_bell = -1;
	pthread_mutex_unlock(&v->lock);
	if (fd >= 0) {
		if (v->bell >= 0)
			end_bell(v);
		if (v->used) {
			leave(v);
			join(v);
		}
		v->bell = fd;
		v->used = true;
		ring(v);
	}
	if (__atomic_exchange_n(&v->cut, false, __ATOMIC_SEQ_CST)) {
		end_bell(v);
		leave(v);
		join(v);
	}
	if (__atomic_exchange_n(&v->room, false, __ATOMIC_SEQ_CST)) {
		struct wslx_portal_msg m = { .op = PORTAL_OP_SYNC, .flags = PORTAL_SYNC_AGAIN, .index = v->left_out };

		v->full = false;
		MUST(send(v->sock, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m));
		receive(v);
		ring(v);
	}
	if (__atomic_exchange_n(&v->withdraw, false, __ATOMIC_SEQ_CST)) {
		leave(v);
		end_bell(v);
	}
}

static void *vm_main(void *arg)
{
	struct vm *v = arg;

	while (!__atomic_load_n(&v->stop, __ATOMIC_SEQ_CST)) {
		bool slow = __atomic_load_n(&v->slow, __ATOMIC_SEQ_CST);
		struct pollfd p[3] = { { .fd = v->wake[0], .events = POLLIN },
				       { .fd = slow ? -1 : v->sock, .events = POLLIN },
				       { .fd = v->bell, .events = POLLIN } };

		__atomic_store_n(&v->slow_seen, slow, __ATOMIC_SEQ_CST);
		MUST(poll(p, 3, -1) > 0);
		if (p[0].revents)
			commands(v);
		else if (p[1].revents)
			from_broker(v);
		else if (p[2].revents)
			from_guest(v);
	}
	return NULL;
}

/* ---- what libportal asks for ---- */

static int open_window(void *opaque, unsigned nth)
{
	struct vm *v = opaque;
	char path[64];
	int fd;

	if (nth)
		return nth == 1 ? -ENODEV : -ENOENT;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", v->device);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_bell(void *opaque, uint32_t port)
{
	struct vm *v = opaque;
	int pair[2];

	if (port != PORTAL_DOORBELL_PORT)
		return -ECONNRESET;
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	pthread_mutex_lock(&v->lock);
	v->new_bell = pair[1];
	pthread_mutex_unlock(&v->lock);
	MUST(write(v->wake[1], "", 1) == 1);
	return pair[0];
}

/* ---- for the tests ---- */

void vm_start(struct vm *v, struct broker *b, const char *as)
{
	struct portal_window *t;

	*v = (struct vm) { .b = b, .as = as, .own_segments = 4, .sock = -1, .bell = -1, .new_bell = -1, .cursor = 1 };
	v->os = (struct wslx_portal_guest_os) { open_window, open_bell, guest_map, v };
	pthread_mutex_init(&v->lock, NULL);
	MUST(pipe2(v->wake, O_CLOEXEC) == 0);
	v->device = memfd_create("window", MFD_CLOEXEC);
	MUST(v->device >= 0 && ftruncate(v->device, VM_SEGMENTS * PORTAL_SEGMENT_SIZE) == 0);
	v->tables = mmap(NULL, PORTAL_SEGMENT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, v->device, 0);
	MUST(v->tables != MAP_FAILED);
	t = (struct portal_window *)(void *)v->tables;
	*t = (struct portal_window) { .magic = PORTAL_WINDOW_MAGIC,
				      .version = PORTAL_WINDOW_VERSION,
				      .max_entries = PORTAL_WINDOW_ENTRIES,
				      .segments = VM_SEGMENTS };
	join(v);
	MUST(pthread_create(&v->thread, NULL, vm_main, v) == 0);
}

static void command(struct vm *v, bool *flag)
{
	__atomic_store_n(flag, true, __ATOMIC_SEQ_CST);
	MUST(write(v->wake[1], "", 1) == 1);
}

void vm_full(struct vm *v)
{
	__atomic_store_n(&v->full, true, __ATOMIC_SEQ_CST);
}

void vm_room(struct vm *v)
{
	command(v, &v->room);
}

void vm_slow(struct vm *v, bool on)
{
	__atomic_store_n(&v->slow, on, __ATOMIC_SEQ_CST);
	MUST(write(v->wake[1], "", 1) == 1);
	while (__atomic_load_n(&v->slow_seen, __ATOMIC_SEQ_CST) != on)
		usleep(1000);
}

void vm_end(struct vm *v)
{
	command(v, &v->stop);
	pthread_join(v->thread, NULL);
	end_bell(v);
	leave(v);
	for (unsigned a = 0; a < PORTAL_MAX_ARENAS; a++)
		if (v->run[a].segments && v->run[a].fd >= 0)
			close(v->run[a].fd);
	munmap(v->tables, PORTAL_SEGMENT_SIZE);
	close(v->device);
	close(v->wake[0]);
	close(v->wake[1]);
	pthread_mutex_destroy(&v->lock);
}

void vm_cut(struct vm *v)
{
	command(v, &v->cut);
}

void vm_withdraw(struct vm *v)
{
	command(v, &v->withdraw);
}

portal *vm_attach(struct vm *v)
{
	struct portal_attach a = { .size = sizeof(a), .region = v->as, .name = "guest" };
	portal *p = NULL;
	int r = wslx_portal_attach_guest(&a, &v->os, &p);

	if (r < 0)
		fprintf(stderr, "attach in the guest: %s\n", strerror(-r));
	return p;
}
