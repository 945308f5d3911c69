/* membarrier(2); see fence.h. */
#include "portal/fence.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "portal/atomic.h"

static int in_process, among_processes; /* 1: registered */

void wslx_portal_fence_register(void)
{
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0)
		__atomic_store_n(&in_process, 1, __ATOMIC_RELAXED);
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0)
		__atomic_store_n(&among_processes, 1, __ATOMIC_RELAXED);
}

bool wslx_portal_fence_works(void)
{
	int cmd = __atomic_load_n(&in_process, __ATOMIC_RELAXED) ? MEMBARRIER_CMD_PRIVATE_EXPEDITED
								 : MEMBARRIER_CMD_GLOBAL;

	return syscall(SYS_membarrier, cmd, 0, 0) == 0;
}

bool wslx_portal_fence_registered(void)
{
	return __atomic_load_n(&among_processes, __ATOMIC_RELAXED);
}

void wslx_portal_fence_process(void)
{
	(void)wslx_portal_fence_works();
}

void wslx_portal_fence_all(void)
{
	(void)syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
}
