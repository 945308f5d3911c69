#include "os/linux/startup.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"

#define FD_FIRST 3

/* ---- options ------------------------------------------------------------------- */

static int parse_fd(const struct wslx_startup *s, const char *option, const char *text, int *ret)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno || end == text || *end || v < FD_FIRST || v > INT_MAX || wslx_fd_cloexec((int)v, 1) < 0) {
		fprintf(stderr, "%s: --%s: '%s' is not an open descriptor from %d on\n", s->program, option, text,
			FD_FIRST);
		return -EINVAL;
	}
	*ret = (int)v;
	return 0;
}

static int take_option(const struct wslx_startup *s, const struct wslx_startup_option *o, const char *value)
{
	if (o->text)
		*o->text = value;
	return o->fd ? parse_fd(s, o->name, value, o->fd) : 0;
}

int wslx_startup_parse(const struct wslx_startup *s, int argc, char **argv)
{
	struct option known[WSLX_STARTUP_OPTIONS + 3] = { { "help", no_argument, NULL, 'h' },
							  { "version", no_argument, NULL, 'V' } };
	int c, which = 0, r = 0;

	for (int i = 0; i < WSLX_STARTUP_OPTIONS && s->options[i].name; i++)
		known[2 + i] = (struct option) { s->options[i].name, required_argument, NULL, 'o' };
	while (r == 0 && (c = getopt_long(argc, argv, "", known, &which)) != -1) {
		switch (c) {
		case 'o':
			r = take_option(s, &s->options[which - 2], optarg);
			break;
		case 'h':
			fputs(s->usage, stdout);
			return 1;
		case 'V':
			printf("%s " WSLX_VERSION "\n", s->program);
			return 1;
		default:
			r = -EINVAL;
			break;
		}
	}
	if (r == 0 && optind < argc && !s->operands) {
		fputs(s->usage, stderr);
		r = -EINVAL;
	}
	return r;
}

/* ---- what was inherited ----------------------------------------------------------- */

/* Everything from 3 on but these, which must not reach a child by accident either. */
static int close_others(const int *keep, size_t n)
{
	unsigned from = FD_FIRST;

	for (;;) {
		unsigned next = UINT_MAX;

		for (size_t i = 0; i < n; i++)
			if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < next)
				next = (unsigned)keep[i];
		if (next > from && syscall(SYS_close_range, from, next == UINT_MAX ? next : next - 1, 0) < 0)
			return -errno;
		if (next == UINT_MAX)
			return 0;
		wslx_fd_cloexec((int)next, 1);
		from = next + 1;
	}
}

int wslx_startup_detach(int log, const int *keep, size_t n)
{
	int null;

	setsid(); /* EPERM: a session leader already */
	umask(077);
	if (chdir("/") < 0)
		return -errno;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return -errno;
	if (dup2(null, 0) < 0 || dup2(null, 1) < 0)
		return -errno;
	if (log >= 0 && dup2(log, 2) < 0)
		return -errno;
	return close_others(keep, n);
}

int wslx_startup_read(int fd_, size_t max, char **ret, size_t *ret_len)
{
	cleanup_close int fd = fd_;
	cleanup_free char *buf = malloc(max);
	size_t n = 0;

	if (!buf)
		return -ENOMEM;
	while (n < max) {
		ssize_t r = read(fd, buf + n, max - n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0) {
			*ret = TAKE_PTR(buf);
			*ret_len = n;
			return 0;
		}
		n += (size_t)r;
	}
	return -EFBIG;
}

int wslx_startup_raise_fds(unsigned wanted)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return -errno;
	if (l.rlim_cur >= wanted || l.rlim_cur == l.rlim_max)
		return 0;
	l.rlim_cur = WSLX_MIN(l.rlim_max, (rlim_t)wanted);
	return setrlimit(RLIMIT_NOFILE, &l) < 0 ? -errno : 0;
}
