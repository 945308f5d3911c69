/*
 * The supervisor as a process: configuration in, readiness out
 * (docs/control-protocol.md, "Starting").
 */
#ifndef WSLX_MANAGER_SPAWN_H
#define WSLX_MANAGER_SPAWN_H

#include "base/err.h"
#include "base/macros.h"
#include "manager/machine.h"
#include "proto/vmconfig.h"

/* Starts wslx-vmm and waits until the machine is up.  lock_fd: borrowed, held;
 * the supervisor gets a duplicate.  -ECANCELED leaves it starting. */
WSLX_MUST_CHECK int wslx_vmm_spawn(const struct wslx_vm_config *c, int lock_fd, const struct wslx_start_hooks *h,
				   struct wslx_err *err);

#endif
