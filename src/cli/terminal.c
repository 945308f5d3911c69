/*
 * The terminal's modes.  They are saved once, and put back at the end, before a
 * stop, and at exit, whichever way it comes; signals that would end us are
 * blocked while it is raw.
 *
 * In the background of a shell's job control the terminal is somebody else's:
 * whoever changes its modes there is stopped by SIGTTOU.
 */
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "cli/launch.h"

static struct termios saved;
static int saved_fd = -1;
static bool raw_now;

/* One that is not our session's does not know of jobs. */
static bool in_background(int fd)
{
	pid_t group = tcgetpgrp(fd);

	return group > 0 && group != getpgrp();
}

void cli_terminal_restore(void)
{
	if (!raw_now)
		return;
	raw_now = false;
	/* The shell has set it as it likes it when it took it. */
	if (in_background(saved_fd))
		return;
	/* Draining could wait for ever on a terminal that is stopped. */
	tcsetattr(saved_fd, TCSANOW, &saved);
}

bool cli_terminal_raw(const struct cli_terminal *t)
{
	struct termios tio;

	if (t->fd < 0)
		return true;
	if (in_background(t->fd)) {
		raw_now = false;
		return false;
	}
	if (saved_fd < 0) {
		if (tcgetattr(t->fd, &saved) < 0)
			return true;
		saved_fd = t->fd;
		atexit(cli_terminal_restore);
	}
	tio = saved;
	cfmakeraw(&tio);
	if (t->keep_output)
		tio.c_oflag = saved.c_oflag;
	raw_now = true;
	tcsetattr(t->fd, TCSANOW, &tio);
	return true;
}
