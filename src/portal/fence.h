/*
 * The rare half of asymmetric fences: membarrier(2) runs a full barrier in
 * other threads, so that their common path needs only the compiler's
 * (PORTAL_LIGHT_FENCE).
 *
 * Threads: any.
 */
#ifndef WSLX_PORTAL_FENCE_H
#define WSLX_PORTAL_FENCE_H

#include <stdbool.h>

/* Once per process, before the first of its channels. */
void wslx_portal_fence_register(void);
/* Does wslx_portal_fence_process() do anything?  Not where a filter keeps it from this process; one that came later
 * than the first channel is not noticed. */
bool wslx_portal_fence_works(void);
/* Is this process registered for barriers from others? */
bool wslx_portal_fence_registered(void);
/* In every thread of this process. */
void wslx_portal_fence_process(void);
/* In every registered process of this kernel. */
void wslx_portal_fence_all(void);

#endif
