/*
 * Kernel files as distributions ship them.
 *
 * Trust boundary: the file comes from outside.  Offsets and lengths are
 * checked against its size, and what a payload may grow to is bounded, so that
 * neither a truncated file nor a decompression bomb does more than fail.
 */
#ifndef WSLX_BOOT_UNPACK_H
#define WSLX_BOOT_UNPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"

/* Most a kernel may unpack to. */
#define WSLX_KERNEL_MAX WSLX_GIB

/* Writes the ELF kernel that in_fd holds to out_fd (regular files; out_fd is
 * empty and written from offset 0; runs of zeros become holes): an ELF file as
 * it is, a bzImage's payload unpacked (gzip, xz, zstd, lz4, bzip2, lzma, or not
 * compressed).  What follows the ELF image in the payload, the relocation
 * table, is kept: wslx_boot_load uses it.
 *   -ENOEXEC  neither bzImage nor x86-64 ELF kernel
 *   -ENOTSUP  a bzImage whose payload has another format: it still boots as it is
 *   -EBADMSG  truncated or corrupt;  -EFBIG past WSLX_KERNEL_MAX;  -errno. */
WSLX_MUST_CHECK int wslx_kernel_unpack(int in_fd, int out_fd, struct wslx_err *err);

/* Could wslx_boot_load start a machine with this file?  0; -ENOEXEC and
 * -EBADMSG as above; -ENOTSUP: a bzImage without a 64-bit entry; -errno. */
WSLX_MUST_CHECK int wslx_kernel_check(int fd, struct wslx_err *err);

/* The release ("6.1.0-56-cloud-amd64"), from a bzImage's header or an ELF
 * kernel's "Linux version " banner, NUL-terminated and free of anything but
 * [A-Za-z0-9._+~-].  0, -ENODATA when there is none, -ENAMETOOLONG, -errno. */
WSLX_MUST_CHECK int wslx_kernel_version(int fd, char *buf, size_t size);
/* Can this be a release?  It becomes part of paths and of a program's arguments,
 * and is shown: a digit, then as above. */
bool wslx_kernel_version_ok(const char *version);

#endif
