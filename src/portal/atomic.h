/*
 * Every access to shared pages goes through these.  Normally they are the
 * compiler's atomics.  With -DPORTAL_EXPLORE they call the explorer of
 * tests/explore, which keeps store buffers and decides who runs next.
 *
 * Orders: ACQ and REL as in C11.  SEQ on both sides makes "store mine, then
 * load yours" safe (Dekker): sleeping against publishing, busy against
 * quiesce.  There are no bare fences: TSan does not know them.
 */
#ifndef WSLX_PORTAL_ATOMIC_H
#define WSLX_PORTAL_ATOMIC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef PORTAL_EXPLORE

uint64_t explore_load(const void *p, size_t size, int order);
void explore_store(void *p, uint64_t v, size_t size, int order);
void explore_pause(void);
void explore_light_fence(void);

#define PORTAL_LOAD_(p, order) ((__typeof__(+*(p)))explore_load((p), sizeof(*(p)), (order)))
#define PORTAL_STORE_(p, v, order) explore_store((p), (uint64_t)(v), sizeof(*(p)), (order))
#define PORTAL_PAUSE() explore_pause()
#define PORTAL_LIGHT_FENCE() explore_light_fence()
#define PORTAL_STORE_FENCE(p, v) PORTAL_STORE_(p, v, __ATOMIC_SEQ_CST)
#define PORTAL_PREFETCH(p) ((void)(p))

#else

#define PORTAL_LOAD_(p, order) __atomic_load_n((p), (order))
#define PORTAL_STORE_(p, v, order) __atomic_store_n((p), (v), (order))
#if defined(__x86_64__) || defined(__i386__)
#define PORTAL_PAUSE() __builtin_ia32_pause()
#else
#define PORTAL_PAUSE() ((void)0)
#endif
/* Only a hint: no access that orders anything. */
#define PORTAL_PREFETCH(p) __builtin_prefetch(p)
/* The cheap half of a fence whose other half is membarrier(2): see gate.c. */
#define PORTAL_LIGHT_FENCE() __atomic_signal_fence(__ATOMIC_SEQ_CST)
/* A store that is in memory before the next load.  Not an exchange: that would begin to fetch the line only when all
 * older stores are done. */
#if defined(__SANITIZE_THREAD__)
#define PORTAL_STORE_FENCE(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PORTAL_STORE_FENCE(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#endif
#endif
#ifndef PORTAL_STORE_FENCE
#define PORTAL_STORE_FENCE(p, v) (__atomic_store_n((p), (v), __ATOMIC_RELEASE), __atomic_thread_fence(__ATOMIC_SEQ_CST))
#endif

#endif

#define PORTAL_LOAD(p) PORTAL_LOAD_(p, __ATOMIC_RELAXED)
#define PORTAL_LOAD_ACQ(p) PORTAL_LOAD_(p, __ATOMIC_ACQUIRE)
#define PORTAL_LOAD_SEQ(p) PORTAL_LOAD_(p, __ATOMIC_SEQ_CST)
#define PORTAL_STORE(p, v) PORTAL_STORE_(p, v, __ATOMIC_RELAXED)
#define PORTAL_STORE_REL(p, v) PORTAL_STORE_(p, v, __ATOMIC_RELEASE)
#define PORTAL_STORE_SEQ(p, v) PORTAL_STORE_(p, v, __ATOMIC_SEQ_CST)

/* Tables that a sequence number guards: word by word, in order on both sides,
 * so that the number's own accesses stay before and after. */
static inline void wslx_portal_words_in(void *dst, const void *shared, size_t n)
{
	const uint64_t *s = shared;

	for (size_t i = 0; i < n / 8; i++) {
		uint64_t v = PORTAL_LOAD_ACQ(&s[i]);

		memcpy((char *)dst + 8 * i, &v, 8);
	}
}

static inline void wslx_portal_words_out(void *shared, const void *src, size_t n)
{
	uint64_t *d = shared;

	for (size_t i = 0; i < n / 8; i++) {
		uint64_t v;

		memcpy(&v, (const char *)src + 8 * i, 8);
		PORTAL_STORE_REL(&d[i], v);
	}
}

/* Payload of a ring: plain bytes that an index orders. */
#ifdef PORTAL_EXPLORE
void explore_copy_in(void *dst, const void *shared, size_t n);
void explore_copy_out(void *shared, const void *src, size_t n);
#define wslx_portal_copy_in explore_copy_in
#define wslx_portal_copy_out explore_copy_out
#else
/* Nothing may be copied from nowhere, which memcpy(3) does not allow. */
static inline void wslx_portal_copy_in(void *dst, const void *shared, size_t n)
{
	if (n)
		memcpy(dst, shared, n);
}

static inline void wslx_portal_copy_out(void *shared, const void *src, size_t n)
{
	if (n)
		memcpy(shared, src, n);
}
#endif

#endif
