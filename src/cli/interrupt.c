/*
 * Signals that end a long operation in order: what is half done is taken back
 * before the program exits with 128 plus the signal's number.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "cli/cli.h"

struct cli_interrupt cli_interrupt = { .fd = -1 };
static int write_end = -1;

static void on_signal(int signo)
{
	int saved = errno;

	if (!cli_interrupt.signal)
		cli_interrupt.signal = signo;
	if (write(write_end, "", 1) < 0)
		(void)0; /* full: it is readable already */
	errno = saved;
}

void cli_interrupt_catch(void)
{
	static const int list[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal };
	int p[2];

	if (cli_interrupt.fd >= 0 || pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		return;
	cli_interrupt.fd = p[0];
	write_end = p[1];
	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
		struct sigaction old;

		/* nohup means it. */
		if (sigaction(list[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(list[i], &sa, NULL);
	}
}
