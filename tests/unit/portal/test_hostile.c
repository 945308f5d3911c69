/* Participants that use what they were given against the broker. */
#include "support.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "os/linux/fd.h"
#include "portal/wire.h"

/* Everything that a program of the same user can do with a descriptor for reading. */
static int open_again(int ro)
{
	char path[64];
	int fd;

	assert_int_equal(fchmod(ro, 0600), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ro);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void header_cannot_be_written(void **state)
{
	uint32_t segments = 0, bad = 0x7fffffff;
	struct portal_host_stat st;
	struct broker b;
	portal *p;
	void *at;
	int ro, rw;

	broker_start(&b, NULL);
	ro = portal_host_arena_fd(b.h, 0, 0);
	assert_true(ro >= 0);
	rw = open_again(ro);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, rw, 0), MAP_FAILED);
	at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, rw, 0);
	assert_ptr_not_equal(at, MAP_FAILED);
	assert_int_not_equal(mprotect(at, 4096, PROT_READ | PROT_WRITE), 0);
	munmap(at, 4096);
	assert_int_equal(pwrite(rw, &bad, sizeof(bad), offsetof(struct portal_header, segments)), -1);
	assert_int_equal(fallocate(rw, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
	assert_int_equal(ftruncate(rw, 0), -1);
	assert_int_equal(pread(rw, &segments, sizeof(segments), offsetof(struct portal_header, segments)),
			 sizeof(segments));
	assert_int_equal(portal_host_stat(b.h, &st), 0);
	assert_int_equal(segments, st.segments);
	/* A guest's VMM maps it privately, for reading and writing. */
	at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, ro, 0);
	assert_ptr_not_equal(at, MAP_FAILED);
	munmap(at, 4096);
	/* The broker itself still writes to it. */
	p = broker_attach(&b, "fine");
	assert_non_null(p);
	assert_int_equal(portal_create(p, "thing", 64, NULL, &at), 0);
	portal_detach(p);
	close(rw);
	close(ro);
	broker_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_cannot_be_written),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
