/*
 * Which engines work on this host, and why not.
 */
#ifndef WSLX_MANAGER_ENGINE_H
#define WSLX_MANAGER_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"
#include "manager/registry.h"
#include "proto/vmconfig.h"

enum wslx_kvm_state {
	WSLX_KVM_USABLE,
	WSLX_KVM_MISSING,       /* no /dev/kvm */
	WSLX_KVM_NOT_PERMITTED, /* cannot be opened */
	WSLX_KVM_SLOW,          /* software-backed: a thousand times too slow for a kernel */
	WSLX_KVM_BROKEN,        /* opens, but a machine does not work */
};

struct wslx_engines {
	enum wslx_kvm_state kvm;
	int kvm_errno;
	uint64_t kvm_probe_ns; /* USABLE and SLOW: what the counted loop took */
	bool kvm_cached;       /* from an earlier probe since the host booted */
	char kvm_reason[320];  /* one line; what to do about it if it is not usable */
	bool tcg;
	char tcg_reason[320];
	char *qemu; /* path, NULL = not found */
};

/* fresh: probe even if an earlier result is on file. */
void wslx_engines_probe(struct wslx_manager *m, bool fresh, struct wslx_engines *ret);
void wslx_engines_free(struct wslx_engines *e);

/* AUTO becomes the best that works.  An engine that was asked for by name and
 * does not work is an error that says why. */
WSLX_MUST_CHECK int wslx_engine_choose(struct wslx_manager *m, enum wslx_engine wanted, enum wslx_engine *ret,
				       struct wslx_err *err);

#endif
