/*
 * Somebody whose memory is taken away while it writes, and somebody who looks on.
 *
 * usage: portal_scribble REGION write|watch, on the host or in a machine
 * write: publishes an object, and writes to all of it without end, until standard input ends; a line now and then.
 * watch: at each line of standard input, the object's checksum.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <wslx/portal.h>

#define SIZE (1u << 20)
#define SEC INT64_C(1000000000)

static bool input_ended(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };

	return poll(&in, 1, 0) > 0;
}

static int scribble(portal *p)
{
	void *to;
	int r = portal_create(p, "scribble", SIZE, NULL, &to);

	for (unsigned n = 0; r == 0 && !input_ended(); n++) {
		memset(to, (int)n, SIZE);
		/* To the end that the compiler cannot see that nobody reads it. */
		__asm__ volatile("" ::: "memory");
		if (n % 64 == 0)
			printf("%u\n", n);
	}
	return r;
}

/* A word at a time: what is being written is another at each look. */
static uint64_t sum(const uint64_t *at)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (unsigned i = 0; i < SIZE / sizeof(*at); i++)
		h = (h ^ __atomic_load_n(&at[i], __ATOMIC_RELAXED)) * UINT64_C(0x100000001b3);
	return h;
}

static int watch(portal *p)
{
	struct portal_object o;
	const void *at;
	char line[16];
	int r = portal_wait_for(p, "scribble", 60 * SEC, &o);

	if (r == 0)
		r = portal_map(p, &o, &at, NULL);
	while (r == 0 && fgets(line, sizeof(line), stdin))
		printf("%016" PRIx64 "\n", sum(at));
	return r;
}

int main(int argc, char **argv)
{
	struct portal_attach a = { .size = sizeof(a), .name = "scribble", .timeout_ns = 60 * SEC };
	portal *p;
	int r;

	if (argc != 3)
		return 2;
	a.region = argv[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	r = portal_attach(&a, &p);
	if (r == 0)
		r = strcmp(argv[2], "write") == 0 ? scribble(p) : watch(p);
	if (r < 0) {
		fprintf(stderr, "scribble: %s\n", strerror(-r));
		return 1;
	}
	portal_detach(p);
	return 0;
}
