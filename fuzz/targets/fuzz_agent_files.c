/* A distro's own files as the agent reads them: wsl.conf, passwd, group. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/user.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct wslx_user user;
	struct wslx_wslconf conf;
	char path[64];
	uint8_t *copy;
	int fd;

	if (size < 1 || size > 65536)
		return 0;
	/* Exactly as long as the input, so that reading beyond it shows. */
	copy = malloc(size);
	if (!copy)
		abort();
	memcpy(copy, data, size);
	wslx_wslconf_parse((char *)copy, size, &conf);
	if (strlen(conf.hostname) >= sizeof(conf.hostname) || strlen(conf.user) >= sizeof(conf.user))
		abort();
	free(copy);
	fd = memfd_create("db", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (wslx_user_find("tester", path, path, &user) == 0 && user.n_groups > WSLX_USER_GROUPS_MAX)
		abort();
	if (wslx_user_find("1000", path, path, &user) == 0 && user.uid == (uid_t)-1)
		abort();
	close(fd);
	return 0;
}
