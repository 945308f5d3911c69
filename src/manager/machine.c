#include "manager/machine.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "manager/engine.h"
#include "manager/holder.h"
#include "manager/kernels.h"
#include "manager/lock.h"
#include "manager/portal.h"
#include "manager/spawn.h"
#include "os/linux/fd.h"
#include "os/linux/spawn.h"

#define POLL_MS 25
/* A lock that is held by something that has no socket: a start is prepared. */
#define SILENCE_MS 30000
/* It has one, and does not answer there. */
#define HANG_MS 8000
#define GRACE_MS 10000
/* With force: for one that does not answer at once, politeness has an end. */
#define FORCE_MS 2000
#define KILL_WAIT_MS 15000
#define BOOT_TIMEOUT_KVM_MS 60000
#define BOOT_TIMEOUT_TCG_MS 120000
#define PAUSE_MS 30000
#define PAUSE_LOCK "pause.lock"
#define LAST_WORDS 5u /* lines */
#define MODULES_SERIAL "wslx-modules"

char *wslx_machine_socket(struct wslx_manager *m, const char *name, const char *socket)
{
	return wslx_path("%s/%s/%s", m->paths.run, name, socket);
}

char *wslx_machine_state_dir(struct wslx_manager *m, const char *name)
{
	return wslx_path("%s/machines/%s", m->paths.state, name);
}

static int machine_lock_held(struct wslx_manager *m, const char *name)
{
	cleanup_free char *path = wslx_path("%s/lock", name);

	return path ? wslx_lock_held(m->run_fd, path) : -ENOMEM;
}

void wslx_machine_query(struct wslx_manager *m, const char *name, struct wslx_machine_info *ret)
{
	cleanup_free char *sock = wslx_machine_socket(m, name, WSLX_CONTROL_SOCKET);
	int r;

	*ret = (struct wslx_machine_info) { .state = WSLX_MACHINE_STOPPED };
	if (!sock || machine_lock_held(m, name) <= 0)
		return;
	r = wslx_control_info(sock, ret, NULL);
	if (r < 0)
		*ret = (struct wslx_machine_info) { .state = WSLX_MACHINE_STARTING, .silent = r == -ETIMEDOUT };
}

int wslx_machine_is_silent(const char *name, struct wslx_err *err)
{
	return wslx_err_set(err, EBUSY, "the machine '%s' does not answer; to stop it: wslx terminate --force %s", name,
			    name);
}

/* ---- Configuration of a machine ---- */

static int make_disks(const struct wslx_machine_spec *spec, const struct wslx_kernel_paths *k, struct wslx_vm_config *c)
{
	c->n_disks = k->modules ? 2 : 1;
	c->disks = calloc(c->n_disks, sizeof(*c->disks));
	if (!c->disks)
		return -ENOMEM;
	c->disks[0].path = strdup(spec->disk);
	c->disks[0].format = spec->base ? WSLX_DISK_OVERLAY : WSLX_DISK_RAW;
	c->disks[0].base = spec->base ? strdup(spec->base) : NULL;
	c->disks[0].no_sync = spec->throwaway;
	snprintf(c->disks[0].serial, sizeof(c->disks[0].serial), "d%s", spec->id);
	if (!c->disks[0].path || (spec->base && !c->disks[0].base))
		return -ENOMEM;
	c->modules_serial = strdup(k->modules ? MODULES_SERIAL : "");
	if (!c->modules_serial)
		return -ENOMEM;
	if (!k->modules)
		return 0;
	c->disks[1].path = strdup(k->modules);
	c->disks[1].readonly = true;
	c->disks[1].queues = 1;
	snprintf(c->disks[1].serial, sizeof(c->disks[1].serial), "%s", MODULES_SERIAL);
	return c->disks[1].path ? 0 : -ENOMEM;
}

static int make_distro(const struct wslx_machine_spec *spec, struct wslx_vm_config *c)
{
	char hostname[WSLX_HOSTNAME_MAX + 1];

	/* Its name may hold what a host name may not. */
	wslx_hostname_from(spec->distro, hostname);
	c->distros = calloc(1, sizeof(*c->distros));
	if (!c->distros)
		return -ENOMEM;
	c->n_distros = 1;
	c->distros[0].name = strdup(spec->distro);
	c->distros[0].fstype = strdup("ext4");
	c->distros[0].hostname = strdup(hostname);
	snprintf(c->distros[0].serial, sizeof(c->distros[0].serial), "d%s", spec->id);
	return c->distros[0].name && c->distros[0].fstype && c->distros[0].hostname ? 0 : -ENOMEM;
}

/* Locally administered; the rest from the id. */
static void make_mac(const char *id, char mac[18])
{
	snprintf(mac, 18, "02:%.2s:%.2s:%.2s:%.2s:%.2s", id, id + 2, id + 4, id + 6, id + 8);
}

static unsigned boot_timeout(enum wslx_engine engine)
{
	const char *env = getenv("WSLX_BOOT_TIMEOUT_MS");
	char *end;
	unsigned long v;

	if (env && isdigit((unsigned char)*env)) {
		v = strtoul(env, &end, 10);
		if (!*end && v >= 100 && v <= 3600000)
			return (unsigned)v;
	}
	return engine == WSLX_ENGINE_KVM ? BOOT_TIMEOUT_KVM_MS : BOOT_TIMEOUT_TCG_MS;
}

static int make_config(struct wslx_manager *m, const struct wslx_machine_spec *spec, enum wslx_engine engine,
		       const struct wslx_kernel_paths *k, struct wslx_vm_config *c)
{
	const struct wslx_settings *s = spec->settings;
	const char *cmdline = getenv("WSLX_CMDLINE");
	int r = make_disks(spec, k, c);

	if (r == 0)
		r = make_distro(spec, c);
	if (r < 0)
		return r;
	c->name = strdup(spec->name);
	c->engine = engine;
	c->cpus = s->cpus ? s->cpus : wslx_default_cpus();
	c->memory = wslx_settings_memory(s);
	c->shared_memory = engine == WSLX_ENGINE_TCG;
	c->runtime_dir = wslx_path("%s/%s", m->paths.run, spec->name);
	c->state_dir = wslx_machine_state_dir(m, spec->name);
	c->kernel = strdup(k->kernel);
	c->initramfs = strdup(k->initramfs);
	c->cmdline_extra = strdup(cmdline ? cmdline : "");
	c->boot_timeout_ms = boot_timeout(engine);
	c->net = s->net;
	make_mac(spec->id, c->net.mac);
	if (wslx_region_config(m, s, &c->portal) < 0)
		return -ENOMEM;
	if (!c->name || !c->runtime_dir || !c->state_dir || !c->kernel || !c->initramfs || !c->cmdline_extra)
		return -ENOMEM;
	return 0;
}

static int check_network(const struct wslx_settings *s, struct wslx_err *err)
{
	cleanup_free char *path = NULL;

	if (s->net.mode != WSLX_NET_PASST || wslx_find_program("passt", &path) == 0)
		return 0;
	return wslx_err_set(err, ENOENT,
			    "passt, which connects machines to the network, is not installed: sudo apt install passt, "
			    "or use --net none");
}

/* What is saved may be from a release that allowed more. */
static int check_memory(const struct wslx_machine_spec *spec, struct wslx_err *err)
{
	struct wslx_err why = { 0 };

	if (wslx_settings_check_fit(spec->settings, &why) == 0)
		return 0;
	if (spec->throwaway)
		return wslx_err_set(err, EINVAL, "%s", why.msg);
	return wslx_err_set(err, EINVAL, "%s; to change it: wslx config %s memory=SIZE", why.msg, spec->name);
}

/* ---- Starting ---- */

static int make_folders(struct wslx_manager *m, const char *name, struct wslx_err *err)
{
	if (mkdirat(m->run_fd, name, 0700) < 0 && errno != EEXIST)
		return wslx_err_sys(err, errno, "cannot make %s/%s", m->paths.run, name);
	if (mkdirat(m->machines_fd, name, 0700) < 0 && errno != EEXIST)
		return wslx_err_sys(err, errno, "cannot make %s/machines/%s", m->paths.state, name);
	return 0;
}

static int try_machine_lock(struct wslx_manager *m, const char *name)
{
	cleanup_close int dir = openat(m->run_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	return dir < 0 ? -errno : wslx_lock_take(dir, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, false);
}

int wslx_machine_keep_out(struct wslx_manager *m, const char *name)
{
	int lock;

	if (mkdirat(m->run_fd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	lock = try_machine_lock(m, name);
	return lock == -EAGAIN ? -EBUSY : lock;
}

/* A start as its caller hears of it.  Of what the console said of a failure a
 * handful of lines are told, its log has the rest; a panic's reason comes before
 * its trace. */
struct hearing {
	const struct wslx_start_hooks *h; /* the caller's; may be NULL */
	char *lines[LAST_WORDS];
	size_t n; /* up to the panic */
	bool panicked;
};

static void pass_progress(void *opaque, const char *what)
{
	const struct hearing *x = opaque;

	if (x->h && x->h->progress)
		x->h->progress(x->h->opaque, what);
}

static void pass_warning(void *opaque, const char *text)
{
	const struct hearing *x = opaque;

	if (x->h && x->h->warning)
		x->h->warning(x->h->opaque, text);
}

static void hear_console(void *opaque, const char *line)
{
	struct hearing *x = opaque;

	log_info("console: %s", line);
	if (x->panicked)
		return;
	free(x->lines[x->n % LAST_WORDS]);
	x->lines[x->n++ % LAST_WORDS] = strdup(line);
	x->panicked = strstr(line, "Kernel panic - not syncing");
}

static void tell_last_words(struct hearing *x)
{
	for (size_t i = x->n > LAST_WORDS ? x->n - LAST_WORDS : 0; i < x->n; i++)
		if (x->h && x->h->console && x->lines[i % LAST_WORDS])
			x->h->console(x->h->opaque, x->lines[i % LAST_WORDS]);
	for (size_t i = 0; i < LAST_WORDS; i++)
		free(x->lines[i]);
}

/* The supervisor sends the console only where the guest failed, not the host. */
static int spawn(const struct wslx_machine_spec *spec, const struct wslx_vm_config *c, int lock,
		 const struct wslx_start_hooks *h, struct wslx_err *err)
{
	struct hearing x = { .h = h };
	const struct wslx_start_hooks hooks = {
		.progress = pass_progress,
		.warning = pass_warning,
		.console = hear_console,
		.opaque = &x,
		.cancel_fd = h ? h->cancel_fd : -1,
	};
	struct wslx_err why = { 0 };
	int r = wslx_vmm_spawn(c, lock, &hooks, &why);

	if (r < 0 && !x.n)
		wslx_err_set(err, -r, "%s", why.msg);
	else if (r < 0 && spec->throwaway) /* its log goes with it */
		wslx_err_set(err, -r, "the machine did not start: %s%s", why.msg,
			     x.n > LAST_WORDS ? "; more of its console: set WSLX_LOG=info" : "");
	else if (r < 0)
		wslx_err_set(err, -r, "the machine did not start: %s; its console: wslx logs %s", why.msg, spec->name);
	tell_last_words(&x);
	return r;
}

/* With the machine's lock held: everything that can be found out before is
 * found out here, where the message can still be a good one. */
static int start_locked(struct wslx_manager *m, const struct wslx_machine_spec *spec, int lock,
			const struct wslx_start_hooks *h, struct wslx_err *err)
{
	struct wslx_vm_config *c = calloc(1, sizeof(*c));
	struct wslx_kernel_paths kernel = { 0 };
	enum wslx_engine engine = WSLX_ENGINE_AUTO;
	int r = c ? check_memory(spec, err) : wslx_err_sys(err, ENOMEM, "cannot start the machine");

	if (r == 0)
		r = check_network(spec->settings, err);
	if (r == 0)
		r = wslx_engine_choose(m, spec->settings->engine, &engine, err);
	if (r == 0)
		r = wslx_kernel_prepare(m, spec->settings->kernel, &kernel, err);
	if (r == 0 && access(spec->disk, R_OK | W_OK) < 0)
		r = wslx_err_sys(err, errno, "cannot use the disk %s", spec->disk);
	if (r == 0) {
		r = make_config(m, spec, engine, &kernel, c);
		if (r < 0)
			wslx_err_sys(err, -r, "cannot start the machine");
	}
	if (r == 0)
		r = spawn(spec, c, lock, h, err);
	wslx_kernel_paths_free(&kernel);
	wslx_vm_config_free(c);
	return r;
}

int wslx_machine_start_spec(struct wslx_manager *m, const struct wslx_machine_spec *spec,
			    const struct wslx_start_hooks *h, struct wslx_err *err)
{
	cleanup_close int lock = -1;
	int r = make_folders(m, spec->name, err);

	if (r < 0)
		return r;
	lock = try_machine_lock(m, spec->name);
	if (lock == -EAGAIN)
		return wslx_err_set(err, EBUSY, "the machine '%s' runs already", spec->name);
	if (lock < 0)
		return wslx_err_sys(err, -lock, "cannot lock the machine '%s'", spec->name);
	return start_locked(m, spec, lock, h, err);
}

/* ---- Pausing ---- */

static int pause_lock(struct wslx_manager *m, const char *name, bool wait)
{
	cleanup_free char *path = wslx_path("%s/%s", name, PAUSE_LOCK);

	return path ? wslx_lock_take(m->run_fd, path, WSLX_LOCK_EXCLUSIVE, wait) : -ENOMEM;
}

static int simple_call(struct wslx_manager *m, const char *name, const char *method, struct wslx_err *err)
{
	cleanup_free char *sock = wslx_machine_socket(m, name, WSLX_CONTROL_SOCKET);

	return sock ? wslx_control_call(sock, method, NULL, PAUSE_MS, NULL, err)
		    : wslx_err_sys(err, ENOMEM, "cannot ask '%s'", name);
}

int wslx_machine_pause(struct wslx_manager *m, const char *name, struct wslx_err *err)
{
	cleanup_close int lock = pause_lock(m, name, true);
	int r;

	if (lock < 0)
		return wslx_err_sys(err, -lock, "cannot lock the machine '%s'", name);
	r = simple_call(m, name, "Pause", err);
	return r < 0 ? r : TAKE_FD(lock);
}

int wslx_machine_resume(struct wslx_manager *m, const char *name, struct wslx_err *err)
{
	return simple_call(m, name, "Resume", err);
}

/* Paused, and whoever did that may be dead. */
static void resume_orphan(struct wslx_manager *m, const char *name)
{
	cleanup_close int lock = pause_lock(m, name, false);
	int r = lock < 0 ? lock : wslx_machine_resume(m, name, NULL);

	if (r < 0)
		log_debug("%s is paused: %s", name, strerror(-r));
}

/* Someone else holds the machine's lock.  1: it is up; 0: look again. */
static int wait_a_moment(struct wslx_manager *m, const char *name, int64_t *silent_since,
			 const struct wslx_start_hooks *h, struct wslx_err *err)
{
	cleanup_free char *sock = wslx_machine_socket(m, name, WSLX_CONTROL_SOCKET);
	struct pollfd p = { .fd = h ? h->cancel_fd : -1, .events = POLLIN };
	struct wslx_machine_info info;
	int r;

	if (!sock)
		return wslx_err_sys(err, ENOMEM, "cannot start the machine");
	r = wslx_control_info(sock, &info, NULL);
	if (r == 0) {
		if (info.state == WSLX_MACHINE_RUNNING && info.host_disk_full && h && h->warning)
			h->warning(h->opaque, "the host's disk is full: the machine waits until there is room");
		if (info.state == WSLX_MACHINE_RUNNING)
			return 1;
		if (info.state == WSLX_MACHINE_PAUSED)
			resume_orphan(m, name);
		*silent_since = wslx_now_ms();
	} else if (wslx_now_ms() - *silent_since > (r == -ETIMEDOUT ? HANG_MS : SILENCE_MS)) {
		return wslx_machine_is_silent(name, err);
	}
	if (poll(&p, 1, POLL_MS) > 0)
		return wslx_err_set(err, ECANCELED, "interrupted while the machine starts");
	return 0;
}

/* Its lock is held.  The caller's settings are older than that: what was changed while the machine before came to its
 * end, a grant taken back above all, counts.  Of what was taken back until now nothing is left to be told. */
static int start_as_of_now(struct wslx_manager *m, const struct wslx_machine_spec *spec, int lock,
			   const struct wslx_start_hooks *h, struct wslx_err *err)
{
	struct wslx_distro *now = malloc(sizeof(*now));
	struct wslx_machine_spec anew = *spec;
	int r;

	if (!now)
		return wslx_err_sys(err, ENOMEM, "cannot start the machine");
	wslx_region_forget_revoked(m, spec->name);
	r = wslx_distro_find(m, spec->distro, now, err);
	anew.settings = &now->settings;
	if (r == 0)
		r = start_locked(m, &anew, lock, h, err);
	free(now);
	return r;
}

static int start_or_find(struct wslx_manager *m, const struct wslx_machine_spec *spec, const struct wslx_start_hooks *h,
			 struct wslx_err *err)
{
	int64_t silent_since = wslx_now_ms();
	int r = make_folders(m, spec->name, err);

	while (r == 0) {
		cleanup_close int lock = try_machine_lock(m, spec->name);

		if (lock >= 0)
			return start_as_of_now(m, spec, lock, h, err);
		if (lock != -EAGAIN)
			return wslx_err_sys(err, -lock, "cannot lock the machine '%s'", spec->name);
		r = wait_a_moment(m, spec->name, &silent_since, h, err);
	}
	return r < 0 ? r : 0;
}

int wslx_machine_settle(struct wslx_manager *m, const char *name, const struct wslx_start_hooks *h,
			struct wslx_err *err)
{
	int64_t silent_since = wslx_now_ms();
	struct wslx_machine_info info;
	int r = 0;

	while (r == 0) {
		wslx_machine_query(m, name, &info);
		if (info.state == WSLX_MACHINE_STOPPED)
			return 0;
		r = wait_a_moment(m, name, &silent_since, h, err);
	}
	return r;
}

int wslx_machine_start(struct wslx_manager *m, const struct wslx_distro *d, const struct wslx_start_hooks *h,
		       struct wslx_err *err)
{
	struct wslx_machine_spec spec = { .name = d->name, .distro = d->name, .id = d->id };
	cleanup_close int dir = wslx_store_open(m, WSLX_STORE_DISTROS, d->name), lock = -1;
	cleanup_free char *disk = wslx_path("%s/distros/%s/%s", m->paths.data, d->name, WSLX_DISK_FILE);

	/* Shared, while the start is prepared: it cannot be removed meanwhile. */
	lock = dir < 0 ? dir : wslx_lock_take(dir, WSLX_LOCK_FILE, WSLX_LOCK_SHARED, false);
	if (lock == -EAGAIN || lock == -ENOENT)
		return wslx_err_set(err, EBUSY, "the distribution '%s' is being removed", d->name);
	if (lock < 0 || !disk)
		return wslx_err_sys(err, lock < 0 ? -lock : ENOMEM, "cannot use the distribution '%s'", d->name);
	spec.disk = disk;
	return start_or_find(m, &spec, h, err);
}

/* ---- Stopping ---- */

/* 0: its lock is free; -ETIMEDOUT. */
static int wait_free(struct wslx_manager *m, const char *name, int64_t ms)
{
	int64_t deadline = wslx_now_ms() + ms;

	for (;;) {
		struct timespec ts = { .tv_nsec = POLL_MS * 1000000L / 2 };
		int held = machine_lock_held(m, name);

		if (held <= 0)
			return held;
		if (wslx_now_ms() >= deadline)
			return -ETIMEDOUT;
		nanosleep(&ts, NULL);
	}
}

pid_t wslx_machine_supervisor(struct wslx_manager *m, const char *name)
{
	cleanup_free char *lock = wslx_path("%s/%s", name, WSLX_LOCK_FILE), *title = wslx_path("wslx-vmm [%s]", name);

	return lock && title ? wslx_holder_pid(m->run_fd, lock, title) : 0;
}

static int kill_supervisor(struct wslx_manager *m, const char *name)
{
	cleanup_free char *lock = wslx_path("%s/%s", name, WSLX_LOCK_FILE), *title = wslx_path("wslx-vmm [%s]", name);

	return lock && title ? wslx_kill_holder(m->run_fd, lock, title, KILL_WAIT_MS) : -ENOMEM;
}

static int ask_to_end(const char *sock, bool force, struct wslx_err *err)
{
	json_t *params = json_pack("{s:b, s:i}", "force", (int)force, "timeout_ms", GRACE_MS);

	return wslx_control_call(sock, "Terminate", params, force ? FORCE_MS : GRACE_MS, NULL, err);
}

void wslx_machine_stop_begin(struct wslx_manager *m, const char *name, bool force)
{
	cleanup_free char *sock = wslx_machine_socket(m, name, WSLX_CONTROL_SOCKET);
	int r = sock ? ask_to_end(sock, force, NULL) : -ENOMEM;

	if (r < 0)
		log_debug("%s: %s", name, strerror(-r));
}

static int terminate(struct wslx_manager *m, const char *name, const char *sock, bool force, struct wslx_err *err)
{
	int r = ask_to_end(sock, force, err);

	if (r < 0)
		return r;
	return wait_free(m, name, force ? KILL_WAIT_MS : GRACE_MS + KILL_WAIT_MS);
}

int wslx_machine_stop(struct wslx_manager *m, const char *name, bool force, struct wslx_err *err)
{
	cleanup_free char *sock = wslx_machine_socket(m, name, WSLX_CONTROL_SOCKET);
	int64_t deadline = wslx_now_ms() + GRACE_MS;
	int r = -ETIMEDOUT;

	if (!sock)
		return wslx_err_sys(err, ENOMEM, "cannot stop '%s'", name);
	/* A supervisor that has its lock but no socket yet will have one soon. */
	while (machine_lock_held(m, name) > 0) {
		struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };

		r = terminate(m, name, sock, force, err);
		if (r == 0 || r == -ETIMEDOUT || wslx_now_ms() >= deadline)
			break;
		nanosleep(&ts, NULL);
	}
	if (machine_lock_held(m, name) <= 0)
		return 0;
	r = kill_supervisor(m, name);
	/* -ESRCH: it has ended by itself meanwhile. */
	if ((r == 0 || r == -ESRCH) && wait_free(m, name, KILL_WAIT_MS) == 0)
		return 0;
	return wslx_err_set(err, EBUSY, "the machine '%s' does not stop", name);
}

int wslx_machine_forget(struct wslx_manager *m, const char *name)
{
	cleanup_close int lock = try_machine_lock(m, name);

	if (lock == -EAGAIN)
		return -EBUSY;
	if (lock < 0 && lock != -ENOENT)
		return lock;
	wslx_remove_tree(m->run_fd, name);
	wslx_remove_tree(m->machines_fd, name);
	return 0;
}
