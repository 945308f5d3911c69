/* The scheduler; see explore.h. */
#include "explore.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "portal/internal.h"
#include "portal/atomic.h"
#include "portal/fence.h"

#define STACK (64 * 1024)
#define MAX_BUFFER 64
#define MAX_TRACE 20000
#define MAX_STEPS 20000
#define MAX_OPTIONS 512
#define MAX_REGIONS 24

enum fiber_state { RUNNING, SLEEPING, SPINNING, AWAITING, LOCKING, DONE, CRASHED };

struct entry {
	uint8_t *p;
	uint64_t v;
	uint8_t size;
	bool release;
};

struct fiber {
	jmp_buf begin, here; /* where a run begins, and where this one stopped */
	bool begun, on_its_way;
	char *stack;
	enum fiber_state state;
	struct entry buf[MAX_BUFFER];
	unsigned n;
	const uint32_t *words[68];
	unsigned n_words;
	uint64_t seen;   /* memory version when it began to spin */
	uint64_t paused; /* memory version at the last pause, plus 1 */
	const void *lock, *holds;
	bool (*awaits)(void);
	bool rung, timed;
	int64_t timeout;
};

static void fiber_main(void);

enum kind { GO_ON, SWITCH, FLUSH, CRASH, HOW_MANY };

struct option {
	enum kind kind;
	unsigned fiber, entry;
};

static struct {
	const struct scenario *s;
	struct fiber f[EX_MAX_FIBERS];
	jmp_buf main;
	unsigned current, spent, steps;
	uint64_t version;
	uint16_t trace[MAX_TRACE], options[MAX_TRACE];
	unsigned at, length;
	struct {
		uint8_t *p;
		size_t n;
		bool quiet;
	} region[MAX_REGIONS];
	unsigned n_regions;
	const uint8_t *frozen;
	size_t frozen_n;
	unsigned frozen_by;
	int64_t now;
	bool running; /* not in setup or check */
	uint64_t runs;
} ex;

unsigned ex_wakes, ex_sleeps;

void ex_fail(const char *fmt, ...)
{
	va_list ap;

	printf("%s: run %llu: ", ex.s->name, (unsigned long long)ex.runs);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\nchoices:");
	for (unsigned i = 0; i < ex.at; i++)
		if (ex.trace[i])
			printf(" %u:%u/%u", i, ex.trace[i], ex.options[i]);
	printf("\n");
	fflush(stdout);
	_Exit(1);
}

/* ---- choices ---- */

static unsigned choose(unsigned n)
{
	if (n <= 1)
		return 0;
	if (ex.at >= MAX_TRACE)
		ex_fail("the trace is too long");
	if (ex.at >= ex.length) {
		ex.trace[ex.at] = 0;
		ex.length = ex.at + 1;
	}
	ex.options[ex.at] = (uint16_t)n;
	return ex.trace[ex.at++];
}

static bool next_trace(void)
{
	while (ex.length) {
		unsigned i = ex.length - 1;

		if (ex.trace[i] + 1u < ex.options[i]) {
			ex.trace[i]++;
			return true;
		}
		ex.length--;
	}
	return false;
}

/* ---- memory ---- */

/* Is that memory that nobody writes? */
static bool check_range(const void *p, size_t n)
{
	for (unsigned i = 0; i < ex.n_regions; i++)
		if ((const uint8_t *)p >= ex.region[i].p && (const uint8_t *)p + n <= ex.region[i].p + ex.region[i].n)
			return ex.region[i].quiet;
	ex_fail("access outside of shared memory");
}

static void to_memory(unsigned who, void *p, uint64_t v, size_t size)
{
	const uint8_t *b = p;

	if (ex.frozen && ex.frozen_by >> who & 1 && b + size > ex.frozen && b < ex.frozen + ex.frozen_n)
		ex_fail("fiber %u changed memory while at rest", who);
	memcpy(p, &v, size);
	ex.version++;
}

static void flush_entry(unsigned who, unsigned i)
{
	struct fiber *f = &ex.f[who];

	to_memory(who, f->buf[i].p, f->buf[i].v, f->buf[i].size);
	memmove(&f->buf[i], &f->buf[i + 1], (f->n - i - 1) * sizeof(f->buf[0]));
	f->n--;
}

static void flush_all(unsigned who)
{
	while (ex.f[who].n)
		flush_entry(who, 0);
}

/* May entry i overtake those before it? */
static bool may_flush(const struct fiber *f, unsigned i)
{
	if (i == 0)
		return true;
	if (!ex.s->pso || f->buf[i].release)
		return false;
	for (unsigned k = 0; k < i; k++)
		if (f->buf[k].p < f->buf[i].p + f->buf[i].size && f->buf[i].p < f->buf[k].p + f->buf[k].size)
			return false;
	return true;
}

/* ---- scheduling ---- */

/* The fibers that are threads of one process with that one. */
static unsigned process_of(unsigned i)
{
	return ex.s->together >> i & 1 ? ex.s->together : 1u << i;
}

static bool is_held(const void *lock)
{
	for (unsigned i = 0; i < ex.s->fibers; i++)
		if (ex.f[i].holds == lock)
			return true;
	return false;
}

static bool runnable(unsigned i)
{
	const struct fiber *f = &ex.f[i];

	return f->state == RUNNING || (f->state == SPINNING && f->seen != ex.version) ||
	       (f->state == AWAITING && f->awaits()) || (f->state == SLEEPING && f->timed) ||
	       (f->state == LOCKING && !is_held(f->lock));
}

/* Goes on where that fiber stopped.  The first time of all it needs its stack; later runs begin where that one did.
 * (swapcontext(3) would do as well, at the price of a system call.) */
static _Noreturn void go_to(unsigned to)
{
	struct fiber *f = &ex.f[to];
	ucontext_t ctx;

	ex.current = to;
	if (f->on_its_way)
		_longjmp(f->here, 1);
	f->on_its_way = true;
	if (f->begun)
		_longjmp(f->begin, 1);
	f->begun = true;
	f->stack = malloc(STACK);
	getcontext(&ctx);
	ctx.uc_stack.ss_sp = f->stack;
	ctx.uc_stack.ss_size = STACK;
	ctx.uc_link = NULL;
	makecontext(&ctx, fiber_main, 0);
	setcontext(&ctx);
	abort();
}

static void switch_to(unsigned to)
{
	struct fiber *from = &ex.f[ex.current], *f = &ex.f[to];

	if (f->state == SLEEPING)
		ex.now += f->timeout;
	f->state = RUNNING;
	if (f != from && !_setjmp(from->here))
		go_to(to);
}

/* How much of the buffer is in memory when another one runs: nothing, something, all. */
static void leave_buffer(unsigned who)
{
	unsigned n = choose(ex.f[who].n + 1);

	while (n--)
		flush_entry(who, 0);
}

static _Noreturn void finish_run(void)
{
	_longjmp(ex.main, 1);
}

/* The running one cannot go on: picks another, at no cost. */
static void yield_for_good(void)
{
	for (;;) {
		unsigned can[EX_MAX_FIBERS], n = 0, left = 0;

		for (unsigned i = 0; i < ex.s->fibers; i++)
			if (runnable(i))
				can[n++] = i;
		if (n) {
			switch_to(can[choose(n)]);
			return;
		}
		/* Buffers empty in the end. */
		for (unsigned i = 0; i < ex.s->fibers; i++) {
			left += ex.f[i].n;
			flush_all(i);
		}
		if (left)
			continue;
		for (unsigned i = 0; i < ex.s->fibers; i++) {
			if (ex.f[i].state == SPINNING) {
				/* A bounded spin on what never changes. */
				ex.f[i].seen--;
				left++;
			}
		}
		if (left)
			continue;
		for (unsigned i = 0; i < ex.s->fibers; i++)
			if (ex.f[i].state != DONE && ex.f[i].state != CRASHED)
				ex_fail("fiber %u waits for ever", i);
		finish_run();
	}
}

static bool any_crashed(void)
{
	for (unsigned i = 0; i < ex.s->fibers; i++)
		if (ex.f[i].state == CRASHED)
			return true;
	return false;
}

static unsigned list_options(struct option *o)
{
	unsigned n = 0;

	o[n++] = (struct option) { GO_ON, ex.current, 0 };
	if (ex.s->crashable >> ex.current & 1 && !any_crashed())
		o[n++] = (struct option) { CRASH, ex.current, 0 };
	for (unsigned i = 0; ex.spent < ex.s->preemptions && i < ex.s->fibers; i++) {
		const struct fiber *f = &ex.f[i];

		if (i != ex.current && runnable(i))
			o[n++] = (struct option) { SWITCH, i, 0 };
		for (unsigned k = 0; i != ex.current && k < f->n; k++)
			if (may_flush(f, k))
				o[n++] = (struct option) { FLUSH, i, k };
	}
	return n;
}

/* Takes all threads of the process with it, and its lock, which is nobody else's. */
static void crash(void)
{
	for (unsigned i = 0; i < ex.s->fibers; i++) {
		if (!(process_of(ex.current) >> i & 1))
			continue;
		if (i == ex.current)
			leave_buffer(i);
		else
			flush_all(i);
		ex.f[i].n = 0;
		ex.f[i].holds = NULL;
		ex.f[i].state = CRASHED;
	}
	ex.version++;
	yield_for_good();
}

static void point(void)
{
	for (;;) {
		struct option o[MAX_OPTIONS];
		unsigned n, me = ex.current;

		if (++ex.steps > MAX_STEPS)
			ex_fail("no end");
		n = list_options(o);
		n = choose(n);
		if (o[n].kind == GO_ON)
			return;
		ex.spent += o[n].kind != CRASH;
		switch (o[n].kind) {
		case SWITCH:
			/* With PSO also one that overtakes. */
			if (ex.s->pso && ex.f[me].n > 1) {
				unsigned k = choose(ex.f[me].n);

				if (k && may_flush(&ex.f[me], k))
					flush_entry(me, k);
			}
			leave_buffer(me);
			switch_to(o[n].fiber);
			return;
		case FLUSH:
			flush_entry(o[n].fiber, o[n].entry);
			break;
		case CRASH:
			crash();
			break;
		default:
			break;
		}
	}
}

/* ---- what the shipped code calls ---- */

uint64_t explore_load(const void *p, size_t size, int order)
{
	const struct fiber *f;
	uint64_t v = 0;

	/* Where nobody writes it does not matter when one looks. */
	if (!check_range(p, size) && ex.running)
		point();
	f = &ex.f[ex.current];
	memcpy(&v, p, size);
	for (unsigned i = 0; i < f->n; i++) {
		const struct entry *e = &f->buf[i];

		for (unsigned b = 0; b < size; b++) {
			const uint8_t *at = (const uint8_t *)p + b;

			if (at >= e->p && at < e->p + e->size)
				((uint8_t *)&v)[b] = ((const uint8_t *)&e->v)[at - e->p];
		}
	}
	return v;
}

void explore_store(void *p, uint64_t v, size_t size, int order)
{
	struct fiber *f = &ex.f[ex.current];

	if (!ex.running) {
		memcpy(p, &v, size);
		return;
	}
	if (check_range(p, size))
		ex_fail("a store where nobody should write");
	if (order == __ATOMIC_SEQ_CST) {
		point();
		flush_all(ex.current);
		to_memory(ex.current, p, v, size);
		return;
	}
	if (ex.s->store_points)
		point();
	if (f->n == MAX_BUFFER)
		flush_entry(ex.current, 0);
	f->buf[f->n++] = (struct entry) { p, v, (uint8_t)size, order == __ATOMIC_RELEASE };
}

void explore_copy_in(void *dst, const void *shared, size_t n)
{
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		uint64_t v = explore_load((const char *)shared + i, 8, __ATOMIC_RELAXED);

		memcpy((char *)dst + i, &v, 8);
	}
	for (; i < n; i++)
		((uint8_t *)dst)[i] = (uint8_t)explore_load((const char *)shared + i, 1, __ATOMIC_RELAXED);
}

void explore_copy_out(void *shared, const void *src, size_t n)
{
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		uint64_t v;

		memcpy(&v, (const char *)src + i, 8);
		explore_store((char *)shared + i, v, 8, __ATOMIC_RELAXED);
	}
	for (; i < n; i++)
		explore_store((char *)shared + i, ((const uint8_t *)src)[i], 1, __ATOMIC_RELAXED);
}

/* Who pauses a second time waits for something to change. */
void explore_pause(void)
{
	struct fiber *f = &ex.f[ex.current];

	if (ex.s->pauses_once && f->paused != ex.version + 1) {
		f->paused = ex.version + 1;
		return;
	}
	ex.f[ex.current].state = SPINNING;
	ex.f[ex.current].seen = ex.version;
	leave_buffer(ex.current);
	yield_for_good();
}

void explore_light_fence(void)
{
}

bool ex_no_membarrier;

/* membarrier(2): every thread of the process, or of all of them. */
static void fence(unsigned fibers)
{
	for (unsigned i = 0; i < ex.s->fibers; i++)
		if (fibers >> i & 1)
			flush_all(i);
}

void wslx_portal_fence_process(void)
{
	if (!ex_no_membarrier)
		fence(process_of(ex.current));
}

void wslx_portal_fence_all(void)
{
	point();
	fence(~0u);
}

/* Channels made here do without; scenarios that want it say so in the channel. */
bool wslx_portal_fence_registered(void)
{
	return false;
}

/* A lock is private to its process.  Where that has but one thread it is never waited for and no barrier to others:
 * to lean on it would be wrong. */
int explore_lock(pthread_mutex_t *m)
{
	struct fiber *f = &ex.f[ex.current];
	bool shared = process_of(ex.current) != 1u << ex.current;

	if (f->holds)
		ex_fail("fiber %u locks twice", ex.current);
	if (shared)
		point();
	while (is_held(m)) {
		if (!shared)
			ex_fail("fiber %u wants the lock of another process", ex.current);
		f->state = LOCKING;
		f->lock = m;
		flush_all(ex.current);
		yield_for_good();
	}
	if (shared)
		flush_all(ex.current);
	f->holds = m;
	return 0;
}

int explore_unlock(pthread_mutex_t *m)
{
	if (ex.f[ex.current].holds != m)
		ex_fail("fiber %u unlocks what it has not locked", ex.current);
	if (process_of(ex.current) != 1u << ex.current)
		flush_all(ex.current);
	ex.f[ex.current].holds = NULL;
	return 0;
}

/* Time passes when somebody sleeps for so long. */
int explore_clock(struct timespec *ret)
{
	*ret = (struct timespec) { .tv_sec = ex.now / 1000000000, .tv_nsec = ex.now % 1000000000 };
	return 0;
}

static void doorbell_wait(void *ctx, const struct portal_wait *w, size_t n, int64_t timeout_ns)
{
	struct fiber *f = &ex.f[ex.current];

	ex_sleeps++;
	point();
	/* The kernel's own barrier, then compare and block in one step. */
	flush_all(ex.current);
	for (size_t i = 0; i < n; i++) {
		uint32_t v;

		memcpy(&v, w[i].word, 4);
		if (v != w[i].expected)
			return;
	}
	for (size_t i = 0; i < n; i++)
		f->words[i] = w[i].word;
	f->n_words = (unsigned)n;
	f->timed = timeout_ns >= 0;
	f->timeout = timeout_ns;
	f->state = SLEEPING;
	yield_for_good();
}

static void wake_sleepers(const uint32_t *word)
{
	for (unsigned i = 0; word && i < ex.s->fibers; i++)
		for (unsigned k = 0; ex.f[i].state == SLEEPING && k < ex.f[i].n_words; k++)
			if (ex.f[i].words[k] == word)
				ex.f[i].state = RUNNING;
}

static void doorbell_wake(void *ctx, unsigned to, const uint32_t *word)
{
	struct portal_participant *parts = ctx;

	ex_wakes++;
	point();
	flush_all(ex.current);
	/* A kick goes to the host, who counts the event word up. */
	if (!word && parts && to) {
		word = &parts[to].event;
		to_memory(ex.current, &parts[to].event, parts[to].event + 1, 4);
	}
	wake_sleepers(word);
}

const struct portal_doorbell_ops ex_doorbell = { .wait = doorbell_wait, .wake = doorbell_wake };

static void bell_wait(void *ctx, const struct portal_wait *w, size_t n, int64_t timeout_ns)
{
	struct fiber *f = &ex.f[ex.current];

	ex_sleeps++;
	point();
	if (f->rung) {
		f->rung = false;
		return;
	}
	f->n_words = 0;
	f->timed = false;
	f->state = SLEEPING;
	leave_buffer(ex.current);
	yield_for_good();
	f->rung = false;
}

static void bell_wake(void *ctx, unsigned to, const uint32_t *word)
{
	ex_wakes++;
	point();
	/* Participant i is fiber i - 1 in the scenarios that use this. */
	if (!to || to > ex.s->fibers)
		return;
	ex.f[to - 1].rung = true;
	if (ex.f[to - 1].state == SLEEPING)
		ex.f[to - 1].state = RUNNING;
}

const struct portal_doorbell_ops ex_bell = { .wait = bell_wait, .wake = bell_wake };

/* ---- for scenarios ---- */

static void add_region(void *p, size_t n, bool quiet)
{
	if (ex.n_regions == MAX_REGIONS)
		ex_fail("too many regions");
	ex.region[ex.n_regions].p = p;
	ex.region[ex.n_regions].quiet = quiet;
	ex.region[ex.n_regions++].n = n;
}

void ex_region(void *p, size_t n)
{
	add_region(p, n, false);
}

void ex_quiet(void *p, size_t n)
{
	add_region(p, n, true);
}

bool ex_crashed(unsigned fiber)
{
	return ex.f[fiber].state == CRASHED;
}

unsigned ex_self(void)
{
	return ex.current;
}

void ex_await(bool (*fn)(void))
{
	struct fiber *f = &ex.f[ex.current];

	flush_all(ex.current);
	if (fn())
		return;
	f->awaits = fn;
	f->state = AWAITING;
	yield_for_good();
}

void ex_freeze(unsigned fibers, const void *p, size_t n)
{
	ex.frozen = p;
	ex.frozen_n = n;
	ex.frozen_by = fibers;
}

void ex_thaw(void)
{
	ex.frozen = NULL;
}

/* ---- running ---- */

static void fiber_main(void)
{
	(void)_setjmp(ex.f[ex.current].begin);
	ex.s->fiber[ex.current]();
	/* What it stored last may not be in memory yet. */
	if (ex.s->crashable >> ex.current & 1)
		point();
	ex.f[ex.current].state = DONE;
	ex.version++;
	yield_for_good();
}

static void start(void)
{
	ex.current = ex.spent = ex.steps = ex.at = 0;
	ex.n_regions = 0;
	ex.frozen = NULL;
	ex.now = 1;
	ex_wakes = ex_sleeps = 0;
	ex_forget_allocations();
	ex.running = false;
	ex.s->setup();
	for (unsigned i = 0; i < ex.s->fibers; i++) {
		struct fiber *f = &ex.f[i];

		f->state = RUNNING;
		f->n = 0;
		f->paused = 0;
		f->holds = NULL;
		f->rung = f->on_its_way = false;
	}
	ex.running = true;
}

bool explore(const struct scenario *s, uint64_t max_runs, uint64_t *ret_runs)
{
	bool more;

	ex.s = s;
	ex.length = 0;
	ex.runs = 0;
	do {
		start();
		if (!_setjmp(ex.main))
			go_to(0);
		ex.running = false;
		if (s->check)
			s->check();
		ex.runs++;
		more = next_trace();
	} while (more && ex.runs < max_runs);
	*ret_runs = ex.runs;
	return !more;
}
