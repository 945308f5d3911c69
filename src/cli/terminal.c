/*
 * The terminal's modes.  They are saved once, and put back at the end, before a
 * stop, and at exit, whichever way it comes; signals that would end us are
 * blocked while it is raw.
 */
#include <stdlib.h>
#include <termios.h>

#include "cli/launch.h"

static struct termios saved;
static int saved_fd = -1;
static bool raw_now;

void cli_terminal_restore(void)
{
	if (!raw_now)
		return;
	raw_now = false;
	/* Draining could wait for ever on a terminal that is stopped. */
	tcsetattr(saved_fd, TCSANOW, &saved);
}

void cli_terminal_raw(const struct cli_terminal *t)
{
	struct termios tio;

	if (t->fd < 0)
		return;
	if (saved_fd < 0) {
		if (tcgetattr(t->fd, &saved) < 0)
			return;
		saved_fd = t->fd;
		atexit(cli_terminal_restore);
	}
	tio = saved;
	cfmakeraw(&tio);
	if (t->keep_output)
		tio.c_oflag = saved.c_oflag;
	raw_now = true;
	tcsetattr(t->fd, TCSANOW, &tio);
}
