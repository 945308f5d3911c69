#include "manager/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "manager/engine.h"
#include "manager/kernels.h"
#include "os/linux/fd.h"
#include "os/linux/spawn.h"

#define SPACE_LOW (2 * WSLX_GIB)
#define BROKEN_NAMED 8u
#define LANDLOCK_VERSION_QUERY 1u

static const char *const verdicts[] = { "ok", "warn", "fail" };

const char *wslx_verdict_name(enum wslx_verdict v)
{
	return verdicts[v];
}

static struct wslx_check *add(struct wslx_doctor *d, const char *area, const char *name, enum wslx_verdict v,
			      const char *fmt, ...) WSLX_PRINTF(5, 6);
static struct wslx_check *add(struct wslx_doctor *d, const char *area, const char *name, enum wslx_verdict v,
			      const char *fmt, ...)
{
	/* The last one is overwritten when there are too many: the table is sized for all. */
	struct wslx_check *c = &d->checks[d->n < WSLX_CHECKS_MAX ? d->n++ : WSLX_CHECKS_MAX - 1];
	va_list ap;

	*c = (struct wslx_check) { .area = area, .verdict = v };
	snprintf(c->name, sizeof(c->name), "%s", name);
	va_start(ap, fmt);
	vsnprintf(c->text, sizeof(c->text), fmt, ap);
	va_end(ap);
	return c;
}

static void mend(struct wslx_check *c, const char *text)
{
	snprintf(c->mend, sizeof(c->mend), "%s", text);
}

/* ---- Engines ---- */

static void check_engines(struct wslx_manager *m, bool fresh, struct wslx_doctor *d)
{
	struct wslx_engines e;
	bool kvm;

	wslx_engines_probe(m, fresh, &e);
	kvm = e.kvm == WSLX_KVM_USABLE;
	d->engine_works = kvm || e.tcg;
	d->engine = kvm ? "kvm" : e.tcg ? "tcg" : "none";
	add(d, "engine", "kvm",
	    kvm     ? WSLX_OK
	    : e.tcg ? WSLX_WARN
		    : WSLX_FAIL,
	    "%s%s", e.kvm_reason, e.kvm_cached ? " (known from an earlier probe)" : "");
	add(d, "engine", "tcg", e.tcg ? WSLX_OK : kvm ? WSLX_WARN : WSLX_FAIL, "%s", e.tcg_reason);
	if (d->engine_works)
		add(d, "engine", "auto", WSLX_OK, "picks %s%s", d->engine,
		    kvm ? "" : "; programs in a machine run some 20 times slower than on kvm");
	else
		mend(add(d, "engine", "auto", WSLX_FAIL, "no engine works"), "mend one of the two above");
	wslx_engines_free(&e);
}

/* ---- Kernels ---- */

static void check_kernels(struct wslx_manager *m, struct wslx_doctor *d)
{
	char chosen[WSLX_NAME_MAX + 1], **names = NULL;
	struct wslx_kernel_info info;
	struct wslx_err err = { 0 };
	struct wslx_check *c;
	size_t n = 0;

	if (wslx_store_names(m, WSLX_STORE_KERNELS, &names, &n, &err) < 0) {
		add(d, "kernel", "store", WSLX_FAIL, "%s", err.msg);
		return;
	}
	wslx_names_free(names, n);
	d->has_kernel = n;
	if (wslx_kernel_choose(m, NULL, chosen, &err) < 0) {
		add(d, "kernel", "default", WSLX_WARN, "%zu installed; %s", n, err.msg);
		return;
	}
	if (wslx_kernel_load(m, chosen, &info, &err) < 0 || wslx_kernel_examine(m, chosen, &info, &err) < 0) {
		c = add(d, "kernel", "default", WSLX_FAIL, "%s", err.msg);
		mend(c, "remove it and add it again: wslx kernel remove NAME, wslx install debian");
		return;
	}
	add(d, "kernel", "default", WSLX_OK, "%.60s (%s), %zu installed", chosen,
	    info.version[0] ? info.version : "release not known", n);
}

/* ---- Distributions ---- */

static void check_config(struct wslx_manager *m, struct wslx_doctor *d)
{
	char name[WSLX_NAME_MAX + 1];
	struct wslx_err err = { 0 };
	int r = wslx_distro_default(m, name, &err);

	if (r < 0 && r != -ENOENT)
		add(d, "distro", WSLX_CONFIG_JSON, WSLX_WARN, "%s", err.msg);
}

/* Those that cannot be read; the others need no line. */
static void check_distros(struct wslx_manager *m, struct wslx_doctor *d)
{
	struct wslx_distro *one = malloc(sizeof(*one));
	struct wslx_err err = { 0 };
	char **names = NULL;
	size_t n = 0, broken = 0;

	if (one && wslx_store_names(m, WSLX_STORE_DISTROS, &names, &n, &err) < 0)
		add(d, "distro", "store", WSLX_FAIL, "%s", err.msg);
	for (size_t i = 0; one && i < n; i++)
		if (wslx_distro_find(m, names[i], one, &err) < 0 && broken++ < BROKEN_NAMED)
			mend(add(d, "distro", names[i], WSLX_WARN, "%s", err.msg),
			     "correct the file; or delete the distribution: wslx unregister NAME");
	if (broken > BROKEN_NAMED)
		add(d, "distro", "others", WSLX_WARN, "%zu more cannot be read", broken - BROKEN_NAMED);
	wslx_names_free(names, n);
	free(one);
}

static void check_own(struct wslx_doctor *d)
{
	static const char *const names[] = { "wslx-vmm", "wslx-portal", "wslx-agent" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		cleanup_free char *path = NULL;
		struct wslx_err err = { 0 };

		if (wslx_find_own(names[i], &path, &err) == 0)
			add(d, "program", names[i], WSLX_OK, "%s", path);
		else
			mend(add(d, "program", names[i], WSLX_FAIL, "%s", err.msg), "install or build wslx completely");
	}
}

/* ---- Packages ---- */

static void check_packages(struct wslx_doctor *d)
{
	static const struct {
		const char *program, *package, *use;
		enum wslx_verdict absent;
	} list[] = {
		{ "qemu-system-x86_64", "qemu-system-x86", "the tcg engine", WSLX_WARN },
		{ "passt", "passt", "the network of machines (else: --net none)", WSLX_WARN },
		{ "mmdebstrap", "mmdebstrap", "`wslx install debian`", WSLX_WARN },
		{ "mke2fs", "e2fsprogs", "importing", WSLX_FAIL },
		{ "dpkg-deb", "dpkg", "kernels from packages", WSLX_WARN },
		{ "newuidmap", "uidmap", "`wslx install debian` as an ordinary user", WSLX_WARN },
	};

	for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
		cleanup_free char *path = NULL, *sbin = wslx_path("/sbin/%s", list[i].program), *how = NULL;

		/* Programs for root are not in everybody's PATH, and found by their users all the same. */
		if (wslx_find_program(list[i].program, &path) == 0 || (sbin && access(sbin, X_OK) == 0)) {
			add(d, "package", list[i].package, WSLX_OK, "%s", path ? path : sbin);
			continue;
		}
		how = wslx_path("sudo apt install %s", list[i].package);
		mend(add(d, "package", list[i].package, list[i].absent, "%s is missing: needed for %s", list[i].program,
			 list[i].use),
		     how ? how : "");
	}
}

/* ---- The host's kernel ---- */

static void check_landlock(struct wslx_doctor *d)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION_QUERY);

	if (abi > 0)
		add(d, "host", "landlock", WSLX_OK, "ABI %ld", abi);
	else
		mend(add(d, "host", "landlock", WSLX_WARN, "not available: confined processes have seccomp only"),
		     "boot with lsm=landlock,... on the host's command line");
}

static void check_seccomp(struct wslx_doctor *d)
{
	uint32_t action = SECCOMP_RET_KILL_PROCESS;

	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
		add(d, "host", "seccomp", WSLX_OK, "filters available");
	else
		mend(add(d, "host", "seccomp", WSLX_FAIL, "not available: %s", strerror(errno)),
		     "use a host kernel with CONFIG_SECCOMP_FILTER");
}

static void check_io_uring(struct wslx_doctor *d)
{
	struct io_uring ring;
	int r = io_uring_queue_init(2, &ring, 0);

	if (r == 0) {
		io_uring_queue_exit(&ring);
		add(d, "host", "io_uring", WSLX_OK, "available");
	} else {
		add(d, "host", "io_uring", WSLX_WARN, "not available (%s): disks use a thread pool instead",
		    strerror(-r));
	}
}

static void check_device(struct wslx_doctor *d, const char *path, const char *name, const char *use)
{
	struct stat st;

	if (stat(path, &st) < 0)
		add(d, "host", name, WSLX_OK, "%s is missing; only %s would need it", path, use);
	else if (access(path, R_OK | W_OK) < 0)
		add(d, "host", name, WSLX_OK, "%s may not be opened by you; only %s would need it", path, use);
	else
		add(d, "host", name, WSLX_OK, "%s can be opened", path);
}

static void check_host(struct wslx_doctor *d)
{
	struct utsname u;

	if (uname(&u) == 0)
		add(d, "host", "kernel", WSLX_OK, "%s %s", u.sysname, u.release);
	check_landlock(d);
	check_seccomp(d);
	check_io_uring(d);
	check_device(d, "/dev/net/tun", "tun", "--net tap:NAME");
}

/* ---- Folders ---- */

static void check_folder(struct wslx_doctor *d, const char *name, const char *path)
{
	struct statvfs fs;
	struct wslx_check *c;
	uint64_t space;

	if (access(path, W_OK) < 0 || statvfs(path, &fs) < 0) {
		mend(add(d, "folder", name, WSLX_FAIL, "%s: %s", path, strerror(errno)),
		     "make it writable, or set WSLX_HOME to another place");
		return;
	}
	space = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (!strcmp(name, "run")) {
		add(d, "folder", name, WSLX_OK, "%s", path);
		return;
	}
	c = add(d, "folder", name, space < SPACE_LOW ? WSLX_WARN : WSLX_OK, "%s: %.1f GiB free", path,
		(double)space / (double)WSLX_GIB);
	if (space < SPACE_LOW)
		mend(c, "free some space: machines stop when the host's disk is full");
}

/* ordinary users make Debian's root file system in a user namespace. */
static bool has_range(const char *file, const char *user, unsigned uid)
{
	cleanup_fclose FILE *f = fopen(file, "re");
	char line[256], id[16];

	snprintf(id, sizeof(id), "%u", uid);
	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, ":")] = '\0';
		if ((user && !strcmp(line, user)) || !strcmp(line, id))
			return true;
	}
	return false;
}

static void check_user(struct wslx_doctor *d)
{
	unsigned uid = (unsigned)geteuid();
	const char *user = getenv("USER");

	if (uid == 0)
		add(d, "user", "ids", WSLX_OK, "root: needs no subordinate ids");
	else if (has_range("/etc/subuid", user, uid) && has_range("/etc/subgid", user, uid))
		add(d, "user", "ids", WSLX_OK, "subordinate user and group ids are there");
	else
		mend(add(d, "user", "ids", WSLX_WARN,
			 "no subordinate ids: `wslx install debian` cannot make a root file system"),
		     "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER");
}

void wslx_doctor_examine(struct wslx_manager *m, bool fresh, struct wslx_doctor *ret)
{
	*ret = (struct wslx_doctor) { 0 };
	check_engines(m, fresh, ret);
	check_kernels(m, ret);
	check_config(m, ret);
	check_distros(m, ret);
	check_own(ret);
	check_packages(ret);
	check_host(ret);
	check_user(ret);
	check_folder(ret, "data", m->paths.data);
	check_folder(ret, "state", m->paths.state);
	check_folder(ret, "run", m->paths.run);
}
