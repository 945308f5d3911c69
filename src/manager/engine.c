#include "manager/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hv/hv.h"
#include "os/linux/fd.h"
#include "os/linux/spawn.h"

#define KVM_PATH "/dev/kvm"
#define QEMU "qemu-system-x86_64"
#define PROBE_FILE "kvm-probe"
#define BOOT_ID_LEN 36

static void boot_id(char ret[BOOT_ID_LEN + 1])
{
	cleanup_close int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	memset(ret, 0, BOOT_ID_LEN + 1);
	if (fd < 0 || wslx_read_full(fd, ret, BOOT_ID_LEN) < 0)
		ret[0] = '\0';
}

/* The probe costs milliseconds to tens of them, and its answer holds until the
 * host boots again or the device node is another one.  The file has one line:
 * boot id, device, inode, 0 or 1, nanoseconds. */
static bool cached_probe(struct wslx_manager *m, const struct stat *st, int *ret_usable, uint64_t *ret_ns)
{
	cleanup_free char *text = NULL;
	char now[BOOT_ID_LEN + 1], then[BOOT_ID_LEN + 1];
	uint64_t dev, ino, ns;
	unsigned usable;

	boot_id(now);
	if (!now[0] || wslx_read_file(m->run_fd, PROBE_FILE, 256, &text, NULL) < 0)
		return false;
	/* NOLINTNEXTLINE(cert-err34-c): a bounded file of ours; a number too large only misses the cache */
	if (sscanf(text, "%36s %" SCNu64 " %" SCNu64 " %u %" SCNu64, then, &dev, &ino, &usable, &ns) != 5)
		return false;
	if (strcmp(now, then) != 0 || dev != st->st_rdev || ino != st->st_ino || usable > 1)
		return false;
	*ret_usable = (int)usable;
	*ret_ns = ns;
	return true;
}

static void remember_probe(struct wslx_manager *m, const struct stat *st, int usable, uint64_t ns)
{
	char now[BOOT_ID_LEN + 1], line[160];
	int n;

	boot_id(now);
	n = snprintf(line, sizeof(line), "%s %" PRIu64 " %" PRIu64 " %d %" PRIu64 "\n", now, (uint64_t)st->st_rdev,
		     (uint64_t)st->st_ino, usable, ns);
	/* Not stored is probed again next time. */
	if (now[0] && n > 0 && wslx_statefile_write(m->run_fd, PROBE_FILE, line, (size_t)n, NULL) < 0)
		return;
}

static void say_not_permitted(struct wslx_engines *e, const struct stat *st)
{
	const struct group *gr = getgrgid(st->st_gid);

	if ((st->st_mode & 06) == 06)
		snprintf(e->kvm_reason, sizeof(e->kvm_reason),
			 "%s may not be opened here although its mode allows it; whoever set up the container or the "
			 "security policy around us has to permit it",
			 KVM_PATH);
	else if ((st->st_mode & 060) == 060 && gr)
		snprintf(e->kvm_reason, sizeof(e->kvm_reason),
			 "%s may not be opened by you; join its group: sudo adduser $USER %s, and log in again",
			 KVM_PATH, gr->gr_name);
	else
		snprintf(e->kvm_reason, sizeof(e->kvm_reason),
			 "%s may not be opened by you (mode %03o, group %s); root must change that", KVM_PATH,
			 (unsigned)st->st_mode & 0777, gr ? gr->gr_name : "unknown");
}

static void probe_open(struct wslx_manager *m, bool fresh, const struct stat *st, int fd, struct wslx_engines *e)
{
	int usable = 0;

	e->kvm_cached = !fresh && cached_probe(m, st, &usable, &e->kvm_probe_ns);
	if (!e->kvm_cached) {
		usable = wslx_hv_kvm_probe(fd, &e->kvm_probe_ns);
		if (usable >= 0)
			remember_probe(m, st, usable, e->kvm_probe_ns);
	}
	if (usable > 0) {
		e->kvm = WSLX_KVM_USABLE;
		snprintf(e->kvm_reason, sizeof(e->kvm_reason), "works (probe: %.3f ms)", (double)e->kvm_probe_ns / 1e6);
	} else if (usable == 0) {
		e->kvm = WSLX_KVM_SLOW;
		snprintf(e->kvm_reason, sizeof(e->kvm_reason),
			 "%s is software-backed, far too slow for a kernel (probe: %.1f ms instead of well under 1); "
			 "use --engine tcg, or turn on nested virtualization in the machine around this one",
			 KVM_PATH, (double)e->kvm_probe_ns / 1e6);
	} else {
		e->kvm = WSLX_KVM_BROKEN;
		e->kvm_errno = -usable;
		snprintf(e->kvm_reason, sizeof(e->kvm_reason), "%s opens, but a machine does not work: %s", KVM_PATH,
			 strerror(-usable));
	}
}

static void probe_kvm(struct wslx_manager *m, bool fresh, struct wslx_engines *e)
{
	cleanup_close int fd = -1;
	struct stat st;

	if (stat(KVM_PATH, &st) < 0) {
		e->kvm = WSLX_KVM_MISSING;
		e->kvm_errno = errno;
		snprintf(e->kvm_reason, sizeof(e->kvm_reason),
			 "%s is missing: turn on virtualization in the firmware, then modprobe kvm-intel or kvm-amd",
			 KVM_PATH);
		return;
	}
	fd = open(KVM_PATH, O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		probe_open(m, fresh, &st, fd, e);
	} else if (errno == EACCES || errno == EPERM) {
		e->kvm = WSLX_KVM_NOT_PERMITTED;
		e->kvm_errno = errno;
		say_not_permitted(e, &st);
	} else {
		e->kvm = errno == ENODEV || errno == ENXIO ? WSLX_KVM_MISSING : WSLX_KVM_BROKEN;
		e->kvm_errno = errno;
		snprintf(e->kvm_reason, sizeof(e->kvm_reason), "%s cannot be opened: %s", KVM_PATH, strerror(errno));
	}
}

void wslx_engines_probe(struct wslx_manager *m, bool fresh, struct wslx_engines *ret)
{
	*ret = (struct wslx_engines) { 0 };
	probe_kvm(m, fresh, ret);
	ret->tcg = wslx_find_program(QEMU, &ret->qemu) == 0;
	if (ret->tcg)
		snprintf(ret->tcg_reason, sizeof(ret->tcg_reason), "works (%s)", ret->qemu);
	else
		snprintf(ret->tcg_reason, sizeof(ret->tcg_reason),
			 "%s is not installed: sudo apt install qemu-system-x86", QEMU);
}

void wslx_engines_free(struct wslx_engines *e)
{
	free(e->qemu);
	e->qemu = NULL;
}

int wslx_engine_choose(struct wslx_manager *m, enum wslx_engine wanted, enum wslx_engine *ret, struct wslx_err *err)
{
	const char *env = getenv("WSLX_ENGINE");
	struct wslx_engines e;
	int r = 0;

	if (wanted == WSLX_ENGINE_AUTO && env && *env && wslx_engine_parse(env, &wanted) < 0)
		return wslx_err_set(err, EINVAL, "unknown engine '%s' in WSLX_ENGINE: auto, kvm or tcg", env);
	wslx_engines_probe(m, false, &e);
	if (wanted == WSLX_ENGINE_AUTO)
		wanted = e.kvm == WSLX_KVM_USABLE ? WSLX_ENGINE_KVM : e.tcg ? WSLX_ENGINE_TCG : WSLX_ENGINE_AUTO;
	if (wanted == WSLX_ENGINE_AUTO)
		r = wslx_err_set(err, ENODEV, "no engine works here. kvm: %s. tcg: %s", e.kvm_reason, e.tcg_reason);
	else if (wanted == WSLX_ENGINE_KVM && e.kvm != WSLX_KVM_USABLE)
		r = wslx_err_set(err, ENODEV, "the kvm engine does not work here: %s", e.kvm_reason);
	else if (wanted == WSLX_ENGINE_TCG && !e.tcg)
		r = wslx_err_set(err, ENOENT, "the tcg engine does not work here: %s", e.tcg_reason);
	wslx_engines_free(&e);
	if (r == 0)
		*ret = wanted;
	return r;
}
