/*
 * Every body of the agent's protocol, whichever side decodes it: what decodes
 * must encode, and then decode to what encodes the same.
 */
#ifndef WSLX_FUZZ_AGENT_CODEC_H
#define WSLX_FUZZ_AGENT_CODEC_H

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "proto/agent.h"

#define CODEC_MAX (4u << 20)

#define CODEC(name, free_m)                                                                                            \
	static inline void codec_##name(const uint8_t *p, size_t n)                                                    \
	{                                                                                                              \
		static struct wslx_agent_##name a, b;                                                                  \
		struct wslx_buf one, two;                                                                              \
                                                                                                                       \
		if (wslx_agent_##name##_decode(p, n, &a) < 0)                                                          \
			return;                                                                                        \
		wslx_buf_init(&one, CODEC_MAX);                                                                        \
		wslx_buf_init(&two, CODEC_MAX);                                                                        \
		if (wslx_agent_##name##_encode(&one, &a) < 0 ||                                                        \
		    wslx_agent_##name##_decode(one.data, one.len, &b) < 0 ||                                           \
		    wslx_agent_##name##_encode(&two, &b) < 0 || one.len != two.len ||                                  \
		    (one.len && memcmp(one.data, two.data, one.len) != 0))                                             \
			abort();                                                                                       \
		wslx_buf_free(&one);                                                                                   \
		wslx_buf_free(&two);                                                                                   \
		free_m(&a);                                                                                            \
		free_m(&b);                                                                                            \
	}

#define CODEC_PLAIN(m) (void)(m)

CODEC(hello, CODEC_PLAIN)
CODEC(error, CODEC_PLAIN)
CODEC(config, CODEC_PLAIN)
CODEC(distro, CODEC_PLAIN)
CODEC(distro_started, CODEC_PLAIN)
CODEC(exec, wslx_agent_exec_free)
CODEC(started, CODEC_PLAIN)
CODEC(exit, CODEC_PLAIN)
CODEC(event, CODEC_PLAIN)
CODEC(status, wslx_agent_status_free)

static inline void codec_shutdown(const uint8_t *p, size_t n)
{
	enum wslx_agent_shutdown how, again;
	struct wslx_buf b;
	uint32_t ms, ms_again;

	if (wslx_agent_shutdown_decode(p, n, &how, &ms) < 0)
		return;
	wslx_buf_init(&b, CODEC_MAX);
	if (wslx_agent_shutdown_encode(&b, how, ms) < 0 ||
	    wslx_agent_shutdown_decode(b.data, b.len, &again, &ms_again) < 0 || again != how || ms_again != ms)
		abort();
	wslx_buf_free(&b);
}

static inline void codec_check(const uint8_t *p, size_t n)
{
	static void (*const all[])(const uint8_t *p, size_t n) = {
		codec_hello,   codec_error, codec_config, codec_distro, codec_distro_started, codec_exec,
		codec_started, codec_exit,  codec_event,  codec_status, codec_shutdown,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		all[i](p, n);
}

#endif
