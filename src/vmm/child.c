/*
 * JSON codec of the child's start-up parameters.  Written by our own
 * supervisor; still decoded strictly, so that a version mix-up is one clear
 * line and not a device on the wrong descriptor.
 */
#include "vmm/child.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/window.h"

#define FD_LIMIT 65536

static void json_decref_p(json_t **j)
{
	json_decref(*j);
}

static json_t *encode_disk(const struct wslx_child_disk *d)
{
	return json_pack("{s:i, s:i, s:i, s:b, s:b, s:s, s:i, s:i}", "fd", d->fd, "base_fd", d->base_fd, "format",
			 (int)d->format, "readonly", (int)d->readonly, "no_sync", (int)d->no_sync, "serial", d->serial,
			 "queues", (int)d->queues, "vhost_fd", d->vhost_fd);
}

static void format_mac(const uint8_t mac[6], char ret[18])
{
	snprintf(ret, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

int wslx_child_params_encode(const struct wslx_child_params *p, char **ret)
{
	cleanup_with(json_decref_p) json_t *root = NULL, *disks = json_array();
	char mac[18];

	format_mac(p->mac, mac);
	for (size_t i = 0; i < p->n_disks; i++)
		if (json_array_append_new(disks, encode_disk(&p->disks[i])) < 0)
			return -ENOMEM;
	root = json_pack("{s:i, s:i, s:i, s:i, s:I, s:O, s:i, s:I, s:b, s:i, s:i, s:i, s:s, s:i, s:i, s:s, s:b, s:b}",
			 "link_fd", p->link_fd, "console_fd", p->console_fd, "vsock_fd", p->vsock_fd, "vsock_vhost_fd",
			 p->vsock_vhost_fd, "guest_cid", (json_int_t)p->guest_cid, "disks", disks, "cpus", (int)p->cpus,
			 "memory", (json_int_t)p->memory, "shared_memory", (int)p->shared_memory, "kvm_fd", p->kvm_fd,
			 "kernel_fd", p->kernel_fd, "initramfs_fd", p->initramfs_fd, "cmdline",
			 p->cmdline ? p->cmdline : "", "net_mode", (int)p->net_mode, "net_fd", p->net_fd, "mac", mac,
			 "no_io_uring", (int)p->no_io_uring, "test_hooks", (int)p->test_hooks);
	if (!root)
		return -ENOMEM;
	if (p->window && (json_object_set_new(root, "window", json_integer((json_int_t)p->window)) < 0 ||
			  json_object_set_new(root, "window_fd", json_integer(p->window_fd)) < 0))
		return -ENOMEM;
	*ret = json_dumps(root, JSON_COMPACT);
	return *ret ? 0 : -ENOMEM;
}

static int check_fd(const char *name, int fd, struct wslx_err *err)
{
	if (fd < -1 || fd >= FD_LIMIT)
		return wslx_err_set(err, EINVAL, "child parameters: %s %d is no descriptor", name, fd);
	return 0;
}

static int decode_disk(json_t *j, struct wslx_child_disk *d, struct wslx_err *err)
{
	const char *serial;
	int format, readonly, no_sync, queues, r;
	json_error_t e;

	if (json_unpack_ex(j, &e, 0, "{s:i, s:i, s:i, s:b, s:b, s:s, s:i, s:i !}", "fd", &d->fd, "base_fd", &d->base_fd,
			   "format", &format, "readonly", &readonly, "no_sync", &no_sync, "serial", &serial, "queues",
			   &queues, "vhost_fd", &d->vhost_fd) < 0)
		return wslx_err_set(err, EINVAL, "child parameters: disk: %s", e.text);
	if (format != WSLX_DISK_RAW && format != WSLX_DISK_OVERLAY)
		return wslx_err_set(err, EINVAL, "child parameters: unknown disk format %d", format);
	if (strlen(serial) > WSLX_SERIAL_MAX)
		return wslx_err_set(err, EINVAL, "child parameters: disk serial longer than %d bytes", WSLX_SERIAL_MAX);
	if (queues < 0 || queues > WSLX_MAX_CPUS)
		return wslx_err_set(err, EINVAL, "child parameters: %d disk queues", queues);
	d->format = (enum wslx_disk_format)format;
	d->readonly = readonly;
	d->no_sync = no_sync;
	d->queues = (unsigned)queues;
	memcpy(d->serial, serial, strlen(serial) + 1);
	r = check_fd("disk fd", d->fd, err);
	if (r == 0)
		r = check_fd("disk base_fd", d->base_fd, err);
	return r < 0 ? r : check_fd("disk vhost_fd", d->vhost_fd, err);
}

static int decode_disks(json_t *disks, struct wslx_child_params *p, struct wslx_err *err)
{
	size_t i, n = json_array_size(disks);
	json_t *j;

	if (!json_is_array(disks) || n > WSLX_MAX_DISKS)
		return wslx_err_set(err, EINVAL, "child parameters: disks: want an array of at most %d",
				    WSLX_MAX_DISKS);
	p->disks = calloc(n ? n : 1, sizeof(*p->disks));
	if (!p->disks)
		return wslx_err_sys(err, ENOMEM, "child parameters");
	p->n_disks = n;
	json_array_foreach (disks, i, j) {
		int r = decode_disk(j, &p->disks[i], err);

		if (r < 0)
			return r;
	}
	return 0;
}

static int check_fds(const struct wslx_child_params *p, struct wslx_err *err)
{
	const struct {
		const char *name;
		int fd;
	} fds[] = {
		{ "link_fd", p->link_fd },     { "console_fd", p->console_fd },
		{ "vsock_fd", p->vsock_fd },   { "vsock_vhost_fd", p->vsock_vhost_fd },
		{ "kvm_fd", p->kvm_fd },       { "kernel_fd", p->kernel_fd },
		{ "net_fd", p->net_fd },       { "initramfs_fd", p->initramfs_fd },
		{ "window_fd", p->window_fd },
	};

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		int r = check_fd(fds[i].name, fds[i].fd, err);

		if (r < 0)
			return r;
	}
	return 0;
}

static int decode_root(json_t *root, struct wslx_child_params *p, struct wslx_err *err)
{
	json_int_t cid, memory, window = 0;
	int cpus, shared, mode, no_uring, hooks, r;
	const char *cmdline, *mac;
	json_error_t e;
	json_t *disks;

	if (json_unpack_ex(root, &e, 0,
			   "{s:i, s:i, s:i, s:i, s:I, s:o, s:i, s:I, s:b, s:i, s:i, s:i, s:s, s:i, s:i, s:s, s:b, s:b, "
			   "s?I, s?i !}",
			   "link_fd", &p->link_fd, "console_fd", &p->console_fd, "vsock_fd", &p->vsock_fd,
			   "vsock_vhost_fd", &p->vsock_vhost_fd, "guest_cid", &cid, "disks", &disks, "cpus", &cpus,
			   "memory", &memory, "shared_memory", &shared, "kvm_fd", &p->kvm_fd, "kernel_fd",
			   &p->kernel_fd, "initramfs_fd", &p->initramfs_fd, "cmdline", &cmdline, "net_mode", &mode,
			   "net_fd", &p->net_fd, "mac", &mac, "no_io_uring", &no_uring, "test_hooks", &hooks, "window",
			   &window, "window_fd", &p->window_fd) < 0)
		return wslx_err_set(err, EINVAL, "child parameters: %s", e.text);
	if (cid < 3 || cid > UINT32_MAX - 1)
		return wslx_err_set(err, EINVAL, "child parameters: guest_cid %lld", (long long)cid);
	if (cpus < 0 || cpus > WSLX_MAX_CPUS)
		return wslx_err_set(err, EINVAL, "child parameters: %d CPUs", cpus);
	if (memory < 0)
		return wslx_err_set(err, EINVAL, "child parameters: memory %lld", (long long)memory);
	if (window && (window < 0 || !wslx_window_size_ok((uint64_t)window) || p->window_fd < 0))
		return wslx_err_set(err, EINVAL, "child parameters: window %lld", (long long)window);
	if (mode < WSLX_NET_NONE || mode > WSLX_NET_TAP)
		return wslx_err_set(err, EINVAL, "child parameters: unknown net_mode %d", mode);
	if (wslx_mac_parse(mac, p->mac) < 0)
		return wslx_err_set(err, EINVAL, "child parameters: bad MAC address %s", mac);
	p->window = (uint64_t)window;
	p->guest_cid = (uint64_t)cid;
	p->cpus = (unsigned)cpus;
	p->memory = (uint64_t)memory;
	p->shared_memory = shared;
	p->net_mode = (enum wslx_net_mode)mode;
	p->no_io_uring = no_uring;
	p->test_hooks = hooks;
	p->cmdline = strdup(cmdline);
	if (!p->cmdline)
		return wslx_err_sys(err, ENOMEM, "child parameters");
	r = check_fds(p, err);
	return r < 0 ? r : decode_disks(disks, p, err);
}

static void params_free_p(struct wslx_child_params **p)
{
	wslx_child_params_free(*p);
}

int wslx_child_params_decode(const char *json, size_t len, struct wslx_child_params **ret, struct wslx_err *err)
{
	cleanup_with(params_free_p) struct wslx_child_params *p = calloc(1, sizeof(*p));
	cleanup_with(json_decref_p) json_t *root = NULL;
	json_error_t e;
	int r;

	if (!p)
		return wslx_err_sys(err, ENOMEM, "child parameters");
	p->window_fd = -1;
	root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &e);
	if (!root)
		return wslx_err_set(err, EINVAL, "child parameters: line %d: %s", e.line, e.text);
	r = decode_root(root, p, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(p);
	return 0;
}

void wslx_child_params_free(struct wslx_child_params *p)
{
	if (!p)
		return;
	free(p->disks);
	free(p->cmdline);
	free(p);
}
