/*
 * What keeps the kernel's module requests cheap.  Every process of a distro can
 * cause them, with names of its own making: a socket family, a file system's
 * type, a binary's magic number.  Each one is a process of ours and a search
 * through the index files, in front of which stand
 *
 *   the names that were searched for in vain, whole, a ring of GATE_NAMES;
 *   a rate: GATE_BURST searches at once, then one every GATE_PERIOD_NS.  Who
 *   is early waits, and the process that caused it with him; who would wait
 *   longer than GATE_WAIT_MAX_NS is told that there is no such module.
 *
 * A search that brought a module into the kernel is not counted: there are only
 * so many of them.
 *
 * The helper is a new process each time, so this lives in a file of the
 * initramfs, which no distro sees.  Its lock is held for moments only, never
 * during a search or a load: a module's init may ask for another module.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "agent/modprobe_gate.h"
#include "base/cleanup.h"
#include "base/macros.h"

static bool known_miss(const struct modprobe_gate *g, const char *name)
{
	for (size_t i = 0; i < GATE_NAMES; i++)
		if (!strncmp(g->names[i], name, GATE_NAME_SIZE))
			return true;
	return false;
}

enum modprobe_answer modprobe_gate_ask(struct modprobe_gate *g, const char *name, uint64_t now, uint64_t *ret_wait)
{
	uint64_t base = WSLX_MAX(g->paid_until, now), burst = now + GATE_BURST * GATE_PERIOD_NS;

	*ret_wait = 0;
	/* The kernel's own limit is lower. */
	if (!*name || strlen(name) >= GATE_NAME_SIZE)
		return MODPROBE_REFUSED;
	if (known_miss(g, name))
		return MODPROBE_MISS;
	if (base >= burst)
		*ret_wait = base - burst + GATE_PERIOD_NS;
	if (*ret_wait > GATE_WAIT_MAX_NS) {
		*ret_wait = 0;
		return MODPROBE_REFUSED;
	}
	g->paid_until = base + GATE_PERIOD_NS;
	return MODPROBE_SEARCH;
}

void modprobe_gate_end(struct modprobe_gate *g, const char *name, enum modprobe_outcome what)
{
	if (what == MODPROBE_LOADED && g->paid_until >= GATE_PERIOD_NS)
		g->paid_until -= GATE_PERIOD_NS;
	if (what != MODPROBE_NOT_FOUND || known_miss(g, name) || strlen(name) >= GATE_NAME_SIZE)
		return;
	/* The oldest makes room. */
	g->next %= GATE_NAMES;
	memset(g->names[g->next], 0, GATE_NAME_SIZE);
	strcpy(g->names[g->next++], name);
}

int modprobe_gate_open(const char *path, struct modprobe_gate *ret)
{
	cleanup_close int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	ssize_t n;

	if (fd < 0)
		return -errno;
	while (flock(fd, LOCK_EX) < 0)
		if (errno != EINTR)
			return -errno;
	n = pread(fd, ret, sizeof(*ret), 0);
	/* New, or cut short. */
	if (n != (ssize_t)sizeof(*ret))
		*ret = (struct modprobe_gate) { 0 };
	return TAKE_FD(fd);
}

void modprobe_gate_close(int fd, const struct modprobe_gate *g)
{
	/* What is lost is a search's worth. */
	if (pwrite(fd, g, sizeof(*g), 0) != (ssize_t)sizeof(*g))
		(void)!ftruncate(fd, 0);
	close(fd);
}
