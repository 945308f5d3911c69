#include "vmm/supervisor/passt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "os/linux/fd.h"
#include "vmm/supervisor/proc.h"

#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 10000
#define LIVED_LONG_MS 10000
/* Nothing is wrong with the machine, and others that are in the way may be gone at once: that is no failure of
 * passt's. */
#define LATER_MS 100
#define LATER_TRIES (30000 / LATER_MS)
#define LINE_MAX_ 512

struct wslx_passt {
	struct wslx_passt_params p;
	char *path;
	struct wslx_proc *proc;
	struct wslx_timer *retry;
	uint64_t backoff_ms;
	unsigned later;
	int64_t started_ms;
	int stderr_fd;
	struct wslx_watch *stderr_watch;
	char line[LINE_MAX_];
	size_t line_len;
	char complaint[LINE_MAX_];
};

/* ---- command line --------------------------------------------------------- */

#define FIXED_ARGS 32

static int push(char **argv, size_t *n, const char *fmt, ...) WSLX_PRINTF(3, 4);
static int push(char **argv, size_t *n, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = vasprintf(&argv[*n], fmt, ap);
	va_end(ap);
	if (r < 0) {
		argv[*n] = NULL;
		return -ENOMEM;
	}
	(*n)++;
	return 0;
}

/* Not ::1 too: who asks for "localhost" tries that first, and would be
 * connected to nothing where the guest's program listens on IPv4 only. */
static const char *publish_address(const struct wslx_publish *p)
{
	return p->host_addr[0] ? p->host_addr : "127.0.0.1";
}

static int push_publish(char **argv, size_t *n, const struct wslx_publish *p)
{
	int r = push(argv, n, p->udp ? "-u" : "-t");

	if (r < 0)
		return r;
	/* ADDRESS/PORT:PORT; without an address passt would take all of them. */
	return push(argv, n, "%s/%u:%u", publish_address(p), p->host_port, p->guest_port);
}

int wslx_passt_args(const char *path, const struct wslx_net_config *net, int fd, char ***ret)
{
	char **argv = calloc(FIXED_ARGS + 2 * WSLX_MAX_PUBLISH + 1, sizeof(*argv));
	size_t n = 0;
	int r;

	if (!argv)
		return -ENOMEM;
	r = push(argv, &n, "%s", path);
	/* In the foreground: it stays our child.  --no-map-gw: the guest does not
	 * reach services on the host's loopback through its gateway. */
	if (r == 0)
		r = push(argv, &n, "--foreground");
	if (r == 0)
		r = push(argv, &n, "--quiet");
	if (r == 0)
		r = push(argv, &n, "--stderr");
	if (r == 0)
		r = push(argv, &n, "--fd=%d", fd);
	if (r == 0)
		r = push(argv, &n, "--no-map-gw");
	if (r == 0)
		r = push(argv, &n, "--address=" WSLX_PASST_ADDRESS);
	if (r == 0)
		r = push(argv, &n, "--netmask=%d", WSLX_PASST_PREFIX);
	if (r == 0)
		r = push(argv, &n, "--gateway=" WSLX_PASST_GATEWAY);
	if (r == 0)
		r = push(argv, &n, "--dns-forward=" WSLX_PASST_DNS);
	if (r == 0)
		r = push(argv, &n, "--mtu=%d", WSLX_PASST_MTU);
	for (size_t i = 0; r == 0 && i < net->n_publish; i++)
		r = push_publish(argv, &n, &net->publish[i]);
	if (r < 0) {
		wslx_passt_args_free(argv);
		return r;
	}
	*ret = argv;
	return 0;
}

void wslx_passt_args_free(char **argv)
{
	for (char **a = argv; a && *a; a++)
		free(*a);
	free(argv);
}

/* ---- published ports -------------------------------------------------------- */

static int parse_address(const struct wslx_publish *p, struct sockaddr_storage *ret, socklen_t *ret_len)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;

	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, publish_address(p), &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(p->host_port);
		*ret_len = sizeof(*v4);
		return 0;
	}
	if (inet_pton(AF_INET6, p->host_addr, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(p->host_port);
		*ret_len = sizeof(*v6);
		return 0;
	}
	return -EINVAL;
}

static int check_port(const struct wslx_publish *p, struct wslx_err *err)
{
	cleanup_close int fd = -1;
	struct sockaddr_storage a;
	socklen_t len;
	int one = 1;

	if (parse_address(p, &a, &len) < 0)
		return wslx_err_set(err, EINVAL, "cannot publish port %u: '%s' is not a numeric address", p->host_port,
				    p->host_addr);
	fd = socket(a.ss_family, (p->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return wslx_err_sys(err, errno, "cannot publish port %u", p->host_port);
	/* As passt does: a port whose last connections linger can be had. */
	if (!p->udp)
		(void)!setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, len) < 0)
		return wslx_err_sys(err, errno, "cannot publish %s port %u of %s", p->udp ? "UDP" : "TCP", p->host_port,
				    publish_address(p));
	return 0;
}

int wslx_publish_check(const struct wslx_net_config *net, struct wslx_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < net->n_publish; i++)
		r = check_port(&net->publish[i], err);
	return r;
}

/* ---- life -------------------------------------------------------------------- */

static void end_line(struct wslx_passt *p)
{
	static struct wslx_log_limit limit;

	p->line[p->line_len] = '\0';
	p->line_len = 0;
	/* Without a syslog daemon each of its messages is followed by a complaint
	 * about that; and as root it always says that it will not stay so. */
	if (!p->line[0] || strstr(p->line, "bytes to syslog") || strstr(p->line, "Changing to nobody"))
		return;
	memcpy(p->complaint, p->line, sizeof(p->complaint));
	wslx_log_limited(&limit, WSLX_LOG_INFO, "passt: %s", p->complaint);
}

static int read_stderr(struct wslx_passt *p)
{
	char buf[1024];
	ssize_t n = read(p->stderr_fd, buf, sizeof(buf));

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n')
			end_line(p);
		else if (p->line_len < sizeof(p->line) - 1)
			p->line[p->line_len++] = buf[i] >= 0x20 && buf[i] < 0x7f ? buf[i] : '?';
	}
	return 1;
}

static void close_stderr(struct wslx_passt *p)
{
	wslx_watch_free(p->stderr_watch);
	p->stderr_watch = NULL;
	wslx_close(&p->stderr_fd);
}

static void on_stderr(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_passt *p = opaque;

	if (read_stderr(p) < 0)
		close_stderr(p);
}

static void on_exit_(struct wslx_proc *proc, const struct wslx_exit_status *st, void *opaque)
{
	struct wslx_passt *p = opaque;
	int64_t alive = wslx_now_ms() - p->started_ms;
	char how[64], text[LINE_MAX_ + 80];
	int r = 1;

	while (p->stderr_fd >= 0 && r > 0)
		r = read_stderr(p);
	if (p->line_len)
		end_line(p);
	close_stderr(p);
	wslx_proc_free(p->proc);
	p->proc = NULL;
	p->backoff_ms = alive > LIVED_LONG_MS || !p->backoff_ms ? BACKOFF_MIN_MS
								: WSLX_MIN(p->backoff_ms * 2, (uint64_t)BACKOFF_MAX_MS);
	wslx_timer_arm(p->retry, p->backoff_ms);
	wslx_proc_describe(st, how, sizeof(how));
	snprintf(text, sizeof(text), "passt %s%s%s", how, p->complaint[0] ? ": " : "", p->complaint);
	p->p.ended(p->p.opaque, alive, text); /* may free p */
}

static void on_retry(struct wslx_timer *t, void *opaque)
{
	struct wslx_passt *p = opaque;
	struct wslx_err err = { 0 };
	int r = wslx_passt_start(p, &err);

	if ((r == -ETOOMANYREFS || r == -EAGAIN) && p->later++ < LATER_TRIES) {
		wslx_timer_arm(p->retry, LATER_MS);
		return;
	}
	if (r < 0) {
		log_warn("%s", err.msg);
		p->backoff_ms = WSLX_MIN(p->backoff_ms * 2 + BACKOFF_MIN_MS, (uint64_t)BACKOFF_MAX_MS);
		wslx_timer_arm(p->retry, p->backoff_ms);
		return;
	}
	p->later = 0;
	p->p.replaced(p->p.opaque);
}

static int make_stderr(struct wslx_passt *p, int *ret_w)
{
	int pipefd[2], r;

	close_stderr(p);
	if (pipe2(pipefd, O_CLOEXEC) < 0)
		return -errno;
	p->stderr_fd = pipefd[0];
	*ret_w = pipefd[1];
	r = wslx_fd_nonblock(p->stderr_fd, 1);
	return r < 0 ? r : wslx_loop_watch(p->p.loop, p->stderr_fd, EPOLLIN, on_stderr, p, &p->stderr_watch);
}

int wslx_passt_start(struct wslx_passt *p, struct wslx_err *err)
{
	cleanup_close int fd = -1, err_w = -1;
	const int sndbuf = 16 << 20;
	char **argv = NULL;
	int r;

	wslx_passt_stop(p);
	fd = p->p.connect(p->p.opaque);
	if (fd < 0)
		return wslx_err_sys(err, -fd, "cannot connect passt to the machine");
	/* What its socket does not take at once passt drops, and sends again
	 * seconds later.  The kernel clamps this to twice wmem_max. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
	p->complaint[0] = '\0';
	p->line_len = 0;
	r = make_stderr(p, &err_w);
	if (r == 0)
		r = wslx_passt_args(p->path, p->p.net, fd, &argv);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot start passt");
	r = wslx_proc_start(p->p.loop,
			    &(struct wslx_spawn) {
				    .path = p->path,
				    .argv = argv,
				    .keep = &fd,
				    .n_keep = 1,
				    .stdin_fd = -1,
				    .stdout_fd = err_w,
				    .stderr_fd = err_w,
			    },
			    on_exit_, p, &p->proc, err);
	wslx_passt_args_free(argv);
	p->started_ms = wslx_now_ms();
	return r;
}

void wslx_passt_stop(struct wslx_passt *p)
{
	wslx_timer_disarm(p->retry);
	wslx_proc_free(p->proc);
	p->proc = NULL;
	close_stderr(p);
}

int wslx_passt_new(const struct wslx_passt_params *params, struct wslx_passt **ret, struct wslx_err *err)
{
	struct wslx_passt *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return wslx_err_sys(err, ENOMEM, "cannot start passt");
	p->p = *params;
	p->stderr_fd = -1;
	r = wslx_find_program("passt", &p->path);
	if (r < 0)
		wslx_err_set(err, -r, "passt is not in PATH: install it, or start without a network (--net none)");
	if (r == 0) {
		r = wslx_loop_timer(p->p.loop, on_retry, p, &p->retry);
		if (r < 0)
			wslx_err_sys(err, -r, "cannot start passt");
	}
	if (r < 0) {
		wslx_passt_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

void wslx_passt_free(struct wslx_passt *p)
{
	if (!p)
		return;
	if (p->retry)
		wslx_passt_stop(p);
	wslx_timer_free(p->retry);
	free(p->path);
	free(p);
}
