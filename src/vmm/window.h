/*
 * Portal's window where it is mapped: in the VMM child, in the device server
 * and, by the preloaded library, in QEMU.
 *
 * Theory of operation.  The window is one contiguous mapping, the whole of a
 * sealed memfd of its own from the start: information block, tables, and what
 * lies under segments that hold nothing.  WINDOW_MAP messages put arenas in the
 * place of runs of segments, and take them away again; each is one mmap over
 * what was there, so no address in it is ever without memory, and KVM and
 * devices that hold pointers into it go on with what is new.
 *
 * Of others' arenas the mapping is private and writable: a guest that writes
 * there gets copies of pages, and the writer's bytes never change.
 *
 * This file and link.c are also in the library that QEMU loads: nothing but the
 * C library and os/linux/fd.c may be used.
 */
#ifndef WSLX_VMM_WINDOW_H
#define WSLX_VMM_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "vmm/link.h"

#define WSLX_WINDOW_SEGMENT ((uint64_t)2 << 20)
#define WSLX_WINDOW_DATA WSLX_WINDOW_SEGMENT /* where the dax data, segment 0, begin */
#define WSLX_WINDOW_MIN ((uint64_t)64 << 20)
#define WSLX_WINDOW_MAX ((uint64_t)64 << 30)

struct wslx_window {
	uint8_t *host; /* NULL: none */
	uint64_t size;
};

/* A power of two from MIN to MAX (vmconfig.h has the user's view of it). */
static inline bool wslx_window_size_ok(uint64_t size)
{
	return size >= WSLX_WINDOW_MIN && size <= WSLX_WINDOW_MAX && !(size & (size - 1));
}

static inline uint32_t wslx_window_segments(uint64_t size)
{
	return (uint32_t)((size - WSLX_WINDOW_DATA) / WSLX_WINDOW_SEGMENT);
}

/* Maps fd, the window's own memory, which must be sealed and of that size.
 * fd stays the caller's. */
WSLX_MUST_CHECK int wslx_window_open(int fd, uint64_t size, struct wslx_window *ret);
void wslx_window_close(struct wslx_window *w);
/* Carries out a WINDOW_MAP; its descriptor stays the message's.  -EINVAL for
 * what lies outside the window or in the tables' segment, or a file that is too
 * short. */
WSLX_MUST_CHECK int wslx_window_apply(const struct wslx_window *w, const struct wslx_link_msg *m);

#endif
