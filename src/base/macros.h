/* Small macros used everywhere.  No dependencies. */
#ifndef WSLX_BASE_MACROS_H
#define WSLX_BASE_MACROS_H

#include <stddef.h>
#include <stdint.h>

#define WSLX_MUST_CHECK __attribute__((warn_unused_result))
#define WSLX_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define WSLX_NORETURN __attribute__((noreturn))
#define WSLX_UNUSED __attribute__((unused))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Evaluate their arguments twice: pass plain variables. */
#define WSLX_MIN(a, b) ((a) < (b) ? (a) : (b))
#define WSLX_MAX(a, b) ((a) > (b) ? (a) : (b))

#define WSLX_KIB ((uint64_t)1 << 10)
#define WSLX_MIB ((uint64_t)1 << 20)
#define WSLX_GIB ((uint64_t)1 << 30)

#define WSLX_PAGE_SIZE ((uint64_t)4096)

#endif
