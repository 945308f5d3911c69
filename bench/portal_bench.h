/* The parts of bench/portal.c's program, and what they share.  One run measures one part, so all may die. */
#ifndef PORTAL_BENCH_H
#define PORTAL_BENCH_H

#include <stddef.h>
#include <stdint.h>
#include <wslx/portal.h>

extern unsigned rounds;

uint64_t now(void); /* ns */
_Noreturn void die(const char *what);
void must(int r, const char *what);
void pin(int cpu);
double at(double *v, size_t n, double q); /* the q-quantile; sorts */

void start_broker(uint32_t segments, uint32_t each, uint32_t slots);
void end_broker(void);
portal *attach(uint32_t segments);
int start_child(void (*fn)(void));
portal_chan *serve_one(portal *p, const char *name);
void *shared(size_t n); /* memory that children share, zeroed */

void bench_asleep(void);
void bench_rpc(void);
void bench_fan(void);
void bench_flat(void);
void bench_commands(void);

#endif
