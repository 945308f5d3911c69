/* Included before every explored source: one processor, so that nobody spins; time that passes only in sleep; and
 * memory that crashed fibers need not give back. */
#ifndef WSLX_EXPLORE_SHIMS_H
#define WSLX_EXPLORE_SHIMS_H

#include <stddef.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

void *explore_calloc(size_t n, size_t size);
void explore_free(void *p);
int explore_clock(struct timespec *ret);

#define calloc(n, size) explore_calloc(n, size)
#define free(p) explore_free(p)
#define sysconf(name) 1L
#define clock_gettime(clock, ret) explore_clock(ret)

#endif
