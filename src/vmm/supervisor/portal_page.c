/*
 * The window's own memory and the tables in it: docs/portal.md, "A guest's
 * window".
 *
 * The guest can write to all of this.  So nothing is ever read back: what the
 * tables say is known from this structure.  The file is sealed: the guest's
 * processes cannot make an access here fail.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "vmm/supervisor/portal_internal.h"

#define HEAD (WSLX_WINDOW_DATA + WSLX_WINDOW_SEGMENT)
#define STORE(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

/* The rest of an entry is written between its life word's 0 and the new one. */
static void hide(uint64_t *life)
{
	STORE(life, 0);
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static struct portal_window *window(struct portal_page *p)
{
	return (struct portal_window *)(void *)(p->head + WSLX_WINDOW_DATA);
}

static struct portal_window_entry *entry(struct portal_page *p, unsigned i)
{
	return (struct portal_window_entry *)(void *)(p->head + WSLX_WINDOW_DATA + PORTAL_WINDOW_ENTRY_OFF(i));
}

static struct portal_window_arena *arenas(struct portal_page *p, unsigned i)
{
	return (struct portal_window_arena *)(void *)(p->head + WSLX_WINDOW_DATA + PORTAL_WINDOW_ARENAS_OFF(i));
}

static void changed(struct portal_page *p)
{
	STORE(&window(p)->event, ++p->event);
}

static int new_memory(uint64_t size, int *ret)
{
	cleanup_close int fd = memfd_create("wslx-window", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	*ret = TAKE_FD(fd);
	return 0;
}

int wslx_vmportal_page_open(struct portal_page *p, uint64_t size)
{
	uint8_t uuid[16] = { 0 };
	int r;

	*p = (struct portal_page) { .fd = -1 };
	r = new_memory(size, &p->fd);
	if (r < 0)
		return r;
	p->head = mmap(NULL, HEAD, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	if (p->head == MAP_FAILED) {
		p->head = NULL;
		wslx_close(&p->fd);
		return -errno;
	}
	if (getrandom(uuid, sizeof(uuid), GRND_NONBLOCK) != sizeof(uuid))
		uuid[0] = 1; /* it only has to be something */
	wslx_vmportal_info_block(size, uuid, p->head + PORTAL_INFO_OFFSET);
	*window(p) = (struct portal_window) {
		.magic = PORTAL_WINDOW_MAGIC,
		.version = PORTAL_WINDOW_VERSION,
		.max_entries = PORTAL_WINDOW_ENTRIES,
		.segments = wslx_window_segments(size),
	};
	return 0;
}

void wslx_vmportal_page_close(struct portal_page *p)
{
	if (p->head)
		munmap(p->head, HEAD);
	p->head = NULL;
	wslx_close(&p->fd);
}

void wslx_vmportal_page_punch(struct portal_page *p, uint32_t first, uint32_t segments)
{
	off_t at = (off_t)(WSLX_WINDOW_DATA + first * WSLX_WINDOW_SEGMENT);

	if (fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)(segments * WSLX_WINDOW_SEGMENT)) <
	    0)
		log_debug("portal: the window's memory under an arena cannot be given back: %s", strerror(errno));
}

void wslx_vmportal_page_grant(struct portal_page *p, unsigned i, const struct portal_window_entry *e)
{
	struct portal_window_entry *at = entry(p, i);

	hide(&at->life);
	memcpy((uint8_t *)at + 8, (const uint8_t *)e + 8, sizeof(*e) - 8);
	STORE(&at->life, ++p->generation[i] << 8 | PORTAL_WINDOW_GRANTED);
	changed(p);
}

void wslx_vmportal_page_name(struct portal_page *p, unsigned i, const char *as)
{
	struct portal_window_entry *at = entry(p, i);
	char name[sizeof(at->as)] = { 0 };

	strncpy(name, as, sizeof(name) - 1);
	hide(&at->life);
	memcpy(at->as, name, sizeof(name));
	STORE(&at->life, ++p->generation[i] << 8 | PORTAL_WINDOW_NONE);
	changed(p);
}

void wslx_vmportal_page_revoke(struct portal_page *p, unsigned i)
{
	STORE(&entry(p, i)->life, ++p->generation[i] << 8 | PORTAL_WINDOW_NONE);
	for (unsigned a = 0; a < PORTAL_MAX_ARENAS; a++) {
		if (p->shown[i][a])
			STORE(&arenas(p, i)[a].life, 0);
		p->shown[i][a] = 0;
	}
	changed(p);
}

void wslx_vmportal_page_arena(struct portal_page *p, unsigned i, unsigned arena, const struct portal_window_arena *a)
{
	struct portal_window_arena *at = &arenas(p, i)[arena];

	if (p->shown[i][arena] == a->life)
		return;
	hide(&at->life);
	memcpy((uint8_t *)at + 8, (const uint8_t *)a + 8, sizeof(*a) - 8);
	STORE(&at->life, a->life);
	p->shown[i][arena] = a->life;
}

void wslx_vmportal_page_leave(struct portal_page *p, unsigned i, unsigned arena)
{
	uint64_t life = PORTAL_LIFE(PORTAL_LIFE_GENERATION(p->shown[i][arena]), PORTAL_ARENA_FREE);

	if (p->shown[i][arena] == life)
		return;
	__atomic_store_n(&arenas(p, i)[arena].life, life, __ATOMIC_SEQ_CST);
	p->shown[i][arena] = life;
}

void wslx_vmportal_page_epoch(struct portal_page *p, unsigned i, uint32_t epoch)
{
	STORE(&entry(p, i)->epoch, epoch);
	changed(p);
}
