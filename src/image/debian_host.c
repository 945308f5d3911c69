/* What the host's own apt says about where Debian comes from. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "image/debian_internal.h"
#include "image/proc.h"
#include "os/linux/fd.h"

/* The value of KEY in os-release(5) text, quotes off. */
static bool os_release(const char *text, const char *key, char *buf, size_t size)
{
	size_t k = strlen(key);

	for (const char *p = text; p && *p;) {
		const char *nl = strchr(p, '\n');

		if (strncmp(p, key, k) == 0 && p[k] == '=') {
			const char *v = p + k + 1;
			size_t n = nl ? (size_t)(nl - v) : strlen(v);

			if (n >= 2 && (*v == '"' || *v == '\'')) {
				v++;
				n -= 2;
			}
			if (n >= size)
				return false;
			memcpy(buf, v, n);
			buf[n] = 0;
			return true;
		}
		p = nl ? nl + 1 : NULL;
	}
	return false;
}

void wslx_debian_suite(char *buf, size_t size)
{
	cleanup_free char *text = NULL;
	char id[64];
	size_t len;

	if (wslx_read_file(-1, "/etc/os-release", 65536, &text, &len) == 0 && os_release(text, "ID", id, sizeof(id)) &&
	    strcmp(id, "debian") == 0 && os_release(text, "VERSION_CODENAME", buf, size) && wslx_debian_name_ok(buf))
		return;
	snprintf(buf, size, "bookworm");
}

bool wslx_debian_name_ok(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-");

	return n && s[n] == 0 && s[0] != '-' && n < 128;
}

/* Is this archive, by its own word or its address, Debian's? */
static bool is_debian(const char *uri, const char *origin)
{
	/* Without package lists apt does not know the origin and repeats the request. */
	if (*origin && *origin != '$')
		return strcmp(origin, "Debian") == 0;
	return strstr(uri, "/debian/") || strstr(uri, "/debian-security/");
}

/* Only reachable from here: the guest could not use it. */
static bool is_local(const char *uri)
{
	return strncmp(uri, "http://localhost", 16) == 0 || strncmp(uri, "http://127.", 11) == 0 ||
	       strncmp(uri, "file:", 5) == 0 || strncmp(uri, "copy:", 5) == 0 || strncmp(uri, "cdrom:", 6) == 0;
}

int wslx_debian_sources(const char *suite, const struct wslx_task *task, char *ret[WSLX_DEBIAN_SOURCES], size_t *ret_n)
{
	const char *argv[] = { "apt-get",
			       "indextargets",
			       "--format",
			       "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)",
			       "Created-By: Packages",
			       "Architecture: amd64",
			       NULL };
	struct wslx_proc_params run = { .argv = argv, .package = "apt", .keep_fd = -1, .dir_fd = -1, .stdout_fd = -1 };
	cleanup_free char *out = NULL;
	size_t n = 0, len = strlen(suite);
	bool main_found = false;
	int r = wslx_proc_run(&run, task, &out, NULL);

	*ret_n = 0;
	if (r < 0)
		return r;
	for (char *save, *line = strtok_r(out, "\n", &save); line && n < WSLX_DEBIAN_SOURCES;
	     line = strtok_r(NULL, "\n", &save)) {
		char uri[512], release[128], component[64], origin[64] = "", source[800];

		if (sscanf(line, "%511s %127s %63s %63s", uri, release, component, origin) < 3 ||
		    strncmp(release, suite, len) != 0 || !is_debian(uri, origin) || is_local(uri) ||
		    (release[len] && strcmp(release + len, "-updates") != 0 && strcmp(release + len, "-security") != 0))
			continue;
		main_found |= !release[len] && strcmp(component, "main") == 0;
		snprintf(source, sizeof(source), "deb %s %s %s", uri, release, component);
		ret[n] = strdup(source);
		if (!ret[n])
			break;
		n++;
	}
	/* Half of Debian is none: let mmdebstrap use its own idea of it. */
	if (!main_found)
		while (n)
			free(ret[--n]);
	*ret_n = n;
	return 0;
}

int wslx_debian_proxy(const struct wslx_task *task, char *buf, size_t size)
{
	const char *argv[] = { "apt-config", "shell", "P", "Acquire::http::Proxy", NULL };
	struct wslx_proc_params run = { .argv = argv, .package = "apt", .keep_fd = -1, .dir_fd = -1, .stdout_fd = -1 };
	cleanup_free char *out = NULL;

	/* P='http://...' */
	if (wslx_proc_run(&run, task, &out, NULL) < 0 || strncmp(out, "P='", 3) != 0)
		return -ENOENT;
	size_t n = strcspn(out + 3, "'\n");

	if (!n || (size_t)snprintf(buf, size, "http_proxy=%.*s", (int)n, out + 3) >= size)
		return -ENOENT;
	return 0;
}
