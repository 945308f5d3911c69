/*
 * The public face of the manager: include/wslx/wslx.h over the internal
 * interfaces, which may change from release to release while this may not.
 */
#include <assert.h>
#include <errno.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "manager/distros.h"
#include "manager/gone.h"
#include "manager/session.h"
#include "wslx/wslx.h"

struct libwslx {
	struct wslx_manager *m;
	libwslx_progress_fn progress;
	void *opaque;
	int cancel_fd;
};

/* Hands an internal error out.  r is returned. */
static int give(int r, const struct wslx_err *from, struct libwslx_error *to)
{
	if (r < 0 && to) {
		to->code = from->code ? from->code : -r;
		snprintf(to->message, sizeof(to->message), "%s", from->msg[0] ? from->msg : strerror(-r));
	}
	return r;
}

/* The end of the last member that the first release had. */
#define FIRST_SIZE(type, member) (offsetof(type, member) + sizeof(((type *)NULL)->member))

/* The caller's structure, in a copy of ours: what it does not have is zero, and
 * what we do not have must be. */
static int take(void *to, size_t to_size, const void *from, size_t from_size, size_t least, struct wslx_err *err)
{
	memset(to, 0, to_size);
	if (!from || from_size < least)
		return wslx_err_set(err, EINVAL, "a structure without its size");
	for (size_t i = to_size; i < from_size; i++)
		if (((const char *)from)[i])
			return wslx_err_set(err, E2BIG, "this libwslx is older than the program that asks it");
	memcpy(to, from, WSLX_MIN(to_size, from_size));
	return 0;
}

const char *libwslx_version(void)
{
	return WSLX_VERSION;
}

int libwslx_open(libwslx **ret, struct libwslx_error *err)
{
	libwslx *w = calloc(1, sizeof(*w));
	struct wslx_err e = { 0 };
	int r = w ? wslx_manager_open(&w->m, &e) : -ENOMEM;

	if (r < 0) {
		free(w);
		return give(r, &e, err);
	}
	w->cancel_fd = -1;
	*ret = w;
	return 0;
}

void libwslx_close(libwslx *w)
{
	if (!w)
		return;
	wslx_manager_free(w->m);
	free(w);
}

void libwslx_set_progress(libwslx *w, libwslx_progress_fn fn, void *opaque)
{
	w->progress = fn;
	w->opaque = opaque;
}

void libwslx_set_cancel_fd(libwslx *w, int fd)
{
	w->cancel_fd = fd;
}

static void on_import_progress(const struct wslx_progress *p, void *opaque)
{
	const libwslx *w = opaque;

	w->progress(w->opaque, p->what, p->done, p->total);
}

static void on_start_progress(void *opaque, const char *what)
{
	const libwslx *w = opaque;

	w->progress(w->opaque, what, 0, 0);
}

static void fill(struct wslx_manager *m, const char *name, const char *def, struct libwslx_distro *ret)
{
	struct wslx_machine_info info;

	wslx_machine_query(m, name, &info);
	ret->size = sizeof(*ret);
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	ret->state = (enum libwslx_state)info.state;
	ret->is_default = !strcmp(name, def);
	ret->pid = info.pid;
	if (info.engine != WSLX_ENGINE_AUTO)
		snprintf(ret->engine, sizeof(ret->engine), "%s", wslx_engine_name(info.engine));
	ret->memory = info.memory;
	ret->cpus = info.cpus;
}

/* One piece of memory: the pointers, then what they point to. */
static_assert(alignof(struct libwslx_distro) <= alignof(void *), "lies right behind pointers");
static struct libwslx_distro **make_list(size_t n)
{
	size_t head = (n + 1) * sizeof(struct libwslx_distro *);
	char *mem = calloc(1, head + n * sizeof(struct libwslx_distro));
	struct libwslx_distro **list = (void *)mem;

	for (size_t i = 0; mem && i < n; i++)
		list[i] = (void *)(mem + head + i * sizeof(struct libwslx_distro));
	return list;
}

int libwslx_list(libwslx *w, struct libwslx_distro ***ret, size_t *ret_n, struct libwslx_error *err)
{
	char **names = NULL, def[WSLX_NAME_MAX + 1] = "";
	struct libwslx_distro **list;
	struct wslx_err e = { 0 };
	size_t n = 0;
	int r = wslx_store_names(w->m, WSLX_STORE_DISTROS, &names, &n, &e);

	if (r < 0)
		return give(r, &e, err);
	if (wslx_distro_default(w->m, def, NULL) < 0)
		def[0] = '\0';
	list = make_list(n);
	for (size_t i = 0; list && i < n; i++)
		fill(w->m, names[i], def, list[i]);
	wslx_names_free(names, n);
	if (!list)
		return give(-ENOMEM, &e, err);
	*ret = list;
	*ret_n = n;
	return 0;
}

void libwslx_list_free(struct libwslx_distro **list)
{
	free(list);
}

int libwslx_import_distro(libwslx *w, const struct libwslx_import *p, struct libwslx_error *err)
{
	struct wslx_settings *s = malloc(sizeof(*s));
	struct wslx_new_distro d = {
		.settings = s,
		.in_fd = -1,
		.in_name = "the archive",
		.task = { .progress = w->progress ? on_import_progress : NULL,
			  .opaque = w,
			  .cancel_fd = &w->cancel_fd },
	};
	struct libwslx_import in;
	struct wslx_err e = { 0 };
	int r = s ? take(&in, sizeof(in), p, p ? p->size : 0, FIRST_SIZE(struct libwslx_import, disk_size), &e)
		  : -ENOMEM;

	if (r == 0 && (!in.name || in.fd < 0))
		r = wslx_err_set(&e, EINVAL, "an import needs a name and a descriptor");
	if (r == 0) {
		*s = wslx_settings_default;
		r = in.kernel ? wslx_settings_set(s, "kernel", in.kernel, &e) : 0;
	}
	if (r == 0) {
		d.name = in.name;
		d.in_fd = in.fd;
		d.size = in.disk_size;
		r = wslx_distro_create(w->m, &d, NULL, &e);
	}
	free(s);
	return give(r, &e, err);
}

/* The named one, or the default.  Caller frees. */
static int find(libwslx *w, const char *name, struct wslx_distro **ret, struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	char def[WSLX_NAME_MAX + 1];
	int r = d ? 0 : -ENOMEM;

	if (r == 0 && !name)
		r = wslx_distro_default(w->m, def, err);
	if (r == 0)
		r = wslx_distro_find(w->m, name ? name : def, d, err);
	if (r < 0) {
		free(d);
		return r;
	}
	*ret = d;
	return 0;
}

static int start(libwslx *w, const char *name, struct wslx_distro **ret, struct wslx_err *err)
{
	const struct wslx_start_hooks hooks = { .progress = w->progress ? on_start_progress : NULL,
						.opaque = w,
						.cancel_fd = w->cancel_fd };
	struct wslx_distro *d = NULL;
	int r = find(w, name, &d, err);

	if (r == 0) {
		/* One of them may keep the disk that we want. */
		wslx_throwaway_sweep(w->m);
		r = wslx_machine_start(w->m, d, &hooks, err);
	}
	if (r < 0) {
		free(d);
		return r;
	}
	*ret = d;
	return 0;
}

int libwslx_start(libwslx *w, const char *distro, struct libwslx_error *err)
{
	struct wslx_distro *d = NULL;
	struct wslx_err e = { 0 };
	int r = start(w, distro, &d, &e);

	free(d);
	return give(r, &e, err);
}

static int run(libwslx *w, const struct wslx_distro *d, const struct libwslx_exec *in, struct wslx_machine_session *s,
	       struct wslx_err *err)
{
	static const char *const nothing[] = { NULL };
	cleanup_free char *vsock = wslx_machine_socket(w->m, d->name, WSLX_VSOCK_SOCKET);
	char uid[24] = "";
	const struct wslx_agent_exec exec = {
		.distro = d->name,
		.argv = in->argv ? in->argv : nothing,
		.env = in->env,
		.cwd = in->cwd,
		.user = in->user,
		.default_user = d->settings.user[0] ? d->settings.user : uid,
		.flags = (in->flags & LIBWSLX_EXEC_SHELL ? WSLX_EXEC_SHELL : 0) |
			 (in->flags & LIBWSLX_EXEC_LOGIN ? WSLX_EXEC_LOGIN : 0),
		.streams = { in->fds[0] < 0 ? WSLX_STREAM_NULL : WSLX_STREAM_PIPE,
			     in->fds[1] < 0 ? WSLX_STREAM_NULL : WSLX_STREAM_PIPE,
			     in->fds[2] < 0 ? WSLX_STREAM_NULL : WSLX_STREAM_PIPE },
	};
	const struct wslx_session_params p = {
		.vsock_path = vsock,
		.exec = &exec,
		.fds = { .in = in->fds[0], .out = in->fds[1], .err = in->fds[2], .tty_in = -1, .tty_out = -1 },
		.winsize_fd = -1,
		.cancel_fd = w->cancel_fd,
	};

	if (d->default_uid >= 0)
		snprintf(uid, sizeof(uid), "%lld", (long long)d->default_uid);
	return vsock ? wslx_machine_session(w->m, d->name, &p, s, err) : -ENOMEM;
}

int libwslx_exec(libwslx *w, const struct libwslx_exec *p, int *ret_status, struct libwslx_error *err)
{
	struct wslx_distro *d = NULL;
	struct libwslx_exec in;
	struct wslx_err e = { 0 };
	struct wslx_machine_session s = { .status = 255 };
	int r = take(&in, sizeof(in), p, p ? p->size : 0, FIRST_SIZE(struct libwslx_exec, fds), &e);

	if (r == 0 && in.flags & ~(LIBWSLX_EXEC_SHELL | LIBWSLX_EXEC_LOGIN))
		r = wslx_err_set(&e, EINVAL, "unknown flags");
	if (r == 0 && !in.flags && (!in.argv || !in.argv[0]))
		r = wslx_err_set(&e, EINVAL, "no program to run");
	while (r == 0) {
		r = start(w, in.distro, &d, &e);
		if (r == 0)
			r = run(w, d, &in, &s, &e);
		free(TAKE_PTR(d));
		if (!s.again)
			break;
		s.again = false;
		r = 0;
	}
	if (ret_status)
		*ret_status = s.status;
	return give(r, &e, err);
}

int libwslx_terminate(libwslx *w, const char *distro, int force, struct libwslx_error *err)
{
	struct wslx_distro *d = NULL;
	struct wslx_err e = { 0 };
	int r = find(w, distro, &d, &e);

	if (r == 0)
		r = wslx_machine_stop(w->m, d->name, force, &e);
	free(d);
	return give(r, &e, err);
}

int libwslx_unregister(libwslx *w, const char *distro, struct libwslx_error *err)
{
	struct wslx_err e = { 0 };
	int r = distro ? wslx_distro_unregister(w->m, distro, &e) : wslx_err_set(&e, EINVAL, "unregister needs a name");

	return give(r, &e, err);
}
