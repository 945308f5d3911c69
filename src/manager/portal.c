#include "manager/portal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop.h"
#include "manager/control.h"
#include "manager/holder.h"
#include "manager/lock.h"
#include "manager/machine.h"
#include "manager/spawn.h"

#define POLL_MS 12
#define ASK_MS 10000
#define END_MS 10000
#define REVOKE_MS 10000
#define LEAVE_MS 3000
#define CLEAR_MS 300000
#define SYNC_MS 10000

static const char *const endings[] = { ".sock", ".ctl", ".lock" };

static char *region_path(struct wslx_manager *m, const char *name, const char *ending)
{
	return wslx_path("%s/" WSLX_REGION_DIR "/%s%s", m->paths.shared, name, ending);
}

/* The folder of all regions. */
static int open_folder(struct wslx_manager *m, struct wslx_err *err)
{
	cleanup_free char *path = wslx_path("%s/" WSLX_REGION_DIR, m->paths.shared);
	int fd;

	if (!path)
		return wslx_err_sys(err, ENOMEM, "cannot look at regions");
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return wslx_err_sys(err, errno, "cannot make %s", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? wslx_err_sys(err, errno, "cannot open %s/" WSLX_REGION_DIR, m->paths.shared) : fd;
}

static int lock_held(int dir, const char *name)
{
	cleanup_free char *lock = wslx_path("%s.lock", name);

	return lock ? wslx_lock_held(dir, lock) : -ENOMEM;
}

/* With the region's lock in hand: its lock's file last. */
static void remove_files(int dir, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
		cleanup_free char *file = wslx_path("%s%s", name, endings[i]);

		if (file)
			unlinkat(dir, file, 0);
	}
}

/* What a broker that was killed left behind.  Under the registry lock. */
static void sweep_region(int dir, const char *name)
{
	cleanup_free char *file = wslx_path("%s.lock", name);
	cleanup_close int lock = file ? wslx_lock_take(dir, file, WSLX_LOCK_EXCLUSIVE, false) : -1;

	if (lock >= 0)
		remove_files(dir, name);
}

/* ---- creating ------------------------------------------------------------------ */

static int start_broker(struct wslx_manager *m, const char *name, uint64_t size, int lock, struct wslx_err *err)
{
	cleanup_free char *title = wslx_path("wslx-portal [%s]", name), *arg_name = wslx_path("--name=%s", name);
	cleanup_free char *folder = wslx_path("--folder=%s/" WSLX_REGION_DIR, m->paths.shared);
	cleanup_free char *logs = wslx_path("%s/" WSLX_REGION_DIR, m->paths.state),
			  *log_name = wslx_path("%s.log", name);
	cleanup_free char *segments =
		wslx_path("--segments=%llu", (unsigned long long)((size + WSLX_SEGMENT_SIZE - 1) / WSLX_SEGMENT_SIZE));
	char *const argv[] = {
		title, folder, arg_name, "--ready=3", "--lock=4", "--log=5", size ? segments : NULL, NULL
	};
	struct wslx_helper p = { .program = "wslx-portal", .what = "the region", .argv = argv };
	struct wslx_start_hooks h = { .cancel_fd = -1 };
	cleanup_close int log = -1;

	if (!title || !arg_name || !folder || !logs || !log_name || !segments)
		return wslx_err_sys(err, ENOMEM, "cannot start");
	if (mkdir(logs, 0700) < 0 && errno != EEXIST)
		return wslx_err_sys(err, errno, "cannot make %s", logs);
	log = wslx_log_file(logs, log_name, err);
	if (log < 0)
		return log;
	p.fds[p.n_fds++] = WSLX_HELPER_READY;
	p.fds[p.n_fds++] = lock;
	p.fds[p.n_fds++] = log;
	return wslx_helper_start(&p, &h, err);
}

/* Under the registry lock, see portal.h. */
static int take_lock(struct wslx_manager *m, int dir, const char *name, struct wslx_err *err)
{
	cleanup_close int registry = wslx_registry_lock(m, err);
	cleanup_free char *file = wslx_path("%s.lock", name);
	int lock;

	if (registry < 0)
		return registry;
	lock = file ? wslx_lock_take(dir, file, WSLX_LOCK_EXCLUSIVE, false) : -ENOMEM;
	if (lock == -EAGAIN)
		return wslx_err_set(err, EEXIST, "there is a region '%s' already", name);
	return lock < 0 ? wslx_err_sys(err, -lock, "cannot lock the region '%s'", name) : lock;
}

static void sync_machines(struct wslx_manager *m, const char *region);

int wslx_region_create(struct wslx_manager *m, const char *name, uint64_t size, struct wslx_err *err)
{
	cleanup_close int dir = -1, lock = -1;
	int r = wslx_region_check_name(name, err);

	if (r < 0)
		return r;
	dir = open_folder(m, err);
	if (dir < 0)
		return dir;
	lock = take_lock(m, dir, name, err);
	if (lock < 0)
		return lock;
	r = start_broker(m, name, size, lock, err);
	if (r < 0) {
		remove_files(dir, name);
		return r;
	}
	sync_machines(m, name);
	return 0;
}

/* ---- finding -------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "NAME.lock": NAME; the caller frees. */
static char *name_of_lock(const char *file)
{
	size_t n = strlen(file);
	char *name = n > 5 && !strcmp(file + n - 5, ".lock") ? strndup(file, n - 5) : NULL;

	if (name && wslx_region_check_name(name, NULL) < 0) {
		free(name);
		name = NULL;
	}
	return name;
}

static int append(char ***names, size_t *n, char *name)
{
	char **more = reallocarray(*names, *n + 1, sizeof(**names));

	if (!more) {
		free(name);
		return -ENOMEM;
	}
	*names = more;
	more[(*n)++] = name;
	return 0;
}

int wslx_region_names(struct wslx_manager *m, char ***ret, size_t *ret_n, struct wslx_err *err)
{
	/* Someone else may be busy with it for long: then leftovers stay for now. */
	cleanup_close int registry = wslx_lock_take(m->data_fd, WSLX_LOCK_FILE, WSLX_LOCK_EXCLUSIVE, false);
	int dir = open_folder(m, err), r = 0;
	const struct dirent *d;
	char **names = NULL;
	size_t n = 0;
	DIR *list;

	if (dir < 0)
		return dir;
	list = fdopendir(dir);
	if (!list) {
		close(dir);
		return wslx_err_sys(err, ENOMEM, "cannot list regions");
	}
	while (r == 0 && (d = readdir(list))) {
		char *name = name_of_lock(d->d_name);

		if (!name)
			continue;
		if (lock_held(dirfd(list), name) > 0) {
			r = append(&names, &n, name);
			continue;
		}
		if (registry >= 0)
			sweep_region(dirfd(list), name);
		free(name);
	}
	closedir(list);
	if (r < 0) {
		wslx_names_free(names, n);
		return wslx_err_sys(err, -r, "cannot list regions");
	}
	if (n)
		qsort(names, n, sizeof(*names), compare_names);
	*ret = names;
	*ret_n = n;
	return 0;
}

static int no_such(const char *name, struct wslx_err *err)
{
	return wslx_err_set(err, ENOENT, "there is no region '%s'; make it: wslx portal create %s", name, name);
}

/* 0: it is there. */
static int check_there(struct wslx_manager *m, const char *name, struct wslx_err *err)
{
	cleanup_close int dir = -1;
	int r = wslx_region_check_name(name, err);

	if (r < 0)
		return r;
	dir = open_folder(m, err);
	if (dir < 0)
		return dir;
	return lock_held(dir, name) > 0 ? 0 : no_such(name, err);
}

int wslx_region_call(struct wslx_manager *m, const char *name, const char *method, json_t *params, unsigned timeout_ms,
		     json_t **ret, struct wslx_err *err)
{
	cleanup_free char *ctl = NULL;
	int r = check_there(m, name, err);

	if (r < 0) {
		json_decref(params);
		return r;
	}
	ctl = region_path(m, name, ".ctl");
	if (!ctl) {
		json_decref(params);
		return wslx_err_sys(err, ENOMEM, "cannot ask the region '%s'", name);
	}
	return wslx_control_call_region(ctl, method, params, timeout_ms, ret, err);
}

/* ---- removing --------------------------------------------------------------------- */

static int wait_free(int dir, const char *name)
{
	int64_t deadline = wslx_now_ms() + END_MS;

	while (lock_held(dir, name) > 0) {
		struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };

		if (wslx_now_ms() >= deadline)
			return -ETIMEDOUT;
		nanosleep(&ts, NULL);
	}
	return 0;
}

int wslx_region_remove(struct wslx_manager *m, const char *name, struct wslx_err *err)
{
	cleanup_free char *ctl = NULL, *title = wslx_path("wslx-portal [%s]", name);
	cleanup_close int dir = -1, registry = -1;
	int r = check_there(m, name, err);

	if (r < 0)
		return r;
	dir = open_folder(m, err);
	if (dir < 0)
		return dir;
	ctl = region_path(m, name, ".ctl");
	if (!ctl || !title)
		return wslx_err_sys(err, ENOMEM, "cannot remove the region '%s'", name);
	r = wslx_control_call_region(ctl, "Shutdown", NULL, ASK_MS, NULL, NULL);
	if (r == 0)
		r = wait_free(dir, name);
	/* It may have ended by itself meanwhile. */
	if (r < 0 && lock_held(dir, name) > 0) {
		r = wslx_kill_listener(ctl, title);
		if (r < 0 || wait_free(dir, name) < 0)
			return wslx_err_set(err, EBUSY, "the broker of the region '%s' does not end", name);
	}
	registry = wslx_registry_lock(m, err);
	if (registry < 0)
		return registry;
	sweep_region(dir, name);
	return 0;
}

/* ---- machines ----------------------------------------------------------------------- */

int wslx_region_config(struct wslx_manager *m, const struct wslx_settings *s, struct wslx_portal_config *ret)
{
	/* A window without grants is ready for those that come while the machine runs. */
	if (!s->n_grants && !s->portal_window)
		return 0;
	ret->window = s->portal_window ? s->portal_window : WSLX_WINDOW_SIZE_DEFAULT;
	for (size_t i = 0; i < s->n_grants; i++) {
		struct wslx_portal_grant *g = &ret->grants[i];

		strcpy(g->region, s->grants[i].region);
		strcpy(g->as, s->grants[i].as);
		g->segments = s->grants[i].segments;
		g->readonly = s->grants[i].readonly;
		g->socket = region_path(m, g->region, ".sock");
		if (!g->socket)
			return -ENOMEM;
		ret->n_grants++;
	}
	return 0;
}

/* What was taken back is said to a machine in its runtime folder, too: one that is starting, and so far only knows what
 * it was started with, finds it there before it joins. */
static int mark_revoked(struct wslx_manager *m, const char *distro, const char *region)
{
	cleanup_free char *dir = wslx_path("%s/" WSLX_REVOKED_DIR, distro), *file = wslx_path("%s/%s", dir, region);
	cleanup_close int fd = -1;

	if (!dir || !file)
		return -ENOMEM;
	if (mkdirat(m->run_fd, dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(m->run_fd, file, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : 0;
}

void wslx_region_forget_revoked(struct wslx_manager *m, const char *machine)
{
	cleanup_free char *dir = wslx_path("%s/" WSLX_REVOKED_DIR, machine);

	if (dir)
		wslx_remove_tree(m->run_fd, dir);
}

/* Is its machine there?  *ret_pid: its supervisor, 0: it does not say. */
static bool is_there(struct wslx_manager *m, const char *distro, pid_t *ret_pid)
{
	struct wslx_machine_info info;

	wslx_machine_query(m, distro, &info);
	*ret_pid = info.pid;
	return info.state != WSLX_MACHINE_STOPPED;
}

/* *ret: the reply, the caller's; ret may be NULL. */
static int sync_machine(struct wslx_manager *m, const char *distro, json_t *params, json_t **ret, struct wslx_err *err)
{
	cleanup_free char *sock = wslx_machine_socket(m, distro, WSLX_CONTROL_SOCKET);

	if (!sock) {
		json_decref(params);
		return wslx_err_sys(err, ENOMEM, "cannot ask '%s'", distro);
	}
	return wslx_control_call(sock, "PortalSync", params, SYNC_MS, ret, err);
}

/* A region is there that machines may be waiting for. */
static void sync_machines(struct wslx_manager *m, const char *region)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	char **names = NULL;
	size_t n = 0;
	pid_t pid;

	if (d && wslx_store_names(m, WSLX_STORE_DISTROS, &names, &n, NULL) == 0) {
		for (size_t i = 0; i < n; i++) {
			if (wslx_distro_find(m, names[i], d, NULL) < 0 ||
			    !wslx_grants_find(d->settings.grants, d->settings.n_grants, region) ||
			    !is_there(m, names[i], &pid))
				continue;
			if (sync_machine(m, names[i], NULL, NULL, NULL) < 0)
				log_debug("%s was not told of the region %s", names[i], region);
		}
	}
	wslx_names_free(names, n);
	free(d);
}

/* Changes a distro's settings: adds g, or takes the grant for region away.  d->name is as it is written, "" if there
 * is no such distro. */
static int store(struct wslx_manager *m, const char *distro, const struct wslx_grant *g, const char *region,
		 struct wslx_distro *d, struct wslx_err *err)
{
	cleanup_close int lock = wslx_registry_lock(m, err);
	struct wslx_settings *s = &d->settings;
	int r = lock < 0 ? lock : wslx_distro_find(m, distro, d, err);

	if (r < 0) {
		d->name[0] = '\0';
		return r;
	}
	if (g)
		r = wslx_grants_add(s->grants, &s->n_grants, s->portal_window, d->name, g, err);
	else if (wslx_grants_remove(s->grants, &s->n_grants, region) < 0)
		r = wslx_err_set(err, ENOENT, "'%s' has no grant for the region '%s'", d->name, region);
	return r < 0 ? r : wslx_distro_save(m, d, err);
}

int wslx_region_check_kept(struct wslx_manager *m, const char *distro, const struct wslx_grant *old, size_t n_old,
			   const struct wslx_settings *now, int *ret_lock, struct wslx_err *err)
{
	*ret_lock = -1;
	for (size_t i = 0; i < n_old; i++) {
		const struct wslx_grant *g = wslx_grants_find(now->grants, now->n_grants, old[i].region);

		if (g && (!g->readonly || old[i].readonly))
			continue;
		*ret_lock = wslx_machine_keep_out(m, distro);
		if (*ret_lock >= 0)
			return 0;
		if (*ret_lock != -EBUSY)
			return wslx_err_sys(err, -*ret_lock, "cannot lock the machine '%s'", distro);
		return wslx_err_set(err, EBUSY,
				    "'%s' is running and has the region '%s': change that with `wslx portal %s`, or "
				    "terminate it first",
				    distro, old[i].region, g ? "grant" : "revoke");
	}
	return 0;
}

/* ---- taking away ---------------------------------------------------------------------- */

int wslx_region_revoke_participant(struct wslx_manager *m, const char *region, unsigned participant, int64_t generation,
				   struct wslx_err *err)
{
	json_t *params = json_pack("{s:i, s:I}", "participant", (int)participant, "generation", (json_int_t)generation);

	return wslx_region_call(m, region, "Revoke", params, REVOKE_MS, NULL, err);
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* What a machine says of a region of its; NULL: nothing. */
static const json_t *grant_in(const json_t *reply, const char *region)
{
	const json_t *g;
	size_t i;

	json_array_foreach (json_object_get(reply, "grants"), i, g)
		if (!strcmp(text_of(g, "region"), region))
			return g;
	return NULL;
}

/* Revokes, if so, those that the machine is.  How many are left, revoked or not: each is
 * there until its supervisor has closed the connection, with nothing mapped. */
static int revoke_guests(struct wslx_manager *m, const char *region, pid_t pid, bool revoke, struct wslx_err *err)
{
	cleanup_json json_t *reply = NULL;
	const json_t *p;
	size_t i;
	int n = 0, r = wslx_region_call(m, region, "Participants", NULL, ASK_MS, &reply, err);

	json_array_foreach (json_object_get(reply, "participants"), i, p) {
		if (r < 0 || strcmp(text_of(p, "kind"), "guest") != 0 ||
		    json_integer_value(json_object_get(p, "pid")) != pid)
			continue;
		n++;
		if (!revoke || strcmp(text_of(p, "state"), "live") != 0)
			continue;
		r = wslx_region_revoke_participant(m, region, (unsigned)json_integer_value(json_object_get(p, "index")),
						   json_integer_value(json_object_get(p, "generation")), err);
		if (r == -ENOENT)
			r = 0; /* gone in the meantime */
	}
	return r < 0 ? r : n;
}

/* That it must not have it any more: first, so that it does not come back by itself.  Saying it again changes nothing.
 * 1: it is still taking something away. */
static int tell_none(struct wslx_manager *m, const char *distro, const char *region, struct wslx_err *err)
{
	json_t *params = json_pack("{s:s, s:s}", "region", region, "access", "none");
	cleanup_json json_t *reply = NULL;
	int r = sync_machine(m, distro, params, &reply, err);

	return r < 0 ? r : grant_in(reply, region) != NULL;
}

/* One that was told is leaving by itself, and no host process need take note of that: revoked is who does not.  What
 * it says itself counts: a broker that is gone, or that cannot be asked, knows nothing of what the machine still has.
 */
static int await_leave(struct wslx_manager *m, const char *distro, const char *region, pid_t pid, bool *ret_had,
		       struct wslx_err *err)
{
	int64_t start = wslx_now_ms(), let_go = start;

	for (;;) {
		struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };
		int has = tell_none(m, distro, region, err), n;
		int64_t now = wslx_now_ms();

		if (has < 0)
			return has;
		n = revoke_guests(m, region, pid, now - start >= LEAVE_MS, NULL);
		if (!has && n <= 0)
			return 0;
		*ret_had = true;
		/* One that is at it is in good order, however slow the host.  It has a limit for each step (30 s,
		 * MAP_LIMIT_MS there), after which it ends, and that takes everything away; but it may have many. */
		if (has)
			let_go = now;
		if (now - let_go >= REVOKE_MS || now - start >= CLEAR_MS)
			return wslx_err_set(err, ETIMEDOUT, "it does not let go of it");
		nanosleep(&ts, NULL);
	}
}

/* Of one that does not answer all that can be seen is whether it takes part.  -ENOENT: there is no region. */
static int revoke_untold(struct wslx_manager *m, const char *region, pid_t pid, bool *ret_had, struct wslx_err *err)
{
	int64_t deadline = wslx_now_ms() + REVOKE_MS;

	for (;;) {
		struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };
		int n = revoke_guests(m, region, pid, true, err);

		if (n <= 0)
			return n;
		*ret_had = true;
		if (wslx_now_ms() >= deadline)
			return wslx_err_set(err, ETIMEDOUT, "it does not let go of it");
		nanosleep(&ts, NULL);
	}
}

/* If it does not take part, the mark keeps it from joining.  untold: why it was not told; before it has a socket it has
 * nothing of a region either. */
static int take_from_silent(struct wslx_manager *m, const char *distro, const char *region, int untold,
			    struct wslx_revocation *ret, struct wslx_err *err)
{
	pid_t pid = wslx_machine_supervisor(m, distro);
	bool early = untold == -ENOENT || untold == -ECONNREFUSED;
	int r = pid ? revoke_untold(m, region, pid, &ret->had, err) : 0;

	if (r == -ENOENT && !early)
		return wslx_err_set(err, EIO, "neither its supervisor nor the region's broker answers");
	ret->silent = r == 0 || r == -ENOENT;
	return r == -ENOENT ? 0 : r;
}

static int take_from(struct wslx_manager *m, const char *distro, const char *region, pid_t pid,
		     struct wslx_revocation *ret, struct wslx_err *err)
{
	int told = tell_none(m, distro, region, err);

	if (told == -EOPNOTSUPP)
		return 0; /* it has no window */
	/* One that was too busy to say who it is may have answered now. */
	if (!pid && !is_there(m, distro, &pid))
		return 0;
	if (told >= 0) {
		ret->had = told;
		return await_leave(m, distro, region, pid, &ret->had, err);
	}
	if (!pid)
		return take_from_silent(m, distro, region, told, ret, err);
	/* It may come back: that is no success, whatever becomes of this. */
	(void)!revoke_untold(m, region, pid, &ret->had, NULL);
	return told;
}

/* One that ends closes its control socket first and lets go of its lock last: in between it can neither be told nor is
 * it gone.  pid: its supervisor, 0: not known.  False: it is there, or does not get on with its end. */
static bool ends(struct wslx_manager *m, const char *distro, pid_t pid)
{
	int64_t deadline = wslx_now_ms() + END_MS;

	for (;;) {
		struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };
		struct wslx_machine_info info;

		wslx_machine_query(m, distro, &info);
		/* The next one has heard of it by its settings. */
		if (info.state == WSLX_MACHINE_STOPPED || (pid && info.pid && info.pid != pid))
			return true;
		if (info.silent || (info.pid && info.state != WSLX_MACHINE_STOPPING) || wslx_now_ms() >= deadline)
			return false;
		nanosleep(&ts, NULL);
	}
}

/* 0: nothing that a machine of the distro's had of the region is left to it, and it does not get it back. */
static int take_away(struct wslx_manager *m, const char *distro, const char *region, struct wslx_revocation *ret,
		     struct wslx_err *err)
{
	pid_t pid;
	int r;

	*ret = (struct wslx_revocation) { 0 };
	if (!is_there(m, distro, &pid))
		return 0;
	r = mark_revoked(m, distro, region);
	if (r < 0)
		return wslx_err_sys(err, -r, "cannot write to %s/%s", m->paths.run, distro);
	r = take_from(m, distro, region, pid, ret, err);
	/* Its end takes everything away, too. */
	return r < 0 && ends(m, distro, pid) ? 0 : r;
}

/* Who stores a grant, or takes one back, holds this until the machine has been told and has done it: otherwise what was
 * stored first may be told last, and stay.  d is filled in. */
static int lock_grants(struct wslx_manager *m, const char *distro, struct wslx_distro *d, struct wslx_err *err)
{
	int r = wslx_distro_find(m, distro, d, err), lock;
	cleanup_free char *path = r == 0 ? wslx_path("%s/" WSLX_GRANTS_LOCK, d->name) : NULL;

	if (r < 0)
		return r;
	if (!path)
		return wslx_err_sys(err, ENOMEM, "cannot change grants");
	if (mkdirat(m->run_fd, d->name, 0700) < 0 && errno != EEXIST)
		return wslx_err_sys(err, errno, "cannot make %s/%s", m->paths.run, d->name);
	lock = wslx_lock_take(m->run_fd, path, WSLX_LOCK_EXCLUSIVE, true);
	return lock < 0 ? wslx_err_sys(err, -lock, "cannot lock the grants of '%s'", d->name) : lock;
}

/* A machine that is to read only cannot write any more when this returns 0.  It is asked, not the settings: of a change
 * that failed before those know nothing.  *ret_silent: as of wslx_revocation. */
static int end_writing(struct wslx_manager *m, const char *distro, const char *region, bool *ret_silent,
		       struct wslx_err *err)
{
	cleanup_json json_t *reply = NULL;
	struct wslx_revocation old = { 0 };
	const json_t *has;
	int r;

	if (sync_machine(m, distro, NULL, &reply, NULL) == 0) {
		has = grant_in(reply, region);
		if (!strcmp(text_of(has, "access"), "ro") && strcmp(text_of(has, "state"), "clearing") != 0)
			return 0;
	}
	/* It would change it by itself, but nobody would know when it has. */
	r = take_away(m, distro, region, &old, err);
	*ret_silent = old.silent;
	return r;
}

static int tell_grant(struct wslx_manager *m, const char *distro, const struct wslx_grant *g, struct wslx_err *err)
{
	cleanup_free char *sock = region_path(m, g->region, ".sock");
	json_t *params = json_pack("{s:s, s:s, s:s*, s:i, s:s}", "region", g->region, "as", g->as, "socket", sock,
				   "segments", (int)g->segments, "access", g->readonly ? "ro" : "rw");

	return sync_machine(m, distro, params, NULL, err);
}

/* Stored it is.  *ret_later: the machine takes it at its next start only. */
static int give_machine(struct wslx_manager *m, const char *distro, const struct wslx_grant *g, bool *ret_later,
			struct wslx_err *err)
{
	struct wslx_err why = { 0 };
	bool silent = false;
	pid_t pid;
	int r;

	if (!is_there(m, distro, &pid))
		return 0;
	r = g->readonly ? end_writing(m, distro, g->region, &silent, &why) : 0;
	if (r < 0)
		return wslx_err_set(err, -r, "the grant is changed, but '%s' may still write to the region: %s", distro,
				    why.msg);
	r = is_there(m, distro, &pid) ? tell_grant(m, distro, g, &why) : 0;
	*ret_later = r < 0;
	if (r < 0)
		log_debug("%s: %s", distro, why.msg);
	if (r == 0 || !g->readonly || r == -EOPNOTSUPP || silent || ends(m, distro, pid))
		return 0;
	return wslx_err_set(err, -r, "the grant is changed, but '%s' was not told; try again: %s", distro, why.msg);
}

/* Seen before it is stored, because asking brokers takes its time: not under the registry lock.  d: as it is now, and g
 * is put in. */
static int check_room(struct wslx_manager *m, struct wslx_distro *d, const struct wslx_grant *g, struct wslx_err *err)
{
	struct wslx_settings *s = &d->settings;
	int r = wslx_grants_add(s->grants, &s->n_grants, s->portal_window, d->name, g, err);

	return r < 0 ? r : wslx_region_check_room(m, d->name, s, g->region, err);
}

int wslx_region_grant(struct wslx_manager *m, const char *distro, const struct wslx_grant *g, bool *ret_later,
		      struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	cleanup_close int lock = -1;
	int r = d ? check_there(m, g->region, err) : wslx_err_sys(err, ENOMEM, "cannot grant");

	*ret_later = false;
	if (r == 0)
		r = wslx_region_check_size(m, g, err);
	if (r == 0)
		lock = lock_grants(m, distro, d, err);
	if (r == 0)
		r = lock < 0 ? lock : check_room(m, d, g, err);
	if (r == 0)
		r = store(m, distro, g, g->region, d, err);
	if (r == 0)
		r = give_machine(m, d->name, g, ret_later, err);
	free(d);
	return r;
}

int wslx_region_revoke(struct wslx_manager *m, const char *region, const char *distro, struct wslx_revocation *ret,
		       struct wslx_err *err)
{
	struct wslx_distro *d = calloc(1, sizeof(*d));
	cleanup_close int lock = -1;
	struct wslx_err why = { 0 };
	int r = d ? wslx_region_check_name(region, err) : wslx_err_sys(err, ENOMEM, "cannot revoke"), taken;

	*ret = (struct wslx_revocation) { 0 };
	if (r == 0)
		lock = lock_grants(m, distro, d, err);
	if (r == 0 && lock < 0) {
		free(d);
		return lock;
	}
	if (r == 0)
		r = store(m, distro, NULL, region, d, err);
	/* Not among the settings any more: its machine may have it all the same, if this failed before. */
	if (r == 0 || (r == -ENOENT && d->name[0])) {
		taken = take_away(m, d->name, region, ret, &why);
		if (taken < 0)
			r = wslx_err_set(err, -taken,
					 "the grant is gone, but '%s' may still have the region's memory: %s", d->name,
					 why.msg);
		else if (ret->had)
			r = 0;
	}
	free(d);
	return r;
}
