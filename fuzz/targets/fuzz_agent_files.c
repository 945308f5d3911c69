/* A distro's own files as the agent reads them, wsl.conf, passwd, group, and as it replaces them, /etc/hosts. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/etc.h"
#include "agent/user.h"

static char dir[] = "/dev/shm/wslx-fuzz-XXXXXX", hosts[64], other[64];

static void clean_up(void)
{
	unlink(hosts);
	rmdir(hosts);
	unlink(other);
	rmdir(dir);
}

/* Whatever is at the path, afterwards the content is there, and not where a link led. */
static void replace(const char *hostname, uint8_t before)
{
	char content[512], have[512], link[64];
	struct stat st;
	int fd;

	if (!hosts[0]) {
		if (!mkdtemp(dir))
			abort();
		snprintf(hosts, sizeof(hosts), "%s/hosts", dir);
		snprintf(other, sizeof(other), "%s/other", dir);
		atexit(clean_up);
	}
	unlink(hosts);
	rmdir(hosts);
	if ((before & 3) == 1 && symlink(before & 4 ? other : "hosts", hosts) < 0)
		abort();
	if ((before & 3) == 2 && mkdir(hosts, 0700) < 0)
		abort();
	etc_hosts(hostname, content, before & 8 ? 16 : sizeof(content));
	for (int i = 0; i < 2; i++) /* the second time nothing is to be done */
		if (etc_replace_file(hosts, content) < 0 && (before & 3) != 2)
			abort();
	if ((before & 3) != 2) {
		fd = open(hosts, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 || read(fd, have, sizeof(have)) != (ssize_t)strlen(content) ||
		    memcmp(have, content, strlen(content)) != 0)
			abort();
		close(fd);
	}
	if (lstat(other, &st) == 0)
		abort();
	if (etc_replace_link(hosts, "target") == 0 &&
	    (etc_replace_link(hosts, "target") < 0 || readlink(hosts, link, sizeof(link)) != 6))
		abort();
}

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
	replace(conf.hostname, data[0]);
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
