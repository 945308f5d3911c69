/*
 * The network sends from a region's pages, where they are.
 *
 * usage: portal_zerocopy REGION PORT NAME, in a machine: publishes the object NAME full of random bytes, sends it to
 * the first who connects to PORT, and prints how many of its sends the kernel had to copy, of how many.  Then the
 * object stays until standard input ends.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <wslx/portal.h>

/* linux/errqueue.h and asm/socket.h, which musl does not have. */
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif
#define ORIGIN_ZEROCOPY 5
#define CODE_COPIED 1

struct extended_err {
	uint32_t error;
	uint8_t origin, type, code, pad;
	uint32_t info, data;
};

#define SIZE (1u << 20)
#define PIECE (64u << 10)
#define LIMIT_MS 30000

static int fail(const char *what, int r)
{
	fprintf(stderr, "zerocopy: %s: %s\n", what, strerror(-r));
	return 1;
}

static int wait_for_caller(unsigned port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int l = socket(AF_INET, SOCK_STREAM, 0), on = 1, s;
	char byte;

	if (l < 0 || setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(l, (void *)&a, sizeof(a)) < 0 || listen(l, 1) < 0)
		return -errno;
	puts("ready");
	fflush(stdout);
	s = accept(l, NULL, NULL);
	close(l);
	if (s >= 0 && read(s, &byte, 1) != 1)
		return -EPIPE;
	if (s >= 0 && setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) < 0)
		return -errno;
	return s < 0 ? -errno : s;
}

/* One notice says how it went with a row of sends. */
static int take_notice(int s, unsigned *done, unsigned *copied)
{
	char control[128];
	struct msghdr m = { .msg_control = control, .msg_controllen = sizeof(control) };
	struct pollfd p = { .fd = s };
	struct extended_err e;

	if (poll(&p, 1, LIMIT_MS) != 1 || !(p.revents & POLLERR))
		return -ETIMEDOUT;
	if (recvmsg(s, &m, MSG_ERRQUEUE) < 0)
		return -errno;
	memcpy(&e, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(e));
	if (e.error || e.origin != ORIGIN_ZEROCOPY)
		return -EPROTO;
	*done += e.data - e.info + 1;
	if (e.code & CODE_COPIED)
		*copied += e.data - e.info + 1;
	return 0;
}

static int send_all(int s, const uint8_t *from, unsigned *sends, unsigned *copied)
{
	unsigned done = 0;
	int r = 0;

	for (size_t at = 0; at < SIZE;) {
		ssize_t n = send(s, from + at, PIECE < SIZE - at ? PIECE : SIZE - at, MSG_ZEROCOPY);

		if (n < 0)
			return -errno;
		at += (size_t)n;
		++*sends;
	}
	while (r == 0 && done < *sends)
		r = take_notice(s, &done, copied);
	return r;
}

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .name = "zerocopy" };
	unsigned sends = 0, copied = 0;
	portal *p;
	void *at;
	int r, s;

	if (argc != 4)
		return 2;
	a.region = argv[1];
	r = portal_attach(&a, &p);
	if (r == 0)
		r = portal_create(p, argv[3], SIZE, NULL, &at);
	if (r < 0)
		return fail("portal", r);
	for (unsigned i = 0; i < SIZE; i += 256)
		if (getrandom((uint8_t *)at + i, 256, 0) != 256)
			return fail("getrandom", -errno);
	s = wait_for_caller((unsigned)atoi(argv[2]));
	if (s < 0)
		return fail("socket", s);
	r = send_all(s, at, &sends, &copied);
	if (r < 0)
		return fail("send", r);
	close(s);
	printf("%u of %u\n", copied, sends);
	fflush(stdout);
	while (getchar() != EOF)
		;
	portal_detach(p);
	return 0;
}
