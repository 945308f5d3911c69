/* Copying disk images. */
#ifndef WSLX_MANAGER_COPY_H
#define WSLX_MANAGER_COPY_H

#include <stdint.h>

#include "base/macros.h"

/* The first size bytes of in to the empty file out, whatever file systems the
 * two are on; holes stay holes.  cancel_fd readable: -ECANCELED; -1 = never.
 * -EIO: in is shorter. */
WSLX_MUST_CHECK int wslx_copy_sparse(int in, int out, uint64_t size, int cancel_fd);

#endif
