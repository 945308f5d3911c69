/*
 * The agent on a real machine, as PID 1 of the initramfs: boot, configuration,
 * distros, life cycle.  It sits on the core (guest.h).
 *
 * Theory of operation.  boot.c mounts what the kernel offers, loads the modules
 * the initramfs lists, listens for sessions and connects to the host.  The
 * host then sends CONFIG and DISTRO_START (requests.c).  A distro (distro.c) is
 * a child in namespaces of its own that sets itself up (distro_init.c) and stays
 * as its PID 1.  The agent's own mount namespace never has a distro's disk in
 * it: the disk is mounted by the distro's init in its namespace, so the end of
 * that namespace is what unmounts it.
 *
 * Trust boundary: the distros' root users.  They are root in the machine and
 * can spoil it; what they cannot do by way of the agent is reach the host: the
 * agent refuses vsock peers other than the host and never opens a path below a
 * distro's root in its own namespace.
 */
#ifndef WSLX_AGENT_MACHINE_H
#define WSLX_AGENT_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/guest.h"
#include "base/listener.h"
#include "base/loop.h"

#define DIR_SHARED "/shared"   /* tmpfs that is /mnt/wsl of every distro */
#define DIR_NEWROOT "/newroot" /* mount point for a distro's init, in its own namespace */
#ifndef DIR_CGROUP             /* tests have their own */
#define DIR_CGROUP "/sys/fs/cgroup"
#endif
#define STOP_TIMEOUT_MS 5000u
#define DISK_TIMEOUT_MS 10000u
#define DEVICE_NAME_MAX 32

struct machine;
struct distro;

/* Somebody waits for a disk with this serial number. */
struct disk_wait {
	struct disk_wait *next, *prev;
	struct machine *m;
	char serial[WSLX_AGENT_SERIAL_MAX + 1];
	struct wslx_timer *timer;
	/* device: "/dev/vda", or NULL on time-out. */
	void (*fn)(struct disk_wait *w, const char *device);
	void *opaque;
};

/* pids.max of the group of all distros, and of each one's. */
struct pids_limits {
	uint64_t all, each;
};

struct machine {
	struct wslx_loop *loop;
	struct wslx_guest *guest;
	char release[65]; /* uname -r */
	char hostname[WSLX_AGENT_HOSTNAME_MAX + 1];
	uint64_t boot_agent_ns, boot_modules_ns;
	bool late_done; /* late_boot() ran */
	/* host connections */
	int listen_fd, control_fd;
	struct wslx_listener *listener;
	struct wslx_watch *control_watch;
	struct wslx_timer *control_timer;
	bool was_connected;         /* ever */
	int64_t control_give_up_ms; /* when to power off for want of a host, 0 = connected */
	/* devices */
	int uevent_fd;
	struct wslx_watch *uevent_watch;
	struct disk_wait *disk_waits;
	bool modules_mounted;
	/* distros */
	struct distro *distros;
	struct pids_limits pids;
	bool paused;           /* or about to be */
	struct freeze *freeze; /* freeze.c: at work */
	unsigned thaws;        /* at work */
	int inotify_fd;        /* memory.events of the distros */
	struct wslx_watch *inotify_watch;
	/* shutdown */
	bool ending;
	enum wslx_agent_shutdown how;
	struct wslx_timer *end_timer;
};

enum distro_state { DISTRO_WAITING, DISTRO_SETUP, DISTRO_RUNNING, DISTRO_STOPPING };

struct distro {
	struct distro *next;
	struct machine *m;
	struct wslx_agent_distro params;
	char device[DEVICE_NAME_MAX];
	enum distro_state state;
	pid_t pid; /* its init; 0 once reaped */
	int pidfd, root_fd, pts_fd, cgroup_fd;
	int status_fd;
	struct wslx_watch *status_watch;
	struct wslx_buf status;
	struct wslx_timer *kill_timer;
	struct disk_wait wait;
	bool waiting;
	struct wslx_agent_distro_started info;
	struct wslx_guest_call start_call;
	bool has_start_call;
	struct wslx_guest_call stop_call;
	bool has_stop_call;
	int oom_watch;
	uint64_t oom_kills;
};

/* What a distro's init needs. */
struct distro_setup {
	const char *name, *device, *fstype, *options, *hostname, *release;
	bool readonly, modules;
	int status_fd;
	int procs_fd;   /* cgroup.procs of the leaf its processes live in */
	int subtree_fd; /* cgroup.subtree_control of the distro's cgroup */
};

/* boot.c */
void machine_run(void) WSLX_NORETURN;
/* modules.c */
/* In two parts: up to the vsock transport, and the rest. */
void modules_load_boot(bool late);
void modules_make_nodes(const char *release);
int modprobe_main(int argc, char **argv);
/* cpus.c */
void cpus_bring_up(void);
/* device.c */
int device_init(struct machine *m);
/* Name of the disk with that serial number, "/dev/..."; -ENOENT. */
int device_find(const char *serial, char *dst, size_t size);
/* Calls w->fn once, maybe from inside. */
int device_wait(struct machine *m, struct disk_wait *w, uint32_t timeout_ms);
void device_wait_cancel(struct disk_wait *w);
/* window.c: calls fn once Portal's window, if there is one, is a device; maybe from inside. */
void window_prepare(struct machine *m, void (*fn)(void *opaque), void *opaque);
/* net.c: 0, or -errno and a text. */
int net_lo_up(void);
int net_apply(const struct wslx_agent_config *c, char *text, size_t size);
void net_greet(void);
/* requests.c */
void request_handle(void *opaque, const struct wslx_guest_call *call, const struct wslx_agent_msg *msg);
void status_fill(void *opaque, struct wslx_agent_status *st);
/* distro.c */
int distro_init_all(struct machine *m);
void distro_start(struct machine *m, const struct wslx_guest_call *call, const struct wslx_agent_distro *params);
void distro_stop(struct machine *m, const struct wslx_guest_call *call, const char *name, uint32_t timeout_ms);
int distro_place(void *opaque, const char *name, struct wslx_guest_place *ret, char *text, size_t size);
void distro_stop_one(struct distro *d, uint32_t timeout_ms);
uint32_t distro_count_processes(const struct distro *d);
/* distro_init.c: in the child. */
void distro_init_main(const struct distro_setup *s) WSLX_NORETURN;
/* pids.c */
/* From the machine's own two limits. */
void pids_divide(uint64_t pid_max, uint64_t threads_max, struct pids_limits *ret);
void pids_init(struct pids_limits *ret);
/* pids.max of a cgroup's folder. */
int pids_limit(int dir_fd, uint64_t limit);
/* freeze.c */
void freeze_request(struct machine *m, const struct wslx_guest_call *call, bool freeze);
/* Before the distros are stopped. */
void freeze_thaw_now(struct machine *m);
/* shutdown.c */
void shutdown_begin(struct machine *m, enum wslx_agent_shutdown how, uint32_t timeout_ms);
void shutdown_check(struct machine *m);
/* Without stopping anything any more. */
void shutdown_now(enum wslx_agent_shutdown how) WSLX_NORETURN;
/* util.c */
int write_text(const char *path, const char *text);
int write_text_at(int dirfd, const char *path, const char *text);
int mkdir_parents(const char *path, mode_t mode);
uint64_t boottime_ns(void);

#endif
