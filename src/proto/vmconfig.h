/*
 * Machine configuration: what the manager hands the supervisor (wslx-vmm) when
 * it starts a machine.  JSON, decoded strictly: unknown keys, wrong types,
 * out-of-range numbers are errors with the key's name.
 *
 * Trust boundary: written by the same user; still checked, because names and
 * paths in it come from that user's state files.
 */
#ifndef WSLX_PROTO_VMCONFIG_H
#define WSLX_PROTO_VMCONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"

#define WSLX_MAX_CPUS 64
#define WSLX_MAX_DISKS 16
#define WSLX_MAX_DISTROS 16
#define WSLX_MAX_PUBLISH 64
#define WSLX_MAX_GRANTS 8
#define WSLX_GRANT_NAME_SIZE 48 /* of a region, NUL included */
/* In the runtime folder: a file for each region that the machine must not join, whatever it was started with. */
#define WSLX_REVOKED_DIR "revoked"
#define WSLX_NAME_MAX 256  /* distro and machine names: [A-Za-z0-9._-]{1,256} */
#define WSLX_SERIAL_MAX 20 /* virtio-blk serial, bytes */

enum wslx_engine { WSLX_ENGINE_AUTO, WSLX_ENGINE_KVM, WSLX_ENGINE_TCG };
enum wslx_disk_format { WSLX_DISK_RAW, WSLX_DISK_OVERLAY };
enum wslx_net_mode { WSLX_NET_NONE, WSLX_NET_PASST, WSLX_NET_TAP };

struct wslx_disk_config {
	char *path;
	enum wslx_disk_format format; /* OVERLAY: path is a .wslxo file; its header names no base, `base` does */
	char *base;                   /* OVERLAY: raw base image, opened read-only */
	char serial[WSLX_SERIAL_MAX + 1];
	bool readonly;
	bool no_sync;    /* nobody needs its contents after a power loss: flushes need not reach the disk */
	unsigned queues; /* 0 = one per CPU, at most 4 */
};

struct wslx_publish {
	bool udp;
	uint16_t host_port, guest_port;
	char host_addr[64]; /* "" = 127.0.0.1 */
};

struct wslx_net_config {
	enum wslx_net_mode mode;
	char tap[16]; /* interface name, IFNAMSIZ */
	char mac[18]; /* aa:bb:cc:dd:ee:ff */
	struct wslx_publish publish[WSLX_MAX_PUBLISH];
	size_t n_publish;
};

/* A distro to set up in the machine once the agent is there. */
struct wslx_distro_config {
	char *name;
	char serial[WSLX_SERIAL_MAX + 1]; /* its disk */
	char *fstype;                     /* "ext4" */
	char *hostname;                   /* "" = the machine's */
	bool readonly;
};

/* A Portal region that the machine takes part in. */
struct wslx_portal_grant {
	char region[WSLX_GRANT_NAME_SIZE];
	char as[WSLX_GRANT_NAME_SIZE]; /* what it is called in the guest */
	char *socket;                  /* of its broker */
	uint32_t segments;             /* of 2 MiB, the machine's own to write to; 0 with readonly */
	bool readonly;
};

struct wslx_portal_config {
	uint64_t window; /* bytes of address space in the guest, a power of two; 0 = none, and no grants */
	struct wslx_portal_grant grants[WSLX_MAX_GRANTS];
	size_t n_grants;
};

struct wslx_vm_config {
	char *name;              /* machine name */
	enum wslx_engine engine; /* KVM or TCG: AUTO was resolved by the manager */
	unsigned cpus;
	uint64_t memory;    /* bytes, a multiple of 2 MiB */
	bool shared_memory; /* SHARED instead of PRIVATE; always true on tcg */
	char *runtime_dir;  /* sockets: control.sock, vsock.sock; exists, 0700 */
	char *state_dir;    /* console.log, events; exists */
	char *kernel;       /* unpacked ELF vmlinux if it could be unpacked, else bzImage */
	char *initramfs;
	char *modules_serial;     /* serial of the modules disk, "" = none */
	char *cmdline_extra;      /* appended to the engine's command line */
	unsigned boot_timeout_ms; /* until HELLO; default 30000 kvm, 120000 tcg */
	struct wslx_disk_config *disks;
	size_t n_disks;
	struct wslx_distro_config *distros;
	size_t n_distros;
	struct wslx_net_config net;
	struct wslx_portal_config portal;
};

WSLX_MUST_CHECK int wslx_vm_config_decode(const char *json, size_t len, struct wslx_vm_config **ret,
					  struct wslx_err *err);
/* Caller frees *ret. */
WSLX_MUST_CHECK int wslx_vm_config_encode(const struct wslx_vm_config *c, char **ret);
void wslx_vm_config_free(struct wslx_vm_config *c); /* NULL is fine */

/* [A-Za-z0-9._-]{1,256}, not "." or "..", no leading '-'. */
bool wslx_name_ok(const char *name);
/* Region names: 1 to 47 printable ASCII characters without blank and '/'. */
bool wslx_region_name_ok(const char *name);
#define WSLX_WINDOW_SIZE_MIN (64 * WSLX_MIB)
#define WSLX_WINDOW_SIZE_MAX (64 * WSLX_GIB)
#define WSLX_WINDOW_SIZE_DEFAULT (256 * WSLX_MIB)
bool wslx_window_bytes_ok(uint64_t size);
/* Of a machine.  On kvm, RAM from 4 GiB on and Portal's window behind it end
 * below the PCI window at 256 GiB; the same holds on tcg, whose processor could
 * address more, so that a machine may change its engine. */
#define WSLX_MEMORY_MIN (32 * WSLX_MIB)
#define WSLX_MEMORY_MAX (240 * WSLX_GIB)
/* Is there room for both?  window: 0 = none. */
bool wslx_memory_fits(uint64_t memory, uint64_t window);
/* A host name for a machine or distro of that name. */
#define WSLX_HOSTNAME_MAX 63 /* the longest label */
void wslx_hostname_from(const char *name, char ret[WSLX_HOSTNAME_MAX + 1]);
/* "aa:bb:cc:dd:ee:ff"; -EINVAL. */
WSLX_MUST_CHECK int wslx_mac_parse(const char *s, uint8_t ret[6]);
const char *wslx_engine_name(enum wslx_engine e);
/* "auto", "kvm", "tcg"; -EINVAL otherwise. */
WSLX_MUST_CHECK int wslx_engine_parse(const char *s, enum wslx_engine *ret);

#endif
