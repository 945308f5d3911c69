/*
 * Explores interleavings of the shipped Portal code.
 *
 * Theory of operation.  The code is compiled with -DPORTAL_EXPLORE, so every
 * shared access comes here.  Its threads are fibers of one real thread.  A
 * store goes into its fiber's buffer, and from there to memory when the
 * scheduler says so: in order (TSO), or, with PSO, a relaxed store also before
 * an older one to another place; a release store never before an older one.  A
 * sequentially consistent store empties the buffer first.  Loads see the own
 * buffer, then memory.
 *
 * At each load and each visible store the scheduler may go on, run another
 * fiber, let an entry of another's buffer reach memory, or (where a scenario
 * allows it) crash the one that runs, with all threads of its process and with
 * as much of its buffer in memory as it likes.  Running another one or emptying
 * its buffer costs one of a bounded number of preemptions; a crash, of which
 * there is one in a run, and changing over because the running one sleeps cost
 * nothing.  Runs are repeated from the start, depth first over the
 * choices, until none is left: only then has a scenario passed.
 *
 * Within its number of preemptions that is everything the model can do.  What it
 * cannot: let a load be late, keep more than 64 stores in a buffer, or crash
 * more than one process in a run.
 *
 * Sleeping is futex-like: compare and block are one step.  If nobody can run
 * and somebody has not finished, a wake-up was lost.  Who sleeps for a limited
 * time may find it over whenever another one could run.
 *
 * Violations print the scenario and the trace, and end the process with 1.
 */
#ifndef PORTAL_EXPLORE_H
#define PORTAL_EXPLORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wslx/portal.h>

#define EX_MAX_FIBERS 4

struct scenario {
	const char *name;
	unsigned fibers;
	unsigned preemptions;
	bool pso;
	unsigned crashable; /* bit per fiber */
	bool store_points;  /* also stop before stores into the buffer: they matter to membarrier */
	void (*setup)(void);
	void (*fiber[EX_MAX_FIBERS])(void);
	void (*check)(void); /* when all have finished; may be NULL */
	unsigned together;   /* bit per fiber: threads of one process.  All others are processes of their own */
	bool pauses_once;    /* a pause is not always the beginning of a wait */
};

/* True: these were all runs that there are within the scenario's bound. */
bool explore(const struct scenario *s, uint64_t max_runs, uint64_t *ret_runs);

/* For scenarios. */
void ex_region(void *p, size_t n); /* memory that shared accesses may touch */
void ex_quiet(void *p, size_t n);  /* the same, of which the scenario says that nobody writes it */
void ex_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
#define ex_assert(x)                                                                                                   \
	do {                                                                                                           \
		if (!(x))                                                                                              \
			ex_fail("%s:%d: %s", __FILE__, __LINE__, #x);                                                  \
	} while (0)
extern bool ex_no_membarrier; /* a filter forbids it: wslx_portal_fence_process() does nothing */
bool ex_crashed(unsigned fiber);
unsigned ex_self(void);
/* Until fn, which touches nothing, says so. */
void ex_await(bool (*fn)(void));
/* No store by that fiber may reach [p, p + n) until thawed. */
void ex_freeze(unsigned fibers, const void *p, size_t n);
void ex_thaw(void);
/* Futexes; and a bell that knows nothing of words: ringing is remembered once, sleeping is no barrier. */
extern const struct portal_doorbell_ops ex_doorbell, ex_bell;
extern unsigned ex_wakes, ex_sleeps;
/* shims.c: what a run has allocated is gone when it is over. */
void ex_forget_allocations(void);

#endif
