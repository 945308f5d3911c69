/*
 * Confinement of the processes that serve a hostile guest.
 *
 * Theory of operation.  A child gets every descriptor it needs at start, makes
 * its rings, mappings and threads, and then locks itself down, before the first
 * guest instruction (vmm) or the first vhost-user message (devices):
 *   1. wslx_sandbox_prepare, while there is one thread (the others inherit):
 *      no core dumps, not traceable, no capabilities, no new privileges, and a
 *      Landlock domain that holds no file, no TCP port, and no abstract socket
 *      or signal target outside itself, as far as the kernel's ABI goes;
 *   2. wslx_sandbox_enter, when all threads exist: a seccomp filter on all of
 *      them.  What is not listed in sandbox.c kills the process; the calls an
 *      intruder tries first fail with EPERM instead, so that a test can watch
 *      them fail.
 * A Portal broker serves no guest, but whoever connects.  It makes memory and opens that again for reading, and
 * removes its sockets at its end, from the one folder they lie in: no other file can be opened where there is Landlock.
 *
 * After that no thread can be made, no path opened or examined, no socket
 * connected, no memory made executable, no ring set up.  The C library's fstat()
 * fails as well where it is a call with a path: wslx_fd_stat (fd.h) does not.
 */
#ifndef WSLX_OS_LINUX_SANDBOX_H
#define WSLX_OS_LINUX_SANDBOX_H

#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"

/* Sanitizers make calls of their own (ptrace, /proc).  Built with them, what is
 * not listed fails with EPERM instead of killing; the tested code still meets
 * the same denials. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WSLX_SANDBOX_LENIENT 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define WSLX_SANDBOX_LENIENT 1
#endif
#endif
#ifndef WSLX_SANDBOX_LENIENT
#define WSLX_SANDBOX_LENIENT 0
#endif

enum wslx_sandbox_profile {
	WSLX_SANDBOX_VMM,     /* vCPUs and devices of the kvm engine */
	WSLX_SANDBOX_DEVICES, /* vhost-user device server of the tcg engine */
	WSLX_SANDBOX_PORTAL,  /* broker of a Portal region: makes memory, hands it out */
};

/* Both return 0 or -errno with one line in err.  A kernel without Landlock is
 * no error: seccomp denies the same. */
WSLX_MUST_CHECK int wslx_sandbox_prepare(struct wslx_err *err);
/* The same, but files in that folder may be removed. */
WSLX_MUST_CHECK int wslx_sandbox_prepare_in(int dirfd, struct wslx_err *err);
/* Calls prepare first if that was not done. */
WSLX_MUST_CHECK int wslx_sandbox_enter(enum wslx_sandbox_profile profile, struct wslx_err *err);

/* Test hook: tries what must be impossible and returns a mask of what was not
 * denied. */
#define WSLX_SANDBOX_LEAK_OPEN (1u << 0)
#define WSLX_SANDBOX_LEAK_EXECVE (1u << 1)
#define WSLX_SANDBOX_LEAK_CONNECT (1u << 2)
#define WSLX_SANDBOX_LEAK_IO_URING (1u << 3)
#define WSLX_SANDBOX_LEAK_SOCKET (1u << 4)
#define WSLX_SANDBOX_LEAK_RING (1u << 5) /* an open through a disk's kind of ring; added by the caller */
#define WSLX_SANDBOX_LEAK_STAT (1u << 6)
uint64_t wslx_sandbox_test(void);

#endif
