/*
 * The machine's end: stop the distros, write back, power off or reset.  Every
 * step has a limit, so a stuck distro delays the end and cannot prevent it.
 */
#include <errno.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "agent/machine.h"
#include "base/log.h"

/* After SIGKILL: until the kernel has let go of everything. */
#define LAST_MS 10000u
/* For the last replies and events to leave the vsock's queue. */
#define LINGER_MS 30u

void shutdown_now(enum wslx_agent_shutdown how)
{
	log_info("%s", how == WSLX_AGENT_REBOOT ? "rebooting" : "powering off");
	sync();
	reboot(how == WSLX_AGENT_REBOOT ? RB_AUTOBOOT : RB_POWER_OFF);
	log_error("the kernel refuses: %s", strerror(errno));
	/* A kernel without power-off: at least stop. */
	reboot(RB_HALT_SYSTEM);
	for (;;)
		pause();
}

static void on_time(struct wslx_timer *t, void *opaque)
{
	struct machine *m = opaque;

	if (m->distros)
		log_warn("a distro does not end; going down without it");
	shutdown_now(m->how);
}

void shutdown_begin(struct machine *m, enum wslx_agent_shutdown how, uint32_t timeout_ms)
{
	struct distro *d, *next;

	if (m->ending)
		return;
	if (m->paused)
		freeze_thaw_now(m);
	m->ending = true;
	m->how = how;
	if (!timeout_ms)
		timeout_ms = STOP_TIMEOUT_MS;
	if (wslx_loop_timer(m->loop, on_time, m, &m->end_timer) == 0)
		wslx_timer_arm(m->end_timer, (uint64_t)timeout_ms + LAST_MS);
	for (d = m->distros; d; d = next) {
		next = d->next;
		distro_stop_one(d, timeout_ms);
	}
	shutdown_check(m);
}

void shutdown_check(struct machine *m)
{
	if (!m->ending || m->distros)
		return;
	if (!m->end_timer)
		shutdown_now(m->how);
	sync();
	wslx_timer_arm(m->end_timer, LINGER_MS);
}
