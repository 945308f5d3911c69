#include "os/linux/statefile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"

static void tell(const struct wslx_statefile_recorder *rec, const struct wslx_statefile_op *op)
{
	if (rec && rec->record)
		rec->record(rec->opaque, op);
}

int wslx_statefile_temp_name(char *buf, size_t size)
{
	uint64_t rnd;
	int n;

	if (getrandom(&rnd, sizeof(rnd), 0) != (ssize_t)sizeof(rnd))
		return -EIO;
	n = snprintf(buf, size, WSLX_STATEFILE_TEMP "%016llx", (unsigned long long)rnd);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

int wslx_statefile_sync_dir(int dirfd, const struct wslx_statefile_recorder *rec)
{
	if (fsync(dirfd) < 0)
		return -errno;
	tell(rec, &(struct wslx_statefile_op) { .kind = WSLX_STATEFILE_SYNC_DIR, .dirfd = dirfd });
	return 0;
}

/* The temporary file with its contents on the disk. */
static int write_temp(int dirfd, const char *temp, const void *data, size_t len,
		      const struct wslx_statefile_recorder *rec)
{
	cleanup_close int fd = openat(dirfd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r;

	if (fd < 0)
		return -errno;
	tell(rec, &(struct wslx_statefile_op) { .kind = WSLX_STATEFILE_CREATE, .dirfd = dirfd, .name = temp });
	r = wslx_write_full(fd, data, len);
	if (r < 0)
		return r;
	tell(rec, &(struct wslx_statefile_op) {
			  .kind = WSLX_STATEFILE_WRITE, .dirfd = dirfd, .name = temp, .data = data, .len = len });
	if (fsync(fd) < 0)
		return -errno;
	tell(rec, &(struct wslx_statefile_op) { .kind = WSLX_STATEFILE_SYNC, .dirfd = dirfd, .name = temp });
	return 0;
}

static int rename_and_sync(int dirfd, const char *from, const char *to, unsigned flags,
			   const struct wslx_statefile_recorder *rec)
{
	if (renameat2(dirfd, from, dirfd, to, flags) < 0)
		return -errno;
	tell(rec, &(struct wslx_statefile_op) {
			  .kind = WSLX_STATEFILE_RENAME, .dirfd = dirfd, .name = from, .to_name = to });
	return wslx_statefile_sync_dir(dirfd, rec);
}

int wslx_statefile_write(int dirfd, const char *name, const void *data, size_t len,
			 const struct wslx_statefile_recorder *rec)
{
	char temp[32];
	int r = wslx_statefile_temp_name(temp, sizeof(temp));

	if (r < 0)
		return r;
	r = write_temp(dirfd, temp, data, len, rec);
	if (r == 0)
		r = rename_and_sync(dirfd, temp, name, 0, rec);
	if (r < 0 && unlinkat(dirfd, temp, 0) == 0)
		tell(rec, &(struct wslx_statefile_op) { .kind = WSLX_STATEFILE_UNLINK, .dirfd = dirfd, .name = temp });
	return r;
}

int wslx_statefile_publish(int dirfd, const char *temp, const char *name, const struct wslx_statefile_recorder *rec)
{
	return rename_and_sync(dirfd, temp, name, RENAME_NOREPLACE, rec);
}

int wslx_statefile_withdraw(int dirfd, const char *name, char *temp, size_t temp_size,
			    const struct wslx_statefile_recorder *rec)
{
	int r = wslx_statefile_temp_name(temp, temp_size);

	return r < 0 ? r : rename_and_sync(dirfd, name, temp, RENAME_NOREPLACE, rec);
}
